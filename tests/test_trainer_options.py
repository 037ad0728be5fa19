"""Every option of Lightning's Trainer that --help lists does what Lightning's users know."""

import json
import math
from pathlib import Path

import pytest
import torch
from resumed_runs import CAPTIONS, history

from mmlabel import training
from mmlabel.errors import UserError
from mmlabel.help import choices
from mmlabel.lightning.classifier import Classifier
from mmlabel.options import declared
from mmlabel.processes import check_processes
from mmlabel.settings import Settings
from mmlabel.trainer_options import OWN
from mmlabel.training import train

REPOSITORY = Path(__file__).resolve().parent.parent

# 60, 24 and 24 rows: with 10 rows a batch these are 6, 3 and 3 batches.
COMMON = ["model=caption_only", "data.batch_size=10", "patience=null", "scheduler=none"]

# A value of each option with which a run is to end as any other does.
PLAIN = {
    "min_epochs": "1",
    "accelerator": "cpu",
    "devices": "1",
    "num_nodes": "1",
    "strategy": "auto",
    "precision": "bf16-mixed",
    "gradient_clip_val": "0.5",
    "gradient_clip_algorithm": "value",
    "accumulate_grad_batches": "2",
    "log_every_n_steps": "1",
    "detect_anomaly": "true",
    "deterministic": "true",
    "benchmark": "true",
    "sync_batchnorm": "true",
}
# Those whose effect is looked at below.
LOOKED_AT = {
    "max_epochs", "max_steps", "max_time", "limit_train_batches", "limit_val_batches",
    "limit_test_batches", "overfit_batches", "fast_dev_run", "val_check_interval",
    "check_val_every_n_epoch", "profiler",
}  # fmt: skip


def run(settings_of, folder: Path, *options: str) -> dict:
    given = [*COMMON, *options]
    return train(settings_of(*given), folder, overrides=given)


def predicted(folder: Path) -> int:
    return len((folder / "predictions.csv").read_text().splitlines()) - 1


def test_no_option_is_forgotten():
    names = {o.name.split(".")[1] for o in declared(Settings) if o.name.startswith("trainer.")}
    assert names == PLAIN.keys() | LOOKED_AT


@pytest.mark.parametrize("option", sorted(PLAIN))
def test_a_run_with_it_ends_as_any_other(option: str, settings_of, tmp_path: Path):
    extra = ["trainer.gradient_clip_val=0.5"] if option == "gradient_clip_algorithm" else []
    given = f"trainer.{option}={PLAIN[option]}"
    results = run(settings_of, tmp_path, given, *extra, "trainer.max_epochs=1")
    assert results["rows"] == {"train": 60, "val": 24, "test": 24}
    assert results["epochs"] == 1 and predicted(tmp_path) == 24
    assert json.loads((tmp_path / "results.json").read_text())["scores"] == results["scores"]


def test_epochs_and_steps_end_training(settings_of, tmp_path: Path):
    assert run(settings_of, tmp_path / "epochs", "trainer.max_epochs=3")["epochs"] == 3
    results = run(settings_of, tmp_path / "steps", "trainer.max_epochs=null", "trainer.max_steps=9")
    assert results["epochs"] == 2, "9 steps are one epoch and a half"
    assert results["rows"]["train"] == 60, "of the whole one"
    results = run(settings_of, tmp_path / "few", "trainer.max_epochs=null", "trainer.max_steps=3")
    assert results["rows"]["train"] == 30, "there was no whole one"


