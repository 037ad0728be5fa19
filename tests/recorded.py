"""Comparing with what an earlier version of the code gave."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import pytest
import torch
from PIL import Image, ImageDraw


def where() -> dict[str, str]:
    """All that the last digits of a score depend on, besides the code."""
    packages = {name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow")}
    return packages | {
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dropout": _digest(_dropout_mask().numpy().tobytes()),
        "polygons": _digest(_polygons().tobytes()),
    }


def _dropout_mask() -> torch.Tensor:
    """Torch 2.6 leaves out others than 2.15 does, with the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.functional.dropout(torch.ones(4096)).bool()


def _polygons() -> Image.Image:
    """Of which the built-in pictures are made; Pillow 11 has other edges than 13."""
    picture = Image.new("L", (128, 128))
    for x in (11, 23, 40):
        corners = [(x, x / 2), (2.3 * x, 1.7 * x), (3.2, 99.1)]
        ImageDraw.Draw(picture).polygon(corners, fill=5 * x)
    return picture


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def as_recorded(
    values: Mapping | list, *, recorded_where: dict[str, str], drawn: Sequence[str] = ()
) -> object:
    """What values must be equal to: to 1e-4 where they were recorded, nearly so elsewhere.

    `drawn` are those of `where` without which nothing is alike: the test is then left out.

    They were equal to the last digit until the BiLSTM was computed on padded batches, which adds
    the same numbers in another order (1e-7 of a loss, which three epochs of training make 3e-5 of).
    """
    here = where()
    if other := [name for name in drawn if recorded_where[name] != here[name]]:
        pytest.skip(
            f"torch {here['torch']} and Pillow {here['pillow']} draw other {' and '.join(other)}"
            " than those of the record: not compared"
        )
    return pytest.approx(values, abs=1e-4 if recorded_where == here else 1e-3)
