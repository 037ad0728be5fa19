"""Damaged pictures and damaged stores: the right answer or a refusal, never another answer.

A few examples that are the same in every run; MMLABEL_FUZZ=N tries N others of each kind.
"""

import io
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from examples import drawing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmlabel.data import digests
from mmlabel.data.digests import digests_folder, picture_digests
from mmlabel.data.feature_store import FeatureStore
from mmlabel.data.pictures import BadPicture, decode
from mmlabel.data.transforms import picture_views

fuzz = drawing(25)
MOST_PIXELS = 2**20  # so that a damaged header costs no gigabytes, and no minutes
SIZE = 16


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MOST_PIXELS)


@cache
def whole_files() -> dict[str, bytes]:
    """A small picture in every kind of file that data sets come in."""
    values = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)
    picture = Image.fromarray(values)
    deep = Image.fromarray(np.linspace(0, 65535, 24 * 31).reshape(24, 31).astype(np.uint16))
    share = Image.fromarray(np.linspace(0, 1, 24 * 31).reshape(24, 31).astype(np.float32))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [picture.rotate(180)]}
    made = {
        "jpeg": (picture, {"format": "JPEG", "exif": exif}),
        "progressive": (picture, {"format": "JPEG", "progressive": True}),
        "cmyk": (picture.convert("CMYK"), {"format": "JPEG"}),
        "png": (picture, {"format": "PNG", "exif": exif}),
        "palette": (picture.convert("P"), {"format": "PNG", "transparency": bytes([0, 9, 255])}),
        "grey16": (deep, {"format": "PNG"}),
        "gif": (picture.convert("P"), {"format": "GIF", **frames}),
        "webp": (picture, {"format": "WEBP"}),
        "moving webp": (picture, {"format": "WEBP", **frames}),
        "tiff": (picture, {"format": "TIFF", "exif": exif}),
        "packed tiff": (picture, {"format": "TIFF", "compression": "tiff_lzw"}),
        "deep tiff": (deep, {"format": "TIFF"}),
        "float tiff": (share, {"format": "TIFF"}),
        "bmp": (picture, {"format": "BMP"}),
    }
    files = {}
    for name, (image, options) in made.items():
        image.save(buffer := io.BytesIO(), **options)
        files[name] = buffer.getvalue()
    return files


Mutation = Callable[[bytes], bytes]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """One to four changes of bytes, runs cut out or repeated, or the end cut off."""
    where = st.floats(0, 1, exclude_max=True)
    byte = st.integers(0, 255) | st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
    kinds = st.sampled_from(["set", "set", "set", "word", "drop", "repeat", "cut", "zeros"])
    # Headers decide most, so half of the changes are near the beginning.
    steps = draw(
        st.lists(
            st.tuples(kinds, where, st.booleans(), st.binary(min_size=4, max_size=4), byte),
            min_size=1,
            max_size=4,
        )
    )

    def mutate(content: bytes) -> bytes:
        data = bytearray(content)
        for kind, place, early, word, value in steps:
            n = int(place * min(len(data), 64 if early else len(data)))
            if kind == "set" and data:
                data[n] = value
            elif kind == "word":
                data[n : n + 4] = word
            elif kind == "drop":
                del data[n : n + value]
            elif kind == "repeat":
                data[n:n] = data[n : n + value]
            elif kind == "zeros":
                data[n : n + value] = bytes(len(data[n : n + value]))
            elif kind == "cut":
                del data[n:]
        return bytes(data)

    return mutate


