"""What is said of an epoch, and the curves of steps."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from resumed_runs import CAPTIONS, history
from tiny_text_model import write_text_model

from mmlabel.lightning.callbacks import StepCurves
from mmlabel.lightning.classifier import Classifier
from mmlabel.training import train

EVERY_STEP = ("trainer.log_every_n_steps=1", "trainer.max_epochs=1", "scheduler=none")


def curves(settings_of, folder: Path, *options: str) -> list[dict[str, float]]:
    """What a run of one epoch logs of each step."""
    logged: list[dict[str, float]] = []
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append(values))
    train(settings_of(*EVERY_STEP, *options), folder, callbacks=[StepCurves([logger])])  # type: ignore[list-item]
    return logged


def test_the_loss_of_a_step_is_that_of_its_batches(settings_of, tmp_path: Path, monkeypatch):
    """Lightning trains on the losses' parts of the step's, and scales them in half precision."""
    losses: list[float] = []
    step = Classifier.training_step

    def watched(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        losses.append(self.step_loss.item())
        return loss

    monkeypatch.setattr(Classifier, "training_step", watched)
    options = [*CAPTIONS, "data.batch_size=8", "trainer.accumulate_grad_batches=3"]
    found = curves(settings_of, tmp_path, *options)
    assert len(losses) == 8
    expected = [sum(part) / len(part) for part in (losses[:3], losses[3:6], losses[6:])]
    assert [values["step/loss"] for values in found] == pytest.approx(expected)


def test_a_rate_has_the_name_of_its_part(settings_of, tmp_path: Path):
    text = write_text_model(tmp_path / "text")
    options = ["model=fusion", "caption=transformer", f"caption.model={text}", "optimizer.lr=0.01"]
    options += ["caption.lr_scale=0.5", "caption.max_length=32"]
    for name, more, expected in (
        ("frozen", [], {"step/lr": 0.01, "step/lr_transformer": 0.005}),
        (
            "trained",
            ["backbone.unfreeze=1", "backbone.lr_scale=0.1"],
            {"step/lr": 0.01, "step/lr_transformer": 0.005, "step/lr_backbone": 0.001},
        ),
    ):
        first, *_ = curves(settings_of, tmp_path / name, *options, *more)
        rates = {name: value for name, value in first.items() if name.startswith("step/lr")}
        assert rates == pytest.approx(expected), name


def test_a_line_has_the_scores_of_its_own_epoch(
    settings_of, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    options = [*CAPTIONS, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"]
    with caplog.at_level(logging.INFO, "mmlabel.lightning.callbacks"):
        train(settings_of(*options), tmp_path)
    lines = [text for text in caplog.messages if text.startswith("epoch ")]
    assert ["train/loss" in line for line in lines] == [True, True, True]
    assert ["val/" in line for line in lines] == [False, True, False]
    assert f"val/f1_micro {history(tmp_path, 'val/f1_micro')[0]:.3f}" in lines[1]
