"""What a data set holds: labels, captions, pictures, and what is wrong with them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmlabel.data.annotations import Annotations
from mmlabel.data.captions import SPECIAL_WORDS, TokenisedCaptions, Vocabulary, encode
from mmlabel.data.embeddings import Embeddings
from mmlabel.data.pictures import BadPicture, decode, read_picture
from mmlabel.processors import cores
from mmlabel.progress import progress

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NO_SPLIT = "none"  # of a picture that data.splits leaves out
_AT_ONCE = 256  # pictures whose pixels are in memory at a time, at most


@dataclass(frozen=True)
class Labels:
    """The labels of N rows, L of them that have a name.

    Attributes:
        numbers, names: of each.
        counts: by split, (L,) rows that have it.
        together: (L, L) rows that have both, without the pairs that never occur; on the diagonal
            rows that have the one.
        per_row: (N,) how many a row has.
        unknown: cells of which it is not known whether the row has the label.
    """

    numbers: list[int]
    names: list[str]
    counts: dict[str, np.ndarray]
    together: "csr_array"
    per_row: np.ndarray
    unknown: int

    @property
    def commonest_first(self) -> list[int]:
        """Places in the lists above."""
        rows = np.asarray(self.together.diagonal(), dtype=np.int64)
        return np.argsort(-rows, kind="stable").tolist()

    def companion(self, place: int) -> int | None:
        """The label that most rows with this one have too; None if it is always alone."""
        begin, end = self.together.indptr[place : place + 2]
        others, rows = self.together.indices[begin:end], self.together.data[begin:end].copy()
        rows[others == place] = 0
        if not rows.any():
            return None
        return int(others[rows == rows.max()].min())  # of equals the first


@dataclass(frozen=True)
class Captions:
    """The captions of N rows.

    Attributes:
        lengths: (N,) words.
        repeated: rows whose caption another row has, too, word for word.
        words: how many different ones the training rows have.
        rarer: those of them that are too rare to have a number of their own.
        without_vector: the others without a ready-made vector and how often they occur there,
            commonest first; None where there are no ready-made vectors.
        asked_for: whether ready-made vectors are, to be had or not.
        share_without: of the training rows' words, 0..1; those without a number have none.
        source: of the vectors.
    """

    lengths: np.ndarray
    repeated: int
    words: int
    rarer: int = 0
    without_vector: list[tuple[str, int]] | None = None
    asked_for: bool = False
    share_without: float = 0.0
    source: str = ""

    @property
    def usual(self) -> tuple[int, int]:
        """How long the caption in the middle is, and how long 95 % are at most."""
        # Lengths that there are: of one between two it would not be true.
        middle, most = np.percentile(self.lengths, [50, 95], method="inverted_cdf").tolist()
        return middle, most


class Copy(NamedTuple):
    """A picture of several that are the same, pixel for pixel."""

    id: str
    split: str
    path: Path
    labels: tuple[str, ...]
    unknown: tuple[str, ...] = ()  # of which it is not known whether it has them


@dataclass(frozen=True)
class Pictures:
    """The picture files of a data set, each once.

    Attributes:
        count: how many.
        sizes: (width, height) in px as they are shown, and how many have it, commonest first.
        copies: groups of pictures with the same pixels.
        unreadable: image id and reason.
        upright: whether they are turned as their EXIF data says, here and where they are shown.
    """

    count: int
    sizes: list[tuple[tuple[int, int], int]]
    copies: list[list[Copy]]
    unreadable: list[tuple[str, str]]
    upright: bool

    @cached_property
    def leaks(self) -> list[list[Copy]]:
        """The groups whose pictures stand in several splits."""
        return [group for group in self.copies if len(splits_of(group)) > 1]

    @cached_property
    def contradictions(self) -> list[list[Copy]]:
        """The groups of whose pictures one has a label that another is known not to have."""
        return [
            group
            for group in self.copies
            for given in [{label for copy in group for label in copy.labels}]
            if any(given - {*copy.labels, *copy.unknown} for copy in group)
        ]


def splits_of(group: Sequence[Copy]) -> set[str]:
    """The splits in which copies of a picture stand; some may be in none."""
    return {copy.split for copy in group} - {NO_SPLIT}


def labels_of(annotations: Annotations, rows: Mapping[str, np.ndarray]) -> Labels:
    """Counts of the labels; `rows` are the row numbers of each split."""
    numbers = [number for number, name in enumerate(annotations.label_names) if name]
    from scipy.sparse import csr_array

    targets = annotations.targets[:, numbers]
    # Of 10,000 labels most pairs never occur: a full table would be 800 MB of zeros.
    sparse = csr_array(targets.astype(np.int64))
    return Labels(
        numbers=numbers,
        names=[annotations.label_names[number] for number in numbers],
        counts={split: targets[own].sum(axis=0, dtype=np.int64) for split, own in rows.items()},
        together=csr_array(sparse.T @ sparse),
        per_row=targets.sum(axis=1, dtype=np.int64),
        unknown=0 if annotations.known is None else int((~annotations.known[:, numbers]).sum()),
    )


def captions_of(
    captions: Sequence[str],
    tokenised: TokenisedCaptions,
    vocabulary: Vocabulary,
    embeddings: Embeddings | None,
    training: np.ndarray,
) -> Captions:
    """Lengths of all captions, and the words of those in the training rows.

    Args:
        captions: of all rows.
        tokenised: the same as words.
        vocabulary: of the training rows.
        embeddings: of its words; None: no ready-made ones are asked for.
        training: row numbers.
    """
    times = Counter(captions)
    every = Vocabulary.build(tokenised, training)
    found = Captions(
        lengths=np.diff(tokenised.offsets),
        repeated=sum(n for caption, n in times.items() if n > 1 and caption.strip()),
        words=len(every) - len(SPECIAL_WORDS),
        rarer=len(every) - len(vocabulary),
        asked_for=embeddings is not None,
    )
    if embeddings is None or not embeddings.pretrained:
        return found
    tokens = encode(tokenised, vocabulary).take(training).ids
    counts = np.bincount(tokens, minlength=len(vocabulary))
    lacking = [n for n in range(len(SPECIAL_WORDS), len(vocabulary)) if not embeddings.found[n]]
    lacking.sort(key=lambda n: (-counts[n], vocabulary.words[n]))
    return replace(
        found,
        without_vector=[(vocabulary.words[n], int(counts[n])) for n in lacking],
        share_without=1 - embeddings.coverage(tokens)[1] if len(tokens) else 0.0,
        source=embeddings.source,
    )


class _Seen(NamedTuple):
    size: tuple[int, int]
    pixels: bytes


def pictures_of(
    annotations: Annotations, rows: Mapping[str, np.ndarray], *, upright: bool
) -> Pictures:
    """Decode every picture: sizes, those with the same pixels, those that cannot be read.

    Args:
        annotations: of the data set.
        rows: the row numbers of each split.
        upright: whether pictures are turned as their EXIF data says.
    """
    split_of = {annotations.ids[row]: split for split, own in rows.items() for row in own.tolist()}
    first = annotations.first_rows

    def look(row: int) -> _Seen | str:
        path = annotations.pictures[row]
        try:
            picture = decode(read_picture(path), path, upright=upright)
        except BadPicture as error:
            return error.reason
        return _Seen(picture.size, hashlib.sha256(picture.tobytes()).digest())

    sizes: Counter[tuple[int, int]] = Counter()
    unreadable: list[tuple[str, str]] = []
    same: dict[tuple, list[Copy]] = {}
    chosen = list(first.values())
    with (
        progress("looking at pictures", len(chosen)) as advance,
        ThreadPoolExecutor(cores()) as pool,
    ):
        for at in range(0, len(chosen), _AT_ONCE):
            part = chosen[at : at + _AT_ONCE]
            for row, seen in zip(part, pool.map(look, part), strict=True):
                id = annotations.ids[row]
                advance(1)
                if isinstance(seen, str):
                    unreadable.append((id, seen))
                    continue
                sizes[seen.size] += 1
                copy = Copy(
                    id,
                    split_of.get(id, NO_SPLIT),
                    annotations.pictures[row],
                    _names(annotations, row),
                )
                same.setdefault(tuple(seen), []).append(copy)
    return Pictures(
        count=len(chosen),
        sizes=sizes.most_common(),
        copies=[
            [copy._replace(unknown=_unknown(annotations, first[copy.id])) for copy in group]
            for group in same.values()
            if len(group) > 1
        ],
        unreadable=unreadable,
        upright=upright,
    )


def _names(annotations: Annotations, row: int) -> tuple[str, ...]:
    return tuple(annotations.label_names[n] for n in np.flatnonzero(annotations.targets[row]))


def _unknown(annotations: Annotations, row: int) -> tuple[str, ...]:
    if annotations.known is None:
        return ()
    return tuple(annotations.label_names[n] for n in np.flatnonzero(~annotations.known[row]))
