"""Any CSV: columns by name, labels by name or number, and mistakes."""

import csv
import gzip
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlabel.data.annotations import Annotations
from mmlabel.data.labels import (
    label_summary,
    labels_that_occur_once,
    labels_without_rows,
)
from mmlabel.data.sources.csv_table import read_csv
from mmlabel.data.sources.unlabelled import Columns, open_rows
from mmlabel.data.splits import split_rows
from mmlabel.errors import UserError
from mmlabel.metrics import f1_scores


def any_csv(folder: Path, text: str | bytes, *, file: str = "set.csv", **options) -> Annotations:
    (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    options = {
        "picture_column": "path",
        "label_column": "tags",
        "caption_column": "text",
        "require_pictures": False,
        **options,
    }
    return read_csv(folder / file, **options)


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


def test_a_picture_whose_name_is_nearly_that_of_a_file(tmp_path):
    (tmp_path / "cafe\u0301.png").touch()  # as macOS has it, which looks the same
    for name in ("caf\xe9.png", "caf\xe9", "CAFE\u0301.PNG", "cafe\u0301.jpg"):
        with pytest.raises(UserError, match="has cafe\u0301.png, which differs in its ending, in"):
            any_csv(tmp_path, f"path,tags,text\n{name},1,a\n", require_pictures=True)
    with pytest.raises(UserError, match=r"no picture file .*: cafe.png \(row 1\)$"):
        any_csv(tmp_path, "path,tags,text\ncafe.png,1,a\n", require_pictures=True)
    for name, hint in (
        ("deep\\1.png", r"parted by / here, not by \\$"),
        ("https://example.org/1.png", "these are addresses: fetch the pictures, and name the fil"),
    ):
        with pytest.raises(UserError, match=hint):
            any_csv(tmp_path, f"path,tags,text\n{name},1,a\n", require_pictures=True)


COLUMNS = "path,tags,text\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "has no columns: it is empty"),
        (COLUMNS, {}, "has no rows"),
        (
            "path,text\na,b\n",
            {},
            r"no column tags \(data.label_column=NAME says which\); its columns: path, text",
        ),
        (COLUMNS + "1.png,1,a\n2.png,1\n", {}, "row 2 has 2 fields, but the header has 3"),
        (COLUMNS + "1.png,1,a,b\n", {}, "row 1 has 4 fields"),
        (COLUMNS + '1.png,1,"a "b" c"\n', {}, r"line 2 is no valid CSV .* must be doubled"),
        (COLUMNS + "1.png,1,a\n1.png,1,b\n", {}, r"twice: 1.png \(rows 1 and 2\)"),
        (
            COLUMNS + "1.png,1,a\n2.png,1,a\n1.png,2,a\n1.png,0,a\n2.png,2,a\n1.png,3,a\n",
            {},
            r"2 image ids are there several times: 1.png \(rows 1, 3, 4 and 1 more\), 2.png \(rows "
            r"2 and 5\); .* or all; where each row has one of its labels, write them into one row$",
        ),
        (COLUMNS + ",1,a\n", {}, "row 1 has no image id: fill it in, or delete"),
        (COLUMNS + "1.png,1,a\n,,\n,,\n", {}, "rows 2, 3 have no image id: .* below a table"),
        ("sep=;\n" + COLUMNS.replace(",", ";"), {}, r"first line \(sep=\) is a spr.*: delete it$"),
        (COLUMNS + "1.png,3 x,a\n", {}, r'row 1 \(1.png\): label "x" is not a number'),
        (
            COLUMNS + "1.png,cat,a\n2.png,dog 2019999,a\n3.png,cat,a\n",
            {},
            'row 2: "2019999" is a number among names of labels such as "cat"',
        ),
        (COLUMNS + "1.png,1 2,a\n2.png,cat,a\n", {}, r'row 2 \(2.png\): label "cat" is not a n'),
        (
            COLUMNS + '1.png,2,a\n2.png,"1, 5",b\n',
            {"separator": ";"},
            r'row 2 \(2.png\): "1, 5" has a comma between labels: give "data.separator=\',\'"',
        ),
        (COLUMNS + "1.png,2,a\n2.png,1|5,b\n", {}, r'"1\|5" has an upright between labels'),
        (COLUMNS + '1.png,2,a\n2.png,"1, 5",b\n', {}, '"1," has a comma between labels'),
        (
            COLUMNS + "1.png,a;dog,a\n",
            {"label_names": ["a", "dog"]},
            "has a semicolon between labels",
        ),
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
        (COLUMNS, {"label_names": ["a"], "num_labels": 2}, "num_labels is 2, but there are 1"),
        (COLUMNS, {"label_names": ["a", "b", "a"]}, "label names that are there twice: a"),
    ],
)
def test_mistakes_in_any_csv(text, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        any_csv(tmp_path, text, **options)


# ---- Files that are not what they seem ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # A mark that was lost at the beginning of a cell, and what follows looks like a row.
        (COLUMNS + '1.png,cat,a man\nx,y,z"\n', "row 2 has a cell that ends with a quotation mark"),
        (COLUMNS + '1.png,cat,a man"\n', "row 1 has a cell that ends .* but begins with none"),
        # One that was lost at its end.
        (COLUMNS + '1.png,cat,"a man\n2.png,cat,b\n', "line 2 is no valid CSV"),
        (COLUMNS + '1.png,cat,"a\n2.png,cat,", b"\n', "row 1 has a cell that ends|has 4 fields"),
        (COLUMNS + '1.png,cat,"a"b\n', "line 2 is no valid CSV"),
        (COLUMNS + '1.png,cat, "a"\n', "row 1 has a cell that ends with a quotation mark"),
        (COLUMNS + "1.png,cat,a2.png,cat,b\n", "row 1 has 5 fields"),
        (COLUMNS + "1.png,cat,a\npath,tags,text\n2.png,cat,b\n", "row 2 is the header again"),
        ('path,tags,text"\n1.png,cat,a\n', "the header has a cell that ends"),
        ("path,tags,text,\n1.png,cat,a,b\n", "row 1 has text in a column without a name"),
        ("path,tags,text,text\n1.png,cat,a,b\n", "2 columns of the name text"),
        ("path,tag,text\n1.png,cat,a\n", 'no column tags .* did you mean "tag"'),
        (COLUMNS + "a\0b.png,cat,a\n", "zero byte"),
    ],
)
def test_damaged_files_are_refused(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        any_csv(tmp_path, text, encoding="utf-8")


def test_what_is_nested_in_json_is_no_column(tmp_path):
    """The nearest name, "path", would be refused as well."""
    text = json_lines({"path": {"file": "1.png"}, "text": "a", "tags": ["cat"]})
    said = r"its columns: path, text, tags; what is within another value \(path.file\) is no column"
    with pytest.raises(UserError, match=said):
        any_csv(tmp_path, text, file="a.jsonl", picture_column="path.file", require_pictures=True)


def test_marks_within_a_cell_are_taken_as_they_are(tmp_path):
    annotations = any_csv(tmp_path, COLUMNS + '1.png,cat,a 5" board\n2.png,cat,"a ""b"""\n')
    assert annotations.captions == ['a 5" board', 'a "b"']


def test_columns_that_are_not_there_are_named_at_once_with_their_options(tmp_path):
    said = (
        r"has no column path or text or tags \(data.picture_column=NAME, data.caption_column=NAME,"
        r" data.label_column=NAME say which\); its columns: file, labels, words$"
    )
    text = "file,labels,words\n1.png,1,a\n"
    with pytest.raises(UserError, match=said):
        any_csv(tmp_path, text, require_pictures=True)
    with pytest.raises(UserError, match=said):  # whatever stands between the cells
        any_csv(tmp_path, text.replace(",", ";"), require_pictures=True)
    said = r"no column text or a\* or c \(data.caption_column=NAME, data.label_columns=\[NAME\] say"
    with pytest.raises(UserError, match=said):
        any_csv(tmp_path, text, label_columns=["a*", "labels", "c"])
    with pytest.raises(UserError, match=r"no column text \(data.caption_column=NAME says which\)"):
        any_csv(tmp_path, text, label_column="labels")
    with pytest.raises(
        UserError, match=r"no column cat \(data.label_columns=\[NAME\] says which\)"
    ):
        any_csv(tmp_path, text, caption_column="words", label_columns=["cat"])


def test_a_folder_and_a_pipe_are_no_files(tmp_path):
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_csv(tmp_path, picture_column="a", label_column="b", caption_column="c")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a plain file"):
        read_csv(tmp_path / "pipe", picture_column="a", label_column="b", caption_column="c")


# ---- Delimiters and encodings ---------------------------------------------------------------

TEXT = 'path,tags,text\n1.png,chat,"café, ""noir"""\n2.png,chien,naïve\n'
CAPTIONS = ['café, "noir"', "naïve"]


@pytest.mark.parametrize("delimiter", ["\t", ";", "|"])
def test_the_delimiter_is_found_out_or_given(delimiter, tmp_path):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(csv.reader(io.StringIO(TEXT)))
    assert any_csv(tmp_path, out.getvalue()).captions == CAPTIONS
    assert any_csv(tmp_path, out.getvalue(), delimiter=delimiter).captions == CAPTIONS
    with pytest.raises(UserError, match="has no column path"):
        any_csv(tmp_path, out.getvalue(), delimiter=",")


@pytest.mark.parametrize("name", ["tab", "\\t"])
def test_a_tab_can_be_written_on_a_command_line(name, tmp_path):
    text = "path\ttags\ttext\n1.png\tcat\ta, b\n"
    assert any_csv(tmp_path, text, delimiter=name).captions == ["a, b"]


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "read as utf-16,"),
        ("utf-16-le", "read as utf-16-le"),
        ("utf-16-be", "read as utf-16-be"),
        ("utf-32", "read as utf-32,"),
        ("cp1252", "read as cp1252"),
        ("latin-1", "read as cp1252"),
    ],
)
def test_the_encoding_is_found_out_and_said_or_given(encoding, note, tmp_path):
    annotations = any_csv(tmp_path, TEXT.encode(encoding))
    assert annotations.captions == CAPTIONS
    assert [note in n for n in annotations.notes] == ([True] if note else [])
    given = any_csv(tmp_path, TEXT.encode(encoding), encoding=encoding)
    assert given.captions == CAPTIONS and given.notes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode() + "3.png,chat,très".encode("cp1252"), "other characters are: .* damaged"),
        ("path,tags,text\n1.png,cat,Привет, мир".encode("cp1251"), "too many letters"),
        (
            "path,tags,text\n1.png,cat,日本語の説明".encode("shift-jis"),
            "too many|nor in cp1252|damaged",
        ),
        (b"path,tags,text\n1.png,cat,a long enough caption \x81 here", "nor in cp1252"),
        (b"path\0\0tags\0,text\n", "holds zero bytes"),
        (b"path,tags,text\n1.png,cat,one in a caption that is a bit long\0\n", "holds zero bytes"),
        (b"PK\3\4\x14\0\6\0a spreadsheet", "is a spreadsheet, .*: save or unpack it as CSV"),
        (b"PAR1\x15\4a table", "is Parquet, and text is read: save or unpack it as CSV"),
        (gzip.compress(b"path,tags\n", mtime=0), "is compressed, .*: save or unpack it as CSV"),
    ],
)
def test_an_encoding_that_is_not_sure_is_asked_for(content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        any_csv(tmp_path, content)


@pytest.mark.parametrize("separator", ["tab", "\\t", "\t"])
def test_a_tab_between_labels_as_it_can_be_typed(separator: str, tmp_path):
    text = COLUMNS + "1.png,hot dog\tcat,a\n2.png,table,b\n"
    assert any_csv(tmp_path, text, separator=separator).label_names == ["cat", "hot dog", "table"]


@pytest.mark.parametrize("encoding", ["nonsense", "hex", "rot13"])
def test_no_encoding(encoding, tmp_path):
    with pytest.raises(UserError, match=f"{encoding} is not the name of an encoding"):
        any_csv(tmp_path, TEXT, encoding=encoding)


# ---- Labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ('"[""cat"", ""dog""]"', {}, 'row 2: "\\[""?cat".* data.separator=json'),
        ("\"['cat', 'dog']\"", {}, "data.separator=json"),
        ("[cat]", {}, "data.separator=json"),
        ('"cat,dog"', {}, "has a comma in it; .* \"data.separator=','\""),
        ('"cat, dog"', {}, "has a comma"),
        ("cat;dog", {}, "data.separator=';'"),
        ("cat|dog", {}, "has an upright"),
        ("cat;dog", {"separator": ","}, "has a semicolon"),
        (
            "cat\tdog",
            {"separator": ","},
            'a tab in it; separate labels there with "data.separator=tab"',
        ),
        ("cat", {"separator": "a"}, "data.separator=a would part labels wherever"),
        ("cat", {"separator": "comma"}, "data.separator=comma would part"),
        ("truck (large)", {}, "a bracket that belongs to more"),
        ("nan", {}, "is written for no label; leave the cell empty"),
        ("None", {}, "is written for no label"),
        ("1.0", {}, "is a fraction; label numbers are whole"),
        ("a\u200bb", {}, "cannot be printed"),
    ],
)
def test_labels_that_are_no_plausible_names(cell, options, message, tmp_path):
    text = COLUMNS + f"1.png,cow,a\n2.png,{cell},b\n"
    with pytest.raises(UserError, match=message):
        any_csv(tmp_path, text, **options)


