"""What a study says on a terminal."""

from mmlabel.report import StudyReport, result_rows, run_notes, verdicts
from mmlabel.report.tables import extra_columns
from mmlabel.terminal import console, printable


def print_study(report: StudyReport) -> None:
    """The table and the verdicts on standard output."""
    from rich import box
    from rich.table import Table

    metric = report.metric
    table = Table(title=printable(report.title), title_justify="left", box=box.SIMPLE_HEAD)
    extra = extra_columns(report)
    published = [report.published_label] if report.has_published else []
    heads = ["variant", metric, *published, "difference", "p", "verdict", "runs"]
    for heading in [*heads, "parameters", "MB", "seconds", *extra]:
        table.add_column(
            printable(heading),
            justify="left" if heading in ("variant", "verdict") else "right",
            no_wrap=True,
        )
    for row in result_rows(report):
        score = row[metric] + (f" ± {row[f'{metric}_std']}" if row[f"{metric}_std"] else "")
        cells = [row["label"], score, *([row["published"]] if published else [])]
        cells += [row["difference"], row["p_value"]]
        cells += [row[name] for name in ("verdict", "runs", "parameters", "megabytes", "seconds")]
        table.add_row(*map(printable, cells), *(row[name] for name in extra))
    output = console()
    output.print(table)
    for line in [*verdicts(report), *report.warnings, *report.notes, *run_notes(report.runs_of)]:
        output.print(printable(line))
