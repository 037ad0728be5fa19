"""Picture files and their pixels, with Pillow alone."""

import hashlib
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mmlabel.errors import UserError

# Pictures that Pillow would warn of are refused here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

MAX_BYTES = 2**30  # of a file; an uncompressed picture of the most pixels is smaller
_ORIENTATION = 0x0112  # the tag of EXIF
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SAYS_HOW_TURNED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_EIGHT_BIT = (b"\xff\xd8", b"GIF8", b"RIFF", b"BM")  # how such files begin: JPEG, GIF, WebP, BMP


class BadPicture(UserError):
    """A picture file that is missing, damaged or too large; has `.path` and `.reason`."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(
            f"{path} is not a readable picture ({reason}): replace the file, or leave such rows "
            "out with data.on_bad_image=skip"
        )
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        # The default would rebuild it from the message alone, and fail in a loader's worker.
        return BadPicture, (self.path, self.reason)


def read_picture(path: Path | str) -> bytes:
    """The bytes of a picture file.

    Raises `BadPicture` where there is none. Folders, pipes and devices are not opened, as a pipe
    would block for ever.
    """
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            return Path(path).read_bytes()
    except (OSError, ValueError, MemoryError) as error:
        raise BadPicture(path, _reason(error)) from error
    if stat.S_ISREG(status.st_mode):
        raise BadPicture(path, f"{status.st_size / 1e6:,.0f} MB, too large for a picture file")
    folder = stat.S_ISDIR(status.st_mode)
    raise BadPicture(path, "a folder" if folder else "a pipe, socket or device, not a file")


def content_digest(content: bytes) -> bytes:
    """The 32 bytes that a picture's stored rows are known by: SHA-256 of its file's content.

    Kinds of files whose values may be deeper than 8 bits have a mark added, as `decode` scales such
    values, while rows stored before it did are of clamped ones.
    """
    digest = hashlib.sha256(content)
    # In a PNG's header the depth is followed by the kind of colour, 0 for grey.
    shallow_png = content.startswith(b"\x89PNG") and content[24:26] != b"\x10\x00"
    if not (shallow_png or content.startswith(_EIGHT_BIT)):
        digest.update(b"scaled")
    return digest.digest()


def decode(
    content: bytes, path: Path | str, *, upright: bool, least: int | None = None
) -> Image.Image:
    """The RGB picture in the bytes of a file; with `upright` turned as its EXIF data says.

    With `least` a JPEG may be decoded at a part of its size, but no side below so many px.

    Every kind becomes RGB as Pillow converts it, and as torchvision's ImageFolder loads it: grey is
    repeated, palettes are looked up, CMYK is converted, transparency is dropped, and of an
    animation the first frame is taken. Deeper grey values, which Pillow would clamp, are scaled to
    0..255: 16 bits by 1/257, 12 bits by 255/4095, and of 32-bit numbers, where no value is agreed
    to be white, the smallest of the ranges 0..1 (fractions only), 0..255 and 0..65535 that holds
    all of a picture's values, or else their own range.

    Raises `BadPicture`, which names `path`, for whatever cannot be decoded to the end, and for
    pictures of more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return as_rgb(picture, upright=upright, least=least)
    except Image.UnidentifiedImageError as error:
        raise BadPicture(path, "not an image file" if content else "an empty file") from error
    except Exception as error:
        # Damaged files make Pillow's many decoders raise errors of nearly any kind.
        raise BadPicture(path, _reason(error)) from error


def thumbnail(path: Path | str, side: int, *, upright: bool) -> Image.Image:
    """A picture as `decode` gives it to the networks, scaled down to fit a square of `side` px.

    Raises `BadPicture`.
    """
    small = decode(read_picture(path), path, upright=upright, least=side)
    small.thumbnail((side, side))
    return small


def as_rgb(picture: Image.Image, *, upright: bool, least: int | None = None) -> Image.Image:
    """A picture as `decode` gives it; raises what Pillow raises."""
    _check_pixels(picture)
    if least is not None:
        picture.draft(None, (least, least))
    picture.load()
    # Turned first, as a conversion may lose the EXIF data.
    return _rgb(_turned(picture) if upright else picture)


def _check_pixels(picture: Image.Image) -> None:
    width, height = picture.size
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > most:
        raise Image.DecompressionBombError(
            f"{width}x{height} are more than {most:,} pixels, which could be a decompression bomb"
        )


def _turned(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # its EXIF data is damaged, which does not spoil the pixels
        orientation = 1
    turn = _TURN.get(orientation)
    if turn is None:
        return picture
    turned = picture.transpose(turn)
    for key in _SAYS_HOW_TURNED:  # or it would be turned once more by whoever gets it
        turned.info.pop(key, None)
    return turned


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _scaled(picture)
    elif picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        # The same colours; Pillow warns of the direct way.
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _scaled(picture: Image.Image) -> Image.Image:
    """A grey picture (mode I, I;16 or F) with its values scaled to 8 bits; see `decode`."""
    values = np.asarray(picture)  # (H, W) uint16, int32 or float32
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("some of its values are no numbers")
    if picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM"):
        bits = getattr(picture, "tag_v2", {}).get(258)  # TIFF's tag BitsPerSample
        low, high = 0.0, 4095.0 if bits == (12,) else 65535.0
    else:
        usual = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0)
        white = next((white for white in usual if low >= 0 and high <= white), None)
        low, high = (low, high) if white is None else (0.0, white)
    scale = 255 / (high - low) if high > low else 0.0
    grey = np.empty(values.shape, np.uint8)
    for row, target in zip(values, grey, strict=True):  # by rows, to need no copy of the picture
        target[:] = np.rint((row.astype(np.float64) - low) * scale)
    return Image.fromarray(grey)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "too large for the memory there is; scale it down"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"{str(error).rstrip('.')}; scale it down"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
