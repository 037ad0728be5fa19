"""The rows of a data set, and the checks that the readers of all sources share."""

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


INTEGER = re.compile(r"[+-]?\d+")
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
        known: (N, num_labels) bool, False where it is not known whether the row has the label; None:
            all are known.
    """

    ids: list[str]
    captions: list[str]
    targets: np.ndarray
    label_names: list[str]
    pictures: list[Path]
    label_order: np.ndarray | None = None
    known: np.ndarray | None = None

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
            known=None if self.known is None else self.known[rows],
        )


def checked_annotations(
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


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})") from None


def column_numbers(path: Path, header: list[str], columns: list[str]) -> list[int]:
    for column in columns:
        if column not in header:
            found = ", ".join(filter(None, header)) or "none, the file is empty"
            raise UserError(f"{path} has no column {column}; its columns: {found}")
    return [header.index(column) for column in columns]


def check_ids(path: Path, ids: list[str]) -> None:
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
        raise UserError(f"{path}: {len(twice)} image id(s) are there twice: {up_to_ten(twice)}")


def label_order_of(
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
    if INTEGER.fullmatch(label):
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
            present[folder] = names_in(folder)
        if name not in present[folder]:
            missing.append(f"{ids[row]} (row {row + 1})")
    if missing:
        folders = ", ".join(folder or "." for folder in list(present)[:3])
        raise UserError(
            f"{path}: {len(missing)} of {len(ids)} rows have no picture file "
            f"(looked in {folders}{', ...' if len(present) > 3 else ''}): {up_to_ten(missing)}"
        )


def names_in(folder: str | Path) -> set[str]:
    """What is in a folder; nothing if there is no such folder."""
    try:
        return set(os.listdir(folder or "."))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def up_to_ten(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:10]) + (", ..." if len(items) > 10 else "")
