"""What a detector finds, and what is asked of the libraries that run one."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

RANDOM_SEED = 0
# The usual number of boxes would leave out a label's weak box in a picture with a crowd of another.
MOST_BOXES = 1000


class Boxes(NamedTuple):
    """What a detector finds in one picture, K boxes of the data set's labels."""

    corners: np.ndarray  # (K, 4) float32: left, top, right, bottom in pixels of the picture
    confidence: np.ndarray  # (K,) float32
    labels: np.ndarray  # (K,) int64 label numbers


class Network(Protocol):
    """A loaded detector, whose boxes have its own class numbers.

    It looks at one picture at a time: both libraries pad pictures of several shapes to a common
    one, which changes what is found.
    """

    class_names: Mapping[int, str]
    parameters: int

    def find(self, pictures: Sequence["Image"], classes: list[int]) -> list[Boxes]:
        """The boxes of these classes in RGB pictures of any sizes."""
        ...


def best_confidences(boxes: Sequence[Boxes], *, num_labels: int) -> np.ndarray:
    """(N, num_labels) float32: for each picture and label the highest confidence, 0 for no box."""
    scores = np.zeros((len(boxes), num_labels), np.float32)
    for row, found in zip(scores, boxes, strict=True):
        np.maximum.at(row, found.labels, found.confidence)
    return scores


def count_parameters(network: "nn.Module") -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())
