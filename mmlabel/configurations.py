"""Which configurations finished runs are of, and by which options they are told apart."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlabel.options import shown
from mmlabel.settings import Settings, flatten
from mmlabel.study.plan import MISSING, is_recording
from mmlabel.wording import listed

BEFORE = "trained before"  # on which rows, by the run of the evaluated checkpoint: no option
# Not of a configuration: "data.root" is where the same data lie, which a fingerprint tells, and
# where an evaluated checkpoint lies says nothing of what it is.
_APART = ("seed", "data.root", "ckpt_path")
_KINDS = (".name", ".kind")
_MOST = 3  # options in a name


def deciding(settings: Settings) -> dict[str, Any]:
    """All options that decide a result, but the seed and where an evaluated checkpoint lies."""
    return {
        name: value
        for name, value in flatten(settings.plain()).items()
        if name not in _APART and not is_recording(name)
    }


def names_of(
    configurations: Sequence[Mapping[str, Any]],
    *,
    chosen: set[str],
    checkpoints: Sequence[Sequence[Path]] = (),
) -> tuple[list[str], list[str]]:
    """A name for each: the options in which they differ, without what follows from a choice.

    `chosen` are the options that any of them has set to something else than the default,
    `checkpoints` those that each one's runs evaluate. Of more than a few options a name has as few
    as tell all apart; the others are returned beside.
    """
    if len(configurations) == 1:
        return ["all runs"], []
    everywhere = set.intersection(*(set(one) for one in configurations))
    every = sorted(set().union(*configurations) - {BEFORE})
    differ = [
        name for name in every if len({repr(one.get(name, MISSING)) for one in configurations}) > 1
    ]
    # An option that only some have comes with the choice of its group, or of the model.
    telling = [name for name in differ if name in everywhere and name in chosen]
    best: tuple[list[str], list[str]] = [""] * len(configurations), []
    for options, whole in ((telling, False), (telling, True), (differ, True)):
        few = options if len(options) <= _MOST else _fewest(configurations, options)
        if few:
            names = [_name(one, few, whole_paths=whole) for one in configurations]
            found = names, [name for name in options if name not in few]
            best = max(best, found, key=lambda one: len(set(one[0])))
    names, others = best
    if len(set(names)) < len(names):
        names = _by_checkpoint(names, checkpoints or [()] * len(names))
    return names, others


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


def _by_checkpoint(names: Sequence[str], checkpoints: Sequence[Sequence[Path]]) -> list[str]:
    """Names that do not tell configurations apart, with as much of the places of their
    checkpoints as does."""
    longest = max((len(place.parts) for places in checkpoints for place in places), default=0)
    for length in range(1, longest + 1):
        told = []
        for name, places in zip(names, checkpoints, strict=True):
            tails = dict.fromkeys("/".join(place.parts[-length:]) for place in places)
            which = listed(list(tails), most=1) if names.count(name) > 1 else ""
            told.append(", ".join(filter(None, (name, which))))
        if len(set(told)) == len(told) and all(told):
            return told
    return [f"configuration {number}" for number in range(1, len(names) + 1)]
