"""Pretrained text transformers: found or fetched, run on tokens, and as checkpoints keep them."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlabel import network
from mmlabel.cache import fingerprint, library_versions
from mmlabel.data.subwords import MISSING, Subwords
from mmlabel.errors import UserError, first_line
from mmlabel.wording import count

_FILES = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*piece*")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# What a configuration says of where and by what it was written, which decides nothing.
_NO_MATTER = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


@dataclass(frozen=True)
class TextModel:
    """A text transformer that can be built at any time.

    Attributes:
        name: as the option says it.
        config: the values of its configuration, "model_type" among them.
        tokenizer: its tokenizer, see `Subwords`.
        state: its weights; None where those of a checkpoint will follow.
    """

    name: str
    config: dict[str, Any]
    tokenizer: str
    state: Mapping[str, Tensor] | None = None

    def build(self, *, layers: int | None = None) -> "TextTransformer":
        """The network; of its layers the last `layers` are trained, None: all of it, 0: nothing.

        Raises UserError where transformers is missing or does not know such a model.
        """
        module = _module(self.config)
        if self.state is not None:
            module.load_state_dict(self.state)
        return TextTransformer(module, layers=layers)

    @cached_property
    def digest(self) -> str:
        """32 hex digits that change with the weights or the configuration."""
        assert self.state is not None
        weights = [part for name, value in self.state.items() for part in (name, value.numpy())]
        return fingerprint(self.config, *weights)

    def plain(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights: `TextModel(**plain)` restores it."""
        return {"name": self.name, "config": self.config, "tokenizer": self.tokenizer}


