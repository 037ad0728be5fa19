"""Mistakes and probable label errors: planted ones are found, and shown with their rows."""

import csv
import json
import re
import shlex
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_fake_run

from mmlabel import label_errors
from mmlabel.cli import load_settings
from mmlabel.errors import UserError
from mmlabel.label_errors import answered_rows, suspicion
from mmlabel.mistakes import main, write_table
from mmlabel.report.mistakes_page import Mistakes, write_mistakes_page
from mmlabel.run_folder import Predictions, RunRecord, reached, read_run, seal

pytest.importorskip("cleanlab", reason="cleanlab is not installed: pip install -e '.[mistakes]'")
LABELS = [1, 3, 17]


def record(ids: list[str], targets: np.ndarray, probs: np.ndarray, known=None, **results):
    known = np.ones(targets.shape, dtype=bool) if known is None else known
    predictions = Predictions(ids, LABELS, targets, probs, known)
    return RunRecord(Path(ids[0]), {"threshold": 0.5, **results}, [], predictions)


def planted() -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Targets of which a few are turned around, and probabilities that know the truth."""
    random = np.random.default_rng(0)
    truth = random.random((300, 3)) < 0.35
    probs = np.clip(np.where(truth, 0.9, 0.1) + random.normal(0, 0.06, truth.shape), 0.01, 0.99)
    turned = [(11 * n + 5, n % 3) for n in range(24)]
    targets = truth.copy()
    for row, column in turned:
        targets[row, column] = ~targets[row, column]
    return targets, probs, turned


def ids_of(rows: np.ndarray) -> list[str]:
    return [f"{row}.jpg" for row in rows]


def test_planted_label_errors_are_found_over_folds():
    targets, probs, turned = planted()
    folds = [np.arange(fold, 300, 3) for fold in range(3)]
    rows = answered_rows([record(ids_of(own), targets[own], probs[own]) for own in folds])
    assert sorted(rows.ids) == sorted(ids_of(np.arange(300))) and rows.runs == 3
    found = suspicion(rows)
    cells = {(rows.ids[row], int(column)) for row, column in np.argwhere(found.cells)}
    # It estimates how many there are, and flags no more than that.
    assert cells <= {(f"{row}.jpg", column) for row, column in turned} and len(cells) >= 18
    lowest = np.argsort(found.quality)[:24]
    assert {rows.ids[row] for row in lowest} == {f"{row}.jpg" for row, _ in turned}


def test_rows_that_are_not_known_are_left_out_and_counted(tmp_path: Path):
    targets, probs, turned = planted()
    known = np.ones(targets.shape, dtype=bool)
    known[5, 2] = known[50, 1] = False  # row 5 has another label that was turned around
    rows = answered_rows([record(ids_of(np.arange(300)), targets, probs, known)])
    found = suspicion(rows)
    assert (
        found.left_out == 2
        and not found.cells[5].any()
        and np.flatnonzero(np.isnan(found.quality)).tolist() == [5, 50]
        and found.cells[38, 0]
    )
    write_table(tmp_path / "mistakes.csv", Mistakes(rows, found, None, {}, []))
    with open(tmp_path / "mistakes.csv", newline="") as file:
        quality = {row["ImageID"]: row["label_quality"] for row in csv.DictReader(file)}
    assert quality["5.jpg"] == "" and quality["38.jpg"] == f"{found.quality[38]:.4f}"


def test_a_label_that_no_row_has_is_no_suspect():
    targets, probs, _ = planted()
    targets[:, 1] = False
    found = suspicion(answered_rows([record(ids_of(np.arange(300)), targets, probs)]))
    assert not found.cells[:, 1].any() and found.cells[:, 0].sum() >= 5


def test_a_label_that_one_row_has_is_no_warning():
    """Of cleanlab's, which would not say of which label."""
    targets, probs, _ = planted()
    targets[:, 1] = np.arange(300) == 7
    found = suspicion(answered_rows([record(ids_of(np.arange(300)), targets, probs)]))
    assert found.cells[:, 0].sum() >= 5


