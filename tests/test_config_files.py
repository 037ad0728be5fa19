"""Files that may set any option, beside a command line that chooses something else."""

import re
import shlex
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from resumed_runs import CAPTIONS, results_of

from mmlabel.cli import _compose, command_settings, load_settings, parse
from mmlabel.errors import UserError
from mmlabel.help import CONF, choices
from mmlabel.settings import Settings

FILES = {
    "experiment/mine": "defaults:\n  - override /optimizer: adamw\n  - override /embedding: glove\n"
    "optimizer:\n  lr: 2e-3\nembedding:\n  name: glove-wiki-gigaword-50\n  dropout: 0.1\n",
    "experiment/like_mine": "defaults:\n  - mine\n  - _self_\nlstm:\n  hidden: 16\n",
    "experiment/adadelta": "defaults:\n  - mine\n  - override /optimizer: adadelta\n  - _self_\n",
    "experiment/no_choice": "optimizer:\n  lr: 0.01\n",
    "experiment/my_data": "data:\n  image_size: 64\n",
    "experiment/detector": "defaults:\n  - override /model: detector\n"
    "  - override /detector: file\ndetector:\n  weights: mine.pt\n",
    "hyper/slow": "optimizer:\n  lr: 1e-4\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's own configuration files."""
    folder = tmp_path_factory.mktemp("configuration")
    for name, content in FILES.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# @package _global_\n{content}")
    return folder


@pytest.fixture
def settings_beside(folder: Path):
    def resolve(*overrides: str) -> Settings:
        return load_settings([*overrides, f"hydra.searchpath=[file://{folder}]"])

    return resolve


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "experiment=mine optimizer=adadelta",
            "experiment=mine sets optimizer.lr=0.002 for optimizer=adamw, and optimizer=adadelta is"
            " chosen: give optimizer.lr=5.0, or another value, too, or optimizer=adamw",
        ),
        ("experiment=like_mine optimizer=sgd", "like_mine sets .* give optimizer.lr=0.05"),
        ("experiment=adadelta", "optimizer.lr=0.002 for optimizer=adamw, and optimizer=adadelta"),
        ("experiment=no_choice optimizer=sgd", "optimizer.lr=0.01 for optimizer=adam, and .*=sgd"),
        ("+hyper=slow optimizer=sgd", "hyper=slow sets optimizer.lr=0.0001 for optimizer=adam"),
        ("experiment=detector detector=yolov5x", "detector.weights=mine.pt for detector=file"),
        ("experiment=best optimizer=adadelta", "experiment=best sets optimizer.lr=0.002"),
    ],
)  # fmt: skip
def test_a_value_that_is_for_another_kind_is_refused(settings_beside, options: str, message: str):
    with pytest.raises(UserError, match=message):
        settings_beside(*options.split())


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ("experiment=mine optimizer=adadelta optimizer.lr=5", 5),
        ("experiment=mine optimizer=adamw", 2e-3),
        ("experiment=mine optimizer=adam", 2e-3),  # whose own is AdamW's
        ("experiment=no_choice", 0.01),
        ("+hyper=slow optimizer=adamw", 1e-4),
        ("optimizer=adadelta", 5),
    ],
)
def test_a_value_that_is_given_or_meant_is_taken(settings_beside, options: str, rate: float):
    assert settings_beside(*options.split()).optimizer.lr == rate


def test_data_is_not_for_a_file_to_choose(settings_beside, made: Path):
    settings = settings_beside("experiment=my_data", "data=usyd", f"data.root={made}")
    assert settings.data.image_size == 64


def test_what_another_kind_does_not_have_is_left_out_and_said(settings_beside, caplog):
    settings = settings_beside("experiment=like_mine", "embedding=learned")
    assert settings.embedding.dropout == 0.1, "the file's, which every kind has"
    assert settings.lstm.hidden == 16 and settings.optimizer.lr == 2e-3
    assert (
        "embedding.name=glove-wiki-gigaword-50 of experiment=like_mine: not there with"
        " embedding=learned, and left out" in caplog.text
    )
    with pytest.raises(UserError, match="embedding.name does not exist with embedding=learned"):
        settings_beside("experiment=mine", "embedding=learned", "embedding.name=x")


def test_a_mistyped_file_of_ones_own_is_told(folder: Path):
    where = f"hydra.searchpath=[file://{folder}]"
    with pytest.raises(UserError, match=r'no experiment="mien"; did you mean "mine"\?$'):
        command_settings([where, "experiment=mien"])
    with pytest.raises(UserError, match="choose from adadelta, best, .*demo, .*like_mine, mine, "):
        command_settings([where, "experiment=xyzzy"])


def test_what_a_file_of_ones_own_takes_from_a_group_that_there_is_not_is_told(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("defaults:\n  - /modle/kind: small\n")
    with pytest.raises(UserError, match=r'no group of options "modle/kind" to choose small from$'):
        command_settings([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])


def assert_refused(content: str, said: str, folder: Path) -> None:
    """An experiment of one's own with this content is answered so."""
    (folder / "experiment").mkdir()
    file = folder / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\n{content}\n")
    with pytest.raises(UserError, match=said):
        command_settings([f"hydra.searchpath=[file://{folder}]", "experiment=mine"])


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("model", "caption_only"),
        ("caption", "transformer"),
        ("embedding", "learned"),
        ("decoder", "default"),
        ("optimizer", "sgd"),
        ("data", "usyd"),
        ("trainer", "cpu"),
    ],
)
def test_a_group_that_a_file_sets_to_a_name_is_told(group: str, name: str, tmp_path: Path):
    said = f"{group}={name}: this is a group of options, choose {group}=NAME, which is `- over"
    assert_refused(f"{group}: {name}", said, tmp_path)