def by_pillow(content: bytes) -> np.ndarray | None:
    """The RGB pixels, straight from Pillow and NumPy; None for what they refuse."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return None
            if picture.mode in ("F", "I") or picture.mode.startswith("I;16"):
                return np.repeat(scaled(picture)[..., None], 3, 2)
            return np.asarray(picture.convert("RGB"))
    except Exception:
        return None


def scaled(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture).astype(float)
    low, high = values.min(), values.max()
    assert np.isfinite([low, high]).all()
    if picture.mode.startswith("I;16") or picture.format == "PNG":
        bits = getattr(picture, "tag_v2", {}).get(258)
        return np.rint(values * (255 / (4095 if bits == (12,) else 65535))).astype(np.uint8)
    for white in (1, 255, 65535) if picture.mode == "F" else (255, 65535):
        if low >= 0 and high <= white:
            return np.rint(values * (255 / white)).astype(np.uint8)
    return np.rint((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


@pytest.mark.parametrize("name", whole_files())
@fuzz
@given(mutate=mutations())
def test_a_damaged_picture_gives_pillows_pixels_or_is_refused(name: str, mutate: Mutation):
    content = mutate(whole_files()[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
        expected = by_pillow(content)
        try:
            got = np.asarray(decode(content, "some.jpg", upright=False))
        except BadPicture as error:
            assert expected is None, f"refused, though Pillow reads it: {error}"
            assert "some.jpg" in str(error)
            return
        assert expected is not None
        np.testing.assert_array_equal(got, expected)
        assert decode(content, "some.jpg", upright=True).size in (got.shape[1::-1], got.shape[:2])
        try:
            views = picture_views(content, path="some.jpg", size=SIZE, flips=[False, True])
            assert views.shape == (2, 3, SIZE, SIZE)
        except BadPicture as error:
            assert "crop it" in error.reason and max(got.shape) > 1000 * min(got.shape[:2])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000 * (1 if sys.platform == "linux" else 1000)  # kilobytes


# Stores


def pixels(pictures):  # noqa: ANN001, ANN201 (torch is imported when it is needed)
    return pictures.flatten(1).float()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], np.ndarray]:
    """A cache folder, five pictures and the features (5, 2, 768) that belong to them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "SETTLED_NS", 0)  # so that digests are remembered at once
        return fill(tmp_path_factory)


def fill(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], np.ndarray]:
    folder = tmp_path_factory.mktemp("filled")
    pictures = []
    for n in range(5):
        pictures.append(folder / f"{n}.png")
        noise = np.random.default_rng(n).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(noise).save(pictures[-1])
    time.sleep(0.02)  # the resolution of time stamps
    store = opened(folder / "cache")
    store.fill(pictures, flipped=[True] * 5, extract=pixels, workers=0)
    return folder / "cache", pictures, np.array(store.array()[store.rows(pictures)])


def opened(cache_dir: Path) -> FeatureStore:
    width = 3 * SIZE * SIZE
    return FeatureStore(cache_dir, key={"b": 1}, size=SIZE, width=width, dtype="float32")


@pytest.mark.parametrize("name", ["features.bin", "checksums.bin", "entries.bin", "store.json"])
@fuzz
@given(mutate=mutations())
def test_no_damage_to_a_store_reaches_a_feature(filled, name: str, mutate: Mutation):
    whole, pictures, features = filled
    with tempfile.TemporaryDirectory() as folder:
        cache_dir = Path(shutil.copytree(whole, Path(folder) / "cache"))
        file = opened(cache_dir).folder / name
        file.write_bytes(mutate(file.read_bytes()))
        store = opened(cache_dir)
        rows = store.rows(pictures)
        for picture, both in enumerate(rows):
            for flip, row in enumerate(both):
                if row >= 0:
                    np.testing.assert_array_equal(store.array()[row], features[picture, flip])
        done = store.fill(pictures, flipped=[True] * 5, extract=pixels, workers=0)
        assert done.views == (rows < 0).sum() and done.bad == []
        np.testing.assert_array_equal(store.array()[store.rows(pictures)], features)
        again = opened(cache_dir)
        np.testing.assert_array_equal(again.array()[again.rows(pictures)], features)


@fuzz
@given(mutate=mutations())
def test_no_damage_to_the_digests_reaches_a_row(filled, mutate: Mutation):
    whole, pictures, features = filled
    with tempfile.TemporaryDirectory() as folder:
        cache_dir = Path(shutil.copytree(whole, Path(folder) / "cache"))
        memo = digests_folder(cache_dir)
        known = picture_digests(pictures, memo)
        for file in memo.iterdir():
            file.write_bytes(mutate(file.read_bytes()))
        assert picture_digests(pictures, memo) == known
        rows = opened(cache_dir).rows(pictures)
        np.testing.assert_array_equal(opened(cache_dir).array()[rows], features)
