"""One run: from settings to the files in its folder."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from mmlabel.beginning import Beginning, begin
from mmlabel.checkpoint import complete, read_checkpoint
from mmlabel.errors import UserError
from mmlabel.lightning.callbacks import FreshSchedule, TrainingTime, quiet_lightning
from mmlabel.lightning.classifier import Classifier
from mmlabel.lightning.trainer import build_trainer, check_norms, trainer_errors
from mmlabel.parts import Run, build, scheduler_for
from mmlabel.processes import ends_with_children
from mmlabel.record import commit, describe, machine, size_of, versions
from mmlabel.repeating import not_the_same, scores_compared
from mmlabel.report import write_run_report
from mmlabel.run_checks import check_before_reading, check_shares
from mmlabel.run_folder import write_run
from mmlabel.settings import Settings
from mmlabel.size import check_size
from mmlabel.terminal import print_table
from mmlabel.tracking import log_test, loggers_for, publish, run_id, summarise

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
    begun = begin(settings, folder, overrides=overrides, set_in_files=set_in_files)
    settings = begun.settings
    check_before_reading(settings)
    with (
        loggers_for(
            settings,
            folder=folder,
            overrides=overrides,
            group=group,
            wandb_id=begun.wandb_run(group),
        ) as loggers,
        ExitStack() as until_the_end,
    ):
        pl.seed_everything(settings.seed, workers=True, verbose=False)
        run = build(settings, begun.checkpoint, wandb_id=run_id(loggers))
        if settings.train and settings.max_megabytes is not None:
            check_size(size_of(run, settings), limit=settings.max_megabytes)
        note_beginning(run, begun, notes)
        fresh, training = None, TrainingTime()
        if settings.resume_lr is not None:
            fresh = FreshSchedule(settings.resume_lr, scheduler_for(settings))
        trainer = build_trainer(
            settings,
            run.prepared,
            folder=folder,
            loggers=loggers,
            resumed_from=begun.checkpoint.path if begun.checkpoint else None,
            fresh=fresh,
            further=[training, *callbacks],
        )
        run.data.check_rows = partial(check_shares, settings, trainer.world_size)
        run.data.check_rows(run.prepared.rows)
        check_norms(settings, trainer)
        until_the_end.enter_context(
            ends_with_children(lambda: getattr(trainer.strategy.launcher, "procs", []))
        )
        trains = settings.train and any(p.requires_grad for p in run.classifier.parameters())
        if trainer.is_global_zero and not settings.trainer.fast_dev_run:
            begun.make_room(folder, trains=trains)
        ready = time.monotonic()
        best = fit(run, trainer, begun, loggers) if trains else None
        trained, epochs = time.monotonic(), trainer.current_epoch if trains else 0
        evaluate(run, trainer, best=best, test=settings.test)
        ended = time.monotonic()

        features, before = run.data.setup_seconds, training.before
        results = describe(
            run,
            settings,
            overrides=overrides,
            sources=list(sources),
            epochs=epochs,
            best_epoch=read_checkpoint(best).epochs - 1 if best else None,
            seconds={
                "setup": ready - started,
                "features": features,
                # Lightning has them computed as the first of the two begins.
                "train": before + trained - ready - (features if trains else 0.0),
                "test": ended - trained - (0.0 if trains else features),
                "total": before + ended - started,
            },
        )
        if trainer.is_global_zero and settings.trainer.fast_dev_run:
            log.info("trainer.fast_dev_run: it runs; no checkpoint, scores or page are kept")
        elif trainer.is_global_zero:
            step = trainer.global_step
            keep(run, begun, results, folder=folder, best=best, loggers=loggers, step=step)
    return results


def note_beginning(run: Run, begun: Beginning, notes: Sequence[str]) -> None:
    """Note what a run goes without from the beginning, and how it differs from one it repeats."""
    for note in (*notes, *begun.notes):
        run.prepared.note(note)
    if begun.settings.trainer.overfit_batches:
        run.prepared.note(
            "trainer.overfit_batches: the validation scores are of the training rows that are"
            " learned"
        )
    if begun.record is not None:
        say_what_differs(begun.record, run, begun.settings)


def fit(run: Run, trainer: pl.Trainer, begun: Beginning, loggers: Sequence[Logger]) -> Path | None:
    """Train; returns the checkpoint of the best epoch, None where no epoch was validated."""
    if begun.checkpoint is not None:
        begun.replay_history(loggers)
    # Lightning leaves every part in the mode in which it finds it, and trained stages are
    # built in the one that uses their batch norms' statistics and never updates them.
    run.classifier.train()
    with trainer_errors(begun.checkpoint):
        trainer.fit(
            run.classifier,
            run.data,
            ckpt_path=str(begun.checkpoint.path) if begun.checkpoint else None,
            weights_only=True,
        )
    best = getattr(trainer.checkpoint_callback, "best_model_path", None)
    if not best and not begun.settings.trainer.fast_dev_run:
        run.prepared.note("no epoch was validated: the scores are those of the last weights")
    start = begun.settings.callbacks.swa_start
    if best and start is not None and (epoch := read_checkpoint(best).epochs - 1) <= start:
        run.prepared.note(
            f"callbacks.swa_start={start}: the best epoch is {epoch}, whose weights are no mean of"
            " several epochs' but its own"
        )
    return Path(best) if best else None


def evaluate(run: Run, trainer: pl.Trainer, *, best: Path | None, test: bool) -> None:
    """Score validation with the best epoch's weights, then the test split, once and with these."""
    with trainer_errors():
        trainer.validate(
            run.classifier,
            run.data,
            ckpt_path=str(best) if best else None,
            verbose=False,
            weights_only=True,
        )
    if run.classifier.calibration:
        calibrate(run.classifier)
    if test:
        with trainer_errors():
            trainer.test(run.classifier, run.data, verbose=False)


def keep(
    run: Run,
    begun: Beginning,
    results: dict[str, Any],
    *,
    folder: Path,
    best: Path | None,
    loggers: Sequence[Logger],
    step: int,
) -> None:
    """Write the files of a run that has ended, complete its best checkpoint, and say its scores."""
    settings = begun.settings
    if best:
        complete(
            best,
            run.classifier,
            halves_text=settings.halves_text,
            cache_dir=run.data.cache_dir,
        )
    log_test(loggers, results, step=step)
    write_run(
        folder,
        results,
        prepared=run.prepared,
        classifier=run.classifier,
        page=write_run_report if settings.report else None,
    )
    summarise(loggers, results)
    publish(loggers, settings, folder=folder, annotations=run.prepared.annotations)
    try:
        print_table(results)
    except OSError as error:  # the run has finished all the same
        if not isinstance(error, BrokenPipeError):
            log.warning("the scores cannot be printed (%s)", error.strerror)
    if begun.record is not None:
        say_whether_scores_are_equal(begun.record, settings, results["scores"])
    log.info("everything is in %s", folder)


def calibrate(classifier: Classifier) -> None:
    """Find the threshold on validation, which must have been evaluated."""
    if "val" not in classifier.evaluated:
        raise UserError(
            f"threshold={classifier.calibration} is found on validation, of which no row was"
            " looked at: give a number, or see that there are rows (trainer.limit_val_batches,"
            " data.allow_other_rows)"
        )
    classifier.calibrate()


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
