"""Each run's history in metrics.csv, and in wandb or TensorBoard when asked."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from mmlabel.errors import UserError, not_utf_8
from mmlabel.lightning.history import History
from mmlabel.no_effect import without_effect
from mmlabel.score_table import SCORES
from mmlabel.settings import Settings, flatten
from mmlabel.training_options import Wandb

if TYPE_CHECKING:
    from mmlabel.data.annotations import Annotations

log = logging.getLogger(__name__)


@contextmanager
def loggers_for(
    run: Settings,
    *,
    folder: Path,
    overrides: Sequence[str],
    group: str | None,
    wandb_id: str | None = None,
) -> Iterator[list[Logger]]:
    """The loggers of one run; its wandb run ends with the block, as failed if the block raises.

    Several runs may share a process (Hydra's multirun), and a wandb run that is not ended would go
    on with the next one's numbers.

    Args:
        run: its settings.
        folder: of the run.
        overrides: what the run was given, see `run_name`.
        group: what the runs of a sweep have in common.
        wandb_id: of the wandb run that a resumed run goes on with.
    """
    loggers: list[Logger] = []
    # Other processes of a data-parallel run leave the logging to the first.
    if rank_zero_only.rank != 0 or run.trainer.fast_dev_run:
        yield loggers
        return
    if run.logger.csv:
        loggers.append(History(folder))
    if run.logger.tensorboard:
        loggers.append(_tensorboard(folder))
    if run.logger.wandb is None:
        yield loggers
        return
    study, variant = run.study.name, run.study.variant
    logger = wandb_logger(
        run.logger.wandb,
        config=_config(run),
        folder=folder,
        name=run_name(run, overrides),
        group=study or group,
        tags=[tag for tag in (study, variant) if tag] or (["multirun"] if group else []),
        id=wandb_id,
    )
    try:
        yield [*loggers, logger]
    except BaseException:
        logger.experiment.finish(exit_code=1)
        raise
    logger.experiment.finish(exit_code=0)


def run_name(run: Settings, overrides: Sequence[str]) -> str:
    """What wandb calls a run: its name, or else its study's variant, or else its overrides.

    Those of the data come last: runs that are compared share them, and lists cut long names short.
    """
    if run.name is not None:
        return run.name
    if run.study.variant is not None:
        return f"{run.study.variant}, seed {run.seed}"
    of_the_data_last = sorted(overrides, key=lambda item: item.startswith(("data=", "data.")))
    return ",".join(of_the_data_last) or "defaults"


def _config(run: Settings) -> dict[str, object]:
    """What a dashboard filters and groups runs by: the options that have an effect in this one."""
    told = flatten(run.plain()) | {"study": run.study.name, "variant": run.study.variant}
    # A run that goes on is to be found beside new ones.
    idle = set(without_effect(run.model_copy(update={"train": True, "ckpt_path": None})))
    of_study = ("study", "variant", "study.name", "study.variant")
    idle |= {name for name in of_study if told.get(name) is None}
    return {name: value for name, value in told.items() if name not in idle}


def _tensorboard(folder: Path) -> TensorBoardLogger:
    try:
        return TensorBoardLogger(folder, name="", version="")
    except ModuleNotFoundError:
        raise UserError("logger=tensorboard needs TensorBoard: pip install tensorboard") from None


def run_id(loggers: Sequence[Logger]) -> str | None:
    """The id of the run in wandb, if it is logged there."""
    return next((str(one.experiment.id) for one in loggers if isinstance(one, WandbLogger)), None)


def log_test(loggers: Sequence[Logger], results: Mapping[str, Any], *, step: int) -> None:
    """Log the test scores beside the figures of the epoch whose weights they are of.

    Without a validated epoch these are the last one's.
    """
    scores = results["scores"].items()
    tested: dict[str, float] = {name: value for name, value in scores if name.startswith("test/")}
    epoch = results["best_epoch"]
    if epoch is None:
        epoch = max(0, results["epochs"] - 1)
    for logger in loggers if tested else ():
        logger.log_metrics(tested | {"epoch": float(epoch)}, step=step)


def summarise(loggers: Sequence[Logger], results: Mapping[str, Any]) -> None:
    """Put what a run ended with into its wandb summary: scores of the best epoch, sizes, seconds.

    Without it a dashboard would compare the last epoch's scores.
    """
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


def publish(
    loggers: Sequence[Logger], run: Settings, *, folder: Path, annotations: "Annotations"
) -> None:
    """Log what `wandb_results` shows of a finished run, and say where; others have the page.

    What wandb does not take is said and left out: the run's own files are written by now.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and run.logger.wandb is not None:
            from mmlabel.wandb_results import log_results, say_where

            if logger.experiment.disabled:
                continue
            try:
                log_results(
                    logger.experiment,
                    run.logger.wandb,
                    run,
                    folder=folder,
                    annotations=annotations,
                )
            except Exception as error:
                log.warning(
                    "wandb has not taken all of the run's tables and artifacts (%s: %s); the run"
                    " itself is whole",
                    type(error).__name__,
                    " ".join(str(error).split()),
                )
            say_where(logger.experiment)


def wandb_logger(
    chosen: Wandb,
    *,
    config: Mapping[str, object],
    folder: Path,
    name: str,
    group: str | None,
    tags: Sequence[str],
    id: str | None = None,
) -> WandbLogger:
    """A logger whose wandb run has begun, and which never asks for a login.

    Args:
        chosen: the options; without a mode the run is offline unless somebody is logged in.
        config: flat and resolved, so that a dashboard can group by it.
        folder: of the run.
        name, group, tags: of the run, beside those chosen.
        id: of the run that this one goes on with.
    """
    if problem := not_utf_8(os.path.abspath(folder)):
        raise UserError(f"wandb cannot write to {folder}, which {problem}, or log by logger=csv")
    import wandb
    from wandb.errors import CommError, UsageError

    mode = _mode(chosen)

    def begin(mode: str) -> WandbLogger:
        logger = WandbLogger(
            project=chosen.project,
            name=name,
            save_dir=folder,
            id=id,
            entity=chosen.entity,
            group=chosen.group or group,
            tags=[*chosen.tags, *tags],
            config=dict(config),
            mode=mode,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, init_timeout=30),
        )
        # Lightning passes a setting on that wandb warns of in every run: it has no effect any more.
        getattr(logger, "_wandb_init", {}).pop("anonymous", None)
        # Lightning's axis of everything is the step; figures of whole epochs have these as theirs.
        scores = [f"{split}/{score}" for split in ("val", "test") for score in SCORES]
        for figure in ("train/loss", "lr", *scores):
            logger.experiment.define_metric(figure, step_metric="epoch")
        return logger

    try:
        return begin(mode)
    except CommError as error:
        log.warning("wandb cannot be reached (%s): this run is logged offline", error)
        return begin("offline")
    except (UsageError, ValueError, TypeError) as error:
        line = " ".join(str(error).split())
        raise UserError(
            f"wandb refuses the run's name, project, group or tags ({line}); see logger.wandb.* and"
            " name, or log without it: logger=csv"
        ) from None


