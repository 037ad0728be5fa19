"""Growth: what each step of a run takes for 1,000 to 1,000,000 rows, in seconds and memory.

The rows are made up: captions of words as frequent as in English, labels as frequent as in the
report's data, random features. Each number of rows has a process of its own.
"""

import csv
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.table import REPOSITORY, Bench
from mmlabel.data.annotations import REPORT_LABELS, Annotations
from mmlabel.data.batches import EpochBatches, SplitRows
from mmlabel.data.captions import EncodedCaptions, Vocabulary, encode, tokenise
from mmlabel.data.row_store import RowStore
from mmlabel.data.sources.csv_table import read_csv
from mmlabel.data.sources.report_csv import read_usyd
from mmlabel.data.splits import split_rows
from mmlabel.evidence import METRICS, bootstrap_interval
from mmlabel.metrics import score
from mmlabel.models.fusion import Head, ImageEncoder, LateFusion
from mmlabel.record import label_table
from mmlabel.report import write_run_report
from mmlabel.run_folder import seal, write_json, write_predictions
from mmlabel.thresholds import best_thresholds

WIDTH = 256  # of the features: a million rows of them are 1 GB
LABELS = 20  # numbers 0 to 19, as in the report's data, where 0 and 12 are none


def measure(bench: Bench) -> None:
    """A line a step of a run: seconds and memory of every number of rows."""
    most = bench.pick(tiny=1_000, quick=10_000, usual=100_000, full=1_000_000)
    sizes = [rows for rows in (1_000, 10_000, 100_000, 1_000_000) if rows <= most]
    by_size: dict[int, dict[str, dict[str, float]]] = {}
    for rows in sizes:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            by_size[rows] = in_own_process(rows, Path(folder))
    shown = ", ".join(f"{rows:,}" for rows in sizes)
    for step in by_size[sizes[-1]]:
        seconds = [by_size[rows][step]["seconds"] for rows in sizes]
        megabytes = [by_size[rows][step]["megabytes"] for rows in sizes]
        bench.add(
            "growth",
            f"{step}, {sizes[-1]:,} rows",
            seconds[-1],
            "s",
            at_most=60 if step.startswith("reading") else None,
            note=f"{_listed(seconds, '.3g')} s and {_listed(megabytes, '.0f')} MB for {shown} rows",
        )
    bench.add(
        "growth",
        "the fastest growing step, over n log n",
        max(
            steepness(sizes, [by_size[rows][step]["seconds"] for rows in sizes])
            for step in by_size[sizes[-1]]
        ),
        "x",
        at_most=1.2,
        note=f"from one of {shown} rows to the next, where it takes more than half a second",
    )


