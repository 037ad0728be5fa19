"""Every command ends with a status and a line, whatever ends it, and spares others' files."""

import errno
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from fake_runs import write_fake_run

from mmlabel import __main__ as commands
from mmlabel import compare, features, mistakes, predict
from mmlabel.cli import load_settings
from mmlabel.commands import run_command
from mmlabel.data import __main__ as data
from mmlabel.errors import UserError
from mmlabel.search.space import load_space

NAMES = "compare data.__main__ demo export.__main__ features mistakes predict"


@pytest.mark.parametrize("command", NAMES.split())
def test_ctrl_c_is_a_line_and_130(command: str, monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    module = import_module(f"mmlabel.{command}")
    monkeypatch.setattr(module, "_parser", interrupted)
    assert module.main([]) == 130
    assert capsys.readouterr().err == "mmlabel: interrupted\n"


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        (
            "compare",
            ["run", "--metrics", "x"],
            "--metrics: there is no such flag; did you mean --m",
        ),
        (
            "compare",
            ["run", "--colour"],
            "--colour: there is no such flag; python -m mmlabel.compare",
        ),
        ("data.__main__", ["--output=x"], "--output: there is no such flag; did you mean --out?"),
        ("data.__main__", ["--data.file=x"], "options are given without dashes: data.file=VALUE"),
        (
            "data.__main__",
            ["--config-dir=x"],
            "a flag of train.py's; give 'hydra.searchpath=[DIR]'",
        ),
        ("data.__main__", ["ckpt_path=x"], "ckpt_path=x: a checkpoint's options are not looked at"),
        ("export.__main__", ["x"], "the following arguments are required: --format, --out; python"),
        (
            "features",
            ["fill", "--parts=1/2"],
            "--parts: there is no such flag; did you mean --part?",
        ),
        (
            "features",
            ["fill", "--config-dir", "x"],
            "--config-dir: a flag of train.py's; give 'hydra.searchpath=[DIR]'",
        ),
        (
            "features",
            ["fill", "--cache-dir=x"],
            "--cache-dir=x: options are given without dashes: cache_dir=VALUE",
        ),
        (
            "features",
            ["list", "--key=x"],
            "--key=x: there is no such flag; python -m mmlabel.features list --help lists all",
        ),
        ("features", ["prune", "--older_than", "5", "--all"], "did you mean --older-than?"),
        (
            "mistakes",
            ["run", "--pictures=x"],
            "argument --pictures: invalid int value: 'x'; python",
        ),
        ("predict", ["a", "b", "--on_bad_image=skip"], "did you mean --on-bad-image?"),
        (
            "compare",
            ["run", "--colour", "--metrics=x"],
            "there is no such flag; python -m mmlabel.compare --help lists all; also: --metrics",
        ),
        (
            "data.__main__",
            ["--output=x", "--max-epochs", "3"],
            "did you mean --out?; also: --max-epochs: options are given without dashes",
        ),
        ("predict", ["a", "b", "c", "d"], "c d: too many; python -m mmlabel.predict --help says"),
    ],
)
def test_a_mistyped_flag_is_one_line(command: str, given: list[str], said: str, capsys):
    assert import_module(f"mmlabel.{command}").main(given) == 1
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.startswith("mmlabel: ") and not printed.out
    assert len(printed.err.splitlines()) == 1


def test_the_commands_are_listed(capsys):
    assert commands.main([]) == commands.main(["--help"]) == 0
    said = capsys.readouterr().out
    package = Path(commands.__file__).parent
    modules = {
        path.relative_to(package).with_suffix("").as_posix()
        for path in package.rglob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    modules -= {"__main__", "export/runner"}  # the second is copied beside exported models
    for name in modules:
        assert f"python -m mmlabel.{name.removesuffix('/__main__')} " in said
    assert said.count("python -m") == 2 * len(modules)


def test_a_command_behind_a_space_is_not_run(capsys):
    assert commands.main(["predict", "best.ckpt"]) == 1
    said = "mmlabel: a command follows a point: python -m mmlabel.predict\n"
    assert capsys.readouterr() == ("", said)
    assert commands.main(["pedict"]) == 1
    assert capsys.readouterr().err.startswith("mmlabel: pedict: python -m mmlabel takes nothing")


@pytest.mark.parametrize(
    "command",
    [
        lambda: data.main([]),
        lambda: features.main(["fill"]),
        lambda: run_command(lambda: load_space("default") and None),
    ],
)
def test_a_package_without_its_clone_is_told(command, monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setattr("mmlabel.help.CONF", tmp_path / "conf")
    assert command() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"mmlabel: there is no folder {tmp_path / 'conf'}: mmlabel is installed")
    assert "pip install -e ." in said and len(said.splitlines()) == 1


def test_the_status_of_the_work(capsys):
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 3) == 3
    assert capsys.readouterr() == ("", "")


