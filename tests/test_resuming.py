"""What a command line may change of a checkpoint, going on as if uninterrupted, and its rows."""

import csv
import math
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from fake_runs import write_fake_run
from omegaconf import DictConfig
from PIL import Image
from resumed_runs import CAPTIONS, Killed, history, results_of, run, run_killed_in_epoch
from sklearn.metrics import f1_score
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mmlabel.checkpoint import read_checkpoint
from mmlabel.cli import load_settings
from mmlabel.data.datamodule import CaptionedPictures
from mmlabel.errors import UserError
from mmlabel.lightning.callbacks import FreshSchedule, LastCheckpoint, TrainingTime
from mmlabel.lightning.classifier import Classifier
from mmlabel.models.decoder import LabelDecoder
from mmlabel.predictor import Predictor
from mmlabel.run_folder import read_history
from mmlabel.settings import Settings
from mmlabel.training import train
from mmlabel.training_options import Trainer
from train import finished_before

ROWS = ("data=csv", "data.file={made}/rows.csv", "data.fractions=[0.5,0.25,0.25]")


@pytest.fixture(scope="module")
def base(settings_of, tmp_path_factory) -> Path:
    """The folder of a finished run on the built-in captions."""
    folder = tmp_path_factory.mktemp("base")
    run(settings_of, folder, *CAPTIONS)
    return folder


@pytest.fixture(scope="module")
def rows(made: Path) -> list[str]:
    return [*CAPTIONS, *(option.format(made=made) for option in ROWS)]


@pytest.fixture(scope="module")
def on_rows(settings_of, rows: list[str], tmp_path_factory) -> Path:
    """The folder of a finished run on a CSV whose splits are drawn."""
    folder = tmp_path_factory.mktemp("on_rows")
    run(settings_of, folder, *rows)
    return folder


def evaluate(settings_of, checkpoint: Path, folder: Path, *options: str) -> dict:
    return run(settings_of, folder, "train=false", f"ckpt_path={checkpoint}", *options)


def predictions(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    with open(folder / "predictions.csv", newline="") as file:
        header, *lines = csv.reader(file)
    number = sum(name.startswith("target_") for name in header)
    values = np.array([line[1:] for line in lines], dtype=float)
    return [line[0] for line in lines], values[:, :number] > 0.5, values[:, number:]


# ---- Going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "epoch"),
    [("one_cycle", 0), ("cosine", 1), ("plateau", 3), ("none", 2), ("warmed up", 2)],
)
def test_resumed_is_uninterrupted(settings_of, tmp_path: Path, scheduler: str, epoch: int):
    options = [*CAPTIONS, f"scheduler={scheduler}", "trainer.max_epochs=5", "lstm.dropout=0.2",
               "lstm.layers=2", "threshold=auto"]  # fmt: skip
    if scheduler == "warmed up":
        options[2:3] = ["scheduler=cosine", "scheduler.warmup=0.5"]
    if scheduler == "none":  # with stored features of pictures, too
        options = options[len(CAPTIONS) :]
    if scheduler == "plateau":  # that it is cut at once, and again
        options += ["scheduler.patience=0", "monitor=val/f1_micro", "optimizer.lr=1e-5"]
    whole = run(settings_of, tmp_path / "whole", *options)
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", epoch, *options)
    again = run(settings_of, tmp_path / "again", f"ckpt_path={last}")
    for column in ("train/loss", "val/f1_micro", "lr"):
        expected = history(tmp_path / "whole", column)
        assert len(expected) == 5
        assert history(tmp_path / "again", column) == pytest.approx(expected, rel=1e-6), column
    for name in ("scores", "threshold", "epochs", "best_epoch", "rows"):
        assert again[name] == whole[name], name
    if scheduler == "plateau":
        assert len(set(history(tmp_path / "whole", "lr"))) > 1, "the rate was never cut"


def test_resumed_in_double_precision_is_uninterrupted(settings_of, tmp_path: Path):
    options = [*CAPTIONS, "trainer.precision=64-true", "callbacks.ema=0.9"]
    whole = run(settings_of, tmp_path / "whole", *options)
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", 1, *options)
    again = run(settings_of, tmp_path / "again", f"ckpt_path={last}")
    assert again["scores"] == whole["scores"]
    assert history(tmp_path / "again") == history(tmp_path / "whole")


def test_plateau_counts_epochs_also_in_a_run_that_is_gone_on_with(
    settings_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Only the first score is better than what there was before.
    name = "_is_better" if hasattr(ReduceLROnPlateau, "_is_better") else "is_better"  # torch 2.6
    monkeypatch.setattr(ReduceLROnPlateau, name, lambda self, a, best: math.isinf(best))
    options = [*CAPTIONS, "scheduler=plateau", "scheduler.patience=2", "trainer.max_epochs=8",
               "trainer.check_val_every_n_epoch=3"]  # fmt: skip
    run(settings_of, tmp_path / "whole", *options)
    rate = 3e-3
    expected = pytest.approx([rate] * 6 + [0.1 * rate] * 2)
    assert history(tmp_path / "whole", "lr") == expected
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", 4, *options)
    run(settings_of, tmp_path / "again", f"ckpt_path={last}")
    assert history(tmp_path / "again", "lr") == expected


def test_the_first_epoch_is_its_own_where_workers_decode(settings_of, tmp_path: Path, monkeypatch):
    """They are given its first rows before Lightning tells anybody which epoch it is."""
    seen: list[list[str]] = []
    step = Classifier.training_step

    def watched(self, batch, batch_idx):
        seen.append(batch.ids)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", watched)
    options = ["model=image_only", "data.augment=[erase]", "data.workers=1", "patience=null",
               "data.rows=[16,12,12]", "data.batch_size=8"]  # fmt: skip
    whole = run(settings_of, tmp_path / "whole", *options)
    expected, seen[:] = seen[:], []
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", 1, *options)
    again = run(settings_of, tmp_path / "again", f"ckpt_path={last}", "data.workers=1")
    assert seen == expected
    assert history(tmp_path / "again") == history(tmp_path / "whole")
    assert again["scores"] == whole["scores"]


@pytest.mark.parametrize("scheduler", ["none", "one_cycle"])
def test_resumed_is_uninterrupted_where_steps_end_training(
    settings_of, tmp_path: Path, scheduler: str
):
    """9 steps are two epochs and a quarter."""
    options = [*CAPTIONS, f"scheduler={scheduler}", "data.batch_size=16", "trainer.max_steps=9",
               "trainer.max_epochs=null"]  # fmt: skip
    whole = run(settings_of, tmp_path / "whole", *options)
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", 1, *options)
    for name, checkpoint in (("again", last), ("ended", tmp_path / "whole" / "last.ckpt")):
        again = run(settings_of, tmp_path / name, f"ckpt_path={checkpoint}")
        for column in ("train/loss", "val/f1_micro", "lr"):
            assert history(tmp_path / name, column) == history(tmp_path / "whole", column), column
        for part in ("scores", "epochs", "best_epoch", "rows"):
            assert again[part] == whole[part], part


def test_an_interruption_before_a_resumed_runs_first_epoch_ends_loses_nothing(
    settings_of, tmp_path: Path
):
    options = [*CAPTIONS, "trainer.max_epochs=3"]
    run(settings_of, tmp_path / "whole", *options)
    first = run_killed_in_epoch(settings_of, tmp_path / "1", 1, *options)
    second = run_killed_in_epoch(settings_of, tmp_path / "2", 1, f"ckpt_path={first}")
    assert read_checkpoint(second).epochs == 1
    run(settings_of, tmp_path / "3", f"ckpt_path={second}")
    assert history(tmp_path / "3") == history(tmp_path / "whole")


def test_an_interruption_right_after_an_epochs_checkpoint_loses_nothing(
    settings_of, tmp_path: Path
):
    """All that is said of the epoch is written before: the resumed run begins with the next."""
    options = [*CAPTIONS, "trainer.max_epochs=3"]
    run(settings_of, tmp_path / "whole", *options)

    def kill(self, trainer, module) -> None:
        usual(self, trainer, module)
        if trainer.current_epoch == 1:
            raise Killed

    usual = LastCheckpoint.on_train_epoch_end
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LastCheckpoint, "on_train_epoch_end", kill)
        run(settings_of, tmp_path / "killed", *options)
    run(settings_of, tmp_path / "again", f"ckpt_path={tmp_path / 'killed' / 'last.ckpt'}")
    assert read_history(tmp_path / "again") == read_history(tmp_path / "whole")


