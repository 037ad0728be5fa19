"""Features of a frozen backbone, computed once and shared by every epoch, run and job.

Every view of a picture (plain or flipped, see `transforms`) that a frozen backbone sees gives the
same features each time. A store holds them for one backbone, one precision and one transform. On
disk it is a folder of three files:

- `store.json`: everything the features depend on besides the pictures. The folder is named after
  its content, so another backbone, weight, size or precision is another folder.
- `features.bin`: one row of `width` numbers per view, append-only, read through a memory map.
- `entries.bin`: for each of these rows the SHA-256 of the picture file and a byte, 1 for flipped.

A row counts once its entry is written, and entries are written after their features: a job killed
at any moment leaves a store that is whole, and the next one computes what is missing. Because a row
belongs to a picture's content, a changed picture is computed anew and a renamed one is not.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from filelock import Timeout

from mmlabel.cache import atomic_write, fingerprint, lock
from mmlabel.data.progress import picture_progress, say
from mmlabel.data.transforms import (
    BadPicture,
    picture_views,
    read_picture,
    stack_views,
    transform_key,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LAYOUT = 1
ENTRY_BYTES = 33
COMMIT_SECONDS = 5.0
# A file whose time stamp is this young could change again without its time stamp changing.
SETTLED_NS = 2_000_000_000


class StoreUnavailable(Exception):
    """The store cannot be used or cannot hold these features: go on without it, and say why."""


@dataclass(frozen=True)
class Filled:
    """What one call of `FeatureStore.fill` did."""

    views: int  # computed by this call
    seconds: float
    bad: list[BadPicture]  # pictures left out; only with on_bad_image="skip"


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


@dataclass(frozen=True)
class _Job:
    """A picture and its views that are not in the store: 1 flipped, 0 plain."""

    path: str
    digest: bytes
    flips: tuple[int, ...]

    def entries(self) -> list[bytes]:
        return [self.digest + bytes([flip]) for flip in self.flips]


class FeatureStore:
    """The features of one backbone, precision and transform. Make it with `FeatureStore.open`."""

    def __init__(self, folder: Path, *, size: int, width: int, dtype: str) -> None:
        self.folder = folder
        self.size = size
        self.width = width
        self.dtype = np.dtype(dtype)
        self._features = folder / "features.bin"
        self._entries = folder / "entries.bin"
        self._row_bytes = width * self.dtype.itemsize

    @classmethod
    def open(
        cls,
        cache_dir: Path,
        *,
        key: dict[str, object],
        size: int,
        width: int,
        dtype: Literal["float32", "float16"],
    ) -> "FeatureStore":
        """Open the store of these settings under `cache_dir`, or begin one.

        `key` holds, as plain JSON values, all that the features depend on besides pictures and
        transform: the backbone's name ("backbone"), a digest of its weights, the precision of the
        arithmetic ("precision"), versions. `size` is the side of a view, `width` the number of
        features, `dtype` the type they are stored in. Raises `StoreUnavailable`.
        """
        header = {
            "layout": LAYOUT,
            "key": {**key, **transform_key(size)},
            "width": width,
            "dtype": dtype,
        }
        folder = Path(cache_dir) / "features" / fingerprint(header)
        try:
            if not (folder / "store.json").exists():
                with atomic_write(folder / "store.json") as temporary:
                    temporary.write_text(json.dumps(header, indent=1))
        except OSError as error:
            raise _unavailable(folder, error) from error
        with suppress(OSError):
            os.utime(folder / "store.json")  # the time of last use
        return cls(folder, size=size, width=width, dtype=dtype)

    def rows(self, pictures: Sequence[Path]) -> np.ndarray:
        """Where each picture's features are: (N, 2) int64 rows of `array()`, plain then flipped.

        -1 stands for a view that the store does not have: never asked of `fill`, or of a picture
        that cannot be read. Raises `StoreUnavailable`.
        """
        table = self._table()
        rows = np.full((len(pictures), 2), -1, np.int64)
        for i, digest in enumerate(picture_digests(pictures, self._digests)):
            if digest is not None:
                rows[i] = [table.get(digest + flip, -1) for flip in (b"\0", b"\1")]
        return rows

    def array(self) -> np.ndarray:
        """All features so far: (rows, width), a memory map whose pages all processes share.

        Take it after `rows`: rows are only ever added, so these stay valid. It maps the file anew
        at each call, so keep it. The map is copy-on-write: torch takes it without a complaint about
        read-only memory, and nothing written to it can reach the file.
        """
        shape = (self._count(), self.width)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        return np.memmap(self._features, self.dtype, mode="c", shape=shape)

    def fill(
        self,
        pictures: Sequence[Path],
        *,
        flipped: Sequence[bool],
        extract: Callable[["Tensor"], "Tensor"],
        device: "torch.device | str" = "cpu",
        batch_size: int | None = None,
        workers: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        on_bad_image: Literal["error", "skip"] = "error",
    ) -> Filled:
        """Compute what is missing: the plain view of every picture, the flipped one where asked.

        `flipped` says for each picture whether its flipped view is needed, too. `extract` maps
        pictures (B, 3, size, size) uint8 on `device`, channels-last in memory, to features
        (B, width). `batch_size` counts views and `workers` processes that decode (0: none);
        None chooses for the device. Of `world_size` processes, each computes the share of its
        `rank`; wait for all of them before `rows`. Where another job computes the same share, this
        one waits and uses its result.

        Raises `BadPicture` unless `on_bad_image` is "skip", and `StoreUnavailable` where the store
        cannot be read or written; what is complete by then is kept.
        """
        start = time.perf_counter()
        bad: list[BadPicture] = []
        jobs = self._jobs(pictures, flipped, bad)[rank::world_size]
        _raise_first(bad, on_bad_image)
        views = 0
        if missing := self._missing(jobs):
            self._check_space(missing)
            with self._turn(missing, rank, world_size) as missing:
                views = self._compute(
                    missing,
                    extract=extract,
                    device=device,
                    batch_size=batch_size,
                    workers=workers,
                    on_bad_image=on_bad_image,
                    bad=bad,
                    quiet=rank > 0,
                )
        return Filled(views, time.perf_counter() - start, bad)

    def _compute(
        self,
        jobs: list[_Job],
        *,
        extract: Callable[["Tensor"], "Tensor"],
        device: "torch.device | str",
        batch_size: int | None,
        workers: int | None,
        on_bad_image: str,
        bad: list[BadPicture],
        quiet: bool,
    ) -> int:
        import torch

        if not jobs:
            return 0
        device = torch.device(device)
        loader = _loader(jobs, self.size, device, batch_size, workers)
        waiting: list[tuple[list[bytes], Tensor]] = []
        done: list[tuple[list[bytes], np.ndarray]] = []
        views, committed = 0, time.monotonic()
        with (
            picture_progress("features", len(jobs), quiet=quiet) as advance,
            torch.inference_mode(),
        ):
            for entries, batch, failed in loader:
                bad += failed
                _raise_first(bad, on_bad_image)
                if entries:
                    waiting.append((entries, extract(batch.to(device, non_blocking=True))))
                # Copying a result waits for a GPU: do it when the next batch is on its way.
                if len(waiting) > 1:
                    done.append(self._finish(*waiting.pop(0)))
                if time.monotonic() - committed > COMMIT_SECONDS:
                    views += self._commit(done)
                    done, committed = [], time.monotonic()
                advance(len({entry[:-1] for entry in entries}) + len(failed))
            done += [self._finish(*item) for item in waiting]
            views += self._commit(done)
        return views

    def _finish(self, entries: list[bytes], features: "Tensor") -> tuple[list[bytes], np.ndarray]:
        if features.shape != (len(entries), self.width):
            raise ValueError(
                f"extract gave {tuple(features.shape)}, not {(len(entries), self.width)}"
            )
        with np.errstate(over="ignore"):
            block = features.float().cpu().numpy().astype(self.dtype)
        if not np.isfinite(block).all():
            raise StoreUnavailable(
                f"some features are not finite, or too large for {self.dtype} (features are not "
                "stored)"
            )
        return entries, block

    def _commit(self, done: list[tuple[list[bytes], np.ndarray]]) -> int:
        """Append finished batches: first features, then their entries. Returns how many views."""
        entries = [entry for group, _ in done for entry in group]
        if not entries:
            return 0
        block = np.concatenate([features for _, features in done])
        try:
            with lock(self.folder / "append"):
                count = self._count()
                _append(self._features, count * self._row_bytes, block.data)
                _append(self._entries, count * ENTRY_BYTES, b"".join(entries))
        except OSError as error:
            raise _unavailable(self.folder, error) from error
        return len(entries)

    @contextmanager
    def _turn(self, jobs: list[_Job], rank: int, world_size: int) -> Iterator[list[_Job]]:
        """Wait until no other job computes this share; give what is missing then."""
        guard = lock(self.folder / f"fill-{rank}-of-{world_size}")
        told = False
        while missing := self._missing(jobs):
            try:
                guard.acquire(timeout=2 if told else 0)
                break
            except Timeout:
                if not told:
                    say("features: another job computes them; waiting to use its result")
                told = True
            except (OSError, NotImplementedError) as error:
                raise _unavailable(self.folder, error) from error
        try:
            yield self._missing(missing)
        finally:
            guard.release()

    def _jobs(
        self, pictures: Sequence[Path], flipped: Sequence[bool], bad: list[BadPicture]
    ) -> list[_Job]:
        """Every distinct picture once, in order, with the views wanted of it."""
        wanted: dict[bytes, tuple[str, set[int]]] = {}
        digests = picture_digests(pictures, self._digests)
        for picture, digest, flip in zip(pictures, digests, flipped, strict=True):
            if digest is None:
                try:
                    read_picture(picture)
                except BadPicture as error:
                    bad.append(error)
            else:
                wanted.setdefault(digest, (str(picture), {0}))[1].update([1] if flip else [])
        return [_Job(path, digest, tuple(sorted(f))) for digest, (path, f) in wanted.items()]

    def _missing(self, jobs: Iterable[_Job]) -> list[_Job]:
        table = self._table()
        left = []
        for job in jobs:
            flips = tuple(f for f in job.flips if job.digest + bytes([f]) not in table)
            if flips:
                left.append(_Job(job.path, job.digest, flips))
        return left

    def _check_space(self, jobs: list[_Job]) -> None:
        needed = sum(len(job.flips) for job in jobs) * (self._row_bytes + ENTRY_BYTES)
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise _unavailable(self.folder, error) from error
        if needed > free:
            raise StoreUnavailable(
                f"the feature store needs {needed / 1e6:,.0f} MB in {self.folder}, where "
                f"{free / 1e6:,.0f} MB are free; set cache_dir to a larger disk or remove old "
                "stores (python -m mmlabel.features prune)"
            )

    def _table(self) -> dict[bytes, int]:
        """The row of each entry."""
        try:
            count = self._count()
            data = self._entries.read_bytes() if count else b""
        except OSError as error:
            raise _unavailable(self.folder, error) from error
        return {data[i * ENTRY_BYTES : (i + 1) * ENTRY_BYTES]: i for i in range(count)}

    def _count(self) -> int:
        """The number of complete rows; a cut-off last entry or surplus features do not count."""
        return min(_size(self._entries) // ENTRY_BYTES, _size(self._features) // self._row_bytes)

    @property
    def _digests(self) -> Path:
        return self.folder.parent / "digests"


def picture_digests(pictures: Sequence[Path], memo: Path) -> list[bytes | None]:
    """SHA-256 of each picture file; None for one that cannot be read.

    Digests are remembered in the folder `memo`, one file per picture folder, for as long as a
    picture's size and times stay: 40,000 known pictures take a fraction of a second. Besides the
    modification time, which copying tools set back, this is the time of the last change, which they
    cannot. A picture changed in the last two seconds is not remembered, for it could change again
    within the resolution of its times.
    """
    known: dict[str, dict[str, list]] = {}
    changed: set[str] = set()
    digests: list[bytes | None] = []
    now = time.time_ns()
    for picture in pictures:
        folder, name = os.path.split(os.path.abspath(picture))
        if folder not in known:
            known[folder] = _read_memo(memo, folder)
        try:
            stat = os.stat(picture)
            stamp, entry = _stamp(stat), known[folder].get(name)
            if entry is None or entry[:-1] != stamp:
                entry = [*stamp, hashlib.sha256(read_picture(picture)).hexdigest()]
                if now - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED_NS:
                    known[folder][name] = entry
                    changed.add(folder)
            digests.append(bytes.fromhex(entry[-1]))
        except (OSError, BadPicture):
            digests.append(None)
    for folder in changed:
        # A memo that cannot be written costs time at the next start and nothing else.
        with suppress(OSError), atomic_write(_memo_path(memo, folder)) as temporary:
            temporary.write_text(json.dumps(known[folder]))
    return digests


def stores(cache_dir: Path) -> list[StoreInfo]:
    """The stores under `cache_dir`, last used first."""
    found = []
    for path in (Path(cache_dir) / "features").glob("*/store.json"):
        # A store that another process removes meanwhile, or a folder of some other kind.
        with suppress(OSError, ValueError, KeyError, TypeError):
            found.append(_describe(path))
    return sorted(found, key=lambda info: info.last_used, reverse=True)


def _describe(path: Path) -> StoreInfo:
    header = json.loads(path.read_text())
    folder, key = path.parent, header["key"]
    store = FeatureStore(folder, size=key["size"], width=header["width"], dtype=header["dtype"])
    return StoreInfo(
        name=folder.name,
        folder=folder,
        key=key,
        dtype=header["dtype"],
        rows=store._count(),
        megabytes=sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        last_used=datetime.fromtimestamp(path.stat().st_mtime),
    )


def remove_store(info: StoreInfo) -> bool:
    """Delete a store from disk; False, and nothing is deleted, while a job is filling it."""
    held = []
    try:
        for path in info.folder.glob("*.lock"):
            guard = lock(path.with_suffix(""))
            guard.acquire(timeout=0)
            held.append(guard)
        shutil.rmtree(info.folder)
    except Timeout:
        return False
    finally:
        for guard in held:
            guard.release()
    return True


def forget_digests(cache_dir: Path) -> None:
    """Delete the remembered digests of picture files; they are computed anew when needed."""
    shutil.rmtree(Path(cache_dir) / "features" / "digests", ignore_errors=True)


class _Chunks:
    """A loader's data set whose items are whole batches, so that each is joined in a worker."""

    def __init__(self, chunks: list[list[_Job]], size: int) -> None:
        self.chunks = chunks
        self.size = size

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> tuple[list[bytes], "Tensor | None", list[BadPicture]]:
        """Entries (V), views (V, 3, S, S) uint8, and the pictures that could not be read."""
        entries: list[bytes] = []
        views: list[np.ndarray] = []
        bad: list[BadPicture] = []
        for job in self.chunks[index]:
            try:
                content = read_picture(job.path)
                views.append(picture_views(content, path=job.path, size=self.size, flips=job.flips))
            except BadPicture as error:
                bad.append(error)
                continue
            # The file may have changed since it was listed: features belong to what was decoded.
            read = _Job(job.path, hashlib.sha256(content).digest(), job.flips)
            entries += read.entries()
        return entries, stack_views(views) if views else None, bad


