"""Picture networks of torchvision and timm, with weights, and what is known of them before.

ResNet and VGG-16 are torchvision's, as in the report; everything else is timm's. A run whose
features are already stored asks only for `backbone_info`, which for the named backbones imports
neither library and builds nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlabel.errors import UserError, first_line
from mmlabel.models.backbone_table import BACKBONES, BackboneRow, Pooling
from mmlabel.models.stages import with_top
from mmlabel.models.weights import ResolvedWeights, read_state, timm_config
from mmlabel.wording import listed


@dataclass(frozen=True)
class BackboneInfo:
    """What the rest of the network must know of a backbone before it exists."""

    name: str
    model_name: str | None  # timm's name; None for the named backbones
    out_features: int
    mean: tuple[float, ...]  # of pictures scaled to 0..1, one number a channel
    std: tuple[float, ...]
    picture_size: int | None = None  # the only size in px that it takes; None: any
    parts: "tuple[BackboneInfo, ...]" = ()  # of backbones side by side, those of each
    pyramid: int = 1  # in how many sizes pictures are looked at
    pooling: Pooling = "mean"  # what out_features are made of

    @property
    def title(self) -> str:
        """Its name, for messages and keys."""
        name = "+".join(part.title for part in self.parts) or self.model_name or self.name
        return f"{name} in {self.pyramid} sizes" if self.pyramid > 1 else name

    @property
    def size_columns(self) -> list[list[int]]:
        """Which of the features are of each size of pictures, the smallest first."""
        sizes: list[list[int]] = [[] for _ in range(self.pyramid)]
        first = 0
        for part in self.parts or (self,):
            width = part.out_features // part.pyramid
            for columns in sizes:
                columns += range(first, first + width)
                first += width
        return sizes


def backbone_info(
    *, name: str, model_name: str | None = None, pooling: Pooling = "mean"
) -> BackboneInfo:
    """A backbone's width and normalisation, without its weights.

    Args:
        name: of `BACKBONES`, or timm.
        model_name: with name="timm", any model that timm knows.
        pooling: of its last map.

    Raises:
        UserError: a model that timm does not know, whose features are no vector, or which does not
            pool as asked.
    """
    if name == "timm":
        return _timm_info(model_name or "", pooling)
    row = BACKBONES[name]
    width = row.out_features
    if pooling == "mean_and_top":
        width += row.map_features or row.out_features
    return BackboneInfo(name, None, width, row.mean, row.std, pooling=pooling)


def network_with_weights(info: BackboneInfo, weights: ResolvedWeights, *, seed: int) -> nn.Module:
    """A network without its classifier, as `resolve_weights` found its weights, that pools as its
    `info` says.

    Random ones follow from the seed, and the caller's random state is left alone. Raises UserError
    for weights that do not fit.
    """
    network = _as_pretrained(info, weights, seed=seed)
    return network if info.pooling == "mean" else with_top(network, name=info.title)


def _as_pretrained(info: BackboneInfo, weights: ResolvedWeights, *, seed: int) -> nn.Module:
    name, model_name = info.name, info.model_name
    row = BACKBONES.get(name) or BackboneRow("timm", model_name or "", info.out_features)
    if weights.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return _network(row)
    if name == "timm" and weights.kind == "pretrained":
        return _timm_pretrained(row.model_name, weights.path)
    # An arbitrary timm model may compute tables that are not part of its state dict; the
    # others need no more than the file has, so the time of a random start is saved.
    with torch.device("cpu" if name == "timm" else "meta"):
        network = _network(row)
    state = read_state(weights.path)
    if row.package is not None:
        state = _timms_names(state, row.model_name, weights.path)
    _load(network, state, head=_head_names(row), path=weights.path)
    return network


@lru_cache
def _timm_info(model_name: str, pooling: Pooling) -> BackboneInfo:
    config = timm_config(model_name)
    size = config.input_size[1:]
    # Without the storage, building takes milliseconds; a few models (and older versions of timm)
    # compute with numbers while they are built and need it.
    try:
        shape = _features_shape(model_name, size, pooling, device="meta")
    except RuntimeError:
        try:
            shape = _features_shape(model_name, size, pooling, device="cpu")
        except RuntimeError as error:
            raise UserError(f"backbone {model_name} cannot be used: {error}") from error
    if len(shape) != 2:
        raise UserError(
            f"backbone {model_name} gives features of shape {tuple(shape)} and not one vector a "
            "picture: choose another model"
        )
    fixed = size[-1] if config.fixed_input_size else None
    return BackboneInfo(
        "timm", model_name, shape[1], config.mean, config.std, fixed, pooling=pooling
    )


def _features_shape(
    model_name: str, size: tuple[int, int], pooling: Pooling, *, device: str
) -> torch.Size:
    import timm

    with torch.device(device), torch.no_grad():
        network = timm.create_model(model_name, num_classes=0).eval()
        if pooling == "mean_and_top":
            network = with_top(network, name=model_name)
        return network(torch.empty(1, 3, *size)).shape


def _network(row: BackboneRow) -> nn.Module:
    """The network of random weights, without its classifier unless the row keeps it."""
    if row.library == "torchvision":
        from torchvision.models import get_model

        network = get_model(row.model_name, weights=None)
        if row.classifier is not None:
            network.set_submodule(row.classifier, nn.Identity())
        return network
    import timm

    return timm.create_model(row.model_name, num_classes=0)


def _head_names(row: BackboneRow) -> tuple[str, ...]:
    """Prefixes of the classifier's entries in a complete state dict."""
    if row.library == "torchvision":
        return () if row.classifier is None else (f"{row.classifier}.",)
    heads = timm_config(row.model_name).classifier or ()
    return tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))


def _timm_pretrained(model_name: str, path: Path) -> nn.Module:
    """timm's own loading, which converts the formats that its pretrained files come in."""
    import timm

    try:
        return timm.create_model(
            model_name,
            pretrained=True,
            num_classes=0,
            pretrained_cfg_overlay={"file": str(path), "custom_load": False},
        )
    except Exception as error:  # a damaged file can fail anywhere in the conversion
        raise UserError(
            f"{path}: cannot be loaded into {model_name} ({first_line(error)})"
        ) from error


def _timms_names(state: dict[str, Tensor], model_name: str, path: Path) -> dict[str, Tensor]:
    """timm's names for the entries of a package's weights, which are in the same order."""
    import timm

    with torch.device("meta"):
        expected = timm.create_model(model_name).state_dict()
    if not expected.keys().isdisjoint(state):  # another file, with timm's names
        return state
    shapes = [value.shape for value in state.values()]
    if shapes != [value.shape for value in expected.values()]:
        raise UserError(
            f"{path}: its {len(shapes)} entries do not match the {len(expected)} of timm's "
            f"{model_name}"
        )
    return dict(zip(expected, state.values(), strict=True))


def _load(
    network: nn.Module, state: dict[str, Tensor], *, head: tuple[str, ...], path: Path
) -> None:
    expected = network.state_dict()
    state = {k: v for k, v in state.items() if k in expected or not k.startswith(head)}
    # Files older than batch norm's step counter lack it; nothing here uses it.
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    problems = [f"missing {k}" for k in missing]
    problems += [f"unexpected {k}" for k in state if k not in expected]
    problems += [
        f"{k} of shape {tuple(state[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected
        if k in state and state[k].shape != expected[k].shape
    ]
    if problems:
        raise UserError(f"{path}: does not fit this backbone: {listed(problems, most=3)}")
    network.load_state_dict(state, assign=True)
