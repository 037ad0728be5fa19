"""Labels as files have them: lists in a cell or a column each, of names or of numbers."""

import ast
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mmlabel.data.annotations import ABSENT, NULL_WORDS, Annotations
from mmlabel.errors import UserError, nearest
from mmlabel.wording import count, listed, quoted

JSON = "json"  # a separator that is none: each cell is a list of its own

_INTEGER = re.compile(r"[+-]?\d+")
_FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+)(e[+-]?\d+)?|[+-]?\d+e[+-]?\d+", re.IGNORECASE)
_SEPARATORS = {",": "a comma", ";": "a semicolon", "|": "an upright", "\t": "a tab"}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_PYTHON_TEXT = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
# More than this, told by the largest number in a file alone, is the wrong column.
_MOST_LABELS = 100_000


def split_labels(cell: object, separator: str) -> list[str]:
    """The labels of a cell: text with a separator (" ": any white space), or a list.

    With the separator "json" the text is a JSON list, or one as Python writes it.

    Raises:
        ValueError: it is none; the message says why.
    """
    if cell is None:
        return []
    if isinstance(cell, list):
        return [_label(item) for item in cell]
    text = _label(cell)
    if separator == JSON:
        return _json_list(text)
    if separator == " ":
        return text.split()
    return [label for label in map(str.strip, text.split(separator)) if label]


def _json_list(text: str) -> list[str]:
    if not text.strip():
        return []
    try:
        cell = json.loads(text)
    except (ValueError, RecursionError):
        try:
            cell = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            cell = None
        # Python would make one text of two, and numpy writes arrays without commas.
        if re.search(r'"\s*"', _PYTHON_TEXT.sub('"', text)):
            raise ValueError(f"has no comma between labels, as a list does: {text[:60]}") from None
    if not isinstance(cell, list):
        raise ValueError(f'is no list like ["cat", "dog"]: {text[:60]}')
    return [_label(item) for item in cell]


def _label(item: object) -> str:
    if isinstance(item, str):
        return item.strip()
    if isinstance(item, int) and not isinstance(item, bool):
        return str(item)
    raise ValueError(f"has a label that is neither a name nor a number: {json.dumps(item)[:60]}")


def names_in(
    path: Path, lists: Sequence[Sequence[str]], *, num_labels: int | None, separator: str
) -> list[str]:
    """The name of each label number, told by the labels that a file has.

    Labels that are all numbers give max + 1 of them (or `num_labels`); others are sorted.

    Raises:
        UserError: no labels; labels that are no plausible names, and what would help.
    """
    if num_labels is not None:
        return [str(number) for number in range(num_labels)]
    labels = set().union(*lists)
    if not labels:
        raise UserError(f"{path} has no labels: label_names or num_labels must say which there are")
    _check_not_mixed(path, lists, separator)
    # One number among the labels makes the others mistakes: names are not mixed with numbers.
    if not any(_INTEGER.fullmatch(label) for label in labels):
        check_names(path, lists, separator)
        return sorted(labels)
    numbers = {number for number in map(_number, labels) if number is not None}
    if max(numbers, default=0) >= _MOST_LABELS:
        raise UserError(
            f"{path}: label {max(numbers)} would make {max(numbers) + 1} labels; check the label "
            "column, or give num_labels"
        )
    return [str(n) if n in numbers else "" for n in range(max(numbers, default=-1) + 1)]


def _check_not_mixed(path: Path, lists: Sequence[Sequence[str]], separator: str) -> None:
    """Refuse a number among names; a name among numbers is refused as having no number."""
    times = Counter(label for row_labels in lists for label in row_labels)
    numbers = [label for label in times if _INTEGER.fullmatch(label)]
    names = [
        label for label in times if label not in numbers and not _implausible(label, separator)
    ]
    if not numbers or sum(times[n] for n in numbers) >= sum(times[n] for n in names):
        return
    row, number = next(
        (row, label)
        for row, row_labels in enumerate(lists, start=1)
        for label in row_labels
        if label in numbers
    )
    raise UserError(
        f'{path}: row {row}: "{number[:60]}" is a number among names of labels such as'
        f' "{times.most_common(1)[0][0][:60]}": correct that cell, or, if it is a name, give all'
        " names in data.label_names"
    )


