"""Garments in ten kinds, drawn by code: the stand-in for Fashion-MNIST, in its label order.

Light on black, seen from the front, shoes from the side with the toe at the left; coordinates in units of the 28x28 image.
Drawn large and scaled down, which smooths edges.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image, ImageDraw

SIZE, ZOOM, MIDDLE = 28, 8, 14.0

Point = tuple[float, float]


def draw_garment(kind: int, rng: random.Random) -> Image.Image:
    """A 28x28 picture of KINDS[kind], mode L; nothing but `rng` decides. Raises IndexError for another kind."""
    picture = _Picture()
    KINDS[list(KINDS)[kind]](picture, rng)
    return picture.image.resize((SIZE, SIZE), Image.Resampling.BOX)


class _Picture:
    def __init__(self) -> None:
        self.image = Image.new("L", (SIZE * ZOOM, SIZE * ZOOM))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: list[Point], tone: float) -> None:
        self.draw.polygon([(x * ZOOM, y * ZOOM) for x, y in points], fill=_gray(tone))

    def both(self, points: list[Point], tone: float) -> None:
        """The polygon with x counted from the middle, and its mirror image."""
        for side in (-1, 1):
            self.polygon([(MIDDLE + side * x, y) for x, y in points], tone)

    def line(self, points: list[Point], tone: float, width: float) -> None:
        self.draw.line([(x * ZOOM, y * ZOOM) for x, y in points], _gray(tone), max(1, round(width * ZOOM)), joint="curve")

    def ellipse(self, x: float, y: float, rx: float, ry: float, tone: float) -> None:
        self.draw.ellipse(((x - rx) * ZOOM, (y - ry) * ZOOM, (x + rx) * ZOOM, (y + ry) * ZOOM), fill=_gray(tone))

    def darken(self, left: float, top: float, right: float, bottom: float, factor: float) -> None:
        """Multiply what is drawn so far inside the box: black ground stays black."""
        box = round(left * ZOOM), round(top * ZOOM), round(right * ZOOM), round(bottom * ZOOM)
        self.image.paste(self.image.crop(box).point([round(factor * tone) for tone in range(256)]), box)

    def pattern(self, rng: random.Random, chance: float) -> None:
        """Stripes across or along what is drawn so far, with probability `chance`."""
        period, factor, along, start = rng.uniform(2.2, 5), rng.uniform(0.45, 0.8), rng.random() < 0.4, rng.uniform(0, 3)
        if rng.random() < chance:
            for stripe in range(int(SIZE / period)):
                low = start + stripe * period
                if along:
                    self.darken(low, 0, low + period / 2, SIZE, factor)
                else:
                    self.darken(0, low, SIZE, low + period / 2, factor)


def _gray(tone: float) -> int:
    return round(min(max(tone, 0), 255))


def _upper(picture: _Picture, tone: float, half: float, hem: float, sleeve: list[Point], flare: float = 0.0) -> None:
    """A body of width 2 `half` down to `hem`, and sleeves along the outline `sleeve`, x counted from the middle."""
    picture.both([(half - 2, 3.2), *sleeve, (half - 0.6, 11)], 0.88 * tone)
    picture.both([(0, 3.4), (2.6, 2.6), (half, 4.6), (half - 0.2, 11), (half + flare, hem), (0, hem + 0.4)], tone)
    for side in (-1, 1):  # the seam between body and sleeve
        picture.line([(MIDDLE + side * (half - 0.3), 6), (MIDDLE + side * (half - 0.2), 12)], 0.6 * tone, 0.4)


def _long_sleeve(rng: random.Random, half: float, wide: float) -> list[Point]:
    reach, end = half + rng.uniform(2.6, 3.8), rng.uniform(22, 24.5)
    return [(half + 1, 5.5), (half + 2.2, 9), (reach + wide / 2, end), (reach - 2.2, end + 0.5)]


def _buttons(picture: _Picture, tone: float, top: float, bottom: float, x: float = MIDDLE) -> None:
    for button in range(5):
        picture.ellipse(x, top + (bottom - top) * button / 4, 0.55, 0.55, tone)


def _t_shirt(picture: _Picture, rng: random.Random) -> None:
    tone, half, end = rng.uniform(130, 245), rng.uniform(6.2, 7.2), rng.uniform(9, 11)
    sleeve = [(half + 1, 4.8), (half + rng.uniform(4, 5.5), end), (half + 2, end + 2)]
    _upper(picture, tone, half, rng.uniform(23.5, 25.5), sleeve)
    picture.pattern(rng, 0.35)
    if rng.random() < 0.4:
        picture.ellipse(MIDDLE, rng.uniform(11, 14), rng.uniform(2, 3.5), rng.uniform(1.5, 3), rng.uniform(0.3, 0.7) * tone)
    picture.ellipse(MIDDLE, 2.6, rng.uniform(2.4, 3.2), rng.uniform(1.6, 3), 0)


def _trouser(picture: _Picture, rng: random.Random) -> None:
    tone, hip, apart = rng.uniform(90, 245), rng.uniform(4, 5.4), rng.uniform(0.4, 1.6)
    ankle = apart + rng.uniform(2.4, 4)
    picture.both([(0, 2), (hip - 0.5, 2), (hip, 9), (ankle, 26), (apart, 26), (0.2, rng.uniform(8.5, 10.5))], tone)
    picture.pattern(rng, 0.15)
    picture.both([(0, 2), (hip - 0.5, 2), (hip - 0.4, 3.4), (0, 3.4)], 0.65 * tone)


def _pullover(picture: _Picture, rng: random.Random) -> None:
    tone, half, hem = rng.uniform(120, 225), rng.uniform(6, 7), rng.uniform(22.5, 24)
    _upper(picture, tone, half, hem, _long_sleeve(rng, half, 0.4))
    picture.pattern(rng, 0.4)
    picture.ellipse(MIDDLE, 2.9, 3.2, 1.7, 0.6 * tone)
    picture.ellipse(MIDDLE, 2.4, 2.4, 1.2, 0)
    picture.darken(MIDDLE - half, hem - 1.8, MIDDLE + half, hem + 1, 0.75)  # the knitted hem


def _dress(picture: _Picture, rng: random.Random) -> None:
    tone, waist, flare = rng.uniform(120, 240), rng.uniform(2.4, 3.2), rng.uniform(4, 7)
    chest, line = waist + rng.uniform(0.8, 1.5), rng.uniform(10, 12.5)
    picture.both([(0, 4.5), (1.6, 5), (1.9, 2), (3.1, 2), (chest, 6.5), (waist, line), (flare, 26), (0, 26.4)], tone)
    picture.pattern(rng, 0.3)
    if rng.random() < 0.6:
        picture.darken(MIDDLE - chest, line - 0.7, MIDDLE + chest, line + 0.5, rng.uniform(0.3, 0.6))
    for fold in (-0.4, 0.35):
        picture.line([(MIDDLE + fold * waist, line + 2), (MIDDLE + fold * flare, 26)], 0.75 * tone, 0.4)


def _coat(picture: _Picture, rng: random.Random) -> None:
    tone, half = rng.uniform(80, 180), rng.uniform(6.6, 7.6)
    _upper(picture, tone, half, 26.5, _long_sleeve(rng, half, 1.2), rng.uniform(0.2, 1))
    low, gap = rng.uniform(10, 14), rng.uniform(0.3, 0.8)
    picture.polygon([(MIDDLE - 2.6, 2.4), (MIDDLE + 2.6, 2.4), (MIDDLE, low)], 0.25 * tone)
    picture.both([(2.4, 2.4), (4.2, 5), (0.3, low), (1.6, 6)], 1.35 * tone)  # lapels
    picture.line([(MIDDLE, low), (MIDDLE, 27)], 0, gap)
    _buttons(picture, 0.35 * tone, low + 1, 22, MIDDLE + 1.6)
    for side in (-1, 1):  # pockets
        picture.line([(MIDDLE + side * 2.8, 19), (MIDDLE + side * 5.2, 18.4)], 0.5 * tone, 0.6)


def _sandal(picture: _Picture, rng: random.Random) -> None:
    tone, heel, top = rng.uniform(120, 245), rng.uniform(15, 19), rng.uniform(10, 13)
    sole: list[Point] = [(2, 21.5), (10, 21), (18, heel + 1), (26, heel)]
    for x in (5.5, rng.uniform(9, 11)):  # straps over the foot
        picture.line([(x - 2, 21), (x + 0.5, rng.uniform(16, 18)), (x + 4, 20.5)], tone, rng.uniform(1.3, 2.1))
    picture.line([(19, heel), (20.5, top), (26, top + 1), (25, heel)], tone, rng.uniform(1.3, 2.1))
    picture.line(sole, 0.75 * tone, rng.uniform(1.2, 2))
    picture.polygon([(22.5, heel), (26.5, heel - 0.4), (26, 22.5), (24, 22.5)], 0.6 * tone)


def _shirt(picture: _Picture, rng: random.Random) -> None:
    tone, half, hem = rng.uniform(160, 245), rng.uniform(5.2, 6), rng.uniform(24, 26)
    reach, end = half + rng.uniform(4, 5), rng.uniform(15, 18)  # sleeves rolled up
    _upper(picture, tone, half, hem, [(half + 1, 5.2), (reach, end), (reach - 2.6, end + 0.7)], rng.uniform(0, 0.8))
    picture.pattern(rng, 0.7)
    picture.polygon([(MIDDLE - 2, 2.4), (MIDDLE + 2, 2.4), (MIDDLE, 6)], 0)
    picture.both([(1.4, 1.6), (3.4, 3), (2.4, 6.4), (0.1, 5.4)], 1.1 * tone)  # collar
    picture.line([(MIDDLE, 6), (MIDDLE, hem)], 0.55 * tone, 0.4)
    _buttons(picture, 0.35 * tone, 8, hem - 3, MIDDLE + 0.3)


def _sneaker(picture: _Picture, rng: random.Random) -> None:
    tone, top, sole = rng.uniform(100, 230), rng.uniform(11, 13), rng.choice([0.4, 1.6]) * rng.uniform(0.9, 1.1)
    toe = rng.uniform(16.5, 18)
    picture.polygon([(1.8, 21), (2.4, toe + 1), (7, toe), (14, top + 1), (19, top), (26, top + 0.3), (26.4, 21)], tone)
    picture.ellipse(22.3, top, 3.2, 1.2, 0.3 * tone)  # the opening
    for lace in range(4):
        x, y = 9.5 + 2 * lace, toe - (toe - top - 1) * (2.5 + 2 * lace) / 7
        picture.line([(x, y + 0.2), (x + 1.2, y + 2)], 1.7 * tone if tone < 140 else 0.4 * tone, 0.6)
    if rng.random() < 0.6:
        picture.line([(12, 20), (17, 15.5), (23, 18.5)], sole * tone, rng.uniform(0.8, 1.5))
    picture.polygon([(1.4, 20.4), (26.6, 20.4), (26.4, 22.6), (2.2, 22.6)], sole * tone)


def _bag(picture: _Picture, rng: random.Random) -> None:
    tone, half, top, bottom = rng.uniform(110, 240), rng.uniform(9, 12), rng.uniform(10, 12.5), rng.uniform(22, 25.5)
    arch, high = half * rng.uniform(0.5, 0.8), rng.uniform(2.5, 5)
    handle = [(MIDDLE + x * arch, y) for x, y in ((-1, top), (-0.7, high), (0.7, high), (1, top))]
    picture.line(handle, 0.8 * tone, rng.uniform(0.8, 1.4))
    picture.both([(0, top), (half - rng.uniform(0, 1.5), top), (half, bottom), (0, bottom)], tone)
    picture.pattern(rng, 0.2)
    flap = top + rng.uniform(3, 6)
    if rng.random() < 0.7:
        picture.both([(0, top), (half - 1, top), (half - 1.5, flap), (0, flap + 1)], 0.7 * tone)
    picture.ellipse(MIDDLE, flap + 1, 1, 1, 1.5 * tone if tone < 150 else 0.3 * tone)


def _ankle_boot(picture: _Picture, rng: random.Random) -> None:
    tone, top = rng.uniform(90, 235), rng.uniform(3, 6)
    front, toe = rng.uniform(12.5, 14.5), rng.uniform(17, 18.5)
    picture.polygon([(2, 23), (2.6, toe + 1.4), (7, toe), (front, 14), (front, top), (24.5, top - 0.4), (25.6, 22)], tone)
    picture.polygon([(1.8, 22.4), (17, 22), (25.8, 21.4), (25.6, 24.5), (20.5, 24.5), (20, 23.4), (2, 24)], 0.5 * tone)
    picture.polygon([(front, top), (24.5, top - 0.4), (24.6, top + 1.2), (front, top + 1.4)], 0.65 * tone)
    if rng.random() < 0.5:
        picture.line([(front + 3, 12), (20, 17), (20, 22)], 0.6 * tone, rng.uniform(0.5, 1.1))
    picture.line([(19, top + 2), (19, rng.uniform(9, 14))], 0.6 * tone, 0.4)


KINDS: dict[str, Callable[[_Picture, random.Random], None]] = {
    "t-shirt": _t_shirt,
    "trouser": _trouser,
    "pullover": _pullover,
    "dress": _dress,
    "coat": _coat,
    "sandal": _sandal,
    "shirt": _shirt,
    "sneaker": _sneaker,
    "bag": _bag,
    "ankle boot": _ankle_boot,
}
