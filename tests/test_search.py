"""A search for better settings: its trials, going on, giving up, and what it leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mmlabel.cli import load_settings, settings_from
from mmlabel.errors import UserError
from mmlabel.help import CONF
from mmlabel.processes import Started
from mmlabel.search.__main__ import main
from mmlabel.search.space import load_space, write_experiment
from mmlabel.settings import Settings, option_names
from mmlabel.training import train

optuna = pytest.importorskip("optuna", reason="not installed: pip install -e '.[search]'")

REPOSITORY = Path(__file__).resolve().parent.parent
SPACE = {"optimizer.lr": {"low": 1e-3, "high": 1e-2, "log": True}, "lstm.layers": [1, 2]}


@pytest.fixture
def options(quick: list[str]) -> list[str]:
    """Of a search whose trials take a second."""
    fitting = [option for option in quick if not option.startswith(("backbone", "features"))]
    fitting = [o for o in fitting if not o.startswith(("report", "trainer.max_epochs"))]
    return [*fitting, "model=caption_only", "trainer.max_epochs=1", "loss=focal"]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump({"trials": 2, "parameters": SPACE}, sort_keys=False)
    )
    return tmp_path / "space.yaml"


def search(options: list[str], space: Path, *more: str) -> None:
    main([*options, "--space", str(space), "--out", str(space.parent / "out"), *more])


def runs(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/results.json"))]


def trials_of(folder: Path) -> list:
    from mmlabel.search.trials import database

    return optuna.load_study(study_name="search", storage=database(folder)).trials


def best_of(folder: Path) -> Settings:
    """What train.py --config-dir FOLDER experiment=found reads."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["experiment=found", f"hydra.searchpath=[file://{folder}]"])
    return settings_from(config, ["experiment=found"])


def test_the_best_of_a_search_is_an_experiment(
    options: list[str], space: Path, tmp_path: Path, capsys
):
    search(options, space)
    found = runs(tmp_path / "out")
    assert len(found) == 2
    assert not any(name.startswith("test/") for run in found for name in run["scores"])
    rates = [run["settings"]["optimizer"]["lr"] for run in found]
    assert len(set(rates)) == 2 and all(1e-3 <= rate <= 1e-2 for rate in rates)
    search(options, space, "--trials", "3")
    found = runs(tmp_path / "out")
    assert len({run["settings"]["optimizer"]["lr"] for run in found}) == 3
    best = max(found, key=lambda run: run["scores"]["val/f1_micro"])
    score = best["scores"]["val/f1_micro"]
    said = capsys.readouterr().out
    assert f"the best of 3 trials: val/f1_micro {score:.4f} with optimizer.lr=" in said
    text = (tmp_path / "out" / "experiment" / "found.yaml").read_text()
    assert "the best of 3 trials" in text
    wanted = best["settings"] | {"test": True, "report": True}
    assert best_of(tmp_path / "out").plain() == wanted


@pytest.mark.parametrize("monitor", ["val/map", "val/loss"])
def test_a_threshold_that_moves_no_score_is_not_chosen(
    monitor: str, options: list[str], space: Path, tmp_path: Path, capsys
):
    """Of the default space, whose best threshold would be one that was drawn at random."""
    content = {"trials": 1, "parameters": SPACE | {"threshold": {"low": 0.3, "high": 0.6}}}
    space.write_text(yaml.safe_dump(content))
    search([*options, f"monitor={monitor}"], space)
    assert f"threshold is not chosen: it has no effect with monitor={monitor}" in (
        capsys.readouterr().out
    )
    found = yaml.safe_load((tmp_path / "out" / "experiment" / "found.yaml").read_text())
    assert "threshold" not in found and "optimizer" in found
    space.write_text(yaml.safe_dump({"trials": 1, "parameters": {"threshold": [0.4, 0.5]}}))
    with pytest.raises(UserError, match="nothing is left to choose"):
        search([*options, f"monitor={monitor}"], space)


@pytest.mark.parametrize(
    ("parameters", "given", "named"),
    [
        ({"data.split_seed": [0, 1]}, [], "another data.split_seed a trial"),
        ({"trainer.limit_val_batches": [1, 2]}, [], "another trainer.limit_val_batches a trial"),
        ({"data.batch_size": [5, 9]}, ["trainer.limit_val_batches=1"],
         "another data.batch_size beside trainer.limit_val_batches=1 a trial"),
        ({"data.batch_size": [5, 9]}, [], None),
        ({"data.batch_size": [5, 9]}, ["trainer.limit_val_batches=1.0"], None),
    ],
)  # fmt: skip
def test_trials_are_scored_on_the_same_rows(
    parameters: dict, given: list[str], named: str | None, options, space: Path, monkeypatch
):
    """A trial's score on 5 rows would be held against another's on 9."""
    from mmlabel.search import trials

    class Begun(Exception):
        pass

    monkeypatch.setattr(trials, "run_trials", Mock(side_effect=Begun))
    space.write_text(yaml.safe_dump({"trials": 2, "parameters": parameters}))
    kept = [option for option in options if not option.startswith("data.batch_size")]
    with pytest.raises(UserError if named else Begun, match=named):
        search([*kept, *given], space)


def test_another_search_is_not_gone_on_with(options: list[str], space: Path, tmp_path: Path):
    search(options, space, "--trials", "1")
    with pytest.raises(UserError, match="holds a search with other options"):
        search([*options, "lstm.hidden=4"], space)
    content = {"trials": 2, "parameters": SPACE | {"threshold": [0.4, 0.5]}}
    space.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="holds a search with other parameters"):
        search(options, space)


