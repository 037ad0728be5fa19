"""The file that a checkpoint is: written whole or not at all, and with a checksum of its content.

It is a torch checkpoint that loads with `weights_only=True`: a zip archive whose comment, the last
thing in it, is the checksum of all before.
"""

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from mmlabel.cache import atomic_write
from mmlabel.errors import UserError, first_line

_SEAL = b"mmlabel sha256 "
_SEAL_BYTES = len(_SEAL) + 64


class SealedCheckpoints(CheckpointIO):
    """How Lightning writes and reads checkpoints."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_file(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read_file(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def write_file(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint beside its place and move it there.

    Raises UserError where that is impossible; what was there before stays.
    """
    try:
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)
            with open(temporary, "r+b") as file:
                _seal(file)
    # torch's writer says of a full disk no more than that writing has failed.
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        kept = f"; the one before is whole: ckpt_path={path}" if path.is_file() else ""
        raise UserError(
            f"the checkpoint {path} cannot be written ({reason}): see whether there is room on the"
            f" disk{kept}"
        ) from error


def _seal(file: BinaryIO) -> None:
    size = file.seek(0, 2)
    # The archive ends with the length of its comment, so far none.
    file.seek(size - 2)
    file.write(_SEAL_BYTES.to_bytes(2, "little"))
    digest = _digest(file, size)
    file.write(_SEAL + digest.encode())


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first `size` bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, 1 << 20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _is_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 * _SEAL_BYTES))
        end = file.read()
        seal = end[-_SEAL_BYTES:]
        if seal.startswith(_SEAL):
            return _digest(file, size - _SEAL_BYTES).encode() == seal[len(_SEAL) :]
    if b"mmlabel" in end:
        return False
    # Of an earlier version, or damaged in its last bytes: the archive has checksums of its parts.
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            return False
        # torch reads the archive in its own way, and does not look at the checksums.
        reader = torch._C.PyTorchFileReader(str(path))
        return all(
            zlib.crc32(reader.get_record(part.filename.partition("/")[2])) == part.CRC
            for part in archive.infolist()
        )


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, read with `weights_only=True`.

    It has at least "state_dict", tensors by name, and "mmlabel", what this project adds.

    Raises UserError if there is no such file, it is damaged, or it is something else.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the checkpoint in it, {path / 'best.ckpt'}")
    if not path.is_file():
        raise UserError(f"there is no file {path}: give a checkpoint, such as a run's best.ckpt")
    try:
        whole = _is_whole(path)
        checkpoint = None
        if whole:
            # Not through a memory map: a file that is cut short meanwhile would end the process.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # which one depends on what the file is instead
        empty = path.stat().st_size == 0
        raise no_checkpoint(path, "it is empty" if empty else "it cannot be read") from error
    if not whole:
        raise UserError(
            f"{path} is damaged: its content does not match its checksum; use a copy of"
            " it, or another checkpoint"
        )
    if not isinstance(checkpoint, dict):
        raise no_checkpoint(path, f"it holds a {type(checkpoint).__name__}")
    for name in ("state_dict", "mmlabel"):
        if not isinstance(checkpoint.get(name), dict):
            raise no_checkpoint(path, f"it has no {name}")
    for name, value in checkpoint["state_dict"].items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
            raise no_checkpoint(path, "its state_dict holds other things than weights")
    return checkpoint


def no_checkpoint(path: Path, why: str) -> UserError:
    """The message for a file that is none, and how that shows."""
    return UserError(
        f"{path} is not a checkpoint of mmlabel, or is damaged ({why}): give a run's best.ckpt or"
        " last.ckpt, or a copy of this one"
    )
