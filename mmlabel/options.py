"""What options are made of: typed groups, their declarations as text, and messages for bad values.

`settings.py` declares the options with the class `Group`. Everything said about them, in `--help`
and in the answer to a mistake, is read off these declarations.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mmlabel.errors import UserError, nearest, together


class Group(BaseModel):
    """One group of options, such as `lstm`. Unknown names and values of a wrong type are errors."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def _as_text(value: object) -> object:
    """Hydra reads a name such as 2 or 0.5 as a number. 1000.0 may have been 1e3: it is refused."""
    number = isinstance(value, int) or (isinstance(value, float) and not value.is_integer())
    return str(value) if number and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_as_text)]
Share = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
AtLeast0 = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
Index = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class Option:
    """One declared option.

    Attributes:
        name: as a user types it ("lstm.layers").
        kind: the kind of its group that it belongs to ("glove"); None where there is only one.
        chosen_by: the choices of conf that give this kind: the same, but of detectors "a|b|c".
        allowed: the values that it takes, in words.
        default: its value when nothing is given; None where `required`.
        required: whether it has no default.
        sentence: what it does.
        choice: whether it is what tells the kinds of its group apart, which the group's name sets.
    """

    name: str
    kind: str | None
    chosen_by: str | None
    allowed: str
    default: object
    required: bool
    sentence: str
    choice: bool
    field: FieldInfo


@cache
def declared(
    group: type[Group], prefix: str = "", kind: type[Group] | None = None
) -> tuple[Option, ...]:
    """Every option of a group and of the groups in it, in the order of declaration."""
    options: list[Option] = []
    for name, field in group.model_fields.items():
        parts = _groups_in(field.annotation)
        for part in parts:
            options += declared(part, f"{prefix}{name}.", part if len(parts) > 1 else kind)
        if not parts:
            option = Option(
                name=f"{prefix}{name}",
                kind=kind_of(kind) if kind else None,
                chosen_by=choices_of(kind) if kind else None,
                allowed=allowed(field),
                default=None if field.is_required() else field.get_default(),
                required=field.is_required(),
                sentence=" ".join((field.description or "").split()),
                choice=name == discriminator(group),
                field=field,
            )
            options.append(option)
    return tuple(options)


def kind_of(group: type[Group]) -> str | None:
    """The name that chooses this kind of its group ("glove"); None if it has no such name."""
    name = discriminator(group)
    return (
        None if name is None else "|".join(map(str, get_args(group.model_fields[name].annotation)))
    )


def choices_of(group: type[Group]) -> str | None:
    """The choices of conf that give this kind ("glove", "a|b"): detectors have several of each."""
    name = group.model_fields.get("name")
    if discriminator(group) == "kind" and name is not None:
        if get_origin(name.annotation) is Literal:
            return "|".join(map(str, get_args(name.annotation)))
    return kind_of(group)


def discriminator(group: type[Group]) -> str | None:
    """The field that tells the kinds of a group apart."""
    for name in ("kind", "name"):
        field = group.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is Literal and field.is_required():
            return name
    return None


def _groups_in(annotation: Any) -> list[type[Group]]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [group for part in get_args(annotation) for group in _groups_in(part)]
    if get_origin(annotation) is not None and hasattr(annotation, "__metadata__"):
        return _groups_in(get_args(annotation)[0])
    # To Python 3.10 list[int] is a type, too, though no class.
    is_class = isinstance(annotation, type) and get_origin(annotation) is None
    return [annotation] if is_class and issubclass(annotation, Group) else []


# ---- In words -------------------------------------------------------------------------------

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def allowed(field: FieldInfo) -> str:
    """The values that a field takes: "a whole number, at least 1, or null"."""
    texts, choices, nullable = [], [], False
    for part, metadata in members(field.annotation, tuple(field.metadata)):
        bounds = _bounds(metadata, is_list=get_origin(part) is list)
        if part is type(None):
            nullable = True
        elif get_origin(part) is Literal:
            choices += [str(choice) for choice in get_args(part)]
        elif get_origin(part) is list:
            item, item_metadata = next(members(get_args(part)[0], ()))
            if get_origin(item) is Literal:
                texts.append(f"a list of any of {', '.join(map(str, get_args(item)))}")
                continue
            of = _bounds(item_metadata, is_list=False)
            each = f", each {of}" if of else ""
            texts.append(f"a list of {f'{bounds} ' if bounds else ''}{_plural(item)}{each}")
        elif part in _TYPES:
            texts.append(f"{_TYPES[part]}, {bounds}" if bounds else _TYPES[part])
    if choices:
        texts.append(choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}")
    text = "; or ".join(dict.fromkeys(texts))
    return f"{text}, or null" if nullable else text


