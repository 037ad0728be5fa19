"""What a study's runs show: scores with intervals, and each variant against the baseline."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median

import numpy as np

from mmlabel.data.annotations import Annotations
from mmlabel.evidence import (
    METRICS,
    Comparison,
    bootstrap_interval,
    compare,
    explain,
    holm,
    summarise,
    verdict,
)
from mmlabel.report import Score, StudyReport, VariantSummary
from mmlabel.run_folder import RunRecord, failure, finished, read_run
from mmlabel.study.columns import COLUMNS
from mmlabel.study.definition import Study, Variant
from mmlabel.study.inputs import read_otherwise
from mmlabel.study.made_by import made_otherwise
from mmlabel.study.plan import Job
from mmlabel.wording import listed

METHOD = (
    "Intervals of scores: bias-corrected and accelerated bootstrap over the test rows (Efron & "
    "Tibshirani 1993), of these trained models; none where every resample has the same score. "
    "Differences: paired on the same test rows and seeds; their variance adds that of a paired "
    "bootstrap over rows (Koehn 2004) and that between seeds (Bouthillier et al. 2021), held "
    "against Student's t with the degrees of freedom of Welch (1947) and Satterthwaite (1946). p "
    "values are corrected for the number of variants (Holm 1979), and so is the smallest "
    "difference that could have been seen; intervals of differences are not. Seconds are the "
    "median run's, as the first one may have had features to compute."
)

NOT_COMPARED = "not compared: the baseline has no finished run on the same test rows and seeds"
TOO_FEW_ROWS = "not compared: fewer than two test rows have a label that is known"


def study_report(
    study: Study,
    jobs: Sequence[Job],
    *,
    command: str,
    annotations: Annotations | None,
    resamples: int = 10_000,
) -> StudyReport:
    """What the finished runs among `jobs` show; the others are listed as failed.

    Args:
        study: whose runs they are.
        jobs: see `plan`.
        command: that makes the same runs.
        annotations: for the page's gallery.
        resamples: how many resamples of the test rows.

    Raises:
        UserError: a finished run cannot be read.
    """
    runs: dict[str, dict[int, RunRecord]] = {variant.name: {} for variant in study.variants}
    failed = []
    for job in jobs:
        if finished(job.folder):
            runs[job.variant.name][job.seed] = read_run(job.folder)
        else:
            failed.append((" ".join(job.overrides), failure(job.folder)))
    other_rows = _leave_out_other_rows(runs)
    study = _beside_their_data(study, runs)
    notes = [
        *other_rows,
        *study.notes,
        *read_otherwise([one for own in runs.values() for one in own.values()]),
        *made_otherwise([(one.label, list(runs[one.name].values())) for one in study.variants]),
    ]
    compared = comparisons(study, runs, resamples=resamples)
    notes += _some_seeds_alone(study, runs, compared)
    adjusted = dict(zip(compared, holm([c.p_value for c in compared.values()]), strict=True))
    if not runs[study.baseline]:
        notes.append("No run of the baseline has finished, so nothing is compared.")
    variants = []
    for variant in study.variants:
        summary = _summary(study, variant, list(runs[variant.name].values()), resamples)
        if variant.name in compared:
            comparison, p_value = compared[variant.name], adjusted[variant.name]
            summary = replace(
                summary,
                verdict=verdict(comparison, p_value),
                explanation=explain(comparison, p_value if len(compared) > 1 else None),
                difference=comparison.difference,
                difference_interval=comparison.interval,
                p_value=p_value,
            )
        elif summary.runs and variant.name != study.baseline:
            why = NOT_COMPARED if _can_be_compared(summary.runs[0]) else TOO_FEW_ROWS
            summary = replace(summary, verdict="not compared", explanation=why)
        variants.append(summary)
    return StudyReport(
        title=study.title,
        question=study.question,
        baseline=study.baseline,
        variants=variants,
        metric=study.metric,
        published_label=study.published_label,
        command=command,
        method=METHOD,
        notes=notes,
        failed=failed,
        annotations=annotations,
    )


def _beside_their_data(study: Study, runs: Mapping[str, Mapping[int, RunRecord]]) -> Study:
    """The study without what was published for other data than the runs have read."""
    found = [
        run.results["settings"]["data"] for by_seed in runs.values() for run in by_seed.values()
    ]
    others = {data["name"] for data in found} - {study.published_on}
    if study.published_on is None or not others:
        return study
    note = (
        f"Published figures are of data={study.published_on} and not shown beside "
        f"data={', '.join(sorted(others))}."
    )
    variants = [replace(one, published=None, published_columns={}) for one in study.variants]
    return replace(study, variants=variants, notes=[*study.notes, note])


def comparisons(
    study: Study, runs: Mapping[str, Mapping[int, RunRecord]], *, resamples: int = 10_000
) -> dict[str, Comparison]:
    """Each variant against the baseline on the seeds that both have, where test rows agree.

    Args:
        study: whose runs they are.
        runs: variant -> seed -> run.
        resamples: how many resamples of the test rows.
    """
    found: dict[str, list[tuple[RunRecord, RunRecord]]] = {}
    for variant in study.variants:
        ours, base = runs[variant.name], runs[study.baseline]
        seeds = sorted(ours.keys() & base.keys())
        if variant.name == study.baseline or not seeds or not _can_be_compared(base[seeds[0]]):
            continue
        pairs = [(base[seed], ours[seed]) for seed in seeds]
        if any(base[seeds[0]].other_rows(run) for pair in pairs for run in pair):
            continue
        found[variant.name] = pairs
    return {
        name: compare(
            baseline=np.stack([run.answers for run, _ in pairs]),
            variant=np.stack([run.answers for _, run in pairs]),
            targets=pairs[0][0].predictions.targets,
            metric=study.metric.removeprefix("test/"),
            resamples=resamples,
            comparisons=len(found),
        )
        for name, pairs in found.items()
    }


def _some_seeds_alone(
    study: Study, runs: Mapping[str, Mapping[int, RunRecord]], compared: Mapping[str, Comparison]
) -> list[str]:
    """Which variants have seeds that the baseline does not have, or the other way round."""
    said = []
    for variant in study.variants:
        # As the runs have them: those of a comparison may be paired in the order given.
        ours, base = (
            {run.results["settings"]["seed"] for run in runs[name].values()}
            for name in (variant.name, study.baseline)
        )
        both = sorted(ours & base)
        if variant.name in compared and both and ours != base:
            seeds = f"seed{'s' if len(both) > 1 else ''} {listed([str(seed) for seed in both])}"
            said.append(f"{variant.label}: compared on {seeds} alone, which the baseline has, too.")
    return said


def _leave_out_other_rows(runs: Mapping[str, dict[int, RunRecord]]) -> list[str]:
    """Take out each variant's runs that were not tested on the rows of its first; says which."""
    said = []
    for name, own in runs.items():
        for seed in list(own)[1:]:
            first = next(iter(own.values()))
            if first.other_rows(own[seed]):
                said.append(
                    f"{name}, seed {seed}, was not tested on the rows of {first.folder}:"
                    " it counts in nothing."
                )
                del own[seed]
    return said


