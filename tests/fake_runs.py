"""Finished runs made of random answers, for what is done with runs after training."""

import csv
import json
from pathlib import Path

import numpy as np

from mmlabel.evidence import METRICS, scores
from mmlabel.run_folder import seal

LABELS = (1, 2, 3)


def write_fake_run(
    folder: Path,
    *,
    seed: int,
    noise: float,
    rows: int = 60,
    settings: dict | None = None,
    seconds: float = 10.0,
    inputs: dict[str, str] | None = None,
    **recorded: object,
) -> None:
    """Write what a run leaves in `folder`; the more noise, the more answers are wrong.

    `recorded` stands in results.json, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = np.random.default_rng(0).random((rows, len(LABELS))) < 0.4
    random = np.random.default_rng([seed, int(1000 * noise)])
    probs = np.where(targets ^ (random.random(targets.shape) < noise), 0.9, 0.1)
    answers = (probs >= 0.5)[None]
    reached = {metric: float(scores(targets, answers, metric)[0]) for metric in METRICS}
    results = {
        "status": "finished",
        "scores": {f"{split}/{m}": v for split in ("val", "test") for m, v in reached.items()},
        "threshold": 0.5,
        "rows": {"train": 200, "val": rows, "test": rows},
        "labels": {},
        "settings": settings or {"data": {"name": "fake"}, "seed": seed},
        "overrides": [],
        "seconds": {"setup": 1.0, "train": seconds - 2, "test": 1.0, "total": seconds},
        "epochs": 6,
        "best_epoch": 3,
        "parameters": 1000,
        "megabytes": 0.004,
        "pretrained": {},
        "notes": [],
        "versions": {"torch": "2"},
        "machine": "a machine",
        **({} if inputs is None else {"inputs": inputs}),
        **recorded,
    }
    (folder / "results.json").write_text(json.dumps(results))
    ids = [f"{row}.jpg" for row in range(rows)]
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        names = [f"{kind}_{label}" for kind in ("target", "prob") for label in LABELS]
        writer.writerow(["ImageID", *names])
        for id, truth, prob in zip(ids, targets.astype(int), probs, strict=True):
            writer.writerow([id, *truth, *prob])
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss"])
        writer.writerows([epoch, 10 * epoch, 1 / (epoch + 1)] for epoch in range(6))
    seal(folder)
