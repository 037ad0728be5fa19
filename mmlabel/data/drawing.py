"""The pictures of the built-in data set: what each label looks like, and where it stands."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

OVERSAMPLING = 3  # drawn this much larger and then reduced, which smooths the edges

PAINTS: dict[str, Colour] = {
    "red": (205, 40, 45),
    "blue": (45, 90, 190),
    "green": (50, 135, 75),
    "yellow": (240, 200, 60),
    "orange": (240, 135, 45),
    "white": (240, 240, 236),
    "silver": (165, 172, 180),
    "black": (45, 45, 52),
}
FURS: dict[str, Colour] = {
    "brown": (125, 80, 50),
    "black": (50, 46, 48),
    "white": (236, 230, 220),
    "grey": (140, 138, 140),
    "ginger": (214, 135, 70),
}
SKINS = ((247, 208, 175), (226, 172, 130), (160, 105, 72), (105, 68, 48))
HAIRS = ((60, 40, 30), (30, 28, 30), (205, 165, 85), (150, 75, 40))
INK: Colour = (42, 42, 48)
GLASS: Colour = (176, 214, 232)
METAL: Colour = (150, 155, 162)
STEEL: Colour = (96, 102, 112)
WOOD: Colour = (140, 96, 58)
CLOUD: Colour = (240, 240, 240)


class Pen:
    """Draws in an object's own coordinates: y from 0 (top) to 1 (foot), x from 0 to its width."""

    def __init__(
        self,
        canvas: ImageDraw.ImageDraw,
        *,
        left: float,
        top: float,
        height: float,
        width: float,
        mirrored: bool,
    ) -> None:
        self.canvas, self.left, self.top = canvas, left, top
        self.height, self.width, self.mirrored = height, width, mirrored

    def _pixels(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [
            (
                self.left + (self.width - x if self.mirrored else x) * self.height,
                self.top + y * self.height,
            )
            for x, y in points
        ]

    def _corners(self, x0: float, y0: float, x1: float, y1: float) -> list[float]:
        (a, b), (c, d) = self._pixels([(x0, y0), (x1, y1)])
        return [min(a, c), b, max(a, c), d]

    def shape(self, fill: Colour, *points: tuple[float, float]) -> None:
        self.canvas.polygon(self._pixels(points), fill=fill)

    def line(self, fill: Colour, width: float, *points: tuple[float, float]) -> None:
        pixels = max(1, round(width * self.height))
        self.canvas.line(self._pixels(points), fill=fill, width=pixels, joint="curve")

    def box(
        self, fill: Colour, x0: float, y0: float, x1: float, y1: float, *, radius: float = 0
    ) -> None:
        corners = self._corners(x0, y0, x1, y1)
        self.canvas.rounded_rectangle(corners, radius=radius * self.height, fill=fill)

    def oval(self, fill: Colour, x0: float, y0: float, x1: float, y1: float) -> None:
        self.canvas.ellipse(self._corners(x0, y0, x1, y1), fill=fill)

    def disc(self, fill: Colour, x: float, y: float, radius: float) -> None:
        self.oval(fill, x - radius, y - radius, x + radius, y + radius)

    def ring(self, fill: Colour, x: float, y: float, radius: float, width: float) -> None:
        corners = self._corners(x - radius, y - radius, x + radius, y + radius)
        self.canvas.ellipse(corners, outline=fill, width=max(1, round(width * self.height)))


def shaded(colour: Colour, factor: float) -> Colour:
    """The colour, darker (factor below 1) or lighter (above)."""
    red, green, blue = (min(255, max(0, round(value * factor))) for value in colour)
    return red, green, blue


# One function a label: the pen, a source of chance, the object's main colour.


def draw_person(pen: Pen, rng: random.Random, paint: Colour) -> None:
    skin, hair = rng.choice(SKINS), rng.choice(HAIRS)
    step = rng.uniform(0.04, 0.1)
    if rng.random() < 0.4:
        pen.oval(hair, 0.1, 0.0, 0.32, 0.32)
    for x in (0.21 - step, 0.21 + step):
        pen.line(shaded(INK, rng.uniform(0.8, 2.2)), 0.075, (0.21, 0.58), (x, 0.96))
        pen.box(INK, x - 0.04, 0.95, x + 0.06, 1.0)
    reach = rng.uniform(-0.25, 0.2)
    pen.line(shaded(paint, 0.85), 0.06, (0.14, 0.3), (0.05, 0.52))
    pen.line(shaded(paint, 0.85), 0.06, (0.28, 0.3), (0.38, 0.42 + reach))
    pen.disc(skin, 0.38, 0.42 + reach, 0.035)
    pen.disc(skin, 0.05, 0.53, 0.035)
    if rng.random() < 0.3:
        pen.shape(paint, (0.16, 0.25), (0.26, 0.25), (0.35, 0.74), (0.07, 0.74))
    else:
        pen.box(paint, 0.12, 0.25, 0.3, 0.62, radius=0.05)
    pen.disc(skin, 0.21, 0.14, 0.1)
    pen.shape(hair, (0.11, 0.14), (0.12, 0.05), (0.21, 0.015), (0.3, 0.05), (0.31, 0.12))


def wheel(pen: Pen, x: float, radius: float) -> None:
    pen.disc(INK, x, 1 - radius, radius)
    pen.disc(METAL, x, 1 - radius, radius * 0.5)


def draw_bicycle(pen: Pen, rng: random.Random, paint: Colour) -> None:
    for x in (0.3, 1.3):
        pen.ring(INK, x, 0.7, 0.3, 0.06)
        pen.line(METAL, 0.015, (x - 0.2, 0.5), (x + 0.2, 0.9))
        pen.line(METAL, 0.015, (x + 0.2, 0.5), (x - 0.2, 0.9))
    pen.line(paint, 0.07, (0.3, 0.7), (0.75, 0.72), (1.16, 0.3), (0.58, 0.3), (0.3, 0.7))
    pen.line(paint, 0.07, (0.75, 0.72), (0.54, 0.18))
    pen.line(paint, 0.07, (1.3, 0.7), (1.12, 0.12))
    pen.line(INK, 0.06, (1.12, 0.12), (1.28, 0.06))
    pen.line(INK, 0.09, (0.42, 0.17), (0.66, 0.17))


def draw_motorcycle(pen: Pen, rng: random.Random, paint: Colour) -> None:
    for x in (0.3, 1.35):
        pen.ring(INK, x, 0.7, 0.3, 0.12)
        pen.disc(METAL, x, 0.7, 0.1)
    pen.line(STEEL, 0.08, (1.35, 0.7), (1.1, 0.12))
    pen.shape(STEEL, (0.5, 0.5), (1.05, 0.5), (0.98, 0.85), (0.55, 0.85))
    pen.line(METAL, 0.09, (0.7, 0.86), (0.1, 0.8))
    pen.oval(paint, 0.65, 0.22, 1.15, 0.56)
    pen.shape(paint, (0.02, 0.36), (0.7, 0.46), (0.66, 0.6), (0.2, 0.52))
    pen.shape(INK, (0.1, 0.3), (0.3, 0.36), (0.72, 0.36), (0.7, 0.47), (0.16, 0.44))
    pen.line(INK, 0.07, (1.12, 0.14), (0.94, 0.08))
    pen.disc((255, 240, 170), 1.2, 0.28, 0.1)


def draw_car(pen: Pen, rng: random.Random, paint: Colour) -> None:
    back = rng.uniform(0.25, 0.5)
    pen.shape(shaded(paint, 0.9), (back, 0.05), (1.3, 0.05), (1.65, 0.45), (0.2, 0.45))
    pen.shape(GLASS, (back + 0.05, 0.12), (0.85, 0.12), (0.85, 0.42), (0.32, 0.42))
    pen.shape(GLASS, (0.93, 0.12), (1.25, 0.12), (1.5, 0.42), (0.93, 0.42))
    pen.box(paint, 0.02, 0.4, 2.18, 0.82, radius=0.14)
    pen.box(shaded(paint, 0.7), 0.05, 0.7, 2.15, 0.8)
    pen.box((255, 240, 170), 2.05, 0.48, 2.17, 0.58)
    pen.box((190, 30, 35), 0.02, 0.48, 0.1, 0.58)
    for x in (0.5, 1.7):
        wheel(pen, x, 0.24)


def draw_airplane(pen: Pen, rng: random.Random, paint: Colour) -> None:
    body = (232, 236, 240)
    pen.shape(shaded(body, 0.75), (0.95, 0.45), (1.3, 0.45), (0.85, 0.08), (0.72, 0.08))
    pen.shape(paint, (0.05, 0.05), (0.25, 0.05), (0.55, 0.45), (0.15, 0.45))
    pen.oval(body, 0.1, 0.36, 2.2, 0.66)
    pen.shape(GLASS, (1.96, 0.42), (2.08, 0.44), (2.16, 0.5), (1.96, 0.5))
    for step in range(8):
        pen.disc(STEEL, 0.6 + 0.16 * step, 0.46, 0.03)
    pen.line(paint, 0.04, (0.25, 0.54), (2.1, 0.54))
    pen.shape(shaded(body, 0.82), (0.9, 0.54), (1.4, 0.54), (0.75, 0.98), (0.55, 0.98))
    pen.oval(STEEL, 0.92, 0.66, 1.2, 0.78)


def draw_bus(pen: Pen, rng: random.Random, paint: Colour) -> None:
    pen.box(paint, 0.02, 0.02, 2.28, 0.86, radius=0.08)
    for step in range(6):
        pen.box(GLASS, 0.1 + 0.3 * step, 0.14, 0.34 + 0.3 * step, 0.42)
    pen.box(GLASS, 2.0, 0.12, 2.27, 0.46)
    pen.box(shaded(paint, 0.6), 1.98, 0.5, 2.2, 0.86)
    pen.box(shaded(paint, 1.4), 0.05, 0.52, 1.9, 0.6)
    pen.box((255, 240, 170), 2.2, 0.66, 2.28, 0.74)
    for x in (0.45, 1.72):
        wheel(pen, x, 0.18)


def draw_train(pen: Pen, rng: random.Random, paint: Colour) -> None:
    pen.line(WOOD, 0.05, (-0.15, 0.99), (3.0, 0.99))
    pen.line(STEEL, 0.04, (-0.15, 0.95), (3.0, 0.95))
    for left in (0.02, 1.22):
        pen.box(paint, left, 0.12, left + 1.14, 0.8, radius=0.03)
        pen.box(shaded(paint, 0.6), left, 0.62, left + 1.14, 0.7)
        for step in range(3):
            pen.box(GLASS, left + 0.12 + 0.34 * step, 0.24, left + 0.34 + 0.34 * step, 0.46)
    pen.shape(paint, (2.3, 0.12), (2.5, 0.12), (2.8, 0.5), (2.84, 0.8), (2.3, 0.8))
    pen.shape(GLASS, (2.42, 0.2), (2.5, 0.2), (2.67, 0.44), (2.42, 0.44))
    pen.line(STEEL, 0.02, (-0.15, 0.02), (3.0, 0.02))
    pen.line(STEEL, 0.03, (0.5, 0.12), (0.62, 0.02), (0.74, 0.12))
    for x in (0.25, 0.95, 1.45, 2.15, 2.55):
        wheel(pen, x, 0.1)


def draw_truck(pen: Pen, rng: random.Random, paint: Colour) -> None:
    load = rng.choice(((226, 226, 222), (188, 180, 160), shaded(paint, 0.8)))
    pen.box(load, 0.02, 0.02, 1.45, 0.76)
    for x in (0.3, 0.6, 0.9, 1.2):
        pen.line(shaded(load, 0.85), 0.02, (x, 0.04), (x, 0.74))
    pen.box(STEEL, 0.02, 0.74, 2.1, 0.84)
    pen.shape(paint, (1.5, 0.24), (1.9, 0.24), (2.12, 0.52), (2.12, 0.84), (1.5, 0.84))
    pen.shape(GLASS, (1.62, 0.31), (1.86, 0.31), (2.02, 0.52), (1.62, 0.52))
    for x in (0.35, 0.72, 1.78):
        wheel(pen, x, 0.17)


def draw_boat(pen: Pen, rng: random.Random, paint: Colour) -> None:
    sea = (70, 130, 175)
    pen.oval(sea, -0.12, 0.82, 1.32, 1.06)
    pen.line(WOOD, 0.04, (0.6, 0.02), (0.6, 0.75))
    if rng.random() < 0.65:
        pen.shape((246, 244, 236), (0.64, 0.04), (0.64, 0.64), (1.1, 0.64))
        pen.shape(shaded(paint, 1.2), (0.56, 0.12), (0.56, 0.64), (0.18, 0.64))
    else:
        pen.box((238, 238, 234), 0.35, 0.42, 0.85, 0.7)
        pen.box(GLASS, 0.44, 0.49, 0.76, 0.6)
    pen.shape(paint, (0.02, 0.7), (1.18, 0.7), (0.98, 0.93), (0.2, 0.93))
    pen.line((240, 240, 240), 0.03, (0.06, 0.76), (1.14, 0.76))
    pen.line((205, 228, 240), 0.03, (-0.05, 0.95), (0.4, 0.97), (0.8, 0.94), (1.25, 0.97))


def draw_traffic_light(pen: Pen, rng: random.Random, paint: Colour) -> None:
    pen.box(STEEL, 0.14, 0.5, 0.2, 1.0)
    pen.box(INK, 0.03, 0.0, 0.31, 0.56, radius=0.05)
    lamps = ((235, 50, 45), (250, 200, 60), (70, 205, 95))
    lit = rng.randrange(3)
    for number, lamp in enumerate(lamps):
        pen.disc(lamp if number == lit else shaded(lamp, 0.4), 0.17, 0.1 + 0.18 * number, 0.075)


def draw_hydrant(pen: Pen, rng: random.Random, paint: Colour) -> None:
    dark = shaded(paint, 0.7)
    pen.box(dark, 0.08, 0.9, 0.62, 1.0)
    pen.box(paint, 0.19, 0.22, 0.51, 0.92)
    pen.oval(paint, 0.17, 0.08, 0.53, 0.38)
    pen.box(dark, 0.3, 0.0, 0.4, 0.12)
    pen.box(dark, 0.13, 0.27, 0.57, 0.34)
    pen.box(dark, 0.04, 0.44, 0.66, 0.6)
    pen.disc(paint, 0.35, 0.52, 0.12)
    pen.disc(METAL, 0.35, 0.52, 0.06)


def draw_stop_sign(pen: Pen, rng: random.Random, paint: Colour) -> None:
    pen.box(METAL, 0.25, 0.45, 0.31, 1.0)
    for colour, radius in (((245, 245, 245), 0.28), ((200, 28, 38), 0.25)):
        angles = np.pi / 8 + np.arange(8) * np.pi / 4
        points = zip(0.28 + radius * np.cos(angles), 0.28 + radius * np.sin(angles), strict=True)
        pen.shape(colour, *points)
    white = (250, 250, 250)
    pen.line(white, 0.035, (0.14, 0.22), (0.08, 0.22), (0.08, 0.28), (0.14, 0.28), (0.14, 0.34))
    pen.line(white, 0.035, (0.08, 0.34), (0.14, 0.34))
    pen.line(white, 0.035, (0.18, 0.22), (0.26, 0.22))
    pen.line(white, 0.035, (0.22, 0.22), (0.22, 0.36))
    pen.ring(white, 0.335, 0.285, 0.075, 0.035)
    pen.line(white, 0.035, (0.44, 0.36), (0.44, 0.22), (0.5, 0.24), (0.49, 0.29), (0.44, 0.29))


def draw_parking_meter(pen: Pen, rng: random.Random, paint: Colour) -> None:
    pen.box(METAL, 0.14, 0.4, 0.2, 1.0)
    pen.box(STEEL, 0.04, 0.16, 0.3, 0.46, radius=0.05)
    pen.oval(STEEL, 0.04, 0.02, 0.3, 0.3)
    pen.oval((226, 232, 220), 0.07, 0.05, 0.27, 0.24)
    pen.line((200, 40, 40), 0.025, (0.17, 0.2), (0.22, 0.1))
    pen.box(INK, 0.15, 0.31, 0.19, 0.4)


def draw_bench(pen: Pen, rng: random.Random, paint: Colour) -> None:
    for x in (0.2, 1.5):
        pen.line(INK, 0.07, (x, 0.05), (x, 1.0))
        pen.line(INK, 0.07, (x + 0.16, 0.62), (x + 0.16, 1.0))
    for y in (0.08, 0.28, 0.48):
        pen.box(paint, 0.04, y, 1.7, y + 0.14)
    pen.shape(shaded(paint, 0.8), (0.04, 0.62), (1.7, 0.62), (1.86, 0.74), (0.16, 0.74))


def draw_bird(pen: Pen, rng: random.Random, paint: Colour) -> None:
    beak = (240, 165, 50)
    lift = rng.uniform(0.0, 0.2)
    wing = ((0.42, 0.5), (0.75, 0.5), (0.26, lift))
    pen.shape(shaded(paint, 0.6), (0.55, 0.5), (0.8, 0.5), (0.62, lift))
    pen.shape(shaded(paint, 0.7), (0.4, 0.5), (0.35, 0.7), (0.0, 0.62), (0.02, 0.52))
    pen.oval(paint, 0.22, 0.38, 0.92, 0.8)
    pen.shape(shaded(paint, 0.75), *wing)
    pen.disc(paint, 0.9, 0.36, 0.17)
    pen.shape(beak, (1.04, 0.3), (1.26, 0.38), (1.04, 0.44))
    pen.disc((250, 250, 250), 0.95, 0.33, 0.05)
    pen.disc(INK, 0.96, 0.33, 0.035)


def draw_cat(pen: Pen, rng: random.Random, paint: Colour) -> None:
    dark = shaded(paint, 0.75)
    pen.line(dark, 0.09, (0.25, 0.6), (0.1, 0.5), (0.06, 0.25), (0.16, 0.12))
    for x in (0.3, 0.42, 0.86, 0.98):
        pen.line(dark, 0.09, (x, 0.65), (x, 0.98))
    pen.box(paint, 0.2, 0.42, 1.06, 0.78, radius=0.18)
    for x in (0.45, 0.6, 0.75):
        pen.line(dark, 0.04, (x, 0.43), (x - 0.03, 0.6))
    for x in (0.94, 1.26):
        pen.shape(paint, (x - 0.1, 0.26), (x, 0.0), (x + 0.1, 0.26))
        pen.shape((232, 160, 160), (x - 0.04, 0.2), (x, 0.08), (x + 0.04, 0.2))
    pen.oval(paint, 0.84, 0.14, 1.36, 0.56)
    for x in (1.0, 1.2):
        pen.disc((200, 220, 90), x, 0.31, 0.055)
        pen.oval(INK, x - 0.02, 0.26, x + 0.02, 0.36)
    pen.shape((220, 130, 130), (1.06, 0.4), (1.14, 0.4), (1.1, 0.45))
    for y in (0.42, 0.48):
        pen.line((240, 240, 240), 0.015, (0.8, y), (1.4, 0.9 - y))


def draw_dog(pen: Pen, rng: random.Random, paint: Colour) -> None:
    dark = shaded(paint, 0.65)
    pen.line(paint, 0.09, (0.24, 0.5), (0.06, 0.28))
    for x in (0.3, 0.42, 0.86, 0.98):
        pen.line(shaded(paint, 0.85), 0.11, (x, 0.65), (x, 0.98))
    pen.box(paint, 0.2, 0.4, 1.06, 0.76, radius=0.16)
    if rng.random() < 0.4:
        pen.oval((240, 236, 228), 0.4, 0.42, 0.7, 0.64)
    pen.box((200, 45, 50), 0.9, 0.44, 1.12, 0.52)
    pen.oval(paint, 0.86, 0.08, 1.28, 0.5)
    pen.box(shaded(paint, 1.2), 1.12, 0.26, 1.46, 0.46, radius=0.09)
    pen.oval(dark, 0.84, 0.1, 1.0, 0.5)
    pen.disc(INK, 1.44, 0.29, 0.055)
    pen.disc(INK, 1.13, 0.22, 0.04)
    if rng.random() < 0.5:
        pen.box((225, 100, 110), 1.26, 0.44, 1.36, 0.56, radius=0.04)


def draw_horse(pen: Pen, rng: random.Random, paint: Colour) -> None:
    dark = shaded(paint, 0.55)
    pen.line(dark, 0.08, (0.2, 0.4), (0.06, 0.5), (0.04, 0.78))
    for x in (0.26, 0.38, 0.8, 0.92):
        pen.line(shaded(paint, 0.85), 0.08, (x, 0.55), (x, 0.94))
        pen.box(INK, x - 0.045, 0.94, x + 0.06, 1.0)
    pen.oval(paint, 0.16, 0.32, 1.02, 0.68)
    pen.shape(paint, (0.72, 0.4), (0.98, 0.08), (1.14, 0.18), (1.0, 0.58))
    pen.shape(dark, (0.66, 0.4), (0.94, 0.02), (1.04, 0.08), (0.82, 0.44))
    pen.shape(paint, (0.98, 0.05), (1.16, 0.1), (1.4, 0.3), (1.32, 0.38), (1.04, 0.26))
    pen.shape(paint, (1.02, 0.1), (1.06, 0.0), (1.12, 0.1))
    pen.disc(INK, 1.14, 0.16, 0.022)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the objects of one label are drawn."""

    draw: Callable[[Pen, random.Random, Colour], None]
    width: float  # in heights
    height: float  # of a middling one, as a share of the picture's
    place: str = "ground"  # or "sky"
    mirrored: bool = True  # now and then; not what has writing on it


LOOKS: dict[int, Look] = {
    1: Look(draw=draw_person, width=0.42, height=0.5),
    2: Look(draw=draw_bicycle, width=1.6, height=0.3),
    3: Look(draw=draw_car, width=2.2, height=0.26),
    4: Look(draw=draw_motorcycle, width=1.65, height=0.3),
    5: Look(draw=draw_airplane, width=2.2, height=0.26, place="sky"),
    6: Look(draw=draw_bus, width=2.3, height=0.34),
    7: Look(draw=draw_train, width=2.85, height=0.3),
    8: Look(draw=draw_truck, width=2.15, height=0.36),
    9: Look(draw=draw_boat, width=1.2, height=0.42),
    10: Look(draw=draw_traffic_light, width=0.34, height=0.6),
    11: Look(draw=draw_hydrant, width=0.7, height=0.46),
    13: Look(draw=draw_stop_sign, width=0.56, height=0.5, mirrored=False),
    14: Look(draw=draw_parking_meter, width=0.34, height=0.66),
    15: Look(draw=draw_bench, width=1.9, height=0.26),
    16: Look(draw=draw_bird, width=1.26, height=0.36, place="sky"),
    17: Look(draw=draw_cat, width=1.4, height=0.42),
    18: Look(draw=draw_dog, width=1.5, height=0.42),
    19: Look(draw=draw_horse, width=1.4, height=0.46),
}


# Pixels. Everything below works on the enlarged canvas, `side` pixels wide and high.


def gradient(side: int, top: Colour, bottom: Colour) -> Image.Image:
    column = np.linspace(top, bottom, side)[:, None]  # (side, 1, 3)
    return Image.fromarray(np.broadcast_to(column, (side, side, 3)).astype(np.uint8))


def draw_background(rng: random.Random, place: str, side: int, horizon: int) -> Image.Image:
    """Sky, skyline and ground of a place."""
    sky = rng.choice(((120, 180, 235), (170, 200, 225), (245, 190, 150), (150, 160, 178)))
    image = gradient(side, shaded(sky, rng.uniform(0.8, 1.0)), shaded(sky, 1.15))
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.randrange(4)):
        draw_blob(canvas, rng, rng.random() * side, rng.random() * horizon, 0.05 * side, CLOUD)
    ground = {
        "street": (112, 112, 118),
        "park": (98, 158, 82),
        "shore": (222, 202, 152),
        "country": (168, 172, 84),
    }[place]
    ground = shaded(ground, rng.uniform(0.8, 1.15))
    draw_skyline(canvas, rng, place, side, horizon)
    canvas.rectangle([0, horizon, side, side], fill=ground)
    if place == "shore":
        sea = shaded((60, 125, 180), rng.uniform(0.8, 1.2))
        canvas.rectangle([0, horizon, side, (horizon + side) // 2], fill=sea)
    if place == "street":
        canvas.rectangle([0, horizon, side, horizon + side // 16], fill=shaded(ground, 1.5))
        y, dash = (horizon + 2 * side) // 3, side // 7
        for x in range(-rng.randrange(dash), side, dash):
            canvas.rectangle([x, y, x + dash // 2, y + side // 50], fill=(230, 226, 205))
    for _ in range(24):
        x, y = rng.random() * side, rng.uniform(horizon, side)
        length = rng.uniform(0.01, 0.05) * side
        canvas.line([x, y, x + length, y], fill=shaded(ground, rng.uniform(0.8, 1.2)), width=2)
    return image


def draw_skyline(
    canvas: ImageDraw.ImageDraw, rng: random.Random, place: str, side: int, horizon: int
) -> None:
    x = -rng.random() * 0.1 * side
    while x < side:
        width, height = rng.uniform(0.1, 0.3) * side, rng.uniform(0.05, 0.4) * side
        top, middle = horizon - height, x + width / 2
        if place == "street":
            draw_house(canvas, rng, (x, top, x + width, horizon), pane=0.035 * side)
        elif place == "park":
            canvas.rectangle([middle, top, middle + side / 60, horizon], fill=WOOD)
            green = shaded((60, 125, 65), rng.uniform(0.7, 1.2))
            draw_blob(canvas, rng, middle, horizon - height * 0.9, 0.08 * side, green)
        else:
            hill = shaded((110, 145, 120), rng.uniform(0.8, 1.1))
            box = [x - width, horizon - height / 2, x + 2 * width, horizon + height / 2]
            canvas.ellipse(box, fill=hill)
        x += width


def draw_house(
    canvas: ImageDraw.ImageDraw,
    rng: random.Random,
    box: tuple[float, float, float, float],
    *,
    pane: float,
) -> None:
    x0, y0, x1, y1 = box
    wall = shaded(rng.choice(((190, 150, 125), (165, 165, 172), (205, 190, 160))), 0.95)
    canvas.rectangle(box, fill=wall)
    for row in range(int((y1 - y0) / pane / 2)):
        for column in range(int((x1 - x0) / pane / 2)):
            left, top = x0 + pane * (0.5 + 2 * column), y0 + pane * (1 + 2 * row)
            glass = (245, 225, 150) if rng.random() < 1 / 3 else (90, 105, 125)
            canvas.rectangle([left, top, left + pane, top + pane], fill=glass)


def draw_blob(
    canvas: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, size: float, fill: Colour
) -> None:
    """A cloud, a tree's leaves, a bush."""
    for _ in range(5):
        u, v = x + rng.gauss(0, size * 0.8), y + rng.gauss(0, size * 0.35)
        r = size * rng.uniform(0.6, 1.1)
        canvas.ellipse([u - r, v - r, u + r, v + r], fill=shaded(fill, rng.uniform(0.92, 1.06)))


def draw_scene(
    objects: Sequence[tuple[int, str]], place: str, *, seed: int, number: int, size: int
) -> Image.Image:
    """Draw the `number`-th picture of a seed: RGB, `size` pixels wide and high.

    Args:
        objects: the label of each thing in it and the name of its colour, "" for any.
        place: where it all stands: street, park, shore or country.
        seed: with `number`, decides everything that is left to chance.
        number: of the picture.
        size: width and height in pixels.
    """
    rng = random.Random(f"drawing {seed} {number}")
    side = size * OVERSAMPLING
    horizon = round(rng.uniform(0.35, 0.6) * side)
    image = draw_background(rng, place, side, horizon)
    canvas = ImageDraw.Draw(image)
    # What stands further up is further away: smaller, and drawn first.
    depths = sorted(rng.uniform(0.05, 1) for _ in objects)
    objects = list(objects)
    rng.shuffle(objects)
    slots = rng.sample(range(len(objects)), len(objects))
    for depth, slot, (label, paint) in zip(depths, slots, objects, strict=True):
        centre = (slot + rng.uniform(0.2, 0.8)) / len(objects)
        draw_object(
            canvas, rng, label, paint, side=side, horizon=horizon, depth=depth, centre=centre
        )
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        green = shaded((70, 120, 60), rng.uniform(0.6, 1.2))
        draw_blob(canvas, rng, rng.random() * side, side * rng.uniform(0.9, 1), 0.07 * side, green)
    return roughen(image.reduce(OVERSAMPLING), rng)


def draw_object(
    canvas: ImageDraw.ImageDraw,
    rng: random.Random,
    label: int,
    paint: str,
    *,
    side: int,
    horizon: int,
    depth: float,
    centre: float,
) -> None:
    look = LOOKS[label]
    height = look.height * side * (0.95 + 0.4 * depth) * rng.uniform(0.85, 1.15)
    foot = horizon + (side - horizon) * (0.1 + 0.88 * depth)
    if look.place == "sky" and rng.random() < 0.7:
        foot = rng.uniform(height, max(height, horizon))
    width = look.width * height
    colours = PAINTS | FURS
    pen = Pen(
        canvas,
        left=min(max(centre * side - width / 2, -0.2 * width), side - 0.8 * width),
        top=foot - height,
        height=height,
        width=look.width,
        mirrored=look.mirrored and rng.random() < 0.5,
    )
    colour = colours[paint or rng.choice(list(PAINTS))]
    look.draw(pen, rng, shaded(colour, rng.uniform(0.85, 1.1)))


def roughen(image: Image.Image, rng: random.Random) -> Image.Image:
    """Haze, blur and grain, some of each."""
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    grain = np.random.default_rng(rng.getrandbits(64))
    pixels = np.asarray(image, dtype=np.float32)  # (size, size, 3)
    contrast = rng.uniform(0.8, 1.05)
    pixels = (pixels - 128) * contrast + 128 + rng.uniform(-12, 12)
    pixels += rng.uniform(1, 5) * grain.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
