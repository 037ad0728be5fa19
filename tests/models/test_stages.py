"""Networks cut after a stage: the two parts are the whole, and only the last one is trained."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from mmlabel import parts
from mmlabel.errors import UserError
from mmlabel.models.backbones import Backbone, build_backbone
from mmlabel.models.stages import TopCells, flat, split, stages, unflat, with_cells, with_top
from mmlabel.models.weights import resolve_weights

timm = pytest.importorskip("timm")

TIMM = {
    "tf_efficientnet_lite0": 7,
    "resnet10t": 4,
    "vit_tiny_patch16_224": 12,  # cut where maps are tokens
    "convnext_atto": 4,
    "regnetx_002": 4,
    "mobilenetv3_small_050": 6,
}
TORCHVISION = {"resnet18": 4, "vgg11": 5, "mobilenet_v3_small": 13, "shufflenet_v2_x0_5": 3}


def check_every_cut(network: nn.Module, count: int, size: int) -> None:
    network.eval()
    assert len(stages(network)) == count
    pictures = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network(pictures)
        for trained in {1, count // 2, count - 1}:
            cut = split(network, trained=trained, name="it")
            maps = cut.trunk(pictures)
            again = unflat(flat(maps), tuple(maps.shape[1:]))
            assert torch.equal(again, maps)
            torch.testing.assert_close(cut.tail(again), whole, rtol=1e-4, atol=1e-5)
            both = {id(p) for part in (cut.trunk, cut.tail) for p in part.parameters()}
            assert both <= {id(p) for p in network.parameters()}


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_are_their_parts(name: str):
    size = 224 if "vit" in name else 64
    check_every_cut(timm.create_model(name, num_classes=0), TIMM[name], size)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_are_their_parts(name: str):
    check_every_cut(get_model(name, weights=None), TORCHVISION[name], 64)


def lite0(unfreeze: int) -> Backbone:
    weights = resolve_weights(name="efficientnet_lite0", weights="none")
    return build_backbone(
        name="efficientnet_lite0", weights=weights, unfreeze=unfreeze, shape=(64, 96)
    )


def test_a_backbone_gives_the_same_from_pictures_and_from_maps():
    backbone, frozen = lite0(3).eval(), lite0(0)
    pictures = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        assert backbone.trunk is not None
        rows = backbone.trunk(pictures)
        assert rows.shape == (3, backbone.trunk.width)
        torch.testing.assert_close(backbone(rows), frozen(pictures))
        torch.testing.assert_close(backbone(pictures), frozen(pictures))
    assert backbone.state_dict().keys() == frozen.state_dict().keys()


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "convnext_atto", "mobilenetv3_small_050"])
def test_the_top_cells_stand_beside_the_features(name: str):
    def network() -> nn.Module:
        torch.manual_seed(0)
        return get_model(name) if name in TORCHVISION else timm.create_model(name, num_classes=0)

    pictures = torch.rand(2, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features, cells = with_cells(network().eval(), name="it")(pictures)
        numbers = cells.flatten(2).sort(dim=2, descending=True).values
        assert numbers.shape[2] < 16 or numbers.shape[2] == 24  # of 24 cells one is a sixteenth
        expected = torch.cat([features, numbers[:, :, 0]], dim=1)
        whole = with_top(network(), name="it").eval()
        torch.testing.assert_close(whole(pictures), expected, rtol=1e-4, atol=1e-6)
        assert whole.state_dict().keys() == network().state_dict().keys()
        cut = split(whole, trained=2, name="it")
        torch.testing.assert_close(cut.tail(cut.trunk(pictures)), whole(pictures))


def test_of_64_cells_the_mean_of_the_highest_four_counts():
    numbers = torch.arange(64.0).roll(7).view(1, 1, 8, 8)
    cells = torch.cat([numbers, -numbers], dim=1)
    assert TopCells()(cells).tolist() == [[(63 + 62 + 61 + 60) / 4, -(0 + 1 + 2 + 3) / 4]]


class Dropping(nn.Module):
    """Two stages; dropout and noise in the network's own code, as old networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 1)) for _ in range(2)])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.blocks(pictures).mean((2, 3))
        if self.training:
            features = features + 1
        return nn.functional.dropout(features, 0.5, self.training)


def test_dropout_between_stages_follows_the_mode():
    network = Dropping()  # a new network is in train mode
    cut = split(network, trained=1, name="it")
    assert network.training and network.state_dict().keys() == Dropping().state_dict().keys()
    pictures = torch.rand(64, 3, 4, 4)
    with torch.no_grad():
        whole, maps = network.eval()(pictures), cut.trunk(pictures)
        torch.testing.assert_close(cut.tail.eval()(maps), whole)
        dropped = (cut.tail.train()(maps) == 0).float().mean()
        # Lightning restores the mode of a network's parts, of which the tail itself is none.
        cut.tail.eval()
        network.train()
        assert (cut.tail(maps) == 0).any()
    assert 0.3 < dropped < 0.7


def test_a_backbone_with_such_a_dropout_answers_as_a_frozen_one():
    weights = resolve_weights(name="timm", model_name="ghostnet_050", weights="none")
    chosen = {"name": "timm", "model_name": "ghostnet_050", "weights": weights, "shape": (64, 64)}
    frozen, backbone = build_backbone(**chosen), build_backbone(**chosen, unfreeze=1)
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(backbone(pictures), frozen(pictures))


def test_only_the_last_stages_learn_and_keep_their_statistics():
    backbone = lite0(2).train()
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    backbone(torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8)).sum().backward()
    optimizer.step()
    changed = {key for key, value in backbone.state_dict().items() if value.ne(before[key]).any()}
    last = ("network.blocks.5.", "network.blocks.6.", "network.conv_head", "network.bn2")
    assert changed and all(key.startswith(last) for key in changed)
    assert any(key.endswith("running_mean") for key in changed)
    assert not any(module.training for module in backbone.eval().modules())


@pytest.mark.parametrize(
    ("name", "unfreeze", "said"),
    [
        ("tf_efficientnet_lite0", 7, "has 7 stages; give at most 6"),
        ("inception_v3", 1, "stages of inception_v3 are not known"),
        ("hrnet_w18_small", 1, "more than one map"),
        ("xcit_nano_12_p16_224", 2, "need more than the output of"),
    ],
)
def test_what_cannot_be_cut_is_said(name: str, unfreeze: int, said: str):
    weights = resolve_weights(name="timm", model_name=name, weights="none")
    with pytest.raises(UserError, match=said):
        build_backbone(name="timm", model_name=name, weights=weights, unfreeze=unfreeze)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["backbone.unfreeze=99"], "backbone.unfreeze=99: test_resnet has 4 stages; give at most"),
        (["backbone=vgg16", "data.image_size=24"], "vgg16 cannot look at pictures of 24x24 px"),
    ],
)
def test_what_a_network_cannot_do_is_told_before_anything_is_read(
    options: list[str], said: str, settings_of: Callable, monkeypatch
):
    def read(*_):
        raise AssertionError("captions and word vectors were asked for")

    monkeypatch.setattr(parts, "prepare", read)
    with pytest.raises(UserError, match=said):
        parts.build(settings_of(*options), None, wandb_id=None)
