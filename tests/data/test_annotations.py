"""Readers: every record of a file that is no valid CSV, any CSV, COCO, and mistakes in all."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from mmlabel.data.annotations import (
    ABSENT,
    REPORT_LABELS,
    Annotations,
    read_coco,
    read_csv,
    read_unlabelled,
    read_usyd,
)
from mmlabel.errors import UserError

# Every trap of the report's file: marks that are not doubled (at the end, at the start, around
# all), line breaks in captions (also before a number, and many), commas, capitals, an empty one.
TRAPS = [
    ("2.jpg", [1], "A plain caption."),
    ("4.jpg", [3, 7, 8], 'A sign reading "for rent".'),
    ("14.jpg", [1, 13], 'A man surfing with titling that reads "spray."'),
    ("20.jpg", [18], '"Stop" says a sign, and a dog sits'),
    ("21.jpg", [1], "Red motor \nscooter parked on the sand"),
    ("23.jpg", [1, 2], "w" + "\n" * 14 + 'A couple of men, "standing"'),
    ("29.jpg", [9], "Two boats:\n2 of them, red\n."),
    ("34.jpg", [19], "A HORSE, IN CAPITALS, WITH COMMAS"),
    ("49.jpg", [4], ""),
    ("56.jpg", [17], '"A cat."'),
    ("58.jpg", [1], " spaces at both ends "),
    ("87.jpg", [5], 'ends with a line break\n"quoted"\n'),
    ("30000.jpg", [6], "café — naïve"),
]


def test_labels_stand_in_the_files_order(tmp_path: Path):
    (tmp_path / "train.csv").write_text("ImageID,Labels,Caption\n1.jpg,8 3 7,a\n2.jpg,1,b\n")
    annotations = read_usyd(tmp_path, require_pictures=False)
    order = annotations.take([1, 0]).label_order
    assert order[1, [8, 3, 7]].tolist() == [0, 1, 2]
    assert (order[1] != ABSENT).sum() == 3
    assert order[0, 1] == 0


def raw(rows=TRAPS, *, labels: bool = True) -> str:
    """The report's own form: each caption between marks, nothing doubled."""
    lines = ["ImageID,Labels,Caption" if labels else "ImageID,Caption"]
    for image_id, numbers, caption in rows:
        middle = f"{' '.join(map(str, numbers))}," if labels else ""
        lines.append(f'{image_id},{middle}"{caption}"')
    return "\n".join(lines) + "\n"


