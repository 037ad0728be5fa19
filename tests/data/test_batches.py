"""Which rows a batch has."""

import numpy as np
import pytest

from mmlabel.data.batches import EpochBatches, share_of_batch
from mmlabel.errors import UserError


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("rows", [1, 20, 5003])
def test_batches_of_similar_length_have_the_same_rows(rows: int, world_size: int):
    lengths = np.random.default_rng(0).integers(0, 40, rows)
    epochs = []
    for epoch in (0, 1):
        batches: list[list[np.ndarray]] = []
        for rank in range(world_size):
            whole = 8 * world_size
            options = {
                "batch_size": whole,
                "training": True,
                "rank": rank,
                "world_size": world_size,
            }
            grouped = EpochBatches(rows, lengths=lengths, **options)
            drawn = EpochBatches(rows, **options)
            grouped.set_epoch(epoch)
            drawn.set_epoch(epoch)
            flips = {int(r): bool(f) for rs, fs, _ in drawn for r, f in zip(rs, fs, strict=True)}
            for taken, flipped, _ in (batches := [*batches, list(grouped)])[-1]:
                assert all(flips.get(int(r), f) == f for r, f in zip(taken, flipped, strict=True))
            assert [len(b) for b, *_ in batches[-1]] == [len(b) for b, *_ in drawn]
        everything = [row for share in batches for taken, *_ in share for row in taken.tolist()]
        assert sorted(set(everything)) == list(range(rows))
        assert len(everything) - rows < world_size
        epochs.append([[taken.tolist() for taken, *_ in share] for share in batches])
    if rows > 20:
        assert epochs[0] != epochs[1]
        # In a step all processes have captions of similar length, and steps are not in its order.
        steps = list(zip(*epochs[0], strict=True))[:-1]
        spans = [np.ptp(lengths[[row for part in step for row in part]]) for step in steps]
        assert np.mean(spans) < 5
        means = [lengths[list(step[0])].mean() for step in steps]
        assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_what_processes_do_at_once_is_the_batch_of_one(world_size: int, grouped: bool):
    """The same rows with the same flips and draws in each step, in equal parts."""
    rows = 1212
    lengths = np.random.default_rng(0).integers(0, 40, rows) if grouped else None

    def steps(rank: int, processes: int) -> list[dict[int, tuple[bool, int]]]:
        batches = EpochBatches(
            rows,
            batch_size=24,
            seed=5,
            training=True,
            lengths=lengths,
            rank=rank,
            world_size=processes,
        )
        batches.set_epoch(3)
        return [
            dict(zip(r.tolist(), zip(f.tolist(), d.tolist(), strict=True), strict=True))
            for r, f, d in batches
        ]

    shares = [steps(rank, world_size) for rank in range(world_size)]
    assert all(len({len(part) for part in parts}) == 1 for parts in zip(*shares, strict=True))
    together = [
        {row: flip for part in parts for row, flip in part.items()}
        for parts in zip(*shares, strict=True)
    ]
    assert together == steps(0, 1)


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    assert [share_of_batch(24, processes) for processes in (1, 2, 3)] == [24, 12, 8]
    with pytest.raises(UserError, match=r"batch_size=32 .* 3 processes .* such as 30 or 33"):
        share_of_batch(32, 3)
    with pytest.raises(UserError, match=r"batch_size=2 .* 4 processes .* such as 4$"):
        share_of_batch(2, 4)
