"""A recipe's packed images and labels, for training and held out of it.

They are no outputs of the pipeline: licensed images must not get into a cache or a remote. The arrays lie under work/;
`python -m stages.raw RECIPE --scale SCALE` makes them again from the raw images.
This module imports none of the code that does so: a change of that code retrains nothing unless the arrays change.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ddpm.base.faults import Fault
from ddpm.base.files import check_regular, write_text
from ddpm.base.hashes import sha256_of
from ddpm.base.locks import locked
from stages import ROOT, Paths, shown

Split = Literal["training", "heldout"]
FACTS: dict[Split, str] = {"training": "stats.json", "heldout": "heldout.json"}  # of the packed arrays


def training_images(paths: Paths) -> tuple[np.memmap, dict[str, Any]]:
    """The packed images, read-only uint8 (N, H, W, C), and stats.json; a missing or damaged array is made again.

    What is opened is what the record says: the file's SHA-256, and the array's type and shape. Raises Fault.
    """
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
    path = array_path(paths, facts["sha256"], split)
    images: np.memmap = np.load(_recorded(paths, path, facts["sha256"]), mmap_mode="r", allow_pickle=False)
    # As heldout.json names no size, it is that of the training images.
    shape = tuple((facts | paths.facts(FACTS["training"], "preprocess"))[key] for key in ("size", "size", "channels"))
    _check(paths, path, images, (facts["count"], *shape), split)
    return images, facts


def _labels(paths: Paths, split: Split) -> np.ndarray | None:
    facts = paths.facts(FACTS[split], "preprocess")
    if facts["labels_sha256"] is None:
        return None
    path = labels_path(paths, facts["labels_sha256"], split)
    labels: np.ndarray = np.load(_recorded(paths, path, facts["labels_sha256"]), allow_pickle=False)
    _check(paths, path, labels, (facts["count"],), split)
    classes = paths.resolved("data").get("classes")
    if isinstance(classes, list) and classes and labels.max() >= len(classes):
        raise Fault(
            f"{shown(path)} has the label {labels.max()}; accepted: 0 to {len(classes) - 1}, the classes of the data set; "
            f"mend the raw images, and record them with: dvc repro download@{paths.recipe}"
        )
    return labels


def _check(paths: Paths, path: Path, array: np.ndarray, shape: tuple[int, ...], split: Split) -> None:
    """Raise Fault unless `array` of the file `path`, which is the recorded one, is uint8 of the recorded `shape`."""
    if array.dtype != np.uint8 or array.shape != shape:
        raise Fault(
            f"{shown(path)} holds {array.dtype} {list(array.shape)}, and {shown(paths.data / FACTS[split])} says uint8 "
            f"{list(shape)}; record what is right with: dvc repro preprocess@{paths.recipe}"
        )


def _recorded(paths: Paths, path: Path, sha256: str) -> Path:
    """`path`, a packed array whose file has this SHA-256; made again if it is missing or another. Raises Fault."""
    with locked(paths.work / "packed.lock"):
        if os.path.lexists(path) and not _verified(path, sha256):
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            print(f"{shown(path)} is damaged: its sha256 is not the recorded one; it is now {aside.name}", flush=True)
        if not path.exists():
            print(f"{shown(path)} is missing; packing it again", flush=True)
            # A process of its own: its workers import the main module again, and that of a training loads torch.
            again = subprocess.run([sys.executable, "-m", "stages.raw", paths.recipe, "--scale", paths.scale], cwd=ROOT)
            if again.returncode:
                raise Fault(f"{shown(path)} is needed and could not be made again: see the message above")
            if not _verified(path, sha256):
                raise Fault(f"{shown(path)}: what was packed again is damaged at once; the disk or the memory is at fault")
    return path


def _verified(path: Path, sha256: str) -> bool:
    """Whether the file `path` has this SHA-256. It is read once: later its size, time and inode must be the same."""
    check_regular(path, "move it away, and the same command packs it again")
    found, note = path.stat(), path.with_name(f"{path.name}.checked")
    identity = f"{sha256} {found.st_size} {found.st_mtime_ns} {found.st_ino} {found.st_dev}\n"
    with contextlib.suppress(OSError):
        if note.is_file() and note.read_text(errors="replace") == identity:
            return True
    if sha256_of(path) != sha256:
        return False
    with contextlib.suppress(Fault):  # a full disk: it is read again next time
        write_text(note, identity)
    return True


def array_path(paths: Paths, sha256: str, split: Split = "training") -> Path:
    """Where the packed images lie whose file has this SHA-256."""
    return paths.work / f"{'heldout-' * (split == 'heldout')}images-{sha256[:16]}.npy"


def labels_path(paths: Paths, sha256: str, split: Split = "training") -> Path:
    """Where the packed labels lie whose file has this SHA-256."""
    return paths.work / f"{'heldout-' * (split == 'heldout')}labels-{sha256[:16]}.npy"
