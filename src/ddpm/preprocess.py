"""Cut and pack a data set into one uint8 array on disk, in parallel and in constant memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm.archives import CelebaImages, read_cifar10
from ddpm.config import DataConfig
from ddpm.fetch import sha256_of
from ddpm.parallel import in_processes
from ddpm.progress import progress_bar

CHUNK = 256  # images a task of a worker: large enough to hide the hand-over, small enough for a smooth bar


class PackError(RuntimeError):
    """The images do not fit on the disk."""


def pack(config: DataConfig, source: Path, out: Path, workers: int) -> dict[str, Any]:
    """Write all images of `source` (an archive or folder that `ddpm.archives` reads) to `out` and describe them.

    `out` becomes an .npy file, uint8 (N, size, size, 3), whole or not at all; calls with one `out` must not overlap.
    `workers` is the number of processes, 0 = one a core; the result does not depend on it. Returns count, size, mean
    and std (of R, G and B in [0, 1], over all pixels) and sha256 (of the file).
    Raises ArchiveError, which names a corrupt image, PackError and WorkerKilledError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    try:
        if config.dataset == "cifar10":
            totals, count = _pack_cifar10(source, temporary)
        else:
            totals, count = _pack_celeba(config, source, temporary, workers)
        digest = sha256_of(temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    mean, std = _moments(totals, count * config.size**2)
    return {"count": count, "size": config.size, "mean": mean, "std": std, "sha256": digest}


def cut(image: Image.Image, crop: list[int], size: int) -> np.ndarray:
    """The box `crop` = [left, top, width, height] of `image`, resized to uint8 (size, size, 3).

    Crop first: only pixels of the box count, as in the papers' pipelines (`Image.resize(box=...)` would let the filter
    reach beyond it). Bicubic with Pillow's antialiasing (the filter widens with the reduction): next to Lanczos it
    rings half as much at edges, which a network would learn as halos, and it loses no visible detail at a factor of 2.
    """
    left, top, width, height = crop
    box = image.crop((left, top, left + width, top + height))
    return np.asarray(box.resize((size, size), Image.Resampling.BICUBIC))


def _create(path: Path, count: int, size: int) -> np.memmap:
    """An .npy file for `count` images, open for writing."""
    needed, free = count * size * size * 3, shutil.disk_usage(path.parent).free
    if needed > free:  # writing to a mapped file on a full disk kills the process without a message
        raise PackError(f"{path.parent}: {count} images of {size} px take {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")
    return np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, 3))


def _pack_cifar10(source: Path, path: Path) -> tuple[np.ndarray, int]:
    images = read_cifar10(source)
    array = _create(path, len(images), 32)
    array[:] = images
    array.flush()
    chunks = [_power_sums(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
    return np.sum(chunks, axis=0), len(images)


def _pack_celeba(config: DataConfig, source: Path, path: Path, workers: int) -> tuple[np.ndarray, int]:
    assert config.crop is not None  # DataConfig sees to it
    count = len(CelebaImages(source))
    _create(path, count, config.size).flush()
    tasks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    totals = np.zeros((2, 3), np.int64)
    with progress_bar(total=count, desc=f"pack {config.dataset}", unit=" images") as bar:
        results = in_processes(_Packer, (source, path, config.crop, config.size), tasks, workers)
        for task, sums in zip(tasks, results, strict=True):
            totals += sums
            bar.update(len(task))
    return totals, count


class _Packer:
    """Decodes and cuts images of `source` into the array at `path`; one a process."""

    def __init__(self, source: Path, path: Path, crop: list[int], size: int) -> None:
        self.images = CelebaImages(source)
        self.array = np.lib.format.open_memmap(path, "r+")
        self.crop, self.size = crop, size

    def __call__(self, indices: range) -> np.ndarray:
        """Write the images `indices`; return their power sums, int64 (2, 3)."""
        chunk = np.stack([cut(self.images[index], self.crop, self.size) for index in indices])
        self.array[indices.start : indices.stop] = chunk
        return _power_sums(chunk)


def _power_sums(images: np.ndarray) -> np.ndarray:
    """Sums of the values and of their squares, a channel: int64 (2, 3), exact for chunks in any order."""
    pixels = images.reshape(-1, 3).astype(np.int64)
    return np.stack([pixels.sum(0), (pixels**2).sum(0)])


def _moments(totals: np.ndarray, pixels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel, in [0, 1], from the power sums of `pixels` pixels, in exact integers."""
    sums, squares = totals.tolist()
    mean = [total / (255 * pixels) for total in sums]
    variance = [(pixels * square - total**2) / (255 * pixels) ** 2 for total, square in zip(sums, squares, strict=True)]
    return mean, [value**0.5 for value in variance]
