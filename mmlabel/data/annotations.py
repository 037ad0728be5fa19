"""Image ids, captions, targets and picture paths, read from the report's CSV, any CSV or COCO."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmlabel import cache
from mmlabel.errors import UserError, nearest

# Position = label number = COCO category id; COCO has no category 0 or 12.
REPORT_LABELS = (
    ",person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,"
    "stop sign,parking meter,bench,bird,cat,dog,horse"
).split(",")


ABSENT = 127  # in `Annotations.label_order`


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """The rows of a data set, in file order.

    Attributes:
        ids: the image ids, each once ("2.jpg").
        captions: one caption a row; may be empty.
        targets: (N, num_labels) uint8, 0 or 1; position = label number (report, section 3.1.3).
        label_names: one name per label number; "" for a number that is no label.
        pictures: one path a row.
        label_order: (N, num_labels) int8, where in the file's list each of a row's labels stands,
            ABSENT for labels that the row does not have; None where labels are not listed in order.
    """

    ids: list[str]
    captions: list[str]
    targets: np.ndarray
    label_names: list[str]
    pictures: list[Path]
    label_order: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of ids, captions, targets and label names; the pictures are not read."""
        return cache.fingerprint(self.ids, self.captions, self.targets, self.label_names)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Annotations":
        """These rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Annotations(
            ids=[self.ids[row] for row in rows],
            captions=[self.captions[row] for row in rows],
            targets=self.targets[rows],
            label_names=self.label_names,
            pictures=[self.pictures[row] for row in rows],
            label_order=None if self.label_order is None else self.label_order[rows],
        )


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
    _check_ids(path, ids)
    label_order = _label_order(
        path,
        ids,
        [labels.split() for labels in label_lists],
        num_labels=len(REPORT_LABELS),
        numbers={str(number): number for number, name in enumerate(REPORT_LABELS) if name},
        allowed="the labels are the numbers 1 to 19 without 12",
    )
    return _annotations(
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
    _check_ids(path, ids)
    return _annotations(
        path,
        ids=ids,
        captions=captions,
        targets=np.zeros((len(ids), len(label_names)), dtype=np.uint8),
        label_names=label_names,
        pictures=[folder / image_id for image_id in ids],
        require_pictures=require_pictures,
    )


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
    ids, captions, *label_texts = _csv_columns(file, _text(file), columns)
    _check_ids(file, ids)
    lists = [_split_labels(text, separator) for text in (label_texts or [[""] * len(ids)])[0]]
    names = list(label_names) if label_names is not None else _names_in(file, lists, num_labels)
    numbers = {str(number): number for number in range(len(names)) if names[number]}
    numbers |= {name: number for number, name in enumerate(names) if name}
    folder = file.parent if root is None else Path(root)
    label_order = _label_order(
        file,
        ids,
        lists,
        num_labels=len(names),
        numbers=numbers,
        allowed=f"there are {len(names)} labels, with the numbers 0 to {len(names) - 1}",
    )
    return _annotations(
        file,
        ids=ids,
        captions=captions,
        targets=(label_order != ABSENT).astype(np.uint8),
        label_names=names,
        pictures=[folder / image_id for image_id in ids],
        label_order=label_order,
        require_pictures=require_pictures,
    )


def read_coco(
    root: Path,
    *,
    instances: str | None = None,
    captions: str | None = None,
    seed: int = 0,
    max_pictures: int | None = None,
    require_pictures: bool = True,
) -> Annotations:
    """Read COCO's own layout (2014 or 2017), reduced to the report's 18 labels.

    Pictures with none of the labels are left out. The annotations are JSON files in
    `root/annotations`; the pictures are wherever they are found in `root`, `root/images` and
    the folders there, and are expected in `root/val2017` for `instances_val2017.json`.

    Args:
        root: COCO's folder.
        instances: the instances file's name; may be left out if there is one alone.
        captions: the captions file's name; by default that of the same pictures.
        seed: which of a picture's captions is taken.
        max_pictures: keep the first so many pictures.
        require_pictures: whether a row without its picture file is an error.

    Raises:
        UserError: a missing folder, file or picture; a file that is not COCO's; a category whose
            id has another name than in COCO; no pictures with one of the labels.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"the data folder {root} does not exist")
    if max_pictures is not None and max_pictures < 1:
        raise UserError(f"max_pictures is {max_pictures}; it must be 1 or more")
    instances_file = _coco_file(root, instances, "instances")
    captions_file = _coco_file(
        root, captions or instances_file.name.replace("instances_", "captions_"), "captions"
    )
    names, image_ids, targets = _coco_targets(instances_file)
    chosen = _coco_captions(captions_file, image_ids, seed)
    kept = np.flatnonzero(targets.any(axis=1))[:max_pictures]
    if not len(kept):
        raise UserError(f"{instances_file}: no picture has one of the report's 18 labels")
    ids = [names[row] for row in kept]
    _check_ids(instances_file, ids)
    return _annotations(
        instances_file,
        ids=ids,
        captions=[chosen[row] for row in kept],
        targets=targets[kept],
        label_names=REPORT_LABELS,
        pictures=_find_pictures(root, instances_file.stem.removeprefix("instances_"), ids),
        require_pictures=require_pictures,
    )


