"""What one training step sees."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B captioned pictures of one split.

    `lengths` stays on the CPU, where packing a sequence needs it: moving it to a GPU and back would
    stall the GPU at every step.
    """

    image: Tensor | None  # (B, 3, S, S) uint8 pictures, or (B, F) features of a frozen backbone
    tokens: Tensor  # (B, T) int64; 0 is padding, 1 an unknown word
    lengths: Tensor  # (B,) int64 number of tokens; 0 for an empty caption
    targets: Tensor  # (B, num_labels) float32, 0 or 1
    rows: Tensor  # (B,) int64 position of each row within its split
    ids: list[str]  # image ids as the data set names them
    known: Tensor | None = None  # (B, num_labels) bool: False leaves a target out; None: all known
