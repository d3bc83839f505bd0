"""Pictures for people: grids of samples, rows with labels, animations.

All arrays of images are uint8 (N, H, W, C) with C = 3, or C = 1 for gray; the files written are RGB. Each file says where its
images lie, so that `images_in` finds them again whatever stands around them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageSequence
from PIL.PngImagePlugin import PngInfo

from ddpm.base.files import whole_file

MARGIN, TARGET_WIDTH, GIF_WIDTH, HOLD_MS = 2, 900, 300, 2000
SMALL = 64  # images up to this side are enlarged at least twice: smaller they are stamps
FONT_SIZE, FONT_SHARE = 14, 48  # the least, and how much wider a picture is: pages scale wide pictures down
PAD = 6  # around texts
CHUNK = 1000  # images summed at a time
GRAYS = np.array([0, 64, 128, 192, 255], np.float32)  # of the texts of an animation
LAYOUT = "images"  # the key of a PNG's text chunk that holds its layout


class Row(NamedTuple):
    """A row of a picture: images (N, H, W, C), the label at their left, and, if any, a caption above each."""

    label: str
    images: np.ndarray
    captions: Sequence[str] = ()


class Place(NamedTuple):
    """Where a row of images lies in a picture: pixels from its left and top to the first image; each is height x width
    pixels, `factor` times enlarged."""

    left: int
    top: int
    images: int
    height: int
    width: int
    factor: int


def make_grid(images: np.ndarray, per_row: int) -> np.ndarray:
    """Tile images (N, H, W, 3 or 1) into one picture (rows, cols, 3) with white margins, `per_row` in a row."""
    count, height, width, _ = images.shape
    rows = -(-count // per_row)
    grid = np.full((rows * (height + MARGIN) + MARGIN, per_row * (width + MARGIN) + MARGIN, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = MARGIN + i // per_row * (height + MARGIN), MARGIN + i % per_row * (width + MARGIN)
        grid[top : top + height, left : left + width] = image
    return grid


def save_grid(path: Path, images: np.ndarray, per_row: int, title: str = "", target_width: int = TARGET_WIDTH) -> None:
    """Write images as one PNG below its title, each pixel enlarged by a whole factor to about `target_width` pixels in all."""
    grid = make_grid(images, per_row)
    factor = _factor(images, grid.shape[1], target_width)
    enlarged = Image.fromarray(grid.repeat(factor, 0).repeat(factor, 1))
    header = _header(enlarged.width, [title])
    picture = Image.new("RGB", (enlarged.width, header.height + enlarged.height), "white")
    picture.paste(header)
    picture.paste(enlarged, (0, header.height))
    _save_png(path, picture, _places(images, per_row, factor, 0, header.height))


def save_gif(
    path: Path,
    frames: Sequence[np.ndarray],
    per_row: int,
    title: str = "",
    captions: Sequence[str] = (),
    seconds: float = 4.0,
    target_width: int = GIF_WIDTH,
) -> None:
    """Write frames of images (N, H, W, C), such as the steps of a denoising path, as an animation of their grids.

    The frames before the last take about `seconds` in all, the last stays for HOLD_MS, then it starts again. One palette
    serves all frames, so nothing flickers. `captions`: a line for each frame, below the title. Raises ValueError without
    frames.
    """
    if not frames:
        raise ValueError(f"{path}: an animation needs at least one frame")
    grids = [make_grid(images, per_row) for images in frames]
    palette, factor = _shared_palette(grids), _factor(frames[0], grids[0].shape[1], target_width)
    headers = [_header(grids[0].shape[1] * factor, [title, *line]) for line in zip(captions, strict=True)] if captions else []
    headers = headers or [_header(grids[0].shape[1] * factor, [title])] * len(grids)
    pictures = []
    for grid, header in zip(grids, headers, strict=True):
        below = _in_palette(grid, palette).repeat(factor, 0).repeat(factor, 1)
        text = _in_palette(np.asarray(header), palette)
        picture = Image.fromarray(np.concatenate([text, below]) if header.height else below)
        picture.putpalette(palette.astype(np.uint8).tobytes())
        pictures.append(picture)
    pause = max(20, 10 * round(100 * seconds / max(1, len(frames) - 1)))  # in steps of 10 ms; viewers play no faster than 20
    durations = [pause] * (len(frames) - 1) + [HOLD_MS]
    comment = json.dumps(_places(frames[0], per_row, factor, 0, headers[0].height)).encode()
    with whole_file(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=0, comment=comment)


def _shared_palette(grids: list[np.ndarray]) -> np.ndarray:
    """At most 255 colours (K, 3) for all grids. The last weighs as much as the others, whose noise would take its colours.

    The colour left free of 256 marks what a frame does not change; without it the file can be three times as long.
    """
    few = grids[:: 1 + len(grids) // 10]  # the cut takes seconds for millions of pixels
    palette = Image.fromarray(np.concatenate(few + grids[-1:] * len(few))).quantize(255 - len(GRAYS)).getpalette()
    return np.concatenate([GRAYS[:, None].repeat(3, 1), np.asarray(palette, np.float32).reshape(-1, 3)])


def _in_palette(grid: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The number of the nearest colour of each pixel, uint8 (H, W); Pillow's own search is coarse, its white a pale gray."""
    distances = (palette**2).sum(1) - 2 * grid.astype(np.float32) @ palette.T  # but for the pixel's own square
    return distances.argmin(-1).astype(np.uint8)


