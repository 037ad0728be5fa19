"""What a run leaves in its folder and how it is read again."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_runs import write_fake_run

from mmlabel.cache import atomic_write
from mmlabel.errors import UserError
from mmlabel.label_errors import answered_rows
from mmlabel.run_folder import (
    claim,
    damage,
    empty,
    failure,
    finished,
    read_history,
    read_results,
    read_run,
    seal,
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


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path: Path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    write_failure(tmp_path, ValueError("no weights"))
    assert not list(tmp_path.iterdir())


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
    seal(tmp_path)
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


@pytest.mark.parametrize("threshold", [0.35, [0.2, 0.35, 0.2, 0.47]])
def test_a_probability_that_just_reaches_the_threshold_is_an_answer(threshold, tmp_path: Path):
    """Of 0.35 and 0.47 as single precision has them one is below and one above the decimals."""
    write_fake_run(tmp_path, seed=0, noise=0.1, rows=2)
    probabilities = torch.tensor([[0.2, 0.35, 0.2, 0.47], [0.2, 0.34, 0.2, 0.46]])
    targets = torch.ones(2, 4, dtype=torch.bool)
    write_predictions(
        tmp_path / "predictions.csv",
        ids=["a", "b"],
        probabilities=probabilities,
        targets=targets,
        label_names=["", "one", "", "three"],
    )
    seal(tmp_path)
    run = read_run(tmp_path)
    run.results["threshold"] = threshold
    numbers = [1, 3]
    expected = (probabilities >= torch.tensor(threshold))[:, numbers]
    assert expected.tolist()[0] == [True, True]
    np.testing.assert_array_equal(run.answers, expected.numpy())
    np.testing.assert_array_equal(answered_rows([run]).answered, expected.numpy())


def test_lines_of_an_epoch_are_one_in_the_record_and_kept_as_logged_for_a_resume(tmp_path: Path):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/loss,val/loss\n0,9,,0.5\n0,9,0.7,\n1,19,,0.4\n"
    )
    seal(tmp_path)
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


FILES = ["metrics.csv", "predictions.csv", "results.json"]


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_any_changed_byte_of_a_finished_run_is_found(tmp_path: Path, name: str):
    write_fake_run(tmp_path, seed=0, noise=0.1, rows=4)
    whole = (tmp_path / name).read_bytes()
    assert finished(tmp_path) and damage(tmp_path) is None
    for place in range(0, len(whole), 1 + len(whole) // 60):
        (tmp_path / name).write_bytes(
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        )
        assert not finished(tmp_path)
        # A changed digest and a changed file look alike.
        assert damage(tmp_path) == name or (name == "SHA256SUMS" and damage(tmp_path))
        with pytest.raises(UserError, match="is not as the run wrote it"):
            read_run(tmp_path)
    (tmp_path / name).write_bytes(whole[:-1])
    assert damage(tmp_path) is not None or name == "SHA256SUMS"
    (tmp_path / name).write_bytes(b"")
    assert damage(tmp_path) == name
    (tmp_path / name).write_bytes(whole)
    assert finished(tmp_path)


@pytest.mark.parametrize("name", [*FILES, "report.html"])
def test_a_run_is_finished_only_with_all_its_files(tmp_path: Path, name: str):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    (tmp_path / "report.html").write_text("the page")
    seal(tmp_path)
    assert finished(tmp_path)
    (tmp_path / name).unlink()
    assert not finished(tmp_path) and damage(tmp_path) == name


def test_a_run_without_checksums_has_not_finished(tmp_path: Path):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    (tmp_path / "SHA256SUMS").unlink()
    assert not finished(tmp_path) and damage(tmp_path) is None


def test_the_checksums_are_those_that_sha256sum_reads(tmp_path: Path):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    expected = {hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() + "  " + n for n in FILES}
    assert set(lines) == expected


HOLD = """
import sys, time
from pathlib import Path
from mmlabel.run_folder import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_belongs_to_one_process_until_that_ends_however_it_does(tmp_path: Path):
    folder = tmp_path / "a" / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(UserError, match="another process is writing to"), claim(folder):
                pass
        finally:
            holder.kill()
    with claim(folder):
        with pytest.raises(UserError, match="another process is writing to"), claim(folder):
            pass
    with claim(folder):
        pass


def test_a_finished_run_is_never_written_over(tmp_path: Path):
    with claim(tmp_path):
        write_fake_run(tmp_path, seed=0, noise=0.1)
    with pytest.raises(UserError, match="holds a finished run"), claim(tmp_path):
        pass
    # A damaged one is not removed in silence either.
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="holds a finished run"), claim(tmp_path):
        pass


def test_what_an_unfinished_run_left_does_not_pass_for_the_next_ones(tmp_path: Path):
    folder = tmp_path / "run"
    with claim(folder):
        write_fake_run(folder, seed=0, noise=0.1)
        (folder / "SHA256SUMS").unlink()
        (folder / "failed.json").write_text('{"error": "of the first"}')
        (folder / "last.ckpt").write_text("weights")
    with claim(folder):
        assert {path.name for path in folder.iterdir()} == {".lock", "last.ckpt", "metrics.csv"}
    # A folder that no run has had is left as it is.
    (tmp_path / "config.yaml").write_text("somebody's")
    with claim(tmp_path):
        assert (tmp_path / "config.yaml").is_file()


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path):
    with claim(tmp_path), atomic_write(tmp_path / "last.ckpt") as temporary:
        temporary.write_text("whole")
        os.link(temporary, tmp_path / temporary.name.replace("last", "best"))  # as SIGKILL would
    (tmp_path / ".hidden.txt").write_text("somebody's")
    with claim(tmp_path):
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "last.ckpt", ".hidden.txt"}


def test_a_folder_is_emptied_unless_somebody_writes_there(tmp_path: Path):
    folder = tmp_path / "run"
    empty(folder)
    assert not folder.exists()
    with claim(folder):
        write_fake_run(folder, seed=0, noise=0.1)
        (folder / "wandb").mkdir()
        (folder / "wandb" / "x").write_text("")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "kept").write_text("")
        (folder / "link").symlink_to(tmp_path / "data")
        with pytest.raises(UserError, match="another process is writing to"):
            empty(folder)
    empty(folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert (tmp_path / "data" / "kept").is_file()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run cannot be written"), claim(tmp_path / "file/run"):
        pass


def test_json_is_written_whole_or_not_at_all(tmp_path: Path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