def test_the_documents_say_how_many_options_are_refused():
    assert len(OWN) == 12
    for name in ("README.md", "docs/faults.md"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert "but the twelve that `train.py` sets itself" in text


def test_time_ends_training(settings_of, tmp_path: Path):
    options = ("trainer.max_epochs=null", "trainer.max_time=00:00:00:02")
    results = run(settings_of, tmp_path, *options)
    assert results["epochs"] >= 1 and predicted(tmp_path) == 24


def test_a_limit_is_the_true_number_of_rows(settings_of, tmp_path: Path):
    limits = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=0.34")
    results = run(settings_of, tmp_path, *limits, "trainer.limit_test_batches=1")
    assert results["rows"] == {"train": 20, "val": 10, "test": 10}
    assert predicted(tmp_path) == 10


def test_what_was_not_looked_at_has_no_scores_and_no_file(settings_of, tmp_path: Path):
    results = run(settings_of, tmp_path / "test", "trainer.limit_test_batches=0")
    assert results["rows"]["test"] == 0
    assert not any(name.startswith("test/") for name in results["scores"])
    assert not (tmp_path / "test" / "predictions.csv").exists()
    results = run(settings_of, tmp_path / "val", "trainer.limit_val_batches=0", "patience=2")
    assert results["rows"]["val"] == 0 and results["best_epoch"] is None
    assert not any(name.startswith("val/") for name in results["scores"])
    assert any("no epoch was validated" in note for note in results["notes"])
    with pytest.raises(UserError, match="threshold=auto with trainer.limit_val_batches=0: "):
        run(settings_of, tmp_path / "auto", "trainer.limit_val_batches=0", "threshold=auto")
    assert not (tmp_path / "auto").exists(), "it was trained first"


@pytest.mark.parametrize("option", ["trainer.limit_train_batches=0", "trainer.max_steps=0"])
def test_a_run_that_would_train_nothing_is_refused(option: str, settings_of, tmp_path: Path):
    with pytest.raises(UserError, match=f"{option}: nothing would be trained"):
        run(settings_of, tmp_path, option)
    assert not list(tmp_path.iterdir())


def test_overfitting_sees_the_same_rows_in_every_epoch(settings_of, tmp_path: Path, monkeypatch):
    seen: list[tuple[int, list[int]]] = []
    step = Classifier.training_step

    def watched(self: Classifier, batch, batch_idx: int) -> torch.Tensor:
        seen.append((self.current_epoch, batch.rows.tolist()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(training.Classifier, "training_step", watched)
    run(settings_of, tmp_path, "trainer.overfit_batches=2", "trainer.max_epochs=3")
    epochs = [[rows for epoch, rows in seen if epoch == number] for number in range(3)]
    assert len(epochs[0]) == 2 and epochs[0] == epochs[1] == epochs[2]
    losses = history(tmp_path, "train/loss")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("model", ["model=caption_only", "model=image_only"])
def test_overfitting_is_validated_on_the_rows_that_it_learns(
    model: str, settings_of, tmp_path: Path, monkeypatch
):
    learned: list[str] = []
    validated: list[str] = []
    images: list[torch.Tensor] = []

    def train_step(self: Classifier, batch, batch_idx: int) -> torch.Tensor:
        learned.extend(batch.ids)
        return step(self, batch, batch_idx)

    def val_step(self: Classifier, batch, batch_idx: int) -> None:
        validated.extend(batch.ids)
        images.append(batch.image)
        validate(self, batch, batch_idx)

    step, validate = Classifier.training_step, Classifier.validation_step
    monkeypatch.setattr(Classifier, "training_step", train_step)
    monkeypatch.setattr(Classifier, "validation_step", val_step)
    options = [model, "trainer.overfit_batches=1", "features=off", "trainer.max_epochs=2"]
    results = run(settings_of, tmp_path, *options, "test=false", "data.augment=[erase]"
                  if model == "model=image_only" else "threshold=auto")  # fmt: skip
    assert learned == validated[: len(learned)], "in both epochs"
    assert set(learned) == set(validated) and len(set(learned)) == 10
    assert results["rows"] == {"train": 10, "val": 10, "test": 0}
    assert any("validation scores are of the training rows" in note for note in results["notes"])
    if model == "model=image_only":
        assert torch.equal(images[0], images[1]), "without changes that training makes"


def test_what_is_known_by_heart_scores_so(settings_of, tmp_path: Path):
    options = ["trainer.overfit_batches=1", "trainer.max_epochs=60", "optimizer.lr=0.03"]
    results = run(settings_of, tmp_path, *options, "test=false", "model.head.dropout=0",
                  "lstm.dropout=0")  # fmt: skip
    assert results["scores"]["val/f1_micro"] > 0.9


def test_a_fast_run_keeps_nothing_and_says_so(settings_of, tmp_path: Path, caplog):
    caplog.set_level("INFO", logger="mmlabel")
    run(settings_of, tmp_path, "trainer.fast_dev_run=true")
    assert "no checkpoint, scores or page are kept" in caplog.text
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left.isdisjoint({"results.json", "predictions.csv", "best.ckpt", "SHA256SUMS"})


def test_validation_within_an_epoch_and_not_in_every_one(settings_of, tmp_path: Path):
    run(settings_of, tmp_path / "within", "trainer.val_check_interval=0.5", "trainer.max_epochs=2")
    assert len(history(tmp_path / "within", "val/f1_micro")) == 4
    options = ("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4")
    results = run(settings_of, tmp_path / "some", *options)
    assert len(history(tmp_path / "some", "val/f1_micro")) == 2
    assert len(history(tmp_path / "some", "train/loss")) == 4
    assert results["best_epoch"] in (1, 3)


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        (["trainer.val_check_interval=0.5"], 3),
        (["trainer.val_check_interval=2", "trainer.max_steps=3"], 2),
    ],
)
def test_what_is_validated_within_an_epoch_is_at_its_end(
    options: list[str], validated: int, settings_of, tmp_path: Path
):
    """An interval of two of five batches: best.ckpt, of the epoch's end, is chosen by its score."""
    options = [*CAPTIONS, *options, "data.batch_size=12", "trainer.max_epochs=1"]
    results = run(settings_of, tmp_path, *options)
    losses = history(tmp_path, "val/loss")
    assert len(losses) == validated
    assert results["scores"]["val/loss"] == pytest.approx(losses[-1], rel=1e-6) != losses[-2]


def test_a_shorter_last_group_of_batches_is_a_mean_too(settings_of, tmp_path: Path):
    options = [*CAPTIONS, "optimizer=sgd", "optimizer.lr=0.5", "scheduler=none",
               "model.head.batch_norm=false", "model.head.dropout=0"]  # fmt: skip
    whole = run(settings_of, tmp_path / "whole", *options, "data.batch_size=60")
    parts = ("data.batch_size=20", "trainer.accumulate_grad_batches=4")
    found = run(settings_of, tmp_path / "parts", *options, *parts)
    assert found["scores"]["val/loss"] == pytest.approx(whole["scores"]["val/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("validates", "epochs"),
    [
        ("trainer.val_check_interval=0.25", 4),  # the first epoch, and three without improvement
        ("trainer.check_val_every_n_epoch=2", 6),  # of which the second is the first validated
    ],
)
def test_patience_counts_epochs_however_often_they_are_validated(
    validates: str, epochs: int, settings_of, tmp_path: Path
):
    flat = ["optimizer.lr=0", "model.head.batch_norm=false", "patience=3", "data.batch_size=15"]
    options = [*flat, validates, "trainer.max_epochs=9"]
    assert run(settings_of, tmp_path / "whole", *options)["epochs"] == epochs
    run(settings_of, tmp_path / "begun", *options[:-1], "trainer.max_epochs=3")
    on = [f"ckpt_path={tmp_path / 'begun' / 'last.ckpt'}", "trainer.max_epochs=9"]
    resumed = train(settings_of(*on), tmp_path / "on", overrides=on)
    assert resumed["epochs"] == epochs, "what was counted is not forgotten"


def test_a_profile_is_given(settings_of, tmp_path: Path, capsys, caplog):
    caplog.set_level("INFO")
    run(settings_of, tmp_path, "trainer.profiler=simple", "trainer.max_epochs=1")
    said = capsys.readouterr()
    assert "training_step" in said.out + said.err + caplog.text


@pytest.mark.parametrize(
    "option",
    [
        "trainer.val_check_interval=1000",
        "trainer.accelerator=abacus",
        "trainer.precision=nonsense",
        "trainer.strategy=nonsense",
        "trainer.max_time=tomorrow",
        "trainer.devices=[7]",
        "+trainer.min_steps=-5.5",
    ],
)
def test_what_lightning_refuses_is_one_message(option: str, settings_of, tmp_path: Path):
    try:
        results = run(settings_of, tmp_path, option, "trainer.max_epochs=1")
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("trainer")
    else:
        assert option == "+trainer.min_steps=-5.5" and math.isfinite(results["scores"]["val/loss"])


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("chosen", ["caption=transformer", "embedding=contextual"])
def test_a_text_transformer_computes_in_single_precision(
    chosen: str, precision: str, settings_of, tmp_path: Path
):
    with pytest.raises(UserError, match=f"trainer.precision={precision} with {chosen}: "):
        run(settings_of, tmp_path, chosen, f"trainer.precision={precision}")


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        *(("image_only", p) for p in ("16-true", "bf16-true", "64-true")),
        ("fusion", "bf16-true"),
        ("caption_only", "16-true"),
    ],
)
def test_a_precision_that_a_model_cannot_compute_in_is_one_message(
    model: str, precision: str, settings_of, tmp_path: Path
):
    with pytest.raises(UserError, match=f"trainer.precision={precision}.*bf16-mixed"):
        run(settings_of, tmp_path, f"model={model}", f"trainer.precision={precision}")


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_captions_alone_in_another_precision(precision: str, settings_of, tmp_path: Path):
    whole = run(settings_of, tmp_path, f"trainer.precision={precision}", "trainer.max_epochs=2")
    losses = history(tmp_path, "train/loss")
    assert math.isfinite(losses[1]) and losses[1] < losses[0]
    best = ["train=false", f"ckpt_path={tmp_path / 'best.ckpt'}"]
    assert run(settings_of, tmp_path / "again", *best)["scores"] == whole["scores"]