@pytest.mark.parametrize("name", ["truck (large)", "men's shoes", "rock'n'roll", "C++", "3D"])
def test_names_that_are_plausible(name, tmp_path):
    text = COLUMNS + f"1.png,cow|{name},a\n2.png,cow,b\n"
    assert name in any_csv(tmp_path, text, separator="|").label_names


def test_a_comma_in_a_name_between_semicolons(tmp_path):
    """Unless it parts what are labels themselves, or nothing, or no semicolon parts any."""
    rows = '1.png,"chair, folding;dog",a\n2.png,cat,b\n3.png,"{}",c\n'
    names = any_csv(tmp_path, COLUMNS + rows.format("table, wooden"), separator=";").label_names
    assert names == ["cat", "chair, folding", "dog", "table, wooden"]
    for slip in ("cat, cow", "cow,", "cow, dog;cat"):
        with pytest.raises(UserError, match=r"row 3: .* has a comma in it; separate labels there"):
            any_csv(tmp_path, COLUMNS + rows.format(slip), separator=";")
    with pytest.raises(UserError, match="row 1: .* has a comma in it"):
        any_csv(tmp_path, COLUMNS + '1.png,"chair, folding",a\n2.png,cat,b\n', separator=";")


def test_given_names_may_be_anything(tmp_path):
    text = COLUMNS + '1.png,"none|chair, folding",a\n2.png,[x],b\n'
    names = ["none", "chair, folding", "[x]"]
    annotations = any_csv(tmp_path, text, separator="|", label_names=names)
    assert annotations.targets.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_label_names_that_are_numbers_mean_names(tmp_path):
    text = COLUMNS + "1.png,3 11,a\n2.png,07,b\n"
    annotations = any_csv(tmp_path, text, label_names=[3, 7, 11])
    assert annotations.label_names == ["3", "7", "11"]
    assert annotations.targets.tolist() == [[1, 0, 1], [0, 1, 0]]
    with pytest.raises(UserError, match="label 1 is out of range"):
        any_csv(tmp_path, COLUMNS + "1.png,1,a\n", label_names=[3, 7, 11])


