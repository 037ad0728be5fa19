"""The engines of the features: the same features, known apart, refused where they cannot be had."""

import gc
import importlib.util
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlabel.data.feature_store import FeatureStore
from mmlabel.errors import UserError
from mmlabel.export import runner
from mmlabel.models import engines
from mmlabel.models.backbones import Backbone, build_backbone
from mmlabel.models.engines import Engine, NoOpenVino, build_extract, choose_engine
from mmlabel.models.weights import resolve_weights

CPU, GPU = torch.device("cpu"), torch.device("cuda")
installed = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="openvino is not installed (pip install -e .[cpu]): left out",
)


def random_backbone(name: str) -> Backbone:
    weights = resolve_weights(name=name, weights="none")
    return build_backbone(name=name, weights=weights, frozen=True)


def made_up(number: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    pictures = torch.randint(0, 256, (number, size, size, 3), generator=generator)
    return pictures.to(torch.uint8).permute(0, 3, 1, 2)  # channels-last, as the store gives them


@installed
@pytest.mark.parametrize("name", ["resnet50", "vgg16", "efficientnet_lite0"])
def test_openvino_gives_torchs_features(name: str):
    backbone, size = random_backbone(name), 64
    extract = build_extract(backbone, Engine("openvino", "float32"), device=CPU, size=size)
    for number in (1, 5, 2):
        pictures = made_up(number, size)
        with torch.inference_mode():
            expected, got = backbone(pictures), extract(pictures)
        assert got.dtype == torch.float32 and got.shape == expected.shape
        assert (got - expected).norm() < 1e-5 * expected.norm()
        assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


@installed
def test_rows_are_of_their_own_pictures_whatever_their_company():
    backbone = random_backbone("resnet18")
    extract = build_extract(backbone, Engine("openvino", "float32"), device=CPU, size=32)
    pictures = made_up(7, 32)
    whole = extract(pictures)
    kept = whole.clone()
    for n in range(7):
        torch.testing.assert_close(extract(pictures[n : n + 1])[0], whole[n], rtol=1e-4, atol=1e-5)
    assert torch.equal(whole, kept)  # later answers do not write into earlier ones


@installed
def test_a_store_filled_by_either_engine_holds_the_same_features(tmp_path: Path):
    pictures = []
    for n in range(5):
        pictures.append(tmp_path / f"{n}.png")
        Image.fromarray(made_up(n + 1, 40)[n].permute(1, 2, 0).numpy()).save(pictures[-1])
    backbone, filled = random_backbone("resnet18"), []
    for name in ("torch", "openvino"):
        engine = choose_engine(name, precision="float32", device=CPU)
        extract = build_extract(backbone, engine, device=CPU, size=32)
        store = FeatureStore(
            tmp_path / "cache", key=engine.key(), size=32, width=512, dtype="float32"
        )
        store.fill(pictures, flipped=[True] * 5, extract=extract, batch_size=3, workers=1)
        filled.append((store.folder, np.array(store.array()[store.rows(pictures)])))
    assert filled[0][0] != filled[1][0]
    np.testing.assert_allclose(filled[0][1], filled[1][1], rtol=1e-4, atol=1e-5)


def an_engine(folder: Path) -> object:
    return build_extract(
        random_backbone("resnet18"), Engine("openvino", "float32"), device=CPU, size=64
    )


def an_exported_model(folder: Path) -> object:
    import openvino

    graph = openvino.convert_model(torch.nn.Linear(2, 3), example_input=torch.zeros(1, 2))
    openvino.save_model(graph, folder / "model.xml")
    return runner._runtime("openvino", folder / "model.xml")


@installed
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("build", [an_engine, an_exported_model])
def test_a_signal_after_two_models_have_gone_is_handled(
    build: Callable[[Path], object], tmp_path: Path
):
    """In the order in which they came, each with a core of OpenVINO's unless they share one."""
    first, second = build(tmp_path), build(tmp_path)
    del first
    gc.collect()
    del second
    gc.collect()
    child = os.fork()
    if not child:  # which a signal without a stack would end
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(5)
        os._exit(8)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7


def test_bfloat16_in_torch_is_near():
    backbone, pictures = random_backbone("resnet18"), made_up(2, 32)
    rows = {}
    for precision in ("float32", "bfloat16"):
        extract = build_extract(backbone, Engine("torch", precision), device=CPU, size=32)
        with torch.inference_mode():
            rows[precision] = extract(pictures)
    assert rows["bfloat16"].dtype == torch.float32
    difference = (rows["bfloat16"] - rows["float32"]).norm() / rows["float32"].norm()
    assert 0 < difference < 0.05


# Which one


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretends what is installed and what the processor can do."""

    def pretend(*, openvino: bool, bfloat16: bool) -> None:
        found = (lambda name: object()) if openvino else (lambda name: None)
        monkeypatch.setattr(engines.importlib.util, "find_spec", found)
        abilities = ["FP32", "BF16"] if bfloat16 else ["FP32"]
        core = type("Core", (), {"get_property": lambda self, *names: abilities})
        monkeypatch.setattr(engines, "openvino_core", core)
        monkeypatch.setattr(engines, "version", lambda name: "2025.1")

    return pretend


@pytest.mark.parametrize(
    ("openvino", "bfloat16", "device", "precision", "expected"),
    [
        (True, False, CPU, "float32", "openvino"),
        (True, True, CPU, "bfloat16", "openvino"),
        (True, False, CPU, "bfloat16", "torch"),
        (False, True, CPU, "float32", "torch"),
        (True, True, GPU, "float32", "torch"),
    ],
)
def test_auto_takes_the_fastest_there_is(machine, openvino, bfloat16, device, precision, expected):
    machine(openvino=openvino, bfloat16=bfloat16)
    chosen = choose_engine("auto", precision=precision, device=device)
    assert chosen == Engine(expected, precision)
    assert choose_engine("torch", precision=precision, device=device) == Engine("torch", precision)
    assert str(chosen).startswith(f"{expected} ") and str(chosen).endswith(f", {precision}")


@pytest.mark.parametrize(
    ("openvino", "device", "precision", "said"),
    [
        (False, CPU, "float32", r"not installed: pip install 'mmlabel\[cpu\]'"),
        (True, GPU, "float32", "trainer.accelerator=cpu"),
        (True, CPU, "bfloat16", "no bfloat16: features.precision=float32"),
    ],
)
def test_openvino_that_cannot_be_had_is_refused(machine, openvino, device, precision, said):
    machine(openvino=openvino, bfloat16=False)
    with pytest.raises(UserError, match=f"features.engine=openvino: .*{said}"):
        choose_engine("openvino", precision=precision, device=device)


def test_keys_tell_engines_versions_and_precisions_apart(machine, monkeypatch):
    machine(openvino=True, bfloat16=True)
    # As earlier versions stored torch's features, which stay valid.
    assert Engine("torch", "float32").key() == {
        "precision": "float32",
        "torch": torch.__version__,
    }
    every = [Engine(n, p).key() for n in ("torch", "openvino") for p in ("float32", "bfloat16")]
    monkeypatch.setattr(engines, "version", lambda name: "2025.2")
    every.append(Engine("openvino", "float32").key())
    assert all(a != b for i, a in enumerate(every) for b in every[:i])


@installed
def test_features_that_are_all_0_are_no_fault_of_the_conversion():
    backbone = random_backbone("resnet18")
    with torch.no_grad():
        for weights in backbone.parameters():
            weights.zero_()
    extract = build_extract(backbone, Engine("openvino", "float32"), device=CPU, size=32)
    assert not extract(made_up(2, 32)).any()


@installed
def test_a_conversion_that_changes_the_features_is_refused(monkeypatch):
    monkeypatch.setitem(engines.LARGEST_ERROR, "float32", 0.0)
    with pytest.raises(UserError, match="OpenVINO cannot compute resnet18 .*features.engine=torch"):
        engine = Engine("openvino", "float32")
        build_extract(random_backbone("resnet18"), engine, device=CPU, size=32)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_openvino_that_cannot_be_imported_is_said(monkeypatch, precision):
    def core() -> None:
        raise ImportError("libopenvino.so: no such file\nand more")

    def found(name: str, *rest: str) -> object:
        return object() if name == "openvino" else usual(name, *rest)

    usual = importlib.util.find_spec
    monkeypatch.setattr(engines.importlib.util, "find_spec", found)
    monkeypatch.setattr(engines, "openvino_core", core)
    said = r"\(libopenvino.so: no such file\).*features.engine=torch"
    with pytest.raises(NoOpenVino, match=said):
        engine = choose_engine("openvino", precision=precision, device=CPU)
        build_extract(random_backbone("resnet18"), engine, device=CPU, size=32)
    auto = choose_engine("auto", precision="bfloat16", device=CPU)
    assert auto == Engine("torch", "bfloat16")


@installed
def test_a_network_that_was_converted_and_cannot_be_run_is_refused(monkeypatch):
    def array_split(pixels: np.ndarray, parts: int) -> list[np.ndarray]:
        raise RuntimeError

    monkeypatch.setattr(engines.np, "array_split", array_split)
    with pytest.raises(NoOpenVino, match=r"cannot compute resnet18 \(RuntimeError\)"):
        engine = Engine("openvino", "float32")
        build_extract(random_backbone("resnet18"), engine, device=CPU, size=32)


@installed
def test_pictures_of_a_size_that_no_engine_takes_are_not_put_down_to_openvino():
    pytest.importorskip("timm")
    name = "vit_tiny_patch16_224"
    weights = resolve_weights(name="timm", model_name=name, weights="none")
    backbone = build_backbone(name="timm", model_name=name, weights=weights, frozen=True)
    with pytest.raises(UserError, match="takes pictures of 224x224 px only") as raised:
        build_extract(backbone, Engine("openvino", "float32"), device=CPU, size=96)
    assert "engine" not in str(raised.value)
