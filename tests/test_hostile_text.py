"""Texts from data on a terminal: whatever they hold, they move nothing and raise nothing."""

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import write_fake_run

from mmlabel.report import StudyReport, VariantSummary
from mmlabel.run_folder import read_results
from mmlabel.study.printed import print_study
from mmlabel.terminal import PlainFormatter, print_table, printable

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
