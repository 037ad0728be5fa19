"""Train, select on validation, test once: `python train.py --help` shows the options."""

if __name__ == "__main__":  # before the other imports, which take a while
    from mmlabel.interrupts import end_on_interrupt

    end_on_interrupt()

import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from mmlabel.cli import Interrupted, assigned, fail, queue_hint, run_cli
from mmlabel.errors import UserError, of_the_disk
from mmlabel.help import CONF, help_text
from mmlabel.hydra_job import (
    is_multirun,
    job_settings,
    one_job,
    output_folder,
    set_in_files,
    sources,
    sweep_name,
    task_overrides,
)
from mmlabel.interrupts import behind
from mmlabel.large_imports import import_large
from mmlabel.options import is_same
from mmlabel.processes import ProcessLost, is_first_process
from mmlabel.repeating import has_changed
from mmlabel.run_folder import LAST, claim, failed, finished, read_results, write_failure
from mmlabel.submitit_jobs import end_with_program, queue_again_when_preempted

log = logging.getLogger("mmlabel")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """One run of the configuration; returns the monitored score, for searches."""
    folder = output_folder()
    queue_again_when_preempted()
    end_with_program()
    try:
        if cfg.resume and (results := finished_before(cfg, folder)):
            log.info("%s has finished already: nothing is done", folder)
            return results["scores"].get(cfg.monitor)
        with one_job(folder), claim(folder) if is_first_process() else nullcontext():
            return one_run(cfg, folder)
    except (UserError, OSError) as error:
        problem = of_the_disk(error) if isinstance(error, OSError) else error
        if problem is None or is_multirun():
            raise  # in a multirun Hydra goes on with the other jobs, and raises it after the last
        fail(problem)


def finished_before(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The results in `folder` if they are of this very run: a scheduler has started it once more.

    Results of other settings are left to `claim`, which refuses the folder. Raises UserError where
    the data has changed since.
    """
    if not finished(folder):
        return None
    results = read_results(folder)
    settings, _ = job_settings(cfg)
    if settings.ckpt_path is not None:
        from mmlabel.resuming import as_begun  # only now: it brings torch

        given = task_overrides()
        settings = as_begun(settings, overrides=given, set_in_files=set_in_files(given))
    if not is_same(results["settings"], settings.plain()):
        return None
    from mmlabel.data.digests import read_digests  # only now: it brings NumPy and Pillow

    read = read_digests(settings)
    then = results.get("inputs", {})
    for name, digest in read.items():
        if then.get(name, digest) != digest:
            changed = has_changed(name)
            raise UserError(f"{folder} holds a finished run, and {changed} since: choose another")
    return results


def one_run(cfg: DictConfig, folder: Path) -> float | None:
    """A run in a folder of its own, which says how it has ended."""
    try:
        settings, notes = job_settings(cfg)
        # Only now, as they take seconds: a mistake is answered at once. wandb comes before torch,
        # as it looks for the source of its classes among all modules that are imported.
        wandb = ["wandb.apis.public"] if settings.logger.wandb else []
        import_large(*wandb, "mmlabel.lean_torchmetrics", "mmlabel.training")
        from mmlabel.training import train

        results = train(
            settings,
            folder,
            overrides=task_overrides(),
            sources=sources(),
            set_in_files=set_in_files(task_overrides()),
            group=sweep_name(),
            notes=notes,
        )
    except (Interrupted, Exception) as error:
        stop = error if isinstance(error, Interrupted) else behind(error)
        if isinstance(stop, Interrupted):
            if stop is not error:
                log.warning("the run could not be ended in order: %s", error)
            last = folder / LAST
            goes_on = f"go on with: python train.py {shlex.quote(assigned('ckpt_path', last))}"
            stop.hint = goes_on if last.is_file() else "nothing was trained yet; start it again"
            raise stop from None
        if not isinstance(error, ProcessLost) or (is_first_process() and not failed(folder)):
            write_failure(folder, error)
        if is_multirun():
            log.error("%s failed: %s", " ".join(task_overrides()) or "the run", error)
        raise
    return results["scores"].get(settings.monitor)


def _hint(arguments: Sequence[str]) -> str:
    """What to do after an interruption outside of a run of this process."""
    launchers = [text for text in arguments if text.startswith("hydra/launcher=")]
    if not launchers:
        return "no run was under way; start it again"
    return queue_hint(arguments) or (
        "the jobs that were under way end, too; with resume=true and hydra.sweep.dir=DIR the same"
        " command goes on"
    )


if __name__ == "__main__":
    run_cli(main, help_text, hint=_hint(sys.argv[1:]))
