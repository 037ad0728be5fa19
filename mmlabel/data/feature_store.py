"""What a frozen network says of a picture, computed once and shared by every epoch, run and job.

Every view of a picture (plain or flipped, see `transforms`) that a frozen backbone sees gives the
same features each time, and a detector gives a picture the same scores. A `FeatureStore` holds the
features of one backbone, precision and transform; `detector_scores` gives a detector's scores. How
both lie on disk is `row_store`'s concern.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from mmlabel.data.digests import digests_folder, picture_digests
from mmlabel.data.filling import (
    Job,
    OnBadImage,
    compute,
    entries_of,
    entry_of,
    jobs_of,
    missing_views,
    raise_first,
)
from mmlabel.data.pictures import BadPicture, decode
from mmlabel.data.row_store import RowStore, StoreUnavailable
from mmlabel.data.transforms import (
    Size,
    decoder_key,
    picture_views,
    stack_views,
    transform_key,
)
from mmlabel.errors import UserError
from mmlabel.progress import say

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

DETECTOR_BATCH = 32


@dataclass(frozen=True)
class Filled:
    """What one call of `FeatureStore.fill` did."""

    views: int  # computed by this call
    seconds: float
    bad: list[BadPicture]  # pictures left out; only with on_bad_image="skip"


class FeatureStore:
    """The features of one backbone, precision and transform; on disk once it has rows.

    Args:
        cache_dir: under which it is.
        key: as plain JSON values, all that the features depend on besides pictures and transform:
            the backbone's name ("backbone"), a digest of its weights, the precision of the
            arithmetic ("precision"), versions.
        size: of a view, see `transforms`.
        width: the number of features.
        dtype: that they are stored in.
        upright: whether pictures are turned as their EXIF data says.
        max_gigabytes: the most disk (10^9 bytes) that `fill` may bring the store to.
    """

    def __init__(
        self,
        cache_dir: Path,
        *,
        key: dict[str, object],
        size: Size,
        width: int,
        dtype: Literal["float32", "float16"],
        upright: bool = False,
        max_gigabytes: float | None = None,
    ) -> None:
        key = {**key, **transform_key(size, upright=upright)}
        self._store = RowStore.open(cache_dir, key=key, width=width, dtype=dtype)
        self.folder = self._store.folder
        self.size = size
        self.upright = upright
        self._digests = digests_folder(cache_dir)
        self._max_gigabytes = max_gigabytes

    def rows(self, pictures: Sequence[Path]) -> np.ndarray:
        """Where each picture's features are: (N, 2) int64 rows of `array()`, plain then flipped.

        -1 stands for a view that the store does not have: never asked of `fill`, of a picture that
        cannot be read, or damaged. Raises `StoreUnavailable`.
        """
        rows = np.full((len(pictures), 2), -1, np.int64)
        digests = picture_digests(pictures, self._digests)
        known = [n for n, digest in enumerate(digests) if digest is not None]
        entries = [entry_of(digest, flip) for digest in digests if digest for flip in (0, 1)]
        rows[known] = self._store.rows(entries).reshape(-1, 2)
        return rows

    def array(self) -> np.ndarray:
        """All features so far, (rows, width): see `RowStore.array`. Take it after `rows`."""
        return self._store.array()

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
        shared: bool = True,
        on_bad_image: OnBadImage = "error",
    ) -> Filled:
        """Compute what is missing: the plain view of every picture, the flipped one where asked.

        `flipped` says for each picture whether its flipped view is needed, too. `extract` maps
        pictures (B, 3, H, W) uint8 on `device`, channels-last in memory, to features
        (B, width). `batch_size` counts views and `workers` processes that decode (0: none); None
        chooses for the device, on a CPU threads. Of `world_size` processes, each computes the share
        of its `rank`; wait for all of them before `rows`. Where another job computes the same
        share, this one waits and uses its result. `shared`: the others' shares come into this
        store, too, and count in the disk that it needs.

        Raises `BadPicture` unless `on_bad_image` is "skip", and `StoreUnavailable` where the store
        cannot be read or written, or would be too large; what is complete by then is kept.
        """
        start = time.perf_counter()
        # One picture may have many rows (captions), which are not to end up in several shares.
        distinct: dict[Path, bool] = {}
        for picture, flip in zip(pictures, flipped, strict=True):
            distinct[picture] = distinct.get(picture, False) or flip
        # Before any picture is read: a share must not cost the reading of all.
        share = slice(rank, None, world_size)
        jobs, bad = jobs_of(list(distinct)[share], list(distinct.values())[share], self._digests)
        raise_first(bad, on_bad_image)
        views, missing = 0, missing_views(jobs, self._store)
        if missing:
            entries, name = entries_of(missing), f"{rank}-of-{world_size}"
            every = jobs
            if shared and world_size > 1:
                every, _ = jobs_of(list(distinct), list(distinct.values()), self._digests)
            self._check_space(every, quiet=rank > 0)
            with self._store.turn(entries, share=name, work="features"):
                # While this one waited, another job may have stored rows of other pictures.
                if missing := missing_views(missing, self._store):
                    self._check_space(every, quiet=True)
                views = compute(
                    missing,
                    work="features",
                    look=partial(_views, size=self.size, upright=self.upright),
                    join=stack_views,
                    extract=lambda batch: extract(batch.to(device, non_blocking=True)),
                    keep=self._store.append,
                    on_gpu=str(device).startswith("cuda"),
                    batch_size=batch_size,
                    workers=workers,
                    on_bad_image=on_bad_image,
                    bad=bad,
                    quiet=rank > 0,
                )
        return Filled(views, time.perf_counter() - start, bad)

    def _check_space(self, jobs: "list[Job]", *, quiet: bool) -> None:
        """See that the store may have what it lacks of these; raises `StoreUnavailable`."""
        lacking = len(entries_of(missing_views(jobs, self._store)))
        self._store.check_space(lacking, most=self._max_gigabytes, quiet=quiet)


class PictureScorer(Protocol):
    """What `detector_scores` needs of a detector, and a run's record tells of it."""

    num_labels: int

    @property
    def parameters(self) -> int:
        """How many numbers it has learned."""
        ...

    @property
    def megabytes(self) -> float:
        """Of its weights, 10^6 bytes each."""
        ...

    def key(self) -> dict[str, object]:
        """All that scores depend on besides the picture, as plain values."""
        ...

    def load(self) -> None:
        """Make ready, so that the time this takes is not counted as detection."""

    def scores(self, pictures: Sequence["Image"]) -> np.ndarray:
        """(N, num_labels) float32 of RGB pictures."""
        ...