def _number(label: str) -> int | None:
    # Longer ones are no label numbers, and int() refuses the longest.
    return int(label) if label.isdecimal() and len(label) < 20 else None


def check_names(path: Path, lists: Sequence[Sequence[str]], separator: str) -> None:
    """Raises UserError for labels that are no plausible names, or too many of them."""
    labels = set().union(*lists)
    parts = separator != " " and any(len(row_labels) > 1 for row_labels in lists)
    for row, row_labels in enumerate(lists, start=1):
        for label in row_labels:
            if reason := _implausible(label, separator, labels if parts else None):
                raise UserError(
                    f'{path}: row {row}: "{label[:60]}" {reason}; if this is the name of a label, '
                    "give all names in data.label_names"
                )
    if len(labels) > max(1000, len(lists)):
        raise UserError(
            f"{path} has {count(len(labels), 'label')} in {count(len(lists), 'row')}: check"
            f" data.label_column and data.separator ({listed(sorted(labels))})"
        )


def _implausible(label: str, separator: str, labels: Set[str] | None = None) -> str | None:
    """Why a name that was found in a file is none, and the option that would help.

    Where the given separator does part `labels`, another sign may belong to a name ("table,
    wooden" in a list with semicolons), unless what it parts are labels themselves.
    """
    if label.lower() in NULL_WORDS or not label.strip():
        return "is written for no label; leave the cell empty"
    if _FRACTION.fullmatch(label):
        return "is a fraction; label numbers are whole, so save that column as text"
    if not label.replace("\t", " ").isprintable():
        return "has a character that cannot be printed; check data.encoding"
    if separator == JSON:
        return None
    quoted = '"' in label or label[0] in "'`" or label[-1] in "'`"
    if quoted or label[0] in "[{" or label[-1] in "]}":
        return "is part of a list; cells like [1, 2] are read with data.separator=json"
    if _unbalanced(label) or label[0] == "(":
        return "has a bracket that belongs to more than it; check data.separator"
    for other, name in _SEPARATORS.items():
        if other in label and other != separator:
            within = [part.strip() for part in label.split(other)]
            if labels is not None and all(within) and labels.isdisjoint(within):
                continue
            option = _separated_by(other)
            return f'has {name} in it; separate labels there with "{option}"'
    return None


def _separated_by(sign: str) -> str:
    return "data.separator=" + ("tab" if sign == "\t" else f"'{sign}'")


def _unbalanced(text: str) -> bool:
    """Whether a bracket is open at the end, or closed that was not open."""
    open_ones: list[str] = []
    for character in text:
        if character in _BRACKETS:
            open_ones.append(_BRACKETS[character])
        elif character in _BRACKETS.values() and (not open_ones or open_ones.pop() != character):
            return True
    return bool(open_ones)


def numbers_of_names(names: Sequence[str]) -> dict[str, int]:
    """The number of each label as a file may write it: its name, or its number.

    Where one of the names is itself a number, only names are meant.
    """
    of_name = {name: number for number, name in enumerate(names) if name}
    if any(_INTEGER.fullmatch(name) for name in of_name):
        return of_name
    return {str(number): number for number in of_name.values()} | of_name


def label_order_of(
    path: Path,
    ids: Sequence[str],
    lists: Sequence[Sequence[str]],
    *,
    num_labels: int,
    numbers: Mapping[str, int],
    allowed: str,
    separable: bool = False,
) -> np.ndarray:
    """`Annotations.label_order` of lists of labels.

    Args:
        path: the file, for messages.
        ids: of the rows.
        lists: the labels of each row.
        num_labels: the number of columns.
        numbers: the number of each label.
        allowed: which labels there are, for messages.
        separable: whether data.separator says what stands between labels.

    Raises:
        UserError: a label that has no number.
    """
    order = np.full((len(ids), num_labels), ABSENT, dtype=np.int8)
    for row, labels in enumerate(lists):
        # From the last, so that a label that is listed twice stands where it is named first.
        for position, label in reversed(list(enumerate(labels))):
            number = numbers.get(label)
            if number is None and (value := _number(label)) is not None:
                number = numbers.get(str(value))  # "08"
            if number is None:
                wrong = _wrong_label(label, numbers, allowed, separable)
                raise UserError(f"{path}: row {row + 1} ({ids[row]}): {wrong}")
            order[row, number] = min(position, ABSENT - 1)
    return order


