"""Labels as a sequence: a CNN encodes the picture, an LSTM names its labels one after another."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlabel.criterion import Criterion, terms_of_a_process
from mmlabel.data.batches import Batch
from mmlabel.errors import UserError
from mmlabel.models.encoder import Encoder, own_losses
from mmlabel.models.fusion import fused_features

Order = Literal["frequent_first", "rare_first", "as_given", "random"]


class Hypotheses(NamedTuple):
    """What a beam search found for B rows, best hypothesis first."""

    sets: Tensor  # (B, W, num_labels) bool: the labels of each hypothesis
    log_prob: Tensor  # (B, W) log-probability of each set; -inf where there are fewer than W sets
    score: Tensor  # (B, W) log_prob / length ** length_penalty, descending
    marginals: Tensor  # (B, num_labels) probability that the answer holds the label, 0..1


class LabelDecoder(nn.Module):
    """CNN encoder and RNN decoder (report section 4.5.2; Wang et al. 2016, "CNN-RNN").

    A row's labels become a sequence between a start and an end token: of 20 labels, `[1, 3]` is
    read as `[20, 1, 3]` and must be answered with `[1, 3, 21]`. Start (`num_labels`), end
    (`num_labels + 1`) and padding (`num_labels + 2`) are three different tokens; only labels and
    the end can be predicted, and no label twice, in training as in decoding. At every step the
    LSTM sees the embedding of the previous label beside the encoded picture (and caption).

    Args:
        encoders: "image", called with `batch.image`, and optionally "caption", called with
            `batch.tokens, batch.lengths`; each returns (B, out_features) and tells `out_features`.
        num_labels: label numbers run from 0 to num_labels - 1.
        label_frequency: how often each label occurs in the training rows. Training in an order by
            frequency needs it; the ranks that follow from it are kept in checkpoints.
        given_order: (N, num_labels), row by row of the training split: the position of each label
            in the data file's list; what stands at labels the row does not have is not read.
            Training with `order="as_given"` needs it; it is not kept in checkpoints.
        order: the order in which a row's labels are to be named. "random" draws a new one at every
            step. Outside training "as_given" and "random" use ascending label numbers, so that a
            validation loss is comparable from epoch to epoch.
        embedding_dim: width of a label's embedding.
        hidden: width of the LSTM, and of what the encoders' features are projected to.
        layers: LSTM layers.
        dropout: on the projected features and on the LSTM's output, 0..1.
        beam_width: hypotheses kept while decoding; 1 is greedy decoding.
        length_penalty: a hypothesis of n tokens, its end included, scores
            log p / n ** length_penalty: 0 compares plain probabilities, 1 means per token, which
            favours more labels.
        max_labels: the most labels an answer may have; None for no limit.

    Raises ValueError from `loss` in training for an order whose data is missing.
    """

    rank: Tensor
    given_order: Tensor | None

    def __init__(
        self,
        *,
        encoders: Mapping[str, Encoder],
        num_labels: int,
        label_frequency: Sequence[float] | np.ndarray | None = None,
        given_order: Tensor | None = None,
        order: Order = "rare_first",
        embedding_dim: int = 64,
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.5,
        beam_width: int = 5,
        length_penalty: float = 0.5,
        max_labels: int | None = None,
    ) -> None:
        super().__init__()
        if "image" not in encoders or not set(encoders) <= {"image", "caption"}:
            raise ValueError(f'encoders for "image" and perhaps "caption", not {tuple(encoders)}')
        self.encoders = nn.ModuleDict(encoders)
        self.num_labels = num_labels
        self.start, self.end, self.padding = num_labels, num_labels + 1, num_labels + 2
        self.order: Order = order
        self.counted = label_frequency is not None
        self.beam_width = beam_width
        self.length_penalty = length_penalty
        self.max_labels = num_labels if max_labels is None else min(max_labels, num_labels)
        self.register_buffer("rank", torch.arange(num_labels))
        self.count_labels(label_frequency)
        self.register_buffer("given_order", given_order, persistent=False)

        features = fused_features(encoders)
        self.project = nn.Sequential(
            nn.BatchNorm1d(features),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Dropout(dropout),
        )
        self.embedding = nn.Embedding(num_labels + 3, embedding_dim, padding_idx=self.padding)
        self.lstm = nn.LSTM(
            embedding_dim + hidden,
            hidden,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, num_labels + 1))

    def count_labels(self, frequency: Sequence[float] | np.ndarray | None) -> None:
        """Order the labels by how often each occurs in training, where that is their order."""
        self.rank.copy_(label_rank(self.order, self.num_labels, frequency))

    def forward(self, batch: Batch) -> Tensor:
        """The answer and its probabilities, as logits (B, num_labels) without a gradient.

        The answer is the best hypothesis of the beam. With p the marginal probability of a label
        (`Hypotheses.marginals`), sigmoid(logit) is 0.5 + p / 2 for a label of the answer and p / 2
        for any other: at threshold 0.5 the answer comes out exactly, and within either group the
        labels rank by p, which is what mean average precision reads. `mmlabel.marginals` gives
        p back.
        """
        return self._answer(self.encode(batch))

    def loss(self, batch: Batch, criterion: Criterion | None = None) -> Tensor:
        """Cross-entropy of the right sequence, mean over all tokens that are not padding.

        Teacher forcing: each step is given the true previous label, never the predicted one.
        Labels that are not `batch.known` are no choice: the probabilities are those of the others.
        `criterion`, a loss on independent labels, is only asked for what encoders learn beside.
        """
        loss = self._cross_entropy(self.encode(batch), batch)
        if criterion is None:
            return loss
        return loss + own_losses(self.encoders, criterion, batch.targets, batch.known)

    def evaluate(self, batch: Batch, criterion: Criterion | None = None) -> tuple[Tensor, Tensor]:
        """`forward` and `loss` at once, for one pass through the encoders."""
        context = self.encode(batch)
        return self._answer(context), self._cross_entropy(context, batch)

    def terms(self, batch: Batch) -> Tensor:
        """(B,) how many tokens of each row the loss is the mean of: its labels and the end."""
        return (self._present(batch) > 0.5).sum(dim=1) + 1

    def encode(self, batch: Batch) -> Tensor:
        """What every step of the decoder sees of the picture and the caption, (B, hidden)."""
        if self.training and len(batch.rows) == 1:
            raise UserError(
                "a training batch of one row has no batch statistics: choose a batch size of at "
                "least 2 that does not leave one row over"
            )
        features = [self.encoders["image"](batch.image)]
        if "caption" in self.encoders:
            features.append(self.encoders["caption"](batch.tokens, batch.lengths))
        return self.project(torch.cat(features, dim=1))

    def step(
        self,
        context: Tensor,
        inputs: Tensor,
        named: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits (B, T, num_labels + 1), the end last, after T tokens (B, T); and the LSTM's state.

        `context` is (B, hidden); `named` (B, T, num_labels) marks the labels that stand in the
        sequence already, whose logits become -inf.
        """
        pictures = context[:, None].expand(-1, inputs.shape[1], -1)
        hidden, after = self.lstm(torch.cat([self.embedding(inputs), pictures], dim=2), state)
        return self.output(hidden).masked_fill(F.pad(named, (0, 1)), -torch.inf), after

    @torch.no_grad()
    def search(self, context: Tensor, width: int | None = None) -> Hypotheses:
        """Beam search for the best label sets of pictures encoded as `context` (B, hidden).

        Every step extends each open hypothesis by every label it has not named and by the end, lets
        the finished ones stand, and keeps the `width` (default: `beam_width`) best scores. So width
        1 is greedy decoding, and a width of all sequences an exhaustive search. Hypotheses that
        name the same labels in different orders are one answer: their probabilities are added.

        The marginal of a label sums p(prefix) * p(label | prefix) over the prefixes that the search
        extended. A label is named once at most, so these are disjoint events: the sum is the share
        of probability on answers with the label, exact in an exhaustive search and otherwise short
        only of the prefixes that left the beam. Unlike a count over the final hypotheses it also
        ranks the labels that none of them holds.
        """
        width, labels = width or self.beam_width, self.num_labels
        rows = len(context)
        context = context.repeat_interleave(width, dim=0)  # (B * W, hidden)
        first_slot = torch.arange(rows, device=context.device)[:, None] * width  # (B, 1)
        tokens = torch.full((rows, width), self.start, device=context.device)
        named = torch.zeros(rows, width, labels, dtype=torch.bool, device=context.device)
        finished = torch.zeros_like(tokens, dtype=torch.bool)
        length = torch.zeros_like(tokens)
        # Only one slot is open at first: equal hypotheses would fill the beam with copies.
        log_prob = torch.full((rows, width), -torch.inf, device=context.device)
        log_prob[:, 0] = 0.0
        marginals = torch.zeros(rows, labels, device=context.device)
        stand = torch.full((labels + 1,), -torch.inf, device=context.device)
        stand[labels] = 0.0
        state = None

        for count in range(self.max_labels + 1):
            closed = named if count < self.max_labels else torch.ones_like(named)
            logits, (h, c) = self.step(
                context, tokens.view(-1, 1), closed.view(-1, 1, labels), state
            )
            step = logits.float().log_softmax(-1).view(rows, width, labels + 1)
            log_probs = log_prob[..., None] + torch.where(finished[..., None], stand, step)
            marginals += log_probs[..., :labels].exp().sum(1)
            length = torch.where(finished, length, count + 1)  # (B, W)
            score = log_probs / length[..., None] ** self.length_penalty
            kept = score.flatten(1).topk(width).indices  # (B, W)
            log_prob = log_probs.flatten(1).gather(1, kept)
            parent, chosen = kept // (labels + 1), kept % (labels + 1)
            length = length.gather(1, parent)
            named = named.gather(1, parent[..., None].expand(-1, -1, labels))
            named = named | F.one_hot(chosen, labels + 1)[..., :labels].bool()
            finished = chosen == labels
            if (finished | log_prob.isinf()).all():
                break
            tokens = chosen  # for finished hypotheses too, which no token can change any more
            slots = (first_slot + parent).flatten()
            state = h[:, slots], c[:, slots]

        return self._merge(named, log_prob, length, marginals)

    def _merge(
        self, sets: Tensor, log_prob: Tensor, length: Tensor, marginals: Tensor
    ) -> Hypotheses:
        """Adds the probabilities of equal sets, at the first of them, and sorts by score."""
        same = (sets[:, :, None] == sets[:, None]).all(-1)  # (B, W, W)
        log_prob = torch.where(same, log_prob[:, None], -torch.inf).logsumexp(-1)
        log_prob = log_prob.masked_fill(same.tril(-1).any(-1), -torch.inf)
        score = log_prob / length**self.length_penalty
        best = score.argsort(dim=1, descending=True)
        return Hypotheses(
            sets.gather(1, best[..., None].expand(-1, -1, self.num_labels)),
            log_prob.gather(1, best),
            score.gather(1, best),
            marginals.clamp(max=1.0),
        )

    def _answer(self, context: Tensor) -> Tensor:
        found = self.search(context)
        # Clamped, a probability stays apart from 0, 0.5 and 1 in single precision.
        probability = (found.marginals.clamp(1e-4, 1 - 1e-4) + found.sets[:, 0]) / 2
        return torch.logit(probability)  # (B, num_labels)

    def _cross_entropy(self, context: Tensor, batch: Batch) -> Tensor:
        inputs, targets = label_sequences(self._present(batch), self._rank_of(batch))
        named = F.one_hot(inputs, self.num_labels + 3)[..., : self.num_labels].cumsum(1) > 0
        if batch.known is not None:
            named = named | ~batch.known[:, None]  # (B, T, num_labels)
        logits, _ = self.step(context, inputs, named)  # (B, T, num_labels + 1)
        # Start is never predicted, so the classes skip its number: the end's class is num_labels.
        classes = targets - (targets > self.num_labels).long()
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), classes.flatten(), ignore_index=self.padding - 1
        )
        tokens = self.terms(batch).sum()
        return loss * (tokens / terms_of_a_process(tokens, self.training))

    def _present(self, batch: Batch) -> Tensor:
        """The targets (B, num_labels), 0 where they are not known."""
        if batch.known is None:
            return batch.targets
        return batch.targets.masked_fill(~batch.known, 0.0)

    def _rank_of(self, batch: Batch) -> Tensor:
        """The rank of each label, (num_labels,) or (B, num_labels): labels are named by rank."""
        if not self.training:
            return self.rank
        if self.order == "random":
            return torch.rand_like(batch.targets)
        if self.order == "as_given":
            if self.given_order is None:
                raise ValueError('order "as_given" needs `given_order` to train')
            return self.given_order[batch.rows]
        if not self.counted:
            raise ValueError(f'order "{self.order}" needs `label_frequency` to train')
        return self.rank


