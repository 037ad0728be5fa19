"""Optimizers and learning-rate schedules by name (report §3.1.4)."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from pytorch_lightning.utilities.types import LRSchedulerConfigType
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adadelta": torch.optim.Adadelta,
    "sgd": torch.optim.SGD,
}


def parameter_groups(
    network: nn.Module, *, lr: float, lr_scales: Mapping[str, float]
) -> list[dict[str, object]]:
    """What of a network is trained, as torch's optimizers take it.

    The weights of each part of `lr_scales` ("encoders.image.backbone"; in an ensemble that of any
    member) have `lr` times its scale as their learning rate, and with another scale than 1 they are
    a group of their own, after that of all others, with the part's last name.
    """
    left = [(f".{name}", p) for name, p in network.named_parameters() if p.requires_grad]
    groups: list[dict[str, object]] = []
    for part, scale in lr_scales.items():
        own = [p for name, p in left if f".{part}." in name]
        if scale != 1 and own:
            left = [(name, p) for name, p in left if f".{part}." not in name]
            rate = {"lr": lr * scale, "lr_scale": scale}
            groups.append({"params": own, **rate, "name": part.rpartition(".")[2]})
    return [{"params": [p for _, p in left]}, *groups]


def build_optimizer(
    parameters: Iterable[Tensor] | Iterable[dict[str, object]],
    *,
    name: str,
    **options: float | tuple[float, float],
) -> Optimizer:
    """The optimizer `name` of OPTIMIZERS over `parameters`; `options` by torch's own names.

    Raises KeyError for an unknown name, and torch's TypeError or ValueError for an option that
    the optimizer does not have or a value that it refuses.
    """
    return OPTIMIZERS[name](list(parameters), **options)


def _one_cycle(optimizer: Optimizer, *, steps: int, warmup: float) -> LRScheduler:
    steps = max(steps, 2)
    if warmup * steps == 1:
        warmup *= 1 - 1e-9  # torch divides by the steps of the rise but the first
    # Momentum is left alone: not every optimizer here has one.
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=warmup,
        cycle_momentum=False,
    )


class WarmupCosine(LRScheduler):
    """Up to each group's rate in equal steps, then to nothing along half a cosine.

    Args:
        total_steps: of the run.
        warmup_steps: of those, in which the rate rises; fewer than all.
    """

    def __init__(self, optimizer: Optimizer, *, total_steps: int, warmup_steps: int) -> None:
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group of parameters at this step."""
        done, falling = self.last_epoch, self.total_steps - self.warmup_steps
        if done < self.warmup_steps:
            share = (done + 1) / (self.warmup_steps + 1)
        else:
            share = (1 + math.cos(math.pi * (done - self.warmup_steps) / falling)) / 2
        return [rate * share for rate in self.base_lrs]


def _cosine(optimizer: Optimizer, *, steps: int, warmup: float = 0.0) -> LRScheduler:
    if rising := int(warmup * steps):
        return WarmupCosine(optimizer, total_steps=steps, warmup_steps=rising)
    return CosineAnnealingLR(optimizer, T_max=max(steps, 1))


def step_plateau(schedule: ReduceLROnPlateau, score: float | Tensor, *, epoch: int) -> None:
    """Tell a schedule the score of an epoch, counted from 0, by its end.

    Its patience is of epochs: those since the last one with a score have not been better either.
    """
    without = max(0, epoch - schedule.last_epoch)
    schedule.num_bad_epochs += without
    schedule.last_epoch += without
    schedule.step(score)


def planned_steps(schedule: LRScheduler | ReduceLROnPlateau) -> int | None:
    """For how many steps a schedule was laid out; None: for any number."""
    if isinstance(schedule, OneCycleLR | WarmupCosine):
        return schedule.total_steps
    return schedule.T_max if isinstance(schedule, CosineAnnealingLR) else None


SCHEDULES: dict[str, Callable[..., LRScheduler | ReduceLROnPlateau]] = {
    "one_cycle": _one_cycle,
    "cosine": _cosine,
    "plateau": ReduceLROnPlateau,
}


def build_scheduler(
    optimizer: Optimizer,
    *,
    name: str,
    steps: int,
    monitor: str,
    mode: Literal["min", "max"],
    **options: float,
) -> LRSchedulerConfigType | None:
    """Lightning's description of the schedule `name`, or None for "none", a constant rate.

    Args:
        steps: optimizer steps in the whole run.
        monitor: the score that "plateau" watches.
        mode: "max" if a higher score is better, "min" for a loss.
        options: those of the schedule: "one_cycle" takes `warmup`, the share 0..1 of the run in
            which the rate rises, and so does "cosine"; "plateau" takes
            `factor`, which the rate is multiplied by after more than `patience` epochs without a
            better score.

    Raises KeyError for an unknown name, TypeError for an option that the schedule does not have.
    """
    if name == "none":
        return None
    if name == "plateau":
        schedule = SCHEDULES[name](optimizer, mode=mode, **options)
        return {
            "scheduler": schedule,
            "interval": "epoch",
            "monitor": monitor,
            "frequency": sys.maxsize,  # the classifier steps it
        }
    schedule = SCHEDULES[name](optimizer, steps=steps, **options)
    return {"scheduler": schedule, "interval": "step"}
