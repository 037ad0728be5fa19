"""From picture files to rows of a store: read beside the work, computed, kept.

The same for a backbone's features and a detector's scores: which pictures have no row yet, their
batches, and the loop that computes these and keeps them every few seconds.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

import numpy as np

from mmlabel.data.digests import picture_digests
from mmlabel.data.pictures import BadPicture, content_digest, read_picture
from mmlabel.data.row_store import RowStore
from mmlabel.processors import decoders, in_threads
from mmlabel.progress import progress

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

COMMIT_SECONDS = 5.0

OnBadImage = Literal["error", "skip"]


class Job(NamedTuple):
    """A picture and its views that are not in the store: 1 flipped, 0 plain."""

    path: str
    digest: bytes
    flips: tuple[int, ...]


def entry_of(digest: bytes, flip: int) -> bytes:
    """How the store knows a view."""
    return digest + bytes([flip])


def entries_of(jobs: list[Job]) -> list[bytes]:
    """Of every view of these, in order."""
    return [entry_of(job.digest, flip) for job in jobs for flip in job.flips]


def jobs_of(
    pictures: Sequence[Path], flipped: Sequence[bool], memo: Path
) -> tuple[list[Job], list[BadPicture]]:
    """Every distinct picture once, in order, with the views wanted of it; and the unreadable."""
    wanted: dict[bytes, tuple[str, set[int]]] = {}
    bad: list[BadPicture] = []
    digests = picture_digests(pictures, memo)
    for picture, digest, flip in zip(pictures, digests, flipped, strict=True):
        if digest is None:
            try:
                read_picture(picture)
            except BadPicture as error:
                bad.append(error)
        else:
            wanted.setdefault(digest, (str(picture), {0}))[1].update([1] if flip else [])
    return [Job(path, digest, tuple(sorted(f))) for digest, (path, f) in wanted.items()], bad


def missing_views(jobs: list[Job], store: RowStore) -> list[Job]:
    """The jobs' views that the store does not have."""
    known = iter((store.rows(entries_of(jobs)) >= 0).tolist())
    left = [job._replace(flips=tuple(f for f in job.flips if not next(known))) for job in jobs]
    return [job for job in left if job.flips]


def compute(
    jobs: list[Job],
    *,
    work: str,
    look: "Look",
    join: Callable[[list[Any]], Any],
    extract: Callable[[Any], "Tensor"],
    keep: Callable[[Sequence[bytes], np.ndarray], None],
    on_gpu: bool = False,
    batch_size: int | None,
    workers: int | None = None,
    on_bad_image: OnBadImage,
    bad: list[BadPicture],
    quiet: bool = False,
) -> int:
    """Read pictures ahead, `extract` their rows and `keep` these every few seconds.

    What `look` makes of each picture is joined to batches, which `extract` maps to rows (B, width)
    that may still be on their way from a GPU. Unreadable pictures are added to `bad`. Returns the
    number of rows computed; on any error what is complete by then is kept.
    """
    import torch

    loader = _loader(jobs, look, join, on_gpu=on_gpu, batch_size=batch_size, workers=workers)
    waiting: list[tuple[list[bytes], Tensor]] = []
    done: list[tuple[list[bytes], np.ndarray]] = []
    computed, committed = 0, time.monotonic()

    def finish() -> None:
        entries, rows = waiting.pop(0)
        if len(rows) != len(entries):
            raise ValueError(f"extract gave {len(rows)} rows for {len(entries)} views")
        done.append((entries, rows.float().cpu().numpy()))

    def commit() -> int:
        entries = [entry for group, _ in done for entry in group]
        blocks = [block for _, block in done]
        done.clear()
        if entries:
            keep(entries, np.concatenate(blocks))
        return len(entries)

    with progress(work, len(jobs), quiet=quiet) as advance, torch.inference_mode():
        try:
            for entries, batch, failed in loader:
                bad += failed
                raise_first(bad, on_bad_image)
                if entries:
                    waiting.append((entries, extract(batch)))
                # Copying a result waits for a GPU: do it when the next batch is on its way.
                if len(waiting) > on_gpu:
                    finish()
                if time.monotonic() - committed > COMMIT_SECONDS:
                    computed += commit()
                    committed = time.monotonic()
                advance(len({entry[:-1] for entry in entries}) + len(failed))
        finally:
            while waiting:
                finish()
            computed += commit()
    return computed


class Look(Protocol):
    """Maps a picture file's content to its wanted views; may raise `BadPicture`."""

    def __call__(self, content: bytes, job: Job) -> Any: ...


# Entries (V), the batch of V views, and the pictures that could not be read.
_Read = tuple[list[bytes], Any, list[BadPicture]]


class _Chunks:
    """A loader's data set whose items are whole batches, so that each is joined in a worker."""

    def __init__(
        self, chunks: list[list[Job]], look: Look, join: Callable[[list[Any]], Any]
    ) -> None:
        self.chunks = chunks
        self.look = look
        self.join = join

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> _Read:
        entries: list[bytes] = []
        items: list[Any] = []
        bad: list[BadPicture] = []
        for job in self.chunks[index]:
            try:
                content = read_picture(job.path)
                items.append(self.look(content, job))
            except BadPicture as error:
                bad.append(error)
                continue
            # The file may have changed since it was listed: rows belong to what was decoded.
            entries += entries_of([job._replace(digest=content_digest(content))])
        return entries, self.join(items) if items else None, bad


def _loader(
    jobs: list[Job],
    look: Look,
    join: Callable[[list[Any]], Any],
    *,
    on_gpu: bool,
    batch_size: int | None,
    workers: int | None,
) -> Iterable[_Read]:
    """The batches of `jobs` in order, the next ones read while one is used."""
    chunks = _Chunks(_cut(jobs, batch_size or (256 if on_gpu else 32)), look, join)
    if workers is None and not on_gpu:
        return in_threads(chunks.__getitem__, range(len(chunks)))
    import torch
    from torch.utils.data import DataLoader

    return DataLoader(
        cast("Dataset[Any]", chunks),
        batch_size=None,
        num_workers=min(decoders(workers), len(chunks) - 1),
        pin_memory=on_gpu,
        # Its own generator: a run that fills the store must draw the same numbers afterwards as a
        # run that finds it full.
        generator=torch.Generator(),
    )


def _cut(jobs: list[Job], views: int) -> list[list[Job]]:
    """Cut into batches of at most `views` views, a picture's views staying together."""
    chunks: list[list[Job]] = [[]]
    used = 0
    for job in jobs:
        if chunks[-1] and used + len(job.flips) > views:
            chunks.append([])
            used = 0
        chunks[-1].append(job)
        used += len(job.flips)
    return chunks


def raise_first(bad: list[BadPicture], on_bad_image: OnBadImage) -> None:
    """Raise `BadPicture` where there is one that is not to be skipped."""
    if bad and on_bad_image == "error":
        raise bad[0]
