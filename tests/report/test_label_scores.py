"""Curves, calibration and confusions against scikit-learn, by hand and the slow way."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from mmlabel.report.label_scores import calibration_error, precision_recall, taken_for


@pytest.mark.parametrize("digits", [1, 6])
def test_curves_and_average_precision_are_those_of_scikit_learn(digits: int):
    random = np.random.default_rng(digits)
    for rows in (1, 2, 7, 200):
        targets = random.random(rows) < 0.3
        targets[random.integers(rows)] = True
        probs = random.random(rows).round(digits)  # one digit: many are equal
        curve = precision_recall(targets, probs)
        precision, recall, thresholds = precision_recall_curve(targets, probs)
        assert curve.thresholds == pytest.approx(thresholds[::-1])
        assert curve.precision == pytest.approx(precision[:-1][::-1])
        assert curve.recall == pytest.approx(recall[:-1][::-1])
        assert curve.average_precision == pytest.approx(average_precision_score(targets, probs))
        best = max(f1_score(targets, probs >= t) for t in probs)
        assert f1_score(targets, probs >= curve.best_threshold) == pytest.approx(best)


def test_the_best_threshold_has_the_digits_that_it_takes():
    """As a page shows it, it has the highest F1: 0.47 would answer every row."""
    targets = np.array([True, True, False, False])
    curve = precision_recall(targets, np.array([0.4751234, 0.4743219, 0.4741, 0.4722]))
    assert curve.best_threshold == 0.4743
    assert precision_recall(targets, np.array([0.9991, 0.9987, 0.3, 0.2])).best_threshold == 0.99
    assert precision_recall(targets, np.array([0.004, 0.0031, 0.001, 0.0])).best_threshold == 0.003
    assert precision_recall(targets[:2], np.array([0.9, 0.3])).best_threshold == 0.3


def test_a_curve_of_many_rows_is_drawn_with_few_points():
    random = np.random.default_rng(0)
    targets = random.random(50_000) < 0.3
    curve = precision_recall(targets, np.clip(targets * 0.2 + random.random(50_000), 0, 1))
    recall, precision = curve.drawn(columns=100)
    assert len(recall) <= 303
    for column in np.unique((curve.recall * 100).astype(int)):  # the slow way
        inside = (curve.recall * 100).astype(int) == column
        kept = (recall * 100).astype(int) == column
        assert precision[kept].max() == curve.precision[inside].max()
        assert precision[kept].min() == curve.precision[inside].min()
        assert recall[kept][0] == curve.recall[inside][0]
    assert (recall[-1], precision[-1]) == (curve.recall[-1], curve.precision[-1])


def test_calibration_error_by_hand():
    targets = np.array([True, False, False, False])
    # Tenths: 0.25 and 0.2 are together (one of two true), 0.9 alone and false, 1.0 in the last one.
    probs = np.array([0.25, 0.2, 0.95, 1.0])
    expected = (abs(0.45 - 1) + abs(1.95 - 0)) / 4
    assert calibration_error(targets, probs) == pytest.approx(expected)
    certain = np.array([1.0, 0.0])
    assert calibration_error(certain > 0.5, certain) == 0


def test_taken_for_the_slow_way():
    random = np.random.default_rng(0)
    targets, answers = random.random((2, 50, 4)) < 0.4
    counts = taken_for(targets, answers)
    for i in range(4):
        for j in range(4):
            rows = sum(
                targets[n, i] and not answers[n, i] and answers[n, j] and not targets[n, j]
                for n in range(50)
            )
            assert counts[i, j] == rows
    assert not counts.diagonal().any() and counts.any()
