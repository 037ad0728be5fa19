"""What results.json says of a run: everything that can be compared with other runs."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmlabel.cache import fingerprint, library_versions
from mmlabel.metrics import per_label
from mmlabel.settings import Settings
from mmlabel.size import Size, sizes
from mmlabel.wording import count

if TYPE_CHECKING:
    from mmlabel.parts import Run

PACKAGES = (
    "mmlabel torch torchvision pytorch-lightning hydra-core omegaconf torchmetrics gensim nltk"
    " wandb timm numpy pillow"
).split()
# Those of the extras, which need not be there.
_OF_EXTRAS = "openvino transformers tokenizers ultralytics".split()


def describe(
    run: "Run",
    settings: Settings,
    *,
    overrides: list[str],
    sources: list[str],
    epochs: int,
    best_epoch: int | None,
    seconds: dict[str, float],
) -> dict:
    """Everything about a finished run that can be compared with others: see README.

    Args:
        run: its parts, the classifier as evaluated last.
        settings: the resolved configuration.
        overrides: what the run was given on the command line.
        sources: by which it was told there where files of one's own are.
        epochs: how many have been trained.
        best_epoch: the one whose weights were evaluated; None if none were trained.
        seconds: what took how long, training with that of the run that was gone on with; "total" is
            all of it.
    """
    prepared, data, classifier = run.prepared, run.data, run.classifier
    parts = size_of(run, settings)
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
    if settings.train:
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
        "settings": settings.plain(),
        "features": data.features_key,
        "study": settings.study.name,
        "variant": settings.study.variant,
        "data_fingerprint": fingerprint(prepared.annotations.fingerprint, *prepared.rows.values()),
        "inputs": run.inputs,
        "began_with": run.began_with,
        "seconds": seconds,
        "detected": data.detected,  # pictures, in the seconds of the detector
        "parameters": size.parameters,
        "megabytes": size.megabytes,
        "megabytes_by_part": {part: own.megabytes for part, own in parts.items()},
        "pretrained": run.pretrained,
        "coverage": prepared.coverage
        and dict(zip(("words", "tokens"), prepared.coverage, strict=True)),
        "notes": prepared.notes,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
    }


# Of a number, to which these precisions (trainer.precision) bring the network's.
_BYTES = {"16-true": 2, "bf16-true": 2, "64-true": 8, "64": 8}


def size_of(run: "Run", settings: Settings) -> dict[str, Size]:
    """The size of each part of a run that a prediction needs, before training and after it."""
    stored = run.classifier.backbone
    return sizes(
        run.classifier.network,
        backbone=stored.weights_kept(run.data.cache_dir) if stored else None,
        detector=run.data.detector,
        vocabulary=run.prepared.vocabulary,
        tokenizer=run.prepared.tokenizer,
        width=_BYTES.get(settings.trainer.precision),
        half_text=settings.halves_text,
    )


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on, as far as they are installed."""
    found = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return found | {name: there for name, there in library_versions(*_OF_EXTRAS).items() if there}


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
