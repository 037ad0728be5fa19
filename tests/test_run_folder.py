"""What a run leaves in its folder and how it is read again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_runs import write_fake_run

from mmlabel.errors import UserError
from mmlabel.run_folder import (
    failure,
    finished,
    read_history,
    read_results,
    read_run,
    write_failure,
    write_json,
    write_predictions,
)


def test_why_a_run_failed_is_read_from_its_folder(tmp_path: Path):
    write_failure(tmp_path, ValueError("no weights"))
    assert failure(tmp_path) == "no weights"
    assert "ended without a result" in failure(tmp_path / "killed")
    (tmp_path / "failed.json").write_text("[]")
    assert "ended without a result" in failure(tmp_path)


def test_predictions_are_read_back_unchanged(tmp_path: Path):
    write_fake_run(tmp_path, seed=0, noise=0.1, rows=5)
    random = torch.Generator().manual_seed(0)
    probabilities = torch.rand(5, 4, generator=random)
    targets = torch.rand(5, 4, generator=random) < 0.5
    write_predictions(
        tmp_path / "predictions.csv",
        ids=["a", "b,c", 'd"', "", "e\nf"],
        probabilities=probabilities,
        targets=targets,
        label_names=["", "one", "", "three"],
    )
    read = read_run(tmp_path).predictions
    assert read.ids == ["a", "b,c", 'd"', "", "e\nf"]
    assert read.labels == [1, 3]
    np.testing.assert_array_equal(read.probs.astype(np.float32), probabilities[:, [1, 3]].numpy())
    np.testing.assert_array_equal(read.targets, targets[:, [1, 3]].numpy())


def test_thresholds_of_single_labels_apply_to_their_label(tmp_path: Path):
    write_fake_run(tmp_path, seed=0, noise=0.1, rows=4)
    run = read_run(tmp_path)
    run.results["threshold"] = [0.0, 2.0, 0.0, 0.5]  # of the labels 0 to 3; 1, 2 and 3 exist
    assert not run.answers[:, 0].any() and run.answers[:, 1].all()
    np.testing.assert_array_equal(run.answers[:, 2], run.predictions.probs[:, 2] >= 0.5)


def test_lines_of_an_epoch_are_one_in_the_record_and_kept_as_logged_for_a_resume(tmp_path: Path):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/loss,val/loss\n0,9,,0.5\n0,9,0.7,\n1,19,,0.4\n"
    )
    assert read_run(tmp_path).history == [
        {"epoch": 0, "step": 9, "train/loss": 0.7, "val/loss": 0.5},
        {"epoch": 1, "step": 19, "val/loss": 0.4},
    ]
    assert read_history(tmp_path)[1] == {"epoch": 0, "step": 9, "train/loss": 0.7}
    assert read_history(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("content", ["epoch,step\n0,x\n", "step\n1\n", "epoch\n1\n"])
def test_a_history_that_cannot_be_read_is_named(tmp_path: Path, content: str):
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(UserError, match="metrics.csv cannot be read"):
        read_history(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"scores": {}, "settings": {}}'])
def test_results_that_cannot_be_read_are_named(tmp_path: Path, content: str):
    with pytest.raises(UserError, match="results.json is missing"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match="results.json cannot be read"):
        read_results(tmp_path)


def test_a_run_is_finished_with_its_results_and_predictions(tmp_path: Path):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    assert finished(tmp_path)
    (tmp_path / "predictions.csv").unlink()
    assert not finished(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
