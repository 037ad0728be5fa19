"""Splits: exact sizes, even labels, the same on every start; mistakes in a splits file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmlabel.data.options import CsvTable
from mmlabel.data.splits import SPLITS, fold_rows, note_of_left_out, read_splits, split_rows
from mmlabel.errors import UserError
from mmlabel.spreadsheet import to_cell


def random_targets(rows: int, *, seed: int = 0) -> np.ndarray:
    """Labels from very common to very rare; some rows have none."""
    shares = np.array([0.7, 0.3, 0.1, 0.05, 0.02, 0.0])
    return (np.random.default_rng(seed).random((rows, len(shares))) < shares).astype(np.uint8)


def all_rows(splits: dict[str, np.ndarray]) -> list[int]:
    return sorted(np.concatenate(list(splits.values())).tolist())


@pytest.mark.parametrize("rows", [3, 4, 5, 10, 11, 97, 1000])
@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.34, 0.33, 0.33)])
def test_splits_are_disjoint_cover_and_have_the_sizes_asked_for(rows, fractions, tmp_path):
    splits = split_rows(random_targets(rows), fractions=fractions, seed=1, cache_dir=tmp_path)
    assert tuple(splits) == SPLITS
    assert all_rows(splits) == list(range(rows))
    for name, fraction in zip(SPLITS, fractions, strict=True):
        assert (np.diff(splits[name]) > 0).all()
        assert len(splits[name]) >= 1
        assert abs(len(splits[name]) - fraction * rows) <= 2


def test_every_label_keeps_its_share(tmp_path):
    targets = random_targets(2000)
    splits = split_rows(targets, seed=0, cache_dir=tmp_path)
    totals = targets.sum(axis=0)
    for name, fraction in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        error = np.abs(targets[splits[name]].sum(axis=0) - fraction * totals)
        # A plain random split misses by 6 to 8 (one standard deviation) for the first label, by 2
        # to 5 for the others; making the sizes exact costs the first label a few rows.
        assert error[0] <= 5 and error[1:].max() <= 1, (name, error)


def test_a_label_of_three_rows_reaches_the_training_split(tmp_path):
    targets = np.zeros((30, 4), dtype=np.uint8)
    targets[:, 1] = 1
    targets[:3, 2] = 1
    splits = split_rows(targets, seed=0, cache_dir=tmp_path)
    assert targets[splits["train"], 2].any()


@pytest.mark.parametrize("targets", [np.zeros((12, 3)), np.ones((12, 3)), np.ones((12, 1))])
def test_labels_without_any_choice(targets, tmp_path):
    splits = split_rows(targets, fractions=(0.5, 0.25, 0.25), cache_dir=tmp_path)
    assert [len(rows) for rows in splits.values()] == [6, 3, 3]


def test_seed_and_data_decide_the_split(tmp_path):
    targets = random_targets(200)

    def train(seed, data=targets, folder="a"):
        return split_rows(data, seed=seed, cache_dir=tmp_path / folder)["train"].tolist()

    assert train(0) == train(0) == train(0, folder="b")
    assert train(0) != train(1)
    changed = targets.copy()
    changed[0] = 1 - changed[0]
    train(0, changed)
    assert len(list((tmp_path / "a" / "splits").glob("*.entry"))) == 3


def test_the_second_start_does_not_load_scikit_learn(tmp_path):
    targets = random_targets(60)
    first = split_rows(targets, seed=3, cache_dir=tmp_path)
    np.save(tmp_path / "targets.npy", targets)
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from mmlabel.data.splits import split_rows\n"
        "folder = Path(sys.argv[1]); targets = np.load(folder / 'targets.npy')\n"
        "print(split_rows(targets, seed=3, cache_dir=folder)['val'].tolist())\n"
        "assert 'sklearn' not in sys.modules and 'iterstrat' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(first["val"].tolist())


def test_too_few_rows(tmp_path):
    with pytest.raises(UserError, match=r"2 labelled rows? cannot be split"):
        split_rows(random_targets(2), cache_dir=tmp_path)


# ---- Folds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "folds"), [(12, 3), (97, 5), (1000, 10)])
def test_every_row_is_tested_in_exactly_one_fold(rows, folds, tmp_path):
    targets = random_targets(rows)
    tested = []
    for fold in range(folds):
        splits = fold_rows(targets, folds=folds, fold=fold, seed=1, cache_dir=tmp_path)
        assert tuple(splits) == SPLITS
        assert all_rows(splits) == list(range(rows))
        assert all((np.diff(numbers) > 0).all() and len(numbers) for numbers in splits.values())
        tested += splits["test"].tolist()
    assert sorted(tested) == list(range(rows))


def test_every_label_keeps_its_share_in_every_fold(tmp_path):
    targets = random_targets(2000)
    totals = targets.sum(axis=0)
    for fold in range(5):
        splits = fold_rows(targets, folds=5, fold=fold, val_fraction=0.125, cache_dir=tmp_path)
        for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            error = np.abs(targets[splits[name]].sum(axis=0) - share * totals)
            # A plain random fold misses by 10 (one standard deviation) for the first labels.
            assert error[0] <= 6 and error[1:].max() <= 2, (fold, name, error)
        assert len(splits["val"]) == round(0.125 * (2000 - len(splits["test"])))


def test_seed_data_and_fold_decide_the_fold(tmp_path):
    targets = random_targets(200)

    def drawn(fold=0, seed=0, folder="a", data=targets):
        splits = fold_rows(data, folds=4, fold=fold, seed=seed, cache_dir=tmp_path / folder)
        return splits["test"].tolist(), splits["val"].tolist()

    assert drawn() == drawn() == drawn(folder="b")
    assert drawn() != drawn(seed=1)
    assert drawn()[0] != drawn(fold=1)[0]
    # The folds are drawn once and kept, the validation splits one by one.
    assert len(list((tmp_path / "b" / "splits").glob("*.entry"))) == 2


def test_the_folds_are_those_of_the_splitter(tmp_path):
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    targets = random_targets(300)
    targets[:, -1] = ~targets[:, :-1].any(axis=1)  # every row has a label: nothing is added
    splitter = MultilabelStratifiedKFold(n_splits=3, shuffle=True, random_state=7)
    columns = np.column_stack([targets, np.zeros(300, dtype=int)])
    for fold, (_, expected) in enumerate(splitter.split(columns, columns)):
        splits = fold_rows(targets, folds=3, fold=fold, seed=7, cache_dir=tmp_path)
        assert splits["test"].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("rows", "folds", "message"),
    [(4, 5, "4 labelled rows cannot be split into 5 folds"), (3, 2, "at least 4 are needed")],
)
def test_folds_that_cannot_be(rows, folds, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fold_rows(random_targets(rows), folds=folds, fold=0, cache_dir=tmp_path)


def test_a_fold_is_never_empty(tmp_path):
    for seed in range(30):
        try:
            splits = fold_rows(random_targets(5), folds=4, fold=0, seed=seed, cache_dir=tmp_path)
        except UserError as error:
            assert "too few for so many folds" in str(error)
        else:
            assert all(len(rows) for rows in splits.values())


# ---- Pictures with several rows -------------------------------------------------------------


def test_rows_of_a_picture_stay_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.permutation(np.repeat(np.arange(60), 3))
    ids = [f"{picture}.jpg" for picture in pictures]
    targets = random_targets(60)[pictures]
    (tmp_path / "splits.csv").write_text(
        "ImageID,split\n" + "".join(f"{n}.jpg,{SPLITS[n % 3]}\n" for n in range(60))
    )
    for splits in (
        split_rows(targets, ids=ids, cache_dir=tmp_path),
        fold_rows(targets, ids=ids, folds=5, fold=2, cache_dir=tmp_path),
        read_splits(tmp_path / "splits.csv", ids),
    ):
        of_split = {name: {ids[row] for row in rows} for name, rows in splits.items()}
        assert sum(map(len, of_split.values())) == len(set.union(*of_split.values())) == 60
        # Training has every row of its pictures; what is scored has one row a picture, the first.
        assert len(splits["train"]) == 3 * len(of_split["train"])
        for name in ("val", "test"):
            assert splits[name].tolist() == sorted(ids.index(i) for i in of_split[name])


def test_rows_of_their_own_split_as_without_ids(tmp_path):
    targets = random_targets(100)
    plain = split_rows(targets, cache_dir=tmp_path)
    named = split_rows(targets, ids=[f"{n}.jpg" for n in range(100)], cache_dir=tmp_path)
    assert all(plain[name].tolist() == named[name].tolist() for name in SPLITS)


# ---- A splits file --------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    file = folder / "splits.csv"
    file.write_text(text, encoding="utf-8")
    return file


IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_splits_file(start, tmp_path):
    file = written(
        tmp_path, f"{start}ImageID,split\nd.jpg,train\na.jpg,train\r\nb.jpg,val\n\ne.jpg,test\n"
    )
    splits = read_splits(file, IDS)
    assert {name: rows.tolist() for name, rows in splits.items()} == {
        "train": [0, 3],
        "val": [1],
        "test": [4],
    }


def test_a_splits_file_with_other_columns_in_another_order(tmp_path):
    file = written(tmp_path, "who,split,ImageID\nme,train,a.jpg\nme,val,b.jpg\nme,test,c.jpg\n")
    assert read_splits(file, IDS)["test"].tolist() == [2]


def test_the_table_itself_can_say_the_splits(tmp_path):
    """With its own name for the column, and a row for each caption of a picture."""
    split_of = {"a.jpg": "train", "b.jpg": "val", "c.jpg": "test", "d.jpg": "train"}
    lines = [f"{id},x,{text},{split}" for id, split in split_of.items() for text in ("one", "two")]
    file = written(tmp_path, "\n".join(["scan,labels,caption,split", *lines, ""]))
    data = CsvTable(
        name="csv", file=str(file), splits=str(file), picture_column="scan", several_captions="all"
    )
    read = data.read(cache_dir=tmp_path, require_pictures=False, require_captions=True)
    rows = data.divide(read, cache_dir=tmp_path)
    assert {split: own.tolist() for split, own in rows.items()} == {
        "train": [0, 1, 6, 7], "val": [2], "test": [4],
    }  # fmt: skip
    table = tmp_path / "rows.jsonl"
    objects = [{"scan": id, "tags": [1], "split": split} for id, split in split_of.items()]
    table.write_text("".join(json.dumps(content) + "\n" for content in objects))
    lines = data.model_copy(update={"splits": str(table)})
    assert lines.divide(read, cache_dir=tmp_path)["train"].tolist() == [0, 1, 6, 7]
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_bytes(file.read_bytes())
    other = CsvTable(name="csv", file=str(file), splits=str(elsewhere), picture_column="file")
    with pytest.raises(UserError, match="has no column ImageID or file; its columns: scan, "):
        other.divide(read, cache_dir=tmp_path)


@pytest.mark.parametrize("picture_column", ["scan", None])
def test_the_table_itself_is_read_as_it_is_for_its_rows(picture_column: str | None, tmp_path):
    """In its encoding, with its delimiter, by its own ids or by the numbers of its rows."""
    lines = [f"{9 - n}:кот{n}.jpg:x:one:{split}" for n, split in enumerate(SPLITS)]
    file = tmp_path / "rows.csv"
    file.write_bytes("\n".join(["ImageID:scan:labels:caption:split", *lines]).encode("cp1251"))
    data = CsvTable(
        name="csv",
        file=str(file),
        splits=str(file),
        picture_column=picture_column,
        delimiter=":",
        encoding="cp1251",
    )
    read = data.read(cache_dir=tmp_path, require_pictures=False, require_captions=True)
    assert read.ids == (["кот0.jpg", "кот1.jpg", "кот2.jpg"] if picture_column else ["1", "2", "3"])
    beside = tmp_path / "splits.csv"  # in UTF-8, or as the table
    lines = [
        "ImageID,split",
        *(f"{id},{split}" for id, split in zip(read.ids, SPLITS, strict=True)),
    ]
    for splits, encoding in ((file, None), (beside, "utf-8"), (beside, "cp1251")):
        if encoding is not None:
            splits.write_text("\n".join(lines), encoding=encoding)
        chosen = data.model_copy(update={"splits": str(splits)})
        rows = chosen.divide(read, cache_dir=tmp_path)
        assert {split: own.tolist() for split, own in rows.items()} == {
            "train": [0], "val": [1], "test": [2],
        }  # fmt: skip


def test_a_splits_file_in_another_encoding(tmp_path):
    file = tmp_path / "splits.csv"
    text = "ImageID,split\né.jpg,train\nb.jpg,val\nc.jpg,test\n"
    for encoding in ("cp1252", "utf-16"):
        file.write_bytes(text.encode(encoding))
        assert read_splits(file, ["é.jpg", "b.jpg", "c.jpg"])["train"].tolist() == [0]


@pytest.mark.parametrize("kind", [int, float])
def test_ids_that_are_numbers_in_json_lines(kind: type, tmp_path):
    """pandas writes whole numbers as fractions where a column has empty cells."""
    file = tmp_path / "splits.jsonl"
    names = ["train", "val", "test"]
    ids = [{"ImageID": kind(number), "split": name} for number, name in enumerate(names)]
    file.write_text("".join(json.dumps(content) + "\n" for content in ids))
    found = read_splits(file, ["0", "1", "2"])
    assert [found[name].tolist() for name in names] == [[0], [1], [2]]
    file.write_text(json.dumps({"ImageID": ["0"], "split": "train"}))
    with pytest.raises(UserError, match="row 1: a cell is neither text nor a number"):
        read_splits(file, ["0", "1", "2"])


@pytest.mark.parametrize("sign", ["\t", ";"])
def test_a_splits_file_with_another_delimiter(sign: str, tmp_path):
    lines = "split,ImageID\ntrain,a.jpg\nval,b.jpg\ntest,c.jpg\n"
    assert read_splits(written(tmp_path, lines.replace(",", sign)), IDS)["test"].tolist() == [2]


def test_ids_as_predictions_csv_has_them(tmp_path):
    """With an apostrophe before what could be a formula; an id may have one of its own, too."""
    ids = ["-1.jpg", "'=b.jpg", "'tis.jpg", "d.jpg"]
    lines = "".join(f"{to_cell(i)},{s}\n" for i, s in zip(ids, ["train", *SPLITS], strict=True))
    splits = read_splits(written(tmp_path, f"ImageID,split\n{lines}"), ids)
    assert [splits[name].tolist() for name in SPLITS] == [[0, 1], [2], [3]]
    lines = "".join(f"{i},{s}\n" for i, s in zip(ids, ["train", *SPLITS], strict=True))
    splits = read_splits(written(tmp_path, f"ImageID,split\n{lines}"), ids)
    assert [splits[name].tolist() for name in SPLITS] == [[0, 1], [2], [3]]
    with pytest.raises(UserError, match=r"row 5 \('-1.jpg\): this image id is in val and in train"):
        read_splits(written(tmp_path, f"ImageID,split\n{lines}'-1.jpg,val\n"), ids)
    with pytest.raises(UserError, match=r"does not have: '-9.jpg \(row 5\)"):
        read_splits(written(tmp_path, f"ImageID,split\n{lines}'-9.jpg,train\n"), ids)


def test_rows_that_a_splits_file_does_not_name_are_counted(tmp_path):
    rows = read_splits(written(tmp_path, GOOD), [*IDS, "e.jpg"])
    assert note_of_left_out([*IDS, "e.jpg"], rows) == "data.splits leaves out 3 of 6 rows"
    captions = ["a.jpg", "b.jpg", "b.jpg", "c.jpg"]  # the second of b.jpg is of a named picture
    assert note_of_left_out(captions, read_splits(tmp_path / "splits.csv", captions)) is None


GOOD = "ImageID,split\na.jpg,train\nb.jpg,val\nc.jpg,test\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column ImageID"),
        ("ImageID,part\na.jpg,train\n", "no column split; its columns: ImageID, part"),
        (GOOD + "d.jpg,trian\n", r'row 4 \(d.jpg\): "trian" is not a split; did you mean "train"'),
        (GOOD + "d.jpg\n", "row 4 has 1 fields, but the header has 2"),
        (GOOD + "z.jpg,train\n", r"1 image id that the data does not have: z.jpg \(row 4\)"),
        (GOOD + "a.jpg,test\n", r"row 4 \(a.jpg\): this image id is in test and in train"),
        ("ImageID,split\nb.jpg,val\nc.jpg,test\n", "no row has the split train"),
        ("ImageID,split\na.jpg,train\nc.jpg,test\n", "no row has the split val"),
        ("ImageID,split\na.jpg,train\nc.jpg,val\n", "no row has the split test"),
        ("ImageID,split\n", "no row has the split train"),
    ],
)
def test_mistakes_in_a_splits_file(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_splits(written(tmp_path, text), IDS)


def test_many_unknown_ids_are_listed_up_to_ten_with_the_total(tmp_path):
    rows = "".join(f"x{number}.jpg,train\n" for number in range(25))
    with pytest.raises(UserError) as error:
        read_splits(written(tmp_path, GOOD + rows), IDS)
    assert "25 image ids" in str(error.value)
    assert "x9.jpg" in str(error.value) and "x10.jpg" not in str(error.value)


def test_no_splits_file(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.csv: No such file"):
        read_splits(tmp_path / "none.csv", IDS)


def test_of_very_many_labels_the_commonest_are_kept_even(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mmlabel.data.splits.MOST_EVEN", 3)
    shares = np.r_[0.3, 0.25, 0.2, np.full(37, 0.02)]
    targets = (np.random.default_rng(0).random((400, 40)) < shares).astype(np.uint8)
    rows = split_rows(targets, cache_dir=tmp_path)
    assert all_rows(rows) == list(range(400))
    for own, share in zip(rows.values(), (0.8, 0.1, 0.1), strict=True):
        np.testing.assert_allclose(targets[own, :3].sum(0), share * targets[:, :3].sum(0), atol=2)
    folds = [fold_rows(targets, folds=4, fold=fold, cache_dir=tmp_path) for fold in range(4)]
    assert sorted(np.concatenate([fold["test"] for fold in folds]).tolist()) == list(range(400))
