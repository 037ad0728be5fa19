"""Ctrl-C while a program's libraries are imported, which takes seconds."""

import os
import signal
import sys
from types import FrameType


def end_on_interrupt() -> None:
    """Have Ctrl-C end this program at once, with a line and exit code 130.

    For the time before `run_cli` or `run_command`, which answer it themselves. An exception would
    be a traceback, or be lost in the middle of an import.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have it ignored
        signal.signal(signal.SIGINT, _end)


def raise_on_interrupt() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(signum: int, _: FrameType | None) -> None:
    print("mmlabel: interrupted before it had begun; start it again", file=sys.stderr, flush=True)
    os._exit(128 + signum)  # an exit in order would go through what is half imported
