"""Pages in a real browser: nothing loaded, nothing cut off, usable with the keyboard."""

import io
from dataclasses import replace

import numpy as np
import pytest
from made_up import read_csv
from PIL import Image

from mmlabel.report import write_results_csv, write_run_report, write_study_report


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


def test_pictures_are_chosen_by_label_with_the_keyboard(open_page, study_page):
    tab = open_page(study_page, 1440)
    cards = tab.locator(".gallery > li:visible")
    labels = tab.get_by_label("Label", exact=True)
    labels.focus()
    tab.keyboard.type("car")
    number = labels.input_value()
    assert number == "3"
    shown = cards.evaluate_all(
        "all => all.map(c => c.querySelector('figure').dataset.labels.split(' '))"
    )
    assert 0 < len(shown) < 60 and all(number in concerned for concerned in shown)
    # As many as the list itself says.
    assert labels.locator("option:checked").inner_text() == f"car & van ({len(shown)})"
    tab.get_by_role("button", name="Any wrong").press("Enter")
    assert 0 < cards.count() < len(shown)
    labels.select_option("")
    kinds = cards.evaluate_all("all => all.map(c => c.dataset.kinds)")
    assert kinds and all("wrong" in kind for kind in kinds)


def test_a_wide_screen_shows_tables_whole_and_charts_without_gaps(open_page, study, study_page):
    tab = open_page(study_page, 1280)
    cut = tab.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(t => t.scrollWidth > t.clientWidth + 1)"
        ".map(t => t.querySelector('table').id)"
    )
    assert cut == []
    gaps = tab.evaluate(
        """[...document.querySelectorAll('.charts')].flatMap(charts => {
          const boxes = [...charts.children].map(c => c.getBoundingClientRect());
          const end = charts.getBoundingClientRect().right;
          return [...new Set(boxes.map(b => b.top))].map(top =>
            end - Math.max(...boxes.filter(b => b.top === top).map(b => b.right)));
        })"""
    )
    assert len(gaps) == 2 + 1 + 1 and max(gaps) < 40  # five, three and three charts


def test_on_a_phone_f1_is_seen_without_scrolling(open_page, study):
    tab = open_page(write_run_report(study.variants[0].runs[0].folder, None), 390)
    for cell in ('[data-column="test/f1_micro"]', "#label-f1 td.bar"):
        box = tab.locator(cell).first.bounding_box()
        assert box["x"] + box["width"] <= 390


def test_no_text_of_a_chart_with_intervals_lies_on_a_line(open_page, study_page):
    tab = open_page(study_page, 1280)
    touching = tab.evaluate(
        """[...document.querySelectorAll('#scores ~ .charts svg')].flatMap(svg => {
          const box = e => e.getBoundingClientRect();
          const texts = [...svg.querySelectorAll('text')].map(box);
          return [...svg.querySelectorAll('line')].map(box).filter(l => texts.some(t =>
            l.left < t.right && l.right > t.left && l.top < t.bottom - 4 && l.bottom > t.top + 2));
        }).length"""
    )
    assert touching == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_a_shadow_shows_that_a_table_goes_on(open_page, study, study_page, scheme: str):
    """At the right edge while there is more, and no longer at the table's end."""
    tab = open_page(study_page, 390)
    tab.emulate_media(color_scheme=scheme)

    def contrast(frame) -> float:
        """Between the edge and the ground beside it, in a line between two rows' texts."""
        shot = Image.open(io.BytesIO(frame.screenshot())).convert("L")
        pixels = np.asarray(shot, dtype=float)[:40]  # of the caption, above its words
        return abs(np.median(pixels[8:12, -8:-4]) - np.median(pixels[8:12, -60:-40]))

    frame = tab.locator(".scroll", has=tab.locator("[data-column='test/f1_micro']")).first
    assert frame.evaluate("f => f.scrollWidth > f.clientWidth + 1")
    assert contrast(frame) > 30
    frame.evaluate("f => f.scrollTo(f.scrollWidth, 0)")
    assert contrast(frame) < 5


def test_names_of_variants_are_broken_after_signs(open_page, study, tmp_path):
    names = ["model=fusion", "model=caption_only, optimizer=adamw", "lstm.layers=8"]
    variants = [replace(v, label=n) for v, n in zip(study.variants, names, strict=True)]
    page = write_study_report(tmp_path, replace(study, variants=variants))
    tab = open_page(page, 390)
    lines = tab.evaluate(
        """[...document.querySelectorAll('table')].flatMap(t =>
          [...t.querySelectorAll('tr[data-variant] [data-column="label"]')]).map(cell => {
          const lines = {}, range = document.createRange();
          const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
          for (let node; (node = walker.nextNode());)
            for (let at = 0; at < node.length; at++) {
              range.setStart(node, at); range.setEnd(node, at + 1);
              const top = Math.round(range.getBoundingClientRect().top);
              lines[top] = (lines[top] || "") + node.data[at];
            }
          return Object.values(lines).map(line => line.trim());
        })"""
    )
    assert lines
    assert [" ".join(one).replace("= ", "=").replace(". ", ".") for one in lines[:3]] == names
    assert all(line[-1] in "=,." or line == one[-1] for one in lines for line in one)
