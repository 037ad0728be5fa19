"""Results as people read them: results.csv, a Markdown table and one self-contained HTML page.

The page of a run and the page of a study share their parts. Charts are SVG written here: text
stays text, they follow the reader's light or dark setting, and a page costs a sweep no start-up
time. Everything that comes from data is escaped, and the page's own policy forbids it to load
anything, so captions of unknown origin are safe in it.
"""

import base64
import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from statistics import fmean
from string import Template
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmlabel.cache import atomic_write
from mmlabel.run_folder import Predictions, RunRecord, read_run
from mmlabel.study.evidence import METRICS, bootstrap_interval

if TYPE_CHECKING:
    from mmlabel.data.annotations import Annotations

METRIC_NAMES = {
    "f1_micro": "micro-F1",
    "f1_samples": "F1 per sample",
    "f1_macro": "macro-F1",
    "map": "mAP",
    "loss": "loss",
}
RUN_PICTURES = 24
STUDY_PICTURES = 60
# Characters of base64: with it and everything else a page stays below 3 MB.
PICTURE_BUDGET = 2_200_000


# ---------------------------------------------------------------------------------- what is shown


class Score(NamedTuple):
    """A metric over a variant's runs: mean, deviation over seeds (None for one), 95 % interval."""

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
    scores: dict[str, tuple[float, float | None, float, float]]
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


# --------------------------------------------------------------------- the table, in three formats


def result_rows(study: StudyReport) -> list[dict[str, str]]:
    """The study's table, one dict of texts per variant: what every format of it prints.

    Scores have four decimals; a figure that does not exist is "".
    """
    return [_result_row(study, variant) for variant in study.variants]


def _result_row(study: StudyReport, variant: VariantSummary) -> dict[str, str]:
    row = {"variant": variant.name, "label": variant.label, "runs": str(len(variant.runs))}
    for metric in _metrics(study):
        mean, std, low, high = variant.scores.get(metric, (None,) * 4)
        row |= {metric: _fixed(mean, 4), f"{metric}_std": _fixed(std, 4)}
        row |= {f"{metric}_low": _fixed(low, 4), f"{metric}_high": _fixed(high, 4)}
    low, high = variant.difference_interval or (None, None)
    row |= {
        "published": _fixed(variant.published, 3),
        "difference": _fixed(variant.difference, 4),
        "difference_low": _fixed(low, 4),
        "difference_high": _fixed(high, 4),
        "p_value": "" if variant.p_value is None else f"{variant.p_value:.2g}",
        "verdict": variant.verdict or ("baseline" if variant.name == study.baseline else ""),
        "parameters": _fixed(variant.parameters, 0),
        "megabytes": _fixed(variant.megabytes, 1),
        "seconds": _fixed(variant.seconds, 1),
    }
    for name in _extra(study):
        value = variant.extra.get(name)
        row[name] = "" if value is None else f"{value:.5g}"
    return row


def _metrics(study: StudyReport) -> list[str]:
    """Every metric that a variant has, the study's own first."""
    names = [study.metric, *(metric for variant in study.variants for metric in variant.scores)]
    return list(dict.fromkeys(names))


def _extra(study: StudyReport) -> list[str]:
    return list(dict.fromkeys(name for variant in study.variants for name in variant.extra))


def _fixed(value: float | None, decimals: int) -> str:
    if value is None or not math.isfinite(value):
        return ""
    # Adding 0 turns the "-0.0000" of a tiny negative number into "0.0000".
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def write_results_csv(path: Path, study: StudyReport, header_comment_lines: Iterable[str]) -> None:
    """Write `result_rows` as CSV below the given lines, each of which becomes a "# ..." line."""
    text = io.StringIO()
    for comment in header_comment_lines:
        for line in comment.splitlines() or [""]:
            text.write(f"# {line}".rstrip() + "\n")
    rows = result_rows(study)
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(Path(path), text.getvalue())


def markdown_table(study: StudyReport) -> str:
    """The study's table in Markdown, the published column beside ours."""
    metric = study.metric
    heads = ["Variant", f"{_name(metric)} (95 % interval)", study.published_label, "Difference"]
    heads += ["p", "Verdict", "Parameters", "MB", "Seconds", *_extra(study)]
    lines = [heads, ["---", *["---:"] * 4, "---", *["---:"] * (len(heads) - 6)]]
    for row in result_rows(study):
        ours = _spaced(row[metric], row[f"{metric}_std"], " ± ")
        ours += _between(row[f"{metric}_low"], row[f"{metric}_high"])
        difference = row["difference"] + _between(row["difference_low"], row["difference_high"])
        cells = [row["label"], ours, row["published"], difference, row["p_value"], row["verdict"]]
        cells += [_grouped(row["parameters"]), row["megabytes"], row["seconds"]]
        lines.append([cell or "–" for cell in [*cells, *(row[name] for name in _extra(study))]])
    return "".join(f"| {' | '.join(map(_markdown, line))} |\n" for line in lines)


