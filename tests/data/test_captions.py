"""Captions to word numbers: worked by hand, against a slow loop, and on disk."""

import hashlib
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer
from web import Server, serving

from mmlabel import network
from mmlabel.data import captions
from mmlabel.data.captions import (
    EncodedCaptions,
    TokenisedCaptions,
    Vocabulary,
    encode,
    encode_texts,
    tokenise,
)
from mmlabel.data.vector_files import read_vectors
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
REPOSITORY = Path(__file__).resolve().parents[2]
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


def padded(encoded: EncodedCaptions) -> np.ndarray:
    return encoded.pad(np.arange(len(encoded)))


def test_captions_are_split_into_words(tmp_path: Path) -> None:
    tokenised = spelt(CAPTIONS, tmp_path)
    assert len(tokenised) == 5
    assert tokenised.word_lists(np.arange(5)) == WORDS
    assert tokenised.word_lists(np.array([4, 2])) == [WORDS[4], WORDS[2]]
    assert len(set(tokenised.words)) == len(tokenised.words)
    assert tokenised.ids.dtype == np.int32
    assert tokenised.forms is None and tokenised.notes == ()


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
        encoded = encode(tokenised, Vocabulary.build(tokenised, np.arange(len(texts))))
        tokens = padded(encoded)
        assert tokens.shape == (len(texts), 1) and not tokens.any() and not encoded.lengths.any()


def test_lemmas_are_wordnets(shared: Path, tmp_path: Path, monkeypatch, without) -> None:
    """The second time they are read from disk, without WordNet and NLTK."""
    texts = ["Two BUSES, two\nbus", "children; a man's geese", "the xyzzys"]
    for nltk_data in (str(shared / "nltk_data"), ""):
        monkeypatch.setenv("NLTK_DATA", nltk_data)
        found = tokenise(texts, lemmas="wordnet", cache_dir=tmp_path, on_missing="error")
        lists = [["two", "bus", "two", "bus"], ["child", "a", "man", "goose"], ["the", "xyzzys"]]
        assert found.word_lists(np.arange(3)) == lists
        assert found.words == ["two", "bus", "child", "a", "man", "goose", "the", "xyzzys"]
        assert found.forms is not None and found.forms["buses"] == found.forms["bus"] == "bus"
        assert found.notes == ()
        without("nltk")


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
        assert "not all words were lemmatised: WordNet is absent" in tokenised.notes[0]
    assert not list(tmp_path.rglob("*.entry"))