class TextTransformer(nn.Module):
    """A text transformer as a part of a network.

    Args:
        model: of the package transformers.
        layers: how many of its last layers are trained; None: all of it.

    Attributes:
        width: numbers a token.
        layers: the parts of each, as far as they can be told apart; see `_check_layers`.
    """

    def __init__(self, model: nn.Module, *, layers: int | None) -> None:
        super().__init__()
        self.model = model
        self.width: int = model.config.hidden_size  # pyright: ignore
        self.layers = _layers(model)
        self._trained: list[nn.Module] = [model]
        if layers is not None:
            last = self.layers[max(len(self.layers) - layers, 0) :]
            self._trained = [part for parts in last for part in parts]
            model.requires_grad_(False)
            for layer in self._trained:
                layer.requires_grad_(True)
        self.train()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The last layer's states (B, T, width) float32 of tokens (B, T), each caption alone.

        Args:
            tokens: int64; what stands behind a caption's end is not looked at.
            lengths: (B,) int64; of a caption of length 0 a state means nothing.
        """
        steps = lengths.clamp(min=1).to(tokens.device)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < steps[:, None]  # (B, T)
        found = self.model(input_ids=tokens, attention_mask=mask.long(), return_dict=True)
        return found.last_hidden_state.float()

    def train(self, mode: bool = True) -> "TextTransformer":
        """What is not trained has no dropout either, so that it says the same each time."""
        super().train(False)
        for part in self._trained:
            part.train(mode)
        self.training = mode
        return self


@dataclass(frozen=True)
class FrozenStates:
    """A frozen transformer's states as the store of captions takes them."""

    text: TextModel
    module: TextTransformer

    @property
    def width(self) -> int:
        """Numbers a token."""
        return self.module.width

    def key(self) -> dict[str, object]:
        """All that a state depends on besides the caption's tokens, as plain values."""
        return {
            "text": self.text.config["model_type"],
            "weights": self.text.digest,
            "versions": library_versions("torch", "transformers"),
        }

    def extract(self, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """A function from tokens (B, T) and lengths (B,) to states (B, T, width) on `device`."""
        module = self.module.to(device)

        @torch.inference_mode()
        def states(tokens: Tensor, lengths: Tensor) -> Tensor:
            return module(tokens.to(device), lengths)

        return states


def load_text_model(
    name: str, *, option: str, max_length: int, unfreeze: int | None = None
) -> TextModel:
    """A model of the hub, or of a folder that is laid out as there.

    Args:
        name: of the folder or the hub's model.
        option: that names it, for messages ("caption.model").
        max_length: tokens of the longest caption that it has to read.
        unfreeze: how many of its last layers are to be trained; None: all or nothing of it.

    Raises UserError where it cannot be had, is no model that reads text alone, or has no such
    layers.
    """
    transformers = _transformers()
    folder = _folder(name, option=option)
    if not any((folder / file).is_file() for file in _TOKENIZERS):  # one would be made up
        raise UserError(
            f"{option}={name}: there is no tokenizer in {folder}; it needs {', '.join(_NEEDED)}, as"
            " on the hub"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, said = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        definition = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # which kind depends on what the folder holds instead
        raise UserError(
            f"{option}={name}: no text transformer can be read from {folder}"
            f" ({first_line(error)}); it needs {', '.join(_NEEDED)}, as on the hub"
        ) from error
    if lacking := [key for key in said["missing_keys"] if not key.startswith("pooler.")]:
        raise UserError(
            f"{option}={name}: the weights in {folder} lack {lacking[0]} and {len(lacking) - 1}"
            " more: they are another model's"
        )
    model = _without_pooler(model)
    values = json.loads(config.to_json_string(use_diff=False))
    plain = {key: value for key, value in values.items() if key not in _NO_MATTER}
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    found = TextModel(name, plain, definition, state)
    _check(found, option=option, max_length=max_length)
    if unfreeze is not None:
        _check_layers(found, unfreeze)
    return found


_TOKENIZERS = (
    "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
_NEEDED = ("config.json", "model.safetensors", "tokenizer.json or vocab.txt")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError(MISSING.format(name="transformers")) from None
    transformers.logging.set_verbosity_error()  # it tells of every pooler that is left out
    transformers.logging.disable_progress_bar()
    return transformers


def _module(config: Mapping[str, Any]) -> nn.Module:
    transformers = _transformers()
    values = dict(config)
    try:
        made = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        return _without_pooler(transformers.AutoModel.from_config(made))
    except Exception as error:
        raise UserError(
            f"this version of transformers ({transformers.__version__}) builds no"
            f" {config.get('model_type')} of the checkpoint's configuration ({first_line(error)})"
        ) from error


def _without_pooler(model: Any) -> Any:
    """Without the layer on the first token's state, which nothing here asks."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _layers(module: nn.Module) -> list[list[nn.Module]]:
    """The parts of each layer, as far as lists of modules tell.

    Of most models a layer is one part; of XLM several, each in a list of its own.
    """
    found: list[list[nn.Module]] = []
    lists = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            lists.append(child)
        else:
            found += _layers(child)
    if len({len(each) for each in lists}) == 1:
        return found + [list(parts) for parts in zip(*lists, strict=True)]
    return found + [[layer] for each in lists for layer in each]


def _check_layers(text: TextModel, unfreeze: int) -> None:
    """See that the last layers can be told from the rest; raises UserError.

    They are where each is run once and one after another.
    """
    module = text.build(layers=0)
    run: list[int] = []
    for number, parts in enumerate(module.layers):
        for part in parts:
            part.register_forward_hook(lambda *_, number=number: run.append(number))
    with torch.inference_mode():
        module(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([4]))
    if not run or run != [number for number, parts in enumerate(module.layers) for _ in parts]:
        raise UserError(
            f"caption.unfreeze={unfreeze}: the layers of {text.name} ({text.config['model_type']})"
            " cannot be told apart, or are one that is run several times; leave it out to have all"
            " of it trained, or choose another caption.model"
        )
    if unfreeze > len(module.layers):
        raise UserError(
            f"caption.unfreeze={unfreeze}: {text.name} has {count(len(module.layers), 'layer')};"
            " leave it out to have all of it trained"
        )


def _check(text: TextModel, *, option: str, max_length: int) -> None:
    """See that the model reads captions; raises UserError."""
    own = option.partition(".")[0]
    most = text.config.get("max_position_embeddings")
    if isinstance(most, int) and most < max_length:
        raise UserError(
            f"{own}.max_length={max_length}: {text.name} reads {most} tokens at most; give"
            f" {own}.max_length={most}"
        )
    tokens = len(Subwords(text.tokenizer))
    known = text.config.get("vocab_size")
    if isinstance(known, int) and tokens > known:
        raise UserError(
            f"{option}={text.name}: its tokenizer has {tokens:,} tokens, its model {known:,}: they"
            " do not belong together"
        )
    try:
        module = text.build(layers=0)
        lengths = torch.tensor([max_length])
        with torch.inference_mode():
            states = module(torch.zeros(1, max_length, dtype=torch.int64), lengths)
        assert states.shape == (1, max_length, module.width)
    except Exception as error:
        raise UserError(
            f"{option}={text.name}: this {text.config.get('model_type')} does not read text of"
            f" {max_length} tokens alone ({first_line(error)}); choose an encoder such as"
            f" sentence-transformers/all-MiniLM-L6-v2, or a lower {own}.max_length"
        ) from error


def _folder(name: str, *, option: str) -> Path:
    """Where the model's files are, fetched from the hub if need be."""
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return path
    # The hub's names are OWNER/NAME, or NAME alone.
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"{option}={name}: there is no such folder")
    try:
        return _fetched(name)
    except Exception as error:  # the disk, the network and the hub's client raise their own
        raise UserError(
            f"{name} could not be downloaded from the Hugging Face hub: {first_line(error)}. Ways"
            f" out: {option}=FOLDER (with {', '.join(_NEEDED)}), HF_HOME=FOLDER (a copy of another"
            " machine's cache of the hub), or caption=bilstm embedding=glove"
        ) from error


def _fetched(name: str) -> Path:
    from huggingface_hub import constants, hf_hub_url, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, local_files_only=True))
        if any((path / file).is_file() for file in _WEIGHTS):
            return path
    except LocalEntryNotFoundError:
        pass
    # The hub's client goes on trying for most of a minute where there is no network at all.
    if not constants.HF_HUB_OFFLINE:
        network.require_answer(hf_hub_url(name, "config.json"))
    path = Path(snapshot_download(name, allow_patterns=[*_FILES, _WEIGHTS[0]]))
    if not (path / _WEIGHTS[0]).is_file():
        path = Path(snapshot_download(name, allow_patterns=[*_FILES, _WEIGHTS[1]]))
    return path
