"""The runs of a study: which they are, which studies share them, when they are found again."""

import shlex
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from fake_runs import write_fake_run
from hydra.errors import HydraException
from made_up_study import finish, nothing, planned, settings_of

from mmlabel.errors import UserError
from mmlabel.run_folder import finished, read_results, seal, write_json
from mmlabel.settings import override_key, read_settings
from mmlabel.study.definition import Study, load_study
from mmlabel.study.plan import Job, changes, commands, job_overrides, run_key, seconds_needed


def test_a_runs_folder_follows_from_what_decides_its_result():
    differing = {"lr": 0.1, "seed": 0, "data.root": "x", "data.workers": 2, "logger.csv": True}
    key = run_key(differing, {}, "data")
    assert key == run_key(differing | {"name": "n", "study.name": "s", "logger": None}, {}, "data")
    assert key == run_key(differing | {"data.workers": 0}, {}, "data")
    assert key != run_key(differing | {"lr": 0.2}, {}, "data")
    assert key != run_key(differing | {"seed": 1}, {}, "data")
    assert key != run_key(differing, {"weights": "1234"}, "data")
    assert key != run_key(differing, {}, "other data")


def test_another_file_of_the_same_name_is_another_run(study: Study, tmp_path: Path):
    weights = tmp_path / "weights.pt"
    folders = set()
    for content in ("one", "three", "one"):
        weights.write_text(content)
        jobs = planned(study, tmp_path / "runs", overrides=(f"backbone.weights={weights}",))
        folders.add(jobs[0].folder)
    assert len(folders) == 2


def test_what_would_change_with_the_seed_is_refused(study: Study, tmp_path: Path):
    with pytest.raises(UserError, match=r"data.split_seed would change with the seed"):
        planned(study, tmp_path, overrides=("data=usyd", "data.root=x", "data.split_seed=${seed}"))
    assert planned(study, tmp_path, overrides=("experiment=demo", "name=a-${optimizer.lr}"))


def record(job: Job, **lstm: object) -> None:
    """Change what a finished run has recorded of its BiLSTM; None: it recorded nothing of it."""
    results = read_results(job.folder)
    recorded = results["settings"]["lstm"] | lstm
    results["settings"]["lstm"] = {key: value for key, value in recorded.items() if value}
    write_json(job.folder / "results.json", results)
    seal(job.folder)


def test_finished_runs_are_found_after_an_option_has_been_added(
    study: Study, tmp_path: Path, caplog
):
    before = planned(study, tmp_path / "runs")
    for job in before:
        finish(job)
        record(job, pooling=None)  # as if of a time when there was no such option
    caplog.set_level("INFO")
    after = planned(study, tmp_path / "runs")
    assert [job.folder for job in after] == [job.folder for job in before]
    assert all(finished(job.folder) for job in after) and not caplog.records
    # With another value than the default's they are other runs.
    other = planned(study, tmp_path / "runs", overrides=("lstm.pooling=last",))
    assert not {job.folder for job in other} & {job.folder for job in before}


ONE_BATCH = ("trainer.limit_train_batches=1", "trainer.limit_test_batches=1")


def test_a_run_of_one_batch_is_none_of_all(study: Study, tmp_path: Path, caplog):
    """A whole number counts batches, and a fraction is a share: 1 is not 1.0."""
    tried = planned(study, tmp_path / "runs", overrides=ONE_BATCH)
    for job in tried:
        finish(job)
    assert all(
        finished(job.folder) for job in planned(study, tmp_path / "runs", overrides=ONE_BATCH)
    )
    whole = planned(study, tmp_path / "runs")
    assert not {job.folder for job in whole} & {job.folder for job in tried}
    # In the folder of a whole run, where a version that told them not apart has written it.
    finish(replace(whole[0], settings=tried[0].settings))
    caplog.set_level("INFO")
    assert not finished_ones(planned(study, tmp_path / "runs"))
    assert "trainer.limit_train_batches was 1 and is now 1.0" in caplog.text


def test_an_option_that_came_later_counts_as_what_the_runs_had_done(study: Study, tmp_path: Path):
    before = planned(study, tmp_path / "runs")
    for job in before:
        finish(job)
        record(job, pooling=None)

    def complete(recorded: dict) -> dict:
        # Before the option, the last states were taken; today's default is another.
        lstm = {"pooling": "last"} | recorded["lstm"]
        return read_settings(recorded | {"lstm": lstm}).plain()

    after = planned(study, tmp_path / "runs", complete=complete)
    assert not any(finished(job.folder) for job in after)


