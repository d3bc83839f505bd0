"""HTML whose text is always escaped: only what `tag` made is taken as markup."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

VOID = ("br", "img", "input")
MARGIN = 2  # pixels about each image of a sheet


class Html(str):
    """Markup; any other string is text."""


def tag(name: str, *children: str, **attributes: str | int | bool) -> Html:
    """The element `name`. Children that are no Html are escaped, as attributes are.

    A `_` in an attribute's name stands for `-`, one at its end is dropped (class_), and True is an attribute without value;
    False leaves it out.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not False
    )
    return Html(f"<{name}{written}>" + ("" if name in VOID else f"{join(*children)}</{name}>"))


def join(*children: str) -> Html:
    """Elements and texts after each other."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))


def table(header: list[str], rows: list[list[str]], caption: str, class_: str = "") -> Html:
    """A table whose first column names the rows. It scrolls by itself where it is too wide."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = []
    for first, *rest in rows:
        cells = [tag("td", cell, data_name=name) for name, cell in zip(header[1:], rest, strict=True)]
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_=f"scroll {class_}".strip(), tabindex=0, role="region", aria_label=caption)


def sheet(images: np.ndarray, per_row: int) -> np.ndarray:
    """Images (N, H, W, 3) side by side, `per_row` in a row, on a transparent ground: (rows, columns, 4), all uint8."""
    count, height, width, _ = images.shape
    rows, columns = -(-count // per_row), min(count, per_row)
    whole = np.zeros((rows * (height + MARGIN), columns * (width + MARGIN), 4), np.uint8)
    for i, image in enumerate(images):
        top, left = i // per_row * (height + MARGIN), i % per_row * (width + MARGIN)
        whole[top : top + height, left : left + width] = np.dstack([image, np.full((height, width), 255, np.uint8)])
    return whole


def picture(pixels: np.ndarray, alt: str, width: int, frames: int = 1) -> Html:
    """An <img> of `pixels` (H, W, 4), every bit as it is, enlarged by a whole factor to about `width` CSS pixels or less.

    Of `frames`, which stand under each other, it shows one at a time, at first the last.
    """
    height, columns = pixels.shape[0] // frames, pixels.shape[1]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)  # a third smaller than PNG
    source = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    shape = f"width:{columns * max(1, width // columns)}px;aspect-ratio:{columns}/{height}"
    return tag("img", src=source, alt=alt, style=shape, width=columns, height=height)