def _annotations(
    file: Path,
    *,
    ids: list[str],
    captions: list[str],
    targets: np.ndarray,
    label_names: Sequence[str],
    pictures: list[Path],
    require_pictures: bool,
    label_order: np.ndarray | None = None,
) -> Annotations:
    if require_pictures:
        _check_pictures(file, ids, pictures)
    return Annotations(
        ids=ids,
        captions=captions,
        targets=targets,
        label_names=list(label_names),
        pictures=pictures,
        label_order=label_order,
    )


# ---- The report's CSV -----------------------------------------------------------------------

# A quotation mark before the id or after it is there in copies that were saved with all fields
# quoted.
_RECORD_START = re.compile(r'\n(?="?\d+\.jpg"?,)')
# A record whose id is not in the report's form would otherwise become part of the caption above.
_STRAY_RECORD = {
    2: re.compile(r'\n"?([^\s,"]+\.(?:jpe?g|png))"?,"', re.IGNORECASE),
    3: re.compile(r'\n"?([^\s,"]+\.(?:jpe?g|png))"?,"?[\d ]*"?,', re.IGNORECASE),
}
_QUOTES = re.compile('"+')
_INTEGER = re.compile(r"[+-]?\d+")
# More than this, told by the largest number in a file alone, is the wrong column.
_MOST_LABELS = 100_000


def _report_columns(path: Path, columns: list[str]) -> list[list[str]]:
    """The named columns of a file in the report's format, raw or saved again."""
    text = _text(path).replace("\r\n", "\n")
    first_line, _, body = text.partition("\n")
    header = [column.strip() for column in next(csv.reader([first_line]), [])]
    _column_numbers(path, header, columns)
    if header in (["ImageID", "Labels", "Caption"], ["ImageID", "Caption"]):
        records = _report_records(path, body, len(header))
    else:
        # Other columns, or another order: a library wrote this file, so it is valid CSV.
        return _csv_columns(path, text, columns)
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


# ---- Any CSV --------------------------------------------------------------------------------


def _csv_columns(path: Path, text: str, columns: list[str]) -> list[list[str]]:
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
    numbers = _column_numbers(path, header, columns)
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
        raise UserError(f"label names that are there twice: {_up_to_ten(twice)}")


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
    if not any(_INTEGER.fullmatch(label) for label in labels):
        return sorted(labels)
    numbers = {int(label) for label in labels if label.isdecimal()}
    if max(numbers, default=0) >= _MOST_LABELS:
        raise UserError(
            f"{file}: label {max(numbers)} would make {max(numbers) + 1} labels; check the label "
            "column, or give num_labels"
        )
    return [str(n) if n in numbers else "" for n in range(max(numbers, default=-1) + 1)]


# ---- COCO -----------------------------------------------------------------------------------


def _coco_file(root: Path, name: str | None, kind: str) -> Path:
    """A JSON file in `root/annotations`: the one of this name, or else the only one of its kind."""
    folder = root / "annotations"
    found = sorted(file.name for file in folder.glob(f"{kind}_*.json"))
    if name is None:
        if len(found) == 1:
            return folder / found[0]
        if found:
            raise UserError(
                f"{folder} has several {kind} files: choose one of {', '.join(found)} "
                f"(data.{kind}=NAME)"
            )
        raise UserError(f"{folder} has no {kind}_*.json: this is not COCO's layout")
    if not (folder / name).is_file():
        raise UserError(f"{folder} has no {name}{nearest(name, found) if found else ''}")
    return folder / name


