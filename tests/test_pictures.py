"""Pictures: every image in its place, every value rounded to the nearest, every frame shown for its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ddpm.figures.curves import save_curves, save_table
from ddpm.figures.pictures import (
    HOLD_MS,
    MARGIN,
    SMALL,
    Row,
    images_in,
    make_grid,
    mean_and_deviation,
    rms_distance,
    save_gif,
    save_grid,
    save_labelled_rows,
)
from ddpm.model.pixels import normalised, to_float, to_uint8


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


@pytest.mark.parametrize(("side", "factor"), [(SMALL, 2), (SMALL + 1, 1)])
def test_small_images_are_shown_at_twice_their_size_at_least(tmp_path: Path, side: int, factor: int) -> None:
    """And no image is made smaller: a page scales pictures down, and what was small before is a stamp then."""
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    save_grid(tmp_path / "grid.png", images, 2, target_width=1)
    save_labelled_rows(tmp_path / "rows.png", [("", images)], target_width=1)
    for name in ("grid", "rows"):
        saved = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert np.array_equal(saved, make_grid(images, 2).repeat(factor, 0).repeat(factor, 1)), name


def test_normalised_stretches_each_image_over_the_whole_range() -> None:
    ramp = torch.linspace(-3, 5, 256, dtype=torch.float64).view(16, 16)
    states = torch.stack([ramp, -ramp, 1e-3 * ramp + 7, torch.full_like(ramp, -9)])[:, None]
    levels = np.arange(256).reshape(16, 16)
    shown = normalised(states)
    assert shown.shape == (4, 16, 16, 1)
    for image, expected in zip(shown[..., 0], [levels, 255 - levels, levels, np.zeros_like(levels)], strict=True):
        assert np.abs(image.astype(int) - expected).max() == 0


def test_normalised_keeps_the_ratio_of_the_channels() -> None:
    """One least and one greatest value for all channels of an image: a red state does not turn gray."""
    state = torch.zeros(1, 3, 2, 2)
    state[0, 0], state[0, 1] = 4.0, 1.0
    assert (normalised(state) == [255, 64, 0]).all()


def test_gray_images_are_drawn_as_their_three_equal_channels(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 1), dtype=np.uint8)
    colour = gray.repeat(3, axis=3)
    assert np.array_equal(make_grid(gray, 2), make_grid(colour, 2))
    for name, images in (("gray", gray), ("colour", colour)):
        save_grid(tmp_path / name / "grid.png", images, 2)
        save_labelled_rows(tmp_path / name / "rows.png", [Row("a", images, list("12345"))])
        save_gif(tmp_path / name / "path.gif", [images, images[::-1]], 2)
    for file in ("grid.png", "rows.png", "path.gif"):
        assert (tmp_path / "gray" / file).read_bytes() == (tmp_path / "colour" / file).read_bytes()


def decoded(path: Path) -> list[tuple[np.ndarray, int]]:
    """Every frame of a GIF as (RGB array, milliseconds)."""
    frames = []
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0, "for ever"
        for index in range(gif.n_frames):
            gif.seek(index)
            frames.append((np.asarray(gif.convert("RGB")), gif.info["duration"]))
    return frames


def test_a_gif_of_few_colours_is_exact_and_holds_its_last_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 3), dtype=np.uint8)
    frames = [colours[rng.integers(0, 40, (5, 8, 8))] for _ in range(6)]
    frames[3] = frames[2].copy()
    frames[3][0, 0, 0] = colours[(frames[2][0, 0, 0] == colours).all(1).argmin()]  # but for one pixel as the frame before
    save_gif(tmp_path / "new" / "path.gif", frames, per_row=3, seconds=1.5, target_width=100)
    shown = decoded(tmp_path / "new" / "path.gif")
    assert [pause for _, pause in shown] == [300] * 5 + [HOLD_MS]
    for (picture, _), images in zip(shown, frames, strict=True):
        assert np.array_equal(picture, make_grid(images, 3).repeat(3, 0).repeat(3, 1))


def test_a_gif_of_noise_that_clears_stays_near_its_frames_in_one_palette(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    final = rng.integers(0, 64, (4, 16, 16, 3)).astype(float)  # dark, where noise alone would leave few colours
    noise = rng.normal(128, 128, final.shape)
    frames = [(final + (1 - k / 9) * (noise - final)).clip(0, 255).astype(np.uint8) for k in range(10)]
    save_gif(tmp_path / "path.gif", frames, per_row=4, target_width=1)
    shown = [picture[::2, ::2] for picture, _ in decoded(tmp_path / "path.gif")]
    errors = [np.abs(picture.astype(int) - make_grid(images, 4)).mean() for picture, images in zip(shown, frames, strict=True)]
    assert max(errors) < 20
    assert all((picture[:MARGIN] == 255).all() for picture in shown), "white margins stay white"
    assert errors[-1] < 3, "the finished images get the most colours"
    assert len(np.unique(np.stack(shown).reshape(-1, 3), axis=0)) <= 255, "one palette for all frames, one place left free"


def test_a_gif_of_one_frame_and_of_none(tmp_path: Path) -> None:
    images = np.zeros((1, 4, 4, 1), np.uint8)
    save_gif(tmp_path / "one.gif", [images], per_row=1, target_width=1)
    with Image.open(tmp_path / "one.gif") as gif:
        assert np.array_equal(np.asarray(gif.convert("RGB"))[::2, ::2], make_grid(images, 1))
    with pytest.raises(ValueError, match=r"none\.gif: an animation needs at least one frame"):
        save_gif(tmp_path / "none.gif", [], per_row=1)


def dark(pixels: np.ndarray) -> np.ndarray:
    """Where text is: bool (H, W)."""
    return (pixels < 128).any(-1)


LONG = "a title of many words that no line of a picture this narrow can hold, so that it goes on below"


def test_the_images_of_a_picture_are_found_again_whatever_stands_around_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, larger = (rng.integers(0, 256, (7, side, side, 3), dtype=np.uint8) for side in (8, 20))
    save_grid(tmp_path / "grid.png", images, 3, LONG)
    (rows,) = images_in((tmp_path / "grid.png").read_bytes())
    assert [len(row) for row in rows] == [3, 3, 1]
    assert np.array_equal(np.concatenate(rows), images)
    save_labelled_rows(tmp_path / "rows.png", [Row("a\nb", images, list("1234567")), Row("wide label", larger)], LONG)
    (rows,) = images_in((tmp_path / "rows.png").read_bytes())
    assert np.array_equal(rows[0], images)
    assert np.array_equal(rows[1], larger)
    frames = [80 * rng.integers(0, 4, (4, 8, 8, 1), dtype=np.uint8).repeat(3, -1) for _ in range(3)]
    save_gif(tmp_path / "path.gif", frames, 2, LONG, ["t = 2", "t = 1", "t = 0"])
    assert np.array_equal([np.concatenate(rows) for rows in images_in((tmp_path / "path.gif").read_bytes())], frames)


def test_no_images_are_found_in_a_picture_of_somebody_else(tmp_path: Path) -> None:
    assert images_in(b"") == []
    pixels = Image.fromarray(np.zeros((9, 9, 3), np.uint8))
    pixels.save(tmp_path / "plain.png")
    assert images_in((tmp_path / "plain.png").read_bytes()) == []
    for comment in (b"drawn by hand", b'{"a": 1}', b"[[1, 2]]", b"7"):
        pixels.save(tmp_path / "told.gif", comment=comment)
        assert images_in((tmp_path / "told.gif").read_bytes()) == []


def test_no_label_runs_under_its_images(tmp_path: Path) -> None:
    """Two labels that differ in their end only are told apart, however long they are."""
    images = np.full((3, 40, 40, 3), 200, np.uint8)
    for label in ("DPM-Solver++ 1000, quadratic", "raw", "two\nlines of a label"):
        save_labelled_rows(tmp_path / "rows.png", [(label, images), (label + "0", images)], target_width=1)
        picture = np.asarray(Image.open(tmp_path / "rows.png"))
        left = picture.shape[1] - 2 * make_grid(images, 3).shape[1]
        top, bottom = np.split(dark(picture[:, :left]), 2)
        assert not dark(picture[:, left:]).any(), "no text on the images"
        assert np.flatnonzero(top.any(0)).max() < np.flatnonzero(bottom.any(0)).max() < left - MARGIN, "the last digit is drawn"


def test_a_title_is_broken_into_lines_above_the_images(tmp_path: Path) -> None:
    images = np.full((2, 40, 40, 3), 200, np.uint8)
    grid = make_grid(images, 2).repeat(2, 0).repeat(2, 1)
    heights = []
    for title in ("short", LONG):
        save_grid(tmp_path / "grid.png", images, 2, title, target_width=1)
        save_gif(tmp_path / "grid.gif", [images], 2, title, target_width=1)
        for name in ("grid.png", "grid.gif"):
            picture = np.asarray(Image.open(tmp_path / name).convert("RGB"))
            header = dark(picture[: -len(grid)])
            assert np.array_equal(picture[-len(grid) :], grid)
            assert header.any()
            assert not header[:, -2:].any(), "no word is cut off"
            heights.append(len(header))
    assert heights[0] == heights[1] < heights[2] == heights[3]


def test_a_frame_has_its_own_line(tmp_path: Path) -> None:
    frames = [np.full((4, 32, 32, 3), 200, np.uint8)] * 2
    save_gif(tmp_path / "path.gif", frames, 4, "title", ["t = 999", "t = 0"])
    first, last = (picture for picture, _ in decoded(tmp_path / "path.gif"))
    assert first.shape == last.shape
    changed = (first != last).any(-1)
    title = dark(first)[: len(first) - 4 - 2 * 34].any(1)
    assert changed.any()
    assert np.flatnonzero(changed.any(1)).min() > np.flatnonzero(title).min() + 5, "below the title, which stays"
    with pytest.raises(ValueError, match="zip"):
        save_gif(tmp_path / "path.gif", frames, 4, "title", ["t = 999"])


def test_captions_stand_above_their_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 70, 70, 3), dtype=np.uint8)
    save_labelled_rows(tmp_path / "plain.png", [("x_t", images)], target_width=1)
    for captions, columns in ((["9", "", "0"], {0, 2}), (["a caption wider than its image", "", ""], {0})):
        save_labelled_rows(tmp_path / "labelled.png", [Row("x_t", images, captions)], target_width=1)
        labelled, plain = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("labelled", "plain"))
        above = len(labelled) - len(plain)
        assert np.array_equal(labelled[above:], plain)
        left = plain.shape[1] - make_grid(images, 3).shape[1]
        column, offset = np.divmod(np.flatnonzero(dark(labelled[:above]).any(0)) - left - MARGIN, 70 + MARGIN)
        assert set(column) == columns
        assert abs(offset.mean() - 35) < 8, "in the middle of the image"


def test_captions_without_their_images_are_refused(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"row 'x0_hat' has 2 images and 3 captions"):
        save_labelled_rows(tmp_path / "rows.png", [("x_t", images), Row("x0_hat", images[:2], ["2", "1", "0"])])


def test_curves_are_drawn_where_their_points_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.touch()))
    left = {"DDPM": ([10, 100], [8.0, 2.0]), "DDIM": ([10, 20, 50], [4.0, 3.0, 1.0])}
    right = {"DDIM": ([10, 20], [2.0, 1.0])}
    save_curves(tmp_path / "curves.png", {"uniform": left, "quadratic": right}, "steps", "distance", "two", ticks=[5, 10, 100])
    for axes, title, curves in zip(drawn[0].axes, ("uniform", "quadratic"), (left, right), strict=True):
        assert {str(line.get_label()): line.get_xydata().tolist() for line in axes.lines} == {
            label: [list(point) for point in zip(*points, strict=True)] for label, points in curves.items()
        }
        assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel(), axes.get_title()) == ("log", "log", "steps", title)
    first, second = drawn[0].axes
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["DDPM", "DDIM"]
    assert first.get_legend() is second.get_legend() is None, "it hides no curve"
    assert second.lines[0].get_color() == first.lines[1].get_color() != first.lines[0].get_color()
    assert [label.get_text() for label in first.get_xticklabels()] == ["5", "10", "100"]
    assert first.get_ylim() == second.get_ylim(), "panels compare"
    assert first.get_ylabel() == "distance"


def test_one_curve_needs_no_legend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.touch()))
    save_curves(tmp_path / "loss.png", {"": {"loss": ([50, 100], [0.9, 0.3])}}, "step", "loss", "title")
    assert drawn[0].axes[0].lines[0].get_xydata().tolist() == [[50, 0.9], [100, 0.3]]
    assert drawn[0].legends == []


def test_a_table_holds_its_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.touch()))
    save_table(tmp_path / "table.png", ["sampler", "CPU"], [["DDIM 20", "0.3"], ["DDPM 250", "3.7 (projected)"]], "seconds")
    cells = {place: cell.get_text().get_text() for place, cell in drawn[0].axes[0].tables[0].get_celld().items()}
    assert cells == {
        (0, 0): "sampler", (0, 1): "CPU", (1, 0): "DDIM 20", (1, 1): "0.3", (2, 0): "DDPM 250", (2, 1): "3.7 (projected)",
    }  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_the_mean_and_the_spread_of_all_images(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("ddpm.figures.pictures.CHUNK", chunk)
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
    mean, deviation = mean_and_deviation(images)
    assert np.array_equal(mean, images.astype(float).mean(0).round())
    assert np.array_equal(deviation, np.minimum(2 * images.astype(float).std(0), 255).round())


def test_the_distance_of_images_is_in_units_of_the_full_range() -> None:
    black, white = np.zeros((2, 3, 3, 1), np.uint8), np.full((2, 3, 3, 1), 255, np.uint8)
    assert (rms_distance(black, white), rms_distance(white, white)) == (1, 0)
    half = np.concatenate([black[:1], white[:1]])
    assert rms_distance(black, half) == pytest.approx(0.5**0.5, abs=1e-4)
