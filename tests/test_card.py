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
