"""`python -m mmlabel.predict CHECKPOINT CSV`: label captioned pictures with a finished run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmlabel.cache import cache_folder
from mmlabel.checkpoint import Checkpoint, load_classifier
from mmlabel.classifier import Classifier
from mmlabel.data.annotations import Annotations
from mmlabel.data.batches import Batch
from mmlabel.data.captions import encode_texts
from mmlabel.data.feature_store import detector_scores
from mmlabel.data.sources.report_csv import read_unlabelled
from mmlabel.data.transforms import load_picture
from mmlabel.errors import UserError
from mmlabel.run_folder import write_predictions
from mmlabel.terminal import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mmlabel.predict", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="best.ckpt of a run")
    parser.add_argument("csv", type=Path, help="ImageID,Caption; a Labels column is not read")
    parser.add_argument("--pictures", type=Path, help="their folder (default: data beside the CSV)")
    parser.add_argument("--out", type=Path, default=Path("predictions.csv"))
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args(arguments)
    try:
        predict(options)
    except UserError as error:
        print(f"mmlabel: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def predict(options: argparse.Namespace) -> None:
    """Write ImageID, Labels (those answered, by number) and prob_N of every row to `options.out`.

    Raises UserError for a checkpoint, a CSV or a picture that cannot be read.
    """
    classifier, checkpoint = load_classifier(options.checkpoint)
    rows = read_unlabelled(
        options.csv,
        pictures=options.pictures,
        label_names=classifier.label_names,
        require_pictures="image" in checkpoint.settings.inputs,
        require_captions="caption" in checkpoint.settings.inputs,
    )
    probabilities = probabilities_of(classifier, checkpoint, rows, batch_size=options.batch_size)
    answers = probabilities >= torch.tensor(classifier.threshold)
    write_predictions(
        options.out,
        ids=rows.ids,
        probabilities=probabilities,
        targets=None,
        label_names=classifier.label_names,
        answers=answers,
    )
    print(f"{len(rows):,} rows in {options.out}")


def probabilities_of(
    classifier: Classifier, checkpoint: Checkpoint, rows: Annotations, *, batch_size: int
) -> torch.Tensor:
    """Probabilities (N, num_labels) of captioned pictures."""
    settings = checkpoint.settings
    inputs = settings.inputs
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = classifier.to(device)
    captions = encode_texts(
        rows.captions,
        checkpoint.vocabulary,
        max_length=settings.captions.max_length if settings.captions else None,
    )
    for note in captions.notes if "caption" in inputs else ():
        print(printable(note), file=sys.stderr)
    scores = None
    if settings.detector is not None:
        from mmlabel.models.detectors import load_detector

        detector = load_detector(
            **settings.detector.model_dump(), label_names=classifier.label_names
        )
        cache = cache_folder(settings.cache_dir)
        scores = detector_scores(rows.pictures, detector, cache_dir=cache).array

    def image(chosen: range) -> torch.Tensor | None:
        if scores is not None:
            return torch.from_numpy(scores[chosen.start : chosen.stop]).to(device)
        if "image" not in inputs:
            return None
        size = settings.data.image_size
        pictures = [
            load_picture(
                rows.pictures[row], size=size, flipped=False, upright=settings.data.upright
            )
            for row in chosen
        ]
        return torch.from_numpy(np.stack(pictures)).to(device)  # (B, 3, S, S)

    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            chosen = range(start, min(start + batch_size, len(rows)))
            part = np.arange(chosen.start, chosen.stop)
            batch = Batch(
                image=image(chosen),
                tokens=torch.from_numpy(captions.pad(part)).to(device),
                lengths=torch.from_numpy(captions.lengths[part]),
                targets=torch.zeros(len(chosen), len(classifier.label_names), device=device),
                rows=torch.arange(chosen.start, chosen.stop, device=device),
                ids=rows.ids[chosen.start : chosen.stop],
            )
            found.append(classifier(batch).float().sigmoid().cpu())
            if sys.stderr.isatty():
                print(f"\r{chosen.stop:,} of {len(rows):,} rows", end="", file=sys.stderr)
    return torch.cat(found)


if __name__ == "__main__":
    sys.exit(main())
