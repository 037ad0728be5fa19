"""What the benchmarks share: how much to measure, on which rows, and the table of figures."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from mmlabel.cli import assigned, load_settings
from mmlabel.record import machine, versions
from mmlabel.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent

Level = Literal["tiny", "quick", "usual", "full"]
Size = TypeVar("Size")


@dataclass(frozen=True)
class Figure:
    """One measured number, and what it should be."""

    subject: str
    what: str
    value: float
    unit: str  # "x" for a ratio
    at_least: float | None
    at_most: float | None
    note: str

    @property
    def reached(self) -> bool | None:
        """Whether it is as it should be; None where nothing is asked of it."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def target(self) -> str:
        """What it should be, in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    @property
    def shown(self) -> str:
        """The value with its unit, in three digits."""
        digits = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.3g}"
        return digits + ("x" if self.unit == "x" else f" {self.unit}")


@dataclass
class Bench:
    """What one call measures.

    Attributes:
        folder: for caches and runs, removed afterwards.
        data: the folder of the report's data set, or None for the built-in one.
        level: "tiny" for tests, "quick", "usual" or "full".
        figures: so far.
        left_out: what could not be measured, and why, a line each.
    """

    folder: Path
    data: Path | None
    level: Level
    figures: list[Figure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def pick(self, *, tiny: Size, quick: Size, usual: Size, full: Size) -> Size:
        """How much is measured at this level."""
        return {"tiny": tiny, "quick": quick, "usual": usual, "full": full}[self.level]

    def add(
        self,
        subject: str,
        what: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        note: str = "",
    ) -> None:
        """Take a figure into the table, and say it."""
        figure = Figure(subject, what, value, unit, at_least, at_most, note)
        self.figures.append(figure)
        target = f" ({figure.target})" if figure.target else ""
        print(f"{subject}: {what}: {figure.shown}{target}; {note}", flush=True)

    def take(self, other: "Bench") -> None:
        """Take what another one has measured into the table."""
        self.figures += other.figures
        self.left_out += other.left_out

    def options(self, *overrides: str, cache: str = "cache") -> list[str]:
        """Overrides of a run on this call's rows, with a cache folder of this name."""
        real = () if self.data is None else ("data=usyd", assigned("data.root", self.data))
        source = real or ("data=scenes",)
        engine = ["features.engine=torch"] if self.level == "tiny" else []
        return [*source, assigned("cache_dir", self.folder / cache), *WORDS, *engine, *overrides]

    def settings(self, *overrides: str, cache: str = "cache") -> Settings:
        """The settings of `options`."""
        return load_settings([*self.options(*overrides, cache=cache), "logger=csv"])


# Vectors of words are no part of what is measured, and may have to be fetched.
WORDS = ["captions.lemmas=none", "embedding=learned", "embedding.dim=50"]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round: in turns, so that a busy machine slows all of them."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(seconds(work))
    return found


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def markdown(bench: Bench) -> str:
    """The table of the figures, and under it what was left out."""
    lines = ["| subject | | measured | target | |", "| --- | --- | ---: | --- | --- |"]
    for figure in bench.figures:
        missed = " (missed)" if figure.reached is False else ""
        lines.append(
            f"| {figure.subject} | {figure.what} | {figure.shown} | {figure.target}{missed} "
            f"| {figure.note} |"
        )
    if bench.left_out:
        lines += ["", "Left out:", "", *(f"- {line}" for line in bench.left_out)]
    return "\n".join(lines)


def as_json(bench: Bench) -> str:
    """The figures with the machine and the versions that they were measured on."""
    content = {
        "machine": machine(),
        "versions": versions(),
        "data": "built-in" if bench.data is None else "usyd",
        "level": bench.level,
        "figures": [{**vars(figure), "reached": figure.reached} for figure in bench.figures],
        "left out": bench.left_out,
    }
    return json.dumps(content, indent=2) + "\n"
