"""The losses (`loss=NAME`), one class each: its options and its formula (report §3.1.5, §3.1.6).

A new one is a class here, which `Loss` lists, and a file in conf/loss. Options are checked without
torch, which is therefore imported where a formula needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from mmlabel.options import AtLeast0, Group, Positive, Share

if TYPE_CHECKING:
    from torch import Tensor

    Weights = Tensor | None


class LossOptions(Group):
    """What every loss is."""

    weighs_positives: ClassVar[bool] = False
    # Whether the loss of λ y + (1 - λ) y' is λ of that of y and 1 - λ of that of y' (model.mixup).
    linear_in_targets: ClassVar[bool] = False

    smoothing: Share = 0.0
    """Targets in training are moved so far from 0 and 1 to 1/2 (label smoothing); 0: not at all."""

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
    linear_in_targets = True

    def mean(self, logits: Tensor, targets: Tensor, weight: Weights, positive: Weights) -> Tensor:
        """Of -y log σ(x) - (1 - y) log(1 - σ(x))."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, targets, weight)


class BcePosWeight(LossOptions):
    """Positives weigh negatives / positives of the training split (report §3.1.6), 1 where either
    is missing."""

    name: Literal["bce_pos_weight"]
    beta: Share | None = None
    """What counts is the effective number (1 - beta^n) / (1 - beta) of n rows (Cui et al. 2019):
    0 weighs all labels alike, null by n itself, and beta the more as null does the nearer to 1 it
    is: 0.999 tells numbers apart up to some 1,000 rows, 0.9999 up to some 10,000."""
    max_weight: Positive | None = None
    """Rarer labels weigh no more than this; null: no limit."""
    weighs_positives = True
    linear_in_targets = True

    def mean(self, logits: Tensor, targets: Tensor, weight: Weights, positive: Weights) -> Tensor:
        """Of -w y log σ(x) - (1 - y) log(1 - σ(x)), w the label's weight of positives."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, targets, weight, pos_weight=positive)


class Focal(LossOptions):
    """What is answered well already counts less (Lin et al. 2017, arXiv:1708.02002)."""

    name: Literal["focal"]
    gamma: AtLeast0 = 2.0
    """How much less; 0: not at all."""
    alpha: Share | None = 0.25
    """Weight of positives, 1 - alpha that of negatives; null: 1 for both."""

    def mean(self, logits: Tensor, targets: Tensor, weight: Weights, positive: Weights) -> Tensor:
        """Of -a (1 - q)^gamma log q, q = σ(x) and a = alpha of positives, 1 - each of negatives."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        targets = targets.clamp(0, 1)  # what is not known may be any number
        probabilities = logits.sigmoid()
        wrong = probabilities + targets - 2 * probabilities * targets  # 1 - q
        each = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        each = each * _power(wrong, self.gamma)
        if self.alpha is not None:
            each = each * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return _weighed_mean(each, weight)


class Asymmetric(LossOptions):
    """Easy negatives, most of all, count less or not (Ridnik et al. 2021, arXiv:2009.14119)."""

    name: Literal["asymmetric"]
    gamma_negative: AtLeast0 = 4.0
    """How much less a negative counts that is answered well already."""
    gamma_positive: AtLeast0 = 0.0
    """The same of a positive; less than gamma_negative, since positives are rare."""
    margin: Share = 0.05
    """A negative whose probability is below it counts nothing."""
    linear_in_targets = True

    def mean(self, logits: Tensor, targets: Tensor, weight: Weights, positive: Weights) -> Tensor:
        """Of -y (1 - p)^gamma_positive log p - (1 - y) r^gamma_negative log(1 - r), p = σ(x) and
        r = max(p - margin, 0)."""
        from torch.nn.functional import logsigmoid

        targets = targets.clamp(0, 1)  # what is not known may be any number
        probabilities = logits.sigmoid()
        positives = -logsigmoid(logits) * _power(1 - probabilities, self.gamma_positive)
        shifted = (probabilities - self.margin).clamp(min=0)
        # Without a margin 1 - r is as small as a number can be.
        right = (1 - shifted).log() if self.margin else logsigmoid(-logits)
        negatives = -right * _power(shifted, self.gamma_negative)
        return _weighed_mean(targets * positives + (1 - targets) * negatives, weight)


def _power(base: Tensor, exponent: float) -> Tensor:
    """Of numbers 0..1; the slope at 0, which may be infinite, is left out."""
    return base.clamp(min=1e-8) ** exponent


def _weighed_mean(each: Tensor, weight: Weights) -> Tensor:
    return each.mean() if weight is None else (each * weight).mean()


Loss = Annotated[Bce | BcePosWeight | Focal | Asymmetric, Field(discriminator="name")]
