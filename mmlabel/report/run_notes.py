"""What the runs of a table had to go without, and of which of them something holds, in words."""

from collections.abc import Callable, Sequence

from mmlabel.run_folder import RunResults
from mmlabel.wording import listed

Variants = Sequence[tuple[str, Sequence[RunResults]]]  # each one's label and finished runs


def run_notes(variants: Variants) -> list[str]:
    """What runs had to go without, each once, with the variants and seeds for which it holds."""
    notes = dict.fromkeys(
        note for _, runs in variants for run in runs for note in run.results.get("notes") or []
    )
    found = {
        note: which_runs(variants, lambda run, note=note: note in (run.results.get("notes") or []))
        for note in notes
    }
    return [f"{note} ({where})" if where else note for note, where in found.items()]


def which_runs(variants: Variants, holds: Callable[[RunResults], bool]) -> str:
    """The runs of which something holds: "A, B", "seed 0" of every variant, or "A, seed 0; B".

    Of all of them: "".
    """
    whole, parts, theirs, others = [], [], set(), set()
    for label, runs in variants:
        found = [run for run in runs if holds(run)]
        theirs |= _seeds(found)
        others |= _seeds([run for run in runs if run not in found])
        if found and len(found) == len(runs):
            whole.append(label)
            parts.append(label)
        elif found:
            parts.append(f"{label}, {_in_words(_seeds(found))}")
    if not others:
        return ""
    if parts == whole:
        return ", ".join(whole)
    return "; ".join(parts) if theirs & others else _in_words(theirs)


def _seeds(runs: Sequence[RunResults]) -> set[int]:
    return {run.results.get("settings", {}).get("seed", 0) for run in runs}


def _in_words(seeds: set[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in sorted(seeds)])}"
