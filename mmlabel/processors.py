"""The processors that a program may use."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

_passes: int | None = None


def cores() -> int:
    """Those of this process; a container is often given fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoders(asked: int | None) -> int:
    """How many processes decode pictures: one a core, or fewer if so many are asked for.

    More would wait for one another: decoding is work of the processor alone.
    """
    return cores() if asked is None else min(asked, cores())


def in_threads(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """What `make` gives of each item, in order, the next ones in threads while one is used.

    For pictures on the processor that the network runs on: decoding costs a tenth of a small
    backbone's time there, and hardly holds Python's lock, so that threads, of one for four cores,
    need no start and no copies between processes.
    """
    threads = max(1, cores() // 4)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Made]] = deque()
        for item in items:
            ahead.append(pool.submit(make, item))
            if len(ahead) > threads + 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


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