def label_rank(
    order: Order, num_labels: int, frequency: Sequence[float] | np.ndarray | None
) -> Tensor:
    """The rank (num_labels,) of each label: by frequency, ties by number; else by number."""
    if order not in ("frequent_first", "rare_first") or frequency is None:
        return torch.arange(num_labels)
    counts = torch.as_tensor(frequency, dtype=torch.float64)
    return counts.argsort(descending=order == "frequent_first", stable=True).argsort()


def label_sequences(targets: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """What the decoder reads and what it must answer, (B, T) each, T - 1 the most labels of a row.

    `targets` is (B, num_labels) multi-hot, `rank` (num_labels,) or (B, num_labels). Of 20 labels,
    with rank by number, a row of labels 1 and 3 beside one of three labels gives
    `[20, 1, 3, 22]` and `[1, 3, 21, 22]`; a row without labels `[20, 22, ...]` and `[21, 22, ...]`.
    """
    num_labels = targets.shape[1]
    present = targets > 0.5
    labels = torch.where(present, rank.double(), torch.inf).argsort(dim=1, stable=True)
    counts = present.sum(1, keepdim=True)  # (B, 1)
    steps = int(counts.max()) + 1
    # One column more than labels, so that a row with every label has room for its end.
    labels = F.pad(labels, (0, 1))[:, :steps]  # (B, T)
    position = torch.arange(steps, device=targets.device)
    padded = labels.masked_fill(position >= counts, num_labels + 2)
    outputs = torch.where(position == counts, num_labels + 1, padded)
    inputs = F.pad(padded[:, :-1], (1, 0), value=num_labels)
    return inputs, outputs
