"""`repeat=FOLDER`: the same scores from the record alone, and what is said not to be the same."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from resumed_runs import results_of, run_killed_in_epoch

from mmlabel.cli import load_settings
from mmlabel.errors import UserError
from mmlabel.repeating import not_the_same, scores_compared
from mmlabel.run_folder import seal
from mmlabel.training import train

# Of a run whose options are none of the defaults.
CAPTIONS = ["model=caption_only", "optimizer=sgd", "optimizer.momentum=0.7", "lstm.layers=2"]
CAPTIONS += ["seed=3", "trainer.max_epochs=1", "threshold=auto", "scheduler=none"]


@pytest.fixture(scope="module")
def fusion(settings_of, tmp_path_factory) -> Path:
    """A finished run with pictures and captions."""
    folder = tmp_path_factory.mktemp("fusion")
    train(settings_of("seed=5", "model.head.hidden=64"), folder)
    return folder


@pytest.fixture(scope="module")
def captions(settings_of, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    train(settings_of(*CAPTIONS), folder, overrides=CAPTIONS)
    return folder


def repeated(former: Path, cache: Path, folder: Path, *options: str) -> dict:
    given = [f"repeat={former}", f"cache_dir={cache}", *options]
    train(load_settings(given), folder, overrides=given)
    return results_of(folder)


def test_a_run_repeats_to_the_last_digit(fusion: Path, tmp_path: Path, caplog):
    """From its record alone, with data drawn and features computed anew."""
    former = results_of(fusion)
    assert {"data", "splits", "pictures", "words", "vectors", "backbone"} == set(former["inputs"])
    with caplog.at_level("INFO"):
        again = repeated(fusion, tmp_path / "cache", tmp_path / "again")
    assert again["scores"] == former["scores"]
    assert again["labels"] == former["labels"]
    assert again["inputs"] == former["inputs"]
    own = {"repeat": str(fusion), "cache_dir": str(tmp_path / "cache")}
    assert again["settings"] == former["settings"] | own
    predictions = (tmp_path / "again" / "predictions.csv").read_bytes()
    assert predictions == (fusion / "predictions.csv").read_bytes()
    assert "all that is read are the same" in caplog.text
    assert "to the last digit" in caplog.text
    assert again["notes"] == former["notes"]


def test_options_beside_it_are_changes_on_top_and_said(captions: Path, cache: Path, tmp_path: Path):
    changed = ["optimizer=sgd", "optimizer.lr=0.01", "trainer=cpu", "data.workers=1"]
    again = repeated(captions, cache, tmp_path, *changed)
    settings, former = again["settings"], results_of(captions)["settings"]
    assert settings["optimizer"] == former["optimizer"] | {"lr": 0.01}
    assert settings["trainer"] == former["trainer"], "trainer=cpu sets no number of epochs"
    assert settings["lstm"] == former["lstm"]
    (note,) = [note for note in again["notes"] if "not the same" in note]
    assert f"optimizer.lr=0.01 (then {former['optimizer']['lr']})" in note
    assert "data.workers=1 (then 0)" in note
    assert note.count("(then") == 2
    assert again["scores"] != results_of(captions)["scores"]


def settings_with(former: Path, cache: Path, *options: str) -> dict:
    return load_settings([f"repeat={former}", f"cache_dir={cache}", *options]).plain()


def test_groups_that_are_chosen_anew(captions: Path, cache: Path):
    former = results_of(captions)["settings"]
    adam = settings_with(captions, cache, "optimizer=adam")["optimizer"]
    assert adam["name"] == "adam" and "momentum" not in adam
    image = settings_with(captions, cache, "model=image_only")
    assert image["backbone"]["name"] == "resnet50" and "lstm" not in image
    kept = settings_with(captions, cache, "logger.wandb.mode=offline")
    assert kept["logger"]["wandb"]["mode"] == "offline"
    assert settings_with(captions, cache, "data=scenes")["data"] == former["data"]
    ddp = settings_with(captions, cache, "trainer=ddp")["trainer"]
    assert (ddp["strategy"], ddp["devices"], ddp["max_epochs"]) == ("ddp", 2, 1)


def record_of(former: Path, folder: Path, *options: str) -> Path:
    """The folder of a run with other settings, by its record."""
    copy = Path(shutil.copytree(former, folder))
    record = json.loads((copy / "results.json").read_text())
    record["settings"] = load_settings(list(options)).plain()
    (copy / "results.json").write_text(json.dumps(record))
    seal(copy)
    return copy


def test_a_group_of_the_same_kind_by_another_name(captions: Path, cache: Path, tmp_path: Path):
    small = ["model=detector", "detector=yolov5s", "detector.image_size=320"]
    former = record_of(captions, tmp_path / "detector", *small)
    same = settings_with(former, cache, "detector=yolov5s")["detector"]
    assert (same["name"], same["image_size"]) == ("yolov5s", 320)
    other = settings_with(former, cache, "detector=yolov5x")["detector"]
    assert (other["name"], other["image_size"]) == ("yolov5x", None)
    file = settings_with(former, cache, "detector=file", "detector.weights=x.pt")["detector"]
    assert (file["name"], file["weights"]) == ("file", "x.pt")


def test_what_a_file_of_ones_own_sets(captions: Path, cache: Path, tmp_path: Path):
    files = tmp_path / "optimizer"
    files.mkdir()
    (files / "fast.yaml").write_text("defaults: [sgd]\nlr: 0.5\n")
    own = f"hydra.searchpath=[file://{tmp_path}]"
    settings = settings_with(captions, cache, "optimizer=fast", own)["optimizer"]
    assert (settings["lr"], settings["momentum"]) == (0.5, 0.7)
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "one_batch.yaml").write_text(
        "defaults: [default]\nlimit_train_batches: 1\n"
    )
    settings = settings_with(captions, cache, "trainer=one_batch", own)["trainer"]
    assert repr(settings["limit_train_batches"]) == "1", "one batch, and not all of them"


def test_a_group_that_sets_nothing_is_refused_unless_it_is_so(
    captions: Path, cache: Path, tmp_path: Path
):
    former = record_of(captions, tmp_path / "off", "features=off", "trainer=ddp")
    assert settings_with(former, cache, "features=auto")["features"]["mode"] == "auto"
    with pytest.raises(
        UserError, match=r"trainer=…: .* the run has trainer.devices=2, .*\(trainer.devices=1 "
    ):
        settings_with(former, cache, "trainer=default")
    given = ["trainer=default", "trainer.devices=1", "trainer.strategy=auto"]
    assert settings_with(former, cache, *given)["trainer"]["devices"] == 1
    assert settings_with(former, cache, "lstm=default")["lstm"]["layers"] == 1


def test_a_run_that_a_scheduler_could_stop_is_repeated_in_a_new_folder(
    captions: Path, cache: Path, tmp_path: Path
):
    """`resume` is of the command line: it needs a folder of its own."""
    former = record_of(captions, tmp_path / "former", "resume=true")
    assert settings_with(former, cache)["resume"] is False
    assert settings_with(former, cache, "resume=true")["resume"] is True
    record = results_of(captions)
    now = {name: record[name] for name in ("settings", "versions", "commit", "machine", "inputs")}
    now["settings"] = record["settings"] | {"resume": True}
    assert not [line for line in not_the_same(record, now) if "resume" in line]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["experiment=demo"], "single options"),
        (["lstm=default"], "the run has lstm.layers=2"),
        (["data.batch_size=0"], "data.batch_size=0: give a whole number"),
        (["lstm.layer=3"], 'did you mean "lstm.layers"'),
    ],
)
def test_what_cannot_be_given_beside_it(
    captions: Path, cache: Path, options: list[str], message: str
):
    from mmlabel.cli import explain

    with pytest.raises(Exception) as error:
        settings_with(captions, cache, *options)
    assert message in explain(error.value)


def test_folders_that_hold_no_finished_run(captions: Path, cache: Path, tmp_path: Path):
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path, "without a result")):
        with pytest.raises(UserError, match=message):
            settings_with(folder, cache)
    copy = Path(shutil.copytree(captions, tmp_path / "copy"))
    path = copy / "results.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(UserError, match="results.json is not as the run wrote it"):
        settings_with(copy, cache)


def test_changed_data_is_said(captions: Path, cache: Path, tmp_path: Path):
    """The captions of the record were others, in words that its digests alone can tell."""
    copy = Path(shutil.copytree(captions, tmp_path / "copy"))
    path = copy / "results.json"
    record = json.loads(path.read_text())
    record["inputs"] |= {"data": "0" * 32, "vectors": "0" * 32}
    record["versions"]["torch"] = "1.0"
    record["scores"]["test/loss"] = 0.5
    path.write_text(json.dumps(record))
    seal(copy)
    note = "; ".join(repeated(copy, cache, tmp_path / "again")["notes"])
    assert "the data (ids, captions or labels) has changed" in note
    assert "the word vectors have changed" in note and "WordNet" not in note
    assert "(then 1.0)" in note


def test_differences_and_scores_in_words(captions: Path):
    record = results_of(captions)
    now = {name: record[name] for name in ("settings", "versions", "commit", "machine", "inputs")}
    unknown = [] if record["commit"] else ["the code's commit is not known (then None)"]
    assert not_the_same(record, now) == unknown
    moved = now | {"machine": "another", "commit": "abc"}
    assert not_the_same(record, moved) == [
        f"the code's commit is abc (then {record['commit']})",
        f"the machine is another (then {record['machine']})",
    ]
    assert record["versions"]["pillow"] == version("pillow")
    gone = {**record, "versions": record["versions"] | {"numpy": "1.0", "openvino-of-old": "2.0"}}
    assert not_the_same(gone, now) == [
        f"numpy {record['versions']['numpy']} (then 1.0)",
        "openvino-of-old not installed (then 2.0)",
    ]
    torch, pillow = (f"{name} {record['versions'][name]}" for name in ("torch", "pillow"))
    added = {**record, "versions": {"pillow": "1.0"}}
    assert {f"{torch} (then not installed)", f"{pillow} (then 1.0)"} <= {*not_the_same(added, now)}
    earlier = {**record, "versions": {}}
    assert f"{pillow} (then not recorded)" in not_the_same(earlier, now)
    limits = {"limit_train_batches": 1, "limit_test_batches": 1}  # of batches; 1.0: all of them
    trainer = record["settings"]["trainer"]
    short = {**record, "settings": record["settings"] | {"trainer": trainer | limits}}
    assert not_the_same(short, now) == [
        "trainer.limit_train_batches=1.0 (then 1)",
        "trainer.limit_test_batches=1.0 (then 1)",
        *unknown,
    ]
    older = {name: value for name, value in record.items() if name != "inputs"}
    assert any("no digests" in line for line in not_the_same(older, now))
    scores = record["scores"] | {"test/map": 0.25}
    assert scores_compared(record, record["scores"]) == []
    assert scores_compared(record, scores) == [
        f"test/map 0.25 (then {record['scores']['test/map']})"
    ]


def test_a_run_that_was_stopped_and_went_on_in_its_folder(
    settings_of, cache, tmp_path: Path, caplog
):
    """What it has read of its own checkpoint has not changed, nor what that checkpoint held."""
    options = ["model=caption_only", "trainer.max_epochs=2", "resume=true"]
    run_killed_in_epoch(settings_of, tmp_path / "run", 1, *options)
    train(settings_of(*options), tmp_path / "run", overrides=options)
    former = results_of(tmp_path / "run")
    assert "checkpoint" in former["inputs"] and former["epochs"] == 2
    with caplog.at_level("INFO"):
        again = repeated(tmp_path / "run", cache, tmp_path / "again")
    assert again["scores"] == former["scores"]
    assert "all that is read are the same" in caplog.text and again["notes"] == former["notes"]
    less = former | {"inputs": {"data": former["inputs"]["data"], "checkpoint": "other"}}
    assert not_the_same(less, again) == not_the_same(again, less) == []
    less["inputs"]["data"] = "other"
    assert not_the_same(less, again) == ["the data (ids, captions or labels) has changed"]


def test_a_run_that_went_on_from_a_checkpoint(captions: Path, settings_of, cache, tmp_path: Path):
    went_on = ["model=caption_only", f"ckpt_path={captions / 'last.ckpt'}", "trainer.max_epochs=2"]
    train(settings_of(*went_on), tmp_path / "on", overrides=went_on)
    again = repeated(tmp_path / "on", cache, tmp_path / "again")
    assert again["epochs"] == 2
    assert again["scores"] == results_of(tmp_path / "on")["scores"]
    assert "checkpoint" in again["inputs"]
