"""Large imports go without the garbage collector, which is on again afterwards."""

import gc
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmlabel.errors import UserError
from mmlabel.large_imports import import_large

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_they_come_in_order_and_without_the_collector(made: Path):
    (made / "made_first.py").write_text("import gc\ncollected = gc.isenabled()\n")
    (made / "made_second.py").write_text("import sys\nfirst = sys.modules['made_first'].collected")
    import_large("made_first", "made_second")
    assert importlib.import_module("made_second").first is False
    assert gc.isenabled() and gc.get_freeze_count() > 0


def test_what_is_there_already_freezes_nothing():
    import_large("gc", "pytest")
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_a_failed_import_leaves_the_collector_on(made: Path):
    (made / "made_broken.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        import_large("made_broken")
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(ModuleNotFoundError):
            import_large("made_missing")
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()


def test_nothing_is_frozen_when_the_program_ends():
    """Or libraries that count what is left would report it as leaked."""
    program = """
import atexit, gc
atexit.register(lambda: print("frozen at the end:", gc.get_freeze_count()))
from mmlabel.large_imports import import_large
import_large("xml.dom.minidom")
print("frozen:", gc.get_freeze_count() > 0)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "frozen: True\nfrozen at the end: 0\n", ended.stderr


def test_torchmetrics_comes_without_what_only_its_other_metrics_need():
    program = """
import sys
from lightning_utilities.core import imports
usual, also = imports.RequirementCache, imports.package_available
import mmlabel.lean_torchmetrics
import mmlabel.training, mmlabel.predictor
left_out = ("torchvision", "transformers", "matplotlib", "scipy")
print([name for name in left_out if name in sys.modules])
print(imports.RequirementCache is usual, bool(usual("torchvision")))
print(imports.package_available is also, also("scipy"))
import torch
from torchmetrics.functional.classification import binary_average_precision as ap
print(ap(torch.tensor([0.9, 0.1]), torch.tensor([1, 0])).item())
from timm import create_model
from torchvision.models import get_model
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "[]\nTrue True\nTrue True\n1.0\n", ended.stderr


COMMANDS = {
    "mmlabel.predict": ["none.ckpt", "none.csv"],
    "mmlabel.demo": ["none.ckpt"],
    "mmlabel.export.__main__": ["none.ckpt", "--format=onnx", "--out=model"],
    "mmlabel.features": ["fill", "data=csv", "data.file=none.csv"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_import_it_so_before_all_that_brings_it(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    command, asked = importlib.import_module(name), []

    def refuse(*modules: str) -> None:
        asked.extend(modules)
        raise UserError("that is enough")

    monkeypatch.setattr(command, "import_large", refuse)
    assert command.main(COMMANDS[name]) == 1
    assert asked[0] == "mmlabel.lean_torchmetrics"


def test_programs_and_commands_begin_without_large_libraries():
    program = """
import importlib, sys
for name in [*sys.argv[1:], "train"]:
    importlib.import_module(name)
print([name for name in ("torch", "torchmetrics", "torchvision") if name in sys.modules])
"""
    call = [sys.executable, "-c", program, *COMMANDS]
    ended = subprocess.run(call, capture_output=True, text=True, cwd=REPOSITORY)
    assert ended.stdout == "[]\n", ended.stderr
