"""Rows of numbers on disk, each belonging to a picture's content, shared by runs and jobs.

A store is a folder of four files:

- `store.json`: everything the rows depend on besides the pictures. The folder is named after its
  content, so another backbone, weight, size or precision is another folder.
- `features.bin`: one row of `width` numbers per entry, append-only, read through a memory map.
- `checksums.bin`: a CRC-32 per row, of its entry and its numbers.
- `entries.bin`: for each row the SHA-256 of the picture file and a byte that tells its views apart.

A row counts once its entry is written, and entries are written last: a job killed at any moment
leaves a store that is whole, and the next one computes what is missing. Because a row belongs to a
picture's content, a changed picture is computed anew and a renamed one is not. A row whose checksum
does not match is as good as none: it is computed anew, and appended.
"""

import errno
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from mmlabel.cache import atomic_write, fingerprint, lock
from mmlabel.errors import UserError
from mmlabel.progress import say

LAYOUT = 1
ENTRY_BYTES = 33
CHECKSUM_BYTES = 4


class StoreUnavailable(Exception):
    """The store cannot be used or cannot hold these rows: go on without it, and say why."""


@dataclass(frozen=True)
class StoreInfo:
    """One store on disk."""

    name: str
    folder: Path
    key: dict[str, object]
    dtype: str
    rows: int
    megabytes: float
    last_used: datetime


