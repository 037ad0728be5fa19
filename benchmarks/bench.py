"""`make bench`: what the feature store and the training loop gain and cost, as ratios.

Both sides of a ratio are measured in the same call on the same machine. `--only 2,5` runs some of
the benchmarks, `--data DIR` takes the report's data set from there (without it, and without
../shared/data/usyd, the built-in one is used).
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from mmlabel import training  # noqa: E402
from mmlabel.cli import load_settings  # noqa: E402
from mmlabel.data.feature_store import FeatureStore  # noqa: E402
from mmlabel.data.sources.report_csv import read_usyd  # noqa: E402
from mmlabel.data.transforms import load_picture, stack_views  # noqa: E402
from mmlabel.errors import UserError  # noqa: E402
from mmlabel.models.backbones import Backbone, build_backbone  # noqa: E402
from mmlabel.models.engines import Engine, Precision, build_extract, choose_engine  # noqa: E402
from mmlabel.models.weights import resolve_weights  # noqa: E402
from mmlabel.parts import build, prepare  # noqa: E402
from mmlabel.record import machine, versions  # noqa: E402
from mmlabel.settings import Settings  # noqa: E402

EPOCHS = 10  # of a run of the sweep that benchmark 3 works out


class Bench:
    """What the benchmarks share: settings, a cache of their own and the figures so far."""

    def __init__(self, data: Path | None, folder: Path) -> None:
        self.folder = folder
        self.data = data
        self.rows: list[dict] = []
        self.start_up: float | None = None
        self.fill_seconds: float | None = None
        self.live_epoch: float | None = None

    def settings(self, *overrides: str) -> Settings:
        source = ["data=scenes"] if self.data is None else ["data=usyd", f"data.root={self.data}"]
        common = [*source, f"cache_dir={self.folder / 'cache'}", "logger=csv", "report=false"]
        common += ["captions.lemmas=none", "embedding=learned", "embedding.dim=50", "test=false"]
        return load_settings([*common, *overrides])

    def epochs(self, *overrides: str) -> list["Clock"]:
        """Run `train` and give the clock of each of its epochs."""
        clock = Clocks()
        original, training.progress_callbacks = training.progress_callbacks, lambda: [clock]
        try:
            with tempfile.TemporaryDirectory(dir=self.folder) as run:
                training.train(self.settings(*overrides), Path(run))
        finally:
            training.progress_callbacks = original
        return clock.epochs

    def add(self, number: int, what: str, value: float, unit: str, target: str, note: str) -> None:
        row = {"benchmark": number, "what": what, "value": value, "unit": unit}
        self.rows.append(row | {"target": target, "note": note})
        print(
            f"{number}. {what}: {value:.3g}{unit} (target {target or 'none'}; {note})", flush=True
        )


class Clock:
    """Seconds of one epoch: all of it, and from the first training batch to the last."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.whole = self.steps = 0.0


class Clocks(Callback):
    """Times the epochs of a run."""

    def __init__(self) -> None:
        self.epochs: list[Clock] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epochs.append(Clock())

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.epochs[-1].steps = time.perf_counter() - self.epochs[-1].began

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epochs[-1].whole = time.perf_counter() - self.epochs[-1].began


def extraction(bench: Bench) -> None:
    """1: pictures a second from files into the store, over eager torch on ready tensors.

    The torch that it is compared with computes in float32, whatever the engine.
    """
    files, batch = pictures_of(bench), 64
    for name, weights, batches in (
        ("efficientnet_lite0", "pretrained", 8),
        ("resnet50", "none", 4),  # weights do not change the time
        ("vgg16", "none", 2),
    ):
        found = resolve_weights(name=name, weights=weights)
        backbone = build_backbone(name=name, weights=found, frozen=True)
        bare, filled = extraction_rates(
            backbone, list(engines_here()), files[: batches * batch], bench.folder / name
        )
        for engine, target in engines_here().items():
            ratio = statistics.median(w / b for w, b in zip(filled[engine], bare, strict=True))
            rates = statistics.median(filled[engine]), statistics.median(bare)
            what = f"extraction of {name} by {engine.name} {engine.precision} over bare torch"
            note = "{:.0f} of {:.0f} pictures a second".format(*rates)
            bench.add(1, what, ratio, "x", target, note)


def engines_here() -> dict[Engine, str]:
    """The engines that this machine has, with their targets."""
    if DEVICE == "cuda":
        return {Engine("torch", "float32"): "0.9", Engine("torch", "bfloat16"): ""}
    engines = {Engine("torch", "float32"): "0.85"}
    targets: dict[Precision, str] = {"float32": "1.7", "bfloat16": "4"}
    for precision, target in targets.items():
        with suppress(UserError):  # not installed, or a processor without bfloat16
            engine = choose_engine("openvino", precision=precision, device=torch.device(DEVICE))
            engines[engine] = target
            if precision == "bfloat16":
                engines[Engine("torch", precision)] = "1.5"
    return engines


