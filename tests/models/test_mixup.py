"""Rows mixed in pairs: by hand, in training alone, and the same in all members of an ensemble."""

import pytest
import torch
from torch import Tensor

from mmlabel.criterion import MeanOverKnown
from mmlabel.data.batches import Batch
from mmlabel.errors import UserError
from mmlabel.losses import Asymmetric, Bce, BcePosWeight, Focal
from mmlabel.models import ensemble, fusion
from mmlabel.models.caption_encoder import CaptionEncoder
from mmlabel.models.ensemble import Ensemble
from mmlabel.models.fusion import Head, ImageEncoder, LateFusion
from mmlabel.models.mixup import Mix, draw_mix

CRITERION = MeanOverKnown(Bce(name="bce"))
TURNED = Mix(torch.tensor([1, 2, 0]), 0.75)


def batch(**values: Tensor | None) -> Batch:
    made = Batch(
        image=torch.tensor([[8.0, 0.0], [0.0, 4.0], [4.0, 4.0]]),
        tokens=torch.tensor([[2, 3], [3, 0], [4, 2]]),
        lengths=torch.tensor([2, 1, 2]),
        targets=torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
        rows=torch.arange(3),
        ids=["a", "b", "c"],
    )
    return made._replace(**values)


def network(seed: int = 0, mixup: float = 0.0, image: bool = True) -> LateFusion:
    torch.manual_seed(seed)
    encoders = {"image": ImageEncoder(features=2, backbone=None)} if image else {}
    encoders["caption"] = CaptionEncoder(num_words=5, embedding_dim=3, hidden=2)  # type: ignore[assignment]
    head = Head(in_features=6 if image else 4, num_labels=2, hidden=8, batch_norm=False)
    return LateFusion(encoders=encoders, head=head, mixup=mixup)


def test_three_rows_mixed_by_hand():
    known = torch.tensor([[True, True], [True, False], [True, True]])
    mixed = TURNED.inputs(batch(known=known))
    assert mixed.image is not None and mixed.known is not None
    assert mixed.image.tolist() == [[6.0, 1.0], [1.0, 4.0], [5.0, 3.0]]
    assert mixed.targets.tolist() == [[0.75, 0.0], [0.25, 0.25], [1.0, 0.75]]
    assert mixed.known.tolist() == [[True, False], [True, False], [True, True]]
    assert torch.equal(mixed.tokens, batch().tokens)
    pictures = torch.tensor([0, 100, 200], dtype=torch.uint8).view(3, 1, 1, 1)
    assert TURNED.rows(pictures).flatten().tolist() == [25.0, 125.0, 150.0]


def test_a_share_and_an_order_are_drawn():
    torch.manual_seed(0)
    drawn = [draw_mix(5, alpha=0.2) for _ in range(2000)]
    assert all(sorted(mix.order.tolist()) == [0, 1, 2, 3, 4] for mix in drawn[:50])
    shares = torch.tensor([mix.share for mix in drawn])
    # Of Beta(a, a): the mean is 1/2, the variance 1 / (4 (2 a + 1)).
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / 5.6, abs=0.01)


@pytest.mark.parametrize("alpha", [0.001, 0.0001])
def test_a_tiny_alpha_hardly_mixes(alpha: float):
    torch.manual_seed(0)
    shares = torch.tensor([draw_mix(5, alpha=alpha).share for _ in range(1000)])
    # Of Beta(a, a) some a log 9 are in between.
    assert ((shares > 0.1) & (shares < 0.9)).float().mean() < 0.02


def test_the_loss_is_of_mixed_features_encodings_and_targets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fusion, "draw_mix", lambda rows, alpha: TURNED)
    model, seen = network(mixup=0.2), batch()
    assert seen.image is not None
    captions = model.encoders["caption"](seen.tokens, seen.lengths)
    rows = [
        0.75 * torch.cat([seen.image[i], captions[i]])
        + 0.25 * torch.cat([seen.image[j], captions[j]])
        for i, j in ((0, 1), (1, 2), (2, 0))
    ]
    targets = torch.tensor([[0.75, 0.0], [0.25, 0.25], [1.0, 0.75]])
    expected = CRITERION(model.head(torch.stack(rows)), targets)
    torch.testing.assert_close(model.loss(seen, CRITERION), expected)
    plain = CRITERION(model(seen), seen.targets)
    assert not torch.isclose(plain, expected)
    logits, loss = model.eval().evaluate(seen, CRITERION)
    torch.testing.assert_close((loss, logits), (plain, network()(seen)))
    torch.testing.assert_close(model.loss(seen, CRITERION), plain)  # not in training


def test_an_ensembles_members_see_one_mixture(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ensemble, "draw_mix", lambda rows, alpha: TURNED)
    members = [network(0), network(1, image=False)]
    image = ImageEncoder(features=2, backbone=None)
    both = Ensemble(image=image, members=members, mixup=0.2)
    monkeypatch.setattr(fusion, "draw_mix", lambda rows, alpha: TURNED)
    alone = [network(0, mixup=0.2), network(1, mixup=0.2, image=False)]
    expected = torch.stack([member.loss(batch(), CRITERION) for member in alone]).mean()
    torch.testing.assert_close(both.loss(batch(), CRITERION), expected)


def test_losses_that_are_linear_in_targets_and_none_else():
    torch.manual_seed(0)
    logits, weights = torch.randn(3, 2), torch.tensor([2.0, 3.0]).numpy()
    one, other = batch().targets, batch().targets[TURNED.order]
    asymmetric = Asymmetric(name="asymmetric", gamma_positive=1.0)
    losses = (Bce(name="bce"), BcePosWeight(name="bce_pos_weight"), asymmetric)
    for loss in (*losses, Focal(name="focal")):
        of = MeanOverKnown(loss, pos_weight=weights)
        apart = 0.75 * of(logits, one) + 0.25 * of(logits, other)
        mixed = of(logits, TURNED.rows(one))
        assert torch.isclose(apart, mixed).item() is loss.linear_in_targets, loss.name


def test_options_that_do_not_go_with_it(settings_of):
    with pytest.raises(UserError, match="model.mixup with loss=focal"):
        settings_of("model.mixup=0.2", "loss=focal")
    with pytest.raises(UserError, match="model.mixup with distil.teacher"):
        settings_of("model.mixup=0.2", "distil.teacher=x")


@pytest.mark.parametrize("model", ["fusion", "ensemble"])
def test_the_option_reaches_the_network(settings_of, model: str):
    from mmlabel.parts import build

    built = build(settings_of(f"model={model}", "model.mixup=0.3"), None, wandb_id=None)
    network = built.classifier.network
    assert network.mixup == 0.3
    assert all(member.mixup == 0 for member in getattr(network, "members", []))
