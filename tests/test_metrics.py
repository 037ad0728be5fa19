"""Scores agree with scikit-learn and with hand-worked answers."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

from mmlabel.metrics import best_threshold, per_label, score


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
