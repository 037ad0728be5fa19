"""What a run leaves in wandb beside its history, read back from the offline files."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb
from fake_runs import write_fake_run
from PIL import Image
from sklearn.metrics import average_precision_score
from wandb_records import records

from mmlabel.checkpoint import read_checkpoint
from mmlabel.cli import load_settings
from mmlabel.errors import UserError
from mmlabel.run_folder import finished, read_history, read_run
from mmlabel.tracking import run_name, wandb_logger
from mmlabel.training import train
from mmlabel.training_options import Wandb
from mmlabel.wandb_results import log_results

OFFLINE = ["logger=wandb", "logger.wandb.mode=offline", "trainer.max_epochs=1"]


@pytest.fixture(autouse=True)
def staged(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where wandb keeps copies of what is to be sent."""
    folder = tmp_path_factory.mktemp("staged")
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder))
    return folder


def content(folder: Path) -> list:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return list(records(file))


def artifacts(folder: Path) -> dict[str, object]:
    return {r.artifact.type: r.artifact for r in content(folder) if r.HasField("artifact")}


def plain(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(found: list) -> list[dict]:
    return [plain(r.history.item) for r in found if r.HasField("history")]


def table(folder: Path, name: str) -> list[dict]:
    (file,) = folder.glob(f"wandb/offline-run-*/files/media/table/test/{name}_*.table.json")
    found = json.loads(file.read_text())
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def test_a_decoders_predictions_have_its_own_probabilities(made: Path, tmp_path: Path):
    """In the place of the halves of them, which are in predictions.csv."""
    settings = load_settings(["data=usyd", f"data.root={made}", "model=decoder"])
    write_fake_run(tmp_path, seed=0, noise=0.2, settings=settings.plain())
    logged = {}

    class Run:
        offline = True

        def log(self, values: dict) -> None:
            logged.update(values)

    annotations = settings.data.read(
        cache_dir=tmp_path, require_pictures=False, require_captions=False
    )
    chosen = Wandb(labels=False, predictions=5)
    log_results(Run(), chosen, settings, folder=tmp_path, annotations=annotations)
    rows = logged["test/predictions"].data
    found = {value for row in rows for value in json.loads(row[-1]).values()}
    assert found == {0.2, 0.8}, "of 0.1, and of 0.9 for a label of the answer"


def test_tables_and_artifacts_are_those_of_the_run(
    settings_of: Callable, made: Path, tmp_path: Path, caplog
):
    asked = ["predictions=5", "page=true", "checkpoint=true", "data=true"]
    options = [*OFFLINE, "report=true", *(f"logger.wandb.{one}" for one in asked)]
    named = 'data.label_names=["",person,"",car,"","","","","","","","","","","","","","wine, old"]'
    with caplog.at_level(logging.INFO, logger="mmlabel"):
        settings = settings_of("data=csv", f"data.file={made}/rows.csv", named, *options)
        results = train(settings, tmp_path / "run")
    run = read_run(tmp_path / "run")
    predictions, answers = run.predictions, run.answers
    names = {1: "person", 3: "car", 17: "wine, old"}

    # Each table is logged once.
    files = (tmp_path / "run").glob("wandb/offline-run-*/files/media/table/test/*.table.json")
    tables = sorted(re.sub(r"_\d+_.*", "", path.name) for path in files)
    assert tables == ["f1_by_label_table", "precision_recall_table", "predictions"]
    (page,) = (tmp_path / "run").glob("wandb/offline-run-*/files/media/html/report_*.html")
    assert page.read_text() == (tmp_path / "run" / "report.html").read_text()

    rows = table(tmp_path / "run", "f1_by_label_table")
    assert {row["label"] for row in rows} == {label["name"] for label in results["labels"].values()}
    assert [row["test rows"] for row in rows] == sorted(
        (r["test rows"] for r in rows), reverse=True
    )
    for row in rows:
        number = next(n for n, name in names.items() if name == row["label"])
        k = predictions.labels.index(number)
        expected = average_precision_score(predictions.targets[:, k], predictions.probs[:, k])
        assert row["average precision"] == pytest.approx(expected)
        assert row["F1"] == pytest.approx(results["labels"][str(number)]["f1"])

    shown = table(tmp_path / "run", "predictions")
    places = np.linspace(0, len(predictions.ids) - 1, 5).astype(int)
    assert [row["id"] for row in shown] == [predictions.ids[place] for place in places]
    for row, place in zip(shown, places, strict=True):
        for column, which in (("truth", predictions.targets), ("answer", answers)):
            listed = [names[predictions.labels[k]] for k in np.flatnonzero(which[place])]
            assert row[column] == "|".join(listed)
        assert row["right"] == (row["truth"] == row["answer"])
        assert row["picture"] == "Image" and row["caption"]
        concerned = np.flatnonzero(predictions.targets[place] | answers[place])
        expected = {names[predictions.labels[k]]: predictions.probs[place, k] for k in concerned}
        assert json.loads(row["probabilities"]) == pytest.approx(expected, abs=1e-4)

    found = artifacts(tmp_path / "run")
    model, data = found["model"], found["dataset"]
    assert set(model.aliases) == {"best", "latest"}
    (entry,) = model.manifest.contents
    assert entry.path == "best.ckpt"
    assert entry.size == (tmp_path / "run" / "best.ckpt").stat().st_size
    (entry,) = data.manifest.contents
    assert entry.ref == (made / "rows.csv").as_uri() and not entry.local_path
    assert "wandb sync" in caplog.text


@pytest.mark.parametrize("upright", [False, True])
def test_pictures_are_logged_as_the_network_saw_them(
    settings_of: Callable, tmp_path: Path, staged: Path, upright: bool
):
    """16 bits are scaled, and a photo on its side is turned as far as the run turned it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lines = ["picture,labels,caption"]
    for row in range(20):
        ramp = np.tile(np.linspace(0, 65535, 60).astype(np.uint16), (40, 1))
        Image.fromarray(ramp).save(tmp_path / f"{row}.png", exif=exif)
        lines.append(f"{row}.png,{'cat dog'.split()[row % 2]},a {row}")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    data = ["data=csv", f"data.file={tmp_path}/rows.csv"]
    asked = [f"data.upright={upright}", "logger.wandb.predictions=1", "logger.wandb.labels=false"]
    train(settings_of(*data, *asked, *OFFLINE), tmp_path / "run")
    files = [path for path in staged.rglob("*") if path.is_file()]
    (file,) = [path for path in files if path.read_bytes().startswith(b"\xff\xd8")]
    ramp = np.tile(np.linspace(0, 255, 60), (40, 1))
    shown = np.asarray(Image.open(file).convert("L"), float)
    np.testing.assert_allclose(shown, ramp.T if upright else ramp, atol=8)


def test_nothing_large_is_kept_offline_unless_asked_for(
    settings_of: Callable, tmp_path: Path, staged: Path
):
    train(settings_of(*OFFLINE, "report=true"), tmp_path / "run")
    assert not {"model", "dataset"} & set(artifacts(tmp_path / "run"))
    assert table(tmp_path / "run", "f1_by_label_table")
    for large in ("predictions_*", "*.html"):
        assert not list((tmp_path / "run").glob(f"wandb/**/{large}"))
    kept = [*(tmp_path / "run" / "wandb").rglob("*"), *staged.rglob("*")]
    assert sum(path.stat().st_size for path in kept if path.is_file()) < 200_000


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WANDB_API_KEY", "short", "WANDB_API_KEY invalid: API key must have 40"),
        ("WANDB_BASE_URL", "nonsense", "base_url"),
        ("NETRC", "{folder}/netrc", "API key must have 40"),
    ],
)
def test_a_login_that_cannot_be_is_a_message(
    name: str, value: str, said: str, settings_of: Callable, tmp_path: Path, monkeypatch
):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password short\n")
    for given in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(given, raising=False)
    monkeypatch.setenv(name, value.format(folder=tmp_path))
    wandb.teardown()  # which has read another environment
    try:
        with pytest.raises(UserError, match=rf"wandb cannot log in \(.*{said}.*logger=csv"):
            train(settings_of("logger=wandb"), tmp_path / "run")
    finally:
        monkeypatch.undo()
        wandb.teardown()


@pytest.mark.parametrize("mode", ["online", "run", "shared"])
def test_nobody_is_asked_for_a_login(mode: str, tmp_path: Path, monkeypatch):
    """WANDB_MODE has more names of being online than the option; wandb would ask for each."""
    monkeypatch.setattr("mmlabel.tracking._logged_in", lambda: False)
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(UserError, match=f"WANDB_MODE={mode}, but nobody is logged in"):
        begin(Wandb(), tmp_path)
    with pytest.raises(UserError, match="logger.wandb.mode=online, but nobody is logged in"):
        begin(Wandb(mode="online"), tmp_path)


@pytest.mark.parametrize(("mode", "said"), [("of-line", "of-line"), ("", r"\(empty\)")])
def test_a_mode_that_wandb_does_not_know(mode: str, said: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(UserError, match=f"WANDB_MODE={said}: give online, offline or disabled"):
        begin(Wandb(mode="offline"), tmp_path)


def test_a_netrc_that_may_not_be_read_is_a_message(tmp_path: Path, monkeypatch):
    """As with another user's HOME."""

    def login(**_: object) -> bool:
        raise PermissionError(13, "Permission denied", "/home/it/.netrc")

    monkeypatch.setattr(wandb, "login", login)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(
        UserError, match=r"cannot log in \(.*denied: '/home/it/.netrc'\).*logger=csv"
    ):
        begin(Wandb(), tmp_path)


def begin(chosen: Wandb, folder: Path) -> None:
    wandb_logger(chosen, config={}, folder=folder, name="run", group=None, tags=[])


def test_everything_can_be_turned_off(settings_of: Callable, tmp_path: Path):
    train(settings_of(*OFFLINE, "logger.wandb.labels=false"), tmp_path / "run")
    assert not list((tmp_path / "run").glob("wandb/**/*.table.json"))


def test_the_files_of_the_data_are_not_looked_at_for_its_place(
    settings_of: Callable, made: Path, tmp_path: Path
):
    """A link to nothing among them would have ended the run."""
    root = Path(shutil.copytree(made, tmp_path / "made"))
    (root / "data" / "gone.jpg").symlink_to("nowhere.jpg")
    options = ["data=usyd", f"data.root={root}", "logger.wandb.data=true"]
    train(settings_of(*options, *OFFLINE), tmp_path / "run")
    (entry,) = artifacts(tmp_path / "run")["dataset"].manifest.contents
    assert entry.path == "place.txt" and not entry.ref
    assert entry.size == len(root.as_uri())


def test_what_wandb_does_not_take_leaves_the_run_whole(
    settings_of: Callable, tmp_path: Path, caplog, monkeypatch
):
    def refuse(*given):
        raise OSError("no room")

    monkeypatch.setattr("mmlabel.wandb_results._log_labels", refuse)
    train(settings_of(*OFFLINE), tmp_path / "run")
    assert finished(tmp_path / "run") and not (tmp_path / "run" / "failed.json").exists()
    assert "wandb has not taken all of the run's tables and artifacts (OSError: no room)" in (
        caplog.text
    )
    assert [r.exit.exit_code for r in content(tmp_path / "run") if r.HasField("exit")] == [0]


def test_scores_are_over_epochs_and_steps_have_curves_of_their_own(
    settings_of: Callable, tmp_path: Path
):
    options = ["logger=wandb", "logger.wandb.mode=offline", "logger.csv=true"]
    steps = ["trainer.max_epochs=2", "trainer.log_every_n_steps=3", "data.batch_size=8"]
    norms = []

    class Norms(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            weights = [w for w in pl_module.network.parameters() if w.grad is not None]
            norms.append(torch.cat([w.grad.flatten() for w in weights]).norm().item())

    train(settings_of(*options, *steps), tmp_path / "run", callbacks=[Norms()])
    found = content(tmp_path / "run")
    axes = {r.metric.name: r.metric.step_metric for r in found if r.HasField("metric")}
    assert axes["val/f1_micro"] == axes["train/loss"] == axes["lr"] == "epoch"
    rows = history(found)
    curve = [row for row in rows if "step/grad_norm" in row]
    assert [row["trainer/global_step"] for row in curve] == list(range(0, len(norms), 3))
    assert [row["step/grad_norm"] for row in curve] == pytest.approx(norms[::3])
    assert all(row["step/loss"] > 0 and row["step/lr"] > 0 for row in curve)
    assert len([row for row in rows if "val/f1_micro" in row]) == 2
    assert "step/" not in (tmp_path / "run" / "metrics.csv").read_text()


def test_the_use_of_the_processor_is_in_wandb_alone(settings_of: Callable, tmp_path: Path):
    pytest.importorskip("psutil")
    stats = ["callbacks.device_stats=true", "trainer.log_every_n_steps=1"]
    options = ["model=caption_only", *stats, "report=true"]
    wandb = ["logger=wandb", "logger.wandb.mode=offline", "logger.csv=true"]
    results = train(settings_of(*options, *wandb), tmp_path / "run")
    assert not any("device_stats" in note for note in results["notes"])
    rows = history(content(tmp_path / "run"))
    assert any(name.startswith("DeviceStatsMonitor") for row in rows for name in row)
    lines = read_history(tmp_path / "run")
    assert not any(name.startswith("DeviceStatsMonitor") for row in lines for name in row)
    assert (tmp_path / "run" / "report.html").exists()

    resumed = [*stats, f"ckpt_path={tmp_path}/run/last.ckpt", "logger=csv"]
    results = train(settings_of(*resumed), tmp_path / "more", overrides=resumed)
    assert sum("callbacks.device_stats=true" in note for note in results["notes"]) == 1


def test_only_the_same_run_goes_on_in_its_wandb_run(
    settings_of: Callable, cache: Path, tmp_path: Path
):
    """Several runs may begin with one checkpoint, and repeat what another has done."""

    def run_in_wandb(name: str, *options: str, group: str | None = None) -> str | None:
        offline = ["logger=wandb", "logger.wandb.mode=offline", "logger.wandb.labels=false"]
        train(settings_of(*offline, *options), tmp_path / name, overrides=options, group=group)
        return read_checkpoint(tmp_path / name / "last.ckpt").wandb_id

    first = run_in_wandb("first", "model=caption_only", "scheduler=none", "trainer.max_epochs=1")
    on = f"ckpt_path={tmp_path / 'first' / 'last.ckpt'}"
    longer = run_in_wandb("longer", on, "trainer.max_epochs=2")
    assert first is not None and longer == first
    other = run_in_wandb("rate", on, "trainer.max_epochs=2", "resume_lr=1e-4")
    job = run_in_wandb("job", on, "trainer.max_epochs=2", "resume=true", group="jobs")
    train(
        load_settings([f"repeat={tmp_path / 'longer'}", f"cache_dir={cache}"]), tmp_path / "again"
    )
    again = read_checkpoint(tmp_path / "again" / "last.ckpt").wandb_id
    assert None not in (other, job, again) and len({first, other, job, again}) == 4
    longer_job = run_in_wandb("job", on, "trainer.max_epochs=3", "resume=true", group="jobs")
    assert longer_job == job, "on with what it has left itself"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ([], "defaults"),
        (["data=csv", "data.file=rows.csv", "lstm.hidden=9"], "lstm.hidden=9,data=csv,data.file="),
        (["lstm.hidden=9", "seed=2", "study.name=a", "study.variant=wide"], "wide, seed 2"),
        (["lstm.hidden=9", "study.variant=wide", "name=mine"], "mine"),
    ],
)
def test_what_tells_runs_apart_begins_their_names(given: list[str], name: str):
    assert run_name(load_settings(given), given).startswith(name)


