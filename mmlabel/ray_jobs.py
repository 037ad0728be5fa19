"""Jobs that Ray's launcher has started: signals reach the program that waits for them.

Ray waits in C, where it passes over what the handler of a signal raises, and takes SIGTERM for
itself. As the program ends, its jobs do, on all machines of the cluster.
"""

import signal
import time
from collections.abc import Sequence
from functools import wraps
from importlib import import_module
from types import SimpleNamespace
from typing import Any

_LAUNCHERS = ("hydra/launcher=cluster", "hydra/launcher=ray")

_PAUSE = 0.2  # seconds between two looks at whether a job is done


def hear_signals(arguments: Sequence[str]) -> None:
    """In the program: let it end on Ctrl-C and SIGTERM while it waits for jobs of Ray's.

    Args:
        arguments: of the command line.
    """
    if not set(_LAUNCHERS) & set(arguments):
        return
    try:
        launcher: Any = import_module("hydra_plugins.hydra_ray_launcher._core")
    except ImportError:
        return  # of which Hydra tells
    start, ray = launcher.start_ray, launcher.ray

    @wraps(start)
    def start_ray(*given, **options):
        former = signal.getsignal(signal.SIGTERM)
        start(*given, **options)
        signal.signal(signal.SIGTERM, former)

    def get(job):
        while not ray.wait([job], timeout=0)[0]:
            time.sleep(_PAUSE)
        return ray.get(job)

    launcher.start_ray = start_ray
    launcher.ray = SimpleNamespace(**vars(ray) | {"get": get})
