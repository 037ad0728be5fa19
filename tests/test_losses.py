"""Losses: equal to torch's own, and to nothing but the known targets where some are masked."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmlabel.losses import LOSSES, build_loss, positive_weights

WEIGHTS = np.array([1.0, 0.5, 30.0, 7.0, 1.0])


def rows(seed: int = 0, count: int = 37) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 5, generator=generator, requires_grad=True)
    targets = (torch.rand(count, 5, generator=generator) < 0.3).float()
    return logits, targets, torch.rand(count, 5, generator=generator) < 0.6


def torchs_own(name: str) -> nn.BCEWithLogitsLoss:
    weights = torch.tensor(WEIGHTS, dtype=torch.float32) if name == "bce_pos_weight" else None
    return nn.BCEWithLogitsLoss(pos_weight=weights)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("masked", [False, True])
def test_with_all_known_it_is_torchs_to_the_last_bit(name: str, masked: bool) -> None:
    logits, targets, _ = rows()
    loss = build_loss(name, pos_weight=WEIGHTS)
    got = loss(logits, targets, torch.ones(37, 5, dtype=torch.bool) if masked else None)
    expected = torchs_own(name)(logits, targets)
    assert torch.equal(got, expected)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (got, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_is_over_known_entries(name: str) -> None:
    logits, targets, known = rows()
    got = build_loss(name, pos_weight=WEIGHTS)(logits, torch.where(known, targets, -1.0), known)
    each = torchs_own(name)
    each.reduction = "none"
    torch.testing.assert_close(got, each(logits, targets)[known].mean())
    (gradient,) = torch.autograd.grad(got, logits)
    assert not gradient[~known].any() and gradient[known].all()


def test_a_batch_that_knows_nothing_has_no_loss() -> None:
    logits, targets, known = rows()
    loss = build_loss("bce")(logits, targets, torch.zeros_like(known))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_positive_weights_by_hand() -> None:
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=np.uint8)
    assert positive_weights(targets).tolist() == [3.0, 1.0, 1 / 3]
    known = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)
    assert positive_weights(targets, known).tolist() == [1.0, 1.0, 0.5]
    assert np.array_equal(positive_weights(targets, np.ones_like(known)), positive_weights(targets))


def test_weights_are_part_of_a_checkpoint_and_of_no_other_loss() -> None:
    state = build_loss("bce_pos_weight", pos_weight=WEIGHTS).state_dict()
    assert state["pos_weight"].tolist() == WEIGHTS.tolist()
    assert not build_loss("bce", pos_weight=WEIGHTS).state_dict()


def test_a_loss_with_an_option_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Module):
        def __init__(self, pos_weight: Tensor | None, *, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, logits: Tensor, targets: Tensor, known: Tensor | None) -> Tensor:
            return self.scale * logits.sum()

    monkeypatch.setitem(LOSSES, "scaled", Scaled)
    assert build_loss(name="scaled", scale=3.0)(torch.ones(2, 2), torch.ones(2, 2), None) == 12
    with pytest.raises(TypeError, match="scael"):
        build_loss(name="scaled", scael=3.0)