def test_one_label_that_varies_is_too_few():
    targets, probs, _ = planted()
    targets[:, 1], targets[:, 2] = False, True
    rows = answered_rows([record(ids_of(np.arange(300)), targets, probs)])
    with pytest.raises(UserError, match="two labels that some rows have and others lack"):
        suspicion(rows)
    targets[:, 0] = True
    rows = answered_rows([record(ids_of(np.arange(300)), targets, probs)])
    assert not suspicion(rows).cells.any(), "nor is any of none"


def test_several_runs_on_a_row_are_averaged():
    ids, targets = ["a.jpg", "b.jpg"], np.array([[1, 0, 0], [0, 1, 0]], dtype=bool)
    first = record(ids, targets, np.array([[0.9, 0.2, 0.1], [0.3, 0.1, 0.6]]), threshold=0.5)
    levels = [0.0] * 18
    levels[1], levels[3], levels[17] = 0.7, 0.9, 0.3
    second = record(
        ids[::-1],
        targets[::-1],
        np.array([[0.5, 0.3, 0.4], [0.7, 0.0, 0.3]]),
        threshold=levels,
    )
    rows = answered_rows([first, second])
    np.testing.assert_allclose(rows.probs, [[0.8, 0.1, 0.2], [0.4, 0.2, 0.5]])
    np.testing.assert_allclose(rows.thresholds, [[0.6, 0.7, 0.4]] * 2)
    # b: label 3 is missed at 0.2 < 0.7, label 17 answered at 0.5 >= 0.4.
    assert rows.wrong.tolist() == [[False, False, False], [False, True, True]]
    assert rows.sureness.tolist() == pytest.approx([0, 0.8])


def of_model(name: str) -> dict:
    return {"settings": {"model": {"name": name}}}


def test_a_decoders_label_errors_are_those_of_its_probabilities(tmp_path: Path):
    """Its file has p / 2, and 0.5 more for a label of the answer: see `LabelDecoder.forward`."""
    targets, own, _ = planted()
    answers = np.random.default_rng(1).random(own.shape) < 0.5
    ids = ids_of(np.arange(300))
    alone = record(ids, targets, (own + answers) / 2, **of_model("decoder"))
    found, expected = answered_rows([alone]), suspicion(answered_rows([record(ids, targets, own)]))
    assert (found.answered == answers).all()
    np.testing.assert_array_equal(suspicion(found).cells, expected.cells)
    np.testing.assert_allclose(suspicion(found).quality, expected.quality)
    wrong = answers != targets
    sure = np.where(wrong, np.where(answers, own, 1 - own), 0).max(axis=1)
    np.testing.assert_allclose(found.sureness, sure)
    page = Mistakes(found, None, None, {1: "cat", 3: "dog", 17: "bird"}, [])
    write_mistakes_page(tmp_path / "report.html", page, runs=[alone], most=9, command="c")
    card = re.findall("<figure.*?</figure>", (tmp_path / "report.html").read_text(), re.S)[0]
    row = page.mistaken()[0]
    for k in np.flatnonzero(wrong[row]):
        assert f"{page.label_names[k]} {own[row, k]:.2f}" in card

    # Beside another model's, on one scale.
    other = record(ids, targets, 1 - own, **of_model("fusion"))
    np.testing.assert_allclose(answered_rows([alone, other]).probabilities, 0.5)


def test_runs_that_contradict_each_other_are_refused():
    targets, probs, _ = planted()
    first = record(ids_of(np.arange(300)), targets, probs)
    targets = targets.copy()
    targets[3, 0] = ~targets[3, 0]
    with pytest.raises(UserError, match="other labels for 3.jpg"):
        answered_rows([first, record(ids_of(np.arange(300)), targets, probs)])


def test_runs_on_data_of_other_names_are_refused():
    targets, probs, _ = planted()
    cats, birds = ({"3": {"name": name}, "1": {"name": "dog"}} for name in ("cat", "bird"))
    first = record(ids_of(np.arange(150)), targets[:150], probs[:150], labels=cats)
    other = record(ids_of(np.arange(150, 300)), targets[150:], probs[150:], labels=birds)
    with pytest.raises(UserError, match="150.jpg has bird as label 3, where .* have cat"):
        answered_rows([first, other])


