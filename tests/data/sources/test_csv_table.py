"""Any CSV: columns by name, labels by name or number, and mistakes."""

from pathlib import Path

import pytest

from mmlabel.data.annotations import Annotations
from mmlabel.data.sources.csv_table import read_csv
from mmlabel.errors import UserError


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
