"""What charts are made of: axes, lines, marks and text in SVG.

Everything is `Markup`, whose `format` escapes what it is given, so that names from data are safe.
Colours are classes of page.css, which has them for light and for dark.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH = 360  # of a chart, in its own units: about the pixels of a phone, so that text stays legible
DASHES = ("none", "8 4", "2 3", "10 3 2 3", "5 2", "12 5")
STYLES = 8
LINE = 14  # from one line of text to the next
EMPTY = Markup("")


class Scale(NamedTuple):
    """A linear axis: values low..high lie at start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, *, whole: bool = False) -> list[float]:
        """Round numbers within the axis, some five of them; `whole`: only whole numbers."""
        rough = (self.high - self.low) / 5
        if whole and rough < 1:
            return [float(n) for n in range(math.ceil(self.low), math.floor(self.high) + 1)]
        power = 10.0 ** math.floor(math.log10(rough))
        steps = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
        step = next(s * power for s in steps if s * power >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(k * step, 10) for k in range(first, last + 1)]


def scale(values: Iterable[float], start: float, end: float, *, margin: float = 0.05) -> Scale:
    """An axis over the finite values, with some room on either side."""
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    room = (high - low) * margin or max(abs(low) * 0.05, 0.005)
    return Scale(low - room, high + room, start, end)


def join(parts: Iterable[Markup]) -> Markup:
    """Drawn one over the other, in order."""
    return EMPTY.join(parts)


def figure(
    *,
    id: str,
    heading: str,
    note: str,
    description: str,
    height: float,
    body: Markup,
    width: float = WIDTH,
) -> Markup:
    """A figure with its SVG, whose description carries the same figures in words."""
    below = Markup("<p>{}</p>").format(note) if note else EMPTY
    return Markup(
        "<figure><figcaption><h3>{heading}</h3></figcaption>"
        '<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}" '
        'aria-labelledby="{id}-t" aria-describedby="{id}-d">'
        '<title id="{id}-t">{heading}</title><desc id="{id}-d">{description}</desc>'
        "{body}</svg>{below}</figure>"
    ).format(
        id=id,
        heading=heading,
        width=width,
        height=height,
        description=description,
        body=body,
        below=below,
    )


def text(x: float, y: float, words: str, *, css: str = "", anchor: str = "start") -> Markup:
    """Words on a line at height y; `anchor`: whether x is their "start", "middle" or "end"."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, css, anchor, words
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
        x1, y1, x2, y2, css
    )


def polygon(points: Iterable[tuple[float, float]], css: str) -> Markup:
    return Markup('<polygon points="{}" class="{}"/>').format(_points(points), css)


def polyline(points: Iterable[tuple[float, float]], *, style: int, name: str) -> Markup:
    """A curve in the style's colour and dashes, which shows its name under the pointer."""
    return Markup(
        '<polyline points="{}" class="s{} curve" stroke-dasharray="{}"><title>{}</title></polyline>'
    ).format(_points(points), style % STYLES, DASHES[style % len(DASHES)], name)


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def marker(style: int, x: float, y: float, size: float = 5.0) -> Markup:
    """The style's shape: eight that differ without colour."""
    shape = style % STYLES
    css = f"s{shape}" if shape < 4 else f"s{shape} hollow"
    if shape in (0, 4):
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:g}" class="{}"/>').format(
            x, y, size, css
        )
    if shape in (1, 5):
        corners = [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    elif shape in (2, 6):
        corners = [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)]
    else:
        corners = [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)]
    return polygon([(x + size * dx, y + size * dy) for dx, dy in corners], css)


def key_mark(style: int) -> Markup:
    """A line and a shape, as a key shows them beside a name."""
    return Markup(
        '<svg viewBox="0 0 52 16" aria-hidden="true"><line x1="1" y1="8" x2="51" y2="8" '
        'class="s{}" stroke-width="2" stroke-dasharray="{}"/>{}</svg>'
    ).format(style % STYLES, DASHES[style % len(DASHES)], marker(style, 26, 8))


def wrapped(words: str, length: int) -> list[str]:
    """The words on one line or two, of at most `length` characters each."""
    return textwrap.wrap(words, length, max_lines=2, placeholder="…") or [""]


def name(x: float, middle: float, lines: Sequence[str]) -> Markup:
    """A name of one or two lines, centred on `middle`."""
    first = middle + 4 - LINE / 2 * (len(lines) - 1)
    return join(text(x, first + LINE * place, words) for place, words in enumerate(lines))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart and, if there is room, in low..high."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    previous = low - gap
    for i in order:
        previous = places[i] = max(wanted[i], previous + gap)
    following = high + gap
    for i in reversed(order):
        following = places[i] = min(places[i], following - gap)
    return places


def axes(x: Scale, y: Scale, x_label: str, y_label: str, *, whole: bool = False) -> Markup:
    """Both axes with their ticks and names, and the horizontal lines of the grid.

    `whole`: x counts something, so that ticks between whole numbers would mean nothing.
    """
    left, right, top, bottom = x.start, x.end, y.end, y.start
    parts = []
    for tick in y.ticks():
        parts.append(line(left, y(tick), right, y(tick), "grid"))
        parts.append(text(left - 6, y(tick) + 4, f"{tick:g}", css="soft", anchor="end"))
    for tick in x.ticks(whole=whole):
        parts.append(line(x(tick), bottom, x(tick), bottom + 4, "axis"))
        parts.append(text(x(tick), bottom + 17, f"{tick:g}", css="soft", anchor="middle"))
    parts.append(line(left, bottom, right, bottom, "axis"))
    parts.append(text(0, top - 12, y_label, css="soft"))
    parts.append(text(right, bottom + 33, x_label, css="soft", anchor="end"))
    return join(parts)
