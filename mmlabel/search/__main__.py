"""`python -m mmlabel.search OPTION=VALUE…`: look for better settings, on the validation split."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override, OverrideType

from mmlabel.cli import load_settings, parse, refuse_unused, run_cli, unused
from mmlabel.commands import OPTIONS, Parser, check_place, path_of
from mmlabel.data.digests import read_digests
from mmlabel.errors import UserError, together
from mmlabel.no_effect import unused_groups
from mmlabel.options import shown
from mmlabel.processes import started
from mmlabel.run_folder import hold
from mmlabel.score_table import SCORES
from mmlabel.search.space import Space, load_space
from mmlabel.settings import Settings
from mmlabel.study.launch import log_to_terminal
from mmlabel.wording import listed

HELP = """\
Try settings, each in a run of its own, and keep the best; Optuna draws them, by what the trials
before have shown, and ends runs that fall behind. Trials are scored on validation (monitor), and
the test split is not looked at. Options are those of train.py (python train.py --help):

  python -m mmlabel.search                                   the built-in data set
  python -m mmlabel.search data=usyd data.root=DIR --trials 100 --out search/usyd
  python train.py --config-dir search experiment=found        the best one, with its test scores

Everything is kept in --out, trials in a database: the same command goes on after an interruption,
and with more --trials adds some. Needs pip install -e '.[search]'."""

_OWN = {"test": "false", "report": "false"}  # of every trial
_NO_FILES = (
    "a search has no options of Hydra's, and no files of one's own: give the options that are in"
    " them, or leave it out"
)


def main(given: Sequence[str] | None = None) -> None:
    """Read the command line and search."""
    parser = Parser(prog="python -m mmlabel.search", description=HELP)
    add = parser.add_argument
    add("options", nargs="*", metavar=OPTIONS, help="of every trial, as train.py takes them")
    add("--trials", type=int, help="how many in all (default: as the space says)")
    add("--space", default="default", metavar="NAME", help="of conf/search, or a YAML file")
    add("--out", type=path_of, default=Path("search"), metavar="DIR", help="default: search")
    add("--config-dir", help=argparse.SUPPRESS)  # train.py's
    arguments = parser.parse_intermixed_args(given)
    if arguments.config_dir is not None:
        raise UserError(f"--config-dir {arguments.config_dir}: {_NO_FILES}")
    if arguments.trials is not None and arguments.trials < 1:
        raise UserError(f"--trials {arguments.trials}: give how many, 1 or more")
    space = load_space(arguments.space)
    overrides = _checked(arguments.options, space)
    own = [f"{key}={value}" for key, value in _OWN.items()]
    settings = load_settings([*overrides, *own], to_come=space.parameters)
    _check_trial(settings)
    _check_rows(space, settings)
    # Of single options what is chosen beside them decides.
    idle = unused_groups(settings)
    refuse_unused(overrides, idle)
    if not SCORES[settings.monitor.removeprefix("val/")].of_answers:
        why = f"monitor={settings.monitor}, which is the same at every threshold"
        idle |= {"threshold": why, "threshold_metric": why}
    parameters = space.parameters
    for option, why in unused([f"{name}=0" for name in parameters], idle).items():
        name = option.removesuffix("=0")
        print(f"{name} is not chosen: it has no effect with {why}")
        parameters = {key: allowed for key, allowed in parameters.items() if key != name}
    if not parameters:
        raise UserError("--space: nothing is left to choose; give another --space")
    check_place(arguments.out, f"--out {arguments.out}")
    read = read_digests(settings)
    # Torch and Lightning take seconds: a mistake is answered before.
    from mmlabel.search.trials import run_trials

    log_to_terminal()
    with hold(arguments.out):
        run_trials(
            arguments.out,
            parameters,
            trials=arguments.trials or space.trials,
            overrides=overrides,
            own=own,
            monitor=settings.monitor,
            direction="minimize" if settings.monitor_mode == "min" else "maximize",
            seed=settings.seed,
            read=read,
        )


def _checked(options: Sequence[str], space: Space) -> list[str]:
    """The options, which an experiment file can hold and a trial can have."""
    items = zip(options, parse(options), strict=True)
    if said := [problem for text, item in items if (problem := _no_option(text, item, space))]:
        raise UserError(together(said))
    return list(options)


def _no_option(text: str, item: Override, space: Space) -> str | None:
    key = item.key_or_group
    if item.is_sweep_override():
        return f"{text}: a search tries several values of what --space names"
    if key.startswith("hydra"):
        return f"{text}: {_NO_FILES}"
    if key in (*_OWN, "train", "ckpt_path", "name"):
        return f"{text}: a search trains its runs and does not test them; leave it out"
    if key == "debug":
        return (
            f"{text}: the file of the best trial cannot choose it; give its options, or leave it"
            " out"
        )
    if key in space.parameters:
        return f"{text}: the search chooses {key}; leave it out, or give another --space"
    if item.type is OverrideType.DEL:
        return f"{text}: a search takes OPTION=VALUE only"
    return None


def _check_trial(settings: Settings) -> None:
    """Refuse what neither a trial nor the experiment file of the best one can have.

    Also where a file sets it (experiment=NAME).
    """
    why = {
        "repeat": "a search chooses some of the settings, and a record has all of them",
        "resume": "a search goes on by itself, with the next trial",
        "ckpt_path": "a search trains its runs",
    }
    for name, reason in why.items():
        if value := getattr(settings, name):
            raise UserError(f"{name}={shown(value)}: {reason}; leave it out")
    # Further processes would each begin a search of their own.
    alone = "a trial is one process; start several searches, each with an --out of its own"
    devices, nodes = settings.trainer.devices, settings.trainer.num_nodes
    if devices != 1 and not (isinstance(devices, list) and len(devices) == 1):
        raise UserError(f"trainer.devices={shown(devices)}: {alone}, or leave it out (trainer=ddp)")
    if nodes != 1:
        raise UserError(f"trainer.num_nodes={nodes}: {alone}, or leave it out")
    if (this := started()) is not None and this.processes > 1:
        raise UserError(f"{this.by} has started {this.processes} processes: {alone}")


# Of the data's options those that leave rows, their labels and splits as they are.
_HARMLESS = {
    "data.augment", "data.batch_size", "data.caption_column", "data.caption_seed", "data.crop",
    "data.flip", "data.image_size", "data.several_captions", "data.upright", "data.workers",
}  # fmt: skip


def _check_rows(space: Space, settings: Settings) -> None:
    """Refuse a space whose trials would be validated on different rows."""
    of_rows = ["trainer.limit_val_batches", "trainer.overfit_batches"]
    limit = settings.trainer.limit_val_batches
    if limit not in (None, 1.0) or type(limit) is int:
        of_rows.append("data.batch_size")
    chosen = [
        name
        for name in space.parameters
        if name in of_rows or (name.startswith("data.") and name not in _HARMLESS)
    ]
    if chosen:
        beside = f" beside trainer.limit_val_batches={shown(limit)}" * (len(of_rows) > 2)
        raise UserError(
            f"--space: with another {listed(chosen)}{beside} a trial is validated on other rows or"
            " labels, and its score cannot be compared; leave it out of the space"
        )


if __name__ == "__main__":
    run_cli(main)
