from pathlib import Path

import pytest
from made_up_study import VALID, write_study_file

from mmlabel.study.definition import Study, load_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three variants of which each is worse than the one before it."""
    loaded = load_study("mine", write_study_file(tmp_path, VALID))
    assert isinstance(loaded, Study)
    return loaded