def test_runs_on_other_data_of_the_same_labels_are_refused():
    targets, probs, _ = planted()
    halves = [np.arange(150), np.arange(150, 300)]
    first, fold, other = (
        record(ids_of(own), targets[own], probs[own], inputs={"data": digest})
        for own, digest in ((halves[0], "one"), (halves[1], "one"), (halves[1], "another"))
    )
    older = record(ids_of(halves[1]), targets[halves[1]], probs[halves[1]])
    assert len(answered_rows([first, fold, older]).ids) == 300
    with pytest.raises(UserError, match="150.jpg has read other data .* than 0.jpg: give runs on"):
        answered_rows([older, first, other])


def test_a_label_of_which_nothing_is_known_is_not_shown_as_answered(tmp_path: Path):
    targets, known = np.zeros((1, 3), dtype=bool), np.array([[True, False, True]])
    run = record(["a.jpg"], targets, np.array([[0.8, 0.95, 0.1]]), known)
    found = Mistakes(answered_rows([run]), None, None, {1: "cat", 3: "dog", 17: "bird"}, [])
    write_table(tmp_path / "mistakes.csv", found)
    with open(tmp_path / "mistakes.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["answered"] == row["extra"] == "cat"
    write_mistakes_page(tmp_path / "report.html", found, runs=[run], most=9, command="c")
    (card,) = re.findall("<figure.*?</figure>", (tmp_path / "report.html").read_text(), re.S)
    assert "cat 0.80" in card and "dog" not in card


# ---- The command -------------------------------------------------------------------------------


def write_run(folder: Path, made: Path, *options: str, seed: int = 0, noise: float = 0.15) -> Path:
    settings = load_settings(["data=usyd", f"data.root={made}", f"seed={seed}", *options]).plain()
    write_fake_run(folder, seed=seed, noise=noise, settings=settings)
    return folder


def test_the_table_and_the_page_show_mistakes_with_their_rows(made: Path, tmp_path: Path, capsys):
    run = write_run(tmp_path / "run", made)
    assert main([str(run), "--out", str(tmp_path / "out"), "--pictures", "10"]) == 0
    printed = capsys.readouterr().out
    found = read_run(run)
    wrong = found.answers != found.predictions.targets
    assert f"60 rows tested in 1 run: {wrong.any(axis=1).sum()} with a mistake" in printed
    assert "These are test rows alone" in printed
    with open(tmp_path / "out" / "mistakes.csv", newline="") as file:
        rows = {row["ImageID"]: row for row in csv.DictReader(file)}
    with open(made / "train.csv", newline="") as file:
        captions = {row["ImageID"]: row["Caption"] for row in csv.DictReader(file)}
    names = {1: "person", 2: "bicycle", 3: "car"}
    for place, id in enumerate(found.predictions.ids):
        missed = wrong[place] & found.predictions.targets[place]
        extra = wrong[place] & ~found.predictions.targets[place]
        if not wrong[place].any():
            assert id not in rows or rows[id]["probably_missing"] + rows[id]["probably_not_there"]
            continue
        said = rows[id]
        assert said["missed"] == " ".join(names[k + 1] for k in np.flatnonzero(missed))
        assert said["extra"] == " ".join(names[k + 1] for k in np.flatnonzero(extra))
        assert said["sureness"] == "0.9000" and said["caption"] == captions[id]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg') == 10
    command = unescape(re.search("<code>(.*?)</code>", page, re.S)[1])
    assert shlex.split(command)[-2:] == ["--pictures", "10"]


def test_names_with_commas_and_spaces_can_be_taken_apart(made: Path, tmp_path: Path, capsys):
    """In the table by the sign that predict writes, in sentences by quotation marks."""
    run = write_run(tmp_path / "run", made)
    results = json.loads((run / "results.json").read_text())
    names = {1: "blue", 2: "wine, old", 3: "car"}
    results["labels"] = {str(n): {"name": name} for n, name in names.items()}
    results["settings"]["data"]["root"] = str(tmp_path / "gone")  # the names are the run's
    (run / "results.json").write_text(json.dumps(results))
    seal(run)
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "mistakes.csv", newline="") as file:
        rows = {row["ImageID"]: row for row in csv.DictReader(file)}
    found = read_run(run).predictions
    several = 0
    for place, id in enumerate(found.ids):
        if id in rows:
            given = [names[k + 1] for k in np.flatnonzero(found.targets[place])]
            assert [name for name in rows[id]["given"].split("|") if name] == given
            several += len(given) > 1 and "wine, old" in given
            assert {*rows[id]["probably_missing"].split("|")} <= {"", *names.values()}
    assert several > 1
    suspected = {row["probably_missing"] + row["probably_not_there"] for row in rows.values()}
    assert "wine, old" in suspected
    assert '"wine, old" ' in capsys.readouterr().out


