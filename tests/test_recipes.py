"""Every recipe through the real DVC, with what makes it that recipe, and what the stage config says to bad settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Checkout
from ddpm.figures.pictures import images_in
from ddpm.sampling import load
from stages import load_yaml
from test_pipeline import OF_CLASSES, PICTURES, STAGES, of

# --- Every recipe --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sprites", "cifar10_linear", "cifar10_classes", "fashion_mnist"])
def test_a_recipe_runs_by_its_name_in_recipe_names(fresh: Checkout, recipe: str) -> None:
    """With what makes it that recipe; only the numbers of images and steps, T and the widths are a test's."""
    params = load_yaml((fresh.path / "params.yaml").read_text())
    section = f"recipes__{recipe}__"
    own = params["recipes"][recipe]["train"]
    levels = len(own.get("channels", [8, 8]))
    kept = ("steps", "num_timesteps", "time_emb_dim")
    tiny: dict[str, Any] = {f"{section}train__{key}": params["train"][key] for key in kept}
    tiny |= {f"{section}train__channels": [8, 12, 8, 12][:levels], f"{section}data__images": 40}
    tiny[f"{section}evaluation__sampler"] = params["evaluation"]["sampler"]
    if recipe == "fashion_mnist":
        tiny |= {f"{section}train__steps": "1 epoch", f"{section}train__checkpoints": [1]}
    conditional = own.get("context_dim", 0) > 0
    fresh.params(recipe_names=[recipe], conditional=[recipe] if conditional else [], **tiny)
    fresh.dvc("repro")
    assert set(fresh.lock()) == of(recipe, *STAGES, *(["classes"] if conditional else []))
    results = fresh.path / "metrics/demo" / recipe
    pictures = {path.name for path in results.glob("*") if path.suffix in (".png", ".gif")}
    assert pictures == {*PICTURES, "timing.png", *(OF_CLASSES if conditional else ())}, "no picture that says nothing"
    classes = load(fresh.path / "models/demo" / recipe / "ema.safetensors", "cpu").classes
    assert len(classes) == {"sprites": 5, "cifar10_classes": 10}.get(recipe, 0)
    if conditional:
        ((*by_class, mixed),) = images_in((results / "classes.png").read_bytes())
        assert len(by_class) == len(classes)
        assert np.abs(mixed[0].astype(int) - by_class[0][0]).max() <= 1, "all weight on the first class, and its noise"
        along, between = (np.abs(row[-1].astype(int) - row[0]).mean() for row in (mixed, by_class[0]))
        assert along < between / 2, "one noise in this row, another for each image of the others"
    steps = len((results / "loss.csv").read_text().splitlines()) - 1
    assert steps == (5 if recipe == "fashion_mnist" else 3), "a row every 2 steps; an epoch of 40 images in batches of 4 has 10"
    stats = json.loads((fresh.path / "data/demo" / recipe / "stats.json").read_text())
    with Image.open(results / "grid.png") as grid:
        pixels = np.asarray(grid)
    gray = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())
    assert gray == (stats["channels"] == 1) == (recipe == "fashion_mnist")
    # Drawn by its own checkpoint, class by class where it has classes.
    asked = ["--class", "1"] if classes else []
    fresh.python("-m", "tools.sample", recipe, "--steps", "2", "--images", "2", *asked, "--out", "two.npy")
    assert np.load(fresh.path / "two.npy").shape == (2, stats["size"], stats["size"], stats["channels"])


# --- Bad settings stop early ---------------------------------------------------------------------------------------

BAD = [
    ({"train__channels": "banana"}, ["train.channels", "banana", "a list of positive integers"]),
    ({"train__channels": [8, 16, 32]}, ["train.channels = [8, 16, 32]", "equal length"]),
    ({"train__channels": [8] * 6, "train__attention": [False] * 6}, ["data.size = 16", "accepted: more than 16"]),
    ({"train__channels": [8, 70]}, ["train.channels = [8, 70]", "do not divide 70", "multiples of 4"]),
    ({"train__steps": -5}, ["train.steps = -5", "1 or more"]),
    ({"train__lr": "fast"}, ["train.lr = 'fast'", "a number in (0, 1]"]),
    ({"figures__drawing__sampler": "foo 4"}, ["figures.drawing.sampler = 'foo 4'", "a method, its network calls"]),
    ({"figures__drawing__sampler": "ddpm 9"}, ["figures.drawing.sampler = 'ddpm 9'", "train.num_timesteps = 8"]),
    ({"train__steps": "many epochs"}, ["train.steps = 'many epochs'", "or epochs, as in: 50 epochs"]),
    ({"train__chanels": [8, 16]}, ["train.chanels", "unknown key"]),
    ({"recipes__celeba__train__stepz": 3}, ["recipes.celeba.train.stepz", "unknown key", "steps"]),
    ({"recipes__celeba__data__crop": [100, 57, 128, 128]}, ["crop = [100, 57, 128, 128]", "178x218"]),
    ({"runtime__device": "tpu"}, ["runtime.device = 'tpu'", "auto, cpu, cuda or cuda:N"]),
    ({"runtime__device": "cuda:99"}, ["device = 'cuda:99'", "CUDA devices", "accepted: auto, cpu"]),
    ({"recipes__cifar10__train__lr": 7}, ["recipes.cifar10.train.lr = 7", "a number in (0, 1]"]),  # another recipe's
    ({"conditional": ["celeba"]}, ["conditional = ['celeba']", "accepted: []"]),
    ({"recipe_name": ["celeba"]}, ["params.yaml: recipe_name: unknown key", "recipe_names"]),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[" ".join(changes) for changes, _ in BAD])
def test_a_bad_setting_is_named_with_its_value_and_what_is_accepted(
    untouched: Checkout, tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    (tmp_path / "project").mkdir()
    small = Checkout(tmp_path / "project")
    for part in ("src", "stages"):
        shutil.copytree(untouched.path / part, small.path / part)
    shutil.copy(untouched.path / "params.yaml", small.path)
    small.params(**changes)
    message = small.python("-m", "stages.config", "celeba", rc=1)
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert not (small.path / "metrics").exists()
