"""The page of a run, and the files it is made from."""

import json
import re
import shlex
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import EVIL, METRICS, Page, cards, figures, pictures, random_run, write_run

from mmlabel.errors import UserError
from mmlabel.report import label_sections, write_run_report
from mmlabel.run_folder import read_run, write_predictions


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
    run = random_run(tmp_path / "run", rows=90, seed=1, noise=0.4)
    (tmp_path / "run" / "results.json").write_text(json.dumps(run.results | {"notes": ["Drawn."]}))
    annotations = pictures(tmp_path / "pictures", [EVIL] * 90)
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
    assert len(charts) == 4 + 3  # curves, threshold, calibration; each label's
    found = cards(html)
    assert len(found) == 60 and len(page.all("img")) == 60 - ("0.jpg" in found)
    right = (run.answers == run.predictions.targets).all(axis=1)
    for id, (kinds, body) in found.items():
        row = run.predictions.ids.index(id)
        assert kinds == {"right" if right[row] else "wrong"}
        for k in np.flatnonzero(run.answers[row]):
            assert f"{run.predictions.probs[row, k]:.2f}</span>" in body
    assert {"right", "wrong"} == set.union(*(kinds for kinds, _ in found.values()))


def test_a_run_says_what_it_was_made_of_and_how_to_repeat_it(tmp_path):
    settings = {
        "model": {"name": "fusion"},
        "data": {"name": "csv", "file": "/home/me/birds.csv"},
        "seed": 7,
    }
    random_run(tmp_path / "run", rows=9, seed=1, noise=0.4)
    results = json.loads((tmp_path / "run" / "results.json").read_text()) | {
        "settings": settings,
        "overrides": ["data.file=my birds.csv", "data.rows=[1,2]"],
        "date": "2026-11-25T03:30:00+00:00",
        "commit": "0123456789abcdef0123456789abcdef01234567+changes",
        "machine": "Linux <x86>",
    }
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    html = write_run_report(tmp_path / "run", None).read_text()
    assert '<h1 class="run">fusion on csv</h1>' in html
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd></div>", html.split("<nav")[0]))
    assert facts == {
        "Data set": "csv (birds.csv)",
        "Finished": "2026-11-25 03:30 UTC",
        "Commit": "0123456789ab+changes",
        "Machine": "Linux &lt;x86&gt;",
        "Seed": "7",
    }
    command = unescape(re.search(r"<code>(.*?)</code>", html, re.S)[1])
    assert shlex.split(command) == ["python", "train.py", *results["overrides"]]
    results["sources"] = ["--config-dir", "my files"]
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    html = write_run_report(tmp_path / "run", None).read_text()
    command = unescape(re.search(r"<code>(.*?)</code>", html, re.S)[1])
    assert shlex.split(command)[2:] == ["--config-dir", "my files", *results["overrides"]]


def test_a_perfect_score_on_few_rows_has_no_interval_of_no_width(tmp_path):
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]], bool)
    write_run(tmp_path / "run", ids=["a", "b", "c"], targets=targets, probs=0.9 * targets)
    html = write_run_report(tmp_path / "run", None).read_text()
    assert re.findall(r'<td class="range">(.*?)</td>', html) == ["–"] * 5


def test_f1_comes_before_the_loss(tmp_path):
    random_run(tmp_path / "run", rows=9, seed=1, noise=0.4)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    loss_first = dict(sorted(results["scores"].items(), key=lambda item: "loss" not in item[0]))
    (tmp_path / "run" / "results.json").write_text(json.dumps(results | {"scores": loss_first}))
    html = write_run_report(tmp_path / "run", None).read_text()
    order = re.findall(r'data-column="test/(\w+)"', html)
    assert order == ["f1_micro", "f1_samples", "f1_macro", "map", "loss"]
    heads = re.findall(r"<th scope=\"col\">(.*?)</th>", html.split('<table id="label-f1">')[1])
    assert heads[:2] == ["Label", "F1"]


def test_curves_at_another_threshold_than_the_scores_say_so(tmp_path):
    for threshold, found in (("auto", True), (0.3, False), (None, False)):
        folder = tmp_path / str(threshold)
        random_run(folder, rows=9, seed=1, noise=0.4)
        results = json.loads((folder / "results.json").read_text())
        results["settings"]["threshold"] = threshold
        (folder / "results.json").write_text(json.dumps(results))
        page = write_run_report(folder, None).read_text()
        assert ("F1 by epoch is of answers at 0.5" in page) == found


def test_a_threshold_is_the_same_everywhere_on_the_page(tmp_path):
    random_run(tmp_path / "run", rows=90, seed=1, noise=0.4)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (tmp_path / "run" / "results.json").write_text(json.dumps(results | {"threshold": 0.125}))
    html = write_run_report(tmp_path / "run", None).read_text()
    assert "threshold 0.125" in html.split("<nav")[0]
    lines = html.split('<table id="label-f1">')[1].split("</table>")[0].split("<tr>")[2:]
    assert [re.findall("<td>(.*?)</td>", line)[-2] for line in lines] == ["0.125"] * 3
    assert html.count("At the threshold used, 0.125:") == 3


