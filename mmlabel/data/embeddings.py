"""Word vectors for a vocabulary (report §4.1: the GloVe vectors of gensim's downloader).

Only the vectors of the vocabulary's words are kept, on disk too, so a second start reads a small
matrix and imports no gensim.
"""

import gzip
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmlabel import network
from mmlabel.cache import atomic_write, fingerprint, lock
from mmlabel.data.captions import PAD, SPECIAL_WORDS, Vocabulary
from mmlabel.errors import UserError, nearest

KINDS = ("glove", "word2vec", "file", "learned")

# The word vectors that gensim's downloader offers. It keeps no list of its own without a network,
# and a closed machine should tell a misspelt name from one that is merely not there.
GENSIM_NAMES = (
    "conceptnet-numberbatch-17-06-300",
    "fasttext-wiki-news-subwords-300",
    "glove-twitter-25",
    "glove-twitter-50",
    "glove-twitter-100",
    "glove-twitter-200",
    "glove-wiki-gigaword-50",
    "glove-wiki-gigaword-100",
    "glove-wiki-gigaword-200",
    "glove-wiki-gigaword-300",
    "word2vec-google-news-300",
    "word2vec-ruscorpora-300",
)

# Captions make a small text: skip-gram, and more passes over it than gensim's five.
_WORD2VEC = {"window": 5, "min_count": 1, "sg": 1, "epochs": 20}
_DEFAULT_DIM = 100
_LEARNED_STD = 0.1
# Part of the key of what is kept on disk: raise it when the same inputs give other vectors.
_VERSION = 1
_MOST_LIST, _MOST_VECTORS = 10_000_000, 20_000_000_000  # bytes


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

    def coverage(self, tokens: np.ndarray) -> tuple[float, float]:
        """The share of the vocabulary's words, and of `tokens` (N, T), that have a vector.

        Padding does not count; an unknown word counts as a token without a vector.
        """
        words = self.found[len(SPECIAL_WORDS) :]
        real = tokens[tokens != PAD]
        return _share(words), _share(self.found[real])


def load_embeddings(
    vocabulary: Vocabulary,
    *,
    kind: str,
    name: str = "glove-wiki-gigaword-100",
    file: str | Path | None = None,
    dim: int | None = None,
    training_captions: list[list[str]] | None = None,
    seed: int,
    cache_dir: Path,
    on_missing: str,
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
    if kind not in KINDS:
        raise UserError(f"unknown embedding={kind}{nearest(kind, KINDS)}")
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


class _NotToBeHad(Exception):
    """A set of vectors is neither on this machine nor can it be downloaded."""


_WAYS_OUT = (
    ". Ways out: embedding=file embedding.file=VECTORS (word2vec or GloVe format), "
    "embedding.name=ONE_THAT_IS_PRESENT, GENSIM_DATA_DIR=FOLDER (gensim's own layout), "
    "embedding=word2vec or embedding=learned, which need no download"
)


def _share(found: np.ndarray) -> float:
    return float(found.mean()) if found.size else 0.0


def _glove(
    words: Sequence[str], name: str, *, seed: int, cache_dir: Path, on_missing: str
) -> Embeddings:
    try:
        path = _gensim_file(name, cache_dir)
    except _NotToBeHad as problem:
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
        return _fill(words, _read_vectors(path, words), seed)

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
    return _kept(compute, key=key, source="word2vec (training captions)", cache_dir=cache_dir)


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
    path = cache_dir / "embeddings" / f"{fingerprint('embeddings', _VERSION, *key)}.npz"
    if not path.exists():
        with lock(path):
            if not path.exists():
                matrix, found = compute()
                with atomic_write(path) as temporary:
                    np.savez(temporary, matrix=matrix, found=found)
    with np.load(path, allow_pickle=False) as arrays:
        return Embeddings(arrays["matrix"], arrays["found"], source, pretrained=True)


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
    for number in np.flatnonzero(found):
        matrix[number] = vector_of[words[number]]
    return matrix, found


def _train_word2vec(
    captions: list[list[str]], dim: int, seed: int
) -> tuple[dict[str, np.ndarray], int]:
    from gensim.models import Word2Vec

    # Several workers take sentences in the order of their chance.
    model = Word2Vec(captions, vector_size=dim, seed=seed, workers=1, **_WORD2VEC)
    return {word: model.wv[word] for word in model.wv.index_to_key}, dim


def _vector_file(file: str | Path | None) -> Path:
    if not file:
        raise UserError("embedding=file needs embedding.file=VECTORS")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"embedding.file={file}: no such file")
    return path


def _gensim_file(name: str, cache_dir: Path) -> Path:
    """The file of one of gensim's sets, downloaded if need be.

    gensim's own `load` asks the network, without a time limit, even for a set that is present, and
    keeps all of its vectors in memory; so only its addresses and its layout are used.
    """
    folder = Path(os.environ.get("GENSIM_DATA_DIR") or "~/gensim-data").expanduser()
    if path := _present(folder, name):
        return path
    present = sorted(entry.name for entry in folder.glob("*") if _present(folder, entry.name))
    known = {*GENSIM_NAMES, *present, *_listed(folder)}
    tried = f"word vectors {name} are not in {folder} (which has {', '.join(present) or 'none'})"
    from gensim import downloader

    try:
        listing = network.fetch(downloader.DATA_LIST_URL, max_bytes=_MOST_LIST)
        online: dict[str, dict] = json.loads(listing)["models"]
    except (network.NetworkError, ValueError, KeyError) as error:
        if name not in known:
            hint = nearest(name, known)
            raise UserError(f"unknown word vectors embedding.name={name}{hint}") from error
        raise _NotToBeHad(f"{tried} and could not be downloaded ({error})") from error
    if name not in online:
        hint = nearest(name, known | set(online))
        raise UserError(f"unknown word vectors embedding.name={name}{hint}")
    try:
        with lock(cache_dir / "embeddings" / f"download-{name}"):
            if not _present(folder, name):
                _download(online[name], f"{downloader.DOWNLOAD_BASE_URL}/{name}", folder / name)
    except (network.NetworkError, OSError, ValueError) as error:
        raise _NotToBeHad(f"{tried} and could not be downloaded ({error})") from error
    if path := _present(folder, name):
        return path
    raise _NotToBeHad(f"{folder / name} holds no vectors; remove it, to download it again")


