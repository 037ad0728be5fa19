"""Words that are read as the known word they are spelt most like."""

import random
import string
from pathlib import Path

import numpy as np
import pytest

from mmlabel.data.captions import Vocabulary, encode, encode_texts, tokenise
from mmlabel.data.spelling import ALIKE, Spellings, pieces

KNOWN = ["a", "dog", "skateboard", "skater", "motorcycle", "bike", "ride", "elephant"]


def likeness(first: str, second: str) -> float:
    one, other = pieces(first), pieces(second)
    return 2 * len(one & other) / max(1, len(one) + len(other))


def test_likeness_by_hand():
    assert pieces("bike") == {"<bi", "bik", "ike", "ke>"}
    # <bi bik ike ke> and <bi bik ike ker ers rs>: three in common
    assert likeness("bike", "bikers") == 2 * 3 / (4 + 6) == ALIKE
    assert likeness("dog", "dog") == 1 and likeness("dog", "cat") == 0
    assert likeness("", "a") == 0 and pieces("") == set()


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("skatebord", "skateboard"),
        ("skateboarding", "skateboard"),
        ("motorcyle", "motorcycle"),
        ("bikers", "bike"),
        ("elephent", "elephant"),
        ("dgo", None),
        ("giraffe", None),
        ("", None),
        ("dog", "dog"),
    ],
)
def test_typing_mistakes_and_derived_words(word: str, known: str | None):
    found = Spellings(KNOWN).most_like(word)
    assert (None if found is None else KNOWN[found]) == known


def test_the_index_finds_what_comparing_all_words_does():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcd", k=rng.randint(1, 9))) for _ in range(300)]
    spellings = Spellings(words)
    for _ in range(300):
        word = "".join(rng.choices(string.ascii_lowercase[:5], k=rng.randint(0, 9)))
        scores = [likeness(word, known) for known in words]
        best = int(np.argmax(scores))  # the first of the best
        assert spellings.most_like(word) == (best if scores[best] >= ALIKE else None)


def test_a_caption_is_numbered_alike_in_training_and_after(shared: Path, tmp_path, monkeypatch):
    """Spellings decide, not lemmas, of which several may be one word that training has not met."""
    monkeypatch.setenv("NLTK_DATA", str(shared / "nltk_data"))
    texts = ["two dogs riding skateboards", "a motorcycle", "motorcyles with ocelots", "an ocelot"]
    texts += ["skatebords skateboarders ride", "two motorcyclists", "xqzw"]
    tokenised = tokenise(texts, lemmas="wordnet", cache_dir=tmp_path, on_missing="error")
    again = tokenise(texts, lemmas="wordnet", cache_dir=tmp_path, on_missing="error")
    vocabulary = Vocabulary.build(tokenised, np.array([0, 1]), similar=True)
    encoded = encode(tokenised, vocabulary, max_length=3)
    assert encode(again, vocabulary, max_length=3).ids.tolist() == encoded.ids.tolist()
    fresh = encode_texts(texts, vocabulary, max_length=3)
    assert fresh.ids.tolist() == encoded.ids.tolist()
    restored = Vocabulary(vocabulary.words, vocabulary.forms, similar=True)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    assert encode_texts(texts, restored, max_length=3).ids.tolist() == encoded.ids.tolist()
    words = [vocabulary.words[number] for number in encoded.ids]
    assert (
        words
        == (
            "two dog riding a motorcycle motorcycle <unk> <unk> <unk> <unk>"
            " skateboard skateboard <unk> two motorcycle <unk>"
        ).split()
    )
    plain = Vocabulary(vocabulary.words, vocabulary.forms)
    assert (encode(tokenised, plain).ids == 1).sum() > (
        encode(tokenised, vocabulary).ids == 1
    ).sum()
