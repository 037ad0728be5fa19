"""What is said of the answers of a run that has not finished, and of data that have changed."""

import re
from pathlib import Path

import pytest
from resumed_runs import CAPTIONS, run, run_killed_in_epoch

import mmlabel
from mmlabel.errors import UserError
from mmlabel.export.__main__ import main as export
from mmlabel.export.proof import rows_of
from mmlabel.lightning.checkpoint_file import read_file, write_file
from mmlabel.predict import main as predict

SAID = "threshold=auto was not found yet: it answers at 0.5"


@pytest.fixture(scope="module")
def last(settings_of, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    return run_killed_in_epoch(settings_of, folder, 1, *CAPTIONS, "threshold=auto")


@pytest.mark.usefixtures("as_usual_cache")
def test_an_interrupted_runs_threshold_is_said_not_to_be_found(last: Path, tmp_path: Path, capsys):
    for checkpoint in (last, last.with_name("best.ckpt")):
        with pytest.warns(UserWarning, match=f"{re.escape(str(checkpoint))}.*{SAID}"):
            model = mmlabel.load(checkpoint)
        assert model.uncalibrated is not None
    rows = tmp_path / "rows.csv"
    rows.write_text("ImageID,Caption\n0.jpg,a person\n")
    assert predict([str(last), str(rows), "--out", str(tmp_path / "out.csv")]) == 0
    assert SAID in capsys.readouterr().err
    out = tmp_path / "model"
    assert export([str(last), "--format", "torch", "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert SAID in said and "let the run finish (ckpt_path=last.ckpt)" in said
    assert not out.exists()


def test_a_threshold_that_is_known_is_not(last: Path, settings_of, tmp_path: Path):
    fixed = run_killed_in_epoch(settings_of, tmp_path / "fixed", 1, *CAPTIONS, "threshold=0.3")
    assert mmlabel.load(fixed).uncalibrated is None
    run(settings_of, tmp_path / "on", f"ckpt_path={last}")
    assert mmlabel.load(tmp_path / "on" / "best.ckpt").uncalibrated is None


def test_rows_that_are_not_the_checkpoints_are_no_proof(settings_of, made: Path, tmp_path: Path):
    file = tmp_path / "rows.csv"
    lines = (made / "rows.csv").read_text().splitlines()
    file.write_text("\n".join(lines) + "\n")
    run(settings_of, tmp_path / "run", *CAPTIONS, "data=csv", f"data.file={file}")
    best = tmp_path / "run" / "best.ckpt"
    model = mmlabel.load(best)
    assert len(rows_of(model, "test", rows=5)) == 5
    # The same rows in another order are divided otherwise: tested is what it was trained on.
    file.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    with pytest.raises(UserError, match="test rows are not those of the checkpoint's run"):
        rows_of(model, "test", rows=50)
    content = read_file(best)
    content["mmlabel"]["rows"] = None
    write_file(content, tmp_path / "older.ckpt")
    assert len(rows_of(mmlabel.load(tmp_path / "older.ckpt"), "test", rows=5)) == 5
