"""Further columns that a study may ask for; seconds are in every table and not among them."""

from collections.abc import Callable

from mmlabel.run_folder import RunRecord


def _training_loss(run: RunRecord, epoch: int) -> float | None:
    losses = {row["epoch"]: row.get("train/loss") for row in run.history}
    return losses.get(epoch)


def _loss_fall(run: RunRecord) -> float | None:
    first, later = _training_loss(run, 0), _training_loss(run, 4)
    return None if first is None or later is None else 100 * (1 - later / first)


# Heading, and the figure of one run.
COLUMNS: dict[str, tuple[str, Callable[[RunRecord], float | None]]] = {
    "loss_first": ("Training loss, first epoch", lambda run: _training_loss(run, 0)),
    "loss_fifth": ("Training loss, fifth epoch", lambda run: _training_loss(run, 4)),
    "loss_fall": ("Fall of the loss, %", _loss_fall),
    "val_f1": ("Validation micro-F1", lambda run: run.results["scores"].get("val/f1_micro")),
    "epochs": ("Epochs", lambda run: run.results["epochs"]),
}
