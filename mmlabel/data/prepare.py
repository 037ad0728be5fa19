"""A data set made ready for a model, but for its pictures: rows, splits, captions, word vectors."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from mmlabel.data.annotations import Annotations
from mmlabel.data.captions import (
    SPECIAL_WORDS,
    EncodedCaptions,
    Vocabulary,
    encode,
    encode_texts,
    tokenise,
)
from mmlabel.data.embeddings import Embeddings, check_coverage, load_embeddings
from mmlabel.data.subwords import Subwords
from mmlabel.errors import UserError
from mmlabel.wording import count, listed

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PreparedData:
    """What the model's shape and the batches depend on.

    Attributes:
        annotations: all rows of the data set.
        rows: sorted row numbers of "train", "val" and "test".
        vocabulary: the words that token numbers stand for.
        captions: all rows' captions as word numbers; 1 is an unknown word.
        embeddings: vectors of the vocabulary's words; None without captions, or with a vocabulary
            that came from a checkpoint.
        tokenizer: of a pretrained text transformer, whose tokens the captions then are.
        coverage: shares of the words, and of the training tokens, that have a vector.
        notes: what the run has to go without.
    """

    annotations: Annotations
    rows: dict[str, np.ndarray]
    vocabulary: Vocabulary
    captions: EncodedCaptions
    embeddings: Embeddings | None = None
    tokenizer: Subwords | None = None
    coverage: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, note: str | None) -> None:
        """Say what the run has to go without, and put it into the run's record."""
        if note:
            self.notes.append(note)
            log.warning("%s", note)

    @property
    def label_names(self) -> list[str]:
        """Name of each label number, "" where there is none."""
        return self.annotations.label_names

    @property
    def training_targets(self) -> np.ndarray:
        """(N, num_labels) uint8 of the training split, which loss weights are counted on."""
        return self.annotations.targets[self.rows["train"]]

    @property
    def training_known(self) -> np.ndarray | None:
        """(N, num_labels) bool of the training split, which of its targets are; None: all."""
        known = self.annotations.known
        return None if known is None else known[self.rows["train"]]

    @property
    def training_label_order(self) -> np.ndarray | None:
        """`Annotations.label_order` of the training split."""
        order = self.annotations.label_order
        return None if order is None else order[self.rows["train"]]

    def leave_out(self, rows: np.ndarray, why: str) -> None:
        """Take these row numbers out of every split, and note it.

        Raises UserError if nothing is left of a split.
        """
        if not len(rows):
            return
        names = dict.fromkeys(self.annotations.ids[row] for row in rows)
        self.note(f"{count(len(rows), 'row')} left out, {why}: {listed(list(names))}")
        before, self.rows = self.rows, {s: np.setdiff1d(own, rows) for s, own in self.rows.items()}
        for split, own in self.rows.items():
            if len(own) == 0 < len(before[split]):  # of data.splits=test there are no others
                raise UserError(f"no row is left in the {split} split: {len(rows)} left out, {why}")


def without_captions(
    annotations: Annotations, rows: dict[str, np.ndarray], vocabulary: Vocabulary | None = None
) -> PreparedData:
    """For a model that looks at pictures alone."""
    return PreparedData(
        annotations=annotations,
        rows=rows,
        vocabulary=vocabulary or Vocabulary(SPECIAL_WORDS),
        captions=EncodedCaptions.empty(len(annotations)),
    )


def _with(
    captions: EncodedCaptions,
    annotations: Annotations,
    rows: dict[str, np.ndarray],
    vocabulary: Vocabulary,
) -> PreparedData:
    prepared = PreparedData(
        annotations=annotations, rows=rows, vocabulary=vocabulary, captions=captions
    )
    for note in captions.notes:
        prepared.note(note)
    return prepared


def with_known_words(
    annotations: Annotations,
    rows: dict[str, np.ndarray],
    vocabulary: Vocabulary,
    *,
    max_length: int | None,
) -> PreparedData:
    """Captions encoded as those behind a checkpoint's vocabulary were."""
    captions = encode_texts(annotations.captions, vocabulary, max_length=max_length)
    return _with(captions, annotations, rows, vocabulary)


def with_tokens(
    annotations: Annotations, rows: dict[str, np.ndarray], tokenizer: Subwords, *, max_length: int
) -> PreparedData:
    """Captions as the tokens of a pretrained text transformer."""
    captions = tokenizer.encode(annotations.captions, max_length=max_length)
    prepared = _with(captions, annotations, rows, Vocabulary(SPECIAL_WORDS))
    prepared.tokenizer = tokenizer
    return prepared


def with_captions(
    annotations: Annotations,
    rows: dict[str, np.ndarray],
    *,
    training: np.ndarray,
    lemmas: Literal["wordnet", "none"],
    min_count: int,
    unknown_words: Literal["one", "similar"],
    max_length: int | None,
    embedding: dict,
    seed: int,
    cache_dir: Path,
    on_missing: Literal["error", "continue"],
) -> PreparedData:
    """Captions tokenised, numbered by the words of the training rows, and their vectors.

    Args:
        training: the rows that are trained on.
        lemmas, min_count, max_length: see `mmlabel.data.captions`.
        unknown_words: "one" number for all that training has not met, or that of a "similar" word.
        embedding: arguments of `load_embeddings`.
        seed: of vectors that are drawn or trained.
        cache_dir: where all of it is kept between runs.
        on_missing: what to do without WordNet or vectors, "error" or "continue".

    Raises UserError for what cannot be had, and where no word is left.
    """
    tokenised = tokenise(
        annotations.captions, lemmas=lemmas, cache_dir=cache_dir, on_missing=on_missing
    )
    similar = unknown_words == "similar"
    vocabulary = Vocabulary.build(tokenised, training, min_count=min_count, similar=similar)
    if min_count > 1 and vocabulary.words == SPECIAL_WORDS:
        raise UserError(
            f"captions.min_count={min_count}: no word of the {count(len(training), 'row')} to"
            " train on occurs so often, so that captions would say nothing; give less"
        )
    captions = encode(tokenised, vocabulary, max_length=max_length)
    prepared = _with(captions, annotations, rows, vocabulary)
    trained_on = tokenised.word_lists(training) if embedding["kind"] == "word2vec" else None
    prepared.embeddings = load_embeddings(
        vocabulary,
        **embedding,
        training_captions=trained_on,
        seed=seed,
        cache_dir=cache_dir,
        on_missing=on_missing,
    )
    prepared.note(prepared.embeddings.note)
    if prepared.embeddings.pretrained:
        training_words = captions.take(training).ids
        prepared.coverage = prepared.embeddings.coverage(training_words)
        prepared.note(check_coverage(prepared.embeddings, training_words, on_missing=on_missing))
    return prepared
