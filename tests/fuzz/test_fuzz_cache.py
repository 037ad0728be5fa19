"""Any change of a cache entry's bytes gives what a fresh computation gives.

MMLABEL_FUZZ=N tries N examples of each; by default there are few, and always the same.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from examples import drawing
from hypothesis import given
from hypothesis import strategies as st

from mmlabel.data.captions import TokenisedCaptions, Vocabulary, tokenise
from mmlabel.data.embeddings import Embeddings, load_embeddings
from mmlabel.data.splits import split_rows

fuzz = drawing(40)

TEXTS = ["a man's dog", "two dogs run", "", "the caf\u00e9 \U0001f436 na\u00efve"] * 3
WORDS = Vocabulary(["<pad>", "<unk>", "dog", "a", "zebra"])
TARGETS = np.random.default_rng(0).random((40, 4)) < 0.4


def captions(cache: Path) -> dict[str, object]:
    made: TokenisedCaptions = tokenise(TEXTS, lemmas="none", cache_dir=cache, on_missing="error")
    return {"words": made.words, "ids": made.ids, "offsets": made.offsets, "forms": made.forms}


def vectors(cache: Path) -> dict[str, object]:
    file = cache / "vectors.txt"
    if not file.exists():
        file.write_text("dog 1 2 3\na 4 5 6\n", encoding="utf-8")
    made: Embeddings = load_embeddings(
        WORDS, kind="file", file=file, seed=0, cache_dir=cache, on_missing="error"
    )
    return {"matrix": made.matrix, "found": made.found}


def splits(cache: Path) -> dict[str, object]:
    return dict(split_rows(TARGETS, cache_dir=cache))


KINDS: dict[str, tuple[str, Callable[[Path], dict[str, object]]]] = {
    "captions": ("captions", captions),
    "embeddings": ("embeddings", vectors),
    "splits": ("splits", splits),
}

changes = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("drop"), st.floats(0, 1), st.integers(1, 300)),
        st.tuples(st.just("zero"), st.floats(0, 1), st.integers(1, 5000)),
        st.tuples(st.just("whole"), st.just(0.0), st.binary(max_size=300)),
    ),
    min_size=1,
    max_size=3,
)


def changed(content: bytes, steps: list[tuple]) -> bytes:
    for kind, share, detail in steps:
        at = min(int(share * len(content)), max(len(content) - 1, 0))
        if kind == "flip" and content:
            flipped = content[at] ^ (1 << detail)
            content = content[:at] + bytes([flipped]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + detail + content[at:]
        elif kind == "drop":
            content = content[:at] + content[at + detail :]
        elif kind == "zero":
            content = content[:at] + bytes(len(content[at : at + detail])) + content[at + detail :]
        elif kind == "whole":
            content = detail
    return content


def assert_same(made: dict[str, object], expected: dict[str, object]) -> None:
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_equal(made[name], value)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, object]]]:
    """A cache of each kind, and what is in it."""
    made = {}
    for kind, (_, compute) in KINDS.items():
        cache = tmp_path_factory.mktemp(kind)
        made[kind] = cache, compute(cache)
    return made


@pytest.mark.parametrize("kind", KINDS)
@given(steps=changes)
@fuzz
def test_a_changed_entry_is_never_used(kind: str, fresh: dict, steps: list[tuple]) -> None:
    folder, compute = KINDS[kind]
    cache, expected = fresh[kind]
    (entry,) = (cache / folder).glob("*.entry")
    whole = entry.read_bytes()
    try:
        entry.write_bytes(changed(whole, steps))
        assert_same(compute(cache), expected)
        # And it is whole again, which the next start reads.
        assert entry.read_bytes()[:50] == whole[:50]
        assert_same(compute(cache), expected)
    finally:
        entry.write_bytes(whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["folder", "full folder", "pipe", "absent", "absent kind"])
def test_something_else_in_its_place(kind: str, what: str, tmp_path: Path) -> None:
    folder, compute = KINDS[kind]
    expected = compute(tmp_path)
    (entry,) = (tmp_path / folder).glob("*.entry")
    entry.unlink()
    if what == "pipe":
        os.mkfifo(entry)
    elif what == "absent kind":
        shutil.rmtree(tmp_path / folder)
    elif what != "absent":
        entry.mkdir()
        if what == "full folder":
            (entry / "file").write_text("x", encoding="utf-8")
    for _ in range(2):
        assert_same(compute(tmp_path), expected)
    assert entry.is_file()
