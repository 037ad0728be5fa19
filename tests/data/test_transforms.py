"""Pictures are cut exactly as torchvision would cut them, and damaged files are named."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlabel.data.pictures import BadPicture, read_picture
from mmlabel.data.transforms import load_picture, picture_views, stack_views, transform_key


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    """Noise over a slope: a shift or a mirror by one column shows."""
    pixels = np.random.default_rng([width, height]).integers(0, 200, (height, width, channels))
    pixels += np.linspace(0, 55, width).astype(int)[:, None]
    return Image.fromarray(pixels.astype(np.uint8).squeeze())


def by_torchvision(path: Path, size: int, flipped: bool) -> np.ndarray:
    """The report's transforms, step by step, on a picture as ImageFolder loads it."""
    from torchvision import transforms
    from torchvision.datasets.folder import pil_loader

    steps = [
        transforms.Resize(size),
        transforms.RandomHorizontalFlip(p=float(flipped)),
        transforms.CenterCrop(size),
        transforms.PILToTensor(),
    ]
    return transforms.Compose(steps)(pil_loader(path)).numpy()


def assert_as_torchvision(path: Path, size: int) -> None:
    for flipped in (False, True):
        mine = load_picture(path, size=size, flipped=flipped)
        assert mine.shape == (3, size, size) and mine.dtype == np.uint8
        np.testing.assert_array_equal(mine, by_torchvision(path, size, flipped))


SHAPES = {
    "landscape": (100, 60),
    "portrait": (60, 100),
    "square": (50, 50),
    "small": (9, 7),
    "already fitting": (47, 32),
    "exactly right": (32, 32),
    "a strip": (300, 4),
    "one pixel": (1, 1),
    "odd": (61, 43),
}


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_is_cut_as_torchvision_does(tmp_path: Path, shape: tuple[int, int], size: int):
    noise(*shape).save(tmp_path / "picture.png")
    assert_as_torchvision(tmp_path / "picture.png", size)


def test_the_reports_size(tmp_path: Path):
    noise(320, 213).save(tmp_path / "picture.jpg")
    assert_as_torchvision(tmp_path / "picture.jpg", 224)


MODES = {
    "grey.jpg": "L",
    "cmyk.jpg": "CMYK",
    "palette.png": "P",
    "palette.gif": "P",
    "transparent.png": "RGBA",
    "grey_transparent.png": "LA",
    "black_and_white.png": "1",
    "lossy.webp": "RGB",
    "plain.bmp": "RGB",
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_picture_becomes_rgb_as_torchvision_does(tmp_path: Path, name: str):
    picture = noise(70, 45)
    if MODES[name] in ("RGBA", "LA"):
        picture.putalpha(noise(70, 45, 1))
    picture.convert(MODES[name]).save(tmp_path / name)
    with Image.open(tmp_path / name) as saved:
        assert saved.mode == MODES[name]
    assert_as_torchvision(tmp_path / name, 32)


def test_a_transparent_palette_and_a_turned_photo_are_read_as_torchvision_reads_them(
    tmp_path: Path,
):
    noise(70, 45).convert("P").save(tmp_path / "clear.gif", transparency=3)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: turn by a quarter
    noise(70, 45).save(tmp_path / "turned.jpg", exif=turned)
    assert_as_torchvision(tmp_path / "clear.gif", 32)
    assert_as_torchvision(tmp_path / "turned.jpg", 32)


def test_upright_views_are_those_of_the_turned_picture(tmp_path: Path):
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = noise(70, 45)
    picture.save(tmp_path / "turned.png", exif=turned)
    picture.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    for flipped in (False, True):
        np.testing.assert_array_equal(
            load_picture(tmp_path / "turned.png", size=32, flipped=flipped, upright=True),
            by_torchvision(tmp_path / "upright.png", 32, flipped),
        )


def test_a_strip_that_would_grow_out_of_all_bounds_is_bad(tmp_path: Path):
    path = tmp_path / "strip.png"
    Image.new("L", (1, 10_000)).save(path)
    with pytest.raises(BadPicture, match="strip.png.*1x10000 pixels.* 2,240,000; crop it"):
        load_picture(path, size=224, flipped=False)
    assert load_picture(path, size=8, flipped=False).shape == (3, 8, 8)


def test_with_an_odd_margin_the_flipped_view_is_no_mirror_image(tmp_path: Path):
    path = tmp_path / "odd.png"
    noise(45, 32).save(path)
    plain, flipped = (load_picture(path, size=32, flipped=flip) for flip in (False, True))
    margin = np.asarray(Image.open(path)).transpose(2, 0, 1)
    np.testing.assert_array_equal(plain, margin[:, :, 6:38])  # half of 13, rounded to even
    np.testing.assert_array_equal(flipped[:, :, ::-1], margin[:, :, 7:39])


def test_several_views_are_those_of_one_at_a_time(tmp_path: Path):
    path = tmp_path / "picture.png"
    noise(60, 43).save(path)
    views = picture_views(read_picture(path), path=path, size=24, flips=[True, False])
    np.testing.assert_array_equal(views[0], load_picture(path, size=24, flipped=True))
    np.testing.assert_array_equal(views[1], load_picture(path, size=24, flipped=False))


def test_stacked_views_are_channels_last_and_in_order():
    groups = [np.random.default_rng(n).integers(0, 255, (n, 3, 5, 5), np.uint8) for n in (2, 1)]
    batch = stack_views(groups)
    assert batch.shape == (3, 3, 5, 5)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch.numpy(), np.concatenate(groups))


