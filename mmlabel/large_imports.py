"""The libraries that take seconds to import."""

import atexit
import gc
import importlib
import sys


def import_large(*modules: str) -> None:
    """Import modules that are not there yet, in this order, without the garbage collector.

    They bring hundreds of thousands of objects, all of which stay: it would go through them again
    and again, which takes a second of a run's start. Nor does it look at them afterwards.
    """
    missing = [name for name in modules if name not in sys.modules]
    if not missing:
        return
    was_on = gc.isenabled()
    gc.disable()
    try:
        for name in missing:
            importlib.import_module(name)
    finally:
        gc.freeze()
        # Libraries that count what is left at the end would report all of it as leaked.
        atexit.register(gc.unfreeze)
        if was_on:
            gc.enable()