@dataclass(frozen=True)
class Scores:
    """The scores of some pictures."""

    array: np.ndarray  # (N, num_labels) float32, 0 in the rows of bad pictures
    bad: list[int]  # rows of pictures that cannot be read; only with on_bad_image="skip"
    computed: int  # pictures that this call ran the detector on
    seconds: float  # of this call
    detector_seconds: float  # that the detector took for all of them, whenever that was
    detected: int  # how many different pictures these are


def detector_scores(
    pictures: Sequence[Path],
    detector: PictureScorer,
    *,
    cache_dir: Path,
    on_bad_image: OnBadImage = "error",
) -> Scores:
    """The scores of picture files, from the store where it has them.

    Pictures are decoded whatever their kind (grey, palette, CMYK) to RGB, and turned upright if
    their EXIF data says so. Where another job runs the same detector, this one waits and uses its
    result. A store that cannot be written is done without, and said on standard error.

    Raises `BadPicture` unless `on_bad_image` is "skip", UserError for a picture that changes
    meanwhile, and what the detector raises.
    """
    start = time.perf_counter()
    memo = digests_folder(cache_dir)
    jobs, bad = jobs_of(pictures, [False] * len(pictures), memo)
    raise_first(bad, on_bad_image)
    scored = _Scored(cache_dir, detector)
    computed, missing = 0, scored.missing(jobs)
    if missing:
        detector.load()
        with scored.turn(missing):
            computed = compute(
                scored.missing(missing),
                work="detections",
                look=_upright,
                join=list,
                extract=partial(_timed_scores, detector),
                keep=scored.keep,
                batch_size=DETECTOR_BATCH,
                on_bad_image=on_bad_image,
                bad=bad,
            )
    # Once more, as a picture may have changed since: its scores belong to what was decoded.
    digests = picture_digests(pictures, memo)
    known = scored.rows([digest for digest in digests if digest is not None])
    unknown = [n for n, digest in enumerate(digests) if digest not in known]
    array = np.zeros((len(pictures), detector.num_labels + 1), np.float32)
    for n, digest in enumerate(digests):
        if digest in known:
            array[n] = known[digest]
    failed = {str(problem.path) for problem in bad}
    unreadable = {digests[n] for n in unknown if str(pictures[n]) in failed}
    if on_bad_image == "skip":
        unreadable.add(None)
    if changed := [n for n in unknown if digests[n] not in unreadable]:
        raise UserError(
            f"{pictures[changed[0]]} changed while its scores were computed, or could not be read"
            " meanwhile: start it again"
        )
    return Scores(
        array=np.ascontiguousarray(array[:, :-1]),
        bad=unknown,
        computed=computed,
        seconds=time.perf_counter() - start,
        detector_seconds=sum(float(row[-1]) for row in known.values()),
        detected=len(known),
    )


