"""Labels for new pictures from a checkpoint alone."""

import csv
from pathlib import Path

import pytest

from mmlabel.predict import main
from mmlabel.training import train


def test_predictions_are_those_of_the_run(settings_of, scenes: Path, tmp_path: Path, capsys):
    """On the test rows of the run itself, read as if their labels were not known."""
    train(settings_of(), tmp_path / "run")
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        expected = {row["ImageID"]: row for row in csv.DictReader(file)}
    out = tmp_path / "out.csv"
    assert (
        main([str(tmp_path / "run" / "best.ckpt"), str(scenes / "train.csv"), "--out", str(out)])
        == 0
    )
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    compared = 0
    for row in rows:
        if row["ImageID"] in expected:
            known = expected[row["ImageID"]]
            probs = {name: float(value) for name, value in row.items() if name.startswith("prob_")}
            assert probs == pytest.approx({name: float(known[name]) for name in probs}, abs=1e-5)
            answered = {name[5:] for name, value in probs.items() if value >= 0.5}
            assert set(row["Labels"].split()) == answered
            compared += 1
    assert compared == 24


def test_a_mistake_is_one_message(tmp_path: Path, capsys):
    assert main([str(tmp_path / "no.ckpt"), "no.csv"]) == 1
    assert "there is no file" in capsys.readouterr().err
