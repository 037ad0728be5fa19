"""The one kind of error that is shown to a user as a message, without a traceback."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from mmlabel.wording import listed

_MOST = 40  # choices in a message: of thousands nobody reads all


class UserError(Exception):
    """A mistake in the options or the data: its text names the culprit and says what to do."""


def of_the_disk(error: OSError) -> UserError | None:
    """The message for a file or folder that cannot be used; None for what the machine is to blame.

    A full disk, a place that this user may not enter, a name that is too long.
    """
    name = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{name} cannot be written ({error.strerror}): make room and start it again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{name}: {error.strerror}: give a place that this user may use")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return UserError(f"{name}: {error.strerror}")
    return None


def not_utf_8(text: str | Path) -> str | None:
    """What to say of a file's name that is no text, as on old disks; None if it is text.

    Where the locale has Python take the command line for ASCII, all names with accents are none.
    """
    if not re.search("[\ud800-\udfff]", str(text)):  # as which Python has such bytes
        return None
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        return f"is not in {encoding}, which the locale says: set PYTHONUTF8=1 in the environment"
    return "is not in UTF-8: rename the file or folder"


def no_yaml(path: Path, error: Exception) -> UserError:
    """The message for a file of configuration that PyYAML cannot read."""
    file = os.path.relpath(path)
    if isinstance(error, UnicodeDecodeError):
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as whole:  # the error's own place is one within a part
            line = content[: whole.start].count(b"\n") + 1
            return UserError(f"{file}, line {line}: a byte that is not UTF-8: save it as UTF-8")
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}" if mark else ""
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return UserError(f"{file}{where}: no valid YAML: {' '.join(said.split())}")


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint to append to "unknown NAME": the options that begin so, the closest, or else all.

    >>> nearest("resnet51", ["resnet50", "vgg16"])
    '; did you mean "resnet50"?'
    >>> nearest("resnet", ["resnet50", "resnet18", "vgg16"])
    '; did you mean "resnet18" or "resnet50"?'
    >>> nearest("x", ["resnet50", "vgg16"])
    '; choose from resnet50, vgg16'
    """
    options = sorted(set(options))
    close = difflib.get_close_matches(name, options, n=1)
    if not close:
        return f"; choose from {listed(options, _MOST)}"
    longer = [f'"{option}"' for option in options if option.startswith(name)]
    if len(longer) < 2:
        return f'; did you mean "{close[0]}"?'
    if len(longer) > 10:
        return f"; did you mean one of {listed(longer)}?"
    return f"; did you mean {', '.join(longer[:-1])} or {longer[-1]}?"


def mistyped(text: str, flags: Iterable[str]) -> str | None:
    """What to say of what is nearly one of the flags; None for anything else."""
    given = text.partition("=")[0]
    close = difflib.get_close_matches(given.replace("_", "-"), flags, n=1, cutoff=0.75)
    return f"{given}: there is no such flag; did you mean {close[0]}?" if close else None


def together(problems: Iterable[str]) -> str:
    """What is wrong as one message, each thing once."""
    return "; also: ".join(dict.fromkeys(problems))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use within a message of ours.

    >>> first_line(ValueError("wrong.\\nFurther lines"))
    'wrong'
    """
    return (str(error).strip().splitlines() or [""])[0].rstrip(" .") or type(error).__name__


def no_numbers(answers: str) -> UserError:
    """What is said of a network whose answers are NaN; `answers` says which."""
    return UserError(
        f"{answers} are no numbers (nan): too high a learning rate has destroyed the network's"
        " weights; train anew with a lower optimizer.lr, or with trainer.gradient_clip_val"
    )
