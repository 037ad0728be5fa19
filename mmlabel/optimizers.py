"""Optimizers and learning-rate schedules by name (report §3.1.4)."""

from collections.abc import Iterable

import torch
from torch.optim import Optimizer, lr_scheduler

from mmlabel.errors import UserError, nearest

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adadelta": torch.optim.Adadelta,
    "sgd": torch.optim.SGD,
}
SCHEDULERS = ("none", "one_cycle", "cosine", "plateau")


def build_optimizer(parameters: Iterable[torch.Tensor], settings: dict) -> Optimizer:
    """The optimizer `settings["name"]` over `parameters`, with the other settings as its options.

    Raises UserError for an unknown name or option, or a value the optimizer refuses.
    """
    name, options = settings["name"], {k: v for k, v in settings.items() if k != "name"}
    if name not in OPTIMIZERS:
        raise UserError(f'unknown optimizer.name "{name}"{nearest(name, OPTIMIZERS)}')
    try:
        return OPTIMIZERS[name](list(parameters), **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer={name} cannot be used as set: {error}") from None


def build_scheduler(
    optimizer: Optimizer, settings: dict, *, steps: int, monitor: str
) -> dict | None:
    """Lightning's description of the schedule `settings["name"]`, or None for a constant rate.

    Args:
        steps: optimizer steps in the whole run.
        monitor: the score that the plateau schedule watches (higher is better).
    """
    name = settings["name"]
    if name == "none":
        return None
    if name == "one_cycle":
        # Momentum is left alone: not every optimizer here has one.
        schedule = lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=max(steps, 2),
            pct_start=settings["warmup"],
            cycle_momentum=False,
        )
        return {"scheduler": schedule, "interval": "step"}
    if name == "cosine":
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(steps, 1))
        return {"scheduler": schedule, "interval": "step"}
    if name == "plateau":
        schedule = lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=settings["factor"], patience=settings["patience"]
        )
        return {"scheduler": schedule, "interval": "epoch", "monitor": monitor}
    raise UserError(f'unknown scheduler.name "{name}"{nearest(name, SCHEDULERS)}')
