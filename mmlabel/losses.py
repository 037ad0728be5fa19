"""Training criteria on logits (report §3.1.5, §3.1.6)."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Criterion = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of logits, targets and known


def positive_weights(targets: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Negatives over positives of each label (report §3.1.6) in `targets` (N, num_labels).

    `known` (N, num_labels) bool says which entries count; None: all. A label without positives
    gets 1: its term has no positive to weigh, and nothing is divided by zero.
    """
    known = np.ones(targets.shape, dtype=bool) if known is None else known
    positives = targets.sum(axis=0, dtype=np.float64, where=known)
    rows = known.sum(axis=0)
    return np.where(positives > 0, (rows - positives) / np.maximum(positives, 1), 1.0)


class BinaryCrossEntropy(nn.Module):
    """-w y log σ(x) - (1 - y) log(1 - σ(x)), its mean over the entries whose target is known.

    Args:
        pos_weight: (num_labels,) the weight w of each label's positives; None: 1.
    """

    pos_weight: Tensor | None

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, logits: Tensor, targets: Tensor, known: Tensor | None = None) -> Tensor:
        """The loss, a scalar, of logits and targets (B, num_labels).

        Targets are 0..1, or any finite number where `known` (B, num_labels) bool is False. If
        nothing is known the loss is 0.
        """
        weight = None if known is None else known.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(
            logits, targets, weight=weight, pos_weight=self.pos_weight
        )
        if known is None:
            return loss
        # A factor rather than a selection, which a GPU would have to wait for; 1 if all is known.
        return loss * (known.numel() / known.sum().clamp(min=1))


# Each is given the weights of positives, (num_labels,) or None, and the options of its own.
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "bce": lambda pos_weight: BinaryCrossEntropy(),
    "bce_pos_weight": BinaryCrossEntropy,
}


def build_loss(
    name: str, *, pos_weight: np.ndarray | None = None, **options: float | str | None
) -> nn.Module:
    """The loss `name` of LOSSES, a `Criterion`; `options` are those that this one has.

    `pos_weight` (num_labels,) is read by losses that weigh positives. Raises KeyError for an
    unknown name and TypeError for an option that the loss does not have.
    """
    weights = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float32)
    return LOSSES[name](weights, **options)
