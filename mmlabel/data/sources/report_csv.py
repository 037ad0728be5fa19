"""The report's data set: `ImageID,Labels,Caption`, as it was handed out or saved again."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmlabel.data.annotations import (
    ABSENT,
    REPORT_LABELS,
    Annotations,
    check_ids,
    checked_annotations,
)
from mmlabel.data.labels import label_order_of
from mmlabel.data.sources.delimited import (
    NotDelimited,
    Table,
    column_number,
    find_delimiter,
    header_of,
    missing_columns,
    parse_delimited,
)
from mmlabel.data.sources.text import read_text
from mmlabel.errors import UserError


def read_usyd(
    root: Path,
    *,
    file: str = "train.csv",
    pictures: str = "data",
    encoding: str | None = "utf-8",
    require_pictures: bool = True,
    require_captions: bool = True,
) -> Annotations:
    """Read the report's data set: `ImageID,Labels,Caption` in `root/file`, with REPORT_LABELS.

    Valid CSV is read as that. The file as it was handed out does not double the quotation marks
    inside a caption, and captions hold newlines, so it is none; it is read record by record, and
    whatever in a caption could be a record itself is an error. Both forms give the same rows.

    Args:
        root: the data set's folder.
        file: the CSV's name in it.
        pictures: the picture folder's name in it.
        encoding: of the file; None: found out.
        require_pictures: whether a row without its picture file is an error.
        require_captions: whether the column `Caption` has to be there.

    Raises:
        UserError: a missing folder, file, column or picture; a label that is not one of the
            report's; an image id that is there twice; no rows; records that cannot be told apart.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"the data folder {root} does not exist: give the one that holds {file} and a folder"
            f" {pictures}"
        )
    path = root / file
    ids, captions, label_lists, notes = _columns(
        path, labels=True, require_captions=require_captions, encoding=encoding
    )
    folder = root / pictures
    label_order = label_order_of(
        path,
        ids,
        [labels.split() for labels in label_lists],
        num_labels=len(REPORT_LABELS),
        numbers={str(number): number for number, name in enumerate(REPORT_LABELS) if name},
        allowed="the labels are the numbers 1 to 19 without 12, with spaces between them",
    )
    return checked_annotations(
        path,
        ids=ids,
        captions=captions,
        targets=(label_order != ABSENT).astype(np.uint8),
        label_names=REPORT_LABELS,
        pictures=[folder / image_id for image_id in ids],
        label_order=label_order,
        require_pictures=require_pictures,
        require_captions=require_captions,
        notes=notes,
    )


def read_unlabelled(path: Path, *, pictures: Path, encoding: str | None = "utf-8") -> Annotations:
    """Read a file in the report's format for its captions alone: `ImageID,Caption`, no `Labels`.

    A `Labels` column may be there and is not read: the rows have no targets.

    Args:
        path: the CSV.
        pictures: the picture folder, in which none has to be.
        encoding: of the file; None: found out.

    Raises:
        UserError: as `read_usyd`.
    """
    ids, captions, _, notes = _columns(path, labels=False, require_captions=True, encoding=encoding)
    return checked_annotations(
        path,
        ids=ids,
        captions=captions,
        targets=np.zeros((len(ids), 0), dtype=np.uint8),
        label_names=[],
        pictures=[pictures / image_id for image_id in ids],
        require_pictures=False,
        require_captions=True,
        notes=notes,
    )


class _Columns(NamedTuple):
    ids: list[str]
    captions: list[str]  # all empty if there is no such column
    labels: list[str]  # likewise
    notes: list[str]


def _columns(path: Path, *, labels: bool, require_captions: bool, encoding: str | None) -> _Columns:
    text, notes = read_text(path, encoding=encoding)
    text = text.replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    first_line, _, body = text.partition("\n")
    wanted = ["ImageID", *["Labels"] * labels, *["Caption"] * require_captions]
    delimiter = find_delimiter(first_line, wanted)
    header = header_of(first_line, delimiter)
    if missing := [column for column in wanted if column not in header]:
        problem = missing_columns(path, header, dict.fromkeys(missing, ""))
        raise UserError(f"{problem} (data=csv reads a table with columns of other names)")
    table = _table(path, text, header, body, delimiter)

    def cells_of(name: str) -> list[str]:
        if name not in header:
            return [""] * len(table.rows)
        number = column_number(path, header, name)
        return [cells[number] for cells in table.rows]

    ids = [image_id.strip() for image_id in cells_of("ImageID")]
    check_ids(path, ids)
    return _Columns(ids, cells_of("Caption"), cells_of("Labels"), notes)


