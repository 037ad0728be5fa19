"""The page of a study: escaped, complete in itself, described; and the page that leads to it."""

import math
import re
from dataclasses import replace
from pathlib import Path

from made_up import EVIL, Page, make_study, random_run

from mmlabel.report import (
    Score,
    StudyReport,
    VariantSummary,
    markdown_table,
    write_index,
    write_study_report,
)
from mmlabel.study.output import write_study


def test_everything_from_data_is_escaped(study, study_page):
    html = study_page.read_text()
    assert EVIL not in html and "<b>out of memory" not in html and "<deep>" not in html
    assert "&lt;script&gt;alert(&#34;caption&#34;)&lt;/script&gt;" in html
    page = Page(study_page)
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_the_page_loads_nothing_and_is_small(study_page):
    html = study_page.read_text()
    page = Page(study_page)
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    assert "url(" not in html and "@import" not in html
    policy = next(a for a in page.all("meta") if a.get("http-equiv"))["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(html) < 3_000_000


def test_landmarks_headings_tables_and_charts_are_described(study_page):
    page = Page(study_page)
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("nav")) == 1
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in ids
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) >= 4
    charts = [attrs for attrs in page.all("svg") if attrs.get("class") == "chart"]
    assert len(charts) == 1 + 4 + 3 + 3  # difference, metrics, curves, costs
    for attrs in charts:
        assert attrs["aria-labelledby"] in ids and attrs["aria-describedby"] in ids
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(
        "nan" not in str(v) for t, a in page.tags for v in a.values() if t in ("line", "text")
    )


def test_the_failed_run_and_its_error_are_on_the_page(study_page):
    html = study_page.read_text()
    assert "1 run failed." in html
    assert "&lt;b&gt;out of memory&lt;/b&gt;" in html and "Pictures are drawn." in html


def test_a_study_in_which_nothing_finished_still_has_a_page(tmp_path):
    study = StudyReport(
        title="t", question="q", baseline="A", metric="test/f1_micro", published_label="Report",
        variants=[VariantSummary(name="A", label="A", runs=[], scores={})], command="c",
        failed=[("seed=0", "no such file")],
    )  # fmt: skip
    html = write_study_report(tmp_path, study).read_text()
    assert "no run finished" in html and "no such file" in html and 'id="gallery"' not in html


def test_runs_on_other_rows_are_not_said_to_be_on_the_first_ones(tmp_path):
    study = make_study(tmp_path, rows=9)
    for run in [run for variant in study.variants for run in variant.runs]:
        run.results["settings"]["data"] = {"name": "usyd"}
        run.results["machine"] = "a machine"
    html = write_study_report(tmp_path, study).read_text()
    assert "6 runs · 2,000 rows to train on · 250 rows to select on · 9 rows to test on" in html
    for run in study.variants[1].runs:
        run.results["rows"] = {"train": 500, "val": 250, "test": 12}
        run.results["labels"]["1"]["support"] += 3
    support = study.variants[0].runs[0].results["labels"]["1"]["support"]
    html = write_study_report(tmp_path, study).read_text()
    assert "500 to 2,000 rows to train on · 250 rows to select on · 9 to 12 rows to test on" in html
    labels = html.split('<table id="label-f1">')[1].split("</table>")[0]
    assert f"person</th><td>{support} to {support + 3}</td>" in labels
    write_study(tmp_path, study, jobs=[], command="c")
    data = [line for line in (tmp_path / "results.csv").read_text().split("\n") if "Data: " in line]
    assert [line.split("rows: ")[1] for line in data] == [
        "2000 train, 250 val, 9 test",
        "500 train, 250 val, 12 test",
    ]


def test_a_variant_without_an_interval_stands_in_the_charts(study, tmp_path):
    first, *others = study.variants
    scores = {metric: Score(1.0, 0.0, math.nan, math.nan) for metric in first.scores}
    study = replace(study, variants=[replace(first, scores=scores), *others])
    html = write_study_report(tmp_path, study).read_text()
    (said,) = re.findall(r'<desc id="score-0-d">(.*?)</desc>', html)
    assert "1 layer: 1.000, published" in said and said.count("interval") == len(others)
    assert "nan" not in re.sub(r"<script.*?</script>|base64,[^\"]*", "", html, flags=re.S).lower()
    row = html.split('<table id="results">')[1].split("</tr>")[1]
    assert ">1.0000</span>" in row and "interval" not in row


