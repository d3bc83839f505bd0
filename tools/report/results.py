"""What a revision holds of a recipe: settings, numbers, and the single images out of its pictures."""

from __future__ import annotations

import csv
import io
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.base.faults import Fault
from ddpm.base.settings import validate
from ddpm.evaluation.settings import EvaluationConfig
from ddpm.figures.pictures import images_in
from ddpm.model.pixels import to_uint8
from ddpm.sampling.noise import NoiseStreams
from stages import Paths, params_file, shown
from stages.packed import array_path
from stages.path import ROWS
from tools import dvc
from tools.compare import Side, measured_model
from tools.outdated import outdated
from tools.revisions import read_file


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

    def images(self, name: str, rows: int, count: int) -> list[np.ndarray] | None:
        """Of every frame of a picture, one if it is not animated, its `count` images in `rows` rows: uint8 (N, H, W, 3).

        None if it is missing, or holds others than the settings say.
        """
        frames = images_in(self.content(name) or b"")
        sizes = {image.shape[1:3] for frame in frames for image in frame}
        if sizes != {(self.size, self.size)} or any(len(frame) != rows for frame in frames):
            return None
        found = [np.concatenate(frame) for frame in frames]
        return found if all(len(frame) == count for frame in found) else None

    @cached_property
    def old(self) -> list[str]:
        """The stages whose results are older than what they are made from."""
        return outdated(self.side.revision, self.paths.scale, self.paths.recipe)

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
        """The `count` rows of a picture, uint8 (N, H, W, 3) each.

        `columns`: images a row; 0 for as many as the settings of the figures say.
        """
        if not self.figures or not count:
            return None
        columns = columns or self.figures["drawing"]["per_row"]
        found = self.images(name, count, count * columns)
        return None if found is None else np.split(found[0], count)

    def grid(self) -> np.ndarray | None:
        """The samples in grid.png, uint8 (N, H, W, 3)."""
        if not self.figures:
            return None
        count = self.figures["grid"]["images"]
        found = self.images("grid.png", round(count**0.5), count)
        return None if found is None else found[0]

    def path_frames(self) -> list[np.ndarray] | None:
        """The frames of path.gif, uint8 (N, H, W, 3) each."""
        return self.images("path.gif", ROWS, self.figures["path"]["images"]) if self.figures else None

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
            made = dvc("repro", paths.scale, f"evaluate@{paths.recipe}")
            return f"Numbers only: the checkpoint that is here draws other images than were measured; {made} measures them."
        return drawn, training

    def draw(self, chosen: list[int]) -> np.ndarray:
        """The images `chosen` of those that the stage evaluate draws: uint8 (N, H, W, C). Raises Fault."""
        config = validate(EvaluationConfig, self.json("config/evaluation.json"), "evaluation")
        with tempfile.TemporaryDirectory() as folder:
            model = measured_model(self.side, self.paths.scale, self.paths.recipe, config.precision, Path(folder))
        noise = NoiseStreams(config.seed, chosen, model.shape, model.device)
        context = model.context(max(chosen) + 1)
        rows = None if context is None else context[chosen]
        denoiser = model.autoguided(rows, config.guidance, 0, config.autoguidance)
        *_, last = config.chosen.run(denoiser, model.schedule, noise.draw(), noise)
        return to_uint8(last.x_t)


def params_of(side: Side, scale: str) -> dict[str, Any]:
    """The params.yaml of `scale` on `side`. Raises Fault if it has none."""
    path = str(shown(params_file(scale)))
    params = side.read(path)
    if not isinstance(params.get("recipe_names"), list):
        raise Fault(f"{path} at {side.name} has no list recipe_names; accepted: a revision that has the scale {scale}")
    return params
