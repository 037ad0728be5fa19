"""Tables that were damaged at random: the rows that were meant, or one message; never others.

What a damaged file means is told by two oracles that share no code with the readers. `rfc_4180` is
a CSV parser of its own: what it reads is right for valid CSV. For the rest, damage has a place:
rows that it did not touch must be read as they were written, and rows that it did touch may differ
by as many characters as were changed in them. A row that is gone, or that has become a part of
another, is neither.

MMLABEL_FUZZ=N tries N files a test, other ones each time; `-s` shows what became of them.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from examples import drawing
from hypothesis import given
from hypothesis import strategies as st

from mmlabel.data.annotations import ABSENT, Annotations
from mmlabel.data.sources.csv_table import read_csv
from mmlabel.data.sources.report_csv import read_unlabelled, read_usyd
from mmlabel.errors import UserError

fuzz = drawing(300)

Row = tuple[str, list[str], str]  # image id, labels, caption

NUMBERS = [str(number) for number in range(1, 20) if number != 12]
NAMES = ["cat", "dog", "traffic light", "men's shoes", "truck (large)"]
WORDS = [
    "a",
    "Man",
    " riding ",
    "horse",
    " on the street",
    ".",
    " ",
    "\n",
    ",",
    ", ",
    "'",
    ";",
    "\t",
]
MARKS = ['"', '"for rent"', '"stop," he said', ' "', '" ']
FOREIGN = ["café", "日本語", "😀", "\u200b", "\u2028", "\x85"]
ID_LIKE = ["3.jpg", "\n3.jpg,", '\n3.jpg,1,"x', "7,1 3,", '"\n7.jpg', "4.png", '8.jpg,"']
DAMAGE = [*'",\n\r\t ;.x13', ".jpg", "é", "\x00", "\ufeff"]

# What is found in captions; raw files have no id-like text, as only doubled marks could tell it
# from rows.


def raw_caption(pieces: list[str]) -> str:
    """No marks side by side, which could be one that was doubled, nor a lone one in front."""
    caption = re.sub('"+', '"', "".join(pieces))
    return caption[1:] if caption[:1] == '"' and caption.count('"') % 2 else caption


MARKED = st.lists(st.sampled_from(WORDS + FOREIGN + MARKS), max_size=8).map(raw_caption)
ANYTHING = st.lists(st.sampled_from(WORDS + FOREIGN + MARKS + ID_LIKE), max_size=8).map("".join)
# In raw files this would be the beginning of a row, or the end of one.
ROW = re.compile(r'\n.*,"|"\n')
# An edit: where (a share of the text), what, and the text that is inserted.
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["drop", "double", "insert"]),
        st.sampled_from(DAMAGE),
    ),
    max_size=3,
)
QUOTING = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])


def rows_of(captions: st.SearchStrategy[str], labels: list[str], ids: str) -> st.SearchStrategy:
    """Two to six rows; `ids` is a format of a number."""
    row = st.tuples(st.lists(st.sampled_from(labels), max_size=3, unique=True), captions)
    numbers = st.lists(st.integers(0, 40_000), min_size=6, max_size=6, unique=True)
    return st.builds(
        lambda numbers, rows: [
            (ids.format(number), *row) for number, row in zip(numbers, rows, strict=False)
        ],
        numbers,
        st.lists(row, min_size=2, max_size=6),
    )


# ---- Oracles --------------------------------------------------------------------------------


def rfc_4180(text: str) -> list[list[str]] | None:
    """The cells of a CSV; None if it is not valid. A mark inside a bare cell is text."""
    rows: list[list[str]] = [[]]
    position, end = 0, len(text)
    while position < end:
        cell, quoted = "", text[position] == '"'
        if quoted:
            position += 1
            while True:
                if position >= end:
                    return None
                if text[position] != '"':
                    cell += text[position]
                    position += 1
                elif text[position + 1 : position + 2] == '"':
                    cell += '"'
                    position += 2
                else:
                    position += 1
                    break
        else:
            while position < end and text[position] not in ",\r\n":
                cell += text[position]
                position += 1
            if cell.endswith('"'):
                return None
        if rows[-1] or cell or quoted or text[position : position + 1] == ",":  # no empty line
            rows[-1].append(cell)
        if position >= end:
            break
        if text[position] == ",":
            position += 1
            if position >= end or text[position] in "\r\n":
                rows[-1].append("")
        if position < end and text[position] in "\r\n":
            position += 2 if text[position : position + 2] == "\r\n" else 1
            rows.append([])
        elif position < end and text[position - 1] != ",":
            return None
    rows = [row for row in rows if row]
    return rows if rows and all(len(row) == len(rows[0]) for row in rows) else None


def distance(a: str, b: str) -> int:
    """The characters that must be dropped or inserted to make `b` of `a`."""
    costs = list(range(len(b) + 1))
    for row, x in enumerate(a, start=1):
        before, costs[0] = costs[0], row
        for column, y in enumerate(b, start=1):
            best = before if x == y else 1 + min(costs[column], costs[column - 1])
            before, costs[column] = costs[column], best
    return costs[-1]


class Damaged:
    """A text whose pieces belong to rows, after edits: what it says, and where it was changed.

    Attributes:
        text: after the edits.
        changes: for each row, how many characters were dropped or inserted in it or beside it;
            row -1 is the header.
    """

    def __init__(self, pieces: list[tuple[int, str]], edits: list) -> None:
        characters = [(row, character) for row, piece in pieces for character in piece]
        self.changes: Counter[int] = Counter()
        for share, kind, inserted in edits:
            place = int(share * len(characters))
            if not characters:
                break
            if kind == "drop":
                dropped = characters.pop(place)
                self._touch(characters, place, dropped[0], len(dropped[1]))
            else:
                new = characters[place][1] if kind == "double" else inserted
                row = characters[place][0]
                characters[place:place] = [(row, character) for character in new]
                self._touch(characters, place, row, len(new))
        self.text = "".join(character for _, character in characters)

    def _touch(self, characters: list, place: int, row: int, count: int) -> None:
        beside = {other for other, _ in characters[max(0, place - 1) : place + count + 1]}
        for touched in beside | {row}:
            self.changes[touched] += count

    def explains(self, rows: list[Row], answer: list[Row]) -> bool:
        """Whether these may be the rows after the edits."""
        if len(rows) != len(answer):
            return False
        for number, (original, read) in enumerate(zip(rows, answer, strict=True)):
            changes = self.changes[number]
            if original != read and (
                distance(original[0], read[0]) > changes
                # A mark may have become one of two that stand for one, or the closing one, behind
                # which spaces are none of the caption's.
                or min(
                    distance(written, said)
                    for written in (original[2], original[2].rstrip())
                    for said in (read[2], read[2].rstrip())
                )
                > 2 * changes
                # One digit can be a label of two, or make a label equal to another.
                or distance("".join(original[1]), "".join(read[1])) > 3 * changes
            ):
                return False
        return True


def judge(
    tally: Counter[str],
    read: Callable[[], list[Row]],
    *,
    meant: Callable[[list[Row]], bool],
    undamaged: bool,
    text: str,
) -> None:
    """Count what became of a file; fail if neither the rows that were meant nor a message did."""
    try:
        answer = read()
    except UserError as error:
        assert not undamaged, f"{error}\n{text!r}"
        tally["message"] += 1
        return
    assert meant(answer), f"{answer}\n{text!r}"
    tally["right, undamaged" if undamaged else "right"] += 1


# ---- The report's form ----------------------------------------------------------------------


def as_rows(annotations: Annotations) -> list[Row]:
    """The labels of each row in the file's order."""
    names = annotations.label_names
    numbered = [str(number) for number in range(len(names))] if names[:1] == [""] else names
    order = annotations.label_order
    labels = [
        []
        if order is None
        else [numbered[n] for n in np.argsort(row, kind="stable")[: int((row != ABSENT).sum())]]
        for row in (annotations.targets if order is None else order)
    ]
    return list(zip(annotations.ids, labels, annotations.captions, strict=True))