def test_a_tiny_difference_has_no_sign_of_its_own(study, tmp_path):
    _, other, *_ = study.variants
    tiny = replace(other, difference=-1e-5, difference_interval=(-2e-5, 1e-5))
    html = write_study_report(tmp_path, replace(study, variants=[tiny])).read_text()
    assert "+0.000, interval +0.000 to +0.000" in html


def test_the_index_leads_to_the_pages_and_escapes_what_they_say(study, tmp_path):
    path = write_index(
        tmp_path, title="All <of> it", question="Which & why?", reports={"a b#c": study}
    )
    html, page = path.read_text(), Page(path)
    assert path == tmp_path / "index.html"
    assert "All &lt;of&gt; it" in html and "Which &amp; why?" in html and study.title in html
    assert "8 layers &lt;deep&gt;: in a sentence" in html
    assert "1 run failed." in html and "Fewer than 3 seeds" in html
    links = [attrs["href"] for attrs in page.all("a")]
    assert "../a%20b%23c/report.html" in links and "#study-0" in links


def with_runs(study: StudyReport, folder: Path, *, seeds: int, epochs: int) -> StudyReport:
    """The study with so many runs of each variant, each of so many epochs."""
    variants = []
    for variant in study.variants:
        runs = [random_run(folder / variant.name / str(n), rows=9, seed=n, noise=0.4)
                for n in range(seeds)]  # fmt: skip
        for run in runs:
            run.results["epochs"] = epochs
        variants.append(replace(variant, runs=runs))
    return replace(study, variants=variants)


def test_fewer_than_three_seeds_are_warned_of(study, tmp_path):
    assert "Fewer than 3 seeds" in study.warnings[0] and "has 2 seeds" in study.warnings[0]
    html = write_study_report(tmp_path, study).read_text()
    assert '<p class="warning"><strong>Careful:</strong> Fewer than 3 seeds' in html
    assert with_runs(study, tmp_path / "three", seeds=3, epochs=5).warnings == []
    # A detector that is only evaluated has nothing that a seed would change.
    assert with_runs(study, tmp_path / "one", seeds=1, epochs=0).warnings == []
    assert "one seed," in with_runs(study, tmp_path / "alone", seeds=1, epochs=5).warnings[0]


def test_a_study_names_its_data_and_its_seeds(study, tmp_path):
    for seed, run in enumerate(run for variant in study.variants for run in variant.runs):
        run.results["settings"] |= {"data": {"name": "usyd", "file": "train.csv"}, "seed": seed % 2}
        run.results["date"] = f"2026-11-2{seed}T10:00:00+01:00"
    html = write_study_report(tmp_path, study).read_text()
    assert "<dt>Data set</dt><dd>usyd (train.csv)</dd>" in html
    assert "<dt>Seeds</dt><dd>0, 1</dd>" in html
    assert "<dd>2026-11-20 10:00 UTC+01:00 to 2026-11-25 10:00 UTC+01:00</dd>" in html


def test_without_published_figures_there_is_no_column_for_them(study, tmp_path):
    bare = replace(study, variants=[replace(v, published=None) for v in study.variants])
    html = write_study_report(tmp_path, bare).read_text()
    results = html.split('<table id="results">')[1].split("</table>")[0]
    assert ">Report<" not in results and results.count('<th scope="col"') == 9
    assert "a cross is" not in html and "| Report |" not in markdown_table(bare)
    lines = markdown_table(bare).splitlines()
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_versions_and_weights_of_some_runs_are_not_given_as_those_of_all(study, tmp_path):
    study = with_runs(study, tmp_path / "runs", seeds=2, epochs=5)
    for variant in study.variants:
        for run in variant.runs:
            run.results["versions"] = {"torch": "2.9", "numpy": "2.1"}
    other = study.variants[1].runs[1].results
    other["versions"] = {"torch": "2.10", "numpy": "2.1"}
    other["pretrained"] = {"backbone": "a file", "embedding": "glove"}
    html = write_study_report(tmp_path, study).read_text()
    varied, weights, fixed = (
        html.split(f'<table id="{id}">')[1].split("</table>")[0]
        for id in ("varied", "weights", "fixed")
    )
    assert "version, torch" in varied and ">2.9, 2.10<" in varied
    assert "version, torch" not in fixed and "version, numpy" in fixed and ">2.1<" in fixed
    assert "none; a file" in weights and ">glove<" in weights
