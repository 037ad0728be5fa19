"""Scores agree with scikit-learn and with hand-worked answers."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

from mmlabel.metrics import (
    best_threshold,
    best_thresholds,
    f1_scores,
    per_label,
    score,
    threshold_grid,
)


def random_split(seed: int, rows: int = 300, labels: int = 20):
    rng = np.random.default_rng(seed)
    targets = rng.random((rows, labels)) < rng.random(labels) * 0.5
    targets[:, 12] = False  # a label number that does not exist
    noise = rng.normal(size=(rows, labels))
    probabilities = 1 / (1 + np.exp(-(2 * targets - 1 + 1.5 * noise)))
    # Coarse values make ties, which average precision must treat as one step.
    return np.round(probabilities, 2).astype(np.float32), targets


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    probabilities, targets = random_split(seed)
    answers, occurs = probabilities >= 0.5, targets.any(axis=0)
    got = score(torch.from_numpy(probabilities), torch.from_numpy(targets), 0.5)
    assert got["f1_micro"] == pytest.approx(f1_score(targets, answers, average="micro"), abs=1e-9)
    assert got["f1_samples"] == pytest.approx(
        f1_score(targets, answers, average="samples", zero_division=0), abs=1e-9
    )
    assert got["f1_macro"] == pytest.approx(
        f1_score(targets[:, occurs], answers[:, occurs], average="macro", zero_division=0), abs=1e-9
    )
    assert got["map"] == pytest.approx(
        average_precision_score(targets[:, occurs], probabilities[:, occurs]), abs=1e-6
    )


def test_per_label_agrees_with_scikit_learn():
    probabilities, targets = random_split(7)
    got = per_label(torch.from_numpy(probabilities), torch.from_numpy(targets), 0.5)
    expected = precision_recall_fscore_support(targets, probabilities >= 0.5, zero_division=0)
    for column, name in enumerate(("precision", "recall", "f1", "support")):
        np.testing.assert_allclose([row[name] for row in got], expected[column], atol=1e-9)


def test_three_f1s_of_a_hand_worked_case():
    targets = torch.tensor([[1, 1, 0], [1, 0, 0]])
    probabilities = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.6, 0.0]])
    # Answers: row 0 {0, 1}, right; row 1 {1}, wrong. TP 2, FP 1, FN 1.
    got = score(probabilities, targets, 0.5)
    assert got["f1_micro"] == pytest.approx(4 / 6)
    assert got["f1_samples"] == pytest.approx((1 + 0) / 2)
    assert got["f1_macro"] == pytest.approx((2 / 3 + 2 / 3) / 2)  # label 2 never occurs


def test_best_threshold_is_the_best_and_central():
    probabilities = torch.tensor([[0.3], [0.3], [0.1], [0.1]])
    targets = torch.tensor([[1], [1], [0], [0]])
    assert best_threshold(probabilities, targets) == 0.3
    assert best_threshold(torch.tensor([[0.9], [0.1]]), torch.tensor([[1], [0]])) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_known_is_left_out(seed):
    probabilities, targets = random_split(seed, rows=60)
    rng = np.random.default_rng([seed, 1])
    known = rng.random(targets.shape) < rng.random(20)
    known[:9] = False
    known[:, 3] = False
    # What stands where nothing is known must not matter.
    given = torch.from_numpy(np.where(known, targets, rng.random(targets.shape) < 0.5))
    answers, occurs = probabilities >= 0.5, (targets & known).any(axis=0)
    got = score(torch.from_numpy(probabilities), given, 0.5, torch.from_numpy(known))
    assert got["f1_micro"] == pytest.approx(f1_score(targets[known], answers[known]), abs=1e-9)
    by_row = [
        f1_score(truth[kept], answer[kept], zero_division=0)
        for truth, answer, kept in zip(targets, answers, known, strict=True)
        if kept.any()
    ]
    assert len(by_row) <= 51
    assert got["f1_samples"] == pytest.approx(np.mean(by_row), abs=1e-9)
    columns = [(targets[k, n], answers[k, n], probabilities[k, n]) for n, k in enumerate(known.T)]
    by_label = [
        f1_score(*c[:2], zero_division=0) for c, o in zip(columns, occurs, strict=True) if o
    ]
    assert got["f1_macro"] == pytest.approx(np.mean(by_label), abs=1e-9)
    precisions = [
        average_precision_score(c[0], c[2]) for c, o in zip(columns, occurs, strict=True) if o
    ]
    assert got["map"] == pytest.approx(np.mean(precisions), abs=1e-6)
    table = per_label(torch.from_numpy(probabilities), given, 0.5, torch.from_numpy(known))
    for row, (truth, answer, _) in zip(table, columns, strict=True):
        if len(truth):
            expected = precision_recall_fscore_support(
                truth, answer, average="binary", zero_division=0
            )
            assert [row[n] for n in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
        assert row["support"] == truth.sum()


def test_all_known_is_as_without_a_mask():
    probabilities, targets = map(torch.from_numpy, random_split(3))
    everything = torch.ones_like(targets)
    for function in (score, per_label):
        without = function(probabilities, targets, 0.4)
        assert function(probabilities, targets, 0.4, everything) == without
    nothing = score(probabilities, targets, 0.4, torch.zeros_like(targets))
    assert nothing == {"f1_micro": 0, "f1_samples": 0, "f1_macro": 0, "map": 0}


def slow_best_thresholds(probabilities, targets, known):
    """Every F1 computed anew, in the order in which ties are decided."""

    def micro(thresholds):
        return f1_scores(probabilities >= thresholds, targets, known)["f1_micro"]

    grid = threshold_grid()
    best = max(grid, key=micro)
    thresholds = torch.full((targets.shape[1],), best)
    for label in range(targets.shape[1]):
        candidates = []
        for value in [thresholds[label].item(), *grid]:
            changed = thresholds.clone()
            changed[label] = value
            candidates.append(changed)
        if (targets if known is None else targets & known)[:, label].any():
            thresholds = max(candidates, key=micro)
    return best, thresholds


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [7, 200])
def test_best_thresholds_are_those_of_the_slow_way(seed, rows, masked):
    probabilities, targets = map(torch.from_numpy, random_split(seed, rows=rows, labels=13))
    if seed == 3:  # values that are not on the grid
        probabilities = (probabilities + 0.004 * torch.rand(rows, 13)).clamp(0, 1)
    known = torch.rand(rows, 13) < 0.7 if masked else None
    best, thresholds = slow_best_thresholds(probabilities, targets, known)
    assert best_threshold(probabilities, targets, known) == best
    assert torch.equal(best_thresholds(probabilities, targets, known), thresholds)


def test_thresholds_of_nothing():
    """No positive, or a network that has diverged: the middle, and no error."""
    zeros = torch.zeros(5, 3)
    assert best_threshold(zeros + 0.4, zeros) == 0.5
    assert best_thresholds(zeros + 0.4, zeros).tolist() == [0.5] * 3
    assert best_threshold(zeros + torch.nan, zeros + 1) == 0.5
