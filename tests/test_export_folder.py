"""The folder of an export, without what is exported."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmlabel.export import __main__ as export

FILES = {"model.onnx", "words.json", "run.py", "model.json"}


def test_two_exports_into_one_folder_at_once_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folders, out, moved = [tmp_path / name for name in ("one", "other")], tmp_path / "out", []
    for folder in folders:
        folder.mkdir()
        for name in FILES:
            (folder / name).write_text(folder.name)
    replace = os.replace

    def slowly(path: Path, place: Path) -> None:
        replace(path, place)
        moved.append(path.parent.name)
        time.sleep(0.02)  # in which the other would come between

    monkeypatch.setattr(os, "replace", slowly)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda folder: export._move(folder, out), folders))
    assert moved == [moved[0]] * len(FILES) + [moved[-1]] * len(FILES)
    assert {path.name for path in out.iterdir()} == FILES
    assert {path.read_text() for path in out.iterdir()} == {moved[-1]}