def test_missing_wordnet_is_one_message_with_ways_out(tmp_path: Path) -> None:
    """Of a process that has not read it before."""
    code = """
import os, sys
from pathlib import Path
from mmlabel.data.captions import tokenise, UserError
for os.environ["NLTK_DATA"] in sys.argv[1:]:
    try:
        tokenise(["dogs"], lemmas="wordnet", cache_dir=Path("cache"), on_missing="error")
    except UserError as error:
        print(error)
"""
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "wordnet.zip").write_bytes(b"PK\x03\x04 torn")
    places = [str(tmp_path / "no"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *places],
        env={**os.environ, **OFFLINE, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    absent, torn = done.stdout.splitlines()
    for part in [f"NLTK_DATA={places[0]}", "downloaded", "corpora/wordnet.zip", "lemmas=none"]:
        assert part in absent
    assert "WordNet" in torn and "lemmas=none" in torn


def test_vocabulary_comes_from_the_given_rows_alone() -> None:
    tokenised = made_of("b a b", "secret", "c a", "secret a b")
    vocabulary = Vocabulary.build(tokenised, np.array([0, 2]))
    # Twice each: a and b, by the alphabet; once: c.
    assert vocabulary.words == ["<pad>", "<unk>", "a", "b", "c"]
    assert len(vocabulary) == 5
    assert Vocabulary.build(tokenised, np.array([0, 2]), min_count=2).words[2:] == ["a", "b"]
    encoded = encode(tokenised, vocabulary)
    assert padded(encoded).tolist() == [[3, 2, 3], [1, 0, 0], [4, 2, 0], [1, 2, 3]]
    assert encoded.lengths.tolist() == [3, 1, 2, 3]


def test_vocabulary_is_restored_from_plain_values() -> None:
    vocabulary = Vocabulary.build(made_of("a b"), np.array([0]))
    again = Vocabulary(list(vocabulary.words), vocabulary.forms)
    assert again.fingerprint == vocabulary.fingerprint
    assert Vocabulary(["<pad>", "<unk>", "b", "a"]).fingerprint != vocabulary.fingerprint
    with pytest.raises(ValueError, match="begins with"):
        Vocabulary(["a", "b"])


def test_a_word_is_the_same_however_its_accents_are_encoded(tmp_path: Path) -> None:
    def apart(text: str) -> str:
        return unicodedata.normalize("NFD", text)

    text = "Un café, un été"
    assert apart(text) != text
    given = [text, apart(text), "Un cafe'\u0301, un été"]
    made = tokenise(given, lemmas="none", cache_dir=tmp_path, on_missing="error")
    assert made.word_lists(np.arange(3)) == [["un", "café", "un", "été"]] * 3
    # Words of a checkpoint that an earlier version has written.
    words, forms = ["café", "été"], ["un", "café", "cafés", "été"]
    lemmas = {apart(form): apart(form.removesuffix("s")) for form in forms}
    for vocabulary in (
        Vocabulary(["<pad>", "<unk>", *map(apart, words)]),
        Vocabulary(["<pad>", "<unk>", *map(apart, words)], lemmas, similar=True),
    ):
        for one in given:
            assert encode_texts([one], vocabulary).ids.tolist() == [1, 2, 1, 3]
    assert encode_texts(["cafés"], vocabulary).ids.tolist() == [2]
    file = tmp_path / "vectors.txt"
    file.write_text(f"{apart('café')} 1 2\nété 3 4\n{apart('été')} 5 6\n", encoding="utf-8")
    vectors, _ = read_vectors(file, words)
    assert {word: vector.tolist() for word, vector in vectors.items()} == {
        "café": [1, 2],
        "été": [3, 4],
    }


@pytest.mark.parametrize("max_length", [None, 1, 4, 50])
def test_encode_is_the_slow_loop(max_length: int | None) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(0, 9))) for _ in range(60)]
    texts[0] = texts[59] = ""
    tokenised = made_of(*texts)
    vocabulary = Vocabulary(["<pad>", "<unk>", *"hbda"])
    longest = max(len(text.split()) for text in texts)
    width = min(max_length or longest, longest)
    expected, expected_lengths = np.zeros((60, width), dtype=np.int64), np.zeros(60, dtype=np.int64)
    for row, text in enumerate(texts):
        for column, word in enumerate(text.split()[:width]):
            known = word in vocabulary.words
            expected[row, column] = vocabulary.words.index(word) if known else 1
            expected_lengths[row] += 1
    encoded = encode(tokenised, vocabulary, max_length=max_length)
    tokens = padded(encoded)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(encoded.lengths, expected_lengths)
    assert tokens.dtype == encoded.lengths.dtype == np.int64
    for rows in (np.array([5, 3, 59]), np.array([0]), np.array([], dtype=np.int64)):
        own = max(1, expected_lengths[rows].max(initial=0))
        np.testing.assert_array_equal(encoded.pad(rows), expected[rows, :own])
        np.testing.assert_array_equal(padded(encoded.take(rows)), expected[rows, :own])


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
    encoded = encode_texts(["TWO dogs.", "", "two"], vocabulary)
    assert padded(encoded).tolist() == [[two, dog], [0, 0], [two, 0]]
    assert encoded.lengths.tolist() == [2, 0, 1] and encoded.notes == ()
    # Others do.
    encoded = encode_texts(["two cats"], vocabulary, max_length=3)
    assert padded(encoded).tolist() == [[two, 1]]
    assert "not all words were lemmatised" in encoded.notes[0]
    # Of a table it is said once, however many words its batches lack.
    assert encode_texts(["two cats", "birds"], vocabulary).lacking == encoded.lacking
    # A vocabulary of words that were never lemmatised never asks.
    plain = Vocabulary(["<pad>", "<unk>", "dogs"])
    encoded = encode_texts(["dogs dog"], plain)
    assert padded(encoded).tolist() == [[2, 1]] and encoded.notes == ()


def test_the_real_captions(shared: Path, tmp_path: Path) -> None:
    text = (shared / "data" / "usyd" / "captions-27k.csv").read_text(encoding="utf-8")
    lines = [line.split(",", 2)[-1] for line in text.splitlines()[1:3000]]
    tokenised = spelt(lines, tmp_path)
    vocabulary = Vocabulary.build(tokenised, np.arange(1000))
    encoded = encode(tokenised, vocabulary)
    tokens = padded(encoded)
    assert vocabulary.words[2] == "a"
    assert tokens.max() == len(vocabulary) - 1 and (tokens[:1000] != 1).all()
    assert ((tokens != 0).sum(axis=1) == encoded.lengths).all()
    fresh = encode_texts(lines[1000:], vocabulary)
    np.testing.assert_array_equal(fresh.ids, encoded.ids[encoded.offsets[1000] :])
    np.testing.assert_array_equal(fresh.lengths, encoded.lengths[1000:])


