"""What every on-disk cache here needs: content keys, atomic writes and locks.

A cache entry is named after everything it depends on, so it is never stale; it is written under a
temporary name and renamed, so it is never read half-written; jobs that start together take the
entry's lock, so it is computed once.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from filelock import FileLock


def fingerprint(*parts: object) -> str:
    """32 hex digits that change whenever a part does.

    Parts are JSON values, bytes, NumPy arrays (dtype, shape and content) or paths (the content of
    the file, not its name).
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            header, body = f"array {part.dtype} {part.shape}", np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            header, body = "bytes", part
        elif isinstance(part, Path):
            header, body = "file", file_digest(part).encode()
        else:
            header, body = "json", json.dumps(part, sort_keys=True).encode()
        digest.update(f"{header} {len(body)}\n".encode())
        digest.update(body)
    return digest.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content; remembered while its size and modification time stay."""
    stat = os.stat(path)
    return _file_digest(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Some writers choose the format by the suffix, so it stays at the end.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def lock(path: Path) -> FileLock:
    """The lock under which `path` is computed: the first job works, the others wait and read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")
