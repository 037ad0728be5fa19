"""Signals, folders of the same second, and folders that are taken, as users meet them."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from resumed_runs import CAPTIONS, history, results_of

from mmlabel import interrupts, training
from mmlabel.lightning import callbacks

REPOSITORY = Path(__file__).resolve().parent.parent


def captions_only(quick: list[str]) -> list[str]:
    """What a quick run of `CAPTIONS` has of these options."""
    return [option for option in quick if not option.startswith(("backbone", "features"))]


def start(quick: list[str], *options: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *captions_only(quick), *options],
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
        for path in folder.rglob("metrics.csv"):
            if len(path.read_text().splitlines()) > 5:
                return
        time.sleep(0.1)
    pytest.fail(f"no training: {process.communicate()[0] if process.poll() is not None else ''}")


def test_a_signal_ends_a_program_with_a_checkpoint_and_a_line(quick: list[str], tmp_path: Path):
    with start(quick, *CAPTIONS, "trainer.max_epochs=100000", cwd=tmp_path) as process:
        when_training(process, tmp_path)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
    assert "Traceback" not in output
    said = re.search(r"interrupted \(SIGTERM\): .* ckpt_path=(\S+last\.ckpt)", output)
    assert said and (tmp_path / said[1]).is_file(), output


@pytest.fixture
def heard_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal counts however soon after another test's."""
    monkeypatch.setattr(interrupts, "_raised", None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.mark.parametrize(
    ("number", "code", "options"),
    [
        (signal.SIGTERM, 143, []),
        (signal.SIGINT, 130, []),
        (signal.SIGUSR1, 138, []),
        (signal.SIGTERM, 143, ["-m", "seed=0,1"]),
    ],
)
def test_the_line_that_ends_a_run_says_how_to_go_on(
    number: signal.Signals,
    code: int,
    options: list[str],
    quick: list[str],
    train_py,
    tmp_path: Path,
    heard_anew,
):
    def send(_, trainer, module) -> None:
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), number)

    epochs = [*captions_only(quick), *CAPTIONS, "trainer.max_epochs=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.StopOnNaN, "on_train_epoch_start", send, raising=False)
        output, exit_code = train_py(*options, *epochs)
    assert exit_code == code, output
    assert "Traceback" not in output
    said = re.search(rf"interrupted \({number.name}\): .* ckpt_path=(\S+last\.ckpt)", output)
    assert said and (tmp_path / said[1]).is_file(), output
    assert not list(tmp_path.rglob("results.json"))
    output, exit_code = train_py(*epochs, f"ckpt_path={said[1]}")
    assert exit_code == 0, output
    (results,) = tmp_path.rglob("results.json")
    assert results_of(results.parent)["epochs"] == 3 and len(history(results.parent)) == 3


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


def test_a_signal_counts_also_where_an_error_ends_its_clean_up(
    train_py, tmp_path: Path, monkeypatch, heard_anew
):
    """Neither has the run failed, nor does the next one of a multirun begin."""
    begun = []

    def train(settings, *_, **__) -> None:
        begun.append(settings.seed)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            raise ValueError("a logger has no place")

    monkeypatch.setattr(training, "train", train)
    said, code = train_py("-m", "seed=0,1", "hydra.sweep.dir=here")
    assert code == 143, said
    assert "Traceback" not in said
    assert "a logger has no place" in said
    assert "mmlabel: interrupted (SIGTERM): nothing was trained yet; start it again" in said
    assert begun == [0]
    assert not list(tmp_path.rglob("failed.json"))


def test_ctrl_c_before_training_says_what_to_do(quick: list[str], tmp_path: Path):
    with start(quick, *CAPTIONS, cwd=tmp_path) as process:
        end = time.monotonic() + 120
        while time.monotonic() < end and not list(tmp_path.glob("outputs/*/*")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "Traceback" not in said and "start it again" in said


def test_runs_of_the_same_second_have_folders_of_their_own(
    quick: list[str], train_py, tmp_path: Path, monkeypatch
):
    now = datetime.now()
    monkeypatch.setattr("hydra.core.utils.datetime", SimpleNamespace(now=lambda: now))
    options = [*captions_only(quick), *CAPTIONS, "trainer.max_epochs=1"]
    assert [train_py(*options, f"seed={seed}")[1] for seed in (0, 1)] == [0, 0]
    folders = sorted(tmp_path.glob("outputs/*/*"))
    assert [results_of(folder)["settings"]["seed"] for folder in folders] == [0, 1]
    assert folders[1].name == f"{folders[0].name}-2"


def test_a_finished_runs_folder_is_not_written_to_again(quick: list[str], train_py, tmp_path: Path):
    options = [*captions_only(quick), *CAPTIONS, "trainer.max_epochs=1", "hydra.run.dir=here"]
    assert train_py(*options)[1] == 0
    here = tmp_path / "here"
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert here / ".hydra" / "overrides.yaml" in before
    output, code = train_py(*options, "seed=1")
    assert code == 1
    assert "holds a finished run" in output and "Traceback" not in output
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_gone_on_with_only_on_the_same_data(
    cache: Path, made: Path, train_py, tmp_path: Path
):
    shutil.copytree(made, tmp_path / "made")
    options = ["model=image_only", "data=usyd", "data.root=made", "data.image_size=32"]
    options += ["backbone=resnet18", "backbone.weights=none", "features=off", "logger=csv"]
    options += ["trainer.max_epochs=1", "resume=true", "hydra.run.dir=run", f"cache_dir={cache}"]
    assert train_py(*options)[1] == 0
    said, code = train_py(*options)
    assert code == 0 and "has finished already: nothing is done" in said
    Image.new("RGB", (44, 36), "white").save(tmp_path / "made" / "data" / "0.jpg", format="PNG")
    said, code = train_py(*options)
    assert code == 1 and "the content of the pictures has changed since" in said
    assert "Traceback" not in said
