"""Pictures to fixed-size arrays, the report's way (§3.1.2).

The report's transforms are torchvision's `Resize(S)`, `RandomHorizontalFlip()`, `CenterCrop(S)` in
this order. Flipping is the only random step, so a picture has exactly two views: plain and flipped.
The crop comes after the flip, hence where the margin is odd the flipped view is one column off the
mirror image of the plain one.

A size of two numbers asks for the whole picture instead, scaled to this height and width, whatever
its own shape: nothing of it is cut off, and the flipped view is the mirror image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL
from PIL import Image
from PIL import features as pillow_features

from mmlabel.data.pictures import BadPicture, decode, read_picture

if TYPE_CHECKING:
    from torch import Tensor

# Of a picture whose shorter side is brought to size; at 224 px it may be 668 times as long as wide.
RESIZED_PIXELS = 2**25

Size = int | tuple[int, int]
"""A view's side in px, cut from the middle; or height and width of the whole picture."""


def shape_of(size: Size) -> tuple[int, int]:
    """Height and width of a view."""
    return (size, size) if isinstance(size, int) else size


def load_picture(
    path: Path | str, *, size: Size, flipped: bool, upright: bool = False
) -> np.ndarray:
    """One view of a picture: (3, H, W) uint8, RGB, values 0..255.

    Equal, bit for bit, to torchvision's `Resize(size)`, then a horizontal flip if `flipped`, then
    `CenterCrop(size)` on the picture as `ImageFolder` loads it: grey, palette, CMYK and transparent
    pictures become RGB, and EXIF orientation is not applied. With `upright` it is, first of all;
    and values of more than 8 bits are scaled rather than clamped (see `pictures.decode`). Raises
    `BadPicture`.
    """
    content = read_picture(path)
    return picture_views(content, path=path, size=size, flips=[flipped], upright=upright)[0]


def picture_views(
    content: bytes,
    *,
    path: Path | str,
    size: Size,
    flips: Sequence[bool],
    upright: bool = False,
) -> np.ndarray:
    """Views of one picture file, decoded and resized once: (len(flips), 3, H, W) uint8.

    `flips` says for each wanted view whether it is flipped; `path` is for the message of
    `BadPicture`. The memory is channels-last, as Pillow's is: convolutions run faster on it.
    """
    return views_of(decode(content, path, upright=upright), path=path, size=size, flips=flips)


def views_of(
    picture: Image.Image, *, path: Path | str, size: Size, flips: Sequence[bool]
) -> np.ndarray:
    """`picture_views` of a decoded RGB picture."""
    try:
        pixels = np.asarray(_resize(picture, size))  # (H, W, 3)
    except (ValueError, MemoryError) as error:
        raise BadPicture(path, str(error) or "too large for the memory there is") from error
    high, wide = shape_of(size)
    # Python rounds halves to even, and so does torchvision's CenterCrop.
    top, left = round((pixels.shape[0] - high) / 2), round((pixels.shape[1] - wide) / 2)
    views = np.empty((len(flips), high, wide, 3), np.uint8)
    for view, flipped in zip(views, flips, strict=True):
        turned = pixels[:, ::-1] if flipped else pixels
        view[:] = turned[top : top + high, left : left + wide]
    return views.transpose(0, 3, 1, 2)  # (V, 3, H, W)


def stack_views(groups: Sequence[np.ndarray]) -> "Tensor":
    """Join the views of several pictures, each (V, 3, H, W), to (B, 3, H, W), channels-last."""
    import torch

    batch = np.concatenate([views.transpose(0, 2, 3, 1) for views in groups])  # (B, H, W, 3)
    # NumPy keeps the layout of what it joins, so this copies only views that were not so already.
    return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2)  # (B, 3, H, W)


def transform_key(size: Size, *, upright: bool = False) -> dict[str, object]:
    """What a view depends on besides the file: part of every key under which views are cached.

    The resampling is Pillow's, too.
    """
    key: dict[str, object] = {
        "transform": "resize, flip, centre crop" if isinstance(size, int) else "resize whole, flip",
        "size": size if isinstance(size, int) else list(size),
        **decoder_key(),
    }
    return {**key, "exif": "upright"} if upright else key


def decoder_key() -> dict[str, object]:
    """What the pixels of a picture depend on besides the file: part of every key of what is made
    of pictures."""
    jpeg = pillow_features.version("libjpeg_turbo") or pillow_features.version("jpg")
    return {"pillow": PIL.__version__, "jpeg": jpeg}


def _resize(picture: Image.Image, size: Size) -> Image.Image:
    """Scale the shorter side to `size`; the longer side is rounded down, as torchvision does."""
    if not isinstance(size, int):
        high, wide = size
        whole = picture.size == (wide, high)
        return picture if whole else picture.resize((wide, high), Image.Resampling.BILINEAR)
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    longer = int(size * long / short)
    if size * longer > RESIZED_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels, with the shorter side brought to {size} the longer one would"
            f" be {longer:,}; crop it"
        )
    shape = (size, longer) if width <= height else (longer, size)
    return picture if shape == picture.size else picture.resize(shape, Image.Resampling.BILINEAR)
