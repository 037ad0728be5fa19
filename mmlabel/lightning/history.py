"""metrics.csv, which is whole on disk at any moment, and of which no line is lost on a resume."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from mmlabel.cache import atomic_write


class History(CSVLogger):
    """Lightning's logger with a file that is replaced by each save, which has every line.

    Lightning's own appends lines, empties and fills the file again where a column is new, and
    removes that of a run that is gone on with: a kill in between loses lines.
    """

    def __init__(self, folder: Path) -> None:
        # Only figures of whole epochs are logged, so each is worth its place on disk at once.
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """What writes; see Lightning."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment  # pyright: ignore[reportReturnType]

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log figures of an epoch; those of steps, which say none, have no line here."""
        if "epoch" in metrics:
            super().log_metrics(metrics, step)

    @rank_zero_only
    def begin_with(self, lines: Sequence[Mapping[str, float]]) -> None:
        """The lines of a run that is gone on with, all at once; without any no file is left."""
        # As they are logged, which what was read of a file is not: 2, where it has 2.0.
        self.experiment.metrics = [
            {
                name: int(value) if name in ("epoch", "step") else value
                for name, value in line.items()
            }
            for line in lines
        ]
        self.experiment.save()
        if not lines:
            Path(self.experiment.metrics_file_path).unlink(missing_ok=True)


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """A former file stays until it is replaced."""

    def save(self) -> None:
        if not self.metrics:
            return
        names = sorted(set().union(*self.metrics))
        with atomic_write(Path(self.metrics_file_path)) as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=names)
                writer.writeheader()
                writer.writerows(self.metrics)