def read_report(folder: Path, text: str, *, labelled: bool) -> list[Row]:
    (folder / "train.csv").write_bytes(text.encode())
    if labelled:
        return as_rows(read_usyd(folder, require_pictures=False))
    return as_rows(read_unlabelled(folder / "train.csv", pictures=folder))


def with_ends(text: str, end: str) -> tuple[str, str]:
    """The text with other line ends, and what it is the same as."""
    written = text.replace("\n", end)
    same = written.replace("\r\n", "\n")
    return written, same if "\n" in same else same.replace("\r", "\n")


def table_says(text: str, answer: list[Row], *, labelled: bool) -> bool:
    """Whether this is what valid CSV says; a label list's repeated labels count once."""
    table = rfc_4180(text.removeprefix("\ufeff"))
    if table is None:
        return False
    header, *lines = table
    if [name.strip() for name in header] != ["ImageID", *["Labels"] * labelled, "Caption"]:
        return False
    said = [
        (
            line[0].strip(),
            list(dict.fromkeys(str(int(label)) for label in line[1].split())) if labelled else [],
            line[-1],
        )
        for line in lines
    ]
    return said == answer


def without_labels(rows: list[Row], labelled: bool) -> list[Row]:
    return [(image_id, labels if labelled else [], caption) for image_id, labels, caption in rows]


