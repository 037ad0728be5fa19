"""Lightning callbacks: progress, the checkpoint, and what stops a run that has gone wrong."""

import logging
import math
import shutil
import sys
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_only

from mmlabel.errors import UserError

log = logging.getLogger(__name__)


def quiet_lightning() -> None:
    """Silence remarks of Lightning that a user of this project can do nothing about."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    if rank_zero_only.rank != 0:
        logging.getLogger().setLevel(logging.ERROR)  # the first process has said it
    for remark in (
        ".*does not have many workers",  # batches of stored features need none
        ".*number of training batches .* is smaller than the logging interval",
        ".*Checkpoint directory .* exists and is not empty",
        ".*Experiment logs directory .* exists and is not empty",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        ".*dirpath has changed from",
        ".*module\\(s\\) in eval mode at the start of training",  # a frozen backbone
    ):
        warnings.filterwarnings("ignore", remark)


def progress_callback() -> Callback:
    """A bar on a terminal, a line an epoch elsewhere: a bar in a log file cannot be read."""
    return TQDMProgressBar() if sys.stderr.isatty() else EpochLines()


class EpochLines(Callback):
    """One line for each epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        scores = {name: value.item() for name, value in trainer.callback_metrics.items()}
        shown = "  ".join(
            f"{name} {scores[name]:.3f}"
            for name in ("train/loss", "val/loss", "val/f1_micro", "val/f1_samples", "val/f1_macro")
            if name in scores
        )
        if trainer.is_global_zero:
            seconds = time.monotonic() - self.started
            log.info("epoch %d  %s  (%.1f s)", trainer.current_epoch, shown, seconds)


class StopOnNaN(Callback):
    """Ends a run whose loss is no longer a number: nothing after that is worth its time."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        loss = trainer.callback_metrics["train/loss"].item()
        if not math.isfinite(loss):
            rate = module.settings["optimizer"]["lr"]
            raise UserError(
                f"the training loss became {loss} in epoch {trainer.current_epoch}: the learning"
                f" rate is too high (optimizer.lr={rate}); choose a lower one, or set"
                " trainer.gradient_clip_val"
            )


class LastCheckpoint(ModelCheckpoint):
    """Keeps last.ckpt in `folder`: what a killed run is resumed from."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict) -> None:
        """A resumed run keeps its own; there is nothing to take over."""


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt, of the epoch with the highest `monitor`, in `folder`.

    A resumed run has a folder of its own, so it takes a copy of the best checkpoint so far along.
    """

    def __init__(self, folder: Path, *, monitor: str) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode="max",
            # After the epoch rather than after its validation: what is resumed is a whole epoch.
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict) -> None:
        best, former = Path(self.dirpath) / "best.ckpt", Path(state_dict["best_model_path"])
        if not former.is_file():
            return
        if rank_zero_only.rank == 0 and former != best:
            shutil.copyfile(former, best)
        score = state_dict["best_model_score"]
        self.best_model_path = self.kth_best_model_path = str(best)
        self.best_model_score = self.kth_value = score
        self.best_k_models = {str(best): score}
