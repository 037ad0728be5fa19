"""docs/use.md does what it says: its commands are run as they stand, on a table of few rows."""

import csv
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlabel.cli import load_settings

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENT = (REPOSITORY / "docs" / "use.md").read_text(encoding="utf-8")
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 230)}


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has who follows the page: a table in the form shown there, and a new picture."""
    folder, random = tmp_path_factory.mktemp("use"), np.random.default_rng(0)
    (folder / "mine" / "photos").mkdir(parents=True)
    (folder / "train.py").symlink_to(REPOSITORY / "train.py")
    with open(folder / "mine" / "rows.csv", "w", newline="") as file:
        file.write(blocks("csv")[0].splitlines()[0] + "\n")
        for row in range(90):
            labels = [name for name in COLOURS if random.random() < 0.4] or ["red"]
            draw(folder / "mine" / "photos" / f"{row}.jpg", labels, random)
            said = " and ".join(name for name in labels if random.random() < 0.8)
            csv.writer(file).writerow([f"photos/{row}.jpg", " ".join(labels), f"a card {said}"])
    draw(folder / "new.jpg", ["red"], random)
    return folder


def draw(path: Path, labels: list[str], random: np.random.Generator) -> None:
    pixels = random.integers(90, 130, (64, 96, 3), dtype=np.uint8)
    for place, name in enumerate(COLOURS):
        if name in labels:
            pixels[10:54, 6 + 30 * place : 30 + 30 * place] = COLOURS[name]
    Image.fromarray(pixels).save(path)


def run(command: str, capsys: pytest.CaptureFixture) -> str:
    """What a command prints; those of the package run here, which saves their imports."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    if arguments[0] == "-m":
        module = importlib.import_module(arguments[1])
        main = (
            getattr(module, "main", None)
            or importlib.import_module(f"{arguments[1]}.__main__").main
        )
        assert main(arguments[2:]) == 0
        return capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_of_the_page_does_what_it_says(
    folder: Path, cache: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MMLABEL_CACHE", str(cache))
    monkeypatch.setenv("WANDB_MODE", "offline")
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    looked, trained, one, _ = (run(command, capsys) for command in commands)
    assert "rows: 90" in looked and Path("data.html").is_file()
    assert "micro-F1" in trained and Path("outputs/first/report.html").is_file()
    (shown,) = (block for block in blocks("") if block.startswith("ImageID"))
    assert one.replace("\r", "") == shown
    with open("answers.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 90
    (python,) = blocks("python")
    exec(python, {})
    assert capsys.readouterr().out.startswith("['red'] {'blue': 0.")


def test_the_table_of_the_page_is_read_as_it_stands(tmp_path: Path):
    (tmp_path / "rows.csv").write_text(blocks("csv")[0])
    data = load_settings(["data=csv", f"data.file={tmp_path}/rows.csv"]).data
    found = data.read(cache_dir=tmp_path, require_pictures=False, require_captions=True)
    assert found.label_names == ["blue", "green", "red"] and len(found) == 3
