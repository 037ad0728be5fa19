"""Word vectors for a vocabulary (report §4.1: the GloVe vectors of gensim's downloader).

Only the vectors of the vocabulary's words are kept, on disk too, so a second start reads a small
matrix and imports no gensim.
"""

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmlabel.cache import fingerprint, kept
from mmlabel.data.captions import PAD, SPECIAL_WORDS, Vocabulary
from mmlabel.data.gensim_data import NotToBeHad, gensim_file
from mmlabel.data.vector_files import read_vectors
from mmlabel.errors import UserError

Kind = Literal["glove", "word2vec", "file", "learned"]

# Captions make a small text: skip-gram, and more passes over it than gensim's five.
_WORD2VEC: dict[str, Any] = {"window": 5, "min_count": 1, "sg": 1, "epochs": 20}
_OF_CAPTIONS = "word2vec (training captions)"
_DEFAULT_DIM = 100
_LEARNED_STD = 0.1
# Shares of the captions' words with a vector.
_LITTLE, _NEXT_TO_NONE = 0.5, 0.02
# Part of the key of what is kept on disk: raise it when the same inputs give other vectors.
_VERSION = 2


@dataclass
class Embeddings:
    """A vector for each of a vocabulary's V words.

    Row 0 (padding) and row 1 (unknown word) are zero. Words that have no vector in the source get a
    random one from the seed, with the spread of those found, so that they can be told apart even if
    the embedding is frozen.
    """

    matrix: np.ndarray  # (V, D) float32
    found: np.ndarray  # (V,) bool: the vector is the source's; all False for "learned"
    source: str  # such as "glove-wiki-gigaword-50 (gensim)", "word2vec (training captions)"
    pretrained: bool  # False: vectors are random and have to be trained with the model
    note: str | None = None

    @property
    def ready_made(self) -> bool:
        """Whether they come from a file: the same for every seed, but for words without one."""
        return self.pretrained and self.source != _OF_CAPTIONS

    def coverage(self, tokens: np.ndarray) -> tuple[float, float]:
        """The share of the vocabulary's words, and of `tokens` (any shape), that have a vector.

        Padding does not count; an unknown word counts as a token without a vector.
        """
        words = self.found[len(SPECIAL_WORDS) :]
        real = tokens[tokens != PAD]
        return _share(words), _share(self.found[real])


def load_embeddings(
    vocabulary: Vocabulary,
    *,
    kind: Kind,
    name: str = "glove-wiki-gigaword-100",
    file: str | Path | None = None,
    dim: int | None = None,
    training_captions: list[list[str]] | None = None,
    seed: int,
    cache_dir: Path,
    on_missing: Literal["error", "continue"],
) -> Embeddings:
    """The vectors of a vocabulary's words.

    - `glove`: any vectors of gensim's downloader, by `name`, from GENSIM_DATA_DIR (~/gensim-data by
      default) or else downloaded. If neither works, `on_missing="error"` raises UserError and
      `on_missing="continue"` gives random vectors of the same width, and a note.
    - `word2vec`: gensim's Word2Vec (skip-gram) of `dim` (100) numbers trained on
      `training_captions`; the same seed gives the same vectors.
    - `file`: word2vec text (with a header line) or GloVe text (without), either also as .gz, or
      word2vec's binary form.
    - `learned`: `dim` (100) small random numbers, to be trained with the model.
    """
    words, cache_dir = vocabulary.words, Path(cache_dir)
    if kind == "glove":
        return _glove(words, name, seed=seed, cache_dir=cache_dir, on_missing=on_missing)
    if kind == "word2vec":
        dim = dim or _DEFAULT_DIM
        return _word2vec(words, training_captions or [], dim=dim, seed=seed, cache_dir=cache_dir)
    if kind == "file":
        path = _vector_file(file)
        return _from_file(words, path, key=[path], source=path.name, seed=seed, cache_dir=cache_dir)
    return _learned(words, dim=dim or _DEFAULT_DIM, seed=seed)


def check_coverage(
    embeddings: Embeddings, tokens: np.ndarray, *, on_missing: Literal["error", "continue"]
) -> str | None:
    """A note where ready-made vectors know less than half of the training captions' words.

    Raises UserError where they know next to none, unless `on_missing` is "continue": a frozen
    embedding of random vectors would pass for that of a language model.
    """
    _, share = embeddings.coverage(tokens)
    if not embeddings.pretrained or not (tokens != PAD).any() or share >= _LITTLE:
        return None
    problem = (
        f"of the words in the training captions {share:.1%} have a vector in {embeddings.source}"
    )
    if share >= _NEXT_TO_NONE:
        return f"{problem}; the others are told apart by random vectors"
    advice = (
        f"only {problem}: are they of the captions' language, and are words set apart by spaces? "
        "embedding=word2vec and embedding=learned make their own vectors from the captions, "
        "embedding=file takes any others"
    )
    if on_missing == "error":
        raise UserError(f"{advice}; data.on_missing=continue goes on with random ones")
    return advice


