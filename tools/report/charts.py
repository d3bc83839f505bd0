"""Curves as inline SVG, in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tools.report.markup import Html, tag

WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 48, 18, 10, 36
Curve = Sequence[tuple[float, float]]
COLOURS = 6  # that page.css has


def chart(title: str, curves: Mapping[str, Curve], xlabel: str, ylabel: str, log_x: bool = False) -> Html:
    """Curves {label: [(x, y), ...]} over a logarithmic y axis, with a legend. Points with y <= 0 are left out."""
    drawn = {label: [(x, y) for x, y in curve if y > 0 and (x > 0 or not log_x)] for label, curve in curves.items() if curve}
    xs, ys = ([point[axis] for curve in drawn.values() for point in curve] for axis in (0, 1))
    if not xs:
        return tag("p", "No numbers to draw.", class_="missing")
    place_x, ticks_x = _axis(xs, LEFT, WIDTH - RIGHT, log_x)
    place_y, ticks_y = _axis(ys, HEIGHT - BOTTOM, TOP, True)
    parts = [tag("title", title)]
    for value, y in ((value, place_y(value)) for value in ticks_y):
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="rule"))
        parts.append(tag("text", _short(value), x=LEFT - 6, y=y, class_="y"))
    for value, x in ((value, place_x(value)) for value in ticks_x):
        parts.append(tag("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="rule"))
        parts.append(tag("text", _short(value), x=x, y=HEIGHT - BOTTOM + 14, class_="x"))
    parts.append(tag("text", xlabel, x=str((LEFT + WIDTH - RIGHT) / 2), y=HEIGHT - 4, class_="x"))
    parts.append(tag("text", ylabel, transform=f"translate(11 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)", class_="x"))
    for number, curve in enumerate(drawn.values()):
        points = " ".join(f"{place_x(x)},{place_y(y)}" for x, y in curve)
        parts.append(tag("polyline", points=points, class_=f"curve c{number % COLOURS}"))
    drawing = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    legend = [tag("li", tag("span", class_=f"swatch c{number % COLOURS}"), label) for number, label in enumerate(drawn)]
    return tag("figure", drawing, tag("ul", *legend, class_="legend") if len(drawn) > 1 else "", class_="chart")


class _Axis:
    """Where values lie between two ends of an axis, to a tenth of a unit."""

    def __init__(self, least: float, most: float, start: float, end: float, log: bool) -> None:
        self.log, self.least, self.start = log, self._value(least, log), start
        self.scale = (end - start) / ((self._value(most, log) - self.least) or 1)

    @staticmethod
    def _value(value: float, log: bool) -> float:
        return math.log10(value) if log else value

    def __call__(self, value: float) -> str:
        return f"{self.start + (self._value(value, self.log) - self.least) * self.scale:.1f}"


def _axis(values: Sequence[float], start: float, end: float, log: bool) -> tuple[_Axis, list[float]]:
    """Where values lie on an axis from `start` to `end`, and round numbers to write beside it."""
    least, most = min(values), max(values)
    if log:
        powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
            ticks = [step * 10.0**power for power in powers for step in steps if least <= step * 10.0**power <= most]
            if len(ticks) >= 3:
                break
        return _Axis(least, most, start, end, log), ticks
    least = min(least, 0)
    step = 10.0 ** math.floor(math.log10((most - least) or 1))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1) if (most - least) / (step * part) <= 6 or part == 1)
    count = int((most - least) / step)
    return _Axis(least, most, start, end, log), [least + i * step for i in range(count + 1)]


def _short(value: float) -> str:
    """1200 as 1,200 and 0.05 as 0.05."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.4g}"
