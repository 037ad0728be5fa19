"""COCO's own layout: which pictures, labels and captions are read, and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmlabel.data.annotations import REPORT_LABELS
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


LABELS = {7: [1, 1, 3], 5: [20], 9: [20, 19], 3: [], 4: [2]}


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
    (tmp_path / "annotations/captions_val2017.json").write_text('{"annotations": []}')
    assert read_coco(tmp_path).captions == ["", "", ""]


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
    chosen = read_coco(
        tmp_path, instances="instances_val2017.json", captions="captions_train2017.json"
    )
    assert chosen.captions == ["", "", ""]


def test_mistakes_in_coco_files(tmp_path):
    coco(tmp_path, {5: [20], 6: []})
    with pytest.raises(UserError, match="no picture has one of the report's 18 labels"):
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
