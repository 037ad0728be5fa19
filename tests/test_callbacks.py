"""What is said of an epoch."""

import logging
from pathlib import Path

import pytest
from resumed_runs import CAPTIONS, history

from mmlabel.training import train


def test_a_line_has_the_scores_of_its_own_epoch(
    settings_of, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    options = [*CAPTIONS, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"]
    with caplog.at_level(logging.INFO, "mmlabel.callbacks"):
        train(settings_of(*options), tmp_path)
    lines = [text for text in caplog.messages if text.startswith("epoch ")]
    assert ["train/loss" in line for line in lines] == [True, True, True]
    assert ["val/" in line for line in lines] == [False, True, False]
    assert f"val/f1_micro {history(tmp_path, 'val/f1_micro')[0]:.3f}" in lines[1]