def _table(path: Path, text: str, header: list[str], body: str, delimiter: str) -> Table:
    """The rows of valid CSV, or else those of the raw form."""
    may_be_raw = header in (["ImageID", "Labels", "Caption"], ["ImageID", "Caption"])
    try:
        table = parse_delimited(text, delimiter=delimiter, bare_marks=False)
    except NotDelimited as problem:
        if not may_be_raw:
            raise UserError(f"{path}: {problem}") from None
        records = _raw_records(path, body, problem=str(problem), labels="Labels" in header)
        return Table(header, records)
    if may_be_raw:
        check_rows(path, table.rows)
    return table


def check_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """See that no row of a CSV, valid as it is, could be several of a raw file.

    Raises UserError, with the row's number.
    """
    numbered, unlike = False, None
    for number, row in enumerate(rows, start=1):
        numbered = numbered or bool(_REPORT_ID.fullmatch(row[0]))
        if unlike is None and not _PICTURE_NAME.search(row[0]):
            unlike = number, row[0]
        if _could_be_rows(row[-1]):
            raise UserError(
                f"{path}: row {number} ({row[0]}) can be read in two ways, as its caption has a "
                "line that could be a row between quotation marks; change that line, or double "
                "the marks inside captions"
            )
    if numbered and unlike is not None:
        number, image_id = unlike
        raise UserError(
            f"{path}: row {number} has the image id {image_id!r}, but others are like 2.jpg: "
            "this could be a part of the row above"
        )


def _could_be_rows(caption: str) -> bool:
    """Whether a caption of valid CSV could be several rows of a raw file.

    Marks at the end of a raw caption and at the beginning of the next one look doubled, and make
    one cell of both. Then a line behind a mark begins with a picture's name, or one that could
    begin a row stands between marks, or all marks are beside such lines.
    """
    parts = caption.split('"')
    if len(parts) == 1:
        return False
    begins = [bool(_ROW_BEGINNING.search(part)) for part in parts]
    closes = [part.startswith("\n") and begins[n] for n, part in enumerate(parts[1:], start=1)]
    beside = [a or b for a, b in zip(begins[:-1], closes, strict=True)]
    return any(closes) or all(beside) or bool(_NAME_BEHIND_MARK.search(caption))


# ---- The raw form ---------------------------------------------------------------------------

# A mark before the id or after it is there in records that a library saved.
_PICTURE = r"\.(?:jpe?g|png|gif|bmp|webp|tiff?)"
_PICTURE_NAME = re.compile(rf"{_PICTURE}\s*\Z", re.IGNORECASE)
_REPORT_ID = re.compile(r"\d+\.jpg")
_RECORD_START = re.compile(r'\n(?="?\d+\.jpg"?,)')
_FIRST_FIELDS = {
    True: re.compile(r'("?)(?P<id>\d+\.jpg)\1,\1(?P<labels>[^",\n]*)\1,'),
    False: re.compile(r'("?)(?P<id>\d+\.jpg)\1,(?P<labels>)'),
}
_BREAKS = "\n\r\v\f\x85\u2028\u2029"
# What no caption should hold, as a record that nobody recognises would become part of the caption
# above it: the name of a picture; a line of something, a comma and labels; labels between commas
# and then a mark; a number and a comma behind a mark that closes; behind a line that ends with a
# mark, as records do, a digit or a comma.
_COULD_BE_RECORD = re.compile(
    rf"{_PICTURE}\b"
    rf'|[{_BREAKS}][^,{_BREAKS}]*,(?:"|\s*,|[\s"]*\d[\s\d"]*[,"])'
    r'|,[\s"]*\d[\s\d"]*,\s*"'
    rf'|[{_BREAKS}][\s"]*\d+\.[a-z]'
    r'|\A\s*\d[\s\d]*,"|(?<=[^\s"])"\d[^",]{0,12},"'
    r'|(?<!\s)"\d[^\s",]*,|"\d[^\s",]*,+"\S|"\d+\s*\.[\s,]*[a-z]',
    re.IGNORECASE,
)
_END_OF_RECORD = re.compile(rf'"[^\S{_BREAKS}]*[{_BREAKS}](?:[\s"]*\d|(?=[^,]{{0,5000}},))')
# A mark that closes, a comma and a mark that opens: of two marks the first opens.
_ANOTHER_FIELD = re.compile(r'(?:[^"]*"[^"]*")*?[^"]*("\s*,\s*)"')
_MARKS = re.compile('"+')
_ROW_BEGINNING = re.compile(r"\n[^\n,]*,(?:[^\n,]*,)?\Z")
_NAME_BEHIND_MARK = re.compile(rf'"\n[^\s,"]*{_PICTURE}', re.IGNORECASE)


