"""The label decoder: its sequences, its loss, and its search against slower ways."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from mmlabel.data.batches import Batch
from mmlabel.errors import UserError
from mmlabel.models.decoder import LabelDecoder, label_rank, label_sequences

START, END, PADDING = 20, 21, 22


class Features(nn.Module):
    """Stands in for an image encoder."""

    out_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image)


class Words(nn.Module):
    """Stands in for a caption encoder."""

    out_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(30, 4, padding_idx=0)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        assert lengths.device.type == "cpu"
        return self.embedding(tokens)


def decoder(*, seed: int = 0, num_labels: int = 20, sharpness: float = 1.0, **options):
    """A small decoder with random weights; `sharpness` spreads its probabilities."""
    torch.manual_seed(seed)
    defaults = {
        "encoders": {"image": Features()},
        "label_frequency": list(range(num_labels)),
        "embedding_dim": 8,
        "hidden": 16,
        "dropout": 0.0,
    }
    model = LabelDecoder(num_labels=num_labels, **(defaults | options)).eval()
    with torch.no_grad():
        model.output[1].weight.mul_(sharpness)
        model.output[1].bias.zero_()
    return model


def batch(targets: Tensor | list[list[int]], num_labels: int = 20, seed: int = 0) -> Batch:
    """Random features beside the targets, given multi-hot or as lists of label numbers."""
    if isinstance(targets, list):
        rows, targets = targets, torch.zeros(len(targets), num_labels)
        for row, labels in enumerate(rows):
            targets[row, labels] = 1
    generator = torch.Generator().manual_seed(seed)
    count = len(targets)
    return Batch(
        image=torch.randn(count, 6, generator=generator),
        tokens=torch.randint(1, 30, (count, 5), generator=generator),
        lengths=torch.full((count,), 5),
        targets=targets,
        rows=torch.arange(count),
        ids=[f"{row}.jpg" for row in range(count)],
    )


def blank(rows: int, num_labels: int, seed: int = 0) -> Batch:
    return batch(torch.zeros(rows, num_labels), seed=seed)


def probabilities_after(model: LabelDecoder, context: Tensor, prefix: list[int]) -> Tensor:
    """Log-probabilities of one row's next token, by running the whole prefix from its start."""
    inputs = torch.tensor([[model.start, *prefix]])
    named = torch.zeros(1, len(prefix) + 1, model.num_labels, dtype=torch.bool)
    for position, label in enumerate(prefix):
        named[0, position + 1 :, label] = True
    if len(prefix) == model.max_labels:
        named[:, -1] = True
    logits, _ = model.step(context[None], inputs, named)
    return logits[0, -1].log_softmax(-1)


def all_sequences(model: LabelDecoder, context: Tensor) -> dict[tuple[int, ...], float]:
    """The log-probability of every sequence of labels, one by one."""
    found = {}
    for count in range(model.max_labels + 1):
        for sequence in itertools.permutations(range(model.num_labels), count):
            total = 0.0
            for position in range(count + 1):
                after = probabilities_after(model, context, list(sequence[:position]))
                chosen = sequence[position] if position < count else model.num_labels
                total += after[chosen].item()
            found[sequence] = total
    return found


def all_sets(model: LabelDecoder, context: Tensor) -> dict[frozenset[int], float]:
    """The log-probability of every set of labels: of its sequences together."""
    mass: dict[frozenset[int], float] = {}
    for sequence, log_prob in all_sequences(model, context).items():
        mass[frozenset(sequence)] = mass.get(frozenset(sequence), 0.0) + math.exp(log_prob)
    return {labels: math.log(total) for labels, total in mass.items()}


def greedy(model: LabelDecoder, context: Tensor) -> set[int]:
    """The likeliest token at every step until the end."""
    answer: list[int] = []
    for _ in range(model.max_labels + 1):
        token = int(probabilities_after(model, context, answer).argmax())
        if token == model.num_labels:
            return set(answer)
        answer.append(token)
    raise AssertionError(f"no end after {answer}")


def labels_of(row: Tensor) -> set[int]:
    return set(row.nonzero().flatten().tolist())


# --- sequences


