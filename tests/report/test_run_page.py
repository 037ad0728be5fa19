"""The page of a run, and the files it is made from."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from made_up import EVIL, METRICS, Page, cards, figures, pictures, random_run, write_run

from mmlabel.errors import UserError
from mmlabel.report import write_run_report
from mmlabel.run_folder import read_run


def test_reading_a_run_merges_the_lines_of_an_epoch(tmp_path: Path):
    targets = np.array([[1, 0, 1], [0, 1, 0]], bool)
    probs = np.array([[0.9, 0.1, 0.5], [0.2, 0.49, 0.3]])
    run = write_run(tmp_path / "run", ids=["a.jpg", "b.jpg"], targets=targets, probs=probs)
    assert run.predictions.ids == ["a.jpg", "b.jpg"]
    assert run.predictions.labels == [1, 2, 3]
    assert (run.predictions.targets == targets).all() and (run.predictions.probs == probs).all()
    assert run.answers.tolist() == [[True, False, True], [False, False, False]]
    assert len(run.history) == 5
    assert run.history[1]["train/loss"] == 0.3 and run.history[1]["val/loss"] == 0.35


def test_a_run_that_is_not_finished_or_not_readable_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"results\.json is missing"):
        read_run(tmp_path)
    folder = tmp_path / "run"
    random_run(folder, rows=3, seed=0, noise=0.1)
    (folder / "predictions.csv").write_text("ImageID,target_1\na.jpg,1\n")
    with pytest.raises(UserError, match=r"predictions\.csv: columns"):
        read_run(folder)
    (folder / "results.json").write_text("{")
    with pytest.raises(UserError, match="no readable run"):
        read_run(folder)


def test_the_page_of_a_run(tmp_path):
    run = random_run(tmp_path / "run", rows=60, seed=1, noise=0.4)
    (tmp_path / "run" / "results.json").write_text(json.dumps(run.results | {"notes": ["Drawn."]}))
    annotations = pictures(tmp_path / "pictures", [EVIL] * 60)
    annotations.pictures[0].write_bytes(b"no picture")
    path = write_run_report(tmp_path / "run", annotations)
    assert path == tmp_path / "run" / "report.html"
    html, page = path.read_text(), Page(path)
    by_metric = {k: v for row in figures(html, "results") for k, v in row.items()}
    for metric in (*METRICS, "loss"):
        assert by_metric[f"test/{metric}"] == f"{run.results['scores'][f'test/{metric}']:.4f}"
    label = run.results["labels"]["3"]
    assert "car &amp; van" in html and f"<td>{label['precision']:.3f}</td>" in html
    assert "lstm.layers" in html and "1,234,567" in html and "Drawn." in html
    charts = [attrs for attrs in page.all("svg") if attrs.get("class") == "chart"]
    assert len(charts) == 4
    found = cards(html)
    assert len(found) == 24 and len(page.all("img")) == 24 - ("0.jpg" in found)
    right = (run.answers == run.predictions.targets).all(axis=1)
    for id, (kinds, body) in found.items():
        row = run.predictions.ids.index(id)
        assert kinds == {"right" if right[row] else "wrong"}
        for k in np.flatnonzero(run.answers[row]):
            assert f"{run.predictions.probs[row, k]:.2f}</span>" in body
    assert {"right", "wrong"} == set.union(*(kinds for kinds, _ in found.values()))


def test_a_run_without_pictures_or_training_still_has_a_page(tmp_path):
    random_run(tmp_path / "run", rows=20, seed=1, noise=0.4)
    (tmp_path / "run" / "metrics.csv").unlink()
    path = write_run_report(tmp_path / "run", None)
    assert 'id="gallery"' not in path.read_text() and 'id="curves"' not in path.read_text()
    Page(path)


def test_a_page_costs_a_sweep_no_time(tmp_path):
    random_run(tmp_path / "run", rows=300, seed=1, noise=0.4)
    annotations = pictures(tmp_path / "pictures", ["a caption"] * 300)
    write_run_report(tmp_path / "run", annotations)
    begun = time.process_time()
    write_run_report(tmp_path / "run", annotations)
    assert time.process_time() - begun < 1
