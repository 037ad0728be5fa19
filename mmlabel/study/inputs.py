"""Whether the runs of a table have read the same things, by the digests in their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlabel.run_folder import RunRecord
from mmlabel.settings import flatten

# What a digest depends on besides the thing that was read: other digests, and options.
_ROWS = ("data", "splits")
_DECIDED_BY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pictures": (_ROWS, ()),
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
    "words": "words (WordNet's lemmas of the captions)",
    "vectors": "word vectors",
    "ready-made vectors": "word vectors",
    "backbone": "weights of the backbone",
    "text transformer": "weights of the text transformer",
    "detector": "weights of the detector",
}


def read_otherwise(runs: Sequence[RunRecord]) -> list[str]:
    """What runs have read differently though they were told to read the same, a sentence each.

    Pictures that were replaced between two runs, for instance, or word vectors of another folder.
    """
    seen: dict[tuple[str, str], tuple[str, Path]] = {}
    sentences: dict[str, str] = {}
    for run in runs:
        for name, digest in (run.results.get("inputs") or {}).items():
            if name not in _DECIDED_BY:
                continue
            key = name, _told(run.results, *_DECIDED_BY[name])
            first, folder = seen.setdefault(key, (digest, run.folder))
            if first != digest:
                sentences.setdefault(
                    _NAMES[name],
                    f"Not all runs have read the same {_NAMES[name]}: {folder} and {run.folder}"
                    " differ in them, and scores may differ because of that. Delete the folder of"
                    " each run that has read the wrong ones, and run it again.",
                )
    return list(sentences.values())


def _told(results: Mapping[str, Any], digests: tuple[str, ...], options: tuple[str, ...]) -> str:
    inputs, settings = results["inputs"], flatten(results["settings"])
    chosen = {
        name: value
        for name, value in settings.items()
        if name not in _NO_PART and any(f"{name}.".startswith(f"{one}.") for one in options)
    }
    return repr([[inputs.get(name) for name in digests], sorted(chosen.items())])