def members(annotation: Any, metadata: tuple[object, ...]) -> Iterator[tuple[Any, tuple]]:
    """The types that a value may have, each with what restricts it."""
    if get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from members(part, metadata)
    elif hasattr(annotation, "__metadata__"):
        yield from members(get_args(annotation)[0], (*metadata, *annotation.__metadata__))
    else:
        yield annotation, metadata


def _plural(kind: Any) -> str:
    words = _TYPES.get(kind, "value").removeprefix("a ")
    return words if words == "text" else f"{words}s"


def _bounds(metadata: tuple[object, ...], *, is_list: bool) -> str:
    words = []
    # Pydantic's Field holds several.
    parts = [part for item in metadata for part in getattr(item, "metadata", [item])]
    exact = any(isinstance(part, annotated_types.MaxLen) for part in parts)
    for part in parts:
        if isinstance(part, annotated_types.Ge):
            words.append(f"at least {part.ge}")
        elif isinstance(part, annotated_types.Gt):
            words.append(f"more than {part.gt}")
        elif isinstance(part, annotated_types.Le):
            words.append(f"at most {part.le}")
        elif isinstance(part, annotated_types.Lt):
            words.append(f"less than {part.lt}")
        elif isinstance(part, annotated_types.MinLen):
            least = f"{'' if exact else 'at least '}{part.min_length}"
            words.append(least if is_list else "not empty")
    return " and ".join(words)


def shown(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(shown(item) for item in value)}]"
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def is_same(value: object, other: object) -> bool:
    """Whether two plain values say the same: trainer.limit_train_batches=1 is one batch, 1.0 all.

    >>> is_same({"limit": 1}, {"limit": 1}), is_same({"limit": 1}, {"limit": 1.0})
    (True, False)
    """
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        same_names = value.keys() == other.keys()
        return same_names and all(is_same(value[name], other[name]) for name in value)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(is_same, value, other))
    return type(value) is type(other) and value == other


# ---- Messages -------------------------------------------------------------------------------


def message(error: ValidationError, group: type[Group]) -> str:
    """One message for all that is wrong, naming each option as a user would type it."""
    messages: dict[str, str] = {}
    for problem in error.errors():
        # A value that fits none of a union's types is listed once for each of them.
        messages.setdefault(_place(problem["loc"], group)[0], _message(problem, group))
    return together(messages.values())


def _message(problem: ErrorDetails, group: type[Group]) -> str:
    if problem["type"] == "user":
        return problem["msg"]
    name, field, owner = _place(problem["loc"], group)
    if problem["type"] == "extra_forbidden":
        return unknown(name, group, owner)
    if problem["type"] == "missing" and field is not None:
        said = " ".join((field.description or "").split())
        return f"{name} must be given: {name}=VALUE ({allowed(field)}). {said}"
    value = problem["input"]
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = problem.get("ctx", {}).get("expected_tags", "").replace("'", "").split(", ")
        tag = str(problem.get("ctx", {}).get("tag", ""))
        return f'there is no {name}="{tag}"{nearest(tag, kinds)}'
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return no_group(name, value)
    if field is None:
        return f"{name}: {problem['msg']}"
    hint = ""
    if isinstance(value, str):
        parts = [part for part, _ in members(field.annotation, ())]
        items = [item for part in parts if get_origin(part) is list for item in get_args(part)]
        parts += items
        choices = [
            str(choice)
            for part in parts
            if get_origin(part) is Literal
            for choice in get_args(part)
        ]
        close = nearest(value, choices) if choices else ""
        hint = close if "did you mean" in close else ""
        of_lists = [get_args(item) for item in items if get_origin(item) is Literal]
        if not isinstance(problem["loc"][-1], int) and any(value in found for found in of_lists):
            hint = f'; did you mean "{name}=[{value}]"?'
        if re.fullmatch(r"[-+]?\.?\d[\d.e+-]*|true|false", value, re.IGNORECASE):
            hint = "; it is a text here, as what is quoted and what ${oc.env:NAME} gives is"
    in_list = isinstance(problem["loc"][-1], int)
    given = f"{name}, {shown(value)}" if in_list else f"{name}={shown(value)}"
    # Hydra reads null, true and 1e3 as no texts.
    if problem["type"] == "string_type" and (value is None or isinstance(value, bool | float)):
        text = '"1e3"' if isinstance(value, float) else f'"{shown(value)}"'
        also = " (in a file also yes, no, on and off)" if isinstance(value, bool) else ""
        quoted = f"'{name}={f'[{text}]' if in_list else text}'"
        hint = f"; where it is a text{also}, it is quoted within, as it is written: {quoted}"
    return f"{given}: give {allowed(field)}{hint}"


