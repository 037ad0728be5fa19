"""Sweeps: lstm.layers=1,2,4,8 from empty caches, with the store and jobs=auto, over without."""

from benchmarks.runs import run, some_rows, sweep
from benchmarks.table import Bench

LAYERS = (1, 2, 4, 8)
# What the study of this name fixes, for the runs without the store.
FIXED = ("optimizer=adadelta", "scheduler=none", "lstm.pooling=last")


def measure(bench: Bench) -> None:
    """Whole commands, one run after the other where there is no store."""
    rows = bench.pick(tiny=40, quick=40, usual=300, full=None)
    layers = bench.pick(tiny=(1,), quick=LAYERS, usual=LAYERS, full=LAYERS)
    # Sixteen jobs of ten epochs would take three hours without the store; with
    # fewer epochs the start of each job weighs more, and the ratio is lower.
    sizes = bench.pick(tiny=[(1, 1)], quick=[(1, 1)], usual=[(1, 2)], full=[(4, 4), (1, 10)])
    for seeds, epochs in sizes:
        options = ["backbone=efficientnet_lite0", f"trainer.max_epochs={epochs}", "patience=null"]
        options += [*some_rows(bench, rows), "logger=csv"]
        study = ["study=lstm_layers", f"seeds={seeds}", "jobs=auto"]
        stored = sweep(bench, *study, *options, cache=f"sweep{seeds}")
        alone = sum(
            run(
                bench,
                *options,
                *FIXED,
                f"lstm.layers={number}",
                f"seed={seed}",
                "features=off",
                cache=f"alone{seeds}",
                folder=f"alone-{number}-{seed}-{seeds}",
            ).seconds
            for number in layers
            for seed in range(seeds)
        )
        jobs = len(layers) * seeds
        whole = bench.level == "full"
        bench.add(
            "sweeps",
            f"{jobs} jobs, without the store over with it and jobs=auto",
            alone / stored,
            "x",
            at_least={4: 12.0, 16: 20.0}.get(jobs) if whole else None,
            note=f"{alone:.0f} s and {stored:.0f} s; {rows or 3600:,} rows, {epochs} epochs"
            + ("" if whole else " (target 12 for 4 jobs at 3,600 rows and 10 epochs: FULL=1)"),
        )
