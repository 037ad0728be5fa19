"""Imports torchmetrics without the libraries that only its other metrics need.

Lightning needs torchmetrics, which imports torchvision, transformers, matplotlib and scipy.signal
where they are installed: two seconds of a run's start. It does without them where they are not, and
nothing here uses a metric of pictures, texts or sound, or draws one.
"""

import sys

from lightning_utilities.core import imports

_LEFT_OUT = ("torchvision", "transformers", "matplotlib", "scipy")


class _Requirement(imports.RequirementCache):
    """What torchmetrics asks for: whether a package is installed, such as "transformers>=4.4"."""

    def __bool__(self) -> bool:
        return not (self.requirement or "").startswith(_LEFT_OUT) and super().__bool__()


def _package_available(name: str) -> bool:
    return name not in _LEFT_OUT and _usual[1](name)


_usual = imports.RequirementCache, imports.package_available
if "torchmetrics" not in sys.modules:
    imports.RequirementCache, imports.package_available = _Requirement, _package_available
    try:
        import torchmetrics  # noqa: F401
    finally:
        imports.RequirementCache, imports.package_available = _usual
