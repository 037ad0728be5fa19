"""Averages of weights: by hand, as what is validated, kept and tested, and interrupted."""

from pathlib import Path

import pytest
import torch
from resumed_runs import CAPTIONS, Killed, history, run, run_killed_in_epoch
from torch import Tensor

from mmlabel.data.prepare import PreparedData
from mmlabel.errors import UserError
from mmlabel.lightning import callbacks
from mmlabel.lightning.checkpoint_file import read_file
from mmlabel.models.backbones import Backbone

LAYER = "network.head.layers.5.weight"
HALVES = ("patience=null", "model.auxiliary_loss=0.3", "model.modality_dropout=0.4",
          "loss.smoothing=0.1")  # fmt: skip


def trained(settings_of, folder: Path, *options: str) -> tuple[dict, list[list[Tensor]]]:
    """A run's results, and one layer's weights after each step of each epoch."""
    steps: list[list[Tensor]] = []

    def record(self, trainer, module, *_) -> None:
        weights = module.state_dict()[LAYER].clone()
        if len(steps) == trainer.current_epoch:
            steps.append([])
        steps[-1].append(weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.StopOnNaN, "on_train_batch_end", record, raising=False)
        results = run(settings_of, folder, *CAPTIONS, *options)
    return results, steps


PRECISIONS = pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])


@PRECISIONS
def test_a_moving_average_by_hand(settings_of, tmp_path: Path, precision: str):
    options = ("callbacks.ema=0.3", "trainer.max_epochs=3", f"trainer.precision={precision}")
    _, steps = trained(settings_of, tmp_path, *options)
    average = steps[0][0].float()
    for number, weights in enumerate([weights for epoch in steps for weights in epoch][1:], 1):
        decay = min(0.3, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weights.float()
    last = read_file(tmp_path / "last.ckpt")
    torch.testing.assert_close(last["state_dict"][LAYER], average)
    assert torch.equal(last["current_model_state"][LAYER], steps[-1][-1])


@PRECISIONS
@pytest.mark.parametrize("start", [0, 2])
def test_the_mean_of_epochs_by_hand(settings_of, tmp_path: Path, start: int, precision: str):
    options = (f"callbacks.swa_start={start}", f"trainer.precision={precision}")
    _, steps = trained(settings_of, tmp_path, *options, "trainer.max_epochs=4")
    expected = torch.stack([epoch[-1].float() for epoch in steps[start:]]).mean(0)
    last = read_file(tmp_path / "last.ckpt")
    torch.testing.assert_close(last["state_dict"][LAYER], expected)
    assert torch.equal(last["current_model_state"][LAYER], steps[-1][-1])


def test_before_it_begins_the_weights_stand_for_themselves(settings_of, tmp_path: Path):
    plain, _ = trained(settings_of, tmp_path / "plain", "trainer.max_epochs=3")
    late, _ = trained(
        settings_of, tmp_path / "late", "trainer.max_epochs=3", "callbacks.swa_start=2"
    )
    assert late["scores"] == plain["scores"]
    assert any(said.startswith("callbacks.swa_start=2: the best epoch") for said in late["notes"])
    assert not any("swa_start" in said for said in plain["notes"])


def test_within_an_epoch_before_it_begins_the_weights_of_now_are_validated(
    settings_of, tmp_path: Path
):
    options = ["trainer.max_epochs=3", "trainer.val_check_interval=0.5", "data.batch_size=15"]
    run(settings_of, tmp_path / "plain", *CAPTIONS, *options)
    run(settings_of, tmp_path / "late", *CAPTIONS, *options, "callbacks.swa_start=2")
    losses = history(tmp_path / "plain", "val/loss")
    assert history(tmp_path / "late", "val/loss") == losses and len(set(losses)) == 6


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_end_within_an_epoch_before_there_is_an_average_keeps_the_weights_of_now(
    settings_of, tmp_path: Path, epoch: int
):
    weights: list[Tensor] = []

    def stop(self, trainer, module, outputs, batch, batch_idx) -> None:
        weights.append(module.state_dict()[LAYER].clone())
        if trainer.current_epoch == epoch and batch_idx == 1:
            trainer.should_stop = True  # as trainer.max_time does

    options = ["data.batch_size=15", "callbacks.swa_start=1", "monitor=val/loss"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.StopOnNaN, "on_train_batch_end", stop, raising=False)
        results = run(settings_of, tmp_path, *CAPTIONS, *options)
    assert results["best_epoch"] == epoch
    last = history(tmp_path, "val/loss")[-1]
    assert results["scores"]["val/loss"] == pytest.approx(last, rel=1e-6)
    assert torch.equal(read_file(tmp_path / "best.ckpt")["state_dict"][LAYER], weights[-1])


def test_without_validation_the_last_weights_stand_where_there_is_no_average(
    settings_of, tmp_path: Path
):
    options = ["data.batch_size=15", "trainer.limit_val_batches=0", "trainer.max_epochs=4",
               "trainer.max_steps=6"]  # fmt: skip
    plain = run(settings_of, tmp_path / "plain", *CAPTIONS, *options)
    late = run(settings_of, tmp_path / "late", *CAPTIONS, *options, "callbacks.swa_start=3")
    assert late["scores"] == plain["scores"]


@pytest.mark.parametrize(
    "options", [["callbacks.ema=0.6", "features=off"], ["callbacks.swa_start=1", CAPTIONS[0]]]
)
def test_what_is_validated_is_kept_and_tested(settings_of, tmp_path: Path, options: list[str]):
    options = [*options, "patience=null", "trainer.max_epochs=3", "scheduler=none"]
    results = run(settings_of, tmp_path / "1", *options)
    validated = history(tmp_path / "1", "val/f1_micro")
    assert results["scores"]["val/f1_micro"] == pytest.approx(max(validated), abs=1e-6)
    best = tmp_path / "1" / "best.ckpt"
    again = run(settings_of, tmp_path / "2", "train=false", f"ckpt_path={best}")
    assert again["scores"] == pytest.approx(results["scores"], rel=1e-6)
    kept = read_file(best)
    for name, value in kept["state_dict"].items():
        if name.startswith("network.encoders.image.backbone"):
            assert torch.equal(value, kept["current_model_state"][name]), name
    if results["best_epoch"] > 1:  # from where on both averages have two members
        assert not torch.equal(kept["state_dict"][LAYER], kept["current_model_state"][LAYER])


@pytest.mark.parametrize(
    ("option", "features"),
    [
        ("callbacks.ema=0.6", "auto"),
        ("callbacks.swa_start=1", "auto"),
        ("callbacks.ema=0.6", "off"),
    ],
)
def test_resumed_is_uninterrupted(settings_of, tmp_path: Path, option: str, features: str):
    options = [*HALVES, "trainer.max_epochs=4", option]
    whole = run(settings_of, tmp_path / "whole", *options)
    last = run_killed_in_epoch(settings_of, tmp_path / "killed", 2, *options)
    # The network of features=off has a backbone, which the checkpoint lacks.
    options = [f"ckpt_path={last}", f"features={features}"]
    again = run(settings_of, tmp_path / "again", *options)
    exact = 1e-6 if features == "auto" else 1e-4
    for column in ("train/loss", "val/loss", "val/f1_micro"):
        expected = pytest.approx(history(tmp_path / "whole", column), rel=exact)
        assert history(tmp_path / "again", column) == expected, column
    assert again["scores"] == pytest.approx(whole["scores"], rel=exact)
    assert again["best_epoch"] == whole["best_epoch"]


@pytest.mark.parametrize("option", ["callbacks.ema=0.6", "callbacks.swa_start=0"])
def test_a_run_that_was_stopped_after_its_training_tests_the_average(
    settings_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
):
    options = [*CAPTIONS, "scheduler=none", "monitor=val/loss", "trainer.max_epochs=3",
               "resume=true", option]  # fmt: skip
    whole = run(settings_of, tmp_path / "whole", *options)
    assert whole["best_epoch"] > 0

    def kill(self, trainer, module) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.StopOnNaN, "on_test_start", kill, raising=False)
        with pytest.raises(Killed):
            run(settings_of, tmp_path / "cut", *options)
    again = run(settings_of, tmp_path / "cut", *options)
    assert again["scores"] == whole["scores"]
    predictions = [(tmp_path / name / "predictions.csv").read_text() for name in ("whole", "cut")]
    assert predictions[0] == predictions[1]


