"""Files that may set any option, such as those of conf/experiment: what they set, and for what.

An option that a file sets for one kind of a group (`optimizer.lr` for AdamW) may mean something
else, or nothing, with another kind that the command line chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from mmlabel.errors import UserError
from mmlabel.options import Option, declared, shown
from mmlabel.settings import CHOSEN_BY_GROUP, Settings, flatten, is_among, kinds_of
from mmlabel.wording import listed

_PRIMARY = "train"  # the configuration that all others change


@dataclass
class Content:
    """What a configuration file sets, those that it inherits from included.

    Attributes:
        values: the options, as they are written.
        choices: the file that it chooses of a group ("optimizer": "adamw").
        meant: of each option, what is chosen of its group where it is set; None: nothing.
    """

    values: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    meant: dict[str, str | None] = field(default_factory=dict)


def repository(searchpath: Iterable[str]) -> CachingConfigRepository | None:
    """All configuration files that there are: Hydra's own search path and what is given besides.

    None outside Hydra: what was composed elsewhere is taken as it is.
    """
    if not GlobalHydra.instance().is_initialized():
        return None
    path = deepcopy(GlobalHydra.instance().config_loader().get_search_path())
    for place in searchpath:
        path.append("hydra.searchpath", place)
    return CachingConfigRepository(ConfigRepository(path))


def read_content(path: str, files: CachingConfigRepository) -> Content:
    """What the file at a path within the search path ("experiment/best") sets."""
    content = Content()
    found = files.load_config(path)
    if found is None:
        return content
    for entry in found.defaults_list or ():
        if isinstance(entry, ConfigDefault) and entry.path and not entry.is_self():
            folder = "" if entry.path.startswith("/") else f"{path.rpartition('/')[0]}/"
            inner = read_content(f"{folder}{entry.path}".lstrip("/"), files)
            content.values |= inner.values
            content.choices |= inner.choices
            content.meant |= inner.meant
    for entry in found.defaults_list or ():
        if isinstance(entry, GroupDefault) and isinstance(entry.value, str):
            content.choices[str(entry.group).lstrip("/")] = entry.value
    own: Any = OmegaConf.to_container(found.config, resolve=False)
    if not isinstance(own, dict):
        raise UserError(f"{path}.yaml is a list: a file of options is made of lines of NAME: VALUE")
    _check_keys(path, own)
    for name, value in flatten(own).items():
        content.values[name] = value
        content.meant[name] = content.choices.get(name.split(".")[0])
    return content


def _check_keys(path: str, values: Mapping[Any, Any]) -> None:
    """Refuse names of a file that Hydra takes for others than they are meant."""
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{path}.yaml: {shown(key)}: the name of an option is a text")
        group, dot, option = key.partition(".")
        if dot:
            option, equals, given = option.partition("=")
            raise UserError(
                f"{path}.yaml: {key}: in a file options stand below their group: `{group}:`, and in"
                f" the next line, two spaces in, `{option}: {given if equals else shown(value)}`"
            )
        if isinstance(value, Mapping):
            _check_keys(path, value)


def check_hidden(files: CachingConfigRepository | None) -> None:
    """Refuse files of one's own that are never read, as the project has others of their names."""
    sources = [] if files is None else files.get_sources()
    refuse_hidden(Path(one.path) for one in sources if one.scheme() == "file")


def refuse_hidden(places: Iterable[Path]) -> None:
    """Refuse files of these folders, the project's own first, that it has of the same names."""
    own, *others = dict.fromkeys(places) or [Path()]  # of several that have a file the first counts
    if not others:
        return
    hidden = [
        str(place / name)
        for name in sorted(file.relative_to(own) for file in own.rglob("*.yaml"))
        for place in others
        if (place / name).is_file() and (place / name).read_bytes() != (own / name).read_bytes()
    ]
    if hidden:
        raise UserError(
            f"{listed(hidden)}: never read, as files of {own} have these names: give others"
        )


def chosen_files(
    given: Sequence[Override], files: CachingConfigRepository | None
) -> Iterator[tuple[str, Content]]:
    """The files of a command line that may set any option: as it names them, and what they set."""
    if files is None:
        return
    for item in given:
        group = item.key_or_group.split("@")[0]
        if "." in group or "/" in group or group in Settings.model_fields or item.is_delete():
            continue
        chosen = item.value()
        for file in chosen if isinstance(chosen, list) else [chosen]:
            if isinstance(file, str):
                yield f"{group}={file}", read_content(f"{group}/{file}", files)


