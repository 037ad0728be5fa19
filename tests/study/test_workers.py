"""Jobs in processes of their own: what becomes of them, and that they end with the sweep."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mmlabel.study import workers
from mmlabel.study.workers import side_by_side, threads_each

Job = tuple[Path, str]


class Loses:
    """Python passes over what is raised in a __del__."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def work(job: Job) -> None:
    """Does what the job's second part says and leaves a file in the folder that is its first."""
    folder, what = job
    if what == "raise":
        raise ValueError("no weights")
    if what == "exit":
        os._exit(3)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "pass":
        import torch

        from mmlabel.processors import pass_threads

        seen = [torch.get_num_threads()]
        with pass_threads():
            seen.append(torch.get_num_threads())
        (folder / "passed").write_text(f"{seen[0]} {seen[1]} {torch.get_num_threads()}")
    if what == "lost":
        Loses()
        time.sleep(60)
    print(f"said by {what}")
    (folder / what).write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")
    if what in ("sleep", "stubborn"):
        deaf = ["sh", "-c", "trap '' TERM; sleep 300"]
        child = subprocess.Popen(deaf if what == "stubborn" else ["sleep", "300"])
        # Under its name once it is whole, as somebody waits for it.
        (folder / "written").write_text(str(child.pid))
        (folder / "written").rename(folder / "child")
        time.sleep(300)


def run(
    folder: Path,
    names: list[str],
    *,
    count: int,
    logs: bool = False,
    preload: Sequence[str] = (),
) -> dict[str, str | None]:
    """Why each job broke off, by its name."""
    ends = side_by_side(
        [(folder, name) for name in names],
        work,
        workers=count,
        preload=preload,
        log_of=lambda job: folder / f"{job[1]}.log" if logs else None,
        tick=lambda running: None,
    )
    return {name: reason for (_, name), reason in ends}


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_every_job_is_done_once_and_processes_take_several(tmp_path: Path):
    names = [f"job{number}" for number in range(6)]
    assert run(tmp_path, names, count=2) == dict.fromkeys(names)
    pids = {(tmp_path / name).read_text().split()[0] for name in names}
    assert len(pids) <= 2 and str(os.getpid()) not in pids


def test_a_job_that_fails_says_why_and_takes_no_other_along(tmp_path: Path):
    reasons = run(tmp_path, ["raise", "a", "exit", "b", "killed", "c"], count=2)
    assert reasons == {
        "raise": "ValueError: no weights",
        "exit": "its process ended with exit code 3",
        "killed": "its process was ended by SIGKILL",
        "a": None,
        "b": None,
        "c": None,
    }


def test_a_process_that_dies_between_two_jobs_is_replaced(tmp_path: Path, monkeypatch):
    """The next job is handed to it, and has not begun."""
    seen = workers.wait

    def wait_and_kill(connections: list, timeout: float) -> list:
        ready = seen(connections, timeout)
        if ready and (tmp_path / "a").exists() and not (tmp_path / "b").exists():
            pid = int((tmp_path / "a").read_text().split()[0])
            time.sleep(0.3)  # until it has said that the job is done, and waits for the next
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not alive(pid))
        return ready

    monkeypatch.setattr(workers, "wait", wait_and_kill)
    assert run(tmp_path, ["a", "b", "c"], count=1) == dict.fromkeys("abc")


def test_a_job_hears_also_a_signal_whose_exception_is_lost(tmp_path: Path, capfd):
    reasons = run(tmp_path, ["lost", "a"], count=1)
    assert reasons == {"lost": "its process ended with exit code 143", "a": None}
    assert not capfd.readouterr().err


def test_what_a_job_prints_goes_to_its_log(tmp_path: Path):
    run(tmp_path, ["a", "b"], count=1, logs=True)
    assert (tmp_path / "a.log").read_text() == "said by a\n"
    assert (tmp_path / "b.log").read_text() == "said by b\n"