def test_a_run_goes_on_in_its_own_folder(settings_of, tmp_path: Path):
    options = [*CAPTIONS, "trainer.max_epochs=3"]
    run(settings_of, tmp_path / "whole", *options)
    last = run_killed_in_epoch(settings_of, tmp_path / "own", 1, *options)
    run(settings_of, tmp_path / "own", f"ckpt_path={last}")
    assert history(tmp_path / "own") == history(tmp_path / "whole")
    assert results_of(tmp_path / "own")["scores"] == results_of(tmp_path / "whole")["scores"]


def test_what_another_run_has_trained_goes_with_a_word(settings_of, tmp_path: Path, caplog):
    last = run_killed_in_epoch(settings_of, tmp_path / "own", 1, *CAPTIONS)
    said = f"{tmp_path / 'own'} holds a run that has not finished, whose checkpoints are removed"
    run(settings_of, tmp_path / "other", f"ckpt_path={last}")
    assert said not in caplog.text and "nothing is left" not in caplog.text
    run(settings_of, tmp_path / "own", *CAPTIONS)
    assert f"{said} (resume=true goes on with it)" in caplog.text


@pytest.mark.parametrize("scheduler", ["none", "plateau"])
def test_training_longer_without_a_laid_out_schedule(settings_of, tmp_path: Path, scheduler: str):
    options = [*CAPTIONS, f"scheduler={scheduler}"]
    run(settings_of, tmp_path / "whole", *options, "trainer.max_epochs=4")
    run(settings_of, tmp_path / "short", *options, "trainer.max_epochs=2")
    more = ["trainer.max_epochs=4", f"ckpt_path={tmp_path / 'short' / 'last.ckpt'}"]
    results = run(settings_of, tmp_path / "more", *more)
    assert history(tmp_path / "more") == history(tmp_path / "whole")
    assert results["scores"] == results_of(tmp_path / "whole")["scores"]
    assert results["settings"]["trainer"]["max_epochs"] == 4


@pytest.mark.parametrize("scheduler", ["one_cycle", "cosine"])
def test_training_longer_with_a_laid_out_schedule_takes_a_fresh_one(
    settings_of, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
):
    run(settings_of, tmp_path / "short", *CAPTIONS, f"scheduler={scheduler}")
    more = ["trainer.max_epochs=5", f"ckpt_path={tmp_path / 'short' / 'last.ckpt'}"]
    with pytest.raises(UserError, match=rf"scheduler={scheduler} .*add resume_lr=0.003"):
        run(settings_of, tmp_path / "refused", *more)

    seen: list[float] = []
    monkeypatch.setattr(
        FreshSchedule,
        "on_train_batch_start",
        lambda self, trainer, *_: seen.append(trainer.optimizers[0].param_groups[0]["lr"]),
    )
    results = run(settings_of, tmp_path / "more", *more, "resume_lr=0.02")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    schedulers = torch.optim.lr_scheduler
    if scheduler == "one_cycle":
        expected = schedulers.OneCycleLR(optimizer, 0.02, total_steps=6, cycle_momentum=False)
    else:
        expected = schedulers.CosineAnnealingLR(optimizer, T_max=6)
    rates = []
    for _ in range(6):  # three epochs of two batches
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        expected.step() if len(rates) < 6 else None
    assert seen == pytest.approx(rates, rel=1e-6)
    assert results["epochs"] == 5 and results["settings"]["resume_lr"] == 0.02
    assert results["settings"]["optimizer"]["lr"] == 0.003

    # Its checkpoints are evaluated, and gone on with, as any others: the rate was for once.
    best = tmp_path / "more" / "best.ckpt"
    again = evaluate(settings_of, best, tmp_path / "again")
    assert again["scores"] == pytest.approx(results["scores"], abs=1e-6)


def test_a_fresh_schedule_is_gone_on_with(settings_of, tmp_path: Path):
    run(settings_of, tmp_path / "short", *CAPTIONS)
    more = ["trainer.max_epochs=6", f"ckpt_path={tmp_path / 'short' / 'last.ckpt'}",
            "resume_lr=0.01"]  # fmt: skip
    run(settings_of, tmp_path / "whole", *more)
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", 4, *more)
    run(settings_of, tmp_path / "again", f"ckpt_path={last}")
    assert history(tmp_path / "again", "lr") == history(tmp_path / "whole", "lr")
    assert history(tmp_path / "again") == history(tmp_path / "whole")


def test_fewer_epochs_than_have_been_trained(base: Path, settings_of, tmp_path: Path):
    options = [f"ckpt_path={base / 'last.ckpt'}", "trainer.max_epochs=1"]
    with pytest.raises(UserError, match="trainer.max_epochs=1, but .* has trained 2 epochs"):
        run(settings_of, tmp_path, *options)


def test_a_schedule_of_other_steps_is_refused(settings_of, tmp_path: Path):
    """As when the number of devices is another: here the accumulation stands for it."""
    last = run_killed_in_epoch(settings_of, tmp_path / "1", 1, *CAPTIONS, "trainer.max_epochs=4")
    saved = torch.load(last, weights_only=True)
    saved["mmlabel"]["settings"]["trainer"]["accumulate_grad_batches"] = 2
    torch.save(saved, last)
    with pytest.raises(UserError, match="6 steps left, and this run 2.*resume_lr=RATE"):
        run(settings_of, tmp_path / "2", f"ckpt_path={last}")


def test_early_stopping_stays_stopped(settings_of, tmp_path: Path, caplog):
    options = ["model=caption_only", "optimizer.lr=0", "patience=2", "trainer.max_epochs=9",
               "scheduler=none", "model.head.batch_norm=false"]  # fmt: skip
    with caplog.at_level("INFO"):
        first = run(settings_of, tmp_path / "first", *options)
    assert first["epochs"] == 3
    said = "early stopping: val/f1_micro has not been better for 2 epochs (patience=2)"
    assert said in caplog.text
    last = tmp_path / "first" / "last.ckpt"
    second = run(settings_of, tmp_path / "second", f"ckpt_path={last}")
    assert second["epochs"] == 3 and second["best_epoch"] == first["best_epoch"]
    assert second["scores"] == first["scores"]
    assert len(history(tmp_path / "second")) == 3
    more = run(settings_of, tmp_path / "more", f"ckpt_path={last}", "patience=4")
    assert more["epochs"] == 5 and more["settings"]["patience"] == 4


def test_a_finished_run_is_resumed_to_the_same_results(
    base: Path, settings_of, tmp_path: Path, caplog
):
    again = run(settings_of, tmp_path, f"ckpt_path={base / 'last.ckpt'}")
    assert "nothing is left to train (trainer.max_epochs=N with resume_lr=RATE" in caplog.text
    for name in ("scores", "epochs", "best_epoch", "threshold", "rows"):
        assert again[name] == results_of(base)[name], name


