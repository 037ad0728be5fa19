"""What a search chooses from, and the experiment file of what it has chosen."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmlabel.cache import atomic_write
from mmlabel.cli import parse
from mmlabel.errors import UserError, nearest
from mmlabel.help import CONF, check_clone
from mmlabel.settings import option_names

FOUND = "found"  # none of conf/experiment has this name


class Range(BaseModel):
    """Numbers from `low` to `high`, whole ones if both are; `log`: by their logarithms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ascends(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low has to be below high, and with log above 0")
        return self


Parameters = dict[str, list[int | float | str | bool | None] | Range]


class Space(BaseModel):
    """A file of conf/search: how many trials, and what each option may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(ge=1)
    parameters: Parameters = Field(min_length=1)


def load_space(name: str) -> Space:
    """A space by its name, or of a file. Raises UserError for what is none."""
    check_clone()
    path = Path(os.path.expanduser(name))
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(path.stem for path in (CONF / "search").glob("*.yaml"))
        if name not in known:
            raise UserError(f'--space: there is no "{name}"{nearest(name, known)}; or give a .yaml')
        path = CONF / "search" / f"{name}.yaml"
    try:
        space = Space.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"--space {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--space {path} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[-1]  # of a list or a range it is about the range
        where = ".".join(str(part) for part in first["loc"][:2])
        raise UserError(
            f"--space {path}: {where or 'the file'}: {first['msg']}; {CONF / 'search'} has examples"
        ) from None
    names = option_names()
    for option in space.parameters:
        if option not in names:
            hint = nearest(option, names)
            raise UserError(f'--space {path}: there is no option "{option}"{hint}')
    return space


def as_override(option: str, value: object) -> str:
    """OPTION=VALUE as Hydra reads it.

    >>> as_override("patience", None), as_override("test", True), as_override("seed", 3)
    ('patience=null', 'test=true', 'seed=3')
    """
    text = "null" if value is None else str(value)
    return f"{option}={text.lower() if isinstance(value, bool) else text}"


def write_experiment(
    folder: Path, overrides: Sequence[str], chosen: Mapping[str, Any], comment: str
) -> None:
    """Write experiment/found.yaml, which gives a run what overrides and chosen options would give.

    `python train.py --config-dir FOLDER experiment=found` runs it.
    """
    groups: list[Any] = []
    values = OmegaConf.create({})
    given = {item.key_or_group: item for item in parse(overrides)}  # of two the later one counts
    for key, item in given.items():
        value = item.value()
        if not (CONF / key).is_dir():
            OmegaConf.update(values, key, value)
        elif key == "experiment":
            groups = [*(value if isinstance(value, list) else [value]), *groups]
        else:
            groups.append({f"override /{key}": value})
    for item in parse([as_override(key, value) for key, value in chosen.items()]):
        # YAML takes 1e-3 for text, and the trial had it as Hydra reads it.
        OmegaConf.update(values, item.key_or_group, item.value())
    content = OmegaConf.create({"defaults": [*groups, "_self_"]} if groups else {})
    merged = cast(DictConfig, OmegaConf.merge(content, values))
    path = folder / "experiment" / f"{FOUND}.yaml"
    with atomic_write(path) as temporary:
        lines = ["# @package _global_", *(f"# {line}" for line in comment.splitlines())]
        temporary.write_text("\n".join([*lines, OmegaConf.to_yaml(merged)]), encoding="utf-8")