def _place(
    loc: tuple[int | str, ...], group: type[Group]
) -> tuple[str, FieldInfo | None, type[Group]]:
    """The option's name, its declaration (if any) and its group, for pydantic's path to it."""
    parts: list[str] = []
    candidates = [group]
    field = None
    for item in loc:
        chosen = [c for c in candidates if kind_of(c) and item in str(kind_of(c)).split("|")]
        if len(candidates) > 1 and chosen:
            # Of a group with kinds, pydantic's path names the kind before the option.
            candidates = chosen
            continue
        owner = next((c for c in candidates if item in c.model_fields), None)
        if owner is None:
            parts.append(str(item))
            return ".".join(parts), None, candidates[0]
        parts.append(str(item))
        field = owner.model_fields[str(item)]
        candidates = _groups_in(field.annotation)
        if not candidates:
            return ".".join(parts), field, owner
    return ".".join(parts), field, candidates[0] if candidates else group


def no_group(name: str, value: object) -> str:
    """What to say of a group of options that is set to a value, as in a file of one's own."""
    how = f"give {name}.OPTION=VALUE"
    if "." not in name:
        how = f"choose {name}=NAME, which is `- override /{name}: NAME` in a file's defaults"
    return f"{name}={shown(value)}: this is a group of options, {how}"


def unknown(name: str, group: type[Group], owner: type[Group] | None = None) -> str:
    """What to say of an option that does not exist; `owner`: the kind of group it was given to."""
    options = declared(group)
    if kinds := [o.chosen_by for o in options if o.name == name and o.chosen_by]:
        prefix = name.split(".")[0]
        others = ", ".join(kinds).replace("|", ", ")
        own = choices_of(owner) if owner else None
        chosen = f"this {prefix}" if own is None or "|" in own else f"{prefix}={own}"
        return (
            f"{name} does not exist with {chosen} (only with {prefix}={others}): give one of these,"
            " too, or leave it out"
        )
    names = [option.name for option in options if not option.choice]
    return f'there is no option "{name}"{nearest_option(name, [*names, *group.model_fields])}'


def nearest_option(name: str, names: Sequence[str]) -> str:
    """What to append to "there is no NAME": the option that is meant, or those of its group."""
    prefix, _, leaf = name.rpartition(".")
    leaves = {option: option.rsplit(".", 1)[-1] for option in names}
    same = [option for option in names if leaves[option] == leaf]
    group = [option for option in names if option.startswith(f"{prefix}.") and prefix]
    # "epochs" for trainer.max_epochs: the most, rather than the least, is meant.
    places = group if prefix else names
    part = [option for option in places if leaf in leaves[option].split("_")]
    part.sort(key=lambda option: ("max" not in leaves[option], len(option)))
    # Without the group's own name, which makes any two of its options alike.
    inner = {option.removeprefix(f"{prefix}."): option for option in group}
    close = [inner[near] for near in difflib.get_close_matches(leaf, inner, n=1, cutoff=0.7)]
    if not group:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    for found in [*difflib.get_close_matches(name, same, n=1, cutoff=0.0), *part, *close]:
        return f'; did you mean "{found}"?'
    if group:
        return f"; there are {', '.join(dict.fromkeys(group))}"
    return "; python train.py --help lists all"


def validate(group: type[Group], values: Mapping[str, object], *, fitting: bool = True) -> Any:
    """An instance of `group` with these plain values.

    Raises UserError with one message for what is wrong; without `fitting` for values that are
    wrong by themselves alone, and returns None where they do not go with each other.
    """
    try:
        return group.model_validate(values)
    except UserError:
        if fitting:
            raise
    except ValidationError as error:
        raise UserError(message(error, group)) from None