class _Scored:
    """A detector's rows, of scores and the seconds they took; in memory where disks refuse."""

    def __init__(self, cache_dir: Path, detector: PictureScorer) -> None:
        key = {**detector.key(), "decoder": {**decoder_key(), "exif": "upright"}}
        self._memory: dict[bytes, np.ndarray] = {}
        width = detector.num_labels + 1
        self._store: RowStore | None = RowStore.open(
            cache_dir, key=key, width=width, dtype="float32"
        )

    def rows(self, digests: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The row (num_labels + 1) of each digest that has one."""
        entries = [entry_of(digest, flip=0) for digest in digests]
        rows: dict[bytes, np.ndarray] = {}
        try:
            if self._store is not None:
                where = self._store.rows(entries).tolist()
                array = self._store.array()
                rows = {d: array[row] for d, row in zip(digests, where, strict=True) if row >= 0}
        except StoreUnavailable as reason:
            self._give_up(reason)
        kept = zip(digests, entries, strict=True)
        return rows | {d: self._memory[entry] for d, entry in kept if entry in self._memory}

    def missing(self, jobs: "list[Job]") -> "list[Job]":
        known = self.rows([job.digest for job in jobs])
        return [job for job in jobs if job.digest not in known]

    @contextmanager
    def turn(self, jobs: "list[Job]") -> Iterator[None]:
        """`RowStore.turn`, where there is a store."""
        with ExitStack() as stack:
            if self._store is not None:
                try:
                    turn = self._store.turn(entries_of(jobs), share="scores", work="detections")
                    stack.enter_context(turn)
                except StoreUnavailable as reason:
                    self._give_up(reason)
            yield

    def keep(self, entries: Sequence[bytes], block: np.ndarray) -> None:
        self._memory.update(zip(entries, block, strict=True))
        try:
            if self._store is not None:
                self._store.append(entries, block)
        except StoreUnavailable as reason:
            self._give_up(reason)

    def _give_up(self, reason: StoreUnavailable) -> None:
        self._store = None
        say(f"detections: scores are not kept: {reason}")


def _views(content: bytes, job: Job, *, size: Size, upright: bool) -> np.ndarray:
    flips = [flip == 1 for flip in job.flips]
    return picture_views(content, path=job.path, size=size, flips=flips, upright=upright)


def _upright(content: bytes, job: Job) -> "Image":
    return decode(content, job.path, upright=True)


def _timed_scores(detector: PictureScorer, pictures: "list[Image]") -> "Tensor":
    """(N, num_labels + 1): the scores of each picture and the seconds that they took."""
    import torch

    start = time.perf_counter()
    scores = torch.from_numpy(np.asarray(detector.scores(pictures), np.float32))
    each = (time.perf_counter() - start) / len(pictures)
    return torch.cat([scores, torch.full((len(scores), 1), each)], 1)
