"""Which known word an unknown one is spelt most like: typing mistakes, derived words."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property

# The least likeness; "skatebord" and "skateboard" have 0.74, "bikers" and "bike" 0.6.
ALIKE = 0.6


def pieces(word: str) -> set[str]:
    """The runs of three letters in a word, its beginning < and its end > included.

    >>> sorted(pieces("dog"))
    ['<do', 'dog', 'og>']
    """
    framed = f"<{word}>"
    return {framed[at : at + 3] for at in range(len(framed) - 2)}


class Spellings:
    """Words that others may stand for; the earlier of two that are as likely is preferred.

    Likeness is Dice's coefficient of two words' pieces, 0..1: twice those in common over all of
    both.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    @cached_property
    def _with(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for at, word in enumerate(self.words):
            for piece in pieces(word):
                found[piece].append(at)
        return found

    @cached_property
    def _sizes(self) -> list[int]:
        return [len(pieces(word)) for word in self.words]

    def most_like(self, word: str) -> int | None:
        """The position of the word that is spelt most like `word`; None: no one is ALIKE."""
        own = pieces(word)
        shared = Counter(at for piece in own for at in self._with.get(piece, ()))
        scores = {at: 2 * n / (len(own) + self._sizes[at]) for at, n in shared.items()}
        best = max(scores, key=lambda at: (scores[at], -at), default=None)
        return best if best is not None and scores[best] >= ALIKE else None
