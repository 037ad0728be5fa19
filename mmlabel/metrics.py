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

SCORES = ("f1_micro", "f1_samples", "f1_macro", "map", "loss")


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


def f1_scores(answers: Tensor, targets: Tensor) -> dict[str, float]:
    """`f1_micro`, `f1_samples` and `f1_macro` of answers against targets, both (N, L) bool."""
    per_label = label_counts(answers, targets, dim=0)
    occurs = targets.any(dim=0)
    return {
        "f1_micro": f1(*(count.sum() for count in per_label)).item(),
        "f1_samples": f1(*label_counts(answers, targets, dim=1)).mean().item(),
        "f1_macro": f1(*per_label)[occurs].mean().item() if occurs.any() else 0.0,
    }


def mean_average_precision(probabilities: Tensor, targets: Tensor) -> float:
    """Mean over the occurring labels of average precision; probabilities (N, L) in [0, 1]."""
    occurs = targets.any(dim=0).nonzero().flatten().tolist()
    precisions = [
        binary_average_precision(probabilities[:, n].double(), targets[:, n].long()) for n in occurs
    ]
    return torch.stack(precisions).mean().item() if precisions else 0.0


def score(probabilities: Tensor, targets: Tensor, threshold: float | Tensor) -> dict[str, float]:
    """All scores of probabilities (N, L) in [0, 1]; a label is answered at `threshold` or above.

    `threshold` is one number, or one for each label (L,).
    """
    targets = targets.bool()
    answers = probabilities >= threshold
    return f1_scores(answers, targets) | {"map": mean_average_precision(probabilities, targets)}


def per_label(
    probabilities: Tensor, targets: Tensor, threshold: float | Tensor
) -> list[dict[str, float]]:
    """Support, precision, recall and F1 of each of the L labels, in order (0 where undefined)."""
    targets = targets.bool()
    tp, fp, fn = label_counts(probabilities >= threshold, targets, dim=0)
    precision = tp.double() / (tp + fp).clamp(min=1)
    recall = tp.double() / (tp + fn).clamp(min=1)
    columns = zip(targets.sum(0), precision, recall, f1(tp, fp, fn), strict=True)
    names = ("support", "precision", "recall", "f1")
    return [dict(zip(names, (value.item() for value in row), strict=True)) for row in columns]


def threshold_grid() -> list[float]:
    """The thresholds that are tried: 0.05 to 0.95 by 0.01, those in the middle first."""
    grid = [round(0.05 + 0.01 * step, 2) for step in range(91)]
    return sorted(grid, key=lambda threshold: abs(threshold - 0.5))


def best_threshold(probabilities: Tensor, targets: Tensor) -> float:
    """The threshold of the highest micro-F1; ties go to the middle of the range.

    To be called on the validation split, never on the one that is reported.
    """
    targets = targets.bool()
    return max(threshold_grid(), key=lambda t: f1_scores(probabilities >= t, targets)["f1_micro"])


def best_thresholds(probabilities: Tensor, targets: Tensor) -> Tensor:
    """A threshold for each label (L,): from the best global one, one label after another is moved
    to where the micro-F1 of all labels is highest. A label that never occurs keeps the global one.

    To be called on the validation split, never on the one that is reported.
    """
    targets, grid = targets.bool(), threshold_grid()
    thresholds = torch.full((targets.shape[1],), best_threshold(probabilities, targets))
    for label in targets.any(dim=0).nonzero().flatten().tolist():
        # Ties go to the threshold that it has.
        candidates = [thresholds[label].item(), *grid]

        def micro(threshold: float, label: int = label) -> float:
            changed = thresholds.clone()
            changed[label] = threshold
            return f1_scores(probabilities >= changed, targets)["f1_micro"]

        thresholds[label] = max(candidates, key=micro)
    return thresholds