def test_the_reports_example() -> None:
    """Labels [1, 3] become [20, 1, 3, 21] (report section 4.5.2), read shifted by one."""
    targets = batch([[3, 1]]).targets
    inputs, outputs = label_sequences(targets, torch.arange(20))
    assert inputs.tolist() == [[START, 1, 3]]
    assert outputs.tolist() == [[1, 3, END]]


COUNTS = [0.0] * 20
COUNTS[1], COUNTS[3], COUNTS[5], COUNTS[8] = 9.0, 4.0, 4.0, 6.0
ROWS = [[1, 3, 8], [5, 3], [], [8]]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("frequent_first", [[1, 8, 3, END], [3, 5, END], [END], [8, END]]),
        ("rare_first", [[3, 8, 1, END], [3, 5, END], [END], [8, END]]),
        ("as_given", [[8, 1, 3, END], [5, 3, END], [END], [8, END]]),
    ],
)
def test_each_order_by_hand(order: str, expected: list[list[int]]) -> None:
    given = torch.full((4, 20), 127, dtype=torch.int8)
    for row, labels in enumerate([[8, 1, 3], [5, 3], [], [8]]):
        given[row, labels] = torch.arange(len(labels), dtype=torch.int8)
    # The batch holds the split's rows in another order than the file.
    shuffle = torch.tensor([2, 0, 3, 1])
    rows = batch(ROWS)
    rows = rows._replace(targets=rows.targets[shuffle], rows=shuffle)
    model = decoder(order=order, label_frequency=COUNTS, given_order=given).train()
    inputs, outputs = label_sequences(rows.targets, model._rank_of(rows))
    expected = [expected[row] for row in shuffle]
    width = max(map(len, expected))
    padded = [answer + [PADDING] * (width - len(answer)) for answer in expected]
    assert outputs.tolist() == padded
    read = [[START, *answer[:-1]] for answer in expected]
    assert inputs.tolist() == [answer + [PADDING] * (width - len(answer)) for answer in read]


def test_a_random_order_names_every_label_in_changing_orders() -> None:
    model = decoder(order="random").train()
    rows = batch([[1, 3, 8, 9], [2]])
    seen = set()
    for _ in range(20):
        _, outputs = label_sequences(rows.targets, model._rank_of(rows))
        assert sorted(outputs[0, :4].tolist()) == [1, 3, 8, 9] and outputs[0, 4] == END
        assert outputs[1].tolist() == [2, END, PADDING, PADDING, PADDING]
        seen.add(tuple(outputs[0, :4].tolist()))
    assert len(seen) > 5


@pytest.mark.parametrize("order", ["as_given", "random"])
def test_evaluation_uses_ascending_numbers(order: str) -> None:
    model, rows = decoder(order=order), batch([[8, 3], [1]])
    _, outputs = label_sequences(rows.targets, model._rank_of(rows))
    assert outputs.tolist() == [[3, 8, END], [1, END, PADDING]]
    assert torch.equal(model.loss(rows), model.loss(rows))


def test_a_row_with_every_label_still_ends() -> None:
    inputs, outputs = label_sequences(torch.ones(1, 3), torch.tensor([2, 0, 1]))
    assert inputs.tolist() == [[3, 1, 2, 0]]
    assert outputs.tolist() == [[1, 2, 0, 4]]


def test_equal_counts_are_named_by_number() -> None:
    assert label_rank("frequent_first", 4, [1, 2, 2, 1]).tolist() == [2, 0, 1, 3]
    assert label_rank("rare_first", 4, [1, 2, 2, 1]).tolist() == [0, 2, 3, 1]


# --- loss


def test_the_loss_is_the_mean_over_tokens_of_the_sequences() -> None:
    model = decoder(order="as_given", sharpness=3.0)
    rows = batch([[1, 3], [], [2, 7, 9]])
    context = model.encode(rows)
    total = 0.0
    for row, labels in enumerate([[1, 3], [], [2, 7, 9]]):
        for position in range(len(labels) + 1):
            after = probabilities_after(model, context[row], labels[:position])
            total -= after[labels[position] if position < len(labels) else 20].item()
    assert model.loss(rows).item() == pytest.approx(total / 8, rel=1e-5)  # 3 + 1 + 4 tokens


