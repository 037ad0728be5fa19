"""A study's table: CSV, Markdown and page show the same figures."""

import re
from dataclasses import replace

from made_up import METRICS, figures, read_csv

from mmlabel.report import (
    StudyReport,
    VariantSummary,
    markdown_table,
    result_rows,
    write_results_csv,
)


def test_csv_markdown_and_page_show_the_same_figures(study, study_page, tmp_path):
    path = tmp_path / "results.csv"
    write_results_csv(path, study, ["python sweep.py study=lstm_layers", "two\nlines"])
    assert path.read_text().startswith(
        "# python sweep.py study=lstm_layers\n# two\n# lines\nvariant,"
    )
    rows = read_csv(path)
    assert rows == result_rows(study)

    html = study_page.read_text()
    shown = figures(html, "results")
    assert len(shown) == len(rows) == 3
    for cells, row in zip(shown, rows, strict=True):
        expected = {k: v for k, v in row.items() if v and k in cells}
        cells["label"] = row["label"]
        assert cells == expected
        wanted = {"test/f1_micro", "test/f1_micro_low", "runs", "parameters", "seconds", "verdict"}
        assert wanted <= cells.keys()
    for cells, row in zip(figures(html, "all-scores"), rows, strict=True):
        assert all(cells[f"test/{metric}"] == row[f"test/{metric}"] for metric in METRICS)

    lines = markdown_table(study).splitlines()
    assert lines[0].startswith("| Variant | micro-F1 (95 % interval) | Report | Difference | p |")
    assert lines[0].endswith("| Seconds | loss at the start |")
    for line, row in zip(lines[2:], rows, strict=True):
        assert len(re.split(r"(?<!\\)\|", line)) == len(lines[0].split("|"))
        for column in ("test/f1_micro", "test/f1_micro_std", "published", "p_value", "seconds"):
            assert row[column] in line
        assert f"{int(row['parameters']):,}" in line
    assert "2 layers \\| wide" in lines[3]


def test_a_figure_that_does_not_exist_is_empty_and_a_tiny_negative_one_is_zero(study):
    variant = VariantSummary(
        name="x", label="x", runs=[], scores={"test/f1_micro": (0.5, None, 0.4, float("nan"))},
        difference=-0.00001,
    )  # fmt: skip
    near = replace(variant, p_value=0.0496, verdict="better")
    lone = StudyReport(
        title="t", question="q", baseline="y", variants=[variant], metric="test/f1_micro",
        published_label="Report", command="c",
    )  # fmt: skip
    (row,) = result_rows(replace(lone, variants=[near]))
    assert row["p_value"] == "0.0496", "0.05 would be no difference"
    (row,) = result_rows(lone)
    assert row["test/f1_micro"] == "0.5000" and row["difference"] == "0.0000"
    assert [
        row[k] for k in ("test/f1_micro_std", "test/f1_micro_high", "published", "p_value")
    ] == [""] * 4
    assert "| – |" in markdown_table(lone)


def test_labels_that_are_formulas_are_no_formulas_in_a_spreadsheet(study, tmp_path):
    variants = [replace(v, label=f"={v.label}", name=f"@{v.name}") for v in study.variants]
    write_results_csv(tmp_path / "results.csv", replace(study, variants=variants), ["made up"])
    rows = read_csv(tmp_path / "results.csv")
    assert [row["label"] for row in rows] == [f"'={v.label}" for v in study.variants]
    assert [row["variant"] for row in rows] == [f"'@{v.name}" for v in study.variants]
    assert any(row["difference"].startswith("-0.") for row in rows)