def test_runs_on_pictures_of_other_content_are_made_again(study: Study, tmp_path: Path, caplog):
    before = planned(study, tmp_path / "runs")
    for job in before[:4]:
        finish(job, inputs={"pictures": "old"})
    finish(before[4])  # of a version that did not record it
    assert finished_ones(planned(study, tmp_path / "runs", pictures="old")) == before[:5]
    # They cannot be looked at any more: what was found with them stays.
    assert finished_ones(planned(study, tmp_path / "runs", pictures=None)) == before[:5]
    caplog.set_level("INFO")
    after = planned(study, tmp_path / "runs", pictures="new")
    assert finished_ones(after) == [before[4]]
    assert all(finished(job.folder) for job in before[:4])  # and stay as they are
    assert "4 finished runs" in caplog.text and "content of the pictures has changed" in caplog.text
    for job in after[:4]:
        finish(job, inputs={"pictures": "new"})
    assert finished_ones(planned(study, tmp_path / "runs", pictures="new")) == after[:5]
    assert finished_ones(planned(study, tmp_path / "runs", pictures="old")) == before[:5]


def finished_ones(jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if finished(job.folder)]


def test_a_run_depends_on_the_content_of_a_models_folder(study: Study, tmp_path: Path):
    model = tmp_path / "model"
    (model / "inner").mkdir(parents=True)
    (model / "inner" / "weights").write_text("one")
    overrides = ("model=detector_fusion", "detector=file", f"detector.weights={model}")
    before = planned(study, tmp_path / "runs", overrides=overrides)
    assert planned(study, tmp_path / "runs", overrides=overrides) == before
    (model / "inner" / "weights").write_text("two, longer")
    after = planned(study, tmp_path / "runs", overrides=overrides)
    assert not {job.folder for job in after} & {job.folder for job in before}


def test_runs_of_another_default_are_never_taken_for_those_of_todays(
    study: Study, tmp_path: Path, caplog
):
    before = planned(study, tmp_path / "runs")
    for job in before[:4]:
        finish(job)
        record(job, hidden=64)  # as if that had been the default then, so that the key is the same
    caplog.set_level("INFO")
    after = planned(study, tmp_path / "runs")
    assert not any(finished(job.folder) for job in after)
    assert all(finished(job.folder) for job in before[:4])  # and stay as they are
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and "4 finished runs are not those of this study any more" in said[0]
    assert "lstm.hidden was 64 and is now 128" in said[0]

    for job in after:
        finish(job)
    again = planned(study, tmp_path / "runs")
    assert [job.folder for job in again] == [job.folder for job in after]
    assert not {job.folder for job in after[:4]} & {job.folder for job in before[:4]}


def test_how_a_run_is_recorded_does_not_make_it_another(study: Study, tmp_path: Path):
    for job in planned(study, tmp_path / "runs"):
        finish(job)
    jobs = planned(study, tmp_path / "runs", overrides=("report=false", "data.workers=5"))
    assert all(finished(job.folder) for job in jobs)


def test_runs_whose_settings_are_no_longer_understood_are_left_alone(study, tmp_path: Path):
    def complete(recorded: dict) -> dict:
        raise UserError('there is no option "gone"')

    for job in planned(study, tmp_path / "runs"):
        finish(job)
    jobs = planned(study, tmp_path / "runs", complete=complete)
    assert not any(finished(job.folder) for job in jobs)
    assert changes({"gone": 1}, {}, complete) == [
        'their settings are no longer understood (there is no option "gone")'
    ]


def test_overrides_without_effect_are_left_out_of_a_variant_and_said(
    study: Study, tmp_path: Path, caplog
):
    given, own = "optimizer.lr=0.5", "model.head.dropout=0.2"

    def unused(overrides: list[str]) -> set[str]:
        # Only variant b has no use for the learning rate.
        return {given, own} & set(overrides) if own in overrides else set()

    caplog.set_level("INFO")
    jobs = planned(study, tmp_path, seeds=1, overrides=(given,), unused=unused)
    rates = [job.settings.optimizer.lr for job in jobs if job.settings.optimizer]
    assert rates[0] == rates[2] == 0.5 != rates[1]
    assert [record.message for record in caplog.records] == [
        "variant b: optimizer.lr=0.5 has no effect there and is left out"
    ]
    assert own in jobs[1].overrides  # a variant's own are never left out
    lines = commands(study, seeds=1, overrides=[given], unused=unused)
    assert [given in line for line in lines] == [True, False, True]