def test_test_scores_stand_at_the_epoch_that_was_kept(settings_of: Callable, tmp_path: Path):
    options = ["logger=wandb", "logger.wandb.mode=offline", "model=caption_only", "scheduler=none"]
    results = train(settings_of(*options, "trainer.max_epochs=3"), tmp_path / "run")
    best = results["best_epoch"]
    assert best < 3
    found = content(tmp_path / "run")
    (tested,) = [row for row in history(found) if "test/f1_micro" in row]
    assert tested["epoch"] == best and tested["test/map"] == results["scores"]["test/map"]
    (line,) = [row for row in read_history(tmp_path / "run") if "test/f1_micro" in row]
    assert line["epoch"] == best

    # A run that goes on has test scores of its own.
    resumed = [*options, f"ckpt_path={tmp_path}/run/last.ckpt", "trainer.max_epochs=5"]
    train(settings_of(*resumed), tmp_path / "more", overrides=resumed[-1:])
    lines = read_history(tmp_path / "more")
    assert [row["epoch"] for row in lines if "val/f1_micro" in row] == [0, 1, 2, 3, 4]
    assert len([row for row in lines if "test/f1_micro" in row]) == 1


def test_the_config_is_of_what_has_an_effect(settings_of: Callable, tmp_path: Path):
    options = [*OFFLINE, "model=caption_only", "logger.wandb.labels=false"]
    train(settings_of(*options), tmp_path / "run")
    study = ["study.name=layers", "study.variant=two"]
    train(settings_of(*options, *study), tmp_path / "job")
    train(
        settings_of(*options, f"ckpt_path={tmp_path}/run/last.ckpt", "trainer.max_epochs=2"),
        tmp_path / "more",
    )
    configs = {
        name: plain(record.run.config.update)
        for name in ("run", "job", "more")
        for record in content(tmp_path / name)
        if record.HasField("run")
    }
    alone = configs["run"]
    assert alone["optimizer.lr"] == 0.003 and alone["distil.teacher"] is None
    gone = {"distil.weight", "distil.temperature", "study", "variant", "study.name", "lstm.dropout"}
    assert not gone & alone.keys()
    assert configs["job"].keys() - alone.keys() == {
        "study", "variant", "study.name", "study.variant",
    }  # fmt: skip
    assert (configs["job"]["study"], configs["job"]["variant"]) == ("layers", "two")
    assert configs["more"].keys() == alone.keys()
