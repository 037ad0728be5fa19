"""The scores of a multi-label classifier, computed once over a whole split.

A mean of per-batch F1 values is not F1, so nothing here works batch by batch. All three usual F1s
are given, as they differ by points on the same answers:

- micro: 2 TP / (2 TP + FP + FN), counts summed over rows and labels;
- samples: the mean over rows of each row's F1 (the competition's score in the report's data set);
  a row with neither targets nor answers counts 0, as in scikit-learn;
- macro: the mean over labels of each label's F1.

Macro F1 and mean average precision are over the labels with at least one positive in the split:
a label that never occurs (12 in the report's data set) has no meaningful score.
"""

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision


def f1(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """2 TP / (2 TP + FP + FN) in double precision, 0 where nothing is true or answered."""
    denominator = 2 * tp + fp + fn
    return 2 * tp.double() / denominator.clamp(min=1)


def label_counts(answers: Tensor, targets: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives summed over `dim` of two (N, L) bools."""
    return (
        (answers & targets).sum(dim),
        (answers & ~targets).sum(dim),
        (~answers & targets).sum(dim),
    )


def f1_scores(answers: Tensor, targets: Tensor, known: Tensor | None = None) -> dict[str, float]:
    """`f1_micro`, `f1_samples` and `f1_macro` of answers against targets, both (N, L) bool.

    What is not `known` (N, L) counts nowhere, and a row of which nothing is known is no sample.
    """
    if known is not None:
        answers, targets = answers & known, targets & known
    per_label = label_counts(answers, targets, dim=0)
    samples = f1(*label_counts(answers, targets, dim=1))
    return {
        "f1_micro": f1(*(count.sum() for count in per_label)).item(),
        "f1_samples": _mean(samples if known is None else samples[known.any(dim=1)]),
        "f1_macro": _mean(f1(*per_label)[targets.any(dim=0)]),
    }


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0


def mean_average_precision(
    probabilities: Tensor, targets: Tensor, known: Tensor | None = None
) -> float:
    """Mean over the occurring labels of average precision; probabilities (N, L) in [0, 1]."""
    precisions = []
    for label in _occurring(targets, known):
        column, truth = probabilities[:, label].double(), targets[:, label].long()
        if known is not None:
            column, truth = column[known[:, label]], truth[known[:, label]]
        precisions.append(binary_average_precision(column, truth))
    return torch.stack(precisions).mean().item() if precisions else 0.0


def _occurring(targets: Tensor, known: Tensor | None) -> list[int]:
    """The labels with a positive in targets (N, L) where they are known."""
    positives = targets.bool() if known is None else targets.bool() & known
    return positives.any(dim=0).nonzero().flatten().tolist()


def score(
    probabilities: Tensor,
    targets: Tensor,
    threshold: float | Tensor,
    known: Tensor | None = None,
) -> dict[str, float]:
    """All scores of probabilities (N, L) in [0, 1]; a label is answered at `threshold` or above.

    `threshold` is one number, or one for each label (L,). Entries of `targets` (N, L) that are not
    `known` (N, L) bool are left out, whatever stands there; None: all are known.
    """
    answers, targets = probabilities >= threshold, targets.bool()
    scores = f1_scores(answers, targets, known)
    return scores | {"map": mean_average_precision(probabilities, targets, known)}


def per_label(
    probabilities: Tensor,
    targets: Tensor,
    threshold: float | Tensor,
    known: Tensor | None = None,
) -> list[dict[str, float]]:
    """Support, precision, recall and F1 of each of the L labels, in order (0 where undefined).

    All are counted over the entries that are `known`, see `score`.
    """
    answers, targets = probabilities >= threshold, targets.bool()
    if known is not None:
        answers, targets = answers & known, targets & known
    tp, fp, fn = label_counts(answers, targets, dim=0)
    precision = tp.double() / (tp + fp).clamp(min=1)
    recall = tp.double() / (tp + fn).clamp(min=1)
    columns = zip(targets.sum(0), precision, recall, f1(tp, fp, fn), strict=True)
    names = ("support", "precision", "recall", "f1")
    return [dict(zip(names, (value.item() for value in row), strict=True)) for row in columns]
