"""The page of a study, and the page that leads to several studies."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from markupsafe import Markup

from mmlabel.report.charts import Dot, dot_chart, line_chart, mean_curve, scatter_chart
from mmlabel.report.gallery import STUDY_PICTURES, gallery, label_names
from mmlabel.report.pages import (
    Section,
    about,
    before_the_threshold,
    chart_row,
    flat,
    render,
    row_counts,
    write_page,
)
from mmlabel.report.run_notes import run_notes
from mmlabel.report.study_report import StudyReport, VariantSummary, verdicts
from mmlabel.report.svg import key_mark
from mmlabel.report.tables import (
    extra_columns,
    metric_name,
    result_rows,
    sentence_case,
    study_metrics,
)
from mmlabel.run_folder import RunRecord
from mmlabel.wording import count


def write_study_report(folder: Path, study: StudyReport) -> Path:
    """Write the study's report.html into `folder` and return its path."""
    runs = [run for variant in study.variants for run in variant.runs]
    variants = study.runs_of
    names = label_names(runs, study.annotations)
    failed = render("study/failed.html", failed=study.failed) if study.failed else Markup("")
    sections = [
        Section("answer", "The answer", _answer(study)),
        Section("table", "Results", _results(study)),
        Section("scores", "Scores with intervals", _scores(study)),
        Section("curves", "Learning curves", _curves(study)),
        Section("labels", "F1 of each label", _labels(study)),
        Section("cost", "Cost against score", _costs(study)),
        *gallery(variants, study.annotations, names, STUDY_PICTURES),
        Section("failed", "Failed runs", failed),
        Section("repeat", "Doing it again", _repeat(study, runs)),
    ]
    header = render(
        "header.html",
        kind="Study",
        title=study.title,
        css="study",
        facts=_facts(runs),
        about=about(runs),
        warnings=study.warnings,
        question=study.question,
        failed=_failed(study),
        notes=list(dict.fromkeys([*study.notes, *run_notes(study.runs_of)])),
    )
    return write_page(
        Path(folder) / "report.html", title=study.title, header=header, sections=sections
    )


def write_index(
    folder: Path, *, title: str, question: str, reports: Mapping[str, StudyReport]
) -> Path:
    """Write index.html, which leads to the studies' pages beside `folder`, and return its path.

    Args:
        folder: where the page goes.
        title, question: of the collection.
        reports: the name of each study, which is that of its folder beside `folder` -> what it
            shows.
    """
    sections = [
        Section(
            f"study-{place}",
            report.title,
            render(
                "index.html",
                name=name,
                report=report,
                verdicts=verdicts(report),
                failed=_failed(report),
            ),
        )
        for place, (name, report) in enumerate(reports.items())
    ]
    header = render("header.html", kind="Studies", title=title, css="study", question=question)
    return write_page(Path(folder) / "index.html", title=title, header=header, sections=sections)


def _failed(study: StudyReport) -> str:
    return count(len(study.failed), "run") if study.failed else ""


def _facts(runs: list[RunRecord]) -> list[str]:
    if not runs:
        return ["No run has finished."]
    return [*([count(len(runs), "run")] if len(runs) > 1 else []), *row_counts(runs)]


def _answer(study: StudyReport) -> Markup:
    labels = {variant.name: variant.label for variant in study.variants}
    return render(
        "study/answer.html",
        study=study,
        baseline=labels.get(study.baseline, study.baseline),
        items=[_verdict(study, variant) for variant in study.variants],
    )


def _verdict(study: StudyReport, variant: VariantSummary) -> dict[str, str]:
    score = variant.scores.get(study.metric)
    if not variant.runs:
        css, sign, words = "open", "✗", "no run finished"
    elif variant.name == study.baseline:
        css, sign, words = "baseline", "●", variant.explanation or "the baseline"
    else:
        word = variant.verdict.split(" ")[0].rstrip(":,;")
        css = word if word in ("better", "worse") else "open"
        sign = {"better": "▲", "worse": "▼", "open": "≈"}[css]
        words = variant.explanation or variant.verdict
    reached = f": {score[0]:.3f}" if score else ""
    published = f" (published {variant.published:.3f})" if variant.published is not None else ""
    heading = variant.label + reached + published
    return {"css": css, "sign": sign, "words": words, "heading": heading}


def _results(study: StudyReport) -> Markup:
    return render(
        "study/results.html",
        study=study,
        lines=list(zip(study.variants, result_rows(study), strict=True)),
        metrics=study_metrics(study),
        extra=extra_columns(study),
    )


def _dots(study: StudyReport, metric: str) -> list[tuple[VariantSummary, Dot]]:
    """The variants that have a score in this metric, with what a chart shows of it."""
    dots = []
    for style, variant in enumerate(study.variants):
        mean, _, low, high = variant.scores.get(metric, (math.nan,) * 4)
        if math.isfinite(mean):
            if not math.isfinite(low + high):  # no interval
                low = high = mean
            runs = [run.results["scores"].get(metric, math.nan) for run in variant.runs]
            published = variant.published if metric == study.metric else None
            runs = [score for score in runs if math.isfinite(score)]
            dots.append((variant, Dot(variant.label, style, mean, low, high, runs, published)))
    return dots


def _scores(study: StudyReport) -> Markup:
    charts = [_differences(study)]
    for place, metric in enumerate(study_metrics(study)):
        dots = _dots(study, metric)
        baseline = (dot.value for variant, dot in dots if variant.name == study.baseline)
        charts.append(
            dot_chart(
                id=f"score-{place}",
                heading=sentence_case(metric_name(metric)),
                note="",
                rows=[dot for _, dot in dots],
                axis=f"{metric_name(metric)} on the test rows",
                reference=next(baseline, None),
            )
        )
    cross = "a cross is the published figure; " if study.has_published else ""
    return chart_row(
        *charts,
        words="The large mark is the mean over runs and the bar its 95 % interval; a short tick "
        f"below the bar is one run; {cross}the dotted line is the baseline.",
    )