def set_by(contents: Sequence[Content]) -> list[str]:
    """The options that files set, and the groups of which they choose."""
    names: dict[str, None] = {}
    for content in contents:
        names |= dict.fromkeys(content.values)
        groups = [group for group in content.choices if group in Settings.model_fields]
        names |= dict.fromkeys(groups)
        kinds = [name for name in CHOSEN_BY_GROUP if name.split(".")[0] in groups]
        names |= dict.fromkeys(sorted(kinds))
    return list(names)


def leave_out_of_other_kinds(
    values: dict[str, Any],
    given: Sequence[Override],
    files: CachingConfigRepository | None,
    *,
    to_come: Iterable[str] = (),
) -> list[str]:
    """Take out of a composed configuration what files set for another kind, and this one has not.

    A file may set options for the kind of a group that it chooses, or that is the default, and the
    command line choose another kind.

    Args:
        values: plain and nested; changed.
        given: the command line.
        files: see `repository`.
        to_come: options that are yet to be given on top.

    Returns:
        What is left out, in words.

    Raises:
        UserError: an option that a file sets, and the command line does not, has another default
            with the kind that is chosen now: its value was not meant for this one.
    """
    own = [name for name in (*(item.key_or_group for item in given), *to_come) if "." in name]
    origin = {name: each for each in chosen_files(given, files) for name in each[1].values}
    flat = flatten(values)
    gone: dict[tuple[str, str], list[str]] = {}
    unmeant: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, (file, content) in origin.items():
        assert files is not None
        group, choice = name.split(".")[0], content.meant[name]
        if name not in flat or is_among(name, own) or name in CHOSEN_BY_GROUP:
            continue
        if choice is None and group == "data":
            continue  # which data a file is used on is not for the file to say
        then = _kind_in_file(
            group, choice or read_content(_PRIMARY, files).choices.get(group), files
        )
        now = _kind(values.get(group), group)
        if not then or not now or then == now or _declared(name, then) is None:
            continue
        if _declared(name, now) is None:
            gone.setdefault((file, f"{group}={now[-1]}"), []).append(name)
            _drop(values, name)
        elif _is_for_one_kind(name, flat[name], then, now):
            key = (file, f"{group}={then[-1]}", f"{group}={now[-1]}")
            unmeant.setdefault(key, {})[name] = _default(name, now)
    for (file, then_chosen, now_chosen), own_values in unmeant.items():
        instead = " ".join(f"{name}={value}" for name, value in own_values.items())
        raise UserError(
            f"{file} sets {_listed(own_values, flat)} for {then_chosen}, and {now_chosen} is"
            f" chosen: give {instead}, or another value, too, or {then_chosen}"
        )
    return [
        f"{_listed(names, flat)} of {file}: not there with {now_chosen}, and left out"
        for (file, now_chosen), names in gone.items()
    ]


def _listed(names: Iterable[str], flat: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={shown(flat[name])}" for name in names)


def _kind_in_file(
    group: str, choice: str | None, files: CachingConfigRepository
) -> tuple[str, ...]:
    """`_kind` of a group's file; empty where it cannot be told."""
    return _kind(read_content(f"{group}/{choice}", files).values, group) if choice else ()


def _kind(values: object, group: str) -> tuple[str, ...]:
    """What tells the kinds of a group apart; empty if it has none, or nothing is chosen."""
    if not isinstance(values, Mapping):
        return ()
    found = [values.get(name) for name in kinds_of(group)]
    return () if None in found else tuple(map(str, found))


@cache
def _declared(name: str, kind: tuple[str, ...]) -> Option | None:
    """An option as this kind of its group has it."""
    for option in declared(Settings):
        if option.name == name and (option.kind is None or kind[0] in option.kind.split("|")):
            return option
    return None


def _default(name: str, kind: tuple[str, ...]) -> str:
    option = _declared(name, kind)
    return "VALUE" if option is None or option.required else shown(option.default)


def _is_for_one_kind(name: str, value: object, *kinds: tuple[str, ...]) -> bool:
    """Whether an option's value for one kind says nothing for another."""
    if name.endswith(".weights"):
        return value not in ("pretrained", "none")  # a file
    defaults = [
        (option.required, option.default) for kind in kinds if (option := _declared(name, kind))
    ]
    return defaults[0] != defaults[1]


def _drop(values: dict[str, Any], name: str) -> None:
    """Take an option out of nested values, and groups that are empty then."""
    head, _, rest = name.partition(".")
    if rest:
        _drop(values[head], rest)
    if not rest or not values[head]:
        del values[head]
