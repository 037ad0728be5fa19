"""Lightning callbacks: progress, the checkpoints, and what stops a run that has gone wrong."""

import logging
import math
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.types import LRSchedulerConfigType
from torch import Tensor
from torch.optim import Optimizer

from mmlabel.cache import atomic_write
from mmlabel.errors import UserError
from mmlabel.lightning.checkpoint_file import read_file
from mmlabel.optimizers import planned_steps
from mmlabel.progress import say
from mmlabel.run_folder import LOCK
from mmlabel.wording import count

LOOP_SECONDS = 30.0  # between two lines within an epoch or a scoring

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
        ".*Total length of `DataLoader` across ranks is zero",  # no row to validate on is left
        ".*The `srun` command is available",  # also where one process is all that is wanted
    ):
        warnings.filterwarnings("ignore", remark)


def progress_callbacks() -> list[Callback]:
    """A line an epoch, and a bar on a terminal: a bar in a log file cannot be read."""
    return [EpochLines(), *([TQDMProgressBar()] if sys.stderr.isatty() else [])]


class _HowFar:
    """Says now and then how far a loop over batches is, where no bar tells it.

    Args:
        work: that is being done, such as "epoch 3".
    """

    def __init__(self, work: str) -> None:
        self.work = work
        self.started = self.said = time.monotonic()

    def at(self, trainer: pl.Trainer, done: int, total: int | float) -> None:
        now = time.monotonic()
        if now - self.said < LOOP_SECONDS or done == total:
            return
        self.said = now
        if trainer.is_global_zero and not sys.stderr.isatty():
            left = (total - done) * (now - self.started) / done
            of = f"{done:,} of {count(int(total), 'batch', 'batches')}"
            say(f"{self.work}: {of}, {left:,.0f} s left")


