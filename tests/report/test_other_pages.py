"""The pages of a data set and of mistakes, in a real browser."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlabel.data.annotations import REPORT_LABELS, Annotations
from mmlabel.data.captions import Vocabulary, tokenise
from mmlabel.data.overview import captions_of, labels_of, pictures_of
from mmlabel.label_errors import AnsweredRows, Suspicion
from mmlabel.report.data_page import DataSet, write_data_page
from mmlabel.report.mistakes_page import Mistakes, write_mistakes_page


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    """40 rows; the first picture is there again in another split, the last file is none."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{row}.png" for row in range(40)]
    for path in paths[:-1]:
        Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    paths[30].write_bytes(paths[0].read_bytes())
    paths[-1].write_bytes(b"none")
    return Annotations(
        ids=[path.name for path in paths],
        captions=[f"<b>caption {row}" for row in range(40)],
        targets=(random.random((40, len(REPORT_LABELS))) < 0.2).astype(np.uint8),
        label_names=REPORT_LABELS,
        pictures=paths,
    )


@pytest.fixture(scope="module")
def pages(annotations: Annotations, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, random = tmp_path_factory.mktemp("pages"), np.random.default_rng(1)
    rows = {"train": np.arange(30), "val": np.arange(30, 35), "test": np.arange(35, 40)}
    words = tokenise(annotations.captions, lemmas="none", cache_dir=folder, on_missing="error")
    vocabulary = Vocabulary.build(words, rows["train"])
    found = DataSet(
        name="made",
        rows={split: len(own) for split, own in rows.items()},
        total=40,
        labels=labels_of(annotations, rows),
        captions=captions_of(annotations.captions, words, vocabulary, None, rows["train"]),
        pictures=pictures_of(annotations, rows, upright=True),
        notes=[],
    )
    labels = [number for number, name in enumerate(REPORT_LABELS) if name]
    targets = annotations.targets[:, labels].astype(bool)
    cells = np.zeros(targets.shape, dtype=bool)
    cells[:5, 2] = True
    probs = np.where(targets ^ (random.random(targets.shape) < 0.05), 0.9, 0.1)
    answered = AnsweredRows(
        ids=annotations.ids,
        labels=labels,
        targets=targets,
        known=np.ones(targets.shape, dtype=bool),
        probs=probs,
        probabilities=probs,
        thresholds=np.full(targets.shape, 0.5),
        runs=1,
    )
    doubts = Suspicion(cells, np.linspace(0, 1, 40), 0)
    names = dict(enumerate(REPORT_LABELS))
    mistakes = Mistakes(answered, doubts, annotations, names, [])
    return {
        "data": write_data_page(folder / "data.html", found, command=["python"]),
        "mistakes": write_mistakes_page(
            folder / "mistakes.html", mistakes, runs=[], most=20, command="python"
        ),
    }


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("page", ["data", "mistakes"])
def test_no_sideways_scrolling(open_page, pages: dict[str, Path], page: str, width: int):
    tab = open_page(pages[page], width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(i => !i.complete || i.naturalWidth > 0)")
    assert not tab.locator("main b b").count(), "captions are text"


def test_the_data_page_warns_of_leaks_and_bad_files(open_page, pages: dict[str, Path]):
    tab = open_page(pages["data"], 1280)
    warnings = tab.locator(".warning").all_inner_texts()
    assert ["several splits" in warnings[0], "cannot be read" in warnings[1]] == [True, True]
    card = tab.locator(".gallery > li").first.inner_text()
    assert "0.png (train)" in card and "30.png (val)" in card and "In several splits" in card
    # Labels are all there on a wide screen.
    table = tab.locator(".scroll", has=tab.locator("#co-occurrence"))
    assert table.evaluate("t => t.scrollWidth - t.clientWidth") <= 1


def test_the_captions_take_the_whole_row(open_page, pages: dict[str, Path]):
    tab = open_page(pages["data"], 1280)
    section = tab.locator("section", has=tab.locator("#captions"))
    chart, table = (section.locator(name).bounding_box() for name in ("figure", ".scroll >> nth=0"))
    whole = section.bounding_box()
    assert chart["x"] == whole["x"] and table["x"] - (chart["x"] + chart["width"]) < 40
    assert table["x"] + table["width"] == whole["x"] + whole["width"]
    assert abs(table["y"] - chart["y"]) < 40
    said = section.inner_text()
    assert "Empty captions\t0" in said and "Words of the longest\t3" in said


def test_suspects_are_chosen_with_a_button(open_page, pages: dict[str, Path]):
    tab = open_page(pages["mistakes"], 1280)
    cards = tab.locator(".gallery > li:visible")
    total = cards.count()
    tab.get_by_role("button", name="Probable label errors").press("Enter")
    assert cards.count() == 5 < total
    assert all("perhaps" in text for text in cards.all_inner_texts())
    tab.get_by_role("button", name="Mistakes", exact=True).press("Enter")
    kinds = cards.evaluate_all("all => all.map(c => c.dataset.kinds)")
    assert kinds and all("wrong" in kind for kind in kinds)