def _differences(study: StudyReport) -> Markup:
    rows = [
        Dot(variant.label, style, variant.difference, *variant.difference_interval)
        for style, variant in enumerate(study.variants)
        if variant.difference is not None and variant.difference_interval is not None
    ]
    return dot_chart(
        id="difference",
        heading="Difference from the baseline",
        note="The dotted line is no difference. Each bar is the 95 % interval of that comparison "
        "alone; the verdicts allow for there being several.",
        rows=rows,
        axis=f"difference in {metric_name(study.metric)}",
        reference=0.0,
        show=lambda value: f"{round(value, 3) + 0.0:+.3f}",
    )


def _curves(study: StudyReport) -> Markup:
    last = study.metric.rsplit("/", 1)[-1]
    charts = []
    for place, metric in enumerate(dict.fromkeys([f"val/{last}", "val/loss", "train/loss"])):
        split = "Validation" if metric.startswith("val/") else "Training"
        charts.append(
            line_chart(
                id=f"curve-{place}",
                heading=f"{split} {metric_name(metric)}",
                note="",
                series=[
                    mean_curve(variant.label, style, variant.runs, metric)
                    for style, variant in enumerate(study.variants)
                ],
                x_label="epoch",
                y_label=metric_name(metric),
            )
        )
    several = any(len(variant.runs) > 1 for variant in study.variants)
    said = ["Means over runs, with the range of the runs shaded." if several else "One run each."]
    said.append(before_the_threshold([run for variant in study.variants for run in variant.runs]))
    return chart_row(
        *charts,
        words=" ".join(filter(None, said)),
        key=[(key_mark(style), variant.label) for style, variant in enumerate(study.variants)],
    )


def _labels(study: StudyReport) -> Markup:
    """F1 of each label under each variant; none without scores by label."""
    known: dict[str, dict] = {}
    supports: dict[str, set[int]] = {}  # variants may have been tested on other rows
    means: dict[str, list[str | None]] = {}
    for place, variant in enumerate(study.variants):
        for number, label in variant.runs[0].results["labels"].items() if variant.runs else ():
            f1 = fmean(run.results["labels"][number]["f1"] for run in variant.runs)
            known.setdefault(number, label)
            supports.setdefault(number, set()).add(label["support"])
            means.setdefault(number, [None] * len(study.variants))[place] = f"{f1:.3f}"
    if not known:
        return Markup("")
    lines = [
        {
            "name": known[number]["name"] or number,
            "support": " to ".join(f"{n:,}" for n in sorted({min(own), max(own)})),
            "means": means[number],
            "best": max(f1 for f1 in means[number] if f1 is not None),
        }
        for number in sorted(known, key=lambda n: -known[n]["support"])
        for own in [supports[number]]
    ]
    return render(
        "study/labels.html", lines=lines, variants=[variant.label for variant in study.variants]
    )


def _costs(study: StudyReport) -> Markup:
    charts = []
    costs = {
        "parameters": "parameters (millions)",
        "megabytes": "MB",
        "seconds": "seconds of a run",
    }
    for name, axis in costs.items():
        unit = 1e6 if name == "parameters" else 1
        dots = [
            dot._replace(x=cost / unit)
            for variant, dot in _dots(study, study.metric)
            if (cost := getattr(variant, name)) is not None
        ]
        if len(dots) > 1 and len({dot.x for dot in dots}) == 1:
            continue  # all cost the same: nothing to be seen
        charts.append(
            scatter_chart(
                id=f"cost-{name}",
                heading=sentence_case(f"{metric_name(study.metric)} against {axis.split(' (')[0]}"),
                dots=dots,
                x_label=axis,
                y_label=metric_name(study.metric),
            )
        )
    return chart_row(
        *charts,
        words="A variant that changes depth or width changes its size too: compare the two.",
    )


def _repeat(study: StudyReport, runs: list[RunRecord]) -> Markup:
    settings = {run.folder: _made_with(run) for run in runs}
    names = dict.fromkeys(name for one in settings.values() for name in one)
    fixed, varied = {}, []
    for name in names:
        values = {one.get(name, "") for one in settings.values()}
        if len(values) == 1:
            fixed[name] = values.pop()
        else:
            varied.append(name)

    def value(variant: VariantSummary, name: str) -> str:
        return ", ".join(dict.fromkeys(settings[run.folder].get(name, "") for run in variant.runs))

    return render(
        "study/repeat.html",
        study=study,
        varied=varied,
        lines=[(one, [value(one, name) for name in varied]) for one in study.variants],
        weights={
            f"{part}, {variant.label}": used
            for variant in study.variants
            for part, used in _weights(variant).items()
        },
        fixed=fixed,
    )


def _made_with(run: RunRecord) -> dict[str, str]:
    """The settings of a run and the versions that it ran with, by name."""
    versions = run.results.get("versions", {})
    return flat(run.results.get("settings", {})) | {
        f"version, {name}": str(value) for name, value in versions.items()
    }


def _weights(variant: VariantSummary) -> dict[str, str]:
    """The pretrained parts that a variant's runs used; several where these differ."""
    used: dict[str, dict[str, None]] = {}
    for run in variant.runs:
        for part, weights in run.results.get("pretrained", {}).items():
            used.setdefault(part, {})[str(weights)] = None
    return {part: "; ".join(several) for part, several in used.items()}