# Of the environment; those of the option and what wandb calls them otherwise, or has beside.
_MODES = ("online", "offline", "disabled", "shared", "run", "dryrun")


def _mode(chosen: Wandb) -> str:
    """How the run is logged: as asked for, else online if somebody is logged in."""
    given = os.environ.get("WANDB_MODE")
    if given is not None and given not in _MODES:  # wandb refuses it whatever the option says
        raise UserError(
            f"WANDB_MODE={given or '(empty)'}: give online, offline or disabled, unset it, or log"
            " without wandb: logger=csv"
        )
    mode = chosen.mode or given
    if mode is None:
        return "online" if _logged_in() else "offline"
    # Of each of these wandb would ask for a login on a terminal.
    if mode in ("online", "run", "shared") and not _logged_in():
        name = "logger.wandb.mode" if chosen.mode else "WANDB_MODE"
        raise UserError(f"{name}={mode}, but nobody is logged in to wandb: wandb login")
    return mode


def _logged_in() -> bool:
    import wandb
    from wandb.errors import Error

    try:
        return wandb.login(prompt=False, verify=False)
    except (Error, ValueError, OSError) as error:  # a key in the environment or .netrc, an address
        line = " ".join(str(error).split())
        raise UserError(
            f"wandb cannot log in ({line}): wandb login, or WANDB_MODE=offline, or logger=csv"
        ) from None