def test_a_search_is_not_gone_on_with_on_other_data(
    options: list[str], space: Path, made: Path, tmp_path: Path
):
    shutil.copytree(made, tmp_path / "made")
    rows = tmp_path / "made" / "rows.csv"
    given = [option for option in options if not option.startswith("data.rows")]
    given += ["data=csv", f"data.file={rows}"]
    search(given, space, "--trials", "1")
    search(given, space, "--trials", "1")  # of the same data
    rows.write_text(rows.read_text().replace("morning", "evening"))
    with pytest.raises(UserError, match=r"as the data .* has changed since: restore it"):
        search(given, space, "--trials", "2")


def test_a_search_is_not_gone_on_with_with_other_word_vectors(
    options: list[str], space: Path, made: Path, tmp_path: Path
):
    vectors = tmp_path / "vectors.txt"
    given = [option for option in options if not option.startswith("embedding")]
    given += ["embedding=file", f"embedding.file={vectors}"]
    vectors.write_text("car 0.1 0.2\ndog 0.3 0.4\na 0.5 0.6\n")
    search(given, space, "--trials", "1")
    search(given, space, "--trials", "2")  # with the same vectors
    vectors.write_text("car 0.1 0.2\ndog 0.3 0.4\na 0.5 0.7\n")
    with pytest.raises(UserError, match="trial 2 has not read the same word vectors: restore"):
        search(given, space, "--trials", "3")
    assert [trial.state.name for trial in trials_of(tmp_path / "out")][-1] == "FAIL"
    vectors.write_text("car 0.1 0.2\ndog 0.3 0.4\na 0.5 0.6\n")
    search(given, space, "--trials", "3")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are Linux's /proc's")
def test_the_database_is_closed_after_a_search(options: list[str], space: Path, tmp_path: Path):
    search(options, space, "--trials", "1")
    opened = [descriptor.resolve() for descriptor in Path("/proc/self/fd").iterdir()]
    assert (tmp_path / "out" / "trials.db").resolve() not in opened


def with_trials_that(monkeypatch: pytest.MonkeyPatch, *errors: UserError | None) -> None:
    """Have one trial after the other end with its error; None: with a score."""
    from mmlabel.search import trials

    calls = iter(errors)

    def train_or_fail(*given, **options):
        error = next(calls)
        if error is not None:
            raise error
        return {"scores": {"val/f1_micro": 0.5}}

    monkeypatch.setattr(trials, "train", train_or_fail)


def test_a_trial_that_fails_is_not_the_end(options: list[str], space: Path, tmp_path, monkeypatch):
    """The first one is: those after it would fail as well."""
    with_trials_that(monkeypatch, UserError("first"), None, UserError("third"), None)
    with pytest.raises(UserError, match="first"):
        search(options, space, "--trials", "4")
    search(options, space, "--trials", "4")
    states = [trial.state.name for trial in trials_of(tmp_path / "out")]
    assert states == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]