def test_a_file_with_a_name_of_the_projects_is_refused(tmp_path: Path):
    """It is never read, which nothing would tell."""
    (tmp_path / "experiment").mkdir()
    mine, theirs = (place / "experiment" / "demo.yaml" for place in (tmp_path, CONF))
    mine.write_text("# @package _global_\nseed: 7\n")
    given = [f"hydra.searchpath=[file://{tmp_path}]", "seed=1"]
    with pytest.raises(UserError, match="experiment/demo.yaml: never read, as files of .*/conf ha"):
        command_settings(given)
    mine.write_bytes(theirs.read_bytes())  # as in a copy of the folder with more files in it
    assert command_settings(given).seed == 1


def test_a_hidden_file_is_refused_where_options_are_printed_alone(train_py, tmp_path: Path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    file = tmp_path / "mine" / "experiment" / "demo.yaml"
    file.write_text("# @package _global_\nseed: 7\n")
    for given in (["--config-dir=mine"], ["hydra.searchpath=[mine]"]):
        said, code = train_py("--cfg=job", *given, "experiment=demo")
        assert code == 1 and f"{file}: never read" in said and len(said.splitlines()) == 1
    file.rename(file.with_name("own.yaml"))
    said, code = train_py("--cfg=job", "--config-dir=mine", "experiment=own")
    assert code == 0 and "seed: 7\n" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "lstm.layers: 2",
            "mine.yaml: lstm.layers: in a file options stand .*: `lstm:`.*layers: 2`",
        ),
        ("model:\n  head.dropout: 0.1", "head.dropout: .*: `head:`, and .*, `dropout: 0.1`"),
        ("5: 3", "mine.yaml: 5: the name of an option is a text"),
        ("optimizer.lr=3", "mine.yaml: optimizer.lr=3: .*: `optimizer:`, and .*, `lr: 3`$"),
        ("lstm:\n  layers: '2'", "lstm.layers=2: give a whole number, .*; it is a text here, as "),
        ("defaults:\n  - override optimizer: adamw", "`- override /optimizer: NAME`"),
        ("defaults:\n  - /optimizer: adamw", "chosen before: .* `- override /optimizer: NAME`"),
        (
            "defaults:\n  override /optimizer: adamw",
            "mine.yaml: .* defaults must be a list .*; a line",
        ),
        (
            "defaults:\n  - override /optimizer.lr: 3",
            "mine.yaml: Unsupported item value .*; a line",
        ),
        ("on: 3", "mine.yaml: true: the name of an option is a text"),
        ("defaults:\n  - mine\n  - _self_", "experiment/mine.yaml takes itself in by its defaults"),
    ],
)
def test_names_that_hydra_takes_for_others_are_told(content: str, said: str, tmp_path: Path):
    assert_refused(content, said, tmp_path)


def test_a_run_says_what_it_goes_without(quick: list[str], folder: Path, train_py, tmp_path: Path):
    """Once, in its notes; and its page has the command that makes it again, files included."""
    given = [option for option in quick if not option.startswith(("backbone", "features"))]
    given += [*CAPTIONS, "experiment=mine", "hydra.run.dir=run"]
    given += ["trainer.max_epochs=1", "report=true"]
    said, code = train_py("--config-dir", str(folder), *given)
    assert code == 0, said
    results = results_of(tmp_path / "run")
    assert results["settings"]["optimizer"]["lr"] == 2e-3
    (note,) = [note for note in results["notes"] if "left out" in note]
    assert note.startswith("embedding.name=glove-wiki-gigaword-50 of experiment=mine: ")
    assert results["sources"] == ["--config-dir", str(folder)]
    html = (tmp_path / "run" / "report.html").read_text()
    shown = shlex.split(unescape(re.search(r"<code>(.*?)</code>", html, re.S)[1]))
    assert shown == ["python", "train.py", *results["sources"], *results["overrides"]]


@pytest.mark.parametrize(
    "options",
    [
        ["seed=3", "lstm.layers=2"],
        ["experiment=best", "data.image_size=[64,96]"],
        ["trainer.max_epochs=3", "++trainer.max_epochs=4"],
        ["seed=1", "name='run ${seed}'"],
        ["logger=csv", "logger.wandb.mode=offline"],
        ["lstm.layers=1,2"],
        ["backbone=vgg61", "lstm.layer=2"],
    ],
)
def test_files_are_put_together_once_for_command_lines_that_differ_in_options(options: list[str]):
    """What comes of it, or the error, is what Hydra makes of each of them alone."""

    def outcome(compose: Callable[[], DictConfig]) -> object:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            try:
                return OmegaConf.to_container(compose(), resolve=True)
            except HydraException as error:
                return str(error)

    load_settings(["seed=7", "lstm.hidden=9"])  # of which nothing may be left
    for _ in range(2):
        ours = outcome(lambda: _compose(parse(options)))
        assert ours == outcome(lambda: compose("train", options))


def test_every_choice_beside_the_projects_own_experiment():
    """It goes, or the message says what the file has set."""
    further = {"file": ["embedding.file=x"]}
    for group in ("model", "embedding", "caption", "optimizer"):
        for name in choices(group):
            given = ["experiment=best_text", f"{group}={name}", *further.get(name, [])]
            if name in ("adadelta", "sgd"):
                with pytest.raises(UserError, match="experiment=best_text sets optimizer.lr=0.002"):
                    load_settings(given)
            else:
                load_settings(given)
