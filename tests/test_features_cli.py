"""`python -m mmlabel.features`."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlabel.cache import lock
from mmlabel.data.feature_store import FeatureStore, detector_scores
from mmlabel.data.row_store import RowStore, open_store
from mmlabel.features import main
from mmlabel.training import train

DAY = 86_400
BACKBONES = ["resnet50", "vgg16", "efficientnet_lite0"]


@pytest.fixture
def stores(tmp_path: Path) -> list[FeatureStore]:
    """Three stores with 1, 2 and 3 rows, last used now, 10 and 20 days ago."""
    made = []
    for age, backbone in enumerate(BACKBONES):
        store = FeatureStore(
            tmp_path / "cache",
            key={"backbone": backbone, "precision": "bf16"},
            size=4,
            width=48,
            dtype="float16",
        )
        pictures = [tmp_path / f"{n}.png" for n in range(age + 1)]
        for n, picture in enumerate(pictures):
            Image.fromarray(np.full((4, 4, 3), n, np.uint8)).save(picture)
        store.fill(
            pictures,
            flipped=[False] * len(pictures),
            extract=lambda views: views.flatten(1).float(),
            workers=0,
        )
        used = time.time() - age * 10 * DAY
        os.utime(store.folder / "store.json", (used, used))
        made.append(store)
    return made


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the command; gives its status and what it printed."""

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main([*arguments, "--cache-dir", str(tmp_path / "cache")])
        return status, "".join(capsys.readouterr())

    return call


def left(stores: list[FeatureStore]) -> list[bool]:
    return [store.folder.exists() for store in stores]


def test_a_store_that_this_user_may_not_look_into_is_told(stores, run, monkeypatch):
    """As another user's in a shared cache; root may look into all."""
    closed = stores[0].folder
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)
    for command, code in (("list", 0), ("verify", 1)):
        status, said = run(command)
        assert status == code and f"{closed} is passed over: Permission denied" in said


def test_list_shows_each_store_last_used_first(stores, run):
    status, said = run("list")
    head, *lines = said.splitlines()
    assert status == 0 and head.split()[:2] == ["store", "network"]
    for line, store, backbone, rows in zip(lines, stores, BACKBONES, (1, 2, 3), strict=True):
        name, *rest = line.split()
        assert store.folder.name.startswith(name)
        assert rest[:5] == [backbone, "4", "bf16", "float16", str(rows)]
        size = sum(file.stat().st_size for file in store.folder.iterdir()) / 1e6
        assert rest[5] == f"{size:.1f}"
    assert lines[0].split()[-2] == time.strftime("%Y-%m-%d", time.localtime())


@pytest.mark.parametrize("command", ["list", "verify", "prune --all", "export out.npz"])
def test_a_cache_that_is_not_there_is_a_mistake(run, tmp_path, command):
    status, said = run(*command.split())
    assert status == 1 and said.endswith("cache: there is no such folder\n")


def test_list_says_where_there_is_none(run, tmp_path):
    (tmp_path / "cache").mkdir()
    assert run("list") == (0, f"no feature stores in {tmp_path / 'cache'}\n")


def test_list_passes_over_what_is_no_store(stores, run):
    for content in ("", "[]", "{}", '{"key": {"size": 4}}'):
        (stores[1].folder / "store.json").write_text(content)
        status, said = run("list")
        assert status == 0 and len(said.splitlines()) == 3


def test_prune_all_removes_stores_and_remembered_digests(stores, run, tmp_path):
    (tmp_path / "cache" / "features" / "digests").mkdir(exist_ok=True)
    status, said = run("prune", "--all")
    assert status == 0 and left(stores) == [False] * 3
    assert all(f"({backbone}, " in said for backbone in BACKBONES) and "MB freed" in said
    assert list((tmp_path / "cache" / "features").iterdir()) == []
    assert run("prune", "--all") == (0, "nothing to remove\n")


@pytest.mark.parametrize(
    ("days", "stay"),
    [("15", [True, True, False]), ("0.5", [True, False, False]), ("30", [True] * 3)],
)
def test_prune_by_age(stores, run, days, stay):
    status, said = run("prune", "--older-than", days)
    assert status == 0 and left(stores) == stay
    assert ("nothing to remove" in said) == all(stay)


def test_a_store_in_use_is_not_old(stores, run):
    FeatureStore(
        stores[2].folder.parent.parent,
        key={"backbone": BACKBONES[2], "precision": "bf16"},
        size=4,
        width=48,
        dtype="float16",
    )
    run("prune", "--older-than", "5")
    assert left(stores) == [True, False, True]


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "1e9", "week"])
def test_an_age_that_is_none_is_refused(stores, run, days):
    status, said = run("prune", f"--older-than={days}")
    assert status == 1 and f'not "{days}"' in said
    assert left(stores) == [True] * 3


