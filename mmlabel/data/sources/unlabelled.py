"""Rows to be labelled: from a table, JSON lines, a folder or one picture, one row at a time."""

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmlabel.data.annotations import drawn_first
from mmlabel.data.sources.delimited import (
    NotDelimited,
    column_number,
    delimited_rows,
    find_delimiter,
    header_of,
    missing_columns,
)
from mmlabel.data.sources.json_lines import (
    JSON_LINES,
    as_text,
    keys_of,
    objects_in,
    refuse_json,
)
from mmlabel.data.sources.report_csv import check_rows, read_unlabelled
from mmlabel.data.sources.text import read_text, refuse_packed
from mmlabel.errors import UserError
from mmlabel.wording import count, listed

TABLES = (".csv", ".tsv", ".txt")
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_PICTURE, _CAPTION = "--picture-column NAME", "--caption-column NAME"
REPORT_HEADERS = (["ImageID", "Labels", "Caption"], ["ImageID", "Caption"])


class Row(NamedTuple):
    """A picture, a caption or both."""

    id: str
    picture: Path | None  # None where the model looks at no pictures
    caption: str


@dataclass(frozen=True)
class Columns:
    """Where a table has what a model looks at.

    Attributes:
        picture, caption: names of columns, the first that is there counts; empty: not looked for.
        need_picture, need_caption: whether it is an error that none of them is there.
    """

    picture: Sequence[str]
    caption: Sequence[str]
    need_picture: bool
    need_caption: bool


class Rows(NamedTuple):
    """Can be gone through any number of times, holding no more than a row in memory."""

    rows: Iterable[Row]
    count: int
    has_captions: bool
    notes: list[str]

    def after(self, rows: int) -> "Rows":
        """Those after the first so many."""
        return self._replace(rows=_After(self.rows, rows), count=self.count - rows)


@dataclass(frozen=True)
class _After:
    rows: Iterable[Row]
    start: int

    def __iter__(self) -> Iterator[Row]:
        return islice(self.rows, self.start, None)


def open_rows(
    what: Path,
    *,
    columns: Columns,
    pictures: Path | None = None,
    caption: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    caption_seed: int = 0,
) -> Rows:
    """The rows of a CSV (.csv, .tsv, .txt), of JSON lines, a folder of pictures or one picture.

    Tables are read to their end once, so that a row that cannot be read is found before the first
    one is labelled.

    Args:
        what: the file or folder.
        columns: of a table.
        pictures: the folder of a table's pictures; None: the table's own.
        caption: of one picture.
        encoding: of a table; None: found out.
        delimiter: of training's table, which a CSV may have beside those that are found out.
        caption_seed: which of several captions is read, which JSON lines may have: as in training,
            that of a row in a file of one row a picture.

    Raises:
        UserError: there is no such file; it has no rows, or one that cannot be read; no column of
            those that are needed.
    """
    if what.is_dir():
        return _folder(what)
    if not what.is_file():
        raise UserError(f"there is no file {what}")
    refuse_json(what)
    kind = what.suffix.lower()
    if kind in (*TABLES, *JSON_LINES):
        more = [delimiter] if delimiter and len(delimiter) == 1 else []  # no "tab"
        return _table(what, columns, pictures or what.parent, encoding, more, caption_seed)
    with suppress(OSError), what.open("rb") as file:  # a picture that cannot be read is told as one
        refuse_packed(what, file.read(8))
    return Rows([Row(what.name, what, caption or "")], 1, caption is not None, [])


def _folder(folder: Path) -> Rows:
    found, others = [], Counter[str]()
    for place, names in sorted(_folders(folder)):
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith("."):
                continue  # such as ._1.jpg, which a Mac writes beside 1.jpg on other disks
            if name.lower().endswith(PICTURES):
                found.append(path)
            else:
                others[path.suffix.lower() or "without an ending"] += 1
    if not found:
        raise UserError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    rows = [Row(path.relative_to(folder).as_posix(), path, "") for path in found]
    for row in rows:
        _check_characters(folder, row)
    notes = []
    if others:
        kinds = listed([f"{number:,} {kind}" for kind, number in others.most_common()])
        notes.append(f"{folder}: files that are no pictures by their names are left out: {kinds}")
    return Rows(rows, len(rows), False, notes)


def _folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder at or below it, linked ones too, once, and the files in it."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be looked into: {error.strerror}")

    top, seen = os.path.realpath(folder), set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        # What lies in the folder itself is come across without the link.
        inside = real != top and os.path.commonpath([real, top]) == top
        if real in seen or (os.path.islink(place) and inside):
            folders.clear()
            continue
        seen.add(real)
        yield place, names


def _check_characters(source: Path, row: Row) -> None:
    """See that the answer to a row can be written, which is in UTF-8."""
    for text in (row.id, row.caption):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{source}: {text!r} is no text in UTF-8: rename the file, or change the cell"
            ) from None


