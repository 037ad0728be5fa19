"""One line for each run of a study: how far it is, on a terminal, and how it ended."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mmlabel.errors import UserError
from mmlabel.run_folder import failure, finished, read_history, read_results
from mmlabel.study.plan import Job
from mmlabel.terminal import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

log = logging.getLogger(__name__)


class JobLines:
    """Says what becomes of the runs, on standard error.

    Args:
        total: how many runs.
        metric: that is shown of a run that has ended.
        live: also keep a line for each run that is going on; for terminals.
    """

    def __init__(self, total: int, *, metric: str, live: bool) -> None:
        self._total, self._metric, self._ended = total, metric, 0
        self._tasks: dict[Path, TaskID] = {}
        self._progress = None
        if live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[said]}", markup=False),
                TimeElapsedColumn(),
                console=Console(stderr=True, markup=False, emoji=False, highlight=False),
                transient=True,
            )

    def __enter__(self) -> "JobLines":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def running(self, jobs: Sequence[Job]) -> None:
        """Show how far these are; others are shown no longer."""
        if self._progress is None:
            return
        for folder in self._tasks.keys() - {job.folder for job in jobs}:
            self._progress.remove_task(self._tasks.pop(folder))
        for job in jobs:
            if job.folder not in self._tasks:
                total = job.settings.trainer.max_epochs
                self._tasks[job.folder] = self._progress.add_task(
                    printable(job.title), total=total, said="begins"
                )
            with suppress(UserError, IndexError):  # a line that is being written
                last = read_history(job.folder)[-1]
                score = last.get(job.settings.monitor)
                said = "" if score is None else f"{job.settings.monitor} {score:.3f}"
                self._progress.update(
                    self._tasks[job.folder], completed=last["epoch"] + 1, said=said
                )

    def ended(self, job: Job) -> None:
        """Say how a run ended."""
        self._ended += 1
        if finished(job.folder):
            results = read_results(job.folder)
            score, seconds = results["scores"][self._metric], results["seconds"]["total"]
            said = f"{self._metric} {score:.3f}, {seconds:.0f} s"
        else:
            said = f"failed: {failure(job.folder)}"
        line = printable(f"{self._ended} of {self._total}: {job.title}: {said}")
        if self._progress is not None:
            self._progress.console.print(line)
        else:
            log.info(line)
