"""Jobs that submitit has started: when they end, and when SLURM queues them again.

On this machine they end with the program that waits for them. submitit lets them go on: whoever
ended the program, and is told so, would find them training.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

from mmlabel.processes import is_first_process

GRACE = 30.0  # seconds between asking a job to end and killing it

_WAITS = "MMLABEL_WAITS_FOR_JOBS"  # the program's process, in the environment of its jobs


def take_jobs_along(arguments: Sequence[str]) -> None:
    """In the program: let jobs know whose they are, and keep Ctrl-C from what looks after them.

    Those processes of submitit's would end with a traceback each.

    Args:
        arguments: of the command line.
    """
    launchers = ("hydra/launcher=local", "hydra/launcher=submitit_local")
    if not set(launchers) & set(arguments) or find_spec("submitit") is None:
        return
    from submitit.local import local

    os.environ[_WAITS] = str(os.getpid())
    start = local.start_controller

    @wraps(start)
    def start_controller(*given, **options):
        former = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is started inherits it
        try:
            return start(*given, **options)
        finally:
            signal.signal(signal.SIGINT, former)

    local.start_controller = start_controller


def end_with_program() -> None:
    """In a job: end when the program that waits for it has ended."""
    program = os.environ.get(_WAITS)
    # Processes that Lightning starts for the job have its environment, and end with it.
    if program and os.environ.get("SUBMITIT_EXECUTOR") == "local" and is_first_process():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_watch, args=(int(program),), daemon=True).start()


def _watch(program: int) -> None:
    while _lives(program):
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: int) -> bool:
    """Also one that has ended and whose parent has not looked yet has a number."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return False
    except OSError:  # a system without /proc
        return True
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")


def queue_again_when_preempted() -> None:
    """Let SIGTERM do, in a job of submitit's on SLURM, what submitit's own signal does.

    SLURM sends SIGTERM to a job that it preempts and to one that somebody cancels, and submitit
    passes over it. But srun, under which the job runs, ends with it, and the job would be done for
    SLURM before its time of grace is over and it is queued again.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return
    own = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    # Processes that Lightning starts for the job have its environment, and not submitit's handler.
    if own is not signal.SIGTERM and callable(signal.getsignal(own)):
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(own) if _runs() else None)


def _runs() -> bool:
    """Whether the job still runs for SLURM: one that somebody cancels does not."""
    from submitit import JobEnvironment

    command = ["scontrol", "show", "job", JobEnvironment().job_id]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False  # without an answer it is left to SLURM, as submitit does
    return "JobState=RUNNING" in shown.stdout
