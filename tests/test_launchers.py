"""Hydra's launchers for real."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from resumed_runs import history

from mmlabel.data.row_store import stores

REPOSITORY = Path(__file__).resolve().parent.parent
RUN = ["trainer.max_epochs=1", "model=caption_only", "trainer.accelerator=cpu", "logger=csv"]
RUN += ["report=false", "data.rows=[60,24,24]", "data.image_size=32", "data.workers=0"]
RUN += ["captions.lemmas=none", "embedding=learned", "embedding.dim=8", "hydra.sweep.dir=jobs"]


def multirun(*options: str, cwd: Path, cache: Path, code: int = 0) -> str:
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), "-m", *_run(options), f"cache_dir={cache}"],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )
    output = process.stdout + process.stderr
    assert process.returncode == code, output
    return output


def _run(options: Sequence[str]) -> list[str]:
    """RUN as far as the options leave it."""
    captioned = "model=image_only" not in options
    kept = [option for option in RUN if captioned or not option.startswith(_CAPTIONED)]
    return [*kept, *options]


_CAPTIONED = ("model=", "captions", "embedding")


def leave_out_without_ray(launcher: str) -> None:
    if launcher == "cluster" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray's launcher has an environment of its own (tests/cluster.sh): left out")


def results_of(cwd: Path) -> dict[str, dict]:
    files = (cwd / "jobs").glob("*/results.json")
    return {path.parent.name: json.loads(path.read_text()) for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_every_job_in_its_own_folder(launcher: str, tmp_path: Path, cache: Path):
    layers = "lstm.layers=1,2" if launcher == "joblib" else "lstm.layers=2"
    multirun(f"hydra/launcher={launcher}", layers, cwd=tmp_path, cache=cache)
    found = {name: run["settings"]["lstm"]["layers"] for name, run in results_of(tmp_path).items()}
    assert found == ({"0": 1, "1": 2} if launcher == "joblib" else {"0": 2})
    assert not list(tmp_path.glob("outputs"))


PICTURES = ["model=image_only", "backbone=resnet18", "backbone.weights=none"]
PICTURES += ["features.engine=torch", "optimizer=sgd", "optimizer.lr=0.1,0.01,1e30,0.001"]


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("serial")
    said = multirun(*PICTURES, cwd=folder, cache=folder / "cache", code=1)
    assert "learning rate is too high" in said
    return results_of(folder)


CLUSTER = pytest.param("cluster", marks=pytest.mark.slow)  # Ray's, whose environment CI builds


@pytest.mark.parametrize("launcher", ["cores", "local", CLUSTER])
def test_four_jobs_on_one_cache(
    launcher: str, one_after_the_other: dict[str, dict], tmp_path: Path
):
    """The scores of the same jobs one after the other, features computed once; one job fails."""
    leave_out_without_ray(launcher)
    options = [f"hydra/launcher={launcher}", *PICTURES]
    said = multirun(*options, cwd=tmp_path, cache=tmp_path / "cache", code=1)
    assert "learning rate is too high" in said and "Traceback" not in said
    assert ("each job says in jobs/NUMBER/train.log" in said) == (launcher == "local")
    found = results_of(tmp_path)
    assert sorted(found) == ["0", "1", "3"]
    for job, run in found.items():
        assert run["scores"] == one_after_the_other[job]["scores"], job
    failed = json.loads((tmp_path / "jobs" / "2" / "failed.json").read_text())
    assert "learning rate is too high" in failed["error"]
    (store,) = stores(tmp_path / "cache")
    assert store.rows == 2 * 60 + 24 + 24


def test_a_study_in_another_folder_than_the_clones(tmp_path: Path, cache: Path):
    """Its jobs' processes find what it has imported."""
    command = [sys.executable, str(REPOSITORY / "sweep.py"), "study=optimizer", "seeds=1"]
    own = [option for option in RUN if not option.startswith("hydra")]
    command += [*own, "hydra/launcher=local", f"cache_dir={cache}", "out=studies"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("studies/runs/*/results.json"))) == 2


