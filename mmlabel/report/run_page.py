"""The page of one run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from mmlabel.evidence import METRICS, RESAMPLES_OF_A_RUN, bootstrap_interval
from mmlabel.report.charts import line_chart, mean_curve
from mmlabel.report.gallery import RUN_PICTURES, gallery, label_names
from mmlabel.report.label_sections import confusions, label_curves, label_table, thresholds
from mmlabel.report.pages import (
    Section,
    about,
    before_the_threshold,
    chart_row,
    flat,
    notes_of,
    render,
    row_counts,
    write_page,
)
from mmlabel.report.tables import fixed, grouped
from mmlabel.run_folder import RunRecord, read_run
from mmlabel.score_table import SCORES, too_few

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
    title = _title(run)
    known = len(run.predictions.ids)
    warning = too_few(known, results.get("rows", {}).get("test", known))
    names = label_names([run], annotations)
    sections = [
        Section("scores", "Scores", _scores(run)),
        Section("curves", "Learning curves", _curves(run)),
        Section("labels", "Label by label", label_table(run)),
        Section("precision-recall", "Precision and recall of each label", label_curves(run, names)),
        Section("confusions", "Which label is answered for which", confusions(run, names)),
        Section("threshold", "Threshold and calibration", thresholds(run)),
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
        about=about([run]),
        command=run.command,
        warnings=[f"{warning}."] if warning else [],
        notes=notes_of([run]),
    )
    path = Path(run_folder) / "report.html"
    return write_page(path, title=title, header=header, sections=sections)


def _title(run: RunRecord) -> str:
    """What tells the run from others at a glance; the header's command says all of it."""
    results, settings = run.results, run.results.get("settings", {})
    if own := results.get("variant") or settings.get("name"):
        return str(own)
    model = settings.get("model", {}).get("name")
    return f"{model} on {settings['data']['name']}" if model else "One run"


def _facts(run: RunRecord) -> list[str]:
    threshold, seconds = run.results["threshold"], run.results.get("seconds", {}).get("total")
    facts = row_counts([run])
    facts.append(
        "a threshold per label" if isinstance(threshold, list) else f"threshold {threshold:g}"
    )
    return facts if seconds is None else [*facts, f"{seconds:.1f} seconds in all"]


def _scores(run: RunRecord) -> Markup:
    scores = run.results["scores"]
    targets, answers = run.predictions.targets, run.answers[None]
    lines = []
    known = [key.split("/", 1)[1] for key in scores if "/" in key]
    # What counts comes first.
    for metric in sorted(dict.fromkeys(known), key=lambda metric: metric == "loss"):
        interval = ""
        if metric in METRICS and len(targets):
            low, high = bootstrap_interval(
                targets, answers, metric=metric, resamples=RESAMPLES_OF_A_RUN
            )
            interval = " to ".join(filter(None, (fixed(low, 4), fixed(high, 4))))
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


def _curves(run: RunRecord) -> Markup:
    best = run.results.get("best_epoch")
    kept = "" if best is None else "Dotted: the epoch that was kept."

    def chart(
        id: str, heading: str, y_label: str, lines: Mapping[str, str], *, note: str = kept
    ) -> Markup:
        return line_chart(
            id=id,
            heading=heading,
            note=note,
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
        chart(
            "curve-scores",
            "Validation scores",
            "score",
            scores,
            note=" ".join(filter(None, [kept, before_the_threshold([run])])),
        ),
    )


def _settings(run: RunRecord) -> Markup:
    results = run.results
    facts = {
        "parameters": grouped(fixed(results.get("parameters"), 0)),
        "megabytes": fixed(results.get("megabytes"), 1),
        "epochs": str(results.get("epochs", "")),
        "best epoch": fixed(results.get("best_epoch"), 0),
        **{f"seconds, {name}": f"{s:.1f}" for name, s in results.get("seconds", {}).items()},
        **{f"weights, {part}": str(v) for part, v in results.get("pretrained", {}).items()},
        **{f"version, {name}": str(v) for name, v in results.get("versions", {}).items()},
        "data fingerprint": str(results.get("data_fingerprint", "")),
    }
    return render(
        "run/settings.html",
        facts=facts,
        settings=flat(results.get("settings", {})),
    )
