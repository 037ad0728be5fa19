"""Several networks that answer as one: the mean of their logits (Hansen and Salamon 1990)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmlabel.criterion import Criterion
from mmlabel.data.batches import Batch
from mmlabel.models.fusion import ImageEncoder, LateFusion


class Ensemble(nn.Module):
    """The mean of its members' logits; each member is trained on a loss of its own.

    They share the backbone, so that a picture goes through it once however many members look at
    it. All else (word vectors, BiLSTM, head) each has for itself, drawn anew, and with dropout of
    its own: where the backbone is frozen they are as independent as if trained one by one.

    Args:
        image: gives the pictures' features to all members; None: no member looks at pictures.
        members: networks for ready features.
    """

    def __init__(self, *, image: ImageEncoder | None, members: Sequence[LateFusion]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble of no members")
        # By this name the backbone is found in every network.
        self.encoders = nn.ModuleDict({} if image is None else {"image": image})
        self.members = nn.ModuleList(members)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_labels)."""
        batch = self._with_features(batch)
        return torch.stack([member(batch) for member in self.members]).mean(dim=0)

    def loss(self, batch: Batch, criterion: Criterion) -> Tensor:
        """What training lowers: the mean of the members' own losses."""
        batch = self._with_features(batch)
        losses = [member.loss(batch, criterion) for member in self.members]  # pyright: ignore
        return torch.stack(losses).mean()

    def evaluate(self, batch: Batch, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Logits (B, num_labels) of all together, and their loss."""
        logits = self(batch)
        return logits, criterion(logits, batch.targets, batch.known)

    def _with_features(self, batch: Batch) -> Batch:
        if not self.encoders:
            return batch
        return batch._replace(image=self.encoders["image"](batch.image))  # (B, F)
