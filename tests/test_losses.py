"""Losses: equal to torch's own, and to nothing but the known targets where some are masked."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmlabel.criterion import MeanOverKnown, positive_weights
from mmlabel.losses import Asymmetric, Bce, BcePosWeight, Focal, LossOptions
from mmlabel.parts import criterion_for

OPTIONS = [Bce(name="bce"), BcePosWeight(name="bce_pos_weight")]
FOCUSED = [
    Focal(name="focal"),
    Focal(name="focal", gamma=0.5, alpha=None),
    Focal(name="focal", gamma=0.0, alpha=0.7),
    Asymmetric(name="asymmetric"),
    Asymmetric(name="asymmetric", gamma_negative=0.5, gamma_positive=0.3, margin=0.0),
    Asymmetric(name="asymmetric", gamma_negative=1.0, gamma_positive=2.0, margin=0.2),
]
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


def by_hand(options: Focal | Asymmetric, logit: float, target: float) -> float:
    """The formula of the paper, in double precision."""
    p = 1 / (1 + math.exp(-logit))
    if isinstance(options, Focal):
        q = p * target + (1 - p) * (1 - target)
        a = options.alpha
        a = 1.0 if a is None else a * target + (1 - a) * (1 - target)
        entropy = -(target * math.log(p) + (1 - target) * math.log(1 - p))
        return a * (1 - q) ** options.gamma * entropy
    r = max(p - options.margin, 0.0)
    positive = -((1 - p) ** options.gamma_positive) * math.log(p)
    negative = -(r**options.gamma_negative) * math.log(1 - r)
    return target * positive + (1 - target) * negative


@pytest.mark.parametrize("options", FOCUSED, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_focused_losses_by_hand_over_known_entries(options: Focal | Asymmetric, soft: bool) -> None:
    logits, targets, known = rows()
    targets = 0.1 + 0.7 * targets if soft else targets
    each = [
        by_hand(options, x, y)
        for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    ]
    loss, each = MeanOverKnown(options, pos_weight=WEIGHTS), torch.tensor(each).view(37, 5)
    torch.testing.assert_close(loss(logits, targets), each.mean(), atol=1e-6, rtol=1e-5)
    got = loss(logits, torch.where(known, targets, -1.0), known)
    torch.testing.assert_close(got, each[known].mean(), atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(got, logits)
    assert not gradient[~known].any() and gradient.isfinite().all()


def test_focal_is_torchvisions() -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, targets, _ = rows()
    for gamma, alpha in ((2.0, 0.25), (1.5, None)):
        got = MeanOverKnown(Focal(name="focal", gamma=gamma, alpha=alpha))(logits, targets)
        torchvisions = sigmoid_focal_loss(
            logits, targets, alpha=-1 if alpha is None else alpha, gamma=gamma, reduction="mean"
        )
        torch.testing.assert_close(got, torchvisions)


@pytest.mark.parametrize("options", [*OPTIONS, *FOCUSED], ids=str)
def test_an_answer_as_sure_as_can_be_has_a_loss_and_a_slope(options: LossOptions) -> None:
    logits = torch.tensor([[-300.0, -60.0, 0.0, 60.0, 300.0]] * 2, requires_grad=True)
    targets = torch.tensor([[0.0], [1.0]]).expand(2, 5)
    loss = MeanOverKnown(options, pos_weight=WEIGHTS)(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("options", [*OPTIONS, *FOCUSED], ids=str)
def test_logits_in_half_precision_have_the_loss_of_single_precision(options: LossOptions) -> None:
    logits, targets, known = rows()
    logits = (3 * logits - 4).detach().bfloat16()
    loss = MeanOverKnown(options, pos_weight=WEIGHTS, teacher_weight=0.3, temperature=2.0)
    for given in ((targets,), (targets, known), (targets, None, logits.flip(0))):
        expected = loss(logits.float(), *given)
        assert torch.equal(loss(logits, *given), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(logits, *given), expected)


@pytest.mark.parametrize("name", ["bce", "bce_pos_weight", "focal", "asymmetric"])
def test_smoothed_targets_serve_training_alone(name: str) -> None:
    kinds = {"bce": Bce, "bce_pos_weight": BcePosWeight, "focal": Focal, "asymmetric": Asymmetric}
    logits, targets, known = rows()
    smoothed = MeanOverKnown(kinds[name](name=name, smoothing=0.2), pos_weight=WEIGHTS)
    plain = MeanOverKnown(kinds[name](name=name), pos_weight=WEIGHTS)
    moved = torch.where(targets == 1, 0.9, 0.1)
    torch.testing.assert_close(smoothed(logits, targets, known), plain(logits, moved, known))
    assert torch.equal(smoothed.eval()(logits, targets, known), plain(logits, targets, known))


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


@pytest.mark.parametrize("beta", [None, 0.0, 0.9])
def test_a_label_that_every_row_has_is_learned_too(beta: float | None) -> None:
    targets = np.array([[1, 1], [1, 0], [1, 0]], dtype=np.uint8)
    assert positive_weights(targets, beta=beta)[0] == 1
    known = np.array([[1, 1], [1, 0], [1, 0]], dtype=bool)  # of the second label one positive
    assert positive_weights(targets, known, beta=beta).tolist() == [1, 1]


def test_effective_numbers_by_hand_and_a_limit() -> None:
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=np.uint8)
    # E(1) = 1, E(3) = 1 + 0.5 + 0.25
    assert positive_weights(targets, beta=0.5).tolist() == [1.75, 1.0, 1 / 1.75]
    assert positive_weights(targets, beta=0.0).tolist() == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(
        positive_weights(targets, beta=1 - 1e-7), positive_weights(targets), rtol=1e-6
    )
    assert positive_weights(targets, max_weight=2.0).tolist() == [2.0, 1.0, 1 / 3]
    known = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)
    assert positive_weights(targets, known, beta=0.5).tolist() == [1.0, 1.0, 1 / 1.5]


def test_effective_numbers_tell_apart_up_to_one_over_one_minus_beta() -> None:
    """As `loss.beta` is described: 0.999 does not weigh as the numbers themselves do."""
    targets = np.zeros((14_400, 2), dtype=np.uint8)
    targets[:100, 0] = targets[:9_000, 1] = 1
    by_number, weights = positive_weights(targets), positive_weights(targets, beta=0.999)
    assert by_number.tolist() == [143.0, 0.6]
    assert weights[0] < by_number[0] / 10 and weights[1] == pytest.approx(1, abs=0.01)
    assert positive_weights(targets, beta=0.99999)[0] == pytest.approx(by_number[0], rel=0.1)
    described = " ".join((BcePosWeight.model_fields["beta"].description or "").split())
    assert "0.999 tells numbers apart up to some 1,000 rows" in described


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


def test_a_run_weighs_positives_as_it_is_told(settings_of) -> None:
    targets = (np.random.default_rng(0).random((40, 5)) < 0.1).astype(np.uint8)
    given = ("loss=bce_pos_weight", "loss.beta=0.9", "loss.max_weight=5")
    for options, asked in (((), None), (given[:1], {}), (given, {"beta": 0.9, "max_weight": 5.0})):
        criterion = criterion_for(settings_of(*options), targets, None)
        if asked is None:
            assert criterion.pos_weight is None
        else:
            expected = positive_weights(targets, **asked)
            np.testing.assert_allclose(criterion.pos_weight.numpy(), expected, rtol=1e-6)
