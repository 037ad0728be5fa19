"""`--help`: every option with what it does, what it may be and its default, group by group."""

from pathlib import Path
from textwrap import fill

from mmlabel.errors import UserError
from mmlabel.options import Option, declared, shown
from mmlabel.settings import Settings

CONF = Path(__file__).resolve().parent.parent / "conf"
WIDTH = 100


def check_clone() -> None:
    """Raise UserError where the package is installed without its clone, which has the options."""
    if not CONF.is_dir():
        raise UserError(
            f"there is no folder {CONF}: mmlabel is installed without its clone, whose folder conf"
            " has the options; in the clone, pip install -e . installs it with that"
        )


USAGE = """\
Train, select on validation, test once.

  python train.py                                      the built-in data set, with all defaults
  python train.py backbone=vgg16 optimizer=adadelta    a choice for a group: GROUP=NAME
  python train.py lstm.hidden=256 data.batch_size=64   one option: GROUP.OPTION=VALUE
  python train.py -m lstm.layers=1,2,4,8               several runs, one a value (or several)
  python train.py experiment=report_resnet50           a file of conf/experiment
  python train.py ckpt_path=FOLDER/last.ckpt           go on with a run that was interrupted
  python train.py train=false ckpt_path=FOLDER/best.ckpt   evaluate a checkpoint
  python train.py repeat=FOLDER                        run a finished run again from its record
  python train.py -m hydra/launcher=slurm resume=true seed=0,1   jobs of a cluster
  python sweep.py study=NAME                           a whole table, with evidence
  python -m mmlabel.search                             look for better settings

Files of one's own: --config-dir DIR, here and of sweep.py, holds experiment/NAME.yaml and the like
(no NAME of conf's own); mmlabel.data and mmlabel.features fill are given 'hydra.searchpath=[DIR]',
and a search has none.
--cfg job prints the configuration instead of running; --hydra-help tells what Hydra can do.
"""


def help_text() -> str:
    """All of it."""
    by_group: dict[str, list[Option]] = {}
    for option in declared(Settings):
        head, _, rest = option.name.partition(".")
        by_group.setdefault(head if rest else "", []).append(option)
    parts = [USAGE, "Options of a run\n" + "".join(map(_line, by_group[""]))]
    parts += [_group(group, options) for group, options in by_group.items() if group]
    parts += [_files("experiment"), _files("debug")]
    return "\n".join(parts)


def choices(group: str) -> list[str]:
    """What a group of conf/ can be set to."""
    return sorted(
        path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_")
    )


def _group(group: str, options: list[Option]) -> str:
    names = choices(group)
    # Those of conf/study are sweep.py's.
    head = f"{group}={'|'.join(names)}" if len(names) > 1 and group != "study" else group
    lines = [fill(head, WIDTH, subsequent_indent="    ", break_on_hyphens=False) + "\n"]
    kinds = dict.fromkeys(option.chosen_by for option in options)
    said = set()
    for option in options:
        if option.choice or (same := _same(option)) in said:
            continue
        having = [other.chosen_by for other in options if _same(other) == same]
        said.add(same)
        everywhere = set(having) == set(kinds)
        lines.append(_line(option, None if everywhere else having))
    return "".join(lines)


def _same(option: Option) -> tuple[object, ...]:
    return (option.name, option.allowed, shown(option.default), option.sentence)


def _line(option: Option, kinds: list[str | None] | None = None) -> str:
    default = "must be given" if option.required else f"default {shown(option.default)}"
    only = ""
    if kinds:
        group = option.name.split(".")[0]
        only = f"With {group}={', '.join(str(kind).replace('|', ', ') for kind in kinds)}: "
    text = f"{only}{option.sentence} [{option.allowed}; {default}]"
    indent = " " * 30
    body = fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    if len(option.name) <= 26:
        return f"  {option.name:<28}{body[30:]}\n"
    return f"  {option.name}\n{body}\n"


def _files(group: str) -> str:
    lines = [f"{group}=NAME, files of conf/{group}\n"]
    for name in choices(group):
        text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        said = [line[2:] for line in text if line.startswith("# ") and "@package" not in line]
        lines.append(f"  {name:<28}{said[0].rstrip(':.') if said else ''}\n")
    return "".join(lines)