def test_a_mistake_is_a_line_and_1(capsys):
    def mistaken() -> None:
        raise UserError("x.csv, row 3: \x1b[31mred\x1b[0m is no label")

    assert run_command(mistaken) == 1
    assert capsys.readouterr().err == "mmlabel: x.csv, row 3: ?[31mred?[0m is no label\n"


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("compare", ["a", "b", "--out=~/new"]),
        ("data.__main__", ["--out=~/new"]),
        ("demo", ["~/new"]),
        ("export.__main__", ["a", "--format=onnx", "--out=~/new"]),
        ("features", ["list", "--cache-dir=~/new"]),
        ("mistakes", ["a", "--out=~/new"]),
        ("predict", ["a", "b", "--out=~/new"]),
        ("predict", ["a", "b", "--pictures=~/new"]),
    ],
)
def test_the_home_folder_is_meant_by_its_sign(command: str, given: list[str], monkeypatch):
    """Which no shell expands behind an option's name."""
    monkeypatch.setenv("HOME", "/home/me")
    options = import_module(f"mmlabel.{command}")._parser().parse_args(given)
    assert Path("/home/me/new") in vars(options).values()


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


# ---- What is written to --out --------------------------------------------------------------------


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        settings = load_settings(["data=usyd", f"data.root={made}", f"seed={seed}"]).plain()
        write_fake_run(folder, seed=seed, noise=0.1, settings=settings)
        (folder / "report.html").write_text("the run's own page: python train.py")
    return folders


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("command", [mistakes.main, compare.main])
def test_a_folder_of_other_files_is_spared(
    command: Callable, runs: list[Path], tmp_path: Path, capsys
):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.html").write_text("by hand")
    for out in (runs[0], mine):
        before = content(out)
        assert command([*map(str, runs), "--out", str(out)]) == 1
        said = capsys.readouterr()
        assert said.err == f"mmlabel: --out {out} holds other files: give a new folder\n"
        assert not said.out and content(out) == before


@pytest.mark.parametrize("command", [mistakes.main, compare.main])
def test_a_folder_of_its_own_is_written_again(command: Callable, runs: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()  # and empty
    given = [*map(str, runs), "--out", str(out)]
    assert command(given) == 0
    first = (out / "report.html").read_bytes()
    (out / "report.html").write_bytes(first + b"<!-- older -->")
    (out / f".report.html.{'0' * 32}").touch()  # of a job that was killed while it wrote
    assert command(given) == 0
    assert (out / "report.html").read_bytes() == first
    (out / "notes.txt").write_text("mine")
    assert command(given) == 1


def test_a_study_and_a_comparison_do_not_replace_each_other(runs: list[Path], tmp_path: Path):
    """They write files of the same names."""
    out = tmp_path / "out"
    assert compare.main([*map(str, runs), "--out", str(out)]) == 0
    results = (out / "results.csv").read_text()
    (out / "results.csv").write_text(results.replace("python -m mmlabel.compare", "sweep.py", 1))
    assert compare.main([*map(str, runs), "--out", str(out)]) == 1


def test_the_data_page_replaces_none_but_its_own(runs: list[Path], quick: list, tmp_path, capsys):
    given = [option for option in quick if option != "report=false"]
    page = runs[0] / "report.html"
    before = page.read_bytes()
    assert data.main([*given, "--out", str(page)]) == 1
    assert f"--out {page} is another file already: give a new one" in capsys.readouterr().err
    assert page.read_bytes() == before
    assert data.main([*given, "--out", str(runs[0])]) == 1
    assert "is a folder: give a file" in capsys.readouterr().err
    (tmp_path / "new.html").touch()  # empty, as mktemp leaves it
    for _ in range(2):
        assert data.main([*given, "--out", str(tmp_path / "new.html")]) == 0


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("compare", ["no_run", "no_other"]),
        ("data.__main__", ["data=csv", "data.file=no.csv"]),
        ("export.__main__", ["no.ckpt", "--format=onnx"]),
        ("features", ["export", "--cache-dir=."]),
        ("mistakes", ["no_run"]),
        ("predict", ["no.ckpt", "."]),
        ("search.__main__", ["data=csv", "data.file=no.csv"]),
    ],
)
def test_a_place_that_cannot_be_is_told_before_the_work(
    command: str, given: list[str], tmp_path: Path, monkeypatch, capsys
):
    """There is nothing to work on, which would be told otherwise."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    place = "file/new.npz" if command == "features" else "file/new.csv"
    given = [*given, place if command == "features" else f"--out={place}"]
    monkeypatch.setattr(sys, "argv", ["", *given])
    run = import_module(f"mmlabel.{command}").main
    said = f"{place}( cannot be written)?: Not a directory"
    if command.startswith("search"):
        with pytest.raises(UserError, match=said):
            run()
    else:
        assert run() == 1
        assert re.search(said, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_no_file_to_write(tmp_path: Path, capsys):
    (tmp_path / "a.csv").mkdir()
    assert predict.main(["no.ckpt", str(tmp_path), "--out", str(tmp_path / "a.csv")]) == 1
    assert "a.csv is a folder: give a file in it" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.ENAMETOOLONG])
def test_a_place_that_cannot_be_used_is_a_line(number: int, capsys):
    def work() -> None:
        raise OSError(number, os.strerror(number), "/data/pictures")

    assert run_command(work) == 1
    said = capsys.readouterr().err
    assert "/data/pictures" in said and os.strerror(number) in said
    assert len(said.splitlines()) == 1


def test_another_error_of_the_machine_is_not_hidden():
    def work() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        run_command(work)
