"""What the tests of checkpoints and of resuming have in common: quick runs, and runs cut short."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmlabel.lightning import callbacks
from mmlabel.settings import Settings
from mmlabel.training import train

# The quickest network: nothing of a picture is looked at.
CAPTIONS = ("model=caption_only", "patience=null")


class Killed(BaseException):
    """What a run is cut short by."""


def run(
    settings_of: Callable[..., Settings], folder: Path, *options: str, given: bool = True
) -> dict:
    """A run with these options, which it is also told that it was given."""
    return train(settings_of(*options), folder, overrides=list(options) if given else [])


def run_killed_in_epoch(
    settings_of: Callable[..., Settings], folder: Path, epoch: int, *options: str
) -> Path:
    """Cut a run short at the beginning of an epoch; returns its last.ckpt."""

    def kill(self, trainer, module) -> None:
        if trainer.current_epoch == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.StopOnNaN, "on_train_epoch_start", kill, raising=False)
        with pytest.raises(Killed):
            run(settings_of, folder, *options)
    assert not (folder / "results.json").exists()
    return folder / "last.ckpt"


def history(folder: Path, column: str = "train/loss") -> list[float]:
    """One column of metrics.csv, without empty cells."""
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())
