"""Pretrained text transformers: the states are the library's own, and only what is asked learns."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_text_model import write_text_model
from torch import Tensor

from mmlabel import cache
from mmlabel.data.caption_states import StoredStates, caption_states
from mmlabel.data.row_store import RowStore, StoreUnavailable
from mmlabel.data.subwords import Subwords
from mmlabel.errors import UserError
from mmlabel.models.caption_encoder import CaptionEncoder
from mmlabel.models.text_model import FrozenStates, TextModel, load_text_model
from mmlabel.models.transformer_encoder import TransformerEncoder

CAPTIONS = ["a red car", "", "Two small CATS\non the old sofa", "a red car", " \n", "person"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def text(folder: Path) -> TextModel:
    return load_text_model(str(folder), option="caption.model", max_length=32)


def batch(text: TextModel, width: int = 0) -> tuple[Tensor, Tensor]:
    """CAPTIONS, with `width` more columns of padding that is not all padding's number."""
    captions = Subwords(text.tokenizer).encode(CAPTIONS, max_length=32)
    tokens = torch.from_numpy(captions.pad(np.arange(len(captions))))
    more = torch.full((len(tokens), width), 5)
    return torch.cat([tokens, more], dim=1), torch.from_numpy(captions.lengths)


def as_transformers_says(folder: Path, caption: str) -> Tensor:
    """The states (T, D) of one caption without padding."""
    from transformers import AutoModel, AutoTokenizer

    given = AutoTokenizer.from_pretrained(folder)(caption, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state[0]


def test_tokens_are_the_tokenizers_and_an_empty_caption_has_none(text: TextModel, folder: Path):
    from transformers import AutoTokenizer

    found = Subwords(text.tokenizer).encode(CAPTIONS, max_length=32)
    assert not found.notes
    theirs = AutoTokenizer.from_pretrained(folder)(CAPTIONS)["input_ids"]
    own = [found.ids[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)]
    assert own == [ids if CAPTIONS[n].strip() else [] for n, ids in enumerate(theirs)]
    cut = Subwords(text.tokenizer).encode(CAPTIONS, max_length=5)
    assert cut.lengths.tolist() == [5, 0, 5, 5, 0, 3] and cut.ids[4] == cut.ids[9] == 3
    assert cut.notes == ("1 of 6 captions were cut to their first 5 tokens",)


def test_states_are_the_librarys_whatever_is_beside_them(text: TextModel, folder: Path):
    module = text.build(layers=0)
    tokens, lengths = batch(text, width=7)
    with torch.no_grad():
        states = module(tokens, lengths)
    assert states.isfinite().all()
    for row, caption in enumerate(CAPTIONS):
        if caption.strip():
            expected = as_transformers_says(folder, caption)
            torch.testing.assert_close(states[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_pooling_by_hand(text: TextModel, folder: Path, pooling: str):
    encoder = TransformerEncoder(text.build(), pooling=pooling).eval()
    with torch.no_grad():
        encoded = encoder(*batch(text, width=7))
    assert encoded.shape == (len(CAPTIONS), encoder.out_features) == (6, 16)
    for row, caption in enumerate(CAPTIONS):
        if not caption.strip():
            assert not encoded[row].any()
            continue
        states = as_transformers_says(folder, caption)
        expected = states.max(dim=0).values if pooling == "max" else states.mean(dim=0)
        if encoder.attention is not None:
            scores = states @ encoder.attention.weight[0] + encoder.attention.bias
            weights = scores.exp() / scores.exp().sum()
            expected = (weights[:, None] * states).sum(dim=0)
        torch.testing.assert_close(encoded[row], expected, atol=1e-5, rtol=1e-5)
    nothing = encoder(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]))
    assert nothing.shape == (2, 16) and not nothing.any()


@pytest.mark.parametrize("layers", [None, 1, 0])
def test_only_the_last_layers_learn_and_drop_units(text: TextModel, layers: int | None):
    module = text.build(layers=layers).train()
    scale = torch.ones(1, requires_grad=True)
    # Not the squares alone: of what a layer norm gives they have the same sum.
    ((scale * module(*batch(text)) + 0.1) ** 3).sum().backward()
    learning = {name for name, weight in module.named_parameters() if weight.grad is not None}
    last = {name for name in dict(module.named_parameters()) if ".encoder.layer.1." in name}
    every = {name for name, _ in module.named_parameters()}
    assert learning == {None: every, 1: last, 0: set()}[layers] and last
    assert module.training and module.model.embeddings.training == (layers is None)
    first, second = module(*batch(text)), module(*batch(text))
    assert torch.equal(first, second) == (layers == 0)
    module.eval()
    assert torch.equal(module(*batch(text)), module(*batch(text)))


@pytest.mark.parametrize(
    ("kind", "further", "last"),
    [
        ("xlm", {}, ("attentions.1.", "layer_norm1.1.", "ffns.1.", "layer_norm2.1.")),
        ("bart", {"decoder_layers": 1, "decoder_ffn_dim": 8}, ("decoder.layers.0.",)),
    ],
)
def test_the_last_layers_of_other_kinds(
    tmp_path: Path, kind: str, further: dict[str, int], last: tuple[str, ...]
):
    folder = str(write_text_model(tmp_path / kind, kind=kind, **further))
    text = load_text_model(folder, option="caption.model", max_length=32, unfreeze=1)
    weights = dict(text.build(layers=1).model.named_parameters())
    learning = {name for name, weight in weights.items() if weight.requires_grad}
    assert learning == {name for name in weights if name.startswith(last)} and learning


def test_layers_that_cannot_be_told_apart(tmp_path: Path):
    folder = str(write_text_model(tmp_path / "tiny", kind="albert"))
    assert load_text_model(folder, option="caption.model", max_length=32)
    with pytest.raises(UserError, match=r"caption.unfreeze=1: .*tiny \(albert\) .* leave it out"):
        load_text_model(folder, option="caption.model", max_length=32, unfreeze=1)


def test_more_layers_than_there_are(folder: Path):
    with pytest.raises(UserError, match=r"caption.unfreeze=3: .*tiny has 2 layers; leave it out"):
        load_text_model(str(folder), option="caption.model", max_length=32, unfreeze=3)


def test_it_is_rebuilt_from_plain_values(text: TextModel):
    plain = json.loads(json.dumps(text.plain()))
    again = TextModel(**plain, state=text.state)
    assert again.digest == text.digest
    assert torch.equal(again.build(layers=0)(*batch(text)), text.build(layers=0)(*batch(text)))
    other = dict(text.state)
    other["embeddings.LayerNorm.bias"] = other["embeddings.LayerNorm.bias"] + 1e-4
    assert TextModel(**plain, state=other).digest != text.digest


def stored(text: TextModel, storage: str = "float32") -> StoredStates:
    return StoredStates(FrozenStates(text, text.build(layers=0)), storage=storage)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_stored_states_are_the_live_ones(text: TextModel, tmp_path: Path, storage: str):
    captions = Subwords(text.tokenizer).encode(CAPTIONS, max_length=32)
    states, rows = caption_states(
        captions, stored(text, storage), cache_dir=tmp_path, device=torch.device("cpu")
    )
    assert rows.lengths.tolist() == captions.lengths.tolist()
    assert len(states) == captions.lengths[[0, 2, 5]].sum(), "the same caption was computed twice"
    encoder = CaptionEncoder(
        transformer=text.build(layers=0), states=getattr(torch, storage), pooling="max"
    ).eval()
    assert not hasattr(encoder, "embedding")
    tokens, lengths = batch(text)
    where = torch.from_numpy(rows.pad(np.arange(len(rows))))
    with torch.no_grad():
        live, kept = encoder(tokens, lengths), encoder(states[where], lengths)
    torch.testing.assert_close(kept, live, atol=1e-6 if storage == "float32" else 2e-4, rtol=0)
    assert kept[0].any() and not kept[1].any()


def test_a_frozen_transformer_computes_in_single_precision(text: TextModel):
    """Live, too, as the stored states are: mixed precision is of what is trained."""
    encoder, seen = CaptionEncoder(transformer=text.build(layers=0)), []
    encoder.word_dropout.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    encoder(*batch(text))
    with torch.autocast("cpu", torch.bfloat16):
        encoder(*batch(text))
    assert torch.equal(seen[1], seen[0])


def test_states_are_computed_once_and_again_only_where_damaged(
    text: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    computed: list[int] = []
    extract = FrozenStates.extract

    def counting(self, device):
        run = extract(self, device)

        def states(tokens, lengths):
            computed.append(len(tokens))
            return run(tokens, lengths)

        return states

    monkeypatch.setattr(FrozenStates, "extract", counting)

    def get(texts: list[str], model: TextModel = text):
        captions = Subwords(model.tokenizer).encode(texts, max_length=32)
        states, rows = caption_states(
            captions, stored(model), cache_dir=tmp_path, device=torch.device("cpu")
        )
        return states[torch.from_numpy(rows.ids.astype(np.int64))]

    first = get(CAPTIONS)
    assert computed == [3]
    assert torch.equal(get(CAPTIONS), first) and computed == [3]
    torch.testing.assert_close(get(["a green star", *CAPTIONS])[-len(first) :], first)
    assert computed == [3, 1]
    store = next(tmp_path.glob("features/*/features.bin"))
    content = bytearray(store.read_bytes())
    content[5] ^= 255
    store.write_bytes(content)
    torch.testing.assert_close(get(CAPTIONS), first)
    assert computed == [3, 1, 1]
    other = TextModel(**text.plain(), state={k: v + 1 for k, v in text.state.items()})
    assert not torch.allclose(get(CAPTIONS, other), first)
    assert computed == [3, 1, 1, 3] and len(list(tmp_path.glob("features/*"))) == 2
    monkeypatch.setattr(cache, "version", lambda library: "99")  # it may compute otherwise
    get(CAPTIONS)
    assert computed == [3, 1, 1, 3, 3]


def test_states_that_cannot_be_read_again_are_not_used(text: TextModel, tmp_path, monkeypatch):
    """As where two machines write to a store on a mount whose locks are their own."""
    monkeypatch.setattr(RowStore, "append", lambda self, entries, block: None)
    captions = Subwords(text.tokenizer).encode(CAPTIONS, max_length=32)
    with pytest.raises(StoreUnavailable, match="cannot be read again"):
        caption_states(captions, stored(text), cache_dir=tmp_path, device=torch.device("cpu"))


def test_captions_without_a_token_need_no_store(text: TextModel, tmp_path: Path):
    captions = Subwords(text.tokenizer).encode(["", " "], max_length=32)
    states, rows = caption_states(
        captions, stored(text), cache_dir=tmp_path, device=torch.device("cpu")
    )
    assert len(states) == 0 and rows.lengths.tolist() == [0, 0]
    assert RowStore.open(tmp_path, key={}, width=1, dtype="float32").entries() == []


def broken(folder: Path, to: Path, what: str) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    if what == "config":
        (to / "config.json").unlink()
    elif what == "weights":
        (to / "model.safetensors").write_bytes(b"no weights")
    elif what == "other weights":
        (to / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    elif what == "tokenizer":
        for path in to.glob("tokenizer*"):
            path.unlink()
    return to


@pytest.mark.parametrize("what", ["config", "weights", "other weights", "tokenizer"])
def test_a_folder_that_is_no_model_is_named(folder: Path, tmp_path: Path, what: str):
    path = broken(folder, tmp_path / "broken", what)
    with pytest.raises(UserError, match=r"caption\.model=.*broken.*") as error:
        load_text_model(str(path), option="caption.model", max_length=32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there(name: str):
    pytest.importorskip("transformers", reason="pip install -e '.[transformer]'")
    with pytest.raises(UserError, match=f"embedding.model={name}: there is no such folder"):
        load_text_model(name, option="embedding.model", max_length=32)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("transformers", reason="pip install -e '.[transformer]'")
    from huggingface_hub import constants

    from mmlabel import network

    def refuse(url: str) -> None:
        raise network.NetworkError("timed out: no answer within 20 s")

    monkeypatch.setattr(network, "require_answer", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"owner/name could not be .* no answer .*model=FOLDER"):
        load_text_model("owner/name", option="caption.model", max_length=32)


def test_longer_captions_than_the_model_reads(folder: Path):
    with pytest.raises(UserError, match=r"caption.max_length=41: .* 40 .* caption.max_length=40"):
        load_text_model(str(folder), option="caption.model", max_length=41)


@pytest.mark.parametrize("package", ["transformers", "tokenizers"])
def test_without_the_package(
    package: str, text: TextModel, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=rf"need the package {package}: pip install"):
        if package == "tokenizers":
            Subwords(text.tokenizer)
        else:
            load_text_model(str(folder), option="caption.model", max_length=32)
