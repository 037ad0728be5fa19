"""COCO's own layout: which pictures, labels and captions are read, and mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmlabel.data.annotations import REPORT_LABELS
from mmlabel.data.options import Coco
from mmlabel.data.sources.coco import read_coco
from mmlabel.errors import UserError

CATEGORIES = [{"id": n, "name": name} for n, name in enumerate(REPORT_LABELS) if name]
CATEGORIES += [{"id": 20, "name": "sheep"}]


def coco(
    root: Path,
    labels: dict[int, list[int]],
    *,
    subset: str = "val2017",
    pictures: str | None = "val2017",
    categories=CATEGORIES,
) -> Path:
    """COCO's layout: `labels` has the category ids of each image id; three captions each."""
    (root / "annotations").mkdir(exist_ok=True, parents=True)
    images = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in labels]
    objects = [
        {"image_id": image, "category_id": category, "iscrowd": 0}
        for image, categories_of_image in labels.items()
        for category in categories_of_image
    ]
    captions = [
        {"image_id": image, "caption": f"caption {number} of {image}"}
        for number in range(3)
        for image in labels
    ]
    contents = {
        "instances": {"images": images, "annotations": objects, "categories": categories},
        "captions": {"images": images, "annotations": captions},
    }
    for kind, content in contents.items():
        (root / "annotations" / f"{kind}_{subset}.json").write_text(json.dumps(content))
    if pictures is not None:
        (root / pictures).mkdir(parents=True, exist_ok=True)
        for image in images:
            (root / pictures / image["file_name"]).touch()
    return root


def captions_of(root: Path, entries: list[dict], *, subset: str = "val2017") -> None:
    (root / f"annotations/captions_{subset}.json").write_text(json.dumps({"annotations": entries}))


def changed(root: Path, kind: str, change) -> None:
    """Rewrite one of the files after `change(content)`."""
    file = root / f"annotations/{kind}_val2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


LABELS = {7: [1, 1, 3], 5: [20], 9: [20, 19], 3: [], 4: [2]}


OWN = [{"id": 10, "name": "kite"}, {"id": 2, "name": "red ball"}]


def test_all_categories_of_a_file_are_labels_where_that_is_asked_for(tmp_path):
    coco(tmp_path, {7: [10, 10], 5: [2, 10], 3: []}, categories=OWN)
    annotations = read_coco(tmp_path, categories="all")
    assert annotations.label_names == ["red ball", "kite"]
    assert annotations.ids == ["000000000007.jpg", "000000000005.jpg", "000000000003.jpg"]
    assert annotations.targets.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert "2 of 3 pictures have a label" in annotations.notes[0]
    with pytest.raises(UserError, match="2 is red ball, but .* bicycle: .* data.categories=all"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({"id": 3, "name": None}, "category 3 has no name"),
        ({"id": 2, "name": "blue ball"}, "category 2 is both red ball and blue ball"),
        ({"id": 3, "name": "kite"}, "categories 10 and 3 are both kite"),
        ({"id": 4, "name": "dog"}, "objects of category 3, which has no name"),
    ],
)
def test_categories_that_name_no_label(further: dict, said: str, tmp_path):
    coco(tmp_path, {7: [10], 5: [3]}, categories=[*OWN, further])
    with pytest.raises(UserError, match=said):
        read_coco(tmp_path, categories="all")


@pytest.mark.parametrize("pictures", ["val2017", "images/val2017", "images", "photos", "."])
def test_coco_is_reduced_to_the_reports_labels(pictures, tmp_path):
    annotations = read_coco(coco(tmp_path, LABELS, pictures=pictures))
    assert annotations.ids == ["000000000007.jpg", "000000000009.jpg", "000000000004.jpg"]
    assert [np.flatnonzero(row).tolist() for row in annotations.targets] == [[1, 3], [19], [2]]
    assert all(picture.is_file() for picture in annotations.pictures)
    assert all(
        caption.endswith(f" of {int(image_id[:12])}")
        for image_id, caption in zip(annotations.ids, annotations.captions, strict=True)
    )


def test_pictures_in_several_folders_and_nowhere(tmp_path):
    coco(tmp_path, LABELS, subset="minival2014", pictures="val2014")
    (tmp_path / "train2014").mkdir()
    (tmp_path / "val2014/000000000009.jpg").rename(tmp_path / "train2014/000000000009.jpg")
    assert [p.parent.name for p in read_coco(tmp_path).pictures] == [
        "val2014",
        "train2014",
        "val2014",
    ]
    (tmp_path / "val2014/000000000007.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 3 rows have no picture file .*000000000007.jpg"):
        read_coco(tmp_path)
    expected = read_coco(tmp_path, require_pictures=False).pictures[0]
    assert expected == tmp_path / "minival2014" / "000000000007.jpg"