def check_raw_file(
    folder: Path, tally: Counter[str], rows: list[Row], edits: list, end: str, labelled: bool
) -> None:
    """Captions between marks, nothing doubled."""
    rows = without_labels(rows, labelled)
    pieces = [(-1, "ImageID,Labels,Caption\n" if labelled else "ImageID,Caption\n")]
    for number, (image_id, labels, caption) in enumerate(rows):
        middle = f"{' '.join(labels)}," if labelled else ""
        pieces.append((number, f'{image_id},{middle}"{caption}"\n'))
    damaged = Damaged(pieces, edits)
    written, same = with_ends(damaged.text, end)
    judge(
        tally,
        lambda: read_report(folder, written, labelled=labelled),
        # Two edits may take marks of two captions, which makes valid CSV of one.
        meant=lambda answer: (
            damaged.explains(rows, answer)
            or (len(edits) > 1 and table_says(same, answer, labelled=labelled))
        ),
        undamaged=False,  # a raw file may be refused for what its captions hold
        text=written,
    )


def check_saved_file(
    folder: Path,
    tally: Counter[str],
    rows: list[Row],
    edits: list,
    end: str,
    labelled: bool,
    quoting: int,
) -> None:
    """What a CSV library writes."""
    rows = without_labels(rows, labelled)
    if edits:  # of which one can make a row of what looks like one
        rows = [(image_id, labels, ROW.sub(" ", caption)) for image_id, labels, caption in rows]
    pieces = [(-1, "ImageID,Labels,Caption\n" if labelled else "ImageID,Caption\n")]
    for number, (image_id, labels, caption) in enumerate(rows):
        cells = [image_id, *[" ".join(labels)] * labelled, caption]
        pieces.append((number, csv_line(cells, quoting)))
    damaged = Damaged(pieces, edits)
    written, same = with_ends(damaged.text, end)

    def meant(answer: list[Row]) -> bool:
        if rfc_4180(same.removeprefix("\ufeff")) is None:
            return damaged.explains(rows, answer)
        return table_says(same, answer, labelled=labelled)

    judge(
        tally,
        lambda: read_report(folder, written, labelled=labelled),
        meant=meant,
        undamaged=not edits and not any(ROW.search(caption) for *_, caption in rows),
        text=written,
    )