def _markdown(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _spaced(first: str, second: str, between: str) -> str:
    return f"{first}{between}{second}" if second else first


def _between(low: str, high: str) -> str:
    return f" [{low}, {high}]" if low else ""


def _grouped(digits: str) -> str:
    return f"{int(digits):,}" if digits else ""


def _start(words: str) -> str:
    """The words as a heading starts them: "micro-F1" -> "Micro-F1", but "mAP" stays."""
    return words if words.startswith("mAP") else words[:1].upper() + words[1:]


def _name(metric: str) -> str:
    """ "test/f1_micro" -> "micro-F1"."""
    last = metric.rsplit("/", 1)[-1]
    return METRIC_NAMES.get(last, last)


# --------------------------------------------------------------------------------------- the pages


class Section(NamedTuple):
    id: str
    heading: str
    body: str


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
    overrides = " ".join(results.get("overrides") or [])
    title = results.get("variant") or overrides or "Default settings"
    names = _label_names([run], annotations)
    sections = [
        Section("scores", "Scores", _run_scores(run)),
        Section("curves", "Learning curves", _run_curves(run)),
        Section("labels", "Label by label", _label_table(run)),
        Section("threshold", "Threshold and calibration", _threshold_charts(run)),
        *_gallery([(title, [run])], annotations, names, RUN_PICTURES),
        Section("settings", "Settings", _run_settings(run)),
    ]
    study = results.get("study")
    header = _header(
        kind=f"One run of the study {study}" if study else "One run",
        title=title,
        facts=_facts([run], results.get("seconds", {}).get("total")),
        css="run",
    )
    path = Path(run_folder) / "report.html"
    _write(path, _page(title=title, header=header + _notes([run], []), sections=sections))
    return path


def write_study_report(folder: Path, study: StudyReport) -> Path:
    """Write the study's report.html into `folder` and return its path."""
    runs = [run for variant in study.variants for run in variant.runs]
    names = _label_names(runs, study.annotations)
    variants = [(variant.label, variant.runs) for variant in study.variants]
    sections = [
        Section("answer", "The answer", _verdicts(study)),
        Section("table", "Results", _result_table(study) + _score_table(study)),
        Section("scores", "Scores with intervals", _score_charts(study)),
        Section("curves", "Learning curves", _study_curves(study)),
        Section("labels", "F1 of each label", _label_heat(study)),
        Section("cost", "Cost against score", _cost_charts(study)),
        *_gallery(variants, study.annotations, names, STUDY_PICTURES),
        *([Section("failed", "Failed runs", _failed(study))] if study.failed else []),
        Section("repeat", "Doing it again", _repeat(study)),
    ]
    header = _header(kind="Study", title=study.title, facts=_facts(runs, None), css="study")
    header += f'<p class="question">{escape(study.question)}</p>'
    if study.failed:
        header += (
            f'<p class="warning"><strong>{_count(len(study.failed), "run")} failed.</strong> '
            'No figure below includes a failed run: <a href="#failed">which, and why</a>.</p>'
        )
    path = Path(folder) / "report.html"
    page = _page(title=study.title, header=header + _notes(runs, study.notes), sections=sections)
    _write(path, page)
    return path


def _page(*, title: str, header: str, sections: list[Section]) -> str:
    sections = [section for section in sections if section.body]
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    links = (f'<li><a href="#{id}">{heading}</a></li>' for id, heading, _ in sections)
    return Template(_asset("page.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        title=escape(title),
        style=_asset("page.css"),
        header=header,
        contents="\n".join(links),
        sections="\n".join(
            f'<section aria-labelledby="{id}"><h2 id="{id}">{heading}</h2>\n{body}\n</section>'
            for id, heading, body in sections
        ),
        footer="Written by mmlabel. The page is complete in itself and loads nothing.",
        script=script,
    )


@cache
def _asset(name: str) -> str:
    folder = resources.files("mmlabel") / "report_assets"
    return (folder / name).read_text(encoding="utf-8").strip()


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _header(*, kind: str, title: str, facts: str, css: str) -> str:
    return (
        f'<p class="kind">{escape(kind)}</p><h1 class="{css}">{escape(title)}</h1>'
        f'<p class="facts">{escape(facts)}</p>'
    )


def _facts(runs: list[RunRecord], seconds: float | None) -> str:
    if not runs:
        return "No run has finished."
    results = runs[0].results
    rows = results.get("rows", {})
    facts = [_count(len(runs), "run")] if len(runs) > 1 else []
    facts += [
        f"{count:,} rows to {verb}" for split, verb in ROLES.items() if (count := rows.get(split))
    ]
    facts += [_threshold_words(results["threshold"])] if len(runs) == 1 else []
    facts += [f"{seconds:.1f} seconds in all"] if seconds is not None else []
    return " · ".join(facts)


ROLES = {"train": "train on", "val": "select on", "test": "test on"}


def _notes(runs: list[RunRecord], notes: list[str]) -> str:
    found = dict.fromkeys(
        [*notes, *(note for run in runs for note in run.results.get("notes", []))]
    )
    return "".join(f'<p class="note"><strong>Note:</strong> {escape(note)}</p>' for note in found)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _label_names(runs: list[RunRecord], annotations: "Annotations | None") -> dict[int, str]:
    """Label number -> name, from whatever knows it."""
    names = {int(n): label["name"] for run in runs for n, label in run.results["labels"].items()}
    if annotations is not None:
        names |= {n: name for n, name in enumerate(annotations.label_names) if name}
    return names


# --------------------------------------------------------------------------------- parts in tables


def _table(*, id: str, caption: str, head: str, rows: Iterable[str]) -> str:
    """A table that scrolls within itself; `caption`, `head` and `rows` are HTML."""
    return (
        f'<div class="scroll" role="region" aria-labelledby="{id}-caption" tabindex="0">'
        f'<table id="{id}"><caption id="{id}-caption"><span>{caption}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heads(*names: str) -> str:
    return "".join(f'<th scope="col">{escape(name)}</th>' for name in names)


def _cell(text: str) -> str:
    return f"<td>{escape(text) or '–'}</td>"


def _figure(row: dict[str, str], column: str) -> str:
    """One figure of `result_rows`, marked with its column's name so that it can be checked."""
    text = _grouped(row[column]) if column == "parameters" else row[column]
    return f'<span data-column="{escape(column)}">{escape(text)}</span>' if text else "–"


def _score_cell(row: dict[str, str], metric: str) -> str:
    spread = f' <span class="spread">± {_figure(row, f"{metric}_std")}</span>'
    return (
        f"<td>{_figure(row, metric)}{spread if row[f'{metric}_std'] else ''}"
        f"{_interval(row, f'{metric}_low', f'{metric}_high')}</td>"
    )


def _interval(row: dict[str, str], low: str, high: str) -> str:
    if not row[low]:
        return ""
    return f'<span class="interval">[{_figure(row, low)}, {_figure(row, high)}]</span>'


def _row_start(study: StudyReport, variant: VariantSummary) -> str:
    css = ' class="baseline"' if variant.name == study.baseline else ""
    return (
        f'<tr{css} data-variant="{escape(variant.name)}">'
        f'<th scope="row"><span data-column="label">{escape(variant.label)}</span></th>'
    )


def _result_table(study: StudyReport) -> str:
    extra = _extra(study)
    head = _heads("Variant", f"{_name(study.metric)}, ours", study.published_label, "Difference")
    head += _heads("p") + '<th scope="col" class="words">Verdict</th>'
    head += _heads("Runs", "Parameters", "MB", "Seconds", *extra)
    lines = []
    for variant, row in zip(study.variants, result_rows(study), strict=True):
        difference = _interval(row, "difference_low", "difference_high")
        lines.append(
            f"{_row_start(study, variant)}{_score_cell(row, study.metric)}"
            f"<td>{_figure(row, 'published')}</td>"
            f"<td>{_figure(row, 'difference')}{difference}</td><td>{_figure(row, 'p_value')}</td>"
            f'<td class="words">{_figure(row, "verdict")}</td>'
            + "".join(
                f"<td>{_figure(row, column)}</td>"
                for column in ("runs", "parameters", "megabytes", "seconds", *extra)
            )
            + "</tr>"
        )
    caption = (
        f"{escape(_start(_name(study.metric)))} on the test rows: mean over runs ± standard "
        "deviation over seeds, 95 % interval in brackets. Difference and p value are against the "
        "baseline."
    )
    method = f'<p class="small">{escape(study.method)}</p>' if study.method else ""
    return _table(id="results", caption=caption, head=head, rows=lines) + method


def _score_table(study: StudyReport) -> str:
    metrics = _metrics(study)
    lines = (
        _row_start(study, variant)
        + "".join(_score_cell(row, metric) for metric in metrics)
        + "</tr>"
        for variant, row in zip(study.variants, result_rows(study), strict=True)
    )
    head = _heads("Variant", *(_name(metric) for metric in metrics))
    return _table(id="all-scores", caption="Every score, in the same form.", head=head, rows=lines)


def _verdicts(study: StudyReport) -> str:
    baseline = next((v.label for v in study.variants if v.name == study.baseline), study.baseline)
    items = [_verdict(study, variant) for variant in study.variants]
    return (
        f"<p>Each variant against the baseline, <strong>{escape(baseline)}</strong>, in "
        f'{escape(_name(study.metric))}.</p><ul class="verdicts">{"".join(items)}</ul>'
    )


def _verdict(study: StudyReport, variant: VariantSummary) -> str:
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
    return (
        f'<li class="{css}"><strong>{escape(variant.label)}{reached}{published}</strong>'
        f'<span><span class="sign" aria-hidden="true">{sign}</span> {escape(words)}</span></li>'
    )


def _label_heat(study: StudyReport) -> str:
    means: dict[int, dict[str, float]] = {}
    known: dict[int, dict] = {}
    for variant in study.variants:
        for number, label, f1 in _label_means(variant.runs):
            known[number] = label
            means.setdefault(number, {})[variant.name] = f1
    lines = []
    for number in sorted(known, key=lambda n: -known[n]["support"]):
        best = max(round(f1, 3) for f1 in means[number].values())
        cells = (_heat(means[number].get(variant.name), best) for variant in study.variants)
        name, support = known[number]["name"] or str(number), known[number]["support"]
        lines.append(
            f'<tr><th scope="row">{escape(name)}</th><td>{support:,}</td>{"".join(cells)}</tr>'
        )
    head = _heads("Label", "Test rows", *(variant.label for variant in study.variants))
    caption = (
        "Mean over runs, commonest label first; darker is higher and the best of a line is "
        "underlined. With few test rows a label's F1 is mostly chance."
    )
    return _table(id="label-f1", caption=caption, head=head, rows=lines) if lines else ""


def _label_means(runs: list[RunRecord]) -> Iterable[tuple[int, dict, float]]:
    for number, label in runs[0].results["labels"].items() if runs else ():
        yield int(number), label, fmean(run.results["labels"][number]["f1"] for run in runs)


def _heat(f1: float | None, best: float) -> str:
    if f1 is None:
        return "<td>–</td>"
    css = "heat best" if round(f1, 3) == best else "heat"
    return f'<td class="{css}" style="--v:{f1:.3f}">{f1:.3f}</td>'


def _failed(study: StudyReport) -> str:
    lines = (
        f'<tr><th scope="row">{escape(overrides)}</th><td class="any">{escape(error)}</td></tr>'
        for overrides, error in study.failed
    )
    head = _heads("Run") + '<th scope="col" class="words">Error</th>'
    caption = "Not in any figure on this page; starting the study again repeats only these."
    return _table(id="failures", caption=caption, head=head, rows=lines)


def _run_scores(run: RunRecord) -> str:
    scores = run.results["scores"]
    targets, answers = run.predictions.targets, run.answers[None]
    names = list(dict.fromkeys(key.split("/", 1)[1] for key in scores if "/" in key))
    tiles = [(_name(n), _fixed(scores.get(f"test/{n}"), 3) or "–") for n in names if n != "loss"]
    lines = []
    for name in names:
        interval = ""
        if name in METRICS and len(targets):
            # 1,000 draws fix the ends to about 0.001 and keep a sweep's pages cheap.
            low, high = bootstrap_interval(targets, answers, metric=name, resamples=1000)
            interval = f"{low:.4f} to {high:.4f}"
        cells = [_fixed(scores.get(f"{split}/{name}"), 4) for split in ("val", "test")]
        lines.append(
            f'<tr><th scope="row">{escape(_name(name))}</th>{_cell(cells[0])}'
            f'<td><span data-column="test/{escape(name)}">{cells[1] or "–"}</span></td>'
            f"{_cell(interval)}</tr>"
        )
    caption = "The checkpoint was chosen on the validation rows; the test rows were used once."
    head = _heads("Score", "Validation", "Test", "Test, 95 % interval")
    boxes = "".join(f"<div><dt>{escape(n)}</dt><dd>{value}</dd></div>" for n, value in tiles)
    return (
        f'<dl class="tiles">{boxes}</dl>'
        + _table(id="results", caption=caption, head=head, rows=lines)
        + '<p class="small">Intervals: bootstrap over test rows (BCa; Efron &amp; Tibshirani, '
        "1993), for this one trained model.</p>"
    )


def _label_table(run: RunRecord) -> str:
    lines = []
    labels = run.results["labels"]
    for number in sorted(labels, key=lambda n: -labels[n]["support"]):
        label = labels[number]
        bar = f'<i style="--v:{label["f1"]:.3f}" aria-hidden="true"></i>'
        lines.append(
            f'<tr><th scope="row">{escape(label["name"] or number)}</th>'
            f"<td>{label['support']:,}</td><td>{label['precision']:.3f}</td>"
            f'<td>{label["recall"]:.3f}</td><td class="bar">{label["f1"]:.3f}{bar}</td></tr>'
        )
    caption = "Labels that occur in the test rows, commonest first."
    head = _heads("Label", "Test rows", "Precision", "Recall", "F1")
    return _table(id="label-f1", caption=caption, head=head, rows=lines)


def _run_settings(run: RunRecord) -> str:
    results = run.results
    command = " ".join(["python train.py", *(results.get("overrides") or [])])
    facts = {
        "parameters": _grouped(_fixed(results.get("parameters"), 0)),
        "megabytes": _fixed(results.get("megabytes"), 1),
        "epochs": str(results.get("epochs", "")),
        "best epoch": str(results.get("best_epoch", "")),
        **{f"seconds, {name}": f"{s:.1f}" for name, s in results.get("seconds", {}).items()},
        **{f"weights, {part}": str(v) for part, v in results.get("pretrained", {}).items()},
        **{f"version, {name}": str(v) for name, v in results.get("versions", {}).items()},
        "data fingerprint": str(results.get("data_fingerprint", "")),
    }
    return (
        f'<pre tabindex="0"><code>{escape(command)}</code></pre>'
        + _pairs("facts", "Size, time and versions.", facts)
        + "<details><summary>Every setting</summary>"
        + _pairs("all-settings", "As the run resolved them.", _flat(results.get("settings", {})))
        + "</details>"
    )


def _pairs(id: str, caption: str, pairs: dict[str, str]) -> str:
    lines = (
        f'<tr><th scope="row">{escape(name)}</th><td class="any">{escape(value) or "–"}</td></tr>'
        for name, value in pairs.items()
    )
    head = _heads("Name") + '<th scope="col" class="words">Value</th>'
    return _table(id=id, caption=caption, head=head, rows=lines)


def _flat(settings: dict, prefix: str = "") -> dict[str, str]:
    """{"lstm": {"layers": 1}} -> {"lstm.layers": "1"}."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _repeat(study: StudyReport) -> str:
    runs = [run for variant in study.variants for run in variant.runs]
    flats = [_flat(run.results.get("settings", {})) for run in runs]
    names = dict.fromkeys(name for flat in flats for name in flat)
    fixed = {n: flats[0].get(n, "") for n in names if len({flat.get(n) for flat in flats}) == 1}
    varied = [name for name in names if name not in fixed]
    found = "This command makes the same runs, one after the other:"
    body = f'<p>{found}</p><pre tabindex="0"><code>{escape(study.command)}</code></pre>'
    if varied:
        lines = (
            _row_start(study, variant)
            + "".join(_cell(_distinct(variant.runs, name)) for name in varied)
            + "</tr>"
            for variant in study.variants
        )
        head, caption = _heads("Variant", *varied), "Settings in which the runs differ."
        body += _table(id="varied", caption=caption, head=head, rows=lines)
    used = {
        f"{part}, {variant.label}": str(value)
        for variant in study.variants
        for part, value in (
            variant.runs[0].results.get("pretrained", {}) if variant.runs else {}
        ).items()
    }
    if used:
        body += _pairs("weights", "Pretrained parts that were really used.", used)
    if fixed:
        versions = runs[0].results.get("versions", {})
        fixed |= {f"version, {name}": str(value) for name, value in versions.items()}
        body += "<details><summary>Settings held fixed, and versions</summary>"
        body += _pairs("fixed", "The same in every run.", fixed) + "</details>"
    return body


def _distinct(runs: list[RunRecord], setting: str) -> str:
    values = (_flat(run.results.get("settings", {})).get(setting, "") for run in runs)
    return ", ".join(dict.fromkeys(values))


# --------------------------------------------------------------------------------- parts in charts

WIDTH = 360  # of a chart, in its own units: about the pixels of a phone, so that text stays legible
DASHES = ("none", "8 4", "2 3", "10 3 2 3", "5 2", "12 5")
STYLES = 8


class Series(NamedTuple):
    """A line: its points, and a band around them where several runs were averaged."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: int
    band: tuple[Sequence[float], Sequence[float]] | None = None


class Dot(NamedTuple):
    """A row of a dot-and-whisker chart, or a point of a scatter chart with its `x`."""

    label: str
    style: int
    value: float
    low: float
    high: float
    runs: Sequence[float] = ()
    published: float | None = None
    x: float = 0.0


class Scale(NamedTuple):
    """A linear axis: values low..high lie at start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round numbers within the axis, at most `count` of them."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(k * step, 10) for k in range(first, last + 1)]


def _scale(values: Iterable[float], start: float, end: float, *, margin: float = 0.05) -> Scale:
    """An axis over the finite values, with some room on either side."""
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    room = (high - low) * margin or max(abs(low) * 0.05, 0.005)
    return Scale(low - room, high + room, start, end)


def _chart(*, id: str, heading: str, note: str, description: str, height: float, body: str) -> str:
    """A figure with its SVG, whose description carries the same figures in words."""
    below = f"<p>{escape(note)}</p>" if note else ""
    return (
        f"<figure><figcaption><h3>{escape(heading)}</h3></figcaption>"
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height:g}" '
        f'aria-labelledby="{id}-t" aria-describedby="{id}-d">'
        f'<title id="{id}-t">{escape(heading)}</title>'
        f'<desc id="{id}-d">{escape(description)}</desc>{body}</svg>{below}</figure>'
    )


def _text(x: float, y: float, text: str, *, css: str = "", anchor: str = "start") -> str:
    css = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{css} text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def _marker(style: int, x: float, y: float, size: float = 5.0) -> str:
    """The style's shape: eight that differ without colour."""
    css = f'class="s{style % STYLES}"'
    hollow = f'class="s{style % STYLES} hollow"'
    shape = style % STYLES
    if shape in (0, 4):
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" {css if shape == 0 else hollow}/>'
    if shape in (1, 5):
        corners = [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    elif shape in (2, 6):
        corners = [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)]
    else:
        corners = [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)]
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {css if shape < 4 else hollow}/>'


def _dash(style: int) -> str:
    return f'stroke-dasharray="{DASHES[style % len(DASHES)]}"'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart and, if there is room, in low..high."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    previous = low - gap
    for i in order:
        previous = places[i] = max(wanted[i], previous + gap)
    following = high + gap
    for i in reversed(order):
        following = places[i] = min(places[i], following - gap)
    return places


def _axes(x: Scale, y: Scale, x_label: str, y_label: str) -> str:
    left, right, top, bottom = x.start, x.end, y.end, y.start
    parts = []
    for tick in y.ticks(5):
        parts.append(_line(left, y(tick), right, y(tick), "grid"))
        parts.append(_text(left - 6, y(tick) + 4, f"{tick:g}", css="soft", anchor="end"))
    for tick in x.ticks(5):
        parts.append(_line(x(tick), bottom, x(tick), bottom + 4, "axis"))
        parts.append(_text(x(tick), bottom + 17, f"{tick:g}", css="soft", anchor="middle"))
    parts.append(_line(left, bottom, right, bottom, "axis"))
    parts.append(_text(0, top - 12, y_label, css="soft"))
    parts.append(_text(right, bottom + 33, x_label, css="soft", anchor="end"))
    return "".join(parts)


def _line_chart(
    *,
    id: str,
    heading: str,
    note: str,
    series: list[Series],
    x_label: str,
    y_label: str,
    reference: float | None = None,
) -> str:
    """Lines with their names at their ends; a vertical dotted line at `reference`."""
    series = [line for line in series if len(line.xs)]
    if not series:
        return ""
    longest = max(len(_short(line.label, 15)) for line in series)
    height = max(250.0, 15.0 * len(series) + 75)
    x = _scale((v for line in series for v in line.xs), 40, WIDTH - 14 - 6.6 * longest, margin=0.02)
    bands = (edge for line in series if line.band for edge in line.band)
    values = [v for ys in (*(line.ys for line in series), *bands) for v in ys]
    y = _scale(values, height - 38, 24)
    parts = [_axes(x, y, x_label, y_label)]
    if reference is not None:
        parts.append(_line(x(reference), y.start, x(reference), y.end, "reference"))
    ends = [y(line.ys[-1]) for line in series]
    places = _spread(ends, 14, y.end, y.start)
    for line, end, place in zip(series, ends, places, strict=True):
        parts.append(_curve(line, x, y))
        parts.append(_line(x(line.xs[-1]) + 5, end, x.end + 9, place, "leader"))
        parts.append(_text(x.end + 11, place + 4, _short(line.label, 15)))
    words = "; ".join(
        f"{line.label}: {line.ys[0]:.3f} at {line.xs[0]:g}, {line.ys[-1]:.3f} at {line.xs[-1]:g}, "
        f"lowest {min(line.ys):.3f}, highest {max(line.ys):.3f}"
        for line in series
    )
    description = f"{y_label} by {x_label}. {words}."
    return _chart(
        id=id,
        heading=heading,
        note=note,
        description=description,
        height=height,
        body="".join(parts),
    )


def _curve(line: Series, x: Scale, y: Scale) -> str:
    css = f"s{line.style % STYLES}"
    points = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.xs, line.ys, strict=True)]
    parts = []
    if line.band:
        there = zip(line.xs, line.band[0], strict=True)
        back = zip(reversed(line.xs), reversed(line.band[1]), strict=True)
        edge = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in (*there, *back))
        parts.append(f'<polygon points="{edge}" class="{css} band"/>')
    name = f"<title>{escape(line.label)}</title>"
    parts.append(
        f'<polyline points="{" ".join(points)}" class="{css} curve" {_dash(line.style)}>'
        f"{name}</polyline>"
    )
    step = max(1, round(len(points) / 5))
    for place in sorted({*range(0, len(points), step), len(points) - 1}):
        parts.append(_marker(line.style, x(line.xs[place]), y(line.ys[place]), 3.4))
    return "".join(parts)


