"""Cut and pack a data set into one uint8 array on disk, in parallel and in constant memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ddpm.base.faults import Fault
from ddpm.base.files import amount, free_bytes, whole_file
from ddpm.base.hashes import sha256_of
from ddpm.base.parallel import in_processes
from ddpm.base.progress import progress_bar
from ddpm.data.archives import Part
from ddpm.data.sets import Pictures
from ddpm.data.settings import DataConfig

CHUNK = 256  # images a task of a worker: large enough to hide the hand-over, small enough for a smooth bar


def pack(
    config: DataConfig, source: Path, out: Path, workers: int, labels_out: Path | None = None, part: Part = "all"
) -> dict[str, Any]:
    """Write the images `part` of `source` (an archive or folder that `ddpm.data.archives` reads) to `out`; describe them.

    `out` becomes an .npy file, uint8 (N, size, size, channels), and `labels_out`, where the data set has labels and they
    are wanted, one of them, uint8 (N,): each whole or not at all. `workers` is the number of processes, 0 = one a core; the
    result does not depend on it. Memory does not grow with the number of images in files of their own but for their names,
    0.6 kB an image of CelebA's in each process. Returns count, size, channels, mean and std (of each channel in [0, 1], over
    all pixels), sha256 (of `out`) and labels_sha256 (of `labels_out`, None where it was not written).
    Raises Fault, which names a corrupt image or a disk that is too small.
    """
    found = config.table.read(source, part)
    images, labels = found if isinstance(found, tuple) else (found, found.labels)
    count = len(images)
    size = count * config.size**2 * config.channels
    if size > (free := free_bytes(out)):  # minutes before it would be noticed
        raise Fault(
            f"{out.parent}: {count} images of {config.size} px take {amount(size)}, {amount(free)} are free; "
            "accepted: a disk with room for them, or a smaller data.size"
        )
    with whole_file(out, size) as temporary:
        if not isinstance(images, np.ndarray):
            totals, digest = _cut_all(config, images, temporary, workers)
        else:
            _save(temporary, images)
            totals = np.sum([_power_sums(images[start : start + CHUNK]) for start in range(0, count, CHUNK)], axis=0)
            digest = sha256_of(temporary)
    labels_digest = None
    if labels is not None and labels_out is not None:
        with whole_file(labels_out, labels.nbytes) as temporary:
            _save(temporary, labels)
        labels_digest = sha256_of(labels_out)
    mean, std = _moments(totals, count * config.size**2)
    facts = {"count": count, "size": config.size, "channels": config.channels, "mean": mean, "std": std}
    return facts | {"sha256": digest, "labels_sha256": labels_digest}


def cut(image: Image.Image, crop: list[int], size: int) -> np.ndarray:
    """The box `crop` = [left, top, width, height] of `image`, resized to uint8 (size, size, 3), or (size, size) of a gray one.

    Crop first: only pixels of the box count, as in the papers' pipelines (`Image.resize(box=...)` would let the filter
    reach beyond it). Bicubic with Pillow's antialiasing (the filter widens with the reduction): next to Lanczos it
    rings half as much at edges, which a network would learn as halos, and it loses no visible detail at a factor of 2.
    """
    left, top, width, height = crop
    box = image.crop((left, top, left + width, top + height))
    return np.asarray(box.resize((size, size), Image.Resampling.BICUBIC))


def middle_square(image: Image.Image) -> list[int]:
    """The largest square in the middle of `image`, as a box for `cut`."""
    side = min(image.size)
    return [(image.width - side) // 2, (image.height - side) // 2, side, side]


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as stream:  # to a path without .npy at its end numpy would add that
        np.save(stream, array)


def _cut_all(config: DataConfig, images: Pictures, path: Path, workers: int) -> tuple[np.ndarray, str]:
    """Cut `images` into the .npy file `path`; return their power sums and its SHA-256."""
    shape = (config.size, config.size, config.channels)
    image_bytes = config.size**2 * config.channels
    header_bytes = np.lib.format.open_memmap(path, "w+", np.uint8, (len(images), *shape)).offset
    names = [images.names[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    tasks = [_Task(some, header_bytes + number * CHUNK * image_bytes) for number, some in enumerate(names)]
    totals = np.zeros((2, config.channels), np.int64)
    with (
        path.open("rb", buffering=0) as written,  # a buffer would read ahead, what is not written yet
        progress_bar(total=len(images), desc=f"pack {config.dataset}", unit=" images") as bar,
    ):
        digest = hashlib.sha256(written.read(header_bytes))
        results = in_processes(_Packer, (images, path, config.crop, shape), tasks, workers)
        for task, sums in zip(tasks, results, strict=True):
            totals += sums
            digest.update(written.read(len(task.names) * image_bytes))
            bar.update(len(task.names))
    return totals, digest.hexdigest()


class _Task(NamedTuple):
    names: list[str]  # of images
    offset: int  # of their place in the array's file, in bytes


class _Packer:
    """Decodes and cuts images into the array's file at `path`; one a process.

    It writes to the file rather than to a map of it, whose pages would count as the process's memory.
    """

    def __init__(self, images: Pictures, path: Path, crop: list[int] | None, shape: tuple[int, int, int]) -> None:
        self.images, self.array = images, path.open("r+b")
        self.crop, self.shape = crop, shape

    def cut(self, name: str) -> np.ndarray:
        """The image of this name, cut, uint8 of the shape. Raises Fault if the box does not lie inside it."""
        image = self.images.image(name)
        left, top, width, height = box = self.crop or middle_square(image)
        if left + width > image.width or top + height > image.height:
            raise Fault(
                f"{self.images.path}: data.crop = {box} does not lie inside {name}, which has {image.width}x{image.height} "
                "pixels; accepted: a box inside every picture, or center"
            )
        mode = "L" if self.shape[-1] == 1 else "RGB"
        return cut(image if image.mode == mode else image.convert(mode), box, self.shape[0]).reshape(self.shape)

    def __call__(self, task: _Task) -> np.ndarray:
        """Write the images of `task`; return their power sums, int64 (2, channels)."""
        chunk = np.stack([self.cut(name) for name in task.names])
        self.array.seek(task.offset)
        self.array.write(chunk.data)
        self.array.flush()
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
