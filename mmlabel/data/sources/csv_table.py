"""Any table of captioned pictures with named columns: CSV, TSV, JSON lines."""

import fnmatch
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mmlabel.data.annotations import (
    ABSENT,
    Annotations,
    check_ids,
    checked_annotations,
    choose_captions,
    note_of_passed_over,
)
from mmlabel.data.labels import (
    JSON,
    check_names,
    label_order_of,
    names_in,
    numbers_of_names,
    one_hot,
    split_labels,
)
from mmlabel.data.sources.delimited import (
    NotDelimited,
    column_number,
    find_delimiter,
    header_of,
    missing_columns,
    parse_delimited,
)
from mmlabel.data.sources.json_lines import JSON_LINES, as_text, parse_json_lines, refuse_json
from mmlabel.data.sources.text import read_text
from mmlabel.errors import UserError
from mmlabel.wording import count, listed

_PICTURE, _CAPTION = "data.picture_column=NAME", "data.caption_column=NAME"
_LABEL, _LABELS = "data.label_column=NAME", "data.label_columns=[NAME]"
_TABS = {"tab": "\t", "\\t": "\t"}  # as it can be written on a command line


def read_csv(
    file: Path,
    *,
    picture_column: str | None,
    label_column: str | None,
    caption_column: str | None,
    label_columns: Sequence[str] | None = None,
    uncertain: Literal["mask", 0, 1] = "mask",
    root: Path | None = None,
    separator: str = " ",
    label_names: Sequence[str | int] | None = None,
    num_labels: int | None = None,
    several_captions: Literal["error", "one", "all"] = "error",
    caption_seed: int = 0,
    delimiter: str | None = None,
    encoding: str | None = None,
    require_pictures: bool = True,
    require_captions: bool = True,
) -> Annotations:
    """Read any table that has a picture path, labels and a caption in named columns.

    A file named .jsonl or .ndjson holds JSON lines, whose keys are the columns; others hold CSV.

    Labels are names or numbers. Numbers are positions in `label_names` or in the targets. Without
    `label_names`, labels that are all numbers give max + 1 targets (or `num_labels`), and others
    are collected from the file and sorted. `label_names` that are numbers mean these labels.

    Args:
        file: the table.
        picture_column: the column of picture paths; its text is the image id. Where no pictures
            are required it may be None or not there: rows are then named by their numbers.
        label_column: the column of label lists; None leaves all targets zero.
        caption_column: the column of captions; where none are required it may be None or not
            there. In JSON lines a caption may be a list of several.
        label_columns: instead of `label_column`, a column for each label, which has 1 or 0; `*`
            and `?` stand for any characters.
        uncertain: what -1 and an empty cell in these columns mean: not known ("mask"), 0 or 1.
        root: what the picture paths are relative to; the CSV's folder if not given.
        separator: what stands between two labels; " " is any white space; "json" means that each
            cell is a JSON list (or a list as Python writes it).
        label_names: the name of each label number; "" where a number is no label.
        num_labels: how many label numbers there are, where that is not told by `label_names`.
        several_captions: what to do with several captions of a picture, which are rows with the
            same picture: "error", "one" of them chosen, or "all" in training (elsewhere one).
        caption_seed: which of a picture's captions is chosen.
        delimiter: between the cells; None: a comma, tab, semicolon or upright, found out.
        encoding: of the file; None: found out.
        require_pictures: whether a row without its picture file is an error.
        require_captions: whether the caption column has to be there.

    Raises:
        UserError: a missing file, column or picture; text that is no valid CSV; a label out of
            range, not among the names or no plausible name; an image id that is there twice, or
            with other labels; captions that are the labels; no rows.
    """
    file = Path(file)
    refuse_json(file)
    names = None if label_names is None else [str(name) for name in label_names]
    delimiter = _TABS.get(delimiter or "", delimiter)
    separator = _TABS.get(separator, separator)
    _check_options(names, num_labels, delimiter, separator)
    columns = [picture_column, caption_column, label_column, *(label_columns or [])]
    table = _read_table(file, [c for c in columns if c], delimiter=delimiter, encoding=encoding)
    _check_columns(
        table,
        {
            _PICTURE: picture_column if require_pictures else None,
            _CAPTION: caption_column if require_captions else None,
            _LABEL: label_column if label_columns is None else None,
        },
        label_columns or [],
    )
    if require_captions:
        _check_caption(
            table, caption_column, [label_column] if label_columns is None else label_columns
        )
    ids, notes = _ids(table, picture_column, require_pictures)
    check_ids(file, ids, repeated=True)
    captions = _captions(table, caption_column, require_captions)
    labels = (
        _one_hot_labels(table, ids, label_columns, uncertain=uncertain)
        if label_columns is not None
        else _listed_labels(table, ids, label_column, names, num_labels, separator)
    )
    rows, captions, passed_over = _by_picture(
        file, ids, captions, labels, several=several_captions, seed=caption_seed
    )
    folder = file.parent if root is None else Path(root)
    return checked_annotations(
        file,
        ids=[ids[row] for row in rows],
        captions=captions,
        targets=labels.targets[rows],
        label_names=labels.names,
        pictures=[folder / ids[row] for row in rows],
        label_order=None if labels.order is None else labels.order[rows],
        known=None if labels.known is None else labels.known[rows],
        require_pictures=require_pictures,
        require_captions=require_captions,
        notes=[*table.notes, *notes, *labels.notes, *passed_over],
    )


