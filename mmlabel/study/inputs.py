"""Whether the runs of a table have read the same things, by the digests in their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlabel.run_folder import RunRecord
from mmlabel.settings import flatten, is_among

_ROWS = ("data", "splits")
_OF_WORDS = ("captions", "embedding", "caption", "ckpt_path", "train")
_OF_BACKBONE = ("backbone", "data.on_missing", "ckpt_path", "seed")
# What runs read: how a table says it, and what its digest depends on besides, other digests and
# options.
_INPUTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "pictures": ("pictures", _ROWS, ()),
    "label order": ("order of the labels", ("data",), ("decoder",)),
    "words": ("words (WordNet's lemmas of the captions)", _ROWS, _OF_WORDS),
    # Words without a vector get one that is drawn from the seed.
    "vectors": ("word vectors", ("words",), ("embedding", "seed")),
    "ready-made vectors": ("word vectors", ("words",), ("embedding",)),
    "backbone": ("weights of the backbone", (), _OF_BACKBONE),
    "text transformer": ("weights of the text transformer", (), ("embedding", "caption")),
    "detector": ("weights of the detector", (), ("detector",)),
}
_NO_PART = ("backbone.lr_scale", "embedding.frozen", "embedding.dropout")


def differing_inputs(results: Mapping[Path, Mapping[str, Any]]) -> dict[str, tuple[Path, Path]]:
    """What runs have read differently though they were told to read the same.

    Pictures that were replaced between two runs, for instance, or word vectors of another folder.

    Args:
        results: what each run's results.json holds, by the run's folder.

    Returns the first two folders that differ, by the name of what they differ in.
    """
    seen: dict[tuple[str, str], tuple[str, Path]] = {}
    found: dict[str, tuple[Path, Path]] = {}
    for folder, recorded in results.items():
        for name, digest in (recorded.get("inputs") or {}).items():
            if name not in _INPUTS:
                continue
            said, digests, options = _INPUTS[name]
            key = name, _told(recorded, digests, options)
            first, other = seen.setdefault(key, (digest, folder))
            if first != digest:
                found.setdefault(said, (other, folder))
    return found


def read_otherwise(runs: Sequence[RunRecord]) -> list[str]:
    """What a table of runs says of their `differing_inputs`, a sentence each."""
    differing = differing_inputs({run.folder: run.results for run in runs})
    return [
        f"Not all runs have read the same {name}: {one} and {other} differ in them, and scores may"
        " differ because of that. Delete the folder of each run that has read the wrong ones, and"
        " run it again."
        for name, (one, other) in differing.items()
    ]


def _told(results: Mapping[str, Any], digests: tuple[str, ...], options: tuple[str, ...]) -> str:
    inputs, settings = results["inputs"], flatten(results["settings"])
    chosen = {
        name: value
        for name, value in settings.items()
        if name not in _NO_PART and is_among(name, options)
    }
    return repr([[inputs.get(name) for name in digests], sorted(chosen.items())])
