"""Picture files and their pixels, with Pillow alone."""

import io
from pathlib import Path

from PIL import Image

from mmlabel.errors import UserError


class BadPicture(UserError):
    """A picture file that is missing, cut short or not a picture; has `.path` and `.reason`."""

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
    """The bytes of a picture file; raises `BadPicture` if there is no such file."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadPicture(path, error.strerror or str(error)) from error


def decode(content: bytes, path: Path | str) -> Image.Image:
    """The RGB picture in the bytes of a file; raises `BadPicture`, which names `path`."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.convert("RGB")
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadPicture(path, "not an image file" if content else "an empty file") from error
    except Exception as error:
        # Damaged files make Pillow's many decoders raise errors of nearly any kind.
        raise BadPicture(path, str(error) or type(error).__name__) from error