def test_threads_are_shared_out_unless_they_are_given(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shares = {1: 8, 2: 4, 3: 2, 8: 1, 20: 1}
    assert {count: threads_each(count) for count in shares} == {
        n: (t, 8) for n, t in shares.items()
    }
    run(tmp_path, ["a"], count=2)
    assert (tmp_path / "a").read_text().endswith(" 4")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_each(8) == (3, 3)


def test_a_pass_over_pictures_has_the_threads_of_all(monkeypatch, tmp_path: Path):
    """The other jobs wait for it; what is asked for by OMP_NUM_THREADS holds for it, too."""
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run(tmp_path, ["pass"], count=2)
    assert (tmp_path / "passed").read_text() == "1 2 1"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run(tmp_path, ["pass"], count=2)
    assert (tmp_path / "passed").read_text() == "1 1 1"


@pytest.mark.parametrize("what", ["sleep", "stubborn"])
def test_closing_ends_the_processes_and_what_they_started(tmp_path: Path, what: str):
    ends = side_by_side(
        [(tmp_path, what), (tmp_path, "quick")],
        work,
        workers=2,
        preload=(),
        log_of=lambda job: None,
        tick=lambda running: None,
    )
    with closing(ends):
        assert next(ends)[0][1] == "quick"
        wait_for((tmp_path / "child").exists)
    for name in (what, "child"):
        pid = int((tmp_path / name).read_text().split()[0])
        wait_for(lambda pid=pid: not alive(pid), seconds=10)


def test_an_interruption_ends_the_processes_too(tmp_path: Path):
    def interrupt(running: list[Job]) -> None:
        if (tmp_path / "child").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(
            side_by_side(
                [(tmp_path, "sleep")],
                work,
                workers=1,
                preload=(),
                log_of=lambda job: None,
                tick=interrupt,
            )
        )
    # A process that was told to end takes a moment to be gone.
    wait_for(lambda: not alive(int((tmp_path / "child").read_text())), seconds=10)


SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
if __name__ == "__main__":
    from mmlabel.cli import run_cli
    from test_workers import run

    run_cli(lambda: run(Path(sys.argv[1]), ["sleep"], count=1))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_program_whatever_ends_it(tmp_path: Path, number: signal.Signals):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        # A pipe that is read late would hold up what writes to it.
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(program.stderr or ()))
        reader.start()
        wait_for((tmp_path / "child").exists)
        program.send_signal(number)
        assert program.wait(60) == (-9 if number == signal.SIGKILL else 128 + number)
        reader.join(60)
    pids = [int((tmp_path / name).read_text().split()[0]) for name in ("sleep", "child")]
    wait_for(lambda: not any(alive(pid) for pid in pids))
    if number != signal.SIGKILL:
        assert said == [f"mmlabel: interrupted ({number.name})\n"]


def test_ctrl_c_on_a_terminal_while_libraries_are_imported(tmp_path: Path):
    """It reaches all processes of the sweep, of which one answers."""
    begun = tmp_path / "begun"
    (tmp_path / "slow.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(1)\n"
    )
    script = tmp_path / "script.py"
    text = SCRIPT.format(tests=str(Path(__file__).parent))
    script.write_text(text.replace("count=1", "count=1, preload=['slow']"))
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        wait_for(begun.exists)
        os.killpg(program.pid, signal.SIGINT)
        assert program.communicate(timeout=60)[1] == "mmlabel: interrupted (SIGINT)\n"
    assert program.returncode == 130


def test_the_processes_import_what_the_sweep_does(tmp_path: Path):
    """A copy of the project beside the one that is installed, started from somewhere else."""
    package = tmp_path / "copy" / "mmlabel"
    shutil.copytree(Path(workers.__file__).parent.parent, package)
    (tmp_path / "copy" / "probe.py").write_text(
        "import mmlabel\ndef work(job):\n    print(mmlabel.__file__, flush=True)\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'copy')!r})\n"
        "from pathlib import Path\n"
        "import probe\n"
        "from mmlabel.study.workers import side_by_side\n"
        "jobs = side_by_side([1], probe.work, workers=1, preload=['mmlabel'],"
        " log_of=lambda job: Path('log'), tick=lambda jobs: None)\n"
        "print(list(jobs))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[(1, None)]\n"), done.stderr
    assert (tmp_path / "log").read_text().strip() == str(package / "__init__.py")
