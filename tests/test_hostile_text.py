"""Texts from data on a terminal: whatever they hold, they move nothing and raise nothing."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import write_fake_run
from markupsafe import Markup

from mmlabel.cli import command_settings, load_settings
from mmlabel.compare import main as compare
from mmlabel.errors import UserError
from mmlabel.export.__main__ import _parser as export_parser
from mmlabel.export.__main__ import export
from mmlabel.report import StudyReport, VariantSummary
from mmlabel.report.pages import write_page
from mmlabel.run_folder import read_results
from mmlabel.study.printed import print_study
from mmlabel.terminal import PlainFormatter, print_table, printable
from mmlabel.tracking import wandb_logger
from mmlabel.training_options import Wandb

NO_UTF_8 = os.fsdecode(b"caf\xe9")
HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",
    "[/x] [bold red]",
    "[link=http://x]y[/link] :warning:",
    "\r\n\x08\x0b\x85",
    "\u202egpj.exe\u2066",
    "\ud800\udcff",
    "\x9b31m",
    "%s %(x)s {x}",
]
ALLOWED = {"\n"}


def only_text(said: str) -> bool:
    return all(c.isprintable() or c in ALLOWED for c in said)


@pytest.mark.parametrize("text", HOSTILE)
def test_everywhere_in_the_tables(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_fake_run(tmp_path, seed=0, noise=0.1)
    results = read_results(tmp_path)
    results["scores"] |= {"val/map": 0.5, "val/loss": 0.3, "test/map": 0.25, "test/loss": 0.125}
    row = {"support": 3, "precision": 0.5, "recall": 0.75, "f1": 0.6}
    results |= {"labels": {"1": {"name": text} | row}, "notes": [text]}
    print_table(results)
    variant = VariantSummary("a", text, [], {}, verdict=text, explanation=text, published=0.5)
    study = StudyReport(text, text, "b", [variant], "test/f1_micro", text, text, notes=[text])
    print_study(replace(study, variants=[replace(variant, extra={text: 0.5})]))
    said = capsys.readouterr().out
    assert only_text(said)
    if text.isprintable():
        assert said.count(text) >= 6


@pytest.mark.parametrize("text", HOSTILE)
def test_in_messages(text: str):
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "read %s\n  and\tmore", (text,), None)
    said = PlainFormatter("%(message)s").format(record)
    assert only_text(said)
    assert said.startswith("read ") and "\n  and " in said


def test_the_log_of_a_run_goes_through_it():
    from mmlabel.cli import CONF

    lines = (CONF / "hydra" / "job_logging" / "mmlabel.yaml").read_text().splitlines()
    assert sum("mmlabel.terminal.PlainFormatter" in line for line in lines) == 2


def test_an_error_is_one_line_of_text(tmp_path: Path):
    name = tmp_path / "\x1b[2J[/x].ckpt"
    done = subprocess.run(
        [sys.executable, "-m", "mmlabel.predict", str(name), "x.csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and only_text(done.stderr)
    assert "?[2J[/x].ckpt" in done.stderr and "Traceback" not in done.stderr


def test_letters_of_all_scripts_stay():
    for text in ("naïve 车 🚗", "می‌خواهم", "क्‍ष", "👩‍🚒"):
        assert printable(text) == text


# ---- Names of folders that are no UTF-8, as on old disks -----------------------------------------


def test_an_option_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch):
    for options, name in (
        (["data=csv", f"data.file='/{NO_UTF_8}/rows.csv'"], "data.file=/"),
        (["distil.teacher=['a.ckpt','" + NO_UTF_8 + "']"], "distil.teacher=caf"),
    ):
        with pytest.raises(UserError, match=f"{name}.* is not in UTF-8: rename the file or folder"):
            command_settings(options)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")  # as LC_ALL=C may have it
    with pytest.raises(UserError, match="is not in ascii, which the locale says: set PYTHONUTF8=1"):
        command_settings(["cache_dir='/é'".encode().decode("ascii", "surrogateescape")])


def test_runs_in_such_a_folder_are_compared_and_shown(tmp_path: Path):
    folder = tmp_path / NO_UTF_8
    for seed in (0, 1):
        settings = load_settings([f"lstm.layers={seed + 1}"]).plain()
        write_fake_run(folder / str(seed), seed=seed, noise=0.1, settings=settings)
    assert compare([str(folder), "--out", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "runs.csv").read_bytes()
    assert table.count(b"caf\xe9") == 2 and (tmp_path / "out" / "report.html").is_file()
    page = write_page(tmp_path / "page.html", title=NO_UTF_8, header=Markup(""), sections=[])
    assert b"caf\xe9" in page.read_bytes()


def test_what_cannot_be_written_there_says_so(tmp_path: Path):
    folder = tmp_path / NO_UTF_8
    with pytest.raises(UserError, match="wandb cannot write to .* is not in UTF-8"):
        wandb_logger(Wandb(), config={}, folder=folder, name="run", group=None, tags=[])
    options = ["best.ckpt", "--format", "onnx", "--out", str(folder)]
    with pytest.raises(UserError, match="--out .* is not in UTF-8"):
        export(export_parser().parse_args(options))
