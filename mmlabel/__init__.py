"""Multi-label classification of captioned pictures."""

from __future__ import annotations

import sys
import warnings

if sys.argv[:1] == ["-m"]:  # python -m mmlabel.COMMAND, whose other imports follow this one
    from mmlabel.interrupts import end_on_interrupt

    end_on_interrupt()

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmlabel.predictor import Predictor

__version__ = "0.1.0"


def load(checkpoint: str | Path, *, device: str | None = None) -> Predictor:
    """The model of a finished run (its best.ckpt), whose `predict` labels pictures.

    Raises `mmlabel.errors.UserError` for what is no such file, and for a device (such as "cuda")
    that is not there.
    """
    # Torch takes seconds to load, and every other use of this package begins here too.
    from mmlabel.predictor import Predictor

    predictor = Predictor(checkpoint, device=device)
    for caution in predictor.cautions:
        warnings.warn(caution, stacklevel=2)
    return predictor