def save_labelled_rows(
    path: Path, rows: Sequence[Row | tuple[str, np.ndarray]], title: str = "", target_width: int = TARGET_WIDTH
) -> None:
    """Write the rows below each other as one PNG: the title above, the labels at the left, in a column as wide as they need.

    Raises ValueError if a row has captions, but not one for each image.
    """
    lines = [Row(*row) for row in rows]
    for label, images, captions in lines:
        if captions and len(images) != len(captions):
            raise ValueError(f"{path}: row {label!r} has {len(images)} images and {len(captions)} captions")
    grids = [make_grid(row.images, len(row.images)) for row in lines]
    factors = [_factor(row.images, grid.shape[1], target_width) for row, grid in zip(lines, grids, strict=True)]
    wide = max(grid.shape[1] * factor for grid, factor in zip(grids, factors, strict=True))
    font = _font(wide)
    left = PAD + max(_text_width(row.label, font) for row in lines)
    left += PAD if left > PAD else -PAD  # no column without labels
    header = _header(left + wide, [title])
    top = header.height
    parts: list[tuple[int, int, Image.Image, Row]] = []
    places: list[Place] = []
    for row, grid, factor in zip(lines, grids, factors, strict=True):
        top += _line_height(font) if row.captions else 0
        enlarged = Image.fromarray(grid.repeat(factor, 0).repeat(factor, 1))
        height = max(enlarged.height, _line_height(font) * (row.label.count("\n") + 1))
        parts.append((top, height, enlarged, row))
        places += _places(row.images, len(row.images), factor, left, top)
        top += height
    picture = Image.new("RGB", (left + wide, top), "white")
    picture.paste(header)
    draw = ImageDraw.Draw(picture)
    for top, height, enlarged, row in parts:
        picture.paste(enlarged, (left, top))
        draw.multiline_text((PAD, top + height // 2), row.label, fill="black", font=font, anchor="lm")
        column = enlarged.width / len(row.images)
        small = _font(wide, max((_text_width(caption, font) for caption in row.captions), default=0) / (column - PAD))
        for i, caption in enumerate(row.captions):
            middle = (left + column * (i + 0.5), top - _line_height(font) / 2)
            draw.text(middle, caption, fill="black", font=small, anchor="mm")
    _save_png(path, picture, places)


def images_in(content: bytes) -> list[list[np.ndarray]]:
    """Of every frame of a picture that this module wrote, one if it is not animated, the rows of images: uint8 (N, H, W, 3).

    Empty for another picture, and for no content.
    """
    if not content:
        return []
    with Image.open(io.BytesIO(content)) as picture:
        said = picture.info.get("comment") or picture.info.get(LAYOUT)
        try:
            places = [Place(*map(int, place)) for place in json.loads(said or "[]")]
        except (TypeError, ValueError):  # a comment of somebody else's
            return []
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)] if places else []
    return [[_row_at(frame, place) for place in places] for frame in frames]


def _row_at(picture: np.ndarray, place: Place) -> np.ndarray:
    left, top, images, height, width, factor = place
    step = (width + MARGIN) * factor
    rows = picture[top : top + height * factor : factor]
    return np.stack([rows[:, left + i * step : left + i * step + width * factor : factor] for i in range(images)])


def _places(images: np.ndarray, per_row: int, factor: int, left: int, top: int) -> list[Place]:
    """The rows of `make_grid` of these images, enlarged and put at (left, top)."""
    count, height, width, _ = images.shape
    left, top = left + MARGIN * factor, top + MARGIN * factor
    return [
        Place(left, top + start // per_row * (height + MARGIN) * factor, min(per_row, count - start), height, width, factor)
        for start in range(0, count, per_row)
    ]


def _save_png(path: Path, picture: Image.Image, places: list[Place]) -> None:
    layout = PngInfo()
    layout.add_text(LAYOUT, json.dumps(places))
    with whole_file(path) as temporary:
        picture.save(temporary, optimize=True, pnginfo=layout)


def _factor(images: np.ndarray, width: int, target_width: int) -> int:
    """By how much a grid of these images, `width` pixels wide, is enlarged."""
    least = 2 if max(images.shape[1:3]) <= SMALL else 1
    return max(least, target_width // width)


def _font(width: int, shrink: float = 1.0) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of a picture that is `width` pixels wide, smaller by `shrink` if that is above 1."""
    return ImageFont.load_default(max(FONT_SIZE, width // FONT_SHARE) / max(1.0, shrink))


def _text_width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """Pixels that the longest line takes."""
    return max(int(np.ceil(font.getlength(line))) for line in text.split("\n"))


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(font.getbbox("Ag")[3] + PAD)


def _header(width: int, texts: Sequence[str]) -> Image.Image:
    """The texts, each from a new line, broken into lines that fit `width`; no pixel high if there are none."""
    font, lines = _font(width), list[str]()
    for text in filter(None, texts):
        lines.append("")
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width - 2 * PAD:
                lines.append(word)
            else:
                lines[-1] = longer
    step = _line_height(font)
    header = Image.new("RGB", (width, step * len(lines) + PAD * bool(lines)), "white")
    draw = ImageDraw.Draw(header)
    for number, line in enumerate(lines):
        draw.text((PAD, PAD + step * number), line, fill="black", font=font)
    return header


def mean_and_deviation(images: np.ndarray) -> np.ndarray:
    """The mean of images (N, H, W, C) and the standard deviation of each pixel, doubled to be seen: uint8 (2, H, W, C).

    Summed over CHUNK images at a time, in exact integers, so that a mapped array of any length fits into memory.
    """
    sums = np.zeros((2, *images.shape[1:]), np.int64)
    for start in range(0, len(images), CHUNK):
        values = images[start : start + CHUNK].astype(np.int64)
        sums += np.stack([values.sum(0), np.square(values).sum(0)])
    mean, square = sums / len(images)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return np.stack([mean, np.minimum(2 * deviation, 255)]).round().astype(np.uint8)


def rms_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two uint8 arrays of images, in units of the full range 0..1, to four digits."""
    return round(float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)) / 255), 4)