def test_the_answers_are_compared_once_for_all_lines_of_the_table(tmp_path: Path, monkeypatch):
    """Else the time would grow with the square of the rows."""
    compared = []

    def counted(probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        compared.append(len(probs))
        return reached(probs, thresholds)

    monkeypatch.setattr(label_errors, "reached", counted)
    targets, probs, _ = planted()
    rows = answered_rows([record(ids_of(range(300)), targets, probs)])
    write_table(tmp_path / "mistakes.csv", Mistakes(rows, None, None, {}, []))
    assert len((tmp_path / "mistakes.csv").read_text().splitlines()) > 20
    assert compared == [300]


def test_missing_folds_are_said(made: Path, tmp_path: Path, capsys):
    for fold in (0, 2):
        write_run(tmp_path / "m" / str(fold), made, "data.folds=4", f"data.fold={fold}", seed=fold)
    assert main([str(tmp_path / "m"), "--out", str(tmp_path / "out")]) == 0
    assert "No run of data.fold=1, 3 is among them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (["model=decoder"], "of 2 configurations: model=fusion; model=decoder."),
        (
            ["optimizer.lr=0.01", "trainer.max_epochs=7"],
            "of 2 configurations: optimizer.lr=0.003, trainer.max_epochs=10;"
            " optimizer.lr=0.01, trainer.max_epochs=7.",
        ),
        (["name=other", "data.workers=1"], None),
        (["data.folds=4", "data.fold=1"], None),
    ],
)
def test_averages_of_unlike_runs_are_said(
    others: list[str], said: str | None, made: Path, tmp_path: Path, capsys
):
    """Not those of several seeds or folds of one configuration."""
    first = ["data.folds=4", "data.fold=0"] if "data.folds=4" in others else []
    write_run(tmp_path / "m" / "0", made, *first)
    write_run(tmp_path / "m" / "1", made, *first, seed=1)
    write_run(tmp_path / "m" / "2", made, *others, seed=2)
    assert main([str(tmp_path / "m"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    page = unescape((tmp_path / "out" / "report.html").read_text())
    if said is None:
        assert "configurations" not in printed and "configurations" not in page
    else:
        assert printed.count(f"Note: The runs are {said} Where several have answered a row") == 1
        assert page.count(f"The runs are {said} Where several have answered a row") == 1


def test_without_cleanlab_there_are_mistakes_and_a_word(made, tmp_path, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.split(".")[0] == "cleanlab":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cleanlab.multilabel_classification.filter", None)
    run = write_run(tmp_path / "run", made)
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "pip install -e '.[mistakes]'" in printed and "probable label errors" not in printed


def test_without_the_data_there_are_no_pictures_and_a_word(made, tmp_path, capsys):
    run = write_run(tmp_path / "run", tmp_path / "gone")
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    assert "no pictures" in capsys.readouterr().err
    assert "<img" not in (tmp_path / "out" / "report.html").read_text()


def test_a_mistake_of_the_user_is_one_message(made: Path, tmp_path: Path, capsys):
    assert main([str(tmp_path / "nothing")]) == 1
    assert "is no folder" in capsys.readouterr().err
    run = write_run(tmp_path / "run", made)
    assert main([str(run), "--pictures", "-1"]) == 1
    assert "--pictures -1" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(run), "--out", str(tmp_path / "file")]) == 1
    assert "--out" in capsys.readouterr().err
    settings = (run / "results.json").read_text().replace('"usyd"', '"other"')
    (run / "results.json").write_text(settings)
    seal(run)
    assert main([str(run), "--out", str(tmp_path / "out")]) == 1
    assert "no longer understood" in capsys.readouterr().err