def _dot_chart(
    *,
    id: str,
    heading: str,
    note: str,
    rows: list[Dot],
    axis: str,
    reference: float | None,
    show: Callable[[float], str] = "{:.3f}".format,
) -> str:
    """A line per variant: its name and figure above, mean and interval below."""
    if not rows:
        return ""
    height = 44.0 * len(rows) + 44
    values = [v for row in rows for v in (row.low, row.high, *row.runs)]
    values += [row.published for row in rows if row.published is not None]
    x = _scale([*values, *([] if reference is None else [reference])], 8, WIDTH - 8)
    bottom = height - 36
    parts = []
    for tick in x.ticks(5):
        parts.append(_line(x(tick), 4, x(tick), bottom, "grid"))
        parts.append(_text(x(tick), bottom + 15, f"{tick:g}", css="soft", anchor="middle"))
    if reference is not None:
        parts.append(_line(x(reference), 0, x(reference), bottom, "reference"))
    parts.append(_line(x.start, bottom, x.end, bottom, "axis"))
    parts.append(_text(x.end, bottom + 31, axis, css="soft", anchor="end"))
    parts += [_dot(row, 44.0 * place, x, show) for place, row in enumerate(rows)]
    words = "; ".join(
        f"{row.label}: {show(row.value)}, interval {show(row.low)} to {show(row.high)}"
        + (f", published {show(row.published)}" if row.published is not None else "")
        for row in rows
    )
    return _chart(
        id=id,
        heading=heading,
        note=note,
        description=f"{axis}. {words}.",
        height=height,
        body="".join(parts),
    )


