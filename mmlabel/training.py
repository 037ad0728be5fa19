"""One run: from settings to the files in its folder."""

import logging
import os
import time
from collections.abc import Mapping, Sequence, Sized
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from mmlabel.checkpoint import Checkpoint, complete, read_checkpoint
from mmlabel.data.batches import share_of_batch
from mmlabel.errors import UserError
from mmlabel.lightning.callbacks import FreshSchedule, TrainingTime, quiet_lightning
from mmlabel.lightning.classifier import Classifier
from mmlabel.lightning.history import History
from mmlabel.lightning.trainer import build_trainer, check_norms, check_trainer, trainer_errors
from mmlabel.parts import Run, build, scheduler_for
from mmlabel.processes import check_strategy, ends_with_children
from mmlabel.record import commit, describe, machine, size_of, versions
from mmlabel.repeating import not_the_same, read_record, scores_compared
from mmlabel.report import write_run_report
from mmlabel.resuming import (
    as_begun,
    check_data_is_there,
    check_length,
    check_same_run,
    with_checkpoint,
)
from mmlabel.run_folder import LAST, read_history, remove_former, write_run
from mmlabel.settings import Settings, flatten
from mmlabel.size import check_size
from mmlabel.terminal import print_table
from mmlabel.tracking import log_test, loggers_for, publish, run_id, summarise
from mmlabel.wording import count

log = logging.getLogger("mmlabel")