class EpochLines(Callback):
    """One line for each epoch, and how far it is within a long one, as within long scoring."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch = _HowFar(f"epoch {trainer.current_epoch}")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.epoch.at(trainer, batch_idx + 1, trainer.num_training_batches)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.scoring = _HowFar("test" if trainer.testing else "validation")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        batches = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
        self.scoring.at(trainer, batch_idx + 1, batches[0])

    on_test_start, on_test_batch_end = on_validation_start, on_validation_batch_end

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning keeps the scores of the last epoch that was validated.
        scores = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if pl_module.validated or not name.startswith("val/")
        }
        shown = "  ".join(
            f"{name} {scores[name]:.3f}"
            for name in ("train/loss", "val/loss", "val/f1_micro", "val/f1_samples", "val/f1_macro")
            if name in scores
        )
        if trainer.is_global_zero:
            seconds = time.monotonic() - self.epoch.started
            log.info("epoch %d  %s  (%.1f s)", trainer.current_epoch, shown, seconds)


class TrainingTime(Callback):
    """Counts the seconds of training, with those of the run that is gone on with.

    Attributes:
        before: what that run had trained, in seconds.
    """

    def __init__(self) -> None:
        self.before = 0.0
        self.began: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        own = 0.0 if self.began is None else time.monotonic() - self.began
        return {"seconds": self.before + own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Not of the run's own best epoch, which Lightning reads to evaluate it.
        if self.began is None:
            self.before = float(state_dict["seconds"])


class StepCurves(Callback):
    """Logs loss, learning rates and the norm of the gradients, before they are clipped, of steps.

    Of every n-th one, n = `trainer.log_every_n_steps`; a step between them does nothing more. The
    rate of a part that has one of its own has the part's name, see `parameter_groups`.

    Args:
        loggers: what draws curves. A file with a line an epoch has no place for steps.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = loggers
        self._losses: list[Tensor] = []  # of the batches of a step

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        # The one that is given is a part of the step's (accumulate_grad_batches), or scaled.
        self._losses.append(cast(Tensor, pl_module.step_loss))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        losses, self._losses = self._losses, []
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        groups = optimizer.param_groups
        gradients = [w.grad for group in groups for w in group["params"] if w.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        values = {"step/loss": torch.stack(losses).mean().item(), "step/lr": groups[0]["lr"]}
        values["step/grad_norm"] = torch.linalg.vector_norm(norms).item()
        for number, group in enumerate(groups[1:], 1):
            # A run that an earlier version began has none of the names.
            values[f"step/lr_{group.get('name', number)}"] = group["lr"]
        for logger in self.loggers:
            logger.log_metrics(values, step=trainer.global_step)


class StopOnNaN(Callback):
    """Ends a run whose loss is no longer a number: nothing after that is worth its time."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = trainer.callback_metrics["train/loss"].item()
        if not math.isfinite(loss):
            raise UserError(
                f"the training loss became {loss} in epoch {trainer.current_epoch}: the learning"
                f" rate is too high (optimizer.lr={self.lr:g}); choose a lower one, or set"
                " trainer.gradient_clip_val"
            )


class StopEarly(EarlyStopping):
    """Early stopping that a resumed run which had stopped does not forget.

    Lightning's counts validations, of which there may be several an epoch or one in several. Here
    the epochs count, at the end of each that was validated: those since its last improvement.
    """

    def __init__(self, monitor: str, *, mode: Literal["min", "max"], patience: int) -> None:
        super().__init__(monitor, mode=mode, patience=patience, check_on_train_epoch_end=True)
        self.checked: int | None = None  # the last epoch that counted
        self.is_validated = False

    @property
    def state_key(self) -> str:
        """Lightning's own class's, under which earlier versions' checkpoints hold the state."""
        return f"{EarlyStopping.__qualname__}{ {'monitor': self.monitor, 'mode': self.mode}!r}"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.checked is None:  # of a new run, or of an earlier version's that is gone on with
            self.checked = trainer.current_epoch - 1
        if self.wait_count >= self.patience:
            trainer.should_stop = True
            log.info(
                "early stopping has ended this run after %s: nothing is trained; a higher"
                " patience (it was %d) goes on",
                count(trainer.current_epoch, "epoch"),
                self.patience,
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.is_validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.is_validated:
            return
        assert self.checked is not None
        self.wait_count += trainer.current_epoch - self.checked - 1
        super().on_train_epoch_end(trainer, pl_module)
        self.checked, self.is_validated = trainer.current_epoch, False
        if self.wait_count >= self.patience and trainer.current_epoch + 1 != trainer.max_epochs:
            log.info(
                "early stopping: %s has not been better for %s (patience=%d)",
                self.monitor,
                count(self.wait_count, "epoch"),
                self.patience,
            )

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and which epoch counted last."""
        return super().state_dict() | {"checked": self.checked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})
        self.checked = state_dict.get("checked")


class LastCheckpoint(ModelCheckpoint):
    """Keeps last.ckpt in `folder`, of the last whole epoch: what a killed run is resumed from."""

    def __init__(self, folder: Path, *, resumed_from: Path | None) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.resumed_from = resumed_from

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that is interrupted in its first epoch leaves a checkpoint, too."""
        super().on_train_start(trainer, pl_module)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not trainer.is_global_zero and not (Path(str(self.dirpath)) / LOCK).exists():
            raise UserError(
                f"process {trainer.global_rank} does not see the first one's files in"
                f" {self.dirpath}: the nodes of a run need a folder that all of them share;"
                " hydra.run.dir=DIR names one"
            )
        path = Path(str(self.dirpath)) / "last.ckpt"
        if self.resumed_from is None:
            trainer.save_checkpoint(path)
        elif trainer.is_global_zero and self.resumed_from.resolve() != path.resolve():
            copy_file(self.resumed_from, path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # trainer.max_steps and max_time end a run within an epoch, which cannot be gone on with.
        if is_whole_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run keeps its own; there is nothing to take over."""


def is_whole_epoch(trainer: pl.Trainer) -> bool:
    """Whether every batch of the epoch that ends has been trained on."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches


def copy_file(source: Path, target: Path) -> None:
    """Copy a checkpoint whole or not at all; raises UserError where that is impossible."""
    try:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise UserError(f"{source} cannot be copied to {target} ({error.strerror})") from error


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt, of the epoch with the best `monitor`, in `folder`.

    A resumed run has a folder of its own, so it takes a copy of the best checkpoint so far along:
    of the one that lies beside the checkpoint that it is resumed from, wherever that has been moved
    to.

    Args:
        folder: of the run.
        monitor, mode: the score, and whether the highest or the lowest is the best.
        resumed_from: the checkpoint that the run goes on from.
        note: is told that the best checkpoint so far is missing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        monitor: str,
        mode: Literal["min", "max"],
        resumed_from: Path | None,
        note: Callable[[str], None],
    ) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            # After the epoch rather than after its validation: what is resumed is a whole epoch.
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.resumed_from = resumed_from
        self.note = note

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # An epoch without validation (check_val_every_n_epoch) cannot be the best.
        if pl_module.validated:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Only on going on: Lightning loads it again from whatever checkpoint is evaluated then.
        resumed_from, self.resumed_from = self.resumed_from, None
        score = state_dict["best_model_score"]
        if score is None or resumed_from is None:
            return
        best, former = Path(str(self.dirpath)) / "best.ckpt", resumed_from.with_name("best.ckpt")
        if not former.is_file() or self._score_of(former) != score.item():
            self.note(
                f"there is no best.ckpt with {self.monitor} {score.item():.4f} beside"
                f" {resumed_from}: the best epoch is chosen from here on"
            )
            return
        if rank_zero_only.rank == 0 and former.resolve() != best.resolve():
            copy_file(former, best)
        self.best_model_path = self.kth_best_model_path = str(best)
        self.best_model_score = self.kth_value = score
        self.best_k_models = {str(best): score}

    def _score_of(self, checkpoint: Path) -> float | None:
        for state in read_file(checkpoint).get("callbacks", {}).values():
            if state.get("monitor") == self.monitor and state.get("best_model_score") is not None:
                return state["best_model_score"].item()
        return None


class ValidatedAtItsEnd(Callback):
    """Validates an epoch that has been validated within (trainer.val_check_interval) at its end.

    The weights of its end are those that its checkpoint has and that are chosen by its score.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.interval = trainer.val_check_batch

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        is_last = batch_idx + 1 == trainer.num_training_batches
        if pl_module.validated and (is_last or trainer.global_step == trainer.max_steps):
            trainer.val_check_batch = 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.val_check_batch = self.interval


class WholeEpochs(Callback):
    """Sees that a resumed run begins with an epoch; Lightning would train on its last batches.

    With trainer.max_steps it would pass over the epoch: it takes a checkpoint of a whole one for
    one of its last step. So the limit is put aside while the checkpoint is read.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        self.max_steps, loop.max_steps = loop.max_steps, -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps = self.max_steps
        seen = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        batches = trainer.num_training_batches
        if 0 < seen < batches:
            raise UserError(
                f"ckpt_path: the checkpoint was written after {seen} of {batches} batches of an"
                " epoch: it was ended within it (trainer.max_steps, trainer.max_time), or trained"
                " on another number of devices; resume from last.ckpt, on as many devices"
            )


class DoublePrecision(Callback):
    """Has a resumed run's network in double precision before its checkpoint is read.

    Lightning does it after that, so that the weights would lose half of their bits. Averages of the
    weights, which are in single precision, are copied from the network before: they come first.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            pl_module.double()


class SameSchedule(Callback):
    """Sees that the steps of a resumed run are those that its schedule was laid out for.

    Other numbers of devices, of rows or of batches would end it too early or too late.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        left = trainer.estimated_stepping_batches - trainer.global_step
        for config in trainer.lr_scheduler_configs:
            planned = planned_steps(config.scheduler)
            if planned is None or planned <= 2:
                continue
            planned_left = planned - config.scheduler.last_epoch
            if planned_left != left:
                raise UserError(
                    f"the schedule has {count(planned_left, 'step')} left, and this run {left}:"
                    " resume with as many devices and as many rows and batches as before,"
                    " or add resume_lr=RATE for a fresh schedule over the epochs that are left"
                )


class FreshSchedule(Callback):
    """Gives a resumed run another learning rate, and a schedule over the epochs that are left.

    Args:
        lr: the rate.
        build: the schedule of an optimizer for so many steps, as Lightning takes it, or None.
    """

    def __init__(
        self, lr: float, build: Callable[[Optimizer, int], LRSchedulerConfigType | None]
    ) -> None:
        self.lr = lr
        self.build = build

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        for group in optimizer.param_groups:
            group["lr"] = self.lr * group.get("lr_scale", 1.0)
            group.pop("initial_lr", None)
        left = trainer.estimated_stepping_batches - trainer.global_step
        described = self.build(optimizer, int(left) if math.isfinite(left) else 0)
        if described is not None:
            (config,) = trainer.lr_scheduler_configs
            config.scheduler = described["scheduler"]