def test_prune_by_the_beginning_of_a_name(stores, run):
    status, said = run("prune", "--key", stores[1].folder.name[:12])
    assert status == 0 and left(stores) == [True, False, True]
    assert "vgg16, 2 rows" in said


def test_an_ambiguous_or_unknown_name_removes_nothing(stores, run):
    twin = stores[0].folder.with_name(stores[0].folder.name[:10] + "x" * 22)
    stores[1].folder.rename(twin)
    status, said = run("prune", "--key", twin.name[:10])
    assert status == 1 and "several stores are named" in said
    assert twin.name[:12] in said and stores[0].folder.name[:12] in said
    assert stores[2].folder.name[:12] not in said

    status, said = run("prune", "--key", "zzz")
    assert status == 1 and 'no store is named "zzz…"' in said and twin.name[:12] in said
    assert twin.exists() and left(stores) == [True, False, True]


def test_an_empty_name_names_no_store(stores, run):
    """As an unset shell variable gives it."""
    run("prune", "--older-than", "5")
    status, said = run("prune", "--key", "")
    assert status == 1 and stores[0].folder.name[:12] in said
    assert left(stores) == [True, False, False]


def test_what_to_prune_has_to_be_said(stores, run):
    for options in ([], ["--all", "--key", "a"]):
        assert run("prune", *options)[0] == 1
    assert left(stores) == [True] * 3


def test_a_store_that_a_job_is_filling_is_left(stores, run):
    with lock(stores[0].folder / "fill-0-of-1"):
        status, said = run("prune", "--all")
    assert status == 0 and left(stores) == [True, False, False]
    assert f"left {stores[0].folder.name[:12]}" in said and "a job is filling it" in said
    run("prune", "--all")
    assert left(stores) == [False] * 3


def test_what_cannot_be_removed_is_a_message(stores, run, monkeypatch):
    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    status, said = run("prune", "--key", (name := stores[1].folder.name))
    assert status == 1 and f"{name} cannot be removed (Read-only file system)" in said


def test_what_has_lost_its_description_is_removed_with_the_rest(stores, run, tmp_path):
    (stores[0].folder / "store.json").unlink()
    (stores[0].folder / "entries.bin").unlink()
    (stores[1].folder / "store.json").write_text("{")
    status, said = run("prune", "--older-than", "0")
    assert status == 0 and left(stores) == [True, True, False]
    status, said = run("prune", "--all")
    assert status == 0 and left(stores) == [False] * 3
    assert said.count("(without a description): 0.0 MB") == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"width": 24},
        {"width": 0},
        {"width": -48},
        {"dtype": "float32"},
        {"dtype": "O"},
        {"key": [1]},
        {"key": {"backbone": "resnet18"}},
    ],
)
def test_a_description_of_other_rows_is_not_believed(stores, run, tmp_path, damage):
    """A merge would take them for another network's; without checksums nothing else would tell."""
    path = stores[1].folder / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    (stores[1].folder / "checksums.bin").unlink()
    assert len(run("list")[1].splitlines()) == 3
    status, said = run("verify")
    assert status == 1 and f"{stores[1].folder.name[:12]}: store.json is missing or damaged" in said
    status, said = run("merge", str(stores[1].folder))
    assert status == 1 and f"{path} does not describe the rows of its folder" in said
    alone = tmp_path / "alone" / "features"
    alone.mkdir(parents=True)
    stores[1].folder.rename(alone / stores[1].folder.name)
    status, said = run("merge", str(alone.parent))
    assert status == 1 and "store.json is missing or damaged" in said


def test_what_an_export_and_a_merge_leave_out_is_said(stores, run, tmp_path):
    path, name = stores[2].folder / "features.bin", stores[2].folder.name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    status, said = run("export", str(tmp_path / "out.npz"), "--key", name)
    assert status == 0 and "2 rows of" in said and "; 1 damaged row of the store left out" in said
    path.write_bytes(path.read_bytes()[:-1])
    status, said = run("export", str(tmp_path / "out.npz"), "--key", name)
    assert status == 0 and "2 rows of" in said and "; 1 damaged row of the store left out" in said
    elsewhere = tmp_path / "elsewhere" / "features" / name
    elsewhere.parent.mkdir(parents=True)
    stores[2].folder.rename(elsewhere)
    status, said = run("merge", str(elsewhere))
    assert status == 0 and "2 rows added, 0 were there, 1 damaged row left out" in said


