"""The losses (`loss=NAME`), one class each: its options and its formula (report §3.1.5, §3.1.6).

A new one is a class here, which `Loss` lists, and a file in conf/loss. Options are checked without
torch, which is therefore imported where a formula needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from mmlabel.options import Group

if TYPE_CHECKING:
    from torch import Tensor

    Weights = Tensor | None


class LossOptions(Group):
    """What every loss is."""

    weighs_positives: ClassVar[bool] = False

    def mean(self, logits: Tensor, targets: Tensor, weight: Weights, positive: Weights) -> Tensor:
        """The mean over all B * num_labels entries of an entry's loss times its weight, a scalar.

        Args:
            logits: (B, num_labels).
            targets: (B, num_labels), 0..1; any finite number where the weight is 0.
            weight: (B, num_labels), 1, or 0 where the target is not known; None: all 1.
            positive: (num_labels,) weight of a label's positives, for a loss that weighs them.
        """
        raise NotImplementedError


class Bce(LossOptions):
    """Binary cross-entropy on logits, every label alike (report §3.1.5)."""

    name: Literal["bce"]

    def mean(self, logits: Tensor, targets: Tensor, weight: Weights, positive: Weights) -> Tensor:
        """Of -y log σ(x) - (1 - y) log(1 - σ(x))."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, targets, weight)


class BcePosWeight(LossOptions):
    """Positives weigh negatives / positives of the training split (report §3.1.6)."""

    name: Literal["bce_pos_weight"]
    weighs_positives = True

    def mean(self, logits: Tensor, targets: Tensor, weight: Weights, positive: Weights) -> Tensor:
        """Of -w y log σ(x) - (1 - y) log(1 - σ(x)), w the label's weight of positives."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, targets, weight, pos_weight=positive)


Loss = Annotated[Bce | BcePosWeight, Field(discriminator="name")]
