"""Fixtures that more than one test file needs."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