@pytest.mark.parametrize("moved", ["folder", "both files", "last alone", "another best"])
def test_the_best_checkpoint_is_found_beside_the_last(settings_of, tmp_path: Path, moved: str):
    # A rate of nothing after the first epoch: no later one can be the best.
    run(settings_of, tmp_path / "old", *CAPTIONS, "scheduler=none", "trainer.max_epochs=2")
    best_epoch = results_of(tmp_path / "old")["best_epoch"]
    new = tmp_path / "a folder with spaces"
    if moved == "folder":
        (tmp_path / "old").rename(new)
    else:
        new.mkdir()
        shutil.copy(tmp_path / "old" / "last.ckpt", new / "last.ckpt")
        if moved == "both files":
            shutil.copy(tmp_path / "old" / "best.ckpt", new / "best.ckpt")
        if moved == "another best":
            run(settings_of, tmp_path / "other", *CAPTIONS, "seed=5")
            shutil.copy(tmp_path / "other" / "best.ckpt", new / "best.ckpt")
    more = [f"ckpt_path={new / 'last.ckpt'}", "trainer.max_epochs=3", "resume_lr=1e-12"]
    results = run(settings_of, tmp_path / "more", *more)
    missing = [note for note in results["notes"] if "there is no best.ckpt" in note]
    if moved in ("folder", "both files"):
        assert not missing and results["best_epoch"] == best_epoch
    else:
        (said,) = missing
        assert "the best epoch is chosen from here on" in said
        assert results["best_epoch"] == 2


def test_the_last_validation_adds_no_point(base: Path):
    for column in ("train/loss", "val/loss", "val/f1_micro"):
        assert len(history(base, column)) == 2


# ---- Options ------------------------------------------------------------------------------------

# An option with another value than the checkpoint's, and what its message says of both.
CHANGED = {
    "optimizer.lr=1e-05": "optimizer.lr=0.003",
    "optimizer=sgd": "optimizer=adam",
    "optimizer.betas=[0.5,0.9]": "optimizer.betas=[0.9,0.999]",
    "loss=bce_pos_weight": "loss=bce",
    "scheduler=cosine": "scheduler=one_cycle",
    "scheduler.warmup=0.1": "scheduler.warmup=0.3",
    "data.batch_size=16": "data.batch_size=32",
    "seed=1": "seed=0",
    "data.image_size=48": "data.image_size=32",
    "data.upright=false": "data.upright=true",
    "data.scenes_seed=1": "data.scenes_seed=0",
    "data.rows=[50,24,24]": "data.rows=[60,24,24]",
    "lstm.layers=3": "lstm.layers=1",
    "lstm.pooling=last": "lstm.pooling=max",
    "model=decoder": "model=caption_only",
    "model.head.dropout=0.1": "model.head.dropout=0.5",
    "embedding.dim=8": "embedding.dim=16",
    "captions.min_count=2": "captions.min_count=1",
    "monitor=val/map": "monitor=val/f1_micro",
    "threshold=0.3": "threshold=null",
    "trainer.gradient_clip_val=1.0": "trainer.gradient_clip_val=null",
    "trainer.precision=bf16-mixed": "trainer.precision=32-true",
    "trainer.limit_train_batches=1": "trainer.limit_train_batches=1.0",
    "trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches=1",
    "trainer.overfit_batches=1": "trainer.overfit_batches=0.0",
}
ONLY_RESUMING = {"threshold=0.3", "data.batch_size=16", "trainer.precision=bf16-mixed"}


@pytest.mark.parametrize("doing", ["resume", "evaluate"])
def test_what_would_change_the_meaning_is_refused(
    base: Path, settings_of, tmp_path: Path, doing: str
):
    how = ["train=false"] if doing == "evaluate" else []
    for given, own in CHANGED.items():
        if doing == "evaluate" and given in ONLY_RESUMING:
            continue
        options = ["model=caption_only", *how, f"ckpt_path={base / 'last.ckpt'}"]
        options = [o for o in options if not (given.startswith("model=") and "model=" in o)]
        with pytest.raises(UserError) as error:
            run(settings_of, tmp_path, *options, given)
        text = str(error.value)
        assert text.startswith(f"{given}, but the checkpoint was trained with {own}: "), text
    assert not list(tmp_path.iterdir())


def test_the_same_value_may_be_given(base: Path, settings_of, tmp_path: Path):
    same = [*CAPTIONS, *{own for own in CHANGED.values() if "null" not in own}]
    results = evaluate(settings_of, base / "best.ckpt", tmp_path, *same)
    assert results["scores"] == pytest.approx(results_of(base)["scores"], abs=1e-6)


def test_options_of_a_network_that_the_checkpoint_does_not_have(
    base: Path, settings_of, tmp_path: Path
):
    with pytest.raises(UserError, match="decoder.beam_width=2, but .* decoder.beam_width=null"):
        evaluate(settings_of, base / "best.ckpt", tmp_path, "decoder.beam_width=2")


def test_an_experiment_is_compared_option_by_option(base: Path, settings_of, tmp_path: Path):
    for options in (["experiment=report_vgg16"], ["experiment=demo"]):
        with pytest.raises(UserError, match="but the checkpoint was trained with"):
            evaluate(settings_of, base / "best.ckpt", tmp_path, *options)


def test_a_group_that_sets_nothing_is_not_left_aside(base: Path, settings_of, tmp_path: Path):
    with pytest.raises(UserError, match=r"trainer=…: .*trainer.max_epochs=2.*max_epochs=10"):
        settings = settings_of("train=false", f"ckpt_path={base / 'best.ckpt'}")
        plain = settings.model_copy(update={"trainer": Trainer()})
        train(plain, tmp_path, overrides=["train=false", "trainer=default"])


def test_paths_and_machinery_may_change(base: Path, settings_of, tmp_path: Path):
    options = ["data.workers=1", "logger.csv=false", f"cache_dir={tmp_path / 'cache'}",
               "trainer=cpu", "callbacks.model_summary=true", "trainer.profiler=simple",
               "trainer.log_every_n_steps=3", "report=true", "name=again",
               "test=false"]  # fmt: skip
    results = run(settings_of, tmp_path / "more", f"ckpt_path={base / 'last.ckpt'}", *options)
    assert results["settings"]["data"]["workers"] == 1
    assert results["settings"]["logger"]["csv"] is False
    assert results["settings"]["name"] == "again"
    assert (tmp_path / "cache").is_dir()
    assert not any(name.startswith("test/") for name in results["scores"])


def test_what_is_recorded_is_what_was_used(base: Path, settings_of, tmp_path: Path):
    """Whatever the command line's defaults are, nothing but what may change is taken from it."""
    settings = settings_of(f"ckpt_path={base / 'last.ckpt'}", "lstm.layers=3", "seed=7", "data=csv",
                           "data.file=nowhere.csv", "optimizer=sgd")  # fmt: skip
    results = train(settings, tmp_path, overrides=[])
    own, recorded = results_of(base)["settings"], results["settings"]
    changed = {key for key in own if own[key] != recorded[key]}
    assert changed == {"ckpt_path"} and results["scores"] == results_of(base)["scores"]


# ---- Rows -----------------------------------------------------------------------------------


def test_data_that_is_not_named_is_the_checkpoints(on_rows: Path, settings_of, tmp_path: Path):
    results = evaluate(settings_of, on_rows / "best.ckpt", tmp_path)
    assert results["settings"]["data"]["name"] == "csv"
    assert results["scores"] == pytest.approx(results_of(on_rows)["scores"], abs=1e-6)
    assert results["rows"] == results_of(on_rows)["rows"]


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ("data.split_seed=1", "data.split_seed=0"),
        ("data.fractions=[0.6,0.2,0.2]", "data.fractions=[0.5,0.25,0.25]"),
        ("data.folds=3 data.fold=1", "data.folds=null"),
        ("data.caption_seed=2", "data.caption_seed=0"),
        ("data.separator=,", "data.separator= "),
    ],
)
@pytest.mark.parametrize("doing", ["resume", "evaluate"])
def test_other_splits_are_refused(
    on_rows: Path, rows: list[str], settings_of, tmp_path: Path, given: str, own: str, doing: str
):
    name = given.split("=")[0]
    options = [o for o in rows if not o.startswith(f"{name}=")] + [f"ckpt_path={on_rows}/last.ckpt"]
    options += ["train=false"] if doing == "evaluate" else []
    with pytest.raises(UserError) as error:
        run(settings_of, tmp_path, *options, *given.replace("=,", "=','").split(" "))
    text = str(error.value)
    assert text.startswith(given.split(" ")[0]) and f"trained with {own}" in text
    assert ("data.allow_other_rows=true" in text) == (doing == "evaluate")


