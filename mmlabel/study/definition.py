"""A study's file: its variants, what it asks and what was published for it."""

import os
import re
from collections.abc import Iterable
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from yaml import YAMLError

from mmlabel.errors import UserError, nearest, no_yaml
from mmlabel.evidence import METRICS
from mmlabel.help import CONF
from mmlabel.options import shown
from mmlabel.settings import override_key
from mmlabel.study.columns import COLUMNS

CHECKED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
F1 = Annotated[float, Field(ge=0, le=1)]

# What sweep.py decides for each run of a study.
OWN_OPTIONS = ("seed", "study", "train", "test", "ckpt_path")


@dataclass(frozen=True, config=CHECKED)
class Variant:
    """One line of a study's table.

    Attributes:
        name: the key in the study's file.
        label: for people.
        overrides: what makes it differ, as train.py takes it.
        published: the figure published for it, in the study's metric.
        published_columns: published figures for the study's extra columns, and for seconds.
    """

    name: str
    label: str
    overrides: list[str]
    published: F1 | None = None
    published_columns: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, config=CHECKED)
class Study:
    """A study's file.

    Attributes:
        name: of the file.
        title, question: for people.
        baseline: the variant with which the others are compared.
        variants: in the order of the table.
        metric: "test/" and one of `evidence.METRICS`.
        published_label: heads the column of published figures.
        published_on: the data source (data=NAME) that they are of; they are shown beside no other.
            None: beside any.
        seeds: how many, unless the command says otherwise.
        fixed: overrides that every variant gets; the command line can replace them.
        columns: further columns of the table, keys of `COLUMNS`.
        notes: what a reader of the results must know.
    """

    name: str
    title: str
    question: str
    baseline: str
    variants: Annotated[list[Variant], Field(min_length=1)]
    metric: str = "test/f1_micro"
    published_label: str = "Published"
    published_on: str | None = None
    seeds: Annotated[int, Field(ge=1)] = 3
    fixed: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, config=CHECKED)
class Collection:
    """A file that names other studies, to be run one after the other."""

    name: str
    title: str
    question: str
    studies: Annotated[list[Study], Field(min_length=1)]


def study_names(folder: Path = CONF / "study") -> list[str]:
    """The studies that have a file."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_study(name: str, folder: Path = CONF / "study") -> Study | Collection:
    """Read a study's file: a name of `folder`, or the file itself (NAME.yaml).

    Raises UserError if there is none, or for a key that is unknown, missing or of a wrong type.
    """
    path, content = _read(name, folder)
    if "studies" not in content:
        return _study(path, content)
    parts = content["studies"]
    if isinstance(parts, list):
        files = [_read(str(part), folder) for part in parts]
        for part, (_, inner) in zip(parts, files, strict=True):
            if "studies" in inner:
                raise UserError(f"{path}: studies: {part} is itself a list of studies")
        parts = [_study(*file) for file in files]
    return _build(Collection, str(path), content, name=path.stem, studies=parts)


def _read(name: str, folder: Path) -> tuple[Path, dict]:
    """A study's file and what is in it."""
    path = Path(os.path.expanduser(name))
    if path.suffix not in (".yaml", ".yml"):
        if name not in (known := study_names(folder)):
            raise UserError(f'there is no study "{name}"{nearest(name, known)}; or give a .yaml')
        path = folder / f"{name}.yaml"
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        raise UserError(f"study={path} cannot be read: {error.strerror}") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise no_yaml(path, error) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold title, question, baseline and variants")
    return path, {str(key): value for key, value in content.items()}


def _study(path: Path, content: dict) -> Study:
    where = str(path)
    variants = content.get("variants", {})
    if not isinstance(variants, dict):
        raise UserError(f"{where}: variants: must hold NAME: {{label: …, overrides: […]}}")
    for name in [*variants, content.get("baseline", "")]:
        if name is None or isinstance(name, bool):
            raise UserError(
                f"{where}: a variant's name is read as {shown(name)}: quote it, as YAML takes no,"
                " off, yes, on and null for values"
            )
    parts = [_variant(where, str(key), value) for key, value in variants.items()]
    if "baseline" in content:
        content = content | {"baseline": str(content["baseline"])}  # YAML reads 2 as a number
    study = _build(Study, where, content, name=path.stem, variants=parts)
    names = [variant.name for variant in study.variants]
    for name in [study.name, *names]:
        # It becomes part of overrides and of folders' names.
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f'{where}: "{name}": a name is of letters, digits, _, - and . only')
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where}: there are two variants {twice[0]}")
    _check_overrides(f"{where}: fixed", study.fixed)
    _check_names(f"{where}: columns", study.columns, COLUMNS)
    _check_names(f"{where}: metric", [study.metric], [f"test/{metric}" for metric in METRICS])
    _check_names(f"{where}: baseline", [study.baseline], names)
    return study


def _variant(where: str, name: str, content: object) -> Variant:
    where = f"{where}: variant {name}"
    if not isinstance(content, dict):
        raise UserError(f"{where}: must hold label and overrides")
    variant = _build(Variant, where, content, name=name)
    _check_overrides(f"{where}: overrides", variant.overrides)
    _check_names(f"{where}: published_columns", variant.published_columns, [*COLUMNS, "seconds"])
    return variant


Kind = TypeVar("Kind", Variant, Study, Collection)


def _build(kind: type[Kind], where: str, content: dict[str, Any], **made: Any) -> Kind:
    """An instance of `kind` from its part of a file and from what is `made` of it.

    Raises UserError that says what of the content does not fit.
    """
    _check_names(where, content, [item.name for item in fields(kind) if item.name != "name"])
    try:
        return kind(**content | made)
    except ValidationError as error:
        problem = error.errors()[0]
    key, value = ".".join(map(str, problem["loc"])), problem["input"]
    limits = problem.get("ctx", {})
    if problem["type"].startswith("missing"):
        raise UserError(f"{where}: {key} is missing")
    if "ge" in limits:
        raise UserError(f"{where}: {key}: must be {limits['ge']:g} or more, not {value}")
    if "le" in limits:
        raise UserError(f"{where}: {key}: must be {limits['le']:g} or less, not {value}")
    if "min_length" in limits:
        raise UserError(f"{where}: {key}: is empty")
    wanted = problem["msg"].removeprefix("Input should be ")
    raise UserError(f"{where}: {key}: {value!r} is of the wrong type, give {wanted}")


def _check_names(where: str, names: Iterable[object], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f'{where}: unknown "{name}"{nearest(str(name), known)}')


def _check_overrides(where: str, overrides: Iterable[str]) -> None:
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{where}: {override!r} is no override (OPTION=VALUE)")
        if override_key(override).split(".")[0] in OWN_OPTIONS:
            raise UserError(f"{where}: {override}: a study sets this itself")
