"""Prediction: rows a second from a table to a file of answers, over the rate of extraction."""

import csv
import io
import itertools
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.features import BATCH, pictures_of
from benchmarks.runs import run, some_rows
from benchmarks.table import REPOSITORY, Bench, alternate, ratio
from mmlabel.answer_files import Answers
from mmlabel.data.feature_store import FeatureStore
from mmlabel.data.sources.unlabelled import Columns, open_rows
from mmlabel.models.backbones import build_backbone
from mmlabel.models.engines import build_extract, choose_engine
from mmlabel.models.weights import resolve_weights
from mmlabel.predictor import Predictor
from mmlabel.streaming import answers

BACKBONE = "efficientnet_lite0"


def measure(bench: Bench) -> None:
    """A checkpoint of one epoch answers pictures with captions; the same pictures are extracted."""
    rows = some_rows(bench, bench.pick(tiny=40, quick=40, usual=200, full=200))
    options = [f"backbone={BACKBONE}", *rows, "trainer.max_epochs=1", "logger=csv"]
    trained = run(bench, *options, cache="predicting", folder="trained")
    count = bench.pick(tiny=16, quick=96, usual=512, full=3200)
    files = pictures_of(bench)[:count]
    predictor = Predictor(trained.folder / "best.ckpt", device="cpu", fastest=True)
    rounds = bench.pick(tiny=1, quick=2, usual=3, full=5)
    found = _compare(bench, predictor, files, rounds=rounds)
    rates = {name: [len(files) / took for took in seconds] for name, seconds in found.items()}
    bench.add(
        "prediction",
        "rows predicted over pictures extracted",
        ratio(rates["predict"], rates["extract"]),
        "x",
        at_least=0.9,
        note="{:.0f} of {:.0f} a second".format(
            statistics.median(rates["predict"]), statistics.median(rates["extract"])
        ),
    )
    if bench.level == "quick":
        bench.left_out.append("prediction: memory: some hundred rows, as QUICK=1 has, tell little")
        return
    few, many = bench.pick(tiny=(10, 20), quick=(0, 0), usual=(500, 2_500), full=(1_000, 100_000))
    peaks = [_peak(bench, trained.folder / "best.ckpt", files, times) for times in (few, many)]
    bench.add(
        "prediction",
        f"memory for {many:,} rows over that for {few:,}",
        peaks[1] / peaks[0],
        "x",
        at_most=1.1,
        note=f"{peaks[1]:.0f} MB for {peaks[0]:.0f} MB",
    )


def _compare(
    bench: Bench, predictor: Predictor, files: list[Path], *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each round: "predict" answers the files, "extract" fills an empty store."""
    table = _table(bench, files, len(files))
    size, device = predictor.settings.data.view, torch.device("cpu")
    weights = resolve_weights(name=BACKBONE, weights="pretrained")
    backbone = build_backbone(name=BACKBONE, weights=weights, frozen=True)
    settings = predictor.settings
    assert settings.features is not None
    engine = choose_engine(
        settings.features.engine, precision=settings.frozen_precision, device=device
    )
    extract = build_extract(backbone, engine, device=device, size=size)
    attempts = itertools.count()

    def predict() -> None:
        columns = Columns(["ImageID"], ["Caption"], need_picture=True, need_caption=True)
        rows = open_rows(table, columns=columns, pictures=files[0].parent)
        found = answers(predictor, rows, batch_size=BATCH)
        names = predictor.label_names
        Answers(io.StringIO(), form="csv", names=names, probabilities=True).write(found)

    def fill() -> None:
        store = FeatureStore(
            bench.folder / "filled",
            key={"attempt": next(attempts)},
            size=size,
            width=backbone.out_features,
            dtype="float32",
        )
        flipped = [False] * len(files)
        store.fill(files, flipped=flipped, extract=extract, batch_size=BATCH)

    predictor.predict(files[0], "a dog")  # which makes the engine ready
    return alternate({"predict": predict, "extract": fill}, rounds=rounds)


def _table(bench: Bench, files: list[Path], rows: int) -> Path:
    """A table of so many rows with captions; the files come again and again."""
    path = bench.folder / f"table{rows}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageID", "Caption"])
        for _, picture in zip(range(rows), itertools.cycle(files), strict=False):
            writer.writerow([picture.name, "a dog on a bench beside two people"])
    return path


PROGRAM = """
import sys, threading, time
from mmlabel.predict import main
from benchmarks.growth import anonymous
peak = 0.0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
status = main(sys.argv[1:])
print(peak)
sys.exit(status)
"""


def _peak(bench: Bench, checkpoint: Path, files: list[Path], rows: int) -> float:
    """The most memory, in MB, of `python -m mmlabel.predict` on so many rows."""
    table = _table(bench, files, rows)
    command = [sys.executable, "-c", PROGRAM, str(checkpoint), str(table)]
    command += ["--pictures", str(files[0].parent), "--out", str(bench.folder / "answers.csv")]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    if answer.returncode:
        raise RuntimeError(f"prediction of {rows:,} rows: {answer.stderr}")
    return float(answer.stdout.splitlines()[-1])
