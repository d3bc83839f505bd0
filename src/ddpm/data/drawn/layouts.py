"""What is drawn by code, written in the publishers' raw layouts.

Image i of a seed is the same picture however many are drawn and by however many processes (`workers`, 0 = one a core).
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm.base.files import whole_file
from ddpm.base.parallel import in_processes
from ddpm.base.progress import progress_bar
from ddpm.data.archives import CELEBA_FOLDER, CIFAR10_BATCHES, CIFAR10_FOLDER, FASHION_MNIST_FILES, SPRITES_MEMBERS
from ddpm.data.drawn.faces import draw_face
from ddpm.data.drawn.kinds import KINDS, draw_gray_kind, draw_kind
from ddpm.data.drawn.sprites import SPRITE_KINDS, draw_sprite

CHUNK = 50  # images a task


def write_cifar10(path: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write pictures of ten kinds to `path` in the layout of cifar-10-binary.tar.gz."""
    images, labels = _drawn("cifar10", partial(_labelled, draw_kind, len(KINDS)), num_images, seed, workers)
    records = np.concatenate([labels[:, None], np.moveaxis(images, 3, 1).reshape(num_images, -1)], axis=1)
    cuts = [num_images * batch // len(CIFAR10_BATCHES) for batch in range(len(CIFAR10_BATCHES) + 1)]
    members = [("batches.meta.txt", "".join(f"{kind}\n" for kind in KINDS).encode())]
    members += [(name, records[cuts[i] : cuts[i + 1]].tobytes()) for i, name in enumerate(CIFAR10_BATCHES)]
    with _gzip_file(path) as packed, tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(f"{CIFAR10_FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_celeba(path: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write faces to `path` in the layout of img_align_celeba.zip, eyes where CelebA's are."""
    drawn = _each("celeba", _draw_face, num_images, seed, workers)
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:  # stored: JPEG compresses no further
        for index, jpeg in enumerate(drawn):
            _add(archive, f"{CELEBA_FOLDER}/{index + 1:06d}.jpg", jpeg)


def write_folder(folder: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write faces to `folder`, one file each, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for index, jpeg in enumerate(_each("folder", _draw_face, num_images, seed, workers)):
        (folder / f"{index + 1:06d}.jpg").write_bytes(jpeg)


def write_fashion_mnist(folder: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write gray pictures of ten kinds and their labels to `folder`, in the layout of the two training files."""
    images, labels = _drawn("fashion_mnist", partial(_labelled, draw_gray_kind, len(KINDS)), num_images, seed, workers)
    for name, items in zip(FASHION_MNIST_FILES, (images, labels), strict=True):
        with _gzip_file(folder / name) as packed:
            packed.write(struct.pack(f">4B{items.ndim}I", 0, 0, 8, items.ndim, *items.shape) + items.tobytes())


def write_sprites(path: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write sprites and their labels to the .npz file `path`, as `ddpm.data.archives.read_sprites` reads it."""
    arrays = _drawn("sprites", partial(_labelled, draw_sprite, len(SPRITE_KINDS)), num_images, seed, workers)
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in zip(SPRITES_MEMBERS, arrays, strict=True):
            stream = io.BytesIO()
            np.save(stream, array)
            _add(archive, name, stream.getvalue())


def _labelled(draw: Callable[..., Image.Image], kinds: int, rng: random.Random) -> tuple[np.ndarray, int]:
    label = rng.randrange(kinds)
    return np.asarray(draw(label, rng)), label


def _draw_face(rng: random.Random) -> bytes:
    stream = io.BytesIO()
    draw_face(rng).save(stream, "JPEG", quality=96, subsampling=0)
    return stream.getvalue()


@contextmanager
def _gzip_file(path: Path) -> Iterator[gzip.GzipFile]:
    """`path`, open for writing, without the time of day; whole or not at all."""
    with whole_file(path) as temporary, temporary.open("wb") as stream, gzip.GzipFile("", "wb", 6, stream, 0) as packed:
        yield packed


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member without the time of day."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.external_attr = 0o100644 << 16
    archive.writestr(member, content)


def _drawn(
    dataset: str, draw: Callable[[random.Random], Any], num_images: int, seed: int, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, uint8 (num_images, ...) and (num_images,), of a `draw` that gives one of each."""
    images, labels = zip(*_each(dataset, draw, num_images, seed, workers), strict=True)
    return np.stack(images), np.array(labels, np.uint8)


def _each(dataset: str, draw: Callable[[random.Random], Any], num_images: int, seed: int, workers: int) -> Iterator[Any]:
    """What `draw` makes of each image's generator, in order."""
    tasks = [range(start, min(start + CHUNK, num_images)) for start in range(0, num_images, CHUNK)]
    with progress_bar(total=num_images, desc=f"draw {dataset}", unit=" images") as bar:
        for chunk in in_processes(_Artist, (dataset, draw, seed), tasks, workers):
            yield from chunk
            bar.update(len(chunk))


class _Artist:
    """Draws the images of a task, each from a generator of its own; one a process."""

    def __init__(self, dataset: str, draw: Callable[[random.Random], Any], seed: int) -> None:
        self.dataset, self.draw, self.seed = dataset, draw, seed

    def __call__(self, indices: range) -> list[Any]:
        # The standard library's generator: its numbers are the same in every version, on every system.
        return [self.draw(random.Random(f"{self.dataset} {self.seed} {index}")) for index in indices]
