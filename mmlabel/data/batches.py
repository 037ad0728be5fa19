"""What one training step sees, and which rows that is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler

from mmlabel.data.augment import Change, augmentation, augmented
from mmlabel.data.captions import EncodedCaptions
from mmlabel.data.transforms import Size, load_picture, stack_views
from mmlabel.errors import UserError


class Batch(NamedTuple):
    """B captioned pictures of one split.

    `lengths` stays on the CPU, where packing a sequence needs it: moving it to a GPU and back would
    stall the GPU at every step.
    """

    image: Tensor | None  # (B, 3, H, W) uint8 pictures, or (B, F) stored rows (see models.fusion)
    # (B, T) int64; 0 is padding, 1 an unknown word; or a text transformer's states (B, T, D)
    tokens: Tensor
    lengths: Tensor  # (B,) int64 number of tokens; 0 for an empty caption
    targets: Tensor  # (B, num_labels) float32, 0 or 1
    rows: Tensor  # (B,) int64 position of each row within its split
    ids: list[str]  # image ids as the data set names them
    known: Tensor | None = None  # (B, num_labels) bool: False leaves a target out; None: all known
    teacher: Tensor | None = None  # (B, num_labels) float32 logits of a larger network; in training
    # (B, C, H', W') of a backbone's last map, where a network has looked before its members do
    cells: Tensor | None = None


Indices = tuple[np.ndarray, np.ndarray, np.ndarray]

POOL = 64  # batches whose rows are sorted by length together


class EpochBatches(Sampler):
    """Yields each batch of an epoch as (rows, flipped, draws): int64, bool and int64 (B,) arrays.

    `draws` are seeds of what else is random about a row in that epoch.

    Order and flips follow from the seed and the epoch alone, so that a run with stored features
    sees exactly what a run without them sees, and a resumed run what an uninterrupted one does. A
    last batch of one row joins the batch before it, as batch norm cannot train on one row.

    Several processes get disjoint rows: what they do at once is one batch, of the rows that a
    single process would take in that step, each an equal part of it (so that the mean of their
    losses is the batch's). In training the order is padded by its own beginning to a multiple of
    the number of processes, which must all make the same number of steps; a last batch of which
    each would have one row joins the one before it. In evaluation nothing is padded, so that every
    row is scored exactly once.

    Args:
        num_rows: of the split.
        batch_size: rows a batch, all processes together; a multiple of their number.
        seed: of order and flips.
        training: whether rows are shuffled and flipped.
        flip: whether every other row or so of a training epoch is flipped.
        lengths: (num_rows,) of the captions, for training batches of similar ones; None: as drawn.
        rank, world_size: which process this is, and how many there are.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        seed: int = 0,
        training: bool = False,
        flip: bool = True,
        lengths: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.share = share_of_batch(batch_size, world_size)
        self.seed = seed
        self.training = training
        self.flip = flip
        self.lengths = lengths
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    @cached_property
    def _starts(self) -> list[int]:
        share = len(range(self.rank, self.num_rows, self.world_size))
        if self.training:
            share = -(-self.num_rows // self.world_size)
        starts = list(range(0, share, self.share)) + [share]
        if len(starts) > 2 and starts[-1] - starts[-2] == 1:
            del starts[-2]
        return starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[Indices]:
        order = np.arange(self.num_rows)
        flipped = np.zeros(self.num_rows, dtype=bool)
        # Of a stream of their own, so that order and flips are the same with and without them.
        draws = np.random.default_rng([self.seed, self.epoch, 1]).integers(
            2**62, size=self.num_rows
        )
        if self.training:
            generator = np.random.default_rng([self.seed, self.epoch])
            order = generator.permutation(self.num_rows)
            # Drawn in any case: with and without flips the order is the same.
            flipped = (generator.random(self.num_rows) < 0.5) & self.flip
            order = np.resize(order, self._starts[-1] * self.world_size)
            if self.lengths is not None:
                # Over all processes: in a step they wait for the longest caption.
                order = group_by_length(
                    order, self.lengths, batch_size=self.batch_size, generator=generator
                )
        mine = order[self.rank :: self.world_size]
        for start, end in zip(self._starts, self._starts[1:], strict=False):
            rows = mine[start:end]
            yield rows, flipped[rows], draws[rows]


def share_of_batch(batch_size: int, processes: int) -> int:
    """The rows of a batch that each process takes; raises UserError if they are not equally many.

    Unequal parts would weigh a row by the part that it happens to be in.
    """
    if batch_size % processes == 0:
        return batch_size // processes
    below, above = batch_size // processes * processes, -(-batch_size // processes) * processes
    near = f"{below} or {above}" if below else f"{above}"
    raise UserError(
        f"data.batch_size={batch_size} is the whole batch, which {processes} processes share: give"
        f" a multiple of {processes}, such as {near}"
    )


def group_by_length(
    order: np.ndarray, lengths: np.ndarray, *, batch_size: int, generator: np.random.Generator
) -> np.ndarray:
    """The rows of `order` (n,) anew, each batch of captions of similar length, in random order.

    Rows are sorted within pools of POOL batches, so that other rows meet in every epoch. What does
    not fill a batch stays last.
    """
    whole = len(order) // batch_size * batch_size
    pools = (
        order[:whole][at : at + POOL * batch_size] for at in range(0, whole, POOL * batch_size)
    )
    pooled = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    batches = np.concatenate([order[:0], *pooled]).reshape(-1, batch_size)
    return np.concatenate([generator.permutation(batches).ravel(), order[whole:]])


class RepeatedBatches(SequentialSampler):
    """The same batches in every epoch, to see whether a network can learn them by heart.

    Lightning takes the place of any other kind of sampler when batches are to be overfitted.

    Args:
        batches: those of the first epoch are repeated.
        plain: whether no picture is mirrored, as in validation.
    """

    def __init__(self, batches: EpochBatches, *, plain: bool = False) -> None:
        self.batches = list(batches)
        if plain:
            self.batches = [(rows, flips & False, draws) for rows, flips, draws in self.batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Indices]:  # type: ignore[override]
        return iter(self.batches)


@dataclass(frozen=True)
class TeacherLogits:
    """What a network to learn from says of training rows.

    Attributes:
        rows: (n,) sorted row numbers of the data set.
        logits: (n, num_labels) float32.
    """

    rows: np.ndarray
    logits: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(m, num_labels) of these rows (m,), which are among `rows`."""
        return self.logits[np.searchsorted(self.rows, rows)]


class SplitRows(Dataset):
    """One split, which gives a whole `Batch` for what EpochBatches yields.

    Args:
        ids, targets, known, captions: of its n rows, see `Annotations`.
        pictures: files to decode for the image half, or None.
        features: (R, F) of a feature store, with `feature_rows` (n, 2) saying where each row's
            plain and flipped features are; or None.
        states: (R, D) of a frozen text transformer, whose rows are what `captions` then number; or
            None.
        image_size, upright: of the views of pictures, see `mmlabel.data.transforms`.
        teacher: (n, num_labels) float32, the logits of a network to learn from; or None.
        augment: random changes of the pictures, see `mmlabel.data.augment`.
    """

    def __init__(
        self,
        *,
        ids: list[str],
        targets: np.ndarray,
        known: np.ndarray | None = None,
        captions: EncodedCaptions,
        pictures: list[Path] | None = None,
        features: torch.Tensor | None = None,
        feature_rows: np.ndarray | None = None,
        states: torch.Tensor | None = None,
        image_size: Size,
        upright: bool,
        teacher: np.ndarray | None = None,
        augment: Sequence[Change] = (),
    ) -> None:
        self.ids = np.array(ids, dtype=object)
        self.targets = torch.from_numpy(targets)  # as bytes: millions of rows have many labels
        self.known = None if known is None else torch.from_numpy(known)
        self.captions = captions
        self.lengths = torch.from_numpy(captions.lengths)
        self.pictures = pictures
        self.features = features
        self.feature_rows = None if feature_rows is None else torch.from_numpy(feature_rows)
        self.states = states
        self.image_size = image_size
        self.upright = upright
        self.teacher = None if teacher is None else torch.from_numpy(teacher)
        self.augment = augmentation(augment, size=image_size) if augment else None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Indices) -> Batch:
        rows, flipped = torch.from_numpy(index[0]), torch.from_numpy(index[1])
        return Batch(
            image=self._images(rows, flipped, index[2]),
            tokens=self._tokens(index[0]),
            lengths=self.lengths[rows],
            targets=self.targets[rows].float(),
            rows=rows,
            ids=self.ids[index[0]].tolist(),
            known=None if self.known is None else self.known[rows],
            teacher=None if self.teacher is None else self.teacher[rows],
        )

    def _tokens(self, rows: np.ndarray) -> torch.Tensor:
        tokens = torch.from_numpy(self.captions.pad(rows))  # (B, T)
        # What stands in the padding is any state: it is looked at no more than a padding's number.
        return tokens if self.states is None or not len(self.states) else self.states[tokens]

    def _images(
        self, rows: torch.Tensor, flipped: torch.Tensor, draws: np.ndarray
    ) -> torch.Tensor | None:
        if self.features is not None and self.feature_rows is not None:
            # One copy to a GPU that holds the features, rather than the features themselves.
            where = self.feature_rows[rows, flipped.long()].to(self.features.device)
            return self.features[where]  # (B, F)
        if self.pictures is None:
            return None
        size, upright = self.image_size, self.upright
        views = [
            load_picture(self.pictures[row], size=size, flipped=flip, upright=upright)[None]
            for row, flip in zip(rows.tolist(), flipped.tolist(), strict=True)
        ]
        pictures = stack_views(views)  # (B, 3, H, W)
        return augmented(pictures, draws.tolist(), self.augment) if self.augment else pictures
