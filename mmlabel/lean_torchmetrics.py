"""Imports torchmetrics without the libraries that only its other metrics need.

Lightning needs torchmetrics, which imports torchvision, transformers and matplotlib where they are
installed: more than a second of a run's start. It does without them where they are not, and nothing
here uses a metric of pictures or texts, or draws one.
"""

import sys

from lightning_utilities.core import imports

_LEFT_OUT = ("torchvision", "transformers", "matplotlib")


class _Requirement(imports.RequirementCache):
    """What torchmetrics asks for: whether a package is installed, such as "transformers>=4.4"."""

    def __bool__(self) -> bool:
        return not (self.requirement or "").startswith(_LEFT_OUT) and super().__bool__()


if "torchmetrics" not in sys.modules:
    _usual = imports.RequirementCache
    imports.RequirementCache = _Requirement
    try:
        import torchmetrics  # noqa: F401
    finally:
        imports.RequirementCache = _usual