@pytest.mark.parametrize("option", ["model.mixup=0.4", "loss=bce_pos_weight"])
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_what_training_adds_is_of_that_precision_too(
    precision: str, option: str, settings_of, tmp_path: Path
):
    options = [f"trainer.precision={precision}", option, "trainer.max_epochs=1"]
    scores = run(settings_of, tmp_path, *options)["scores"]
    best = ["train=false", f"ckpt_path={tmp_path / 'best.ckpt'}"]
    assert run(settings_of, tmp_path / "again", *best)["scores"] == scores


def test_plateau_without_validation_is_refused(settings_of, tmp_path: Path):
    options = ["model=caption_only", "scheduler=plateau", "trainer.limit_val_batches=0"]
    with pytest.raises(
        UserError, match="scheduler=plateau with trainer.limit_val_batches=0: .*none"
    ):
        run(settings_of, tmp_path, *options)


def test_pictures_in_mixed_precision(settings_of, tmp_path: Path):
    options = ["model=image_only", "trainer.precision=bf16-mixed", "trainer.max_epochs=1"]
    assert math.isfinite(run(settings_of, tmp_path, *options)["scores"]["val/loss"])


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook_find_unused_parameters_true"])
def test_processes_that_bring_nothing_back_are_refused(strategy: str, settings_of, tmp_path: Path):
    given = f"trainer.strategy={strategy}"
    with pytest.raises(UserError, match=f"{given}: .* give trainer.strategy=ddp$"):
        run(settings_of, tmp_path, given, "trainer.devices=2")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=given):
        check_processes(settings_of(given).trainer)


@pytest.fixture
def nothing_is_read(monkeypatch):
    def build(*_: object, **__: object) -> None:
        raise AssertionError("data and weights were read first")

    monkeypatch.setattr(training, "build", build)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there(name: str, settings_of, tmp_path: Path, nothing_is_read):
    with pytest.raises(UserError, match=f"trainer.accelerator={name}: .* take trainer=cpu$"):
        run(settings_of, tmp_path, f"trainer.accelerator={name}")


@pytest.mark.parametrize(
    "option", ["max_time=soon", "strategy=nowhere", "precision=12", "accelerator=abacus"]
)
def test_what_lightning_refuses_is_refused_at_once(
    option: str, settings_of, tmp_path: Path, nothing_is_read
):
    with pytest.raises(UserError, match="^trainer: .*(valid|Available)"):
        run(settings_of, tmp_path, f"trainer.{option}")


@pytest.mark.parametrize("name", choices("debug"))
def test_the_files_of_debug_run(name: str, settings_of, tmp_path: Path):
    given = ["model=caption_only", f"debug={name}", "trainer.max_epochs=2"]
    results = train(settings_of(*given), tmp_path, overrides=given)
    assert results["epochs"] in (1, 2)
