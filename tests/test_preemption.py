"""What SIGTERM does in a job of the SLURM launcher; tests/test_slurm.py has it from SLURM."""

import signal
from pathlib import Path

import pytest

from mmlabel.submitit_jobs import queue_again_when_preempted

pytest.importorskip("submitit")


@pytest.fixture(autouse=True)
def _handlers():
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def job(monkeypatch: pytest.MonkeyPatch, folder: Path, scontrol: str | None) -> list[int]:
    """A job whose scontrol is this script; returns what reaches submitit's handler."""
    if scontrol is not None:
        (folder / "scontrol").write_text(f"#!/bin/sh\n{scontrol}\n")
        (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    heard: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    signal.signal(signal.SIGTERM, lambda *_: None)  # as submitit passes over it
    return heard


@pytest.mark.parametrize(
    "scontrol, queued_again",
    [
        ('test "$3" = 5_0 && echo "   JobState=RUNNING Reason=None"', True),
        ('echo "   JobState=CANCELLED Reason=None"', False),
        ("exit 1", False),
        (None, False),
    ],
)
def test_a_job_that_still_runs_for_slurm_was_preempted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scontrol: str | None, queued_again: bool
):
    heard = job(monkeypatch, tmp_path, scontrol)
    queue_again_when_preempted()
    signal.raise_signal(signal.SIGTERM)
    assert heard == ([signal.SIGUSR2] if queued_again else [])


def test_other_processes_keep_their_handler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    job(monkeypatch, tmp_path, None)
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    before = signal.getsignal(signal.SIGTERM)
    queue_again_when_preempted()
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")  # a process that Lightning has started
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    queue_again_when_preempted()
    assert signal.getsignal(signal.SIGTERM) is before
