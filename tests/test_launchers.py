"""Hydra's plugins for real: a search with Optuna, and launchers."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
RUN = ["trainer.max_epochs=1", "model=caption_only", "trainer.accelerator=cpu", "logger=csv"]
RUN += ["report=false", "data.rows=[60,24,24]", "data.image_size=32", "data.workers=0"]
RUN += ["captions.lemmas=none", "embedding=learned", "embedding.dim=8", "hydra.sweep.dir=jobs"]


def multirun(*options: str, cwd: Path, cache: Path) -> str:
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), "-m", *RUN, f"cache_dir={cache}", *options],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    return output


def results_of(cwd: Path) -> dict[str, dict]:
    files = (cwd / "jobs").glob("*/results.json")
    return {path.parent.name: json.loads(path.read_text()) for path in files}


def test_a_search_tells_the_best_and_keeps_its_trials(tmp_path: Path, cache: Path):
    """The trials are in a database, from which the search can go on; the test split is not used."""
    options = ["hparams_search=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.study_name=mine"]
    options.append("hydra.sweeper.storage=sqlite:///trials.db")
    multirun(*options, cwd=tmp_path, cache=cache)
    runs = results_of(tmp_path)
    assert sorted(runs) == ["0", "1"]
    assert not any(name.startswith("test/") for run in runs.values() for name in run["scores"])
    rates = [run["settings"]["optimizer"]["lr"] for run in runs.values()]
    assert len(set(rates)) == 2 and all(3e-4 <= rate <= 3e-2 for rate in rates)

    told = yaml.safe_load((tmp_path / "jobs" / "optimization_results.yaml").read_text())
    best = max(runs.values(), key=lambda run: run["scores"]["val/f1_micro"])
    assert told["best_value"] == pytest.approx(best["scores"]["val/f1_micro"])

    with sqlite3.connect(tmp_path / "trials.db") as database:
        assert database.execute("select count(*) from trials").fetchone() == (2,)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_every_job_in_its_own_folder(launcher: str, tmp_path: Path, cache: Path):
    layers = "lstm.layers=1,2" if launcher == "joblib" else "lstm.layers=2"
    multirun(f"hydra/launcher={launcher}", layers, cwd=tmp_path, cache=cache)
    found = {name: run["settings"]["lstm"]["layers"] for name, run in results_of(tmp_path).items()}
    assert found == ({"0": 1, "1": 2} if launcher == "joblib" else {"0": 2})
    assert not list(tmp_path.glob("outputs"))
