"""Whole stores: checked row by row, put together from parts, and written out for other programs."""

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from mmlabel.cache import atomic_write
from mmlabel.data.row_store import RowStore
from mmlabel.errors import UserError
from mmlabel.progress import progress
from mmlabel.spreadsheet import to_cell

_COLUMNS = ["row", "id", "flipped"]  # beside OUT.npy
_ARRAYS = ("ids", "flipped", "features")  # in OUT.npz
_CHUNK_BYTES = 64e6  # of rows that are in memory at a time


@dataclass(frozen=True)
class Checked:
    """What a look at every row of a store has found.

    Attributes:
        whole: (R,) bool, of each row, whether its numbers are those that were written.
        entries: of each row.
        replaced: damaged rows whose entry has a whole row, too: they were computed anew.
        unknown: rows without a checksum, of a version that wrote none; they count as whole.
        lost: entries whose rows are not there any more.
        surplus: bytes behind the last row, of a job that was killed; the next one cuts them off.
    """

    whole: np.ndarray
    entries: list[bytes]
    replaced: int
    unknown: int
    lost: int
    surplus: int

    @property
    def damaged(self) -> int:
        """Rows that are not as written and not replaced: they are computed anew when needed."""
        return int((~self.whole).sum()) - self.replaced


def check(store: RowStore) -> Checked:
    """Hold every row of a store against its checksum. Raises `StoreUnavailable`."""
    entries = store.entries()
    whole = np.ones(len(entries), bool)
    size = _rows_at_a_time(store)
    unknown = 0
    with progress(f"checking {store.folder.name[:12]}", len(entries), unit="rows") as advance:
        for start in range(0, len(entries), size):
            stop = min(start + size, len(entries))
            matches, without = store.matches(entries, start, stop)
            whole[start:stop] = matches
            unknown += without
            advance(stop - start)
    good = {entry for entry, kept in zip(entries, whole, strict=True) if kept}
    replaced = sum(entries[row] in good for row in np.flatnonzero(~whole))
    return Checked(whole, entries, replaced, unknown, store.lost(), store.surplus())


@dataclass(frozen=True)
class Merged:
    """What a part gave to a store."""

    added: int
    known: int  # rows that the store had already
    other: int  # of these, rows with other numbers there
    most: float  # by which a number differs, at most
    damaged: int  # rows that are not as they were written, or not there any more; left out


def merge(parts: Sequence[RowStore], target: RowStore) -> list[Merged]:
    """Add the rows of other stores of the same key to `target`, each part checked first.

    A row that the target has is left as it is, and counted if its numbers are others. Rows count
    once their entries are written, so that a merge which is interrupted leaves a whole store with
    some of the rows, and the same call adds the others.

    Raises `StoreUnavailable` where the disk is too small or cannot be written.
    """
    checked = [check(store) for store in parts]
    new = {
        entry
        for found in checked
        for entry, whole in zip(found.entries, found.whole, strict=True)
        if whole
    }
    target.check_space(int((target.rows(list(new)) < 0).sum()))
    # Held to the end, so that the store is not taken for one that nobody fills, and removed.
    with target.turn(list(new), share="merge", work="merging"):
        return [_add(store, found, target) for store, found in zip(parts, checked, strict=True)]


def _add(store: RowStore, found: Checked, target: RowStore) -> Merged:
    # Of an entry's rows the last whole one counts, as everywhere.
    rows = {found.entries[row]: row for row in np.flatnonzero(found.whole).tolist()}
    entries = list(rows)
    there = target.rows(entries)
    chosen = [entries[n] for n in np.flatnonzero(there < 0).tolist()]
    known = np.flatnonzero(there >= 0)
    array, size = store.array(), _rows_at_a_time(store)
    other, most, kept = 0, 0.0, target.array()
    for start in range(0, len(known), size):
        some = known[start : start + size]
        ours = array[[rows[entries[n]] for n in some.tolist()]].astype(np.float32)
        apart = np.abs(ours - kept[there[some]]).max(1)
        other += int((apart > 0).sum())
        most = max(most, float(apart.max()))
    with progress(f"merging {store.folder}", len(chosen), unit="rows") as advance:
        for start in range(0, len(chosen), size):
            some = chosen[start : start + size]
            target.append(some, array[[rows[entry] for entry in some]])
            advance(len(some))
    return Merged(len(chosen), len(known), other, most, found.damaged + found.lost)