_WAYS_OUT = (
    ". Ways out: embedding=file embedding.file=VECTORS (word2vec or GloVe format), "
    "embedding.name=ONE_THAT_IS_PRESENT, GENSIM_DATA_DIR=FOLDER (gensim's own layout), "
    "embedding=word2vec or embedding=learned, which need no download"
)


def _share(found: np.ndarray) -> float:
    return float(found.mean()) if found.size else 0.0


def _glove(
    words: Sequence[str],
    name: str,
    *,
    seed: int,
    cache_dir: Path,
    on_missing: Literal["error", "continue"],
) -> Embeddings:
    try:
        path = gensim_file(name)
    except NotToBeHad as problem:
        if on_missing == "error":
            raise UserError(f"{problem}{_WAYS_OUT}") from problem
        width = re.search(r"-(\d+)$", name)
        learned = _learned(words, dim=int(width[1]) if width else _DEFAULT_DIM, seed=seed)
        learned.note = f"{problem}; random vectors are trained instead"
        return learned
    # Digesting gigabytes at every start would cost more than the cache saves.
    stat = path.stat()
    key, source = [name, stat.st_size, stat.st_mtime_ns], f"{name} (gensim)"
    return _from_file(words, path, key=key, source=source, seed=seed, cache_dir=cache_dir)


def _from_file(
    words: Sequence[str], path: Path, *, key: list, source: str, seed: int, cache_dir: Path
) -> Embeddings:
    def compute() -> tuple[np.ndarray, np.ndarray]:
        return _fill(words, read_vectors(path, words[len(SPECIAL_WORDS) :]), seed)

    return _kept(compute, key=["file", words, seed, *key], source=source, cache_dir=cache_dir)


def _word2vec(
    words: Sequence[str], captions: list[list[str]], *, dim: int, seed: int, cache_dir: Path
) -> Embeddings:
    if not any(captions):
        raise UserError(
            "embedding=word2vec needs training captions with words in them; "
            "choose embedding=learned, or embedding=glove"
        )

    def compute() -> tuple[np.ndarray, np.ndarray]:
        return _fill(words, _train_word2vec(captions, dim, seed), seed)

    key = ["word2vec", words, seed, dim, _WORD2VEC, version("gensim"), captions]
    return _kept(compute, key=key, source=_OF_CAPTIONS, cache_dir=cache_dir)


def _learned(words: Sequence[str], *, dim: int, seed: int) -> Embeddings:
    matrix = np.random.default_rng(seed).normal(0, _LEARNED_STD, (len(words), dim))
    matrix[: len(SPECIAL_WORDS)] = 0
    found = np.zeros(len(words), dtype=bool)
    return Embeddings(matrix.astype(np.float32), found, f"learned ({dim}-d)", pretrained=False)


def _kept(
    compute: Callable[[], tuple[np.ndarray, np.ndarray]],
    *,
    key: list,
    source: str,
    cache_dir: Path,
) -> Embeddings:
    """The matrix and what was found, from disk or else computed and kept there."""
    path = cache_dir / "embeddings" / f"{fingerprint('embeddings', _VERSION, *key)}.entry"
    matrix, found = kept(
        path,
        compute,
        pack=lambda made: {"matrix": made[0], "found": made[1]},
        unpack=lambda arrays: (arrays["matrix"], arrays["found"]),
    )
    return Embeddings(matrix, found, source, pretrained=True)


def _fill(
    words: Sequence[str], vectors: tuple[dict[str, np.ndarray], int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lay out vectors by word number; see Embeddings for the words that have none."""
    vector_of, dim = vectors
    found = np.array([word in vector_of for word in words])
    found[: len(SPECIAL_WORDS)] = False
    spread = np.stack(list(vector_of.values())).std() if vector_of else _LEARNED_STD
    matrix = np.random.default_rng(seed).normal(0, spread, (len(words), dim)).astype(np.float32)
    matrix[: len(SPECIAL_WORDS)] = 0
    for number, word in enumerate(words):
        if found[number]:
            matrix[number] = vector_of[word]
    return matrix, found


def _train_word2vec(
    captions: list[list[str]], dim: int, seed: int
) -> tuple[dict[str, np.ndarray], int]:
    from gensim.models import Word2Vec

    logging.getLogger("gensim").setLevel(logging.WARNING)  # it tells of every step
    # Several workers take sentences in the order of their chance.
    model = Word2Vec(captions, vector_size=dim, seed=seed, workers=1, **_WORD2VEC)
    return {str(word): np.asarray(model.wv[word]) for word in model.wv.index_to_key}, dim


def _vector_file(file: str | Path | None) -> Path:
    if not file:
        raise UserError("embedding=file needs embedding.file=VECTORS")
    path = Path(os.path.expanduser(file))
    if not path.is_file():
        raise UserError(f"embedding.file={file}: no such file")
    return path
