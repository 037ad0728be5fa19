"""A run's folder: the names of its files, who writes them, and the only place that reads them.

config.yaml      the resolved settings
metrics.csv      the history, written by Lightning's CSVLogger
predictions.csv  the test split: ImageID, target_N and prob_N of each label number N
results.json     the record, see `describe`; written after the files above
report.html      the page
failed.json      why there are no results
best.ckpt, last.ckpt
"""

import csv
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmlabel.cache import atomic_write, fingerprint
from mmlabel.errors import UserError

# torch is imported where it is needed: a sweep that has nothing to run does without it.
if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmlabel.classifier import Classifier
    from mmlabel.data.datamodule import CaptionedPictures
    from mmlabel.data.prepare import PreparedData

CONFIG, HISTORY, PREDICTIONS = "config.yaml", "metrics.csv", "predictions.csv"
RESULTS, FAILED = "results.json", "failed.json"

PACKAGES = (
    "mmlabel torch torchvision pytorch-lightning hydra-core omegaconf torchmetrics gensim nltk"
    " wandb timm numpy"
).split()


# ---------------------------------------------------------------------------------------- reading


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
        results: results.json, see `describe`.
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
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        results["scores"], results["threshold"]
        return RunRecord(
            folder=folder,
            results=results,
            history=_by_epoch(_read_history(folder / HISTORY)),
            predictions=_read_predictions(folder / PREDICTIONS),
        )
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: has the run in {folder} finished?") from None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder} holds no readable run ({error}); run it again") from error


def read_results(folder: Path) -> dict:
    """results.json alone, for what needs no predictions.

    Raises:
        UserError: it is missing or cannot be understood.
    """
    path = folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        results["scores"], results["settings"], results["seconds"]["total"]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: has the run finished?") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); run it again") from error
    return results


