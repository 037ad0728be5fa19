"""Features: from picture files into the store, over the bare backbone in torch on ready tensors."""

import itertools
import statistics
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from benchmarks.table import Bench, alternate, ratio
from mmlabel.data.feature_store import FeatureStore
from mmlabel.data.sources.report_csv import read_usyd
from mmlabel.data.transforms import load_picture, stack_views
from mmlabel.errors import UserError
from mmlabel.models.backbones import Backbone, build_backbone
from mmlabel.models.engines import (
    Engine,
    Extract,
    NoOpenVino,
    Precision,
    build_extract,
    choose_engine,
)
from mmlabel.models.weights import resolve_weights
from mmlabel.parts import prepare

SIZE, BATCH = 224, 64
BARE = "bare"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure(bench: Bench) -> None:
    """Of each backbone and each engine that there is, in pictures a second."""
    files = pictures_of(bench)
    for name, pictures in bench.pick(
        tiny={"efficientnet_lite0": 8},
        quick={"efficientnet_lite0": 96},
        usual={"efficientnet_lite0": 256, "resnet50": 64, "vgg16": 16},
        full={"efficientnet_lite0": 1024, "resnet50": 512, "vgg16": 256},
    ).items():
        # Weights do not change the time; these two have none in the install.
        weights = "pretrained" if name == "efficientnet_lite0" else "none"
        found = resolve_weights(name=name, weights=weights)
        backbone = build_backbone(name=name, weights=found, frozen=True)
        rates = _rates(
            bench, backbone, files[:pictures], rounds=bench.pick(tiny=1, quick=2, usual=3, full=5)
        )
        for engine, target in engines_here().items():
            bench.add(
                "features",
                f"{name}, {engine.name} {engine.precision}, over torch alone",
                ratio(rates[str(engine)], rates[BARE]),
                "x",
                at_least=target,
                note=f"{statistics.median(rates[str(engine)]):.0f} of"
                f" {statistics.median(rates[BARE]):.0f} pictures a second",
            )
    if bench.level == "quick":
        bench.left_out.append("features: resnet50, vgg16: too slow for QUICK=1")
    bench.left_out += [f"features: {line}" for line in engines_missing()]


def pictures_of(bench: Bench) -> list[Path]:
    """The picture files of this call's rows."""
    if bench.data is not None:
        return read_usyd(bench.data).pictures
    return prepare(bench.settings("model=image_only"), None).annotations.pictures


def engines_here() -> dict[Engine, float | None]:
    """The engines that this machine has, with their targets."""
    if DEVICE.type == "cuda":
        return {Engine("torch", "float32"): 0.9, Engine("torch", "bfloat16"): None}
    engines: dict[Engine, float | None] = {Engine("torch", "float32"): 0.85}
    targets: dict[Precision, float] = {"float32": 1.7, "bfloat16": 4.0}
    for precision, target in targets.items():
        with suppress(UserError):  # not installed, or a processor without bfloat16
            engines[choose_engine("openvino", precision=precision, device=DEVICE)] = target
            if precision == "bfloat16":
                engines[Engine("torch", precision)] = 1.5
    return engines


def engines_missing() -> list[str]:
    """What this machine cannot compute features with, and why."""
    missing = []
    for precision in get_args(Precision) if DEVICE.type == "cpu" else ():
        try:
            choose_engine("openvino", precision=precision, device=DEVICE)
        except NoOpenVino as error:
            beside = " and torch bfloat16" if precision == "bfloat16" else ""
            missing.append(f"openvino {precision}{beside}: {error.reason}")
    return missing


def _rates(
    bench: Bench, backbone: Backbone, pictures: list[Path], *, rounds: int
) -> dict[str, list[float]]:
    """Pictures a second of torch alone (BARE) and of each engine's whole way, a figure a round."""
    ready = [load_picture(path, size=SIZE, flipped=False)[None] for path in pictures[:BATCH]]
    tensor = stack_views(ready).to(DEVICE)
    alone = build_extract(backbone, Engine("torch", "float32"), device=DEVICE, size=SIZE)
    times = -(-len(pictures) // len(tensor))
    attempts = itertools.count()

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(times):
                alone(tensor).cpu()

    def fill(engine: Engine, extract: Extract) -> None:
        store = FeatureStore(
            bench.folder / "stores",
            key={"backbone": backbone.info.name, **engine.key(), "attempt": next(attempts)},
            size=SIZE,
            width=backbone.out_features,
            dtype="float32",
        )
        store.fill(
            pictures,
            flipped=[False] * len(pictures),
            extract=extract,
            device=DEVICE,
            batch_size=BATCH,
        )

    works = {BARE: bare}
    for engine in engines_here():
        extract = build_extract(backbone, engine, device=DEVICE, size=SIZE)
        works[str(engine)] = partial(fill, engine, extract)
    found = alternate(works, rounds=rounds)
    counts = dict.fromkeys(works, len(pictures)) | {BARE: times * len(tensor)}
    return {name: [counts[name] / t for t in seconds] for name, seconds in found.items()}
