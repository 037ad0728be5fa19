"""Whether the runs of a table have read the same things, by the digests in their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlabel.run_folder import RunRecord
from mmlabel.settings import flatten, is_among

# What a digest depends on besides the thing that was read: other digests, and options.
_ROWS = ("data", "splits")
_DECIDED_BY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pictures": (_ROWS, ()),
    "label order": (("data",), ("decoder",)),
    "words": (_ROWS, ("captions", "embedding", "caption", "ckpt_path", "train")),
    # Words without a vector get one that is drawn from the seed.
    "vectors": (("words",), ("embedding", "seed")),
    "ready-made vectors": (("words",), ("embedding",)),
    "backbone": ((), ("backbone", "data.on_missing", "ckpt_path", "seed")),
    "text transformer": ((), ("embedding", "caption")),
    "detector": ((), ("detector",)),
}
_NO_PART = ("backbone.lr_scale", "embedding.frozen", "embedding.dropout")
_NAMES = {
    "pictures": "pictures",
    "label order": "order of the labels",
    "words": "words (WordNet's lemmas of the captions)",
    "vectors": "word vectors",
    "ready-made vectors": "word vectors",
    "backbone": "weights of the backbone",
    "text transformer": "weights of the text transformer",
    "detector": "weights of the detector",
}


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
            if name not in _DECIDED_BY:
                continue
            key = name, _told(recorded, *_DECIDED_BY[name])
            first, other = seen.setdefault(key, (digest, folder))
            if first != digest:
                found.setdefault(_NAMES[name], (other, folder))
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
