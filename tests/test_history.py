"""metrics.csv: whole on disk at any moment, whatever ends the run."""

import csv
from pathlib import Path

import pytest

from mmlabel.lightning.history import History
from mmlabel.run_folder import read_history
from mmlabel.training import train

LINES = [{"epoch": 0.0, "step": 2.0, "val/loss": 0.5}, {"epoch": 0.0, "step": 2.0, "lr": 0.1}]


class Ended(BaseException):
    """As a signal does."""


def ends_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int) -> None:
    """End the program at the n-th call of a method of csv's writer."""
    usual, calls = getattr(csv.DictWriter, method), []

    def wrapped(self, *given):
        calls.append(1)
        if len(calls) == call:
            raise Ended
        return usual(self, *given)

    monkeypatch.setattr(csv.DictWriter, method, wrapped)


@pytest.mark.parametrize("method", ["writeheader", "writerows"])
def test_an_end_within_a_save_leaves_the_lines_before(method: str, tmp_path: Path, monkeypatch):
    history = History(tmp_path)
    for line in LINES:
        history.log_metrics(dict(line), step=2)
    ends_at(monkeypatch, method, 1)
    with pytest.raises(Ended):
        history.log_metrics({"epoch": 1, "test/loss": 0.4}, step=4)  # a column that is new
    assert read_history(tmp_path) == LINES
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    history.save()
    assert read_history(tmp_path) == [*LINES, {"epoch": 1, "step": 4, "test/loss": 0.4}]


@pytest.mark.parametrize("method", ["writeheader", "writerows"])
def test_an_end_at_a_resume_loses_no_line(method: str, tmp_path: Path, monkeypatch):
    """What a run had logged stays until all of it is there once more."""
    History(tmp_path).begin_with(LINES)
    ends_at(monkeypatch, method, 1)
    resumed = History(tmp_path)
    with pytest.raises(Ended):
        resumed.begin_with(read_history(tmp_path))
    assert read_history(tmp_path) == LINES
    again = History(tmp_path)
    assert read_history(tmp_path) == LINES
    again.begin_with(read_history(tmp_path))
    again.log_metrics({"epoch": 1, "lr": 0.2}, step=4)
    assert read_history(tmp_path) == [*LINES, {"epoch": 1, "step": 4, "lr": 0.2}]


def test_lines_that_are_gone_on_with_are_as_they_were(tmp_path: Path):
    history = History(tmp_path / "whole")
    for epoch in range(2):
        history.log_metrics({"epoch": epoch, "lr": 0.1}, step=2 * epoch)
    resumed = History(tmp_path / "resumed")
    resumed.begin_with(read_history(tmp_path / "whole")[:1])
    resumed.log_metrics({"epoch": 1, "lr": 0.1}, step=2)
    files = [tmp_path / name / "metrics.csv" for name in ("whole", "resumed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_nothing_logged_is_no_file(tmp_path: Path):
    History(tmp_path).begin_with(LINES)
    history = History(tmp_path)
    history.begin_with([])
    history.save()
    assert list(tmp_path.iterdir()) == []


def test_figures_of_steps_have_no_line(tmp_path: Path):
    history = History(tmp_path)
    history.log_metrics(dict(LINES[0]), step=2)
    history.log_metrics({"cpu_percent": 12.0}, step=1)
    history.save()
    assert read_history(tmp_path) == LINES[:1]


def test_a_new_run_has_no_lines_of_another(settings_of, tmp_path: Path):
    """Of one that logs nothing, either: the scores of validation alone are no point of a curve."""
    options = ["model=caption_only", "logger=csv", "trainer.max_epochs=1", "test=false"]
    train(settings_of(*options), tmp_path / "trained")
    History(tmp_path / "scored").begin_with(LINES)
    checkpoint = f"ckpt_path={tmp_path / 'trained' / 'best.ckpt'}"
    train(settings_of(*options, "train=false", checkpoint), tmp_path / "scored")
    assert not (tmp_path / "scored" / "metrics.csv").exists()