def _coco_targets(file: Path) -> tuple[list[str], list[int], np.ndarray]:
    """The file name and id of each picture, and its targets (N, 20)."""
    coco = _json(file)
    try:
        # A picture that is listed twice is one picture, or it could be in two splits.
        pictures = {image["id"]: image["file_name"] for image in coco["images"]}
        category_names = {category["id"]: category["name"] for category in coco["categories"]}
        pairs = {(a["image_id"], a["category_id"]) for a in coco["annotations"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is not a COCO instances file: no {error}") from None
    used = {category for _, category in pairs}
    for number, name in enumerate(REPORT_LABELS):
        found = category_names.get(number)
        if name and found != name and (number in category_names or number in used):
            raise UserError(
                f"{file}: category {number} is {found or 'not named'}, but in COCO it is {name}: "
                "these are other labels than the report's"
            )
    image_ids = list(pictures)
    row_of_image = {image_id: row for row, image_id in enumerate(image_ids)}
    targets = np.zeros((len(pictures), len(REPORT_LABELS)), dtype=np.uint8)
    for image_id, category in pairs:
        if 0 <= category < len(REPORT_LABELS) and REPORT_LABELS[category]:
            if image_id in row_of_image:
                targets[row_of_image[image_id], category] = 1
    return list(pictures.values()), image_ids, targets


def _coco_captions(file: Path, image_ids: list[int], seed: int) -> list[str]:
    """One caption for each picture, chosen by seed; an empty one for a picture that has none."""
    coco = _json(file)
    captions: dict[int, list[str]] = {image_id: [] for image_id in image_ids}
    try:
        for annotation in coco["annotations"]:
            captions.get(annotation["image_id"], []).append(annotation["caption"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is not a COCO captions file: no {error}") from None
    draws = np.random.default_rng(seed).random(len(image_ids))
    return [
        given[int(draw * len(given))] if (given := captions[image_id]) else ""
        for image_id, draw in zip(image_ids, draws, strict=True)
    ]


def _find_pictures(root: Path, subset: str, names: list[str]) -> list[Path]:
    """Where each picture is; `root/subset/NAME` for one that is nowhere."""
    expected = [root / subset, root / "images" / subset, root / "images"]
    others = [folder for parent in (root, root / "images") for folder in sorted(_folders(parent))]
    found: dict[str, Path] = {}
    for folder in dict.fromkeys([*expected, *others, root]):
        if len(found) < len(names):
            present = _names(folder)
            found |= {name: folder for name in names if name in present and name not in found}
    return [found.get(name, expected[0]) / name for name in names]


def _folders(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []


def _json(file: Path) -> dict:
    try:
        content = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is no valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not one of COCO's files: it holds no JSON object")
    return content


# ---- What all readers share -----------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})") from None


def _column_numbers(path: Path, header: list[str], columns: list[str]) -> list[int]:
    for column in columns:
        if column not in header:
            found = ", ".join(filter(None, header)) or "none, the file is empty"
            raise UserError(f"{path} has no column {column}; its columns: {found}")
    return [header.index(column) for column in columns]


def _check_ids(path: Path, ids: list[str]) -> None:
    if not ids:
        raise UserError(f"{path} has no rows")
    first_row: dict[str, int] = {}
    twice = []
    for row, image_id in enumerate(ids, start=1):
        if not image_id:
            raise UserError(f"{path}: row {row} has no image id")
        if first_row.setdefault(image_id, row) != row:
            twice.append(f"{image_id} (rows {first_row[image_id]} and {row})")
    if twice:
        raise UserError(f"{path}: {len(twice)} image id(s) are there twice: {_up_to_ten(twice)}")


def _label_order(
    path: Path,
    ids: list[str],
    lists: list[list[str]],
    *,
    num_labels: int,
    numbers: dict[str, int],
    allowed: str,
) -> np.ndarray:
    """`Annotations.label_order` of lists of labels; `numbers` has the number of each label."""
    order = np.full((len(ids), num_labels), ABSENT, dtype=np.int8)
    for row, labels in enumerate(lists):
        # From the last, so that a label that is listed twice stands where it is named first.
        for position, label in reversed(list(enumerate(labels))):
            number = numbers.get(label)
            if number is None and label.isdecimal():
                number = numbers.get(str(int(label)))  # "08"
            if number is None:
                raise UserError(
                    f"{path}: row {row + 1} ({ids[row]}): {_wrong_label(label, numbers, allowed)}"
                )
            order[row, number] = min(position, ABSENT - 1)
    return order


def _wrong_label(label: str, numbers: dict[str, int], allowed: str) -> str:
    if _INTEGER.fullmatch(label):
        return f"label {label} is out of range: {allowed}"
    names = [name for name in numbers if not name.isdigit()]
    if names:
        return f'label "{label}" is not among the label names{nearest(label, names)}'
    return f'label "{label}" is not a number: {allowed}'


def _check_pictures(path: Path, ids: list[str], pictures: list[Path]) -> None:
    # Listing the folders is far faster than asking for each file.
    present: dict[str, set[str]] = {}
    missing = []
    for row, picture in enumerate(pictures):
        folder, name = os.path.split(picture)
        if folder not in present:
            present[folder] = _names(folder)
        if name not in present[folder]:
            missing.append(f"{ids[row]} (row {row + 1})")
    if missing:
        folders = ", ".join(folder or "." for folder in list(present)[:3])
        raise UserError(
            f"{path}: {len(missing)} of {len(ids)} rows have no picture file "
            f"(looked in {folders}{', ...' if len(present) > 3 else ''}): {_up_to_ten(missing)}"
        )


def _names(folder: str | Path) -> set[str]:
    """What is in a folder; nothing if there is no such folder."""
    try:
        return set(os.listdir(folder or "."))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _up_to_ten(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:10]) + (", ..." if len(items) > 10 else "")
