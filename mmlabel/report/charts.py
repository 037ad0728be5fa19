"""The kinds of chart: lines, dots with whiskers, points in a plane.

Our own SVG rather than a library's: the names at the ends of lines are kept apart, text has the
size of the page's, colours follow the reader's light or dark setting, a description says the same
figures in words, and a page costs a sweep no start-up time.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from mmlabel.report.svg import (
    EMPTY,
    STYLES,
    WIDTH,
    Scale,
    axes,
    figure,
    join,
    line,
    marker,
    polygon,
    polyline,
    scale,
    shortened,
    spread,
    text,
)


class Series(NamedTuple):
    """A line: its points, and a band around them where several runs were averaged."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: int
    band: tuple[Sequence[float], Sequence[float]] | None = None


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
    longest = max(len(shortened(one.label, 15)) for one in series)
    height = max(250.0, 15.0 * len(series) + 75)
    x = scale((v for one in series for v in one.xs), 40, WIDTH - 14 - 6.6 * longest, margin=0.02)
    bands = (edge for one in series if one.band for edge in one.band)
    values = [v for ys in (*(one.ys for one in series), *bands) for v in ys]
    y = scale(values, height - 38, 24)
    parts = [axes(x, y, x_label, y_label)]
    if reference is not None:
        parts.append(line(x(reference), y.start, x(reference), y.end, "reference"))
    ends = [y(one.ys[-1]) for one in series]
    places = spread(ends, 14, y.end, y.start)
    for one, end, place in zip(series, ends, places, strict=True):
        parts.append(_curve(one, x, y))
        parts.append(line(x(one.xs[-1]) + 5, end, x.end + 9, place, "leader"))
        parts.append(text(x.end + 11, place + 4, shortened(one.label, 15)))
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
    height = 44.0 * len(rows) + 44
    values = [v for row in rows for v in (row.low, row.high, *row.runs)]
    values += [row.published for row in rows if row.published is not None]
    x = scale([*values, *([] if reference is None else [reference])], 8, WIDTH - 8)
    bottom = height - 36
    parts = []
    for tick in x.ticks(5):
        parts.append(line(x(tick), 4, x(tick), bottom, "grid"))
        parts.append(text(x(tick), bottom + 15, f"{tick:g}", css="soft", anchor="middle"))
    if reference is not None:
        parts.append(line(x(reference), 0, x(reference), bottom, "reference"))
    parts.append(line(x.start, bottom, x.end, bottom, "axis"))
    parts.append(text(x.end, bottom + 31, axis, css="soft", anchor="end"))
    parts += [_dot(row, 44.0 * place, x, show) for place, row in enumerate(rows)]
    words = "; ".join(
        f"{row.label}: {show(row.value)}, interval {show(row.low)} to {show(row.high)}"
        + (f", published {show(row.published)}" if row.published is not None else "")
        for row in rows
    )
    return figure(
        id=id,
        heading=heading,
        note=note,
        description=f"{axis}. {words}.",
        height=height,
        body=join(parts),
    )


def _dot(row: Dot, top: float, x: Scale, show: Callable[[float], str]) -> Markup:
    middle = top + 31
    css = f"s{row.style % STYLES} whisker"
    parts = [
        text(8, top + 16, shortened(row.label, 40)),
        text(WIDTH - 8, top + 16, show(row.value), css="strong", anchor="end"),
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
    return join(parts)


def scatter_chart(*, id: str, heading: str, dots: list[Dot], x_label: str, y_label: str) -> Markup:
    """Points with whiskers and their names beside them."""
    if not dots:
        return EMPTY
    height = max(270.0, 15.0 * len(dots) + 80)
    longest = max(len(shortened(dot.label, 17)) for dot in dots)
    x = scale([dot.x for dot in dots], 44, WIDTH - 20 - 6.6 * longest, margin=0.06)
    y = scale([v for dot in dots for v in (dot.low, dot.high)], height - 38, 24)
    parts = [axes(x, y, x_label, y_label)]
    places = spread([y(dot.value) for dot in dots], 14, y.end + 4, y.start)
    for dot, place in zip(dots, places, strict=True):
        css = f"s{dot.style % STYLES} whisker"
        parts.append(line(x(dot.x) + 8, y(dot.value), x.end + 12, place, "leader"))
        parts.append(line(x(dot.x), y(dot.low), x(dot.x), y(dot.high), css))
        parts.append(marker(dot.style, x(dot.x), y(dot.value)))
        parts.append(text(x.end + 14, place + 4, shortened(dot.label, 17)))
    words = "; ".join(f"{dot.label}: {dot.x:.4g} and {dot.value:.3f}" for dot in dots)
    return figure(
        id=id,
        heading=heading,
        note="",
        description=f"{x_label} and {y_label}. {words}.",
        height=height,
        body=join(parts),
    )
