"""Captions to word numbers (report §4.1): no punctuation, NLTK tokens, WordNet lemmas, padding.

The slow part, which loads NLTK and WordNet, works on all captions at once and is kept on disk. The
vocabulary is then taken from the training rows alone.
"""

import os
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

import numpy as np

from mmlabel import network
from mmlabel.cache import Arrays, fingerprint, kept
from mmlabel.data.spelling import Spellings
from mmlabel.errors import UserError
from mmlabel.wording import count

PAD, UNKNOWN = 0, 1
SPECIAL_WORDS = ["<pad>", "<unk>"]

if TYPE_CHECKING:
    from nltk.tokenize import NLTKWordTokenizer

# Part of the key of what is kept on disk: raise it when the steps below change.
_VERSION = 4
MOST_WORDS = 10_000  # of a caption
_MOST_LETTERS = 100  # of a word: what is longer is none, and would be kept in checkpoints
_MOST_INDEX, _MOST_WORDNET = 10_000_000, 200_000_000  # bytes


@dataclass(frozen=True)
class TokenisedCaptions:
    """N captions as sequences of words; caption n is `ids[offsets[n]:offsets[n + 1]]`."""

    words: list[str]  # the V distinct words, in order of first appearance
    ids: np.ndarray  # (tokens,) int32 positions in `words`
    offsets: np.ndarray  # (N + 1,) int64
    forms: dict[str, str] | None = None  # every spelling met to its lemma; None: no lemmas
    uncut: np.ndarray | None = None  # (N,) words before `cut`; None: as now
    notes: tuple[str, ...] = ()  # what the captions have to go without
    spelt: np.ndarray | None = None  # (tokens,) int32 positions in `forms`, if there are any

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def word_lists(self, rows: np.ndarray) -> list[list[str]]:
        """The words of the captions in `rows`, as lists."""
        starts, ends = self.offsets[rows].tolist(), self.offsets[np.asarray(rows) + 1].tolist()
        bounds = zip(starts, ends, strict=True)
        return [[self.words[i] for i in self.ids[start:end]] for start, end in bounds]

    def cut(self, max_length: int) -> "TokenisedCaptions":
        """The first `max_length` words of each caption."""
        lengths = np.diff(self.offsets)
        if lengths.max(initial=0) <= max_length:
            return self
        ends = self.offsets[:-1] + np.minimum(lengths, max_length)
        kept = np.arange(len(self.ids)) < np.repeat(ends, lengths)  # (tokens,)
        offsets = offsets_of(np.minimum(lengths, max_length))
        uncut = lengths if self.uncut is None else self.uncut
        spelt = None if self.spelt is None else self.spelt[kept]
        return replace(self, ids=self.ids[kept], offsets=offsets, uncut=uncut, spelt=spelt)


