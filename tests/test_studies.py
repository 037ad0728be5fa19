"""Studies: their files, which runs they share, and that the table says what the evidence says."""

import csv
import json
import shlex
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_runs import write_fake_run

from mmlabel.cli import CONF, default_settings, group_options, option_names
from mmlabel.errors import UserError
from mmlabel.evidence import bootstrap_interval, compare, holm
from mmlabel.run_folder import failure, finished
from mmlabel.studies import (
    Collection,
    Job,
    Study,
    commands,
    comparisons,
    job_overrides,
    load_study,
    override_key,
    plan,
    run_key,
    seconds_needed,
    study_names,
    study_report,
    write_study,
)

VALID = {
    "title": "T",
    "question": "Q?",
    "baseline": "a",
    "columns": ["loss_fall"],
    "variants": {
        "a": {"label": "A", "overrides": ["noise=0.1"], "published": 0.8},
        "b": {
            "label": "B",
            "overrides": ["noise=0.2"],
            "published_columns": {"loss_fall": 40.0, "seconds": 99},
        },
        "c": {"label": "C", "overrides": ["noise=0.4"]},
    },
}


def write_study_file(folder: Path, content: object, name: str = "mine") -> Path:
    (folder / f"{name}.yaml").write_text(
        content if isinstance(content, str) else yaml.safe_dump(content)
    )
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study("mine", write_study_file(tmp_path, VALID))


def fake_settings(overrides: list[str]) -> dict:
    values = dict(item.split("=") for item in overrides)
    return {"data": {"name": "fake"}, "noise": float(values["noise"]), "lr": values.get("lr")}


def planned(study: Study, runs: Path, *, seeds: int = 3, overrides: tuple = ()) -> list[Job]:
    return plan(
        study,
        seeds=seeds,
        overrides=overrides,
        runs=runs,
        settings_of=fake_settings,
        data_key=lambda settings: "data",
    )


def finish(job: Job, *, rows: int = 60, seconds: float = 10.0) -> None:
    write_fake_run(
        job.folder,
        seed=job.seed,
        noise=job.settings["noise"],
        rows=rows,
        settings=job.settings,
        seconds=seconds,
    )


# ------------------------------------------------------------------------------------- the files


def provided() -> list[Study]:
    studies = [load_study(name) for name in study_names()]
    return [study for study in studies if isinstance(study, Study)]


def test_the_studies_of_the_report_are_there():
    everything = load_study("all")
    assert isinstance(everything, Collection)
    assert {"pos_weight", "lstm_layers", "backbone", "optimizer", "modality", "embedding"} <= {
        study.name for study in everything.studies
    }


@pytest.mark.parametrize("study", provided(), ids=lambda study: study.name)
def test_every_variant_of_every_study_composes_to_settings_of_its_own(study: Study):
    settings = [
        default_settings(job_overrides(study, variant, ["trainer.max_epochs=3"]))
        for variant in study.variants
    ]
    assert all(one["trainer"]["max_epochs"] == 3 for one in settings)
    assert len({run_key(one, "") for one in settings}) == len(study.variants)


def test_published_figures_are_the_reports():
    layers = {variant.name: variant.published for variant in load_study("lstm_layers").variants}
    assert layers == {"1": 0.831, "2": 0.81, "4": 0.77, "8": 0.63}
    weight = {variant.name: variant.published for variant in load_study("pos_weight").variants}
    assert weight == {"without": 0.847, "with": 0.633}


def changed(**changes: object) -> dict:
    return {key: value for key, value in (VALID | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(titel="x"), 'unknown "titel"; did you mean "title"?'),
        (changed(title=None), "title is missing"),
        (changed(title=3), "title: 3 is of the wrong type"),
        (changed(seeds=True), "seeds: True is of the wrong type"),
        (changed(seeds=0), "seeds: must be 1 or more"),
        (changed(baseline="d"), 'baseline: unknown "d"'),
        (changed(metric="test/f1_mikro"), 'did you mean "test/f1_micro"?'),
        (changed(columns=["los_fall"]), 'did you mean "loss_fall"?'),
        (changed(fixed=["lstm.layers"]), "'lstm.layers' is no override"),
        (changed(fixed=["seed=3"]), "seed=3: a study sets this itself"),
        (changed(variants={"a": {"label": "A"}}), "variant a: overrides is missing"),
        (changed(variants={"a": 3}), "variant a: must hold"),
        (
            changed(variants={"a": {"label": "A", "overrides": [], "publish": 1}}),
            'variant a: unknown "publish"; did you mean "published"?',
        ),
        ({"title": "T", "question": "Q", "studies": ["mien"]}, 'no study "mien"; did you mean'),
        ("title: a\ntitle: b\n", "title"),
        ("- a\n", "must hold title"),
    ],
)
def test_mistakes_in_a_study_file_are_named(tmp_path: Path, content: object, message: str):
    with pytest.raises(UserError) as error:
        load_study("mine", write_study_file(tmp_path, content))
    assert message in str(error.value)


def test_a_misspelt_study_gets_the_nearest():
    with pytest.raises(UserError, match='no study "lstm_layer"; did you mean "lstm_layers"'):
        load_study("lstm_layer")


# --------------------------------------------------------------------------------------- the runs


