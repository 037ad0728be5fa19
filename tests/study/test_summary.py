"""That a study's table says what the evidence says, and what a study writes."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_study import finish, planned

from mmlabel.evidence import bootstrap_interval, compare, explain, holm
from mmlabel.run_folder import seal
from mmlabel.study.definition import Study
from mmlabel.study.output import write_study
from mmlabel.study.plan import Job
from mmlabel.study.printed import print_study
from mmlabel.study.summary import comparisons, study_report


def test_the_tables_figures_are_those_of_the_evidence(study: Study, tmp_path: Path):
    jobs = planned(study, tmp_path / "runs")
    for job in jobs:
        finish(job)
    report = study_report(study, jobs, command="c", annotations=None, resamples=500)
    a, b, c = report.variants
    answers = {v.name: np.stack([run.answers for run in v.runs]) for v in report.variants}
    targets = a.runs[0].predictions.targets
    compared = [
        compare(
            baseline=answers["a"],
            variant=answers[name],
            targets=targets,
            metric="f1_micro",
            resamples=500,
            comparisons=2,
        )
        for name in ("b", "c")
    ]
    assert [b.difference, c.difference] == [one.difference for one in compared]
    assert [b.p_value, c.p_value] == holm([one.p_value for one in compared])
    assert c.verdict == "worse" and a.verdict == "" and a.difference is None
    assert b.explanation == explain(compared[0], b.p_value)

    values = [run.results["scores"]["test/f1_macro"] for run in b.runs]
    score = b.scores["test/f1_macro"]
    assert (score.mean, score.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    interval = bootstrap_interval(targets, answers["b"], metric="f1_macro", resamples=500)
    assert (score.low, score.high) == interval
    # Losses 1 and 1/5 in the first and fifth epoch.
    assert b.extra["Fall of the loss, %"] == pytest.approx(80)
    assert b.extra["Fall of the loss, % (Published)"] == 40 and a.published == 0.8
    assert b.extra["Seconds (Published)"] == 99 and "Seconds" not in b.extra and b.seconds == 10


def test_the_first_epoch_has_the_number_0_everywhere_else_and_none_here(study, tmp_path: Path):
    study = replace(study, columns=["loss_first", "loss_fifth"])
    jobs = planned(study, tmp_path / "runs")
    for job in jobs:
        finish(job)
    report = study_report(study, jobs, command="c", annotations=None, resamples=100)
    for variant in report.variants:
        curve = {row["epoch"]: row["train/loss"] for row in variant.runs[0].history}
        assert variant.extra["Training loss, first epoch"] == curve[0] == 1
        assert variant.extra["Training loss, fifth epoch"] == pytest.approx(curve[4]) == 0.2


def test_unfinished_runs_are_failures_and_seeds_pair_up(study: Study, tmp_path: Path):
    jobs = planned(study, tmp_path / "runs")
    for job in jobs:
        # The baseline lacks seed 0, b lacks seed 2, c has none at all.
        if (job.variant.name, job.seed) not in {("a", 0), ("b", 2)} and job.variant.name != "c":
            finish(job)
    report = study_report(study, jobs, command="c", annotations=None, resamples=200)
    assert [len(variant.runs) for variant in report.variants] == [2, 2, 0]
    assert len(report.failed) == 5
    pairs = comparisons(
        study,
        {v.name: {run.results["settings"]["seed"]: run for run in v.runs} for v in report.variants},
        resamples=200,
    )
    assert set(pairs) == {"b"} and pairs["b"].seeds == 1
    assert report.notes == ["B: compared on seed 1 alone, which the baseline has, too."]


def test_without_a_baseline_or_the_same_rows_nothing_is_compared(study: Study, tmp_path: Path):
    jobs = planned(study, tmp_path / "runs")
    for job in jobs:
        if job.variant.name != "a":
            finish(job)
    report = study_report(study, jobs, command="c", annotations=None, resamples=200)
    assert "nothing is compared" in report.notes[-1]
    assert report.variants[1].verdict == "not compared"
    for job in jobs[:3]:
        finish(job, rows=50)
    report = study_report(study, jobs, command="c", annotations=None, resamples=200)
    assert [v.verdict for v in report.variants] == ["", "not compared", "not compared"]


@pytest.mark.parametrize("known", [1, 0])
def test_fewer_than_two_test_rows_are_not_compared(study: Study, tmp_path: Path, known: int):
    jobs = planned(study, tmp_path / "runs")
    for job in jobs:
        finish(job, rows=1)
        if not known:
            path = job.folder / "predictions.csv"
            header, row = path.read_text().splitlines()
            id, *cells = row.split(",")
            path.write_text(f"{header}\n{','.join([id, '', '', '', *cells[3:]])}\n")
            seal(job.folder)
    report = study_report(study, jobs, command="c", annotations=None, resamples=200)
    assert [v.verdict for v in report.variants] == ["", "not compared", "not compared"]
    assert "fewer than two test rows" in report.variants[1].explanation
    write_study(tmp_path / "mine", report, jobs=jobs, command="sweep that")
    lines = (tmp_path / "mine" / "results.csv").read_text().splitlines()
    (first, *_) = csv.DictReader(line for line in lines if line[0] != "#")
    assert first["test/f1_micro"] and not first["test/f1_micro_low"], "one row has no interval"
    assert (tmp_path / "mine" / "report.html").is_file()


def forget(folder: Path, row: int) -> None:
    """Make a target that is 0 one that is not known."""
    path = folder / "predictions.csv"
    lines = path.read_text().splitlines()
    cells = lines[row].split(",")
    cells[cells.index("0")] = ""
    path.write_text("\n".join([*lines[:row], ",".join(cells), *lines[row + 1 :]]) + "\n")
    seal(folder)


def test_variants_that_know_other_targets_are_not_compared(study: Study, tmp_path: Path):
    jobs = planned(study, tmp_path / "runs")
    for job in jobs:
        finish(job)
        if job.variant.name == "b":
            forget(job.folder, 3)
    report = study_report(study, jobs, command="c", annotations=None, resamples=200)
    assert [v.verdict for v in report.variants] == ["", "not compared", "worse"]
    assert [len(v.runs) for v in report.variants] == [3, 3, 3]
    for job in jobs:  # nor are those whose labels have other names
        path, name = job.folder / "results.json", "cow" if job.variant.name == "c" else "cat"
        record = json.loads(path.read_text()) | {"labels": {"1": {"name": name, "f1": 0.5}}}
        path.write_text(json.dumps(record))
        seal(job.folder)
    report = study_report(study, jobs, command="c", annotations=None, resamples=200)
    assert [v.verdict for v in report.variants] == ["", "not compared", "not compared"]
    assert [len(v.runs) for v in report.variants] == [3, 3, 3]


def test_a_seed_of_other_rows_is_left_out_and_said_to_be(study: Study, tmp_path: Path):
    jobs = planned(study, tmp_path / "runs")
    for job in jobs:
        finish(job, rows=50 if (job.variant.name, job.seed) == ("b", 1) else 60)
        if (job.variant.name, job.seed) == ("c", 2):
            forget(job.folder, 3)
    report = study_report(study, jobs, command="c", annotations=None, resamples=200)
    assert [len(v.runs) for v in report.variants] == [3, 2, 2]
    assert all(v.verdict not in ("", "not compared") for v in report.variants[1:])
    said = [note for note in report.notes if "counts in nothing" in note]
    assert len(said) == 2
    assert said[0].startswith("b, seed 1, was not tested on") and said[1].startswith("c, seed 2,")


def test_what_a_study_writes(study: Study, tmp_path: Path):
    jobs = planned(study, tmp_path / "runs", seeds=2)
    for job in jobs[:-1]:
        finish(job)
    report = study_report(study, jobs, command="train this", annotations=None, resamples=200)
    write_study(tmp_path / "mine", report, jobs=jobs, command="sweep that")
    lines = (tmp_path / "mine" / "results.csv").read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert any("sweep that" in line for line in header)
    assert any("train this" in line for line in header)
    assert any("torch 2" in line for line in header)
    assert any("a machine" in line for line in header)
    rows = list(csv.DictReader(lines[len(header) :]))
    assert float(rows[0]["test/f1_micro"]) == pytest.approx(
        report.variants[0].scores["test/f1_micro"].mean, abs=5e-5
    )
    with open(tmp_path / "mine" / "runs.csv", newline="") as file:
        runs = list(csv.DictReader(file))
    assert [run["status"] for run in runs] == ["finished"] * 5 + ["failed"]
    assert (tmp_path / "mine" / runs[0]["folder"] / "results.json").is_file()
    page = (tmp_path / "mine" / "table.md").read_text()
    assert "| A |" in page and "ended without a result" in page
    assert (tmp_path / "mine" / "report.html").is_file()


READ = {"data": "d", "splits": "s", "pictures": "p", "words": "w"}


def notes_of(study: Study, jobs: list[Job]) -> list[str]:
    return study_report(study, jobs, command="c", annotations=None, resamples=100).notes


def noted(study: Study, jobs: list[Job], last: dict[str, str]) -> list[str]:
    """What a table notes where the last run has read something else."""
    for job in jobs:
        # Vectors of words without one follow the seed.
        own = READ | {"vectors": f"v{job.seed}", "backbone": "b"}
        own["ready-made vectors"] = "r"  # those of the words that have one follow no seed
        finish(job, inputs=own | last if job == jobs[-1] else own)
    return [note for note in notes_of(study, jobs) if "have read" in note]


@pytest.mark.parametrize("name", ["pictures", "words", "vectors", "backbone"])
def test_a_table_says_which_runs_have_read_something_else(study: Study, tmp_path: Path, name: str):
    jobs = planned(study, tmp_path / "runs")
    (note,) = noted(study, jobs, {name: "other"})
    assert name in note and str(jobs[-1].folder) in note


@pytest.mark.parametrize("name", ["vectors", "backbone"])
def test_what_follows_no_seed_is_compared_though_no_two_runs_have_a_seed_in_common(
    study: Study, tmp_path: Path, name: str
):
    jobs = planned(study, tmp_path / "runs")
    jobs = [jobs[0], jobs[4]]
    (note,) = noted(study, jobs, {f"ready-made {name}" if name == "vectors" else name: "other"})
    assert name in note
    assert noted(study, jobs, {}) == []


@pytest.mark.parametrize("part", ["embedding", "backbone"])
def test_seeds_that_went_on_without_what_others_have_read_are_said(
    study: Study, tmp_path: Path, part: str
):
    """Their digests follow the seed, or there is none to compare: the source tells."""
    jobs = planned(study, tmp_path / "runs", seeds=2, overrides=("data.on_missing=continue",))
    known = {"embedding": "glove (gensim)", "backbone": "pretrained (a.pth)", "detector": "-"}
    without = {"embedding": "learned (50-d)", "backbone": "none (pretrained weights not available)"}
    for job in jobs:
        missing = {part: without[part]} if job.seed == 0 else {}
        ready = {"ready-made vectors": "r"} if known | missing == known else {}
        read = READ | {"vectors": f"v{job.seed}"} | ready
        finish(job, inputs=read, pretrained=known | missing)
    (note,) = [note for note in notes_of(study, jobs) if "have read" in note]
    assert {"embedding": "word vectors", "backbone": "weights of the backbone"}[part] in note
    assert str(jobs[0].folder) in note and str(jobs[1].folder) in note
    for job in jobs:  # none of them had it, or all did
        finish(job, inputs=READ | {"vectors": f"v{job.seed}"}, pretrained=known | without)
    assert not [note for note in notes_of(study, jobs) if "have read" in note]


def test_trained_backbones_differ_by_seed_where_their_weights_are_drawn_from_it(
    study: Study, tmp_path: Path
):
    trained = ("backbone.frozen=false", "backbone.weights=none")
    for place, (source, overrides, said) in enumerate(
        (
            ("none (random weights)", trained, False),
            ("pretrained (a.pth)", trained[:1], True),
        )
    ):
        jobs = planned(study, tmp_path / str(place), seeds=2, overrides=overrides)
        for job in jobs:
            finish(job, inputs={"backbone": f"b{job.seed}"}, pretrained={"backbone": source})
        assert any("have read" in note for note in notes_of(study, jobs)) == said


def test_weights_are_compared_between_variants_that_use_them_otherwise(
    study: Study, tmp_path: Path
):
    jobs = planned(study, tmp_path / "a", seeds=1)[:1]
    jobs += planned(study, tmp_path / "b", seeds=1, overrides=("backbone.unfreeze=1",))[1:2]
    for job in jobs:
        finish(job, inputs={"backbone": f"b{jobs.index(job)}"})
    (note,) = [note for note in notes_of(study, jobs) if "have read" in note]
    assert "weights of the backbone" in note


def test_a_note_says_for_which_runs_it_holds(study: Study, tmp_path: Path, capsys):
    """In table.md, on the page and on the terminal alike."""
    holds = {
        "some seeds": lambda job: job.seed != 2,
        "some of each": lambda job: (job.variant.name, job.seed) in (("a", 0), ("b", 1)),
        "one whole": lambda job: (
            job.variant.name == "b" or (job.variant.name, job.seed) == ("c", 0)
        ),
        "variants": lambda job: job.variant.name in ("a", "c"),
        "everywhere": lambda job: True,
    }
    jobs = planned(study, tmp_path / "runs")
    for job in jobs:
        finish(job, notes=[note for note, its in holds.items() if its(job)])
    report = study_report(study, jobs, command="c", annotations=None, resamples=100)
    write_study(tmp_path / "mine", report, jobs=jobs, command="sweep that")
    print_study(report)
    said = {
        "some seeds (seeds 0, 1)",
        "some of each (A, seed 0; B, seed 1)",
        "one whole (B; C, seed 0)",
        "variants (A, C)",
        "everywhere",
    }
    written = (tmp_path / "mine" / "table.md").read_text().splitlines()
    assert {f"- Note: {line}" for line in said} == {
        line for line in written if line.startswith("- Note: ")
    }
    page = (tmp_path / "mine" / "report.html").read_text()
    assert all(line in page for line in said)
    assert said <= set(capsys.readouterr().out.splitlines())


FORTY = {name: name * 40 for name in "abc"}


def test_runs_of_several_commits_are_said_to_be(study: Study, tmp_path: Path, capsys):
    """On the terminal, in table.md and on the page; the runs stay as they are."""

    def said(**commits: str | None) -> list[str]:
        jobs = planned(study, tmp_path / "runs")
        for job in jobs:
            made = commits.get(job.variant.name, commits.get(f"of_{job.seed}", FORTY["a"]))
            finish(job, commit=made, versions={"mmlabel": "1.2", "torch": "2"})
        report = study_report(study, jobs, command="c", annotations=None, resamples=100)
        assert [len(one.runs) for one in report.variants] == [3, 3, 3] and not report.failed
        write_study(tmp_path / "mine", report, jobs=jobs, command="sweep that")
        print_study(report)
        written = (tmp_path / "mine" / "table.md").read_text().splitlines()
        page = (tmp_path / "mine" / "report.html").read_text()
        printed = capsys.readouterr().out.splitlines()
        notes = [line for line in printed if line.startswith("Runs of several")]
        assert notes == [note for note in report.notes if "several versions" in note]
        assert all(f"- Note: {note}" in written and note in page for note in notes)
        return notes

    assert said() == []
    assert said(a=None, b=None, c=None) == []
    assert said(of_2=FORTY["b"]) == [
        "Runs of several versions of the code: commit aaaaaaaaaaaa (seeds 0, 1); commit"
        " bbbbbbbbbbbb (seed 2)."
    ]
    assert said(of_0=f"{FORTY['a']}+changes") == [
        "Runs of several versions of the code: commit aaaaaaaaaaaa+changes (seed 0); commit"
        " aaaaaaaaaaaa (seeds 1, 2)."
    ]
    assert said(b=FORTY["b"], of_2=None) == [
        "Runs of several versions of the code: commit aaaaaaaaaaaa (A, seeds 0, 1; C, seeds 0, 1);"
        " mmlabel 1.2 outside git (A, seed 2; C, seed 2); commit bbbbbbbbbbbb (B)."
    ]


def test_runs_with_other_libraries_are_said_to_be(study: Study, tmp_path: Path):
    def said(**changed: str) -> list[str]:
        jobs = planned(study, tmp_path / "runs")
        for job in jobs:
            versions = {"python": "3.12.1", "torch": "2.14.0", "numpy": "2.4.6", "wandb": "0.31.0"}
            finish(job, versions=versions | (changed if job.seed == 2 else {}))
        return [note for note in notes_of(study, jobs) if "several versions" in note]

    assert said() == []
    assert said(python="3.12.2", wandb="0.32.0", openvino="2026.1") == []
    assert said(torch="2.15.0", numpy="2.5.0") == [
        "Runs with several versions of libraries: torch 2.14.0, numpy 2.4.6 (seeds 0, 1);"
        " torch 2.15.0, numpy 2.5.0 (seed 2)."
    ]


def test_seeds_in_several_precisions_are_said_to_be(study: Study, tmp_path: Path):
    """As features.precision=auto is on several machines; variants may be told to differ."""

    def said(precision_of: Callable[[Job], str]) -> list[str]:
        jobs = planned(study, tmp_path / "runs")
        for job in jobs:
            finish(job, features={"precision": precision_of(job)})
        return [note for note in notes_of(study, jobs) if "precision" in note]

    assert said(lambda job: "float32") == []
    assert said(lambda job: "float32" if job.variant.name == "a" else "bfloat16") == []
    assert said(lambda job: "float32" if job.seed == 2 else "bfloat16") == [
        "Runs with features in several precisions: bfloat16 (seeds 0, 1); float32 (seed 2)."
    ]


def test_runs_that_were_not_told_to_read_the_same_may_differ(study: Study, tmp_path: Path):
    jobs = planned(study, tmp_path / "runs")
    assert noted(study, jobs, {}) == []
    # Other rows have other pictures and words, and other words have other vectors.
    others = {name: "other" for name in ("splits", "pictures", "words", "vectors")}
    others["ready-made vectors"] = "other"
    assert noted(study, jobs, others) == []
