"""CONTRIBUTING.md: in a copy of the project one of everything is added as it says, and runs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Each thing with its files: new ones with their content, others with what stands in place of what.
BACKBONE = {
    "mmlabel/models/backbone_table.py": [
        ("BACKBONES = {", 'BACKBONES = {\n    "small": BackboneRow("timm", "test_resnet", 96),')
    ],
    "conf/backbone/small.yaml": "defaults:\n  - _shared\n  - _self_\n\nname: small\n",
}
DISTANCE = '''
class Distance(LossOptions):
    """How far the probability is from the target."""

    name: Literal["distance"]
    power: AtLeast0 = 2.0
    """To which it is raised."""

    def mean(self, logits: Tensor, targets: Tensor, weight: Weights, positive: Weights) -> Tensor:
        """Of |σ(x) - y|^power."""
        each = (logits.sigmoid() - targets).abs() ** self.power
        return (each if weight is None else each * weight).mean()


Loss = Annotated[Distance | '''
LOSS = {
    "mmlabel/losses.py": [("Loss = Annotated[", DISTANCE)],
    "conf/loss/distance.yaml": (
        "defaults:\n  - _shared\n  - _self_\n\nname: distance\npower: 2.0\n"
    ),
}
PAIRS = '''
class Pairs(Splits):
    """Rows of picture, labels and caption."""

    name: Literal["pairs"]
    file: Text
    """The file."""

    def read(
        self, *, cache_dir: Path, require_pictures: bool, require_captions: bool
    ) -> Annotations:
        """The rows of the file."""
        from mmlabel.data.sources.pairs import read_pairs

        return read_pairs(
            Path(self.file).expanduser(),
            require_pictures=require_pictures,
            require_captions=require_captions,
        )


DataSource = Annotated[Pairs | '''
SOURCE = {
    "mmlabel/data/sources/pairs.py": '''"""Rows of picture, labels and caption."""

import csv
from pathlib import Path

import numpy as np

from mmlabel.data.annotations import Annotations, check_ids, checked_annotations


def read_pairs(file: Path, *, require_pictures: bool, require_captions: bool) -> Annotations:
    """Read `file`, whose labels are numbers."""
    with open(file, newline="", encoding="utf-8") as text:
        _, *rows = csv.reader(text)
    ids = [row[0] for row in rows]
    check_ids(file, ids)
    targets = np.zeros((len(rows), 20), dtype=np.uint8)
    for number, row in enumerate(rows):
        targets[number, [int(label) for label in row[1].split()]] = 1
    return checked_annotations(
        file,
        ids=ids,
        captions=[row[2] for row in rows],
        targets=targets,
        label_names=[f"label {number}" for number in range(20)],
        pictures=[file.parent / id for id in ids],
        require_pictures=require_pictures,
        require_captions=require_captions,
    )
''',
    "mmlabel/data/options.py": [("DataSource = Annotated[", PAIRS)],
    "conf/data/pairs.yaml": "defaults:\n  - _splits\n  - _self_\n\nname: pairs\nfile: ???\n",
}
METRIC = {
    "mmlabel/score_table.py": [
        (
            "SCORES = {",
            'SCORES = {\n    "hamming": ScoreRow("Hamming loss", lower_is_better=True),',
        )
    ],
    "mmlabel/metrics.py": [
        (
            'return scores | {"map":',
            'scores["hamming"] = (answers != targets).double().mean().item()\n'
            '    return scores | {"map":',
        )
    ],
}
STUDY = {
    "conf/study/small.yaml": """title: Small things
question: Do they run?
baseline: named
fixed: [data=pairs, loss=distance, loss.power=1.5, monitor=val/hamming]
variants:
  named: {label: A named backbone, overrides: [backbone=small]}
  timm: {label: Any of timm's, overrides: [backbone=timm, backbone.model_name=test_vit]}
"""
}
ADDED = {
    "backbone": BACKBONE,
    "loss": LOSS,
    "data source": SOURCE,
    "metric": METRIC,
    "study": STUDY,
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with one of everything added."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("conf", "mmlabel"):
        shutil.copytree(
            REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("train.py", "sweep.py"):
        shutil.copy(REPOSITORY / name, root)
    for files in ADDED.values():
        for name, change in files.items():
            add(root / name, change)
    return root


def add(path: Path, change: str | list[tuple[str, str]]) -> None:
    """Write a new file, or put words in place of others that stand there once."""
    if isinstance(change, str):
        assert not path.exists()
        path.write_text(change)
        return
    text = path.read_text()
    for old, new in change:
        assert text.count(old) == 1, f"{path}: {old}"
        text = text.replace(old, new)
    path.write_text(text)


def call(copy: Path, *command: str, cwd: Path) -> str:
    process = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.parametrize("thing", ADDED)
def test_the_page_names_the_files_of_each_thing_and_no_others(thing: str):
    page = (REPOSITORY / "CONTRIBUTING.md").read_text()
    (row,) = re.findall(rf"^\| {thing}.*$", page, flags=re.MULTILINE)
    named = re.findall(r"`((?:conf|mmlabel)/[^`]*)`", row)
    names = "NAME|small|distance|pairs"
    given = [re.sub(rf"/({names})\.", "/NAME.", name) for name in ADDED[thing]]
    assert sorted(named) == sorted(given)
    assert f"| {len(given)} |" in row


def test_one_of_everything_runs(copy: Path, made: Path, quick: list[str], tmp_path: Path):
    left = ("data.rows", "data.image_size", "backbone=", "backbone.model_name=")
    options = [option for option in quick if not option.startswith(left)]
    options += [f"data.file={made / 'rows.csv'}", "data.image_size=160", "features.engine=torch"]
    call(copy, f"{copy / 'sweep.py'}", "study=small", "seeds=1", *options, cwd=tmp_path)
    found = [json.loads(p.read_text()) for p in (tmp_path / "studies").rglob("results.json")]
    assert {run["variant"] for run in found} == {"named", "timm"}
    for run in found:
        assert run["settings"]["loss"] == {"name": "distance", "power": 1.5, "smoothing": 0.0}
        assert run["settings"]["data"]["name"] == "pairs"
        assert 0 < run["scores"]["test/hamming"] < 1
    for folder in (tmp_path / "studies" / "runs").iterdir():
        run = json.loads((folder / "results.json").read_text())
        with open(folder / "metrics.csv", newline="") as text:
            values = [row["val/hamming"] for row in csv.DictReader(text)]
        lowest = min(float(value) for value in values if value)
        assert run["scores"]["val/hamming"] == pytest.approx(lowest), "the best is the lowest"


def test_help_shows_what_was_added(copy: Path, tmp_path: Path):
    said = call(copy, f"{copy / 'train.py'}", "--help", cwd=tmp_path)
    assert "distance" in said and "loss.power" in said and "pairs" in said and "val/hamming" in said
