"""What a checkpoint file is: whole or refused, however it is damaged, and never run as code."""

import dataclasses
import errno
import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from resumed_runs import CAPTIONS, history, run
from timm import create_model

import mmlabel
from mmlabel.checkpoint import load_classifier, read_checkpoint, record_rows
from mmlabel.errors import UserError
from mmlabel.lightning import checkpoint_file
from mmlabel.lightning.checkpoint_file import read_file, write_file
from mmlabel.models import picture_networks, weights
from mmlabel.parts import prepare


@pytest.fixture(scope="module")
def finished(settings_of, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(settings_of, folder, *CAPTIONS)
    return folder


@pytest.fixture(scope="module")
def whole(finished: Path) -> bytes:
    return (finished / "best.ckpt").read_bytes()


def plain(value: Any) -> object:
    """Nested values that can be compared."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def answer(path: Path, expected: object) -> str:
    """What reading says: the message, or "" if the content is as expected; all else fails."""
    try:
        content = read_file(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return str(error)
    assert plain(content) == expected, "damaged content was read"
    return ""


def test_it_is_a_torch_checkpoint(finished: Path):
    content = torch.load(finished / "best.ckpt", weights_only=True)
    assert plain(content) == plain(read_file(finished / "best.ckpt"))
    with zipfile.ZipFile(finished / "best.ckpt") as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"mmlabel sha256 ")


def test_flipped_bits_are_found(whole: bytes, tmp_path: Path):
    """At 400 places, both ends among them; but in the name of the seal no flip passes."""
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(whole)
    expected = plain(read_file(path))
    size = len(whole)
    places = {*range(60), *range(size - 140, size), *range(60, size, size // 200)}
    passed = []
    for place in sorted(places):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        if not answer(path, expected):
            passed.append(place)
    assert all(place >= size - 79 for place in passed), passed


def test_truncated_files_are_found(whole: bytes, tmp_path: Path):
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(whole)
    expected = plain(read_file(path))
    for size in [0, 1, 3, 4, 100, *range(200, len(whole), len(whole) // 60)]:
        path.write_bytes(whole[:size])
        assert answer(path, expected), size
    for cut in range(1, 200):
        path.write_bytes(whole[:-cut])
        answer(path, expected)
    path.write_bytes(whole + b"x")
    answer(path, expected)


def test_a_checkpoint_of_an_earlier_version_has_the_archives_own_checksums(
    whole: bytes, tmp_path: Path
):
    path = tmp_path / "older.ckpt"
    path.write_bytes(whole)
    content = read_file(path)
    torch.save({**content}, path)
    assert b"mmlabel sha256" not in path.read_bytes()
    expected, older = plain(content), path.read_bytes()
    assert answer(path, expected) == ""
    for place in range(0, len(older), len(older) // 150):
        path.write_bytes(older[:place] + bytes([older[place] ^ 16]) + older[place + 1 :])
        answer(path, expected)


class Planted:
    """What a pickle must not be able to do."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["PLANTED"],))


def with_entry(content: dict, **changed: object) -> dict:
    return {**content, "mmlabel": {**content["mmlabel"], **changed}}


MALFORMED: dict[str, Callable[[dict], object]] = {
    "a list": lambda c: [1, 2],
    "a tensor": lambda c: torch.zeros(3),
    "nothing": lambda c: {},
    "no entry": lambda c: {k: v for k, v in c.items() if k != "mmlabel"},
    "no weights": lambda c: {k: v for k, v in c.items() if k != "state_dict"},
    "no epoch": lambda c: {k: v for k, v in c.items() if k != "epoch"},
    "an epoch in words": lambda c: {**c, "epoch": "two"},
    "a great epoch": lambda c: {**c, "epoch": 10**30},
    "weights that are none": lambda c: {**c, "state_dict": {"a": 3}},
    "numbered weights": lambda c: {**c, "state_dict": {1: torch.zeros(1)}},
    "other weights": lambda c: {**c, "state_dict": {"a": torch.zeros(1)}},
    "weights of another shape": lambda c: {
        **c, "state_dict": {k: torch.zeros(3) for k in c["state_dict"]}
    },
    "an entry that is a list": lambda c: {**c, "mmlabel": []},
    "settings that are a list": lambda c: with_entry(c, settings=[]),
    "settings without anything": lambda c: with_entry(c, settings={}),
    "settings of numbers": lambda c: with_entry(c, settings={1: 2}),
    "groups that are numbers": lambda c: with_entry(
        c, settings={key: 3 for key in c["mmlabel"]["settings"]}
    ),
    "groups that are lists": lambda c: with_entry(
        c, settings={key: [] for key in c["mmlabel"]["settings"]}
    ),
    "an unknown option": lambda c: with_entry(c, settings={**c["mmlabel"]["settings"], "new": 1}),
    "words that are numbers": lambda c: with_entry(c, vocabulary=["<pad>", "<unk>", 3]),
    "no words": lambda c: with_entry(c, vocabulary=[]),
    "forms of numbers": lambda c: with_entry(c, forms={1: 2}),
    "names that are numbers": lambda c: with_entry(c, label_names=[1, 2]),
    "too few names": lambda c: with_entry(c, label_names=["", "one"]),
    "a threshold in words": lambda c: with_entry(c, threshold="half"),
    "a threshold that is none": lambda c: with_entry(c, threshold=float("nan")),
    "too few thresholds": lambda c: with_entry(c, threshold=[0.5]),
    "rows that are a list": lambda c: with_entry(c, rows=[]),
    "rows of nothing": lambda c: with_entry(c, rows={"train": {}}),
    "rows without whole numbers": lambda c: with_entry(
        c, rows={"train": {"digest": "", "captions": "", "ids": torch.zeros(2)}}
    ),
    "an id that is a number": lambda c: with_entry(c, wandb_id=3),
    "a network that cannot be": lambda c: with_entry(
        c, settings={**c["mmlabel"]["settings"], "lstm": {"hidden": 10**14}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_checkpoints_give_one_message(
    name: str, sealed: bool, whole: bytes, tmp_path: Path
):
    path = tmp_path / "malformed.ckpt"
    path.write_bytes(whole)
    content = MALFORMED[name](dict(read_file(path)))
    if sealed:
        write_file(content, path)  # type: ignore[arg-type]
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        load_classifier(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "part",
    ["optimizer_states", "lr_schedulers", "loops", "callbacks"],
)
@pytest.mark.parametrize("value", [None, 3, [], {}, [{"state": 3}], {"fit_loop": 3}, "left out"])
def test_a_state_of_training_that_is_not_whole(
    part: str, value: object, finished: Path, settings_of, tmp_path: Path
):
    """One message, or a run that does without what is not needed."""
    content = dict(read_file(finished / "last.ckpt"))
    content = {k: v for k, v in content.items() if k != part}
    if value != "left out":
        content[part] = value
    write_file(content, tmp_path / "last.ckpt")
    options = [f"ckpt_path={tmp_path / 'last.ckpt'}", "trainer.max_epochs=3", "resume_lr=0.001"]
    try:
        run(settings_of, tmp_path / "run", *options)
    except UserError as error:
        assert "\n" not in str(error) and str(tmp_path / "last.ckpt") in str(error)


def files(folder: Path) -> dict[str, bytes]:
    """Files that are no checkpoints at all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w"):
        pass
    empty_zip = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Planted()))
        archive.writestr("archive/version", "3")
    return {
        "an empty file": b"",
        "text": b"ImageID,Labels\n1.jpg,3\n",
        "an empty archive": empty_zip,
        "a pickle": pickle.dumps({"state_dict": {}}),
        "a planted pickle": pickle.dumps(Planted()),
        "a planted archive": buffer.getvalue(),
        "numbers": bytes(range(256)) * 20,
    }


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLANTED", str(tmp_path / "planted"))
    for name, content in files(tmp_path).items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content)
        with pytest.raises(
            UserError, match="is not a checkpoint of mmlabel, or is damaged"
        ) as said:
            load_classifier(path)
        assert not re.search("Error|BadZip|Exception", str(said.value))
    for legacy in (True, False):
        path = tmp_path / "planted.ckpt"
        torch.save(
            {"state_dict": {}, "mmlabel": Planted()},
            path,
            _use_new_zipfile_serialization=not legacy,
        )
        # An archive that speaks of mmlabel and has no seal passes for one that lost it.
        with pytest.raises(UserError, match="is not a checkpoint of mmlabel|is damaged"):
            load_classifier(path)
    assert not (tmp_path / "planted").exists()
    with pytest.raises(UserError, match="there is no file"):
        read_checkpoint(tmp_path / "nowhere.ckpt")
    with pytest.raises(UserError, match="is a folder: give the checkpoint in it, .*best.ckpt"):
        read_checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="there is no file"):
        read_checkpoint(tmp_path / "pipe")


# ---- Writing --------------------------------------------------------------------------------


@pytest.mark.parametrize("writing", ["archive", "seal", "rename"])
def test_a_full_disk_leaves_no_torn_file(
    finished: Path, tmp_path: Path, writing: str, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "last.ckpt"
    content = read_file(finished / "best.ckpt")
    write_file(content, path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(content: object, target: Path) -> None:
        target.write_bytes(before[: len(before) // 2])
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    if writing == "archive":
        monkeypatch.setattr(torch, "save", half)
    elif writing == "seal":
        monkeypatch.setattr(checkpoint_file, "_seal", full)
    else:
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"last.ckpt cannot be written \(.*; the one before is"):
        write_file(content, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    with pytest.raises(UserError, match=r"new.ckpt cannot be written"):
        write_file(content, tmp_path / "new.ckpt")
    assert not (tmp_path / "new.ckpt").exists()


def test_a_full_disk_in_training_is_a_message_and_the_run_goes_on_later(
    settings_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = [*CAPTIONS, "trainer.max_epochs=3"]
    run(settings_of, tmp_path / "whole", *options)
    save, saved = torch.save, []

    def full_after_three(content: object, target: Path) -> None:
        saved.append(target)
        if len(saved) > 3:
            target.write_bytes(b"half of")
            raise RuntimeError("PytorchStreamWriter failed writing file")
        save(content, target)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_after_three)
        with pytest.raises(UserError, match="cannot be written"):
            run(settings_of, tmp_path / "full", *options)
    assert {path.name for path in (tmp_path / "full").glob("*ckpt*")} <= {"best.ckpt", "last.ckpt"}
    run(settings_of, tmp_path / "again", f"ckpt_path={tmp_path / 'full' / 'last.ckpt'}")
    assert history(tmp_path / "again") == history(tmp_path / "whole")


def test_where_temporary_files_go_does_not_matter(finished: Path, tmp_path: Path):
    """Not on another file system, if there is one, and not where nothing can be written."""
    code = """
import os, sys, tempfile
from pathlib import Path
from mmlabel.lightning.checkpoint_file import read_file, write_file
best, target, *places = sys.argv[1:]
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
for os.environ["TMPDIR"] in places:
    tempfile.tempdir = None
    opened.clear()
    write_file(read_file(Path(best)), Path(target))
    assert not [name for name in opened if name.startswith(os.environ["TMPDIR"])], opened
    read_file(Path(target))
"""
    places = [str(tmp_path / "nowhere"), *(["/dev/shm"] if Path("/dev/shm").is_dir() else [])]
    command = [sys.executable, "-c", code, finished / "best.ckpt", tmp_path / "a.ckpt", *places]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# ---- What it holds --------------------------------------------------------------------------


def test_the_record_of_rows(settings_of, finished: Path):
    """In the order of the splits, by id: other ids, labels or captions are other digests."""
    settings = settings_of(*CAPTIONS)
    prepared = prepare(settings, None)
    own, saved = record_rows(prepared), read_checkpoint(finished / "best.ckpt").rows
    assert saved is not None
    for split, record in own.items():
        assert record.digest == saved[split].digest and record.captions == saved[split].captions
        assert torch.equal(record.ids, saved[split].ids)
        assert len(set(record.ids.tolist())) == len(prepared.rows[split])
    prepared.annotations.targets[prepared.rows["val"][0], 3] ^= 1
    other = record_rows(prepared)
    assert other["val"].digest != own["val"].digest
    assert other["val"].captions == own["val"].captions
    assert other["train"].digest == own["train"].digest


def test_finished_epochs(finished: Path, settings_of, tmp_path: Path):
    assert read_checkpoint(finished / "last.ckpt").epochs == 2
    content = dict(read_file(finished / "last.ckpt")) | {"epoch": 0, "global_step": 0}
    write_file(content, tmp_path / "start.ckpt")
    assert read_checkpoint(tmp_path / "start.ckpt").epochs == 0


# ---- What a checkpoint does not hold -------------------------------------------------------


SMALL = ["data.rows=[20,12,12]", "trainer.max_epochs=1", "patience=null"]


def write_weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(create_model("test_resnet").state_dict(), path)


def test_a_backbone_that_it_does_not_hold_must_be_the_one_it_was_trained_on(
    settings_of, scenes: Path, tmp_path: Path
):
    file = tmp_path / "w.pth"
    write_weights(file, 1)
    results = run(settings_of, tmp_path / "run", *SMALL, "model=image_only",
                  f"backbone.weights={file}")  # fmt: skip
    last, best = tmp_path / "run" / "last.ckpt", tmp_path / "run" / "best.ckpt"
    picture = next(scenes.rglob("*.jpg"))
    answer = mmlabel.load(last).predict(picture)
    again = run(settings_of, tmp_path / "same", "train=false", f"ckpt_path={last}")
    assert again["scores"] == pytest.approx(results["scores"], rel=1e-5) and not again["notes"]

    write_weights(file, 2)
    said = f"{last} does not hold its backbone.*weights have changed.*file {file}"
    with pytest.raises(UserError, match=said):
        mmlabel.load(last)
    with pytest.raises(UserError, match=said):
        run(settings_of, tmp_path / "evaluated", "train=false", f"ckpt_path={last}")
    assert mmlabel.load(best).predict(picture).probabilities == pytest.approx(answer.probabilities)
    options = ["trainer.max_epochs=2", "scheduler.warmup=0.3", "resume_lr=0.003"]
    resumed = run(settings_of, tmp_path / "on", f"ckpt_path={last}", *options)
    assert any("backbone's weights have changed" in note for note in resumed["notes"])

    # An earlier version's has no digests: it cannot be told.
    content = read_file(last)
    content["mmlabel"]["inputs"] = None
    write_file(content, tmp_path / "older.ckpt")
    mmlabel.load(tmp_path / "older.ckpt")


@pytest.mark.parametrize(
    "pictures",
    [
        ("backbone=timm", "backbone.model_name=resnet10t"),
        (
            "backbone=resnet18",
            "backbone.beside=resnet10t",
            "backbone.beside_weights=none",
            "backbone.unfreeze=1",
        ),
    ],
)
def test_pictures_are_normalised_as_in_training_whatever_timm_says_by_now(
    pictures: tuple[str, ...], settings_of, scenes: Path, tmp_path: Path, monkeypatch
):
    run(settings_of, tmp_path, *SMALL, *pictures, "model=image_only", "backbone.weights=none")
    picture = next(scenes.rglob("*.jpg"))
    before = mmlabel.load(tmp_path / "best.ckpt").predict(picture)

    now = picture_networks.backbone_info(name="timm", model_name="resnet10t")
    now = dataclasses.replace(now, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    monkeypatch.setattr(picture_networks, "_timm_info", lambda *_: now)
    assert mmlabel.load(tmp_path / "best.ckpt").predict(picture) == before

    # An earlier version's checkpoint does not hold it.
    content = read_file(tmp_path / "best.ckpt")
    said = [name for name in content["state_dict"] if re.search(r"\.(mean|std|_s\w+\d)$", name)]
    assert said
    for name in said:
        del content["state_dict"][name]
    write_file(content, tmp_path / "older.ckpt")
    assert mmlabel.load(tmp_path / "older.ckpt").predict(picture) != before


def test_random_weights_in_place_of_its_backbones_are_said(
    settings_of, scenes: Path, tmp_path: Path, monkeypatch
):
    def not_to_be_had(*_) -> None:
        raise weights._NotToBeHad("no network")

    monkeypatch.setattr(weights, "_pretrained_file", not_to_be_had)
    options = ["model=image_only", "backbone.weights=pretrained", "data.on_missing=continue"]
    run(settings_of, tmp_path / "run", *SMALL, *options)
    last = tmp_path / "run" / "last.ckpt"
    again = run(settings_of, tmp_path / "again", "train=false", f"ckpt_path={last}")
    said = "no network: the backbone has random weights instead"
    assert said in again["notes"]
    with pytest.warns(UserWarning, match=said):
        mmlabel.load(last)
    mmlabel.load(tmp_path / "run" / "best.ckpt")  # which holds its own


def test_a_detector_must_be_the_one_it_was_trained_on(settings_of, scenes: Path, tmp_path: Path):
    build = torchvision.models.detection.ssdlite320_mobilenet_v3_large
    file = tmp_path / "detector.pth"
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = build(weights=None, weights_backbone=None, num_classes=91)
        torch.save(network.state_dict(), file)
        if seed == 1:
            options = ["detector=ssdlite320_mobilenet_v3_large", f"detector.weights={file}"]
            run(settings_of, tmp_path / "run", *SMALL, "model=detector_fusion", *options)
            best = tmp_path / "run" / "best.ckpt"
            picture = next(scenes.rglob("*.jpg"))
            mmlabel.load(best).predict(picture, "a dog")
            versions = "mmlabel.models.detectors.detector.library_versions"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(versions, lambda *libraries: dict.fromkeys(libraries, "a newer one"))
                mmlabel.load(best).predict(picture, "a dog")
    with pytest.raises(UserError, match=f"{best} was trained on the scores of a detector"):
        mmlabel.load(best).predict(picture, "a dog")