def _dot(row: Dot, top: float, x: Scale, show: Callable[[float], str]) -> str:
    middle = top + 31
    css = f"s{row.style % STYLES} whisker"
    parts = [
        _text(8, top + 16, _short(row.label, 40)),
        _text(WIDTH - 8, top + 16, show(row.value), css="strong", anchor="end"),
        _line(x(row.low), middle, x(row.high), middle, css),
        _line(x(row.low), middle - 5, x(row.low), middle + 5, css),
        _line(x(row.high), middle - 5, x(row.high), middle + 5, css),
    ]
    parts += [_line(x(v), middle + 7, x(v), middle + 12, "run") for v in row.runs]
    parts.append(_marker(row.style, x(row.value), middle, 5.5))
    parts.append(_published(row, x, middle))
    return "".join(parts)


def _published(row: Dot, x: Scale, middle: float) -> str:
    """A cross, which is no variant's shape."""
    if row.published is None:
        return ""
    left, right = x(row.published) - 6, x(row.published) + 6
    return _line(left, middle - 6, right, middle + 6, "published") + _line(
        left, middle + 6, right, middle - 6, "published"
    )


def _scatter_chart(*, id: str, heading: str, dots: list[Dot], x_label: str, y_label: str) -> str:
    """Points with whiskers and their names beside them."""
    if not dots:
        return ""
    height = max(270.0, 15.0 * len(dots) + 80)
    longest = max(len(_short(dot.label, 17)) for dot in dots)
    x = _scale([dot.x for dot in dots], 44, WIDTH - 20 - 6.6 * longest, margin=0.06)
    y = _scale([v for dot in dots for v in (dot.low, dot.high)], height - 38, 24)
    parts = [_axes(x, y, x_label, y_label)]
    places = _spread([y(dot.value) for dot in dots], 14, y.end + 4, y.start)
    for dot, place in zip(dots, places, strict=True):
        css = f"s{dot.style % STYLES} whisker"
        parts.append(_line(x(dot.x) + 8, y(dot.value), x.end + 12, place, "leader"))
        parts.append(_line(x(dot.x), y(dot.low), x(dot.x), y(dot.high), css))
        parts.append(_marker(dot.style, x(dot.x), y(dot.value)))
        parts.append(_text(x.end + 14, place + 4, _short(dot.label, 17)))
    words = "; ".join(f"{dot.label}: {dot.x:.4g} and {dot.value:.3f}" for dot in dots)
    return _chart(
        id=id,
        heading=heading,
        note="",
        description=f"{x_label} and {y_label}. {words}.",
        height=height,
        body="".join(parts),
    )


