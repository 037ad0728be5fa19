"""The table of a study: its figures as texts, and these as CSV and as Markdown."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from mmlabel.cache import atomic_write
from mmlabel.evidence import shown_p
from mmlabel.report.study_report import StudyReport, VariantSummary
from mmlabel.score_table import SCORES
from mmlabel.spreadsheet import to_cell


def result_rows(study: StudyReport) -> list[dict[str, str]]:
    """The study's table, one dict of texts per variant: what every format of it prints.

    Scores have four decimals; a figure that does not exist is "".
    """
    return [_result_row(study, variant) for variant in study.variants]


def _result_row(study: StudyReport, variant: VariantSummary) -> dict[str, str]:
    row = {"variant": variant.name, "label": variant.label, "runs": str(len(variant.runs))}
    for metric in study_metrics(study):
        mean, std, low, high = variant.scores.get(metric, (None,) * 4)
        row |= {metric: fixed(mean, 4), f"{metric}_std": fixed(std, 4)}
        row |= {f"{metric}_low": fixed(low, 4), f"{metric}_high": fixed(high, 4)}
    low, high = variant.difference_interval or (None, None)
    row |= {
        "published": fixed(variant.published, 3),
        "difference": fixed(variant.difference, 4),
        "difference_low": fixed(low, 4),
        "difference_high": fixed(high, 4),
        "p_value": "" if variant.p_value is None else shown_p(variant.p_value),
        "verdict": variant.verdict or ("baseline" if variant.name == study.baseline else ""),
        "parameters": fixed(variant.parameters, 0),
        "megabytes": fixed(variant.megabytes, 1),
        "seconds": fixed(variant.seconds, 1),
    }
    for name in extra_columns(study):
        value = variant.extra.get(name)
        row[name] = "" if value is None else f"{value:.5g}"
    return row


def study_metrics(study: StudyReport) -> list[str]:
    """Every metric that a variant has, the study's own first."""
    names = [study.metric, *(metric for variant in study.variants for metric in variant.scores)]
    return list(dict.fromkeys(names))


def extra_columns(study: StudyReport) -> list[str]:
    """The headings of all columns that a variant has beside the usual ones."""
    return list(dict.fromkeys(name for variant in study.variants for name in variant.extra))


def fixed(value: float | None, decimals: int) -> str:
    """With so many decimals; "" for a number that is not there or not finite."""
    if value is None or not math.isfinite(value):
        return ""
    # Adding 0 turns the "-0.0000" of a tiny negative number into "0.0000".
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def write_results_csv(path: Path, study: StudyReport, header_comment_lines: Iterable[str]) -> None:
    """Write `result_rows` as CSV below the given lines, each of which becomes a "# ..." line.

    Names that a spreadsheet would take for formulas are written as `spreadsheet.to_cell` says.
    """
    text = io.StringIO()
    for comment in header_comment_lines:
        for line in comment.splitlines() or [""]:
            text.write(f"# {line}".rstrip() + "\n")
    rows = result_rows(study)
    writer = csv.writer(text, lineterminator="\n")
    for line in [rows[0] if rows else [], *(row.values() for row in rows)]:
        writer.writerow(map(to_cell, line))
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(
            text.getvalue(), encoding="utf-8", errors="surrogateescape", newline="\n"
        )


def markdown_table(study: StudyReport) -> str:
    """The study's table in Markdown; the published column, if there is one, beside ours."""
    metric, extra = study.metric, extra_columns(study)
    published = [study.published_label] if study.has_published else []
    heads = ["Variant", f"{metric_name(metric)} (95 % interval)", *published, "Difference", "p"]
    right = len(heads) - 1
    heads += ["Verdict", "Parameters", "MB", "Seconds", *extra]
    lines = [heads, ["---", *["---:"] * right, "---", *["---:"] * (3 + len(extra))]]
    for row in result_rows(study):
        deviation = row[f"{metric}_std"]
        ours = row[metric] + (f" ± {deviation}" if deviation else "")
        ours += _between(row[f"{metric}_low"], row[f"{metric}_high"])
        difference = row["difference"] + _between(row["difference_low"], row["difference_high"])
        cells = [row["label"], ours, *([row["published"]] if published else []), difference]
        cells += [row["p_value"], row["verdict"], grouped(row["parameters"]), row["megabytes"]]
        cells += [row["seconds"], *(row[name] for name in extra)]
        lines.append([cell or "–" for cell in cells])
    return "".join(f"| {' | '.join(map(markdown_cell, line))} |\n" for line in lines)


def markdown_cell(text: str) -> str:
    """A text that ends neither the cell of a Markdown table nor its line."""
    return " ".join(text.split()).replace("|", "\\|")


def _between(low: str, high: str) -> str:
    return f" [{low}, {high}]" if low else ""


def grouped(digits: str) -> str:
    """ "1234567" -> "1,234,567"; "" stays."""
    return f"{int(digits):,}" if digits else ""


def sentence_case(words: str) -> str:
    """The words as a heading starts them: "micro-F1" -> "Micro-F1", but "mAP" stays."""
    return words if words.startswith("mAP") else words[:1].upper() + words[1:]


def metric_name(metric: str) -> str:
    """ "test/f1_micro" -> "micro-F1"."""
    last = metric.rsplit("/", 1)[-1]
    return SCORES[last].title if last in SCORES else last
