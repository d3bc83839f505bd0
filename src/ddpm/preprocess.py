"""Cut and pack a data set into one uint8 array on disk, in parallel and in constant memory."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ddpm.archives import READERS, CelebaImages
from ddpm.config import DataConfig
from ddpm.fetch import sha256_of
from ddpm.parallel import in_processes
from ddpm.progress import progress_bar

CHUNK = 256  # images a task of a worker: large enough to hide the hand-over, small enough for a smooth bar


class PackError(RuntimeError):
    """The images do not fit on the disk."""


def pack(config: DataConfig, source: Path, out: Path, workers: int, labels_out: Path | None = None) -> dict[str, Any]:
    """Write all images of `source` (an archive or folder that `ddpm.archives` reads) to `out` and describe them.

    `out` becomes an .npy file, uint8 (N, size, size, channels), and `labels_out`, where the data set has labels and they
    are wanted, one of them, uint8 (N,): each whole or not at all; calls with one `out` must not overlap.
    `workers` is the number of processes, 0 = one a core; the result does not depend on it. Memory does not grow with the
    number of CelebA's images but for the archive's directory, 0.6 kB an image in this process. Returns count, size,
    channels, mean and std (of each channel in [0, 1], over all pixels), sha256 (of `out`) and labels_sha256 (of
    `labels_out`, None where it was not written).
    Raises ArchiveError, which names a corrupt image, PackError and WorkerKilledError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    labels = None
    try:
        if config.dataset in READERS:
            totals, labels, digest = _pack_labelled(config, source, temporary)
            count = len(labels)
        else:
            totals, count, digest = _pack_celeba(config, source, temporary, workers)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    labels_digest = None if labels is None or labels_out is None else _save(labels_out, labels)
    mean, std = _moments(totals, count * config.size**2)
    facts = {"count": count, "size": config.size, "channels": config.channels, "mean": mean, "std": std}
    return facts | {"sha256": digest, "labels_sha256": labels_digest}


def cut(image: Image.Image, crop: list[int], size: int) -> np.ndarray:
    """The box `crop` = [left, top, width, height] of `image`, resized to uint8 (size, size, 3).

    Crop first: only pixels of the box count, as in the papers' pipelines (`Image.resize(box=...)` would let the filter
    reach beyond it). Bicubic with Pillow's antialiasing (the filter widens with the reduction): next to Lanczos it
    rings half as much at edges, which a network would learn as halos, and it loses no visible detail at a factor of 2.
    """
    left, top, width, height = crop
    box = image.crop((left, top, left + width, top + height))
    return np.asarray(box.resize((size, size), Image.Resampling.BICUBIC))


def _create(path: Path, count: int, config: DataConfig) -> np.memmap:
    """An .npy file for `count` images, open for writing."""
    size, channels = config.size, config.channels
    needed, free = count * size * size * channels, shutil.disk_usage(path.parent).free
    if needed > free:  # minutes before it would be noticed; and a full disk kills who writes to a mapped file, without a word
        raise PackError(
            f"{path.parent}: {count} images of {size} px take {needed:,} bytes, {free:,} are free; "
            "accepted: a disk with room for them, or a smaller data.size"
        )
    return np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, channels))


def _pack_labelled(config: DataConfig, source: Path, path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Pack the images of a data set that has labels as they are; return their power sums, labels and hash."""
    images, labels = READERS[config.dataset](source)
    array = _create(path, len(images), config)
    array[:] = images
    array.flush()
    chunks = [_power_sums(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
    return np.sum(chunks, axis=0), labels, sha256_of(path)


def _save(path: Path, array: np.ndarray) -> str:
    """Write `array` to the .npy file `path`, whole or not at all; return its SHA-256."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        np.save(stream, array)
    temporary.replace(path)
    return sha256_of(path)


def _pack_celeba(config: DataConfig, source: Path, path: Path, workers: int) -> tuple[np.ndarray, int, str]:
    assert config.crop is not None  # DataConfig sees to it
    images = CelebaImages(source)
    image_bytes = config.size**2 * 3
    header_bytes = _create(path, len(images), config).offset
    everything = range(len(images))
    tasks = [
        _Task(images.part(everything[start : start + CHUNK]), header_bytes + start * image_bytes)
        for start in everything[::CHUNK]
    ]
    totals = np.zeros((2, 3), np.int64)
    with (
        path.open("rb", buffering=0) as written,  # a buffer would read ahead, what is not written yet
        progress_bar(total=len(images), desc=f"pack {config.dataset}", unit=" images") as bar,
    ):
        digest = hashlib.sha256(written.read(header_bytes))
        results = in_processes(_Packer, (path, config.crop, config.size), tasks, workers)
        for task, sums in zip(tasks, results, strict=True):
            totals += sums
            digest.update(written.read(len(task.images) * image_bytes))
            bar.update(len(task.images))
    return totals, len(images), digest.hexdigest()


class _Task(NamedTuple):
    images: CelebaImages
    offset: int  # of their place in the array's file, in bytes


class _Packer:
    """Decodes and cuts images into the array's file at `path`; one a process.

    It writes to the file rather than to a map of it, whose pages would count as the process's memory.
    """

    def __init__(self, path: Path, crop: list[int], size: int) -> None:
        self.file = path.open("r+b")
        self.crop, self.size = crop, size

    def __call__(self, task: _Task) -> np.ndarray:
        """Write the images of `task`; return their power sums, int64 (2, 3)."""
        chunk = np.empty((len(task.images), self.size, self.size, 3), np.uint8)
        for index in range(len(chunk)):
            chunk[index] = cut(task.images[index], self.crop, self.size)
        self.file.seek(task.offset)
        self.file.write(chunk.data)
        self.file.flush()
        return _power_sums(chunk)


def _power_sums(images: np.ndarray) -> np.ndarray:
    """Sums of the values and of their squares, a channel: int64 (2, channels), exact for chunks in any order.

    `images` is uint8 (n, size, size, channels), at most 66,051 images: the small types are twenty times as fast as int64.
    """
    values = images.reshape(len(images), -1)
    squares = np.square(values, dtype=np.uint16)
    sums = np.stack([values.sum(0, dtype=np.uint32), squares.sum(0, dtype=np.uint32)])
    return sums.reshape(2, -1, images.shape[-1]).sum(1, dtype=np.int64)


def _moments(totals: np.ndarray, pixels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel, in [0, 1], from the power sums of `pixels` pixels, in exact integers."""
    sums, squares = totals.tolist()
    mean = [total / (255 * pixels) for total in sums]
    variance = [(pixels * square - total**2) / (255 * pixels) ** 2 for total, square in zip(sums, squares, strict=True)]
    return mean, [value**0.5 for value in variance]
