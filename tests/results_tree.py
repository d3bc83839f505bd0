"""A made-up tree of results: files as the stages write them, of images that the test knows, in a second."""

from __future__ import annotations

import json
import shutil
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import stages
from conftest import ROOT, TINY_FIGURES, TINY_TRAIN
from ddpm.base.files import write_csv, write_json
from ddpm.figures.pictures import save_gif, save_grid, save_labelled_rows
from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from ddpm.recipe import resolve
from ddpm.sampling import load
from stages import load_yaml
from tiny import randomised
from tools import compare, outdated, revisions

STEPS, FRAMES, SPRITES = (2, 4, 6), 5, ["hero", "monster", "food", "spell", "side"]
JPEG = "CIFAR-10 re-encoded from JPEG of quality 75"
DATA = {  # cifar10 conditional on nothing, sprites with classes, celeba with a licence
    "cifar10": {"dataset": "cifar10", "source": "official", "origin": JPEG},
    "celeba": {"dataset": "celeba", "source": "official", "size": 16},
    "sprites": {"dataset": "sprites", "source": "synthetic", "images": 12},
}
QUALITY: dict[str, Any] = {
    "fd": 3.25, "fd_floor": 0.5, "kid": 0.0125, "kid_se": 0.002, "kid_floor": -0.0001, "density": 0.8, "density_floor": 1.0,
    "coverage": 0.6, "coverage_floor": 0.95, "compared": 20, "bits_per_dim": 4.125, "bits_per_dim_se": 0.05, "gap_q1": 0.001,
    "gap_q2": 0.0, "gap_q3": 0.0, "gap_q4": 0.0, "near_copies": 0.05, "near_copies_floor": 0.0, "c_t": -3.5, "samples": 20,
    "copied": 0.25, "copied_se": 0.125,
    "sampler": "unipc 4", "yardstick_sha256": "3fa2" * 16,
}  # fmt: skip


