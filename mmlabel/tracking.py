"""Each run's history in metrics.csv, and in wandb when asked."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only

from mmlabel.cli import flatten

log = logging.getLogger(__name__)


@contextmanager
def loggers_for(
    settings: dict, *, folder: Path, overrides: list[str], group: str | None
) -> Iterator[list[Logger]]:
    """The loggers of one run; its wandb run ends with the block, as failed if the block raises.

    Several runs may share a process (Hydra's multirun), and a wandb run that is not ended would go
    on with the next one's numbers.

    Args:
        settings: the resolved configuration of the run.
        folder: of the run.
        overrides: what the run was given; its name, unless it has one.
        group: what the runs of a sweep have in common.
    """
    loggers: list[Logger] = []
    if settings["logger"]["csv"]:
        # Only figures of whole epochs are logged, so each is worth its place on disk at once.
        loggers.append(CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1))
    # Other processes of a data-parallel run leave the logging to the first.
    if settings["logger"]["wandb"] is None or rank_zero_only.rank != 0:
        yield loggers
        return
    from pytorch_lightning.loggers import WandbLogger

    study, variant = settings["study"]["name"], settings["study"]["variant"]
    run = start_wandb(
        settings["logger"]["wandb"],
        flat=flatten(settings) | {"study": study, "variant": variant},
        folder=folder,
        name=settings["name"] or ",".join(overrides) or "defaults",
        group=study or group,
        tags=[str(tag) for tag in (study, variant) if tag] or (["multirun"] if group else []),
    )
    try:
        yield [*loggers, WandbLogger(experiment=run)]
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)


def summarise(loggers: list[Logger], results: dict) -> None:
    """Put what a run ended with into its wandb summary: scores of the best epoch, sizes, seconds.

    Without it a dashboard would compare the last epoch's scores.
    """
    from pytorch_lightning.loggers import WandbLogger

    summary = results["scores"] | {
        "threshold": results["threshold"],
        "epochs": results["epochs"],
        "best_epoch": results["best_epoch"],
        "parameters": results["parameters"],
        "megabytes": results["megabytes"],
        "seconds": results["seconds"]["total"],
        "notes": "; ".join(results["notes"]),
    }
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(summary)


def start_wandb(
    settings: dict, *, flat: dict, folder: Path, name: str, group: str | None, tags: list[str]
):
    """A wandb run that never asks for a login: offline unless somebody is logged in."""
    import wandb

    mode = settings["mode"] or os.environ.get("WANDB_MODE")
    if not mode:
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
    options = {
        "project": settings["project"],
        "entity": settings["entity"],
        "name": name,
        "group": settings["group"] or group,
        "tags": [*settings["tags"], *tags],
        "config": flat,
        "dir": folder,
        "reinit": "finish_previous",
    }
    quiet = {"silent": True, "init_timeout": 30}
    try:
        return wandb.init(mode=mode, settings=wandb.Settings(**quiet), **options)
    except wandb.errors.CommError as error:
        log.warning("wandb cannot be reached (%s): this run is logged offline", error)
        return wandb.init(mode="offline", settings=wandb.Settings(**quiet), **options)
