"""Pictures: every image in its place, every value rounded to the nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.data import to_float
from ddpm.images import LABEL_WIDTH, MARGIN, make_grid, save_grid, save_labelled_rows, to_uint8


def test_to_uint8_is_exact_clipped_and_rounded() -> None:
    values = torch.tensor([-1.0, 0.0, 1.0, -3.0, 7.0, 2 / 255 - 1, 1 - 2 / 255, 0.9 / 255 - 1, 1.1 / 255 - 1])
    expected = [0, 128, 255, 0, 255, 1, 254, 0, 1]
    assert to_uint8(values.view(-1, 1, 1, 1)).ravel().tolist() == expected


def test_to_uint8_undoes_to_float() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(2, 8, 8, 2)
    assert np.array_equal(to_uint8(to_float(images)), images.numpy())


@pytest.mark.parametrize(("count", "per_row", "rows"), [(6, 3, 2), (5, 3, 2), (1, 1, 1), (4, 8, 1), (7, 1, 7)])
def test_the_grid_places_every_image(count: int, per_row: int, rows: int) -> None:
    height, width = 4, 5
    images = np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)
    grid = make_grid(images, per_row)
    tiles = np.full((rows * per_row, height + MARGIN, width + MARGIN, 3), 255, np.uint8)
    tiles[:count, MARGIN:, MARGIN:] = images
    tiled = tiles.reshape(rows, per_row, height + MARGIN, width + MARGIN, 3).swapaxes(1, 2)
    expected = tiled.reshape(rows * (height + MARGIN), per_row * (width + MARGIN), 3)
    assert np.array_equal(grid[:-MARGIN, :-MARGIN], expected)
    assert (grid[-MARGIN:] == 255).all()
    assert (grid[:, -MARGIN:] == 255).all()


def test_a_saved_grid_is_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    save_grid(tmp_path / "new" / "grid.png", images, per_row=2, target_width=70)
    saved = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    assert np.array_equal(saved, make_grid(images, 2).repeat(3, 0).repeat(3, 1))
    save_grid(tmp_path / "grid.png", images, per_row=2, target_width=1)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), make_grid(images, 2)), "never made smaller"


def test_rows_stand_below_each_other_beside_their_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    save_labelled_rows(tmp_path / "rows.png", [("raw", images[:3]), ("EMA", images[3:])], target_width=1)
    picture = np.asarray(Image.open(tmp_path / "rows.png"))
    assert np.array_equal(picture[:, LABEL_WIDTH:], np.concatenate([make_grid(images[:3], 3), make_grid(images[3:], 3)]))
    top, bottom = np.split(picture[:, :LABEL_WIDTH], 2)
    assert top.min() < 128, "the first label is drawn"
    assert bottom.min() < 128, "the second label is drawn"
    assert not np.array_equal(top, bottom)