def test_a_label_that_is_called_none_is_not_found_by_chance(tmp_path):
    with pytest.raises(UserError, match='label "x" is not among the label names'):
        any_csv(tmp_path, COLUMNS + "1.png,x,a\n", label_names=["None", "cat"])


def test_lists_in_a_cell(tmp_path):
    text = COLUMNS + (
        '1.png,"[""hot dog"", ""cat""]",a\n2.png,"[\'cat\']",b\n3.png,[],c\n4.png,,d\n'
    )
    annotations = any_csv(tmp_path, text, separator="json")
    assert annotations.label_names == ["cat", "hot dog"]
    assert annotations.targets.tolist() == [[1, 1], [1, 0], [0, 0], [0, 0]]
    assert annotations.label_order[0].tolist() == [1, 0]
    numbers = any_csv(tmp_path, COLUMNS + '1.png,"[2, 0]",a\n', separator="json")
    assert numbers.targets.tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("cat", "is no list like"),
        ('"{""cat"": 1}"', "is no list like"),
        ('"[""cat"""', "is no list like"),
        ("[1.5]", "neither a name nor a number: 1.5"),
        ("[null]", "neither a name nor a number: null"),
        ("[true]", "neither a name nor a number: true"),
        ('"[[1], 2]"', "neither a name nor a number"),
        ('"[""cat"", """"]"', "is written for no label"),
        ("['cat' 'dog']", "has no comma between labels, as a list does: \\['cat' 'dog'\\]"),
        ("\"['cat', \n 'it\\'s' 'dog']\"", "has no comma between labels"),
    ],
)
def test_cells_that_are_no_lists(cell, message, tmp_path):
    with pytest.raises(UserError, match=message):
        any_csv(tmp_path, COLUMNS + f"1.png,{cell},a\n", separator="json")


