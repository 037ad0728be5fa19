"""Training on stored features: an epoch over one without the store, Lightning over a plain loop."""

import statistics
import time

import numpy as np
import torch
from torch import nn

from benchmarks.epochs import epochs
from benchmarks.features import DEVICE
from benchmarks.runs import some_rows
from benchmarks.table import Bench
from mmlabel.parts import build


def measure(bench: Bench) -> None:
    """Both with EfficientNet-Lite0."""
    rows = bench.pick(tiny=40, quick=100, usual=800, full=None)
    options = ["backbone=efficientnet_lite0", "patience=null", *some_rows(bench, rows)]
    epochs(bench, *options, "trainer.max_epochs=1")  # fills the store
    stored = statistics.median(e.whole for e in epochs(bench, *options, "trainer.max_epochs=5"))
    live = epochs(bench, *options, "trainer.max_epochs=1", "features=off")[0].whole
    bench.add(
        "training",
        "an epoch without the store over one with it",
        live / stored,
        "x",
        at_least=30,
        note=f"{live:.1f} s for {stored:.2f} s, {rows or 3600:,} rows",
    )
    _loop(bench, options)


def _loop(bench: Bench, options: list[str]) -> None:
    """Rows a second through Lightning over those of a plain PyTorch loop."""
    settings = bench.settings(*options)
    run = build(settings, None, wandb_id=None)
    data, classifier = run.data, run.classifier
    data.setup("fit")
    split = data.split("train")
    network = classifier.network.to(DEVICE).train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    criterion = nn.BCEWithLogitsLoss()

    def plain() -> float:
        start = time.perf_counter()
        order = np.random.permutation(len(split))
        for begin in range(0, len(order), settings.data.batch_size):
            rows = order[begin : begin + settings.data.batch_size]
            batch = split[rows, np.zeros(len(rows), dtype=bool), rows]
            batch = data.transfer_batch_to_device(batch, DEVICE, 0)
            optimizer.zero_grad()
            criterion(network(batch), batch.targets).backward()
            optimizer.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    ratios, rates = [], []
    for _ in range(bench.pick(tiny=1, quick=2, usual=3, full=5)):
        clocks = epochs(bench, *options, "trainer.max_epochs=3")
        lightning = statistics.median(clock.steps for clock in clocks)
        ratios.append(statistics.median(plain() for _ in range(3)) / lightning)
        rates.append(len(split) / lightning)
    bench.add(
        "training",
        "Lightning over a plain loop",
        statistics.median(ratios),
        "x",
        at_least=0.8,
        note=f"{statistics.median(rates):,.0f} rows a second",
    )
