"""Picture files of every kind: which pixels they give, and which of them are refused."""

import errno
import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmlabel.data import pictures
from mmlabel.data.digests import picture_digests, unreadable_pictures
from mmlabel.data.pictures import BadPicture, as_rgb, content_digest, decode, read_picture


def pixels(path: Path, *, upright: bool = False) -> np.ndarray:
    return np.asarray(decode(read_picture(path), path, upright=upright))


def noise(width: int = 23, height: int = 14, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng([width, height]).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(values, "RGBA").convert("RGB").convert(mode)


def assert_grey(path: Path, expected: np.ndarray) -> None:
    """The picture is grey, with these values of 0..255."""
    got = pixels(path)
    assert got.dtype == np.uint8 and got.shape == (*expected.shape, 3)
    for channel in range(3):
        np.testing.assert_array_equal(got[..., channel], np.rint(expected))


# Values of more than 8 bits


DEEP = np.random.default_rng(0).integers(0, 65536, (11, 13)).astype(np.uint16)
DEEP[0, :3] = 0, 128, 65535


@pytest.mark.parametrize("values", [DEEP, DEEP // 300, np.full_like(DEEP, 255)], ids=str)
@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_16_bits_are_scaled_by_257(tmp_path: Path, name: str, values: np.ndarray):
    Image.fromarray(values).save(tmp_path / name)
    assert_grey(tmp_path / name, values / 257)


def test_16_bits_in_the_other_order_of_bytes(tmp_path: Path):
    path = tmp_path / "big.tif"
    Image.frombytes("I;16B", DEEP.shape[::-1], DEEP.astype(">u2").tobytes()).save(path)
    assert_grey(path, DEEP / 257)


def test_12_bits_are_scaled_by_their_own_white(tmp_path: Path):
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, 3)])
    # Two values of 12 bits, 0x800 and 0xFFF, in three bytes before the directory.
    content = b"II*\0" + struct.pack("<I", 12) + b"\x80\x0f\xff\0"
    (tmp_path / "x.tif").write_bytes(content + struct.pack("<H", 9) + entries + b"\0\0\0\0")
    assert_grey(tmp_path / "x.tif", np.array([[0x800, 0xFFF]]) * 255 / 4095)


FRACTIONS = np.random.default_rng(1).random((11, 13)).astype(np.float32)
FRACTIONS[0, :2] = 0, 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (FRACTIONS, FRACTIONS.astype(float) * 255),
        (FRACTIONS / 4, FRACTIONS.astype(float) / 4 * 255),
        (FRACTIONS * 200, FRACTIONS.astype(float) * 200),
        (FRACTIONS * 60000, (FRACTIONS * 60000).astype(float) / 257),
        (FRACTIONS * 4 - 2, FRACTIONS.astype(float) * 255),
        (FRACTIONS * 2**20, FRACTIONS.astype(float) * 255),
        (np.full((3, 4), -1, np.float32), np.zeros((3, 4))),
        (np.zeros((3, 4), np.float32), np.zeros((3, 4))),
        (np.arange(12, dtype=np.int32).reshape(3, 4), np.arange(12).reshape(3, 4)),
        (DEEP.astype(np.int32), DEEP / 257),
        (DEEP.astype(np.int32) - 2**15, DEEP / 257),
        (DEEP.astype(np.int32) * 2**14, DEEP / 257),
    ],
    ids=["0..1", "0..0.25", "0..200", "0..60000", "-2..2", "0..2^20", "-1", "0"]
    + ["int 0..11", "int 0..65535", "int signed", "int large"],
)
def test_32_bit_numbers_are_scaled(tmp_path: Path, values: np.ndarray, expected: np.ndarray):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    got = pixels(tmp_path / "deep.tif")[..., 0].astype(float)
    np.testing.assert_allclose(got, expected, atol=0.51)
    assert len(np.unique(got)) >= min(len(np.unique(np.rint(expected))), 8)  # no clamping


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float):
    values = FRACTIONS.copy()
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(BadPicture, match="nan.tif.*no numbers"):
        pixels(tmp_path / "nan.tif")


