"""Labels for new pictures from a checkpoint alone: on the command line and in Python."""

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmlabel
from mmlabel import predict
from mmlabel.data.sources.unlabelled import Columns, open_rows
from mmlabel.errors import UserError
from mmlabel.lightning.checkpoint_file import read_file, write_file
from mmlabel.models import engines
from mmlabel.partial_file import resumable
from mmlabel.predict import main
from mmlabel.predictor import Predictor
from mmlabel.spreadsheet import separator_of
from mmlabel.training import train

pytestmark = pytest.mark.usefixtures("as_usual_cache")
CHECKPOINTS = Path(__file__).with_name("checkpoints")


@pytest.fixture(scope="module")
def best(settings_of: Callable, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table whose labels have names."""
    folder = tmp_path_factory.mktemp("run")
    names = ["", "person", "", "traffic light", *[""] * 13, "cat"]
    options = ["data=csv", f"data.file={made}/rows.csv", "trainer.max_epochs=1"]
    listed = "[" + ",".join(f'"{name}"' for name in names) + "]"
    train(settings_of(*options, f"data.label_names={listed}"), folder / "run")
    return folder / "run" / "best.ckpt"


@pytest.fixture(scope="module")
def model(best: Path) -> Predictor:
    return mmlabel.load(best)


def test_the_answer_to_a_picture_whose_name_is_no_text(best: Path, made: Path, tmp_path, capsys):
    picture = shutil.copy(made / "data" / "1.jpg", tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    assert run(best, picture, "--out", tmp_path / "out.csv") == 1
    said = capsys.readouterr().err
    assert "is not in UTF-8: rename the file" in said and "cannot be written to" in said


def test_a_fork_of_a_process_that_has_predicted_answers(best: Path, made: Path):
    """As by `multiprocessing`; torch's threads stay behind."""
    program = (
        "import multiprocessing, sys, mmlabel\n"
        "model = mmlabel.load(sys.argv[1])\n"
        "def answer(number): return model.predict(sys.argv[2], 'a car').probabilities\n"
        "here = answer(0)\n"
        "with multiprocessing.get_context('fork').Pool(1) as pool:\n"
        "    there = pool.map_async(answer, [1]).get(timeout=30)[0]\n"
        "assert max(abs(here[name] - there[name]) for name in here) < 1e-4"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    picture = next(made.glob("**/*.jpg"))
    command = [sys.executable, "-c", program, str(best), str(picture)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def answers(out: Path) -> list[dict[str, str]]:
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


def probabilities(out: Path) -> np.ndarray:
    return np.array(
        [[float(p) for n, p in row.items() if n[:5] == "prob_"] for row in answers(out)]
    )


# ---- The command line ----------------------------------------------------------------------


def test_predictions_are_those_of_the_run(settings_of, scenes: Path, tmp_path: Path, capsys):
    """On the test rows of the run itself, read as if their labels were not known."""
    train(settings_of(), tmp_path / "run")
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        expected = {row["ImageID"]: row for row in csv.DictReader(file)}
    out = tmp_path / "out.csv"
    checkpoint = tmp_path / "run" / "best.ckpt"
    assert run(checkpoint, scenes / "train.csv", "--out", out, "--probabilities") == 0
    compared = 0
    for row in answers(out):
        if row["ImageID"] in expected:
            known = expected[row["ImageID"]]
            probs = {name: float(value) for name, value in row.items() if name.startswith("prob_")}
            assert probs == pytest.approx({name: float(known[name]) for name in probs}, abs=1e-5)
            answered = {name[5:] for name, value in probs.items() if value >= 0.5}
            assert set(row["Labels"].split()) == answered
            compared += 1
    assert compared == 24


@pytest.mark.parametrize(
    "options",
    [
        ["model=image_only", "backbone.attention=residual"],
        ["model=fusion", "model.fusion=attention"],
    ],
)
def test_a_trained_backbone_of_which_cells_are_looked_at(
    options: list[str], settings_of, made: Path, tmp_path: Path
):
    given = ["data=csv", f"data.file={made}/rows.csv", "backbone.frozen=false", *options]
    train(settings_of(*given, "trainer.max_epochs=1"), tmp_path / "run")
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        expected = list(csv.DictReader(file))
    with open(made / "rows.csv", newline="") as file:
        captions = {row["picture"]: row["caption"] for row in csv.DictReader(file)}
    found = mmlabel.load(tmp_path / "run" / "best.ckpt").predict(
        [made / row["ImageID"] for row in expected],
        [captions[row["ImageID"]] for row in expected],
    )
    assert len(found) > 5
    for row, one in zip(expected, found, strict=True):
        probs = [float(value) for name, value in row.items() if name.startswith("prob_")]
        assert list(one.probabilities.values()) == pytest.approx(probs, abs=1e-4)


def test_a_guess_of_the_encoding_names_the_option_of_this_command(
    best: Path, made: Path, tmp_path: Path, capsys
):
    table = tmp_path / "table.csv"
    picture = next((made / "data").iterdir())
    table.write_text(f"picture,caption\n{picture},a café with a terrace\n", encoding="cp1252")
    assert run(best, table, "--out", tmp_path / "out.csv") == 0
    assert "read as cp1252" in (said := capsys.readouterr().err) and "--encoding" in said


def test_a_table_with_the_delimiter_of_training_is_read(settings_of, made: Path, tmp_path: Path):
    """One that is not found out, and so was given as data.delimiter."""
    with open(made / "rows.csv", newline="") as file:
        rows = list(csv.reader(file))
    with open(made / "colons.csv", "w", newline="") as file:
        csv.writer(file, delimiter=":").writerows(rows)
    options = ["data=csv", f"data.file={made}/colons.csv", "data.delimiter=':'"]
    train(settings_of(*options, "trainer.max_epochs=1", "model=caption_only"), tmp_path / "run")
    best, out, usual = tmp_path / "run" / "best.ckpt", tmp_path / "1.csv", tmp_path / "2.csv"
    assert run(best, made / "colons.csv", "--out", out, "--probabilities") == 0
    assert run(best, made / "rows.csv", "--out", usual, "--probabilities") == 0
    assert len(answers(out)) == len(rows) - 1
    assert out.read_bytes() == usual.read_bytes()


@pytest.mark.parametrize("name", ["csv", "usyd"])
def test_a_tables_pictures_are_where_they_were_in_training(
    name: str, settings_of, made: Path, tmp_path: Path
):
    data = tmp_path / "data"
    data.mkdir()
    if name == "csv":
        options = [f"data.file={data}/table.csv", f"data.root={made}"]
        shutil.copy(made / "rows.csv", data / "table.csv")
    else:
        options = [f"data.root={data}", "data.pictures=photos", "data.file=table.csv"]
        shutil.copy(made / "train.csv", data / "table.csv")
        (data / "photos").symlink_to(made / "data")
    given = [f"data={name}", *options, "model=image_only", "trainer.max_epochs=1"]
    train(settings_of(*given), tmp_path / "run")
    out, best = tmp_path / "out.csv", tmp_path / "run" / "best.ckpt"
    assert run(best, data / "table.csv", "--out", out) == 0
    assert len(answers(out)) == 72


def test_a_table_for_a_model_of_cocos_format_has_its_pictures_beside_it(
    settings_of, made: Path, tmp_path: Path
):
    options = ["data=coco", f"data.root={made}", "model=image_only", "trainer.max_epochs=1"]
    train(settings_of(*options), tmp_path / "run")
    shutil.copy(made / "data" / "1.jpg", tmp_path)
    (tmp_path / "table.csv").write_text("picture\n1.jpg\n")
    out = tmp_path / "out.csv"
    assert run(tmp_path / "run" / "best.ckpt", tmp_path / "table.csv", "--out", out) == 0
    assert len(answers(out)) == 1


def test_a_root_that_is_gone_is_passed_over(settings_of, made: Path, tmp_path: Path):
    root = tmp_path / "root"
    root.symlink_to(made)
    given = ["data=csv", f"data.file={made}/rows.csv", f"data.root={root}", "model=image_only"]
    train(settings_of(*given, "trainer.max_epochs=1"), tmp_path / "run")
    root.unlink()
    out, best = tmp_path / "out.csv", tmp_path / "run" / "best.ckpt"
    assert run(best, made / "rows.csv", "--out", out) == 0


def test_a_picture_of_another_content_beside_the_table_is_not_passed_over(
    settings_of, made: Path, tmp_path: Path, capsys
):
    given = ["data=csv", f"data.file={made}/rows.csv", f"data.root={made}", "model=image_only"]
    train(settings_of(*given, "trainer.max_epochs=1"), tmp_path / "run")
    new, best, out = tmp_path / "new", tmp_path / "run" / "best.ckpt", tmp_path / "out.csv"
    (new / "data").mkdir(parents=True)
    (new / "table.csv").write_text("picture\ndata/1.jpg\ndata/2.jpg\n")
    shutil.copy(made / "data" / "1.jpg", new / "data")  # the same picture twice is no question
    # Which is said, as pictures of the same names may be meant that lie in a third folder.
    said = f"pictures are read from {made}, where those of training are: --pictures FOLDER says oth"
    assert run(best, new / "table.csv", "--out", out) == 0 and said in capsys.readouterr().err
    assert run(best, made / "rows.csv", "--out", out) == 0 and said not in capsys.readouterr().err
    shutil.copy(made / "data" / "3.jpg", new / "data" / "2.jpg")
    assert run(best, new / "table.csv", "--out", out) == 1
    said = capsys.readouterr().err
    assert f"data/2.jpg is one picture in {made}, where those of training are, and another" in said
    assert run(best, new / "table.csv", "--out", out, "--pictures", new) == 0


def test_a_mistake_is_one_message(tmp_path: Path, capsys):
    assert main([str(tmp_path / "no.ckpt"), "no.csv"]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_what_openvino_cannot_compute_torch_does(
    settings_of, made: Path, tmp_path: Path, monkeypatch, capsys
):
    pytest.importorskip("openvino")
    given = ["data=csv", f"data.file={made}/rows.csv", "model=image_only", "trainer.max_epochs=1"]
    train(settings_of(*given, "features.engine=auto"), tmp_path / "run")
    best, out = tmp_path / "run" / "best.ckpt", tmp_path / "out.csv"
    monkeypatch.setitem(engines.LARGEST_ERROR, "float32", 0.0)
    capsys.readouterr()
    assert run(best, made / "rows.csv", "--out", out, "--probabilities") == 0
    said = capsys.readouterr().err
    assert "torch computes the features, more slowly: OpenVINO cannot compute test_resnet" in said
    assert "features.engine" not in said
    pictures = [made / row["ImageID"] for row in answers(out)]
    found = [list(one.probabilities.values()) for one in mmlabel.load(best).predict(pictures)]
    np.testing.assert_allclose(probabilities(out), found, atol=1e-5)


@pytest.mark.parametrize("settings", [(1, 0), (7, 2), (32, 4)])
def test_batches_and_workers_change_nothing(
    settings: tuple[int, int], best: Path, made: Path, tmp_path: Path
):
    size, workers = settings
    for name, given in {"one": (), "other": ("--batch-size", size, "--workers", workers)}.items():
        out = tmp_path / f"{name}.csv"
        common = ("--pictures", made, "--out", out, "--probabilities")
        assert run(best, made / "rows.csv", *common, *given) == 0
    first, second = answers(tmp_path / "one.csv"), answers(tmp_path / "other.csv")
    assert [row["ImageID"] for row in first] == [f"data/{n}.jpg" for n in range(72)]
    assert [row["ImageID"] for row in second] == [row["ImageID"] for row in first]
    found = [probabilities(tmp_path / f"{name}.csv") for name in ("one", "other")]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


def test_the_same_rows_in_every_form(best: Path, made: Path, tmp_path: Path):
    """A CSV, one with other columns and encoding, TSV and JSON lines; and a folder without any."""
    rows = answers(made / "rows.csv")[:9]
    forms = {
        "rows.csv": ("picture", "caption", ",", "utf-8", ()),
        "wide.csv": ("file", "text é", ";", "cp1252", ("file", "text é")),
        "report.csv": ("ImageID", "Caption", ",", "utf-16", ()),
        "tabs.tsv": ("picture", "caption", "\t", "utf-8-sig", ()),
    }
    for name, (picture, caption, delimiter, encoding, columns) in forms.items():
        with open(tmp_path / name, "w", newline="", encoding=encoding) as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow([picture, "more", caption])
            writer.writerows([row["picture"], "x\ny", row["caption"]] for row in rows)
        given = ("--picture-column", columns[0], "--caption-column", columns[1]) if columns else ()
        out = tmp_path / f"{name}.out.csv"
        common = ("--pictures", made, "--out", out, "--probabilities")
        assert run(best, tmp_path / name, *common, *given) == 0
    lines = [json.dumps({"caption": row["caption"], "picture": row["picture"]}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n\n".join(lines))
    out = tmp_path / "lines.jsonl"
    given = ("--pictures", made, "--out", out, "--probabilities")
    assert run(best, tmp_path / "rows.jsonl", *given) == 0
    expected = probabilities(tmp_path / "rows.csv.out.csv")
    for name in forms:
        assert np.array_equal(probabilities(tmp_path / f"{name}.out.csv"), expected), name
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in found] == [row["picture"] for row in rows]
    assert [list(row["probabilities"].values()) for row in found] == expected.tolist()
    table = answers(tmp_path / "rows.csv.out.csv")
    for row, line in zip(table, found, strict=True):
        assert row["Labels"] == "|".join(line["labels"])
        assert {name for name in row if name[:5] == "prob_"} == {
            "prob_person",
            "prob_traffic light",
            "prob_cat",
        }


def test_columns_are_named_where_a_table_has_no_captions(
    best: Path, settings_of, made: Path, tmp_path: Path, capsys
):
    """A misspelt column would go unnoticed otherwise; nobody asks where none are looked at."""
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    picture = next((made / "data").iterdir())
    table.write_text(f"picture,captoin\n{picture},a cat\n")
    assert run(best, table, "--out", out) == 0
    said = capsys.readouterr().err
    which = "(--caption-column NAME says which)"
    assert f"no column caption or Caption {which}; its columns: picture, captoin" in said
    assert "pictures alone decide" in said
    given = ("--picture-column", "image", "--caption-column", "captions")
    assert run(best, table, *given) == 1
    which = "image or captions (--picture-column NAME, --caption-column NAME say which)"
    assert f"table.csv has no column {which}" in capsys.readouterr().err
    options = ["data=csv", f"data.file={made}/rows.csv", "trainer.max_epochs=1"]
    train(settings_of(*options, "model=image_only"), tmp_path / "image")
    train(settings_of(*options, "model=caption_only"), tmp_path / "caption")
    capsys.readouterr()
    assert run(tmp_path / "image" / "best.ckpt", table, "--out", out) == 0
    assert "has no column" not in capsys.readouterr().err
    assert run(tmp_path / "caption" / "best.ckpt", table, "--out", out) == 1
    assert "table.csv has none: name their column with --caption-column" in capsys.readouterr().err


def test_a_folder_and_one_picture_have_no_captions(
    best: Path, made: Path, tmp_path: Path, capsys, model: Predictor
):
    out = tmp_path / "out.csv"
    assert run(best, made / "data", "--out", out, "--probabilities") == 0
    assert "there are no captions" in capsys.readouterr().err
    names = sorted(path.name for path in (made / "data").iterdir())
    assert [row["ImageID"] for row in answers(out)] == names
    picture = made / "data" / names[3]
    expected = model.predict(picture).probabilities
    assert probabilities(out)[3] == pytest.approx(list(expected.values()), abs=1e-5)
    caption = "a cat and a person"
    assert run(best, picture, "--caption", caption, "--labels", "numbers") == 0
    number = {"person": "1", "traffic light": "3", "cat": "17"}
    labels = [number[name] for name in model.predict(picture, caption).labels]
    assert capsys.readouterr().out.splitlines() == [
        "ImageID,Labels",
        f"{names[3]},{' '.join(labels)}",
    ]


def test_a_folder_is_looked_through_with_what_it_links_to(
    best: Path, made: Path, tmp_path: Path, capsys
):
    folder, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    for place, number in ((folder / "own", 0), (elsewhere, 1), (elsewhere / "deep", 2)):
        place.mkdir(parents=True)
        shutil.copy(made / "data" / f"{number}.jpg", place)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "own")  # is come across as it is
    (elsewhere / "round").symlink_to(folder)
    for name in ("a.avif", "b.AVIF", "notes", ".hidden", "own/._0.jpg"):
        (folder / name).touch()
    assert run(best, folder, "--out", tmp_path / "out.csv") == 0
    names = [row["ImageID"] for row in answers(tmp_path / "out.csv")]
    assert sorted(names) == ["linked/1.jpg", "linked/deep/2.jpg", "own/0.jpg"]
    assert "are left out: 2 .avif, 1 without an ending" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", b"[]", "JSON lines are read, an object a line: name it rows.jsonl"),
        ("rows.xlsx", b"PK\3\4\x14\0", "rows.xlsx is a spreadsheet, or another archive, and text"),
    ],
)
def test_another_kind_of_table_is_no_picture(
    best: Path, tmp_path: Path, capsys, name: str, content: bytes, said: str
):
    (tmp_path / name).write_bytes(content)
    assert run(best, tmp_path / name) == 1
    assert said in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_the_first_row(
    best: Path, made: Path, tmp_path: Path, capsys
):
    (tmp_path / "pictures").mkdir()
    try:
        name = os.fsdecode(b"caf\xe9.jpg")
        shutil.copy(made / "data" / "0.jpg", tmp_path / "pictures" / name)
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone: left out")
    (tmp_path / "rows.jsonl").write_text('{"picture": "0.jpg", "caption": "half \\ud800"}')
    for given in (("pictures",), ("rows.jsonl", "--pictures", str(made / "data"))):
        what, *more = given
        assert run(best, tmp_path / what, *more, "--out", tmp_path / "out.csv") == 1
        assert "is no text in UTF-8" in capsys.readouterr().err
        assert not (tmp_path / "out.csv").exists()


def test_a_table_is_read_as_training_reads_it(best: Path, made: Path, tmp_path: Path, capsys):
    """An empty first line is none, and a row that could be two is refused."""
    given = ("--pictures", made / "data", "--out", tmp_path / "out.csv")
    (tmp_path / "rows.csv").write_text("\n\nImageID,Caption\n0.jpg,a cat\n1.jpg,a car\n")
    assert run(best, tmp_path / "rows.csv", *given) == 0
    assert [row["ImageID"] for row in answers(tmp_path / "out.csv")] == ["0.jpg", "1.jpg"]
    (tmp_path / "two.csv").write_text(
        'ImageID,Caption\n0.jpg,"She says ""\n1.jpg,""hello there"\n2.jpg,"a dog"\n'
    )
    capsys.readouterr()
    assert run(best, tmp_path / "two.csv", *given) == 1
    assert "can be read in two ways" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_costs_its_own_row(
    workers: int, best: Path, made: Path, tmp_path: Path, capsys
):
    rows = answers(made / "rows.csv")[:6]
    (tmp_path / "cut.jpg").write_bytes((made / rows[1]["picture"]).read_bytes()[:90])
    lines = [json.dumps(row) for row in rows]
    lines[1] = json.dumps({"picture": str(tmp_path / "cut.jpg"), "caption": "x"})
    lines[4] = json.dumps({"picture": "=missing.jpg", "caption": "x"})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    common = ("--pictures", made, "--batch-size", 2, "--workers", workers, "--probabilities")
    out = tmp_path / "out.csv"
    assert run(best, tmp_path / "rows.jsonl", *common, "--out", out) == 1
    message = capsys.readouterr().err
    assert "rows.jsonl: row 5: " in message
    assert "=missing.jpg is not a readable picture" in message and "--on-bad-image skip" in message
    assert "Traceback" not in message and not list(tmp_path.glob("*out*"))
    lines[4] = json.dumps({"picture": str(made / rows[4]["picture"]), "caption": "x"})
    (tmp_path / "cut.jsonl").write_text("\n".join(lines))
    assert run(best, tmp_path / "cut.jsonl", *common, "--out", out) == 1
    message = capsys.readouterr().err
    assert "cut.jsonl: row 2: " in message and "cut.jpg is not a readable picture" in message
    assert not list(tmp_path.glob("*out*"))
    skip = (*common, "--on-bad-image", "skip")
    assert run(best, tmp_path / "rows.jsonl", *skip, "--out", out) == 0
    message = capsys.readouterr().err
    assert "2 pictures cannot be read, without an answer" in message
    assert "cut.jpg has no answer: " in message
    assert "=missing.jpg has no answer: No such file" in message
    found = answers(out)
    assert [row["ImageID"] for row in found][4] == "'=missing.jpg"
    for place, row in enumerate(found):
        assert (row["prob_cat"] == "") == (place in (1, 4))
    assert run(best, tmp_path / "cut.jsonl", *skip, "--out", tmp_path / "out.jsonl") == 0
    second = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    assert second["labels"] is None and second["problem"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("picture,caption\na.jpg,x,y\n", "a.csv", "row 1 has 3 fields"),
        ("picture,caption\n", "a.csv", "has no rows"),
        ("", "a.csv", "has no column picture"),
        ("pictures,caption\na.jpg,x\n", "a.csv", 'did you mean "pictures"'),
        ("picture,caption,picture\na.jpg,x,b.jpg\n", "a.csv", "2 columns of the name picture"),
        ("picture,caption\n,x\n", "a.csv", "row 1 has no picture"),
        ('{"picture": ["a"]}', "a.jsonl", "row 1: a cell is neither text nor a number"),
        ('{"picture": 1}\n[]', "a.jsonl", "line 2 is no JSON object"),
        ("x", "a.jpg", "is not a readable picture"),
    ],
)
def test_what_cannot_be_read_is_one_message(
    content: str, name: str, message: str, best: Path, tmp_path: Path, capsys
):
    (tmp_path / name).write_text(content)
    assert run(best, tmp_path / name, "--out", tmp_path / "out.csv") == 1
    error = capsys.readouterr().err
    said = [line for line in error.splitlines() if line.startswith("mmlabel: ")]
    assert len(said) == 1 and message in said[0] and "Traceback" not in error
    assert not (tmp_path / "out.csv").exists()


def test_the_input_is_not_overwritten(best: Path, made: Path, tmp_path: Path, capsys):
    file = tmp_path / "rows.csv"
    file.write_text((made / "rows.csv").read_text())
    assert run(best, file, "--pictures", made, "--out", file) == 1
    assert "give another file" in capsys.readouterr().err
    assert run(best, file, "--pictures", made, "--out", tmp_path / "rows.csv" / "x.csv") == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_answers_replace_earlier_ones_and_nothing_else(
    name: str, best: Path, made: Path, tmp_path: Path, capsys, monkeypatch
):
    """It has to be as a call has left it: a table of one's own may have the same columns."""
    out = tmp_path / "new folder" / name
    given = (best, made / "data" / "1.jpg", "--out", out)
    assert run(*given) == 0 and "replaced" not in capsys.readouterr().err
    assert run(*given, "--probabilities") == 0 and run(*given) == 0
    assert f"{out} holds the answers of an earlier call" in capsys.readouterr().err
    whole = out.read_bytes()
    others = (
        b"ImageID,Labels\n1.jpg,cat\n",
        b'{"id": "1.jpg", "labels": ["cat"]}\n',
        whole + b"\n",
    )
    for content in others:
        out.write_bytes(content)
        assert run(*given) == 1
        said = capsys.readouterr().err
        assert f"--out {out} is not as an earlier call on this machine has left it" in said
        assert out.read_bytes() == content
    out.write_bytes(whole)
    monkeypatch.setenv("MMLABEL_CACHE", str(tmp_path / "other cache"))
    assert run(*given) == 1, "nothing is known of it"
    monkeypatch.setenv("MMLABEL_CACHE", str(tmp_path / "new folder" / name / "no cache"))
    out.unlink()
    assert run(*given) == 0 and out.read_bytes() == whole


def test_another_threshold(best: Path, made: Path, tmp_path: Path, capsys):
    out = tmp_path / "out.csv"
    given = (best, made / "rows.csv", "--out", out, "--probabilities", "--threshold")
    for threshold in (0, 0.47, 1):
        assert run(*given, threshold) == 0
        for row in answers(out):
            expected = {n[5:] for n, p in row.items() if n[:5] == "prob_" and float(p) >= threshold}
            assert set(row["Labels"].split("|")) - {""} == expected
    assert run(*given, 1.5) == 1
    assert (
        "argument --threshold: invalid number from 0 to 1 value: '1.5'" in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", [None, "predictions.csv", "metrics.csv"])
@pytest.mark.parametrize("ended", [True, False])
def test_the_files_of_a_run_are_not_written_over(
    name: str | None, ended: bool, made: Path, tmp_path: Path, capsys, monkeypatch
):
    """Neither by a name that is given nor by the usual one; in other folders it is no run's."""
    monkeypatch.setattr("mmlabel.predictor.Predictor", None)  # it is refused before any work
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ("SHA256SUMS" if ended else ".lock")).touch()
    (folder / "predictions.csv").write_text("the run's")
    monkeypatch.chdir(folder)
    given = () if name is None else ("--out", name if ended else folder / name)
    assert run("best.ckpt", made / "rows.csv", "--pictures", made, *given) == 1
    error = capsys.readouterr().err
    assert f"{name or 'predictions.csv'} is a file of the run in {folder}: give" in error
    assert "with --out" in error and len(error.splitlines()) == 1
    assert (folder / "predictions.csv").read_text() == "the run's"


def test_a_name_that_no_run_uses_is_written_in_its_folder(
    best: Path, made: Path, tmp_path: Path, capsys, monkeypatch
):
    before = {path.name: path.stat().st_mtime_ns for path in best.parent.iterdir()}
    common = (best, made / "rows.csv", "--pictures", made)
    assert run(*common, "--out", best.parent / "answers.csv") == 0
    (best.parent / "answers.csv").unlink()
    assert {path.name: path.stat().st_mtime_ns for path in best.parent.iterdir()} == before
    monkeypatch.chdir(tmp_path)
    assert run(*common) == 0 and len(answers(tmp_path / "predictions.csv")) == 72


@pytest.mark.parametrize(
    ("what", "given", "said"),
    [
        ("rows.csv", ("--caption", "a cat"), "--caption is of one picture, and {} is a table"),
        ("data", ("--caption", "a cat"), "--caption is of one picture, and {} is a folder"),
        ("data", ("--pictures", "."), "--pictures is for a table, and {} is a folder"),
        ("data", ("--encoding", "utf-8"), "--encoding is for a table, and {} is a folder"),
        (
            "data/4.jpg",
            ("--picture-column", "a", "--caption-column", "b"),
            "--picture-column, --caption-column are for a table, and {} is one picture",
        ),
        ("data/4.jpg", ("--resume",), "--resume goes on with a file: give --out"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    what: str, given: tuple, said: str, made: Path, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr("mmlabel.predictor.Predictor", None)  # it is refused before any work
    monkeypatch.chdir(tmp_path)
    assert run("best.ckpt", made / what, *given) == 1
    printed = capsys.readouterr()
    assert said.format(made / what) in printed.err and len(printed.err.splitlines()) == 1
    assert not printed.out and not list(tmp_path.iterdir())


def test_options_for_the_half_that_a_model_does_not_look_at_are_refused(
    settings_of, made: Path, tmp_path: Path, capsys
):
    for model, kind, arguments in (
        ("image_only", "pictures", ("data/4.jpg", "--caption", "a cat")),
        ("image_only", "pictures", ("rows.csv", "--caption-column", "caption")),
        ("caption_only", "captions", ("rows.csv", "--pictures", made)),
    ):
        checkpoint = tmp_path / model / "best.ckpt"
        if not checkpoint.exists():
            options = ["data=csv", f"data.file={made}/rows.csv", "trainer.max_epochs=1"]
            train(settings_of(f"model={model}", *options), checkpoint.parent)
        capsys.readouterr()
        what, option, value = arguments
        assert run(checkpoint, made / what, option, value, "--out", tmp_path / "out.csv") == 1
        error = capsys.readouterr().err
        assert error == f"mmlabel: this model looks at {kind} alone: leave {option} out\n"
        assert not (tmp_path / "out.csv").exists()


def test_one_picture_that_cannot_be_read(best: Path, tmp_path: Path, capsys):
    """Nothing is printed for it; without an answer it is said that it has none."""
    broken = tmp_path / "broken.jpg"
    broken.write_text("x")
    assert run(best, broken) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "broken.jpg is not a readable picture" in printed.err
    assert run(best, broken, "--on-bad-image", "skip") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["ImageID,Labels", "broken.jpg,"]
    assert "broken.jpg has no answer: not an image file" in printed.err


def test_what_is_cut_of_one_pictures_caption_is_said(best: Path, made: Path, capsys):
    assert run(best, made / "data" / "4.jpg", "--caption", "a cat " * 6000) == 0
    assert "words" in capsys.readouterr().err


def test_what_is_said_of_captions_is_of_all_rows(best: Path, made: Path, tmp_path: Path, capsys):
    """Not of the batch that it was met in; a batch without any caption counts, too."""
    captions = ["a cat " * 300, "a cat", "", "", "", "a dog " * 200, "", "!?"]
    lines = "".join(f"{made}/data/{n}.jpg,{text}\n" for n, text in enumerate(captions))
    (tmp_path / "rows.csv").write_text("picture,caption\n" + lines)
    given = (best, tmp_path / "rows.csv", "--out", tmp_path / "a.csv", "--batch-size", 2)
    assert run(*given) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "captions" in line] == [
        "2 of 8 captions were cut to their first 128 words (the longest has 600)",
        "5 of 8 captions have no word in them: are they of this data?",
    ]


# ---- Going on after an interruption --------------------------------------------------------


@pytest.fixture
def many(made: Path, tmp_path: Path) -> Path:
    """A table of 240 rows."""
    rows = answers(made / "rows.csv")
    with open(tmp_path / "many.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "caption"])
        for number in range(240):
            row = rows[number % len(rows)]
            writer.writerow([made / row["picture"], f"{row['caption']} {number}"])
    return tmp_path / "many.csv"


COMMON = ("--batch-size", 4, "--probabilities")


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Have the network raise KeyboardInterrupt, once, when it has answered so many batches."""
    usual, left = Predictor.answers, iter(range(after))

    def answers(self, *given):
        if next(left, None) is None:
            monkeypatch.setattr(Predictor, "answers", usual)
            raise KeyboardInterrupt
        return usual(self, *given)

    monkeypatch.setattr(Predictor, "answers", answers)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_killed_call_goes_on_to_the_same_file(
    suffix: str, best: Path, many: Path, tmp_path: Path, capsys
):
    """Killed twice, the second time after having gone on."""
    out, whole = tmp_path / f"out.{suffix}", tmp_path / f"whole.{suffix}"
    common = [best, many, *COMMON, "--out"]
    command = [sys.executable, "-m", "mmlabel.predict", *map(str, common), str(out), "--resume"]
    log = out.with_name(f"{out.name}.part.log")
    for lines in (5, 20):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while not (log.exists() and log.read_text().count("sha256") > lines):
                assert process.poll() is None
                time.sleep(0.002)
            process.kill()
        assert process.returncode == -9 and not out.exists()
    assert run(*common, out, "--resume") == 0
    assert "going on after" in capsys.readouterr().err
    assert run(*common, whole) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out*")) == [out.name]


@pytest.mark.parametrize("name", ["out.xlsx", "out.json", "out.tsv", "out"])
def test_the_name_of_the_answers_must_tell_their_form(
    name: str, best: Path, tmp_path: Path, capsys
):
    assert run(best, tmp_path, "--out", tmp_path / name) == 1
    assert "give a .csv, .jsonl or .parquet file" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_interrupted_call_goes_on_to_the_same_file(
    suffix: str, best: Path, many: Path, tmp_path: Path, capsys, monkeypatch
):
    """What was written after the rows that were kept is cut, and a line of the log that is torn."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="not installed: pip install -e '.[parquet]'")
    # In a batch before the interruption and in one after it.
    rows = many.read_text().splitlines()
    rows[7] = rows[55] = "no.jpg,a car"
    many.write_text("\n".join(rows[:70]))
    out, whole = tmp_path / f"out.{suffix}", tmp_path / f"whole.{suffix}"
    common = (best, many, *COMMON, "--on-bad-image", "skip", "--out")
    interrupt(monkeypatch, after=11)
    assert run(*common, out) == 130
    said = capsys.readouterr().err
    assert "44 rows are kept" in said and "--resume goes on" in said and not out.exists()
    part = out.with_name(f"{out.name}.part")
    with open(part, "ab") as file, open(f"{part}.log", "ab") as log:
        file.write(b'half a "row')
        log.write(b'{"rows": 5')
    assert run(*common, out, "--resume") == 0
    said = capsys.readouterr().err
    assert "going on after 44 of 69 rows" in said and "2 pictures cannot be read" in said
    assert "1 row of them without an answer: no.jpg" in said
    assert run(*common, whole) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out*")) == [out.name]


def test_after_a_bad_picture_skipping_goes_on(best: Path, many: Path, tmp_path: Path, capsys):
    """And is what is said to go on, as the same picture would end the same command again."""
    broken = tmp_path / "broken.jpg"
    broken.write_text("x")
    rows = many.read_text().splitlines()[:40]
    rows[20] = f"{broken},a car"
    many.write_text("\n".join(rows))
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    common = (best, many, *COMMON, "--workers", 0, "--out")
    skip = "--on-bad-image", "skip"
    assert run(*common, out) == 1
    said = capsys.readouterr().err
    assert "16 rows are kept" in said and "with --resume --on-bad-image skip goes on" in said
    assert run(*common, out, "--resume", *skip) == 0
    assert "broken.jpg has no answer: not an image file" in capsys.readouterr().err
    assert run(*common, whole, *skip) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_call_that_skipped_is_not_gone_on_with_without(
    best: Path, many: Path, tmp_path: Path, capsys, monkeypatch
):
    rows = many.read_text().splitlines()[:40]
    (tmp_path / "broken.jpg").write_text("x")
    rows[2] = f"{tmp_path / 'broken.jpg'},a car"
    many.write_text("\n".join(rows))
    common = (best, many, *COMMON, "--out", tmp_path / "out.csv")
    interrupt(monkeypatch, after=3)
    assert run(*common, "--on-bad-image", "skip") == 130
    capsys.readouterr()
    assert run(*common, "--resume") == 1
    said = capsys.readouterr().err
    assert "1 row so far without an answer" in said and "with --resume goes on" not in said
    assert "the same command with --resume --on-bad-image skip goes on" in said


def test_another_call_is_not_gone_on_with(
    best: Path, many: Path, made: Path, tmp_path: Path, capsys, monkeypatch
):
    many.write_text("\n".join(many.read_text().splitlines()[:40]))
    out = tmp_path / "out.csv"
    part = tmp_path / "out.csv.part"
    common = (best, many, *COMMON, "--out", out)
    interrupt(monkeypatch, after=3)
    assert run(*common) == 130
    kept = part.read_bytes()
    other = tmp_path / "other.ckpt"
    checkpoint = read_file(best)
    checkpoint["mmlabel"]["threshold"] = 0.4
    write_file(checkpoint, other)
    changed = tmp_path / "changed.csv"
    changed.write_text(many.read_text().replace(" 38", " 380"))
    capsys.readouterr()
    for arguments, said in {
        common: "12 rows of an interrupted call: go on with it by --resume",
        (other, *common[1:], "--resume"): "differs in the checkpoint: give",
        (best, changed, *common[2:], "--resume"): "differs in what is labelled",
        (*common, "--batch-size", 2, "--resume"): "differs in --batch-size (4, now 2): give",
        (*common, "--labels", "numbers", "--resume"): "differs in --labels: give",
        (*common, "--threshold", 0.3, "--resume"): "differs in --threshold (None, now 0.3): give",
    }.items():
        assert run(*arguments) == 1
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error
        assert part.read_bytes() == kept and not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(predict, "library_versions", lambda *names: dict.fromkeys(names, "99"))
        assert run(*common, "--resume") == 1
    said = capsys.readouterr().err
    assert "differs in the version of pillow" in said and "the version of openvino" in said
    part.write_bytes(kept.replace(b"0.", b"1.", 1))
    assert run(*common, "--resume") == 1
    assert "is damaged: remove it" in capsys.readouterr().err
    part.unlink()
    assert run(*common, "--resume") == 0 and len(answers(out)) == 39


def test_two_calls_do_not_write_the_same_file(tmp_path: Path):
    with resumable(tmp_path / "out.csv", {}, resume=False) as file:
        file.write("whole")
        with pytest.raises(UserError, match="another process is writing"):
            with resumable(tmp_path / "out.csv", {}, resume=True):
                pass
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.csv", "whole")]


def test_parquet_holds_what_csv_holds(best: Path, made: Path, tmp_path: Path, capsys, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install -e '.[parquet]'")
    (tmp_path / "rows.csv").write_text(
        (made / "rows.csv").read_text().replace("data/3.jpg", "data/no.jpg")
    )
    common = (best, tmp_path / "rows.csv", "--pictures", made, "--on-bad-image", "skip")
    for suffix in ("csv", "parquet"):
        out = tmp_path / f"out.{suffix}"
        assert run(*common, "--probabilities", "--out", out) == 0
    expected = answers(tmp_path / "out.csv")
    table = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert list(table) == [*expected[0], "problem"]
    assert table["ImageID"] == [row["ImageID"] for row in expected]
    assert [labels and "|".join(labels) for labels in table["Labels"]][4:] == [
        row["Labels"] for row in expected[4:]
    ]
    assert table["Labels"][3] is None and table["problem"][3]
    for name in ("prob_person", "prob_traffic light", "prob_cat"):
        assert table[name][3] is None
        found = np.array(table[name][4:], dtype=np.float32)
        assert np.array_equal(found, np.float32([row[name] for row in expected[4:]]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(*common, "--out", tmp_path / "other.parquet") == 1
    assert "needs pyarrow: pip install" in capsys.readouterr().err


# ---- In Python -----------------------------------------------------------------------------


def test_every_kind_of_picture_gives_the_same(model: Predictor, made: Path):
    path = made / "data" / "4.jpg"
    with Image.open(path) as picture:
        kinds = [path, str(path), path.read_bytes(), picture, np.asarray(picture)]
        found = [model.predict(kind, "a cat") for kind in kinds]
    assert all(prediction == found[0] for prediction in found)
    assert set(found[0].labels) <= set(found[0].probabilities) == {"person", "traffic light", "cat"}
    together = model.predict([path, made / "data" / "5.jpg"], ["a cat", None])
    apart = [found[0], model.predict(made / "data" / "5.jpg")]
    for one, other in zip(together, apart, strict=True):
        assert one.labels == other.labels
        assert one.probabilities == pytest.approx(dict(other.probabilities), abs=1e-6)


def test_a_model_goes_to_another_process(model: Predictor, made: Path):
    """Also one that has answered before, as joblib and the like would send it."""
    path = made / "data" / "4.jpg"
    before = model.predict(path, "a cat")
    assert pickle.loads(pickle.dumps(model)).predict(path, "a cat") == before


def test_the_caption_counts_and_a_missing_one_is_empty(model: Predictor, made: Path):
    path = made / "data" / "4.jpg"
    assert model.predict(path, "a cat on grass") != model.predict(path)
    assert model.predict(path, "") == model.predict(path, None)


class NAType:
    """As pandas.NA: it can neither be compared nor be told to be true."""

    def __bool__(self) -> bool:
        raise TypeError

    def __eq__(self, other: object) -> bool:
        raise TypeError


@pytest.mark.parametrize("nothing", [float("nan"), np.float32("nan"), NAType(), np.nan])
def test_what_tables_have_in_an_empty_cell_is_missing(nothing, model: Predictor, made: Path):
    path = made / "data" / "4.jpg"
    assert model.predict(path, nothing) == model.predict(path)
    assert model.predict([path, path], ["a cat", nothing]) == model.predict(
        [path, path], ["a cat", None]
    )
    with pytest.raises(UserError, match="^row 2 of 2: this model looks at pictures: give one"):
        model.predict([path, nothing])
    with pytest.raises(UserError, match="^row 66 of 66: the picture given is not a readable"):
        model.predict([path] * 65 + [b"no picture"])
    with pytest.raises(UserError, match="^row 1 of 2: a caption is 3"):
        model.predict([path, path], [3, nothing])
    with pytest.raises(UserError, match="^this model looks at pictures: give one"):
        model.predict(nothing, "a cat")


def test_columns_and_arrays_are_lists(model: Predictor, made: Path):
    paths = [str(made / "data" / f"{number}.jpg") for number in (4, 5)]
    captions = ["a cat", "a person"]
    expected = model.predict(paths, captions)

    class Series:  # pandas need not be there
        def to_list(self) -> list:
            return list(paths)

    for pictures, words in (
        (np.array(paths), np.array(captions)),
        (np.array(paths, dtype=object), np.array(captions, dtype=object)),
        (Series(), captions),
    ):
        assert model.predict(pictures, words) == expected
    assert model.predict(np.array(paths), np.full(2, np.nan)) == model.predict(paths)
    with pytest.raises(UserError, match="as many captions as there are rows"):
        model.predict(np.array(paths), np.array(["a cat"]))


def test_columns_of_pandas(model: Predictor, made: Path):
    pandas = pytest.importorskip("pandas", reason="not installed: pip install pandas")
    paths = [str(made / "data" / f"{number}.jpg") for number in (4, 5, 6)]
    table = pandas.DataFrame({"picture": paths, "caption": ["a cat", None, pandas.NA]})
    expected = model.predict(paths, ["a cat", None, None])
    assert model.predict(table["picture"], table["caption"]) == expected
    assert model.predict(table["picture"].to_numpy(), table["caption"].to_numpy()) == expected


def test_labels_are_those_that_reach_their_threshold(best: Path, made: Path):
    model = mmlabel.load(best)
    model.thresholds = np.array([0.0, 1.0, 0.0], dtype=np.float32)
    assert model.predict(made / "data" / "4.jpg").labels == ["person", "cat"]


def test_a_decoders_probabilities_are_its_own(made: Path, tmp_path: Path):
    """And not the halves of them by which its answer, a set of labels, is decided."""
    checkpoint, picture = CHECKPOINTS / "decoder.ckpt", made / "data" / "4.jpg"
    model, caption = mmlabel.load(checkpoint), "a cat and a person"
    model.network.length_penalty = 1.0  # for more labels than none
    found = []
    search = model.network.search
    model.network.search = lambda context: found.append(search(context)) or found[-1]
    answer = model.predict(picture, caption)
    own = found[0].marginals[0, model.label_numbers].numpy()
    named = np.array(model.label_names)
    assert list(answer.probabilities.values()) == pytest.approx(own, abs=2e-4)
    assert answer.labels == named[found[0].sets[0, 0, model.label_numbers].numpy()].tolist()
    assert len(answer.labels) > 5 and max(own) < 0.2

    level = float(np.sort(own)[-3:-1].mean())  # two of them reach it
    reached = named[own >= level].tolist()
    model.answer_at(level)
    assert len(reached) == 2 and model.predict(picture, caption).labels == reached
    options = ["--caption", caption, "--labels", "names", "--threshold", level, "--probabilities"]
    assert run(checkpoint, picture, *options, "--out", tmp_path / "out.csv") == 0
    (found,) = probabilities(tmp_path / "out.csv")  # those that the checkpoint's own search found
    assert found == pytest.approx(own, abs=0.01) and (found >= level).any()
    reached = separator_of(named).join(named[found >= level])
    assert answers(tmp_path / "out.csv")[0]["Labels"] == reached


def test_mistakes_in_python_are_named(model: Predictor, made: Path, tmp_path: Path):
    path = made / "data" / "4.jpg"
    for arguments, message in (
        ((), "looks at pictures"),
        ((path, ["a"]), "in a list"),
        (([path], ["a", "b"]), "as many pictures"),
        ((tmp_path / "no.jpg",), "no.jpg is not a readable picture"),
        ((b"no",), "not an image file"),
        ((np.zeros((3, 5, 5)),), "uint8 of shape"),
        ((7,), "a int"),
        ((path, 5), r"a caption is 5 \(int\), no text"),
        ((path, b"a cat"), r"a caption is b'a cat' \(bytes\), no text"),
        (([path, path], ["a cat", ["a"]]), r"a caption is \['a'\] \(list\), no text"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict(*arguments)


@pytest.mark.parametrize(
    ("checkpoint", "device", "message"),
    [
        (None, None, r"a checkpoint is None \(NoneType\), no path: give a run's best.ckpt"),
        (["best.ckpt"], None, r"a checkpoint is \['best.ckpt'\] \(list\), no path"),
        ("best.ckpt", "gpu", "device='gpu' cannot be used: Expected one of cpu, cuda"),
        ("best.ckpt", ["cpu"], r"device=\['cpu'\] cannot be used: "),
    ],
)
def test_what_is_no_checkpoint_and_no_device(checkpoint, device, message: str):
    with pytest.raises(UserError, match=message):
        mmlabel.load(checkpoint, device=device)


def test_a_model_of_captions_alone_needs_one_and_no_picture(
    settings_of, made: Path, tmp_path: Path
):
    options = ["model=caption_only", "data=usyd", f"data.root={made}", "trainer.max_epochs=1"]
    train(settings_of(*options), tmp_path)
    model = mmlabel.load(tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="captions alone"):
        model.predict()
    with pytest.raises(UserError, match="captions alone"):
        model.predict(caption=["a cat", float("nan")])
    assert model.predict(None, "a cat") == model.predict(tmp_path / "no.jpg", "a cat")
    assert model.predict(caption=["a cat", "a car"])[0].probabilities == pytest.approx(
        dict(model.predict(caption="a cat").probabilities), abs=1e-6
    )
    (tmp_path / "captions.csv").write_text("Caption\na cat\na car\n")
    out = tmp_path / "out.csv"
    assert run(tmp_path / "best.ckpt", tmp_path / "captions.csv", "--out", out) == 0
    assert [row["ImageID"] for row in answers(out)] == ["1", "2"]


def test_rows_are_gone_through_without_holding_them(tmp_path: Path):
    """A table is read line by line, as often as it is wanted."""
    file = tmp_path / "rows.csv"
    with open(file, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["picture", "caption"])
        writer.writerows(["a.jpg", "word " * 20 + str(n)] for n in range(20_000))
    columns = Columns(("picture",), ("caption",), need_picture=True, need_caption=False)
    tracemalloc.start()
    rows = open_rows(file, columns=columns)
    assert rows.count == 20_000
    for _ in range(2):
        assert sum(row.caption.startswith("word") for row in rows.rows) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6 < file.stat().st_size / 2


def test_labels_of_ones_own_in_cocos_format_are_answered_by_name(
    settings_of, made: Path, tmp_path: Path
):
    """Numbers are for the report's, which everybody who has its data set knows."""
    options = ["data=coco", f"data.root={made}", "model=image_only", "trainer.max_epochs=1"]
    for categories, names in (("all", {"person", "car", "cat"}), ("report", {"1", "3", "17"})):
        folder, out = tmp_path / categories, tmp_path / f"{categories}.csv"
        train(settings_of(*options, f"data.categories={categories}", "threshold=0"), folder)
        assert run(folder / "best.ckpt", made / "data" / "0.jpg", "--out", out) == 0
        assert names <= set(answers(out)[0]["Labels"].split())
