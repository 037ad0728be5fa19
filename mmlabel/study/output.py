"""What a study leaves in its folder: results.csv, runs.csv, table.md and report.html."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmlabel.cache import atomic_write
from mmlabel.report import (
    StudyReport,
    markdown_table,
    run_notes,
    verdicts,
    write_index,
    write_results_csv,
    write_study_report,
)
from mmlabel.spreadsheet import to_cell
from mmlabel.study.definition import Collection
from mmlabel.study.plan import Job

STUDY_FILES = ("results.csv", "runs.csv", "table.md", "report.html")  # as they are written


def write_study(folder: Path, report: StudyReport, *, jobs: Sequence[Job], command: str) -> None:
    """Write results.csv, runs.csv, table.md and report.html into `folder`.

    Args:
        folder: of the study.
        report: what its runs show.
        jobs: all its runs, for runs.csv, which says where each is.
        command: of sweep.py, for the header of results.csv.
    """
    write_results_csv(folder / "results.csv", report, _header(report, command))
    runs = {run.folder: run for variant in report.variants for run in variant.runs}
    with (
        atomic_write(folder / "runs.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", "status", "folder", report.metric, "overrides"])
        for job in jobs:
            run = runs.get(job.folder)
            score = run.results["scores"][report.metric] if run else ""
            status = "finished" if run else "failed"
            where = os.path.relpath(job.folder, folder)
            row = [job.variant.name, job.seed, status, where, score, " ".join(job.overrides)]
            writer.writerow([to_cell(str(value)) for value in row])
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(markdown_page(report), encoding="utf-8", errors="surrogateescape")
    write_study_report(folder, report)


def _header(report: StudyReport, command: str) -> list[str]:
    """What results.csv says about itself: title, commands, data, versions, machine."""
    lines = [f"{report.title}. {report.question}", f"Made by: {command}"]
    lines += ["The same runs:", *(f"  {line}" for line in report.command.splitlines())]
    runs = [run.results for variant in report.variants for run in variant.runs]
    # One line each, unless runs on other rows, of another time or machine are among them.
    for run in runs:
        rows = ", ".join(f"{count} {split}" for split, count in run["rows"].items())
        lines.append(f"Data: {run['settings']['data']['name']}, rows: {rows}")
    for run in runs:
        lines.append(f"Versions: {', '.join(f'{k} {v}' for k, v in run['versions'].items())}")
    lines += [f"Machine: {run['machine']}" for run in runs]
    lines = list(dict.fromkeys(lines))
    return [*lines, report.method]


def markdown_page(report: StudyReport, level: int = 1) -> str:
    """Title, question, table, verdicts in words, failures and method, in Markdown."""
    parts = [f"{'#' * level} {report.title}", report.question, markdown_table(report).strip()]
    parts.append("\n".join(f"- {line}" for line in verdicts(report)))
    notes = [*report.warnings, *report.notes, *run_notes(report.runs_of)]
    parts += ["\n".join(f"- Note: {note}" for note in notes)] if notes else []
    failed = [f"- failed: `{overrides}`: {error}" for overrides, error in report.failed]
    parts += ["\n".join(failed)] if failed else []
    parts += [report.method, f"```\n{report.command}\n```"]
    return "\n\n".join(parts) + "\n"


def write_collection(
    folder: Path, collection: Collection, reports: Mapping[str, StudyReport]
) -> None:
    """Write index.html, which leads to the studies' pages beside `folder`, and table.md."""
    write_index(folder, title=collection.title, question=collection.question, reports=reports)
    tables = [f"# {collection.title}\n\n{collection.question}\n"]
    tables += [markdown_page(report, level=2) for report in reports.values()]
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text("\n".join(tables), encoding="utf-8", errors="surrogateescape")
