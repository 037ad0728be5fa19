"""Rows of a batch mixed in pairs (Zhang et al. 2018, arXiv:1710.09412).

A picture is mixed as it comes in, or with a frozen backbone as its features or maps, stored or not;
a caption, whose words cannot be mixed, as its encoding; targets are mixed alike. Where words look
at cells, those of both captions look at the mixed picture, and what they find is mixed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmlabel.data.batches import Batch


@dataclass(frozen=True)
class Mix:
    """Which rows are mixed, and how.

    Attributes:
        order: (B,) int64, the row that each is mixed with.
        share: λ in 0..1, of the row itself.
    """

    order: Tensor
    share: float

    def rows(self, values: Tensor) -> Tensor:
        """λ x + (1 - λ) x[order] of values (B, ...), in single precision at least."""
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return self.between(values, values[self.order])

    def between(self, own: Tensor, theirs: Tensor) -> Tensor:
        """λ x + (1 - λ) y of values x of the rows and y of those that they are mixed with."""
        return self.share * own + (1 - self.share) * theirs

    def inputs(self, batch: Batch) -> Batch:
        """The batch with all but its captions mixed.

        A target is known where those of both rows are.
        """
        return batch._replace(
            image=None if batch.image is None else self.rows(batch.image),
            targets=self.rows(batch.targets),
            known=None if batch.known is None else batch.known & batch.known[self.order],
        )


def draw_mix(rows: int, *, alpha: float) -> Mix:
    """A random order of so many rows, and one share for all of them, from Beta(alpha, alpha)."""
    single = torch.tensor(alpha, dtype=torch.float32)  # in bfloat16 torch draws none
    share = torch.distributions.Beta(single, single).sample().item()
    if alpha < 1 and share == 0.5:
        # It is made of two numbers, both too small to be told from 0: one is far below the other.
        share = 1.0
    return Mix(torch.randperm(rows), share)