@pytest.mark.slow
def test_a_preempted_job_goes_on_in_its_folder(tmp_path: Path, cache: Path):
    """The scheduler's signal ends the job; started again, it gives what a whole one does."""
    options = ["trainer.max_epochs=60", "patience=null", "resume=true"]
    (tmp_path / "whole").mkdir()
    multirun(*options, "seed=0", cwd=tmp_path / "whole", cache=cache)
    started = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), "-m", *RUN, f"cache_dir={cache}", *options]
        + ["hydra/launcher=local", "seed=0"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    written = tmp_path / "jobs" / "0" / "metrics.csv"
    end = time.monotonic() + 120
    while not (written.exists() and len(written.read_text().splitlines()) > 20):
        assert started.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    (log,) = (tmp_path / "jobs" / ".submitit").glob("*/*_0_log.err")
    controller = log.parent.name
    (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    assert started.wait(timeout=300) == 0
    assert "Requeued job" in log.read_text() + log.with_suffix(".out").read_text()
    whole, cut = (results_of(folder)["0"] for folder in (tmp_path / "whole", tmp_path))
    assert cut["scores"] == whole["scores"] and cut["epochs"] == 60
    assert history(tmp_path / "jobs" / "0") == history(tmp_path / "whole" / "jobs" / "0")
    said = multirun(*options, "seed=0", cwd=tmp_path / "whole", cache=cache)
    assert "has finished already: nothing is done" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("launcher", ["cores", "local", CLUSTER])
def test_jobs_end_with_the_program_that_waits_for_them(
    launcher: str, number: signal.Signals, tmp_path: Path, cache: Path
):
    """SIGTERM reaches the program alone, Ctrl-C whatever it has started as well."""
    leave_out_without_ray(launcher)
    options = [f"hydra/launcher={launcher}", "trainer.max_epochs=100000", "patience=null"]
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), "-m", *RUN, f"cache_dir={cache}", *options]
        + ["seed=0,1"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as program:
        end = time.monotonic() + 120
        while len(list(tmp_path.glob("jobs/*/best.ckpt"))) < 2:
            assert program.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        (os.kill if number is signal.SIGTERM else os.killpg)(program.pid, number)
        said = program.communicate(timeout=120)[0]  # until the last job has closed it
    assert program.returncode == 128 + number, said
    assert "Traceback" not in said
    line = f"mmlabel: interrupted ({number.name}): the jobs that were under way end, too"
    assert any(text.startswith(line) for text in said.splitlines()), said  # Ray has more to say
    written = [path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*/metrics.csv")]
    time.sleep(2)  # several epochs
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*/metrics.csv")] == written


def test_what_slurm_is_asked_for(tmp_path: Path, monkeypatch):
    """The head of the batch script that submitit makes of conf/hydra/launcher/slurm.yaml."""
    import submitit
    from hydra import compose, initialize_config_dir
    from submitit.slurm.slurm import SlurmExecutor

    options = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("train", options, return_hydra_config=True)
    asked = OmegaConf.to_container(config.hydra.launcher)
    assert isinstance(asked, dict) and str(asked.pop("_target_")).endswith("SlurmLauncher")
    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 1))
    executor = submitit.AutoExecutor(tmp_path, cluster="slurm", slurm_max_num_timeout=3)
    own = {"timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "nodes", "tasks_per_node"}
    given = {
        name if name in own else f"slurm_{name}": value
        for name, value in asked.items()
        if name not in ("submitit_folder", "max_num_timeout", "name", "stderr_to_stdout")
    }
    executor.update_parameters(**given)
    text = executor._executor._make_submission_file_text("python", "id")
    for line in ("partition=gpu", "time=240", "mem=16GB", "requeue", "signal=USR2@120"):
        assert f"#SBATCH --{line}\n" in text, text
    assert asked["max_num_timeout"] == 3
