"""The scores of a run, one row each: what `metrics.score` gives, and the loss.

A new one is a row here and its figure in `metrics.score`: it can then be monitored
(`monitor=val/NAME`) and stands in tables and on pages. A study's own figures, with intervals and
tests, are in `study/evidence.py`. Nothing here imports torch, so that options are checked at once.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreRow:
    """How a score is called in tables and on pages, and which way is better."""

    title: str
    lower_is_better: bool = False


SCORES = {
    "f1_micro": ScoreRow("micro-F1"),
    "f1_samples": ScoreRow("F1 per sample"),
    "f1_macro": ScoreRow("macro-F1"),
    "map": ScoreRow("mAP"),
    "loss": ScoreRow("loss", lower_is_better=True),
}
MONITORED = tuple(f"val/{name}" for name in SCORES)
