"""The processors that a program may use."""

import os


def cores() -> int:
    """Those of this process; a container is often given fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoders(asked: int | None) -> int:
    """How many processes decode pictures: one a core, or fewer if so many are asked for.

    More would wait for one another: decoding is work of the processor alone.
    """
    return cores() if asked is None else min(asked, cores())
