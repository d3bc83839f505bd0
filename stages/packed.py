"""A recipe's packed images. They are no output of the pipeline: licensed images must not get into a cache or a remote.

The array lies under work/; `python -m stages.raw RECIPE --scale SCALE` makes it again from the raw images.
This module imports none of the code that does so: a change of that code retrains nothing unless the images change.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stages.common import ROOT, Fault, Paths


def training_images(paths: Paths) -> tuple[np.memmap, dict[str, Any]]:
    """The packed images, read-only uint8 (N, H, W, 3), and stats.json; a missing array is made again. Raises Fault."""
    stats = read_facts(paths, "stats.json", "preprocess")
    path = array_path(paths, stats["sha256"])
    if not path.exists():
        print(f"{shown(path)} is missing; packing it again", flush=True)
        # A process of its own: its workers import the main module again, and that of a training loads torch.
        again = subprocess.run([sys.executable, "-m", "stages.raw", paths.recipe, "--scale", paths.scale], cwd=ROOT)
        if again.returncode:
            raise Fault(f"{shown(path)} is needed and could not be made again: see the message above")
    return np.load(path, mmap_mode="r"), stats


def array_path(paths: Paths, sha256: str) -> Path:
    """Where the packed array lies whose file has this SHA-256."""
    return paths.work / f"images-{sha256[:16]}.npy"


def read_facts(paths: Paths, name: str, maker: str) -> dict[str, Any]:
    """A git-tracked json file of the recipe's data, made by the stage `maker`. Raises Fault if it is missing."""
    path = paths.data / name
    if not path.exists():
        raise Fault(f"{shown(path)} is missing; it is made by: dvc repro {maker}@{paths.recipe}")
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def shown(path: Path) -> Path:
    """`path` as messages name it: relative to the checkout where it lies in it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
