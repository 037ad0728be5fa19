"""Training criteria on logits (report §3.1.5, §3.1.6)."""

import numpy as np
import torch
from torch import nn

from mmlabel.errors import UserError, nearest

LOSSES = ("bce", "bce_pos_weight")


def positive_weights(targets: np.ndarray) -> np.ndarray:
    """Negatives over positives of each label (report §3.1.6) in `targets` (N, num_labels).

    A label without positives gets 1: its term has no positive to weigh, and nothing is divided by
    zero.
    """
    positives = targets.sum(axis=0, dtype=np.float64)
    return np.where(positives > 0, (len(targets) - positives) / np.maximum(positives, 1), 1.0)


def build_loss(name: str, pos_weight: np.ndarray | None = None) -> nn.BCEWithLogitsLoss:
    """The criterion `name`; `pos_weight` (num_labels,) is used by bce_pos_weight alone.

    Raises UserError for an unknown name.
    """
    if name not in LOSSES:
        raise UserError(f'unknown loss.name "{name}"{nearest(name, LOSSES)}')
    if name == "bce":
        return nn.BCEWithLogitsLoss()
    weights = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float32)
    return nn.BCEWithLogitsLoss(pos_weight=weights)
