"""A run's rest: the second run of the default, from its command to its files, over its training."""

import shutil
import statistics
import subprocess
import sys

from benchmarks.runs import run, some_rows
from benchmarks.table import REPOSITORY, Bench, seconds
from mmlabel.cli import assigned
from mmlabel.data.captions import tokenise
from mmlabel.parts import prepare
from mmlabel.report import write_run_report


def measure(bench: Bench) -> None:
    """One run that fills the store, then some that find it full."""
    rows = bench.pick(tiny=40, quick=100, usual=None, full=None)
    chosen = some_rows(bench, rows)
    options = ["backbone=efficientnet_lite0", *chosen]
    if bench.level == "tiny":
        options.append("trainer.max_epochs=2")
    first = run(bench, *options, cache="warm", folder="first")
    times = bench.pick(tiny=1, quick=1, usual=2, full=5)
    again = [run(bench, *options, cache="warm", folder=f"again{n}") for n in range(times)]
    later = sorted(again, key=lambda one: one.seconds / sum(one.epochs))[len(again) // 2]
    training = sum(later.epochs)
    many = "" if rows is None else f", {rows} rows"
    parts = {
        "imports and the command line": later.seconds - later.parts["total"],
        "preparing": later.parts["setup"],
        "finding the features": later.parts["features"],
        f"{len(later.epochs)} epochs": training,
        "checkpoints and Lightning": later.parts["train"] - training,
        "scoring": later.parts["test"],
    }
    bench.add(
        "whole run",
        f"the second run over its training{many}",
        later.seconds / training,
        "x",
        at_most=1.6 if rows is None else None,
        note=", ".join(f"{name} {took:.1f} s" for name, took in parts.items()),
    )
    bench.add(
        "whole run",
        f"the first run, which computes the features{many}",
        first.seconds,
        "s",
        note=f"the second {later.seconds:.1f} s",
    )
    settings = bench.settings(*options, cache="warm")
    prepared = prepare(settings, None)
    captions = prepared.annotations.captions
    took = seconds(
        lambda: tokenise(
            captions, lemmas="none", cache_dir=bench.folder / "words", on_missing="error"
        )
    )
    bench.add("whole run", f"tokenising {len(captions):,} captions", took, "s")
    page = bench.folder / "page"
    shutil.copytree(later.folder, page)
    test = prepared.annotations.take(prepared.rows["test"])
    took = seconds(lambda: write_run_report(page, test))
    bench.add("whole run", "the page", took, "s", note=f"{len(test):,} test rows")
    start_up(bench)


# Torch and Lightning are imported where train.py does it, after wandb, and their time taken off, as
# is that of torch._dynamo, which torch imports when an optimizer is made.
PROGRAM = """
import sys, time, os
start = time.perf_counter()
sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[1:]
import train
import_large = train.import_large
def first_step(self, batch, index):
    print("SECONDS", time.perf_counter() - start, flush=True)
    os._exit(0)
def timed(*modules):
    global start
    *before, torchmetrics, training = modules
    import_large(*before)
    begin = time.perf_counter()
    import_large("torch", torchmetrics, "pytorch_lightning", "torch._dynamo")
    start += time.perf_counter() - begin
    import_large(training)
    from mmlabel.lightning.classifier import Classifier
    Classifier.training_step = first_step
train.import_large = timed
train.run_cli(train.main)
"""


def start_up(bench: Bench) -> None:
    """Seconds from the command to the first training step, beyond torch and Lightning."""
    cache = assigned("cache_dir", bench.folder / "demo")
    options = ["experiment=demo", "captions.lemmas=none", cache]
    took = []
    for number in range(bench.pick(tiny=1, quick=2, usual=3, full=4)):  # the first fills caches
        command = [sys.executable, "-c", PROGRAM, str(REPOSITORY), *options]
        command.append(assigned("hydra.run.dir", bench.folder / f"start{number}"))
        answer = subprocess.run(command, capture_output=True, text=True, cwd=bench.folder)
        if "SECONDS" not in answer.stdout:
            raise RuntimeError(f"no training step was begun: {answer.stderr}")
        took.append(float(answer.stdout.split("SECONDS")[1].split()[0]))
    later = took[1:] or took
    note = f"{min(later):.2f} to {max(later):.2f} s, wandb offline"
    bench.add(
        "whole run", "start to the first step", statistics.median(later), "s", at_most=3, note=note
    )