def test_as_a_command_with_the_cache_folder_from_the_environment(stores):
    cache = stores[0].folder.parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "mmlabel.features", "list"],
        env={**os.environ, "MMLABEL_CACHE": "~/cache", "HOME": str(cache.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(backbone in done.stdout for backbone in BACKBONES)


class Width:
    """Stands in for a detector."""

    num_labels = 1

    def key(self) -> dict[str, object]:
        return {"detector": "yolov5s", "image_size": 640}

    def load(self) -> None:
        pass

    def scores(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return np.array([[picture.width] for picture in pictures], np.float32)


def test_a_detectors_scores_are_listed_and_removed_too(stores, run, tmp_path):
    pictures = [tmp_path / f"{n}.png" for n in range(3)]
    assert detector_scores(pictures, Width(), cache_dir=tmp_path / "cache").computed == 3
    status, said = run("list")
    [line] = [line for line in said.splitlines() if "yolov5s" in line]
    assert status == 0 and line.split()[1:7] == ["detector", "yolov5s", "640", "-", "float32", "3"]
    status, said = run("prune", "--all")
    assert status == 0 and "(detector yolov5s, 3 rows)" in said
    assert detector_scores(pictures, Width(), cache_dir=tmp_path / "cache").computed == 3


# ---- Checked, merged, written out, filled in parts


def test_verify_says_which_store_is_damaged(stores, run):
    status, said = run("verify")
    assert status == 0
    found = [line.rpartition(": ")[2] for line in said.splitlines() if "whole" in line]
    assert found == ["1 row whole", "2 rows whole", "3 rows whole"]
    path = stores[2].folder / "features.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with open(stores[1].folder / "entries.bin", "ab") as file:
        file.write(b"half an entry")
    status, said = run("verify")
    assert status == 1
    assert "2 rows whole; 1 damaged: computed anew when a run needs them" in said
    assert "2 rows whole; 13 bytes of rows that were not finished" in said
    name = stores[0].folder.name[:12]
    status, said = run("verify", "--key", name)
    assert status == 0 and said.startswith(f"{name} (resnet50): 1 row whole\n")


def test_verify_says_which_file_is_cut_off_or_gone(stores, run):
    path = stores[2].folder / "features.bin"
    path.write_bytes(path.read_bytes()[:-1])
    status, said = run("verify")
    assert status == 1 and "2 rows whole; 1 cut off: computed anew when a run needs them" in said
    path.unlink()
    status, said = run("verify")
    assert status == 1 and "0 rows whole; 3 cut off" in said
    (stores[2].folder / "entries.bin").unlink()
    assert run("verify")[0] == 0  # empty
    for damage in ("{", None):
        description = stores[0].folder / "store.json"
        description.unlink() if damage is None else description.write_text(damage)
        status, said = run("verify")
        assert status == 1
        assert f"{stores[0].folder.name[:12]}: store.json is missing or damaged: a run that" in said


def test_parts_of_one_key_are_merged(stores, run, tmp_path):
    """A cache folder with one store and a store's own folder, wherever that has been moved to."""
    one = stores[1].folder
    other = tmp_path / "elsewhere" / "features" / one.name
    other.parent.mkdir(parents=True)
    one.rename(other)
    copied = tmp_path / "part1"
    shutil.copytree(other, copied)
    status, said = run("merge", str(tmp_path / "elsewhere"), str(copied))
    assert status == 0
    assert f"{other}: 2 rows added, 0 were there" in said
    assert f"{copied}: 0 rows added, 2 were there" in said
    assert (one / "entries.bin").read_bytes() == (other / "entries.bin").read_bytes()


def test_parts_that_do_not_go_together(stores, run, tmp_path):
    first, second = (str(store.folder) for store in stores[:2])
    status, said = run("merge", first, second)
    assert status == 1 and "backbone is vgg16, not resnet50" in said
    status, said = run("merge", first)
    assert status == 1 and "is what the parts are merged into" in said
    status, said = run("merge", str(tmp_path / "cache"))
    assert status == 1 and "has several stores: choose one with --key" in said
    status, said = run("merge", str(tmp_path / "nowhere"))
    assert status == 1 and "has no store" in said


def test_rows_are_exported_under_the_names_of_pictures(stores, run, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shutil.copy(tmp_path / "1.png", pictures / "one.png")
    (pictures / "unknown.txt").write_text("no picture of the store")
    name, out = stores[2].folder.name[:12], tmp_path / "out.npz"
    status, said = run("export", str(out), "--key", name, "--pictures", str(pictures))
    assert status == 0 and "1 row of" in said and "1 file of" in said
    with np.load(out) as arrays:
        assert arrays["ids"].tolist() == ["one.png"]
        assert (arrays["features"] == 1).all() and arrays["features"].shape == (1, 48)
    assert run("export", str(out))[0] == 1, "which of three stores is meant has to be said"
    status, said = run("export", str(tmp_path / "out.txt"), "--key", name)
    assert status == 1 and "ends in .npz or .npy" in said


@pytest.mark.parametrize(
    ("name", "others"), [("out.npz", ["out.npz"]), ("out.npy", ["out.npy", "out.csv"])]
)
def test_an_export_replaces_an_earlier_one_and_nothing_else(name, others, stores, run, tmp_path):
    out, key = tmp_path / name, stores[1].folder.name
    for other in others:
        mine = tmp_path / other
        with open(mine, "wb") as file:
            np.savez(file, ids=np.arange(3))
        before = mine.read_bytes()
        status, said = run("export", str(out), "--key", key)
        assert status == 1 and f"{mine} is another file already: give another name" in said
        assert mine.read_bytes() == before
        mine.unlink()
    for _ in range(2):
        assert run("export", str(out), "--key", key)[0] == 0


def test_what_is_no_backbones_is_not_exported(run, tmp_path):
    """Neither a detector's seconds as a score nor a token's place as the side of a picture."""
    pictures, out = [tmp_path / "0.png"], tmp_path / "out.npz"
    Image.new("RGB", (4, 4)).save(pictures[0])
    detector_scores(pictures, Width(), cache_dir=tmp_path / "cache")
    status, said = run("export", str(out))
    assert status == 1 and "holds a detector's scores" in said and not out.exists()
    run("prune", "--all")
    key: dict[str, object] = {"text": "tiny", "weights": "0"}
    states = RowStore.open(tmp_path / "cache", key=key, width=2, dtype="float32")
    states.append([bytes(33)], np.zeros((1, 2), np.float32))
    status, said = run("export", str(out))
    assert status == 1 and "holds the states of captions' tokens" in said and not out.exists()


def test_machines_fill_parts_that_make_a_whole_store(quick, run, tmp_path):
    """Each its own cache; a run on the merged one computes nothing."""
    options = [option for option in quick if not option.startswith("cache_dir=")]
    for part in ("1/2", "2/2"):
        cache = tmp_path / f"machine{part[0]}"
        assert main(["fill", "--part", part, *options, f"cache_dir={cache}"]) == 0
    parts = [str(tmp_path / f"machine{n}") for n in (1, 2)]
    status, said = run("merge", *parts)
    assert status == 0 and said.count("0 were there") == 2
    whole = [f"cache_dir={tmp_path / 'cache'}", *options]
    assert main(["fill", *whole]) == 0
    assert len(open_store(stores_in(tmp_path / "cache")).entries()) == 2 * 60 + 24 + 24


def test_a_whole_runs_options_fill_its_store(quick, tmp_path):
    """Also those of the caption's half and of a model that is not the default."""
    cache = tmp_path / "cache"
    own = ["model=ensemble", "model.fusion_networks=2", "lstm.layers=2", "backbone.unfreeze=1"]
    assert main(["fill", *quick, "--part", "1/1", *own, f"cache_dir={cache}"]) == 0
    header = json.loads((stores_in(cache) / "store.json").read_text())
    assert header["key"]["trained_stages"] == 1


@pytest.mark.parametrize(
    "own",
    [
        ["model.fusion=attention"],
        ["model=ensemble", "model.fusion_networks=2", "model.fusion=attention"],
        ["backbone.attention=query"],
        ["model=decoder"],
        ["model=image_only", "loss=focal"],
    ],
)
def test_a_run_finds_nothing_missing_after_a_fill(own, quick, settings_of, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert main(["fill", *quick, *own, f"cache_dir={tmp_path}"]) == 0
        assert any("features of" in text for text in caplog.messages)
        caplog.clear()
        train(settings_of(*own, f"cache_dir={tmp_path}", "trainer.max_epochs=1"), tmp_path / "run")
    assert not any("features of" in text for text in caplog.messages)
    stores_in(tmp_path)  # the only one


def test_filling_asks_no_teacher(quick, tmp_path):
    """Whose logits of all training rows each machine would compute, and which may lie elsewhere."""
    teacher = f"distil.teacher={tmp_path / 'no.ckpt'}"
    assert main(["fill", *quick, teacher, f"cache_dir={tmp_path}"]) == 0
    assert len(open_store(stores_in(tmp_path)).entries()) == 2 * 60 + 24 + 24


def stores_in(cache: Path) -> Path:
    (description,) = (cache / "features").glob("*/store.json")
    return description.parent


@pytest.mark.parametrize("part", ["0/4", "5/4", "1", "a/b", "1/0"])
def test_a_part_that_is_none(part: str, capsys):
    assert main(["fill", "--part", part]) == 1
    assert "give I/N" in capsys.readouterr().err


def test_filling_what_is_not_stored(quick, capsys):
    assert main(["fill", *quick, "features=off"]) == 1
    assert "nothing is stored with these options" in capsys.readouterr().err
    assert main(["fill", *quick, "ckpt_path=best.ckpt"]) == 1
    assert "ckpt_path=best.ckpt: a checkpoint's options are not" in capsys.readouterr().err
    assert main(["fill", "backbone.name=x"]) == 1
    assert "backbone" in capsys.readouterr().err
