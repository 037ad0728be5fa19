"""Ensembles: the mean of the members' logits, one backbone for all, members of their own."""

import re

import pytest
import torch
from small_network import CRITERION, batch_of, network_of

from mmlabel.errors import UserError
from mmlabel.models import options
from mmlabel.models.backbones import Backbone, build_backbone
from mmlabel.models.ensemble import Ensemble
from mmlabel.models.fusion import LateFusion
from mmlabel.models.weights import resolve_weights
from mmlabel.size import sizes
from mmlabel.training import train


def built(*, backbone: Backbone | None = None, **chosen) -> Ensemble:
    network = network_of(options.Ensemble(name="ensemble", **chosen), backbone=backbone)
    assert isinstance(network, Ensemble)
    return network


def members_of(network: Ensemble) -> list[LateFusion]:
    return [member for member in network.members if isinstance(member, LateFusion)]


def test_it_answers_the_mean_of_its_members_logits() -> None:
    network = built(fusion_networks=2, image_networks=1, caption_networks=1).eval()
    halves = [set(member.encoders) for member in members_of(network)]
    assert halves == [{"image", "caption"}, {"image", "caption"}, {"image"}, {"caption"}]
    alone = [member(batch_of()) for member in network.members]
    torch.testing.assert_close(network(batch_of()), sum(alone[1:], alone[0]) / 4)
    logits, loss = network.evaluate(batch_of(), CRITERION)
    torch.testing.assert_close(loss, CRITERION(logits, batch_of().targets, None))


def test_the_mean_is_weighted() -> None:
    network = built(
        fusion_networks=1,
        image_networks=1,
        caption_networks=2,
        image_weight=0.5,
        caption_weight=0.2,
    ).eval()
    fusion, image, *captions = [member(batch_of()) for member in network.members]
    expected = (fusion + 0.5 * image + 0.2 * captions[0] + 0.2 * captions[1]) / 1.9
    torch.testing.assert_close(network(batch_of()), expected)


def test_a_network_without_weight_trains_the_backbone_and_has_no_say() -> None:
    weights = resolve_weights(name="resnet18", weights="none")
    backbone = build_backbone(
        name="resnet18", weights=weights, frozen=True, unfreeze=1, shape=(64, 64)
    )
    chosen = {"fusion_networks": 1, "caption_networks": 0, "image_networks": 1, "image_weight": 0}
    network = built(backbone=backbone, **chosen).eval()
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    seen = batch_of(4, pictures)
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


def test_each_network_sees_one_size_by_turns() -> None:
    weights = resolve_weights(name="resnet18", weights="none")
    backbone = build_backbone(
        name="resnet18", weights=weights, pyramid=2, unfreeze=1, shape=(64, 64)
    )
    chosen = {"fusion_networks": 3, "image_networks": 2, "image_weight": 0.5, "caption_networks": 1}
    network = built(backbone=backbone, one_size_each=True, **chosen).eval()
    rows = batch_of(4, torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    with torch.no_grad():
        both = backbone(rows.image)  # (4, 2 * 512)
    smaller, larger = both.clone(), both.clone()
    smaller[:, 512:], larger[:, :512] = 0, 0
    first, second, third, image_first, image_second, caption = network.members
    for member, own, other in (
        (first, smaller, larger),
        (second, larger, smaller),
        (third, smaller, larger),
        (image_first, smaller, larger),
        (image_second, larger, smaller),
    ):
        expected = member(rows._replace(image=both))
        torch.testing.assert_close(member(rows._replace(image=own)), expected)
        assert not torch.allclose(member(rows._replace(image=other)), expected)
    logits = [member(rows._replace(image=both)) for member in network.members]
    fused, images = sum(logits[:3]), sum(logits[3:5])
    torch.testing.assert_close(network(rows), (fused + images / 2 + logits[5]) / 5)


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
                network.loss(batch_of(), CRITERION).backward()
            optimizer.step()

    learn([together], list(together.parameters()))
    for member in members_of(apart):
        learn([member], list(member.parameters()))
    torch.testing.assert_close(together(batch_of()), apart(batch_of()), atol=1e-4, rtol=1e-4)


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
    network.loss(batch_of(4, pictures), CRITERION).backward()
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


SIZES = ["model.one_size_each=true", "backbone.pyramid=2", "data.image_size=64"]
NETWORKS = ["model.fusion_networks=2", "model.caption_networks=0"]


@pytest.mark.parametrize(
    "further",
    [
        [],
        [*SIZES, *NETWORKS],
        [*SIZES, *NETWORKS, "backbone.unfreeze=1", "features.storage=float32"],
    ],
)
def test_a_run_of_one_is_the_same_from_the_store_and_live_and_from_its_checkpoint(
    further: list[str], settings_of, tmp_path
) -> None:
    options = ["model=ensemble", "trainer.max_epochs=1", *further]
    stored = train(settings_of(*options), tmp_path / "stored")["scores"]
    live = train(settings_of(*options, "features=off"), tmp_path / "live")["scores"]
    again = train(
        settings_of(*options, "train=false", f"ckpt_path={tmp_path / 'stored' / 'best.ckpt'}"),
        tmp_path / "again",
    )["scores"]
    assert stored["test/loss"] == pytest.approx(live["test/loss"], rel=1e-4)
    assert stored["test/loss"] == pytest.approx(again["test/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([*SIZES[:1], *NETWORKS], "backbone.pyramid=1, where pictures have one size"),
        (SIZES, "of 2 sizes (backbone.pyramid) the larger would be seen by none of 1 network;"),
        ([*SIZES, "model.image_networks=2", "model.image_weight=0", "backbone.unfreeze=1"],
         "by none of 1 network;"),
        ([*SIZES, *NETWORKS, "model.image_networks=2", "model.image_weight=0",
          "backbone.unfreeze=1"], "they would train nothing; give model.image_networks=1"),
    ],
)  # fmt: skip
def test_one_size_each_needs_several_sizes_and_a_network_for_each(given, message, settings_of):
    with pytest.raises(UserError, match=re.escape(message)):
        settings_of("model=ensemble", *given)


def test_a_backbone_that_is_trained_whole_learns_from_pictures_alone_in_every_size(settings_of):
    idle = ["model.image_networks=2", "model.image_weight=0", "backbone.frozen=false"]
    settings_of("model=ensemble", *SIZES, *NETWORKS, *idle)