def saved_again(rows=TRAPS, *, quoting=csv.QUOTE_MINIMAL, end="\n", index: bool = False) -> str:
    """What a CSV library writes of the same rows."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=quoting, lineterminator=end)
    writer.writerow([""] * index + ["ImageID", "Labels", "Caption"])
    for row, (image_id, numbers, caption) in enumerate(rows):
        writer.writerow([row] * index + [image_id, " ".join(map(str, numbers)), caption])
    return out.getvalue()


def usyd(folder: Path, text: str, rows=TRAPS, *, file: str = "train.csv") -> Path:
    """A data set folder with empty picture files."""
    (folder / "data").mkdir(exist_ok=True)
    for image_id, *_ in rows:
        (folder / "data" / image_id).touch()
    (folder / file).write_bytes(text.encode())
    return folder


def as_rows(annotations: Annotations) -> list[tuple[str, list[int], str]]:
    numbers = [np.flatnonzero(row).tolist() for row in annotations.targets]
    return list(zip(annotations.ids, numbers, annotations.captions, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        raw(),
        raw().rstrip("\n"),
        "\ufeff" + raw(),
        raw().replace("\n", "\r\n"),
        raw() + "\n\n",
        raw().replace('"\n4.jpg', '" \n\n4.jpg'),
        saved_again(),
        saved_again(end="\r\n"),
        "\ufeff" + saved_again(),
        saved_again(quoting=csv.QUOTE_ALL),
        saved_again(quoting=csv.QUOTE_NONNUMERIC),
        saved_again(index=True),
        # A raw file to which rows of a saved one were added.
        raw(TRAPS[:5]) + saved_again(TRAPS[5:]).partition("\n")[2],
    ],
    ids=lambda text: None,
)
def test_every_form_of_the_file_reads_the_same(text, tmp_path):
    annotations = read_usyd(usyd(tmp_path, text))
    assert as_rows(annotations) == TRAPS
    assert annotations.pictures[0] == tmp_path / "data" / "2.jpg"
    assert annotations.label_names == REPORT_LABELS
    assert annotations.targets.shape == (len(TRAPS), 20) and annotations.targets.dtype == np.uint8


def test_a_copy_saved_by_pandas_reads_the_same(shared, tmp_path):
    pandas = pytest.importorskip("pandas")
    original = read_usyd(shared / "data/usyd")
    table = pandas.DataFrame(
        {
            "ImageID": original.ids,
            "Labels": [" ".join(map(str, np.flatnonzero(row))) for row in original.targets],
            "Caption": original.captions,
        }
    )
    table.to_csv(tmp_path / "train.csv", index=False)
    again = read_usyd(tmp_path, require_pictures=False)
    assert again.captions == original.captions
    assert again.fingerprint == original.fingerprint


def test_report_labels():
    assert len(REPORT_LABELS) == 20
    assert [number for number, name in enumerate(REPORT_LABELS) if not name] == [0, 12]
    assert (REPORT_LABELS[1], REPORT_LABELS[8], REPORT_LABELS[13]) == (
        "person",
        "truck",
        "stop sign",
    )
    assert REPORT_LABELS[19] == "horse"


# ---- The real files -------------------------------------------------------------------------


def test_the_real_file_is_read_whole(shared):
    annotations = read_usyd(shared / "data/usyd")
    assert len(annotations) == 3600
    captions = dict(zip(annotations.ids, annotations.captions, strict=True))
    assert captions["2.jpg"] == "They are brave for riding in the jungle on those elephants."
    assert captions["1338.jpg"] == 'A man surfing with titling that reads "spray."'
    assert captions["1188.jpg"] == 'Two apartment doors with a sign in a window reading "for rent".'
    assert captions["2259.jpg"] == "Men loading up a van with bags and suitcases.\n."
    assert captions["24624.jpg"].count("\n") == 14
    assert annotations.captions[-1] == "Bare trees with a train passing through in the background."
    # 12 and 0 are no labels; the mean number of labels is the whole set's.
    assert not annotations.targets[:, [0, 12]].any()
    assert annotations.targets.sum() / 3600 == pytest.approx(1.55, abs=0.05)
    # The longest caption of the whole set has 49 words: no record was swallowed by another.
    assert max(len(caption.split()) for caption in annotations.captions) <= 49
    assert not any(".jpg," in caption for caption in annotations.captions)


def test_all_characters_of_the_real_files_are_accounted_for(shared):
    """Written back in the raw form, the rows are the file, byte for byte."""
    folder = shared / "data/usyd"
    for file, count in (("train.csv", 3600), ("captions-27k.csv", 27000)):
        annotations = read_usyd(folder, file=file, require_pictures=False)
        assert len(annotations) == count
        text = (folder / file).read_text(encoding="utf-8")
        # The order of a row's labels is not kept: they are taken from the file.
        labels = [part.split(",", 2)[1] for part in text.split("\n") if part[:1].isdigit()]
        rows = zip(annotations.ids, labels, annotations.captions, strict=True)
        written = "".join(f'{i},{numbers},"{caption}"\n' for i, numbers, caption in rows)
        assert f"ImageID,Labels,Caption\n{written}".rstrip() == text.rstrip()
        for row, numbers in enumerate(labels):
            assert set(np.flatnonzero(annotations.targets[row])) == set(map(int, numbers.split()))


def test_the_real_file_without_labels(shared):
    annotations = read_unlabelled(shared / "data/usyd/test.csv")
    assert len(annotations) == 198
    assert annotations.captions[annotations.ids.index("30690.jpg")] == (
        'A stop sign with a sticker reading "eating animals."'
    )
    assert annotations.targets.shape == (198, 20) and not annotations.targets.any()


def test_the_real_coco_files(shared):
    annotations = read_coco(shared / "data/coco-mini")
    # Of 48 entries 35 have one of the labels; one of these is the same picture twice.
    assert len(annotations) == len(set(annotations.ids)) == 34
    assert annotations.targets.any(axis=1).all()
    row = annotations.ids.index("000000435206.jpg")
    assert np.flatnonzero(annotations.targets[row]).tolist() == [1, 9]


# ---- The report's form, with mistakes -------------------------------------------------------


def test_a_file_without_labels(tmp_path):
    folder = usyd(tmp_path, raw(labels=False), file="test.csv")
    annotations = read_unlabelled(folder / "test.csv", label_names=["cat", "dog"])
    assert annotations.captions == [caption for _, _, caption in TRAPS]
    assert annotations.targets.shape == (len(TRAPS), 2) and not annotations.targets.any()
    usyd(tmp_path, raw())
    labelled = read_unlabelled(folder / "train.csv")
    assert labelled.captions == annotations.captions and not labelled.targets.any()
    with pytest.raises(UserError, match="no column Labels; its columns: ImageID, Caption"):
        read_usyd(folder, file="test.csv")


def test_an_empty_label_list_is_no_label(tmp_path):
    rows = [("1.jpg", [], "Nothing here."), ("2.jpg", [3], "A car.")]
    assert as_rows(read_usyd(usyd(tmp_path, raw(rows), rows))) == rows


HEADER = "ImageID,Labels,Caption\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column ImageID; its columns: none, the file is empty"),
        (HEADER, "train.csv has no rows"),
        (HEADER + "\n\n", "train.csv has no rows"),
        ("ImageID,Caption\n2.jpg,a\n", "no column Labels; its columns: ImageID, Caption"),
        ('2.jpg,1,"a"\n', "no column ImageID; its columns: 2.jpg, 1, a"),
        (HEADER + '2.jpg,1,"a"\n4.jpg,1 x,"b"\n', r'row 2 \(4.jpg\): label "x" is not a number'),
        (HEADER + '2.jpg,"a caption"\n', "row 1 has 2 fields, not 3"),
        (HEADER + '2.jpg,1 1.5,"a"\n', r'row 1 \(2.jpg\): label "1.5" is not a number'),
        (HEADER + '2.jpg,1,"a\nb"\n4.jpg,20,"b"\n', r"row 2 \(4.jpg\): label 20 is out of range"),
        (HEADER + '2.jpg,12,"a"\n', r"label 12 is out of range: .* 1 to 19 without 12"),
        (HEADER + '2.jpg,0,"a"\n', "label 0 is out of range"),
        (HEADER + '2.jpg,-1,"a"\n', "label -1 is out of range"),
        (HEADER + '2.jpg,1,"a"\n4.jpg,1,"b"\n2.jpg,3,"c"\n', r"twice: 2.jpg \(rows 1 and 3\)"),
        (HEADER + 'a.jpg,1,"a"\n2.jpg,1,"b"\n', "row 1 does not start with an id .*: a.jpg"),
        (HEADER + '2.jpg,1,"a"\nx.png,1,"b"\n', "the row after row 1 has the image id x.png"),
    ],
)
def test_mistakes_in_the_reports_form(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_usyd(usyd(tmp_path, text, [("2.jpg",), ("4.jpg",)]))


def test_missing_root_file_and_encoding(tmp_path):
    with pytest.raises(UserError, match="the data folder .*nowhere does not exist"):
        read_usyd(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot read .*train.csv: No such file"):
        read_usyd(tmp_path)
    with pytest.raises(UserError, match="cannot read .*test.csv: No such file"):
        read_unlabelled(tmp_path / "test.csv")
    (tmp_path / "train.csv").write_bytes(b'ImageID,Labels,Caption\n2.jpg,1,"caf\xe9"\n')
    with pytest.raises(UserError, match=r"train.csv is not text in UTF-8 \(byte 35\)"):
        read_usyd(tmp_path)


def test_missing_pictures_are_listed_up_to_ten_with_the_total(tmp_path):
    rows = [(f"{number}.jpg", [1], "a") for number in range(30)]
    folder = usyd(tmp_path, raw(rows), rows[:5])
    with pytest.raises(UserError) as error:
        read_usyd(folder)
    message = str(error.value)
    assert "25 of 30 rows have no picture file" in message and str(folder / "data") in message
    assert "5.jpg (row 6)" in message and "14.jpg" in message and "15.jpg" not in message
    assert len(read_usyd(folder, require_pictures=False)) == 30


# ---- Annotations ----------------------------------------------------------------------------


def test_take_and_fingerprint(tmp_path):
    annotations = read_usyd(usyd(tmp_path, raw()))
    taken = annotations.take(np.array([3, 0]))
    assert as_rows(taken) == [TRAPS[3], TRAPS[0]]
    assert taken.pictures == [annotations.pictures[3], annotations.pictures[0]]
    assert taken.num_labels == 20 and len(annotations.take([])) == 0
    again = read_usyd(tmp_path)
    assert again.fingerprint == annotations.fingerprint != taken.fingerprint
    again.targets[0, 5] = 1
    changed = again.take(range(len(again)))
    assert changed.fingerprint != annotations.fingerprint


# ---- Any CSV --------------------------------------------------------------------------------


def any_csv(folder: Path, text: str, **options) -> Annotations:
    (folder / "set.csv").write_bytes(text.encode())
    options = {"require_pictures": False, **options}
    return read_csv(
        folder / "set.csv",
        picture_column="path",
        label_column=options.pop("label_column", "tags"),
        caption_column="text",
        **options,
    )


def test_label_names_are_collected_from_the_file(tmp_path):
    text = (
        "\ufeffn,text,path,tags\r\n"
        '1,"say ""hi"",\nthen go",a/1.png,dog|hot dog\r\n\r\n2,,b/2.png,\r\n3,x,c.png,cat | dog\r\n'
    )
    annotations = any_csv(tmp_path, text, separator="|")
    assert annotations.label_names == ["cat", "dog", "hot dog"]
    assert annotations.ids == ["a/1.png", "b/2.png", "c.png"]
    assert annotations.captions == ['say "hi",\nthen go', "", "x"]
    assert annotations.targets.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert annotations.pictures[0] == tmp_path / "a" / "1.png"


def test_label_numbers(tmp_path):
    text = "path,tags,text\n1.png,4 0,a\n2.png,02,b\n"
    annotations = any_csv(tmp_path, text)
    assert annotations.label_names == ["0", "", "2", "", "4"]
    assert annotations.targets.tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    assert any_csv(tmp_path, text, num_labels=7).targets.shape == (2, 7)
    named = any_csv(tmp_path, text, label_names=["a", "", "c", "d", "e"])
    assert named.targets.tolist() == annotations.targets.tolist()


def test_given_label_names_decide_the_numbers(tmp_path):
    text = 'path,tags,text\n1.png,"dog, 2",a\n2.png,cat,b\n'
    annotations = any_csv(tmp_path, text, separator=",", label_names=["dog", "cat", "cow"])
    assert annotations.targets.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert annotations.label_names == ["dog", "cat", "cow"]


def test_without_a_label_column_all_targets_are_zero(tmp_path):
    text = "path,text\n1.png,a\n"
    annotations = any_csv(tmp_path, text, label_column=None, label_names=["dog", "cat"])
    assert annotations.targets.tolist() == [[0, 0]]


def test_pictures_are_relative_to_the_csv_or_to_a_root_or_absolute(tmp_path):
    pictures = tmp_path / "pictures" / "deep"
    pictures.mkdir(parents=True)
    (pictures / "1.png").touch()
    for path, root in (
        ("pictures/deep/1.png", None),
        ("deep/1.png", tmp_path / "pictures"),
        (str(pictures / "1.png"), None),
    ):
        text = f"path,tags,text\n{path},1,a\n"
        annotations = any_csv(tmp_path, text, root=root, require_pictures=True)
        assert annotations.pictures == [pictures / "1.png"]
    with pytest.raises(UserError, match=r"1 of 1 rows have no picture file .*deep/2.png \(row 1\)"):
        any_csv(tmp_path, "path,tags,text\ndeep/2.png,1,a\n", require_pictures=True)


COLUMNS = "path,tags,text\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "no column path"),
        (COLUMNS, {}, "has no rows"),
        ("path,text\na,b\n", {}, "no column tags; its columns: path, text"),
        (COLUMNS + "1.png,1,a\n2.png,1\n", {}, "row 2 has 2 fields, but the header has 3"),
        (COLUMNS + "1.png,1,a,b\n", {}, "row 1 has 4 fields"),
        (COLUMNS + '1.png,1,"a "b" c"\n', {}, r"line 2 is no valid CSV .* must be doubled"),
        (COLUMNS + "1.png,1,a\n1.png,1,b\n", {}, r"twice: 1.png \(rows 1 and 2\)"),
        (COLUMNS + ",1,a\n", {}, "row 1 has no image id"),
        (COLUMNS + "1.png,3 x,a\n", {}, r'row 1 \(1.png\): label "x" is not a number'),
        (COLUMNS + "1.png,-1 3,a\n", {}, r"row 1 \(1.png\): label -1 is out of range"),
        (COLUMNS + "1.png,3,a\n", {"num_labels": 3}, "label 3 is out of range: .* 0 to 2"),
        (COLUMNS + "1.png,cat,a\n", {"num_labels": 3}, 'label "cat" is not a number'),
        (
            COLUMNS + "1.png,a,a\n2.png,dgo,b\n",
            {"label_names": ["a", "dog"]},
            r'row 2 \(2.png\): label "dgo" is not among the label names; did you mean "dog"',
        ),
        (COLUMNS + "1.png,2,a\n", {"label_names": ["a", "b"]}, "label 2 is out of range"),
        (COLUMNS + "1.png,1,a\n", {"label_names": ["a", ""]}, "label 1 is out of range"),
        (COLUMNS + "1.png,,a\n", {}, "has no labels"),
        (COLUMNS + "1.png,88888888888,a\n", {}, "label 88888888888 would make"),
        (COLUMNS + "1.png,1,a\n", {"separator": ""}, "separator of the label lists is empty"),
        (COLUMNS, {"label_names": ["a"], "num_labels": 2}, "num_labels is 2, but there are 1"),
        (COLUMNS, {"label_names": ["a", "b", "a"]}, "label names that are there twice: a"),
    ],
)
def test_mistakes_in_any_csv(text, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        any_csv(tmp_path, text, **options)


# ---- COCO -----------------------------------------------------------------------------------

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
    assert [row[1] for row in as_rows(annotations)] == [[1, 3], [19], [2]]
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
