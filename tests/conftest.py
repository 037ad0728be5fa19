"""Fixtures that more than one test file needs."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmlabel.cli import load_settings
from mmlabel.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent

# The last digits of a score depend on it; torch, which is not imported yet, reads it then.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is started from here would inherit it from a shell that has started this in the background.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A run of a second: few and small pictures, a small random backbone, nothing to be fetched.
QUICK = [
    "data.rows=[60,24,24]",
    "data.image_size=32",
    "data.workers=0",
    "backbone=timm",
    "backbone.model_name=test_resnet",
    "backbone.weights=none",
    "features.engine=torch",  # what live batches are computed by, too
    "captions.lemmas=none",
    "embedding=learned",
    "embedding.dim=16",
    "lstm.hidden=8",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "logger=csv",
    "report=false",
]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data beside the project; a test that needs it says so without it."""
    folder = Path(os.environ.get("MMLABEL_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder} (set MMLABEL_SHARED): left out")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that the whole test session shares."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def as_usual_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's cache for what has no cache_dir, so that the user's own is left alone."""
    monkeypatch.setenv("MMLABEL_CACHE", str(cache))


@pytest.fixture(scope="session")
def quick(cache: Path) -> list[str]:
    """Overrides that make a run of train.py take a second."""
    return [*QUICK, f"cache_dir={cache}"]


@pytest.fixture(scope="session")
def settings_of(quick: list[str]) -> Callable[..., Settings]:
    """Gives the settings of a quick run with further overrides."""

    def resolve(*overrides: str) -> Settings:
        options = [option for option in quick if _fits(option, overrides)]
        return load_settings([*options, *overrides])

    return resolve


def _fits(option: str, overrides: tuple[str, ...]) -> bool:
    """Whether what the overrides choose has this option of QUICK at all."""
    if option.startswith("data.rows="):
        return not {"data=csv", "data=usyd", "data=coco"}.intersection(overrides)
    if option.startswith("backbone.model_name="):
        return not any(text.startswith("backbone=") for text in overrides)
    if option.startswith("embedding.dim="):
        return not {"embedding=glove", "embedding=file", "embedding=contextual"} & set(overrides)
    return True


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of few captioned pictures in each form that is read; see made_data.py."""
    from made_data import write_made_data

    folder = tmp_path_factory.mktemp("made")
    write_made_data(folder)
    return folder


@pytest.fixture(scope="session")
def scenes(settings_of: Callable[..., Settings]) -> Path:
    """The folder of the built-in pictures that a quick run reads."""
    from mmlabel.data.sources.scenes import scenes_folder

    settings = settings_of()
    data = settings.data
    return scenes_folder(
        Path(settings.cache_dir),
        seed=data.scenes_seed,
        rows=tuple(data.rows),
        size=data.image_size,
    )


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """From its call on, an import of one of these packages is an error."""

    def block(*packages: str) -> None:
        for name in {*packages, *sys.modules}:
            if name.partition(".")[0] in packages:
                monkeypatch.setitem(sys.modules, name, None)

    return block


@pytest.fixture
def train_py(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, int]]:
    """Calls train.py in `tmp_path`: what it prints, and its exit code.

    In this process, as the imports of another take seconds.
    """
    import train
    from mmlabel.cli import run_cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[str, int]:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the former call has set
        code: object = 0
        try:
            run_cli(train.main, str)
        except SystemExit as stop:
            code = stop.code
        said = "".join(capsys.readouterr())
        return (f"{said}{code}\n", 1) if isinstance(code, str) else (said, int(code or 0))

    return call


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    """What a program that is called in this process leaves: handlers of signals, by which Ctrl-C
    would end a test in place of all, and Hydra's logs: a file whose folder goes with the test, and
    the test's own output."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    root = logging.getLogger()
    hydras = (logging.FileHandler, logging.StreamHandler)
    for log in [each for each in root.handlers if type(each) in hydras]:
        root.removeHandler(log)
        log.close()
