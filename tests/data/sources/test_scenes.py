"""The built-in data set: what it shows, what its captions tell, and how it gets onto the disk."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlabel.data.drawing import LOOKS, draw_scene
from mmlabel.data.sources import scenes
from mmlabel.data.sources.report_csv import read_usyd
from mmlabel.data.sources.scenes import KINDS, compose, scenes_folder
from mmlabel.errors import UserError

ROWS = (6, 3, 2)
SIZE = 48
DEFAULT_SPLITS = {"train": range(1200), "val": range(1200, 1400), "test": range(1400, 1600)}


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def pixels(*, seed: int, number: int, size: int = SIZE) -> np.ndarray:
    scene = compose(seed=seed, number=number)
    return np.asarray(draw_scene(scene.objects, scene.place, seed=seed, number=number, size=size))


def labels_called(caption: str) -> list[set[int]]:
    """For every object word of the caption, the labels that it may stand for."""
    meanings: dict[str, set[int]] = {}
    for label, kind in KINDS.items():
        for word in kind.words:
            meanings.setdefault(word, set()).add(label)
    found, rest = [], caption.lower()
    # The longest first, so that "parking meter" is not read as "meter" too.
    for word in sorted(meanings, key=len, reverse=True):
        rest, times = re.subn(rf"\b{word}\b", "#", rest)
        found += [meanings[word]] * times
    return found


@pytest.fixture(scope="module")
def composed() -> list[scenes.Scene]:
    return [compose(seed=0, number=number) for number in range(1600)]


def test_same_seed_same_content() -> None:
    for number in range(5):
        assert compose(seed=3, number=number) == compose(seed=3, number=number)
        assert np.array_equal(pixels(seed=3, number=number), pixels(seed=3, number=number))


def test_other_seed_other_content() -> None:
    captions = [[compose(seed=seed, number=n).caption for n in range(20)] for seed in (0, 1)]
    assert captions[0] != captions[1]
    assert not np.array_equal(pixels(seed=0, number=0), pixels(seed=1, number=0))


def test_layout(tmp_path: Path) -> None:
    scenes.write_scenes(tmp_path / "new" / "folder", seed=0, rows=ROWS, size=SIZE)
    folder = tmp_path / "new" / "folder"
    table, splits = read(folder / "train.csv"), read(folder / "splits.csv")
    ids = [f"{number}.jpg" for number in range(sum(ROWS))]
    assert list(table[0]) == ["ImageID", "Labels", "Caption"]
    assert list(splits[0]) == ["ImageID", "split"]
    assert [row["ImageID"] for row in table] == [row["ImageID"] for row in splits] == ids
    assert [row["split"] for row in splits] == ["train"] * 6 + ["val"] * 3 + ["test"] * 2
    assert sorted(path.name for path in (folder / "data").iterdir()) == sorted(ids)
    for number, row in enumerate(table):
        scene = compose(seed=0, number=number)
        assert row["Labels"] == " ".join(map(str, scene.labels))
        assert row["Caption"] == scene.caption
        with Image.open(folder / "data" / row["ImageID"]) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIZE, SIZE))


def test_it_is_read_by_the_reports_reader(tmp_path: Path) -> None:
    annotations = read_usyd(scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE))
    composed = [compose(seed=0, number=number) for number in range(sum(ROWS))]
    assert annotations.captions == [scene.caption for scene in composed]
    assert [set(np.flatnonzero(row)) for row in annotations.targets] == [
        set(scene.labels) for scene in composed
    ]
    assert LOOKS.keys() == KINDS.keys()


def test_every_label_occurs_in_every_split(composed: list[scenes.Scene]) -> None:
    least = {"train": 25, "val": 3, "test": 3}
    for split, numbers in DEFAULT_SPLITS.items():
        counts = Counter(label for number in numbers for label in composed[number].labels)
        assert counts.keys() == KINDS.keys()
        assert min(counts.values()) >= least[split]
        assert counts.most_common(1)[0][0] == 1


def test_one_to_four_objects_in_random_order(composed: list[scenes.Scene]) -> None:
    assert {len(scene.labels) for scene in composed} == {1, 2, 3, 4}
    assert all(len(set(scene.labels)) == len(scene.labels) for scene in composed)
    several = [list(scene.labels) for scene in composed if len(scene.labels) > 1]
    ascending = sum(labels == sorted(labels) for labels in several) / len(several)
    assert 0.2 < ascending < 0.6


def test_captions_name_only_what_is_shown(composed: list[scenes.Scene]) -> None:
    for scene in composed:
        for meanings in labels_called(scene.caption):
            assert meanings & set(scene.labels), f"{scene.caption} of {scene.labels}"


def test_captions_leave_objects_out(composed: list[scenes.Scene]) -> None:
    named = [len(labels_called(scene.caption)) for scene in composed]
    shown = [len(scene.labels) for scene in composed]
    assert all(a <= b for a, b in zip(named, shown, strict=True))
    assert 0.55 < sum(named) / sum(shown) < 0.68
    assert 0.05 < named.count(0) / len(named) < 0.3


def test_captions_vary(composed: list[scenes.Scene]) -> None:
    captions = [scene.caption for scene in composed]
    text = " ".join(captions).lower()
    for kind in KINDS.values():
        assert all(re.search(rf"\b{word}\b", text) for word in kind.words)
    assert 0.01 < sum(caption.isupper() for caption in captions) / len(captions) < 0.1
    assert sum('"for rent"' in caption.lower() for caption in captions) > 5
    assert not re.search(r"\ban [^aeiou]|\ba [aeiou]", text)
    assert not re.search(r"[{}]|\s\s|\s[.,]", text)


@pytest.mark.parametrize("label", KINDS)
def test_every_kind_draws_itself(label: int) -> None:
    paint = (KINDS[label].paints or ("",))[0]
    empty, shown = (
        np.asarray(draw_scene(objects, "street", seed=0, number=1, size=96)).astype(int)
        for objects in ([], [(label, paint)])
    )
    assert shown.shape == (96, 96, 3)
    # Grain alone differs by less than this.
    assert (np.abs(shown - empty).max(-1) > 60).mean() > 0.01


def test_default_set_is_written_quickly() -> None:
    start = time.process_time()
    for number in range(80):
        pixels(seed=0, number=number, size=96)
    assert time.process_time() - start < 1.5


def test_cache_is_written_once_per_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE)
    others = [
        scenes_folder(tmp_path, seed=1, rows=ROWS, size=SIZE),
        scenes_folder(tmp_path, seed=0, rows=(6, 2, 3), size=SIZE),
        scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE + 1),
    ]
    assert len({folder, *others}) == 4
    monkeypatch.setattr(scenes, "write_scenes", None)
    assert scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE) == folder
    monkeypatch.setattr(scenes, "DRAWING_VERSION", "another")
    with pytest.raises(TypeError):
        scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE)


def test_interrupted_writing_leaves_nothing_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, number: int, **__: object) -> Image.Image:
        if number == 4:
            raise KeyboardInterrupt
        return Image.new("RGB", (SIZE, SIZE))

    with monkeypatch.context() as patch:
        patch.setattr(scenes, "draw_scene", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE)
    assert not [path for path in (tmp_path / "scenes").iterdir() if path.is_dir()]
    folder = scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE)
    assert len(content(folder)) == sum(ROWS) + 2


KILLED = """
import os, sys
from pathlib import Path
from mmlabel.data.sources import scenes