def test_padding_does_not_count() -> None:
    """Beside a long row, a short one adds its own tokens to the mean and nothing else."""
    model = decoder(order="as_given")
    both = batch([[4], [1, 2, 3, 5, 6, 7, 8, 9]])
    alone = [
        both._replace(image=both.image[[row]], targets=both.targets[[row]], rows=torch.tensor([0]))
        for row in range(2)
    ]
    short, long = (model.loss(rows) for rows in alone)  # 2 and 9 tokens
    assert model.loss(both).item() == pytest.approx((2 * short + 9 * long).item() / 11, rel=1e-5)


def test_labels_that_are_not_known_are_no_choice() -> None:
    """The loss is that of the sequence of known labels, where unknown ones have no probability."""
    model = decoder(order="as_given", sharpness=3.0)
    rows = batch([[1, 3], [2, 7]])
    known = torch.ones(2, 20, dtype=torch.bool)
    known[0, [3, 5]] = known[1, [0, 19]] = False
    total, context = 0.0, model.encode(rows)
    for row, labels in enumerate([[1], [2, 7]]):
        for position in range(len(labels) + 1):
            after = probabilities_after(model, context[row], labels[:position]).exp()
            after = after / after[torch.cat([known[row], torch.tensor([True])])].sum()
            total -= after[labels[position] if position < len(labels) else 20].log().item()
    assert model.loss(rows._replace(known=known)).item() == pytest.approx(total / 5, rel=1e-5)
    everything = rows._replace(known=torch.ones_like(known))
    assert torch.equal(model.loss(everything), model.loss(rows))


def test_gradients_reach_every_parameter() -> None:
    encoders = {"image": Features(), "caption": Words()}
    model = decoder(encoders=encoders, layers=2, dropout=0.1).train()
    model.loss(batch([[1, 3], [], [2, 7, 9]])).backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name


@pytest.mark.parametrize("order", ["frequent_first", "rare_first", "random"])
def test_ten_rows_are_learned(order: str) -> None:
    """Near zero, down to what a random order leaves open; and the answers come back exactly."""
    rows = batch([[1], [1, 3], [], [2, 7, 9], [1], [1, 8, 3], [4], [5, 6], [1, 16], [0, 19]])
    model = decoder(hidden=64, order=order, label_frequency=rows.targets.sum(0).tolist()).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(rows)
        loss.backward()
        optimizer.step()
    if order != "random":
        assert loss.item() < 0.02
    answer = model.eval()(rows).sigmoid() >= 0.5
    assert torch.equal(answer, rows.targets.bool())


def test_the_caption_changes_the_answer() -> None:
    encoders = {"image": Features(), "caption": Words()}
    model, rows = decoder(encoders=encoders), batch([[1], [2]])
    other = rows._replace(tokens=rows.tokens.flip(0))
    assert not torch.allclose(model(rows), model(other))


# --- search


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_width_one_is_greedy(seed: int, penalty: float) -> None:
    model = decoder(seed=seed, sharpness=6.0, beam_width=1, length_penalty=penalty, max_labels=5)
    rows = blank(12, 20, seed=seed)
    context = model.encode(rows)
    answers = model(rows).sigmoid() >= 0.5
    expected = [greedy(model, row) for row in context]
    assert [labels_of(row) for row in answers] == expected
    assert len(set(map(frozenset, expected))) > 3


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("penalty", "max_labels"), [(0.0, None), (0.5, None), (1.0, 2)])
def test_full_width_is_exhaustive(seed: int, penalty: float, max_labels: int | None) -> None:
    model = decoder(
        seed=seed, num_labels=4, sharpness=8.0, length_penalty=penalty, max_labels=max_labels
    )
    rows = blank(3, 4, seed=seed)
    context = model.encode(rows)
    found = model.search(context, width=65)  # 65 sequences of four labels without repetition
    for row in range(3):
        expected = all_sets(model, context[row])
        scores = {s: p / (len(s) + 1) ** penalty for s, p in expected.items()}
        best = sorted(scores, key=scores.get, reverse=True)
        count = len(expected)
        assert [frozenset(labels_of(s)) for s in found.sets[row, :count]] == best
        assert found.score[row, :count].tolist() == pytest.approx(
            [scores[s] for s in best], rel=1e-4, abs=1e-5
        )
        assert found.log_prob[row].exp().sum().item() == pytest.approx(1.0, abs=1e-5)
        assert found.log_prob[row, count:].isinf().all()
        marginals = [
            sum(math.exp(p) for s, p in expected.items() if label in s) for label in range(4)
        ]
        assert found.marginals[row].tolist() == pytest.approx(marginals, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_marginals_of_a_narrow_beam_are_lower_bounds(seed: int) -> None:
    model = decoder(seed=seed, num_labels=4, sharpness=4.0)
    context = model.encode(blank(5, 4, seed=seed))
    full = model.search(context, width=65).marginals
    for width in (1, 2, 5):
        narrow = model.search(context, width=width).marginals
        assert (narrow <= full + 1e-5).all() and (narrow > 0).all()


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0])
def test_no_label_twice_and_always_an_end(width: int, penalty: float) -> None:
    """With an end that is all but impossible, every label is named once and then it ends."""
    model = decoder(num_labels=6, sharpness=5.0, beam_width=width, length_penalty=penalty)
    with torch.no_grad():
        model.output[1].bias[6] = -30.0
    context = model.encode(blank(4, 6))
    assert model.search(context).sets[:, 0].all()
    model.max_labels = 2
    assert (model.search(context).sets[:, 0].sum(1) == 2).all()
    with torch.no_grad():
        model.output[1].bias[6] = 60.0
    assert not model.search(context).sets[:, 0].any()


