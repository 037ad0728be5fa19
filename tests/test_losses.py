"""Losses: equal to torch's own, and to nothing but the known targets where some are masked."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmlabel.criterion import MeanOverKnown, positive_weights
from mmlabel.losses import Bce, BcePosWeight, LossOptions

OPTIONS = [Bce(name="bce"), BcePosWeight(name="bce_pos_weight")]
WEIGHTS = np.array([1.0, 0.5, 30.0, 7.0, 1.0])


def rows(seed: int = 0, count: int = 37) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 5, generator=generator, requires_grad=True)
    targets = (torch.rand(count, 5, generator=generator) < 0.3).float()
    return logits, targets, torch.rand(count, 5, generator=generator) < 0.6


def torchs_own(options: LossOptions) -> nn.BCEWithLogitsLoss:
    weights = torch.tensor(WEIGHTS, dtype=torch.float32) if options.weighs_positives else None
    return nn.BCEWithLogitsLoss(pos_weight=weights)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_with_all_known_it_is_torchs_to_the_last_bit(options: LossOptions, masked: bool) -> None:
    logits, targets, _ = rows()
    loss = MeanOverKnown(options, pos_weight=WEIGHTS)
    got = loss(logits, targets, torch.ones(37, 5, dtype=torch.bool) if masked else None)
    expected = torchs_own(options)(logits, targets)
    assert torch.equal(got, expected)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (got, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_mean_is_over_known_entries(options: LossOptions) -> None:
    logits, targets, known = rows()
    got = MeanOverKnown(options, pos_weight=WEIGHTS)(
        logits, torch.where(known, targets, -1.0), known
    )
    each = torchs_own(options)
    each.reduction = "none"
    torch.testing.assert_close(got, each(logits, targets)[known].mean())
    (gradient,) = torch.autograd.grad(got, logits)
    assert not gradient[~known].any() and gradient[known].all()


def test_a_batch_that_knows_nothing_has_no_loss() -> None:
    logits, targets, known = rows()
    loss = MeanOverKnown(Bce(name="bce"))(logits, targets, torch.zeros_like(known))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_positive_weights_by_hand() -> None:
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=np.uint8)
    assert positive_weights(targets).tolist() == [3.0, 1.0, 1 / 3]
    known = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)
    assert positive_weights(targets, known).tolist() == [1.0, 1.0, 0.5]
    assert np.array_equal(positive_weights(targets, np.ones_like(known)), positive_weights(targets))


def test_weights_are_part_of_a_checkpoint_and_of_no_other_loss() -> None:
    state = MeanOverKnown(BcePosWeight(name="bce_pos_weight"), pos_weight=WEIGHTS).state_dict()
    assert state["pos_weight"].tolist() == WEIGHTS.tolist()
    assert not MeanOverKnown(Bce(name="bce"), pos_weight=WEIGHTS).state_dict()


def test_a_loss_may_have_options_of_its_own() -> None:
    class Scaled(LossOptions):
        scale: float

        def mean(self, logits, targets, weight, positive) -> Tensor:
            return self.scale * (logits if weight is None else logits * weight).mean()

    loss = MeanOverKnown(Scaled(scale=3.0), pos_weight=WEIGHTS)
    assert loss(torch.ones(2, 5), torch.ones(2, 5)) == 3
    assert loss(torch.ones(2, 5), torch.ones(2, 5), torch.eye(2, 5, dtype=torch.bool)) == 3
    assert not loss.state_dict()
