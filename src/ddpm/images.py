"""Pictures for people: grids of samples, rows with labels, animations, curves.

All arrays of images are uint8 (N, H, W, C) with C = 3, or C = 1 for gray; the files written are RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN, LABEL_WIDTH, HEADER_HEIGHT, TARGET_WIDTH = 2, 110, 24, 900
GIF_WIDTH, HOLD_MS = 300, 2000


def to_uint8(images: Tensor) -> np.ndarray:
    """Float (B, C, H, W) in [-1, 1] -> uint8 (B, H, W, C), clipped and rounded: for images and samples."""
    scaled = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def normalised(x_t: Tensor) -> np.ndarray:
    """Float (B, C, H, W) of any range -> uint8 (B, H, W, C), each image stretched from its least to its greatest value.

    For noisy states, many of whose values lie outside [-1, 1], where `to_uint8` clips. The brightness of two images, or
    of two steps of one, cannot be compared then; a constant image becomes black.
    """
    values = x_t.detach().float().cpu()
    least, greatest = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    scaled = ((values - least) / (greatest - least).clamp(min=torch.finfo(torch.float32).tiny) * 255).round()
    return scaled.permute(0, 2, 3, 1).numpy().astype(np.uint8)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    _enlarged(Image.fromarray(make_grid(images, per_row)), target_width).save(path, optimize=True)


def save_gif(
    path: Path, frames: Sequence[np.ndarray], per_row: int, seconds: float = 4.0, target_width: int = GIF_WIDTH
) -> None:
    """Write frames of images (N, H, W, C), such as the steps of a denoising path, as an animation of their grids.

    The frames before the last take about `seconds` in all, the last stays for HOLD_MS, then it starts again. One palette
    serves all frames, so nothing flickers. Raises ValueError without frames.
    """
    if not frames:
        raise ValueError(f"{path}: an animation needs at least one frame")
    path.parent.mkdir(parents=True, exist_ok=True)
    grids = [make_grid(images, per_row) for images in frames]
    palette = _shared_palette(grids)
    pictures = [_enlarged(_in_palette(grid, palette), target_width) for grid in grids]
    pause = max(20, 10 * round(100 * seconds / max(1, len(frames) - 1)))  # in steps of 10 ms; viewers play no faster than 20
    durations = [pause] * (len(frames) - 1) + [HOLD_MS]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


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
    path: Path,
    rows: Sequence[tuple[str, np.ndarray]],
    target_width: int = TARGET_WIDTH,
    columns: Sequence[str] | None = None,
) -> None:
    """Write one row of images for each (label, images), the label at its left; `columns` are labels above the images.

    Raises ValueError if a row has not one image for each of `columns`.
    """
    for label, images in rows:
        if columns is not None and len(images) != len(columns):
            raise ValueError(f"{path}: row {label!r} has {len(images)} images; there are {len(columns)} column labels")
    path.parent.mkdir(parents=True, exist_ok=True)
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
    picture.save(path, optimize=True)


def _enlarged(picture: Image.Image, target_width: int) -> Image.Image:
    factor = max(1, target_width // picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def save_loss_curve(path: Path, rows: Sequence[dict[str, float]], title: str) -> None:
    """Draw loss against step, both axes logarithmic, from rows with the keys step and loss."""
    curve = [row["step"] for row in rows], [row["loss"] for row in rows]
    save_curves(path, {"": {"loss": curve}}, "step", "loss (mean squared error)", title, marker="")


Curve = tuple[Sequence[float], Sequence[float]]  # xs, ys


def save_curves(
    path: Path, panels: Mapping[str, Mapping[str, Curve]], xlabel: str, ylabel: str, title: str, marker: str = "o"
) -> None:
    """Draw a panel for each title -> {label -> (xs, ys)}, side by side, all axes logarithmic; several curves get a legend."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(7 if len(panels) == 1 else 5 * len(panels), 4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel, curves) in zip(row, panels.items(), strict=True):
        for label, (xs, ys) in curves.items():
            axes.plot(xs, ys, linewidth=1, marker=marker, markersize=4, label=label)
        axes.set(xscale="log", yscale="log", xlabel=xlabel, title=panel)
        axes.grid(which="both", alpha=0.3)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(ylabel)
        if len(curves) > 1:
            axes.legend()
    figure.savefig(path, dpi=110)


def save_notice(path: Path, text: str) -> None:
    """Write a picture that says `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (900, 120), "white")
    ImageDraw.Draw(image).text((450, 60), text, "black", ImageFont.load_default(18), anchor="mm", align="center")
    image.save(path, optimize=True)


def save_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Draw a small table of text."""
    figure = Figure(figsize=(6, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.set_title(title, fontsize=11)
    table = axes.table([list(row) for row in rows], colLabels=list(header), loc="center", cellLoc="center")
    table.scale(1, 1.4)
    figure.savefig(path, dpi=110)
