"""Optimizers with torch's own options, and schedules that watch the score in its direction."""

import math

import pytest
import torch
from torch import nn

from mmlabel.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    build_scheduler,
    parameter_groups,
    planned_steps,
    step_plateau,
)


def one_parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


def sgd(lr: float = 0.5) -> torch.optim.Optimizer:
    return build_optimizer([one_parameter()], name="sgd", lr=lr, weight_decay=0.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {"betas": (0.8, 0.9), "eps": 1e-6}),
        ("adamw", {"betas": (0.8, 0.9), "eps": 1e-6}),
        ("adadelta", {"rho": 0.8, "eps": 1e-5}),
        ("sgd", {"momentum": 0.7, "nesterov": True}),
    ],
)
def test_an_optimizer_has_its_options(name: str, options: dict) -> None:
    options |= {"lr": 0.2, "weight_decay": 0.01}
    optimizer = build_optimizer(iter([one_parameter()]), name=name, **options)
    assert type(optimizer) is OPTIMIZERS[name]
    (group,) = optimizer.param_groups
    assert {key: group[key] for key in options} == options and len(group["params"]) == 1


def test_an_option_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="momentun"):
        build_optimizer([one_parameter()], name="sgd", lr=0.1, momentun=0.9)
    with pytest.raises(TypeError, match="factor"):
        build_scheduler(sgd(), name="cosine", steps=3, monitor="val/map", mode="max", factor=0.1)


@pytest.mark.parametrize(("mode", "scores"), [("min", [3, 2, 1, 1, 1]), ("max", [1, 2, 3, 3, 3])])
def test_plateau_follows_the_direction_of_the_score(mode: str, scores: list[float]) -> None:
    rates = {}
    for direction in ("min", "max"):
        optimizer = sgd()
        plan = build_scheduler(
            optimizer,
            name="plateau",
            steps=9,
            monitor="val/loss",
            mode=direction,
            factor=0.1,
            patience=1,
        )
        assert plan["monitor"] == "val/loss" and plan["interval"] == "epoch"
        for value in scores[:4]:
            plan["scheduler"].step(value)
        rates[direction] = [optimizer.param_groups[0]["lr"]]
        plan["scheduler"].step(scores[4])
        rates[direction].append(optimizer.param_groups[0]["lr"])
    assert rates[mode] == pytest.approx([0.5, 0.05])
    assert rates["max" if mode == "min" else "min"][0] < 0.5


def test_patience_of_plateau_is_of_epochs_whichever_have_a_score() -> None:
    rates = {}
    for every in (1, 3):
        optimizer = sgd()
        options = {"steps": 9, "monitor": "val/map", "mode": "max", "factor": 0.1, "patience": 4}
        plan = build_scheduler(optimizer, name="plateau", **options)
        rates[every] = []
        for epoch in range(12):
            rates[every].append(optimizer.param_groups[0]["lr"])
            if (epoch + 1) % every == 0:
                step_plateau(plan["scheduler"], 0.5, epoch=epoch)
    # Five epochs after the first score, or six, as there was no score after five.
    assert rates[1] == pytest.approx([0.5] * 6 + [0.05] * 5 + [0.005])
    assert rates[3] == pytest.approx([0.5] * 9 + [0.05] * 3)


def test_steps_of_the_stepwise_schedules() -> None:
    def rates(name: str, **options: float) -> list[float]:
        optimizer = sgd(lr=1.0)
        plan = build_scheduler(
            optimizer, name=name, steps=10, monitor="val/map", mode="max", **options
        )
        assert plan["interval"] == "step"
        found = []
        for _ in range(10):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            plan["scheduler"].step() if len(found) < 10 else None
        return found

    rising = rates("one_cycle", warmup=0.5)
    assert max(rising) == pytest.approx(1.0) and rising.index(max(rising)) == 4
    warmed = rates("cosine", warmup=0.35)
    assert warmed[:3] == pytest.approx([0.25, 0.5, 0.75])
    assert warmed[3:] == pytest.approx([(1 + math.cos(math.pi * n / 7)) / 2 for n in range(7)])
    falling = rates("cosine")
    assert falling[0] == 1.0 and falling == sorted(falling, reverse=True) and falling[-1] < 0.03


def test_no_schedule_and_a_run_of_one_step() -> None:
    for name, options in (("one_cycle", {"warmup": 0.3}), ("cosine", {})):
        assert build_scheduler(sgd(), name=name, steps=1, monitor="", mode="max", **options)
    assert build_scheduler(sgd(), name="none", steps=1, monitor="val/map", mode="max") is None


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.1), (2, 0.5), (1, 0.5), (4, 0.25)])
def test_a_rise_of_one_step_begins_at_the_full_rate(steps: int, warmup: float) -> None:
    optimizer = sgd(lr=1.0)
    plan = build_scheduler(
        optimizer, name="one_cycle", steps=steps, monitor="", mode="max", warmup=warmup
    )
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(max(steps, 2) - 1):
        optimizer.step()
        plan["scheduler"].step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1.0)
    assert rates == sorted(rates, reverse=True) and rates[-1] < 1e-3


def test_for_how_many_steps_a_schedule_was_laid_out() -> None:
    for name, options in (
        ("one_cycle", {"warmup": 0.3}),
        ("cosine", {}),
        ("cosine", {"warmup": 0.5}),
    ):
        plan = build_scheduler(sgd(), name=name, steps=9, monitor="", mode="max", **options)
        assert planned_steps(plan["scheduler"]) == 9
    plateau = build_scheduler(sgd(), name="plateau", steps=9, monitor="val/map", mode="max")
    assert planned_steps(plateau["scheduler"]) is None


def test_parts_of_a_network_and_of_its_members_have_rates_of_their_own() -> None:
    network = nn.ModuleDict(
        {"head": nn.Linear(1, 1), "encoders": nn.ModuleDict({"a": nn.Linear(1, 1, bias=False)})}
    )
    member = nn.ModuleDict(
        {"encoders": nn.ModuleDict({"b": nn.Linear(1, 1), "bb": nn.Linear(1, 1)})}
    )
    network["members"] = nn.ModuleList([member])
    network["encoders"]["a"].requires_grad_(True)
    network["head"].bias.requires_grad_(False)
    scales = {"encoders.a": 0.5, "encoders.b": 0.1, "encoders.nowhere": 3.0}
    rest, first, second = parameter_groups(network, lr=2.0, lr_scales=scales)
    own = member["encoders"]
    assert rest == {"params": [network["head"].weight, *own["bb"].parameters()]}
    weights = {"params": [network["encoders"]["a"].weight]}
    assert first == {"name": "a", **weights, "lr": 1.0, "lr_scale": 0.5}
    assert second == {"name": "b", "params": [*own["b"].parameters()], "lr": 0.2, "lr_scale": 0.1}
    (every,) = parameter_groups(network, lr=2.0, lr_scales={"encoders.a": 1.0})
    assert len(every["params"]) == 6 and every.keys() == {"params"}
