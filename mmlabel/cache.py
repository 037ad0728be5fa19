"""What every on-disk cache here needs: content keys, checksums, atomic writes and locks.

A cache entry is named after everything it depends on, so it is never stale; it is written under a
temporary name and renamed, so it is never read half-written; it carries a checksum, so a damaged
one is made anew; jobs that start together take the entry's lock, so it is computed once. A cache
that cannot be written serves what it has, and the rest is done without: that is said once.
"""

import hashlib
import io
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from filelock import FileLock

from mmlabel.errors import UserError

log = logging.getLogger(__name__)

MAGIC = b"mmlabel cache entry 1\n"
HEADER_BYTES = len(MAGIC) + hashlib.sha256().digest_size

Arrays = dict[str, np.ndarray]
Value = TypeVar("Value")


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


def library_versions(*libraries: str) -> dict[str, str | None]:
    """What of a key the code of these libraries is: another version may compute otherwise.

    None where one is not installed, or is a source checkout.
    """
    found: dict[str, str | None] = dict.fromkeys(libraries)
    for library in libraries:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


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


def cache_folder(path: str | Path) -> Path:
    """The folder that `cache_dir` names, the usual one for an empty name; it need not exist.

    Raises UserError for an unknown `~`.
    """
    # As where MMLABEL_CACHE is set to nothing: files of the current folder are not the cache's.
    folder = Path(os.path.expanduser(path or usual_cache()))
    if str(folder).startswith("~"):
        raise UserError(
            f"cache_dir={path}: this account has no home folder; give cache_dir=FOLDER, or set "
            "MMLABEL_CACHE in the environment"
        )
    return folder


def usual_cache() -> Path:
    """The folder of what has no `cache_dir`; `cache_folder` says whether it can be."""
    return Path(os.path.expanduser(os.environ.get("MMLABEL_CACHE") or "~/.cache/mmlabel"))


def kept(
    path: Path,
    compute: Callable[[], Value],
    *,
    pack: Callable[[Value], Arrays | None],
    unpack: Callable[[Arrays], Value],
) -> Value:
    """A value from disk, or else computed and kept there.

    Args:
        path: of the entry, named after all that the value depends on.
        compute: makes the value, in one job at a time.
        pack: the value as arrays; None if this one is not to be kept.
        unpack: the value of such arrays.
    """
    if (found := _unpacked(path, unpack)) is not None:
        return found[0]
    with turn(path):
        if (found := _unpacked(path, unpack)) is not None:
            return found[0]
        value = compute()
        if (arrays := pack(value)) is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **cast(dict[str, Any], arrays))
            write_entry(path, buffer.getvalue())
        return value


def read_entry(path: Path) -> bytes | None:
    """What `write_entry` has kept, or None: not there, damaged, or not to be read."""
    try:
        # Anything but a file, such as a pipe, could be waited for without end.
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        return None
    header, body = content[:HEADER_BYTES], content[HEADER_BYTES:]
    return body if header == _header(body) else None


def write_entry(path: Path, content: bytes) -> None:
    """Keep `content` with its checksum; where that is impossible, say so once and go on."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        with atomic_write(path) as temporary:
            temporary.write_bytes(_header(content) + content)
    except OSError as error:
        say_unkept(path.parent.parent, error)


def _header(content: bytes) -> bytes:
    return MAGIC + hashlib.sha256(content).digest()


def _unpacked(path: Path, unpack: Callable[[Arrays], Value]) -> tuple[Value] | None:
    content = read_entry(path)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return (unpack(dict(arrays)),)
    except Exception:  # whole, but of another version of this code or of a library
        return None


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold the entry's lock; where there can be none, each job computes for itself."""
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            held.enter_context(lock(path))
        yield


def say_unkept(folder: Path, error: OSError) -> None:
    """Say once of a cache folder that nothing can be kept in it."""
    _say_once(folder, error.strerror or str(error))


@cache
def _say_once(folder: Path, reason: str) -> None:
    log.warning(
        "nothing new is kept in the cache %s (%s): this run goes on, and the next one prepares its "
        "data again; cache_dir=FOLDER names another",
        folder,
        reason,
    )


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block succeeds."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say of which file
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def temporary_beside(path: Path) -> Path:
    """A hidden name beside `path`, in a folder that is made, for what is not whole yet.

    It tells the process. What killed ones have left in that folder goes when it is first asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent)
    own = f"{_here()}{os.getpid():08x}{uuid.uuid4().hex[:12]}"
    # Some writers choose the format by the suffix, so it stays at the end.
    return path.with_name(f".{path.stem}.{own}{path.suffix}")


@cache
def _remove_left(folder: Path) -> None:
    """Remove what processes of this machine that are no more have left under temporary names."""
    name = re.compile(rf"\..+\.{_here()}([0-9a-f]{{8}})[0-9a-f]{{12}}(\.\w+)?")
    with suppress(OSError):
        for path in list(folder.iterdir()):
            found = name.fullmatch(path.name)
            if found and not _is_alive(int(found[1], 16)):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


@cache
def _here() -> str:
    """12 hex digits of the machine since its start, where a process is known by its number."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return fingerprint(start, os.readlink("/proc/self/ns/pid"))[:12]  # a container has its own
    except OSError:  # it cannot be told: nobody's are removed
        return uuid.uuid4().hex[:12]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def is_temporary(path: Path) -> bool:
    """Whether this is a file of `atomic_write` before it has its name, such as a killed job's."""
    return re.fullmatch(r"\..+\.[0-9a-f]{32}(\.\w+)?", path.name) is not None


def lock(path: Path) -> FileLock:
    """The lock under which `path` is computed: the first job works, the others wait and read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")
