"""The scores of a run, one row each: what `metrics.score` gives, and the loss.

A new one is a row here and its figure in `metrics.score`: it can then be monitored
(`monitor=val/NAME`) and stands in tables and on pages. A study's own figures, with intervals and
tests, are in `mmlabel.evidence`. Nothing here imports torch, so that options are checked at once.
"""

from dataclasses import dataclass

from mmlabel.wording import count


@dataclass(frozen=True)
class ScoreRow:
    """How a score is called in tables and on pages, and which way is better."""

    title: str
    lower_is_better: bool = False
    of_answers: bool = True  # of what is answered at a threshold, rather than of probabilities


SCORES = {
    "f1_micro": ScoreRow("micro-F1"),
    "f1_samples": ScoreRow("F1 per sample"),
    "f1_macro": ScoreRow("macro-F1"),
    "map": ScoreRow("mAP", of_answers=False),
    "loss": ScoreRow("loss", lower_is_better=True, of_answers=False),
}
MONITORED = tuple(f"val/{name}" for name in SCORES)

FEW_ROWS = 30


def too_few(known: int, rows: int) -> str | None:
    """What is to be said of scores on so few test rows; None if they are enough to say nothing.

    `known` are those of the `rows` of which a label is known.

    Where 24 of 30 answers are right, the 95 % interval of their share is 0.61 to 0.92
    (Clopper and Pearson, 1934).
    """
    if not 0 < known < FEW_ROWS:
        return None
    which = " with a known label" if known < rows else ""
    said = "scores of so few are mostly chance, see their intervals"
    return f"{count(known, 'test row')}{which}: {said}"
