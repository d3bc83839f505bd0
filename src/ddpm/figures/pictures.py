"""Pictures for people: grids of samples, rows with labels, animations.

All arrays of images are uint8 (N, H, W, C) with C = 3, or C = 1 for gray; the files written are RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm.base.files import whole_file

MARGIN, LABEL_WIDTH, HEADER_HEIGHT, TARGET_WIDTH = 2, 110, 24, 900
GIF_WIDTH, HOLD_MS = 300, 2000
CHUNK = 1000  # images summed at a time


def make_grid(images: np.ndarray, per_row: int) -> np.ndarray:
    """Tile images (N, H, W, 3 or 1) into one picture (rows, cols, 3) with white margins, `per_row` in a row."""
    count, height, width, _ = images.shape
    rows = -(-count // per_row)
    grid = np.full((rows * (height + MARGIN) + MARGIN, per_row * (width + MARGIN) + MARGIN, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = MARGIN + i // per_row * (height + MARGIN), MARGIN + i % per_row * (width + MARGIN)
        grid[top : top + height, left : left + width] = image
    return grid


def save_grid(path: Path, images: np.ndarray, per_row: int, target_width: int = TARGET_WIDTH) -> None:
    """Write images as one PNG, each pixel enlarged by a whole factor to about `target_width` pixels in all."""
    with whole_file(path) as temporary:
        _enlarged(Image.fromarray(make_grid(images, per_row)), target_width).save(temporary, optimize=True)


def save_gif(
    path: Path, frames: Sequence[np.ndarray], per_row: int, seconds: float = 4.0, target_width: int = GIF_WIDTH
) -> None:
    """Write frames of images (N, H, W, C), such as the steps of a denoising path, as an animation of their grids.

    The frames before the last take about `seconds` in all, the last stays for HOLD_MS, then it starts again. One palette
    serves all frames, so nothing flickers. Raises ValueError without frames.
    """
    if not frames:
        raise ValueError(f"{path}: an animation needs at least one frame")
    grids = [make_grid(images, per_row) for images in frames]
    palette = _shared_palette(grids)
    pictures = [_enlarged(_in_palette(grid, palette), target_width) for grid in grids]
    pause = max(20, 10 * round(100 * seconds / max(1, len(frames) - 1)))  # in steps of 10 ms; viewers play no faster than 20
    durations = [pause] * (len(frames) - 1) + [HOLD_MS]
    with whole_file(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _shared_palette(grids: list[np.ndarray]) -> np.ndarray:
    """At most 255 colours (K, 3) for all grids. The last weighs as much as the others, whose noise would take its colours.

    The colour left free of 256 marks what a frame does not change; without it the file can be three times as long.
    """
    few = grids[:: 1 + len(grids) // 10]  # the cut takes seconds for millions of pixels
    palette = Image.fromarray(np.concatenate(few + grids[-1:] * len(few))).quantize(255).getpalette()
    return np.asarray(palette, np.float32).reshape(-1, 3)


def _in_palette(grid: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Each pixel in the nearest colour; Pillow's own search is coarse and makes white a pale gray."""
    distances = (palette**2).sum(1) - 2 * grid.astype(np.float32) @ palette.T  # but for the pixel's own square
    picture = Image.fromarray(distances.argmin(-1).astype(np.uint8))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture


def save_labelled_rows(
    path: Path, rows: Sequence[tuple[str, np.ndarray]], target_width: int = TARGET_WIDTH, columns: Sequence[str] | None = None
) -> None:
    """Write one row of images for each (label, images), the label at its left; `columns` are labels above the images.

    Raises ValueError if a row has not one image for each of `columns`.
    """
    for label, images in rows:
        if columns is not None and len(images) != len(columns):
            raise ValueError(f"{path}: row {label!r} has {len(images)} images; there are {len(columns)} column labels")
    strips = [_enlarged(Image.fromarray(make_grid(images, len(images))), target_width) for _, images in rows]
    top = 0 if columns is None else HEADER_HEIGHT
    width, height = LABEL_WIDTH + max(strip.width for strip in strips), top + sum(strip.height for strip in strips)
    picture = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for i, label in enumerate(columns or ()):
        middle = LABEL_WIDTH + strips[0].width * (i + 0.5) / len(columns or ())
        draw.text((middle, HEADER_HEIGHT / 2), label, fill="black", font=font, anchor="mm")
    for (label, _), strip in zip(rows, strips, strict=True):
        picture.paste(strip, (LABEL_WIDTH, top))
        draw.multiline_text((6, top + strip.height // 2), label, fill="black", font=font, anchor="lm")
        top += strip.height
    with whole_file(path) as temporary:
        picture.save(temporary, optimize=True)


def _enlarged(picture: Image.Image, target_width: int) -> Image.Image:
    factor = max(1, target_width // picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


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
