"""Epochs of a run in this process, each with its clock."""

import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from benchmarks.table import Bench
from mmlabel.data.batches import Batch
from mmlabel.training import train


class Clock:
    """One epoch: seconds of all of it and to the end of its last training step, and its rows."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.whole = self.steps = 0.0
        self.rows = 0


class Clocks(Callback):
    """Times the epochs of a run."""

    def __init__(self) -> None:
        self.epochs: list[Clock] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs.append(Clock())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self.epochs[-1].rows += len(batch.rows)
        self.epochs[-1].steps = time.perf_counter() - self.epochs[-1].began

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs[-1].whole = time.perf_counter() - self.epochs[-1].began


def epochs(bench: Bench, *overrides: str, cache: str = "cache") -> list[Clock]:
    """Train, and give the clock of each epoch: no page is written and nothing is tested."""
    clocks = Clocks()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        settings = bench.settings(*overrides, "report=false", "test=false", cache=cache)
        train(settings, Path(folder), callbacks=[clocks])
    return clocks.epochs
