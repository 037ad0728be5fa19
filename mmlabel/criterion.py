"""What training lowers: a loss over the entries whose target is known."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mmlabel.losses import LossOptions

# Of logits, targets, known and, where there is one, the teacher's logits.
Criterion = Callable[..., Tensor]


def positive_weights(
    targets: np.ndarray,
    known: np.ndarray | None = None,
    *,
    beta: float | None = None,
    max_weight: float | None = None,
) -> np.ndarray:
    """Negatives over positives of each label (report §3.1.6) in `targets` (N, num_labels).

    A label without positives gets 1: its term has no positive to weigh, and nothing is divided by
    zero. So does one without negatives, which with a weight of 0 would not be learned at all.

    Args:
        known: (N, num_labels) bool, which entries count; None: all.
        beta: in 0..1, of the effective numbers (1 - beta^n) / (1 - beta) (Cui et al. 2019,
            equation 2) that stand for the numbers n of negatives and positives; None: n itself.
        max_weight: no label gets more.
    """
    known = np.ones(targets.shape, dtype=bool) if known is None else known
    positives = targets.sum(axis=0, dtype=np.float64, where=known)
    negatives = known.sum(axis=0) - positives
    if beta is not None:
        negatives, rest = 1 - beta**negatives, 1 - beta ** np.maximum(positives, 1)
    else:
        rest = np.maximum(positives, 1)
    both = (positives > 0) & (negatives > 0)
    return np.minimum(np.where(both, negatives / rest, 1.0), max_weight or np.inf)


def terms_of_a_process(terms: Tensor, training: bool, *, least: float = 1) -> Tensor:
    """How many terms a mean is to be taken over, of those (int) that this process has of a batch.

    In training on several processes that is what each of them has on average. As their gradients
    are averaged, each term of the batch then weighs alike, whichever process has it. At least
    `least` in all, so that the mean of nothing is 0.
    """
    if not (training and distributed.is_available() and distributed.is_initialized()):
        return terms.clamp(min=least)
    every = terms.clone()
    distributed.all_reduce(every)
    return every.clamp(min=least) / distributed.get_world_size()


class MeanOverKnown(nn.Module):
    """The mean of `loss` over the entries whose target is known, a `Criterion`.

    Args:
        loss: its formula and options.
        pos_weight: (num_labels,) see `positive_weights`; read by a loss that weighs positives.
        teacher_weight: w, the share of the loss that is taken against a teacher's answers.
        temperature: T, what both sides' logits are divided by there.
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        loss: LossOptions,
        *,
        pos_weight: np.ndarray | None = None,
        teacher_weight: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.teacher_weight = teacher_weight
        self.temperature = temperature
        if not loss.weighs_positives or pos_weight is None:
            weights = None
        else:
            weights = torch.tensor(pos_weight, dtype=torch.float32)
        self.loss = loss
        self.register_buffer("pos_weight", weights)

    def weigh(self, targets: np.ndarray, known: np.ndarray | None) -> None:
        """Count the weights of positives, where the loss has them, on these training rows."""
        if self.pos_weight is not None:
            asked = self.loss.model_dump(include={"beta", "max_weight"})  # as far as it has them
            self.pos_weight.copy_(torch.from_numpy(positive_weights(targets, known, **asked)))

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        known: Tensor | None = None,
        teacher: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar, of logits and targets (B, num_labels).

        Targets are 0..1, or any finite number where `known` (B, num_labels) bool is False. If
        nothing is known the loss is 0. In training on several processes it is such that the mean
        of their losses is that of the whole batch.

        With a teacher's logits (B, num_labels) it is (1 - w) of that and w T² times the mean binary
        cross-entropy of σ(logits / T) against σ(teacher / T), over all entries: what is not known
        the teacher has an opinion of. T² keeps the gradient's size (Hinton et al. 2015,
        arXiv:1503.02531, section 2, where labels exclude each other).

        It is computed in single precision at least, whatever the logits are: in bfloat16
        log(1 - 0.001) is 0.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            teacher = None if teacher is None else teacher.to(logits.dtype)
            return self._loss(logits, targets.to(logits.dtype), known, teacher)

    def _loss(
        self, logits: Tensor, targets: Tensor, known: Tensor | None, teacher: Tensor | None
    ) -> Tensor:
        loss = self._of_targets(logits, targets, known)
        if teacher is None:
            return loss
        soft = binary_cross_entropy_with_logits(
            logits / self.temperature, (teacher / self.temperature).sigmoid()
        )
        share = self.teacher_weight
        return (1 - share) * loss + share * self.temperature**2 * soft

    def _of_targets(self, logits: Tensor, targets: Tensor, known: Tensor | None) -> Tensor:
        # In training alone: validation's loss is of the targets as they are.
        if self.training and self.loss.smoothing:
            targets = targets + self.loss.smoothing * (0.5 - targets)
        weight = None if known is None else known.to(logits.dtype)
        loss = self.loss.mean(logits, targets, weight, self.pos_weight)
        if known is None:
            return loss
        # A factor rather than a selection, which a GPU would have to wait for; 1 if all is known.
        return loss * (known.numel() / terms_of_a_process(known.sum(), self.training))
