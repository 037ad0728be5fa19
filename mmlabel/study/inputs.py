"""Whether the runs of a table have read the same things, by the digests in their records."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlabel.run_folder import RunResults
from mmlabel.settings import flatten, is_among

_ROWS = ("data", "splits")
_OF_WORDS = ("captions", "embedding", "caption", "ckpt_path", "train")
# What tells which weights a backbone is to have; how they are used is no part of it.
_OF_BACKBONE = tuple(
    f"backbone.{name}" for name in ("name", "model_name", "weights", "beside", "beside_weights")
)
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
    "teacher": ("teachers", (), ("distil",)),
}
# The source of a part's weights, in words: where a run goes on without what it was to have
# (data.on_missing=continue), its digest is another one's, or there is none.
_SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "embedding": ("word vectors", ("embedding", "caption")),
    "backbone": ("weights of the backbone", _OF_BACKBONE),
}
_NO_PART = ("embedding.frozen", "embedding.dropout")
_UNUSED = "not used"


def differing_inputs(results: Mapping[Path, Mapping[str, Any]]) -> dict[str, tuple[Path, Path]]:
    """What runs have read differently though they were told to read the same.

    Pictures that were replaced between two runs, for instance, or word vectors of another folder,
    or learned ones as there were no others.

    Args:
        results: what each run's results.json holds, by the run's folder.

    Returns the first two folders that differ, by the name of what they differ in.
    """
    seen: dict[tuple[str, str], tuple[str, Path]] = {}
    found: dict[str, tuple[Path, Path]] = {}
    for folder, recorded in results.items():
        for said, told, read in (*_digests(recorded), *_sources(recorded)):
            first, other = seen.setdefault((said, told), (read, folder))
            if first != read:
                found.setdefault(said, (other, folder))
    return found


def _digests(recorded: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of each thing that a run has read how it is said, what tells which it should be, and its
    digest; of an evaluated network also what the run that trained it had read."""
    yield from _told_digests(recorded, recorded.get("inputs") or {})
    settings = recorded["settings"]
    if settings.get("train", True):
        return
    # Of the run that made the evaluated network, whose place is another one for each.
    trained = settings | {"train": True, "ckpt_path": None}
    before = {**recorded, "settings": trained}
    for said, told, digest in _told_digests(before, recorded.get("began_with") or {}):
        yield said, f"before: {told}", digest


def _told_digests(
    recorded: Mapping[str, Any], inputs: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    for name in (name for name in inputs if name in _INPUTS):
        said, digests, options = _INPUTS[name]
        others: list[object] = [inputs.get(other) for other in digests]
        if name == "backbone":
            others.append(_seed_of_backbone(recorded))
        yield said, repr([name, others, _told(recorded, options)]), inputs[name]


def _sources(recorded: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """As `_digests`, of where the weights of a run's parts come from."""
    for part, source in (recorded.get("pretrained") or {}).items():
        if part in _SOURCES and source != _UNUSED:
            said, options = _SOURCES[part]
            yield said, repr([part, "source", _told(recorded, options)]), str(source)


def _seed_of_backbone(recorded: Mapping[str, Any]) -> int | None:
    """The seed that weights are drawn from: of random ones that are trained, see `BackboneSource`.

    It is taken to be one where it is not known whether they are random.
    """
    settings = recorded["settings"]
    if (settings.get("backbone") or {}).get("frozen"):
        return -1
    sources = str((recorded.get("pretrained") or {}).get("backbone", "none")).split("; ")
    drawn = any(source.startswith("none") for source in sources)
    return settings.get("seed") if drawn else None


def read_otherwise(runs: Sequence[RunResults]) -> list[str]:
    """What a table of runs says of their `differing_inputs`, a sentence each."""
    differing = differing_inputs({run.folder: run.results for run in runs})
    return [
        f"Not all runs have read the same {name}: {one} and {other} differ in them, and scores may"
        " differ because of that. Delete the folder of each run that has read the wrong ones, and"
        " run it again."
        for name, (one, other) in differing.items()
    ]


def _told(recorded: Mapping[str, Any], options: tuple[str, ...]) -> list[tuple[str, Any]]:
    """The options of a run that say what is read; None is as in records without the option."""
    settings = flatten(recorded["settings"])
    idle = {
        *_NO_PART,
        *(["backbone.beside_weights"] if not settings.get("backbone.beside") else []),
    }
    return sorted(
        (name, value)
        for name, value in settings.items()
        if is_among(name, options) and name not in idle and value is not None
    )