def test_rows_are_searched_independently() -> None:
    model, rows = decoder(sharpness=6.0), blank(8, 20)
    together = model(rows)
    for row in range(8):
        alone = rows._replace(image=rows.image[[row]], rows=rows.rows[[row]])
        assert torch.allclose(model(alone)[0], together[row], atol=1e-4)


def test_a_higher_length_penalty_favours_more_labels() -> None:
    model, rows = decoder(sharpness=6.0), blank(64, 20)
    context = model.encode(rows)
    sizes = []
    for penalty in (0.0, 0.5, 1.0):
        model.length_penalty = penalty
        sizes.append(model.search(context, width=10).sets[:, 0].sum().item())
    assert sizes[0] < sizes[1] < sizes[2]


# --- logits


@pytest.mark.parametrize("sharpness", [0.0, 3.0, 100.0])
def test_half_is_the_threshold_of_the_answer(sharpness: float) -> None:
    """However sure or unsure the decoder is, and within both groups labels rank by marginal."""
    model, rows = decoder(sharpness=sharpness), blank(32, 20)
    found, logits = model.search(model.encode(rows)), model(rows)
    assert logits.isfinite().all() and logits.shape == (32, 20) and not logits.requires_grad
    probability = logits.sigmoid()
    answer = found.sets[:, 0]
    assert torch.equal(probability >= 0.5, answer)
    inside = found.marginals.clamp(1e-4, 1 - 1e-4)
    assert torch.allclose(probability, torch.where(answer, 0.5 + inside / 2, inside / 2), atol=1e-6)


def test_evaluate_is_forward_and_loss() -> None:
    model, rows = decoder(), batch([[1, 3], [], [2]])
    logits, loss = model.evaluate(rows, nn.BCEWithLogitsLoss())
    assert torch.equal(logits, model(rows)) and torch.equal(loss, model.loss(rows))


def test_a_checkpoint_brings_the_ranks_and_not_the_rows() -> None:
    trained = decoder(order="rare_first", given_order=torch.zeros(5, 20, dtype=torch.int8))
    state = trained.state_dict()
    assert "rank" in state and "given_order" not in state
    fresh = decoder(seed=1, order="rare_first", label_frequency=None)
    fresh.load_state_dict(state)
    rows = batch([[3, 1], [2]])
    assert torch.equal(fresh(rows), trained(rows)) and torch.equal(
        fresh.loss(rows), trained.loss(rows)
    )


# --- mistakes


def test_training_says_which_order_lacks_its_data() -> None:
    with pytest.raises(ValueError, match='"as_given" needs'):
        decoder(order="as_given").train().loss(batch([[1], [2]]))
    for order in ("frequent_first", "rare_first"):
        with pytest.raises(ValueError, match=f'"{order}" needs'):
            decoder(order=order, label_frequency=None).train().loss(batch([[1], [2]]))


def test_one_row_cannot_be_trained_on() -> None:
    with pytest.raises(UserError, match="batch size"):
        decoder().train().loss(batch([[1]]))
