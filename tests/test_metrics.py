"""Scores agree with scikit-learn and with hand-worked answers."""

import numpy as np
import pytest
import torch
from made_data import random_split
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

from mmlabel.metrics import per_label, score


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