class Tree:
    """The tree below `path`, and the images in its pictures, uint8 (N, H, W, 3), by recipe and name."""

    def __init__(self, path: Path) -> None:
        self.path, self.images = path, dict[str, dict[str, list[np.ndarray]]]()
        params = load_yaml((ROOT / "params.yaml").read_text())
        params["train"] |= TINY_TRAIN
        for figure, settings in TINY_FIGURES.items():
            params["figures"][figure] |= settings
        params["evaluation"] |= {"sampler": "unipc 4", "images": 20, "bound_images": 2}
        params |= {"recipe_names": list(DATA), "conditional": ["sprites"], "editing": ["sprites"]}
        params["runtime"] |= {"device": "cpu", "workers": 1}
        params["recipes"] = {name: {"data": data} for name, data in DATA.items()}
        params["recipes"]["sprites"]["train"] = {"context_dim": 5, "flip": False}
        (path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        for seed, recipe in enumerate(DATA):
            self.images[recipe] = self._write(params, recipe, np.random.default_rng(seed))

    def copy(self, path: Path) -> Tree:
        """The same tree below `path`, which does not exist yet."""
        tree = copy(self)
        tree.path, tree.images = Path(shutil.copytree(self.path, path)), deepcopy(self.images)
        return tree

    def metrics(self, recipe: str) -> Path:
        return self.path / "metrics/demo" / recipe

    def change(self, recipe: str, name: str, **values: Any) -> None:
        """Change some values of a .json file of metrics/."""
        file = self.metrics(recipe) / name
        write_json(file, json.loads(file.read_text()) | values)

    def _write(self, params: dict[str, Any], recipe: str, random: np.random.Generator) -> dict[str, list[np.ndarray]]:
        _, settings = resolve(params, recipe)
        metrics, size, conditional = self.metrics(recipe), settings["data"]["size"], settings["train"]["context_dim"] > 0
        for part, values in settings.items():
            write_json(metrics / f"config/{part}.json", values)
        synthetic = settings["data"]["source"] == "synthetic"
        origin = "drawn by this project's code (synthetic)" if synthetic else settings["data"]["origin"] or "official files"
        facts = {"dataset": recipe, "source": settings["data"]["source"], "origin": origin, "size": size, "sha256": "0" * 64}
        data = self.path / "data/demo" / recipe
        manifest = {"name": "images.zip", "matches_official": False, "shareable": recipe != "celeba"}
        write_json(data / "manifest.json", facts | manifest)
        write_json(
            data / "stats.json",
            facts | {"count": 12, "labels_sha256": None, "channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3},
        )
        write_json(data / "heldout.json", {"count": 5, "sha256": "1" * 64, "labels_sha256": None, "split": "another seed"})
        write_json(metrics / "train.json", {"loss": 0.125, "parameters": 1234})
        speed = {"steps": 6, "images_seen": 24, "seconds": 120.0, "device": "a test", "precision": "fp32"}
        write_json(metrics / "speed.json", speed)
        write_json(metrics / "evaluate.json", QUALITY)
        curve = [
            {"step": step, "loss": 1 / step, "loss_q1": 2 / step, "loss_q2": "", "loss_q3": "", "loss_q4": ""} for step in STEPS
        ]
        write_csv(metrics / "loss.csv", curve)
        solvers = [{"sampler": "DDIM", "spacing": "karras", "calls": calls, "distance": 1 / calls} for calls in (2, 4)]
        write_csv(metrics / "solvers.csv", solvers)

        def rows(count: int, width: int = 2) -> list[np.ndarray]:
            return [random.integers(0, 256, (width, size, size, 3), dtype=np.uint8) for _ in range(count)]

        images = {"grid": rows(1, 4), "progression": rows(len(STEPS)), "samplers": rows(2), "data": rows(3, 8)}
        save_grid(metrics / "grid.png", images["grid"][0], 2)
        named = {
            "progression": [f"step {step}" for step in STEPS],
            "samplers": ["DDIM 2", "DDPM 4"],
            "data": ["sums", "0", "8"],
        }
        if conditional:
            images |= {"classes": rows(len(SPRITES) + 1), "guidance": rows(2)}
            named |= {"classes": [*SPRITES, "hero to\nmonster"], "guidance": ["guidance 0", "guidance 2"]}
            again = ["drawn once", "drawn\n2 times"]
            named |= {
                "inpainting": ["held-out", "without\nmiddle", *again, "without\nright half", *again],
                "edits": ["held-out", "strength\n0.5"],
                "reconstruction": ["held-out", "its noise,\nDDIM 1", "and back", "its noise,\nDDIM 4", "and back"],
                "interpolation": ["held-out\n0 to 1"],
            }
            images |= {name: rows(len(labels)) for name, labels in named.items() if name not in images}
            write_csv(metrics / "guidance.csv", [{"guidance": scale, "distance": 0.1, "to": 0.0} for scale in (0.0, 2.0)])
        for name, labels in named.items():
            save_labelled_rows(metrics / f"{name}.png", list(zip(labels, images[name], strict=True)))
        write_csv(metrics / "progression.csv", [{"step": step, "distance_to_final": 0.1} for step in STEPS])
        compared = [{"sampler": label, "distance": 0.25, "to": "DDIM 2"} for label in named["samplers"]]
        write_csv(metrics / "samplers.csv", compared)
        # Of few colours, so that the animation has them all.
        images["path"] = [80 * random.integers(0, 4, (4, size, size, 1), dtype=np.uint8).repeat(3, -1) for _ in range(FRAMES)]
        save_gif(metrics / "path.gif", images["path"], 1)
        write_csv(metrics / "path.csv", [{"t": 2 * (FRAMES - 1 - i), "std": 0.1} for i in range(FRAMES)])
        nearest = [{"sample": i, "index": 3 + i, "mirrored": i, "distance": 900.0 + i, "ratio": 0.25 + i / 2} for i in range(2)]
        write_csv(metrics / "nearest.csv", nearest)
        return images

    def checkpoint(self, recipe: str) -> None:
        """Give `recipe` a checkpoint, and packed images whose no. 4 is the mirror of its sample 1, as nearest.csv says."""
        config = json.loads((self.metrics(recipe) / "config/train.json").read_text())
        checked, _ = resolve(load_yaml((self.path / "params.yaml").read_text()), recipe)
        facts = json.loads((self.path / "data/demo" / recipe / "stats.json").read_text())
        classes = SPRITES if config["context_dim"] else []
        metadata = {"config": checked.train.model_dump(), "step": 6, "kind": "ema", "data": facts, "classes": classes}
        file = self.path / "models/demo" / recipe / "ema.safetensors"
        save_weights(file, randomised(build_network(checked.train)), metadata)
        evaluation = checked.evaluation
        drawn = load(file, "cpu", "fp32").sample(3, evaluation.chosen, evaluation.seed, None, evaluation.guidance)
        packed = np.random.default_rng(9).integers(0, 256, (12, *drawn.shape[1:]), dtype=np.uint8)
        packed[4] = drawn[1][:, ::-1]
        array = self.path / "work/demo" / recipe / f"images-{facts['sha256'][:16]}.npy"
        array.parent.mkdir(parents=True)
        np.save(array, packed)
        far = round(float(np.sqrt(np.square(drawn[2].astype(float) - packed[0]).sum())), 1)
        rows = [
            {"sample": 1, "index": 4, "mirrored": 1, "distance": 0.0, "ratio": 0.0},
            {"sample": 2, "index": 0, "mirrored": 0, "distance": far, "ratio": 0.9},
        ]
        write_csv(self.metrics(recipe) / "nearest.csv", rows)
        self.images[recipe]["nearest"] = [np.stack([drawn[1], drawn[1]]), np.stack([drawn[2], packed[0]])]

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let stages and tools take this tree for the project."""
        for module in (stages, compare, outdated, revisions):
            monkeypatch.setattr(module, "ROOT", self.path)
        monkeypatch.setattr(stages, "WORK", self.path / "work")