def test_more_labels_than_rows_are_the_wrong_column(tmp_path):
    rows = "".join(f"{n}.png,a{n} b{n} c{n},x\n" for n in range(600))
    with pytest.raises(UserError, match="has 1,800 labels in 600 rows: check data.label_column"):
        any_csv(tmp_path, COLUMNS + rows)


def test_a_label_number_without_end(tmp_path):
    for number in ("9" * 5000, "9" * 30):
        with pytest.raises(UserError, match="is out of range|would make"):
            any_csv(tmp_path, COLUMNS + f"1.png,{number},a\n2.png,1,b\n")


def test_the_summary_of_labels(tmp_path):
    rows = "".join(f"{n}.png,dog{' cat' * (n < 3)}{' Dog' * (n == 5)},a\n" for n in range(12))
    lines = label_summary(any_csv(tmp_path, COLUMNS + rows + "12.png,,a\n"))
    assert lines == [
        "3 labels in 13 rows; the commonest: dog 12, cat 3, Dog 1",
        "1 of the labels occurs once: Dog (in 5.png)",
        "1 row has no label, and F1 per sample counts such a row as 0, whatever is answered",
        "labels that differ only in capitals, spaces, signs that are not seen or how a letter is"
        " encoded: Dog, dog",
    ]
    # As Linux and as macOS write it: they look the same.
    cafes = label_summary(any_csv(tmp_path, COLUMNS + "1.png,caf\xe9,a\n2.png,cafe\u0301,b\n"))
    assert cafes[-1].endswith("how a letter is encoded: cafe\u0301, caf\xe9")
    # As one keyboard and another write it.
    hearts = label_summary(any_csv(tmp_path, COLUMNS + "1.png,\u2764,a\n2.png,\u2764\ufe0f,b\n"))
    assert hearts[-1].endswith("how a letter is encoded: \u2764, \u2764\ufe0f")
    every = label_summary(any_csv(tmp_path, COLUMNS + "1.png,dog cat,a\n2.png,dog,b\n"))
    assert every[-1] == "every row has dog: scores of such a label say nothing"


