"""What is printed of a run and of a study, names and notes from data included."""

from pathlib import Path

import pytest
from fake_runs import write_fake_run

from mmlabel.report import StudyReport, VariantSummary, write_run_report
from mmlabel.run_folder import read_results, seal, write_json
from mmlabel.study.printed import print_study
from mmlabel.terminal import print_table, printable


def test_scores_and_labels_are_printed_and_names_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    results = read_results(tmp_path)
    results["scores"] |= {"val/map": 0.5, "val/loss": 0.3, "test/map": 0.25, "test/loss": 0.125}
    row = {"support": 3, "precision": 0.5, "recall": 0.75, "f1": 0.6}
    results["labels"] = {"1": {"name": "[/x] :car: \x1b[2J[red]"} | row}
    results["notes"] = ["No [bold]vectors.\nAt all"]
    print_table(results)
    said = capsys.readouterr().out
    assert "[/x] :car: ?[2J[red]" in said and "\x1b" not in said
    assert "Note: No [bold]vectors. At all" in said
    assert "0.250" in said and "0.125" in said and "0.750" in said
    assert "1,000 parameters" in said and "within the report's limit" in said


def test_a_detectors_rate_is_of_the_pictures_it_has_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Not of rows, of which a picture has one for each of its captions."""
    write_fake_run(tmp_path, seed=0, noise=0.1)
    results = read_results(tmp_path)
    losses = {f"{split}/{name}": 0.5 for split in ("val", "test") for name in ("map", "loss")}
    results["scores"] |= losses
    results["seconds"]["detector"], results["detected"] = 20.0, 100
    print_table(results)
    assert "detection 20.0 s (5.0 pictures a second)" in " ".join(capsys.readouterr().out.split())


def test_no_figure_is_cut_short_in_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "30")
    write_fake_run(tmp_path, seed=0, noise=0.1)
    results = read_results(tmp_path)
    results["scores"] |= {"val/map": 0.5, "val/loss": 0.3, "test/map": 0.25, "test/loss": 0.125}
    row = {"support": 12345, "precision": 0.5, "recall": 0.75, "f1": 0.6}
    results["labels"] = {"1": {"name": "a traffic light"} | row}
    print_table(results)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "a", "traffic", "light", "12345", "0.500", "0.750", "0.600"] in lines
    assert ["0.250", "0.125"] in [line[-3:-1] for line in lines if line[:1] == ["test"]]


@pytest.mark.parametrize(("best", "said"), [(2, ", the best of them epoch 2"), (None, "")])
def test_there_is_a_best_epoch_where_one_was_validated(
    best: int | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    results = read_results(tmp_path) | {"best_epoch": best}
    losses = {f"{split}/{name}": 0.5 for split in ("val", "test") for name in ("map", "loss")}
    print_table(results | {"scores": results["scores"] | losses})
    printed = " ".join(capsys.readouterr().out.split())
    assert f"of which training 8.0 s for 6 epochs{said}" in printed and "None" not in printed
    write_json(tmp_path / "results.json", results)
    seal(tmp_path)
    page = write_run_report(tmp_path, None).read_text()
    shown = page.split('best epoch</th><td class="any">')[1].split("<")[0]
    assert shown == ("–" if best is None else "2")


@pytest.mark.parametrize(("rows", "said"), [(1, "1 test row:"), (29, "29 test rows:"), (30, "")])
def test_scores_of_few_rows_say_so(
    rows: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_fake_run(tmp_path, seed=0, noise=0.1, rows=rows)
    results = read_results(tmp_path)
    losses = {f"{split}/{name}": 0.5 for split in ("val", "test") for name in ("map", "loss")}
    print_table(results | {"scores": results["scores"] | losses})
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"Careful: {said}") for line in lines if "Careful" in line] == (
        [True] if said else []
    )
    page = write_run_report(tmp_path, None).read_text()
    assert (said in page) if said else ("of so few" not in page)


def test_a_studys_labels_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]):
    variant = VariantSummary("a", "A [/b]", [], {})
    study = StudyReport("T [/c]", "Q?", "a", [variant], "test/f1_micro", "Published", "command")
    print_study(study)
    said = capsys.readouterr().out
    assert "A [/b]" in said and "T [/c]" in said


def test_what_is_printable_stays():
    assert printable("naïve 车 🚗  two\tthree") == "naïve 车 🚗 two three"
    assert printable("\x1b]0;title\x07\u202e") == "?]0;title??"
