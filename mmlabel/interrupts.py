"""Ctrl-C and the signals of schedulers: heard while libraries are imported, and never lost."""

import _thread
import os
import signal
import sys
import time
from types import FrameType

# ---- While a program's libraries are imported, which takes seconds ------------------------------


def end_on_interrupt() -> None:
    """Have Ctrl-C end this program at once, with a line and exit code 130.

    For the time before `run_cli` or `run_command`, which answer it themselves. An exception would
    be a traceback, or be lost in the middle of an import.
    """
    global _program
    _program = os.getpid()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have it ignored
        signal.signal(signal.SIGINT, _end)


def raise_on_interrupt() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, for whoever catches it to `answer`.

    SIGTERM does the same, by which whoever ends the program in order has files removed that are not
    finished, and rows kept that are.
    """
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _raise)
    if _program == os.getpid() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


_program: int | None = None  # the process that this module is the beginning of


def _end(signum: int, _: FrameType | None) -> None:
    print("mmlabel: interrupted before it had begun; start it again", file=sys.stderr, flush=True)
    os._exit(128 + signum)  # an exit in order would go through what is half imported


# ---- Afterwards ---------------------------------------------------------------------------------


class Signalled(BaseException):
    """What the handler of a signal raises, for the program to end.

    Python passes over what is raised in a __del__ or in a callback of a weak reference, of the
    garbage collector or of C, with a remark, and a library may catch whatever there is. The work
    would go on as if nothing had been sent. So the signal comes again until it is answered.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.raised_in: int | None = None  # the process; None: not by a handler, or answered

    def __del__(self) -> None:
        if self.raised_in == os.getpid():  # a child has a copy
            _send_again(self.signum)


class _CtrlC(Signalled, KeyboardInterrupt):
    """Ctrl-C, or SIGTERM, of a command that catches KeyboardInterrupt."""


def raise_until_answered(stop: Signalled, *, patience: float = 0.0) -> None:
    """Raise `stop` in the handler of its signal.

    Args:
        stop: which nothing else may hold: it is taken for lost when it goes.
        patience: seconds in which further signals are passed over, as what is cleaned up because of
            this one must not be cut short.
    """
    global _raised, _former_hook
    if _raised is not None and time.monotonic() - _raised < patience:
        return
    _raised = time.monotonic()
    if sys.unraisablehook is not _without_remark:
        _former_hook, sys.unraisablehook = sys.unraisablehook, _without_remark
    stop.raised_in = os.getpid()
    try:
        raise stop
    finally:
        del stop  # or the exception would be held by its own traceback


_raised: float | None = None


def answer(stop: BaseException) -> None:
    """Take a signal for heard, and those in whose clean-up it came: the program ends, for instance.

    Args:
        stop: what was raised by its handler; anything else is passed over.
    """
    global _to_come
    _to_come = False
    former: BaseException | None = stop
    while former is not None:
        if isinstance(former, Signalled):
            former.raised_in = None
        former = former.__context__


def behind(error: BaseException) -> Signalled | None:
    """The signal in whose clean-up an error was raised; None if there was none, or it is heard."""
    former = error.__context__
    while former is not None:
        if isinstance(former, Signalled) and former.raised_in is not None:
            return former
        former = former.__context__
    return None


def _raise(signum: int, _: FrameType | None) -> None:
    raise_until_answered(_CtrlC(signum))


def _terminate(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _program:
        os._exit(128 + signum)  # what it has forked, such as a worker that decodes pictures
    _raise(signum, frame)


def _without_remark(lost: "sys.UnraisableHookArgs") -> None:
    if not isinstance(lost.exc_value, Signalled):
        _former_hook(lost)


_former_hook = sys.unraisablehook


def _send_again(signum: int) -> None:
    """Send this process the signal a moment later, when what has lost it may be over."""
    global _raised, _to_come
    _raised = None
    if _to_come:
        return  # once is enough: another one would come while the first is answered
    _to_come = True

    def send() -> None:
        global _to_come
        time.sleep(_MOMENT)
        if _to_come:
            _to_come = False
            os.kill(os.getpid(), signum)

    try:
        # No threading.Thread, whose lock may be held by what has been interrupted.
        _thread.start_new_thread(send, ())
    except RuntimeError:  # Python is about to end
        os._exit(128 + signum)


_to_come = False
_MOMENT = 0.05  # seconds
