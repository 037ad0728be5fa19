"""Any CSV that has picture paths, label lists and captions in named columns."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmlabel.data.annotations import (
    ABSENT,
    INTEGER,
    Annotations,
    check_ids,
    checked_annotations,
    column_numbers,
    label_order_of,
    read_text,
    up_to_ten,
)
from mmlabel.errors import UserError

# More than this, told by the largest number in a file alone, is the wrong column.
_MOST_LABELS = 100_000


def read_csv(
    file: Path,
    *,
    picture_column: str,
    label_column: str | None,
    caption_column: str,
    root: Path | None = None,
    separator: str = " ",
    label_names: Sequence[str] | None = None,
    num_labels: int | None = None,
    require_pictures: bool = True,
) -> Annotations:
    """Read any CSV that has a picture path, a list of labels and a caption in named columns.

    Labels are names or numbers. Numbers are positions in `label_names` or in the targets. Without
    `label_names`, labels that are all numbers give max + 1 targets (or `num_labels`), and others
    are collected from the file and sorted.

    Args:
        file: the CSV, in UTF-8.
        picture_column: the column of picture paths; its text is the image id.
        label_column: the column of label lists; None leaves all targets zero.
        caption_column: the column of captions.
        root: what the picture paths are relative to; the CSV's folder if not given.
        separator: what stands between two labels; " " is any white space.
        label_names: the name of each label number; "" where a number is no label.
        num_labels: how many label numbers there are, where that is not told by `label_names`.
        require_pictures: whether a row without its picture file is an error.

    Raises:
        UserError: a missing file, column or picture; a label out of range or not among the
            names; an image id that is there twice; no rows.
    """
    file = Path(file)
    _check_csv_options(separator, label_names, num_labels)
    columns = [picture_column, caption_column] + ([label_column] if label_column else [])
    ids, captions, *label_texts = csv_columns(file, read_text(file), columns)
    check_ids(file, ids)
    lists = [_split_labels(text, separator) for text in (label_texts or [[""] * len(ids)])[0]]
    names = list(label_names) if label_names is not None else _names_in(file, lists, num_labels)
    numbers = {str(number): number for number in range(len(names)) if names[number]}
    numbers |= {name: number for number, name in enumerate(names) if name}
    folder = file.parent if root is None else Path(root)
    label_order = label_order_of(
        file,
        ids,
        lists,
        num_labels=len(names),
        numbers=numbers,
        allowed=f"there are {len(names)} labels, with the numbers 0 to {len(names) - 1}",
    )
    return checked_annotations(
        file,
        ids=ids,
        captions=captions,
        targets=(label_order != ABSENT).astype(np.uint8),
        label_names=names,
        pictures=[folder / image_id for image_id in ids],
        label_order=label_order,
        require_pictures=require_pictures,
    )


def csv_columns(path: Path, text: str, columns: list[str]) -> list[list[str]]:
    """The named columns of a valid CSV."""
    # Captions can be longer than the library's own limit of 128 KiB a field.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, rows = [], []
    try:
        header = [column.strip() for column in next(reader, [])]
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise UserError(
            f"{path}: line {reader.line_num} is no valid CSV ({error}); a quotation mark inside "
            "a quoted field must be doubled (the report's own file is read with data=usyd)"
        ) from None
    numbers = column_numbers(path, header, columns)
    for row, fields in enumerate(rows, start=1):
        if len(fields) != len(header):
            raise UserError(
                f"{path}: row {row} has {len(fields)} fields, but the header has {len(header)}"
            )
    return [[fields[number] for fields in rows] for number in numbers]


def _check_csv_options(
    separator: str, label_names: Sequence[str] | None, num_labels: int | None
) -> None:
    if not separator:
        raise UserError("the separator of the label lists is empty; choose one, such as a comma")
    if label_names is None:
        return
    if num_labels not in (None, len(label_names)):
        raise UserError(f"num_labels is {num_labels}, but there are {len(label_names)} label names")
    named = [name for name in label_names if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UserError(f"label names that are there twice: {up_to_ten(twice)}")


def _split_labels(text: str, separator: str) -> list[str]:
    if separator == " ":
        return text.split()
    return [label for label in map(str.strip, text.split(separator)) if label]


def _names_in(file: Path, lists: list[list[str]], num_labels: int | None) -> list[str]:
    """The name of each label number, told by the labels that a file has."""
    if num_labels is not None:
        return [str(number) for number in range(num_labels)]
    labels = set().union(*lists)
    if not labels:
        raise UserError(f"{file} has no labels: label_names or num_labels must say which there are")
    # One number among the labels makes the others mistakes: names are not mixed with numbers.
    if not any(INTEGER.fullmatch(label) for label in labels):
        return sorted(labels)
    numbers = {int(label) for label in labels if label.isdecimal()}
    if max(numbers, default=0) >= _MOST_LABELS:
        raise UserError(
            f"{file}: label {max(numbers)} would make {max(numbers) + 1} labels; check the label "
            "column, or give num_labels"
        )
    return [str(n) if n in numbers else "" for n in range(max(numbers, default=-1) + 1)]
