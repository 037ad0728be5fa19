"""Training the backbone: its last stages from the stored trunk, with the trunk live, all of it.

EfficientNet-Lite0 on whole pictures of 192 x 256 px, its last two stages trained, or all of it.
"""

import statistics
from itertools import islice

import torch

from benchmarks.epochs import epochs
from benchmarks.features import DEVICE
from benchmarks.runs import some_rows
from benchmarks.table import Bench, ratio, seconds
from mmlabel.parts import build

LAST = "backbone.unfreeze=2"


def measure(bench: Bench) -> None:
    """Epochs of the three ways in turns, and Lightning's loop over a bare one."""
    rows = bench.pick(tiny=24, quick=40, usual=300, full=None)
    options = ["backbone=efficientnet_lite0", "data.crop=none", "patience=null"]
    if bench.data is not None:  # the built-in pictures are square and small
        options.append("data.image_size=[192,256]")
    options += some_rows(bench, rows)
    once = [*options, "trainer.max_epochs=1"]
    epochs(bench, *once, LAST, "features=on")  # fills the store
    stored, live, whole, rate, bare = [], [], [], [], []
    for _ in range(bench.pick(tiny=1, quick=1, usual=2, full=3)):
        clocks = epochs(bench, *options, "trainer.max_epochs=3", LAST, "features=on")
        stored.append(statistics.median(clock.whole for clock in clocks))
        live.append(epochs(bench, *once, LAST, "features=off")[0].whole)
        (clock,) = epochs(bench, *once, "backbone.frozen=false")
        whole.append(clock.whole)
        rows_seen, plain = _bare_loop(bench, [*once, "backbone.frozen=false"])
        bare.append(rows_seen / plain)
        rate.append(clock.rows / clock.steps)
    note = f"{statistics.median(stored):.2f} s an epoch of {rows or 3600:,} rows, whole pictures"
    bench.add(
        "backbone",
        "last two stages: the trunk live over stored",
        ratio(live, stored),
        "x",
        at_least=2.5,
        note=f"{statistics.median(live):.1f} s for {note}",
    )
    bench.add(
        "backbone",
        "all of it trained over the last two stages, trunk stored",
        ratio(whole, stored),
        "x",
        at_least=6,
        note=f"{statistics.median(whole):.1f} s for {note}",
    )
    bench.add(
        "backbone",
        "all of it trained: Lightning over a bare loop on ready tensors",
        ratio(rate, bare),
        "x",
        at_least=0.85,
        note=f"{statistics.median(rate):.1f} of {statistics.median(bare):.1f} rows a second",
    )


def _bare_loop(bench: Bench, options: list[str]) -> tuple[int, float]:
    """Rows trained on, and seconds: the same network and rows, decoded before."""
    settings = bench.settings(*options)
    run = build(settings, None, wandb_id=None)
    run.data.setup("fit")
    loader = run.data.train_dataloader()
    network = run.classifier.network.to(DEVICE).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    ready = [
        run.data.transfer_batch_to_device(batch, DEVICE, 0)
        for batch in islice(loader, bench.pick(tiny=1, quick=2, usual=6, full=20))
    ]

    def train() -> None:
        for batch in ready:
            optimizer.zero_grad()
            network.loss(batch, run.classifier.criterion).backward()  # type: ignore[operator]
            optimizer.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return sum(len(batch.rows) for batch in ready), seconds(train)