def test_the_real_coco_files(shared):
    annotations = read_coco(shared / "data/coco-mini")
    # Of 48 entries 35 have one of the labels; one of these is the same picture twice.
    assert len(annotations) == len(set(annotations.ids)) == 34
    assert annotations.targets.any(axis=1).all()
    row = annotations.ids.index("000000435206.jpg")
    assert np.flatnonzero(annotations.targets[row]).tolist() == [1, 9]


def test_one_caption_a_picture_is_chosen_by_seed(tmp_path):
    coco(tmp_path, {image: [1] for image in range(1, 200)}, pictures=None)

    def captions(**options):
        return read_coco(tmp_path, require_pictures=False, **options).captions

    assert captions(seed=1) == captions(seed=1) != captions(seed=2)
    counts = [sum(c.startswith(f"caption {n}") for c in captions()) for n in range(3)]
    assert min(counts) > 40
    # The first pictures keep their captions where only they are read.
    assert captions(max_pictures=20) == captions()[:20]


def test_a_picture_without_captions_has_an_empty_one(tmp_path):
    coco(tmp_path, LABELS)
    entries = [{"image_id": 9, "caption": "a"}, {"image_id": 7, "caption": None}]
    captions_of(tmp_path, entries)
    annotations = read_coco(tmp_path)
    assert annotations.captions == ["", "a", ""]
    assert "captions for 1 of these 3" in annotations.notes[1]
    assert "captions_val2017.json: 2 of 3 captions are empty" in annotations.notes[2]


def test_a_picture_that_is_listed_twice_is_one_picture(tmp_path):
    coco(tmp_path, LABELS)
    file = tmp_path / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    content["images"].append(content["images"][0])
    file.write_text(json.dumps(content))
    assert len(read_coco(tmp_path)) == 3
    content["images"].append({"id": 99, "file_name": "000000000007.jpg"})
    content["annotations"].append({"image_id": 99, "category_id": 1})
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="twice: 000000000007.jpg"):
        read_coco(tmp_path)


def test_the_annotation_files_are_found_or_chosen(tmp_path):
    with pytest.raises(UserError, match="the data folder .* does not exist"):
        read_coco(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no instances_.*json: this is not COCO's layout"):
        read_coco(tmp_path)
    coco(tmp_path, LABELS)
    coco(tmp_path, {8: [1]}, subset="train2017", pictures="train2017")
    with pytest.raises(
        UserError, match="choose one of instances_train2017.json, instances_val2017.json"
    ):
        read_coco(tmp_path)
    assert read_coco(tmp_path, instances="instances_train2017.json").ids == ["000000000008.jpg"]
    with pytest.raises(
        UserError, match='no instances_val207.json; did you mean "instances_val2017'
    ):
        read_coco(tmp_path, instances="instances_val207.json")
    (tmp_path / "annotations/captions_val2017.json").unlink()
    with pytest.raises(UserError, match="has no captions_val2017.json"):
        read_coco(tmp_path, instances="instances_val2017.json")
    chosen = {"instances": "instances_val2017.json", "captions": "captions_train2017.json"}
    with pytest.raises(UserError, match="has no caption for any of the 3 pictures"):
        read_coco(tmp_path, **chosen)
    assert read_coco(tmp_path, **chosen, require_captions=False).captions == ["", "", ""]


def test_the_captions_of_a_file_that_is_not_called_instances(tmp_path):
    """As `annotations/train.json`, which has no captions that a model of pictures would need."""
    coco(tmp_path, LABELS)
    annotations = tmp_path / "annotations"
    (annotations / "instances_val2017.json").rename(annotations / "val2017.json")
    given = {"instances": "val2017.json"}
    assert read_coco(tmp_path, **given, require_captions=False).captions == ["", "", ""]
    said = "val2017.json is not a COCO captions file: no 'caption' in .*; data.captions=NAME says"
    with pytest.raises(UserError, match=said):
        read_coco(tmp_path, **given)
    assert all(read_coco(tmp_path, **given, captions="captions_val2017.json").captions)


def test_a_file_elsewhere_has_its_captions_beside_it(tmp_path, monkeypatch):
    coco(tmp_path, LABELS)
    elsewhere = tmp_path / "home" / "mine"
    elsewhere.mkdir(parents=True)
    for kind in ("instances", "captions"):
        shutil.copy(tmp_path / f"annotations/{kind}_val2017.json", elsewhere / f"{kind}_mine.json")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = Coco(name="coco", root=str(tmp_path), instances="~/mine/instances_mine.json")
    read = data.read(cache_dir=tmp_path, require_pictures=True, require_captions=True)
    assert read.captions == read_coco(tmp_path).captions


@pytest.mark.parametrize("content", ["{", "[]", '{"annotations": [{"image_id": 5}]}', "\udce9"])
def test_captions_that_nobody_looks_at_may_be_damaged(content: str, tmp_path):
    coco(tmp_path, LABELS)
    file = tmp_path / "annotations" / "captions_val2017.json"
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="captions_val2017.json"):
        read_coco(tmp_path)
    read = read_coco(tmp_path, require_captions=False)
    assert read.captions == ["", "", ""] and read.ids == [*read.first_rows]
    [note] = [note for note in read.notes if "captions" in note]
    assert note.startswith(f"no captions are read: {file}")


