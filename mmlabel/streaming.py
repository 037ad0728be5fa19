"""Rows to answers, batch by batch: pictures are decoded beside the network, nothing piles up."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mmlabel.data.pictures import BadPicture
from mmlabel.data.sources.unlabelled import Row, Rows
from mmlabel.predictor import Look, Predictor, Seen, join
from mmlabel.processors import decoders, in_threads
from mmlabel.progress import progress


class Answer(NamedTuple):
    """Of one row: its probabilities (L,) and which labels are answered (L,), or why it has none."""

    row: Row
    probabilities: np.ndarray | None
    labels: np.ndarray | None = None
    problem: str | None = None


class _Batch(NamedTuple):
    rows: list[Row]  # without those of unreadable pictures
    seen: Seen | None
    bad: list[tuple[int, Row, BadPicture]]  # with their places among all


class _Batches(IterableDataset):
    """Batches of rows with their pictures made ready, in threads or in a loader's processes."""

    def __init__(self, rows: Iterable[Row], *, look: Look | None, batch_size: int) -> None:
        self.rows = rows
        self.look = look  # None: no picture is looked at
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[_Batch]:
        worker = get_worker_info()
        rank, of = (worker.id, worker.num_workers) if worker else (0, 1)
        for number, batch in enumerate(self._cut()):
            # A loader takes from its processes in turns, so the batches come in order.
            if number % of == rank:
                yield self._ready(batch)

    def in_threads(self) -> Iterator[_Batch]:
        """The batches, the next ones made ready while one is used."""
        return in_threads(self._ready, self._cut())

    def _cut(self) -> Iterator[list[Row]]:
        rows = iter(self.rows)
        while batch := list(islice(rows, self.batch_size)):
            yield batch

    def _ready(self, rows: list[Row]) -> _Batch:
        if self.look is None:
            return _Batch(rows, None, [])
        good, looks, bad = [], [], []
        for place, row in enumerate(rows):
            try:
                if row.picture is None:
                    raise BadPicture(row.id, "the row names no file")
                looks.append(self.look(row.picture))
                good.append(row)
            except BadPicture as error:
                bad.append((place, row, error))
        return _Batch(good, join(looks) if looks else None, bad)


def answers(
    predictor: Predictor,
    rows: Rows,
    *,
    batch_size: int,
    workers: int | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    logits: bool = False,
) -> Iterator[Answer]:
    """An answer to each row, in order, the same for any batch size and number of workers.

    Args:
        predictor: what answers.
        rows: what to.
        batch_size: rows that the network is given at once.
        workers: processes that decode pictures; None: threads on a CPU, else by the processors.
        on_bad_image: "skip" to answer a row whose picture cannot be read with the reason.
        logits: whether these stand in the probabilities' place.

    Raises BadPicture for such a row otherwise.
    """
    look = predictor.look if predictor.looks_at_pictures else None
    batches = _Batches(rows.rows, look=look, batch_size=batch_size)
    ready = _ready_ahead(
        batches,
        workers=workers,
        most=rows.count // batch_size,
        on_gpu=predictor.device.type == "cuda",
    )
    with progress("predictions", rows.count, unit="rows", quiet=rows.count == 1) as advance:
        for batch in ready:
            if batch.bad and on_bad_image == "error":
                raise batch.bad[0][2]
            found: list[Answer] = []
            if batch.rows:
                said = predictor.answers(batch.seen, [row.caption for row in batch.rows])
                values = said.logits if logits else said.probabilities
                found = [Answer(*one) for one in zip(batch.rows, values, said.labels, strict=True)]
            for place, row, error in batch.bad:
                found.insert(place, Answer(row, None, problem=error.reason))
            yield from found
            advance(len(found))


def _ready_ahead(
    batches: _Batches, *, workers: int | None, most: int, on_gpu: bool
) -> Iterable[_Batch]:
    """The batches in order, the next ones made ready while one is used; `most` may be too many."""
    if batches.look is None or not most:
        return batches
    if workers is None and not on_gpu:
        return batches.in_threads()
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=min(decoders(workers), most),
        collate_fn=_as_it_is,  # pyright: ignore[reportArgumentType]  # of a batch, not a list
    )


def _as_it_is(batch: _Batch) -> _Batch:
    return batch