def read_history(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.csv as they were logged, without empty cells; [] if there is none.

    Raises:
        UserError: it cannot be understood.
    """
    path = folder / HISTORY
    try:
        return _read_history(path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it to go on without") from error


def _read_history(path: Path) -> list[dict[str, float]]:
    # A run that only evaluated a checkpoint has no epochs.
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        lines = [
            {name: float(text) for name, text in row.items() if text}
            for row in csv.DictReader(file, strict=True)
        ]
    if not all({"epoch", "step"} <= line.keys() for line in lines):
        raise ValueError(f"{path.name}: a line without epoch or step")
    return lines


def _by_epoch(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Loggers write training and validation figures of an epoch on lines of their own."""
    epochs: dict[float, dict[str, float]] = {}
    for line in lines:
        epochs.setdefault(line["epoch"], {}).update(line)
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


def finished(folder: Path) -> bool:
    """Whether a run has left its results there; they are written last, and whole."""
    return (folder / RESULTS).is_file() and (folder / PREDICTIONS).is_file()


def failure(folder: Path) -> str:
    """Why the run in `folder` has no results."""
    try:
        return json.loads((folder / FAILED).read_text(encoding="utf-8"))["error"]
    except (OSError, ValueError, LookupError, TypeError):
        return "it ended without a result: see the log in its folder, if there is one"


# ------------------------------------------------------------------------------------- the record


def describe(
    *,
    settings: dict[str, object],
    study: str | None,
    variant: str | None,
    overrides: list[str],
    prepared: "PreparedData",
    data: "CaptionedPictures",
    classifier: "Classifier",
    pretrained: dict[str, str],
    epochs: int,
    best_epoch: int | None,
    seconds: dict[str, float],
) -> dict:
    """Everything about a finished run that can be compared with others: see README, "Outputs".

    Args:
        settings: the resolved configuration, as plain values.
        study: whose run it is, None for a run of its own.
        variant: of that study.
        overrides: what the run was given on the command line.
        prepared, data: what it read.
        classifier: as evaluated last.
        pretrained: where the weights of its parts come from, in words.
        epochs: how many have been trained.
        best_epoch: the one whose weights were evaluated; None if none were trained.
        seconds: what took how long; "total" is all of it.
    """
    stored = classifier.backbone
    modules = [classifier.network, *([stored.backbone] if stored else [])]
    parameters, megabytes = model_size(*modules)
    if data.detector is not None:
        parameters += data.detector.parameters
        megabytes += data.detector.megabytes
        seconds = seconds | {"detector": data.detector_seconds}
    labels = {}
    if test := classifier.evaluated.get("test"):
        labels = label_table(
            test.probabilities,
            test.targets,
            classifier.label_names,
            classifier.threshold,
            test.known,
        )
    seen = {split: len(found.rows) for split, found in classifier.evaluated.items()}
    rows = {"train": classifier.rows_trained or len(prepared.rows["train"]), "val": 0, "test": 0}
    return {
        "status": "finished",
        "scores": classifier.scores,
        "threshold": classifier.threshold,
        "rows": rows | seen,
        "labels": labels,
        "epochs": epochs,
        "best_epoch": best_epoch,
        "overrides": overrides,
        "settings": settings,
        "study": study,
        "variant": variant,
        "data_fingerprint": fingerprint(prepared.annotations.fingerprint, *prepared.rows.values()),
        "seconds": seconds,
        "parameters": parameters,
        "megabytes": megabytes,
        "pretrained": pretrained,
        "coverage": prepared.coverage
        and dict(zip(("words", "tokens"), prepared.coverage, strict=True)),
        "notes": prepared.notes,
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def machine() -> str:
    """Where a figure was measured, in words."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads{gpu}"


def model_size(*modules: "nn.Module") -> tuple[int, float]:
    """Number of parameters, and megabytes (10^6 bytes) of parameters and buffers together."""
    parameters = [p for module in modules for p in module.parameters()]
    buffers = [b for module in modules for b in module.buffers()]
    size = sum(t.numel() * t.element_size() for t in [*parameters, *buffers])
    return sum(p.numel() for p in parameters), size / 1e6


def label_table(
    probabilities: "Tensor",
    targets: "Tensor",
    label_names: Sequence[str],
    threshold: float | list[float],
    known: "Tensor | None" = None,
) -> dict[str, dict]:
    """Name, support, precision, recall and F1 of each label that occurs, by label number."""
    import torch

    from mmlabel.metrics import per_label

    rows = per_label(probabilities, targets, torch.tensor(threshold), known)
    return {
        str(number): {"name": label_names[number], **row}
        for number, row in enumerate(rows)
        if row["support"] > 0
    }


# ---------------------------------------------------------------------------------------- writing


def write_run(
    folder: Path,
    results: dict,
    *,
    prepared: "PreparedData",
    classifier: "Classifier",
    page: bool,
) -> None:
    """Write a run's files; results.json comes last but for the page, as it says "finished".

    Args:
        folder: of the run.
        results: see `describe`.
        prepared: what it read.
        classifier: as evaluated last; of a test split that was not looked at there are no
            predictions.
        page: also write report.html, of a tested run.
    """
    from omegaconf import OmegaConf

    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(results["settings"])))
    tested = classifier.evaluated.get("test")
    if tested:
        rows = prepared.annotations.take(prepared.rows["test"][tested.rows.numpy()])
        write_predictions(
            folder / PREDICTIONS,
            ids=rows.ids,
            probabilities=tested.probabilities,
            targets=tested.targets,
            label_names=classifier.label_names,
        )
    write_json(folder / RESULTS, results)
    (folder / FAILED).unlink(missing_ok=True)  # of an earlier attempt in this folder
    if tested and page:
        from mmlabel.report import write_run_report

        write_run_report(folder, rows)


def write_failure(folder: Path, error: BaseException) -> None:
    """Say in `folder` why the run has no results; see `failure`."""
    write_json(folder / FAILED, {"status": "failed", "error": str(error)})


def write_predictions(
    path: Path,
    *,
    ids: Sequence[str],
    probabilities: "Tensor",
    targets: "Tensor | None",
    label_names: Sequence[str],
    answers: "Tensor | None" = None,
) -> None:
    """A row per image: ImageID, target_N for each label number N with a name, then prob_N.

    Args:
        answers: (n, num_labels) bool; if given, a column Labels lists the numbers answered.
        probabilities: (n, num_labels); written with enough digits to be read back unchanged.
        targets: (n, num_labels), or None for images whose labels are not known.
    """
    numbers = [number for number, name in enumerate(label_names) if name]
    header = ["ImageID"]
    columns: list[list] = [list(ids)]
    if answers is not None:
        header.append("Labels")
        columns.append([" ".join(str(n) for n in numbers if row[n]) for row in answers.tolist()])
    if targets is not None:
        header += [f"target_{n}" for n in numbers]
        columns += targets[:, numbers].long().T.tolist()
    header += [f"prob_{n}" for n in numbers]
    columns += [[f"{p:.9g}" for p in column] for column in probabilities[:, numbers].T.tolist()]
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