def extraction_rates(
    backbone: Backbone, engines: list[Engine], pictures: list[Path], folder: Path
) -> tuple[list[float], dict[Engine, list[float]]]:
    """Pictures a second of bare torch and of each engine's whole way, in rounds that alternate."""
    device, size, batch = torch.device(DEVICE), 224, 64
    ready = [load_picture(path, size=size, flipped=False)[None] for path in pictures[:batch]]
    tensor = stack_views(ready).to(device)
    torch_alone = build_extract(backbone, Engine("torch", "float32"), device=device, size=size)
    extracts = {e: build_extract(backbone, e, device=device, size=size) for e in engines}
    bare: list[float] = []
    filled: dict[Engine, list[float]] = {engine: [] for engine in engines}
    for attempt in range(3):
        work = partial(repeated, torch_alone, tensor, len(pictures) // batch)
        bare.append(len(pictures) / seconds(work))
        for engine, extract in extracts.items():
            key = {**engine.key(), "attempt": attempt}
            width = backbone.out_features
            store = FeatureStore.open(folder, key=key, size=size, width=width, dtype="float32")
            flipped = [False] * len(pictures)
            options = {"flipped": flipped, "extract": extract, "device": device}
            work = partial(store.fill, pictures, **options, batch_size=batch)
            filled[engine].append(len(pictures) / seconds(work))
    return bare, filled


def repeated(
    extract: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, times: int
) -> None:
    with torch.inference_mode():
        for _ in range(times):
            extract(batch).cpu()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def epoch(bench: Bench) -> None:
    """2: an epoch with the store against one without, training and validation together."""
    for backbone, target, rows in (("efficientnet_lite0", 30, None), ("resnet50", 100, 640)):
        options = [f"backbone={backbone}", "patience=null"]
        if backbone == "resnet50":
            options.append("backbone.weights=none")  # weights do not change the time
        if bench.data is not None and rows:
            options.append(f"data.splits={split_file(bench, rows)}")
        start = time.perf_counter()
        bench.epochs(*options, "trainer.max_epochs=1")
        cold = time.perf_counter() - start
        stored = statistics.median(e.whole for e in bench.epochs(*options, "trainer.max_epochs=5"))
        live = bench.epochs(*options, "trainer.max_epochs=1", "features=off")[0].whole
        if rows is None:
            bench.fill_seconds, bench.live_epoch = cold - stored, live
        of = f"{rows} rows" if rows and bench.data else "all rows"
        note = f"{live:.1f} s against {stored:.2f} s, {of}"
        name = f"epoch without the store over with it, {backbone}"
        bench.add(2, name, live / stored, "x", f"{target}", note)


def sweep(bench: Bench) -> None:
    """3: lstm.layers=1,2,4,8 with a cold store, against separate runs without it.

    Worked out from the parts measured here: filling the store, an epoch of each job, an epoch
    without the store, and (if benchmark 4 has run) starting Python.
    """
    if bench.fill_seconds is None:
        epoch(bench)
    seconds = {}
    for layers in (1, 2, 4, 8):
        clocks = bench.epochs(
            "backbone=efficientnet_lite0", f"lstm.layers={layers}", "trainer.max_epochs=2"
        )
        seconds[layers] = min(clock.whole for clock in clocks)
    start = bench.start_up or 0.0
    for jobs in (1, 4, 16):
        layers = [1] if jobs == 1 else [1, 2, 4, 8] * (jobs // 4)
        stored = start + bench.fill_seconds + EPOCHS * sum(seconds[n] for n in layers)
        slower = sum(bench.live_epoch + seconds[n] - seconds[1] for n in layers)
        plain = jobs * start + EPOCHS * slower
        note = f"{EPOCHS} epochs a job: {plain:.0f} s against {stored:.0f} s, worked out from parts"
        target = "8" if jobs == 4 else ""
        bench.add(3, f"sweep of {jobs} jobs, without over with", plain / stored, "x", target, note)


def start_up(bench: Bench) -> None:
    """4: seconds from the command to the first training step, beyond torch and Lightning."""
    program = """
import sys, time, os
import torch, pytorch_lightning
start = time.perf_counter()
sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[1:]
import train
from mmlabel.classifier import Classifier
def first_step(self, batch, index):
    print("SECONDS", time.perf_counter() - start, flush=True)
    os._exit(0)
Classifier.training_step = first_step
train.run_cli(train.main)
"""
    options = ["experiment=demo", "captions.lemmas=none", f"cache_dir={bench.folder / 'cache'}"]
    options += [f"hydra.run.dir={bench.folder / 'start'}", f"trainer.accelerator={ACCELERATOR}"]
    seconds = []
    for _ in range(4):  # the first one warms the caches
        answer = subprocess.run(
            [sys.executable, "-c", program, str(REPOSITORY), *options],
            capture_output=True,
            text=True,
            cwd=bench.folder,
        )
        seconds.append(float(answer.stdout.split("SECONDS")[1].split()[0]))
    bench.start_up = statistics.median(seconds[1:])
    note = f"of {min(seconds[1:]):.2f} to {max(seconds[1:]):.2f}, with wandb offline"
    bench.add(4, "start-up to the first step", bench.start_up, " s", "under 3", note)


def loop(bench: Bench) -> None:
    """5: training samples a second through Lightning over a plain PyTorch loop."""
    options = ["backbone=efficientnet_lite0", "patience=null"]
    settings = bench.settings(*options)
    run = build(settings, None, wandb_id=None)
    data, classifier = run.data, run.classifier
    data.setup("fit")
    split, device = data.split("train"), torch.device(DEVICE)
    network = classifier.network.to(device).train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    criterion = nn.BCEWithLogitsLoss()
    ratios, rates = [], []
    for _ in range(3):
        clocks = bench.epochs(*options, "trainer.max_epochs=3")
        lightning = statistics.median(clock.steps for clock in clocks)
        plain = []
        for _ in range(3):
            start = time.perf_counter()
            order = np.random.permutation(len(split))
            for begin in range(0, len(order), settings.data.batch_size):
                rows = order[begin : begin + settings.data.batch_size]
                batch = split[rows, np.zeros(len(rows), dtype=bool)]
                batch = data.transfer_batch_to_device(batch, device, 0)
                optimizer.zero_grad()
                criterion(network(batch), batch.targets).backward()
                optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            plain.append(time.perf_counter() - start)
        ratios.append(statistics.median(plain) / lightning)
        rates.append(len(split) / lightning)
    note = f"{statistics.median(rates):,.0f} samples a second"
    bench.add(5, "Lightning over a plain loop", statistics.median(ratios), "x", "0.8", note)


def memory(bench: Bench) -> None:
    """6: peak memory beyond the memory map as the rows of a training process grow."""
    program = """
import sys, numpy as np, torch
sys.path.insert(0, sys.argv[1])
from torch import nn
from mmlabel.data.captions import EncodedCaptions
from mmlabel.data.batches import EpochBatches, SplitRows
from mmlabel.models.fusion import Head, ImageEncoder, LateFusion
rows, path = int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3
features = torch.from_numpy(np.memmap(path, np.float32, "r+", shape=(rows, 1280)))
split = SplitRows(
    ids=[f"{n}.jpg" for n in range(rows)], targets=np.zeros((rows, 20), np.uint8),
    captions=EncodedCaptions.empty(rows), features=features,
    feature_rows=np.arange(rows)[:, None].repeat(2, 1), image_size=224, upright=False,
)
network = LateFusion(
    encoders={"image": ImageEncoder(features=1280, backbone=None)},
    head=Head(in_features=1280, num_labels=20),
)
optimizer = torch.optim.Adam(network.parameters())
peak = 0
for index in EpochBatches(rows, batch_size=256, training=True):
    batch = split[index]
    nn.functional.binary_cross_entropy_with_logits(network(batch), batch.targets).backward()
    optimizer.step(); optimizer.zero_grad()
    peak = max(peak, anonymous())
print(peak)
"""
    peaks = {}
    for rows in (1_000, 10_000, 100_000):
        path = bench.folder / "memory.bin"
        with open(path, "wb") as file:
            file.truncate(rows * 1280 * 4)
        answer = subprocess.run(
            [sys.executable, "-c", program, str(REPOSITORY), str(rows), str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[rows] = float(answer.stdout)
        path.unlink()
    note = ", ".join(f"{rows:,} rows {peak:.0f} MB" for rows, peak in peaks.items())
    growth = peaks[100_000] - peaks[1_000]
    bench.add(6, "more memory for 100,000 rows than for 1,000", growth, " MB", "flat", note)


def captions(bench: Bench) -> None:
    """7: an epoch of 18,000 captions and a head, against packed sequences in random batches."""
    from mmlabel.data.batches import EpochBatches
    from mmlabel.models.caption_encoder import CaptionEncoder
    from mmlabel.models.fusion import Head

    rows, words, batch_size = 18_000, 5_000, 32
    generator = np.random.default_rng(0)
    # As long as the report's captions: a median of 10 words, 1 in 100 has more than 17.
    lengths = generator.gamma(17, 10.4 / 17, rows).round().clip(1, 40).astype(np.int64)
    tokens = torch.from_numpy(generator.integers(2, words, (rows, lengths.max())))
    targets = torch.from_numpy((generator.random((rows, 20)) < 0.1).astype(np.float32))
    for layers in (1, 8):
        encoder = CaptionEncoder(
            num_words=words,
            embedding_dim=50,
            embeddings=torch.randn(words, 50),
            layers=layers,
            pooling="max",
        )
        head = Head(in_features=encoder.out_features, num_labels=20)
        criterion = nn.BCEWithLogitsLoss()
        padded = encoder._run_padded

        def step(index: np.ndarray, encoder=encoder, head=head, criterion=criterion) -> None:
            longest = lengths[index].max()
            encoded = encoder(tokens[index, :longest], torch.from_numpy(lengths[index]))
            criterion(head(encoded), targets[index]).backward()

        ways = {
            "packed": (encoder._run_packed, None),
            "padded": (padded, None),
            "padded, of similar length": (padded, lengths),
        }
        batches = {
            name: [
                index
                for index, _ in EpochBatches(
                    rows, batch_size=batch_size, training=True, lengths=given
                )
            ]
            for name, (_, given) in ways.items()
        }
        # In turns, a stretch of an epoch each, so that a busy machine slows all of them alike.
        stretch, seconds = (40 if layers == 1 else 8), dict.fromkeys(ways, 0.0)
        count = len(batches["packed"]) // (1 if layers == 1 else 4)
        for begin in range(0, count, stretch):
            for name, (run, _) in ways.items():
                encoder._run_padded = run
                start = time.perf_counter()
                for index in batches[name][begin : begin + stretch]:
                    step(index)
                seconds[name] += time.perf_counter() - start
        for name in ("padded", "padded, of similar length"):
            whole = [value * len(batches["packed"]) / count for value in seconds.values()]
            note = f"{whole[0]:.1f} s against {whole[list(ways).index(name)]:.1f} s an epoch"
            what = f"{layers} LSTM layer{'s' * (layers > 1)}, packed over {name}"
            target = "2" if "similar" in name else ""
            bench.add(7, what, seconds["packed"] / seconds[name], "x", target, note)


def pictures_of(bench: Bench) -> list[Path]:
    if bench.data is not None:
        return read_usyd(bench.data).pictures
    prepare(bench.settings("model=caption_only"), None)  # draws the built-in set
    return sorted((bench.folder / "cache").glob("scenes/*/data/*"))


def split_file(bench: Bench, rows: int) -> Path:
    """A split of the first rows: `rows` to train, an eighth of that to validate and to test."""
    path, ids = bench.folder / f"first{rows}.csv", read_usyd(bench.data).ids
    eighth = rows // 8
    splits = ["train"] * rows + ["val"] * eighth + ["test"] * eighth
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("ImageID", "split"), *zip(ids, splits, strict=False)])
    return path


BENCHMARKS = {1: extraction, 2: epoch, 4: start_up, 3: sweep, 5: loop, 6: memory, 7: captions}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ACCELERATOR = "gpu" if DEVICE == "cuda" else "cpu"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/bench.py", description=__doc__)
    beside = REPOSITORY.parent / "shared" / "data" / "usyd"
    parser.add_argument("--data", type=Path, default=beside if beside.is_dir() else None)
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--only", help="numbers, such as 1,4 (default: all)")
    options = parser.parse_args()
    chosen = {int(n) for n in options.only.split(",")} if options.only else set(BENCHMARKS)
    if unknown := chosen - set(BENCHMARKS):
        parser.error(f"--only: there is no benchmark {min(unknown)}; there are 1 to 7")
    data = options.data.resolve() if options.data else None
    os.environ.setdefault("WANDB_MODE", "offline")
    print(
        f"{machine()}; data: {'the built-in set' if data is None else 'the report`s'}", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(data, Path(folder))
        for number, benchmark in BENCHMARKS.items():
            if number in chosen:
                benchmark(bench)
    print("\n| benchmark | measured | target | |\n| --- | ---: | ---: | --- |")
    for row in sorted(bench.rows, key=lambda row: row["benchmark"]):
        value = f"{row['value']:.3g}{row['unit']}"
        print(f"| {row['benchmark']}. {row['what']} | {value} | {row['target']} | {row['note']} |")
    content = {"machine": machine(), "versions": versions(), "figures": bench.rows}
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"\nThe same in {options.out}")


if __name__ == "__main__":
    main()
