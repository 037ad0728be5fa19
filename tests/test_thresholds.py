"""Thresholds: the best the slow way, and by cross-validation good on rows that had no say."""

from functools import partial

import numpy as np
import pytest
import torch
from made_data import random_split

from mmlabel.metrics import f1_scores
from mmlabel.thresholds import (
    FINDERS,
    REPEATS,
    best_threshold,
    best_thresholds,
    cross_validated_threshold,
    threshold_grid,
)


def test_best_threshold_is_the_best_and_central():
    probabilities = torch.tensor([[0.3], [0.3], [0.1], [0.1]])
    targets = torch.tensor([[1], [1], [0], [0]])
    assert best_threshold(probabilities, targets) == 0.3
    assert best_threshold(torch.tensor([[0.9], [0.1]]), torch.tensor([[1], [0]])) == 0.5


def slow_best_thresholds(probabilities, targets, known, raised):
    """Every F1 computed anew, in the order in which ties are decided."""

    def f1(thresholds):
        return round(f1_scores(probabilities >= thresholds, targets, known)[raised], 12)

    grid = threshold_grid()
    best = max(grid, key=f1)
    thresholds = torch.full((targets.shape[1],), best)
    for label in range(targets.shape[1]):
        candidates = []
        for value in [thresholds[label].item(), *grid]:
            changed = thresholds.clone()
            changed[label] = value
            candidates.append(changed)
        if (targets if known is None else targets & known)[:, label].any():
            thresholds = max(candidates, key=f1)
    return best, thresholds


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [7, 200])
@pytest.mark.parametrize("raised", ["f1_micro", "f1_samples"])
def test_best_thresholds_are_those_of_the_slow_way(seed, rows, masked, raised):
    probabilities, targets = map(torch.from_numpy, random_split(seed, rows=rows, labels=13))
    if seed == 3:  # values that are not on the grid
        probabilities = (probabilities + 0.004 * torch.rand(rows, 13)).clamp(0, 1)
    known = torch.rand(rows, 13) < 0.7 if masked else None
    best, thresholds = slow_best_thresholds(probabilities, targets, known, raised)
    assert best_threshold(probabilities, targets, known, raised=raised) == best
    assert torch.equal(best_thresholds(probabilities, targets, known, raised=raised), thresholds)


@pytest.mark.parametrize("raised", ["f1_micro", "f1_samples"])
@pytest.mark.parametrize("name", FINDERS)
def test_thresholds_of_nothing(name, raised):
    """No row, no positive, nothing known, or a network that has diverged: the middle, no error."""
    find, zeros = partial(FINDERS[name], raised=raised), torch.zeros(15, 3)
    nothing = torch.zeros(15, 3, dtype=torch.bool)
    for given in ((zeros + 0.4, zeros), (zeros + 0.4, zeros + 1, nothing), (zeros[:0], zeros[:0])):
        assert torch.as_tensor(find(*given)).unique().tolist() == [0.5]
    assert torch.as_tensor(find(zeros + torch.nan, zeros + 1)).unique().tolist() == [0.5]


def answers_of(random: np.random.Generator, rows: int, shift: np.ndarray):
    """Probabilities of labels whose best thresholds differ by `shift`, and targets."""
    targets = random.random((rows, len(shift))) < 0.08
    logits = 2.5 * (2 * targets - 1) + 1.6 * random.normal(size=targets.shape) + shift
    return torch.from_numpy(1 / (1 + np.exp(-logits))), torch.from_numpy(targets)


@pytest.mark.parametrize(("raised", "masked"), [("f1_micro", True), ("f1_samples", False)])
def test_cross_validation_gains_on_unseen_rows_what_a_maximum_loses(raised, masked):
    """Few rows, labels that are alike: a threshold for each is found by chance."""
    random, unseen = np.random.default_rng(0), dict.fromkeys(FINDERS, 0.0)
    for _ in range(4):
        few, many = answers_of(random, 120, np.zeros(18)), answers_of(random, 4000, np.zeros(18))
        known = torch.from_numpy(random.random((120, 18)) < 0.8) if masked else None
        for name, find in FINDERS.items():
            found = find(*few, known, raised=raised)
            unseen[name] += f1_scores(many[0] >= found, many[1])[raised] / 4
    assert unseen["cv"] > unseen["auto"] - 3e-3
    assert unseen["cv_per_label"] > unseen["per_label"] + 0.005
    assert unseen["cv_per_label"] > unseen["cv"] - 0.005


def test_labels_that_do_differ_keep_their_own_thresholds():
    random, shift = np.random.default_rng(1), np.linspace(-2.5, 2.5, 12)
    rows, others = answers_of(random, 3000, shift), answers_of(random, 3000, shift)
    scores = {
        name: f1_scores(others[0] >= find(*rows), others[1])["f1_micro"]
        for name, find in FINDERS.items()
    }
    assert scores["cv_per_label"] > scores["cv"] + 0.02
    assert scores["cv_per_label"] > scores["per_label"] - 0.002


def test_the_cross_validated_threshold_the_slow_way():
    probabilities, targets = map(torch.from_numpy, random_split(5, rows=30, labels=13))
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(REPEATS):
        order = torch.randperm(30, generator=generator)
        for first in range(0, 30, 6):
            kept = torch.cat([order[:first], order[first + 6 :]])
            found.append(best_threshold(probabilities[kept], targets[kept]))
    assert cross_validated_threshold(probabilities, targets) == pytest.approx(np.mean(found))