def test_stored_rows_of_clamped_values_are_another_pictures(tmp_path: Path):
    """A picture whose pixels are other than they were is known by another digest."""
    deep, plain = tmp_path / "deep.png", tmp_path / "plain.png"
    Image.fromarray(DEEP).save(deep)
    noise().save(plain)
    import hashlib

    for path, same in ((deep, False), (plain, True)):
        sha = hashlib.sha256(path.read_bytes()).digest()
        assert (content_digest(path.read_bytes()) == sha) is same
        assert picture_digests([path], tmp_path / "memo") == [content_digest(path.read_bytes())]


# Other kinds


def test_palettes_with_transparency_keep_their_colours(tmp_path: Path):
    picture = noise().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    picture.save(tmp_path / "bytes.png", transparency=bytes([0, 128, 255]))
    picture.save(tmp_path / "index.png", transparency=2)
    picture.save(tmp_path / "index.gif", transparency=2)
    expected = np.asarray(picture.convert("RGB"))
    for name in ("bytes.png", "index.png", "index.gif"):
        np.testing.assert_array_equal(pixels(tmp_path / name), expected)


def test_transparency_is_dropped_and_black_and_white_is_grey(tmp_path: Path):
    grey, alpha = noise(mode="L"), noise(14, 23, "L").resize((23, 14))
    both = grey.copy()
    both.putalpha(alpha)
    both.save(tmp_path / "la.png")
    assert_grey(tmp_path / "la.png", np.asarray(grey))
    grey.convert("1").save(tmp_path / "one.png")
    assert_grey(tmp_path / "one.png", np.asarray(grey.convert("1")) * 255)
    grey.convert("1").save(tmp_path / "one.tif")
    assert_grey(tmp_path / "one.tif", np.asarray(grey.convert("1")) * 255)


