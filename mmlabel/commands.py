"""How the commands besides train.py and sweep.py end: `python -m mmlabel.compare` and the like."""

from collections.abc import Callable

from mmlabel.errors import UserError
from mmlabel.interrupts import raise_on_interrupt
from mmlabel.progress import say
from mmlabel.terminal import escape_what_is_missing, printable


def run_command(work: Callable[[], int | None]) -> int:
    """The exit status of a command: what `work` returns, or 0.

    A user's mistake is told in a line and is 1, Ctrl-C 130, as a shell has it.
    """
    escape_what_is_missing()
    try:
        raise_on_interrupt()
        return work() or 0
    except UserError as error:
        say(f"mmlabel: {printable(str(error))}")
        return 1
    except KeyboardInterrupt:
        say("mmlabel: interrupted")
        return 130