class _Table(NamedTuple):
    """Columns of cells, which are text or, in JSON lines, any JSON value."""

    file: Path
    header: list[str]
    rows: Sequence[Sequence[object]]
    notes: list[str]

    def column(self, name: str, option: str) -> list[object]:
        number = column_number(self.file, self.header, name, option=option)
        return [cells[number] for cells in self.rows]


class _Labels(NamedTuple):
    names: list[str]
    targets: np.ndarray
    order: np.ndarray | None = None
    known: np.ndarray | None = None
    notes: Sequence[str] = ()


def _check_options(
    label_names: list[str] | None, num_labels: int | None, delimiter: str | None, separator: str
) -> None:
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(f"the delimiter {delimiter!r} is not one character, such as ; or a tab")
    if separator.isalnum() and separator != JSON:
        raise UserError(
            f"data.separator={separator} would part labels wherever that is a part of their names;"
            " give the sign that stands between two of them, such as ',' or tab"
        )
    if label_names is None:
        return
    if num_labels not in (None, len(label_names)):
        raise UserError(f"num_labels is {num_labels}, but there are {len(label_names)} label names")
    named = [name for name in label_names if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UserError(f"label names that are there twice: {listed(twice)}")


def _read_table(
    file: Path, columns: Sequence[str], *, delimiter: str | None, encoding: str | None
) -> _Table:
    text, notes = read_text(file, encoding=encoding)
    if file.suffix.lower() in JSON_LINES:
        objects = parse_json_lines(file, text)
        rows = [[row.get(key) for key in objects.header] for row in objects.rows]
        return _Table(file, objects.header, rows, notes)
    first_line = next(filter(str.strip, text.splitlines()), "")
    delimiter = delimiter or find_delimiter(first_line, columns)
    try:
        header, cells = parse_delimited(text, delimiter=delimiter)
    except NotDelimited as problem:
        header = header_of(first_line, delimiter)
        if not set(columns) & set(header):  # a wrong delimiter, most likely
            column_number(file, header, columns[0])
        raise UserError(f"{file}: {problem} (the report's own file: data=usyd)") from None
    if not header:
        raise UserError(f"{file} has no columns: it is empty")
    return _Table(file, header, cells, notes)


def _check_columns(
    table: _Table, wanted: Mapping[str, str | None], patterns: Sequence[str]
) -> None:
    """Raise UserError that names all columns at once that are not there, and their options."""
    missing = {
        column: option for option, column in wanted.items() if column and column not in table.header
    }
    missing |= {pattern: _LABELS for pattern in patterns if not _matching(table, pattern)}
    if missing:
        raise missing_columns(table.file, table.header, missing)


def _check_caption(table: _Table, caption: str | None, labels: Sequence[str | None]) -> None:
    """Refuse captions that are the labels: a model would read the answer."""
    if any(caption in _matching(table, column) for column in labels if column and caption):
        raise UserError(
            f"{table.file}: the column {caption} is given for captions and for labels, which they"
            " would tell: give another for one of the two, or take model=image_only"
        )


def _ids(table: _Table, column: str | None, required: bool) -> tuple[list[str], list[str]]:
    """The image ids; the rows' numbers where there are none and no pictures are looked at."""
    # A name that is nearly one of the columns is a slip.
    slip = column and column not in table.header and get_close_matches(column, table.header)
    if not required and column not in table.header and not slip:
        note = f"{table.file} has no column {column or 'of pictures'}: rows are named by number"
        return [str(number) for number in range(1, len(table.rows) + 1)], [note]
    if column is None:
        raise UserError(
            "data.picture_column=null, but the model looks at pictures: name the column, or take"
            " model=caption_only"
        )
    cells = table.column(column, _PICTURE)
    return [_text(table, row, column, cell).strip() for row, cell in enumerate(cells, start=1)], []


def _captions(table: _Table, column: str | None, required: bool) -> list[list[str]]:
    """The captions of each row, mostly one."""
    if not required and column not in table.header:
        return [[""] for _ in table.rows]
    if column is None:
        raise UserError(
            "data.caption_column=null, but the model looks at captions: name the column, or take"
            " model=image_only"
        )
    return [
        [_text(table, row, column, item) for item in (cell if isinstance(cell, list) else [cell])]
        for row, cell in enumerate(table.column(column, _CAPTION), start=1)
    ]


def _text(table: _Table, row: int, column: str, cell: object) -> str:
    try:
        return as_text(cell)
    except ValueError as error:
        raise UserError(f"{table.file}: row {row}: {column} {error}") from None


def _listed_labels(
    table: _Table,
    ids: list[str],
    column: str | None,
    names: list[str] | None,
    num_labels: int | None,
    separator: str,
) -> _Labels:
    lists: list[list[str]] = []
    cells = table.column(column, _LABEL) if column else [None] * len(ids)
    for row, cell in enumerate(cells, start=1):
        try:
            lists.append(split_labels(cell, separator))
        except ValueError as error:
            raise UserError(f"{table.file}: row {row} ({ids[row - 1]}): {column} {error}") from None
    if names is None:
        if any(isinstance(cell, list) for cell in cells):
            texts = zip(cells, lists, strict=True)
            check_names(
                table.file, [[] if isinstance(c, list) else own for c, own in texts], separator
            )
            separator = JSON  # a comma in a name that stands in a list parts nothing
        names = names_in(table.file, lists, num_labels=num_labels, separator=separator)
    order = label_order_of(
        table.file,
        ids,
        lists,
        num_labels=len(names),
        numbers=numbers_of_names(names),
        allowed=_allowed(names),
        separable=separator != JSON,
    )
    return _Labels(names, (order != ABSENT).astype(np.uint8), order)


def _allowed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return "there is 1 label, with the number 0"
    return f"there are {len(names)} labels, with the numbers 0 to {len(names) - 1}"


def _one_hot_labels(
    table: _Table, ids: list[str], patterns: Sequence[str], *, uncertain: Literal["mask", 0, 1]
) -> _Labels:
    names = list(dict.fromkeys(name for each in patterns for name in _matching(table, each)))
    columns = [table.column(name, _LABELS) for name in names]
    targets, known, notes = one_hot(table.file, ids, names, columns, uncertain=uncertain)
    return _Labels(names, targets, known=known, notes=notes)


def _matching(table: _Table, pattern: str) -> list[str]:
    return [pattern] if pattern in table.header else fnmatch.filter(table.header, pattern)


def _by_picture(
    file: Path,
    ids: list[str],
    captions: list[list[str]],
    labels: _Labels,
    *,
    several: Literal["error", "one", "all"],
    seed: int,
) -> tuple[np.ndarray, list[str], list[str]]:
    """For each row of the annotations one of the table's rows, and its caption; notes."""
    rows_of_id: dict[str, list[int]] = {}
    for row, image_id in enumerate(ids):
        rows_of_id.setdefault(image_id, []).append(row)
    if several == "error":
        hint = (
            "; where these are several captions of a picture, give data.several_captions=one or"
            " all; where each row has one of its labels, write them into one row"
        )
        check_ids(file, ids, hint=hint)
        if more := [ids[row] for row, of_row in enumerate(captions) if len(of_row) > 1]:
            raise UserError(
                f"{file}: {count(len(more), 'row has', 'rows have')} several captions:"
                f" {listed(more)}; give data.several_captions=one or all"
            )
    for image_id, (first, *others) in rows_of_id.items():
        for row in others:
            parts = (labels.targets, labels.known)
            if any(part is not None and (part[row] != part[first]).any() for part in parts):
                raise UserError(
                    f"{file}: rows {first + 1} and {row + 1} are of one picture ({image_id}), but "
                    "have other labels"
                )
    of_picture = [
        [caption for row in rows for caption in captions[row]] for rows in rows_of_id.values()
    ]
    chosen = choose_captions(of_picture, several="all" if several == "all" else "one", seed=seed)
    notes = note_of_passed_over(of_picture, chosen) if several == "all" else []
    first_rows = [rows[0] for rows in rows_of_id.values()]
    rows = np.repeat(first_rows, [len(captions) for captions in chosen])
    return (
        rows,
        [caption for captions in chosen for caption in captions],
        [f"{file}: {note}" for note in notes],
    )
