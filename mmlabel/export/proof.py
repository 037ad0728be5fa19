"""That an exported model answers as the checkpoint does, on made-up rows and on real ones."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mmlabel.cache import cache_folder
from mmlabel.checkpoint import hashes
from mmlabel.data.annotations import Annotations
from mmlabel.data.pictures import BadPicture
from mmlabel.errors import UserError
from mmlabel.evidence import scores
from mmlabel.export.runner import made_up_picture
from mmlabel.predictor import Predictor, join
from mmlabel.wording import count

_SIZES = ((320, 240), (213, 320), (64, 64), (301, 299))
_CAPTIONS = (
    "A dog runs on the grass",
    "",
    "two men's buses, and geese: they cannot stop!",
    "a word-that nobody knows",
)


@dataclass(frozen=True)
class Proof:
    """How two models' answers to the same rows compare.

    Attributes:
        rows: how many.
        difference: the largest of their probabilities.
        before, after: micro-F1 of the checkpoint and of the export.
        changed: labels that are answered otherwise, of all rows.
    """

    rows: int
    difference: float
    before: float
    after: float
    changed: int

    @property
    def lost(self) -> float:
        """Points of micro-F1 that the export has less."""
        return 100 * (self.before - self.after)

    def __str__(self) -> str:
        return (
            f"on {count(self.rows, 'real row')} probabilities differ by {self.difference:.1g} at"
            f" most, {count(self.changed, 'label is', 'labels are')} answered otherwise; micro-F1"
            f" {self.before:.4f} -> {self.after:.4f}"
        )


def write_made_up_rows(path: Path, predictor: Predictor) -> None:
    """Write check.json: rows that anybody can make up again, and the checkpoint's answers."""
    seen = None
    if predictor.looks_at_pictures:
        seen = join([predictor.look(made_up_picture(*size)) for size in _SIZES])
    captions = [text if predictor.looks_at_captions else "" for text in _CAPTIONS]
    probabilities = predictor.probabilities(seen, captions)
    rows = [
        {"size": size, "caption": caption, "probabilities": [float(f"{p:.9g}") for p in row]}
        for size, caption, row in zip(_SIZES, captions, probabilities, strict=True)
    ]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def load_runner(folder: Path) -> ModuleType:
    """The runner in an exported folder, as its users get it."""
    spec = importlib.util.spec_from_file_location("mmlabel_exported_run", folder / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(predictor: Predictor, split: str, *, rows: int) -> Annotations:
    """The first `rows` of a split of the checkpoint's own data.

    Raises UserError where they are not to be had.
    """
    data = predictor.settings.data
    cache_dir = cache_folder(predictor.settings.cache_dir)
    annotations = data.read(
        cache_dir=cache_dir,
        require_pictures=predictor.looks_at_pictures,
        require_captions=predictor.looks_at_captions,
    )
    numbers = [n for n in predictor.label_numbers if n < annotations.num_labels]
    if [annotations.label_names[n] for n in numbers] != predictor.label_names:
        raise UserError("the data have other labels than the checkpoint by now")
    chosen = annotations.take(data.divide(annotations, cache_dir=cache_dir)[split][:rows])
    if predictor.looks_at_pictures:
        kept = [n for n, path in enumerate(chosen.pictures) if _is_readable(predictor, path)]
        chosen = chosen.take(kept)
    if predictor.rows is not None:
        own = predictor.rows[split].ids.numpy() if split in predictor.rows else []
        if not np.isin(hashes(chosen.ids), own).all():
            raise UserError(f"the {split} rows are not those of the checkpoint's run by now")
    if not len(chosen):
        raise UserError(f"the {split} split has no rows")
    return chosen


def _is_readable(predictor: Predictor, picture: Path) -> bool:
    """False for a picture whose row training left out, too."""
    try:
        predictor.look(picture)
    except BadPicture as error:
        if predictor.settings.data.on_bad_image == "skip":
            return False
        raise UserError(f"{picture} is not a readable picture ({error.reason})") from error
    return True


def prove(folder: Path, predictor: Predictor, chosen: Annotations) -> Proof:
    """Compare on rows of the checkpoint's own data, as `rows_of` gives them."""
    exported: Any = load_runner(folder).Model(folder)
    ours, theirs = [], []
    for at in range(0, len(chosen), 64):
        pictures, captions = chosen.pictures[at : at + 64], chosen.captions[at : at + 64]
        seen = None
        if predictor.looks_at_pictures:
            seen = join([predictor.look(picture) for picture in pictures])
        ours.append(predictor.probabilities(seen, captions))
        theirs.append(exported.probabilities(pictures, captions))
    before, after = np.concatenate(ours), np.concatenate(theirs)
    known = np.ones(before.shape, dtype=bool)
    if chosen.known is not None:
        known = chosen.known[:, predictor.label_numbers]
    targets = chosen.targets[:, predictor.label_numbers].astype(bool) & known
    answers = np.stack([before, after]) >= predictor.thresholds
    first, second = scores(targets, answers & known, "f1_micro")
    return Proof(
        rows=len(chosen),
        difference=float(np.abs(before - after).max()),
        before=float(first),
        after=float(second),
        changed=int((answers[0] != answers[1]).sum()),
    )
