"""Runs on a SLURM cluster for real: tests/slurm.sh makes one of this machine."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from resumed_runs import history
from test_launchers import PICTURES, RUN, one_after_the_other, results_of  # noqa: F401
from test_launchers import multirun as _multirun

from mmlabel.data.row_store import stores

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("MMLABEL_TEST_SLURM"), reason="needs a cluster: tests/slurm.sh"
    ),
]
SMALL = ["hydra.launcher.mem_gb=2", "hydra.launcher.cpus_per_task=1"]
EPOCHS = 300  # longer than SLURM takes to end a job that is in the way of another
LONG = [f"trainer.max_epochs={EPOCHS}", "patience=null", "resume=true"]


@pytest.fixture(autouse=True)
def _empty_cluster():
    yield
    subprocess.run(["scancel", "--user=root"], check=True)
    wait_for(lambda: not queue(), "an empty queue")


def wait_for(happened: Callable[[], object], what: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"no {what} after {seconds} s: {queue()}"
        time.sleep(0.1)


def queue() -> list[str]:
    return slurm("squeue", "--noheader", "--format=%i %P %T %r").splitlines()


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def preempt(job: str) -> None:
    """Take the nodes of a job for a moment; it is queued again and started again."""
    before = restarts(job)
    slurm("srun", "--partition=high", "--nodes=2", "--exclusive", "true")
    wait_for(lambda: restarts(job) == before + 1, "job queued again", 30)


def restarts(job: str) -> int:
    found = re.search(r"Restarts=(\d+)", slurm("scontrol", "show", "job", job))
    assert found
    return int(found[1])


def has_epochs(folder: Path, number: int) -> Callable[[], bool]:
    written = folder / "metrics.csv"
    return lambda: written.exists() and len(written.read_text().splitlines()) > number


def start_multirun(*options: str, cwd: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "train.py"), "-m", *RUN, *options]
    return subprocess.Popen(
        [*command, f"cache_dir={cache}", "hydra/launcher=slurm", *SMALL],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_four_jobs_on_one_cache(one_after_the_other: dict[str, dict], tmp_path: Path):  # noqa: F811
    """The scores of the same jobs one after the other, features computed once; one job fails."""
    options = ["hydra/launcher=slurm", *SMALL, *PICTURES]
    said = _multirun(*options, cwd=tmp_path, cache=tmp_path / "cache", code=1)
    assert "learning rate is too high" in said and "Traceback" not in said
    found = results_of(tmp_path)
    assert sorted(found) == ["0", "1", "3"]
    for job, run in found.items():
        assert run["scores"] == one_after_the_other[job]["scores"], job
    (store,) = stores(tmp_path / "cache")
    assert store.rows == 2 * 60 + 24 + 24


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    _multirun(*LONG, "seed=0", cwd=folder, cache=folder / "cache")
    return folder / "jobs" / "0"


def assert_same(folder: Path, whole: Path) -> None:
    ours, theirs = results_of(folder.parent.parent)["0"], results_of(whole.parent.parent)["0"]
    assert ours["scores"] == theirs["scores"] and ours["epochs"] == theirs["epochs"] == EPOCHS
    # An epoch's line is written just after its checkpoint: a job that ends between them lacks it.
    lines, expected = history(folder), history(whole)
    assert len(lines) >= EPOCHS - 1 and [one for one in expected if one in lines] == lines


def test_a_job_whose_time_is_up_is_queued_again_and_goes_on(whole: Path, tmp_path: Path):
    folder = tmp_path / "jobs" / "0"
    started = start_multirun(*LONG, "seed=0", cwd=tmp_path, cache=tmp_path / "cache")
    wait_for(has_epochs(folder, 10), "tenth epoch")
    (job,) = {line.split()[0] for line in queue()}
    slurm("scancel", "--signal=USR2", job)
    wait_for(lambda: restarts(job) == 1, "job queued again")
    said, _ = started.communicate(timeout=300)
    assert started.returncode == 0, said
    assert_same(folder, whole)


def test_a_preempted_job_is_queued_again_and_goes_on(whole: Path, tmp_path: Path):
    folder = tmp_path / "jobs" / "0"
    started = start_multirun(*LONG, "seed=0", cwd=tmp_path, cache=tmp_path / "cache")
    wait_for(has_epochs(folder, 10), "tenth epoch")
    (job,) = {line.split()[0] for line in queue()}
    preempt(job)
    said, _ = started.communicate(timeout=300)
    assert started.returncode == 0, said
    assert_same(folder, whole)
    logs = "".join(log.read_text() for log in (tmp_path / "jobs" / ".submitit").glob("*/*.err"))
    assert "Caught signal SIGUSR2" in logs  # SLURM itself sends SIGTERM


def test_a_cancelled_job_is_not_queued_again(tmp_path: Path):
    started = start_multirun(*LONG, "seed=0", cwd=tmp_path, cache=tmp_path / "cache")
    wait_for(has_epochs(tmp_path / "jobs" / "0", 3), "third epoch")
    (job,) = {line.split()[0] for line in queue()}
    slurm("scancel", job)
    wait_for(lambda: not queue(), "end of the job")
    time.sleep(5)  # longer than it takes to queue one again
    assert not queue() and restarts(job) == 0
    started.send_signal(signal.SIGINT)  # without accounting submitit does not hear of the end
    started.communicate(timeout=60)


def test_ctrl_c_ends_the_waiting_and_not_the_jobs(tmp_path: Path):
    started = start_multirun(*LONG, "seed=0", cwd=tmp_path, cache=tmp_path / "cache")
    wait_for(has_epochs(tmp_path / "jobs" / "0", 3), "third epoch")
    started.send_signal(signal.SIGINT)
    said, _ = started.communicate(timeout=60)
    assert started.returncode == 130 and "Traceback" not in said, said
    assert "jobs go on in SLURM's queue" in said and queue()


@pytest.mark.parametrize("by", ["preemption", "its time"])
def test_a_batch_script_of_ones_own_goes_on(by: str, tmp_path: Path):
    """What docs/scale.md shows, on two nodes: ended, queued again, and on in the same run."""
    folder = tmp_path / "jobs" / "0"
    options = [*RUN, *LONG, "seed=0", f"cache_dir={tmp_path}/cache", f"hydra.run.dir={folder}"]
    options = [option for option in options if not option.startswith("hydra.sweep")]
    options += ["trainer=ddp", "trainer.num_nodes=2", "trainer.devices=1"]
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH --nodes=2 --ntasks-per-node=1 --signal=USR1@60 --requeue\n"
        "#SBATCH --open-mode=append\n"
        "export OMP_NUM_THREADS=1 MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo\n"
        "trap : TERM\n"
        f"srun --kill-on-bad-exit=1 {sys.executable} {REPOSITORY}/train.py {shlex.join(options)}\n"
        'case $? in 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;; esac\n'
    )
    out = tmp_path / "out.txt"
    job = slurm("sbatch", "--parsable", f"--output={out}", str(script)).strip()
    wait_for(has_epochs(folder, 10), "tenth epoch")
    if by == "preemption":
        preempt(job)
    else:
        slurm("scancel", "--signal=USR1", job)
    wait_for(lambda: not queue(), "end of the job", 300)
    assert restarts(job) == 1
    said = out.read_text()
    assert "Traceback" not in said, said
    results = results_of(tmp_path)["0"]
    assert results["epochs"] == len(history(folder)) == EPOCHS
    assert said.count("Initializing distributed") == 4
    # Of a preempted job SLURM's patience may end before the line is written.
    assert said.count("mmlabel: interrupted") == 1 or by == "preemption"
