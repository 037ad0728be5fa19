"""Progress of work on many pictures, on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_SECONDS = 10.0


@contextmanager
def picture_progress(work: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how many pictures are done since it was last called.

    Pictures done and pictures a second are a bar on a terminal, and elsewhere a line now and then.
    """
    if quiet or not total:
        yield lambda pictures: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
        from rich.progress import ProgressColumn as Column

        class Speed(Column):
            def render(self, task: object) -> str:
                return f"{task.finished_speed or task.speed or 0:,.0f} pictures/s"

        columns = (work, BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total)
            yield lambda pictures: bar.advance(task, pictures)
    else:
        yield _lines(work, total)


def _lines(work: str, total: int) -> Callable[[int], None]:
    start = said = time.monotonic()
    done = 0

    def advance(pictures: int) -> None:
        nonlocal done, said
        done += pictures
        now = time.monotonic()
        if now - said >= LINE_SECONDS or done >= total:
            speed = done / max(now - start, 1e-9)
            say(
                f"{work}: {done:,} of {total:,} pictures, {speed:,.0f} a second, "
                f"{(total - done) / speed:,.0f} s left"
            )
            said = now

    return advance


def say(line: str) -> None:
    """A line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)
