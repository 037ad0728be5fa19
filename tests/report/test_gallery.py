"""The gallery: which answers are right, missed, wrong, and where variants differ."""

import re
from dataclasses import replace

import numpy as np
import pytest
from made_up import (
    Page,
    assert_shown_as_seen,
    cards,
    odd_pictures,
    pictures,
    pictures_shown,
    write_run,
)

from mmlabel.data.overview import labels_of, pictures_of
from mmlabel.label_errors import answered_rows
from mmlabel.report import StudyReport, VariantSummary, write_run_report, write_study_report
from mmlabel.report.data_page import DataSet, write_data_page
from mmlabel.report.gallery import label_names
from mmlabel.report.mistakes_page import Mistakes, write_mistakes_page


def test_large_pictures_are_left_out_once_the_page_is_full(study, tmp_path, monkeypatch):
    monkeypatch.setattr("mmlabel.report.gallery.PICTURE_BUDGET", 20_000)
    path = write_study_report(tmp_path, study)
    shown = [a["src"] for a in Page(path).all("img")]
    assert shown and sum(map(len, shown)) <= 20_000
    assert len([a for a in Page(path).all("li") if "data-kinds" in a]) == 60


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


def test_no_answer_is_held_against_labels_that_the_run_has_not_read(tmp_path):
    """Of data.uncertain=0 and data.uncertain=1, for instance."""
    ids = ["0.jpg", "1.jpg"]
    read = {
        "A": np.array([[1, 0, 0], [1, 0, 0]], bool),
        "B": np.array([[1, 1, 0], [1, 0, 0]], bool),
    }
    variants = [
        VariantSummary(
            name=name, label=name, scores={},
            runs=[write_run(tmp_path / name, ids=ids, targets=own, probs=0.9 * own)],
        )
        for name, own in read.items()
    ]  # fmt: skip
    study = StudyReport(
        title="t", question="q", baseline="A", variants=variants, metric="test/f1_micro",
        published_label="Report", command="c",
        annotations=pictures(tmp_path / "pictures", ["one", "two"]),
    )  # fmt: skip
    page = write_study_report(tmp_path, study).read_text()
    assert set(cards(page)) == {"1.jpg"}
    assert "Of 1 test picture, every variant is right on 1 (100 %)" in page


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


def test_where_no_variants_differ_half_of_the_rows_are_right(tmp_path):
    ids, targets = [f"{n}.jpg" for n in range(300)], np.ones((300, 3), bool)
    probs = np.where(np.arange(300)[:, None] % 3 == 0, [0.1, 0.9, 0.9], 0.9)  # 100 are wrong
    runs = [
        write_run(tmp_path / str(seed), ids=ids, targets=targets, probs=probs) for seed in (0, 1)
    ]
    study = StudyReport(
        title="t", question="q", baseline="A", metric="test/f1_micro", published_label="Report",
        variants=[VariantSummary(name="A", label="A", runs=runs, scores={})], command="c",
        annotations=pictures(tmp_path / "pictures", ["one"] * 300),
    )  # fmt: skip
    found = cards(write_study_report(tmp_path, study).read_text())
    kinds = [kind for kinds, _ in found.values() for kind in kinds]
    assert kinds.count("wrong") == kinds.count("right") == 30


def test_a_run_shows_the_mistakes_it_was_surest_of_first(tmp_path):
    random = np.random.default_rng(0)
    targets = random.random((300, 3)) < 0.4
    probs = random.random((300, 3)).round(4)
    write_run(tmp_path / "run", ids=[f"{n}.jpg" for n in range(300)], targets=targets, probs=probs)
    annotations = pictures(tmp_path / "pictures", ["a caption"] * 300)
    found = cards(write_run_report(tmp_path / "run", annotations).read_text())
    sure = np.where((probs >= 0.5) != targets, np.maximum(probs, 1 - probs), 0).max(axis=1)
    order = [int(id.removesuffix(".jpg")) for id in found]
    right = [row for row in order if sure[row] == 0]
    assert order[:40] == np.argsort(-sure, kind="stable")[:40].tolist()
    assert order[40:] == right and right == sorted(right) and len(right) == 20
    labels = re.search(r'data-labels="([^"]*)"', found[f"{order[0]}.jpg"][1])
    concerned = targets[order[0]] | (probs[order[0]] >= 0.5)
    assert labels and labels[1] == " ".join(str(k + 1) for k in np.flatnonzero(concerned))


