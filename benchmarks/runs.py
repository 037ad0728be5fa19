"""Whole runs as a user starts them: `train.py` and `sweep.py` in processes of their own."""

import csv
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.table import REPOSITORY, Bench
from mmlabel.cli import assigned
from mmlabel.data.sources.report_csv import read_usyd


@dataclass(frozen=True)
class WholeRun:
    """A run from its command to its finished files.

    Attributes:
        seconds: of all of it, the start of Python included.
        epochs: seconds of each epoch, training and validation.
        parts: what results.json says took how long.
        folder: of its files.
    """

    seconds: float
    epochs: list[float]
    parts: dict[str, float]
    folder: Path


def run(bench: Bench, *overrides: str, cache: str, folder: str) -> WholeRun:
    """`python train.py` on this call's rows; wandb is offline."""
    where = bench.folder / folder
    options = [*bench.options(*overrides, cache=cache), assigned("hydra.run.dir", where)]
    took, said = _command(["train.py", *options], bench.folder)
    results = json.loads((where / "results.json").read_text())
    epochs = [float(found) for found in re.findall(r"epoch \d+ .*\((\d+\.\d) s\)", said)]
    return WholeRun(took, epochs, results["seconds"], where)


def sweep(bench: Bench, *overrides: str, cache: str) -> float:
    """Seconds of `python sweep.py` on this call's rows."""
    options = [*bench.options(*overrides, cache=cache), f"out={bench.folder / 'studies'}"]
    return _command(["sweep.py", *options], bench.folder)[0]


def _command(command: list[str], folder: Path) -> tuple[float, str]:
    program, *options = command
    start = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, str(REPOSITORY / program), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    took = time.perf_counter() - start
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {answer.returncode}: {answer.stdout}")
    return took, answer.stdout


def some_rows(bench: Bench, rows: int | None) -> list[str]:
    """Overrides that choose so many rows, a tenth each for validation and test; None: all.

    Of the built-in data set there are as many as are drawn.
    """
    if rows is None:
        return []
    tenth = rows // 10
    if bench.data is None:
        return [f"data.rows=[{rows - 2 * tenth},{tenth},{tenth}]"]
    path, ids = bench.folder / f"first{rows}.csv", read_usyd(bench.data).ids
    splits = ["train"] * (rows - 2 * tenth) + ["val"] * tenth + ["test"] * tenth
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("ImageID", "split"), *zip(ids, splits, strict=False)])
    return [assigned("data.splits", path)]
