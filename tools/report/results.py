"""What a revision holds of a recipe: settings, numbers, and the single images out of its pictures."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ddpm.base.faults import Fault
from ddpm.base.settings import validate
from ddpm.evaluation.settings import EvaluationConfig
from ddpm.figures.pictures import GIF_WIDTH, LABEL_WIDTH, MARGIN, TARGET_WIDTH, make_grid
from ddpm.model.pixels import to_uint8
from ddpm.sampling import load
from ddpm.sampling.noise import NoiseStreams
from stages import Paths, load_yaml, params_file, shown
from stages.packed import array_path
from stages.path import ROWS
from tools.compare import Side, checkpoint
from tools.revisions import read_file

WHITE = 8  # how far the margins of an animation may be from white: its colours are few


class Results:
    """What `side` holds of the recipe `recipe` at `scale`. What is missing, or drawn in another way than here, is None."""

    def __init__(self, side: Side, scale: str, recipe: str) -> None:
        self.side, self.paths = side, Paths(scale, recipe)
        params = params_of(side, scale)
        self.params = params if recipe in params["recipe_names"] else {}  # nothing: it is no recipe of this revision

    def path(self, name: str, folder: str = "metrics") -> str:
        """Where a file of the recipe lies, relative to the checkout."""
        return f"{folder}/{self.paths.scale}/{self.paths.recipe}/{name}"

    def content(self, name: str) -> bytes | None:
        """A file of metrics/, or None."""
        return read_file(self.side.revision, self.path(name))

    def json(self, name: str, folder: str = "metrics") -> dict[str, Any]:
        """The values of a .json file; none if it is missing. Raises Fault if it is no JSON."""
        return self.side.read(self.path(name, folder))

    def csv(self, name: str) -> list[dict[str, str]]:
        """The rows of a .csv file; none if it is missing."""
        return list(csv.DictReader(io.StringIO((self.content(name) or b"").decode())))

    def pictures(self, name: str) -> list[np.ndarray]:
        """The frames of a picture, one if it is not animated, uint8 (H, W, 3) each; none if it is missing."""
        if (content := self.content(name)) is None:
            return []
        with Image.open(io.BytesIO(content)) as image:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]

    @property
    def shareable(self) -> bool:
        """Whether the licence lets the training images be shown. Where nothing says so, no."""
        return self.json("manifest.json", "data").get("shareable") is True

    @property
    def size(self) -> int:
        """Pixels a side of an image; 0 where that is unknown."""
        return int(self.json("stats.json", "data").get("size", 0))

    @property
    def figures(self) -> dict[str, Any]:
        """The settings of the figures; none where they are unknown."""
        return self.json("config/figures.json")

    def rows(self, name: str, count: int, columns: int = 0) -> list[np.ndarray] | None:
        """The `count` rows of a picture by figures.pictures.save_labelled_rows, uint8 (N, H, W, 3) each.

        `columns`: images a row; 0 for as many as the settings of the figures say.
        """
        pictures, figures = self.pictures(name), self.figures
        if not pictures or not figures or not count or len(pictures[0]) % count:
            return None
        strips = np.split(pictures[0][:, LABEL_WIDTH:], count)
        columns = columns or figures["drawing"]["per_row"]
        rows = [single_images(strip, self.size, columns, TARGET_WIDTH) for strip in strips]
        found = [row for row in rows if row is not None]
        return found if len(found) == count else None

    def grid(self) -> np.ndarray | None:
        """The samples in grid.png, uint8 (N, H, W, 3)."""
        pictures, figures = self.pictures("grid.png"), self.figures
        if not pictures or not figures:
            return None
        return single_images(pictures[0], self.size, round(figures["grid"]["images"] ** 0.5), TARGET_WIDTH)

    def path_frames(self) -> list[np.ndarray] | None:
        """The frames of path.gif, uint8 (N, H, W, 3) each."""
        pictures, figures = self.pictures("path.gif"), self.figures
        if not pictures or not figures:
            return None
        columns = figures["path"]["images"] // ROWS
        frames = [single_images(pixels, self.size, columns, GIF_WIDTH, WHITE) for pixels in pictures]
        found = [frame for frame in frames if frame is not None]
        return found if len(found) == len(pictures) else None

    def neighbours(self) -> tuple[np.ndarray, np.ndarray] | str:
        """The samples of nearest.csv, drawn again, and the training images beside them, uint8 (N, H, W, C) each.

        Or a sentence that says why they cannot be shown. Images whose licence forbids it are not even opened.
        """
        rows, paths = self.csv("nearest.csv"), self.paths
        if not self.shareable:
            return "Numbers only: the licence of the training images does not let them be shown."
        array = array_path(paths, self.json("stats.json", "data")["sha256"])
        if not array.exists():
            made = f"python -m stages.raw {paths.recipe} --scale {paths.scale}"
            return f"Numbers only: the packed training images are not here; {made} packs them."
        training = np.load(array, mmap_mode="r")[[int(row["index"]) for row in rows]]
        mirrored = [row["mirrored"] == "1" for row in rows]
        training[mirrored] = training[mirrored, :, ::-1]
        try:
            drawn = self.draw([int(row["sample"]) for row in rows])
        except Fault as fault:
            return f"Numbers only: {fault}"
        distances = np.sqrt(np.square(drawn.astype(float) - training).sum((1, 2, 3)))
        if not np.allclose(distances, [float(row["distance"]) for row in rows], rtol=0.02, atol=1):  # rounded otherwise
            made = f"dvc repro evaluate@{paths.recipe}"
            return f"Numbers only: the checkpoint that is here draws other images than were measured; {made} measures them."
        return drawn, training

    def draw(self, chosen: list[int]) -> np.ndarray:
        """The images `chosen` of those that the stage evaluate draws: uint8 (N, H, W, C). Raises Fault."""
        config = validate(EvaluationConfig, self.json("config/evaluation.json"), "evaluation")
        with tempfile.TemporaryDirectory() as folder:
            file = checkpoint(self.side, self.path("ema.safetensors", "models"), Path(folder))
            model = load(file, self.paths.runtime().device, config.precision)
        noise = NoiseStreams(config.seed, chosen, model.shape, model.device)
        context = model.context(max(chosen) + 1)
        denoiser = model.denoiser(None if context is None else context[chosen], config.guidance)
        *_, last = config.chosen.run(denoiser, model.schedule, noise.draw(), noise)
        return to_uint8(last.x_t)


def params_of(side: Side, scale: str) -> dict[str, Any]:
    """The params.yaml of `scale` on `side`. Raises Fault if it has none."""
    path = str(shown(params_file(scale)))
    content = read_file(side.revision, path)
    if content is None:
        raise Fault(f"{path} is missing at {side.name}; accepted: a revision that has the scale {scale}")
    params: dict[str, Any] = load_yaml(content.decode())
    return params


def single_images(picture: np.ndarray, size: int, columns: int, target_width: int, tolerance: int = 0) -> np.ndarray | None:
    """What figures.pictures tiled and enlarged to `picture` (H, W, 3): uint8 (N, size, size, 3), or None if it is no such.

    `tolerance`: how far from white the margins may be.
    """
    step, width = size + MARGIN, columns * (size + MARGIN) + MARGIN
    factor = max(1, target_width // width)
    small = picture[::factor, ::factor]
    rows = (len(small) - MARGIN) // step
    if rows < 1 or not np.array_equal(small.repeat(factor, 0).repeat(factor, 1), picture):
        return None
    if small.shape != (rows * step + MARGIN, width, 3):
        return None
    tiles = small[MARGIN:, MARGIN:].reshape(rows, step, columns, step, 3).swapaxes(1, 2)
    images = tiles[:, :, :size, :size].reshape(rows * columns, size, size, 3)
    again = make_grid(images, columns)
    return images if np.abs(again.astype(int) - small).max() <= tolerance else None