@dataclass(frozen=True)
class CaptionCounts:
    """What is counted of captions while they are numbered, in one call or in several (`+`)."""

    captions: int = 0
    empty: int = 0
    cut: int = 0
    kept: int = 0  # words (or tokens) of the longest
    longest: int | None = None  # words of it before it was cut; None: not known
    unit: str = "word"

    def __add__(self, other: "CaptionCounts") -> "CaptionCounts":
        return CaptionCounts(
            captions=self.captions + other.captions,
            empty=self.empty + other.empty,
            cut=self.cut + other.cut,
            kept=max(self.kept, other.kept),
            longest=max(self.longest or 0, other.longest or 0) or None,
            unit=other.unit,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of captions that were cut, and where most of them are empty."""
        notes = []
        if self.cut:
            whole = f" (the longest has {self.longest:,})" if self.longest else ""
            notes.append(
                f"{self.cut:,} of {self.captions:,} captions were cut to their first"
                f" {count(self.kept, self.unit)}{whole}"
            )
        if self.empty == self.captions == 1:
            notes.append("the caption has no word in it")
        elif self.empty and self.empty >= self.captions / 2:
            share = "all" if self.empty == self.captions else f"{self.empty:,} of"
            said = f"{share} {self.captions:,} captions have no word in them"
            notes.append(f"{said}: are they of this data?")
        return tuple(notes)


@dataclass(frozen=True)
class EncodedCaptions:
    """N captions as word numbers; caption n is `ids[offsets[n]:offsets[n + 1]]`."""

    ids: np.ndarray  # (tokens,) int32, 1 for a word outside the vocabulary
    offsets: np.ndarray  # (N + 1,) int64
    lacking: tuple[str, ...] = ()  # what the captions have to go without
    counts: CaptionCounts = CaptionCounts()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of them."""
        return (*self.lacking, *self.counts.notes)

    @classmethod
    def empty(cls, count: int) -> "EncodedCaptions":
        """As many captions without a word, for a model that does not look at them."""
        counts = CaptionCounts(captions=count, empty=count)
        return cls(np.zeros(0, dtype=np.int32), np.zeros(count + 1, dtype=np.int64), counts=counts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) int64 number of words; 0 for an empty caption."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "EncodedCaptions":
        """These captions, in this order."""
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        shift = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return replace(self, ids=self.ids[np.arange(offsets[-1]) + shift], offsets=offsets)

    def pad(self, rows: np.ndarray) -> np.ndarray:
        """(B, T) int64: these captions, 0 behind a caption's end; T is at least 1.

        Only the longest among them decides T, whatever the others of the data set are.
        """
        chosen = self.take(rows)
        lengths = chosen.lengths
        tokens = np.full((len(chosen), max(1, lengths.max(initial=0))), PAD, dtype=np.int64)
        tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = chosen.ids
        return tokens


class Vocabulary:
    """The words that have a number: 0 is padding and 1 every word that is not in `words`.

    `forms` (spelling to lemma; None when captions are not lemmatised) lets fresh captions be
    encoded as the training captions were, on a machine without WordNet. Both are plain values, for
    a checkpoint: `Vocabulary(words, forms)` restores it.

    With `similar` a word that has no number gets that of the word which is spelt most like it, if
    one is (see `mmlabel.data.spelling`).
    """

    def __init__(
        self,
        words: Sequence[str],
        forms: dict[str, str] | None = None,
        *,
        similar: bool = False,
    ) -> None:
        self.words = list(words)
        composed = list(map(_composed, words))  # those of an older checkpoint may not be
        self.forms = forms and {_composed(form): _composed(lemma) for form, lemma in forms.items()}
        if self.words[:2] != SPECIAL_WORDS:
            raise ValueError(f"a vocabulary begins with {SPECIAL_WORDS}, not {self.words[:2]}")
        self.index: dict[str, int] = {}
        for number, word in enumerate(composed):
            self.index.setdefault(word, number)
        self.similar = Spellings(composed[len(SPECIAL_WORDS) :]) if similar else None

    def number_of(self, spelling: str, lemma: str | None = None) -> int:
        """The number of a word, by its lemma (None: it has none) or else by what it is spelt like.

        Its spelling decides there, not its lemma: so it is the same on a machine without WordNet.
        """
        number = self.index.get(spelling if lemma is None else lemma, UNKNOWN)
        if number != UNKNOWN or self.similar is None:
            return number
        found = self.similar.most_like(spelling)
        return UNKNOWN if found is None else found + len(SPECIAL_WORDS)

    @classmethod
    def build(
        cls,
        tokenised: TokenisedCaptions,
        rows: np.ndarray,
        *,
        min_count: int = 1,
        similar: bool = False,
    ) -> "Vocabulary":
        """The words that occur at least `min_count` times in the captions of `rows`.

        Most frequent first, equally frequent ones by the alphabet. Of `forms` only those are kept
        whose lemma occurs in `rows`.
        """
        in_rows = np.zeros(len(tokenised), dtype=bool)
        in_rows[rows] = True
        in_rows = np.repeat(in_rows, np.diff(tokenised.offsets))  # (tokens,)
        counts = np.bincount(tokenised.ids[in_rows], minlength=len(tokenised.words)).tolist()
        count_of = {w: n for w, n in zip(tokenised.words, counts, strict=True) if n}
        words = [word for word, count in count_of.items() if count >= min_count]
        words.sort(key=lambda word: (-count_of[word], word))
        forms = tokenised.forms
        if forms is not None:
            forms = {form: lemma for form, lemma in forms.items() if lemma in count_of}
        return cls(SPECIAL_WORDS + words, forms, similar=similar)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def fingerprint(self) -> str:
        """Changes with any word or its number."""
        return fingerprint(self.words)


def tokenise(
    captions: Sequence[str],
    *,
    lemmas: Literal["wordnet", "none"],
    cache_dir: Path,
    on_missing: Literal["error", "continue"],
) -> TokenisedCaptions:
    """Split captions into words (report §4.1), or read them from `cache_dir` if they were before.

    Captions are lower-cased; apostrophes vanish ("man's" is "mans") and any other punctuation
    separates words ("black-and-white" is three); NLTK's tokeniser splits them. A letter with an
    accent is one character (Unicode's NFC), however it is encoded. With
    `lemmas="wordnet"` each word becomes NLTK's `WordNetLemmatizer` noun lemma, which turns a few
    function words into odd ones ("has" into "ha"): the same ones in every caption, so nothing is
    lost but a vector. `lemmas="none"` keeps words as they are spelt. Of any caption only the first
    MOST_WORDS words are given, so that one that is a book does not decide what a run costs.

    WordNet is looked for where NLTK looks (NLTK_DATA first), then downloaded once. If it cannot be
    had, `on_missing="error"` raises UserError and `on_missing="continue"` leaves the words as they
    are spelt and says so in `notes`.
    """
    captions = list(captions)

    def compute() -> TokenisedCaptions:
        spelt = _split(captions)
        if lemmas == "none":
            return spelt
        forms, note = _lemmatise(spelt.words, {}, on_missing=on_missing)
        return replace(spelt, notes=(note,)) if note else _merge(spelt, forms)

    key = fingerprint("captions", _VERSION, version("nltk"), lemmas, captions)
    path = Path(cache_dir) / "captions" / f"{key}.entry"
    return kept(path, compute, pack=_pack, unpack=_unpack).cut(MOST_WORDS)


def encode(
    tokenised: TokenisedCaptions, vocabulary: Vocabulary, *, max_length: int | None = None
) -> EncodedCaptions:
    """Number the first `max_length` words of each caption: 1 stands for one that has no number.

    The notes say how many captions were cut, and whether most of them are empty.
    """
    if max_length is not None:
        tokenised = tokenised.cut(max_length)
    if tokenised.forms is None or tokenised.spelt is None:
        numbers, ids = [vocabulary.number_of(word) for word in tokenised.words], tokenised.ids
    else:
        forms = tokenised.forms.items()
        numbers, ids = [vocabulary.number_of(*form) for form in forms], tokenised.spelt
    ids = np.asarray(numbers, dtype=np.int32)[ids]
    lengths = np.diff(tokenised.offsets)
    uncut = lengths if tokenised.uncut is None else tokenised.uncut
    counts = CaptionCounts(
        captions=len(lengths),
        empty=int((lengths == 0).sum()),
        cut=int((uncut > lengths).sum()),
        kept=int(lengths.max(initial=0)),
        longest=int(uncut.max(initial=0)),
    )
    return EncodedCaptions(ids, tokenised.offsets, tokenised.notes, counts)


def encode_texts(
    texts: Sequence[str], vocabulary: Vocabulary, *, max_length: int | None = None
) -> EncodedCaptions:
    """Encode fresh captions as the captions behind `vocabulary` were.

    WordNet is asked only for spellings that `vocabulary` does not know; without it those stay as
    they are, which a note says.
    """
    tokenised = _split(texts).cut(min(MOST_WORDS, max_length or MOST_WORDS))
    if vocabulary.forms is not None:
        forms, note = lemmas_of(tokenised.words, vocabulary.forms)
        notes = (*tokenised.notes, note) if note else tokenised.notes
        tokenised = replace(tokenised, forms=forms, spelt=tokenised.ids, notes=notes)
    return encode(tokenised, vocabulary)


def lemmas_of(words: Sequence[str], known: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """Each word's lemma, from `known` or else from WordNet; without it the word, and a note."""
    return _lemmatise(words, known, on_missing="continue")


def note_on_symbols(captions: Sequence[str]) -> str | None:
    """What is to be said of captions with emoji and the like, of which no word is made."""
    symbols = {char for char in set().union(*captions) if unicodedata.category(char) == "So"}
    if having := sum(not symbols.isdisjoint(caption) for caption in captions):
        return (
            f"{having:,} of {len(captions):,} captions have emoji or other symbols, which are left"
            " out as punctuation is: what only they tell of a picture is not learned"
        )
    return None


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """(N + 1,) int64: where captions of these lengths begin, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _composed(text: str) -> str:
    """With letters and accents in the form that is usual, of the two that Unicode has."""
    return unicodedata.normalize("NFC", text)


def _split(captions: Sequence[str]) -> TokenisedCaptions:
    captions = list(map(_composed, captions))
    table = {ord(char): _replacement(char) for char in set().union(*captions)}
    index: dict[str, int] = {}
    # Without punctuation none of the tokeniser's patterns reaches over a space.
    numbers_of: dict[str, list[int]] = {}
    ids: list[int] = []
    lengths: list[int] = []
    for caption in captions:
        before = len(ids)
        # Once more: an apostrophe may have stood between a letter and its accent.
        for word in _composed(caption.translate(table).lower()).split():
            numbers = numbers_of.get(word)
            if numbers is None:
                tokens = _tokens(word) if len(word) <= _MOST_LETTERS else _tokens.__wrapped__(word)
                numbers = [index.setdefault(token[:_MOST_LETTERS], len(index)) for token in tokens]
                numbers_of[word] = numbers
            ids += numbers
        lengths.append(len(ids) - before)
    return TokenisedCaptions(
        words=list(index),
        ids=np.asarray(ids, dtype=np.int32),
        offsets=offsets_of(np.asarray(lengths, dtype=np.int64)),
    )


@lru_cache(maxsize=100_000)
def _tokens(word: str) -> list[str]:
    """What NLTK's tokeniser makes of a word, which takes it a tenth of a millisecond."""
    return _tokenizer().tokenize(word)


@cache
def _tokenizer() -> "NLTKWordTokenizer":
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def _replacement(char: str) -> str:
    """What a character of a caption becomes: nothing, a space or itself."""
    if char in "'\N{RIGHT SINGLE QUOTATION MARK}":
        return ""
    # Unicode's classes P: punctuation, S: symbols, C: control characters such as newlines.
    return " " if unicodedata.category(char)[0] in "PSC" else char


def _merge(spelt: TokenisedCaptions, forms: dict[str, str]) -> TokenisedCaptions:
    """Put every word's lemma in its place; words with one lemma become one word."""
    index: dict[str, int] = {}
    lemma_ids = [index.setdefault(forms[word], len(index)) for word in spelt.words]
    ids = np.asarray(lemma_ids, dtype=np.int32)[spelt.ids]
    return replace(spelt, words=list(index), ids=ids, forms=forms, spelt=spelt.ids)


def _lemmatise(
    words: Sequence[str], known: dict[str, str], *, on_missing: Literal["error", "continue"]
) -> tuple[dict[str, str], str | None]:
    """Each word's lemma, from `known` or else from WordNet, and a note if that is missing."""
    unknown = [word for word in words if word not in known]
    forms = {word: known.get(word, word) for word in words}
    problem = _wordnet_problem(os.environ.get("NLTK_DATA", "")) if unknown else ""
    if problem and on_missing == "error":
        raise UserError(
            f"WordNet, which captions.lemmas=wordnet needs, {problem}. Put it where NLTK_DATA "
            "points (NLTK_DATA/corpora/wordnet.zip), or go without: captions.lemmas=none"
        )
    if problem:
        # The same for any batch of captions: it is said once of all of them.
        return forms, f"not all words were lemmatised: WordNet {problem}"
    if unknown:
        from nltk.stem import WordNetLemmatizer

        lemmatizer = WordNetLemmatizer()
        forms |= {word: lemmatizer.lemmatize(word) for word in unknown}
    return forms, None


@lru_cache
def _wordnet_problem(nltk_data: str) -> str:
    """Why there is no WordNet, after one attempt to download it; empty when it is ready.

    `nltk_data` is NLTK_DATA as it is now: NLTK itself reads it only when it is imported.
    """
    import nltk
    from nltk.stem import WordNetLemmatizer

    folders = [folder for folder in nltk_data.split(os.pathsep) if folder]
    nltk.data.path[:0] = [folder for folder in folders if folder not in nltk.data.path]
    try:
        WordNetLemmatizer().lemmatize("words")
        return ""
    except LookupError:
        places = f"NLTK_DATA={nltk_data}" if folders else "NLTK's folders (NLTK_DATA is not set)"
        absent = f"is neither in {places}"
    except (OSError, zipfile.BadZipFile) as error:
        return f"is there but cannot be read ({error})"
    try:
        _download_wordnet()
        WordNetLemmatizer().lemmatize("words")
        return ""
    except (
        network.NetworkError,
        ElementTree.ParseError,
        LookupError,
        OSError,
        ValueError,  # NLTK's, where there is no home folder
        zipfile.BadZipFile,
    ) as error:
        return f"{absent} nor could it be downloaded ({' '.join(str(error).split())})"


def _download_wordnet() -> None:
    """Put WordNet where NLTK keeps what it downloads."""
    from nltk.downloader import Downloader

    index = ElementTree.fromstring(network.fetch(Downloader.DEFAULT_URL, max_bytes=_MOST_INDEX))
    package = index.find(".//package[@id='wordnet']")
    url = "" if package is None else package.get("url", "")
    if package is None or not url:
        raise network.NetworkError(f"{Downloader.DEFAULT_URL} lists no WordNet")
    algorithm = "sha256" if package.get("sha256_checksum") else "md5"
    network.fetch_file(
        url,
        Path(Downloader().default_download_dir() or ".") / "corpora" / "wordnet.zip",
        max_bytes=_MOST_WORDNET,
        checksum=(algorithm, package.get("sha256_checksum") or package.get("checksum", "")),
        work="WordNet",
    )


def _pack(tokenised: TokenisedCaptions) -> Arrays | None:
    # Captions that went without WordNet must not pass for lemmatised ones at the next start.
    if tokenised.notes:
        return None
    index = {word: number for number, word in enumerate(tokenised.words)}
    forms = tokenised.forms
    arrays = {
        "words": _joined(tokenised.words),
        "ids": tokenised.ids,
        "offsets": tokenised.offsets,
    }
    if forms is not None and tokenised.spelt is not None:
        arrays["forms"] = _joined(forms)
        arrays["spelt"] = tokenised.spelt
        arrays["lemmas"] = np.asarray([index[lemma] for lemma in forms.values()], dtype=np.int32)
    return arrays


def _unpack(arrays: Arrays) -> TokenisedCaptions:
    words = _separate(arrays["words"])
    forms, spelt = None, None
    if "forms" in arrays:
        spelt = arrays["spelt"]
        lemmas = [words[i] for i in arrays["lemmas"]]
        forms = dict(zip(_separate(arrays["forms"]), lemmas, strict=True))
    return TokenisedCaptions(words, arrays["ids"], arrays["offsets"], forms, spelt=spelt)


def _joined(words: Sequence[str] | dict[str, str]) -> np.ndarray:
    # One array of bytes is read many times faster than an array of strings.
    return np.frombuffer("\n".join(words).encode(), dtype=np.uint8)


def _separate(joined: np.ndarray) -> list[str]:
    return joined.tobytes().decode().split("\n") if joined.size else []
