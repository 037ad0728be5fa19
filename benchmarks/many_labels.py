"""What the steps behind a network take with many labels.

    python -m benchmarks.many_labels 2000 10000

Answers to 2,000 made-up rows are scored, thresholds are found, and the files and the page written:
everything of a run whose cost follows from the number of labels and not from the network. Each
number of labels has a process of its own; seconds of the processor and memory of each step go to
standard error.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.growth import Steps, write_answers
from benchmarks.table import REPOSITORY
from mmlabel.data.annotations import Annotations
from mmlabel.data.overview import labels_of
from mmlabel.data.splits import split_rows
from mmlabel.evidence import METRICS, bootstrap_interval
from mmlabel.metrics import score
from mmlabel.report import write_run_report
from mmlabel.run_folder import read_run
from mmlabel.thresholds import FINDERS

ROWS = 2_000
PER_ROW = 8  # labels


def run_steps(labels: int, folder: Path) -> None:
    """Every step for so many labels, as frequent as the words of a language (Zipf's law)."""
    data = _made_up_rows(labels, folder)
    targets = torch.from_numpy(data.targets)
    probabilities = _made_up_answers(data.targets)
    truth, answers = data.targets > 0, (probabilities >= 0.5).numpy()
    steps = Steps(time.process_time)  # with one thread, what it takes on an idle machine
    steps.run(
        "counting labels that occur together", lambda: labels_of(data, {"test": np.arange(4)})
    )
    steps.run("splitting", lambda: split_rows(data.targets, cache_dir=folder / "cache"))
    steps.run("scoring", lambda: score(probabilities, targets, torch.tensor(0.5)))
    for name, find in FINDERS.items():
        for raised in ("f1_micro", "f1_samples"):
            work = partial(find, probabilities, targets, raised=raised)
            steps.run(f"threshold={name}, {raised}", work)
    for metric in METRICS:
        work = partial(bootstrap_interval, truth, answers[None], metric=metric, resamples=1000)
        steps.run(f"bootstrap, {metric}", work)
    steps.run("predictions.csv", lambda: write_answers(folder, data, probabilities, targets))
    steps.run("reading it", lambda: read_run(folder))
    steps.run("the page", lambda: write_run_report(folder, data))
    megabytes = (folder / "report.html").stat().st_size / 1e6
    print(f"{labels:,} labels, {ROWS:,} rows: a page of {megabytes:.1f} MB", file=sys.stderr)


def _made_up_rows(labels: int, folder: Path) -> Annotations:
    random = np.random.default_rng(0)
    share = 1 / np.arange(1, labels + 1)
    drawn = random.choice(labels, (ROWS, PER_ROW), p=share / share.sum())
    targets = np.zeros((ROWS, labels), np.uint8)
    targets[np.arange(ROWS)[:, None], drawn] = 1
    ids = [f"{row}.jpg" for row in range(ROWS)]
    return Annotations(
        ids=ids,
        captions=[""] * ROWS,
        targets=targets,
        label_names=[f"label {number}" for number in range(labels)],
        pictures=[folder / name for name in ids],
    )


def _made_up_answers(targets: np.ndarray) -> torch.Tensor:
    """Probabilities (N, L) of a classifier that misses a third and answers two too many a row."""
    random = np.random.default_rng(1)
    draws = random.random(targets.shape, dtype=np.float32)
    right = np.where(draws < 0.67, 0.5 + draws / 2, draws / 2)
    return torch.from_numpy(np.where(targets, right, draws**2 * 0.5 * (1 + 2 / targets.shape[1])))


def main() -> None:
    """Without a folder: one process for each number of labels that is given."""
    if len(sys.argv) == 3 and Path(sys.argv[2]).is_dir():
        torch.set_num_threads(1)
        run_steps(int(sys.argv[1]), Path(sys.argv[2]))
        return
    for labels in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.many_labels", labels, folder]
            subprocess.run(command, cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    main()