def _charts(*charts: str) -> str:
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def _dots(study: StudyReport, metric: str) -> list[tuple[VariantSummary, Dot]]:
    """The variants that have a score in this metric, with what a chart shows of it."""
    dots = []
    for style, variant in enumerate(study.variants):
        mean, _, low, high = variant.scores.get(metric, (math.nan,) * 4)
        if math.isfinite(mean + low + high):
            runs = [run.results["scores"].get(metric, math.nan) for run in variant.runs]
            published = variant.published if metric == study.metric else None
            runs = [score for score in runs if math.isfinite(score)]
            dots.append((variant, Dot(variant.label, style, mean, low, high, runs, published)))
    return dots


def _score_charts(study: StudyReport) -> str:
    charts = [_difference_chart(study)]
    for place, metric in enumerate(_metrics(study)):
        dots = _dots(study, metric)
        baseline = (dot.value for variant, dot in dots if variant.name == study.baseline)
        charts.append(
            _dot_chart(
                id=f"score-{place}",
                heading=_start(_name(metric)),
                note="",
                rows=[dot for _, dot in dots],
                axis=f"{_name(metric)} on the test rows",
                reference=next(baseline, None),
            )
        )
    key = (
        '<p class="small">The large mark is the mean over runs and the bar its 95 % interval; a '
        "short tick below the bar is one run; a cross is the published figure; the "
        "dotted line is the baseline.</p>"
    )
    return key + _charts(*charts) if any(charts) else ""


