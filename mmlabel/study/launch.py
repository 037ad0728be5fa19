"""Runs of a study: in processes of this machine, or by a launcher of Hydra's."""

import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from glob import glob
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode

from mmlabel.cli import assigned
from mmlabel.errors import UserError
from mmlabel.help import CONF
from mmlabel.models.text_options import TransformerCaption
from mmlabel.processors import cores
from mmlabel.run_folder import FAILED, SUMS, empty, finished, hold, write_failure
from mmlabel.settings import override_key
from mmlabel.study.job_lines import JobLines
from mmlabel.study.plan import Job
from mmlabel.study.workers import same_modules, side_by_side
from mmlabel.terminal import PlainFormatter

log = logging.getLogger(__name__)

# What a run imports and a sweep does not; once is enough for all processes.
PRELOAD = ("mmlabel.lean_torchmetrics", "mmlabel.training", "mmlabel.report")


def launch(
    jobs: Sequence[Job],
    *,
    main: Callable,
    runs: Path,
    options: Sequence[str],
    workers: int | None,
    metric: str,
) -> None:
    """Run the jobs, by a launcher of Hydra's if the options name one, and say how each ended.

    A job that fails leaves failed.json in its folder, and the others go on.

    Args:
        jobs: to be run, all of them in the folder `runs`.
        main: train.py's.
        runs: the sweep's folder.
        options: for Hydra, such as hydra/launcher=submitit_slurm.
        workers: how many at a time; None: one a core, but one where they would share a GPU.
        metric: that is said of a run that has finished.
    """
    for job in jobs:
        # What an interrupted run has left would end up in the new one, unless that goes on with it.
        if not job.settings.resume or (job.folder / SUMS).exists():
            empty(job.folder)
    if names_launcher(options):
        try:
            with same_modules():
                _run(jobs, main=main, runs=runs, options=options)
        except Exception as error:
            # Of the launcher itself, a worker that was killed for instance: what finished counts.
            log.error("the launcher stopped: %s", error)
        finally:
            log_to_terminal()
        return
    count = min(len(jobs), _at_a_time(jobs) if workers is None else workers)
    lines = JobLines(len(jobs), metric=metric, live=count > 1 and sys.stderr.isatty())
    ends = side_by_side(
        _longest_first(jobs) if count > 1 else jobs,
        partial(_run_alone, main=main, runs=runs, options=options),
        workers=count,
        preload=PRELOAD,
        # What one run says can be followed, what several say cannot.
        log_of=lambda job: job.folder / "output.log" if count > 1 else None,
        tick=lines.running,
    )
    with closing(ends), lines:
        for job, reason in ends:
            if reason and not finished(job.folder) and not (job.folder / FAILED).exists():
                with suppress(UserError), hold(job.folder):  # unless it is another process's
                    write_failure(job.folder, RuntimeError(reason))
            lines.ended(job)


def names_launcher(options: Sequence[str]) -> bool:
    """Whether options for Hydra choose a launcher."""
    return any(override_key(option) == "hydra/launcher" for option in options)


def log_to_terminal() -> None:
    """Also after a job, whose log file would get the sweep's messages otherwise."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The jobs by what their training is likely to take, so that no long one is left to the end.

    A backbone or a text transformer that is trained costs the most, then each layer of the BiLSTM.
    """

    def cost(job: Job) -> tuple[bool, bool, float]:
        settings, backbone = job.settings, job.settings.backbone
        trained = backbone is not None and (not backbone.frozen or bool(backbone.unfreeze))
        layers = settings.lstm.layers if settings.lstm else 0
        epochs = settings.trainer.max_epochs or 0
        return trained, isinstance(settings.caption, TransformerCaption), layers * epochs

    return sorted(jobs, key=cost, reverse=True)


def _at_a_time(jobs: Sequence[Job]) -> int:
    # Importing torch to ask for a GPU would cost the sweep seconds.
    gpu = sys.platform == "darwin" or glob("/dev/nvidia[0-9]*")
    return 1 if gpu and any(job.settings.trainer.accelerator != "cpu" for job in jobs) else cores()


def _run_alone(job: Job, *, main: Callable, runs: Path, options: Sequence[str]) -> None:
    """Run one job in this process; raises what the job raises."""
    for done in _run([job], main=main, runs=runs, options=options):
        _ = done.return_value  # or the error that the job ended with


def _run(
    jobs: Sequence[Job], *, main: Callable, runs: Path, options: Sequence[str]
) -> Sequence[JobReturn]:
    """Give the jobs to Hydra's launcher, as its multirun does, and return what it returns.

    A sweep of Hydra's is a grid, and a study's variants are not, so the list of jobs is made here;
    the launcher (basic, joblib, submitit, ray) gets it as it would from a sweeper.
    """
    from hydra._internal.callbacks import Callbacks

    logging.getLogger("hydra").setLevel(logging.WARNING)  # what it launches is said here
    task = inspect.unwrap(main)
    # Processes of data-parallel training start the script that this names.
    sys.argv[0] = inspect.getfile(task)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config(
            "train",
            overrides=[
                "hydra.mode=MULTIRUN",
                assigned("hydra.sweep.dir", runs.absolute()),
                *options,
            ],
            run_mode=RunMode.MULTIRUN,
        )
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(
                config_loader=hydra.config_loader, callbacks=Callbacks(config)
            ),
            task_function=task,
            config=config,
        )
        return launcher.launch(
            [[*job.overrides, f"hydra.sweep.subdir={job.folder.name}"] for job in jobs],
            initial_job_idx=0,
        )
