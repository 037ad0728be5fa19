"""What the commands besides train.py and sweep.py, such as `python -m mmlabel.compare`, have in
common: their flags, how they end, the paths that they are given, and where they may write."""

import argparse
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

from mmlabel.cache import is_temporary
from mmlabel.errors import UserError, mistyped, of_the_disk, together
from mmlabel.interrupts import Signalled, answer, raise_on_interrupt
from mmlabel.progress import say
from mmlabel.terminal import printable, ready_streams, while_somebody_reads

OPTIONS = "OPTION=VALUE"  # as `Parser` shows options of train.py


class Parser(argparse.ArgumentParser):
    """Reads a command line; what it cannot read is answered as every other mistake.

    Its description keeps its lines.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but what a command does not know is told by its own parser."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            parser = self
            for action in self._actions:
                if isinstance(action.choices, Mapping):
                    parser = action.choices[getattr(found, action.dest)]
            if any(text.startswith("-") for text in rest) or not parser._takes_options:
                parser.error(f"unrecognized arguments: {' '.join(rest)}")
            found.options += rest  # those behind a flag
        return found

    def error(self, message: str) -> NoReturn:
        """Raise UserError with argparse's message, or with the flags that are meant."""
        rest = message.removeprefix("unrecognized arguments: ")
        if rest == message:
            raise UserError(f"{message}; {self.prog} --help says what it takes")
        unknown = [text for text in rest.split() if text.startswith("-")]
        if not unknown:
            raise UserError(f"{rest}: too many; {self.prog} --help says what it takes")
        if self._takes_options:
            from mmlabel.cli import refuse_flags

            refuse_flags(unknown, flags=self.flags)
        otherwise = f"there is no such flag; {self.prog} --help lists all"
        raise UserError(
            together(mistyped(text, self.flags) or f"{text}: {otherwise}" for text in unknown)
        )

    @property
    def _takes_options(self) -> bool:
        return any(action.metavar == OPTIONS for action in self._actions)

    @property
    def flags(self) -> list[str]:
        """All that it takes, but for those of its commands."""
        return [flag for action in self._actions for flag in action.option_strings]


def run_command(work: Callable[[], int | None]) -> int:
    """The exit status of a command: what `work` returns, or 0.

    A user's mistake is told in a line and is 1, Ctrl-C 130 and SIGTERM 143, as a shell has it.
    """
    with while_somebody_reads():
        return _answered(work)


def _answered(work: Callable[[], int | None]) -> int:
    ready_streams()
    try:
        raise_on_interrupt()
        return work() or 0
    except UserError as error:
        say(f"mmlabel: {printable(str(error))}")
        return 1
    except OSError as error:
        if (problem := of_the_disk(error)) is None:
            raise
        say(f"mmlabel: {printable(str(problem))}")
        return 1
    except KeyboardInterrupt as stop:
        answer(stop)
        say("mmlabel: interrupted")
        return 128 + (stop.signum if isinstance(stop, Signalled) else signal.SIGINT)


def path_of(text: str) -> Path:
    """A path on a command line: shells leave the ~ in --out=~/FOLDER as it is."""
    return Path(os.path.expanduser(text))


def check_folder(out: Path, *, files: Sequence[str], command: str) -> None:
    """See that a command replaces nothing but its own files in the folder that --out names.

    Args:
        out: may be absent, empty, or hold what the command has left there before.
        files: all that it writes; the first says so, see `made_by`.
        command: such as "mmlabel.compare".

    Raises UserError for any other place.
    """
    try:
        names = {path.name for path in out.iterdir() if not is_temporary(path)}
    except FileNotFoundError:
        names = set()
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}; give a new folder") from None
    if names and not (names <= set(files) and made_by(out / files[0], command)):
        raise UserError(f"--out {out} holds other files: give a new folder")
    check_place(out, f"--out {out}")


def check_file(out: Path, *, command: str) -> None:
    """See that a command replaces nothing but an earlier page of its own; raises UserError."""
    check_name(out, f"--out {out}")
    if out.exists() and out.stat().st_size and not made_by(out, command):
        raise UserError(f"--out {out} is another file already: give a new one")


def check_name(file: Path, named: str) -> None:
    """See that a file can be made, as `check_place` does for a folder."""
    if file.is_dir():
        raise UserError(f"{named} is a folder: give a file in it")
    check_place(file.parent, named)


def check_place(folder: Path, named: str) -> None:
    """See that files can be made in a folder, or it there; raises UserError that names the option.

    Before the work whose results go there. Nothing is left.
    """
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{named} cannot be written: {error.strerror}") from None


def made_by(path: Path, command: str) -> bool:
    """Whether a page or a table says at its head that this command made it."""
    try:
        with open(path, "rb") as file:
            return f"python -m {command}".encode() in file.read(1 << 16)
    except OSError:
        return False
