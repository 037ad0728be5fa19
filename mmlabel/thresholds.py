"""Thresholds that are found on the validation split, never on the one that is reported.

A maximum over few rows is too good to be true, that over a threshold for each label most of all:
what is found by cross-validation is an average of what parts of the rows say, and each label keeps
only as much of its difference from the common threshold as is good for rows that had no say in it.
"""

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mmlabel.metrics import f1_scores

Raised = Literal["f1_micro", "f1_samples"]  # the score that a threshold is chosen by

FOLDS = 5
REPEATS = 4  # of the division into folds, each time another one
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a label's own threshold, against the common one


def threshold_grid() -> list[float]:
    """The thresholds that are tried: 0.05 to 0.95 by 0.01, those in the middle first."""
    grid = [round(0.05 + 0.01 * step, 2) for step in range(91)]
    return sorted(grid, key=lambda threshold: abs(threshold - 0.5))


def best_threshold(
    probabilities: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    *,
    raised: Raised = "f1_micro",
) -> float:
    """The threshold of the highest F1; ties go to the middle of the range.

    Args:
        probabilities, targets: (N, L).
        known: (N, L) bool; other entries are left out, see `mmlabel.metrics.score`. None: all are.
        raised: which F1, see `mmlabel.metrics`.
    """
    search = _SEARCHES[raised](probabilities, targets, known)
    return threshold_grid()[_highest(search.of_all())]


def best_thresholds(
    probabilities: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    *,
    raised: Raised = "f1_micro",
) -> Tensor:
    """A threshold for each label (L,): from the best common one, one label after another is moved
    to where the F1 of all answers is highest. A label that never occurs keeps the common one.

    Arguments are those of `best_threshold`.
    """
    search = _SEARCHES[raised](probabilities, targets, known)
    common = _highest(search.of_all())
    search.begin(common)
    chosen = np.full(len(search.positives), common)
    for label in search.positives.nonzero()[0].tolist():
        scores = search.of(label)
        best = _highest(scores)
        # Ties go to the threshold that it has.
        if scores[best] > scores[common]:
            chosen[label] = best
            search.move(label, best)
    return torch.tensor(threshold_grid())[chosen]


def cross_validated_threshold(
    probabilities: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    *,
    raised: Raised = "f1_micro",
) -> float:
    """The mean of the best thresholds on all rows but a fold, over the folds of several divisions.

    Arguments are those of `best_threshold`.
    """
    found = [
        best_threshold(*_rows(rest, probabilities, targets, known), raised=raised)
        for rest, _ in _folds(len(targets))
    ]
    return float(np.mean(found))


def cross_validated_thresholds(
    probabilities: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    *,
    raised: Raised = "f1_micro",
) -> Tensor:
    """A threshold for each label (L,), as far from the common one as is good for unseen rows.

    On all rows but a fold the best common threshold and the best for each label are found. Of the
    difference between the two a share is kept: the one in SHARES with the highest F1 on the folds
    that were left out, the least of equals. Both thresholds are means over the folds of several
    divisions. Arguments are those of `best_threshold`.
    """
    common, own = [], []
    scores = np.zeros(len(SHARES))
    for rest, fold in _folds(len(targets)):
        found = _rows(rest, probabilities, targets, known)
        common.append(best_threshold(*found, raised=raised))
        own.append(best_thresholds(*found, raised=raised))
        unseen = _rows(fold, probabilities, targets, known)
        for place, share in enumerate(SHARES):
            thresholds = common[-1] + share * (own[-1] - common[-1])
            answers = unseen[0] >= thresholds
            scores[place] += f1_scores(answers, unseen[1].bool(), unseen[2])[raised] * len(fold)
    mean = float(np.mean(common))
    share = SHARES[_highest(scores)]
    return mean + share * (torch.stack(own).mean(0) - mean)


