"""Which answers of finished runs are wrong, and where rather the label may be."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmlabel.errors import UserError
from mmlabel.run_folder import RunRecord, reached
from mmlabel.wording import other_labels, quoted


@dataclass(frozen=True)
class AnsweredRows:
    """Rows that runs were tested on, each once; a mean where several runs had it.

    Attributes:
        ids: N image ids.
        labels: K label numbers.
        targets: (N, K) bool.
        known: (N, K) bool: which of the targets are.
        probs: (N, K) float, 0..1: what thresholds are compared with.
        probabilities: (N, K) float, 0..1, of the labels; `probs` but for a label decoder.
        thresholds: (N, K) float, from which of `probs` on a label is answered.
        runs: how many runs they are of.
    """

    ids: list[str]
    labels: list[int]
    targets: np.ndarray
    known: np.ndarray
    probs: np.ndarray
    probabilities: np.ndarray
    thresholds: np.ndarray
    runs: int

    @cached_property
    def answered(self) -> np.ndarray:
        """(N, K) bool: a label that was answered; none of which it is not known whether it is."""
        return reached(self.probs, self.thresholds) & self.known

    @cached_property
    def wrong(self) -> np.ndarray:
        """(N, K) bool: a label that was missed, or answered without being there."""
        return (self.answered != self.targets) & self.known

    @cached_property
    def sureness(self) -> np.ndarray:
        """(N,) float, see `sureness`."""
        return sureness(self.probabilities, self.answered, self.wrong)


@dataclass(frozen=True)
class Suspicion:
    """What confident learning says of the labels of N rows.

    Attributes:
        cells: (N, K) bool: the label is probably wrong, there or missing.
        quality: (N,) how likely a row's labels are right, 0..1; NaN where they were not looked at.
        left_out: rows that were not looked at, as not all of their labels are known.
    """

    cells: np.ndarray
    quality: np.ndarray
    left_out: int


def sureness(probs: np.ndarray, answered: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """(N,) float: how sure a model is of its worst mistake in a row; 0 without one.

    Of (N, K) probabilities, which labels are answered with them, and which of those are wrong.
    """
    sure = np.where(answered, probs, 1 - probs)
    return np.where(wrong, sure, 0).max(axis=1, initial=0)


def answered_rows(runs: Sequence[RunRecord]) -> AnsweredRows:
    """The rows on which runs were tested, put together.

    Raises UserError for runs of different labels (their numbers or names), on other data, or that
    know other labels of the same row.
    """
    first = runs[0]
    place: dict[str, int] = {}
    named: dict[int, str] = {}
    read: dict[str, Path] = {}  # by the digest of ids, captions and labels, which older runs lack
    for run in runs:
        if run.predictions.labels != first.predictions.labels:
            theirs, ours = (list(map(str, r.predictions.labels)) for r in (run, first))
            raise UserError(
                f"{run.folder} has other labels than {first.folder} (it"
                f" {other_labels(theirs, ours)}): look at one alone"
            )
        for number, label in run.label_names.items():
            if (name := named.setdefault(number, label)) != label:
                raise UserError(
                    f"{run.folder} has {quoted(label)} as label {number}, where runs before"
                    f" it have {quoted(name)}: give runs on the same data"
                )
        if digest := (run.results.get("inputs") or {}).get("data"):
            read.setdefault(digest, run.folder)
        if len(read) > 1:
            raise UserError(
                f"{run.folder} has read other data (ids, captions or labels) than"
                f" {next(iter(read.values()))}: give runs on the same data"
            )
        for id in run.predictions.ids:
            place.setdefault(id, len(place))
    shape = len(place), len(first.predictions.labels)
    targets, known = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    probs, probabilities, thresholds = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    times = np.zeros(len(place))
    for run in runs:
        found = run.predictions
        rows = np.array([place[id] for id in found.ids])
        before = times[rows] > 0
        other = (targets[rows] != found.targets) | (known[rows] != found.known)
        if (changed := before & other.any(axis=1)).any():
            raise UserError(
                f"{run.folder} has other labels for {found.ids[int(changed.argmax())]} than the"
                " runs before it: give runs on the same data"
            )
        targets[rows], known[rows] = found.targets, found.known
        probs[rows] += found.probs
        probabilities[rows] += run.probabilities
        thresholds[rows] += run.thresholds
        times[rows] += 1
    return AnsweredRows(
        ids=list(place),
        labels=first.predictions.labels,
        targets=targets,
        known=known,
        probs=probs / times[:, None],
        probabilities=probabilities / times[:, None],
        thresholds=thresholds / times[:, None],
        runs=len(runs),
    )


def suspicion(rows: AnsweredRows) -> Suspicion:
    """Probable label errors by confident learning (Northcutt, Jiang & Chuang, 2021; cleanlab's
    multi-label scores: Thyagarajan et al., 2022).

    Raises UserError where cleanlab is not installed, or where one label alone varies.
    """
    try:
        from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
        from cleanlab.multilabel_classification.rank import get_label_quality_scores
    except ImportError:
        raise UserError(
            "label errors are found by cleanlab: pip install -e '.[mistakes]'"
        ) from None
    cells, quality = np.zeros(rows.targets.shape, dtype=bool), np.full(len(rows.ids), np.nan)
    whole = rows.known.all(axis=1)
    # A label that every row has or none has cannot be told right from wrong.
    some = rows.targets[whole].any(axis=0) & ~rows.targets[whole].all(axis=0)
    if some.sum() == 1:
        raise UserError("cleanlab needs two labels that some rows have and others lack")
    if some.any():
        lists = [np.flatnonzero(row).tolist() for row in rows.targets[whole][:, some]]
        probs = rows.probabilities[whole][:, some]
        with warnings.catch_warnings():
            # It warns once a label that a row or two have, and does not say which.
            warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)
            cells[np.ix_(whole, some)] = find_multilabel_issues_per_class(lists, probs, n_jobs=1)
        quality[whole] = get_label_quality_scores(lists, probs)
    return Suspicion(cells, quality, int((~whole).sum()))
