"""How many examples a fuzz test draws: MMLABEL_FUZZ of them, or a few, the same in each run."""

import os

from hypothesis import HealthCheck, settings


def drawing(usual: int) -> settings:
    """Hypothesis' settings; `usual`: how many examples in a run of all tests."""
    asked = int(os.environ.get("MMLABEL_FUZZ") or 0)
    return settings(
        max_examples=asked or usual,
        derandomize=not asked,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
