"""What results.json says of a run: everything that can be compared with other runs."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from mmlabel.cache import fingerprint
from mmlabel.classifier import Classifier
from mmlabel.data.datamodule import CaptionedPictures
from mmlabel.data.prepare import PreparedData
from mmlabel.metrics import per_label
from mmlabel.size import Size, sizes
from mmlabel.wording import count

PACKAGES = (
    "mmlabel torch torchvision pytorch-lightning hydra-core omegaconf torchmetrics gensim nltk"
    " wandb timm numpy"
).split()


def describe(
    *,
    settings: dict[str, object],
    study: str | None,
    variant: str | None,
    overrides: list[str],
    sources: list[str],
    prepared: PreparedData,
    data: CaptionedPictures,
    classifier: Classifier,
    pretrained: dict[str, str],
    inputs: dict[str, str],
    epochs: int,
    best_epoch: int | None,
    seconds: dict[str, float],
    halves_text: bool,
) -> dict:
    """Everything about a finished run that can be compared with others: see README, "Outputs".

    Args:
        settings: the resolved configuration, as plain values.
        study: whose run it is, None for a run of its own.
        variant: of that study.
        overrides: what the run was given on the command line.
        sources: by which it was told there where files of one's own are.
        prepared, data: what it read.
        classifier: as evaluated last.
        pretrained: where the weights of its parts come from, in words.
        inputs: digests of what it read.
        epochs: how many have been trained.
        best_epoch: the one whose weights were evaluated; None if none were trained.
        seconds: what took how long, training with that of the run that was gone on with; "total" is
            all of it.
        halves_text: whether the checkpoint keeps its text transformer in half precision.
    """
    stored = classifier.backbone
    parts = sizes(
        classifier.network,
        backbone=stored.backbone if stored else None,
        detector=data.detector,
        vocabulary=prepared.vocabulary,
        tokenizer=prepared.tokenizer,
        half_text=halves_text,
    )
    size = sum(parts.values(), Size())
    if data.detector is not None:
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
    with_label = {
        split: len(found.rows) if found.known is None else int(found.known.any(dim=1).sum())
        for split, found in classifier.evaluated.items()
    }
    training = len(prepared.rows["train"])
    trained = classifier.rows_trained or training
    if settings["train"]:
        trained = min(trained, training)  # several processes may have seen a few rows twice
    rows = {"train": trained, "val": 0, "test": 0}
    return {
        "status": "finished",
        "scores": classifier.scores,
        "threshold": classifier.threshold,
        "rows": rows | seen,
        "rows_known": with_label,  # of which any label is known
        "labels": labels,
        "epochs": epochs,
        "best_epoch": best_epoch,
        "overrides": overrides,
        "sources": sources,
        "settings": settings,
        "features": data.features_key,
        "study": study,
        "variant": variant,
        "data_fingerprint": fingerprint(prepared.annotations.fingerprint, *prepared.rows.values()),
        "inputs": inputs,
        "seconds": seconds,
        "parameters": size.parameters,
        "megabytes": size.megabytes,
        "megabytes_by_part": {part: own.megabytes for part, own in parts.items()},
        "pretrained": pretrained,
        "coverage": prepared.coverage
        and dict(zip(("words", "tokens"), prepared.coverage, strict=True)),
        "notes": prepared.notes,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def machine() -> str:
    """Where a figure was measured, in words: what the last digits of a score depend on, too."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    kind = f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{platform.system()} {kind}, {count(torch.get_num_threads(), 'thread')}{gpu}"


def commit() -> str | None:
    """The git commit of this code, with "+changes" if files differ from it; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    # The file may lie in another project's repository, which knows nothing of it.
    known = [*git, "ls-files", "--error-unmatch", Path(__file__).name]
    named = [*git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        subprocess.run(known, check=True, capture_output=True)
        return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def label_table(
    probabilities: Tensor,
    targets: Tensor,
    label_names: Sequence[str],
    threshold: float | list[float],
    known: Tensor | None = None,
) -> dict[str, dict]:
    """Name, support, precision, recall and F1 of each label that occurs, by label number."""
    rows = per_label(probabilities, targets, torch.tensor(threshold), known)
    return {
        str(number): {"name": label_names[number], **row}
        for number, row in enumerate(rows)
        if row["support"] > 0
    }