def in_own_process(rows: int, folder: Path) -> dict[str, dict[str, float]]:
    """`run_steps`, with the memory of nothing else."""
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", str(rows), str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        raise RuntimeError(f"growth of {rows:,} rows: {answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def _listed(values: list[float], form: str) -> str:
    return ", ".join(format(value, form) for value in values)


def steepness(sizes: list[int], seconds: list[float]) -> float:
    """The largest growth from one size to the next, over that of n log n.

    Below half a second it is the start of libraries that is measured.
    """
    steps = zip(sizes, sizes[1:], seconds, seconds[1:], strict=False)
    return max(
        (
            (t2 / t1) / (n2 * math.log(n2) / (n1 * math.log(n1)))
            for n1, n2, t1, t2 in steps
            if t1 > 0.5
        ),
        default=0.0,
    )


# ---- In a process of its own ------------------------------------------------------------------

Result = TypeVar("Result")


class Steps:
    """Seconds of each step, and the most memory during it (without pages of mapped files)."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.found: dict[str, dict[str, float]] = {}

    def run(self, name: str, work: Callable[[], Result]) -> Result:
        """Do the work and take its time and memory."""
        peak, done = [anonymous()], threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                peak.append(anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = self.clock()
        try:
            return work()
        finally:
            took = self.clock() - start
            done.set()
            watcher.join()
            peak.append(anonymous())
            self.found[name] = {"seconds": took, "megabytes": max(peak)}
            print(f"{name}: {took:.2f} s, {max(peak):.0f} MB", file=sys.stderr, flush=True)


def anonymous() -> float:
    """Megabytes of this process that are its own; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def run_steps(rows: int, folder: Path) -> dict[str, dict[str, float]]:
    """Every step of a run on so many made-up rows."""
    steps = Steps()
    _write_tables(rows, folder)
    steps.run("reading any CSV", lambda: _read_any(folder))
    data = steps.run("reading the report's file", lambda: _read_report(folder))
    parts = steps.run("splitting", lambda: split_rows(data.targets, cache_dir=folder / "cache"))
    words = steps.run(
        "tokenising",
        lambda: tokenise(
            data.captions, lemmas="none", cache_dir=folder / "cache", on_missing="error"
        ),
    )
    vocabulary = steps.run("vocabulary", lambda: Vocabulary.build(words, parts["train"]))
    captions = steps.run("numbering words", lambda: encode(words, vocabulary))
    entries = [number.to_bytes(33, "little") for number in range(rows)]
    steps.run("writing the store", lambda: _write_store(entries, folder))
    features = steps.run("opening the store", lambda: _open_store(entries, folder))
    steps.run("an epoch of the image's head", lambda: _epoch(data, captions, features))
    probabilities, targets = _made_up_answers(data)
    steps.run("scoring", lambda: _score(probabilities, targets))
    steps.run("the bootstrap", lambda: _bootstrap(probabilities, targets))
    steps.run("predictions.csv", lambda: write_answers(folder, data, probabilities, targets))
    steps.run("the page", lambda: write_run_report(folder, data))
    return steps.found


def _write_tables(rows: int, folder: Path) -> None:
    """table.csv, which is valid, and train.csv in the report's form: marks not doubled."""
    random = np.random.default_rng(0)
    words = np.array([f"{letter}{n}" for n in range(800) for letter in "abcdefghijklmnopqrstuvwxy"])
    share = 1 / np.arange(1, len(words) + 1)  # Zipf's law
    lengths = random.gamma(17, 10.4 / 17, rows).round().clip(1, 40).astype(int)
    drawn = iter(words[random.choice(len(words), lengths.sum(), p=share / share.sum())].tolist())
    numbers = [number for number, name in enumerate(REPORT_LABELS) if name]
    has = random.random((rows, len(numbers))) < np.linspace(0.4, 0.01, len(numbers))
    (folder / "data").mkdir()
    with (
        open(folder / "table.csv", "w", newline="") as table,
        open(folder / "train.csv", "w", newline="") as raw,
    ):
        writer = csv.writer(table)
        writer.writerow(["ImageID", "Labels", "Caption"])
        raw.write("ImageID,Labels,Caption\n")
        for row, length in enumerate(lengths.tolist()):
            labels = " ".join(str(numbers[k]) for k in np.flatnonzero(has[row])) or "1"
            caption = " ".join(next(drawn) for _ in range(length))
            if row % 40 == 0:
                caption = f'a sign "{caption}" here'
            writer.writerow([f"{row}.jpg", labels, caption])
            raw.write(
                f'{row}.jpg,{labels},"{caption}"\n'
                if row % 40 == 0
                else f"{row}.jpg,{labels},{caption}\n"
            )


def _read_any(folder: Path) -> Annotations:
    return read_csv(
        folder / "table.csv",
        picture_column="ImageID",
        label_column="Labels",
        caption_column="Caption",
        require_pictures=False,
    )


def _read_report(folder: Path) -> Annotations:
    return read_usyd(folder, require_pictures=False)


def _write_store(entries: list[bytes], folder: Path) -> None:
    random = np.random.default_rng(0)
    store = RowStore.open(folder, key={}, width=WIDTH, dtype="float32")
    for begin in range(0, len(entries), 2048):
        some = entries[begin : begin + 2048]
        store.append(some, random.random((len(some), WIDTH), dtype=np.float32))


def _open_store(entries: list[bytes], folder: Path) -> np.ndarray:
    store = RowStore.open(folder, key={}, width=WIDTH, dtype="float32")
    assert (store.rows(entries) == np.arange(len(entries))).all()
    return store.array()


def _epoch(data: Annotations, captions: EncodedCaptions, features: np.ndarray) -> None:
    rows = len(data)
    split = SplitRows(
        ids=data.ids,
        targets=data.targets,
        captions=captions,
        features=torch.from_numpy(features),
        feature_rows=np.arange(rows)[:, None].repeat(2, 1),
        image_size=224,
        upright=False,
    )
    network = LateFusion(
        encoders={"image": ImageEncoder(features=WIDTH, backbone=None)},
        head=Head(in_features=WIDTH, num_labels=LABELS),
    )
    optimizer = torch.optim.Adam(network.parameters())
    criterion = nn.BCEWithLogitsLoss()
    for index in EpochBatches(rows, batch_size=256, training=True):
        batch = split[index]
        criterion(network(batch), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def _made_up_answers(data: Annotations) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (N, L) float32 that are often right, and the targets."""
    random = np.random.default_rng(1)
    wrong = random.random(data.targets.shape) < 0.05
    probabilities = np.abs((data.targets ^ wrong) - 0.45 * random.random(data.targets.shape))
    return torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(data.targets)


def _score(probabilities: torch.Tensor, targets: torch.Tensor) -> None:
    score(probabilities, targets, torch.tensor(0.5))
    best_thresholds(probabilities, targets)


def _bootstrap(probabilities: torch.Tensor, targets: torch.Tensor) -> None:
    answers = (probabilities >= 0.5).numpy()[None]
    for metric in METRICS:
        bootstrap_interval(targets.numpy() > 0, answers, metric=metric, resamples=1000)


def write_answers(
    folder: Path, data: Annotations, probabilities: torch.Tensor, targets: torch.Tensor
) -> None:
    """Write what a page reads of a run: predictions.csv and results.json, sealed."""
    write_predictions(
        folder / "predictions.csv",
        ids=data.ids,
        probabilities=probabilities,
        targets=targets,
        label_names=data.label_names,
    )
    results = {
        "scores": {},
        "threshold": 0.5,
        "rows": {"train": 0, "val": 0, "test": len(data)},
        "labels": label_table(probabilities, targets, data.label_names, 0.5),
        "settings": {"data": {"name": "made up"}},
    }
    write_json(folder / "results.json", results)
    seal(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run_steps(int(sys.argv[1]), Path(sys.argv[2]))))
