"""How well labels are answered one by one, and which are taken for which."""

import math
from typing import NamedTuple

import numpy as np


class PrecisionRecall(NamedTuple):
    """The curve of one label: a point for each probability that was given, from high to low."""

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def average_precision(self) -> float:
        """Mean of the precision over the steps of the recall: scikit-learn's, not interpolated."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))

    def drawn(self, columns: int = 400) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision of the points that can be told apart where it is drawn.

        The recall is cut into so many columns; of each the first point, the lowest and the highest
        are kept, so that a page does not grow with the rows.
        """
        column = (self.recall * columns).astype(int)
        by_height = np.lexsort((self.precision, column))  # by column, then by precision
        first = np.flatnonzero(np.diff(column, prepend=-1))
        last = np.append(first[1:], len(column)) - 1
        kept = np.unique(np.concatenate([first, by_height[first], by_height[last]]))
        return self.recall[kept], self.precision[kept]

    @property
    def best_threshold(self) -> float:
        """Where F1 is highest: of those that give the same answers one of few digits, to be read
        off a table."""
        total = self.precision + self.recall
        f1 = 2 * self.precision * self.recall / np.where(total > 0, total, 1)
        place = int(f1.argmax())
        highest, *lower = self.thresholds[place : place + 2].tolist()
        below = lower[0] if lower else -1.0  # the next probability, which is not to be reached
        cut = (math.floor(highest * 10**digits) / 10**digits for digits in range(2, 16))
        return next((threshold for threshold in cut if threshold > below), highest)


def precision_recall(targets: np.ndarray, probs: np.ndarray) -> PrecisionRecall:
    """The curve of one label.

    Args:
        targets: (N,) bool, at least one of them true.
        probs: (N,) float, 0..1.
    """
    order = np.argsort(-probs, kind="stable")
    hits = np.cumsum(targets[order])
    answered = np.arange(1, len(order) + 1)
    last = np.append(np.flatnonzero(np.diff(probs[order])), len(order) - 1)  # of equal ones
    return PrecisionRecall(
        thresholds=probs[order][last],
        precision=hits[last] / answered[last],
        recall=hits[last] / hits[-1],
    )


def calibration_error(targets: np.ndarray, probs: np.ndarray) -> float:
    """Expected calibration error over all decisions (Naeini, Cooper & Hauskrecht, 2015).

    The distance between the probability given and the share that is true, in ten bins of equal
    width, weighted by the decisions in them: 0..1, 0 is best.

    Args:
        targets: (D,) bool, one for each decision, a row and a label.
        probs: (D,) float, 0..1.
    """
    gaps = np.bincount(np.minimum((probs * 10).astype(int), 9), probs - targets, 10)
    return float(np.abs(gaps).sum() / probs.size)


def taken_for(targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(K, K) int: in how many rows label i was missed and label j was answered wrongly.

    Args:
        targets, answers: (N, K) bool.
    """
    missed, extra = targets & ~answers, answers & ~targets
    # In floats, which libraries multiply a hundred times faster; exact up to 2^24 rows.
    return (missed.astype(np.float32).T @ extra.astype(np.float32)).astype(np.int64)
