"""Captions to the tokens of a pretrained text transformer, as they are written."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mmlabel.data.captions import CaptionCounts, EncodedCaptions, offsets_of
from mmlabel.errors import UserError

MISSING = (
    "pretrained text transformers (caption=transformer, embedding=contextual) need the package"
    " {name}: pip install -e '.[transformer]' (Python 3.11 or later)"
)


class Subwords:
    """A pretrained tokenizer.

    Args:
        definition: of the tokenizer, the JSON text of Hugging Face's `tokenizers`, which is all
            that a checkpoint has to keep of it.

    Raises UserError where that package is missing, and ValueError for another text.
    """

    def __init__(self, definition: str) -> None:
        # Its threads would have to be forgotten by processes that are forked later.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UserError(MISSING.format(name="tokenizers")) from None
        self.definition = definition
        try:
            self._tokenizer = Tokenizer.from_str(definition)
        except Exception as error:  # the package raises Exception itself
            raise ValueError(f"no tokenizer can be made of its definition ({error})") from error
        self._tokenizer.no_padding()

    def __len__(self) -> int:
        """How many tokens it knows."""
        return self._tokenizer.get_vocab_size()

    def encode(self, captions: Sequence[str], *, max_length: int) -> EncodedCaptions:
        """Number the tokens of captions, with those that the tokenizer adds at the ends.

        A caption without a token of its own has none at all, as an empty one has no word. Longer
        ones are cut to `max_length` tokens, which a note says.
        """
        self._tokenizer.enable_truncation(max_length)
        index: dict[str, int] = {}
        # The same caption is tokenised once; a line's end within one is a space.
        which = [index.setdefault(" ".join(text.split()), len(index)) for text in captions]
        found = self._tokenizer.encode_batch(list(index))
        ids = [one.ids if 0 in one.special_tokens_mask else [] for one in found]
        cut = [bool(one.overflowing) for one in found]
        distinct = EncodedCaptions(
            ids=np.asarray([number for own in ids for number in own], dtype=np.int32),
            offsets=offsets_of(np.asarray([len(own) for own in ids], dtype=np.int64)),
        )
        encoded = distinct.take(np.asarray(which, dtype=np.int64))
        counts = CaptionCounts(
            captions=len(captions),
            empty=int((encoded.lengths == 0).sum()),
            cut=sum(cut[place] for place in which),
            kept=max_length,
            unit="token",
        )
        return replace(encoded, counts=counts)
