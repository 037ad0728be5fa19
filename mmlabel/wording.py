"""Numbers and lists in sentences."""

import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest


def count(number: int, one: str, many: str | None = None) -> str:
    """A number of things, with a word for one of them or for several.

    >>> count(1, "row"), count(2000, "row"), count(0, "class", "classes")
    ('1 row', '2,000 rows', '0 classes')
    >>> count(1, "row has", "rows have")
    '1 row has'
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def listed(items: Sequence[str], most: int = 10, between: str = ", ") -> str:
    """Items with commas, no more than so many of them.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], most=2)
    ('a, b, c', 'a, b and 2 more')
    >>> listed(["a, b", "c"], between="; ")
    'a, b; c'
    """
    more = len(items) - most
    return between.join(items[:most]) + (f" and {more:,} more" if more > 0 else "")


def named(names: Iterable[str]) -> str:
    """Names with commas; one with a comma or a quotation mark of its own is quoted, to be one.

    >>> print(named(["blue", "wine, old"]))
    blue, "wine, old"
    """
    return ", ".join(map(quoted, names))


def quoted(name: str) -> str:
    """A name as it stands in a list: see `named`."""
    return json.dumps(name, ensure_ascii=False) if set(name) & set(',"') else name


def other_labels(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """How the labels of one differ from those of another, in words that follow "it".

    >>> other_labels(["cat", "dog", "cow"], ["cat", "owl"])
    'has dog, cow, and lacks owl'
    >>> other_labels(["cat", "dog"], ["dog", "cat"])
    'has them under other numbers: 0 is cat, not dog'
    """
    more = [quoted(name) for name in theirs if name not in {"", *ours}]
    fewer = [quoted(name) for name in ours if name not in {"", *theirs}]
    if more or fewer:
        parts = (f"has {listed(more)}" if more else "", f"lacks {listed(fewer)}" if fewer else "")
        return ", and ".join(filter(None, parts))
    for number, (name, other) in enumerate(zip_longest(theirs, ours, fillvalue="")):
        if name != other:
            there, here = name or "none", other or "none"
            return f"has them under other numbers: {number} is {there}, not {here}"
    return f"has another number of them: {len(theirs)}, not {len(ours)}"
