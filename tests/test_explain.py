"""What an answer comes from: against hand-worked values, and models that are known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmlabel
from mmlabel.explain import (
    ABSENT,
    CELLS,
    contributions,
    heat_map,
    shapley_of_two,
    words_of,
)
from mmlabel.predictor import Answered, Predictor
from mmlabel.training import train


def test_shapley_values_worked_by_hand():
    """The caption says it all, and the picture doubles what it says.

    Neither: 0. Picture alone: 0. Caption alone: 1. Both: 2. In the order picture, caption they add
    0 and 2; in the other order the caption adds 1 and the picture 1. The means are 0.5 and 1.5.
    """
    assert shapley_of_two(0.0, 0.0, 1.0, 2.0) == (0.5, 1.5)
    first, second = shapley_of_two(*np.array([[1.0, 0], [3, 0], [0, 5], [2, 5]]))
    assert first.tolist() == [2.0, 0.0] and second.tolist() == [-1.0, 5.0]


class Known:
    """A "network" whose logits follow from the mean brightness of the upper left quarter and from
    the words of the caption: label 0 sees both, label 1 their product."""

    looks_at_pictures = True

    def look(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.resize((80, 80), Image.Resampling.NEAREST)).transpose(2, 0, 1)[
            None
        ]

    def answers(self, seen, captions: list[str]) -> Answered:
        quarter = seen[:, 0, :40, :40].float().mean(dim=(1, 2)).numpy() - ABSENT[0]
        words = np.array([caption.split().count("dog") for caption in captions])
        logits = np.stack([quarter + words, quarter * words], axis=1)
        return Answered(logits, 1 / (1 + np.exp(-logits)), logits > 11)


PICTURE = Image.new("RGB", (100, 60), (134, 0, 0))


def test_halves_contribute_what_they_do():
    found = contributions(Known(), PICTURE, "dog and dog")
    assert found.neither.tolist() == [0, 0]
    assert found.picture.tolist() == [10, 10] and found.caption.tolist() == [2, 10]
    assert found.answered.tolist() == [True, True]
    alone = contributions(Known(), PICTURE, "")
    assert alone.picture.tolist() == [10, 0] and alone.caption.tolist() == [0, 0]
    assert alone.answered.tolist() == [False, False]
    absent = contributions(Known(), None, "dog")
    assert absent.picture.tolist() == [0, 0] and absent.caption.tolist() == [1, 0]


def test_the_heat_map_shows_what_is_looked_at():
    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[:80, :80] = 200
    heat = heat_map(Known(), Image.fromarray(pixels), "")
    assert heat.shape == (CELLS, CELLS, 2)
    # Covered with the mean, 50, a window of 4 of the quarter's 16 cells loses 150 * 4 / 16.
    assert heat[:3, :3, 0] == pytest.approx(np.full((3, 3), 37.5), abs=0.1)
    assert (heat[:4, :4, 0] > 15).all()
    assert heat[5:, :, 0] == pytest.approx(0) and heat[:, 5:, 0] == pytest.approx(0)


def test_each_word_counts_what_is_lost_without_it():
    effects = words_of(Known(), PICTURE, " a dog sees\na dog.")
    assert effects.tolist() == [[0, 0], [1, 10], [0, 0], [0, 0], [0, 0]]
    assert words_of(Known(), PICTURE, "").shape == (0, 2)


@pytest.mark.parametrize(
    "model",
    [
        "fusion",
        "caption_only",
        pytest.param("image_only", marks=pytest.mark.slow),
        pytest.param("decoder", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_model_is_served(model: str, settings_of, made: Path, tmp_path: Path):
    options = [f"model={model}", "data=usyd", f"data.root={made}", "trainer.max_epochs=1"]
    train(settings_of(*options), tmp_path)
    predictor: Predictor = mmlabel.load(tmp_path / "best.ckpt")
    with Image.open(made / "data" / "4.jpg") as picture:
        picture.load()
    found = contributions(predictor, picture, "a cat on a bench")
    answer = predictor.predict(picture, "a cat on a bench").probabilities
    total = 1 / (1 + np.exp(-sum(found[:3])))
    assert total == pytest.approx(list(answer.values()), abs=1e-5)
    assert found.picture.any() == predictor.looks_at_pictures
    assert found.caption.any() == predictor.looks_at_captions
    assert words_of(predictor, picture, "a cat on a bench").any() == predictor.looks_at_captions
    heat = heat_map(predictor, picture, "a cat on a bench")
    assert heat.any() == predictor.looks_at_pictures