def _table(
    path: Path,
    columns: Columns,
    folder: Path,
    encoding: str | None,
    delimiters: Sequence[str],
    caption_seed: int,
) -> Rows:
    notes: list[str] = []
    text = None
    if encoding is not None or not _is_utf_8(path):
        text, notes = read_text(path, encoding=encoding)
    file = _File(path, text)
    delimiter = None
    if path.suffix.lower() not in JSON_LINES:
        wanted = [*columns.picture, *columns.caption]
        delimiter = find_delimiter(file.first_line(), wanted, more=delimiters)
    header = file.header(delimiter)
    picture, caption = _columns(path, header, columns)
    if columns.caption and caption is None:
        missing = missing_columns(path, header, dict.fromkeys(columns.caption, _CAPTION))
        notes = [*notes, str(missing)]
    table = _Table(file, folder, delimiter, picture, caption, columns.need_picture, caption_seed)
    try:
        if header in REPORT_HEADERS and delimiter is not None:
            strict = delimited_rows(file.lines(), delimiter=delimiter, bare_marks=False)
            check_rows(path, islice(strict, 1, None))
        number = sum(1 for _ in table)
    except NotDelimited as problem:
        # The report's own file is no valid CSV, and can only be read as a whole.
        if header not in REPORT_HEADERS:
            raise UserError(f"{path}: {problem}") from None
        read = read_unlabelled(path, pictures=folder, encoding=encoding)
        whole = [Row(*row) for row in zip(read.ids, read.pictures, read.captions, strict=True)]
        return Rows(whole, len(whole), True, [*notes, *read.notes])
    if not number:
        raise UserError(f"{path} has no rows")
    if several := table.with_several_captions():
        notes.append(
            f"{path}: {count(several, 'row has', 'rows have')} several captions, of which one is"
            " read, as in training's evaluation (data.caption_seed)"
        )
    return Rows(table, number, caption is not None, notes)


def _is_utf_8(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8-sig") as file:
            while part := file.read(2**16):
                if "\0" in part:
                    return False
    except UnicodeDecodeError:
        return False
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return True


def _columns(path: Path, header: list[str], columns: Columns) -> list[str | None]:
    """Which column has the pictures, and which the captions."""
    found: list[str | None] = []
    missing: dict[str, str] = {}
    for names, option, needed in (
        (columns.picture, _PICTURE, columns.need_picture),
        (columns.caption, _CAPTION, columns.need_caption),
    ):
        name = next((name for name in names if name in header), None)
        found.append(name)
        if name is not None:
            column_number(path, header, name)  # or it is there twice
        elif needed:
            missing[names[0]] = option
    if missing:
        raise missing_columns(path, header, missing)
    return found


@dataclass(frozen=True)
class _File:
    """The lines of a table's file; `text` is given where its encoding is not UTF-8."""

    path: Path
    text: str | None

    def lines(self, newline: str = "") -> Iterator[str]:
        """`newline` is what ends a line, as `open` takes it."""
        if self.text is not None:
            yield from io.StringIO(self.text, newline=newline)
            return
        with open(self.path, encoding="utf-8-sig", newline=newline) as file:
            yield from file

    def first_line(self) -> str:
        """The first one that is not empty, without its end."""
        return next((line for line in self.lines() if line.strip("\r\n")), "").rstrip("\r\n")

    def header(self, delimiter: str | None) -> list[str]:
        if delimiter is not None:
            return header_of(self.first_line(), delimiter)
        return keys_of(self.objects())

    def objects(self) -> Iterator[dict[str, object]]:
        # As in training: a lone carriage return is no more than a space.
        return objects_in(self.path, self.lines("\n"))


@dataclass(frozen=True)
class _Table:
    """The rows of a file; without `delimiter` it is one of JSON lines."""

    file: _File
    folder: Path
    delimiter: str | None
    picture: str | None
    caption: str | None
    need_picture: bool
    caption_seed: int

    def with_several_captions(self) -> int:
        """How many rows have a list of them."""
        if self.delimiter is not None or self.caption is None:
            return 0
        cells = (caption for _, caption in self._cells())
        return sum(isinstance(caption, list) and len(caption) > 1 for caption in cells)

    def __iter__(self) -> Iterator[Row]:
        path = self.file.path
        draws = np.random.default_rng(self.caption_seed)
        for number, (picture, caption) in enumerate(self._cells(), start=1):
            given = caption if isinstance(caption, list) else [caption]
            try:
                name = as_text(picture).strip()
                words = drawn_first([as_text(text) for text in given], draws.random())[0]
            except ValueError as error:
                raise UserError(f"{path}: row {number}: a cell {error}") from None
            if self.need_picture and not name:
                raise UserError(f"{path}: row {number} has no picture in the column {self.picture}")
            row = Row(name or str(number), self.folder / name if name else None, words)
            _check_characters(path, row)
            yield row

    def _cells(self) -> Iterator[tuple[object, object]]:
        """Picture and caption of each row."""
        columns = (self.picture, self.caption)
        if self.delimiter is None:
            for content in self.file.objects():
                picture, caption = (content.get(column or "") for column in columns)
                yield picture, caption
            return
        rows = delimited_rows(self.file.lines(), delimiter=self.delimiter)
        header = next(rows, [])
        numbers = [None if c is None else column_number(self.file.path, header, c) for c in columns]
        for row in rows:
            picture, caption = ("" if number is None else row[number] for number in numbers)
            yield picture, caption