def train(
    settings: Settings,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    sources: Sequence[str] = (),
    set_in_files: Sequence[str] | None = None,
    group: str | None = None,
    notes: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """One run, from settings to the files in `folder`; returns what results.json holds.

    Args:
        settings: of the run.
        folder: where the run's files go.
        overrides: what the run was given on the command line; names the run.
        sources: the flags and options there that say where files of one's own are.
        set_in_files: the options, and the groups, set by files that it named (experiment=NAME);
            None: not known.
        group: what the runs of a sweep have in common.
        notes: what the run goes without already.
        callbacks: of Lightning's, beside the run's own.

    Raises:
        UserError: a mistake in the settings or the data.
    """
    quiet_lightning()
    started, overrides = time.monotonic(), list(overrides)
    resumed, record, goes_on = None, None, False
    if settings.repeat is not None:
        record = read_record(settings.repeat)
    if (begin := begins_with(settings, folder)) is not None:
        resumed = read_checkpoint(begin)
        goes_on = settings.resume and begin == folder / LAST
        if goes_on:
            settings = as_begun(settings, overrides=overrides, set_in_files=set_in_files)
            check_same_run(settings, resumed)
        # Every option counts where the same command goes on, and a record has all of its run's,
        # those that the checkpoint did not have included.
        whole = goes_on or record is not None
        given = list(flatten(settings.plain())) if whole else overrides
        settings = with_checkpoint(settings, resumed, overrides=given, set_in_files=set_in_files)
        if settings.train:
            check_length(settings, resumed)
    if named := settings.ckpt_path or settings.repeat:
        check_data_is_there(settings, named)
    check_precision(settings)
    check_schedule(settings)
    check_threshold(settings)
    check_strategy(settings.trainer.strategy)
    check_trainer(settings)

    with (
        loggers_for(
            settings,
            folder=folder,
            overrides=overrides,
            group=group,
            wandb_id=former_wandb_run(settings, resumed, own=goes_on, group=group),
        ) as loggers,
        ExitStack() as until_the_end,
    ):
        pl.seed_everything(settings.seed, workers=True, verbose=False)
        run = build(settings, resumed, wandb_id=run_id(loggers))
        if settings.train and settings.max_megabytes is not None:
            check_size(size_of(run, settings), limit=settings.max_megabytes)
        for note in notes:
            run.prepared.note(note)
        if settings.trainer.overfit_batches:
            run.prepared.note(
                "trainer.overfit_batches: the validation scores are of the training rows that are"
                " learned"
            )
        if record is not None:
            say_what_differs(record, run, settings)
        fresh = None
        if settings.resume_lr is not None:
            fresh = FreshSchedule(settings.resume_lr, scheduler_for(settings))
        trainer = build_trainer(
            settings,
            run.prepared,
            folder=folder,
            loggers=loggers,
            resumed_from=begin,
            fresh=fresh,
            further=callbacks,
        )
        check_shares(settings, trainer.world_size, run.prepared.rows)
        check_norms(settings, trainer)
        until_the_end.enter_context(
            ends_with_children(lambda: getattr(trainer.strategy.launcher, "procs", []))
        )
        trains = settings.train and any(p.requires_grad for p in run.classifier.parameters())
        goes_on = trains and begin is not None and begin.resolve().parent == folder.resolve()
        if trainer.is_global_zero and not (goes_on or settings.trainer.fast_dev_run):
            say_what_is_not_gone_on_with(
                folder, begin, resumed if trains else None, settings.trainer.max_epochs
            )
            remove_former(folder, trained=trains, keep=begin)
        ready = time.monotonic()

        epochs, best = 0, None
        if trains:
            if resumed:
                replay_history(resumed, loggers)
            # Lightning leaves every part in the mode in which it finds it, and trained stages are
            # built in the one that uses their batch norms' statistics and never updates them.
            run.classifier.train()
            with trainer_errors(resumed):
                trainer.fit(
                    run.classifier,
                    run.data,
                    ckpt_path=str(resumed.path) if resumed else None,
                    weights_only=True,
                )
            best = getattr(trainer.checkpoint_callback, "best_model_path", None) or None
            epochs = trainer.current_epoch
            if best is None and not settings.trainer.fast_dev_run:
                run.prepared.note(
                    "no epoch was validated: the scores are those of the last weights"
                )
        trained = time.monotonic()
        every: list[Callback] = vars(trainer)["callbacks"]  # Lightning declares no such attribute
        before = sum(one.before for one in every if isinstance(one, TrainingTime))

        # The weights of the best epoch; the test split is looked at once, with them.
        with trainer_errors():
            trainer.validate(
                run.classifier, run.data, ckpt_path=best, verbose=False, weights_only=True
            )
        if run.classifier.calibration:
            calibrate(run.classifier)
        if settings.test:
            with trainer_errors():
                trainer.test(run.classifier, run.data, verbose=False)
        ended = time.monotonic()

        results = describe(
            run,
            settings,
            overrides=overrides,
            sources=list(sources),
            epochs=epochs,
            best_epoch=read_checkpoint(best).epochs - 1 if best else None,
            seconds={
                "setup": ready - started,
                "features": (features := run.data.setup_seconds),
                # Lightning has them computed as the first of the two begins.
                "train": before + trained - ready - (features if trains else 0.0),
                "test": ended - trained - (0.0 if trains else features),
                "total": before + ended - started,
            },
        )
        if trainer.is_global_zero:
            if settings.trainer.fast_dev_run:
                log.info("trainer.fast_dev_run: it runs; no checkpoint, scores or page are kept")
                return results
            if best:
                complete(Path(best), run.classifier, halves_text=settings.halves_text)
            log_test(loggers, results, step=trainer.global_step)
            write_run(
                folder,
                results,
                prepared=run.prepared,
                classifier=run.classifier,
                page=write_run_report if settings.report else None,
            )
            summarise(loggers, results)
            publish(loggers, settings, folder=folder, annotations=run.prepared.annotations)
            print_table(results)
            if record is not None:
                say_whether_scores_are_equal(record, settings, results["scores"])
            log.info("everything is in %s", folder)
    return results


def begins_with(settings: Settings, folder: Path) -> Path | None:
    """The checkpoint that a run is resumed from or evaluates; None for a new one.

    With `resume` that is what the run itself has left in its folder, before it was stopped.
    """
    left = folder / LAST
    if settings.resume and left.is_file():
        log.info("an interrupted run has left %s: it is gone on with", left)
        return left
    return None if settings.ckpt_path is None else Path(os.path.expanduser(settings.ckpt_path))


def former_wandb_run(
    settings: Settings, resumed: Checkpoint | None, *, own: bool, group: str | None
) -> str | None:
    """The wandb run that a run goes on with; None for one of its own.

    Args:
        settings: of the run.
        resumed: the checkpoint that it goes on from or evaluates.
        own: whether it has left that itself.
        group: what the runs of a sweep have in common: several may go on from one checkpoint.
    """
    if resumed is None or not settings.train:
        return None
    another = settings.repeat is not None or settings.resume_lr is not None or group is not None
    return None if another and not own else resumed.wandb_id


def say_what_differs(record: Mapping[str, Any], run: Run, settings: Settings) -> None:
    """Note what is not the same as in the run of the record; see `mmlabel.repeating`."""
    now = {
        "settings": settings.plain(),
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
        "inputs": run.inputs,
    }
    lines = not_the_same(record, now)
    if lines:
        run.prepared.note(f"not the same as in {settings.repeat}: {'; '.join(lines)}")
    else:
        log.info(
            "%s is repeated: settings, versions, commit, machine and all that is read are the same",
            settings.repeat,
        )


def say_whether_scores_are_equal(
    record: Mapping[str, Any], settings: Settings, scores: Mapping[str, float]
) -> None:
    """Say how the scores of a repeated run compare with the record's, digit by digit."""
    lines = scores_compared(record, scores)
    if lines:
        log.warning("scores differ from those of %s: %s", settings.repeat, "; ".join(lines))
    else:
        log.info("the scores are those of %s to the last digit", settings.repeat)


def check_precision(settings: Settings) -> None:
    """See that the network can compute in trainer.precision; raises UserError if not.

    Not among the checks of settings: a checkpoint of an earlier version may say otherwise.
    """
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


def say_what_is_not_gone_on_with(
    folder: Path, begin: Path | None, resumed: Checkpoint | None, max_epochs: int | None
) -> None:
    """Of what may have been taken for going on with a run."""
    last = folder / LAST
    if last.exists() and (begin is None or begin.resolve() != last.resolve()):
        log.warning(
            "%s holds a run that has not finished, whose checkpoints are removed (resume=true goes"
            " on with it)",
            folder,
        )
    if resumed is not None and resumed.epochs == max_epochs:
        log.warning(
            "%s has trained all of its %s: nothing is left to train (trainer.max_epochs=N with"
            " resume_lr=RATE trains longer, train=false evaluates)",
            resumed.path,
            count(resumed.epochs, "epoch"),
        )


def check_schedule(settings: Settings) -> None:
    """See that scheduler=plateau has scores to look at; raises UserError if not.

    Not among the checks of settings: a finished run of an earlier version may say otherwise.
    """
    plateau = settings.scheduler is not None and settings.scheduler.name == "plateau"
    if settings.train and plateau and settings.trainer.limit_val_batches == 0:
        raise UserError(
            f"scheduler=plateau with trainer.limit_val_batches=0: it cuts the rate by"
            f" {settings.monitor}, and nothing is validated; take scheduler=none"
        )


def check_threshold(settings: Settings) -> None:
    """See that there will be validation to find a threshold on; raises UserError if not.

    That no row is left for it is known later, see `calibrate`.
    """
    trainer = settings.trainer
    stands_in = trainer.overfit_batches or trainer.fast_dev_run
    if isinstance(settings.answers_at, str) and trainer.limit_val_batches == 0 and not stands_in:
        raise UserError(
            f"threshold={settings.answers_at} with trainer.limit_val_batches=0: it is found on"
            " validation, and nothing is validated; give a number, or leave one of the two out"
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


def calibrate(classifier: Classifier) -> None:
    """Find the threshold on validation, which must have been evaluated."""
    if "val" not in classifier.evaluated:
        raise UserError(
            f"threshold={classifier.calibration} is found on validation, of which no row was"
            " looked at: give a number, or see that there are rows (trainer.limit_val_batches,"
            " data.allow_other_rows)"
        )
    classifier.calibrate()


def replay_history(resumed: Checkpoint, loggers: Sequence[Logger]) -> None:
    """Log the epochs before a checkpoint again, so that a resumed run's history is whole.

    They are read from metrics.csv beside it; without that file the history begins with the resume.
    Test scores are left out: the run gets its own.
    """
    rows = [
        row
        for row in read_history(resumed.path.parent)
        if row["epoch"] < resumed.epochs and not any(name.startswith("test/") for name in row)
    ]
    for logger in loggers:
        if isinstance(logger, History):
            logger.begin_with(rows)
        else:
            for row in rows:
                logger.log_metrics(row, step=int(row["step"]))
