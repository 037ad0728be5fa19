"""The model card of an export."""

import json
from collections.abc import Callable
from pathlib import Path

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
    said = card(settings, folder=run, labels=names, pretrained={}, made=[], notes=[])
    assert 'a picture has: blue, "wine, old", a|b.' in said
    assert r"| a\|b | 3 | 0.500 |" in said  # one cell


def test_what_becomes_of_unknown_words_is_said(settings_of: Callable, tmp_path: Path):
    limits = {}
    for way in ("one", "similar"):
        settings = settings_of("model=caption_only", f"captions.unknown_words={way}")
        said = card(settings, folder=tmp_path, labels=["a"], pretrained={}, made=[], notes=[])
        (limits[way],) = [line for line in said.splitlines() if line.startswith("- Words that")]
    assert "lack are all the same word to it" in limits["one"]
    assert "lack are read as the ones there that are spelt most like them" in limits["similar"]
