"""What a study shows: the content of its tables and of its page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mmlabel.run_folder import RunRecord

if TYPE_CHECKING:
    from mmlabel.data.annotations import Annotations

SEEDS = 3  # fewer say next to nothing about the spread between seeds


class Score(NamedTuple):
    """A metric over a variant's runs: mean, deviation over seeds (None for one), 95 % interval.

    The interval's ends are NaN where no label of the test rows is known, and where every resample
    of these has the same score.
    """

    mean: float
    std: float | None
    low: float
    high: float


@dataclass(frozen=True)
class VariantSummary:
    """One line of a study's table.

    Attributes:
        name: as in the study's file; `StudyReport.baseline` refers to it.
        label: for people.
        runs: its finished runs, one per seed; empty when all failed.
        scores: metric (such as "test/f1_micro") -> `Score` or a tuple like it.
        published: the figure published for it, in the study's metric.
        verdict: "better", "worse", "no difference shown"; "" for the baseline.
        explanation: the verdict as a sentence; shown where there is room for it.
        difference: from the baseline, in the study's metric.
        difference_interval: its 95 % interval.
        p_value: of the difference, corrected for several comparisons.
        parameters, megabytes, seconds: cost of one run; seconds are of the median one. None if none
            finished.
        extra: further columns of the table, such as {"loss at the start": 0.69}.
    """

    name: str
    label: str
    runs: list[RunRecord]
    scores: Mapping[str, tuple[float, float | None, float, float]]
    published: float | None = None
    verdict: str = ""
    explanation: str = ""
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p_value: float | None = None
    parameters: float | None = None
    megabytes: float | None = None
    seconds: float | None = None
    extra: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyReport:
    """A whole study.

    Attributes:
        title, question: of the study's file.
        baseline: name of the variant with which the others are compared.
        variants: in the order of the table.
        metric: the study's metric, "test/f1_micro" for instance.
        published_label: heads the column of published figures.
        command: the equivalent `python train.py -m ...`.
        method: how intervals and p values were computed, with the source.
        notes: things the reader must know.
        failed: (overrides, error) of each run that failed.
        annotations: for the gallery's captions and pictures; without them it is left out.
    """

    title: str
    question: str
    baseline: str
    variants: list[VariantSummary]
    metric: str
    published_label: str
    command: str
    method: str = ""
    notes: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    annotations: "Annotations | None" = None

    @property
    def has_published(self) -> bool:
        """Whether any figure was published for these variants and these data."""
        return any(variant.published is not None for variant in self.variants)

    @property
    def runs_of(self) -> list[tuple[str, list[RunRecord]]]:
        """Each variant's label and finished runs."""
        return [(variant.label, variant.runs) for variant in self.variants]

    @property
    def warnings(self) -> list[str]:
        """What makes the study's answers doubtful, as sentences."""
        trained = [v.runs for v in self.variants if any(r.results.get("epochs") for r in v.runs)]
        fewest = min(map(len, trained), default=SEEDS)
        if fewest >= SEEDS:
            return []
        seeds = "one seed" if fewest == 1 else f"{fewest} seeds"
        return [
            f"Fewer than {SEEDS} seeds: a variant here has {seeds}, which tells little or nothing "
            f"of how much runs of the same variant differ. Take {SEEDS} or more (seeds={SEEDS} of "
            "sweep.py, -m seed=0,1,2 of train.py) before you believe a difference."
        ]


def verdicts(report: StudyReport) -> list[str]:
    """A sentence for each variant but the baseline."""
    return [
        f"{variant.label}: {variant.explanation or 'no run finished'}"
        for variant in report.variants
        if variant.name != report.baseline
    ]
