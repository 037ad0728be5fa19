"""Ensembles: the mean of the members' logits, one backbone for all, members of their own."""

import pytest
import torch
from torch import Tensor

from mmlabel.criterion import MeanOverKnown
from mmlabel.data.batches import Batch
from mmlabel.losses import Bce
from mmlabel.models import options
from mmlabel.models.backbones import Backbone, build_backbone
from mmlabel.models.build import build_network
from mmlabel.models.ensemble import Ensemble
from mmlabel.models.fusion import LateFusion
from mmlabel.models.weights import resolve_weights
from mmlabel.size import sizes
from mmlabel.training import train

LABELS = 5
CRITERION = MeanOverKnown(Bce(name="bce"))


def built(*, backbone: Backbone | None = None, **chosen) -> Ensemble:
    torch.manual_seed(0)
    network = build_network(
        options.Ensemble(name="ensemble", **chosen),
        num_labels=LABELS,
        image_features=12 if backbone is None else backbone.out_features,
        backbone=backbone,
        lstm=options.Lstm(hidden=4),
        decoder=None,
        num_words=30,
        embedding_dim=7,
    )
    assert isinstance(network, Ensemble)
    return network


def members_of(network: Ensemble) -> list[LateFusion]:
    return [member for member in network.members if isinstance(member, LateFusion)]


def batch(image: Tensor | None = None, rows: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(rows, 12, generator=generator) if image is None else image,
        tokens=torch.randint(1, 30, (rows, 5), generator=generator),
        lengths=torch.full((rows,), 5),
        targets=torch.randint(0, 2, (rows, LABELS), generator=generator).float(),
        rows=torch.arange(rows),
        ids=[f"{row}.jpg" for row in range(rows)],
    )


def test_it_answers_the_mean_of_its_members_logits() -> None:
    network = built(fusion_networks=2, image_networks=1, caption_networks=1).eval()
    halves = [set(member.encoders) for member in members_of(network)]
    assert halves == [{"image", "caption"}, {"image", "caption"}, {"image"}, {"caption"}]
    alone = [member(batch()) for member in network.members]
    torch.testing.assert_close(network(batch()), sum(alone[1:], alone[0]) / 4)
    logits, loss = network.evaluate(batch(), CRITERION)
    torch.testing.assert_close(loss, CRITERION(logits, batch().targets, None))


def test_the_mean_is_weighted() -> None:
    network = built(
        fusion_networks=1,
        image_networks=1,
        caption_networks=2,
        image_weight=0.5,
        caption_weight=0.2,
    ).eval()
    fusion, image, *captions = [member(batch()) for member in network.members]
    expected = (fusion + 0.5 * image + 0.2 * captions[0] + 0.2 * captions[1]) / 1.9
    torch.testing.assert_close(network(batch()), expected)


def test_a_network_without_weight_trains_the_backbone_and_has_no_say() -> None:
    weights = resolve_weights(name="resnet18", weights="none")
    backbone = build_backbone(
        name="resnet18", weights=weights, frozen=True, unfreeze=1, shape=(64, 64)
    )
    chosen = {"fusion_networks": 1, "caption_networks": 0, "image_networks": 1, "image_weight": 0}
    network = built(backbone=backbone, **chosen).eval()
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    seen = batch(pictures, rows=4)
    with torch.no_grad():
        features = seen._replace(image=backbone(pictures))
    (fusion,), (image,) = network.members, network.auxiliary
    torch.testing.assert_close(network(seen), fusion(features))
    both = (fusion.loss(features, CRITERION) + image.loss(features, CRITERION)) / 2  # pyright: ignore
    torch.testing.assert_close(network.loss(seen, CRITERION), both)
    image.requires_grad_(True)
    network.loss(seen, CRITERION).backward()
    assert all(weight.grad is not None for weight in image.parameters())
    asked = sum(size.parameters for size in sizes(network).values())
    silent = sum(weight.numel() for weight in image.parameters())
    assert asked == sum(weight.numel() for weight in network.parameters()) - silent