def _wrong_label(label: str, numbers: Mapping[str, int], allowed: str, separable: bool) -> str:
    for sign, word in _SEPARATORS.items() if separable else ():
        parts = [part for part in map(str.strip, label.split(sign)) if part]
        if sign in label and parts and all(part in numbers or part.isdecimal() for part in parts):
            option = _separated_by(sign)
            return f'"{label[:60]}" has {word} between labels: give "{option}"'
    names = [name for name in numbers if not name.isdigit()]
    if _INTEGER.fullmatch(label):
        return f"label {label[:60]} is out of range: {allowed}"
    if names:
        return f'label "{label[:60]}" is not among the label names{nearest(label, names)}'
    return f'label "{label[:60]}" is not a number: {allowed}'


# ---- A column for each label ----------------------------------------------------------------

_TRUE, _FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
_UNCERTAIN = {"-1", "-1.0", ""} | NULL_WORDS


class OneHot(NamedTuple):
    """Targets (N, num_labels) uint8, which of them are known (bool, None: all), and notes."""

    targets: np.ndarray
    known: np.ndarray | None
    notes: list[str]


def one_hot(
    path: Path,
    ids: Sequence[str],
    names: Sequence[str],
    columns: Sequence[Sequence[object]],
    *,
    uncertain: Literal["mask", 0, 1],
) -> OneHot:
    """Labels that have a column each, with 1 or 0 in every row.

    Args:
        path: the file, for messages.
        ids: of the rows.
        names: of the columns.
        columns: their cells.
        uncertain: what -1 and an empty cell mean: not known ("mask"), 0 or 1.

    Raises:
        UserError: a cell that is neither; no column with a 1; with "mask", no column with a 0.
    """
    values = np.zeros((len(ids), len(names)), dtype=np.int8)
    for number, (name, cells) in enumerate(zip(names, columns, strict=True)):
        for row, cell in enumerate(cells):
            value = _one_hot_value(cell)
            if value is None:
                raise UserError(
                    f"{path}: row {row + 1} ({ids[row]}): column {name} has {str(cell)[:60]!r}, "
                    "not 1, 0, true, false, yes, no, -1 or nothing; label lists are read with"
                    " data.label_column"
                )
            values[row, number] = value
    unsure = values == -1
    notes = []
    if number := int(unsure.sum()):
        meaning = (
            "they are left out of loss and scores"
            if uncertain == "mask"
            else (f"they are taken as {uncertain}")
        )
        notes.append(
            f"{path}: {number:,} of {values.size:,} labels are -1 or empty: {meaning} "
            "(data.uncertain)"
        )
    targets = (values == 1).astype(np.uint8)
    if uncertain == 1:
        targets[unsure] = 1
    if not targets.any() and (number < values.size or uncertain == 0):
        columns_are = count(len(names), "column", "columns")
        raise UserError(
            f"{path}: no row has a 1 in the {columns_are} of data.label_columns: {listed(names)}"
        )
    if number and uncertain == "mask":
        notes += _never_absent(path, names, values)
    return OneHot(targets, ~unsure if number and uncertain == "mask" else None, notes)


def _never_absent(path: Path, names: Sequence[str], values: np.ndarray) -> list[str]:
    """What is to be said of labels that some rows have, and no row is known not to have.

    Whoever answers them always is right. Raises UserError where all labels are like that.
    """
    some, never = (values == 1).any(axis=0), (values == 0).any(axis=0)
    if some.any() and not never.any():
        raise UserError(
            f"{path}: data.label_columns hold 1, and otherwise only -1 or nothing, which mean that"
            " a label is not known: of no row is it known that it lacks one; if they mean 0, give"
            " data.uncertain=0"
        )
    found = [name for name, a, b in zip(names, some, never, strict=True) if a and not b]
    shown = listed([quoted(name) for name in found])
    lack = "of no row is it known that it lacks"
    return [f"{path}: {lack} {shown}: scores of such a label say nothing"] if found else []


