"""Pages in a real browser: nothing loaded, nothing cut off, usable with the keyboard."""

import pytest
from made_up import read_csv

from mmlabel.report import write_results_csv, write_run_report


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("kind", ["study", "run"])
def test_no_sideways_scrolling(open_page, study, study_page, width, kind):
    run = study.variants[0].runs[0].folder
    path = study_page if kind == "study" else write_run_report(run, study.annotations)
    tab = open_page(path, width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(i => !i.complete || i.naturalWidth > 0)")
    # Text of the charts, as it comes out on the screen.
    smallest = tab.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.chart text')]"
        ".map(t => t.getBoundingClientRect().height))"
    )
    assert smallest > 10


def test_figures_on_the_screen_are_those_of_the_csv_file(open_page, study, study_page, tmp_path):
    write_results_csv(tmp_path / "results.csv", study, ["made up"])
    tab = open_page(study_page, 1440)
    rows = read_csv(tmp_path / "results.csv")
    for row in rows:
        cells = tab.locator(f'tr[data-variant="{row["variant"]}"] [data-column]')
        shown = cells.evaluate_all("all => all.map(c => [c.dataset.column, c.innerText])")
        assert {name for name, _ in shown} >= {"test/f1_micro", "test/map_high", "verdict"}
        for name, text in shown:
            assert text.replace(",", "") == row[name]


def test_filters_work_with_the_keyboard(open_page, study_page):
    tab = open_page(study_page, 1440)
    visible = ".gallery > li:visible"
    total = tab.locator(visible).count()
    assert total == 60
    tab.locator(".filters button").first.focus()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Any wrong"
    tab.keyboard.press("Enter")
    kinds = tab.locator(visible).evaluate_all("all => all.map(c => c.dataset.kinds)")
    assert 0 < len(kinds) < total and all("wrong" in k for k in kinds)
    assert tab.locator(".showing").inner_text() == f"Showing {len(kinds)} of 60 pictures"
    assert tab.get_by_role("button", name="Any wrong", pressed=True).count() == 1
    assert tab.get_by_role("button", pressed=True).count() == 1
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    kinds = tab.locator(visible).evaluate_all("all => all.map(c => c.dataset.kinds)")
    assert 0 < len(kinds) < total and all("differ" in k for k in kinds)
    tab.get_by_role("button", name="All", exact=True).press("Enter")
    assert tab.locator(visible).count() == total


def test_the_first_tab_stop_skips_to_the_content(open_page, study_page):
    tab = open_page(study_page, 360)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