def test_a_search_of_one_trial_after_one_that_failed(
    options: list[str], space: Path, tmp_path: Path, monkeypatch, capsys
):
    """It makes another one: of none that failed is there a best."""
    with_trials_that(monkeypatch, UserError("first"), UserError("second"), None)
    for said in ("first", "second"):
        with pytest.raises(UserError, match=said):
            search(options, space, "--trials", "1")
    search(options, space, "--trials", "1")
    assert "val/f1_micro 0.5000 with" in capsys.readouterr().out
    states = [trial.state.name for trial in trials_of(tmp_path / "out")]
    assert states == ["FAIL", "FAIL", "COMPLETE"]


def test_a_run_that_falls_behind_is_given_up(settings_of: Callable[..., Settings], tmp_path: Path):
    from mmlabel.search.trials import Prune

    told: list[tuple[int, float]] = []
    trial = SimpleNamespace(
        report=lambda score, epoch: told.append((epoch, score)),
        should_prune=lambda: told[-1][0] == 1,
    )
    prune = Prune(trial, "val/f1_micro")
    settings = settings_of("model=caption_only", "trainer.max_epochs=5", "patience=null")
    results = train(settings, tmp_path / "run", callbacks=[prune])
    assert prune.pruned and results["epochs"] == 2
    assert [epoch for epoch, _ in told] == [0, 1]
    assert max(score for _, score in told) == pytest.approx(results["scores"]["val/f1_micro"])


def test_an_epoch_that_is_not_validated_tells_nothing(settings_of, tmp_path: Path):
    from mmlabel.search.trials import Prune

    told: list[int] = []
    trial = SimpleNamespace(report=lambda _, epoch: told.append(epoch), should_prune=lambda: False)
    settings = settings_of("model=caption_only", "trainer.max_epochs=5", "patience=null",
                           "trainer.check_val_every_n_epoch=2")  # fmt: skip
    train(settings, tmp_path / "run", callbacks=[Prune(trial, "val/f1_micro")])
    assert told == [1, 3]


