"""Progress of long work on standard error: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Task

LINE_SECONDS = 10.0


@contextmanager
def progress(
    work: str, total: int | None, *, unit: str = "pictures", quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how much more is done since it was last called.

    Args:
        work: what is done, in a word or two.
        total: how much there is to do; None if that is not known.
        unit: what is counted; "bytes" are shown as megabytes.
        quiet: show nothing.
    """
    if quiet or total == 0:
        yield lambda more: None
    elif sys.stderr.isatty():
        yield from _bar(work, total, unit)
    else:
        yield _lines(work, total, unit)


def say(line: str) -> None:
    """A line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def _bar(work: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    # Loading rich takes a moment that a run with nothing to wait for need not pay.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: "Task") -> Text:
            return Text(_speed(task.finished_speed or task.speed or 0, unit))

    name = TextColumn("{task.description}", markup=False)  # a file's name is no markup
    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (name, BarColumn(), count, Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(work, total=total)
        yield lambda more: bar.advance(task, more)


def _lines(work: str, total: int | None, unit: str) -> Callable[[int], None]:
    start = said = time.monotonic()
    done = 0

    def advance(more: int) -> None:
        nonlocal done, said
        done += more
        now = time.monotonic()
        if now - said >= LINE_SECONDS or done == total:
            speed = max(done, 1) / max(now - start, 1e-9)
            line = f"{work}: {_amount(done, total, unit)}, {_speed(speed, unit)}"
            say(line if total is None else f"{line}, {(total - done) / speed:,.0f} s left")
            said = now

    return advance


def _amount(done: int, total: int | None, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 1e6:,.1f} {'' if total is None else f'of {total / 1e6:,.1f} '}MB"
    return f"{done:,} {'' if total is None else f'of {total:,} '}{unit}"


def _speed(speed: float, unit: str) -> str:
    return f"{speed / 1e6:,.1f} MB a second" if unit == "bytes" else f"{speed:,.0f} a second"
