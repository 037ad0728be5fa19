"""Valid CSV, and files like it with another delimiter."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmlabel.data.sources.json_lines import JSON_LINES
from mmlabel.errors import UserError, nearest
from mmlabel.wording import listed

DELIMITERS = (",", "\t", ";", "|")


class NotDelimited(Exception):
    """The text is not valid CSV: which row or line is not, and why."""


class Table(NamedTuple):
    """The header, without spaces around the names, and rows of as many cells each."""

    header: list[str]
    rows: list[list[str]]


def parse_delimited(text: str, *, delimiter: str = ",", bare_marks: bool = True) -> Table:
    """The cells of a CSV; see `delimited_rows`, which gives them one row at a time."""
    rows = delimited_rows(io.StringIO(text, newline=""), delimiter=delimiter, bare_marks=bare_marks)
    return Table(next(rows, []), list(rows))


def delimited_rows(
    lines: Iterable[str], *, delimiter: str = ",", bare_marks: bool = True
) -> Iterator[list[str]]:
    """The header and then the rows of a CSV, as RFC 4180 has it; empty lines are no rows.

    `lines` end as they do in the file, which has to be open with `newline=""`.

    A cell with a quotation mark, a line break or the delimiter in it stands between quotation
    marks and has its own ones doubled. With `bare_marks`, marks inside a cell without marks around
    it are taken as they are (5" board), but not at its end, where they tell of one that was lost.

    Raises:
        NotDelimited: a lone quotation mark; a row with more or fewer cells than the header; a row
            that is the header again.
    """
    # Captions can be longer than the library's own limit of 128 KiB a cell.
    csv.field_size_limit(2**31 - 1)
    of_row: list[str] = []

    def read() -> Iterator[str]:
        for line in lines:
            of_row.append(line)
            yield line

    reader = csv.reader(read(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    count, begin = 0, 1
    try:
        for cells in reader:
            written = "".join(of_row)
            of_row.clear()
            if cells:
                if problem := _problem(cells, written, header, bare_marks):
                    which = "the header" if header is None else f"row {count + 1}"
                    raise NotDelimited(f"{which} {problem} (line {begin})")
                if header is None:
                    header = cells = [column.strip() for column in cells]
                else:
                    count += 1
                yield cells
            begin = reader.line_num + 1
    except csv.Error as error:
        # Python 3.10 takes none in any cell, later ones do.
        if "\0" in "".join(of_row):
            raise NotDelimited(f"line {begin} has a zero byte in it") from None
        raise NotDelimited(
            f"line {begin} is no valid CSV ({error}); a quotation mark inside a quoted cell must "
            "be doubled"
        ) from None


def _problem(
    cells: list[str], written: str, header: list[str] | None, bare_marks: bool
) -> str | None:
    if header and len(cells) != len(header):
        return f"has {len(cells)} fields, but the header has {len(header)}"
    for cell in cells:
        if '"' in cell and '"' + cell.replace('"', '""') + '"' not in written:
            end = cell[-60:]
            if end.endswith('"'):
                return f"has a cell that ends with a quotation mark but begins with none: {end!r}"
            if not bare_marks:
                return f"has a quotation mark in a cell that begins with none: {cell[:60]!r}"
    # The first may be row numbers.
    if header and any(cell for cell, name in list(zip(cells, header, strict=True))[1:] if not name):
        return "has text in a column without a name"
    if [cell.strip() for cell in cells] == header:
        return "is the header again"
    return None


def find_delimiter(first_line: str, columns: Sequence[str], *, more: Sequence[str] = ()) -> str:
    """The delimiter, of DELIMITERS and `more`, with which the first line has most of `columns`.

    Where it has none of them, that with which it has most names, for the message that lists these.
    """

    def count(delimiter: str) -> tuple[int, int]:
        header = header_of(first_line, delimiter)
        known = sum(column in header for column in columns)
        return known, 0 if known else len(header)

    return max((*DELIMITERS, *more), key=count)


def header_of(first_line: str, delimiter: str) -> list[str]:
    """The names in a header of one line; none if it is no such line."""
    reader = csv.reader([first_line], delimiter=delimiter, strict=True)
    try:
        return [cell.strip() for cell in next(reader, [])]
    except csv.Error:
        return []


def column_number(path: Path, header: Sequence[str], column: str, *, option: str = "") -> int:
    """Where a column is; `option` says which it is.

    Raises UserError if it is not there, or twice.
    """
    if (times := header.count(column)) == 1:
        return header.index(column)
    if times:
        raise UserError(f"{path} has {times} columns of the name {column}; rename all but one")
    raise missing_columns(path, header, {column: option})


def missing_columns(path: Path, header: Sequence[str], missing: Mapping[str, str]) -> UserError:
    """The message for columns that a table has not.

    Args:
        path: the table.
        header: the columns that it has.
        missing: the columns, each with the option that says which it is, such as
            data.caption_column=NAME, or "".
    """
    names = [name for name in header if name]
    options = [option for option in dict.fromkeys(missing.values()) if option]
    says = f" ({listed(options)} {'says' if len(options) == 1 else 'say'} which)" if options else ""
    close = nearest(next(iter(missing)), names) if names and len(options) < 2 else ""
    hint = close if close.startswith("; did you mean") else ""
    inner = [name for name in missing if "." in name and name.split(".")[0] in names]
    if inner and path.suffix.lower() in JSON_LINES:
        hint = f"; what is within another value ({inner[0]}) is no column: write it into one"
    if names and names[0].lower().startswith("sep="):
        hint = f"; its first line ({names[0]}) is a spreadsheet's and no header: delete it"
    return UserError(
        f"{path} has no column {' or '.join(missing)}{says}; its columns: "
        f"{listed(names, 40) or 'none, the file is empty'}{hint}"
    )
