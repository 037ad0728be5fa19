"""The kinds of chart: lines, dots with whiskers, points in a plane.

Our own SVG rather than a library's: the names at the ends of lines are kept apart, text has the
size of the page's, colours follow the reader's light or dark setting, a description says the same
figures in words, and a page costs a sweep no start-up time.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from mmlabel.report.svg import (
    EMPTY,
    LINE,
    STYLES,
    WIDTH,
    Scale,
    axes,
    figure,
    join,
    line,
    marker,
    name,
    polygon,
    polyline,
    scale,
    spread,
    text,
    wrapped,
)
from mmlabel.run_folder import RunRecord

NAME = 20  # characters on a line of a name beside the plot
SMALL = 170  # the width of a small chart
LETTER = 6.6  # the width of one, at most, on average


class Series(NamedTuple):
    """A line: its points, and a band around them where several runs were averaged."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: int
    band: tuple[Sequence[float], Sequence[float]] | None = None


def mean_curve(label: str, style: int, runs: Sequence[RunRecord], metric: str) -> Series:
    """The metric by epoch, averaged over runs, with their range as a band if there are several."""
    points: dict[float, list[float]] = {}
    for run in runs:
        for epoch in run.history:
            if math.isfinite(epoch.get(metric, math.nan)):
                points.setdefault(epoch["epoch"], []).append(epoch[metric])
    xs = sorted(points)
    band = [min(points[x]) for x in xs], [max(points[x]) for x in xs]
    return Series(label, xs, [fmean(points[x]) for x in xs], style, band if len(runs) > 1 else None)


class Dot(NamedTuple):
    """A row of a dot-and-whisker chart, or a point of a scatter chart with its `x`."""

    label: str
    style: int
    value: float
    low: float
    high: float
    runs: Sequence[float] = ()
    published: float | None = None
    x: float = 0.0


def line_chart(
    *,
    id: str,
    heading: str,
    note: str,
    series: list[Series],
    x_label: str,
    y_label: str,
    reference: float | None = None,
) -> Markup:
    """Lines with their names at their ends; a vertical dotted line at `reference`."""
    series = [one for one in series if len(one.xs)]
    if not series:
        return EMPTY
    names = [wrapped(one.label, NAME) for one in series]
    gap, room = _names(names)
    height = max(250.0, gap * len(series) + 75)
    x = scale((v for one in series for v in one.xs), 40, WIDTH - 14 - room, margin=0.02)
    bands = (edge for one in series if one.band for edge in one.band)
    values = [v for ys in (*(one.ys for one in series), *bands) for v in ys]
    y = scale(values, height - 38, 24)
    parts = [axes(x, y, x_label, y_label, whole=x_label == "epoch")]
    if reference is not None:
        parts.append(line(x(reference), y.start, x(reference), y.end, "reference"))
    ends = [y(one.ys[-1]) for one in series]
    places = spread(ends, gap, y.end, y.start)
    for one, lines, end, place in zip(series, names, ends, places, strict=True):
        parts.append(_curve(one, x, y))
        parts.append(line(x(one.xs[-1]) + 5, end, x.end + 9, place, "leader"))
        parts.append(name(x.end + 11, place, lines))
    words = "; ".join(
        f"{one.label}: {one.ys[0]:.3f} at {one.xs[0]:g}, {one.ys[-1]:.3f} at {one.xs[-1]:g}, "
        f"lowest {min(one.ys):.3f}, highest {max(one.ys):.3f}"
        for one in series
    )
    return figure(
        id=id,
        heading=heading,
        note=note,
        description=f"{y_label} by {x_label}. {words}.",
        height=height,
        body=join(parts),
    )


def _names(names: list[list[str]]) -> tuple[float, float]:
    """How far apart names have to be, and how wide the widest is."""
    gap = LINE * max(map(len, names)) + (0 if max(map(len, names)) == 1 else 2)
    return gap, LETTER * max(len(words) for lines in names for words in lines)


def _curve(one: Series, x: Scale, y: Scale) -> Markup:
    points = [(x(a), y(b)) for a, b in zip(one.xs, one.ys, strict=True)]
    parts = []
    if one.band:
        lower, upper = one.band
        there = [(x(a), y(b)) for a, b in zip(one.xs, lower, strict=True)]
        back = [(x(a), y(b)) for a, b in zip(one.xs, upper, strict=True)]
        parts.append(polygon([*there, *reversed(back)], f"s{one.style % STYLES} band"))
    parts.append(polyline(points, style=one.style, name=one.label))
    step = max(1, round(len(points) / 5))
    for place in sorted({*range(0, len(points), step), len(points) - 1}):
        parts.append(marker(one.style, *points[place], 3.4))
    return join(parts)