def test_captions_that_are_cut_are_counted() -> None:
    tokenised = made_of("a b c d", "a", "b c d", "")
    vocabulary = Vocabulary.build(tokenised, np.arange(4))
    assert encode(tokenised, vocabulary, max_length=4).notes == ()
    encoded = encode(tokenised, vocabulary, max_length=2)
    assert encoded.lengths.tolist() == [2, 1, 2, 0]
    assert encoded.notes == ("2 of 4 captions were cut to their first 2 words (the longest has 4)",)
    # What is cut twice is counted from the whole.
    assert encode(tokenised.cut(3), vocabulary, max_length=2).notes == encoded.notes
    assert (
        "1 of 4 captions were cut to their first 3" in encode(tokenised.cut(3), vocabulary).notes[0]
    )
    assert encode_texts(["a b c", "d"], vocabulary, max_length=2).lengths.tolist() == [2, 1]


def test_captions_that_are_mostly_empty_are_said() -> None:
    vocabulary = Vocabulary(["<pad>", "<unk>", "a"])
    assert encode_texts(["?!"], vocabulary).notes[0] == "the caption has no word in it"
    assert "all 3 captions have no word" in encode_texts(["", "?!", " "], vocabulary).notes[0]
    assert "2 of 4 captions have no word" in encode_texts(["", "a", "-", "a"], vocabulary).notes[0]
    assert encode_texts(["", "a", "a"], vocabulary).notes == ()
    assert encode_texts([], vocabulary).notes == ()


def test_a_caption_that_is_a_book_costs_what_it_holds(tmp_path: Path) -> None:
    texts = ["a dog"] * 2000 + [" ".join(f"word{i}" for i in range(30_000)), "x" * 1_000_000]
    tokenised = spelt(texts, tmp_path)
    vocabulary = Vocabulary.build(tokenised, np.arange(len(texts)))
    assert len(vocabulary) == 2 + 2 + captions.MOST_WORDS + 1
    assert max(map(len, vocabulary.words)) == 100
    encoded = encode(tokenised, vocabulary)
    # Padded to the longest they would be 160 MB.
    assert encoded.ids.nbytes + encoded.offsets.nbytes < 200_000
    assert encoded.pad(np.arange(32)).shape == (32, 2)
    assert "(the longest has 30,000)" in encoded.notes[0]
    assert encode_texts(texts, vocabulary, max_length=128).pad(np.array([2000])).shape == (1, 128)


@given(
    st.lists(
        st.lists(
            st.sampled_from(["cannot", "gonna", "wanna", "Lemme", "it's", "d'ye", "o'clock", "x.y"])
            | st.text(max_size=8)
        ).map(" ".join),
        max_size=4,
    )
)
def test_words_are_what_the_tokeniser_makes_of_whole_captions(texts: list[str]) -> None:
    tokenizer = NLTKWordTokenizer()
    expected = []
    for text in texts:
        kept = "".join(captions._replacement(char) for char in captions._composed(text))
        expected.append(tokenizer.tokenize(captions._composed(kept.lower())))
    assert captions._split(texts).word_lists(np.arange(len(texts))) == expected


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("a", 1),
        (" ", 0),
        ("'", 0),
        ("- ", 0),
        ("\u2028", 0),
        ("...)", 0),
        ("a.", 100_000),
        ("can", 1),
        ("cannot ", 200_000),
        ("$1,", 100_000),
    ],
)
def test_a_long_caption_takes_no_pattern_forever(unit: str, words: int) -> None:
    """One that looks back over the whole caption would take hours."""
    tokenised = captions._split([unit * 100_000])
    assert len(tokenised.ids) == words


def test_entries_of_the_cache_hold_the_whole(tmp_path: Path) -> None:
    first = spelt(CAPTIONS, tmp_path)
    again = spelt(CAPTIONS, tmp_path)
    assert again.words == first.words and again.forms == first.forms
    np.testing.assert_array_equal(again.ids, first.ids)
    np.testing.assert_array_equal(again.offsets, first.offsets)


def test_wordnet_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nltk.downloader import Downloader

    def index(checksum: str) -> bytes:
        package = f'<package id="wordnet" url="{server.url}/w.zip" checksum="{checksum}" />'
        other = '<package id="other" url="http://there.invalid/o.zip" checksum="1" />'
        return f"<nltk_data><packages>{other}{package}</packages></nltk_data>".encode()

    monkeypatch.setattr(network, "BACKOFF", 0.01)
    monkeypatch.setattr(Downloader, "default_download_dir", lambda self: str(tmp_path))
    content = b"PK and so on"
    with serving(Server({"/w.zip": content}, cuts={"/w.zip": [3]})) as server:
        monkeypatch.setattr(Downloader, "DEFAULT_URL", f"{server.url}/index.xml")
        server.files["/index.xml"] = index(hashlib.md5(content).hexdigest())
        captions._download_wordnet()
        assert (tmp_path / "corpora" / "wordnet.zip").read_bytes() == content
        server.files["/index.xml"] = index("0" * 32)
        with pytest.raises(network.NetworkError, match="md5 hash"):
            captions._download_wordnet()
        server.files["/index.xml"] = b"<nltk_data/>"
        with pytest.raises(network.NetworkError, match="lists no WordNet"):
            captions._download_wordnet()