def test_a_resumed_run_keeps_its_average(settings_of, tmp_path: Path):
    run(settings_of, tmp_path / "1", *CAPTIONS, "callbacks.ema=0.6")
    last = f"ckpt_path={tmp_path / '1' / 'last.ckpt'}"
    with pytest.raises(UserError, match=r"callbacks.ema=0.9, but .* with callbacks.ema=0.6"):
        run(settings_of, tmp_path / "2", last, "callbacks.ema=0.9")
    run(settings_of, tmp_path / "3", last, "callbacks.model_summary=true")


def test_the_network_that_is_averaged_has_no_copy_of_a_backbone_beside_it(
    settings_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copied: list[Backbone] = []
    monkeypatch.setattr(
        Backbone, "__deepcopy__", lambda self, _: copied.append(self) or self, raising=False
    )
    options = ["callbacks.ema=0.5", "trainer.max_epochs=1", f"cache_dir={tmp_path / 'cache'}"]
    run(settings_of, tmp_path / "run", *options)
    assert not copied


def test_the_network_that_is_averaged_has_no_copy_of_the_rows(
    settings_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copied: list[PreparedData] = []
    monkeypatch.setattr(
        PreparedData, "__deepcopy__", lambda self, _: copied.append(self) or self, raising=False
    )
    run(settings_of, tmp_path, *CAPTIONS, "callbacks.ema=0.5", "trainer.max_epochs=1")
    assert not copied