def test_rows_without_a_known_label_are_counted_but_not_those_of_which_nothing_is_known(tmp_path):
    rows = "1.png,1,0,x\n2.png,0,1,x\n3.png,0,0,x\n4.png,,,x\n5.png,0,,x\n"
    read = any_csv(tmp_path, "path,a,b,text\n" + rows, label_columns=["a", "b"])
    (said,) = [line for line in label_summary(read) if "F1 per sample" in line]
    # "A row with a known label" is elsewhere one of which anything is known.
    assert said.startswith("2 rows have none of their known labels, and F1 per sample counts")
    known, targets = torch.tensor(read.known), torch.tensor(read.targets).bool()
    for answer in (True, False):
        answers = torch.full_like(targets[2:], answer)
        assert f1_scores(answers, targets[2:], known[2:])["f1_samples"] == 0


def test_a_picture_of_several_captions_counts_once(tmp_path):
    rows = "1.png,dog,a\n1.png,dog,b\n2.png,cat,a\n3.png,cat,c\n3.png,cat,d\n4.png,,e\n4.png,,f\n"
    lines = label_summary(any_csv(tmp_path, COLUMNS + rows, several_captions="all"))
    assert lines[0] == "2 labels in 4 pictures, 7 rows; the commonest: cat 2, dog 1"
    assert lines[1] == "1 of the labels occurs once: dog (in 1.png)"
    assert lines[2].startswith("1 row has no label")


def test_a_file_of_json_that_is_not_lines(tmp_path):
    with pytest.raises(UserError, match=r"JSON lines are read, an object a line: name it rows.jso"):
        any_csv(tmp_path, '[{"path": "1.png"}]', file="rows.json")


def test_labels_that_occur_once_or_not_in_a_split_are_named(tmp_path):
    rows = "1.png,bicycle,a\n2.png,bicycle;dog,a\n3.png,bicylce,a\n4.png,dog;zebra,a\n5.png,dog,a\n"
    annotations = any_csv(tmp_path, COLUMNS + rows, separator=";")
    assert labels_that_occur_once(annotations) == [
        "2 of the labels occur once: bicylce (in 3.png, spelt like bicycle), zebra (in 4.png)"
    ]
    parts = {"train": [0, 1, 2], "val": [3], "test": [4]}
    assert labels_without_rows(
        annotations, {name: np.array(own) for name, own in parts.items()}
    ) == [
        "labels without a row in the train split (they are not learned): zebra",
        "labels without a row in the val split (its f1_macro and map lack them): bicycle, bicylce",
        "labels without a row in the test split (its f1_macro and map lack them): bicycle, bicylce,"
        " zebra",
    ]
    every = {"train": np.arange(5), "val": np.arange(5), "test": np.arange(5)}
    assert labels_without_rows(annotations, every) == []


# ---- A column for each label ----------------------------------------------------------------

ONE_HOT = "path,cat,dog,hot dog,text\n1.png,1,0,1,a\n2.png,0.0,1.0,no,b\n3.png,False,Yes,0,c\n"


