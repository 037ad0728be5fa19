"""Many configurations give the scores that were recorded: the code changed, its behaviour did not.

recorded_scores.json holds under each name what a run (or several, one going on from another) was
given beside conftest's QUICK, and all scores of the last one with its threshold. `{made}` stands
for the folder of the made data, `{shared}` for that of the real data, `{usyd}` for a few rows of
it, and `{first}` for the first run's. After a change that is meant to move scores, write them anew
and say why:

    MMLABEL_RECORD=1 OMP_NUM_THREADS=1 python -m pytest tests/test_recorded_scores.py
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from recorded import as_recorded, where

from mmlabel.training import train

FILE = Path(__file__).with_name("recorded_scores.json")
RECORDED = json.loads(FILE.read_text())
REAL = ("{shared}", "{usyd}")  # left out where the real data is not


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_few_rows(shared: Path, folder: Path) -> Path:
    """`folder` with the first 90 rows of the report's data, as far as they are whole lines."""
    lines = (shared / "data" / "usyd" / "train.csv").read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join(lines[:91]))
    (folder / "data").symlink_to((shared / "data" / "usyd" / "data").resolve())
    return folder


def thresholds_of(results: dict) -> dict[str, float]:
    chosen = results["threshold"]
    if not isinstance(chosen, list):
        return {"threshold": chosen}
    return {f"threshold {number}": value for number, value in enumerate(chosen)}


@pytest.mark.parametrize("name", RECORDED["configurations"])
def test_scores_are_the_recorded_ones(
    name: str,
    settings_of: Callable,
    made: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
):
    entry = RECORDED["configurations"][name]
    places = {"made": made, "first": tmp_path / "0"}
    if any(place in option for run in entry["runs"] for option in run for place in REAL):
        shared = request.getfixturevalue("shared")
        monkeypatch.setenv("GENSIM_DATA_DIR", str(shared / "gensim-data"))
        places |= {"shared": shared, "usyd": a_few_rows(shared, tmp_path)}
    results: dict = {}
    for number, run in enumerate(entry["runs"]):
        options = [option.format(**places) for option in run]
        settings = settings_of("backbone=resnet18", *options)  # with which they were recorded
        results = train(settings, tmp_path / str(number), overrides=options)
    scores = results["scores"] | thresholds_of(results)
    if os.environ.get("MMLABEL_RECORD"):
        entry["scores"] = scores
        RECORDED["where"] = where()
        FILE.write_text(json.dumps(RECORDED, indent=1) + "\n")
    drawn = ("dropout", "polygons")
    assert scores == as_recorded(entry["scores"], recorded_where=RECORDED["where"], drawn=drawn)
