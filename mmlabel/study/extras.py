"""The optional parts of the install that runs need."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from mmlabel.models.backbone_table import BACKBONES
from mmlabel.settings import Settings
from mmlabel.study.plan import Job
from mmlabel.wording import listed


def missing_extras(jobs: Sequence[Job]) -> list[str]:
    """A line for each extra that is not installed, with the variants that need it."""
    needed: dict[str, dict[str, None]] = {}
    for job in jobs:
        for extra, module in _needs(job.settings):
            if find_spec(module) is None:
                needed.setdefault(extra, {})[job.variant.name] = None
    return [
        f"not installed: pip install -e '.[{extra}]' for {listed(list(variants))}"
        for extra, variants in needed.items()
    ]


def _needs(settings: Settings) -> Iterator[tuple[str, str]]:
    """Extras of pyproject.toml, each with a module of it."""
    if settings.detector is not None and settings.detector.kind == "ultralytics":
        yield "yolo", "ultralytics"
    if settings.text_transformer is not None:
        yield "transformer", "transformers"
    if settings.features is not None and settings.features.engine == "openvino":
        yield "cpu", "openvino"
    if (backbone := settings.backbone) is not None:
        chosen = {backbone.name: backbone.weights}
        if backbone.beside is not None:
            chosen[backbone.beside] = backbone.beside_weights
        for name, weights in chosen.items():
            row = BACKBONES.get(name)
            if weights == "pretrained" and row is not None and row.package is not None:
                yield "lite", row.package[0]
