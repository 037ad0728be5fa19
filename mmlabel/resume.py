"""Going on from a checkpoint: its settings against the command line's."""

from pathlib import Path

from pytorch_lightning.loggers import Logger

from mmlabel.classifier import read_checkpoint
from mmlabel.cli import flatten
from mmlabel.errors import UserError
from mmlabel.models.build import uses_detector
from mmlabel.run_folder import read_history

# What makes the network and what it reads, which a checkpoint's weights fit and no other.
NETWORK = ("model", "decoder", "backbone", "lstm", "captions", "embedding")


def continued(settings: dict, overrides: list[str]) -> dict:
    """Settings of a run that resumes `settings["ckpt_path"]`: they must describe its network.

    Raises UserError if they do not, or there is no such checkpoint.
    """
    saved = read_checkpoint(Path(settings["ckpt_path"]))["mmlabel"]["settings"]
    for group in _network_groups(saved):
        _check_same(group, settings[group], saved[group])
    schedule = settings["scheduler"]["name"]
    epochs, planned = (plan["trainer"]["max_epochs"] for plan in (settings, saved))
    if schedule in ("one_cycle", "cosine") and epochs != planned:
        raise UserError(
            f"trainer.max_epochs={epochs}, but scheduler={schedule} was laid out for"
            f" trainer.max_epochs={planned}: resume with the same, or add scheduler=none"
        )
    return settings


def evaluated(settings: dict, overrides: list[str]) -> dict:
    """Settings to evaluate `settings["ckpt_path"]` with: its own, but for data and machinery.

    Raises UserError if the command line asks for another network than the checkpoint's.
    """
    checkpoint = read_checkpoint(Path(settings["ckpt_path"]))["mmlabel"]
    saved = checkpoint["settings"]
    given = {override.lstrip("+~").split("=")[0].split(".")[0] for override in overrides}
    for group in given.intersection(_network_groups(saved)):
        _check_same(group, settings[group], saved[group])
    own = {group: saved[group] for group in (*_network_groups(saved), "loss", "optimizer", "seed")}
    # Pictures have to be as large as those it was trained on.
    own["data"] = settings["data"] | {"image_size": saved["data"]["image_size"]}
    if "threshold" not in given:
        own["threshold"] = checkpoint["threshold"]
    return settings | own


def replay_history(checkpoint: Path, loggers: list[Logger]) -> None:
    """Log the epochs before `checkpoint` again, so that a resumed run's history is whole.

    They are read from metrics.csv beside it; without that file the history begins with the resume.
    """
    epochs = read_checkpoint(checkpoint)["epoch"]
    for line in read_history(checkpoint.parent):
        if line["epoch"] <= epochs:
            for logger in loggers:
                logger.log_metrics(line, step=int(line["step"]))


def _network_groups(saved: dict) -> tuple[str, ...]:
    return (*NETWORK, "detector") if uses_detector(saved) else NETWORK


def _check_same(group: str, settings: dict, saved: dict) -> None:
    here, there = flatten(settings, f"{group}."), flatten(saved, f"{group}.")
    for name in here | there:
        if here.get(name) != there.get(name):
            raise UserError(
                f"{name}={here.get(name)}, but the checkpoint was trained with"
                f" {name}={there.get(name)}: leave the option out, or give the same"
            )
