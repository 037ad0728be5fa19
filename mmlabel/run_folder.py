"""The files of a finished run, read back."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlabel.errors import UserError


@dataclass(frozen=True)
class Predictions:
    """The test split of one run, in file order.

    Attributes:
        ids: N image ids.
        labels: K label numbers, one per column.
        targets: (N, K) bool.
        probs: (N, K) float, 0..1.
    """

    ids: list[str]
    labels: list[int]
    targets: np.ndarray
    probs: np.ndarray


@dataclass(frozen=True)
class RunRecord:
    """What a finished run left in its folder; see `read_run`.

    Attributes:
        folder: where it was read from.
        results: results.json.
        history: metrics.csv, one dict per epoch, without the cells that were empty; [] without it.
        predictions: predictions.csv.
    """

    folder: Path
    results: dict
    history: list[dict[str, float]]
    predictions: Predictions

    @property
    def answers(self) -> np.ndarray:
        """(N, K) bool: the labels whose probability reaches the run's threshold."""
        threshold = np.asarray(self.results["threshold"])
        if threshold.ndim:  # one for each label number
            threshold = threshold[self.predictions.labels]
        return self.predictions.probs >= threshold


def read_run(folder: Path) -> RunRecord:
    """Read results.json, predictions.csv and, if the run has trained, metrics.csv.

    Raises:
        UserError: a file is missing or cannot be understood.
    """
    folder = Path(folder)
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        results["scores"], results["threshold"]
        return RunRecord(
            folder=folder,
            results=results,
            history=_read_history(folder / "metrics.csv"),
            predictions=_read_predictions(folder / "predictions.csv"),
        )
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: has the run in {folder} finished?") from None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder} holds no readable run ({error}); run it again") from error


def _read_history(path: Path) -> list[dict[str, float]]:
    # A run that only evaluated a checkpoint has no epochs.
    if not path.exists():
        return []
    epochs: dict[float, dict[str, float]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = {name: float(text) for name, text in row.items() if text}
            # Loggers write training and validation figures of an epoch on lines of their own.
            epochs.setdefault(values["epoch"], {}).update(values)
    return [epochs[epoch] for epoch in sorted(epochs)]


def _read_predictions(path: Path) -> Predictions:
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    labels = [int(name.removeprefix("target_")) for name in header if name.startswith("target_")]
    width = len(labels)
    if header != ["ImageID", *(f"{kind}_{n}" for kind in ("target", "prob") for n in labels)]:
        raise ValueError(f"{path.name}: columns are not ImageID, target_N..., prob_N...")
    values = np.array([row[1:] for row in rows], dtype=np.float64).reshape(len(rows), 2 * width)
    return Predictions(
        ids=[row[0] for row in rows],
        labels=labels,
        targets=values[:, :width] > 0.5,
        probs=values[:, width:],
    )