def test_mistakes_in_coco_files(tmp_path):
    coco(tmp_path, {5: [20], 6: []})
    with pytest.raises(UserError, match="report's 18 labels; data.categories=all takes"):
        read_coco(tmp_path)
    renumbered = [{"id": 1, "name": "bicycle"}]
    coco(tmp_path, LABELS, categories=renumbered)
    with pytest.raises(UserError, match="category 1 is bicycle, but in COCO it is person"):
        read_coco(tmp_path)
    coco(tmp_path, LABELS, categories=[])
    with pytest.raises(UserError, match="category 1 is not named, but in COCO it is person"):
        read_coco(tmp_path)
    file = tmp_path / "annotations/instances_val2017.json"
    for text, message in (
        ("{", "is no valid JSON"),
        ("{}", "is not a COCO instances file: no 'images'"),
        ("[]", "holds no JSON object"),
        ('{"images": [3]}', "is not a COCO instances file"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_coco(tmp_path)
    coco(tmp_path, LABELS)
    (tmp_path / "annotations/captions_val2017.json").write_text("{}")
    with pytest.raises(UserError, match="is not a COCO captions file: no 'annotations'"):
        read_coco(tmp_path)


# ---- What belongs together ------------------------------------------------------------------


def test_all_captions_of_a_picture(tmp_path):
    coco(tmp_path, LABELS)
    one, every = (read_coco(tmp_path, several_captions=s, seed=3) for s in ("one", "all"))
    assert every.ids == [image_id for image_id in one.ids for _ in range(3)]
    # The chosen one stands first, then the others.
    assert every.captions[::3] == one.captions
    assert {c[:9] for c in every.captions[:3]} == {"caption 0", "caption 1", "caption 2"}
    assert (every.targets == np.repeat(one.targets, 3, axis=0)).all()
    assert every.pictures[:4] == [one.pictures[0]] * 3 + [one.pictures[1]]
    assert not any("left out" in note for note in every.notes)
    changed(tmp_path, "captions", lambda content: content["annotations"][0].update(caption=" "))
    notes = read_coco(tmp_path, several_captions="all").notes
    assert any("captions_val2017.json: 1 empty caption is left out" in note for note in notes)


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_ids_may_be_text_in_some_of_the_files(kind, tmp_path):
    coco(tmp_path, LABELS)
    expected = read_coco(tmp_path)

    def as_text(content):
        for entry in content[kind] + content.get("categories", []):
            for name in {"id", "image_id", "category_id"} & entry.keys():
                entry[name] = str(entry[name])

    changed(tmp_path, "instances", as_text)
    again = read_coco(tmp_path)
    assert again.fingerprint == expected.fingerprint and again.pictures == expected.pictures


@pytest.mark.parametrize("separator", ["/", "\\"])
@pytest.mark.parametrize("folder", ["val2017", "images/val2017", "photos", "."])
def test_names_with_a_folder(folder, separator, tmp_path):
    coco(tmp_path, LABELS, pictures=folder)

    def with_folder(content):
        for image in content["images"]:
            image["file_name"] = f"val2017{separator}{image['file_name']}"

    changed(tmp_path, "instances", with_folder)
    annotations = read_coco(tmp_path)
    assert [path.parent for path in annotations.pictures] == [tmp_path / folder] * 3
    assert all(path.is_file() for path in annotations.pictures)


def test_a_name_in_two_folders_is_two_pictures(tmp_path):
    coco(tmp_path, {1: [1], 2: [2]}, pictures="a")

    def in_folders(content):
        for image, folder in zip(content["images"], "ab", strict=True):
            image["file_name"] = f"{folder}/1.jpg"

    changed(tmp_path, "instances", in_folders)
    (tmp_path / "a/1.jpg").touch()
    with pytest.raises(UserError, match=r"1 of 2 rows have no picture file .*b/1.jpg \(row 2\)"):
        read_coco(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.jpg").touch()
    assert read_coco(tmp_path).pictures == [tmp_path / "a/1.jpg", tmp_path / "b/1.jpg"]


def test_a_name_that_other_folders_have_too(tmp_path):
    """As where each split has a folder, in which the numbers begin anew."""
    for split in ("test", "train"):
        coco(tmp_path, {1: [1], 2: [2]}, subset=f"{split}_set", pictures=split)
    given = {"instances": "instances_train_set.json", "captions": "captions_train_set.json"}
    with pytest.raises(UserError, match="which 000000000001.jpg is meant.*/test, .*/train: write"):
        read_coco(tmp_path, **given)
    assert len(read_coco(tmp_path, **given, require_pictures=False)) == 2
    annotations = tmp_path / "annotations"
    # Named after its folder, or in it: its own pictures.
    shutil.copy(annotations / "instances_train_set.json", annotations / "instances_train.json")
    beside = tmp_path / "train" / "_annotations.coco.json"
    shutil.copy(annotations / "instances_train_set.json", beside)
    for instances in ("instances_train.json", str(beside)):
        read = read_coco(tmp_path, **{**given, "instances": instances})
        assert [path.parent for path in read.pictures] == [tmp_path / "train"] * 2
    # One folder under two names is one.
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    assert len(read_coco(tmp_path, **given)) == 2


def test_the_joins_are_counted_in_notes(shared, tmp_path):
    notes = read_coco(shared / "data/coco-mini").notes
    assert "instances_val2017.json: 34 of 48 pictures have a label" in notes[0] or (
        "34 of 47 pictures have a label" in notes[0]
    )
    assert notes[1:] == ("captions_val2017.json: captions for 34 of these 34",)


def test_a_model_that_does_not_look_needs_no_captions_and_no_pictures(tmp_path):
    coco(tmp_path, LABELS, pictures=None)
    (tmp_path / "annotations/captions_val2017.json").unlink()
    with pytest.raises(UserError, match="has no captions_val2017.json"):
        read_coco(tmp_path, require_pictures=False)
    annotations = read_coco(tmp_path, require_pictures=False, require_captions=False)
    assert annotations.captions == ["", "", ""] and len(annotations.notes) == 1


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "instances",
            lambda c: c["annotations"].__setitem__(
                slice(None), [{"image_id": 1, "category_id": 1}]
            ),
            "none of its 1 objects is in one of its pictures",
        ),
        ("instances", lambda c: c["images"][0].update(file_name=None), "no 'file_name' of image 7"),
        ("instances", lambda c: c["images"][0].update(id=[1]), r"id is \[1\]"),
        ("instances", lambda c: c["images"][0].update(id=True), "id is True"),
        ("instances", lambda c: c["images"][1].update(id="7"), "image 7 is both"),
        ("instances", lambda c: c["images"].append(3), "'images' is no list of objects"),
        ("instances", lambda c: c.update(images={}), "'images' is no list of objects"),
        ("instances", lambda c: c["annotations"][0].pop("category_id"), "no 'category_id'"),
        (
            "instances",
            lambda c: c["categories"].insert(0, {"id": 1, "name": "dog"}),
            "category 1 is dog, but in COCO it is person",
        ),
        ("captions", lambda c: c["annotations"][0].update(caption=5), "caption 5 of image 7"),
        ("captions", lambda c: c["annotations"][0].update(caption="\ud800"), "half a character"),
        ("captions", lambda c: c["annotations"][0].pop("caption"), "no 'caption' in"),
        ("captions", lambda c: c["annotations"][0].pop("image_id"), "no 'image_id' in"),
    ],
)
def test_entries_that_are_not_cocos(kind, change, message, tmp_path):
    coco(tmp_path, LABELS)
    changed(tmp_path, kind, change)
    with pytest.raises(UserError, match=message):
        read_coco(tmp_path, several_captions="all")


def test_json_that_is_none(tmp_path):
    coco(tmp_path, LABELS)
    for text, message in (
        ("[" * 100_000, "too deeply nested"),
        ('{"images": [], "images": []}', 'the key "images" twice'),
        ("9" * 5000, "is no valid JSON"),
    ):
        (tmp_path / "annotations/instances_val2017.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_coco(tmp_path)
