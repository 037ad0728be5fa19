"""The page of one run."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from mmlabel.report.charts import Series, line_chart
from mmlabel.report.gallery import RUN_PICTURES, gallery, label_names
from mmlabel.report.pages import Section, notes_of, render, row_counts, write_page
from mmlabel.report.tables import fixed, grouped
from mmlabel.run_folder import RunRecord, read_run
from mmlabel.score_table import SCORES
from mmlabel.study.evidence import METRICS, bootstrap_interval

if TYPE_CHECKING:
    from mmlabel.data.annotations import Annotations


def write_run_report(run_folder: Path, annotations: "Annotations | None") -> Path:
    """Write report.html into the folder of a finished run and return its path.

    Args:
        run_folder: see `read_run`.
        annotations: rows that include the test split, for captions and pictures; with None the
            page has no gallery.

    Raises:
        UserError: as `read_run`.
    """
    run = read_run(run_folder)
    results = run.results
    title = results.get("variant") or " ".join(results.get("overrides") or []) or "Default settings"
    names = label_names([run], annotations)
    sections = [
        Section("scores", "Scores", _scores(run)),
        Section("curves", "Learning curves", _curves(run)),
        Section("labels", "Label by label", _labels(run)),
        Section("threshold", "Threshold and calibration", _thresholds(run)),
        *gallery([(title, [run])], annotations, names, RUN_PICTURES),
        Section("settings", "Settings", _settings(run)),
    ]
    study = results.get("study")
    header = render(
        "header.html",
        kind=f"One run of the study {study}" if study else "One run",
        title=title,
        css="run",
        facts=_facts(run),
        question="",
        failed="",
        notes=notes_of([run]),
    )
    path = Path(run_folder) / "report.html"
    return write_page(path, title=title, header=header, sections=sections)


def _facts(run: RunRecord) -> list[str]:
    threshold, seconds = run.results["threshold"], run.results.get("seconds", {}).get("total")
    facts = row_counts(run)
    facts.append(
        "a threshold per label" if isinstance(threshold, list) else f"threshold {threshold:g}"
    )
    return facts if seconds is None else [*facts, f"{seconds:.1f} seconds in all"]


def _scores(run: RunRecord) -> Markup:
    scores = run.results["scores"]
    targets, answers = run.predictions.targets, run.answers[None]
    lines = []
    for metric in dict.fromkeys(key.split("/", 1)[1] for key in scores if "/" in key):
        interval = ""
        if metric in METRICS and len(targets):
            # 1,000 draws fix the ends to about 0.001 and keep a sweep's pages cheap.
            low, high = bootstrap_interval(targets, answers, metric=metric, resamples=1000)
            interval = f"{low:.4f} to {high:.4f}"
        lines.append(
            {
                "metric": metric,
                "tile": fixed(scores.get(f"test/{metric}"), 3),
                "val": fixed(scores.get(f"val/{metric}"), 4),
                "test": fixed(scores.get(f"test/{metric}"), 4),
                "interval": interval,
            }
        )
    return render("run/scores.html", lines=lines)


def mean_curve(label: str, style: int, runs: Sequence[RunRecord], metric: str) -> Series:
    """The metric by epoch, averaged over runs, with their range as a band if there are several."""
    points: dict[float, list[float]] = {}
    for run in runs:
        for epoch in run.history:
            if math.isfinite(epoch.get(metric, math.nan)):
                points.setdefault(epoch["epoch"], []).append(epoch[metric])
    xs = sorted(points)
    band = [min(points[x]) for x in xs], [max(points[x]) for x in xs]
    return Series(label, xs, [fmean(points[x]) for x in xs], style, band if len(runs) > 1 else None)


def chart_row(*charts: Markup, words: str = "", key: Sequence[tuple[Markup, str]] = ()) -> Markup:
    """Charts side by side below what is said of them all; nothing if there is none."""
    charts = tuple(chart for chart in charts if chart)
    return render("charts.html", charts=charts, words=words, key=key) if charts else Markup("")


def _curves(run: RunRecord) -> Markup:
    best = run.results.get("best_epoch")

    def chart(id: str, heading: str, y_label: str, lines: Mapping[str, str]) -> Markup:
        return line_chart(
            id=id,
            heading=heading,
            note="" if best is None else "Dotted: the epoch that was kept.",
            series=[
                mean_curve(label, style, [run], metric)
                for style, (metric, label) in enumerate(lines.items())
            ],
            x_label="epoch",
            y_label=y_label,
            reference=best,
        )

    scores = {f"val/{name}": row.title for name, row in SCORES.items() if name != "loss"}
    return chart_row(
        chart("curve-loss", "Loss", "loss", {"train/loss": "training", "val/loss": "validation"}),
        chart("curve-scores", "Validation scores", "score", scores),
    )


def _labels(run: RunRecord) -> Markup:
    labels = run.results["labels"]
    return render(
        "run/labels.html", labels=sorted(labels.items(), key=lambda item: -item[1]["support"])
    )


def _thresholds(run: RunRecord) -> Markup:
    targets, probs = run.predictions.targets, run.predictions.probs
    if not targets.any():
        return Markup("")
    thresholds = np.linspace(0.02, 0.98, 49)
    hits = np.array([(targets & (probs >= t)).sum() for t in thresholds])
    answered = np.array([(probs >= t).sum() for t in thresholds])
    precision, recall = hits / np.maximum(answered, 1), hits / targets.sum()
    f1 = 2 * hits / (answered + targets.sum())
    some = answered > 0
    threshold = run.results["threshold"]
    one = None if isinstance(threshold, list) else threshold
    used = "" if one is None else f" Dotted: the threshold used, {one:g}."
    curves = line_chart(
        id="threshold-curve",
        heading="Precision and recall by threshold",
        note=f"Micro-averaged on the test rows.{used} F1 is highest at "
        f"{thresholds[f1.argmax()]:.2f}. To choose a threshold, use the validation rows.",
        series=[
            Series("F1", thresholds.tolist(), f1.tolist(), 0),
            Series("precision", thresholds[some].tolist(), precision[some].tolist(), 1),
            Series("recall", thresholds.tolist(), recall.tolist(), 2),
        ],
        x_label="threshold",
        y_label="share",
        reference=one,
    )
    return chart_row(curves, _calibration(targets, probs))


def _calibration(targets: np.ndarray, probs: np.ndarray) -> Markup:
    """Reliability diagram over all decisions (DeGroot & Fienberg, 1983)."""
    bins = np.minimum((probs * 10).astype(int), 9).ravel()
    counts = np.bincount(bins, minlength=10)
    kept = counts >= 10
    said = np.bincount(bins, probs.ravel(), 10)[kept] / counts[kept]
    true = np.bincount(bins, targets.ravel(), 10)[kept] / counts[kept]
    return line_chart(
        id="calibration",
        heading="Calibration",
        note="How often a label is there when the model gives it that probability; on the diagonal "
        "the probabilities mean what they say. Tenths with fewer than 10 decisions are left out.",
        series=[
            Series("observed", said.tolist(), true.tolist(), 0),
            Series("perfect", (0.0, 1.0), (0.0, 1.0), 14),
        ],
        x_label="probability given",
        y_label="share that is true",
    )


def _settings(run: RunRecord) -> Markup:
    results = run.results
    facts = {
        "parameters": grouped(fixed(results.get("parameters"), 0)),
        "megabytes": fixed(results.get("megabytes"), 1),
        "epochs": str(results.get("epochs", "")),
        "best epoch": str(results.get("best_epoch", "")),
        **{f"seconds, {name}": f"{s:.1f}" for name, s in results.get("seconds", {}).items()},
        **{f"weights, {part}": str(v) for part, v in results.get("pretrained", {}).items()},
        **{f"version, {name}": str(v) for name, v in results.get("versions", {}).items()},
        "data fingerprint": str(results.get("data_fingerprint", "")),
    }
    return render(
        "run/settings.html",
        command=" ".join(["python train.py", *(results.get("overrides") or [])]),
        facts=facts,
        settings=flat(results.get("settings", {})),
    )


def flat(settings: Mapping, prefix: str = "") -> dict[str, str]:
    """{"lstm": {"layers": 1}} -> {"lstm.layers": "1"}."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found
