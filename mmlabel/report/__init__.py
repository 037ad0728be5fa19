"""Results as people read them: results.csv, Markdown tables and self-contained HTML pages.

The pages of a run, of a study and of a collection of studies share their parts. Everything that
comes from data is escaped by the templates, and a page's own policy forbids it to load anything,
so captions of unknown origin are safe in it.
"""

from mmlabel.report.run_notes import Variants, run_notes, which_runs
from mmlabel.report.run_page import write_run_report
from mmlabel.report.study_page import write_index, write_study_report
from mmlabel.report.study_report import Score, StudyReport, VariantSummary, verdicts
from mmlabel.report.tables import markdown_table, result_rows, write_results_csv

__all__ = [
    "Score",
    "StudyReport",
    "VariantSummary",
    "Variants",
    "markdown_table",
    "result_rows",
    "run_notes",
    "verdicts",
    "which_runs",
    "write_index",
    "write_results_csv",
    "write_run_report",
    "write_study_report",
]
