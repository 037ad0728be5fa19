"""The rows of a data set, and the checks that the readers of all sources share."""

import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from mmlabel import cache
from mmlabel.errors import UserError
from mmlabel.wording import count, listed

# Position = label number = COCO category id; COCO has no category 0 or 12.
REPORT_LABELS = (
    ",person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,"
    "stop sign,parking meter,bench,bird,cat,dog,horse"
).split(",")

ABSENT = 127  # in `Annotations.label_order`

# What a missing value is often written as; an empty cell is meant.
NULL_WORDS = frozenset({"nan", "none", "null", "nil", "n/a", "na", "#n/a", "<na>", "nat"})


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """The rows of a data set, in file order.

    Attributes:
        ids: the image ids ("2.jpg"). Rows of the same id are captions of one picture: they stand
            together, and the first of them is the one that counts outside of training.
        captions: one caption a row; may be empty.
        targets: (N, num_labels) uint8, 0 or 1; position = label number (report, section 3.1.3).
        label_names: one name per label number; "" for a number that is no label.
        pictures: one path a row.
        label_order: (N, num_labels) int8, where in the file's list each of a row's labels stands,
            ABSENT for labels that the row does not have; None where labels are not listed in order.
        known: (N, num_labels) bool, False where it is not known whether a row has a label (its
            target is 0 and must not be looked at); None where all is known.
        notes: what a user should know of how the files were read, one sentence each.
    """

    ids: list[str]
    captions: list[str]
    targets: np.ndarray
    label_names: list[str]
    pictures: list[Path]
    label_order: np.ndarray | None = None
    known: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of ids, captions, targets and label names; the pictures are not read."""
        parts = [self.ids, self.captions, self.targets, self.label_names]
        return cache.fingerprint(*parts, *([] if self.known is None else [self.known]))

    @cached_property
    def first_rows(self) -> dict[str, int]:
        """The first row of each image id, whose caption counts outside of training."""
        first: dict[str, int] = {}
        for row, image_id in enumerate(self.ids):
            first.setdefault(image_id, row)
        return first

    def caption_and_picture(self, image_id: str) -> tuple[str, Path | None]:
        """The caption of its first row and the picture file; "" and None for an id without rows."""
        row = self.first_rows.get(image_id)
        return ("", None) if row is None else (self.captions[row], self.pictures[row])

    def take(self, rows: Sequence[int] | np.ndarray) -> "Annotations":
        """These rows, in this order, without the notes."""
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

    def under(self, names: Sequence[str]) -> "Annotations":
        """The same rows with labels of these names, in this order.

        Of labels that are not here it is not known which rows have them.
        """
        targets = np.zeros((len(self), len(names)), dtype=np.uint8)
        known = np.zeros(targets.shape, dtype=bool)
        places = {name: place for place, name in enumerate(self.label_names)}
        for number, name in enumerate(names):
            if (own := places.get(name)) is not None:
                targets[:, number] = self.targets[:, own]
                known[:, number] = True if self.known is None else self.known[:, own]
        all_known = None if known.all() else known
        return replace(self, targets=targets, known=all_known, label_names=list(names))


class MissingPictures(UserError):
    """Rows without their picture file; `ids` of these pictures."""

    def __init__(self, message: str, ids: set[str]) -> None:
        super().__init__(message)
        self.ids = ids


def checked_annotations(
    file: Path,
    *,
    ids: list[str],
    captions: list[str],
    targets: np.ndarray,
    label_names: Sequence[str],
    pictures: list[Path],
    require_pictures: bool,
    require_captions: bool,
    captions_file: Path | None = None,
    label_order: np.ndarray | None = None,
    known: np.ndarray | None = None,
    notes: Iterable[str] = (),
) -> Annotations:
    """The annotations of `file`, after the checks that need all of its rows.

    Captions may be from `captions_file`, which messages about them name.

    Raises UserError for text that cannot be written down, and for pictures that are required and
    not there. Empty captions are counted in a note where captions are required.
    """
    captions_file = captions_file or file
    _check_text(file, ids)
    _check_text(captions_file, captions)
    if require_pictures:
        _check_pictures(file, ids, pictures)
    return Annotations(
        ids=ids,
        captions=captions,
        targets=targets,
        label_names=list(label_names),
        pictures=pictures,
        label_order=label_order,
        known=known,
        notes=(*notes, *(_caption_notes(captions_file, captions) if require_captions else ())),
    )


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises UserError if there is none to be had."""
    try:
        # A pipe or a device may never end.
        if not stat.S_ISREG(os.stat(path).st_mode) and not path.is_dir():
            raise UserError(f"{path} is not a plain file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def check_ids(path: Path, ids: list[str], *, repeated: bool = False, hint: str = "") -> None:
    """Raise UserError for no rows, and for ids that are empty, no text or there more than once.

    Args:
        path: the file that the ids are from.
        ids: one a row.
        repeated: whether an id may be there several times.
        hint: what to do about ids that are there more than once.
    """
    if not ids:
        raise UserError(f"{path} has no rows")
    if nameless := [str(row) for row, image_id in enumerate(ids, start=1) if not image_id]:
        rows = f"row {nameless[0]} has" if len(nameless) == 1 else f"rows {listed(nameless)} have"
        raise UserError(
            f"{path}: {rows} no image id: fill it in, or delete such rows (spreadsheets write empty"
            " ones below a table)"
        )
    first_row: dict[str, int] = {}
    again: dict[str, list[str]] = {}  # the rows of an id that has several
    for row, image_id in enumerate(ids, start=1):
        if "\0" in image_id:
            raise UserError(f"{path}: row {row} has a zero byte in its image id: {image_id!r}")
        if (first := first_row.setdefault(image_id, row)) != row:
            again.setdefault(image_id, [str(first)]).append(str(row))
    if again and not repeated:
        told = [
            f"{image_id} (rows {' and '.join(rows) if len(rows) == 2 else listed(rows, 3)})"
            for image_id, rows in again.items()
        ]
        times = "twice" if all(len(rows) == 2 for rows in again.values()) else "several times"
        raise UserError(
            f"{path}: {count(len(told), 'image id is', 'image ids are')} there {times}:"
            f" {listed(told)}{hint}"
        )


def choose_captions(
    captions: Sequence[Sequence[str]], *, several: Literal["one", "all"], seed: int
) -> list[list[str]]:
    """Of the captions of each picture one, or all with that one first; an empty one if none.

    Empty captions are passed over where there are others.

    Args:
        captions: those of each picture.
        several: what to do with more than one.
        seed: which of them is the one. Adding captions to a picture changes no other's.
    """
    draws = np.random.default_rng(seed)
    ordered = [drawn_first(of_picture, draws.random()) for of_picture in captions]
    return ordered if several == "all" else [of_picture[:1] for of_picture in ordered]


def note_of_passed_over(
    captions: Sequence[Sequence[str]], chosen: Sequence[Sequence[str]]
) -> list[str]:
    """What is to be said where "all" are chosen, and some are not as they are empty."""
    pairs = zip(captions, chosen, strict=True)
    if not (left_out := sum(max(0, len(given) - len(taken)) for given, taken in pairs)):
        return []
    are = count(left_out, "empty caption is", "empty captions are")
    return [f"{are} left out beside others of the same picture"]


def drawn_first(captions: Sequence[str], draw: float) -> list[str]:
    """The captions of a picture, at least one, that of `draw` (0..1) first.

    Empty ones are left out where there are others.
    """
    given = [caption for caption in captions if caption.strip()] or [*captions[:1]] or [""]
    return [given.pop(int(draw * len(given))), *given]


def listing(folder: str | Path) -> set[str]:
    """The names of what is in a folder; nothing if there is no such folder."""
    try:
        return set(os.listdir(folder or "."))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None


def _check_text(path: Path, texts: list[str]) -> None:
    # JSON can hold halves of characters, which no file in UTF-8 can.
    for row, text in enumerate(texts, start=1):
        if "\0" in text:
            raise UserError(f"{path}: row {row} has a zero byte in it: {text[:60]!r}")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UserError(f"{path}: row {row} has half a character: {text!r}") from None


def _check_pictures(path: Path, ids: list[str], pictures: list[Path]) -> None:
    # Listing the folders is far faster than asking for each file.
    present: dict[str, set[str]] = {}
    missing, first = [], ("", "")
    for row, picture in enumerate(pictures):
        folder, name = os.path.split(picture)
        if folder not in present:
            present[folder] = listing(folder)
        if name not in present[folder]:
            first = first if missing else (folder, name)
            missing.append(row)
    if missing:
        named = [f"{ids[row]} (row {row + 1})" for row in missing]
        folders = ", ".join(folder or "." for folder in list(present)[:3])
        folder, name = first
        alike = sorted(other for other in present[folder] if _bare(other) == _bare(name))
        hint = alike and (
            f"; {folder or '.'} has {alike[0]}, which differs in its ending, in capitals or in how"
            " a letter is encoded: write it as the file has it"
        )
        if "://" in ids[missing[0]]:
            hint = "; these are addresses: fetch the pictures, and name the files"
        elif "\\" in ids[missing[0]] and os.sep == "/":
            hint = "; folders are parted by / here, not by \\"
        raise MissingPictures(
            f"{path}: {len(missing)} of {len(ids)} rows have no picture file (looked in {folders}"
            f"{', ...' if len(present) > 3 else ''}): {listed(named)}{hint or ''}",
            {ids[row] for row in missing},
        )


def _bare(name: str) -> str:
    """A file's name without what is easily lost: its ending, capitals, the code of accents."""
    return unicodedata.normalize("NFC", os.path.splitext(name)[0]).casefold()


def _caption_notes(path: Path, captions: list[str]) -> list[str]:
    words = [caption.strip().lower() for caption in captions]
    notes = []
    if empty := words.count(""):
        share = "all" if empty == len(words) else f"{empty:,} of"
        notes.append(f"{path}: {share} {count(len(words), 'caption')} are empty")
    if null := sorted(set(words) & NULL_WORDS):
        found = count(sum(word in NULL_WORDS for word in words), "caption is", "captions are")
        notes.append(f"{path}: {found} nothing but {' or '.join(null)}")
    return notes
