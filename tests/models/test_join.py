"""Joining picture and caption: formulas by hand, scales, hidden halves, auxiliary classifiers."""

import pytest
import torch
from small_network import CRITERION, LABELS, batch_of, network_of
from torch import Tensor, nn

from mmlabel.data.batches import Batch
from mmlabel.errors import UserError
from mmlabel.models import options
from mmlabel.models.fusion import LateFusion
from mmlabel.models.join import HALVES, JOINS, Bilinear, Gated, Join

CHOICES = [
    {"image_scale": 0.3},
    {"fusion": "gated"},
    {"fusion": "bilinear"},
    {"auxiliary_loss": 0.5},
    {"modality_dropout": 0.4},
]


def built(**chosen) -> LateFusion:
    network = network_of(options.Fusion(name="fusion", **chosen))
    assert isinstance(network, LateFusion)
    return network


def batch(rows: int = 6) -> Batch:
    """Pictures whose features are of another size than captions' states."""
    found = batch_of(rows)
    assert found.image is not None
    return found._replace(image=50 + 9 * found.image)


def halves(rows: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (
        5 + 9 * torch.randn(rows, 12, generator=generator),
        0.1 * torch.rand(rows, 8, generator=generator),
    )


def test_the_default_is_the_reports_network() -> None:
    network = built()
    assert network.join is None and not network.auxiliary
    assert isinstance(network.head.layers[0], nn.BatchNorm1d)


def test_scaled_concatenation() -> None:
    join = Join("concat", image=12, caption=8, width=3, image_scale=0.3)
    image, caption = halves()
    joined = join(*join.standardised([image, caption]))
    assert join.out_features == 20 and joined.shape == (400, 20)
    expected = torch.cat([torch.full((12,), 0.3), torch.ones(8)])
    torch.testing.assert_close(joined.std(0, correction=0), expected, atol=1e-2, rtol=0)
    torch.testing.assert_close(joined.mean(0), torch.zeros(20), atol=1e-5, rtol=0)
    # The head's own norm would undo it.
    assert isinstance(built(image_scale=0.3).head.layers[0], nn.Identity)


def test_the_gated_unit_by_hand() -> None:
    unit = Gated(image=2, caption=1, width=1)
    for layer, weights in ((unit.image, [[0.5, -1.0]]), (unit.caption, [[2.0]])):
        layer.weight.data = torch.tensor(weights)
    unit.gate.weight.data = torch.tensor([[1.0, 0.0, -1.0]])
    gate = torch.sigmoid(torch.tensor(0.8 - 0.3))
    expected = gate * torch.tensor(0.4 - 0.1).tanh() + (1 - gate) * torch.tensor(0.6).tanh()
    torch.testing.assert_close(
        unit(torch.tensor([[0.8, 0.1]]), torch.tensor([[0.3]])), expected.view(1, 1)
    )


def test_the_bilinear_product_by_hand() -> None:
    unit = Bilinear(image=2, caption=1, width=2)
    unit.image.weight.data = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    unit.image.bias.data = torch.tensor([0.1, -0.2])
    unit.caption.weight.data = torch.tensor([[3.0], [-1.0]])
    unit.caption.bias.data = torch.tensor([0.0, 0.5])
    expected = torch.tensor([1.1, 0.3]).tanh() * torch.tensor([0.6, 0.3]).tanh()
    joined = unit(torch.tensor([[0.0, 0.5]]), torch.tensor([[0.2]]))
    torch.testing.assert_close(joined, expected[None])


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("kind", sorted(JOINS.keys() - {"attention"}))
def test_halves_are_hidden_in_training_alone(kind: str, batch_norm: bool) -> None:
    options = {"image": 12, "caption": 8, "width": 3, "batch_norm": batch_norm}
    torch.manual_seed(0)
    join = Join(kind, **options, modality_dropout=0.5)
    seen: list[tuple[Tensor, Tensor]] = []
    join.joined.register_forward_pre_hook(lambda _, given: seen.append(given))
    standardised = join.standardised(list(halves()))
    join(*standardised)
    hidden = [(half == 0).all(dim=1) for half in seen[0]]
    assert not (hidden[0] & hidden[1]).any()  # a row keeps one of them
    assert [0.18 < rows.float().mean() < 0.32 for rows in hidden] == [True, True]
    for rows, given, whole in zip(hidden, seen[0], standardised, strict=True):
        assert torch.equal(given[~rows], whole[~rows])
    join.eval()(*standardised)
    assert all(map(torch.equal, seen[1], standardised))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_gradients_reach_every_part(chosen: dict, batch_norm: bool) -> None:
    network = built(head=options.Head(hidden=16, batch_norm=batch_norm), **chosen).train()
    network.loss(batch(), CRITERION).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert network.eval()(batch()).shape == (6, LABELS)
    if not batch_norm:
        assert not any(isinstance(module, nn.BatchNorm1d) for module in network.modules())
        assert network.train()(batch(1)).shape == (1, LABELS)
    else:
        with pytest.raises(UserError, match="batch of one row"):
            network.train()(batch(1))


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_a_batch_does_not_change_an_answer(chosen: dict) -> None:
    network = built(**chosen).eval()
    rows = batch()
    alone = rows._replace(image=rows.image[2:3], tokens=rows.tokens[2:3], lengths=rows.lengths[2:3])
    torch.testing.assert_close(network(alone), network(rows)[2:3])


def test_auxiliary_classifiers_add_to_the_loss_that_is_trained_alone() -> None:
    network = built(auxiliary_loss=0.5).eval()
    rows, known = batch(), torch.rand(6, LABELS) < 0.7
    rows = rows._replace(known=known)
    logits, validated = network.evaluate(rows, CRITERION)
    torch.testing.assert_close(validated, CRITERION(logits, rows.targets, known))
    encodings = network.join.standardised(
        [rows.image, network.encoders["caption"](rows.tokens, rows.lengths)]
    )
    alone = [
        CRITERION(network.auxiliary[half](encoding), rows.targets, known)
        for half, encoding in zip(HALVES, encodings, strict=True)
    ]
    torch.testing.assert_close(network.loss(rows, CRITERION), validated + 0.5 * sum(alone))


def test_what_does_not_go_together() -> None:
    with pytest.raises(UserError, match=r"image_scale=0.3 with model.fusion=gated"):
        options.Fusion(name="fusion", fusion="gated", image_scale=0.3)
    with pytest.raises(ValueError, match="need a join"):
        LateFusion(encoders=dict(built().encoders), head=built().head, auxiliary_loss=1.0)


def test_a_scale_of_one_is_the_heads_own_norm() -> None:
    head = options.Head(hidden=16, dropout=0.0)
    plain, scaled = built(head=head), built(head=head, image_scale=1.0)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(scaled(batch()), plain(batch()))
