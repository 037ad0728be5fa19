"""Word vectors: every file format, gensim's own layout, Word2Vec, and what is kept on disk."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from web import Server, serving

from mmlabel import network
from mmlabel.data.captions import Vocabulary, encode, tokenise
from mmlabel.data.embeddings import Embeddings, check_coverage, load_embeddings
from mmlabel.errors import UserError

VECTORS = {
    "dog": [1.5, -2.0, 0.25],
    "caf\u00e9": [0.0, 1.0, 3.0],
    "unwanted": [9.0, 9.0, 9.0],
    "cat": [-1.0, 0.5, 0.125],
}
VOCABULARY = Vocabulary(["<pad>", "<unk>", "cat", "zebra", "dog", "caf\u00e9"])
FOUND = [False, False, True, False, True, True]


def text_of(vectors: dict[str, list[float]], *, header: bool) -> bytes:
    lines = [" ".join([word, *map(str, vector)]) for word, vector in vectors.items()]
    first = [f"{len(vectors)} {len(lines[0].split()) - 1}"] if header else []
    return "\n".join([*first, *lines, ""]).encode()


def binary_of(vectors: dict[str, list[float]]) -> bytes:
    body = [
        w.encode() + b" " + np.asarray(v, dtype="<f4").tobytes() + b"\n" for w, v in vectors.items()
    ]
    return f"{len(vectors)} 3\n".encode() + b"".join(body)


def from_file(path: Path, cache_dir: Path, *, vocabulary: Vocabulary = VOCABULARY, seed: int = 0):
    return load_embeddings(
        vocabulary, kind="file", file=path, seed=seed, cache_dir=cache_dir, on_missing="error"
    )


def from_gensim(name: str, cache_dir: Path, *, on_missing: str = "error") -> Embeddings:
    return load_embeddings(
        VOCABULARY, kind="glove", name=name, seed=0, cache_dir=cache_dir, on_missing=on_missing
    )


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and an empty folder of gensim's, which is returned."""

    def fetch(url: str, *, max_bytes: int) -> bytes:
        raise network.NetworkError(f"{url}: no network")

    monkeypatch.setattr(network, "fetch", fetch)
    monkeypatch.setenv("GENSIM_DATA_DIR", str(tmp_path / "gensim-data"))
    return tmp_path / "gensim-data"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("word2vec.txt", text_of(VECTORS, header=True)),
        ("glove.txt", text_of(VECTORS, header=False)),
        ("word2vec.txt.gz", gzip.compress(text_of(VECTORS, header=True), mtime=0)),
        ("glove.txt.gz", gzip.compress(text_of(VECTORS, header=False), mtime=0)),
        ("marked.txt", b"\xef\xbb\xbf" + text_of(VECTORS, header=True)),
        ("marked.glove.txt", b"\xef\xbb\xbf" + text_of(VECTORS, header=False)),
        ("glove.gz.renamed", gzip.compress(text_of(VECTORS, header=False), mtime=0)),
        ("vectors.bin", binary_of(VECTORS)),
        ("vectors.bin.gz", gzip.compress(binary_of(VECTORS), mtime=0)),
    ],
)
def test_every_format_gives_the_same_vectors(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    loaded = from_file(path, tmp_path)
    assert loaded.matrix.dtype == np.float32 and loaded.matrix.shape == (6, 3)
    assert loaded.found.tolist() == FOUND
    for row in (2, 4, 5):
        assert loaded.matrix[row].tolist() == VECTORS[VOCABULARY.words[row]]
    assert not loaded.matrix[:2].any()
    assert loaded.matrix[3].any()
    assert loaded.pretrained and loaded.note is None and name in loaded.source


def test_the_binary_form_is_gensims(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(50)]
    vectors = KeyedVectors(20)
    vectors.add_vectors(words, rng.normal(size=(50, 20)).astype(np.float32))
    vocabulary = Vocabulary(["<pad>", "<unk>", *words[::-1]])
    for name, binary in [("v.bin", True), ("v.txt", False), ("v.txt.gz", False)]:
        vectors.save_word2vec_format(str(tmp_path / name), binary=binary)
        loaded = from_file(tmp_path / name, tmp_path, vocabulary=vocabulary)
        np.testing.assert_allclose(loaded.matrix[2:], vectors.vectors[::-1], rtol=1e-6)
        assert loaded.found[2:].all()


def test_words_with_spaces_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2\ndog dog 5 6\ndog 3 4\n\n")
    assert from_file(path, tmp_path).matrix[4].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "line 1"),
        ("prose.txt", b"This is no file of vectors\nat all\n", "line 1 is not"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00", "line 1"),
        ("short.txt", b"the 1 2 3\ndog 1 2\n", "line 2 is not a word and 3 numbers"),
        ("nan.txt", b"the 1 2\ndog nan 2\n", "line 2"),
        ("text.txt", b"the 1 2\ndog a b\n", "line 2"),
        ("fewer.txt", b"3 2\nthe 1 2\ndog 1 2\n", "2 vectors, not the 3"),
        ("torn.txt.gz", gzip.compress(text_of(VECTORS, header=True), mtime=0)[:-9], "damaged"),
        ("torn.bin", binary_of(VECTORS)[:-20], "damaged"),
    ],
)
def test_a_bad_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        from_file(tmp_path / name, tmp_path)
    assert name in str(caught.value)
    assert not list(tmp_path.rglob("*.entry"))


