"""The model card of an export."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_runs import write_fake_run

from mmlabel.export.card import card
from mmlabel.run_folder import seal


def test_names_of_labels_are_told_apart(settings_of: Callable, tmp_path: Path):
    names, run = ["blue", "wine, old", "a|b"], tmp_path / "run"
    write_fake_run(run, seed=0, noise=0.1)
    results = json.loads((run / "results.json").read_text())
    for number, name in enumerate(names):
        results["labels"][str(number)] = {"name": name, "support": 3, "f1": 0.5}
    (run / "results.json").write_text(json.dumps(results))
    seal(run)
    settings = settings_of("model=caption_only")
    best = run / "best.ckpt"
    said = card(settings, checkpoint=best, labels=names, pretrained={}, made=[], notes=[])
    assert 'a picture has: blue, "wine, old", a|b.' in said
    assert r"| a\|b | 3 | 0.500 |" in said  # one cell


@pytest.mark.parametrize("best_epoch", [3, None])
def test_scores_are_those_of_the_checkpoint(best_epoch, settings_of: Callable, tmp_path: Path):
    """A run tests its best.ckpt, and where no epoch was validated its last.ckpt."""
    write_fake_run(tmp_path, seed=0, noise=0.1)
    results = json.loads((tmp_path / "results.json").read_text())
    results["best_epoch"] = best_epoch
    (tmp_path / "results.json").write_text(json.dumps(results))
    seal(tmp_path)
    settings = settings_of("model=caption_only")
    for name in ("best.ckpt", "last.ckpt"):
        path = tmp_path / name
        said = card(settings, checkpoint=path, labels=["a"], pretrained={}, made=[], notes=[])
        tested = name == ("last.ckpt" if best_epoch is None else "best.ckpt")
        assert ("| score | test |" in said) == tested
        assert ("this is not the checkpoint that a finished run" in said) == (not tested)
        assert "200 train" in said


def test_what_becomes_of_unknown_words_is_said(settings_of: Callable, tmp_path: Path):
    limits = {}
    for way in ("one", "similar"):
        settings = settings_of("model=caption_only", f"captions.unknown_words={way}")
        best = tmp_path / "best.ckpt"
        said = card(settings, checkpoint=best, labels=["a"], pretrained={}, made=[], notes=[])
        (limits[way],) = [line for line in said.splitlines() if line.startswith("- Words that")]
    assert "lack are all the same word to it" in limits["one"]
    assert "lack are read as the ones there that are spelt most like them" in limits["similar"]