PROGRAM = """
import os, signal, sys
from mmlabel.search import trials
from mmlabel.search.__main__ import main
runs = []
def train(settings, folder, **options):
    runs.append(folder)
    if len(runs) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"scores": {"val/f1_micro": settings.optimizer.lr}}
trials.train = train
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_search_goes_on(options: list[str], space: Path, tmp_path: Path, monkeypatch):
    """The trial that was killed is tried again, with the same values; the one before is not."""
    from mmlabel.search import trials

    command = [sys.executable, "-c", PROGRAM, *options]
    command += ["--space", str(space), "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    rates: list[float] = []

    def train(settings: Settings, folder: Path, **options):
        assert settings.optimizer is not None
        rates.append(settings.optimizer.lr)
        return {"scores": {"val/f1_micro": rates[-1]}}

    monkeypatch.setattr(trials, "train", train)
    search(options, space, "--trials", "3")
    found = trials_of(tmp_path / "out")
    assert [trial.state.name for trial in found] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert found[1].params == found[2].params
    assert rates == [trial.params["optimizer.lr"] for trial in found[2:]]
    assert len({trial.params["optimizer.lr"] for trial in found}) == 3


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["experiment=demo", "logger=csv", "optimizer=adamw"],
        [
            "data=csv",
            "data.file=x.csv",
            'data.label_names=["",a,"b c"]',
            "model=caption_only",
            "trainer=cpu",
            "trainer.detect_anomaly=true",
            "loss=focal",
            "patience=null",
        ],
        ["backbone=vgg16", "backbone=resnet18", "optimizer.eps=1e-7", "optimizer.eps=1e-9"],
        ["experiment=report_vgg16", "experiment=demo", "logger=csv"],
    ],
)
def test_an_experiment_gives_what_the_options_gave(given: list[str], tmp_path: Path):
    chosen = {"optimizer.lr": 0.0123, "lstm.layers": 2, "threshold": None}
    write_experiment(tmp_path, given, chosen, "What it is.")
    options = [*given, "optimizer.lr=0.0123", "lstm.layers=2", "threshold=null"]
    assert best_of(tmp_path) == load_settings(options)


def test_values_that_yaml_reads_as_text_are_numbers_in_the_file_too(tmp_path: Path):
    (tmp_path / "space.yaml").write_text(
        "trials: 1\nparameters: {optimizer.lr: [1e-3], test: ['false'], data.augment: ['[crop]']}"
    )
    allowed = load_space(str(tmp_path / "space.yaml")).parameters
    chosen = {name: values[0] for name, values in allowed.items() if isinstance(values, list)}
    assert chosen["optimizer.lr"] == "1e-3"
    write_experiment(tmp_path, [], chosen, "What it is.")
    given = ["optimizer.lr=1e-3", "test=false", "data.augment=[crop]"]
    assert best_of(tmp_path) == load_settings(given)


# ---- What it chooses from ----------------------------------------------------------------------


def test_the_searches_that_come_with_the_project_set_options_that_exist():
    for path in (CONF / "search").glob("*.yaml"):
        assert set(load_space(path.stem).parameters) <= set(option_names())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("parameters: {optimizer.lr: [1]}", "trials: Field required"),
        ("trials: 1\nparameters: {}", "parameters: "),
        ("trials: 1\nparameters: {optimizer.l: [1]}", 'did you mean "optimizer.lr"'),
        ("trials: 1\nparameters: {optimizer.lr: {low: 2, high: 1}}", "low has to be below high"),
        ("trials: 1\nparameters: {optimizer.lr: {low: 0, high: 1, log: true}}", "above 0"),
        ("trials: [", "is no YAML"),
    ],
)
def test_a_space_that_is_none_is_one_message(content: str, said: str, tmp_path: Path):
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(UserError, match=said):
        load_space(str(tmp_path / "space.yaml"))
    with pytest.raises(UserError, match="cannot be read"):
        load_space(str(tmp_path / "no.yaml"))
    with pytest.raises(UserError, match='there is no "defaul"; did you mean "default"'):
        load_space("defaul")


def test_a_record_is_not_searched_from(settings_of, space: Path, tmp_path: Path):
    """Its settings cannot be chosen, and the file of the best trial would be refused."""
    train(settings_of("model=caption_only", "trainer.max_epochs=1"), tmp_path / "run")
    with pytest.raises(UserError, match=r"repeat=.*run: a search chooses some of the settings"):
        main([f"repeat={tmp_path / 'run'}", "--space", str(space), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("optimizer.lr=1", "the search chooses"),
        ("lstm.layers=1,2", "tries several values"),
        ("test=true", "leave it out"),
        ("hydra.run.dir=x", "leave it out"),
        ("--config-dir=x", "--config-dir x: a search has no options of Hydra's, and no files"),
        ("trainer=ddp", "trainer.devices=2: a trial is one process; start several searches"),
        ("trainer.devices=-1", "trainer.devices=-1: a trial is one process"),
        ("trainer.num_nodes=2", "trainer.num_nodes=2: a trial is one process"),
        ("debug=limit", "debug=limit: the file of the best trial cannot choose it"),
        ("resume=true", "resume=true: a search goes on by itself"),
        ("~loss", "OPTION=VALUE only"),
        ("backbone=vgg16", "no effect with model=caption_only"),
    ],
)
def test_options_that_a_search_cannot_have(option: str, said: str, options, space: Path):
    with pytest.raises(UserError, match=said):
        search([*options, option], space)
    assert not (space.parent / "out").exists()


def test_a_search_of_several_processes_is_refused(options, space: Path, monkeypatch):
    """Each would begin a search of its own; one device by its number is one process."""
    from mmlabel.search import __main__ as command
    from mmlabel.search import trials

    monkeypatch.setattr(trials, "train", lambda *_, **__: {"scores": {"val/f1_micro": 0.5}})
    search([*options, "trainer.devices=[0]"], space, "--trials", "1")
    monkeypatch.setattr(command, "started", lambda: Started("torchrun", 0, 2))
    with pytest.raises(UserError, match="torchrun has started 2 processes: a trial is one"):
        search(options, space)