def test_raw_files(tmp_path: Path) -> None:
    tally: Counter[str] = Counter()

    @fuzz
    @given(st.tuples(rows_of(MARKED, NUMBERS, "{}.jpg"), EDITS, ENDS, st.booleans()))
    def check(file) -> None:
        check_raw_file(tmp_path, tally, *file)

    check()
    print(dict(tally))
    assert tally["right"] > 0.3 * tally.total()


def test_saved_files(tmp_path: Path) -> None:
    tally: Counter[str] = Counter()

    @fuzz
    @given(st.tuples(rows_of(ANYTHING, NUMBERS, "{}.jpg"), EDITS, ENDS, st.booleans(), QUOTING))
    def check(file) -> None:
        check_saved_file(tmp_path, tally, *file)

    check()
    print(dict(tally))
    # A third of what is drawn can be read; of 300, with one Hypothesis or another, 18 to 51 %.
    assert tally["right"] + tally["right, undamaged"] > 0.15 * tally.total()


# ---- Any CSV --------------------------------------------------------------------------------


def csv_line(cells: list[str], quoting: int) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=quoting, lineterminator="\n").writerow(cells)
    return out.getvalue()


def check_any_csv(
    folder: Path,
    tally: Counter[str],
    rows: list[Row],
    edits: list,
    end: str,
    columns: list[str],
    quoting: int,
    named: bool,
    swapped: tuple[int, list[int]] | None,
) -> None:
    """Any column order; `swapped` is a row and the order of its cells, if they are swapped."""
    pieces = [(-1, ",".join(columns) + "\n")]
    for number, (image_id, labels, caption) in enumerate(rows):
        fields = [image_id, "|".join(labels), caption]
        if swapped and swapped[0] == number:
            fields = [fields[place] for place in swapped[1]]
        cells = dict(zip(["picture", "labels", "caption"], fields, strict=True))
        pieces.append((number, csv_line([cells.get(name, "x y") for name in columns], quoting)))
    written = Damaged(pieces, edits).text.replace("\n", end)

    def read() -> list[Row]:
        (folder / "set.csv").write_bytes(written.encode())
        annotations = read_csv(
            folder / "set.csv",
            picture_column="picture",
            label_column="labels",
            caption_column="caption",
            separator="|",
            delimiter=",",
            encoding="utf-8",
            label_names=NAMES if named else None,
            require_pictures=False,
        )
        return as_rows(annotations)

    judge(
        tally,
        read,
        meant=lambda answer: any_table_says(written, answer, named=named),
        undamaged=not edits and not swapped and any(labels for _, labels, _ in rows),
        text=written,
    )


def any_table_says(text: str, answer: list[Row], *, named: bool) -> bool:
    table = rfc_4180(text.removeprefix("\ufeff"))
    if table is None:
        return False
    header = [name.strip() for name in table[0]]
    picture, labels, caption = map(header.index, ["picture", "labels", "caption"])
    names = {str(n): name for n, name in enumerate(NAMES)}
    said = []
    for line in table[1:]:
        given = [label.strip() for label in line[labels].split("|") if label.strip()]
        if named:
            given = [names.get(label.lstrip("0") or "0", label) for label in given]
        said.append((line[picture].strip(), list(dict.fromkeys(given)), line[caption]))
    if all(label.isdecimal() for _, given, _ in said for label in given):
        said = [(image_id, [str(int(n)) for n in given], text) for image_id, given, text in said]
    return said == answer


def test_any_csv(tmp_path: Path) -> None:
    tally: Counter[str] = Counter()

    @fuzz
    @given(
        st.tuples(
            rows_of(ANYTHING, NAMES, "some folder/{}.png"),
            EDITS,
            ENDS,
            st.permutations(["picture", "labels", "caption", "more"]),
            QUOTING,
            st.booleans(),
            st.one_of(st.none(), st.tuples(st.integers(0, 5), st.permutations(range(3)))),
        )
    )
    def check(file) -> None:
        check_any_csv(tmp_path, tally, *file)

    check()
    print(dict(tally))
    assert tally["right"] + tally["right, undamaged"] > 0.3 * tally.total()