def test_cmyk_is_converted(tmp_path: Path):
    Image.new("CMYK", (9, 5), (0, 255, 255, 0)).save(tmp_path / "red.tif")
    assert pixels(tmp_path / "red.tif")[0, 0].tolist() == [255, 0, 0]
    Image.new("CMYK", (9, 5), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    assert np.abs(pixels(tmp_path / "red.jpg")[0, 0] - np.array([255, 0, 0])).max() <= 3


@pytest.mark.parametrize("name", ["moving.gif", "moving.png", "moving.webp", "pages.tif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, name: str):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert (pixels(tmp_path / name) == [255, 0, 0]).all()


# EXIF orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "photo.tif"])
def test_upright_turns_as_pillow_does(tmp_path: Path, name: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise().save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(pixels(tmp_path / name, upright=True), expected)
    if not name.endswith("tif"):  # which Pillow turns whoever reads it
        plain = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        np.testing.assert_array_equal(pixels(tmp_path / name), plain)
        assert plain.shape == (14, 23, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.webp"])
def test_what_is_upright_is_not_turned_again(tmp_path: Path, name: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise().save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as picture:
        once = as_rgb(picture, upright=True)
    expected = pixels(tmp_path / name, upright=True)
    for again in (once, as_rgb(once, upright=True), ImageOps.exif_transpose(once)):
        np.testing.assert_array_equal(np.asarray(again), expected)


def test_damaged_exif_data_does_not_spoil_a_picture(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    damaged = exif.tobytes().replace(b"MM\0*", b"MMxx").replace(b"II*\0", b"IIxx")
    noise().save(tmp_path / "photo.jpg", exif=damaged)
    for upright in (False, True):
        assert pixels(tmp_path / "photo.jpg", upright=upright).shape == (14, 23, 3)


# What is refused


def test_what_is_no_file_is_refused_without_blocking(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
    links = {"pipe.jpg": "a pipe", "folder.jpg": "a folder", "s": "a pipe, socket", "zero": "devic"}
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, reason in links.items():
        with pytest.raises(BadPicture, match=f"{name}.*{reason}"):
            read_picture(tmp_path / name)
    listed = [tmp_path / name for name in links]
    assert picture_digests(listed, tmp_path / "memo") == [None] * 4
    assert list(unreadable_pictures(listed, size=8, cache_dir=tmp_path / "c")) == [0, 1, 2, 3]


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path):
    for name in ("a\0b.jpg", "x" * 300):
        with pytest.raises(BadPicture, match="not a readable picture"):
            read_picture(tmp_path / name)
        assert picture_digests([tmp_path / name], tmp_path / "memo") == [None]


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path):
    with open(tmp_path / "huge.bmp", "wb") as file:
        file.truncate(pictures.MAX_BYTES + 1)
    with pytest.raises(BadPicture, match="huge.bmp.*1,074 MB, too large"):
        read_picture(tmp_path / "huge.bmp")


@pytest.mark.parametrize("most", [299, 200, 100])
def test_more_pixels_than_can_be_decoded_are_refused(tmp_path: Path, monkeypatch, most: int):
    noise(20, 15).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(BadPicture, match="bomb.png.*decompression bomb.*scale it down"):
        pixels(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    pixels(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OverflowError("too large"), struct.error("short"), SyntaxError("no PNG")]
    + [ZeroDivisionError(), RecursionError(), Image.DecompressionBombWarning("large"), EOFError()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_is_a_bad_picture(tmp_path: Path, monkeypatch, error: Exception):
    noise().save(tmp_path / "picture.png")

    def fails(self: Image.Image, *_: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", fails)
    with pytest.raises(BadPicture, match="picture.png is not a readable picture") as caught:
        pixels(tmp_path / "picture.png")
    expected = str(error) or type(error).__name__
    assert "memory" in caught.value.reason if "Memory" in expected else caught.value.reason


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), MemoryError()])
def test_what_a_file_is_not_to_blame_for_is_looked_at_anew(tmp_path, monkeypatch, error):
    noise().save(tmp_path / "good.png")
    (tmp_path / "text.jpg").write_text("not found")
    listed = [tmp_path / "text.jpg", tmp_path / "good.png"]

    def fail(path: Path) -> bytes:
        if path.name == "good.png":
            raise BadPicture(path, "for now") from error
        return path.read_bytes()

    monkeypatch.setattr("mmlabel.data.digests.read_picture", fail)
    for _ in range(2):
        assert list(unreadable_pictures(listed, size=8, cache_dir=tmp_path / "cache")) == [0, 1]
    monkeypatch.undo()
    assert list(unreadable_pictures(listed, size=8, cache_dir=tmp_path / "cache")) == [0]


def test_unreadable_pictures_are_found_once_and_named(tmp_path: Path, monkeypatch):
    noise().save(tmp_path / "good.png")
    (tmp_path / "text.jpg").write_text("not found")
    Image.new("L", (1, 10_000)).save(tmp_path / "strip.png")
    listed = [tmp_path / name for name in ("text.jpg", "good.png", "gone.png", "strip.png")]
    first = unreadable_pictures(listed, size=224, cache_dir=tmp_path / "cache")
    assert {n: error.path for n, error in first.items()} == {n: listed[n] for n in (0, 2, 3)}
    assert "not an image file" in str(first[0]) and "crop it" in str(first[3])
    monkeypatch.setattr("mmlabel.data.digests.read_picture", None)  # not read again
    again = unreadable_pictures(listed, size=224, cache_dir=tmp_path / "cache")
    assert {n: str(error) for n, error in again.items()} == {n: str(e) for n, e in first.items()}
    monkeypatch.undo()
    assert list(unreadable_pictures(listed, size=8, cache_dir=tmp_path / "cache")) == [0, 2]
    (tmp_path / "file").touch()
    assert list(unreadable_pictures(listed, size=8, cache_dir=tmp_path / "file")) == [0, 2]
    [memo, _] = (tmp_path / "cache" / "checked").iterdir()
    memo.write_text(memo.read_text().replace("1", "7"))
    assert list(unreadable_pictures(listed, size=224, cache_dir=tmp_path / "cache")) == [0, 2, 3]
