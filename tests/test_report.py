"""The report page, its table in three formats, and both in a real browser."""

import csv
import importlib.util
import json
import re
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlabel.data.annotations import Annotations
from mmlabel.errors import UserError
from mmlabel.report import (
    Score,
    StudyReport,
    VariantSummary,
    markdown_table,
    result_rows,
    write_results_csv,
    write_run_report,
    write_study_report,
)
from mmlabel.run_folder import RunRecord, read_run

NAMES = ["", "person", "bicycle", "car & van"]
EVIL = '<script>alert("caption")</script> & <img src=x onerror=alert(1)>'
METRICS = ("f1_micro", "f1_samples", "f1_macro", "map")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def write_run(
    folder: Path, *, ids: list[str], targets: np.ndarray, probs: np.ndarray, **extra: object
) -> RunRecord:
    """A run's folder with made-up scores; `targets` and `probs` are (N, 3) for labels 1 to 3."""
    folder.mkdir(parents=True)
    answers = probs >= 0.5
    hits, said, support = (targets & answers).sum(0), answers.sum(0), targets.sum(0)
    f1 = 2 * hits / np.maximum(said + support, 1)
    micro = 2 * hits.sum() / max(said.sum() + support.sum(), 1)
    labels = {
        str(k + 1): {
            "name": NAMES[k + 1],
            "support": int(support[k]),
            "precision": float(hits[k] / max(said[k], 1)),
            "recall": float(hits[k] / support[k]),
            "f1": float(f1[k]),
        }
        for k in range(3)
        if support[k]
    }
    scores = {f"{split}/{m}": float(micro) for split in ("val", "test") for m in METRICS}
    results = {
        "scores": scores | {"val/loss": 0.21, "test/loss": 0.22},
        "threshold": 0.5,
        "rows": {"train": 2000, "val": 250, "test": len(ids)},
        "labels": labels,
        "settings": {"lstm": {"layers": 1}, "seed": 0, "embedding": {"name": "glove"}},
        "overrides": ["lstm.layers=1"],
        "data_fingerprint": "abc",
        "seconds": {"setup": 1.0, "train": 9.0, "test": 0.5, "total": 10.5},
        "epochs": 5,
        "best_epoch": 3,
        "parameters": 1234567,
        "megabytes": 4.9,
        "versions": {"torch": "2.9"},
        "pretrained": {"backbone": "none", "embedding": "glove"},
        "notes": [],
        "study": None,
        "variant": None,
        "status": "finished",
    }
    (folder / "results.json").write_text(json.dumps(results | extra))
    header = ["ImageID", *(f"target_{k}" for k in (1, 2, 3)), *(f"prob_{k}" for k in (1, 2, 3))]
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for id, truth, prob in zip(ids, targets.astype(int), probs, strict=True):
            writer.writerow([id, *truth, *prob])
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss", *(f"val/{m}" for m in (*METRICS, "loss"))])
        for epoch in range(5):
            score = micro * (1 - 0.5 ** (epoch + 1))
            # As Lightning's logger: training and validation figures on lines of their own.
            writer.writerow([epoch, 10 * epoch, "", *[score] * 4, 0.5 / (epoch + 1) + 0.1])
            writer.writerow([epoch, 10 * epoch, 0.6 / (epoch + 1), "", "", "", "", ""])
    return read_run(folder)


