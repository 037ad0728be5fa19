"""What a data set holds: counted by hand, and by pandas on the rows of a table."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmlabel.cli import load_settings
from mmlabel.data.__main__ import look_at, main
from mmlabel.data.gensim_data import NotToBeHad
from mmlabel.data.overview import Captions
from mmlabel.parts import prepare
from mmlabel.report.data_page import write_data_page

COMMON = ["captions.lemmas=none", "embedding=learned"]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def faulty(made: Path, tmp_path: Path) -> Path:
    """The made data, with copies, a leak and three pictures that cannot be read."""
    folder = tmp_path / "faulty"
    shutil.copytree(made, folder)
    data = folder / "data"
    with Image.open(data / "10.jpg") as picture:
        picture.save(data / "11.jpg", "BMP")  # other bytes, the same pixels
    shutil.copy(data / "20.jpg", data / "60.jpg")
    (data / "30.jpg").write_bytes(b"no picture")
    (data / "31.jpg").write_bytes((data / "31.jpg").read_bytes()[:200])
    (data / "32.jpg").unlink()
    Image.new("RGB", (31, 50)).save(data / "33.jpg", "PNG")
    with open(folder / "splits.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageID", "split"])
        for n in range(72):
            split = "train" if n < 50 else "val" if n < 58 else "test"
            writer.writerow([f"data/{n}.jpg", split])
    return folder


def options_for(folder: Path, cache: Path) -> list[str]:
    return [
        "data=csv",
        f"data.file={folder}/rows.csv",
        f"data.splits={folder}/splits.csv",
        'data.label_names=["",person,"",car,"","","","","","","","","","","","","",cat]',
        f"cache_dir={cache}",
        *COMMON,
    ]


def test_counts_are_those_of_the_table(faulty: Path, cache: Path):
    found = look_at(load_settings(options_for(faulty, cache)))
    table = pd.read_csv(faulty / "rows.csv", dtype=str)
    lists = table["labels"].str.split()
    numbers = {1: "person", 3: "car", 17: "cat"}
    has = pd.DataFrame({n: lists.map(lambda own, n=str(n): n in own) for n in numbers})
    assert found.rows == {"train": 50, "val": 8, "test": 14} and found.total == 72
    labels = found.labels
    assert labels.numbers == list(numbers) and labels.names == list(numbers.values())
    assert labels.counts["train"].tolist() == has[:50].sum().tolist()
    assert labels.counts["test"].tolist() == has[58:].sum().tolist()
    for i, one in enumerate(numbers):
        for j, other in enumerate(numbers):
            assert labels.together[i, j] == (has[one] & has[other]).sum()
    assert labels.per_row.tolist() == has.sum(axis=1).tolist()
    captions = found.captions
    assert captions is not None
    assert captions.lengths.tolist() == table["caption"].str.split().map(len).tolist()
    assert captions.repeated == table["caption"].duplicated(keep=False).sum()
    words = {word for caption in table["caption"][:50] for word in caption.split()}
    assert captions.words == len(words) and captions.without_vector is None


def test_pictures_that_are_there_twice_and_unreadable_ones(faulty: Path, cache: Path):
    found = look_at(load_settings(options_for(faulty, cache)))
    pictures = found.pictures
    assert pictures is not None and pictures.count == 72
    assert pictures.sizes == [((44, 36), 68), ((31, 50), 1)]
    groups = [[copy.id for copy in group] for group in pictures.copies]
    assert sorted(groups) == [["data/10.jpg", "data/11.jpg"], ["data/20.jpg", "data/60.jpg"]]
    (leak,) = pictures.leaks
    assert [(copy.id, copy.split) for copy in leak] == [
        ("data/20.jpg", "train"),
        ("data/60.jpg", "test"),
    ]
    with open(faulty / "rows.csv", newline="") as file:
        given = {row["picture"]: row["labels"] for row in csv.DictReader(file)}
    differ = [group for group in groups if given[group[0]] != given[group[1]]]
    assert [[copy.id for copy in group] for group in pictures.contradictions] == differ
    bad = dict(pictures.unreadable)
    assert set(bad) == {f"data/{n}.jpg" for n in (30, 31, 32)}
    assert bad["data/30.jpg"] == "not an image file" and "No such file" in bad["data/32.jpg"]


def test_a_label_that_is_not_known_contradicts_none(cache: Path, tmp_path: Path):
    same, other = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    for name, picture in {"a": same, "b": same, "c": other, "d": other}.items():
        picture.save(tmp_path / f"{name}.png")
    cells = ["a.png,1,0", "b.png,,0", "c.png,1,0", "d.png,-1,1"]
    (tmp_path / "rows.csv").write_text("picture,x,y\n" + "\n".join(cells) + "\n")
    options = ["data=csv", f"data.file={tmp_path}/rows.csv", "data.label_columns=[x,y]"]
    found = look_at(load_settings([*options, "model=image_only", f"cache_dir={cache}"]))
    assert found.pictures is not None and len(found.pictures.copies) == 2
    groups = [[copy.id for copy in group] for group in found.pictures.contradictions]
    assert groups == [["c.png", "d.png"]], "y alone is known of both"


def test_a_picture_has_its_labels_once_however_many_captions_it_has(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lines = [f"{n}.png,{'x y' if n == 0 else 'x'},caption {c}" for n in range(6) for c in range(3)]
    (tmp_path / "rows.csv").write_text("picture,labels,caption\n" + "\n".join(lines) + "\n")
    splits = "".join(
        f"{n}.png,{'train' if n < 3 else 'val' if n < 5 else 'test'}\n" for n in range(6)
    )
    (tmp_path / "splits.csv").write_text("ImageID,split\n" + splits)
    options = ["data=csv", f"data.file={tmp_path}/rows.csv", f"data.splits={tmp_path}/splits.csv"]
    options += ["model=caption_only", "data.several_captions=all", f"cache_dir={cache}", *COMMON]
    labels = look_at(load_settings(options)).labels
    assert {split: counts.tolist() for split, counts in labels.counts.items()} == {
        "train": [3, 1], "val": [2, 0], "test": [1, 0],
    }  # fmt: skip
    assert labels.together.diagonal().tolist() == [6, 1] and len(labels.per_row) == 6
    assert run(*options) == 0
    said = capsys.readouterr().out
    assert "rows: 18 (train 9, val 2, test 1)" in said
    assert "the 18 rows are captions of 6 pictures" in said
    assert "1 of the labels occurs once: y (in 0.png)" in said


def test_a_picture_that_is_there_many_times_is_a_line(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for n in range(40):
        Image.new("RGB", (20, 20), "red").save(tmp_path / f"{n}.png")
    cells = [f"{n}.png,1,{'' if n % 2 else 0}" for n in range(40)]
    (tmp_path / "rows.csv").write_text("picture,x,y\n" + "\n".join(cells) + "\n")
    splits = ["train"] * 30 + ["val"] * 5 + ["test"] * 5
    named = "".join(f"{n}.png,{split}\n" for n, split in enumerate(splits))
    (tmp_path / "splits.csv").write_text("ImageID,split\n" + named)
    options = ["data=csv", f"data.file={tmp_path}/rows.csv", f"data.splits={tmp_path}/splits.csv"]
    options += ["data.label_columns=[x,y]", "model=image_only", f"cache_dir={cache}"]
    assert run(*options) == 0
    said = capsys.readouterr().out
    assert "1 group: 0.png (train) = 30.png (val) = 35.png (test) and 37 more" in said
    assert "known labels a row: 1.00 on average" in said, "of y some are not known"


@pytest.mark.parametrize("missing", [True, False])
def test_vectors_that_could_not_be_had_were_asked_for(
    missing: bool, faulty: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def none_there(name: str) -> Path:
        raise NotToBeHad(f"{name} is not to be had")

    monkeypatch.setattr("mmlabel.data.embeddings.gensim_file", none_there)
    options = options_for(faulty, cache)
    options = [*options[:-1], "embedding=glove"] if missing else options
    found = look_at(load_settings(options))
    page = write_data_page(tmp_path / "data.html", found, command=["python"]).read_text()
    assert ("the ready-made vectors could not be had" in page) == missing
    assert ("no ready-made vectors are asked for" in page) == (not missing)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (("train", "test"), "scores on the test rows are partly those of training rows."),
        (("train", "val"), "scores on the validation rows are partly those of training rows."),
        (("val", "test"), "scores on the test rows are partly those of validation rows."),
        (("train", ""), ""),
        (("train", "train"), ""),
    ],
)
def test_a_leak_is_between_splits_and_its_harm_is_said(
    splits: tuple[str, str], said: str, faulty: Path, cache: Path, tmp_path: Path
):
    """A copy that data.splits leaves out leaks nowhere, and one for validation spoils no test."""
    given = dict(zip(("data/20.jpg", "data/60.jpg"), splits, strict=True))
    with open(faulty / "splits.csv", newline="") as file:
        lines = {id: given.get(id, split) for id, split in list(csv.reader(file))[1:]}
    with open(faulty / "splits.csv", "w", newline="") as file:
        csv.writer(file).writerows([("ImageID", "split"), *((i, s) for i, s in lines.items() if s)])
    found = look_at(load_settings(options_for(faulty, cache)))
    assert found.pictures is not None and len(found.pictures.copies) == 2
    assert len(found.pictures.leaks) == bool(said)
    page = write_data_page(tmp_path / "data.html", found, command=["python"]).read_text()
    if said:
        assert f"1 picture stands in several splits: {said}" in page
    else:
        assert "partly those" not in page
    assert found.notes == ([] if all(splits) else ["data.splits leaves out 1 of 72 rows"])


def test_words_without_a_vector(made: Path, cache: Path, tmp_path: Path):
    with open(made / "rows.csv", newline="") as file:
        text = [word for row in csv.DictReader(file) for word in row["caption"].split()]
    known = sorted(set(text) - {"grass", "sofa"})
    (tmp_path / "vectors.txt").write_text("".join(f"{word} 0.1 0.2\n" for word in known))
    options = ["data=csv", f"data.file={made}/rows.csv", f"cache_dir={cache}", "data.image_size=32"]
    options += ["data.fractions=[0.98,0.01,0.01]", "captions.lemmas=none"]
    options += ["embedding=file", f"embedding.file={tmp_path}/vectors.txt"]
    captions = look_at(load_settings(options)).captions
    assert captions is not None and captions.without_vector is not None
    assert {word for word, _ in captions.without_vector} == {"grass", "sofa"}
    lacking = sum(word in ("grass", "sofa") for word in text) / len(text)
    assert captions.share_without == pytest.approx(lacking, abs=0.03)  # of 70 of the 72 rows
    assert captions.source == "vectors.txt"


def test_words_that_are_too_rare_for_the_network_are_words_of_the_text(
    made: Path, cache: Path, tmp_path: Path, capsys
):
    """The share of the text that has a vector is then the one in a run's record."""
    with open(made / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["caption"] += " once upon"
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    text = [word for row in rows for word in row["caption"].split()]
    times = Counter(text)
    assert times["grass"] > 2 and times["once"] == times["upon"] == 1
    rare = [word for word, n in times.items() if n < 2]
    known = set(text) - {"grass"}
    (tmp_path / "vectors.txt").write_text("".join(f"{word} 0.1 0.2\n" for word in sorted(known)))
    with open(tmp_path / "splits.csv", "w", newline="") as file:
        # The last two rows have captions of words that all occur before.
        splits = ["train"] * (len(rows) - 2) + ["val", "test"]
        ids = [row["picture"] for row in rows]
        csv.writer(file).writerows([("ImageID", "split"), *zip(ids, splits, strict=True)])
    training = [word for row in rows[:-2] for word in row["caption"].split()]
    options = ["data=csv", f"data.file={tmp_path}/rows.csv", f"cache_dir={cache}"]
    options += [f"data.splits={tmp_path}/splits.csv", "model=caption_only", "captions.min_count=2"]
    options += ["captions.lemmas=none", "embedding=file"]
    options += [f"embedding.file={tmp_path}/vectors.txt"]
    assert run(*options, "--out", tmp_path / "data.html") == 0
    lacking = sum(word in ("grass", *rare) for word in training) / len(training)
    said = f"{len(set(training))} in the training captions, {len(rare)} of them rarer than"
    assert said in (printed := capsys.readouterr().out)
    share = f"1 of the others ({lacking:.1%} of the text with the rarer) without a vector"
    assert share in printed
    page = (tmp_path / "data.html").read_text()
    assert f">{len(set(training))}</td>" in page
    assert "Of these rarer than captions.min_count" in page and "Of the others without" in page
    captions = look_at(load_settings(options)).captions
    prepared = prepare(load_settings(options), None)
    assert captions is not None and prepared.coverage is not None
    assert captions.share_without == pytest.approx(1 - prepared.coverage[1])


def test_so_many_captions_have_at_most_the_words_that_are_said():
    lengths = np.array([5] * 9 + [100])
    captions = Captions(lengths=lengths, repeated=0, words=1)
    assert captions.usual == (5, 100), "90 % have up to 57, which lies at 95 % of the way"
    for lengths in (np.arange(1, 21), np.array([3]), np.array([2, 4])):
        middle, most = Captions(lengths=lengths, repeated=0, words=1).usual
        assert {middle, most} <= set(lengths.tolist())
        assert (lengths <= middle).mean() >= 0.5 and (lengths <= most).mean() >= 0.95
        assert (lengths < most).mean() < 0.95


def test_the_terminal_and_the_page_say_what_is_wrong(faulty: Path, cache: Path, tmp_path, capsys):
    page = tmp_path / "made" / "data.html"
    assert run(*options_for(faulty, cache), "--out", page) == 1
    printed, said = capsys.readouterr()
    absent = "1 of 72 rows have no picture file"
    assert f"mmlabel: {faulty}/rows.csv: {absent}" in said and "data/32.jpg (row 33)" in said
    assert said.endswith(
        "; also: 2 pictures cannot be read, see above: replace the files, or leave their rows out"
        " with data.on_bad_image=skip\n"
    )
    assert "the same pixels as another: 4, with other labels in" in printed
    assert "LEAK" in printed and "data/20.jpg (train) = data/60.jpg (test)" in printed
    assert "UNREADABLE: 3: data/30.jpg (not an image file)" in printed
    assert "person (" in printed  # what a label is most often with
    html = page.read_text()
    assert "labels without a row in" not in printed
    for text in ("data/60.jpg (test)", "In several splits", "44 × 36", "not an image file"):
        assert text in html
    # Training leaves out what cannot be read, and refuses what is not there.
    assert run(*options_for(faulty, cache), "data.on_bad_image=skip") == 1
    said = capsys.readouterr().err
    assert absent in said and "also:" not in said
    shutil.copy(faulty / "data" / "34.jpg", faulty / "data" / "32.jpg")
    assert run(*options_for(faulty, cache), "data.on_bad_image=skip") == 0


def test_a_table_without_the_column_of_pictures_is_a_message(made: Path, cache: Path, capsys):
    options = [*options_for(made, cache), "data.picture_column=scan"]
    options = [option for option in options if not option.startswith("data.splits")]
    assert run(*options) == 1
    printed = capsys.readouterr()
    assert "has no column scan (data.picture_column=NAME says which)" in printed.err
    assert "UNREADABLE" not in printed.out
    assert run(*options, "model=caption_only") == 0  # which needs none


def test_labels_that_a_split_has_no_row_of_and_emoji_are_said(cache: Path, tmp_path: Path, capsys):
    (tmp_path / "rows.csv").write_text("labels,caption\ncat persn,a ☀️\n" + "cat person,b\n" * 5)
    splits = "".join(f"{n},{split}\n" for n, split in enumerate(["train", "val", "test"] * 2, 1))
    (tmp_path / "splits.csv").write_text("ImageID,split\n" + splits)
    options = [*options_for(tmp_path, cache), "model=caption_only"]
    page = tmp_path / "data.html"
    given = [option for option in options if not option.startswith("data.label_names")]
    assert run(*given, "--out", page) == 0
    printed, html = capsys.readouterr().out, page.read_text()
    for said in (
        "1 of the labels occurs once: persn (in 1, spelt like person)",
        "labels without a row in the test split (its f1_macro and map lack them): persn",
        "1 of 6 captions have emoji or other symbols, which are left out as punctuation is: what"
        " only they tell of a picture is not learned",
    ):
        assert f"Note: {said}\n" in printed and said in html


def test_labels_that_look_alike_or_tell_nothing_are_said(cache: Path, tmp_path: Path, capsys):
    (tmp_path / "rows.csv").write_text("labels,caption\n" + "Cat x,a\ncat x,b\ndog x,?!\n" * 4)
    options = ["data=csv", f"data.file={tmp_path}/rows.csv", f"cache_dir={cache}", *COMMON]
    assert run(*options, "model=caption_only") == 0
    printed = capsys.readouterr().out
    said = (
        "labels that differ only in capitals, spaces, signs that are not seen or how a letter is"
        " encoded: Cat, cat"
    )
    assert f"Note: {said}\n" in printed
    assert "Note: every row has x: scores of such a label say nothing\n" in printed
    # Not "empty", which a note counts as the file has them.
    assert "; 4 have no word, 12 rows have one that another row has" in printed


def test_a_model_without_captions_needs_none(made: Path, cache: Path, capsys):
    options = ["data=csv", f"data.file={made}/rows.csv", f"cache_dir={cache}", "model=image_only"]
    assert run(*options, "data.caption_column=null") == 0
    printed = capsys.readouterr().out
    assert "pictures: 72" in printed and "words" not in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["data=usyd", "data.root=nowhere"], "nowhere"),
        (["data=usyd"], "data.root"),
        (["data=cvs"], 'did you mean "csv"?'),
        (["data.row=3"], 'did you mean "data.rows"?'),
    ],
)
def test_a_mistake_is_one_message(options: list[str], said: str, cache: Path, capsys):
    assert run(*options, f"cache_dir={cache}") == 1
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