def _raw_records(path: Path, body: str, *, problem: str, labels: bool) -> list[list[str]]:
    """The records of a body that is no valid CSV: image id, labels (if there are any), caption.

    Raises UserError, with the line's number, for all that is not surely one record.
    """

    def refuse(line: int, what: str) -> UserError:
        return UserError(
            f"{path}: line {line} {what}. The file is no valid CSV ({problem}), so its rows must "
            'be told apart by their beginning, like 2.jpg,1 3,"A caption" on a line of its own'
        )

    before, *texts = _RECORD_START.split("\n" + body)
    if before.strip():
        raise refuse(2, f"does not start with an id like 2.jpg: {_shown(before.strip())}")
    line = 2 + before.count("\n")
    records: list[list[str]] = []
    lone = doubled = 0  # captions with marks that all stand alone, or some of them side by side
    slip = 0  # the line of the last one with both
    for text in texts:
        fields = _FIRST_FIELDS[labels].match(text)
        if fields is None:
            raise refuse(line, f"has no id and labels that can be told apart: {_shown(text)}")
        caption, reason, position = _raw_caption(text[fields.end() :])
        if reason:
            line += text.count("\n", 0, fields.end() + position)
            start = text.rfind("\n", 0, fields.end() + position) + 1
            raise refuse(line, f"{reason}: {_shown(text[start:])}")
        marks = sorted(len(marks) for marks in _MARKS.findall(caption))
        if text.startswith('"') and any(length % 2 for length in marks):
            raise refuse(line, "has marks around all fields, but not all marks in them are doubled")
        if marks and marks[-1] == 1:
            lone += text.rstrip().endswith('"')
        elif marks:
            doubled += 1
            if all(length % 2 == 0 for length in marks):
                caption = caption.replace('""', '"')
            else:
                slip = line
                doubled += marks[-1] > 2 or marks.count(2) > 1
        records.append([fields["id"], *[fields["labels"]] * labels, caption])
        line += text.count("\n") + 1
    # One pair among lone marks is a slip of the pen; more are left of a file that doubled them.
    if slip and (doubled > 1 or not lone):
        raise refuse(slip, "has a caption with both doubled and lone quotation marks")
    return records


def _raw_caption(field: str) -> tuple[str, str | None, int]:
    """What is between the marks around a caption (or the caption, if it has none around it).

    Also why it is no caption, or None, and where in the field that shows.
    """
    text = field.rstrip()
    opened = text.startswith('"')
    closed = opened and len(text) > 1 and text.endswith('"')
    caption = text[1:-1] if closed else text[1:] if opened else field.rstrip("\n")
    found = _COULD_BE_RECORD.search(caption) or _END_OF_RECORD.search(caption)
    if found:
        # The line in which it stands, or the one after the break that it begins with.
        place = found.end() - len(found[0].lstrip('" \t' + _BREAKS))
        return caption, "could be a row of its own, but is not quite one", opened + place
    if opened and not closed:
        return caption, "has a caption whose closing quotation mark is not there", 0
    if '"' in caption and not caption.strip('" \t\n'):
        return caption, "has a caption of nothing but quotation marks", 0
    if opened and (another := _ANOTHER_FIELD.match(caption)):
        return caption, "has more fields than the header", 1 + another.start(1)
    if not opened and (found := re.search(r'[\n,]|""|"$', text)):
        return caption, "has a caption that needs quotation marks around it", found.start()
    return caption, None, 0


def _shown(text: str) -> str:
    return text.splitlines()[0][:60] if text else ""