def dot_chart(
    *,
    id: str,
    heading: str,
    note: str,
    rows: list[Dot],
    axis: str,
    reference: float | None,
    show: Callable[[float], str] = "{:.3f}".format,
) -> Markup:
    """A line per variant: its name and figure above, mean and interval below."""
    if not rows:
        return EMPTY
    values = [v for row in rows for v in (row.low, row.high, *row.runs)]
    values += [row.published for row in rows if row.published is not None]
    x = scale([*values, *([] if reference is None else [reference])], 8, WIDTH - 8)
    top, parts = 0.0, []
    for row in rows:
        drawn, height = _dot(row, top, x, reference, show)
        parts.append(drawn)
        top += height
    for tick in x.ticks():
        parts.append(text(x(tick), top + 23, f"{tick:g}", css="soft", anchor="middle"))
    parts.append(line(x.start, top + 8, x.end, top + 8, "axis"))
    parts.append(text(x.end, top + 39, axis, css="soft", anchor="end"))
    words = "; ".join(
        f"{row.label}: {show(row.value)}"
        + (f", interval {show(row.low)} to {show(row.high)}" if row.low < row.high else "")
        + (f", published {show(row.published)}" if row.published is not None else "")
        for row in rows
    )
    return figure(
        id=id,
        heading=heading,
        note=note,
        description=f"{axis}. {words}.",
        height=top + 44,
        body=join(parts),
    )


def _dot(
    row: Dot, top: float, x: Scale, reference: float | None, show: Callable[[float], str]
) -> tuple[Markup, float]:
    """One line of the chart and its height; below its name, so that no text lies on a line."""
    lines = wrapped(row.label, 44)
    below = top + 6 + LINE * len(lines)
    middle, bottom = below + 11, below + 24
    css = f"s{row.style % STYLES} whisker"
    parts = [line(x(tick), below, x(tick), bottom, "grid") for tick in x.ticks()]
    if reference is not None:
        parts.append(line(x(reference), below, x(reference), bottom, "reference"))
    parts += [text(8, top + 2 + LINE * (n + 1), words) for n, words in enumerate(lines)]
    parts += [
        text(WIDTH - 8, top + 2 + LINE, show(row.value), css="strong", anchor="end"),
        line(x(row.low), middle, x(row.high), middle, css),
        line(x(row.low), middle - 5, x(row.low), middle + 5, css),
        line(x(row.high), middle - 5, x(row.high), middle + 5, css),
    ]
    parts += [line(x(v), middle + 7, x(v), middle + 12, "run") for v in row.runs]
    parts.append(marker(row.style, x(row.value), middle, 5.5))
    if row.published is not None:  # a cross, which is no variant's shape
        left, right = x(row.published) - 6, x(row.published) + 6
        parts.append(line(left, middle - 6, right, middle + 6, "published"))
        parts.append(line(left, middle + 6, right, middle - 6, "published"))
    return join(parts), bottom - top


def scatter_chart(*, id: str, heading: str, dots: list[Dot], x_label: str, y_label: str) -> Markup:
    """Points with whiskers and their names beside them."""
    if not dots:
        return EMPTY
    names = [wrapped(dot.label, NAME) for dot in dots]
    gap, room = _names(names)
    height = max(270.0, gap * len(dots) + 80)
    x = scale([dot.x for dot in dots], 44, WIDTH - 20 - room, margin=0.06)
    y = scale([v for dot in dots for v in (dot.low, dot.high)], height - 38, 24)
    parts = [axes(x, y, x_label, y_label)]
    places = spread([y(dot.value) for dot in dots], gap, y.end + 4, y.start)
    for dot, lines, place in zip(dots, names, places, strict=True):
        css = f"s{dot.style % STYLES} whisker"
        parts.append(line(x(dot.x) + 8, y(dot.value), x.end + 12, place, "leader"))
        parts.append(line(x(dot.x), y(dot.low), x(dot.x), y(dot.high), css))
        parts.append(marker(dot.style, x(dot.x), y(dot.value)))
        parts.append(name(x.end + 14, place, lines))
    words = "; ".join(f"{dot.label}: {dot.x:.4g} and {dot.value:.3f}" for dot in dots)
    return figure(
        id=id,
        heading=heading,
        note="",
        description=f"{x_label} and {y_label}. {words}.",
        height=height,
        body=join(parts),
    )


def precision_recall_chart(
    *,
    id: str,
    heading: str,
    recall: Sequence[float],
    precision: Sequence[float],
    used: tuple[float, float] | None,
    share: float,
    description: str,
) -> Markup:
    """A small chart of one label: precision by recall.

    Args:
        id: of the figure.
        heading: the label's name.
        recall, precision: points of the curve, 0..1, recall rising.
        used: recall and precision of the answers that were given; None if there were none.
        share: of the label among the rows, which a blind guess has for precision.
        description: the same in words.
    """
    x, y = Scale(0, 1, 28, SMALL - 8), Scale(0, 1, SMALL - 40, 8)
    parts = []
    for tick in (0, 0.5, 1):
        parts.append(line(x.start, y(tick), x.end, y(tick), "grid" if tick else "axis"))
        parts.append(text(x.start - 5, y(tick) + 4, f"{tick:g}", css="soft", anchor="end"))
        parts.append(text(x(tick), y.start + 15, f"{tick:g}", css="soft", anchor="middle"))
    parts.append(line(x.start, y(share), x.end, y(share), "reference"))
    points = [(x(a), y(b)) for a, b in zip(recall, precision, strict=True)]
    parts.append(polyline(points, style=0, name=heading))
    if used is not None:
        parts.append(marker(1, x(used[0]), y(used[1]), 4.5))
    return figure(
        id=id,
        heading=heading,
        note="",
        description=description,
        height=SMALL - 20,
        width=SMALL,
        body=join(parts),
    )