def _can_be_compared(run: RunRecord) -> bool:
    return len(run.predictions.ids) > 1


def _summary(
    study: Study, variant: Variant, runs: list[RunRecord], resamples: int
) -> VariantSummary:
    """A variant's line without the comparison."""
    scores = {}
    if runs:
        order = dict.fromkeys([study.metric.removeprefix("test/"), *METRICS])
        scores = {f"test/{metric}": _score(runs, metric, resamples) for metric in order}

    def typical(figure: Callable[[RunRecord], float | None]) -> float | None:
        values = [value for run in runs if (value := figure(run)) is not None]
        return median(values) if values else None

    extra = {}
    for column in study.columns:
        heading, figure = COLUMNS[column]
        values = [value for run in runs if (value := figure(run)) is not None]
        extra[heading] = fmean(values) if values else None
        if any(column in other.published_columns for other in study.variants):
            extra[f"{heading} ({study.published_label})"] = variant.published_columns.get(column)
    if any("seconds" in other.published_columns for other in study.variants):
        extra[f"Seconds ({study.published_label})"] = variant.published_columns.get("seconds")
    return VariantSummary(
        name=variant.name,
        label=variant.label,
        runs=runs,
        scores=scores,
        published=variant.published,
        parameters=typical(lambda run: run.results["parameters"]),
        megabytes=typical(lambda run: run.results["megabytes"]),
        seconds=typical(lambda run: run.results["seconds"]["total"]),
        extra=extra,
    )


def _score(runs: list[RunRecord], metric: str, resamples: int) -> Score:
    mean, deviation = summarise([run.results["scores"][f"test/{metric}"] for run in runs])
    if not len(runs[0].predictions.ids):  # no label is known: there is nothing to resample
        return Score(mean, deviation, math.nan, math.nan)
    low, high = bootstrap_interval(
        runs[0].predictions.targets,
        np.stack([run.answers for run in runs]),
        metric=metric,
        resamples=resamples,
    )
    return Score(mean, deviation, low, high)