def test_a_column_for_each_label(tmp_path):
    for columns in (["cat", "dog", "hot dog"], ["cat", "*dog"], ["?at", "dog", "hot*"]):
        annotations = any_csv(tmp_path, ONE_HOT, label_columns=columns)
        assert annotations.label_names == ["cat", "dog", "hot dog"]
        assert annotations.targets.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]
        assert annotations.known is None and annotations.label_order is None


UNCERTAIN = "path,cat,dog,text\n1.png,1,-1,a\n2.png,,0,b\n3.png,-1.0,nan,c\n4.png,0,1,d\n"


def test_uncertain_labels(tmp_path):
    def read(uncertain) -> Annotations:
        return any_csv(tmp_path, UNCERTAIN, label_columns=["cat", "dog"], uncertain=uncertain)

    masked = read("mask")
    assert masked.targets.tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]
    assert masked.known.tolist() == [[True, False], [False, True], [False, False], [True, True]]
    assert masked.take([2, 0]).known.tolist() == [[False, False], [True, False]]
    assert "4 of 8 labels are -1 or empty: they are left out of loss" in masked.notes[0]
    assert read(0).targets.tolist() == masked.targets.tolist() and read(0).known is None
    assert read(1).targets.tolist() == [[1, 1], [1, 0], [1, 1], [0, 1]] and read(1).known is None
    assert "they are taken as 1" in read(1).notes[0]
    assert len({masked.fingerprint, read(0).fingerprint, read(1).fingerprint}) == 3