def test_a_decoders_calibration_is_of_its_own_probabilities(tmp_path):
    """Its file has p / 2, and 0.5 more for a label of the answer: see `LabelDecoder.forward`."""
    random = np.random.default_rng(0)
    own = random.choice([0.25, 0.35, 0.75], size=(4000, 3))
    targets = random.random(own.shape) < own
    answers = random.random(own.shape) < 0.5
    said = {}
    for model in ("decoder", "fusion"):
        settings = {"model": {"name": model}, "data": {"name": "usyd"}}
        ids = [f"{n}.jpg" for n in range(len(own))]
        probs = (own + answers) / 2
        write_run(tmp_path / model, ids=ids, targets=targets, probs=probs, settings=settings)
        html = write_run_report(tmp_path / model, None).read_text()
        said[model] = float(re.search(r"over all decisions: ([\d.]+)", html)[1])
    expected = sum(abs(targets[own == p].mean() - p) * (own == p).mean() for p in np.unique(own))
    assert said["decoder"] == pytest.approx(expected, abs=5e-5) and said["decoder"] < 0.02
    assert said["fusion"] > 0.2


def test_a_decoders_answers_are_shown_with_its_own_probabilities(tmp_path):
    targets, own = (
        np.array([[1, 0, 0], [0, 1, 1]], bool),
        np.array([[0.3, 0.1, 0.2], [0.4, 0.7, 1]]),
    )
    probs = (own + np.array([[0, 1, 0], [0, 1, 1]])) / 2
    settings = {"model": {"name": "decoder"}, "data": {"name": "usyd"}}
    ids = ["0.jpg", "1.jpg"]
    write_run(tmp_path / "run", ids=ids, targets=targets, probs=probs, settings=settings)
    annotations = pictures(tmp_path / "pictures", ["one", "two"])
    html = write_run_report(tmp_path / "run", annotations).read_text()
    chips = re.findall(r'<span class="chip .*?>.*? ([\d.]+)</span>', html)
    assert sorted(chips) == ["0.10", "0.30"]  # an extra label and a missed one
    assert "half of a label's probability, and 0.5 more" in unescape(html)


def test_which_label_is_answered_for_which(tmp_path):
    targets = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 1, 0]], bool)
    answers = np.array([[0, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    write_run(
        tmp_path / "run", ids=[f"{n}.jpg" for n in range(5)], targets=targets, probs=0.9 * answers
    )
    html = write_run_report(tmp_path / "run", None).read_text()
    body = html.split('<table id="confused">')[1].split("</table>")[0]
    cells = [re.findall(r">([^<>]+)</t[hd]>", row) for row in body.split("<tr")[2:]]
    assert cells == [["bicycle", "car &amp; van", "2", "4"], ["bicycle", "person", "1", "4"]]
    matrix = html.split('<table id="confusions">')[1].split("</table>")[0]
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in matrix.split("<tr")[2:]]
    assert rows == [
        ["person", "0", "0", "–", "–", "–"],
        ["bicycle", "4", "1", "1", "–", "2"],
        ["car &amp; van", "0", "0", "–", "–", "–"],
    ]
    perfect = tmp_path / "perfect"
    write_run(perfect, ids=["a.jpg"], targets=targets[:1], probs=0.9 * targets[:1])
    assert "confusions" not in write_run_report(perfect, None).read_text()


def test_of_many_labels_the_page_says_which_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(label_sections, "MOST_LISTED", 2)
    monkeypatch.setattr(label_sections, "MOST_COMPARED", 2)
    run = random_run(tmp_path / "run", rows=300, seed=1, noise=1.0)
    html = write_run_report(tmp_path / "run", None).read_text()
    support = {label["name"]: label["support"] for label in run.results["labels"].values()}
    commonest = sorted(support, key=lambda name: -support[name])[:2]
    table = html.split('<table id="label-f1">')[1].split("</table>")[0]
    assert [
        unescape(name) for name in re.findall(r'<th scope="row">(.*?)</th>', table)
    ] == commonest
    assert "The 2 commonest; the scores of 1 rarer ones are in results.json." in html
    assert "1 others with mistakes are not." in html
    matrix = html.split('<table id="confusions">')[1].split("</table>")[0]
    assert matrix.count('class="upright"') == 2


def test_targets_that_are_not_known_count_nowhere(tmp_path):
    names = ["", "cat", "dog"]
    known = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    targets = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 1, 1], [0, 1, 1]])
    probs = torch.tensor([[0, 0.95, 0.25], [0, 0.85, 0.9], [0, 0.1, 0.9], [0, 0.35, 0.75]])
    random_run(tmp_path / "run", rows=3, seed=0, noise=0.1)
    write_predictions(
        tmp_path / "run" / "predictions.csv",
        ids=["a", "b", "nothing known", "d"],
        probabilities=probs,
        targets=targets,
        label_names=names,
        known=known,
    )
    row = {"support": 1, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    labels = {"1": {"name": "cat"} | row, "2": {"name": "dog"} | row}
    (tmp_path / "run" / "results.json").write_text(json.dumps(results | {"labels": labels}))
    run = read_run(tmp_path / "run")
    assert run.predictions.ids == ["a", "b", "d"]
    assert run.predictions.known.tolist() == [[True, True], [True, False], [True, True]]
    assert run.predictions.targets.tolist() == [[True, False], [False, False], [True, True]]
    assert run.answers.tolist() == [[True, False], [True, False], [False, True]]
    html = write_run_report(tmp_path / "run", None).read_text()
    assert "dog: 1.00" in html  # right on both rows that are known
    decided = np.array([0.95, 0.25, 0.85, 0.35, 0.75]), np.array([1, 0, 0, 1, 1])
    # Each in a tenth of its own.
    error = sum(abs(p - t) for p, t in zip(*decided, strict=True)) / 5
    assert f"{error:.4f}" in html


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
