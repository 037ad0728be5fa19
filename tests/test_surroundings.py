"""Runs where the cache, the network or the terminal are not what one would wish for."""

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlabel import cache as cache_module
from mmlabel.training import train

REPOSITORY = Path(__file__).resolve().parent.parent
WORDS = ["embedding=word2vec", "embedding.dim=8"]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write there, root included."""
    if os.geteuid() != 0:
        modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        return
    target = str(folder)
    if subprocess.run(["mount", "--bind", target, target], capture_output=True).returncode:
        pytest.skip("root may write anywhere and nothing can be mounted here: left out")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)


@pytest.fixture(scope="module")
def scores(settings_of, tmp_path_factory) -> tuple[Path, dict]:
    """A cache, and the scores of the run that filled it."""
    root = tmp_path_factory.mktemp("surroundings")
    results = train(settings_of(*WORDS, f"cache_dir={root / 'cache'}"), root / "run")
    return root / "cache", results["scores"]


@pytest.fixture(autouse=True)
def said_anew() -> Iterator[None]:
    cache_module._say_once.cache_clear()
    yield
    cache_module._say_once.cache_clear()


def test_a_warm_cache_that_is_read_only_serves(settings_of, scores, tmp_path, caplog) -> None:
    folder, expected = scores
    with read_only(folder):
        results = train(settings_of(*WORDS, f"cache_dir={folder}"), tmp_path / "run")
    assert results["scores"] == expected and results["notes"] == []
    said = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [r for r in said if "cache" in r.getMessage()]


def test_a_cold_cache_that_is_read_only(settings_of, scores, tmp_path, caplog) -> None:
    (tmp_path / "cache").mkdir()
    with read_only(tmp_path / "cache"):
        results = train(settings_of(*WORDS, f"cache_dir={tmp_path / 'cache'}"), tmp_path / "run")
    assert results["scores"] == pytest.approx(scores[1], abs=1e-6)
    assert not list((tmp_path / "cache").iterdir())
    said = [m for m in caplog.messages if m.startswith("nothing new is kept in the cache")]
    assert len(said) == 1 and str(tmp_path / "cache") in said[0]


def test_a_cache_that_is_a_file(settings_of, scores, tmp_path, caplog) -> None:
    (tmp_path / "cache").write_text("a file")
    results = train(settings_of(*WORDS, f"cache_dir={tmp_path / 'cache'}"), tmp_path / "run")
    assert results["scores"] == pytest.approx(scores[1], abs=1e-6)
    said = [m for m in caplog.messages if m.startswith("nothing new is kept in the cache")]
    assert len(said) == 1 and (tmp_path / "cache").read_text() == "a file"


def test_a_closed_machine_with_a_terminal_of_ascii(quick: list[str], tmp_path: Path) -> None:
    """No network, nothing fetched before, no UTF-8, and names that ASCII does not have."""
    random = np.random.default_rng(0)
    names = ["caf\u00e9", "\u72ac", "na\u00efve"]
    lines = ["picture,labels,caption"]
    for number in range(30):
        pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        own = [name for name in names if random.random() < 0.5] or names[:1]
        lines.append(f"{number}.png,{' '.join(own)},une {own[0]} \u2014 \U0001f436")
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    taken = ("data.", "captions.", "embedding", "backbone", "report=")
    common = [option for option in quick if not option.startswith(taken)]
    options = [
        "data=csv",
        f"data.file={tmp_path / 'rows.csv'}",
        "data.image_size=32",
        "data.workers=0",
        "data.on_missing=continue",
        "backbone=resnet18",
        "backbone.weights=pretrained",
        f"cache_dir={tmp_path / 'cache'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    kept = {k: v for k, v in os.environ.items() if k not in ("LANG", "no_proxy", "NO_PROXY")}
    environment = {
        **kept,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(tmp_path / "home"),
        **{name: str(tmp_path / "no") for name in ("TORCH_HOME", "NLTK_DATA", "GENSIM_DATA_DIR")},
        **{name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")},
    }
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *common, *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    said = done.stderr.decode("ascii") + done.stdout.decode("ascii")
    assert done.returncode == 0, said
    assert "Traceback" not in said
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert sorted(row["name"] for row in results["labels"].values()) == sorted(names)
    for missing in ("resnet18-f37072fd.pth", "WordNet", "glove-wiki-gigaword-100"):
        assert any(missing in note for note in results["notes"]), missing
    assert "caf\u00e9" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, 1), (errno.EPIPE, 0)])
def test_a_run_whose_scores_cannot_be_printed_has_finished(
    code: int, said: int, settings_of, scores, tmp_path, monkeypatch, caplog
) -> None:
    def print_table(results: dict) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("mmlabel.training.print_table", print_table)
    folder, expected = scores
    results = train(settings_of(*WORDS, f"cache_dir={folder}"), tmp_path / "run")
    assert results["scores"] == expected
    assert sum("the scores cannot be printed (No space" in m for m in caplog.messages) == said
