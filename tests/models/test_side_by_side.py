"""Backbones side by side, and one that looks twice, are each look, one after the other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmlabel import load
from mmlabel.errors import UserError
from mmlabel.models.backbone_table import BACKBONES, Pooling
from mmlabel.models.backbones import Backbone, build_backbone
from mmlabel.models.build import BackboneSource
from mmlabel.models.engines import Engine, build_extract, choose_engine
from mmlabel.models.picture_networks import BackboneInfo, backbone_info
from mmlabel.models.picture_options import NamedBackbone
from mmlabel.models.weights import resolve_weights
from mmlabel.run_folder import read_results
from mmlabel.training import train

NONE = resolve_weights(name="resnet18", weights="none")
# Of other families, with other colours, other cuts and other widths.
PAIRS = [("resnet18", "efficientnet_lite0"), ("efficientnet_lite0", "resnet10t")]


def named(name: str, pooling: Pooling = "mean") -> BackboneInfo:
    model = {"name": name} if name in BACKBONES else {"name": "timm", "model_name": name}
    return backbone_info(**model, pooling=pooling)


def built(
    *names: str,
    unfreeze: int = 0,
    pyramid: int = 1,
    frozen: bool = True,
    pooling: Pooling = "mean",
) -> Backbone:
    first, *others = (named(name, pooling) for name in names)
    return build_backbone(
        name=first.name,
        model_name=first.model_name,
        pooling=pooling,
        weights=NONE,
        beside=[(info, NONE) for info in others],
        pyramid=pyramid,
        frozen=frozen,
        unfreeze=unfreeze,
        shape=(64, 96),
    )


def pictures() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, 3, 64, 96), dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("names", PAIRS)
@pytest.mark.parametrize("unfreeze", [0, 2])
def test_features_are_those_of_each(names: tuple[str, str], unfreeze: int):
    both = built(*names, unfreeze=unfreeze).eval()
    alone = [built(name).eval() for name in names]
    assert both.out_features == sum(each.out_features for each in alone)
    with torch.no_grad():
        expected = torch.cat([each(pictures()) for each in alone], dim=1)
        torch.testing.assert_close(both(pictures()), expected, rtol=1e-4, atol=1e-5)
        if both.trunk is not None:
            rows = both.trunk(pictures())
            assert rows.shape == (3, both.trunk.width)
            torch.testing.assert_close(both(rows), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unfreeze", [0, 1])
@pytest.mark.parametrize("pyramid", [1, 2])
@pytest.mark.parametrize("pooling", ["mean", "mean_and_top"])
def test_openvino_computes_them_as_torch_does(unfreeze: int, pyramid: int, pooling: Pooling):
    pytest.importorskip("openvino")
    names = ("test_resnet", "test_efficientnet")
    both = built(*names, unfreeze=unfreeze, pyramid=pyramid, pooling=pooling)
    device = torch.device("cpu")
    rows = [
        build_extract(
            both,
            choose_engine(name, precision="float32", device=device),
            device=device,
            size=(64, 96),
        )(pictures())
        for name in ("torch", "openvino")
    ]
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-3, atol=1e-4)


def halved(images: torch.Tensor) -> torch.Tensor:
    batch, colours, height, width = images.shape
    squares = images.float().view(batch, colours, height // 2, 2, width // 2, 2)
    return squares.mean((3, 5))


@pytest.mark.parametrize("names", [("efficientnet_lite0",), PAIRS[1]])
@pytest.mark.parametrize("unfreeze", [0, 2])
def test_a_pyramid_sees_each_size(names: tuple[str, ...], unfreeze: int):
    whole = built(*names, unfreeze=unfreeze, pyramid=3).eval()
    sizes = [halved(halved(pictures())), halved(pictures()), pictures().float()]
    with torch.no_grad():
        expected = torch.cat([built(name).eval()(x) for name in names for x in sizes], dim=1)
        torch.testing.assert_close(whole(pictures()), expected, rtol=1e-4, atol=1e-5)
        if whole.trunk is not None:
            rows = whole.trunk(pictures())
            torch.testing.assert_close(whole(rows), expected, rtol=1e-4, atol=1e-5)


def test_of_a_pyramid_the_last_stages_of_the_smallest_are_trained():
    whole = built("resnet18", unfreeze=1, pyramid=2).train()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    whole(pictures()).sum().backward()
    trained = {name for name, weight in whole.named_parameters() if weight.grad is not None}
    assert trained and all(name.startswith("network.parts.0.layer4") for name in trained)
    after = whole.state_dict()  # batch norms have learnt, too, and only there
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and all(name.startswith("network.parts.0.layer4") for name in changed)


@pytest.mark.parametrize("names", [("resnet18",), PAIRS[0]])
def test_each_size_has_columns_of_its_own(names: tuple[str, ...]):
    whole = built(*names, pyramid=2).eval()
    small = functional.avg_pool2d(pictures().float(), 2)
    with torch.no_grad():
        features = whole(pictures())
        for columns, seen in zip(whole.info.size_columns, (small, pictures()), strict=True):
            own = torch.cat([built(name).eval()(seen) for name in names], dim=1)
            torch.testing.assert_close(features[:, columns], own, rtol=1e-4, atol=1e-5)


def test_a_backbone_that_is_trained_whole_is_one_in_all_sizes():
    whole = built("resnet18", pyramid=2, frozen=False).train()
    whole(pictures()).sum().backward()
    assert sum(w.numel() for w in whole.parameters()) == sum(
        w.numel() for w in built("resnet18").parameters()
    )
    assert all(weight.grad is not None for weight in whole.parameters())


def test_only_the_last_stages_of_both_are_trained():
    both = built(*PAIRS[0], unfreeze=1).train()
    both(pictures()).sum().backward()
    trained = {name for name, weight in both.named_parameters() if weight.grad is not None}
    assert {name.split(".")[3] for name in trained} == {"layer4", "blocks", "conv_head", "bn2"}
    assert not any(name.startswith("network.parts.1.blocks.5") for name in trained)
    assert any(name.startswith("network.parts.1.blocks.6") for name in trained)


BESIDE = ("backbone.beside=resnet10t", "backbone.beside_weights=none")


PYRAMID = ("backbone.pyramid=2", "data.image_size=64")


@pytest.mark.parametrize("looks", [BESIDE, PYRAMID, (*PYRAMID, "backbone.pooling=mean_and_top")])
@pytest.mark.parametrize("trained", [(), ("backbone.unfreeze=1",)])
def test_a_run_is_the_same_from_the_store_and_live(
    looks: tuple[str, ...], trained: tuple[str, ...], settings_of: Callable, tmp_path: Path
):
    answers, scores = [], []
    for mode in ("on", "off"):
        options = [*looks, *trained, f"features={mode}", f"cache_dir={tmp_path}"]
        if mode == "on":
            options.append("features.storage=float32")
        train(settings_of("model=image_only", *options), tmp_path / mode)
        results = read_results(tmp_path / mode)
        scores.append(results["scores"]["test/loss"])
        picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        answer = load(tmp_path / mode / "best.ckpt").predict(picture, "a dog")
        answers.append(list(answer.probabilities.values()))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)


def test_a_store_is_of_its_sizes():
    def key(**given: object) -> dict[str, object]:
        chosen = NamedBackbone.model_validate({"name": "resnet18", "weights": "none", **given})
        source = BackboneSource(chosen, seed=0, on_missing="error")
        return source.key(Engine("torch", "float32"))

    assert key(pyramid=2)["backbone"] == "resnet18 in 2 sizes"
    keys = [key(), key(pyramid=2), key(pyramid=3), key(pooling="mean_and_top")]
    assert all(keys.count(each) == 1 for each in keys) and keys[0] == key(pyramid=1, pooling="mean")


def test_both_count_in_the_size(settings_of: Callable, tmp_path: Path):
    results = [
        train(settings_of("trainer.max_epochs=1", *options), tmp_path / str(len(options)))
        for options in ((), BESIDE)
    ]
    extra = sum(weight.numel() for weight in built("resnet10t").parameters())
    assert results[1]["parameters"] - results[0]["parameters"] > extra
    assert "none (random weights); none (random weights)" in results[1]["pretrained"]["backbone"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("backbone=resnet18", "backbone.beside=resnet18"),
            "the first backbone is resnet18 already; give another",
        ),
        (("backbone.beside=resnet10x",), 'timm has no model "resnet10x"; did you mean'),
        (("backbone.beside=timm",), "backbone.beside=timm: not one of resnet18, "),
        ((*BESIDE, "backbone.attention=query"), "leave one of the options out"),
        (("backbone.beside=resnet10t", "backbone.beside_weights=no.pth"), "beside_weights=no.pth"),
        ((*BESIDE, "backbone.unfreeze=4"), "backbone.unfreeze=4: test_resnet has 4 stages"),
        (("backbone.pyramid=2", "backbone.attention=query"), "leave one of the options out"),
        (("backbone.pyramid=2", "model.fusion=attention"), "leave one of the options out"),
        (("backbone.pyramid=2", "data.image_size=65"), "data.image_size=65 cannot be: give multip"),
        (("backbone.pyramid=3", "data.image_size=66"), "give multiples of 4"),
        (("backbone.pyramid=3", "data.image_size=96"), "the smallest size has 24 px, and needs 32"),
        (("backbone.pyramid=0",), "backbone.pyramid=0"),
        (
            (
                "backbone=timm",
                "backbone.model_name=vit_tiny_patch16_224",
                "backbone.pooling=mean_and_top",
                "data.image_size=224",
            ),
            "vit_tiny_patch16_224 does not pool one map of cells",
        ),
        (
            (
                "backbone=timm",
                "backbone.model_name=vit_tiny_patch16_224",
                "backbone.pyramid=2",
                "data.image_size=224",
            ),
            "takes pictures of 224 px only",
        ),
    ],
)
def test_mistakes(given: tuple[str, ...], said: str, settings_of: Callable, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        train(settings_of(*given), tmp_path)
    assert said in str(caught.value)