def _present(folder: Path, name: str) -> Path | None:
    """The file with a set's vectors in gensim's folder, if it is there."""
    file_name = _listed(folder).get(name, {}).get("file_name", f"{name}.gz")
    path = folder / name / Path(file_name).name
    return path if path.is_file() else None


def _listed(folder: Path) -> dict[str, dict]:
    """The word vectors in gensim's list as it was last downloaded; none if it never was."""
    try:
        return json.loads((folder / "information.json").read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError):
        return {}


def _download(entry: dict, base_url: str, folder: Path) -> None:
    """Fetch a set as gensim's list describes it, in gensim's layout."""
    name, parts = folder.name, int(entry.get("parts", 1))
    target = folder / f"{name}.gz"
    # gensim takes a folder for a set that is present, and imports it.
    initial = network.fetch(f"{base_url}/__init__.py", max_bytes=_MOST_LIST)
    pieces = [target] if parts == 1 else [folder / f"{name}.gz_0{part}" for part in range(parts)]
    for part, piece in enumerate(pieces):
        network.fetch_file(
            f"{base_url}/{name}.gz" if parts == 1 else f"{base_url}/{piece.name}",
            piece,
            max_bytes=_MOST_VECTORS,
            checksum=("md5", entry.get("checksum" if parts == 1 else f"checksum-{part}", "")),
            resume=True,
            work=piece.name,
        )
    if parts > 1:
        with atomic_write(target) as temporary, open(temporary, "wb") as whole:
            for piece in pieces:
                with open(piece, "rb") as opened:
                    shutil.copyfileobj(opened, whole)
        for piece in pieces:
            piece.unlink()
    with atomic_write(folder / "__init__.py") as temporary:
        temporary.write_bytes(initial)


def _read_vectors(path: Path, words: Sequence[str]) -> tuple[dict[str, np.ndarray], int]:
    """The vectors of `words` in a file of any known format, and their width.

    Raises UserError, naming the file, if it is damaged or holds something else.
    """
    words = words[len(SPECIAL_WORDS) :]
    try:
        with _opened(path) as file:
            if _is_binary(file):
                return _read_binary(path, words)
            return _read_text(file, {word.encode(): word for word in words})
    except (ValueError, ArithmeticError, EOFError, MemoryError, OSError, zlib.error) as error:
        raise UserError(
            f"{path}: not word vectors in word2vec or GloVe format, or damaged ({error})"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as raw:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        with gzip.open(raw) if zipped else raw as file:
            yield file


def _is_binary(file: BinaryIO) -> bool:
    """Whether the vectors follow the header as bytes; raw floats are soon no text."""
    head = file.read(1 << 16)
    file.seek(0)
    header, _, body = head.partition(b"\n")
    control = re.search(rb"[\x00-\x08\x0e-\x1f]", body)
    return control is not None and _header(header) is not None


def _header(line: bytes) -> tuple[int, int] | None:
    """How many vectors and how wide, if this is word2vec's first line."""
    match = re.fullmatch(rb"(\d+)\s+(\d+)\s*", line)
    return (int(match[1]), int(match[2])) if match else None


def _read_binary(path: Path, words: Sequence[str]) -> tuple[dict[str, np.ndarray], int]:
    from gensim.models import KeyedVectors

    vectors = KeyedVectors.load_word2vec_format(str(path), binary=True, unicode_errors="replace")
    if not np.isfinite(vectors.vectors).all():
        raise ValueError("some numbers are not finite")
    return {w: vectors[w] for w in words if w in vectors.key_to_index}, vectors.vector_size


def _read_text(file: BinaryIO, wanted: dict[bytes, str]) -> tuple[dict[str, np.ndarray], int]:
    """Read "word number number …" lines, keeping the wanted words alone.

    gensim's reader keeps everything, which for the larger sets means gigabytes and minutes.
    """
    first = file.readline()
    header = _header(first)
    count, dim = header or (None, len(first.split()) - 1)
    if dim < 1:
        raise ValueError("line 1 is not a word and its numbers")
    if not header:
        file.seek(0)
    vectors: dict[str, np.ndarray] = {}
    read = 0
    for number, line in enumerate(file, start=2 if header else 1):
        if not line.strip():
            continue
        word = line.split(None, 1)[0]
        read += 1
        # The first vector is checked even if it is not wanted: it shows what the file is.
        if word not in wanted and read > 1:
            continue
        fields = line.split()
        # Some GloVe sets have "words" with spaces in them; no caption's word has.
        if len(fields) > dim + 1:
            continue
        try:
            vector = np.array(fields[1:], dtype=np.float32)
        except ValueError:
            vector = np.empty(0)
        if len(vector) != dim or not np.isfinite(vector).all():
            raise ValueError(f"line {number} is not a word and {dim} numbers")
        if word in wanted:
            vectors.setdefault(wanted[word], vector)
    if read == 0 or count not in (None, read):
        raise ValueError(f"{read} vectors, not the {count} that line 1 announces")
    return vectors, dim
