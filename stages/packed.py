"""A recipe's packed images and labels, for training and held out of it.

They are no outputs of the pipeline: licensed images must not get into a cache or a remote. The arrays lie under work/;
`python -m stages.raw RECIPE --scale SCALE` makes them again from the raw images.
This module imports none of the code that does so: a change of that code retrains nothing unless the arrays change.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ddpm.base.faults import Fault
from stages import ROOT, Paths, shown

Split = Literal["training", "heldout"]
FACTS: dict[Split, str] = {"training": "stats.json", "heldout": "heldout.json"}  # of the packed arrays


def training_images(paths: Paths) -> tuple[np.memmap, dict[str, Any]]:
    """The packed images, read-only uint8 (N, H, W, C), and stats.json; a missing array is made again. Raises Fault."""
    return _images(paths, "training")


def training_labels(paths: Paths) -> np.ndarray | None:
    """The label of each of `training_images`, uint8 (N,), or None where the data set has none. Raises Fault."""
    return _labels(paths, "training")


def heldout_images(paths: Paths) -> tuple[np.memmap, dict[str, Any]]:
    """As `training_images`, of images that no training sees, and heldout.json. Raises Fault."""
    return _images(paths, "heldout")


def heldout_labels(paths: Paths) -> np.ndarray | None:
    """As `training_labels`, of `heldout_images`. Raises Fault."""
    return _labels(paths, "heldout")


def _images(paths: Paths, split: Split) -> tuple[np.memmap, dict[str, Any]]:
    facts = paths.facts(FACTS[split], "preprocess")
    return np.load(_existing(paths, array_path(paths, facts["sha256"], split)), mmap_mode="r"), facts


def _labels(paths: Paths, split: Split) -> np.ndarray | None:
    images, facts = _images(paths, split)
    if facts["labels_sha256"] is None:
        return None
    path = labels_path(paths, facts["labels_sha256"], split)
    labels: np.ndarray = np.load(_existing(paths, path))
    if len(labels) != len(images):
        raise Fault(f"{shown(path)} has {len(labels)} labels for {len(images)} images; remove it, and it is packed again")
    return labels


def _existing(paths: Paths, path: Path) -> Path:
    """`path`, a packed array, made again if it is missing."""
    if not path.exists():
        print(f"{shown(path)} is missing; packing it again", flush=True)
        # A process of its own: its workers import the main module again, and that of a training loads torch.
        again = subprocess.run([sys.executable, "-m", "stages.raw", paths.recipe, "--scale", paths.scale], cwd=ROOT)
        if again.returncode:
            raise Fault(f"{shown(path)} is needed and could not be made again: see the message above")
    return path


def array_path(paths: Paths, sha256: str, split: Split = "training") -> Path:
    """Where the packed images lie whose file has this SHA-256."""
    return paths.work / f"{'heldout-' * (split == 'heldout')}images-{sha256[:16]}.npy"


def labels_path(paths: Paths, sha256: str, split: Split = "training") -> Path:
    """Where the packed labels lie whose file has this SHA-256."""
    return paths.work / f"{'heldout-' * (split == 'heldout')}labels-{sha256[:16]}.npy"
