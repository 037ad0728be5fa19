"""What a run begins with: nothing, a checkpoint of its own or of another run, another's record."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from mmlabel.checkpoint import Checkpoint, read_checkpoint
from mmlabel.lightning.history import History
from mmlabel.models.engines import device_for, has_bfloat16
from mmlabel.repeating import read_record
from mmlabel.resuming import (
    as_begun,
    check_data_is_there,
    check_length,
    check_same_run,
    told_idle,
    with_checkpoint,
)
from mmlabel.run_folder import LAST, read_history, remove_former
from mmlabel.settings import Settings, flatten
from mmlabel.wording import count

log = logging.getLogger("mmlabel")


@dataclass(frozen=True)
class Beginning:
    """What a run begins with.

    Attributes:
        settings: of the run: those that were asked for, or of a checkpoint with what a command
            line may change of them.
        checkpoint: that is gone on from, or evaluated; None for a new run.
        is_own: whether the run itself has left that checkpoint, before it was interrupted.
        record: results.json of the run that is repeated; None for any other.
        notes: on options that change nothing beside the checkpoint's.
    """

    settings: Settings
    checkpoint: Checkpoint | None
    is_own: bool
    record: Mapping[str, Any] | None
    notes: Sequence[str] = ()

    def wandb_run(self, group: str | None) -> str | None:
        """The wandb run that is gone on with; None for one of the run's own.

        Args:
            group: what the runs of a sweep have in common: several may go on from one checkpoint.
        """
        settings, found = self.settings, self.checkpoint
        if found is None or not settings.train:
            return None
        another = settings.repeat is not None or settings.resume_lr is not None or group is not None
        return None if another and not self.is_own else found.wandb_id

    def make_room(self, folder: Path, *, trains: bool) -> None:
        """Remove what a former run has left in `folder` unless that is gone on with; say so.

        Args:
            folder: of the run.
            trains: whether the run trains, or evaluates alone.
        """
        found, last = self.checkpoint, folder / LAST
        goes_on = found is not None and found.path.resolve().parent == folder.resolve()
        if trains and goes_on:
            return
        if last.exists() and (found is None or found.path.resolve() != last.resolve()):
            log.warning(
                "%s holds a run that has not finished, whose checkpoints are removed (resume=true"
                " goes on with it)",
                folder,
            )
        if trains and found is not None and found.epochs == self.settings.trainer.max_epochs:
            log.warning(
                "%s has trained all of its %s: nothing is left to train (trainer.max_epochs=N with"
                " resume_lr=RATE trains longer, train=false evaluates)",
                found.path,
                count(found.epochs, "epoch"),
            )
        remove_former(folder, trained=trains, keep=found.path if found else None)

    def replay_history(self, loggers: Sequence[Logger]) -> None:
        """Log the epochs before the checkpoint again, so that a resumed run's history is whole.

        They are read from metrics.csv beside it; without that file the history begins with the
        resume. Test scores are left out: the run gets its own.
        """
        assert self.checkpoint is not None
        rows = [
            row
            for row in read_history(self.checkpoint.path.parent)
            if row["epoch"] < self.checkpoint.epochs
            and not any(name.startswith("test/") for name in row)
        ]
        for logger in loggers:
            if isinstance(logger, History):
                logger.begin_with(rows)
            else:
                for row in rows:
                    logger.log_metrics(row, step=int(row["step"]))


def begin(
    settings: Settings,
    folder: Path,
    *,
    overrides: Sequence[str],
    set_in_files: Sequence[str] | None,
) -> Beginning:
    """What a run begins with, and its settings with that.

    Args:
        settings: that are asked for.
        folder: of the run.
        overrides, set_in_files: see `resuming.with_checkpoint`.

    Raises:
        UserError: a checkpoint or a record that cannot be read, is another run's or does not go
            with what is asked for; or its data is not there.
    """
    record = read_record(settings.repeat) if settings.repeat is not None else None
    checkpoint, is_own, notes = None, False, []
    if (path := begins_with(settings, folder)) is not None:
        checkpoint = read_checkpoint(path)
        is_own = settings.resume and path == folder / LAST
        if is_own:
            settings = as_begun(settings, overrides=overrides, set_in_files=set_in_files)
            check_same_run(settings, checkpoint)
        # Every option counts where the same command goes on, and a record has all of its run's,
        # those that the checkpoint did not have included.
        whole = is_own or record is not None
        given = list(flatten(settings.plain())) if whole else overrides
        settings = with_checkpoint(settings, checkpoint, overrides=given, set_in_files=set_in_files)
        notes = told_idle(settings, overrides)
        if settings.train:
            check_length(settings, checkpoint)
    if named := settings.ckpt_path or settings.repeat:
        check_data_is_there(settings, named)
    if settings.train:
        settings, slow = in_precision(settings)
        notes = [*notes, *slow]
    return Beginning(settings, checkpoint, is_own, record, notes)


def in_precision(settings: Settings) -> tuple[Settings, list[str]]:
    """Settings that say in which precision a frozen backbone computes, and what there is to note.

    Whoever evaluates the run's checkpoint, on whatever machine, needs to know what "auto" was.
    """
    device, notes = device_for(settings.trainer.accelerator), []
    found = settings.frozen_precision
    if settings.features is not None and settings.features.precision == "auto":
        features = settings.features.model_copy(update={"precision": found})
        settings = settings.model_copy(update={"features": features})
    slow = {}
    if device.type == "cpu" and not has_bfloat16(device):
        if found == "bfloat16":
            slow["features.precision=bfloat16"] = "features.precision=auto"
        if (asked := settings.trainer.precision).startswith(("16", "bf16")):
            slow[f"trainer.precision={asked}"] = "trainer.precision=32-true"
    for option, instead in slow.items():
        notes.append(
            f"{option}: this processor has no instructions for it and takes many times as long as"
            f" in single precision: {instead}"
        )
    return settings, notes


def begins_with(settings: Settings, folder: Path) -> Path | None:
    """The checkpoint that a run is resumed from or evaluates; None for a new one.

    With `resume` that is what the run itself has left in its folder, before it was stopped.
    """
    left = folder / LAST
    if settings.resume and left.is_file():
        log.info("an interrupted run has left %s: it is gone on with", left)
        return left
    return None if settings.ckpt_path is None else Path(os.path.expanduser(settings.ckpt_path))
