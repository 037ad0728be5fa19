"""Two processes with the whole batch of one: `trainer=ddp` changes how fast, not what."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from resumed_runs import history, results_of

from mmlabel.errors import UserError
from mmlabel.lightning.classifier import Classifier
from mmlabel.run_checks import check_shares
from mmlabel.training import train

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_two_processes_follow_one(quick: list[str], settings_of, tmp_path: Path):
    """With what draws no numbers and no statistics of its own rows: to rounding, epoch by epoch."""
    options = ["model=caption_only", "data.rows=[64,25,25]", "data.batch_size=16", "patience=null"]
    options += ["model.head.batch_norm=false", "model.head.dropout=0", "trainer.max_epochs=3"]
    train(settings_of(*options), tmp_path / "one")
    fitting = [o for o in quick if not o.startswith(("backbone", "features"))]
    given = [*fitting, *options, "trainer=ddp", "hydra.run.dir=two"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *given],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    for column in ("train/loss", "val/loss", "lr"):
        assert history(two, column) == pytest.approx(history(one, column), abs=1e-5), column
    assert len(history(two)) == 3
    assert results_of(two)["rows"] == results_of(one)["rows"]
    scores = results_of(one)["scores"]
    assert results_of(two)["scores"] == pytest.approx(scores, abs=1e-4), json.dumps(scores)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_a_signal_to_one_process_ends_both(first: bool, quick: list[str], tmp_path: Path):
    fitting = [o for o in quick if not o.startswith(("backbone", "features"))]
    given = [*fitting, "model=caption_only", "trainer=ddp", "trainer.max_epochs=100000"]
    given += ["patience=null", "hydra.run.dir=run"]
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *given],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        written, end = tmp_path / "run" / "metrics.csv", time.monotonic() + 300
        while not (written.exists() and len(written.read_text().splitlines()) > 3):
            assert time.monotonic() < end and process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        programs = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started}
        (other,) = (pid for pid, program in programs.items() if b"train.py" in program)
        os.kill(process.pid if first else other, signal.SIGTERM)
        try:
            said = process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            for pid in (other, process.pid):
                os.kill(pid, signal.SIGKILL)
            raise
    assert process.returncode == (143 if first else 1), said
    assert ("interrupted (SIGTERM)" if first else "another process of this run has ended") in said
    assert "Traceback" not in said and not Path(f"/proc/{other}").exists()


def test_lightning_answers_no_signal(monkeypatch, settings_of, tmp_path: Path):
    """Within its handler all processes would have to be at the same step."""
    seen: list[object] = []
    monkeypatch.setattr(
        Classifier, "on_train_start", lambda _: seen.append(signal.getsignal(signal.SIGTERM))
    )
    before = signal.getsignal(signal.SIGTERM)
    train(settings_of("model=caption_only", "trainer.max_epochs=1"), tmp_path)
    assert seen == [before] and signal.getsignal(signal.SIGTERM) is before


ROWS = {"train": range(60), "val": range(24), "test": range(24)}


def test_one_row_a_process_is_refused_where_it_cannot_be_trained_on(settings_of):
    with pytest.raises(UserError, match="data.batch_size=3 is one row for each of 3 processes"):
        check_shares(settings_of("data.batch_size=3"), 3, ROWS)
    with pytest.raises(UserError, match="data.batch_size=32 is the whole batch, which 3 processes"):
        check_shares(settings_of(), 3, ROWS)
    check_shares(settings_of("data.batch_size=3", "model.head.batch_norm=false"), 3, ROWS)
    check_shares(settings_of("data.batch_size=32"), 4, ROWS)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_that_not_every_process_has_a_row_of_is_refused_before_training(settings_of, split):
    rows = ROWS | {split: range(1)}
    with pytest.raises(UserError, match=f"the {split} split has 1 row for 2 processes"):
        check_shares(settings_of(), 2, rows)
    check_shares(settings_of(), 1, rows)
    left_out = {"val": "trainer.limit_val_batches=0", "test": "test=false"}
    check_shares(settings_of(left_out[split]), 2, rows)


def test_norms_cannot_be_synchronised_on_a_cpu(settings_of, tmp_path: Path):
    asked = "trainer.sync_batchnorm=true"
    with pytest.raises(UserError, match="on GPUs alone, and these 2 processes are on the CPU"):
        train(settings_of("model=caption_only", "trainer=ddp", asked), tmp_path)
