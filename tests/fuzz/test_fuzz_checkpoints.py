"""Damaged checkpoints: the content as it was written, or one message. Never another content.

MMLABEL_FUZZ=N tries N changes of each kind of file; by default there are few, and always the same.
"""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from examples import drawing
from hypothesis import given
from hypothesis import strategies as st

from mmlabel.errors import UserError
from mmlabel.lightning.checkpoint_file import read_file, write_file

FUZZ = drawing(40)
CONTENT = {
    "epoch": 3,
    "state_dict": {"weight": torch.arange(300.0), "bias": torch.tensor([0.5, -2.0])},
    "mmlabel": {"label_names": ["cat", "dog"], "settings": {"seed": 4}},
}


def plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value


@pytest.fixture(scope="module", params=["sealed", "of an earlier version"])
def whole(request, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "whole.ckpt"
    if request.param == "sealed":
        write_file(CONTENT, path)
    else:
        torch.save(CONTENT, path)
    return path.read_bytes()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "drop", "repeat", "insert", "cut"]),
        st.integers(0, 2**31),
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=4,
)


def changed(data: bytes, steps: list[tuple[str, int, int, int]]) -> bytes:
    for kind, where, byte, length in steps:
        place = where % max(1, len(data))
        before, after = data[:place], data[place:]
        if kind == "flip" and after:
            data = before + bytes([after[0] ^ (1 << byte % 8)]) + after[1:]
        elif kind == "set" and after:
            data = before + bytes([byte]) + after[1:]
        elif kind == "drop":
            data = before + after[length:]
        elif kind == "repeat":
            data = before + after[:length] + after
        elif kind == "insert":
            data = before + bytes([byte]) * length + after
        elif kind == "cut":
            data = before
    return data


@FUZZ
@given(steps=STEPS)
def test_a_changed_checkpoint_is_read_as_it_was_or_refused(whole: bytes, tmp_path: Path, steps):
    path = tmp_path / "changed.ckpt"
    path.write_bytes(changed(whole, steps))
    try:
        content = read_file(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert plain(content) == plain(CONTENT)


@FUZZ
@given(noise=st.binary(max_size=400), kind=st.sampled_from(["bytes", "pickle", "zip"]))
def test_any_other_file_is_refused(tmp_path: Path, noise: bytes, kind: str):
    path = tmp_path / "other.ckpt"
    if kind == "bytes":
        path.write_bytes(noise)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": {}, "mmlabel": noise}))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", noise)
    with pytest.raises(UserError):
        read_file(path)