def _one_hot_value(cell: object) -> int | None:
    """1, 0, -1 (not known) or None (none of these)."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return -1
    text = str(cell).strip().lower()
    if text in _TRUE:
        return 1
    if text in _FALSE:
        return 0
    return -1 if text in _UNCERTAIN else None


# ---- For the user to look at ----------------------------------------------------------------


def label_summary(annotations: Annotations) -> list[str]:
    """Lines that show which labels a data set has, so that a wrong column is seen before training.

    How many there are, the ten commonest with their counts, how many occur once or never, rows
    without a label, names that differ only in capitals, and labels that every row has. A picture
    counts once, however many captions it has.
    """
    rows = count(len(annotations), "row")
    if len(first := list(annotations.first_rows.values())) < len(annotations):
        annotations, rows = annotations.take(first), f"{len(first):,} pictures, {rows}"
    targets, names = annotations.targets, annotations.label_names
    counts = {name: int(targets[:, n].sum()) for n, name in enumerate(names) if name}
    commonest = sorted(counts, key=lambda name: (-counts[name], name))[:10]
    shown = ", ".join(f"{quoted(name)} {counts[name]:,}" for name in commonest)
    lines = [f"{count(len(counts), 'label')} in {rows}; the commonest: {shown}"]
    lines += labels_that_occur_once(annotations)
    if never := sum(times == 0 for times in counts.values()):
        lines.append(count(never, "of the labels never occurs", "of the labels never occur"))
    without, said = ~targets.any(axis=1), ("row has no label", "rows have no label")
    if annotations.known is not None:
        # One of which nothing at all is known is no sample.
        without = without & annotations.known.any(axis=1)
        said = "row has none of its known labels", "rows have none of their known labels"
    if empty := int(without.sum()):
        lines.append(
            f"{count(empty, *said)}, and F1 per sample counts such a row as 0, whatever is answered"
        )
    return [*lines, *labels_that_look_alike(annotations), *labels_of_every_row(annotations)]


def labels_that_look_alike(annotations: Annotations) -> list[str]:
    """A line that names them; [] if there are none."""

    def key(name: str) -> str:
        plain = re.sub("[\u200b-\u200f\ufe00-\ufe0f]", "", name)  # joiners, variants of signs
        return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", plain)).casefold()

    names = sorted(filter(None, annotations.label_names))
    times = Counter(map(key, names))
    if not (alike := [quoted(name) for name in names if times[key(name)] > 1]):
        return []
    return [
        "labels that differ only in capitals, spaces, signs that are not seen or how a letter is"
        f" encoded: {listed(alike)}"
    ]


def labels_of_every_row(annotations: Annotations) -> list[str]:
    """A line that names them; [] if there are none.

    Of labels that are not known everywhere `one_hot` says the same.
    """
    everywhere = annotations.targets.all(axis=0) if annotations.known is None else []
    names = [quoted(annotations.label_names[n]) for n in np.flatnonzero(everywhere)]
    return [f"every row has {listed(names)}: scores of such a label say nothing"] if names else []


def labels_that_occur_once(annotations: Annotations) -> list[str]:
    """A line that names them with their rows, and labels spelt like them; [] if there are none."""
    targets, names = annotations.targets, annotations.label_names
    times = targets.sum(axis=0, dtype=np.int64)
    once = [number for number in np.flatnonzero(times == 1) if names[number]]
    if not once:
        return []
    others = [name for name, n in zip(names, times, strict=True) if name and n > 1]
    told = []
    for number in once[:10]:
        name, row = names[number], int(targets[:, number].argmax())
        # Numbers are all alike.
        near = [] if name.isdecimal() else get_close_matches(name, others, n=1, cutoff=0.75)
        like = f", spelt like {quoted(near[0])}" if near else ""
        told.append(f"{quoted(name)} (in {annotations.ids[row]}{like})")
    more = f" and {len(once) - 10:,} more" if len(once) > 10 else ""
    words = count(len(once), "of the labels occurs once", "of the labels occur once")
    return [f"{words}: {', '.join(told)}{more}"]


def labels_without_rows(annotations: Annotations, rows: Mapping[str, np.ndarray]) -> list[str]:
    """A line for each split that has no row with some label that others have."""
    names, occurs = annotations.label_names, annotations.targets.any(axis=0)
    lines = []
    for split, own in rows.items():
        if not len(own):  # data.splits=test
            continue
        absent = occurs & ~annotations.targets[own].any(axis=0)
        if lacking := [quoted(names[n]) for n in np.flatnonzero(absent) if names[n]]:
            what = "they are not learned" if split == "train" else "its f1_macro and map lack them"
            lines.append(f"labels without a row in the {split} split ({what}): {listed(lacking)}")
    return lines
