"""No spreadsheet takes a text from data for a formula, and the text is read back as it was."""

import csv
import itertools

import numpy as np
import pytest
import torch

from mmlabel.run_folder import read_run, write_predictions
from mmlabel.spreadsheet import from_cell, to_cell

STARTS = ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", " =", "\u00a0-", "\ufeff="]


@pytest.mark.parametrize("start", STARTS)
def test_what_could_be_a_formula_begins_with_an_apostrophe(start: str):
    for rest in ("SUM(A1)", "cmd|' /C calc'!A0", "2+3", ""):
        assert to_cell(start + rest).startswith("'")


@pytest.mark.parametrize("text", ["-1", "+2.5", "-1e-7", "a=b", "x.jpg", "'tis", "", "0.5", "''"])
def test_numbers_and_other_texts_stay_as_they_are(text: str):
    assert to_cell(text) == text


def test_every_text_is_read_back_and_no_two_are_written_alike():
    texts = ["".join(t) for n in range(6) for t in itertools.product("'=-1 a", repeat=n)]
    cells = [to_cell(text) for text in texts]
    assert [from_cell(cell) for cell in cells] == texts
    assert len(set(cells)) == len(texts)


def test_ids_that_are_formulas_survive_predictions(tmp_path):
    ids = ["=1+1.jpg", "'=1.jpg", "-5", "@x", "plain.jpg", "'tis.jpg", "+\n"]
    write_predictions(
        tmp_path / "predictions.csv",
        ids=ids,
        probabilities=torch.rand(len(ids), 2),
        targets=torch.ones(len(ids), 2),
        label_names=["", "a"],
    )
    with open(tmp_path / "predictions.csv", newline="") as file:
        written = [row[0] for row in csv.reader(file)][1:]
    assert written == ["'=1+1.jpg", "''=1.jpg", "-5", "'@x", "plain.jpg", "'tis.jpg", "'+\n"]
    (tmp_path / "results.json").write_text('{"scores": {}, "threshold": 0.5}')
    predictions = read_run(tmp_path).predictions
    assert predictions.ids == ids and np.all(predictions.targets)
