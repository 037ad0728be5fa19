"""Whether the runs of a table were made by the same code with the same libraries."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmlabel.report import Variants, which_runs

# Of what a record names, the code itself, which its commit tells, and what no score depends on.
_APART = ("mmlabel", "python", "hydra-core", "omegaconf", "wandb")
_MOST = 5  # in one sentence


def made_otherwise(variants: Variants) -> list[str]:
    """What a table says of runs of several commits, or under several versions of libraries; and of
    seeds of one variant that looked at pictures in several precisions.

    Two runs with uncommitted changes on one commit ("+changes") pass for the same code. A library
    that a record does not name says nothing: earlier versions named fewer, and an extra need not
    be there.
    """
    results = {run.folder: run.results for _, runs in variants for run in runs}
    said = []
    code = {folder: _code(recorded) for folder, recorded in results.items()}
    if len(set(code.values())) > 1:
        said.append(f"Runs of several versions of the code: {_parts(variants, code)}.")
    libraries = _differing_libraries(results)
    if len(set(libraries.values())) > 1:
        said.append(f"Runs with several versions of libraries: {_parts(variants, libraries)}.")
    precisions = _precisions(results)
    seeds = [
        {precisions[run.folder] for run in runs if run.folder in precisions} for _, runs in variants
    ]
    if any(len(found) > 1 for found in seeds):
        said.append(f"Runs with features in several precisions: {_parts(variants, precisions)}.")
    return said


def _code(recorded: Mapping[str, Any]) -> str:
    """The commit, in short, or the version of an installed package, whose commit is not known."""
    if commit := recorded.get("commit"):
        return "commit " + re.sub(r"\b([0-9a-f]{12})[0-9a-f]+", r"\1", commit)
    version = (recorded.get("versions") or {}).get("mmlabel")
    return f"mmlabel {version or 'of a version that is not known'} outside git"


def _differing_libraries(results: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """The libraries of which runs had several versions, in words; without runs that name none."""
    versions = {folder: recorded.get("versions") or {} for folder, recorded in results.items()}
    names = dict.fromkeys(name for own in versions.values() for name in own if name not in _APART)
    differing = [
        name for name in names if len({own[name] for own in versions.values() if name in own}) > 1
    ]
    told = {
        folder: ", ".join(f"{name} {own[name]}" for name in differing if name in own)
        for folder, own in versions.items()
    }
    return {folder: words for folder, words in told.items() if words}


def _precisions(results: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """Of stored features, which features.precision=auto leaves to each run's processor."""
    stored = {folder: recorded.get("features") or {} for folder, recorded in results.items()}
    return {folder: str(key["precision"]) for folder, key in stored.items() if "precision" in key}


def _parts(variants: Variants, made: Mapping[Path, str]) -> str:
    """Several things, each with the runs of which it holds: "A (seeds 0, 1); B (seed 2)"."""
    found = [f"{how} ({_which(variants, made, how)})" for how in dict.fromkeys(made.values())]
    more = f"; and {len(found) - _MOST:,} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + more


def _which(variants: Variants, made: Mapping[Path, str], how: str) -> str:
    return which_runs(variants, lambda run: made.get(run.folder) == how)
