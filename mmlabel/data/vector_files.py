"""Files of word vectors: word2vec's text and binary forms and GloVe's text, also as .gz."""

import codecs
import gzip
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from mmlabel.errors import UserError


def read_vectors(path: Path, words: Sequence[str]) -> tuple[dict[str, np.ndarray], int]:
    """The vectors of `words` in a file of any known format, and their width.

    Raises UserError, naming the file, if it is damaged or holds something else.
    """
    # Its accents may be encoded otherwise than those of captions, which are in NFC.
    spelt = {unicodedata.normalize("NFD", word): word for word in words}
    spelt |= {word: word for word in words}
    try:
        with _opened(path) as file:
            if _is_binary(file):
                return _read_binary(path, spelt)
            return _read_text(file, {form.encode(): word for form, word in spelt.items()})
    except (ValueError, ArithmeticError, EOFError, MemoryError, OSError, zlib.error) as error:
        raise UserError(
            f"{path}: not word vectors in word2vec or GloVe format, or damaged ({error})"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as raw:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        with gzip.open(raw) if zipped else raw as file:
            yield cast(BinaryIO, file)


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


def _read_binary(path: Path, wanted: Mapping[str, str]) -> tuple[dict[str, np.ndarray], int]:
    from gensim.models import KeyedVectors

    vectors = KeyedVectors.load_word2vec_format(str(path), binary=True, unicode_errors="replace")
    if not np.isfinite(vectors.vectors).all():
        raise ValueError("some numbers are not finite")
    found = {word: vectors[form] for form, word in wanted.items() if form in vectors.key_to_index}
    return found, vectors.vector_size


def _read_text(file: BinaryIO, wanted: dict[bytes, str]) -> tuple[dict[str, np.ndarray], int]:
    """Read "word number number …" lines, keeping the wanted words alone.

    gensim's reader keeps everything, which for the larger sets means gigabytes and minutes.
    """
    first = file.readline()
    start = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
    first = first[start:]
    header = _header(first)
    count, dim = header or (None, len(first.split()) - 1)
    if dim < 1:
        raise ValueError("line 1 is not a word and its numbers")
    if not header:
        file.seek(start)
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