def _difference_chart(study: StudyReport) -> str:
    rows = [
        Dot(variant.label, style, variant.difference, *variant.difference_interval)
        for style, variant in enumerate(study.variants)
        if variant.difference is not None and variant.difference_interval is not None
    ]
    return _dot_chart(
        id="difference",
        heading="Difference from the baseline",
        note="The dotted line is no difference. Each bar is the 95 % interval of that comparison "
        "alone; the verdicts allow for there being several.",
        rows=rows,
        axis=f"difference in {_name(study.metric)}",
        reference=0.0,
        show="{:+.3f}".format,
    )


def _study_curves(study: StudyReport) -> str:
    last = study.metric.rsplit("/", 1)[-1]
    charts = []
    for place, metric in enumerate(dict.fromkeys([f"val/{last}", "val/loss", "train/loss"])):
        series = [
            _mean_curve(variant.label, style, variant.runs, metric)
            for style, variant in enumerate(study.variants)
        ]
        split = "Validation" if metric.startswith("val/") else "Training"
        charts.append(
            _line_chart(
                id=f"curve-{place}",
                heading=f"{split} {_name(metric)}",
                note="",
                series=series,
                x_label="epoch",
                y_label=_name(metric),
            )
        )
    if not any(charts):
        return ""
    several = any(len(variant.runs) > 1 for variant in study.variants)
    words = "Means over runs, with the range of the runs shaded." if several else "One run each."
    return f'<p class="small">{words}</p>{_key(study)}{_charts(*charts)}'


def _mean_curve(label: str, style: int, runs: list[RunRecord], metric: str) -> Series:
    points: dict[float, list[float]] = {}
    for run in runs:
        for epoch in run.history:
            if math.isfinite(epoch.get(metric, math.nan)):
                points.setdefault(epoch["epoch"], []).append(epoch[metric])
    xs = sorted(points)
    band = [min(points[x]) for x in xs], [max(points[x]) for x in xs]
    return Series(label, xs, [fmean(points[x]) for x in xs], style, band if len(runs) > 1 else None)


def _key(study: StudyReport) -> str:
    """Each variant's line and shape beside its full name."""
    items = (
        f'<li><svg viewBox="0 0 52 16" aria-hidden="true">'
        f'<line x1="1" y1="8" x2="51" y2="8" class="s{style % STYLES}" stroke-width="2" '
        f"{_dash(style)}/>{_marker(style, 26, 8)}</svg>{escape(variant.label)}</li>"
        for style, variant in enumerate(study.variants)
    )
    return f'<ul class="key" aria-label="Key">{"".join(items)}</ul>'


