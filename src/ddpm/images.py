"""Pictures for people: grids of samples, rows with labels, the loss curve. All arrays are uint8 (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN, LABEL_WIDTH, TARGET_WIDTH = 2, 110, 900


def to_uint8(images: Tensor) -> np.ndarray:
    """Float (B, C, H, W) in [-1, 1] -> uint8 (B, H, W, C), clipped and rounded."""
    scaled = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def make_grid(images: np.ndarray, per_row: int) -> np.ndarray:
    """Tile images (N, H, W, 3) into one picture (rows, cols, 3) with white margins, `per_row` in a row."""
    count, height, width, channels = images.shape
    rows = -(-count // per_row)
    grid = np.full((rows * (height + MARGIN) + MARGIN, per_row * (width + MARGIN) + MARGIN, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = MARGIN + i // per_row * (height + MARGIN), MARGIN + i % per_row * (width + MARGIN)
        grid[top : top + height, left : left + width] = image
    return grid


def save_grid(path: Path, images: np.ndarray, per_row: int, target_width: int = TARGET_WIDTH) -> None:
    """Write images as one PNG, each pixel enlarged by a whole factor to about `target_width` pixels in all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _enlarged(make_grid(images, per_row), target_width).save(path, optimize=True)


def save_labelled_rows(path: Path, rows: Sequence[tuple[str, np.ndarray]], target_width: int = TARGET_WIDTH) -> None:
    """Write one row of images for each (label, images), the label at its left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strips = [_enlarged(make_grid(images, len(images)), target_width) for _, images in rows]
    width, height = LABEL_WIDTH + max(strip.width for strip in strips), sum(strip.height for strip in strips)
    picture = Image.new("RGB", (width, height), "white")
    draw, font, top = ImageDraw.Draw(picture), ImageFont.load_default(15), 0
    for (label, _), strip in zip(rows, strips, strict=True):
        picture.paste(strip, (LABEL_WIDTH, top))
        draw.multiline_text((6, top + strip.height // 2), label, fill="black", font=font, anchor="lm")
        top += strip.height
    picture.save(path, optimize=True)


def _enlarged(picture: np.ndarray, target_width: int) -> Image.Image:
    factor = max(1, target_width // picture.shape[1])
    return Image.fromarray(picture).resize((picture.shape[1] * factor, picture.shape[0] * factor), Image.Resampling.NEAREST)


def save_loss_curve(path: Path, rows: Sequence[dict[str, float]], title: str) -> None:
    """Draw loss against step, both axes logarithmic, from rows with the keys step and loss."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="loss (mean squared error)", title=title)
    axes.grid(which="both", alpha=0.3)
    figure.savefig(path, dpi=110)


def save_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Draw a small table of text."""
    figure = Figure(figsize=(6, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.set_title(title, fontsize=11)
    table = axes.table([list(row) for row in rows], colLabels=list(header), loc="center", cellLoc="center")
    table.scale(1, 1.4)
    figure.savefig(path, dpi=110)