def export(
    store: RowStore, out: Path, names: dict[bytes, list[str]] | None
) -> tuple[int, int, int]:
    """Write a store's whole rows with what they belong to.

    Returns how many rows were written, how many pictures have none, and how many rows of the store
    are damaged or not there any more.

    OUT.npz holds "ids" (R,) text, "flipped" (R,) bool and "features" (R, width); of OUT.npy the
    array is the file, and the ids are in OUT.csv beside it (row, id, flipped). The two views of a
    picture are rows of their own, in the order of the ids.

    Args:
        store: to be written out.
        out: the file, .npz or .npy.
        names: for the digest of a picture file (32 bytes) the ids that stand for it; None: the id
            of a row is that digest, in hex.
    """
    found = check(store)
    last = {found.entries[row]: row for row in np.flatnonzero(found.whole).tolist()}
    lines, absent = [], 0
    if names is None:
        lines = [(entry[:-1].hex(), entry[-1] == 1, row) for entry, row in last.items()]
    else:
        for digest, ids in names.items():
            views = [(flip, last.get(digest + bytes([flip]))) for flip in (0, 1)]
            there = [(flip == 1, row) for flip, row in views if row is not None]
            absent += 0 if there else len(ids)
            lines += [(name, flip, row) for name in ids for flip, row in there]
    if not lines:
        raise UserError(f"{store.folder} has no row of these pictures: nothing is written")
    try:
        _write(out, store, lines)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from error
    return len(lines), absent, found.damaged + found.lost


def _write(out: Path, store: RowStore, lines: list[tuple[str, bool, int]]) -> None:
    rows = np.array([row for *_, row in lines])
    if out.suffix == ".npz":
        columns = {
            "ids": np.array([name for name, *_ in lines]),
            "flipped": np.array([flip for _, flip, _ in lines]),
        }
        with atomic_write(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, column in columns.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, column)
            with archive.open("features.npy", "w", force_zip64=True) as file:
                _write_rows(file, store, rows)
        return
    # Both get their names at the end: one of an earlier export would be taken for the other's.
    with atomic_write(out.with_suffix(".csv")) as ids, atomic_write(out) as temporary:
        with open(ids, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            writer.writerows((n, to_cell(name), int(f)) for n, (name, f, _) in enumerate(lines))
        with open(temporary, "wb") as file:
            _write_rows(file, store, rows)


def check_out(out: Path) -> None:
    """See that `export` replaces nothing but an earlier export's files; raises UserError."""
    ids = out.with_suffix(".csv")
    alone = out.suffix == ".npz"
    if _has_columns(out) if alone else _is_of_rows(ids):
        return
    for file in [out] if alone else [out, ids]:
        if file.exists() and file.stat().st_size:
            raise UserError(f"{file} is another file already: give another name than {out}")


def _has_columns(path: Path) -> bool:
    """Whether a file OUT.npz is that of an earlier export."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist()) == {f"{name}.npy" for name in _ARRAYS}
    except (OSError, zipfile.BadZipFile):
        return False


def _is_of_rows(path: Path) -> bool:
    """Whether a file beside OUT.npy is that of an earlier export."""
    try:
        with open(path, "rb") as file:
            return file.readline().split() == [",".join(_COLUMNS).encode()]
    except OSError:
        return False


def _write_rows(file: IO[bytes], store: RowStore, rows: np.ndarray) -> None:
    """In NumPy's format, a piece at a time: a store may be larger than the memory."""
    described = np.lib.format.dtype_to_descr(store.dtype)
    shape = (len(rows), store.width)
    np.lib.format.write_array_header_1_0(
        file, {"descr": described, "fortran_order": False, "shape": shape}
    )
    array, size = store.array(), _rows_at_a_time(store)
    for start in range(0, len(rows), size):
        file.write(np.ascontiguousarray(array[rows[start : start + size]]).data)


def _rows_at_a_time(store: RowStore) -> int:
    return max(1, int(_CHUNK_BYTES / (store.width * store.dtype.itemsize)))
