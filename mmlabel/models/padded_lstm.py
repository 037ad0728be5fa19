"""nn.LSTM over sequences of different lengths by torch's fused kernel for a CPU.

The kernel takes no packed sequences, and a padded batch has the backward direction begin with the
padding. So each direction of each layer runs on its own here, from left to right, the backward one
on sequences that are reversed within their own length: padding then stands behind what is read.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


def run_padded(lstm: nn.LSTM, inputs: Tensor, lengths: Tensor) -> list[Tensor]:
    """The last layer's outputs of `lstm`, one tensor (B, T, H) for each direction.

    Step t of the forward direction has read words 0..t; step t of the backward one the last t + 1
    words, last word first. So both end at step `length - 1`, and max over the steps before is max
    over the words. Equal to `lstm` on packed sequences, dropout between layers included, if the
    random state is the same.

    Args:
        lstm: with `batch_first`, with or without `bidirectional`.
        inputs: (B, T, D) padded on the right; what stands in the padding is of no effect.
        lengths: (B,) int64, 1..T.
    """
    reverse = _Reversal(lengths, inputs.shape[1])
    forward, backward = inputs, reverse(inputs) if lstm.bidirectional else inputs
    outputs: list[Tensor] = []
    for layer in range(lstm.num_layers):
        if layer and lstm.bidirectional:
            ahead, behind = outputs
            forward = torch.cat([ahead, reverse(behind)], dim=2)  # (B, T, 2H)
            forward = _drop(forward, lengths, lstm)
            backward = reverse(forward)
        elif layer:
            forward = _drop(outputs[0], lengths, lstm)
        outputs = [_run_direction(lstm, forward, f"_l{layer}")]
        if lstm.bidirectional:
            outputs.append(_run_direction(lstm, backward, f"_l{layer}_reverse"))
    return outputs


def at_their_words(outputs: list[Tensor], lengths: Tensor) -> Tensor:
    """What `run_padded` gave, (B, T, H) or (B, T, 2H) with each step at the word it has read."""
    if len(outputs) == 1:
        return outputs[0]
    ahead, behind = outputs
    return torch.cat([ahead, _Reversal(lengths, ahead.shape[1])(behind)], dim=2)


def _run_direction(lstm: nn.LSTM, inputs: Tensor, suffix: str) -> Tensor:
    """The outputs (B, T, H) of one direction of one layer, whose parameters end in `suffix`."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    parameters = [getattr(lstm, name + suffix) for name in names]
    zero = inputs.new_zeros(1, inputs.shape[0], lstm.hidden_size)
    options = {"dropout": 0.0, "train": lstm.training, "bidirectional": False, "batch_first": True}
    return torch.lstm(inputs, (zero, zero), parameters, has_biases=True, num_layers=1, **options)[0]


class _Reversal:
    """Turns sequences (B, T, D) around, each within its own length (B,)."""

    def __init__(self, lengths: Tensor, steps: int) -> None:
        time = torch.arange(steps)
        turned = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)  # (B, T)
        self.source = (turned + torch.arange(lengths.shape[0])[:, None] * steps).flatten()

    def __call__(self, sequences: Tensor) -> Tensor:
        return sequences.flatten(0, 1).index_select(0, self.source).view_as(sequences)


def _drop(sequences: Tensor, lengths: Tensor, lstm: nn.LSTM) -> Tensor:
    """The LSTM's dropout on the way from one layer (B, T, D) to the next."""
    if not (lstm.dropout and lstm.training):
        return sequences
    rows, steps, width = sequences.shape
    # Drawn for the words alone, in the order in which a packed sequence holds them: the same
    # random numbers for the same words as there.
    where = torch.arange(rows * steps).view(rows, steps)
    order = pack_padded_sequence(where, lengths, batch_first=True, enforce_sorted=False).data
    kept = F.dropout(sequences.new_ones(len(order), width), lstm.dropout)
    mask = sequences.new_zeros(rows * steps, width).index_copy(0, order, kept)
    return sequences * mask.view_as(sequences)
