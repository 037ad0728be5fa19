"""Captions to word numbers: worked by hand, against a slow loop, and on disk."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmlabel.data import captions
from mmlabel.data.captions import TokenisedCaptions, Vocabulary, encode, encode_texts, tokenise
from mmlabel.errors import UserError

CAPTIONS = [
    'A man\'s DOG, on the "black-and-white" couch.',
    "",
    "Two dogs\nrun; two\tmen watch!\n",
    "?!",
    "He cannot see a bus\u2026 it\u2019s a \u201ctruck\u201d",
]
WORDS = [
    "a mans dog on the black and white couch".split(),
    [],
    "two dogs run two men watch".split(),
    [],
    "he can not see a bus its a truck".split(),
]
OFFLINE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}


def spelt(texts: list[str], cache_dir: Path) -> TokenisedCaptions:
    return tokenise(texts, lemmas="none", cache_dir=cache_dir, on_missing="error")


def made_of(*texts: str, forms: dict[str, str] | None = None) -> TokenisedCaptions:
    """Captions whose words stand between spaces."""
    words = [text.split() for text in texts]
    distinct = sorted(set().union(*words))
    return TokenisedCaptions(
        words=distinct,
        ids=np.array([distinct.index(w) for line in words for w in line], dtype=np.int32),
        offsets=np.cumsum([0] + [len(line) for line in words]),
        forms=forms,
    )


def in_new_process(code: str, **env: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_captions_are_split_into_words(tmp_path: Path) -> None:
    tokenised = spelt(CAPTIONS, tmp_path)
    assert len(tokenised) == 5
    assert tokenised.word_lists(np.arange(5)) == WORDS
    assert tokenised.word_lists(np.array([4, 2])) == [WORDS[4], WORDS[2]]
    assert len(set(tokenised.words)) == len(tokenised.words)
    assert tokenised.ids.dtype == np.int32
    assert tokenised.forms is None and tokenised.note is None


def test_no_character_of_a_caption_can_break_what_is_kept(tmp_path: Path) -> None:
    texts = ["a\x00b\x85c\u2028d\u200be", "caf\u00e9 \U0001f436 na\u00efve_dog", "\ud800x"]
    first = spelt(texts, tmp_path)
    assert first.word_lists(np.arange(3)) == [
        list("abcde"),
        ["caf\u00e9", "na\u00efve", "dog"],
        ["x"],
    ]
    assert spelt(texts, tmp_path).word_lists(np.arange(3)) == first.word_lists(np.arange(3))


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_captions_without_words(texts: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        tokenised = spelt(texts, tmp_path)
        assert tokenised.words == [] and len(tokenised) == len(texts)
        tokens, lengths = encode(tokenised, Vocabulary.build(tokenised, np.arange(len(texts))))
        assert tokens.shape == (len(texts), 1) and not tokens.any() and not lengths.any()


def test_lemmas_are_wordnets(shared: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from mmlabel.data.captions import tokenise\n"
        "texts = ['Two BUSES, two\\nbus', 'children; a man\\'s geese', 'the xyzzys']\n"
        f"t = tokenise(texts, lemmas='wordnet', cache_dir=Path({str(tmp_path)!r}),"
        " on_missing='error')\n"
        "print(t.word_lists(np.arange(3)), t.words, t.forms['buses'], t.forms['bus'], t.note,"
        " 'nltk' in sys.modules)"
    )
    words = "[['two', 'bus', 'two', 'bus'], ['child', 'a', 'man', 'goose'], ['the', 'xyzzys']]"
    distinct = "['two', 'bus', 'child', 'a', 'man', 'goose', 'the', 'xyzzys']"
    nltk_data = str(shared / "nltk_data")
    expected = f"{words} {distinct} bus bus None"
    assert in_new_process(code, NLTK_DATA=nltk_data) == f"{expected} True"
    # The second start reads the same from disk, even without WordNet, and imports no NLTK.
    assert in_new_process(code, NLTK_DATA="", HOME=str(tmp_path), **OFFLINE) == f"{expected} False"


def test_what_is_kept_is_never_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "_wordnet_problem", lambda nltk_data: "is absent")
    assert spelt(["a dog"], tmp_path).words == ["a", "dog"]
    assert spelt(["a cat"], tmp_path).words == ["a", "cat"]
    assert spelt(["a", "dog"], tmp_path).word_lists(np.arange(2)) == [["a"], ["dog"]]
    # "none" is on disk, but "wordnet" is another question.
    with pytest.raises(UserError, match="WordNet"):
        tokenise(["a dog"], lemmas="wordnet", cache_dir=tmp_path, on_missing="error")


def test_going_without_wordnet_is_said_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "_wordnet_problem", lambda nltk_data: "is absent")
    for _ in range(2):
        tokenised = tokenise(
            ["two dogs"], lemmas="wordnet", cache_dir=tmp_path, on_missing="continue"
        )
        assert tokenised.words == ["two", "dogs"]
        assert tokenised.forms is None
        assert "2 words were not lemmatised: WordNet is absent" in tokenised.note
    assert not list(tmp_path.rglob("*.npz"))


def test_missing_wordnet_is_one_message_with_ways_out(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from mmlabel.data.captions import tokenise, UserError\n"
        "try:\n"
        f"    tokenise(['dogs'], lemmas='wordnet', cache_dir=Path({str(tmp_path)!r}),"
        " on_missing='error')\n"
        "except UserError as error:\n"
        "    print(error)"
    )
    absent = in_new_process(code, NLTK_DATA=str(tmp_path / "no"), HOME=str(tmp_path), **OFFLINE)
    for part in [
        f"NLTK_DATA={tmp_path / 'no'}",
        "downloaded",
        "corpora/wordnet.zip",
        "lemmas=none",
    ]:
        assert part in absent
    assert "\n" not in absent
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "wordnet.zip").write_bytes(b"PK\x03\x04 torn")
    torn = in_new_process(code, NLTK_DATA=str(tmp_path), HOME=str(tmp_path), **OFFLINE)
    assert "WordNet" in torn and "lemmas=none" in torn


def test_a_misspelt_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='lemmas=wordnets; did you mean "wordnet"'):
        tokenise(["a"], lemmas="wordnets", cache_dir=tmp_path, on_missing="error")


def test_vocabulary_comes_from_the_given_rows_alone() -> None:
    tokenised = made_of("b a b", "secret", "c a", "secret a b")
    vocabulary = Vocabulary.build(tokenised, np.array([0, 2]))
    # Twice each: a and b, by the alphabet; once: c.
    assert vocabulary.words == ["<pad>", "<unk>", "a", "b", "c"]
    assert len(vocabulary) == 5
    assert Vocabulary.build(tokenised, np.array([0, 2]), min_count=2).words[2:] == ["a", "b"]
    tokens, lengths = encode(tokenised, vocabulary)
    assert tokens.tolist() == [[3, 2, 3], [1, 0, 0], [4, 2, 0], [1, 2, 3]]
    assert lengths.tolist() == [3, 1, 2, 3]


def test_vocabulary_is_restored_from_plain_values() -> None:
    vocabulary = Vocabulary.build(made_of("a b"), np.array([0]))
    again = Vocabulary(list(vocabulary.words), vocabulary.forms)
    assert again.fingerprint == vocabulary.fingerprint
    assert Vocabulary(["<pad>", "<unk>", "b", "a"]).fingerprint != vocabulary.fingerprint
    with pytest.raises(ValueError, match="begins with"):
        Vocabulary(["a", "b"])


@pytest.mark.parametrize("max_length", [None, 1, 4, 50])
def test_encode_is_the_slow_loop(max_length: int | None) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(0, 9))) for _ in range(60)]
    texts[0] = texts[59] = ""
    tokenised = made_of(*texts)
    vocabulary = Vocabulary(["<pad>", "<unk>", *"hbda"])
    width = max_length or max(len(text.split()) for text in texts)
    expected, expected_lengths = np.zeros((60, width), dtype=np.int64), np.zeros(60, dtype=np.int64)
    for row, text in enumerate(texts):
        for column, word in enumerate(text.split()[:width]):
            known = word in vocabulary.words
            expected[row, column] = vocabulary.words.index(word) if known else 1
            expected_lengths[row] += 1
    tokens, lengths = encode(tokenised, vocabulary, max_length=max_length)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(lengths, expected_lengths)
    assert tokens.dtype == lengths.dtype == np.int64


def test_fresh_captions_are_encoded_like_the_training_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "_wordnet_problem", lambda nltk_data: "is absent")
    forms = {"dog": "dog", "dogs": "dog", "two": "two", "cats": "cat", "cat": "cat"}
    tokenised = made_of("two dog", "cat", forms=forms)
    vocabulary = Vocabulary.build(tokenised, np.array([0]))
    assert vocabulary.forms == {"dog": "dog", "dogs": "dog", "two": "two"}
    dog, two = vocabulary.index["dog"], vocabulary.index["two"]
    # Spellings of the training captions need no WordNet and give no note.
    tokens, lengths, note = encode_texts(["TWO dogs.", ""], vocabulary)
    assert tokens.tolist() == [[two, dog], [0, 0]] and lengths.tolist() == [2, 0] and note is None
    # Others do.
    tokens, _, note = encode_texts(["two cats"], vocabulary, max_length=3)
    assert tokens.tolist() == [[two, 1, 0]] and "1 words were not lemmatised" in note
    with pytest.raises(UserError, match="WordNet"):
        encode_texts(["two cats"], vocabulary, on_missing="error")
    # A vocabulary of words that were never lemmatised never asks.
    plain = Vocabulary(["<pad>", "<unk>", "dogs"])
    tokens, _, note = encode_texts(["dogs dog"], plain)
    assert tokens.tolist() == [[2, 1]] and note is None


def test_the_real_captions(shared: Path, tmp_path: Path) -> None:
    text = (shared / "data" / "usyd" / "captions-27k.csv").read_text(encoding="utf-8")
    lines = [line.split(",", 2)[-1] for line in text.splitlines()[1:3000]]
    tokenised = spelt(lines, tmp_path)
    vocabulary = Vocabulary.build(tokenised, np.arange(1000))
    tokens, lengths = encode(tokenised, vocabulary)
    assert vocabulary.words[2] == "a"
    assert tokens.max() == len(vocabulary) - 1 and (tokens[:1000] != 1).all()
    assert ((tokens != 0).sum(axis=1) == lengths).all()
    fresh, fresh_lengths, _ = encode_texts(lines[1000:], vocabulary, max_length=tokens.shape[1])
    np.testing.assert_array_equal(fresh, tokens[1000:])
    np.testing.assert_array_equal(fresh_lengths, lengths[1000:])
