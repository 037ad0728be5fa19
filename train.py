"""Train, select on validation, test once: `python train.py --help` shows the options."""

import logging
from contextlib import nullcontext

import hydra
from omegaconf import DictConfig

from mmlabel.cli import (
    CONF,
    Interrupted,
    fail,
    is_first_process,
    is_multirun,
    job_settings,
    one_job,
    output_folder,
    run_cli,
    sweep_name,
    task_overrides,
)
from mmlabel.errors import UserError
from mmlabel.help import help_text
from mmlabel.run_folder import LAST, claim, write_failure

log = logging.getLogger("mmlabel")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """One run of the configuration; returns the monitored score, for searches."""
    folder = output_folder()
    try:
        with one_job(folder):
            settings, notes = job_settings(cfg)
            # Only now, as torch and Lightning take seconds: a mistake is answered at once.
            from mmlabel.training import train

            with claim(folder) if is_first_process() else nullcontext():
                results = train(
                    settings, folder, overrides=task_overrides(), group=sweep_name(), notes=notes
                )
    except Interrupted as stop:
        resume = f": go on with ckpt_path={last}" if (last := folder / LAST).is_file() else ""
        log.warning("interrupted (%s)%s", stop, resume)
        raise
    except Exception as error:
        write_failure(folder, error)
        if is_multirun():
            # Hydra goes on with the other jobs, and raises this one's error after the last.
            log.error("%s failed: %s", " ".join(task_overrides()) or "the run", error)
        elif isinstance(error, UserError):
            fail(error)
        raise
    return results["scores"].get(settings.monitor)


if __name__ == "__main__":
    run_cli(main, help_text)
