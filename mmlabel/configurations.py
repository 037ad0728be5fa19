"""Which configurations finished runs are of, and by which options they are told apart."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlabel.options import shown
from mmlabel.settings import Settings, flatten
from mmlabel.study.plan import MISSING, is_recording

CHECKPOINT = "ckpt_path"  # where the evaluated one lies says nothing of what it is
# Not of a configuration: "data.root" is where the same data lie, which a fingerprint tells.
_APART = ("seed", "data.root")
_KINDS = (".name", ".kind")
_MOST = 3  # options in a name


def deciding(settings: Settings) -> dict[str, Any]:
    """All options that decide a result, but the seed."""
    return {
        name: value
        for name, value in flatten(settings.plain()).items()
        if name not in _APART and not is_recording(name)
    }


def names_of(
    configurations: Sequence[Mapping[str, Any]], *, chosen: set[str]
) -> tuple[list[str], list[str]]:
    """A name for each: the options in which they differ, without what follows from a choice.

    `chosen` are the options that any of them has set to something else than the default. Of more
    than a few options a name has as few as tell all apart; the others are returned beside.
    """
    everywhere = set.intersection(*(set(one) for one in configurations))
    every = sorted(set().union(*configurations) - {CHECKPOINT})
    differ = [
        name for name in every if len({repr(one.get(name, MISSING)) for one in configurations}) > 1
    ]
    # An option that only some have comes with the choice of its group, or of the model.
    telling = [name for name in differ if name in everywhere and name in chosen]
    for options, whole in ((telling, False), (telling, True), (differ, True)):
        few = options if len(options) <= _MOST else _fewest(configurations, options)
        names = [_name(one, few, whole_paths=whole) for one in configurations]
        if len(set(names)) == len(names):
            return names, [name for name in options if name not in few]
    return _by_checkpoint(configurations), []


def _fewest(configurations: Sequence[Mapping[str, Any]], options: Sequence[str]) -> list[str]:
    """Options that tell configurations apart as well as all of them do; choices of groups first."""
    few: list[str] = []
    apart = 1
    while options:

        def told(option: str) -> int:
            seen = [*few, option]
            return len({repr([one.get(n, MISSING) for n in seen]) for one in configurations})

        best = max(options, key=lambda option: (told(option), option.endswith(_KINDS)))
        if told(best) == apart:
            break
        few.append(best)
        apart = told(best)
    return [option for option in options if option in few]


def _name(options: Mapping[str, Any], names: Iterable[str], *, whole_paths: bool) -> str:
    parts = []
    for name in names:
        if name in options:
            value = options[name]
            if isinstance(value, str) and not whole_paths and Path(value).is_absolute():
                value = Path(value).name
            parts.append(f"{name.removesuffix('.name').removesuffix('.kind')}={shown(value)}")
    return ", ".join(parts) or "all runs"


def _by_checkpoint(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs that evaluate different checkpoints, by as much of their places as tells them apart."""
    places = [Path(one.get(CHECKPOINT) or "") for one in configurations]
    for length in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"configuration {number}" for number in range(1, len(configurations) + 1)]