def pictures(folder: Path, captions: list[str]) -> Annotations:
    """An annotated picture per caption; the labels are not used by the page."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    ids = [f"{n}.jpg" for n in range(len(captions))]
    for id in ids:
        blocks = random.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(40, 0).repeat(40, 1)
        Image.fromarray(blocks).save(folder / id)
    return Annotations(
        ids=ids,
        captions=captions,
        targets=np.zeros((len(ids), len(NAMES)), np.uint8),
        label_names=NAMES,
        pictures=[folder / id for id in ids],
    )


def random_run(folder: Path, *, rows: int, seed: int, noise: float) -> RunRecord:
    targets = np.random.default_rng(0).random((rows, 3)) < (0.8, 0.3, 0.2)
    shaken = targets + np.random.default_rng(seed).normal(0, noise, targets.shape)
    probs = np.clip(0.1 + 0.8 * shaken, 0, 1).round(4)
    return write_run(folder, ids=[f"{n}.jpg" for n in range(rows)], targets=targets, probs=probs)


def make_study(folder: Path, *, rows: int = 90) -> StudyReport:
    """Three variants, two seeds each, one published figure missing, one failed run."""
    variants = []
    for place, (name, noise) in enumerate([("layers_1", 0.3), ("layers_2", 0.32), ("8", 0.7)]):
        runs = [
            random_run(folder / name / str(seed), rows=rows, seed=10 * place + seed, noise=noise)
            for seed in range(2)
        ]
        scores = {}
        for metric in METRICS:
            values = [run.results["scores"][f"test/{metric}"] for run in runs]
            mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
            scores[f"test/{metric}"] = Score(mean, std, mean - 0.02, mean + 0.019)
        better_by = (
            None
            if not place
            else scores["test/f1_micro"][0] - variants[0].scores["test/f1_micro"][0]
        )
        variants.append(
            VariantSummary(
                name=name,
                label=["1 layer", "2 layers | wide", "8 layers <deep>"][place],
                runs=runs,
                scores=scores,
                published=[0.831, 0.81, None][place],
                verdict=["", "no difference shown", "worse"][place],
                explanation="" if not place else "in a sentence",
                difference=better_by,
                difference_interval=None if not place else (better_by - 0.02, better_by + 0.02),
                p_value=[None, 0.43, 0.0002][place],
                parameters=1234567 * (place + 1),
                megabytes=4.94 * (place + 1),
                seconds=10.5 + place,
                extra={"loss at the start": 0.69 + place},
            )
        )
    return StudyReport(
        title="LSTM layers",
        question="Does depth hurt?",
        baseline="layers_1",
        variants=variants,
        metric="test/f1_micro",
        published_label="Report",
        command="python train.py -m lstm.layers=1,2,8 seed=0,1",
        method="Paired bootstrap (Koehn 2004).",
        notes=["Pictures are drawn."],
        failed=[("lstm.layers=4", "<b>out of memory</b>")],
        annotations=pictures(
            folder / "pictures", [f"Caption {n}" for n in range(rows - 1)] + [EVIL]
        ),
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyReport:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study_page(study: StudyReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_report(tmp_path_factory.mktemp("page"), study)


class Page(HTMLParser):
    """Checks that tags are closed in order, and notes what the tests ask for."""

    VOID = {"meta", "link", "img", "br", "input"}

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def figures(html: str, table: str) -> list[dict[str, str]]:
    """The marked figures of each row of a table, without grouping commas."""
    body = html.split(f'<table id="{table}">')[1].split("</table>")[0]
    return [
        {
            name: text.replace(",", "")
            for name, text in re.findall(r'data-column="([^"]*)">([^<]*)<', row)
        }
        for row in body.split("<tr")[2:]
    ]


def read_csv(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_reading_a_run_merges_the_lines_of_an_epoch(tmp_path: Path):
    targets = np.array([[1, 0, 1], [0, 1, 0]], bool)
    probs = np.array([[0.9, 0.1, 0.5], [0.2, 0.49, 0.3]])
    run = write_run(tmp_path / "run", ids=["a.jpg", "b.jpg"], targets=targets, probs=probs)
    assert run.predictions.ids == ["a.jpg", "b.jpg"]
    assert run.predictions.labels == [1, 2, 3]
    assert (run.predictions.targets == targets).all() and (run.predictions.probs == probs).all()
    assert run.answers.tolist() == [[True, False, True], [False, False, False]]
    assert len(run.history) == 5
    assert run.history[1]["train/loss"] == 0.3 and run.history[1]["val/loss"] == 0.35


def test_a_run_that_is_not_finished_or_not_readable_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"results\.json is missing"):
        read_run(tmp_path)
    folder = tmp_path / "run"
    random_run(folder, rows=3, seed=0, noise=0.1)
    (folder / "predictions.csv").write_text("ImageID,target_1\na.jpg,1\n")
    with pytest.raises(UserError, match=r"predictions\.csv: columns"):
        read_run(folder)
    (folder / "results.json").write_text("{")
    with pytest.raises(UserError, match="no readable run"):
        read_run(folder)


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
    lone = StudyReport(
        title="t", question="q", baseline="y", variants=[variant], metric="test/f1_micro",
        published_label="Report", command="c",
    )  # fmt: skip
    (row,) = result_rows(lone)
    assert row["test/f1_micro"] == "0.5000" and row["difference"] == "0.0000"
    assert [
        row[k] for k in ("test/f1_micro_std", "test/f1_micro_high", "published", "p_value")
    ] == [""] * 4
    assert "| – |" in markdown_table(lone)


def test_everything_from_data_is_escaped(study, study_page):
    html = study_page.read_text()
    assert EVIL not in html and "<b>out of memory" not in html and "<deep>" not in html
    assert "&lt;script&gt;alert(&quot;caption&quot;)&lt;/script&gt;" in html
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


def test_large_pictures_are_left_out_once_the_page_is_full(study, tmp_path, monkeypatch):
    monkeypatch.setattr("mmlabel.report.PICTURE_BUDGET", 20_000)
    path = write_study_report(tmp_path, study)
    shown = [a["src"] for a in Page(path).all("img")]
    assert shown and sum(map(len, shown)) <= 20_000
    assert len([a for a in Page(path).all("li") if "data-kinds" in a]) == 60


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


def cards(html: str) -> dict[str, tuple[set[str], str]]:
    """Image id -> kinds and HTML of its card."""
    found = re.findall(r'<li data-id="([^"]*)" data-kinds="([^"]*)">(.*?)</li>', html, re.S)
    return {id: (set(kinds.split()), body) for id, kinds, body in found}


def test_the_gallery_says_what_is_right_missed_wrong_and_where_variants_differ(tmp_path):
    ids = ["0.jpg", "1.jpg", "2.jpg"]
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    first = np.array([[0.9, 0.1, 0.1], [0.9, 0.2, 0.7], [0.1, 0.1, 0.1]])
    second = np.array([[0.8, 0.1, 0.1], [0.9, 0.6, 0.1], [0.1, 0.1, 0.1]])
    variants = [
        VariantSummary(
            name=name, label=name, scores={},
            runs=[write_run(tmp_path / name, ids=ids[::step], targets=targets[::step],
                            probs=probs[::step])],
        )
        for name, probs, step in (("A", first, 1), ("B", second, -1))
    ]  # fmt: skip
    study = StudyReport(
        title="t", question="q", baseline="A", variants=variants, metric="test/f1_micro",
        published_label="Report", command="c",
        annotations=pictures(tmp_path / "pictures", ["one", "two", "three"]),
    )  # fmt: skip
    found = cards(write_study_report(tmp_path, study).read_text())
    assert {id: kinds for id, (kinds, _) in found.items()} == {
        "0.jpg": {"right"}, "1.jpg": {"wrong", "differ"}, "2.jpg": {"right"},
    }  # fmt: skip
    both = re.sub(r"<[^>]*>", "", found["0.jpg"][1])
    assert "All variants: right" in both
    wrong, right = found["1.jpg"][1].split("<dt>")[2:]
    assert "<b>A</b>: wrong" in wrong and "<b>B</b>: right" in right
    assert re.search(r'class="chip missed">.*missed: .*bicycle', wrong)
    assert re.search(r'class="chip extra">.*wrongly: .*car &amp; van', wrong)
    assert "chip missed" not in right and "chip extra" not in right
    assert "no label" in found["2.jpg"][1]
    assert (
        "every variant is right on 2 (67 %), none on 0 (0 %), and variants differ on 1"
        in (tmp_path / "report.html").read_text()
    )


def test_with_several_seeds_an_answer_needs_more_than_half_of_the_runs(tmp_path):
    targets = np.array([[1, 0, 0], [1, 0, 0]], bool)
    votes = ([0.9, 0.9], [0.1, 0.9], [0.1, 0.9])
    runs = [
        write_run(
            tmp_path / str(seed), ids=["0.jpg", "1.jpg"], targets=targets,
            probs=np.array([[p, 0, 0] for p in vote]),
        )
        for seed, vote in enumerate(votes)
    ]  # fmt: skip
    study = StudyReport(
        title="t", question="q", baseline="A", metric="test/f1_micro", published_label="Report",
        variants=[VariantSummary(name="A", label="A", runs=runs, scores={})], command="c",
        annotations=pictures(tmp_path / "pictures", ["one", "two"]),
    )  # fmt: skip
    found = cards(write_study_report(tmp_path, study).read_text())
    assert found["0.jpg"][0] == {"wrong"} and found["1.jpg"][0] == {"right"}


def test_a_study_in_which_nothing_finished_still_has_a_page(tmp_path):
    study = StudyReport(
        title="t", question="q", baseline="A", metric="test/f1_micro", published_label="Report",
        variants=[VariantSummary(name="A", label="A", runs=[], scores={})], command="c",
        failed=[("seed=0", "no such file")],
    )  # fmt: skip
    html = write_study_report(tmp_path, study).read_text()
    assert "no run finished" in html and "no such file" in html and 'id="gallery"' not in html


def test_the_page_of_a_run(tmp_path):
    run = random_run(tmp_path / "run", rows=60, seed=1, noise=0.4)
    (tmp_path / "run" / "results.json").write_text(json.dumps(run.results | {"notes": ["Drawn."]}))
    annotations = pictures(tmp_path / "pictures", [EVIL] * 60)
    annotations.pictures[0].write_bytes(b"no picture")
    path = write_run_report(tmp_path / "run", annotations)
    assert path == tmp_path / "run" / "report.html"
    html, page = path.read_text(), Page(path)
    by_metric = {k: v for row in figures(html, "results") for k, v in row.items()}
    for metric in (*METRICS, "loss"):
        assert by_metric[f"test/{metric}"] == f"{run.results['scores'][f'test/{metric}']:.4f}"
    label = run.results["labels"]["3"]
    assert "car &amp; van" in html and f"<td>{label['precision']:.3f}</td>" in html
    assert "lstm.layers" in html and "1,234,567" in html and "Drawn." in html
    charts = [attrs for attrs in page.all("svg") if attrs.get("class") == "chart"]
    assert len(charts) == 4
    found = cards(html)
    assert len(found) == 24 and len(page.all("img")) == 24 - ("0.jpg" in found)
    right = (run.answers == run.predictions.targets).all(axis=1)
    for id, (kinds, body) in found.items():
        row = run.predictions.ids.index(id)
        assert kinds == {"right" if right[row] else "wrong"}
        for k in np.flatnonzero(run.answers[row]):
            assert f"{run.predictions.probs[row, k]:.2f}</span>" in body
    assert {"right", "wrong"} == set.union(*(kinds for kinds, _ in found.values()))


def test_a_run_without_pictures_or_training_still_has_a_page(tmp_path):
    random_run(tmp_path / "run", rows=20, seed=1, noise=0.4)
    (tmp_path / "run" / "metrics.csv").unlink()
    path = write_run_report(tmp_path / "run", None)
    assert 'id="gallery"' not in path.read_text() and 'id="curves"' not in path.read_text()
    Page(path)


def test_a_page_costs_a_sweep_no_time(tmp_path):
    random_run(tmp_path / "run", rows=300, seed=1, noise=0.4)
    annotations = pictures(tmp_path / "pictures", ["a caption"] * 300)
    write_run_report(tmp_path / "run", annotations)
    begun = time.process_time()
    write_run_report(tmp_path / "run", annotations)
    assert time.process_time() - begun < 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the page was not tried in a browser")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: the page was not tried in a browser")
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=found, headless=True, args=quiet
        )
        yield context
        context.close()


@pytest.fixture
def open_page(browser) -> Iterator:
    """Opens a file and fails the test if the page complained or asked for anything else."""
    tab, trouble = browser.new_page(), []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:")) or trouble.append(request.url),
    )

    def open_file(path: Path, width: int):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.goto(path.as_uri())
        return tab

    yield open_file
    tab.close()
    assert trouble == []


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
