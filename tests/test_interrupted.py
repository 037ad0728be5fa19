"""Signals, folders of the same second, and folders that are taken, as users meet them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
LONG = ["model=caption_only", "trainer.max_epochs=100000", "patience=null"]


def start(quick: list[str], *options: str, cwd: Path) -> subprocess.Popen:
    fitting = [o for o in quick if not o.startswith(("backbone", "features"))]
    flags = [option for option in options if option.startswith("-")]
    given = [option for option in options if option not in flags]
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *flags, *fitting, *given],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def when_training(process: subprocess.Popen, folder: Path) -> None:
    """Wait until a second epoch has ended."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        for history in folder.rglob("metrics.csv"):
            if len(history.read_text().splitlines()) > 5:
                return
        time.sleep(0.1)
    pytest.fail(f"no training: {process.communicate()[0] if process.poll() is not None else ''}")


@pytest.mark.parametrize(
    ("number", "code", "multirun"),
    [
        (signal.SIGTERM, 143, False),
        (signal.SIGINT, 130, False),
        (signal.SIGTERM, 143, True),
        pytest.param(signal.SIGUSR1, 138, False, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_run_with_a_checkpoint_and_a_line(
    number: signal.Signals, code: int, multirun: bool, quick: list[str], tmp_path: Path
):
    """The line's own advice then works."""
    options = ["-m", "seed=0,1"] if multirun else []
    with start(quick, *LONG, *options, cwd=tmp_path) as process:
        when_training(process, tmp_path)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert number.name in output
    said = re.search(r"ckpt_path=(\S+last\.ckpt)", output)
    assert said and (tmp_path / said[1]).is_file(), output
    folder = (tmp_path / said[1]).parent
    assert not (folder / "results.json").exists()
    if number == signal.SIGTERM and not multirun:
        reached = len((folder / "metrics.csv").read_text().splitlines()) // 2
        with start(
            quick,
            f"ckpt_path={said[1]}",
            "trainer.max_epochs=100000",
            f"trainer.max_steps={10**9}",
            "trainer.max_time=00:00:00:01",
            cwd=tmp_path,
        ) as again:
            output = again.communicate(timeout=120)[0]
        assert "Traceback" not in output
        if again.returncode == 0:
            (results,) = tmp_path.rglob("results.json")
            assert json.loads(results.read_text())["epochs"] >= reached // 2
        else:
            assert "mmlabel: " in output


@pytest.mark.parametrize(
    ("program", "library"),
    [
        ([str(REPOSITORY / "train.py")], "hydra"),
        ([str(REPOSITORY / "sweep.py"), "study=modality"], "hydra"),
        (["-m", "mmlabel.compare", "a", "b"], "numpy"),
    ],
)
def test_ctrl_c_while_libraries_are_imported_is_a_line(
    program: list[str], library: str, tmp_path: Path
):
    (tmp_path / f"{library}.py").write_text(
        "import time\nprint('there', flush=True)\ntime.sleep(60)"
    )
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    with subprocess.Popen(
        [sys.executable, *program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "mmlabel: interrupted before it had begun; start it again\n"


LOSES = {
    "__del__": """
class Loses:
    def __del__(self): send()
Loses()
""",
    "a callback of the garbage collector": """
import gc
gc.callbacks.append(lambda *_: send())
gc.collect()
gc.callbacks.clear()
""",
    "a callback of a weak reference": """
import weakref
class Object: pass
held = Object()
reference = weakref.ref(held, lambda _: send())
del held
""",
    "whoever catches anything": """
try:
    send()
except BaseException:
    pass
""",
}


@pytest.mark.parametrize("where", LOSES)
@pytest.mark.parametrize(
    ("runner", "number", "code", "line"),
    [
        ("cli.run_cli", signal.SIGTERM, 143, "mmlabel: interrupted (SIGTERM)"),
        ("commands.run_command", signal.SIGINT, 130, "mmlabel: interrupted"),
        ("commands.run_command", signal.SIGTERM, 143, "mmlabel: interrupted"),
    ],
)
def test_a_signal_is_heard_also_where_its_exception_is_lost(
    where: str, runner: str, number: signal.Signals, code: int, line: str, tmp_path: Path
):
    """And where it is lost again when it comes once more."""
    module, function = runner.split(".")
    work = "".join(f"    {text}\n" for text in LOSES[where].splitlines())
    script = f"""
import os, sys, time
sys.argv = ["-m"]
from mmlabel.{module} import {function}
def send():
    os.kill(os.getpid(), {int(number)})
    time.sleep(0.01)
def work():
{work}{work}
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.01)
    print("never heard of it")
sys.exit({function}(work))
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", script]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    assert run.returncode == code, run.stderr
    assert run.stderr == f"{line}\n"
    assert not run.stdout


def test_a_signal_counts_also_where_an_error_ends_its_clean_up(tmp_path: Path):
    """Neither has the run failed, nor does the next one of a multirun begin."""
    script = """
import os, signal, sys, time
import mmlabel.training
def trained(*_, **__):
    print("begun", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        raise ValueError("a logger has no place")
mmlabel.training.train = trained
import train
from mmlabel.cli import run_cli
run_cli(train.main)
"""
    command = [sys.executable, "-c", script, "-m", "seed=0,1", "hydra.sweep.dir=here"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    assert run.returncode == 143, run.stderr
    assert "Traceback" not in run.stderr
    assert "a logger has no place" in run.stdout + run.stderr
    assert "mmlabel: interrupted (SIGTERM): nothing was trained yet; start it again" in run.stderr
    assert run.stdout.count("begun") == 1
    assert not list(tmp_path.rglob("failed.json"))


def test_ctrl_c_before_training_says_what_to_do(quick: list[str], tmp_path: Path):
    with start(quick, *LONG, cwd=tmp_path) as process:
        end = time.monotonic() + 120
        while time.monotonic() < end and not list(tmp_path.glob("outputs/*/*")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "Traceback" not in said and "start it again" in said


def test_runs_of_the_same_second_have_folders_of_their_own(quick: list[str], tmp_path: Path):
    options = ["model=caption_only", "trainer.max_epochs=1"]
    processes = [start(quick, *options, f"seed={seed}", cwd=tmp_path) for seed in (0, 1)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("results.json")]
    assert sorted(results["settings"]["seed"] for results in found) == [0, 1]


def test_a_finished_runs_folder_is_not_written_to_again(quick: list[str], tmp_path: Path):
    options = ["model=caption_only", "trainer.max_epochs=1", "hydra.run.dir=here"]
    with start(quick, *options, cwd=tmp_path) as process:
        assert process.wait(timeout=120) == 0
    here = tmp_path / "here"
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert here / ".hydra" / "overrides.yaml" in before
    with start(quick, *options, "seed=1", cwd=tmp_path) as process:
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert "holds a finished run" in output and "Traceback" not in output
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_gone_on_with_only_on_the_same_data(
    cache: Path, made: Path, tmp_path: Path
):
    shutil.copytree(made, tmp_path / "made")
    options = ["model=image_only", "data=usyd", "data.root=made", "data.image_size=32"]
    options += ["backbone=resnet18", "backbone.weights=none", "features=off", "logger=csv"]
    options += ["trainer.max_epochs=1", "resume=true", "hydra.run.dir=run", f"cache_dir={cache}"]

    def again() -> tuple[str, int]:
        process = start([], *options, cwd=tmp_path)
        return process.communicate()[0], process.returncode

    assert again()[1] == 0
    said, code = again()
    assert code == 0 and "has finished already: nothing is done" in said
    Image.new("RGB", (44, 36), "white").save(tmp_path / "made" / "data" / "0.jpg", format="PNG")
    said, code = again()
    assert code == 1 and "the content of the pictures has changed since" in said
    assert "Traceback" not in said