draw = scenes.draw_scene
def killed(*args, number, **kwargs):
    if number == 4:
        os._exit(9)
    return draw(*args, number=number, **kwargs)

scenes.draw_scene = killed
scenes.scenes_folder(Path(sys.argv[1]), seed=0, rows=(6, 3, 2), size=48)
"""

TWICE = """
import sys
from pathlib import Path
from mmlabel.data.sources import scenes

write = scenes.write_scenes
def told(*args, **kwargs):
    print("wrote", flush=True)
    write(*args, **kwargs)

scenes.write_scenes = told
print(scenes.scenes_folder(Path(sys.argv[1]), seed=0, rows=(60, 3, 2), size=48))
"""


def test_damage_is_found_and_drawn_over(tmp_path: Path) -> None:
    folder = scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE)
    whole = content(folder)

    def flip(path: Path) -> None:
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)

    damage = [
        lambda: flip(folder / "data" / "3.jpg"),
        lambda: flip(folder / "train.csv"),
        lambda: (folder / "splits.csv").write_bytes(b""),
        lambda: (folder / "data" / "3.jpg").unlink(),
        lambda: (folder / "data" / "3.jpg").rename(folder / "data" / "300.jpg"),
        lambda: shutil.rmtree(folder),
        lambda: folder.with_name(f"{folder.name}.entry").write_text("x"),
    ]
    for change in damage:
        change()
        assert scenes_folder(tmp_path, seed=0, rows=ROWS, size=SIZE) == folder
        assert content(folder) == whole


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    whole = tmp_path / "whole"
    scenes.write_scenes(whole, seed=0, rows=ROWS, size=SIZE)
    for _ in range(2):
        folder = scenes_folder(tmp_path / "cache", seed=0, rows=ROWS, size=SIZE)
        assert content(folder) == content(whole)
    assert len(caplog.messages) == 1 and "nothing new is kept" in caplog.messages[0]
    scenes._temporary_folder.cache_clear()
    monkeypatch.setattr(scenes.tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="cannot be drawn: neither cache_dir nor"):
        scenes_folder(tmp_path / "cache", seed=0, rows=ROWS, size=SIZE)


def start(script: str, cache: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", script, str(cache)]
    root = Path(scenes.__file__).parents[3]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )


def test_killed_writing_leaves_nothing_to_read(tmp_path: Path) -> None:
    with start(KILLED, tmp_path / "cache") as job:
        assert job.wait() == 9
    leftovers = list((tmp_path / "cache" / "scenes").rglob("*.jpg"))
    assert leftovers
    folder = scenes_folder(tmp_path / "cache", seed=0, rows=ROWS, size=SIZE)
    scenes.write_scenes(tmp_path / "whole", seed=0, rows=ROWS, size=SIZE)
    assert content(folder) == content(tmp_path / "whole")
    assert not any(path.exists() for path in leftovers)


def test_processes_that_start_together_write_one_folder(tmp_path: Path) -> None:
    jobs = [start(TWICE, tmp_path / "cache") for _ in range(2)]
    lines = [line for job in jobs for line in job.communicate()[0].splitlines()]
    assert [job.returncode for job in jobs] == [0, 0]
    assert lines.count("wrote") == 1
    (folder,) = set(lines) - {"wrote"}
    scenes.write_scenes(tmp_path / "whole", seed=0, rows=(60, 3, 2), size=SIZE)
    assert content(Path(folder)) == content(tmp_path / "whole")


def test_pictures_too_small_to_be_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="size=8"):
        scenes_folder(tmp_path, seed=0, rows=ROWS, size=8)
    assert not list(tmp_path.iterdir())
