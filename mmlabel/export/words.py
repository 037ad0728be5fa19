"""Spellings to word numbers, so that captions are encoded without NLTK and WordNet."""

from collections.abc import Iterator

from mmlabel.data.captions import UNKNOWN, Vocabulary, lemmas_of

# How WordNet's plural endings are made, the other way round (its morphy for nouns).
_ENDINGS = (
    ("", "s"), ("s", "ses"), ("f", "ves"), ("x", "xes"), ("z", "zes"), ("ch", "ches"),
    ("sh", "shes"), ("man", "men"), ("y", "ies"),
)  # fmt: skip


def spellings(vocabulary: Vocabulary) -> tuple[dict[str, int], str | None]:
    """The number of each spelling that has one, and a note if there may be others.

    With lemmas these are the spellings met in the data, the words themselves and every plural that
    WordNet would bring back to one of the words: its rules are few, and its irregular nouns are a
    list. So no caption is encoded otherwise than with WordNet. Without it only the spellings met.
    """
    numbers = {word: number for word, number in vocabulary.index.items() if number > UNKNOWN}
    if vocabulary.forms is None:
        return numbers, None
    # What a word is spelt like that is met nowhere must go through WordNet as well.
    others = [word for word in numbers if word not in vocabulary.forms]
    lemmas, problem = lemmas_of(list(dict.fromkeys([*others, *_plurals(numbers)])), {})
    if problem is None:
        lemmas |= lemmas_of(list(_irregular(numbers)), lemmas)[0]
    lemmas |= vocabulary.forms
    return {form: numbers[lemma] for form, lemma in lemmas.items() if lemma in numbers}, problem


def _plurals(words: dict[str, int]) -> Iterator[str]:
    for word in words:
        for ending, plural in _ENDINGS:
            if word.endswith(ending):
                yield word[: len(word) - len(ending)] + plural


def _irregular(words: dict[str, int]) -> Iterator[str]:
    from nltk.corpus import wordnet  # which `lemmas_of` has found

    for plural, singulars in wordnet._exception_map["n"].items():
        if any(singular in words for singular in singulars):
            yield plural
