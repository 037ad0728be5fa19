"""A launcher's job that SLURM preempts is queued again, as one whose time is up."""

import os
import signal
import subprocess


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
