"""Two backbones side by side are each of them, one after the other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlabel import load
from mmlabel.errors import UserError
from mmlabel.models.backbones import Backbone, build_backbone
from mmlabel.models.engines import build_extract, choose_engine
from mmlabel.models.picture_networks import BackboneInfo, backbone_info
from mmlabel.models.weights import resolve_weights
from mmlabel.run_folder import read_results
from mmlabel.training import train

NONE = resolve_weights(name="resnet18", weights="none")
# Of other families, with other colours, other cuts and other widths.
PAIRS = [("resnet18", "efficientnet_lite0"), ("efficientnet_lite0", "resnet10t")]


def named(name: str) -> BackboneInfo:
    known = name in ("resnet18", "efficientnet_lite0")
    return backbone_info(name=name if known else "timm", model_name=None if known else name)


def built(*names: str, unfreeze: int = 0) -> Backbone:
    first, *others = (named(name) for name in names)
    return build_backbone(
        name=first.name,
        model_name=first.model_name,
        weights=NONE,
        beside=[(info, NONE) for info in others],
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
def test_openvino_computes_them_as_torch_does(unfreeze: int):
    pytest.importorskip("openvino")
    both = built(*PAIRS[0], unfreeze=unfreeze)
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


def test_only_the_last_stages_of_both_are_trained():
    both = built(*PAIRS[0], unfreeze=1).train()
    both(pictures()).sum().backward()
    trained = {name for name, weight in both.named_parameters() if weight.grad is not None}
    assert {name.split(".")[3] for name in trained} == {"layer4", "blocks", "conv_head", "bn2"}
    assert not any(name.startswith("network.parts.1.blocks.5") for name in trained)
    assert any(name.startswith("network.parts.1.blocks.6") for name in trained)


BESIDE = ("backbone.beside=resnet10t", "backbone.beside_weights=none")


@pytest.mark.parametrize("trained", [(), ("backbone.unfreeze=1",)])
def test_a_run_is_the_same_from_the_store_and_live(
    trained: tuple[str, ...], settings_of: Callable, tmp_path: Path
):
    answers, scores = [], []
    for mode in ("on", "off"):
        options = [*BESIDE, *trained, f"features={mode}", f"cache_dir={tmp_path}"]
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
        (("backbone.beside=resnet18",), "the first backbone is resnet18 already; give another"),
        (("backbone.beside=resnet10x",), 'timm has no model "resnet10x"; did you mean'),
        (("backbone.beside=timm",), "backbone.beside=timm: not one of resnet18, "),
        ((*BESIDE, "backbone.attention=query"), "leave one of the options out"),
        (("backbone.beside=resnet10t", "backbone.beside_weights=no.pth"), "beside_weights=no.pth"),
        ((*BESIDE, "backbone.unfreeze=4"), "backbone.unfreeze=4: resnet18 has 4 stages"),
    ],
)
def test_mistakes(given: tuple[str, ...], said: str, settings_of: Callable, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        train(settings_of(*given), tmp_path)
    assert said in str(caught.value)
