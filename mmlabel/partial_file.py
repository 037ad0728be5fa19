"""A file of many rows that takes long to write, and can be gone on with after a kill.

Until it is finished its rows are in NAME.part, beside it. NAME.part.log holds a line of JSON about
the call that writes it and one each time that rows were kept: how many, and how long the file is
with them. A line is added when its rows are in the file, so that a kill costs the rows since.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmlabel.errors import UserError
from mmlabel.progress import say
from mmlabel.wording import count

_STATE = ("rows", "bytes", "sha256")


class PartialFile:
    """What is written so far. Made by `resumable`.

    Attributes:
        path: of its file.
        rows: how many are kept.
        carried: what the last call of `keep` was told besides; empty where none is kept.
        again: the options with which the same command goes on, should it fail.
    """

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self.rows = 0
        self.carried: dict[str, Any] = {}
        self.again = "--resume"
        self._file = open(path, "ab")
        self._log = open(log, "a", encoding="utf-8")
        self._digest = hashlib.sha256()

    def write(self, text: str) -> int:
        """Add text, in UTF-8; it counts from the next `keep` on."""
        content = text.encode()
        self._digest.update(content)
        self._file.write(content)
        return len(text)

    def keep(self, rows: int, carried: Mapping[str, object]) -> None:
        """Keep what was written, which are so many rows more, with plain values of one's own."""
        self._file.flush()
        self.rows, self.carried = self.rows + rows, dict(carried)
        state = (self.rows, self._file.tell(), self._digest.hexdigest())
        self.note(dict(zip(_STATE, state, strict=True)) | self.carried)

    def note(self, content: Mapping[str, object]) -> None:
        """Add a line to the log."""
        # A line that a kill has cut is ended by the next one's first character.
        self._log.write(f"\n{json.dumps(content)}\n")
        self._log.flush()

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Cut what was written after the rows that were kept last.

        Raises UserError if those are not what was written.
        """
        rows, size, digest = (kept[name] for name in _STATE)
        with open(self.path, "rb") as file:
            left = size
            while left and (chunk := file.read(min(left, 1 << 20))):
                self._digest.update(chunk)
                left -= len(chunk)
        if self._digest.hexdigest() != digest:
            raise UserError(f"{self.path} is damaged: remove it to start anew")
        self._file.truncate(size)
        self._file.seek(size)
        self.rows = rows
        self.carried = {name: value for name, value in kept.items() if name not in _STATE}

    def close(self) -> None:
        self._file.close()
        self._log.close()


@contextmanager
def resumable(
    out: Path,
    call: Mapping[str, object],
    *,
    resume: bool,
    finish: Callable[[Path, Path], None] = os.replace,
) -> Iterator[PartialFile]:
    """Give a file to be written, and make `out` of it when the block succeeds.

    If the block fails, the rows that were kept stay for a call with `resume`, and how to go on is
    said.

    Args:
        out: the file that is wanted.
        call: all that the rows depend on, plain values by names that a message can use.
        resume: whether to go on with what an interrupted call has left, if it has left anything.
        finish: makes the second file of the first, whole or not at all.

    Raises:
        UserError: the interrupted call was another one; it left rows and `resume` is False; what it
            left is damaged; another process is writing the same file.
        OSError: the file cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path, log = (out.with_name(f"{out.name}.part{suffix}") for suffix in ("", ".log"))
    with _alone(out):
        part = _begin(path, log, call, resume=resume)
        try:
            yield part
            part.close()
            finish(path, out)
        except BaseException:
            part.close()
            if part.rows:
                say(
                    f"{count(part.rows, 'row is', 'rows are')} kept in {path}: the same command"
                    f" with {part.again} goes on"
                )
            else:
                _remove(path, log)
            raise
        _remove(path, log)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other processes from writing the same file meanwhile."""
    held = out.with_name(f"{out.name}.part.lock")
    try:
        with FileLock(held, timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):
                    held.unlink()
    except Timeout:
        raise UserError(
            f"another process is writing {out}: wait for it, or give another file"
        ) from None


def _begin(path: Path, log: Path, call: Mapping[str, object], *, resume: bool) -> PartialFile:
    """A new file, or the interrupted one, cut to the rows that were kept last."""
    former, *kept = _lines(log) if path.exists() else [{}]
    if not kept:
        _remove(path, log)
        part = PartialFile(path, log)
        part.note(call)
        return part
    if not resume:
        raise UserError(
            f"{path} holds {count(kept[-1]['rows'], 'row')} of an interrupted call: go on with it"
            " by --resume, or remove it to start anew"
        )
    if other := [
        _difference(name, former.get(name), value)
        for name, value in call.items()
        if former.get(name) != value
    ]:
        raise UserError(
            f"--resume: the interrupted call differs in {', '.join(other)}: give what it was given,"
            f" or remove {path} to start anew"
        )
    part = PartialFile(path, log)
    try:
        part.go_on(kept[-1])
    except BaseException:
        part.close()
        raise
    return part


def _difference(name: str, before: object, now: object) -> str:
    # Digests say nothing to anybody.
    short = all(len(str(value)) < 32 for value in (before, now))
    return f"{name} ({before}, now {now})" if short else name


def _lines(log: Path) -> list[dict[str, Any]]:
    """What the log says; a line that a kill has cut is left out."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        with suppress(ValueError):  # an empty one, too
            found.append(json.loads(line))
    return found or [{}]


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
