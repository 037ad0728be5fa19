"""The Trainer of a run: its callbacks and plugins, what it refuses, and its errors as messages."""

import logging
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, DeviceStatsMonitor
from pytorch_lightning.loggers import Logger
from torch import distributed

from mmlabel.data.prepare import PreparedData
from mmlabel.errors import UserError
from mmlabel.lightning.averaging import EpochAverage, MovingAverage
from mmlabel.lightning.callbacks import (
    BestCheckpoint,
    DoublePrecision,
    FreshSchedule,
    LastCheckpoint,
    SameSchedule,
    StepCurves,
    StopEarly,
    StopOnNaN,
    ValidatedAtItsEnd,
    WholeEpochs,
    progress_callbacks,
)
from mmlabel.lightning.checkpoint_file import SealedCheckpoints
from mmlabel.lightning.half_precision import RoundedText
from mmlabel.lightning.history import History
from mmlabel.lightning.synced_norms import SyncedNorms
from mmlabel.processes import ProcessLost, started
from mmlabel.settings import Settings

if TYPE_CHECKING:
    from mmlabel.checkpoint import Checkpoint


def build_trainer(
    settings: Settings,
    prepared: PreparedData,
    *,
    folder: Path,
    loggers: list[Logger],
    resumed_from: Path | None,
    fresh: FreshSchedule | None = None,
    further: Sequence[Callback] = (),
) -> pl.Trainer:
    """Lightning's trainer with the run's callbacks.

    Args:
        settings: of the run.
        prepared: is told what the run has to go without.
        folder: of the run.
        loggers: of the run.
        resumed_from: the checkpoint that the run goes on from.
        fresh: in the place of that checkpoint's schedule.
        further: callbacks beside the run's own.

    Raises UserError for an option that the trainer refuses.
    """
    callbacks: list[Callback] = [
        BestCheckpoint(
            folder,
            monitor=settings.monitor,
            mode=settings.monitor_mode,
            resumed_from=resumed_from,
            note=prepared.note,
        ),
        LastCheckpoint(folder, resumed_from=resumed_from),
        ValidatedAtItsEnd(),
        *progress_callbacks(),
        *further,
    ]
    if settings.optimizer is not None:
        callbacks.append(StopOnNaN(settings.optimizer.lr))
    if curves := [logger for logger in loggers if not isinstance(logger, History)]:
        callbacks.append(StepCurves(curves))
    if settings.patience is not None and settings.trainer.limit_val_batches != 0:
        callbacks.append(
            StopEarly(settings.monitor, mode=settings.monitor_mode, patience=settings.patience)
        )
    if resumed_from is not None:
        callbacks.append(WholeEpochs())
    if fresh is not None:
        callbacks.append(fresh)
    elif resumed_from is not None:
        callbacks.append(SameSchedule())
    if settings.callbacks.ema is not None and settings.train:
        callbacks.append(MovingAverage(settings.callbacks.ema))
    if settings.callbacks.swa_start is not None and settings.train:
        callbacks.append(EpochAverage(settings.callbacks.swa_start))
    if settings.trainer.precision in ("64-true", "64") and resumed_from is not None:
        callbacks.append(DoublePrecision())
    if settings.halves_text:
        callbacks.append(RoundedText())
    if settings.callbacks.device_stats and curves:
        callbacks.append(DeviceStatsMonitor())
    if settings.trainer.profiler:
        # Lightning's word on what it has found is at this level, which is silenced elsewhere.
        logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    with trainer_errors():
        trainer = pl.Trainer(
            **settings.trainer.model_dump(),
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=folder,
            enable_progress_bar=sys.stderr.isatty(),
            num_sanity_val_steps=0,  # scores are over whole splits
            use_distributed_sampler=False,  # the datamodule's own sampler shares the rows out
            enable_model_summary=settings.callbacks.model_summary,
            plugins=plugins_for(settings),
        )
    # In Lightning's handler of SIGTERM the processes of a run tell each other of it: one that alone
    # has got the signal, or at another step, would wait for the others without end.
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    return trainer


def plugins_for(settings: Settings) -> list[Any]:
    """What the run has of its own in place of Lightning's."""
    plugins: list[Any] = [SealedCheckpoints()]
    if (this := started()) and this.by == "SLURM":
        # Lightning would save within an epoch, which is not gone on with; see `resume`.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    if settings.trainer.sync_batchnorm:
        plugins.append(SyncedNorms())
    return plugins


def check_trainer(settings: Settings) -> None:
    """See that Lightning takes the Trainer's options here; raises UserError if not.

    Before anything is read or fetched: the run's own Trainer is made when all is ready.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    asked = settings.trainer.accelerator
    if not {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(asked, True):
        raise UserError(
            f"trainer.accelerator={asked}: torch {torch.__version__} finds none on this machine;"
            " take trainer=cpu"
        )
    with trainer_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come with the run's own
        pl.Trainer(
            **settings.trainer.model_dump(),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            plugins=plugins_for(settings),
        )


def check_norms(settings: Settings, trainer: pl.Trainer) -> None:
    """See that batch norms can be synchronised where that is asked for; raises UserError if not."""
    if settings.trainer.sync_batchnorm and settings.train and trainer.world_size > 1:
        if trainer.strategy.root_device.type == "cpu":
            raise UserError(
                "trainer.sync_batchnorm=true: torch synchronises batch norms on GPUs alone, and"
                f" these {trainer.world_size} processes are on the CPU; leave it out"
            )


@contextmanager
def trainer_errors(resumed: "Checkpoint | None" = None) -> Iterator[None]:
    """What Lightning refuses, as a message: an option of its own, or the state in a checkpoint."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        text = " ".join(str(error).split())
        if distributed.is_available() and distributed.is_initialized() and _LOST.search(text):
            raise ProcessLost(
                "another process of this run has ended, which says itself why; start all of them"
                f" again, with ckpt_path=LAST to go on ({text})"
            ) from error
        if resumed and any(frame.name in _RESTORING for frame in frames):
            raise UserError(
                f"ckpt_path: {resumed.path} can be evaluated, but its state of training cannot be"
                f" gone on with ({type(error).__name__}: {text})"
            ) from error
        # Its own checks of its options; anything else that goes wrong below is no user's mistake.
        own = any(name in frames[-1].filename for name in ("pytorch_lightning", "lightning_fabric"))
        if isinstance(error, MisconfigurationException) or (own and isinstance(error, _REFUSALS)):
            raise UserError(f"trainer: {text}") from error
        raise


# What gloo, NCCL and their store say of a process that does not answer any more.
_LOST = re.compile(
    "connection (closed|reset|refused)|pair closure|timed out|broken pipe|remote process",
    re.IGNORECASE,
)
_REFUSALS = (ValueError, TypeError, RuntimeError, ModuleNotFoundError)
# Lightning's functions that read a checkpoint's state of training.
_RESTORING = ("restore_callbacks", "restore_training_state", "restore_model", "resume_start")
