"""What a run needs beyond options that go together, told before time is spent on it.

Not among the checks of settings: a checkpoint of an earlier version, or a finished run, may have
what a new run may not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized

from mmlabel.data.batches import share_of_batch
from mmlabel.errors import UserError
from mmlabel.lightning.trainer import check_trainer
from mmlabel.processes import check_strategy
from mmlabel.settings import Settings
from mmlabel.wording import count


def check_before_reading(settings: Settings) -> None:
    """See that a run can do what it is asked for, as far as its settings and the machine tell.

    Raises UserError if not.
    """
    check_precision(settings)
    check_training(settings)
    check_schedule(settings)
    check_threshold(settings)
    check_teaching(settings)
    check_strategy(settings.trainer.strategy)
    check_trainer(settings)


def check_precision(settings: Settings) -> None:
    """See that the network can compute in trainer.precision; raises UserError if not."""
    precision = settings.trainer.precision
    if precision not in ("16-true", "bf16-true", "64-true", "64"):
        return
    instead = "take bf16-mixed or 16-mixed, which are as fast, or 32-true"
    single = None
    if "image" in settings.inputs:
        single = f"model={settings.model.name}: what is computed of pictures"
    elif settings.text_transformer is not None:
        chosen = "caption=transformer" if settings.embedding is None else "embedding=contextual"
        single = f"{chosen}: what a text transformer makes of captions"
    if single is not None:
        raise UserError(
            f"trainer.precision={precision} with {single} is in single precision, which the"
            f" weights must be in, too; {instead}"
        )
    if settings.train and precision == "16-true":
        raise UserError(
            f"trainer.precision={precision}: an optimizer's steps are too small for weights in half"
            f" precision, which become NaN; {instead}"
        )


def check_training(settings: Settings) -> None:
    """See that there will be a step of training; raises UserError if not."""
    trainer = settings.trainer
    if not settings.train or settings.optimizer is None or trainer.fast_dev_run:
        return
    batches = trainer.overfit_batches or trainer.limit_train_batches
    limits = {"max_steps": trainer.max_steps, "limit_train_batches": batches}
    for name in (name for name, limit in limits.items() if limit == 0):
        raise UserError(
            f"trainer.{name}=0: nothing would be trained, and random weights scored; leave it out,"
            " or evaluate a checkpoint with train=false ckpt_path=FILE"
        )


def check_schedule(settings: Settings) -> None:
    """See that scheduler=plateau has scores to look at; raises UserError if not."""
    plateau = settings.scheduler is not None and settings.scheduler.name == "plateau"
    if settings.train and plateau and settings.trainer.limit_val_batches == 0:
        raise UserError(
            f"scheduler=plateau with trainer.limit_val_batches=0: it cuts the rate by"
            f" {settings.monitor}, and nothing is validated; take scheduler=none"
        )


def check_threshold(settings: Settings) -> None:
    """See that there will be validation to find a threshold on; raises UserError if not.

    That no row is left for it is known later, see `training.calibrate`.
    """
    trainer = settings.trainer
    stands_in = trainer.overfit_batches or trainer.fast_dev_run
    if isinstance(settings.answers_at, str) and trainer.limit_val_batches == 0 and not stands_in:
        raise UserError(
            f"threshold={settings.answers_at} with trainer.limit_val_batches=0: it is found on"
            " validation, and nothing is validated; give a number, or leave one of the two out"
        )


def check_teaching(settings: Settings) -> None:
    """See that something is learned from distil.teacher; raises UserError if not."""
    if settings.train and settings.distil.teacher is not None and settings.distil.weight == 0:
        raise UserError(
            "distil.weight=0 with distil.teacher: nothing would be learned from the teacher; give"
            " more than 0, or distil.teacher=null"
        )


def check_shares(settings: Settings, processes: int, rows: Mapping[str, Sized]) -> None:
    """See that the processes of a run can share its batches and splits; raises UserError if not.

    Args:
        settings: of the run.
        processes: how many.
        rows: of each split.
    """
    share = share_of_batch(settings.data.batch_size, processes)
    scored = {
        "val": settings.trainer.limit_val_batches != 0,
        "test": settings.test and settings.trainer.limit_test_batches != 0,
    }
    for split, needed in scored.items():
        if needed and 0 < len(rows[split]) < processes:
            raise UserError(
                f"the {split} split has {count(len(rows[split]), 'row')} for {processes} processes,"
                " each of which needs one: use more rows, or fewer processes (trainer.devices)"
            )
    if settings.train and share == 1 and settings.has_batch_norm:
        raise UserError(
            f"data.batch_size={settings.data.batch_size} is one row for each of {processes}"
            " processes: batch norm cannot train on one row at a time; use more rows a batch, or"
            " model.head.batch_norm=false"
        )