def test_members_are_drawn_apart_and_share_nothing_but_the_backbone() -> None:
    first, second = members_of(built(fusion_networks=2, caption_networks=0))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert ours is not theirs
    theirs = second.state_dict()
    differs = [name for name, ours in first.state_dict().items() if not ours.equal(theirs[name])]
    assert {"head.layers.1.weight", "encoders.caption.embedding.weight"} <= set(differs)


def test_each_member_learns_as_it_does_alone() -> None:
    """With Adam, to which the scale of a loss is nothing, and without dropout."""
    head = options.Head(hidden=8, dropout=0.0)
    together = built(fusion_networks=1, caption_networks=1, head=head)
    apart = built(fusion_networks=1, caption_networks=1, head=head)

    def learn(networks: list, weights: list) -> None:
        optimizer = torch.optim.Adam(weights, lr=1e-2, eps=1e-12)
        for _ in range(3):
            optimizer.zero_grad()
            for network in networks:
                network.loss(batch(), CRITERION).backward()
            optimizer.step()

    learn([together], list(together.parameters()))
    for member in members_of(apart):
        learn([member], list(member.parameters()))
    torch.testing.assert_close(together(batch()), apart(batch()), atol=1e-4, rtol=1e-4)


def test_pictures_go_through_the_backbone_once_and_it_learns_from_every_member() -> None:
    weights = resolve_weights(name="resnet18", weights="none")
    backbone = build_backbone(
        name="resnet18", weights=weights, frozen=True, unfreeze=1, shape=(64, 64)
    )
    passes = []
    backbone.register_forward_hook(lambda *_: passes.append(1))
    network = built(backbone=backbone, fusion_networks=1, image_networks=1).train()
    assert len([name for name, _ in network.named_parameters() if "conv1" in name]) > 0
    assert all(member.encoders["image"].backbone is None for member in members_of(network)[:2])
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    network.loss(batch(pictures, rows=4), CRITERION).backward()
    assert len(passes) == 1
    trained = [weight for weight in backbone.parameters() if weight.requires_grad]
    assert trained and all(weight.grad is not None for weight in trained)


def test_sizes_add_up_over_the_members() -> None:
    network = built(fusion_networks=1, caption_networks=2, auxiliary_loss=0.5)
    found = sizes(network)
    assert found["word vectors"].parameters == 3 * 30 * 7
    asked = [weights for name, weights in network.named_parameters() if "auxiliary" not in name]
    assert sum(size.parameters for size in found.values()) == sum(map(torch.numel, asked))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"fusion_networks": 1, "caption_networks": 0}, "with 1 network"),
        ({"fusion_networks": 0, "caption_networks": 2}, "model.image_networks=1"),
        (
            {"fusion_networks": 0, "caption_networks": 0, "image_networks": 2},
            "model.caption_networks=1",
        ),
        ({"fusion_networks": 0, "image_networks": 1, "auxiliary_loss": 0.3}, "both halves"),
        ({"fusion_networks": 0, "image_networks": 1, "fusion": "gated"}, "both halves"),
        ({"image_weight": 0.5}, "model.image_networks=1"),
        ({"fusion_networks": 2, "caption_networks": 0, "caption_weight": 0.5}, "leave it out"),
        ({"fusion_networks": 0, "image_networks": 1, "image_weight": 0}, "image_networks=0"),
        ({"caption_weight": 0}, "caption_networks=0"),
    ],
)
def test_what_makes_no_ensemble_is_refused(chosen: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        options.Ensemble(name="ensemble", **chosen)


def test_a_run_of_one_is_the_same_from_the_store_and_live_and_from_its_checkpoint(
    settings_of, tmp_path
) -> None:
    options = ["model=ensemble", "trainer.max_epochs=1"]
    stored = train(settings_of(*options), tmp_path / "stored")["scores"]
    live = train(settings_of(*options, "features=off"), tmp_path / "live")["scores"]
    again = train(
        settings_of(*options, "train=false", f"ckpt_path={tmp_path / 'stored' / 'best.ckpt'}"),
        tmp_path / "again",
    )["scores"]
    assert stored["test/loss"] == pytest.approx(live["test/loss"], rel=1e-4)
    assert stored["test/loss"] == pytest.approx(again["test/loss"], rel=1e-5)