def write_damaged(folder: Path) -> list[Path]:
    noise(60, 60).save(folder / "whole.jpg")
    noise(60, 60).save(folder / "whole.png")
    contents = {
        "half.jpg": (folder / "whole.jpg").read_bytes()[:1500],
        "half.png": (folder / "whole.png").read_bytes()[:4000],
        "header.jpg": (folder / "whole.jpg").read_bytes()[:20],
        "empty.jpg": b"",
        "page.jpg": b"<html>404 not found</html>",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    return [folder / name for name in [*contents, "folder.jpg", "missing.jpg"]]


def test_damaged_files_are_named_with_the_reason(tmp_path: Path):
    reasons = {}
    for path in write_damaged(tmp_path):
        with pytest.raises(BadPicture) as caught:
            load_picture(path, size=16, flipped=False)
        assert str(path) in str(caught.value) and "data.on_bad_image=skip" in str(caught.value)
        assert caught.value.path == path
        reasons[path.name] = caught.value.reason
    assert "truncated" in reasons["half.jpg"] and "truncated" in reasons["half.png"]
    assert reasons["page.jpg"] == "not an image file"
    assert reasons["empty.jpg"] == "an empty file"
    assert reasons["missing.jpg"] == "No such file or directory"


def test_a_picture_too_large_to_be_decoded_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    noise(60, 60).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadPicture, match="bomb.png.*decompression bomb"):
        load_picture(tmp_path / "bomb.png", size=16, flipped=False)


def test_a_bad_picture_survives_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(BadPicture("a/b.jpg", "cut short")))
    assert isinstance(error, BadPicture) and (error.path, error.reason) == (
        Path("a/b.jpg"),
        "cut short",
    )
    assert str(error) == str(BadPicture("a/b.jpg", "cut short"))


def test_the_key_tells_sizes_and_decoders_apart(monkeypatch: pytest.MonkeyPatch):
    key = transform_key(224)
    assert key == transform_key(224) != transform_key(192)
    assert transform_key(224, upright=True) not in (key, transform_key(192, upright=True))
    monkeypatch.setattr("PIL.__version__", "0.0")
    assert transform_key(224) != key


@pytest.mark.parametrize("shape", [(40, 30), (17, 60), (64, 48)])
def test_a_whole_picture_is_torchvisions_resize_and_its_mirror_image(shape, tmp_path: Path):
    from torchvision.transforms.functional import resize

    path = tmp_path / "one.png"
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    picture.save(path)
    plain, flipped = (load_picture(path, size=(48, 64), flipped=f) for f in (False, True))
    expected = np.asarray(resize(picture, [48, 64])).transpose(2, 0, 1)
    np.testing.assert_array_equal(plain, expected)
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])
    keys = [transform_key(size) for size in (48, (48, 48), (48, 64), (64, 48))]
    assert len({str(key) for key in keys}) == 4
