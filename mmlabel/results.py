"""What a finished run leaves: results.json, predictions.csv, config.yaml and report.html."""

import csv
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mmlabel.cache import atomic_write, fingerprint
from mmlabel.classifier import Classifier, read_checkpoint
from mmlabel.data.datamodule import CaptionedPictures
from mmlabel.metrics import per_label

PACKAGES = (
    "mmlabel torch torchvision pytorch-lightning hydra-core omegaconf torchmetrics gensim nltk"
    " wandb timm numpy"
).split()


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def machine() -> str:
    """Where a figure was measured, in words."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads{gpu}"


def model_size(*modules: nn.Module) -> tuple[int, float]:
    """Number of parameters, and megabytes (10^6 bytes) of parameters and buffers together."""
    parameters = [p for module in modules for p in module.parameters()]
    buffers = [b for module in modules for b in module.buffers()]
    size = sum(t.numel() * t.element_size() for t in [*parameters, *buffers])
    return sum(p.numel() for p in parameters), size / 1e6


def label_table(
    probabilities: Tensor,
    targets: Tensor,
    label_names: Sequence[str],
    threshold: float | list[float],
) -> dict[str, dict]:
    """Name, support, precision, recall and F1 of each label that occurs, by label number."""
    rows = per_label(probabilities, targets, torch.tensor(threshold))
    return {
        str(number): {"name": label_names[number], **row}
        for number, row in enumerate(rows)
        if row["support"] > 0
    }


def describe(
    settings: dict,
    *,
    data: CaptionedPictures,
    classifier: Classifier,
    overrides: list[str],
    epochs: int,
    checkpoint: str | None,
    seconds: dict[str, float],
) -> dict:
    """Everything about a finished run that can be compared with others: see README, "Outputs"."""
    stored, variant = classifier.backbone, settings["study"]["variant"]
    modules = [classifier.network, *([stored.backbone] if stored else [])]
    parameters, megabytes = model_size(*modules)
    if data.detector is not None:
        parameters += data.detector.parameters
        megabytes += data.detector.megabytes
        seconds = seconds | {"detector": data.detector_seconds}
    labels = {}
    if settings["test"]:
        labels = label_table(*classifier.evaluated, classifier.label_names, classifier.threshold)
    return {
        "status": "finished",
        "scores": classifier.scores,
        "threshold": classifier.threshold,
        "rows": {split: len(rows) for split, rows in data.rows.items()},
        "labels": labels,
        "epochs": epochs,
        "best_epoch": read_checkpoint(Path(checkpoint))["epoch"] if checkpoint else None,
        "overrides": overrides,
        "settings": settings,
        "study": settings["study"]["name"],
        # Hydra reads a variant named "2" as a number.
        "variant": None if variant is None else str(variant),
        "data_fingerprint": fingerprint(data.annotations.fingerprint, *data.rows.values()),
        "seconds": seconds,
        "parameters": parameters,
        "megabytes": megabytes,
        "pretrained": classifier.pretrained,
        "coverage": data.coverage and dict(zip(("words", "tokens"), data.coverage, strict=True)),
        "notes": data.notes,
        "versions": versions(),
        "machine": machine(),
    }


def write_run(
    folder: Path, results: dict, *, data: CaptionedPictures, classifier: Classifier
) -> None:
    """Write a run's files; results.json comes last but for the page, as it says "finished"."""
    settings = results["settings"]
    with atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    tested = data.annotations.take(data.rows["test"])
    if settings["test"]:
        probabilities, targets = classifier.evaluated
        write_predictions(
            folder / "predictions.csv",
            ids=tested.ids,
            probabilities=probabilities,
            targets=targets,
            label_names=classifier.label_names,
        )
    write_json(folder / "results.json", results)
    (folder / "failed.json").unlink(missing_ok=True)  # of an earlier attempt in this folder
    if settings["test"] and settings["report"]:
        from mmlabel.report import write_run_report

        write_run_report(folder, tested)


def write_predictions(
    path: Path,
    *,
    ids: Sequence[str],
    probabilities: Tensor,
    targets: Tensor | None,
    label_names: Sequence[str],
    answers: Tensor | None = None,
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


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def print_table(results: dict) -> None:
    """The scores of one run, and those of each label, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    table = Table(title="Scores", box=box.SIMPLE_HEAD)
    for heading in ("split", "F1 micro", "F1 per sample", "F1 macro", "mAP", "loss", "rows"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split in ("val", "test"):
        scores = {k.split("/")[1]: v for k, v in results["scores"].items() if k.startswith(split)}
        if scores:
            names = ("f1_micro", "f1_samples", "f1_macro", "map", "loss")
            cells = [f"{scores[name]:.3f}" for name in names]
            table.add_row(split, *cells, str(results["rows"][split]))
    console.print(table)

    if results["labels"]:
        table = Table(title="Test split by label", box=box.SIMPLE_HEAD)
        for heading in ("label", "name", "support", "precision", "recall", "F1"):
            table.add_column(heading, justify="left" if heading == "name" else "right")
        for number, row in results["labels"].items():
            cells = [f"{row[name]:.3f}" for name in ("precision", "recall", "f1")]
            table.add_row(number, row["name"], str(row["support"]), *cells)
        console.print(table)

    size, limit = results["megabytes"], 100
    size_note = "within" if size < limit else "over"
    seconds = results["seconds"]
    facts = [
        f"{results['parameters']:,} parameters, {size:.1f} MB ({size_note} the report's limit of"
        f" {limit} MB)",
        f"{seconds['total']:.1f} s",
    ]
    if results["epochs"]:
        facts.append(
            f"of which training {seconds['train']:.1f} s for {results['epochs']} epochs, the best"
            f" of them epoch {results['best_epoch']}"
        )
    if "detector" in seconds:
        rate = sum(results["rows"].values()) / max(seconds["detector"], 1e-9)
        facts.append(f"detection {seconds['detector']:.1f} s ({rate:.1f} pictures a second)")
    console.print(", ".join(facts))
    for note in results["notes"]:
        console.print(f"Note: {note}")