def _run_curves(run: RunRecord) -> str:
    def chart(id: str, heading: str, y_label: str, lines: dict[str, str]) -> str:
        series = [
            _mean_curve(label, style, [run], metric)
            for style, (metric, label) in enumerate(lines.items())
        ]
        best = run.results.get("best_epoch")
        return _line_chart(
            id=id,
            heading=heading,
            note="" if best is None else "Dotted: the epoch that was kept.",
            series=series,
            x_label="epoch",
            y_label=y_label,
            reference=best,
        )

    scores = {f"val/{name}": _name(name) for name in (*METRICS, "map")}
    return _charts(
        chart("curve-loss", "Loss", "loss", {"train/loss": "training", "val/loss": "validation"}),
        chart("curve-scores", "Validation scores", "score", scores),
    )


def _threshold_words(threshold: float | list[float]) -> str:
    return "a threshold per label" if isinstance(threshold, list) else f"threshold {threshold:g}"


def _threshold_charts(run: RunRecord) -> str:
    targets, probs = run.predictions.targets, run.predictions.probs
    if not targets.any():
        return ""
    thresholds = np.linspace(0.02, 0.98, 49)
    hits = np.array([(targets & (probs >= t)).sum() for t in thresholds])
    answered = np.array([(probs >= t).sum() for t in thresholds])
    precision, recall = hits / np.maximum(answered, 1), hits / targets.sum()
    f1 = 2 * hits / (answered + targets.sum())
    some = answered > 0
    lines = [
        Series("F1", thresholds, f1, 0),
        Series("precision", thresholds[some], precision[some], 1),
        Series("recall", thresholds, recall, 2),
    ]
    threshold = run.results["threshold"]
    one = None if isinstance(threshold, list) else threshold
    used = "" if one is None else f" Dotted: the threshold used, {one:g}."
    best = thresholds[f1.argmax()]
    return _charts(
        _line_chart(
            id="threshold-curve",
            heading="Precision and recall by threshold",
            note=f"Micro-averaged on the test rows.{used} F1 is highest at {best:.2f}. To choose a "
            "threshold, use the validation rows.",
            series=lines,
            x_label="threshold",
            y_label="share",
            reference=one,
        ),
        _calibration_chart(targets, probs),
    )


def _calibration_chart(targets: np.ndarray, probs: np.ndarray) -> str:
    """Reliability diagram over all decisions (DeGroot & Fienberg, 1983)."""
    bins = np.minimum((probs * 10).astype(int), 9).ravel()
    counts = np.bincount(bins, minlength=10)
    kept = counts >= 10
    said = np.bincount(bins, probs.ravel(), 10)[kept] / counts[kept]
    true = np.bincount(bins, targets.ravel(), 10)[kept] / counts[kept]
    return _line_chart(
        id="calibration",
        heading="Calibration",
        note="How often a label is there when the model gives it that probability; on the diagonal "
        "the probabilities mean what they say. Tenths with fewer than 10 decisions are left out.",
        series=[Series("observed", said, true, 0), Series("perfect", (0.0, 1.0), (0.0, 1.0), 14)],
        x_label="probability given",
        y_label="share that is true",
    )


def _cost_charts(study: StudyReport) -> str:
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
        charts.append(
            _scatter_chart(
                id=f"cost-{name}",
                heading=_start(f"{_name(study.metric)} against {axis.split(' (')[0]}"),
                dots=dots,
                x_label=axis,
                y_label=_name(study.metric),
            )
        )
    words = "A variant that changes depth or width changes its size too: compare the two."
    return f'<p class="small">{words}</p>{_charts(*charts)}' if any(charts) else ""


# ------------------------------------------------------------------------------------- the gallery


class Answers(NamedTuple):
    """What every variant says about the test rows that all runs share."""

    ids: list[str]
    labels: list[int]
    targets: np.ndarray  # (N, K) bool
    names: list[str]  # V variants
    answers: np.ndarray  # (V, N, K) bool
    probs: np.ndarray | None  # (N, K), of a single run

    @property
    def right(self) -> np.ndarray:
        """(V, N) bool: exactly the labels of the picture."""
        return (self.answers == self.targets).all(axis=2)

    @property
    def differ(self) -> np.ndarray:
        """(N,) bool: not all variants give the same answer."""
        return (self.answers != self.answers[:1]).any(axis=(0, 2))


def _collect(variants: list[tuple[str, list[RunRecord]]]) -> Answers | None:
    """Align all runs by image id; None if they share no test rows or have other labels.

    With several seeds a variant's answer has the labels that more than half of its runs give.
    """
    variants = [(name, runs) for name, runs in variants if runs]
    everyone = [run.predictions for _, runs in variants for run in runs]
    if not everyone or any(one.labels != everyone[0].labels for one in everyone):
        return None
    shared = set.intersection(*(set(one.ids) for one in everyone))
    ids = [id for id in everyone[0].ids if id in shared]
    if not ids:
        return None

    def rows(one: Predictions) -> list[int]:
        place = {id: row for row, id in enumerate(one.ids)}
        return [place[id] for id in ids]

    votes = [
        np.mean([run.answers[rows(run.predictions)] for run in runs], axis=0)
        for _, runs in variants
    ]
    first = everyone[0]
    return Answers(
        ids=ids,
        labels=first.labels,
        targets=first.targets[rows(first)],
        names=[name for name, _ in variants],
        answers=np.stack(votes) > 0.5,
        probs=first.probs[rows(first)] if len(everyone) == 1 else None,
    )


