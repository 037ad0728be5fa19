"""COCO's files, damaged at random: the rows that were meant, or one message; never others.

The oracle knows no reader: it takes the two JSON texts as Python's own parser gives them and joins
them by ids written as text, one loop for each picture. What it says must be read, or refused; a
file that nobody damaged must be read. MMLABEL_FUZZ as in test_fuzz_csv.py.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from examples import drawing
from hypothesis import given
from hypothesis import strategies as st

from mmlabel.data.annotations import REPORT_LABELS
from mmlabel.data.sources.coco import read_coco
from mmlabel.errors import UserError

fuzz = drawing(300)

CATEGORIES = [{"id": n, "name": name} for n, name in enumerate(REPORT_LABELS) if name]
CATEGORIES.append({"id": 20, "name": "sheep"})
TEXTS = ["a man", "", ' "quoted", \n', "café 😀", "1.jpg,1 3,", "\u2028"]
# What a value may be replaced by.
VALUES = [None, True, 0, 1, 7, -1, 12, 20, 1.0, 1.5, "1", " 7 ", "x", "", [], {}, [1], "1.jpg"]

PICTURES = st.lists(
    st.tuples(
        st.sampled_from(["{}.jpg", "val2017/{}.jpg", "a b/{}.png"]),
        st.lists(st.sampled_from([1, 3, 8, 19, 20]), max_size=3),
        st.lists(st.sampled_from(TEXTS), max_size=3),
    ),
    min_size=2,
    max_size=5,
)
# Which file, where (shares of the way down), what and with which value; or a byte of the text.
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["instances", "captions"]),
        st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
        st.sampled_from(["replace", "replace", "remove", "double", "as text", "byte"]),
        st.sampled_from(VALUES),
    ),
    max_size=3,
)


def written(pictures: list) -> dict[str, Any]:
    images, objects, captions = [], [], []
    for number, (name, labels, texts) in enumerate(pictures, start=1):
        images.append({"id": number, "file_name": name.format(number)})
        objects += [{"image_id": number, "category_id": label} for label in labels]
        captions += [{"image_id": number, "caption": text} for text in texts]
    instances = {"images": images, "annotations": objects, "categories": CATEGORIES}
    return {"instances": instances, "captions": {"images": images, "annotations": captions}}


def damaged(content: Any, places: list[float], kind: str, value: Any) -> Any:
    """The same with one value in it changed, as far down as `places` lead."""
    if not places or not isinstance(content, dict | list) or not content:
        if kind == "as text" and isinstance(content, int):
            return str(content)
        return value if kind == "replace" else content
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = keys[int(places[0] * len(keys))]
    copy = dict(content) if isinstance(content, dict) else list(content)
    if kind == "remove" and len(places) == 1:
        del copy[key]
    elif kind == "double" and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = damaged(copy[key], places[1:], kind, value)
    return copy


# ---- The oracle -----------------------------------------------------------------------------


def text_id(value: Any) -> str:
    """An id as text: 7, 7.0, "7" and " 07 " are one."""
    assert type(value) in (int, str, float) and (type(value) is not float or value == int(value))
    text = str(int(value) if isinstance(value, float) else value).strip()
    assert text
    return str(int(text)) if text.isdecimal() else text


def said(instances: str, captions: str) -> dict[str, tuple[set[int], set[str]]] | None:
    """The labels and the possible captions of each picture by name; None: the files are damaged."""
    try:
        about, told = json.loads(instances), json.loads(captions)
        rows: dict[str, tuple[set[int], set[str]]] = {}
        names = {}
        for image in about["images"]:
            names.setdefault(text_id(image["id"]), set()).add(image["file_name"])
        for image_id, of_image in names.items():
            (name,) = of_image
            assert isinstance(name, str) and name.strip()
            labels = {
                int(category)
                for entry in about["annotations"]
                if text_id(entry["image_id"]) == image_id
                and (category := text_id(entry["category_id"])).isdecimal()
                and int(category) < 20
                and REPORT_LABELS[int(category)]
            }
            texts = [
                entry["caption"]
                for entry in told["annotations"]
                if text_id(entry["image_id"]) == image_id
            ]
            if labels:
                assert name not in rows
                rows[name] = labels, {text for text in texts if text is not None} or {""}
        return rows
    except (ValueError, AssertionError, KeyError, TypeError, OverflowError):
        return None


def check_coco(root: Path, tally: Counter[str], pictures: list, edits: list, seed: int) -> None:
    contents = written(pictures)
    for which, places, kind, value in edits:
        if kind != "byte":
            contents[which] = damaged(contents[which], places, kind, value)
    texts = {kind: json.dumps(content) for kind, content in contents.items()}
    for which, (place, what, *_), kind, _ in edits:
        if kind == "byte":
            at = int(place * len(texts[which]))
            inserted = '"{[,:]}1 x'[int(what * 10)] if what < 0.7 else ""
            texts[which] = texts[which][:at] + inserted + texts[which][at + (what > 0.3) :]
    for kind, text in texts.items():
        (root / f"annotations/{kind}_val2017.json").write_text(text, encoding="utf-8")
    rows = said(texts["instances"], texts["captions"])
    try:
        annotations = read_coco(root, seed=seed, require_pictures=False)
    except UserError as error:
        labelled = [(labels, texts) for _, labels, texts in pictures if set(labels) - {20}]
        assert edits or not any(texts for _, texts in labelled), error
        tally["message"] += 1
        return
    assert rows is not None, texts
    assert annotations.ids == list(rows), texts
    for image_id, target, caption in zip(
        annotations.ids, annotations.targets, annotations.captions, strict=True
    ):
        labels, possible = rows[image_id]
        assert set(np.flatnonzero(target)) == labels, texts
        assert caption in possible, texts
    tally["right" if edits else "right, undamaged"] += 1


def test_coco(tmp_path: Path) -> None:
    tally: Counter[str] = Counter()
    (tmp_path / "annotations").mkdir()

    @fuzz
    @given(st.tuples(PICTURES, EDITS, st.integers(0, 5)))
    def check(files) -> None:
        check_coco(tmp_path, tally, *files)

    check()
    print(dict(tally))
    assert tally["right"] + tally["right, undamaged"] > 0.3 * tally.total()
