"""How many processes are started where a program may use few processors."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmlabel.processors import cores, decoders
from mmlabel.training import train


@pytest.fixture
def one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not tie processes to processors: left out")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def test_no_more_decode_than_there_are_cores(one_core: None):
    assert cores() == 1
    assert [decoders(asked) for asked in (None, 0, 1, 2, 8)] == [1, 0, 1, 1, 1]


def test_a_run_on_one_core_has_one_process_for_pictures(
    one_core: None, settings_of: Callable, tmp_path: Path
):
    """Else torch warns of them, which is an error here."""
    options = ["model=image_only", "features=off", "data.workers=2", "trainer.max_epochs=1"]
    results = train(settings_of(*options), tmp_path / "run")
    assert results["settings"]["data"]["workers"] == 2
