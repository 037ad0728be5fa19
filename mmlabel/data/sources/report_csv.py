"""The report's data set: `ImageID,Labels,Caption`, as it was handed out or saved again."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmlabel.data.annotations import (
    ABSENT,
    REPORT_LABELS,
    Annotations,
    check_ids,
    checked_annotations,
    column_numbers,
    label_order_of,
    read_text,
)
from mmlabel.data.sources.csv_table import csv_columns
from mmlabel.errors import UserError


def read_usyd(
    root: Path, *, file: str = "train.csv", pictures: str = "data", require_pictures: bool = True
) -> Annotations:
    """Read the report's data set: `ImageID,Labels,Caption` in `root/file`, with REPORT_LABELS.

    The file as it was handed out does not double the quotation marks inside a caption, and
    captions hold newlines, so it is no valid CSV. It is read as well as a copy that a CSV library
    saved again: both give the same rows.

    Args:
        root: the data set's folder.
        file: the CSV's name in it.
        pictures: the picture folder's name in it.
        require_pictures: whether a row without its picture file is an error.

    Raises:
        UserError: a missing folder, file, column or picture; a label that is not one of the
            report's; an image id that is there twice; no rows.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"the data folder {root} does not exist")
    path = root / file
    ids, label_lists, captions = _report_columns(path, ["ImageID", "Labels", "Caption"])
    check_ids(path, ids)
    label_order = label_order_of(
        path,
        ids,
        [labels.split() for labels in label_lists],
        num_labels=len(REPORT_LABELS),
        numbers={str(number): number for number, name in enumerate(REPORT_LABELS) if name},
        allowed="the labels are the numbers 1 to 19 without 12",
    )
    return checked_annotations(
        path,
        ids=ids,
        captions=captions,
        targets=(label_order != ABSENT).astype(np.uint8),
        label_names=REPORT_LABELS,
        pictures=[root / pictures / image_id for image_id in ids],
        label_order=label_order,
        require_pictures=require_pictures,
    )


def read_unlabelled(
    path: Path,
    *,
    pictures: Path | None = None,
    label_names: Sequence[str] = REPORT_LABELS,
    require_pictures: bool = True,
) -> Annotations:
    """Read a file in the report's format for its captions alone: `ImageID,Caption`, no `Labels`.

    A `Labels` column may be there and is not read. The targets are all zero.

    Args:
        path: the CSV.
        pictures: the picture folder; `data` beside the CSV if not given.
        label_names: the names of the labels that are to be predicted.
        require_pictures: whether a row without its picture file is an error.

    Raises:
        UserError: as `read_usyd`.
    """
    path = Path(path)
    folder = path.parent / "data" if pictures is None else Path(pictures)
    ids, captions = _report_columns(path, ["ImageID", "Caption"])
    check_ids(path, ids)
    return checked_annotations(
        path,
        ids=ids,
        captions=captions,
        targets=np.zeros((len(ids), len(label_names)), dtype=np.uint8),
        label_names=label_names,
        pictures=[folder / image_id for image_id in ids],
        require_pictures=require_pictures,
    )


# A quotation mark before the id or after it is there in copies that were saved with all fields
# quoted.
_RECORD_START = re.compile(r'\n(?="?\d+\.jpg"?,)')
# A record whose id is not in the report's form would otherwise become part of the caption above.
_STRAY_RECORD = {
    2: re.compile(r'\n"?([^\s,"]+\.(?:jpe?g|png))"?,"', re.IGNORECASE),
    3: re.compile(r'\n"?([^\s,"]+\.(?:jpe?g|png))"?,"?[\d ]*"?,', re.IGNORECASE),
}
_QUOTES = re.compile('"+')


def _report_columns(path: Path, columns: list[str]) -> list[list[str]]:
    """The named columns of a file in the report's format, raw or saved again."""
    text = read_text(path).replace("\r\n", "\n")
    first_line, _, body = text.partition("\n")
    header = [column.strip() for column in next(csv.reader([first_line]), [])]
    column_numbers(path, header, columns)
    if header in (["ImageID", "Labels", "Caption"], ["ImageID", "Caption"]):
        records = _report_records(path, body, len(header))
    else:
        # Other columns, or another order: a library wrote this file, so it is valid CSV.
        return csv_columns(path, text, columns)
    return [[record[header.index(column)] for record in records] for column in columns]


def _report_records(path: Path, body: str, fields: int) -> list[list[str]]:
    """The records of the report's CSV: image id, labels (if there are three fields), caption."""
    before, *texts = _RECORD_START.split("\n" + body)
    if before.strip():
        start = before.strip().splitlines()[0][:60]
        raise UserError(f"{path}: row 1 does not start with an id like 2.jpg: {start}")
    records = []
    for row, text in enumerate(texts, start=1):
        if stray := "\n" in text and _STRAY_RECORD[fields].search(text):
            raise UserError(
                f"{path}: the row after row {row} has the image id {stray[1]}, which is not a "
                "number and .jpg; files with other ids are read with data=csv"
            )
        record = text.split(",", fields - 1)
        if len(record) != fields:
            raise UserError(f"{path}: row {row} has {len(record)} fields, not {fields}: {text}")
        records.append([field.strip('" ') for field in record[:-1]] + [_caption(record[-1])])
    return records


def _caption(field: str) -> str:
    """A caption without the quotation marks around the field, doubled or plain ones inside it."""
    quoted = field.rstrip()
    if len(quoted) < 2 or quoted[0] != '"' or quoted[-1] != '"':
        return field.rstrip("\n")
    caption = quoted[1:-1]
    # A library doubles all marks inside a field. A mark that stands alone (or an odd number of
    # them) shows that this record is a raw one.
    if all(len(marks) % 2 == 0 for marks in _QUOTES.findall(caption)):
        return caption.replace('""', '"')
    return caption