@pytest.mark.parametrize(
    ("settings", "upright"),
    [
        ({"data": {"name": "csv", "upright": True}}, True),
        ({"data": {"name": "csv", "upright": False}}, False),
        ({"data": {"name": "csv"}}, False),  # a run from before there was the option
        ({"data": {"name": "csv", "upright": False}, "detector": {"name": "file"}}, True),
    ],
)
def test_pictures_are_shown_as_the_network_saw_them(tmp_path, settings: dict, upright: bool):
    targets, probs = np.ones((2, 3), bool), np.full((2, 3), 0.9)
    run = write_run(
        tmp_path / "run", ids=["0.jpg", "1.jpg"], targets=targets, probs=probs, settings=settings
    )
    annotations = odd_pictures(tmp_path / "pictures")
    page = write_run_report(tmp_path / "run", annotations).read_text()
    assert_shown_as_seen(pictures_shown(page), upright=upright)

    rows = answered_rows([run])
    found = Mistakes(replace(rows, probs=1 - rows.probs), None, annotations, {}, [])
    path = tmp_path / "mistakes.html"
    write_mistakes_page(path, found, runs=[run], most=9, command="c")
    assert_shown_as_seen(pictures_shown(path.read_text()), upright=upright)


@pytest.mark.parametrize("upright", [False, True])
def test_the_data_page_shows_pictures_as_networks_see_them(tmp_path, upright: bool):
    annotations = odd_pictures(tmp_path / "pictures")
    ids = [*annotations.ids, "again.png", "again.jpg"]
    twice = replace(
        annotations, ids=ids, captions=ids, pictures=annotations.pictures * 2,
        targets=annotations.targets.repeat(2, 0),
    )  # fmt: skip
    rows = {"train": np.arange(4), "val": np.arange(0), "test": np.arange(0)}
    found = DataSet(
        name="made", rows={"train": 4, "val": 0, "test": 0}, total=4,
        labels=labels_of(twice, rows), captions=None,
        pictures=pictures_of(twice, rows, upright=upright), notes=[],
    )  # fmt: skip
    page = write_data_page(tmp_path / "data.html", found, command=["python"]).read_text()
    assert_shown_as_seen(pictures_shown(page), upright=upright)


def test_names_are_those_that_a_run_recorded(tmp_path):
    targets = np.array([[1, 1, 0]], bool)
    run = write_run(tmp_path / "run", ids=["0.jpg"], targets=targets, probs=targets * 0.9)
    today = pictures(tmp_path / "pictures", ["one"])
    assert label_names([run], None) == {1: "person", 2: "bicycle"}
    assert label_names([run], today) == {1: "person", 2: "bicycle", 3: "car & van"}
    other = replace(today, label_names=["", "tree", "person", "bicycle"])
    assert label_names([run], other) == {1: "person", 2: "bicycle"}, "numbered otherwise by now"


def test_of_several_captions_the_first_is_shown(tmp_path):
    targets = np.array([[1, 0, 0]], bool)
    run = write_run(tmp_path / "run", ids=["0.jpg"], targets=targets, probs=targets * 0.9)
    one = pictures(tmp_path / "pictures", ["the first caption"])
    several = replace(
        one,
        ids=one.ids * 2,
        captions=["the first caption", "the second caption"],
        targets=one.targets.repeat(2, axis=0),
        pictures=one.pictures * 2,
    )
    page = write_run_report(run.folder, several).read_text()
    assert "the first caption" in page and "the second caption" not in page
