"""Several networks that answer as one: the mean of their logits (Hansen and Salamon 1990)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmlabel.criterion import Criterion
from mmlabel.data.batches import Batch
from mmlabel.models.encoder import own_losses
from mmlabel.models.fusion import ImageEncoder, LateFusion, ready_to_mix
from mmlabel.models.mixup import draw_mix


class Ensemble(nn.Module):
    """The weighted mean of its members' logits; each member is trained on a loss of its own.

    They share the backbone, so that a picture goes through it once however many members look at
    it. All else (word vectors, BiLSTM, head) each has for itself, drawn anew, and with dropout of
    its own: where the backbone is frozen they are as independent as if trained one by one.

    Args:
        image: gives the pictures' features to all members; None: no member looks at pictures.
        members: networks for ready features.
        weights: how much each counts in the mean, at least 0, not all of them 0; None: 1 each. One
            without weight is trained beside the others, for what the backbone learns from it, and
            no prediction asks it.
        mixup: alpha of `mmlabel.models.mixup`, in training, the same mixture for all members.
    """

    def __init__(
        self,
        *,
        image: ImageEncoder | None,
        members: Sequence[LateFusion],
        weights: Sequence[float] | None = None,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        weights = [1.0] * len(members) if weights is None else weights
        if len(weights) != len(members) or not sum(weights):
            raise ValueError(f"weights {weights} of {len(members)} members")
        counted = list(zip(members, weights, strict=True))
        # By this name the backbone is found in every network.
        self.encoders = nn.ModuleDict({} if image is None else {"image": image})
        self.members = nn.ModuleList(member for member, weight in counted if weight)
        self.mixup = mixup
        self.weights = [weight for weight in weights if weight]
        # By this name what serves training alone is, too.
        self.auxiliary = nn.ModuleList(member for member, weight in counted if not weight)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_labels)."""
        batch = self._with_features(batch)
        members = zip(self.members, self.weights, strict=True)
        weighted = torch.stack([weight * member(batch) for member, weight in members])
        return weighted.sum(dim=0) / sum(self.weights)

    def loss(self, batch: Batch, criterion: Criterion) -> Tensor:
        """What training lowers: the mean of the members' own losses, whatever their weights.

        What the shared encoder learns beside them is added.
        """
        mix = None
        if self.mixup and self.training:
            mix = draw_mix(len(batch.rows), alpha=self.mixup)
            batch = mix.inputs(ready_to_mix(batch, self.encoders))
        batch = self._with_features(batch)
        networks = [*self.members, *self.auxiliary]
        losses = [network.loss(batch, criterion, mix) for network in networks]  # pyright: ignore
        truth = (batch.targets, batch.known, batch.teacher)
        return torch.stack(losses).mean() + own_losses(self.encoders, criterion, *truth)

    def evaluate(self, batch: Batch, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Logits (B, num_labels) of all together, and their loss."""
        logits = self(batch)
        return logits, criterion(logits, batch.targets, batch.known)

    def _with_features(self, batch: Batch) -> Batch:
        if not self.encoders:
            return batch
        image, cells = self.encoders["image"].look(batch.image)  # pyright: ignore
        return batch._replace(image=image, cells=cells)  # (B, F), (B, C, H', W')