def _choose(found: Answers, limit: int) -> list[int]:
    """Rows for the gallery, in file order: half where variants differ, then wrong, then right.

    Each kind is taken evenly over the file, so that nobody picks the nice ones.
    """
    wrong = ~found.right.all(axis=0)
    kinds = [found.differ, wrong & ~found.differ, ~wrong]
    groups = [np.flatnonzero(kind) for kind in kinds]
    shares = [limit // 2, limit // 4, limit // 4] if found.differ.any() else [0, limit // 2] * 2
    sizes = [min(len(group), share) for group, share in zip(groups, shares, strict=False)]
    for place, group in enumerate(groups):
        sizes[place] += min(len(group) - sizes[place], limit - sum(sizes))
    chosen: list[int] = []
    for group, size in zip(groups, sizes, strict=True):
        chosen += group[np.linspace(0, len(group) - 1, size).astype(int)].tolist() if size else []
    return sorted(chosen)


def _gallery(
    variants: list[tuple[str, list[RunRecord]]],
    annotations: "Annotations | None",
    names: dict[int, str],
    limit: int,
) -> list[Section]:
    """The gallery's section, or none without annotations or shared test rows."""
    found = _collect(variants)
    if annotations is None or found is None:
        return []
    place = {id: row for row, id in enumerate(annotations.ids)}
    budget, cards = PICTURE_BUDGET, []
    for row in _choose(found, limit):
        caption, picture = "", None
        if (known := place.get(found.ids[row])) is not None:
            caption = annotations.captions[known]
            picture = _thumbnail(annotations.pictures[known], budget)
            budget -= len(picture or "")
        cards.append(_card(found, row, caption, picture, names))
    body = (
        _gallery_text(found, len(cards))
        + _filters(found)
        + (f'<p class="showing small" role="status"></p><ul class="gallery">{"".join(cards)}</ul>')
    )
    return [Section("gallery", "Test pictures", body)]


def _gallery_text(found: Answers, shown: int) -> str:
    right, several = found.right, len(found.names) > 1
    counts, more = f"{_share(right[0])} are answered without any mistake", "mistakes"
    if several:
        counts = (
            f"every variant is right on {_share(right.all(axis=0))}, none on "
            f"{_share(~right.any(axis=0))}, and variants differ on {_share(found.differ)}"
        )
        more = "mistakes and disagreements"
    below = f"Below are {shown}, evenly over the file but with more {more} than their share."
    if shown == len(found.ids):
        below = "All of them are below."
    vote = " Where a variant has several runs, its answer has the labels most of them give."
    return (
        f"<p>Of {_count(len(found.ids), 'test picture')}, {counts}. Right means exactly the labels "
        f"of the picture. {below}{vote if several else ''}</p>"
        '<p class="small">A label in a solid frame is right, <span class="chip missed">− a dashed '
        'one</span> was missed, and <span class="chip extra">+ a filled one</span> is not in the '
        f"picture's labels.{'' if several else ' Figures are probabilities.'}</p>"
    )


def _share(which: np.ndarray) -> str:
    return f"{which.sum():,} ({100 * which.mean():.0f} %)"


def _filters(found: Answers) -> str:
    kinds = {"all": "All", "wrong": "Any wrong", "differ": "Variants differ", "right": "All right"}
    if len(found.names) == 1:
        kinds = {"all": "All", "wrong": "Wrong", "right": "Right"}
    buttons = (
        f'<button type="button" data-filter="{kind}" aria-pressed="{str(kind == "all").lower()}">'
        f"{name}</button>"
        for kind, name in kinds.items()
    )
    return (
        '<div class="filters" role="group" aria-label="Which pictures to show" hidden>'
        f"{''.join(buttons)}</div>"
    )


def _card(
    found: Answers, row: int, caption: str, picture: str | None, names: dict[int, str]
) -> str:
    kinds = ["right" if found.right[:, row].all() else "wrong"]
    kinds += ["differ"] if found.differ[row] else []
    id = escape(found.ids[row])
    image = f'<img src="{picture}" alt="Test picture {id}" loading="lazy">' if picture else ""
    quote = f"<blockquote>{escape(caption)}</blockquote>" if caption else ""
    truth = [_chip("", _label(names, found.labels[k])) for k in np.flatnonzero(found.targets[row])]
    # Variants that agree share a line, so that a disagreement is what meets the eye.
    agreeing: dict[bytes, list[int]] = {}
    for variant in range(len(found.names)):
        agreeing.setdefault(found.answers[variant, row].tobytes(), []).append(variant)
    lines = "".join(_answer(found, row, group, names) for group in agreeing.values())
    return (
        f'<li data-id="{id}" data-kinds="{" ".join(kinds)}"><figure>{image}<figcaption>{quote}'
        f"<dl><dt>Truth</dt><dd>{''.join(truth) or NOTHING}</dd>{lines}</dl>"
        f'<p class="id">{id}</p></figcaption></figure></li>'
    )


NOTHING = '<span class="chip none">no label</span>'


def _answer(found: Answers, row: int, group: list[int], names: dict[int, str]) -> str:
    answer, truth = found.answers[group[0], row], found.targets[row]
    right = bool((answer == truth).all())
    chips = []
    for k in np.flatnonzero(answer | truth):
        kind = "" if answer[k] and truth[k] else "extra" if answer[k] else "missed"
        name = _label(names, found.labels[k])
        if found.probs is not None:
            name += f" {found.probs[row, k]:.2f}"
        chips.append(_chip(kind, name))
    who = ", ".join(found.names[variant] for variant in group)
    if len(found.names) == 1:
        who = "Answer"
    elif len(group) == len(found.names):
        who = "All variants"
    mark, css = ("✓", "right") if right else ("✗", "wrong")
    return (
        f'<dt><span class="mark {css}" aria-hidden="true">{mark}</span> <b>{escape(who)}</b>: {css}'
        f"</dt><dd>{''.join(chips) or NOTHING}</dd>"
    )


def _chip(kind: str, text: str) -> str:
    sign = {"": "", "missed": "− ", "extra": "+ "}[kind]
    unseen = {"": "", "missed": "missed: ", "extra": "wrongly: "}[kind]
    spoken = f'<span class="unseen">{unseen}</span>' if kind else ""
    css = f"chip {kind}".strip()
    return (
        f'<span class="{css}">{spoken}<span aria-hidden="true">{sign}</span>{escape(text)}</span>'
    )


def _label(names: dict[int, str], number: int) -> str:
    return names.get(number) or f"label {number}"


def _thumbnail(path: Path, budget: int) -> str | None:
    """The picture as a small JPEG in a data URI; None if unreadable or larger than the budget."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft("RGB", (320, 320))
            image = image.convert("RGB")
            image.thumbnail((320, 320))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=70, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
    return uri if len(uri) <= budget else None
