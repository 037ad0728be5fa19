"""Words that look at a picture's cells: by the slow way, and as a part of networks."""

import pytest
import torch
from torch import nn

from mmlabel.errors import UserError
from mmlabel.models import ensemble, fusion
from mmlabel.models.caption_encoder import CaptionEncoder
from mmlabel.models.cross_attention import CrossAttention
from mmlabel.models.join import Join
from mmlabel.models.mixup import Mix
from mmlabel.parts import build

OPTIONS = ["backbone=resnet18", "model.fusion=attention", "model.head.hidden=24", "features=off"]


def test_words_find_their_cells_as_the_slow_way_does():
    torch.manual_seed(0)
    cross = CrossAttention(cells=5, states=3, width=4)
    cells, states, lengths = torch.randn(3, 5, 2, 3), torch.randn(3, 6, 3), torch.tensor([6, 2, 0])
    expected = torch.zeros(3, 4)
    for row in range(2):
        columns = [cells[row, :, y, x] for y in range(2) for x in range(3)]
        values = torch.stack([cross.values(column) for column in columns])
        found = []
        for state in states[row, : lengths[row]]:
            question = cross.questions(state)
            match = torch.stack([question @ cross.keys(column) / 2 for column in columns])
            found.append(match.softmax(0) @ values)
        expected[row] = torch.stack(found).amax(0)
    torch.testing.assert_close(cross(cells, states, lengths), expected)


@pytest.mark.parametrize("pooling", ["max", "last"])
@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"bidirectional": False}], ids=str)
def test_a_word_is_told_by_the_state_it_was_read_at(pooling: str, options: dict):
    """As torch's own LSTM has it on each caption alone, and the same packed or padded."""
    torch.manual_seed(0)
    encoder = CaptionEncoder(num_words=9, embedding_dim=4, hidden=3, pooling=pooling, **options)
    tokens, lengths = torch.randint(1, 9, (4, 5)), torch.tensor([5, 1, 3, 0])
    encoding, states = encoder.read(tokens, lengths)
    torch.testing.assert_close(encoding, encoder(tokens, lengths))
    for row, length in enumerate(lengths[:3].tolist()):
        alone = encoder.lstm(encoder.embedding(tokens[row : row + 1, :length]))[0]
        torch.testing.assert_close(states[row, :length], alone[0])
    encoder._run_padded = encoder._run_packed  # type: ignore[method-assign]
    packed = encoder.read(tokens, lengths)[1]
    for row, length in enumerate(lengths[:3].tolist()):
        torch.testing.assert_close(packed[row, :length], states[row, :length])


@pytest.mark.parametrize("batch_norm", [True, False])
def test_what_is_found_is_hidden_with_either_half(batch_norm: bool):
    torch.manual_seed(0)
    join = Join(
        "attention",
        image=6,
        caption=4,
        width=5,
        image_scale=0.5,
        modality_dropout=0.6,
        batch_norm=batch_norm,
    )
    assert join.out_features == 15
    parts = join.standardised([torch.randn(400, 6), torch.randn(400, 4), torch.randn(400, 5)])
    image, caption, found = join(*parts).split([6, 4, 5], dim=1)
    hidden = [(part == 0).all(dim=1) for part in (image, caption, found)]
    assert torch.equal(hidden[2], hidden[0] | hidden[1])
    assert 0.5 < hidden[2].float().mean() < 0.7
    assert torch.equal(found[~hidden[2]], parts[2][~hidden[2]])
    joined = join.eval()(*parts)
    torch.testing.assert_close(joined, torch.cat([0.5 * parts[0], *parts[1:]], dim=1))


@pytest.mark.parametrize(
    "options", [[], ["model=ensemble", "model.modality_dropout=0.2"], ["backbone.unfreeze=1"]]
)
def test_every_part_learns_and_the_cells_decide(options: list[str], settings_of):
    run = build(settings_of(*OPTIONS, *options), None, wandb_id=None)
    run.data.setup("fit")
    network, batch = run.classifier.network, next(iter(run.data.train_dataloader()))
    network.train().loss(batch, run.classifier.criterion).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert any("cross.questions" in name for name, _ in network.named_parameters())
    answers = network.eval()(batch)
    alone = batch._replace(
        image=batch.image[2:4], tokens=batch.tokens[2:4], lengths=batch.lengths[2:4]
    )
    torch.testing.assert_close(network(alone), answers[2:4], rtol=1e-4, atol=1e-5)
    # The mean cell stays, where it is does not: what words find changes with them.
    crosses = [module for module in network.modules() if isinstance(module, CrossAttention)]
    with torch.no_grad():
        for cross in crosses:
            nn.init.zeros_(cross.values.weight)
    assert not torch.allclose(network(batch), answers)


def test_mixed_rows_mix_what_their_words_have_found(settings_of, monkeypatch: pytest.MonkeyPatch):
    run = build(settings_of(*OPTIONS, "model.mixup=0.2"), None, wandb_id=None)
    run.data.setup("fit")
    network, batch = run.classifier.network.eval(), next(iter(run.data.train_dataloader()))
    order = torch.arange(len(batch.rows)).roll(1)
    mix = Mix(order, 0.75)
    features, captions, found = network._encodings(batch)
    seen = []
    monkeypatch.setattr(
        network, "_logits", lambda encodings: seen.append(encodings) or found[:, :1]
    )
    network.loss(batch, lambda *_: torch.zeros(()), mix)  # pictures as they are: mixed before
    # The other row's words look at the same picture.
    other = batch._replace(tokens=batch.tokens[order], lengths=batch.lengths[order])
    theirs = network._encodings(other)[1:]  # norms are affine in evaluation
    expected = [
        0.75 * own + 0.25 * their for own, their in zip((captions, found), theirs, strict=True)
    ]
    for name, got, wanted in zip(("caption", "found"), seen[0][1:], expected, strict=True):
        torch.testing.assert_close(got, wanted, msg=name)
    torch.testing.assert_close(seen[0][0], features)


@pytest.mark.parametrize("model", ["fusion", "ensemble"])
def test_words_look_at_no_picture_but_those_of_their_pair(
    model: str, settings_of, monkeypatch: pytest.MonkeyPatch
):
    """With no share of its own a row is the other one, whose picture has that of a third in it."""
    options = [*OPTIONS, f"model={model}", "model.mixup=0.2", "model.head.dropout=0"]
    run = build(settings_of(*options), None, wandb_id=None)
    run.data.setup("fit")
    network, batch = run.classifier.network.train(), next(iter(run.data.train_dataloader()))
    order = torch.arange(len(batch.rows)).roll(1)
    for module in (fusion, ensemble):
        monkeypatch.setattr(module, "draw_mix", lambda rows, alpha: Mix(order, 0.0))
    mixed = network.loss(batch, run.classifier.criterion)
    network.mixup = 0.0
    names = ("image", "tokens", "lengths", "targets", "rows")
    others = batch._replace(**{name: getattr(batch, name)[order] for name in names})
    torch.testing.assert_close(mixed, network.loss(others, run.classifier.criterion))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["backbone.beside=efficientnet_lite0"], "two with backbone.beside=efficientnet_lite0"),
        (["model=detector_fusion"], "a detector's scores have no cells"),
        (["model.fusion=gated", "model.image_scale=0.3"], "model.image_scale=0.3"),
    ],
)
def test_what_does_not_go_with_it(options: list[str], message: str, settings_of):
    with pytest.raises(UserError, match=message):
        settings_of("model.fusion=attention", *options)