def test_a_missing_file_or_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.txt: no such file"):
        from_file(tmp_path / "nowhere.txt", tmp_path)
    options = {"seed": 0, "cache_dir": tmp_path, "on_missing": "error"}
    with pytest.raises(UserError, match="needs embedding.file"):
        load_embeddings(VOCABULARY, kind="file", **options)
    with pytest.raises(UserError, match="training captions"):
        load_embeddings(VOCABULARY, kind="word2vec", training_captions=[[]], **options)


def test_what_is_kept_is_never_stale(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(text_of(VECTORS, header=False))
    first = from_file(path, tmp_path)
    kept = list(tmp_path.rglob("*.entry"))
    assert len(kept) == 1
    again = from_file(path, tmp_path)
    np.testing.assert_array_equal(again.matrix, first.matrix)
    assert list(tmp_path.rglob("*.entry")) == kept
    assert (from_file(path, tmp_path, seed=1).matrix[3] != first.matrix[3]).any()
    other = Vocabulary(["<pad>", "<unk>", "dog", "cat"])
    assert from_file(path, tmp_path, vocabulary=other).matrix[2].tolist() == VECTORS["dog"]
    # As many bytes as before, with other numbers.
    path.write_bytes(text_of({**VECTORS, "dog": [1.5, -2.0, 0.75]}, header=False))
    assert from_file(path, tmp_path).matrix[4].tolist() == [1.5, -2.0, 0.75]


def test_coverage_by_hand() -> None:
    loaded = Embeddings(np.zeros((6, 3)), np.array(FOUND), "", pretrained=True)
    # Of the words cat, zebra, dog, café three are found; of six tokens cat, cat and dog.
    tokens = np.array([[2, 2, 3, 0], [4, 1, 1, 0], [0, 0, 0, 0]])
    assert loaded.coverage(tokens) == (3 / 4, 3 / 6)
    assert loaded.coverage(tokens[2:]) == (3 / 4, 0.0)


def test_little_coverage_is_said_and_none_is_refused() -> None:
    found = np.array([False, False, *[True] * 3, *[False] * 97])

    def note(tokens: list[int], *, pretrained: bool = True, on_missing="error") -> str | None:
        loaded = Embeddings(np.zeros((102, 3)), found, "vectors.txt", pretrained=pretrained)
        return check_coverage(loaded, np.array(tokens), on_missing=on_missing)

    assert note([2, 3, 4, 5, 6]) is None
    half = note([2, 3, 5, 6, 7])
    assert half and "40.0% have a vector in vectors.txt" in half
    nothing = [2, *range(5, 102)] * 3
    with pytest.raises(
        UserError, match="only .* 1.0% have a vector in vectors.txt.*languag"
    ) as caught:
        note(nothing)
    for way_out in ("embedding=learned", "embedding=word2vec", "embedding=file", "on_missing"):
        assert way_out in str(caught.value)
    assert "1.0%" in (note(nothing, on_missing="continue") or "")
    assert note(nothing, pretrained=False) is None
    assert note([0, 0]) is None  # that captions are empty is said elsewhere


def test_chinese_captions_and_english_vectors(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_bytes(text_of(VECTORS, header=False))
    texts = ["一只狗在草地上奔跑。", "两个男人和一辆卡车", "桌子上有一个比萨饼"] * 3
    tokenised = tokenise(texts, lemmas="none", cache_dir=tmp_path, on_missing="error")
    vocabulary = Vocabulary.build(tokenised, np.arange(9))
    loaded = from_file(tmp_path / "glove.txt", tmp_path, vocabulary=vocabulary)
    with pytest.raises(UserError, match="only .* 0.0% have a vector in glove.txt.*by spaces"):
        check_coverage(loaded, encode(tokenised, vocabulary).ids, on_missing="error")


def test_learned_vectors_are_small_random_and_repeatable(tmp_path: Path) -> None:
    def learned(seed: int, dim: int | None) -> Embeddings:
        return load_embeddings(
            VOCABULARY, kind="learned", dim=dim, seed=seed, cache_dir=tmp_path, on_missing="error"
        )

    first = learned(0, 8)
    assert first.matrix.shape == (6, 8) and first.matrix.dtype == np.float32
    assert not first.matrix[:2].any() and np.abs(first.matrix[2:]).min() > 0
    assert not first.pretrained and not first.found.any()
    np.testing.assert_array_equal(first.matrix, learned(0, 8).matrix)
    assert (first.matrix[2:] != learned(1, 8).matrix[2:]).all()
    assert learned(0, None).matrix.shape == (6, 100)


def test_word2vec_is_repeatable_and_knows_the_words(tmp_path: Path) -> None:
    captions = [["cat", "dog"], ["zebra", "dog", "cat"], ["dog"], []] * 20

    def trained(folder: str, *, seed: int = 0, dim: int = 6, texts: list = captions) -> Embeddings:
        return load_embeddings(
            VOCABULARY,
            kind="word2vec",
            dim=dim,
            training_captions=texts,
            seed=seed,
            cache_dir=tmp_path / folder,
            on_missing="error",
        )

    first = trained("one")
    assert first.found.tolist() == [False, False, True, True, True, False]
    assert first.matrix.shape == (6, 6) and not first.matrix[:2].any()
    np.testing.assert_array_equal(first.matrix, trained("two").matrix)
    assert (first.matrix[2] != trained("one", seed=1).matrix[2]).any()
    assert trained("one", dim=4).matrix.shape == (6, 4)
    assert (first.matrix[2] != trained("one", texts=captions[:40]).matrix[2]).any()
    np.testing.assert_array_equal(first.matrix, trained("one").matrix)


def test_a_missing_set_is_one_message_with_ways_out(offline: Path, tmp_path: Path) -> None:
    (offline / "glove-twitter-25").mkdir(parents=True)
    content = gzip.compress(text_of(VECTORS, header=True))
    (offline / "glove-twitter-25" / "glove-twitter-25.gz").write_bytes(content)
    assert from_gensim("glove-twitter-25", tmp_path).matrix[4].tolist() == VECTORS["dog"]
    with pytest.raises(UserError) as caught:
        from_gensim("glove-wiki-gigaword-50", tmp_path)
    message = str(caught.value)
    for part in [
        f"glove-wiki-gigaword-50 are not in {offline} (which has glove-twitter-25)",
        "no network",
        "GENSIM_DATA_DIR",
        "embedding=file",
        "embedding=word2vec",
        "embedding=learned",
    ]:
        assert part in message
    loaded = from_gensim("glove-wiki-gigaword-50", tmp_path, on_missing="continue")
    assert loaded.matrix.shape == (6, 50) and not loaded.pretrained
    assert "random vectors are trained instead" in loaded.note


@pytest.mark.parametrize("on_missing", ["error", "continue"])
def test_a_misspelt_set_is_named(on_missing: str, offline: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='did you mean "glove-wiki-gigaword-100"'):
        from_gensim("glove-wiki-gigword-100", tmp_path, on_missing=on_missing)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_set_is_downloaded_once(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import hashlib

    import gensim.downloader

    content = gzip.compress(text_of(VECTORS, header=True))
    cuts = [round(part * len(content) / parts) for part in range(parts + 1)]
    pieces = [content[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    names = [".gz"] if parts == 1 else [f".gz_0{part}" for part in range(parts)]
    keys = ["checksum"] if parts == 1 else [f"checksum-{part}" for part in range(parts)]
    entry = {"parts": parts, "file_name": "tiny-3.gz"}
    entry |= {k: hashlib.md5(p).hexdigest() for k, p in zip(keys, pieces, strict=True)}
    wrong = entry | {key: "0" * 32 for key in keys}
    listing = {"corpora": {}, "models": {"tiny-3": entry, "other-3": wrong}}
    files = {"/list.json": json.dumps(listing).encode()}
    for name in ("tiny-3", "other-3"):
        files[f"/{name}/__init__.py"] = b"def load_data(): return 7"
        files |= {f"/{name}/{name}{end}": p for end, p in zip(names, pieces, strict=True)}
    monkeypatch.setattr(network, "BACKOFF", 0.01)
    # Set after gensim was imported, which reads it only then.
    monkeypatch.setenv("GENSIM_DATA_DIR", str(tmp_path / "data"))
    with serving(Server(files, cuts={f"/tiny-3/tiny-3{names[-1]}": [7]})) as server:
        monkeypatch.setattr(gensim.downloader, "DATA_LIST_URL", f"{server.url}/list.json")
        monkeypatch.setattr(gensim.downloader, "DOWNLOAD_BASE_URL", server.url)
        with pytest.raises(UserError, match='did you mean "tiny-3"'):
            from_gensim("tiny-2", tmp_path)
        assert from_gensim("tiny-3", tmp_path).matrix[2].tolist() == VECTORS["cat"]
        # A torn download is not taken for the set.
        with pytest.raises(UserError, match="md5 hash"):
            from_gensim("other-3", tmp_path)
    assert capsys.readouterr().out == ""
    present = sorted(p.name for p in (tmp_path / "data" / "tiny-3").iterdir())
    assert present == ["__init__.py", "tiny-3.gz"]
    assert (tmp_path / "data" / "tiny-3" / "tiny-3.gz").read_bytes() == content
    assert from_gensim("tiny-3", tmp_path).found.tolist() == FOUND
    # gensim finds it, too.
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(gensim.downloader, "_get_filename", lambda name: f"{name}.gz")
    assert gensim.downloader.load("tiny-3") == 7


def test_replaced_vectors_of_a_set_are_noticed(offline: Path, tmp_path: Path) -> None:
    path = offline / "tiny-3" / "tiny-3.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(text_of(VECTORS, header=True)))
    assert from_gensim("tiny-3", tmp_path).matrix[4].tolist() == VECTORS["dog"]
    path.write_bytes(gzip.compress(text_of({"dog": [1.0, 2.0, 3.0]}, header=True)))
    assert from_gensim("tiny-3", tmp_path).matrix[4].tolist() == [1, 2, 3]


def test_the_real_glove_vectors(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gensim.models import KeyedVectors

    monkeypatch.setenv("GENSIM_DATA_DIR", str(shared / "gensim-data"))
    name = "glove-wiki-gigaword-50"
    text = (shared / "data" / "usyd" / "captions-27k.csv").read_text(encoding="utf-8")
    lines = [line.split(",", 2)[-1] for line in text.splitlines()[1:2000]]
    tokenised = tokenise(lines, lemmas="none", cache_dir=tmp_path, on_missing="error")
    vocabulary = Vocabulary.build(tokenised, np.arange(len(lines)))
    options = {"kind": "glove", "name": name, "seed": 0, "on_missing": "error"}
    loaded = load_embeddings(vocabulary, cache_dir=tmp_path, **options)
    words, tokens = loaded.coverage(encode(tokenised, vocabulary).ids)
    assert words > 0.9 and tokens > 0.99
    whole = KeyedVectors.load_word2vec_format(shared / "gensim-data" / name / f"{name}.gz")
    for number in range(2, len(vocabulary)):
        word = vocabulary.words[number]
        assert loaded.found[number] == (word in whole)
        if word in whole:
            np.testing.assert_array_equal(loaded.matrix[number], whole[word])


def test_the_second_start_imports_no_gensim(tmp_path: Path) -> None:
    (tmp_path / "vectors.bin").write_bytes(binary_of(VECTORS))
    code = (
        "import sys; from pathlib import Path\n"
        "from mmlabel.data.captions import Vocabulary\n"
        "from mmlabel.data.embeddings import load_embeddings\n"
        "vocabulary = Vocabulary(['<pad>', '<unk>', 'dog', 'cat', 'zebra'])\n"
        f"cache = Path({str(tmp_path)!r})\n"
        "common = dict(seed=0, cache_dir=cache, on_missing='error')\n"
        "one = load_embeddings(vocabulary, kind='file', file=cache / 'vectors.bin', **common)\n"
        "captions = [['dog', 'cat', 'zebra']] * 5\n"
        "two = load_embeddings(vocabulary, kind='word2vec', training_captions=captions, **common)\n"
        "print(one.matrix.sum(), two.matrix.sum(), 'gensim' in sys.modules)\n"
    )

    def start(hash_seed: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    *first, imported = start("1")
    assert imported == "True"
    assert start("1") == [*first, "False"]
    # And word vectors that are trained anew, under another hash seed, are the same ones.
    for kept in tmp_path.rglob("*.entry"):
        kept.unlink()
    assert start("2") == [*first, "True"]


def test_vectors_of_a_file_are_the_same_for_every_seed_but_for_words_without_one(tmp_path: Path):
    (tmp_path / "vectors.txt").write_text("dog 1 2\ncat 3 5\n")
    vocabulary = Vocabulary(["<pad>", "<unk>", "dog", "bird", "cat"])
    made = [
        load_embeddings(
            vocabulary, kind="file", file=tmp_path / "vectors.txt", seed=seed,
            cache_dir=tmp_path / "cache", on_missing="error",
        )
        for seed in (0, 1)
    ]  # fmt: skip
    assert all(vectors.ready_made for vectors in made)
    one, other = (vectors.matrix[vectors.found] for vectors in made)
    assert one.tolist() == other.tolist() == [[1, 2], [3, 5]]
    assert (made[0].matrix[3] != made[1].matrix[3]).any()
    options = {"training_captions": [["dog", "cat"]], "cache_dir": tmp_path, "on_missing": "error"}
    for kind in ("word2vec", "learned"):
        assert not load_embeddings(vocabulary, kind=kind, seed=0, **options).ready_made
