"""Ten kinds of small pictures: the stand-in for CIFAR-10 and, in gray, for Fashion-MNIST.

Smooth shapes on smooth grounds, in units of a 32x32 image: a small network learns them in minutes, and a viewer sees how
far it has come.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image

from ddpm.data.drawn.canvas import Canvas, Colour, Point, gradient, hsv, mix, shade

ZOOM = 4


def draw_kind(kind: int, rng: random.Random, size: int = 32) -> Image.Image:
    """A square RGB picture of KINDS[kind], `size` pixels wide; nothing but `rng` decides. Raises IndexError."""
    return KINDS[list(KINDS)[kind]](rng).shrunk(size, size)


def draw_gray_kind(kind: int, rng: random.Random) -> Image.Image:
    """As `draw_kind`, 28 pixels wide and gray (mode L)."""
    return draw_kind(kind, rng, 28).convert("L")


def _scene(top: Colour, bottom: Colour) -> Canvas:
    """A canvas of 32x32 units whose ground goes from `top` to `bottom`."""
    return Canvas(gradient(32 * ZOOM, 32 * ZOOM, top, bottom), ZOOM)


def _sky(rng: random.Random) -> Canvas:
    """Blue by day, now and then peach or rose, paler at the horizon."""
    hue, saturation = rng.choice([(0.55, 0.7), (0.58, 0.7), (0.62, 0.6), (0.09, 0.45), (0.95, 0.35)])
    hue, saturation = hue + rng.uniform(-0.02, 0.02), saturation * rng.uniform(0.6, 1.0)
    return _scene(hsv(hue, saturation, rng.uniform(0.7, 0.95)), hsv(hue, rng.uniform(0.1, 0.4) * saturation, 0.97))


def _ground(picture: Canvas, rng: random.Random, top: float, hue: float, saturation: float = 0.5) -> None:
    """A floor from height `top` to the bottom edge, darker towards the viewer."""
    value = rng.uniform(0.5, 0.8)
    rows = max(1, round((32 - top) * ZOOM))
    near, far = hsv(hue, saturation, 0.75 * value), hsv(hue, saturation, value)
    picture.image.paste(gradient(32 * ZOOM, rows, far, near), (0, 32 * ZOOM - rows))


def _vivid(rng: random.Random) -> Colour:
    return hsv(rng.random(), rng.uniform(0.65, 0.95), rng.uniform(0.7, 0.95))


def _sunset(rng: random.Random) -> Canvas:
    hue = rng.uniform(-0.06, 0.1)
    picture = _scene(hsv(hue - 0.12, 0.6, rng.uniform(0.45, 0.8)), hsv(hue + 0.05, 0.6, 1.0))
    horizon, x, radius = rng.uniform(17, 22), rng.uniform(8, 24), rng.uniform(4, 7)
    sun = hsv(hue + 0.1, 0.35, 1.0)
    picture.ellipse(x, horizon - rng.uniform(0, radius), radius, radius, sun)
    sea = hsv(rng.uniform(0.54, 0.66), 0.6, rng.uniform(0.35, 0.6))
    _ground(picture, rng, horizon, 0.6)
    picture.box(0, horizon, 32, 32, sea)
    for step in range(3):
        y, half = horizon + 2 + 3 * step, radius * (0.9 - 0.22 * step)
        picture.box(x - half, y, x + half, y + 1.2, mix(sea, sun, 0.7), 0.6)
    return picture


def _house(rng: random.Random) -> Canvas:
    picture = _sky(rng)
    floor = rng.uniform(25, 28)
    _ground(picture, rng, floor - 2, rng.uniform(0.22, 0.36))
    x, half, height = rng.uniform(13, 19), rng.uniform(7, 10), rng.uniform(8, 11)
    wall = hsv(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.8, 0.98))
    roof = hsv(rng.choice([0.0, 0.03, 0.6, 0.9]), 0.65, rng.uniform(0.4, 0.7))
    eaves = floor - height
    picture.box(x - half, eaves, x + half, floor, wall)
    picture.polygon([(x - half - 2, eaves), (x, eaves - rng.uniform(6, 9)), (x + half + 2, eaves)], roof)
    door = x + rng.choice([-1, 1]) * half * 0.45
    picture.box(door - 1.7, floor - 5.5, door + 1.7, floor, shade(roof, 0.8))
    window = 2 * x - door
    glass = hsv(0.13, 0.45, 1.0) if rng.random() < 0.5 else hsv(0.56, 0.5, 0.8)
    picture.box(window - 2, eaves + 2, window + 2, eaves + 5.5, glass)
    return picture


def _tree(rng: random.Random) -> Canvas:
    picture = _sky(rng)
    floor = rng.uniform(25, 29)
    _ground(picture, rng, floor - 3, rng.uniform(0.2, 0.36))
    x, top = rng.uniform(12, 20), rng.uniform(5, 9)
    picture.box(x - 1.5, 16, x + 1.5, floor, hsv(0.07, 0.6, rng.uniform(0.3, 0.5)), 0.5)
    leaf = hsv(rng.choice([0.3, 0.34, 0.38, 0.1, 0.05]) + rng.uniform(-0.03, 0.03), 0.7, rng.uniform(0.4, 0.75))
    if rng.random() < 0.5:
        for level in range(3):
            y, half = top - 1 + 5 * level, 5 + 2 * level
            picture.polygon([(x - half, y + 8), (x, y), (x + half, y + 8)], shade(leaf, 0.9 + 0.08 * level))
    else:
        spread = rng.uniform(5, 6.5)
        for dx, dy in ((-4, 3), (4, 3), (0, 0)):
            picture.ellipse(x + dx, top + 5.5 + dy, spread, spread, shade(leaf, 0.88 if dy else 1.0))
    return picture


def _car(rng: random.Random) -> Canvas:
    picture = _sky(rng)
    floor = rng.uniform(23, 27)
    _ground(picture, rng, floor - 4, rng.random(), 0.08)
    x, half, side, paint = rng.uniform(14, 18), rng.uniform(10.5, 13), rng.choice([-1, 1]), _vivid(rng)
    glass = hsv(0.55, 0.25, 0.9)
    roof = floor - rng.uniform(10.5, 12)
    cabin = [(-0.7, floor - 5), (-0.42, roof), (0.32, roof), (0.62, floor - 5)]
    picture.polygon([(x + side * half * u, y) for u, y in cabin], shade(paint, 0.9))
    panes = [(-0.5, floor - 6), (-0.34, roof + 1.3), (0.26, roof + 1.3), (0.44, floor - 6)]
    picture.polygon([(x + side * half * u, y) for u, y in panes], glass)
    picture.box(x - half, floor - 6.5, x + half, floor - 0.8, paint, 2)
    for wheel in (-0.55, 0.55):
        picture.ellipse(x + half * wheel, floor - 0.8, 2.9, 2.9, (28, 28, 32))
        picture.ellipse(x + half * wheel, floor - 0.8, 1.3, 1.3, (190, 190, 195))
    picture.ellipse(x + side * (half - 1), floor - 4.3, 0.9, 1.0, (255, 240, 170))
    return picture


def _ship(rng: random.Random) -> Canvas:
    picture = _sky(rng)
    sea = rng.uniform(22, 25)
    x, side, paint = rng.uniform(14, 18), rng.choice([-1, 1]), _vivid(rng)
    if rng.random() < 0.6:
        sail = hsv(rng.random(), rng.choice([0.05, 0.5]), 0.98)
        picture.line([(x, 5), (x, sea - 3)], hsv(0.08, 0.5, 0.35), 0.9)
        picture.polygon([(x + side, 5), (x + side, sea - 4), (x + side * rng.uniform(8, 10), sea - 4)], sail)
        picture.polygon([(x - side, 8), (x - side, sea - 4), (x - side * 6.5, sea - 4)], shade(sail, 0.88))
    else:
        picture.box(x - 6, sea - 8, x + 6, sea - 3, (240, 240, 235), 0.8)
        chimney = x + side * 2
        picture.box(chimney - 1.6, sea - 13, chimney + 1.6, sea - 8, _vivid(rng))
    picture.polygon([(x - 12, sea - 3.5), (x + 12, sea - 3.5), (x + 8, sea + 3), (x - 8, sea + 3)], paint)
    _ground(picture, rng, sea, rng.uniform(0.52, 0.64), 0.65)
    return picture


def _ball(rng: random.Random) -> Canvas:
    hue = rng.random()
    ends = hsv(hue, 0.2, rng.uniform(0.75, 0.95)), hsv(hue + 0.05, 0.35, rng.uniform(0.5, 0.8))
    picture = _scene(*ends)
    x, y, radius, paint = rng.uniform(13, 19), rng.uniform(13, 18), rng.uniform(7.5, 11), _vivid(rng)
    picture.ellipse(x + 1, y + radius * 0.97, radius * 0.85, radius * 0.2, shade(ends[1], 0.6))
    for ring in range(8):  # light from above left
        u = ring / 8
        shift, reach = 0.38 * radius * u, radius * (1 - u)
        picture.ellipse(x - shift, y - shift, reach, reach, mix(shade(paint, 0.7), mix(paint, (255, 255, 255), 0.5), u))
    return picture


def _fish(rng: random.Random) -> Canvas:
    hue = rng.uniform(0.47, 0.62)
    picture = _scene(hsv(hue, 0.45, 0.95), hsv(hue + 0.05, 0.8, rng.uniform(0.3, 0.55)))
    x, y, length, side = rng.uniform(14, 18), rng.uniform(12, 20), rng.uniform(7.5, 9.5), rng.choice([-1, 1])
    paint = hsv(rng.choice([0.0, 0.05, 0.1, 0.14, 0.83, 0.92]), rng.uniform(0.65, 0.9), 0.97)
    tail, fin, height = x - side * length * 0.75, shade(paint, 0.8), length * rng.uniform(0.5, 0.65)
    picture.polygon([(tail, y), (tail - side * 6, y - 5), (tail - side * 4.5, y), (tail - side * 6, y + 5)], fin)
    picture.polygon([(x - side * 4, y - height * 0.7), (x + side, y - height - 3), (x + side * 3, y - height * 0.7)], fin)
    picture.ellipse(x, y, length, height, paint)
    if rng.random() < 0.5:
        picture.box(x - 1.3, y - height * 0.96, x + 1.3, y + height * 0.96, (250, 250, 250))
    picture.ellipse(x + side * length * 0.55, y - 1.2, 1.6, 1.6, (255, 255, 255))
    picture.ellipse(x + side * length * 0.62, y - 1.2, 0.9, 0.9, (20, 20, 30))
    return picture


def _flower(rng: random.Random) -> Canvas:
    hue = rng.uniform(0.22, 0.42)
    picture = _scene(hsv(hue, rng.uniform(0.1, 0.35), 0.95), hsv(hue, 0.55, rng.uniform(0.4, 0.7)))
    x, y, reach = rng.uniform(13, 19), rng.uniform(11, 15), rng.uniform(5, 6.2)
    green = hsv(0.33, 0.7, rng.uniform(0.35, 0.55))
    picture.line([(x, y), (x + rng.uniform(-2, 2), 32)], green, 1.6)
    picture.ellipse(x + rng.choice([-1, 1]) * 3.4, 26, 3.4, 1.5, green)
    petals = rng.choice([5, 6, 8])
    paint = hsv(rng.choice([0.0, 0.08, 0.13, 0.6, 0.75, 0.85, 0.93]), rng.choice([0.15, 0.7, 0.85]), 0.97)
    turn = rng.random()
    for petal in range(petals):
        angle = 2 * math.pi * (petal + turn) / petals
        px, py = x + reach * math.cos(angle), y + reach * math.sin(angle)
        picture.ellipse(px, py, 3.6, 3.6, shade(paint, 0.9 if petal % 2 else 1.0))
    picture.ellipse(x, y, 3.4, 3.4, hsv(rng.choice([0.08, 0.13, 0.15]), 0.85, rng.uniform(0.55, 1.0)))
    return picture


def _bird(rng: random.Random) -> Canvas:
    picture = _sky(rng)
    x, y, side, paint = rng.uniform(14, 17), rng.uniform(15, 18), rng.choice([-1, 1]), _vivid(rng)
    picture.line([(0, 26.5), (32, rng.uniform(25, 28))], hsv(0.07, 0.55, 0.35), 2)
    picture.line([(x, y + 5), (x, 26)], (200, 130, 40), 1)
    picture.polygon([(x - side * 4, y - 1), (x - side * 13, y - rng.uniform(-1, 5)), (x - side * 5, y + 4)], shade(paint, 0.75))
    picture.ellipse(x, y, 7.5, 5.8, paint)
    picture.ellipse(x + side * 1.5, y + 2, 4.5, 3.4, mix(paint, (255, 255, 255), 0.6))
    picture.ellipse(x - side * 2, y - 0.5, 4.3, 2.8, shade(paint, 0.72))
    head = x + side * 6.5
    picture.polygon([(head + side * 3, y - 7), (head + side * 7.5, y - 5), (head + side * 3, y - 3.6)], (245, 165, 40))
    picture.ellipse(head, y - 5.5, 4.2, 4.2, paint)
    picture.ellipse(head + side * 1.4, y - 6.3, 1.0, 1.0, (15, 15, 20))
    return picture


def _plane(rng: random.Random) -> Canvas:
    picture = _sky(rng)
    x, y, side, paint = rng.uniform(14, 18), rng.uniform(13, 19), rng.choice([-1, 1]), _vivid(rng)
    body = hsv(rng.random(), 0.06, rng.uniform(0.85, 0.98))
    climb = rng.uniform(-0.15, 0.35)

    def at(u: float, v: float) -> Point:  # u forwards, v downwards
        return x + side * u, y + v - climb * u

    for cloud in range(2):
        cx, cy = rng.uniform(2, 30), rng.uniform(3, 8) if cloud else rng.uniform(24, 29)
        picture.ellipse(cx, cy, rng.uniform(4, 7), 1.8, (250, 250, 252))
    picture.polygon([at(-8, 0), at(-13.5, -7.5), at(-10.5, -7.5), at(-5, -1)], paint)
    picture.polygon([at(1, -1), at(-3, -7), at(-5, -7), at(-3, -1)], shade(paint, 0.7))
    picture.line([at(-11, -0.5), at(10, 0)], body, 5)
    picture.polygon([at(3.5, 0.5), at(-4, 9), at(-6.8, 9), at(-3.5, 0.5)], paint)
    for window in range(4):
        wx, wy = at(-4 + 3.3 * window, -0.9)
        picture.ellipse(wx, wy, 0.75, 0.75, hsv(0.58, 0.5, 0.45))
    return picture


KINDS: dict[str, Callable[[random.Random], Canvas]] = {
    "sunset": _sunset, "house": _house, "tree": _tree, "car": _car, "ship": _ship,
    "ball": _ball, "fish": _fish, "flower": _flower, "bird": _bird, "plane": _plane,
}  # fmt: skip