def _loader(
    jobs: list[_Job], size: int, device: "torch.device", batch_size: int | None, workers: int | None
) -> Iterable[tuple[list[bytes], "Tensor | None", list[BadPicture]]]:
    import torch
    from torch.utils.data import DataLoader

    on_gpu = device.type == "cuda"
    chunks = _chunks(jobs, batch_size or (256 if on_gpu else 32))
    if workers is None:
        # Decoding costs a tenth of a small backbone's time on the same processor.
        cores = _cores()
        workers = cores if on_gpu else max(1, cores // 4)
    return DataLoader(
        _Chunks(chunks, size),
        batch_size=None,
        num_workers=min(workers, len(chunks) - 1),
        pin_memory=on_gpu,
        # Its own generator: a run that fills the store must draw the same numbers afterwards as a
        # run that finds it full.
        generator=torch.Generator(),
    )


def _chunks(jobs: list[_Job], views: int) -> list[list[_Job]]:
    """Cut into batches of at most `views` views, a picture's views staying together."""
    chunks: list[list[_Job]] = [[]]
    used = 0
    for job in jobs:
        if chunks[-1] and used + len(job.flips) > views:
            chunks.append([])
            used = 0
        chunks[-1].append(job)
        used += len(job.flips)
    return chunks


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


def _raise_first(bad: list[BadPicture], on_bad_image: str) -> None:
    if bad and on_bad_image == "error":
        raise bad[0]


def _unavailable(folder: Path, error: Exception) -> StoreUnavailable:
    reason = getattr(error, "strerror", None) or str(error)
    return StoreUnavailable(
        f"the feature store in {folder} cannot be used ({reason}); free some space (python -m "
        "mmlabel.features prune) or set cache_dir to a folder that can be written"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _cores() -> int:
    """Processors this process may use; a container is often given fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stamp(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _memo_path(memo: Path, folder: str) -> Path:
    return memo / f"{fingerprint(folder)}.json"


def _read_memo(memo: Path, folder: str) -> dict[str, list]:
    try:
        content = json.loads(_memo_path(memo, folder).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