def test_a_runs_folder_follows_from_what_decides_its_result(tmp_path: Path):
    settings = {"lr": 0.1, "seed": 0, "data": {"root": "x", "workers": 2}, "logger": {"csv": True}}
    key = run_key(settings, "data")
    assert key == run_key(settings | {"name": "n", "study": {"name": "s"}, "logger": None}, "data")
    assert key == run_key(settings | {"data": {"root": "x", "workers": 0}}, "data")
    assert key != run_key(settings | {"lr": 0.2}, "data")
    assert key != run_key(settings | {"seed": 1}, "data")
    assert key != run_key(settings, "other data")


def test_another_file_of_the_same_name_is_another_run(tmp_path: Path):
    weights = tmp_path / "weights.pt"
    weights.write_text("one")
    before = run_key({"weights": str(weights)}, "")
    weights.write_text("three")
    assert run_key({"weights": str(weights)}, "") != before


def test_the_command_lines_overrides_replace_fixed_ones_and_variants_have_the_last_word(study):
    study = replace(study, fixed=["optimizer=adam", "lr=1"])
    given = job_overrides(study, study.variants[0], ["lr=2", "optimizer=sgd", "x=3"])
    assert sorted(given) == ["lr=2", "noise=0.1", "optimizer=sgd", "x=3"]


def test_what_a_study_compares_cannot_be_overridden(study: Study, tmp_path: Path):
    with pytest.raises(UserError, match='noise is what the study "mine" compares'):
        planned(study, tmp_path, overrides=("noise=0.3",))


def test_variants_that_are_the_same_are_a_mistake(study: Study, tmp_path: Path):
    twin = replace(study.variants[0], name="twin")
    with pytest.raises(UserError, match="variants a and twin have the same settings"):
        planned(replace(study, variants=[*study.variants, twin]), tmp_path)


@pytest.mark.parametrize("name", ["lstm_layers", "backbone", "optimizer"])
def test_the_printed_commands_make_the_same_runs(name: str):
    study = load_study(name)
    from_commands = []
    for line in commands(study, seeds=2, overrides=["data.rows=[60,24,24]"]):
        words = shlex.split(line)
        assert words[:3] == ["python", "train.py", "-m"]
        grid = [
            [item] if "[" in item else [f"{override_key(item)}={v}" for v in values.split(",")]
            for item in words[3:]
            for values in [item.split("=", 1)[1]]
        ]
        from_commands += [default_settings(list(job)) for job in product(*grid)]
    expected = [
        default_settings([*job_overrides(study, variant, ["data.rows=[60,24,24]"]), f"seed={seed}"])
        for variant in study.variants
        for seed in range(2)
    ]
    assert from_commands == expected


def test_one_command_is_enough_where_one_option_varies():
    assert len(commands(load_study("lstm_layers"), seeds=3, overrides=[])) == 1
    assert commands(load_study("lstm_layers"), seeds=1, overrides=[])[0].endswith(
        "lstm.layers=1,2,4,8 seed=0"
    )
    assert len(commands(load_study("optimizer"), seeds=3, overrides=[])) == 2


def test_the_time_estimate_is_the_variants_own_then_the_studys_then_any(study, tmp_path: Path):
    jobs = planned(study, tmp_path / "runs")
    assert seconds_needed(jobs, jobs, tmp_path / "runs") is None
    write_fake_run(tmp_path / "runs" / "other", seed=0, noise=0.1, seconds=7)
    assert seconds_needed(jobs, jobs, tmp_path / "runs") == 9 * 7
    for job, seconds in ((jobs[0], 10), (jobs[1], 14), (jobs[3], 30)):
        finish(job, seconds=seconds)
    pending = [job for job in jobs if not finished(job.folder)]
    # One of a (median 12), two of b (30), three of c, of which nothing is known (median 14).
    assert seconds_needed(jobs, pending, tmp_path / "runs") == 12 + 2 * 30 + 3 * 14


def test_why_a_run_failed_is_read_from_its_folder(tmp_path: Path):
    (tmp_path / "failed.json").write_text(json.dumps({"error": "no weights"}))
    assert failure(tmp_path) == "no weights"
    assert "ended without a result" in failure(tmp_path / "killed")


# ------------------------------------------------------------------------------------- the table


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
        )
        for name in ("b", "c")
    ]
    assert [b.difference, c.difference] == [one.difference for one in compared]
    assert [b.p_value, c.p_value] == holm([one.p_value for one in compared])
    assert c.verdict == "worse" and a.verdict == "" and a.difference is None
    assert "smallest difference this study could have seen" in b.explanation

    values = [run.results["scores"]["test/f1_macro"] for run in b.runs]
    score = b.scores["test/f1_macro"]
    assert (score.mean, score.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    interval = bootstrap_interval(targets, answers["b"], metric="f1_macro", resamples=500)
    assert (score.low, score.high) == interval
    # Losses 1 and 1/5 in the first and fifth epoch.
    assert b.extra["Fall of the loss, %"] == pytest.approx(80)
    assert b.extra["Fall of the loss, % (Published)"] == 40 and a.published == 0.8
    assert b.extra["Seconds (Published)"] == 99 and "Seconds" not in b.extra and b.seconds == 10


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


# ------------------------------------------------------------------------------------- searches


def test_the_wandb_sweep_sets_options_that_exist():
    sweep = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())
    assert set(sweep["parameters"]) <= set(option_names())
    assert sweep["metric"] == {"name": default_settings([])["monitor"], "goal": "maximize"}


def test_the_optuna_search_sets_options_that_exist():
    assert "optuna" in group_options("hparams_search")
    search = yaml.safe_load((CONF / "hparams_search" / "optuna.yaml").read_text())
    assert set(search["hydra"]["sweeper"]["params"]) <= set(option_names())
    assert search["test"] is False
