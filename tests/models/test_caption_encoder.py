"""Captions: what the LSTM reads, and that neither padding nor neighbours matter."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from mmlabel.models.caption_encoder import CaptionEncoder

WORDS, DIM, HIDDEN = 30, 7, 5


def encoder(**options) -> CaptionEncoder:
    torch.manual_seed(0)
    defaults = {"num_words": WORDS, "embedding_dim": DIM, "hidden": HIDDEN}
    return CaptionEncoder(**(defaults | options)).eval()


def batch(lengths: list[int], width: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(len(lengths), max(lengths) if width is None else width, dtype=torch.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(1, WORDS, (length,), generator=generator)
    return tokens, torch.tensor(lengths)


def run_one_direction(lstm: nn.LSTM, words: Tensor, layer: int, backward: bool) -> Tensor:
    """The outputs (T, H) of one direction of one layer, step by step from the LSTM's equations."""
    suffix = f"_l{layer}{'_reverse' if backward else ''}"
    w_ih, w_hh, b_ih, b_hh = (
        getattr(lstm, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h = c = torch.zeros(lstm.hidden_size)
    outputs = []
    for word in words.flip(0) if backward else words:
        i, f, g, o = (w_ih @ word + b_ih + w_hh @ h + b_hh).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    outputs = torch.stack(outputs)
    return outputs.flip(0) if backward else outputs


def by_hand(model: CaptionEncoder, tokens: Tensor) -> Tensor:
    """One caption without padding."""
    words = model.embedding.weight[tokens]
    directions = [False, True] if model.lstm.bidirectional else [False]
    for layer in range(model.lstm.num_layers):
        outputs = [run_one_direction(model.lstm, words, layer, back) for back in directions]
        words = torch.cat(outputs, dim=1)
    if model.pooling == "max":
        return words.max(dim=0).values
    # Reading forward ends at the last word, reading backward at the first.
    ends = [out[0 if back else -1] for out, back in zip(outputs, directions, strict=True)]
    return torch.cat(ends)


@pytest.mark.parametrize("pooling", ["last", "max"])
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_equals_the_equations(pooling: str, layers: int, bidirectional: bool) -> None:
    model = encoder(layers=layers, pooling=pooling, bidirectional=bidirectional)
    tokens, lengths = batch([3, 6, 1, 4])
    with torch.no_grad():
        encoded = model(tokens, lengths)
        expected = torch.stack(
            [by_hand(model, row[:length]) for row, length in zip(tokens, lengths, strict=True)]
        )
    assert encoded.shape == (4, model.out_features) and encoded.dtype == torch.float32
    assert model.out_features == HIDDEN * (1 + bidirectional)
    torch.testing.assert_close(encoded, expected, rtol=1e-5, atol=1e-6)


def test_the_reports_width() -> None:
    assert CaptionEncoder(num_words=9, embedding_dim=100).out_features == 256


@pytest.mark.parametrize("pooling", ["last", "max"])
def test_padding_and_neighbours_change_nothing(pooling: str) -> None:
    model = encoder(layers=2, pooling=pooling)
    tokens, lengths = batch([4, 0, 9, 1])
    with torch.no_grad():
        together = model(tokens, lengths)
        padded = model(nn.functional.pad(tokens, (0, 40)), lengths)
        # What stands in the padding is never read either.
        garbage = tokens.clone()
        garbage[torch.arange(9) >= lengths[:, None]] = 5
        alone = torch.cat(
            [model(tokens[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(4)]
        )
        torch.testing.assert_close(model(garbage, lengths), together)
    torch.testing.assert_close(padded, together)
    torch.testing.assert_close(alone, together)
    assert together[[0, 2, 3]].abs().sum(dim=1).min() > 0


@pytest.mark.parametrize("pooling", ["last", "max"])
@pytest.mark.parametrize("lengths", [[0], [0, 0, 0], [0, 3, 0]])
@pytest.mark.parametrize("width", [0, 3])
def test_empty_captions_are_zeros(pooling: str, lengths: list[int], width: int) -> None:
    model = encoder(pooling=pooling).train()
    encoded = model(*batch(lengths, max(width, *lengths)))
    assert encoded.isfinite().all()
    for row, length in zip(encoded, lengths, strict=True):
        assert bool(row.any()) == (length > 0)
    encoded.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()


def test_only_unknown_words() -> None:
    encoded = encoder()(torch.ones(2, 3, dtype=torch.int64), torch.tensor([3, 2]))
    assert encoded.isfinite().all() and encoded.any()


@pytest.mark.parametrize("pooling", ["last", "max"])
def test_every_parameter_gets_a_gradient(pooling: str) -> None:
    model = encoder(layers=3, dropout=0.1, embedding_dropout=0.1, pooling=pooling).train()
    model(*batch([6, 6, 5, 4])).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key


def test_given_embeddings_frozen_or_not() -> None:
    vectors = torch.randn(WORDS, DIM)
    frozen = encoder(embeddings=vectors)
    assert torch.equal(frozen.embedding.weight, vectors)
    frozen(*batch([3, 2])).sum().backward()
    assert not frozen.embedding.weight.requires_grad and frozen.embedding.weight.grad is None
    tuned = encoder(embeddings=vectors, freeze_embeddings=False)
    tuned(*batch([3, 2])).sum().backward()
    assert tuned.embedding.weight.grad.any()
    with torch.no_grad():
        tuned.embedding.weight.zero_()
    assert vectors.any(), "the caller's vectors were changed"
    with pytest.raises(ValueError, match="30 words of 7"):
        encoder(embeddings=torch.zeros(WORDS, DIM + 1))


def test_learned_embeddings_are_trained() -> None:
    assert encoder().embedding.weight.requires_grad


def test_word_dropout_leaves_out_whole_words_and_only_in_training() -> None:
    model = encoder(embedding_dropout=0.5)
    tokens, lengths = batch([20, 20])
    assert torch.equal(model(tokens, lengths), model(tokens, lengths))
    model.train()
    assert not torch.equal(model(tokens, lengths), model(tokens, lengths))
    dropped = model.word_dropout(torch.ones(50, 20, DIM))
    assert set(dropped.sum(dim=2).flatten().tolist()) == {0.0, 2.0 * DIM}


def test_dropout_with_one_layer_is_silent_and_without_effect() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = encoder(layers=1, dropout=0.5).train()
    tokens, lengths = batch([4, 2])
    assert torch.equal(model(tokens, lengths), model(tokens, lengths))
    deep = encoder(layers=2, dropout=0.5).train()
    assert not torch.equal(deep(tokens, lengths), deep(tokens, lengths))


def packed(model: CaptionEncoder) -> CaptionEncoder:
    """The same encoder, with torch's own way of running sequences of different lengths."""
    model._run_padded = model._run_packed  # type: ignore[method-assign]
    return model


def encode_and_teach(
    model: CaptionEncoder, lengths: list[int], seed: int = 5
) -> tuple[Tensor, dict[str, Tensor]]:
    tokens, counts = batch(lengths)
    torch.manual_seed(seed)
    encoded = model(tokens, counts)
    # Weights of their own for each number: a sum would hide two that are exchanged.
    weights = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(2))
    (encoded.square() * weights).sum().backward()
    return encoded, {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pooling", ["last", "max"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3, 8])
@pytest.mark.parametrize("training", [False, True])
def test_padded_equals_packed(
    layers: int, bidirectional: bool, pooling: str, training: bool
) -> None:
    """Encodings, gradients and, drawn with the same seed, both dropouts."""
    options = {"layers": layers, "pooling": pooling, "bidirectional": bidirectional}
    options |= {"dropout": 0.4, "embedding_dropout": 0.2, "hidden": 12}
    lengths = [4, 0, 9, 1, 9, 2, 17, 0, 3]
    one, two = encoder(**options).train(training), packed(encoder(**options)).train(training)
    got, gradients = encode_and_teach(one, lengths)
    expected, others = encode_and_teach(two, lengths)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert gradients.keys() == others.keys() and len(gradients) > 4
    for key in gradients:
        torch.testing.assert_close(gradients[key], others[key], rtol=1e-4, atol=1e-6, msg=key)
    if training and layers > 1:
        assert not torch.allclose(got, encode_and_teach(one, lengths, seed=6)[0])


def test_padded_equals_packed_in_inference_and_bfloat16() -> None:
    one, two = encoder(layers=2, pooling="max"), packed(encoder(layers=2, pooling="max"))
    tokens, lengths = batch([5, 0, 8])
    with torch.inference_mode():
        torch.testing.assert_close(one(tokens, lengths), two(tokens, lengths))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low, other = one(tokens, lengths), two(tokens, lengths)
    torch.testing.assert_close(low, other, rtol=0, atol=0.02, check_dtype=False)


def test_checkpoints_have_torchs_names() -> None:
    state = encoder(layers=2).state_dict()
    lstm = nn.LSTM(DIM, HIDDEN, 2, bidirectional=True).state_dict()
    assert {k: v.shape for k, v in state.items() if k.startswith("lstm.")} == {
        f"lstm.{key}": value.shape for key, value in lstm.items()
    }
