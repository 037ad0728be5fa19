"""Checkpoints of earlier versions are evaluated, resumed and predicted with, as they always were.

checkpoints/expected.json holds, for each file, the options that describe its network and data, and
what the code that wrote it gave. To add one: its name and options, then
MMLABEL_RECORD=1 with that code.
"""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from recorded import as_recorded, where

from mmlabel.predict import main as predict
from mmlabel.training import train

FOLDER = Path(__file__).with_name("checkpoints")
FILE = FOLDER / "expected.json"
EXPECTED = json.loads(FILE.read_text())
NAMES = sorted(EXPECTED["checkpoints"])
# The oldest Lightning that is allowed is older than the one they were written by.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning"),
    pytest.mark.usefixtures("as_usual_cache"),
]


def check(name: str, what: str, values: dict, drawn: Sequence[str] = ()) -> None:
    """Compare with what is recorded, or record it where that is asked for."""
    entry = EXPECTED["checkpoints"][name]
    if os.environ.get("MMLABEL_RECORD") and what not in entry:
        entry[what] = values
        EXPECTED["where"] = where()
        FILE.write_text(json.dumps(EXPECTED, indent=1) + "\n")
    assert values == as_recorded(entry[what], recorded_where=EXPECTED["where"], drawn=drawn)


@pytest.fixture(autouse=True)
def beside_the_data(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where made/rows.csv is, as it was: such checkpoints do not say which rows they know."""
    (tmp_path / "made").symlink_to(made)
    monkeypatch.chdir(tmp_path)


def options(name: str, kind: str) -> list[str]:
    given = EXPECTED["checkpoints"][name]["options"]
    chosen = [*given["data"], *(given["network"] if kind == "resumed" else ())]
    return [*chosen, f"ckpt_path={FOLDER / name}.ckpt"]


def test_every_file_is_tried_and_small():
    files = {path.stem: path.stat().st_size for path in FOLDER.glob("*.ckpt")}
    assert sorted(files) == NAMES
    assert max(files.values()) < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_it_is_evaluated(name: str, settings_of: Callable, tmp_path: Path):
    given = ["train=false", *options(name, "evaluated")]
    results = train(settings_of(*given), tmp_path, overrides=given)
    made = "data=csv" in given
    check(name, "evaluated", results["scores"], drawn=() if made else ("polygons",))


@pytest.mark.parametrize("unknown", ["weights", "normalisation"])
def test_a_backbone_of_unknown_features_runs(unknown: str, settings_of: Callable, tmp_path: Path):
    """They cannot be told from those of other weights or other pixels, so none are stored."""
    train(settings_of("trainer.max_epochs=1", "model=image_only"), tmp_path / "run")
    path = tmp_path / "run" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    if unknown == "weights":
        content["mmlabel"]["inputs"] = None
    else:
        content["state_dict"]["network.encoders.image.backbone.mean"] += 0.1
    torch.save(content, tmp_path / "old.ckpt")
    given = ["train=false", f"ckpt_path={tmp_path / 'old.ckpt'}", "features=on"]
    results = train(settings_of(*given), tmp_path / "again", overrides=given)
    assert results["features"] is None
    assert any("with which weights its backbone began, or" in note for note in results["notes"])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_resumed(name: str, settings_of: Callable, tmp_path: Path):
    given = options(name, "resumed")
    results = train(settings_of(*given), tmp_path, overrides=given)
    assert results["epochs"] == EXPECTED["checkpoints"][name]["epochs"]
    check(name, "resumed", results["scores"], drawn=("dropout", "polygons"))


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts(name: str, made: Path, tmp_path: Path):
    lines = (made / "train.csv").read_text().splitlines(keepends=True)
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("".join(lines[:5]))
    pictures = [] if name == "caption_only" else ["--pictures", str(made / "data")]
    given = [*pictures, "--out", str(out), "--probabilities"]
    assert predict([str(FOLDER / f"{name}.ckpt"), str(rows), *given]) == 0
    with open(out, newline="") as file:
        answers = {row.pop("ImageID"): row for row in csv.DictReader(file)}
    labels = {id: row.pop("Labels") for id, row in answers.items()}
    check(name, "labels", labels)
    found = {f"{id} {n}": float(p) for id, row in answers.items() for n, p in row.items()}
    if name == "decoder":  # of which that version wrote what answers are decided by
        answered = {f"{id} prob_{n}" for id, given in labels.items() for n in given.split()}
        found = {cell: (p + (cell in answered)) / 2 for cell, p in found.items()}
    check(name, "probabilities", found)
