"""The report's data set: every record of a file that is no valid CSV, and mistakes in it."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from mmlabel.data.annotations import ABSENT, REPORT_LABELS, Annotations
from mmlabel.data.sources.report_csv import read_unlabelled, read_usyd
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
    folder = shared / "data/usyd"
    annotations = read_unlabelled(folder / "test.csv", pictures=folder / "data")
    assert len(annotations) == 198
    assert annotations.captions[annotations.ids.index("30690.jpg")] == (
        'A stop sign with a sticker reading "eating animals."'
    )
    assert annotations.pictures[0] == folder / "data" / annotations.ids[0]


def saved(folder: Path, text: str | bytes, *, file: str = "train.csv") -> Path:
    (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


# ---- Valid CSV ------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", ["1.JPG 2.jpeg 3.Png", "a/1.jpg b/c/2.jpg 3", "cat.jpg dog 4.webp"])
def test_valid_csv_may_have_any_ids(ids, tmp_path):
    rows = [(image_id, [1, 8], f'a "{n}", b\n') for n, image_id in enumerate(ids.split())]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        saved(tmp_path, saved_again(rows, quoting=quoting))
        assert as_rows(read_usyd(tmp_path, require_pictures=False)) == rows


def test_what_is_quoted_in_valid_csv_is_a_caption(tmp_path):
    """Lines that look like records are none inside quotation marks that are doubled."""
    rows = [
        ("1.jpg", [1], 'a\n2.jpg,1,"b" x\n3.jpg,8,c'),
        ("4.jpg", [3], "\n5.jpg,1,"),
        ("6.jpg", [1], ""),
    ]
    saved(tmp_path, saved_again(rows))
    assert as_rows(read_usyd(tmp_path, require_pictures=False)) == rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_line_ends_and_delimiters(end, delimiter, tmp_path):
    text = end.join(["ImageID,Labels,Caption", "1.jpg,1 3,a", "2.jpg,,b", " 3.jpg ,8,c"])
    saved(tmp_path, text.replace(",", delimiter))
    assert as_rows(read_usyd(tmp_path, require_pictures=False)) == [
        ("1.jpg", [1, 3], "a"),
        ("2.jpg", [], "b"),
        ("3.jpg", [8], "c"),
    ]


def test_raw_files_with_old_line_ends(tmp_path):
    saved(tmp_path, raw().replace("\n", "\r"))
    assert as_rows(read_usyd(tmp_path, require_pictures=False)) == TRAPS


def test_labels_with_commas_are_refused_not_cut(tmp_path):
    saved(tmp_path, 'ImageID,Labels,Caption\n1.jpg,"1,3","a man by a car"\n')
    with pytest.raises(UserError, match='label "1,3" is not a number: .* with spaces between'):
        read_usyd(tmp_path, require_pictures=False)
    saved(tmp_path, 'ImageID,Labels,Caption\n2.jpg,1,"a "b""\n1.jpg,"1,3","a man by a car"\n')
    with pytest.raises(UserError, match="line 3 has no id and labels that can be told apart"):
        read_usyd(tmp_path, require_pictures=False)


def test_other_encodings(tmp_path):
    expected = as_rows(read_usyd(saved(tmp_path, raw()), require_pictures=False))
    saved(tmp_path, raw().encode("cp1252"))
    with pytest.raises(UserError, match="is not text in UTF-8"):
        read_usyd(tmp_path, require_pictures=False)
    given = read_usyd(tmp_path, require_pictures=False, encoding="cp1252")
    assert as_rows(given) == expected and not [n for n in given.notes if "cp1252" in n]
    found_out = read_usyd(tmp_path, require_pictures=False, encoding=None)
    assert as_rows(found_out) == expected and "is read as cp1252" in found_out.notes[0]


def test_a_model_that_does_not_look_needs_no_captions_and_no_pictures(tmp_path):
    saved(tmp_path, "ImageID,Labels\n1.jpg,1 3\n2.png,8\n")
    with pytest.raises(UserError, match="no column Caption"):
        read_usyd(tmp_path, require_pictures=False)
    annotations = read_usyd(tmp_path, require_pictures=False, require_captions=False)
    assert as_rows(annotations) == [("1.jpg", [1, 3], ""), ("2.png", [8], "")]
    assert annotations.notes == ()
    saved(tmp_path, "ImageID\n1.jpg\n2.jpg\n")
    with pytest.raises(UserError, match="no column Caption"):
        read_unlabelled(tmp_path / "train.csv", pictures=tmp_path)


def test_empty_captions_are_counted(tmp_path):
    def notes(*captions: str) -> tuple[str, ...]:
        saved(tmp_path, raw([(f"{n}.jpg", [1], c) for n, c in enumerate(captions)]))
        return read_usyd(tmp_path, require_pictures=False).notes

    assert notes("a", "b") == ()
    assert notes("", "b", " ")[0].endswith("2 of 3 captions are empty")
    assert notes("", "")[0].endswith("all 2 captions are empty")
    assert notes("a", "nan", "None")[0].endswith("2 captions are nothing but nan or none")


# ---- Raw rows that are not recognised -------------------------------------------------------

HEADER = "ImageID,Labels,Caption\n"
FIRST = '5.jpg,1,"A sign reading "for rent"."\n'  # no valid CSV


@pytest.mark.parametrize(
    "row",
    [
        ' 2.jpg,1 3,"a man"',
        '2,1 3,"a man"',
        '2.JPG,1 3,"a man"',
        '2.jpeg,1 3,"a man"',
        '2.jpgg,1 3,"a man"',
        'a/2.jpg,1 3,"a man"',
        'COCO_2,1 3,"a man"',
        'my picture,1 3,"a man"',
        '"2 .jpg",1 3,"a man"',
        '2.jpg1 3,"a man"',
        '2.jpg;1 3;"a man"',
        '2.jpg\t1 3\t"a man"',
        '2.jpg,1 3"a man"',
        '2.jpg,1 3,"a man',
        '2.jpg,1 3,a man"',
        "2.jpg,1 3,a man, a car",
        '2.jpg,1 3,"a man","a car"',
        '2.jpg,1 3,"a man",a car',
        '2.jpg,1 3,"a man"\nand a car',
        '2.jpg,"1,3","a man"',
        '2.jpg,"1 3,"a man"',
        '2.jpg,1 "3","a man"',
        "2.jpg,1 3",
        "2.jpg",
        '1 3,2.jpg,"a man"',
        '"a man",1 3,2.jpg',
        '\u200b2.jpg,1 3,"a man"',
        '2.jpg,1 3,"a man"4.jpg,1,"a car"',
        '2.jpg,1 3,"a man"\r4.jpg,1,"a car"',
        '2,,"a man"',
        "2,1 3,a man",
        ',1 3,"a man"',
    ],
)
def test_no_row_becomes_part_of_the_caption_above_it(row, tmp_path):
    for after in ("", '7.jpg,1,"b"\n'):
        saved(tmp_path, f"{HEADER}{FIRST}{row}\n{after}")
        with pytest.raises(UserError, match=r"train.csv: line 3 (could|has|does)"):
            read_usyd(tmp_path, require_pictures=False)


@pytest.mark.parametrize(
    "row",
    [' 2.jpg,"a man"', '2,"a man"', "2,a man", '2.JPG,"a man"', 'a/2.jpg,"a man"', '2.jpg"a"'],
)
def test_no_unlabelled_row_becomes_part_of_the_caption_above_it(row, tmp_path):
    file = tmp_path / "test.csv"
    file.write_text(f'ImageID,Caption\n5.jpg,"A sign "for rent"."\n{row}\n7.jpg,"b"\n')
    with pytest.raises(UserError, match=r"test.csv: line 3 (could|has)"):
        read_unlabelled(file, pictures=tmp_path)


def test_a_saved_row_whose_caption_holds_a_record_is_not_cut_in_two(tmp_path):
    for caption, alone, beside in (
        ('a "b" c\n3.jpg,1,"x"', None, "line 2 has a caption whose closing"),
        ('a "b"\n3.jpg,1,"x"', "row 1 .*two ways", "line [23] has a caption with both doubled"),
    ):
        rows = [("1.jpg", [1], caption), ("4.jpg", [1], "c")]
        saved(tmp_path, saved_again(rows))
        if alone is None:
            assert as_rows(read_usyd(tmp_path, require_pictures=False)) == rows
        else:
            with pytest.raises(UserError, match=alone):
                read_usyd(tmp_path, require_pictures=False)
        saved(tmp_path, saved_again(rows) + FIRST)  # which is no valid CSV
        with pytest.raises(UserError, match=beside):
            read_usyd(tmp_path, require_pictures=False)


def test_one_slip_of_the_pen_is_left_as_it_is(tmp_path):
    rows = [("1.jpg", [1], 'a sign "Stop"" here'), ("4.jpg", [1], 'a "b" c')]
    saved(tmp_path, raw(rows))
    assert as_rows(read_usyd(tmp_path, require_pictures=False)) == rows


# ---- The report's form, with mistakes -------------------------------------------------------


def test_a_file_without_labels(tmp_path):
    folder = usyd(tmp_path, raw(labels=False), file="test.csv")
    annotations = read_unlabelled(folder / "test.csv", pictures=folder)
    assert annotations.captions == [caption for _, _, caption in TRAPS]
    usyd(tmp_path, raw())
    labelled = read_unlabelled(folder / "train.csv", pictures=folder)
    assert labelled.captions == annotations.captions
    with pytest.raises(UserError, match="no column Labels; its columns: ImageID, Caption"):
        read_usyd(folder, file="test.csv")


def test_an_empty_label_list_is_no_label(tmp_path):
    rows = [("1.jpg", [], "Nothing here."), ("2.jpg", [3], "A car.")]
    assert as_rows(read_usyd(usyd(tmp_path, raw(rows), rows))) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column ImageID or .*; its columns: none, the file is empty"),
        (HEADER, "train.csv has no rows"),
        (HEADER + "\n\n", "train.csv has no rows"),
        (
            "ImageID,Caption\n2.jpg,a\n",
            r"no column Labels; .* \(data=csv reads a table with columns of other names\)",
        ),
        ('2.jpg,1,"a"\n', "no column ImageID or .*; its columns: 2.jpg, 1, a"),
        (HEADER + '2.jpg,1,"a"\n4.jpg,1 x,"b"\n', r'row 2 \(4.jpg\): label "x" is not a number'),
        (HEADER + '2.jpg,"a caption"\n', "line 2 has no id .*row 1 has 2 fields, but"),
        (HEADER + '2.jpg,1 1.5,"a"\n', r'row 1 \(2.jpg\): label "1.5" is not a number'),
        (HEADER + '2.jpg,1,"a\nb"\n4.jpg,20,"b"\n', r"row 2 \(4.jpg\): label 20 is out of range"),
        (HEADER + '2.jpg,12,"a"\n', r"label 12 is out of range: .* 1 to 19 without 12"),
        (HEADER + '2.jpg,0,"a"\n', "label 0 is out of range"),
        (HEADER + '2.jpg,-1,"a"\n', "label -1 is out of range"),
        (HEADER + '2.jpg,1,"a"\n4.jpg,1,"b"\n2.jpg,3,"c"\n', r"twice: 2.jpg \(rows 1 and 3\)"),
        ('ImageID,Labels,"Caption\n2.jpg,1,""a"\n4.jpg,1,b\n', "no column ImageID"),
        (HEADER + 'a.jpg,1,"a "b" c"\n', 'line 2 does not start with an id .*: a.jpg,1,"a'),
        (HEADER + '2.jpg,1,"a "b" c"\nx.png,1,"b"\n', "line 3 could be a row of its own"),
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
        read_unlabelled(tmp_path / "test.csv", pictures=tmp_path)
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


def test_an_id_of_another_kind_than_the_others(tmp_path):
    """One lost mark makes valid CSV of raw rows, with a row more."""
    saved(tmp_path, 'ImageID,Caption\n1.jpg,"a"\n7.jpg," "\nstop," he said"\n')
    with pytest.raises(UserError, match="row 3 has the image id 'stop', but others are like 2"):
        read_unlabelled(tmp_path / "train.csv", pictures=tmp_path)


def test_a_file_that_can_be_read_in_two_ways(tmp_path):
    """Raw, these are two rows with lone marks; as CSV it is one row with a row in its caption."""
    saved(tmp_path, HEADER + '1.jpg,1,"""\n2.jpg,3,""a"\n')
    with pytest.raises(UserError, match=r"row 1 \(1.jpg\) can be read in two ways"):
        read_usyd(tmp_path, require_pictures=False)
