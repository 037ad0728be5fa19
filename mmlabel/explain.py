"""What a model's answer to one picture and caption comes from: halves, places and words, in logits.

Nothing but the model's answers is used, so that every kind of model is served. A picture that is
absent is one of a single colour, ImageNet's mean, and an absent caption has no words. Effects are
differences of logits: their signs say for or against a label, whatever its threshold.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from mmlabel.predictor import Answered, Predictor, join

ABSENT = (124, 116, 104)  # the colour of a picture that is not there
CELLS = 8  # of a heat map, along each side
MOST_WORDS = 64  # of a caption that are left out in turn
_SIDE = 512  # px, to which a larger picture is brought before parts of it are covered

Values = TypeVar("Values", float, np.ndarray)


class Contributions(NamedTuple):
    """Three times (L,) logits: neither + picture + caption is the answer to both."""

    neither: np.ndarray
    picture: np.ndarray
    caption: np.ndarray
    answered: np.ndarray  # (L,) bool: the labels of the answer to both


def shapley_of_two(
    neither: Values, first: Values, second: Values, both: Values
) -> tuple[Values, Values]:
    """The Shapley values of two players, from what each of their four coalitions gets.

    Each player's is the mean of what it adds to nobody and to the other one; the two sum to
    both - neither (Shapley 1953).

    >>> shapley_of_two(-2.0, 1.0, -1.0, 4.0)
    (4.0, 2.0)
    """
    return (
        ((first - neither) + (both - second)) / 2,
        ((second - neither) + (both - first)) / 2,
    )


def contributions(predictor: Predictor, picture: Image.Image | None, caption: str) -> Contributions:
    """What picture and caption contribute to the logits of each label: their Shapley values.

    Args:
        predictor: whose answer it is.
        picture: in RGB; None is an absent one, and contributes nothing.
        caption: "" is an absent one.
    """
    seen = picture or _absent((64, 64))
    pictures = [_absent(seen.size), seen, _absent(seen.size), seen]
    found = _answers(predictor, pictures, ["", "", caption, caption])
    neither, first, second, both = found.logits
    return Contributions(
        neither, *shapley_of_two(neither, first, second, both), answered=found.labels[-1]
    )


def heat_map(predictor: Predictor, picture: Image.Image, caption: str) -> np.ndarray:
    """Where in the picture the evidence is: (CELLS, CELLS, L), rows from top to bottom.

    A window of two by two cells is covered with the picture's mean colour, everywhere in turn; a
    cell's value is the mean, over the windows that hold it, of what a label's logit loses by that
    (Zeiler and Fergus 2014, section 4.2). Cells outside of what the network looks at have 0.
    """
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    places = [(row, column) for row in range(CELLS - 1) for column in range(CELLS - 1)]
    pictures = [small, *_covered(small, places)]
    logits = _answers(predictor, pictures, [caption] * len(pictures)).logits
    total = np.zeros((CELLS, CELLS, logits.shape[1]), np.float32)
    count = np.zeros((CELLS, CELLS, 1), np.float32)
    for (row, column), covered in zip(places, logits[1:], strict=True):
        window = np.s_[row : row + 2, column : column + 2]
        total[window] += logits[0] - covered
        count[window] += 1
    return total / count


def words_of(predictor: Predictor, picture: Image.Image | None, caption: str) -> np.ndarray:
    """What each label's logit loses when one word is left out: (W, L), W the words of the caption.

    Words are what spaces separate; of a longer caption the first MOST_WORDS.
    """
    words = caption.split()
    without = [" ".join(words[:at] + words[at + 1 :]) for at in range(len(words[:MOST_WORDS]))]
    pictures = [picture or _absent((64, 64))] * (len(without) + 1)
    logits = _answers(predictor, pictures, [" ".join(words), *without]).logits
    return logits[0] - logits[1:]


def _absent(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, ABSENT)


def _covered(picture: Image.Image, places: list[tuple[int, int]]) -> Iterator[Image.Image]:
    pixels = np.asarray(picture)
    mean = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    rows, columns = (
        np.linspace(0, side, CELLS + 1).round().astype(int) for side in pixels.shape[:2]
    )
    for row, column in places:
        covered = pixels.copy()
        covered[rows[row] : rows[row + 2], columns[column] : columns[column + 2]] = mean
        yield Image.fromarray(covered)


def _answers(predictor: Predictor, pictures: list[Image.Image], captions: list[str]) -> Answered:
    """To as many pictures as captions, of which the model looks at what it looks at."""
    seen = None
    if predictor.looks_at_pictures:
        # The same picture is made ready once.
        looks = {id(picture): predictor.look(picture) for picture in pictures}
        seen = join([looks[id(picture)] for picture in pictures])
    return predictor.answers(seen, captions)