def test_another_source_is_refused(on_rows: Path, made: Path, settings_of, tmp_path: Path):
    for other in (["data=scenes"], ["data=usyd", f"data.root={made}"]):
        with pytest.raises(UserError, match=rf"{other[0]}, but .* data=csv"):
            evaluate(settings_of, on_rows / "best.ckpt", tmp_path, *other)


def test_a_fold_is_its_fold(rows: list[str], settings_of, tmp_path: Path):
    folds = [*[o for o in rows if "fractions" not in o], "data.folds=3", "data.fold=0"]
    run(settings_of, tmp_path / "fold", *folds)
    with pytest.raises(UserError, match="data.fold=2, but .* data.fold=0"):
        evaluate(settings_of, tmp_path / "fold" / "best.ckpt", tmp_path / "x", *folds[:-1],
                 "data.fold=2")  # fmt: skip


def edited(made: Path, folder: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """A copy of the made CSV with other lines."""
    head, *lines = (made / "rows.csv").read_text().splitlines()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.csv"
    path.write_text("\n".join([head, *change(lines)]) + "\n")
    return path


def relabelled(lines: list[str]) -> list[str]:
    picture, labels, caption = lines[5].split(",")
    return [*lines[:5], f"{picture},{'3' if labels != '3' else '1'},{caption}", *lines[6:]]


def recaptioned(lines: list[str]) -> list[str]:
    return [lines[0].rsplit(",", 1)[0] + ",quite another sentence", *lines[1:]]


def test_files_may_move_and_must_hold_the_same_rows(
    on_rows: Path, made: Path, settings_of, tmp_path: Path
):
    def again(file: Path) -> dict:
        return evaluate(settings_of, on_rows / "best.ckpt", tmp_path / "out", "data=csv",
                        f"data.file={file}", f"data.root={made}")  # fmt: skip

    same = edited(made, tmp_path / "same", lambda lines: lines)
    scores = again(same)["scores"]
    assert scores == pytest.approx(results_of(on_rows)["scores"], abs=1e-6)
    for change, what in ((relabelled, "rows"), (recaptioned, "captions of the"),
                         (lambda lines: lines[1:], "rows"), (reversed, "rows")):  # fmt: skip
        other = edited(made, tmp_path / "other", change)
        with pytest.raises(UserError) as error:
            again(other)
        text = str(error.value)
        assert f"data.file={other}" in text and f"{made}/rows.csv" in text and what in text


def test_a_file_that_has_changed_is_refused(settings_of, made: Path, rows: list[str], tmp_path):
    file = edited(made, tmp_path, lambda lines: lines)
    options = [o for o in rows if not o.startswith("data.file")]
    options += [f"data.file={file}", f"data.root={made}"]
    run(settings_of, tmp_path / "run", *options)
    edited(made, tmp_path, relabelled)
    with pytest.raises(UserError, match="the files have changed: the data's .* rows are not those"):
        evaluate(settings_of, tmp_path / "run" / "best.ckpt", tmp_path / "again")
    with pytest.raises(UserError, match="the files have changed.*restore it"):
        run(settings_of, tmp_path / "more", f"ckpt_path={tmp_path / 'run' / 'last.ckpt'}")


def test_pictures_of_other_content(settings_of, made: Path, tmp_path: Path):
    shutil.copytree(made / "data", tmp_path / "data")
    shutil.copy(made / "train.csv", tmp_path)
    run(settings_of, tmp_path / "run", "model=image_only", "data=usyd", f"data.root={tmp_path}")
    Image.new("RGB", (44, 36), "white").save(tmp_path / "data" / "0.jpg", format="PNG")
    last, best = (tmp_path / "run" / name for name in ("last.ckpt", "best.ckpt"))
    with pytest.raises(UserError, match="content of the pictures has changed .*restore it"):
        run(settings_of, tmp_path / "more", f"ckpt_path={last}")
    results = evaluate(settings_of, best, tmp_path / "again")
    assert any("content of the pictures has changed" in note for note in results["notes"])
    allowed = evaluate(settings_of, best, tmp_path / "allowed", "data.allow_other_rows=true")
    assert any("content of the pictures has changed" in note for note in allowed["notes"])
    # Wherever the same pictures are.
    # Captions, which this model does not read, hide nothing.
    train_csv = tmp_path / "train.csv"
    captions = train_csv.read_text()
    train_csv.write_text(captions.replace("morning", "evening"))
    with pytest.raises(UserError, match="content of the pictures has changed .*restore it"):
        run(settings_of, tmp_path / "third", f"ckpt_path={last}")
    train_csv.write_text(captions)
    elsewhere = ["data=usyd", f"data.root={made}"]
    more = run(settings_of, tmp_path / "more", *elsewhere, f"ckpt_path={last}")
    again = evaluate(settings_of, best, tmp_path / "other", *elsewhere)
    assert not any("has changed" in note for note in more["notes"] + again["notes"])
    shutil.copytree(made / "data", tmp_path / "photos")
    renamed = ["data=usyd", f"data.root={tmp_path}", "data.pictures=photos"]
    for number, given in enumerate(([f"ckpt_path={last}"], ["train=false", f"ckpt_path={best}"])):
        found = run(settings_of, tmp_path / f"renamed{number}", *renamed, *given)
        assert not any("has changed" in note for note in found["notes"])


ORDERED = ("model=decoder", "decoder.order=as_given")


def test_an_order_of_labels_that_the_data_does_not_have_is_told_before_pictures_are_looked_at(
    settings_of, made: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(CaptionedPictures, "setup", lambda self, stage: pytest.fail("too late"))
    with pytest.raises(UserError, match="decoder.order=as_given needs a data file that lists"):
        run(settings_of, tmp_path / "run", *ORDERED, "data=coco", f"data.root={made}")


def test_rows_are_taught_in_their_own_order_where_others_are_left_out(
    settings_of, made: Path, tmp_path: Path, monkeypatch
):
    shutil.copytree(made, tmp_path / "made")
    given = [*ORDERED, "data=usyd", f"data.root={tmp_path / 'made'}", "data.on_bad_image=skip"]
    settings = settings_of(*given, "trainer.max_epochs=1")
    annotations = settings.data.read(
        cache_dir=tmp_path, require_pictures=True, require_captions=False
    )
    rows = settings.data.divide(annotations, cache_dir=tmp_path)["train"]
    annotations.pictures[rows[1]].write_bytes(b"no picture")
    taught: dict[int, list[int]] = {}

    def rank_of(self, batch):
        rank = original(self, batch)
        if self.training:
            taught.update(zip(batch.rows.tolist(), rank.tolist(), strict=True))
        return rank

    original = LabelDecoder._rank_of
    monkeypatch.setattr(LabelDecoder, "_rank_of", rank_of)
    run(settings_of, tmp_path / "run", *given, "trainer.max_epochs=1")
    expected = annotations.label_order[np.delete(rows, 1)]
    assert len(taught) > 10
    assert taught == {row: expected[row].tolist() for row in taught}


def test_the_order_of_the_labels_matters_to_a_network_that_is_taught_it(
    settings_of, made: Path, tmp_path: Path
):
    shutil.copytree(made, tmp_path / "made")
    data = ["data=usyd", f"data.root={tmp_path / 'made'}"]
    for name, given in (("ordered", ORDERED), ("other", ("model=decoder",))):
        run(settings_of, tmp_path / name, *given, *data)
    train_csv = tmp_path / "made" / "train.csv"
    train_csv.write_text(train_csv.read_text().replace(",1 3 17,", ",17 3 1,"))
    last = f"ckpt_path={tmp_path / 'ordered' / 'last.ckpt'}"
    with pytest.raises(UserError, match="order of the labels in the file has changed since"):
        run(settings_of, tmp_path / "more", *ORDERED, *data, last)
    last = f"ckpt_path={tmp_path / 'other' / 'last.ckpt'}"
    run(settings_of, tmp_path / "more", "model=decoder", *data, last)


@pytest.mark.parametrize(("name", "refused"), [("words", True), ("backbone", False)])
def test_what_else_a_run_has_read(settings_of, made: Path, tmp_path: Path, name, refused):
    options = ["data=usyd", f"data.root={made}"]
    run(settings_of, tmp_path / "run", *options)
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    saved["mmlabel"]["inputs"][name] = "other"
    torch.save(saved, tmp_path / "run" / "other.ckpt")
    asked = *options, f"ckpt_path={tmp_path / 'run' / 'other.ckpt'}"
    if refused:
        with pytest.raises(UserError, match=r"words made of the captions .* have changed since"):
            run(settings_of, tmp_path / "more", *asked)
        return
    notes = run(settings_of, tmp_path / "more", *asked)["notes"]
    assert any("the backbone's weights have changed since" in note for note in notes)


def test_captions_do_not_matter_to_a_model_that_does_not_read_them(
    settings_of, made: Path, tmp_path: Path
):
    file = edited(made, tmp_path, lambda lines: lines)
    options = ["model=image_only", "data=csv", f"data.file={file}", f"data.root={made}"]
    run(settings_of, tmp_path / "run", *options)
    edited(made, tmp_path, recaptioned)
    evaluate(settings_of, tmp_path / "run" / "best.ckpt", tmp_path / "again")


def test_a_splits_file_may_move_and_must_say_the_same(
    settings_of, made: Path, rows: list[str], tmp_path: Path
):
    ids = [line.split(",")[0] for line in (made / "rows.csv").read_text().splitlines()[1:]]
    names = ["train", "val", "train", "test"]
    for number, name in enumerate(("one", "same", "other")):
        shift = number == 2
        lines = [f"{id},{names[(i + shift) % 4]}" for i, id in enumerate(ids)]
        (tmp_path / name).write_text("ImageID,split\n" + "\n".join(lines) + "\n")
    options = [*[o for o in rows if "fractions" not in o], f"data.splits={tmp_path / 'one'}"]
    run(settings_of, tmp_path / "run", *options)
    best = tmp_path / "run" / "best.ckpt"
    (tmp_path / "one").rename(tmp_path / "gone")
    evaluate(settings_of, best, tmp_path / "a", *options[:-1], f"data.splits={tmp_path / 'same'}")
    with pytest.raises(UserError, match=r"data.splits=.*other \(the checkpoint's: .*one\)"):
        evaluate(settings_of, best, tmp_path / "b", *options[:-1],
                 f"data.splits={tmp_path / 'other'}")  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_other_rows_are_scored_without_those_it_was_trained_on(
    on_rows: Path, rows: list[str], settings_of, tmp_path: Path, seed: int
):
    trained = read_checkpoint(on_rows / "best.ckpt").rows
    assert trained is not None
    results = evaluate(settings_of, on_rows / "best.ckpt", tmp_path / "other", *rows,
                       f"data.split_seed={seed}", "data.allow_other_rows=true")  # fmt: skip
    test_before, _, _ = predictions(on_rows)
    ids, targets, probabilities = predictions(tmp_path / "other")
    assert ids and set(ids) <= set(test_before), "only rows that it has never seen"
    assert results["rows"]["test"] == len(ids) < 18
    (note,) = [note for note in results["notes"] if "allow_other_rows" in note]
    left_out = 36 - results["rows"]["test"] - results["rows"]["val"]
    assert f"of 36 validation and test rows, {left_out} that it was trained or selected" in note
    for average in ("micro", "samples"):
        expected = f1_score(targets, probabilities >= 0.5, average=average, zero_division=0)
        assert results["scores"][f"test/f1_{average}"] == pytest.approx(expected, abs=1e-6)
    assert results["settings"]["data"]["split_seed"] == seed
    assert results["settings"]["data"]["fractions"] == [0.5, 0.25, 0.25]


def test_all_rows_of_a_table_are_for_the_test(
    on_rows: Path, made: Path, rows: list[str], settings_of, tmp_path: Path
):
    best, test_before = on_rows / "best.ckpt", predictions(on_rows)
    options = [*[o for o in rows if "fractions" not in o and "file" not in o], f"data.root={made}"]
    new = edited(made, tmp_path / "new", lambda lines: [f"new-{line}" for line in lines])
    every = [*options, f"data.file={new}", "data.splits=test", "data.allow_other_rows=true"]
    results = evaluate(settings_of, best, tmp_path / "all", *every)
    ids, targets, probabilities = predictions(tmp_path / "all")
    assert (results["rows"]["val"], results["rows"]["test"]) == (0, 72)
    assert ids == [line.split(",")[0] for line in new.read_text().splitlines()[1:]]
    expected = f1_score(targets, probabilities >= 0.5, average="micro", zero_division=0)
    assert results["scores"]["test/f1_micro"] == pytest.approx(expected, abs=1e-6)
    # Those that it has been trained or selected on are no test, whatever the table is.
    same = [*options, f"data.file={made}/rows.csv", "data.splits=test"]
    evaluate(settings_of, best, tmp_path / "same", *same, "data.allow_other_rows=true")
    assert predictions(tmp_path / "same")[0] == test_before[0]
    with pytest.raises(UserError, match="with data.splits=test, too, all the others are scored"):
        evaluate(settings_of, best, tmp_path / "drawn", *options, f"data.file={new}")
    with pytest.raises(UserError, match="data.splits=test leaves no row to train on"):
        settings_of(*same)


def test_data_that_is_not_where_it_was_is_asked_for(
    made: Path, rows: list[str], settings_of, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(made)
    given = [*CAPTIONS, "data=csv", "data.file=rows.csv", "trainer.max_epochs=1"]
    run(settings_of, tmp_path / "run", *given)
    monkeypatch.chdir(tmp_path)
    said = r"data.file=rows.csv, the data of .*, is not there: .* \(data=csv data.file=PLACE\)"
    with pytest.raises(UserError, match=said):
        evaluate(settings_of, tmp_path / "run" / "best.ckpt", tmp_path / "again")
    there = ["data=csv", f"data.file={made}/rows.csv"]
    evaluate(settings_of, tmp_path / "run" / "best.ckpt", tmp_path / "again", *there)


def test_another_source_is_scored_where_that_is_asked_for(
    on_rows: Path, made: Path, settings_of, tmp_path: Path
):
    """The same pictures by other names, in COCO's files and in the report's."""
    options = ["data=usyd", f"data.root={made}", "data.allow_other_rows=true", "data.upright=true"]
    with pytest.raises(
        UserError, match="best.ckpt has other labels than the data: it (has|lacks) "
    ):
        evaluate(settings_of, on_rows / "best.ckpt", tmp_path, *options)


def test_a_table_with_some_of_the_labels_is_scored(on_rows: Path, settings_of, tmp_path: Path):
    """Under the checkpoint's numbers; labels that it does not have are refused as ever."""
    pictures = [tmp_path / f"{n}.png" for n in range(4)]
    for n, picture in enumerate(pictures):
        Image.new("RGB", (40, 40), (60 * n, 10, 90)).save(picture)
    labels = ["1", "17", "1 17", "17"]
    lines = [f"{pictures[n]},{labels[n]},cat" for n in range(4)]
    others = ["data=csv", f"data.file={tmp_path}/new.csv", "data.separator=' '", "data.splits=test",
              "data.allow_other_rows=true"]  # fmt: skip
    (tmp_path / "new.csv").write_text("picture,labels,caption\n" + "\n".join(lines))
    evaluate(settings_of, on_rows / "best.ckpt", tmp_path / "new", *others)
    with open(tmp_path / "new" / "predictions.csv", newline="") as file:
        truth = [
            (row["target_1"], row["target_3"], row["target_17"]) for row in csv.DictReader(file)
        ]
    assert truth == [("1", "0", "0"), ("0", "0", "1"), ("1", "0", "1"), ("0", "0", "1")]

    lines[2] = lines[2].replace("1 17", "1 4")
    (tmp_path / "new.csv").write_text("picture,labels,caption\n" + "\n".join(lines))
    with pytest.raises(UserError, match="has other labels than the data: it has 3, and lacks 4"):
        evaluate(settings_of, on_rows / "best.ckpt", tmp_path / "refused", *others)


def test_a_table_with_some_of_the_columns_is_scored(on_rows: Path, settings_of, tmp_path: Path):
    """In whatever order; of a label without a column nothing is known."""
    for n in range(4):
        Image.new("RGB", (40, 40), (60 * n, 10, 90)).save(tmp_path / f"{n}.png")
    cells = ["1,1,1", "0,0,1", "1,,0", "0,1,0"]
    lines = [f"{tmp_path}/{n}.png,cat,{cells[n]}" for n in range(4)]
    (tmp_path / "new.csv").write_text("picture,caption,17,1,new\n" + "\n".join(lines))
    others = ["data=csv", f"data.file={tmp_path}/new.csv", "data.splits=test",
              "data.allow_other_rows=true"]  # fmt: skip
    columns = ["data.label_columns=['17','1']"]
    record = evaluate(settings_of, on_rows / "best.ckpt", tmp_path / "new", *others, *columns)
    with open(tmp_path / "new" / "predictions.csv", newline="") as file:
        truth = [[row[f"target_{n}"] for n in (1, 3, 17)] for row in csv.DictReader(file)]
    assert truth == [["1", "", "1"], ["0", "", "0"], ["", "", "1"], ["1", "", "0"]]
    assert any("new.csv: 3: no such column, so these labels count" in n for n in record["notes"])
    columns = ["data.label_columns=['17','1',new]"]
    with pytest.raises(UserError, match="has 3, and lacks new; .* out of data.label_columns"):
        evaluate(settings_of, on_rows / "best.ckpt", tmp_path / "refused", *others, *columns)


def test_nothing_but_rows_that_it_was_trained_on(
    on_rows: Path, made: Path, rows: list[str], settings_of, tmp_path: Path
):
    ids = [line.split(",")[0] for line in (made / "rows.csv").read_text().splitlines()[1:]]
    never, _, _ = predictions(on_rows)
    lines = [f"{id},{'train' if id in never else ('val', 'test')[i % 2]}"
             for i, id in enumerate(ids)]  # fmt: skip
    (tmp_path / "splits.csv").write_text("ImageID,split\n" + "\n".join(lines) + "\n")
    options = [*[o for o in rows if "fractions" not in o], f"data.splits={tmp_path}/splits.csv"]
    with pytest.raises(UserError, match="no row is left .*: rows are told by the names"):
        evaluate(settings_of, on_rows / "best.ckpt", tmp_path, *options,
                 "data.allow_other_rows=true")  # fmt: skip


def test_other_rows_are_not_trained_on(on_rows: Path, settings_of):
    with pytest.raises(UserError, match="allow_other_rows is for evaluating"):
        settings_of(f"ckpt_path={on_rows / 'last.ckpt'}", "data.allow_other_rows=true")


def test_a_checkpoint_without_a_record_of_its_rows_says_so(base: Path, settings_of, tmp_path: Path):
    saved = torch.load(base / "best.ckpt", weights_only=True)
    del saved["mmlabel"]["rows"]
    torch.save(saved, tmp_path / "older.ckpt")
    results = evaluate(settings_of, tmp_path / "older.ckpt", tmp_path / "out")
    assert any("does not say which rows" in note for note in results["notes"])


# ---- Thresholds --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def at_03(settings_of, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("at_03")
    run(settings_of, folder, *CAPTIONS, "threshold=0.3")
    return folder


def test_null_is_a_half_where_it_is_given(at_03: Path, settings_of, tmp_path: Path):
    """By itself an evaluation answers at the checkpoint's own."""
    for given, expected in (((), 0.3), (("threshold=null",), 0.5)):
        results = evaluate(settings_of, at_03 / "best.ckpt", tmp_path / "run", *given)
        assert results["threshold"] == expected
        _, targets, probabilities = predictions(tmp_path / "run")
        answers = probabilities.astype(np.float32) >= np.float32(expected)
        f1 = f1_score(targets, answers, average="micro", zero_division=0)
        assert results["scores"]["test/f1_micro"] == pytest.approx(f1, abs=1e-6)


def test_an_evaluation_is_repeated_at_its_threshold(
    at_03: Path, settings_of, cache: Path, tmp_path: Path
):
    for number, given in enumerate(((), ("threshold=null",), ("threshold=0.4",))):
        once = evaluate(settings_of, at_03 / "best.ckpt", tmp_path / f"{number}", *given)
        again = [f"repeat={tmp_path / f'{number}'}", f"cache_dir={cache}"]
        repeated = train(load_settings(again), tmp_path / "again", overrides=again)
        assert repeated["threshold"] == once["threshold"] == (0.3, 0.5, 0.4)[number]
        assert repeated["scores"] == once["scores"]


@pytest.mark.parametrize("threshold", ["0.3", "auto", "per_label", "cv", "cv_per_label"])
def test_another_threshold_when_evaluating(base: Path, settings_of, tmp_path: Path, threshold: str):
    results = evaluate(settings_of, base / "best.ckpt", tmp_path, f"threshold={threshold}")
    _, targets, probabilities = predictions(tmp_path)
    chosen = results["threshold"]
    if threshold == "0.3":
        assert chosen == 0.3
    if threshold.endswith("per_label"):
        numbers = [int(n) for n in results["labels"]]
        assert len(chosen) == 20 and numbers
        chosen = np.array([t for n, t in enumerate(chosen) if n not in (0, 12)])
    answers = probabilities.astype(np.float32) >= np.float32(chosen)
    expected = f1_score(targets, answers, average="micro", zero_division=0)
    assert results["scores"]["test/f1_micro"] == pytest.approx(expected, abs=1e-6)


def test_a_threshold_that_was_found_is_kept(settings_of, tmp_path: Path):
    options = [*CAPTIONS, "threshold=cv", "threshold_metric=f1_samples"]
    found = run(settings_of, tmp_path / "run", *options)["threshold"]
    # On fewer rows of validation another one would be found.
    again = evaluate(settings_of, tmp_path / "run" / "best.ckpt", tmp_path / "again",
                     "trainer.limit_val_batches=0")  # fmt: skip
    assert again["threshold"] == found
    # An epoch's own checkpoint has none yet: it is found when that is evaluated.
    last = evaluate(settings_of, tmp_path / "run" / "last.ckpt", tmp_path / "last")
    assert last["settings"]["threshold"] == "cv"
    assert last["settings"]["threshold_metric"] == "f1_samples"
    given = evaluate(
        settings_of, tmp_path / "run" / "last.ckpt", tmp_path / "given", "threshold=0.4"
    )
    assert given["threshold"] == 0.4 and given["settings"]["threshold_metric"] == "f1_micro"


def test_a_threshold_that_a_file_sets_counts_as_one_that_is_given(
    base: Path, settings_of, tmp_path: Path
):
    def again(checkpoint: Path, *options: str) -> dict:
        given = ["train=false", f"ckpt_path={checkpoint}", "trainer.limit_val_batches=0"]
        return train(
            settings_of(*given, *options),
            tmp_path / "again",
            overrides=[*given, "experiment=mine"],
            set_in_files=["threshold"],
        )

    assert again(base / "best.ckpt", "threshold=0.3")["threshold"] == 0.3
    # The file of the run itself asks for nothing else: on no row of validation none is found.
    found = run(settings_of, tmp_path / "run", *CAPTIONS, "threshold=cv")["threshold"]
    assert again(tmp_path / "run" / "best.ckpt", "threshold=cv")["threshold"] == found


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("features=on", "model=caption_only, which does not use features"),
        ("features.batch_size=3", "model=caption_only, which does not use features"),
        ("data.on_bad_image=skip", "model=caption_only, which looks at no pictures"),
    ],
)
def test_what_changes_nothing_beside_a_checkpoint_is_told(
    option: str, why: str, base: Path, cache: Path, tmp_path: Path
):
    """The command line's own model, by default one of pictures, has a use for it."""
    given = [f"ckpt_path={base / 'best.ckpt'}", f"cache_dir={cache}", "logger=csv", option]
    for doing in (["train=false"], ["trainer.max_epochs=3", "resume_lr=1e-3"]):
        overrides = [*given, "report=false", *doing]
        found = train(load_settings(overrides), tmp_path / doing[0], overrides=overrides)
        assert f"{option}: no effect with {why}" in found["notes"]
        assert "features" not in found["settings"]


def test_a_group_that_a_file_chooses_is_compared(base: Path, settings_of, tmp_path: Path):
    settings = settings_of("train=false", f"ckpt_path={base / 'best.ckpt'}", "lstm.layers=3")
    with pytest.raises(UserError, match="lstm.layers=3, but .* lstm.layers=1"):
        train(settings, tmp_path, overrides=["experiment=mine"], set_in_files=["lstm"])


def test_the_same_command_goes_on_where_it_was_stopped(settings_of, tmp_path: Path):
    """With the same command, as a scheduler gives it again: nothing tells it from a whole run."""
    options = [*CAPTIONS, "trainer.max_epochs=4", "resume=true"]
    whole = run(settings_of, tmp_path / "whole", *options)
    run_killed_in_epoch(settings_of, tmp_path / "cut", 2, *options)
    again = run(settings_of, tmp_path / "cut", *options)
    assert again["scores"] == whole["scores"] and again["epochs"] == 4
    assert again["settings"] == whole["settings"]
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    other = [*CAPTIONS, "trainer.max_epochs=4", "resume=true", "lstm.layers=2"]
    with pytest.raises(UserError, match="lstm.layers=2, but the checkpoint was trained with"):
        run(settings_of, tmp_path / "cut", *other)


def test_seconds_are_counted_once(settings_of, tmp_path: Path, monkeypatch):
    """Evaluation reads the best epoch's checkpoint, in which there are seconds, too."""
    monkeypatch.setattr(TrainingTime, "state_dict", lambda _: {"seconds": 1_000.0})
    seconds = run(settings_of, tmp_path, *CAPTIONS, "trainer.max_epochs=3")["seconds"]
    assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"])
    assert seconds["total"] < 100


def test_the_seconds_before_a_stop_count(settings_of, tmp_path: Path, monkeypatch):
    options = [*CAPTIONS, "trainer.max_epochs=3", "resume=true"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingTime, "state_dict", lambda _: {"seconds": 1_000.0})
        run_killed_in_epoch(settings_of, tmp_path, 1, *options)
    seconds = run(settings_of, tmp_path, *options)["seconds"]
    assert 1_000 < seconds["train"] < seconds["total"] < 1_100
    # And once more: what the resumed run has kept counts both parts.
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["TrainingTime"]
    assert 1_000 < state["seconds"] < seconds["train"]


def test_another_runs_leftovers_are_refused(settings_of, tmp_path: Path):
    """Whether or not the command names the option in which it differs."""
    options = [*CAPTIONS, "resume=true", "trainer.max_epochs=3"]
    beginning = run_killed_in_epoch(settings_of, tmp_path / "first", 1, *options)
    for number, (theirs, said) in enumerate(
        {
            "optimizer.lr=0.5": "optimizer.lr=0.003, but .* optimizer.lr=0.5: resume=true goes on",
            "callbacks.ema=0.9": "callbacks.ema=null, but .* callbacks.ema=0.9: ",
            "+trainer.reload_dataloaders_every_n_epochs=1": "n_epochs=null, but .*n_epochs=1: ",
            f"ckpt_path={beginning}": "ckpt_path=null, but .* ckpt_path=/.*last.ckpt: ",
        }.items()
    ):
        folder = tmp_path / str(number)
        run_killed_in_epoch(settings_of, folder, 2, *options, theirs)
        with pytest.raises(UserError, match=said):
            run(settings_of, folder, *options)


def test_what_does_not_change_the_result_is_the_new_commands(settings_of, tmp_path: Path):
    options = [*CAPTIONS, "resume=true"]
    whole = run(settings_of, tmp_path / "whole", *options)
    theirs = ["data.workers=1", "name=former", "trainer.log_every_n_steps=3", "report=true"]
    run_killed_in_epoch(settings_of, tmp_path / "cut", 1, *options, *theirs)
    again = run(settings_of, tmp_path / "cut", *options)
    assert again["settings"] == whole["settings"] and again["scores"] == whole["scores"]


def test_going_on_is_for_training_alone(settings_of):
    with pytest.raises(UserError, match="resume=true with train=false"):
        settings_of("resume=true", "train=false", "ckpt_path=a.ckpt")
    with pytest.raises(UserError, match="resume=true with resume_lr"):
        settings_of("resume=true", "ckpt_path=a.ckpt", "resume_lr=0.1")


def finished_as(monkeypatch, folder: Path, settings: Settings, *options: str) -> dict | None:
    """What train.py finds in a run's folder when it is started once more, with resume=true."""
    monkeypatch.setattr("train.job_settings", lambda config: (settings, []))
    monkeypatch.setattr("train.task_overrides", lambda: list(options))
    return finished_before(DictConfig({}), folder)


def test_a_finished_run_of_one_batch_is_not_the_whole_one(settings_of, tmp_path: Path, monkeypatch):
    one = settings_of(*CAPTIONS, "resume=true", "trainer.limit_train_batches=1")
    write_fake_run(tmp_path / "run", seed=0, noise=0.1, settings=one.plain())
    assert finished_as(monkeypatch, tmp_path / "run", one) == results_of(tmp_path / "run")
    whole = settings_of(*CAPTIONS, "resume=true")
    assert finished_as(monkeypatch, tmp_path / "run", whole) is None


def test_the_same_command_goes_on_where_it_began_with_a_checkpoint(
    settings_of, tmp_path: Path, monkeypatch
):
    """Whose options it has from there: stopped, and once more when it has finished."""
    first = [*CAPTIONS, "lstm.layers=2", "scheduler=none", "trainer.max_epochs=2"]
    run(settings_of, tmp_path / "first", *first)
    last = tmp_path / "first" / "last.ckpt"
    on = [f"ckpt_path={last}", "trainer.max_epochs=4", "resume=true"]
    whole = run(settings_of, tmp_path / "whole", *on)
    run_killed_in_epoch(settings_of, tmp_path / "cut", 3, *on)
    again = run(settings_of, tmp_path / "cut", *on)
    assert again["epochs"] == 4 and again["scores"] == whole["scores"]
    assert again["settings"] == whole["settings"] and again["settings"]["lstm"]["layers"] == 2
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    found = finished_as(monkeypatch, tmp_path / "cut", settings_of(*on), *on)
    assert found is not None and found["scores"] == whole["scores"]
    longer = [on[0], "trainer.max_epochs=5", "resume=true"]
    assert finished_as(monkeypatch, tmp_path / "cut", settings_of(*longer), *longer) is None
    run_killed_in_epoch(settings_of, tmp_path / "other", 3, *on)
    with pytest.raises(UserError, match="lstm.layers=3, but the checkpoint was trained with"):
        run(settings_of, tmp_path / "other", *on, "lstm.layers=3")
    # Where that checkpoint is gone, the command's own options are compared.
    last.rename(tmp_path / "gone.ckpt")
    with pytest.raises(UserError, match="resume=true goes on with what the same command has left"):
        run(settings_of, tmp_path / "other", *on)


# ---- Another run's folder ----------------------------------------------------------------------


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def left(settings_of, tmp_path: Path) -> Path:
    """The folder of a run that was interrupted in its third epoch."""
    run_killed_in_epoch(settings_of, tmp_path / "left", 2, *CAPTIONS, "trainer.max_epochs=3")
    assert {"best.ckpt", "last.ckpt", "metrics.csv"} <= names_in(tmp_path / "left")
    return tmp_path / "left"


def test_a_run_leaves_no_files_of_another_that_its_folder_held(
    base: Path, left: Path, settings_of, tmp_path: Path
):
    evaluated = tmp_path / "evaluated"
    shutil.copytree(left, evaluated)
    evaluate(settings_of, base / "best.ckpt", evaluated)
    assert names_in(evaluated).isdisjoint({"best.ckpt", "last.ckpt"}) and not history(evaluated)

    own = tmp_path / "own"  # the checkpoint that is evaluated may lie there
    shutil.copytree(left, own)
    content = (own / "best.ckpt").read_bytes()
    evaluate(settings_of, own / "best.ckpt", own)
    assert (own / "best.ckpt").read_bytes() == content
    assert "last.ckpt" not in names_in(own) and not history(own)

    elsewhere = tmp_path / "elsewhere"  # on from the same run's checkpoint, in another one's folder
    shutil.copytree(left, elsewhere)
    run(settings_of, elsewhere, *CAPTIONS, "trainer.max_epochs=3", "logger.csv=false",
        f"ckpt_path={left / 'last.ckpt'}")  # fmt: skip
    assert "metrics.csv" not in names_in(elsewhere)

    unscored = ["trainer.max_epochs=1", "trainer.limit_val_batches=0", "logger.csv=false"]
    results = run(settings_of, left, *CAPTIONS, *unscored, "seed=3")
    assert results["best_epoch"] is None
    assert names_in(left).isdisjoint({"best.ckpt", "metrics.csv"})
    assert torch.load(left / "last.ckpt", weights_only=True)["epoch"] == 0


def test_a_run_that_is_refused_or_only_tried_leaves_what_was_there(left: Path, settings_of):
    before = {path: path.read_bytes() for path in left.iterdir() if path.is_file()}
    run(settings_of, left, *CAPTIONS, "trainer.fast_dev_run=true")
    with pytest.raises(UserError, match="max_megabytes"):
        run(settings_of, left, *CAPTIONS, "max_megabytes=0.001")
    assert {path: path.read_bytes() for path in left.iterdir() if path.is_file()} == before


# ---- The precision of what is frozen ------------------------------------------------------------


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether it has bfloat16; it computes in it in any case, if slowly."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def has(bfloat16: bool) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)

    has(True)
    return has


def in_bfloat16(made: Path, cache: Path, *own: str) -> list[str]:
    rows = ["model=image_only", "data=csv", f"data.file={made}/rows.csv", f"cache_dir={cache}"]
    rows.append("backbone=resnet18")  # deep enough for it to show
    return [*rows, "features.precision=bfloat16", "trainer.max_epochs=1", "scheduler=none", *own]


def precision_of(folder: Path) -> object:
    features = read_checkpoint(folder / "best.ckpt").settings.features
    assert (
        features is not None and results_of(folder)["settings"]["features"] == features.model_dump()
    )
    return features.precision


@pytest.mark.parametrize("limit", ["50", "1e-4"])
@pytest.mark.parametrize("has", [True, False])
def test_auto_is_what_the_processor_has_and_goes_into_the_record(
    has: bool, limit: str, settings_of, made: Path, tmp_path: Path, processor
):
    processor(has)
    plain, found = in_bfloat16(made, tmp_path), "bfloat16" if has else "float32"
    for name in ("auto", found):
        options = [f"features.precision={name}", f"features.max_gigabytes={limit}"]
        results = run(settings_of, tmp_path / name, *plain, *options)
        assert not [note for note in results["notes"] if "precision" in note]
        assert precision_of(tmp_path / name) == found
    assert np.array_equal(*(predictions(tmp_path / name)[2] for name in ("auto", found)))
    # It leaves open what the run has found, to whoever evaluates it or goes on with it.
    for folder, work in (("scored", "train=false"), ("on", "trainer.max_epochs=2")):
        given = [f"ckpt_path={tmp_path}/auto/last.ckpt", work, f"cache_dir={tmp_path}"]
        run(settings_of, tmp_path / folder, *given, "features.precision=auto")
    assert np.array_equal(*(predictions(tmp_path / name)[2] for name in ("auto", "scored")))
    assert precision_of(tmp_path / "on") == found


@pytest.mark.parametrize("limit", ["50", "1e-4"])
def test_without_bfloat16_a_run_in_it_is_answered_in_float32(
    limit: str, settings_of, made: Path, tmp_path: Path, processor
):
    """Which is said wherever it is: bfloat16 would take a hundred times as long."""
    options = in_bfloat16(made, tmp_path, f"features.max_gigabytes={limit}")
    run(settings_of, tmp_path / "run", *options)
    best = tmp_path / "run" / "best.ckpt"
    ids, _, then = predictions(tmp_path / "run")
    pictures = [made / name for name in ids]
    expected = Predictor(best, precision="float32").predict(pictures)
    processor(False)
    said = "no instructions: here it computes in float32"
    here = Predictor(best)
    assert [said in note for note in here.cautions] == [True]
    assert here.predict(pictures) == expected
    again = evaluate(settings_of, best, tmp_path / "again", f"cache_dir={tmp_path}")
    assert [said in note for note in again["notes"]] == [True]
    scored = predictions(tmp_path / "again")[2]
    known = np.array([list(one.probabilities.values()) for one in expected])
    assert abs(scored - known).max() < 1e-5 < 1e-4 < abs(scored - then).max()


def test_bfloat16_that_the_processor_lacks_is_told(
    settings_of, made: Path, tmp_path: Path, processor
):
    processor(False)
    for option, instead in (
        ("features.precision=bfloat16", "features.precision=auto"),
        ("trainer.precision=bf16-mixed", "trainer.precision=32-true"),
    ):
        chosen = [*in_bfloat16(made, tmp_path), "features.precision=auto", option]
        notes = run(settings_of, tmp_path / "run", *chosen)["notes"]
        assert [note for note in notes if note.startswith(f"{option}: ") and instead in note]
        assert sum("no instructions" in note for note in notes) == 1


@pytest.mark.parametrize("own", [(), ("backbone.unfreeze=1",)])
@pytest.mark.parametrize("limit", ["50", "1e-4"])
def test_bfloat16_is_kept_to_whether_features_are_stored_or_not(
    limit: str, own: tuple[str, ...], settings_of, made: Path, tmp_path: Path, processor
):
    """In training and its test, in predicting and in evaluating."""
    folder, options = tmp_path / "run", [*own, f"features.max_gigabytes={limit}"]
    results = run(settings_of, folder, *in_bfloat16(made, tmp_path, *options))
    assert (results["features"] is None) is (limit == "1e-4")
    ids, _, expected = predictions(folder)

    def error(**options: Literal["float32"]) -> float:
        found = Predictor(folder / "best.ckpt", **options).predict([made / name for name in ids])
        return abs([list(one.probabilities.values()) for one in found] - expected).max()

    assert error() < 1e-5
    assert error(precision="float32") > 1e-4  # which it can be told from
    evaluate(settings_of, folder / "best.ckpt", tmp_path / "again", f"cache_dir={tmp_path}")
    assert abs(predictions(tmp_path / "again")[2] - expected).max() < 1e-5


def test_a_run_does_not_go_on_in_another_precision(
    settings_of, made: Path, tmp_path: Path, processor
):
    run(settings_of, tmp_path / "run", *in_bfloat16(made, tmp_path), "scheduler=none")
    on = [f"ckpt_path={tmp_path}/run/last.ckpt", f"cache_dir={tmp_path}", "trainer.max_epochs=2"]
    said = "features=off: the frozen backbone would go on in float32, .* trained in bfloat16"
    with pytest.raises(UserError, match=said):
        run(settings_of, tmp_path / "off", *on, "features=off")
    assert run(settings_of, tmp_path / "on", *on, "features=on")["epochs"] == 2
