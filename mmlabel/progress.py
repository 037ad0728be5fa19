"""Progress of long work, on standard error: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 10.0

Advance = Callable[[int], None]


@contextmanager
def progress(
    work: str, total: int | None, *, unit: str = "pictures", quiet: bool = False
) -> Iterator[Advance]:
    """Gives a function to be told how many more units are done.

    Args:
        work: what is being done, such as "features".
        total: number of units; None where it is not known, and 0 for nothing to report.
        unit: what is counted, in the plural; "bytes" are shown as megabytes.
        quiet: report nothing.
    """
    if quiet or total == 0:
        yield lambda units: None
    elif sys.stderr.isatty():
        with _bar(work, total, unit) as advance:
            yield advance
    else:
        yield _lines(work, total, unit)


def say(line: str) -> None:
    """A line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _bar(work: str, total: int | None, unit: str) -> Iterator[Advance]:
    # Loading rich takes a moment that work with nothing to report need not pay.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.progress import ProgressColumn as Column
    from rich.text import Text

    class Count(Column):
        def render(self, task: Task) -> Text:
            of = "" if task.total is None else f"/{_number(int(task.total), unit)}"
            return Text(_number(int(task.completed), unit) + of)

    class Speed(Column):
        def render(self, task: Task) -> Text:
            speed = _speed(task.finished_speed or task.speed or 0, unit)
            return Text(f"{speed} {_named(unit)}/s")

    # Markup is off: the name of the work may come from outside.
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(), Count(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(work, total=total)
        yield lambda units: bar.advance(task, units)


def _lines(work: str, total: int | None, unit: str) -> Advance:
    start = said = time.monotonic()
    done = 0

    def advance(units: int) -> None:
        nonlocal done, said
        done += units
        now = time.monotonic()
        if now - said < LINE_SECONDS and done != total:
            return
        said = now
        speed = done / max(now - start, 1e-9)
        of = "" if total is None else f" of {_number(total, unit)}"
        line = f"{work}: {_number(done, unit)}{of} {_named(unit)}, {_speed(speed, unit)} a second"
        if total is not None and speed:
            line += f", {_time(max(total - done, 0) / speed)} left"
        say(line)

    return advance


def _number(units: float, unit: str) -> str:
    return f"{units / 1e6:,.1f}" if unit == "bytes" else f"{units:,.0f}"


def _speed(units: float, unit: str) -> str:
    return f"{units:.2g}" if unit != "bytes" and units < 10 else _number(units, unit)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _named(unit: str) -> str:
    return "MB" if unit == "bytes" else unit
