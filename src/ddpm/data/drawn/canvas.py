"""The drawing surface and the colours of everything that is drawn by code."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """A picture with `zoom` pixels a unit of length: drawn large and scaled down, which smooths edges."""

    def __init__(self, ground: Image.Image, zoom: float) -> None:
        self.image, self.zoom = ground, zoom
        self.draw = ImageDraw.Draw(ground)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        z = self.zoom
        self.draw.ellipse(((x - rx) * z, (y - ry) * z, (x + rx) * z, (y + ry) * z), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour, radius: float = 0.0) -> None:
        z = self.zoom
        self.draw.rounded_rectangle((left * z, top * z, right * z, bottom * z), radius * z, fill=fill)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self.draw.polygon([(x * self.zoom, y * self.zoom) for x, y in points], fill=fill)

    def line(self, points: list[Point], fill: Colour, width: float) -> None:
        """A line with round ends."""
        scaled = [(x * self.zoom, y * self.zoom) for x, y in points]
        self.draw.line(scaled, fill=fill, width=max(1, round(width * self.zoom)), joint="curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, fill)

    def shrunk(self, width: int, height: int) -> Image.Image:
        return self.image.resize((width, height), Image.Resampling.BOX)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Each in [0, 1]: the hue goes round, the others are cut."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(255 * red), round(255 * green), round(255 * blue)


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` times `factor`: darker below 1, lighter above."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def mix(one: Colour, other: Colour, weight: float) -> Colour:
    """`weight` of `other` in `one`."""
    red, green, blue = (round(a + (b - a) * weight) for a, b in zip(one, other, strict=True))
    return red, green, blue


def gradient(width: int, height: int, start: Colour, end: Colour, direction: Point = (0.0, 1.0)) -> Image.Image:
    """From `start` to `end` along `direction` = (right, down), two non-negative weights with sum 1."""
    along = direction[0] * np.linspace(0, 1, width)[None, :] + direction[1] * np.linspace(0, 1, height)[:, None]
    pixels = np.asarray(start) + along[..., None] * (np.asarray(end) - np.asarray(start))
    return Image.fromarray(pixels.round().astype(np.uint8))
