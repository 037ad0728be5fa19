"""The processors that a program may use."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_passes: int | None = None


def cores() -> int:
    """Those of this process; a container is often given fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoders(asked: int | None) -> int:
    """How many processes decode pictures: one a core, or fewer if so many are asked for.

    More would wait for one another: decoding is work of the processor alone.
    """
    return cores() if asked is None else min(asked, cores())


def share_threads(threads: int, *, passes: int) -> None:
    """Let this process compute in so many threads, as one of several side by side.

    `passes` is for `pass_threads`.
    """
    global _passes
    _passes = passes
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for what is imported or started later
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


@contextmanager
def pass_threads() -> Iterator[None]:
    """Threads for a pass over pictures: in one of several jobs, for which the others wait, all."""
    import torch

    own = torch.get_num_threads()
    try:
        torch.set_num_threads(_passes or own)
        yield
    finally:
        torch.set_num_threads(own)