class RowStore:
    """The rows of one backbone or detector. Make it with `RowStore.open`.

    An entry is the SHA-256 of a picture file, or of a caption's tokens, and one more byte, 33 bytes
    together.
    """

    def __init__(
        self, folder: Path, *, width: int, dtype: str, description: str | None = None
    ) -> None:
        self.folder = folder
        self._description = description
        self.width = width
        self.dtype = np.dtype(dtype)
        self._features = folder / "features.bin"
        self._checksums = folder / "checksums.bin"
        self._entries = folder / "entries.bin"
        self._row_bytes = width * self.dtype.itemsize
        self._whole = np.zeros(0, bool)  # of each row, whether its checksum was seen to match
        self._found = 0  # so many rows have to be there, of those that `rows` has given

    @classmethod
    def open(cls, cache_dir: Path, *, key: dict[str, object], width: int, dtype: str) -> "RowStore":
        """The store of this key under `cache_dir`; it is on disk once it has rows.

        `key` holds, as plain JSON values, all that a row depends on besides its entry; `width` is
        the number of numbers in a row and `dtype` their type.
        """
        header = {"layout": LAYOUT, "key": key, "width": width, "dtype": dtype}
        folder = Path(cache_dir) / "features" / fingerprint(header)
        store = cls(folder, width=width, dtype=dtype, description=json.dumps(header, indent=1))
        with suppress(OSError):
            if store._entries.exists():
                store._describe()
                os.utime(folder / "store.json")  # the time of last use
        return store

    def rows(self, entries: Sequence[bytes]) -> np.ndarray:
        """(N,) int64 rows of `array()`; -1 for an entry without one, or with a damaged one.

        Raises `StoreUnavailable`.
        """
        try:
            count = self._count()
            known = self._entries.read_bytes()[: count * ENTRY_BYTES] if count else b""
            kept = self._checksums.read_bytes() if self._checksums.exists() else b""
        except OSError as error:
            raise unavailable(self.folder, error) from error
        # Of an entry's rows the last one counts: it was added because those before are damaged.
        table = {entry: row for row, entry in enumerate(_entries(known))}
        rows = np.array([table.get(entry, -1) for entry in entries], np.int64)
        array = np.asarray(self._map())
        rows[rows >= len(array)] = -1  # the store was removed meanwhile, see `remove_store`
        checksums = np.frombuffer(kept[: len(kept) // CHECKSUM_BYTES * CHECKSUM_BYTES], "<u4")
        self._whole = np.append(self._whole, np.zeros(max(0, count - len(self._whole)), bool))
        # Rows at the end without a checksum are of a version that wrote none.
        summed = np.flatnonzero((rows >= 0) & (rows < len(checksums)))
        unsure = summed[~self._whole[rows[summed]]]
        chosen = rows[unsure]
        found = _checksums((entries[n] for n in unsure.tolist()), array, chosen.tolist())
        damaged = found != checksums[chosen]
        self._whole[chosen[~damaged]] = True
        rows[unsure[damaged]] = -1
        self._found = int(rows.max(initial=-1)) + 1
        return rows

    def array(self) -> np.ndarray:
        """All rows so far: (rows, width), a memory map whose pages all processes share.

        Take it after `rows`: rows are only ever added, so these stay valid. It maps the file anew
        at each call, so keep it. The map is copy-on-write: torch takes it without a complaint about
        read-only memory, and nothing written to it can reach the file.

        Raises `StoreUnavailable`, also where the store was removed since `rows` was called.
        """
        array = self._map()
        if len(array) < self._found:
            raise StoreUnavailable(f"the feature store in {self.folder} was removed meanwhile")
        return array

    def _map(self) -> np.ndarray:
        try:
            shape = (self._count(), self.width)
            if 0 in shape:
                return np.empty(shape, self.dtype)
            return np.memmap(self._features, self.dtype, mode="c", shape=shape)
        except (OSError, ValueError) as error:  # removed, or cut off, between the two
            raise unavailable(self.folder, error) from error

    def entries(self) -> list[bytes]:
        """Of every row so far its entry, in their order. Raises `StoreUnavailable`."""
        try:
            count = self._count()
            known = self._entries.read_bytes()[: count * ENTRY_BYTES] if count else b""
        except OSError as error:
            raise unavailable(self.folder, error) from error
        return list(_entries(known))

    def matches(self, entries: Sequence[bytes], start: int, stop: int) -> tuple[np.ndarray, int]:
        """Of rows start..stop, whether each is as it was written, and how many have no checksum.

        `entries` are those of all rows. A row of a version that wrote no checksums counts as whole.
        """
        matching = np.ones(stop - start, bool)
        known = min(max(_size(self._checksums) // CHECKSUM_BYTES - start, 0), stop - start)
        if known:
            try:
                sums = np.fromfile(self._checksums, "<u4", known, offset=start * CHECKSUM_BYTES)
            except OSError as error:
                raise unavailable(self.folder, error) from error
            rows = range(start, start + known)
            array = np.asarray(self._map())
            matching[:known] = _checksums(entries[start : start + known], array, rows) == sums
        return matching, stop - start - known

    def lost(self) -> int:
        """Entries without numbers, which are written first: the file of these has been cut off."""
        return _size(self._entries) // ENTRY_BYTES - self._count()

    def surplus(self) -> int:
        """Bytes of rows that are not complete: what a job left that was killed while writing."""
        count = self._count()
        return (
            _size(self._entries) % ENTRY_BYTES
            + max(0, _size(self._features) - count * self._row_bytes)
            + max(0, _size(self._checksums) - count * CHECKSUM_BYTES)
        )

    def append(self, entries: Sequence[bytes], block: np.ndarray) -> None:
        """Add rows: (N, width) finite numbers for N entries. Raises `StoreUnavailable`."""
        if block.shape != (len(entries), self.width):
            raise ValueError(f"rows of shape {block.shape}, not {(len(entries), self.width)}")
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(block, self.dtype)
        if not np.isfinite(block).all():
            raise StoreUnavailable(
                f"some features are not finite, or too large for {self.dtype} (features are not "
                "stored)"
            )
        try:
            with lock(self.folder / "append"):
                self._describe()
                count = self._count()
                # Where an older version has added rows, their checksums come first.
                first = min(_size(self._checksums) // CHECKSUM_BYTES, count)
                older = range(first, count)
                known = self._entries.read_bytes() if older else b""
                stored = np.asarray(self._map())
                checksums = [
                    _checksums(list(_entries(known))[first:count], stored, older),
                    _checksums(entries, block, range(len(block))),
                ]
                sums = np.concatenate(checksums).tobytes()
                _append(self._features, count * self._row_bytes, block.data)
                _append(self._checksums, first * CHECKSUM_BYTES, sums)
                _append(self._entries, count * ENTRY_BYTES, b"".join(entries))
        except (OSError, NotImplementedError) as error:  # a file system without locks
            raise unavailable(self.folder, error) from error

    @contextmanager
    def turn(self, entries: Sequence[bytes], *, share: str, work: str) -> Iterator[None]:
        """Wait until no other job computes the same share, or until the store has all entries.

        `share` names what is computed under one lock, `work` is for the line that says so. Raises
        `StoreUnavailable`.
        """
        held = self.folder / f"fill-{share}"
        told = False
        try:
            guard = lock(held)
            while (self.rows(entries) < 0).any():
                try:
                    guard.acquire(timeout=2 if told else 0)
                    break
                except Timeout:
                    if not told:
                        say(f"{work}: another job computes them; waiting to use its result")
                    told = True
                except FileNotFoundError:  # that job has failed before it had a row
                    guard = lock(held)
        except (OSError, NotImplementedError) as error:
            raise unavailable(self.folder, error) from error
        try:
            yield
        finally:
            guard.release()
            if not self._entries.exists():
                with suppress(OSError):  # another job may be there
                    Path(guard.lock_file).unlink()
                    self.folder.rmdir()

    def check_space(self, rows: int, *, most: float | None = None, quiet: bool = False) -> None:
        """Say what disk so many more rows need.

        Raises `StoreUnavailable` where they do not fit on it, or make more of the store than `most`
        gigabytes (10^9 bytes).
        """
        one = self._row_bytes + CHECKSUM_BYTES + ENTRY_BYTES
        needed, total = rows * one, (self._count() + rows) * one
        if most is not None and total > most * 1e9:
            raise StoreUnavailable(
                f"the feature store would have {total / 1e9:.3g} GB in {self.folder}, more than"
                f" features.max_gigabytes={most:g}"
            )
        if needed > 1e8 and not quiet:
            say(f"the feature store takes {needed / 1e9:.3g} GB of disk in {self.folder}")
        try:
            there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
            free = shutil.disk_usage(there).free
        except OSError as error:
            raise unavailable(self.folder, error) from error
        if needed > free:
            raise StoreUnavailable(
                f"the feature store needs {needed / 1e6:,.0f} MB in {self.folder}, where "
                f"{free / 1e6:,.0f} MB are free; set cache_dir to a larger disk or remove old "
                "stores (python -m mmlabel.features prune)"
            )

    def _describe(self) -> None:
        """Write store.json; the folder's name says what has to be in it, so damage is mended."""
        path, text = self.folder / "store.json", self._description
        if text is not None and not (path.exists() and path.read_bytes() == text.encode()):
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def _count(self) -> int:
        """The number of complete rows; a cut-off last entry or surplus features do not count."""
        return min(_size(self._entries) // ENTRY_BYTES, _size(self._features) // self._row_bytes)


def stores(cache_dir: Path) -> list[StoreInfo]:
    """The stores under `cache_dir`, last used first."""
    listed = []
    for path in (Path(cache_dir) / "features").glob("*/store.json"):
        # A store that another process removes meanwhile, or whatever else is there.
        with suppress(Exception):
            listed.append(_describe(path))
    return sorted(listed, key=lambda info: info.last_used, reverse=True)


def without_description(cache_dir: Path) -> list[Path]:
    """The folders that `stores` passes over, as their `store.json` is missing or damaged."""
    known = {info.folder for info in stores(cache_dir)}
    files = (Path(cache_dir) / "features").glob("*/*.bin")
    return sorted({path.parent for path in files} - known)


def shut(cache_dir: Path) -> list[Path]:
    """The folders of stores that this user may not look into, which `stores` passes over.

    Raises OSError where it is the folder of them all.
    """
    features = Path(cache_dir) / "features"
    folders = sorted(features.iterdir()) if features.is_dir() else []
    named = (path for path in folders if re.fullmatch("[0-9a-f]{32}", path.name))
    return [path for path in named if not os.access(path, os.R_OK | os.X_OK)]


def megabytes_of(folder: Path) -> float:
    """What a store takes on disk."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def open_store(folder: Path) -> RowStore:
    """The store in a folder, wherever that has been moved to.

    Raises UserError for a folder that holds none, or whose description is not that of its rows.
    """
    header = _header(folder)
    return RowStore(folder, width=header["width"], dtype=header["dtype"])


def key_of(folder: Path) -> dict[str, object]:
    """All that a store's rows depend on besides the pictures, with their width and type.

    Raises UserError as `open_store` does.
    """
    header = _header(folder)
    return {**header["key"], "width": header["width"], "dtype": header["dtype"]}


def remove_store(folder: Path) -> bool:
    """Delete a store from disk; False, and nothing is deleted, while a job is filling it.

    Raises `StoreUnavailable` where this is not possible.
    """
    held = []
    try:
        for path in folder.glob("*.lock"):
            guard = lock(path.with_suffix(""))
            with suppress(NotImplementedError):  # a file system without locks
                guard.acquire(timeout=0)
                held.append(guard)
        # What is left when this is cut short has no rows, and is found and removed another time.
        (folder / "entries.bin").unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name != "store.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(folder)
    except Timeout:
        return False
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreUnavailable(
            f"the feature store in {folder} cannot be removed ({reason})"
        ) from error
    finally:
        for guard in held:
            guard.release()
    return True


def unavailable(folder: Path, error: Exception) -> StoreUnavailable:
    """What an error of the operating system means for the user of a store."""
    reason = getattr(error, "strerror", None) or str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    room = "free some space (python -m mmlabel.features prune) or " if full else ""
    return StoreUnavailable(
        f"the feature store in {folder} cannot be used ({reason}); {room}set cache_dir to a folder"
        " that can be written"
    )


def _header(folder: Path) -> dict[str, Any]:
    """What `store.json` says of the rows beside it.

    Raises UserError for what cannot be read, and for what is not the description that the folder is
    named after: rows would be read as another network's.
    """
    try:
        header = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        right = (
            isinstance(header["key"], dict)
            and type(header["width"]) is int
            and header["width"] > 0
            and header["dtype"] in ("float16", "float32")
        )
        if re.fullmatch("[0-9a-f]{32}", name := folder.resolve().name):
            right = right and fingerprint(header) == name
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder} holds no store of features or scores ({error})") from error
    if not right:
        raise UserError(
            f"{folder / 'store.json'} does not describe the rows of its folder: it is damaged, or"
            " another store's; a run that uses the store mends it"
        )
    return header


def _describe(path: Path) -> StoreInfo:
    folder = path.parent
    header = _header(folder)
    store = RowStore(folder, width=header["width"], dtype=header["dtype"])
    return StoreInfo(
        name=folder.name,
        folder=folder,
        key=header["key"],
        dtype=str(store.dtype),
        rows=store._count(),
        megabytes=megabytes_of(folder),
        last_used=datetime.fromtimestamp(path.stat().st_mtime),
    )


def _entries(known: bytes) -> Iterator[bytes]:
    whole = len(known) // ENTRY_BYTES * ENTRY_BYTES
    return (entry for (entry,) in struct.iter_unpack(f"{ENTRY_BYTES}s", known[:whole]))


def _checksums(entries: Iterable[bytes], array: np.ndarray, rows: Iterable[int]) -> np.ndarray:
    """(N,) "<u4": a CRC-32 of each entry followed by the bytes of its row of `array`."""
    if not array.size:
        return np.zeros(0, "<u4")
    # Slices of plain bytes: taking a row out of an array takes as long as its checksum.
    size = array.strides[0]
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    crc32 = zlib.crc32
    found = [
        crc32(content[row * size : (row + 1) * size], crc32(entry))
        for entry, row in zip(entries, rows, strict=True)
    ]
    return np.array(found, "<u4")


def _append(path: Path, position: int, data: bytes | memoryview) -> None:
    """Write at `position`, the end of what is complete; on failure nothing stays behind it."""
    try:
        with open(path, "ab") as file:
            file.truncate(position)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(path, position)
        raise


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