def _folds(rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows outside and inside of each fold; of too few rows there is one fold, with them all.

    The same for every network, so that two of them are compared on the same terms.
    """
    if rows < 2 * FOLDS:
        yield torch.arange(rows), torch.arange(rows)
        return
    generator = torch.Generator().manual_seed(0)
    for _ in range(REPEATS):
        parts = torch.randperm(rows, generator=generator).tensor_split(FOLDS)
        for number, fold in enumerate(parts):
            yield torch.cat(parts[:number] + parts[number + 1 :]), fold


def _rows(
    rows: Tensor, probabilities: Tensor, targets: Tensor, known: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return probabilities[rows], targets[rows], None if known is None else known[rows]


FINDERS: dict[str, Callable[..., float | Tensor]] = {
    "auto": best_threshold,
    "per_label": best_thresholds,
    "cv": cross_validated_threshold,
    "cv_per_label": cross_validated_thresholds,
}


# ---- The F1 at every threshold of the grid --------------------------------------------------


class _Search(Protocol):
    """An F1 at the G thresholds of the grid, of all labels at once or of one moved alone.

    Attributes:
        positives: (L,) of each label.
    """

    positives: np.ndarray

    def of_all(self) -> np.ndarray:
        """The F1 (G,) with every label at the same threshold."""
        ...

    def begin(self, place: int) -> None:
        """Put every label to the threshold at this place of the grid."""

    def of(self, label: int) -> np.ndarray:
        """The F1 (G,) with this label at each threshold, the others where they are."""
        ...

    def move(self, label: int, place: int) -> None:
        """Put one label to the threshold at this place of the grid."""


class _Micro:
    """2 TP / (2 TP + FP + FN): moving one label changes its own counts alone."""

    def __init__(self, probabilities: Tensor, targets: Tensor, known: Tensor | None) -> None:
        labels, grid = targets.shape[1], len(threshold_grid())
        reached, place = _reached(probabilities)
        cell = reached + torch.arange(labels) * (grid + 1)  # (N, L)
        positive, negative = targets.bool(), ~targets.bool()
        if known is not None:
            positive, negative = positive & known, negative & known
        counts = []
        for entries in (positive, negative):
            cells = torch.bincount(cell[entries], minlength=labels * (grid + 1))
            stops = cells.view(labels, -1)[:, 1:]  # (L, G)
            counts.append(stops.flip(1).cumsum(1).flip(1)[:, place].numpy())
        self.tp, self.fp = counts  # (L, G)
        self.positives = positive.sum(0).numpy()
        self.all_positives = self.positives.sum()

    def of_all(self) -> np.ndarray:
        return self._f1(self.tp.sum(0), self.fp.sum(0))

    def begin(self, place: int) -> None:
        self.places = np.full(len(self.positives), place)
        # Kept up to date, as summing over the labels for each of them is quadratic.
        self.all_tp, self.all_fp = self.tp[:, place].sum(), self.fp[:, place].sum()

    def of(self, label: int) -> np.ndarray:
        own = label, self.places[label]
        return self._f1(
            self.all_tp - self.tp[own] + self.tp[label],
            self.all_fp - self.fp[own] + self.fp[label],
        )

    def move(self, label: int, place: int) -> None:
        own, new = (label, self.places[label]), (label, place)
        self.all_tp += self.tp[new] - self.tp[own]
        self.all_fp += self.fp[new] - self.fp[own]
        self.places[label] = place

    def _f1(self, tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
        # With all positives known, FN follows.
        return 2.0 * tp / np.maximum(tp + fp + self.all_positives, 1)


class _Samples:
    """The mean of each row's F1: moving one label changes each row by one answer at most."""

    def __init__(self, probabilities: Tensor, targets: Tensor, known: Tensor | None) -> None:
        reached, self.place = (part.numpy() for part in _reached(probabilities))
        self.known = np.ones(targets.shape, bool) if known is None else known.numpy()
        self.reached = np.where(self.known, reached, 0)  # what is not known is never answered
        self.targets = targets.bool().numpy() & self.known
        self.positives = self.targets.sum(0)
        self.true = self.targets.sum(1)  # (N,)
        self.rows = self.known.any(1)
        self.begin(0)

    def of_all(self) -> np.ndarray:
        scores = []
        for place in range(len(self.place)):
            answers = self.reached > self.place[place]
            scores.append(self._f1((answers & self.targets).sum(1), answers.sum(1)))
        return np.array(scores)

    def begin(self, place: int) -> None:
        self.answers = self.reached > self.place[place]  # (N, L)
        # (N,), kept up to date: counting them for each label anew is quadratic.
        self.hits, self.answered = (self.answers & self.targets).sum(1), self.answers.sum(1)

    def of(self, label: int) -> np.ndarray:
        own, truth = self.answers[:, label], self.targets[:, label]
        answers = self.reached[:, label, None] > self.place  # (N, G)
        others = self.hits - (own & truth)
        hits = others[:, None] + (answers & truth[:, None])
        return self._f1(hits, (self.answered - own)[:, None] + answers)

    def move(self, label: int, place: int) -> None:
        truth = self.targets[:, label]
        before, after = self.answers[:, label], self.reached[:, label] > self.place[place]
        self.hits = self.hits - (before & truth) + (after & truth)
        self.answered = self.answered - before + after
        self.answers[:, label] = after

    def _f1(self, tp: np.ndarray, answered: np.ndarray) -> np.ndarray:
        """Of true positives and answers of each row, (N,) or (N, G): one number or (G,)."""
        true = self.true.reshape(-1, *[1] * (tp.ndim - 1))
        scores = 2.0 * tp / np.maximum(answered + true, 1)
        # Sums of the same numbers in another order are ties.
        return scores[self.rows].mean(0).round(12) if self.rows.any() else scores.sum(0)


def _reached(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """How many thresholds each probability reaches (N, L), 0..G, and each threshold's place (G,)
    among them in ascending order: it is reached where the number is above its place."""
    ascending, order = torch.tensor(threshold_grid(), dtype=probabilities.dtype).sort()
    # Of a diverged network's nan no threshold is reached, as in a comparison.
    given = probabilities.nan_to_num(0.0).contiguous()
    return torch.bucketize(given, ascending, right=True), order.argsort()


_SEARCHES: dict[str, Callable[[Tensor, Tensor, Tensor | None], _Search]] = {
    "f1_micro": _Micro,
    "f1_samples": _Samples,
}


def _highest(scores: np.ndarray) -> int:
    return int(np.argmax(scores))  # the first of equals, which is the nearest to the middle
