"""Two processes with the whole batch of one: `trainer=ddp` changes how fast, not what."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from resumed_runs import history, results_of
from torch import Tensor, distributed

from mmlabel.criterion import MeanOverKnown
from mmlabel.data.batches import Batch
from mmlabel.errors import UserError
from mmlabel.lightning.classifier import Classifier
from mmlabel.losses import Bce
from mmlabel.models.decoder import LabelDecoder
from mmlabel.models.encoder import Encoder
from mmlabel.run_checks import check_shares
from mmlabel.training import train

REPOSITORY = Path(__file__).resolve().parent.parent


def with_unknown_labels(folder: Path) -> list[str]:
    """Options that read a table in some of whose cells a label is not known."""
    random = np.random.default_rng(0)
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "cat", "dog", "caption"])
        for n in range(80):
            cells = random.choice(["", "0", "1"], 2, p=[0.5, 0.3, 0.2])
            writer.writerow([f"{n}.jpg", *cells, f"a {'cat' if '1' in cells[0] else 'dog'}"])
    own = ["data=csv", f"data.file={folder}/rows.csv", "data.label_columns=[cat,dog]"]
    return [*own, "data.fractions=[0.8,0.1,0.1]"]


@pytest.mark.slow
@pytest.mark.parametrize("known", ["all", "some"])
def test_two_processes_follow_one(known: str, quick: list[str], settings_of, tmp_path: Path):
    """With what draws no numbers and no statistics of its own rows: to rounding, epoch by epoch."""
    options = ["model=caption_only", "data.batch_size=16", "patience=null"]
    options += ["model.head.batch_norm=false", "model.head.dropout=0", "trainer.max_epochs=3"]
    options += ["data.rows=[64,25,25]"] if known == "all" else with_unknown_labels(tmp_path)
    train(settings_of(*options), tmp_path / "one")
    others = ("backbone", "features", "data.rows")
    if known == "some":
        others += ("data.image_size",)  # the built-in pictures are drawn at it
    fitting = [o for o in quick if not o.startswith(others)]
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
    assert "sync_dist" not in done.stderr  # a remark of Lightning's on what all processes share
    one, two = tmp_path / "one", tmp_path / "two"
    for column in ("train/loss", "val/loss", "lr"):
        assert history(two, column) == pytest.approx(history(one, column), abs=1e-5), column
    assert len(history(two)) == 3
    assert results_of(two)["rows"] == results_of(one)["rows"]
    scores = results_of(one)["scores"]
    assert results_of(two)["scores"] == pytest.approx(scores, abs=1e-4), json.dumps(scores)


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes this process one of two, whose counts add up to what this is called with."""

    def begin(total: int) -> None:
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(distributed, "all_reduce", lambda count: count.fill_(total))

    return begin


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_each_known_target_of_a_batch_weighs_alike(share: float, one_of_two):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator, requires_grad=True)
    targets = torch.rand(8, 5, generator=generator).round()
    known = torch.rand(8, 5, generator=generator) < share
    known[4:] &= known[4:] & (torch.arange(5) > 2)  # the second has fewer
    loss = MeanOverKnown(Bce(name="bce"))
    expected = loss(logits, targets, known)
    (slope,) = torch.autograd.grad(expected, logits)
    one_of_two(int(known.sum()))
    parts = [loss(*(t[rows] for t in (logits, targets, known))) for rows in (slice(4), slice(4, 8))]
    torch.testing.assert_close(sum(parts) / 2, expected)
    torch.testing.assert_close(torch.autograd.grad(sum(parts) / 2, logits)[0], slope)
    # In validation processes have other numbers of batches, and wait for nobody.
    loss.eval()
    torch.testing.assert_close(loss(logits, targets, known), expected)


def test_each_label_that_a_decoder_names_weighs_alike(one_of_two):
    class Features(Encoder):
        out_features = 6

        def forward(self, image: Tensor) -> Tensor:
            return image

    torch.manual_seed(0)
    decoder = LabelDecoder(encoders={"image": Features()}, num_labels=5, label_frequency=range(5))
    decoder.eval().training = True  # no part draws or counts anything
    targets = torch.tensor([[1.0, 0, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]])
    whole = Batch(
        image=torch.randn(4, 6),
        tokens=torch.zeros(4, 0, dtype=torch.int64),
        lengths=torch.zeros(4, dtype=torch.int64),
        targets=targets,
        rows=torch.arange(4),
        ids=["a", "b", "c", "d"],
    )
    expected = decoder.loss(whole)
    one_of_two(int(targets.sum()) + 4)  # and the end of each row
    halves = [
        whole._replace(image=whole.image[rows], targets=targets[rows], rows=whole.rows[rows])
        for rows in (slice(2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(map(decoder.loss, halves)) / 2, expected)


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