def test_labels_that_no_row_is_known_to_lack(tmp_path):
    # Nothing but ones counts: who answers all labels always is right.
    for empty in ("", "-1"):
        text = f"path,cat,dog,text\n1.png,1,{empty},a\n2.png,{empty},1,b\n"
        with pytest.raises(UserError, match="if they mean 0, give data.uncertain=0"):
            any_csv(tmp_path, text, label_columns=["cat", "dog"])
        read = any_csv(tmp_path, text, label_columns=["cat", "dog"], uncertain=0)
        assert read.targets.tolist() == [[1, 0], [0, 1]]
        some = any_csv(tmp_path, text + f"3.png,0,{empty},c\n", label_columns=["cat", "dog"])
        assert "known that it lacks dog: scores of such a label say nothing" in some.notes[1]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,cat,text\n1.png,0,a\n2.png,,a\n", {}, "no row has a 1 in the 1 column .*: cat"),
        ("path,cat,text\n1.png,2,a\n", {}, r"row 1 \(1.png\): column cat has '2', not 1, 0"),
        ("path,cat,text\n1.png,cat dog,a\n", {}, "label lists are read with data.label_column"),
        ("path,cow,text\n1.png,1,a\n", {}, "no column cat .*; its columns: path, cow, text"),
    ],
)
def test_mistakes_in_label_columns(text, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        any_csv(tmp_path, text, label_columns=["cat"], **options)


# ---- JSON lines -----------------------------------------------------------------------------


def json_lines(*rows: dict | str) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def test_json_lines(tmp_path):
    text = json_lines(
        {"path": "1.png", "tags": ["hot dog", "cat"], "text": 'a "b",\n\u2028c'},
        "",
        {"text": None, "path": 2, "tags": [], "more": {}},
        {"path": "3.png", "tags": "cat", "text": "x"},
    )
    annotations = any_csv(tmp_path, text, file="set.jsonl")
    assert annotations.ids == ["1.png", "2", "3.png"]
    assert annotations.captions == ['a "b",\n\u2028c', "", "x"]
    assert annotations.label_names == ["cat", "hot dog"]
    assert annotations.targets.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_a_name_in_a_list_may_hold_any_separator(tmp_path):
    text = json_lines(
        {"path": "1.png", "tags": ["red", "wine, old"], "text": "a"},
        {"path": "2.png", "tags": ["wine, old", "a|b;c", "[x]"], "text": "b"},
        {"path": "3.png", "tags": "red", "text": "c"},
    )
    annotations = any_csv(tmp_path, text, file="set.jsonl")
    assert annotations.label_names == ["[x]", "a|b;c", "red", "wine, old"]
    assert annotations.targets.tolist() == [[0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0]]


def test_label_columns_of_json_lines(tmp_path):
    text = json_lines(
        {"path": "1.png", "cat": 1, "dog": False, "text": "a"},
        '{"path": "2.png", "cat": NaN, "dog": 1.0, "text": "b"}',
        {"path": "3.png", "cat": None, "text": "c"},
    )
    annotations = any_csv(tmp_path, text, file="set.NDJSON", label_columns=["cat", "dog"])
    assert annotations.targets.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert annotations.known.tolist() == [[True, True], [False, True], [False, False]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its columns: none, the file is empty"),
        ('{"path": "1.png"', r"set.jsonl: line 1 is no valid JSON"),
        ('{"path": "1.png", "tags": [], "text": ""}\n[1]', "line 2 is no JSON object"),
        ('{"path": "1.png", "path": "2.png"}', 'line 1 has an object with the key "path" twice'),
        (json_lines({"path": "1.png", "text": "a"}), "has no column tags"),
        (
            json_lines(
                {"path": "1.png", "text": "", "tags": ["cat"]},
                {"path": "2.png", "text": "", "tags": "cat, dog"},
            ),
            'row 2: "cat," has a comma in it',
        ),
        (json_lines({"path": ["a"], "text": "a", "tags": []}), "row 1: path is neither text"),
        (json_lines({"path": "a", "text": {}, "tags": []}), "row 1: text is neither text"),
        (json_lines({"path": "a", "text": "a", "tags": {"a": 1}}), "row 1 .*: tags has a label"),
        (json_lines({"path": "a", "text": "\ud800", "tags": ["x"]}), "half a character"),
        ("[" * 100_000, "too deeply nested"),
    ],
)
def test_mistakes_in_json_lines(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        any_csv(tmp_path, text, file="set.jsonl")


# ---- Captions and pictures ------------------------------------------------------------------

SEVERAL = (
    COLUMNS
    + "1.png,cat,a\n2.png,dog,b\n1.png,cat,c\n1.png,cat,d\n3.png,dog cat,\n3.png,cat dog,e\n"
)


def test_several_captions_of_a_picture(tmp_path):
    with pytest.raises(UserError, match=r"times: 1.png .* give data.several_captions=one or all"):
        any_csv(tmp_path, SEVERAL)

    def read(several: str, seed: int = 0) -> Annotations:
        return any_csv(tmp_path, SEVERAL, several_captions=several, caption_seed=seed)

    chosen = set()
    for seed in range(20):
        one, every = read("one", seed), read("all", seed)
        assert one.ids == ["1.png", "2.png", "3.png"]
        assert one.captions[1:] == ["b", "e"]  # an empty caption is passed over
        chosen.add(one.captions[0])
        assert every.ids == ["1.png", "1.png", "1.png", "2.png", "3.png"]
        assert every.captions[0] == one.captions[0] and set(every.captions[:3]) == {"a", "c", "d"}
        assert every.targets.tolist() == [[1, 0]] * 3 + [[0, 1], [1, 1]]
    assert chosen == {"a", "c", "d"}
    (note,) = read("all").notes
    assert note.endswith("1 empty caption is left out beside others of the same picture")
    assert not read("one").notes


def test_captions_of_one_picture_stay_in_one_split(tmp_path):
    rows = "".join(f"{n % 40}.png,{'cat' if n % 40 % 3 else 'dog'},{n}\n" for n in range(120))
    every = any_csv(tmp_path, COLUMNS + rows, several_captions="all", caption_seed=5)
    one = any_csv(tmp_path, COLUMNS + rows, several_captions="one", caption_seed=5)
    splits = split_rows(every.targets, ids=every.ids, cache_dir=tmp_path)
    pictures = {name: {every.ids[row] for row in rows} for name, rows in splits.items()}
    assert sum(map(len, pictures.values())) == len(set.union(*pictures.values())) == 40
    assert len(splits["train"]) == 3 * len(pictures["train"])
    for row in [*splits["val"], *splits["test"]]:
        assert every.captions[row] == one.captions[one.ids.index(every.ids[row])]


def test_captions_of_a_picture_with_other_labels(tmp_path):
    text = COLUMNS + "1.png,cat,a\n2.png,cat,b\n1.png,cat dog,c\n"
    with pytest.raises(UserError, match=r"rows 1 and 3 are of one picture \(1.png\), but have"):
        any_csv(tmp_path, text, several_captions="one")


def test_a_list_of_captions_in_json_lines(tmp_path):
    text = json_lines(
        {"path": "1.png", "tags": ["cat"], "text": ["a", "b"]},
        {"path": "2.png", "tags": ["cat"], "text": []},
    )
    with pytest.raises(UserError, match="1 row has several captions: 1.png"):
        any_csv(tmp_path, text, file="set.jsonl")
    every = any_csv(tmp_path, text, file="set.jsonl", several_captions="all")
    assert every.ids == ["1.png", "1.png", "2.png"]
    assert sorted(every.captions) == ["", "a", "b"]


def test_of_a_list_of_captions_prediction_reads_the_one_of_evaluation(tmp_path):
    rows = [{"path": f"{n}.png", "tags": ["cat"], "text": ["", "a", "b", "c"]} for n in range(20)]
    text = json_lines(*rows, {"path": "20.png", "tags": ["cat"], "text": "alone"})
    columns = Columns(["path"], ["text"], need_picture=True, need_caption=True)
    chosen = set()
    for seed in range(3):
        trained = any_csv(
            tmp_path, text, file="set.jsonl", several_captions="one", caption_seed=seed
        )
        found = open_rows(tmp_path / "set.jsonl", columns=columns, caption_seed=seed)
        assert [row.caption for row in found.rows] == trained.captions
        after = [row.caption for row in found.after(12).rows]
        assert after == trained.captions[12:]
        (said,) = found.notes
        assert "20 rows have several captions, of which one is read" in said
        chosen.add(tuple(after))
    assert len(chosen) == 3
    file = tmp_path / "bad.jsonl"
    file.write_text(json_lines({"path": "1.png", "text": ["a", ["b"]]}))
    with pytest.raises(UserError, match="row 1: a cell is neither text nor a number"):
        open_rows(file, columns=columns)


@pytest.mark.parametrize("encoding", [None, "utf-16"])
def test_a_carriage_return_alone_ends_no_line_of_json(encoding: str | None, tmp_path):
    """It is white space between values, for training and prediction alike."""
    text = json_lines({"path": "1.png", "tags": ["cat"], "text": "é"}) + "\r\n"
    text += '{"path": "2.png",\r"tags": ["dog"],\r"text": "b"}\n'
    content = text.encode(encoding or "utf-8")
    trained = any_csv(tmp_path, content, file="set.jsonl", encoding=encoding)
    columns = Columns(["path"], ["text"], need_picture=True, need_caption=True)
    found = open_rows(tmp_path / "set.jsonl", columns=columns, encoding=encoding)
    assert [row.caption for row in found.rows] == trained.captions == ["é", "b"]


def test_a_model_that_does_not_look_needs_no_captions_and_no_pictures(tmp_path):
    text = "path,tags\n1.png,cat\n2.png,dog\n"
    for column in ("text", None):
        with pytest.raises(
            UserError, match="no column text|data.caption_column=null, but .*=image_only"
        ):
            any_csv(tmp_path, text, caption_column=column)
        annotations = any_csv(tmp_path, text, caption_column=column, require_captions=False)
        assert annotations.captions == ["", ""] and annotations.notes == ()
    with pytest.raises(UserError, match='no column picture .* did you mean "pictures"'):
        any_csv(tmp_path, "pictures,tags,text\n1.png,cat,a\n", picture_column="picture")
    text = "text,tags\na,cat\nb,dog\n"
    for column in ("path", None):
        with pytest.raises(
            UserError, match="no column path|data.picture_column=null, but .*=caption_only"
        ):
            any_csv(tmp_path, text, picture_column=column, require_pictures=True)
        annotations = any_csv(tmp_path, text, picture_column=column)
        assert annotations.ids == ["1", "2"] and annotations.captions == ["a", "b"]
        assert "rows are named by number" in annotations.notes[0]


@pytest.mark.parametrize(
    "options",
    [
        {"caption_column": "tags"},
        {"caption_column": "dog", "label_columns": ["cat", "dog"]},
        {"caption_column": "dog", "label_columns": ["d*"], "label_column": None},
    ],
)
def test_captions_that_are_the_labels_are_refused(options: dict, tmp_path):
    """They would be learned by heart, on an option that is a slip."""
    text = "path,tags,text,cat,dog\n1.png,a b,x,1,0\n2.png,b,y,0,1\n"
    with pytest.raises(UserError, match="the column (tags|dog) is given for captions and for lab"):
        any_csv(tmp_path, text, **options)
    assert any_csv(tmp_path, text, require_captions=False, **options).ids == ["1.png", "2.png"]
    assert any_csv(tmp_path, text, label_columns=["cat"]).captions == ["x", "y"]


def test_empty_captions_are_counted(tmp_path):
    annotations = any_csv(tmp_path, COLUMNS + "1.png,cat,\n2.png,cat,nan\n3.png,cat,a\n")
    assert [note.partition(": ")[2] for note in annotations.notes] == [
        "1 of 3 captions are empty",
        "1 caption is nothing but nan",
    ]