@pytest.mark.parametrize(
    ("name", "given", "has_it"),
    [
        ("embedding", "embedding.name=glove-wiki-gigaword-50", {"glove"}),
        ("embedding", "embedding.dim=20", {"word2vec", "learned"}),
        ("embedding", "embedding.dropout=0.1", {"glove", "word2vec", "learned"}),
        ("optimizer", "optimizer.rho=0.8", {"adadelta"}),
    ],
)
def test_options_that_exist_for_some_variants_are_given_to_these(name, given, has_it, caplog):
    study = load_study(name)
    caplog.set_level("INFO")
    jobs = planned(study, Path("none"), seeds=1, overrides=(given,))
    assert {job.variant.name for job in jobs if given in job.overrides} == has_it
    left_out = {job.variant.name for job in jobs} - has_it
    assert {r.message.split(":")[0] for r in caplog.records} == {f"variant {v}" for v in left_out}


def test_a_mistake_of_one_variant_is_said_with_its_name_and_one_of_all_without(
    study: Study, tmp_path: Path
):
    def unused(overrides: list[str]) -> set[str]:
        # The first of the variants alone is refused, or all are.
        if "model.head.dropout=0.1" in overrides or "optimizer.lr=2" in overrides:
            raise UserError("no such thing")
        return set()

    with pytest.raises(UserError, match="^variant a: no such thing$"):
        planned(study, tmp_path, overrides=("optimizer.lr=1",), unused=unused)
    with pytest.raises(UserError, match="^no such thing$"):
        planned(study, tmp_path, overrides=("optimizer.lr=2",), unused=unused)


def test_an_option_of_another_kind_than_all_variants_have_is_refused(study: Study, tmp_path: Path):
    given = ("embedding=word2vec", "embedding.name=glove-wiki-gigaword-50")
    with pytest.raises(HydraException, match=r"embedding\.name"):
        planned(study, tmp_path, overrides=given)


def test_the_command_lines_overrides_replace_fixed_ones_and_variants_have_the_last_word(study):
    study = replace(study, fixed=["optimizer=adam", "lr=1"])
    given = job_overrides(study, study.variants[0], ["lr=2", "optimizer=sgd", "x=3"], nothing)
    assert sorted(given) == ["lr=2", "model.head.dropout=0.1", "optimizer=sgd", "x=3"]


def test_what_a_study_compares_cannot_be_overridden(study: Study, tmp_path: Path):
    with pytest.raises(UserError, match='model.head.dropout is what the study "mine" compares'):
        planned(study, tmp_path, overrides=("model.head.dropout=0.3",))


@pytest.mark.parametrize("name", ["a", "2", "0.5", "1e3", "true", "no", "null", "NaN", "v1.5"])
def test_a_variants_name_reaches_its_runs_as_it_is(study: Study, tmp_path: Path, name: str):
    variants = [replace(study.variants[0], name=name), *study.variants[1:]]
    job = planned(replace(study, variants=variants, baseline=name), tmp_path)[0]
    assert settings_of(tuple(job.overrides)).study.variant == name


def test_variants_that_are_the_same_are_a_mistake(study: Study, tmp_path: Path):
    twin = replace(study.variants[0], name="twin")
    with pytest.raises(UserError, match="variants a and twin have the same settings"):
        planned(replace(study, variants=[*study.variants, twin]), tmp_path)


@pytest.mark.parametrize("name", ["lstm_layers", "backbone", "optimizer"])
def test_the_printed_commands_make_the_same_runs(name: str):
    study = load_study(name)
    from_commands = []
    for line in commands(study, seeds=2, overrides=["data.rows=[60,24,24]"], unused=nothing):
        words = shlex.split(line)
        assert words[:3] == ["python", "train.py", "-m"]
        grid = [
            [item] if "[" in item else [f"{override_key(item)}={v}" for v in values.split(",")]
            for item in words[3:]
            for values in [item.split("=", 1)[1]]
        ]
        from_commands += [settings_of(job) for job in product(*grid)]
    expected = [
        settings_of(
            (*job_overrides(study, variant, ["data.rows=[60,24,24]"], nothing), f"seed={seed}")
        )
        for variant in study.variants
        for seed in range(2)
    ]
    assert from_commands == expected


def test_one_command_is_enough_where_one_option_varies():
    assert len(commands(load_study("lstm_layers"), seeds=3, overrides=[], unused=nothing)) == 1
    assert commands(load_study("lstm_layers"), seeds=1, overrides=[], unused=nothing)[0].endswith(
        "lstm.layers=1,2,4,8 seed=0"
    )
    assert len(commands(load_study("optimizer"), seeds=3, overrides=[], unused=nothing)) == 2


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
