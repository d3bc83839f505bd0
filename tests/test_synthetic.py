"""The drawn stand-ins: the same bytes every time, kinds that differ, the official layouts."""

from __future__ import annotations

import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddpm.archives import FASHION_MNIST_FILES, CelebaImages, read_cifar10, read_fashion_mnist, read_sprites
from ddpm.config import CLASSES
from ddpm.synthetic import KINDS, write_celeba, write_cifar10, write_fashion_mnist, write_sprites


def faces(path: Path) -> np.ndarray:
    images = CelebaImages(path)
    return np.stack([np.asarray(images[index]) for index in range(len(images))])


def contents(path: Path) -> list[bytes]:
    """Of a file, or of the files in a folder."""
    return [file.read_bytes() for file in ([path] if path.is_file() else sorted(path.iterdir()))]


@pytest.mark.parametrize("write", [write_cifar10, write_celeba, write_fashion_mnist, write_sprites])
def test_the_same_bytes_every_time_on_any_number_of_processes(
    tmp_path: Path, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one", 60, seed=3, workers=1)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    write(tmp_path / "two", 60, seed=3, workers=2)
    write(tmp_path / "other", 60, seed=4, workers=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "other"}


def test_an_image_does_not_depend_on_how_many_are_drawn(tmp_path: Path) -> None:
    for number in (7, 12):
        write_cifar10(tmp_path / f"c{number}", number, seed=0, workers=1)
        write_celeba(tmp_path / f"f{number}", number, seed=0, workers=1)
        write_fashion_mnist(tmp_path / f"g{number}", number, seed=0, workers=1)
        write_sprites(tmp_path / f"s{number}", number, seed=0, workers=1)
    for name, read in (("c", read_cifar10), ("g", read_fashion_mnist), ("s", read_sprites)):
        for few, many in zip(read(tmp_path / f"{name}7"), read(tmp_path / f"{name}12"), strict=True):
            assert (len(few), len(many)) == (7, 12)
            assert np.array_equal(few, many[:7])
    few, many = faces(tmp_path / "f7"), faces(tmp_path / "f12")
    assert (len(few), len(many)) == (7, 12)
    assert np.array_equal(few, many[:7])


def test_no_two_images_are_the_same(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "c", 100, seed=0, workers=1)
    write_celeba(tmp_path / "f", 20, seed=0, workers=1)
    assert len({image.tobytes() for image in read_cifar10(tmp_path / "c")[0]}) == 100
    assert len({image.tobytes() for image in faces(tmp_path / "f")}) == 20


def test_the_kinds_differ(tmp_path: Path) -> None:
    """A nearest-neighbour rule on edges, blind to colour, names the kind of most new pictures: 1 in 10 by chance."""
    write_cifar10(tmp_path / "c", 600, seed=0, workers=1)
    images, labels = read_cifar10(tmp_path / "c")
    assert set(labels) == set(range(len(KINDS)))
    grey = images.mean(-1)
    edges = np.abs(np.diff(grey, axis=1))[:, :, 1:] + np.abs(np.diff(grey, axis=2))[:, 1:]
    features = (edges / np.linalg.norm(edges, axis=(1, 2), keepdims=True)).reshape(600, -1)
    nearest = (features[500:] @ features[:500].T).argmax(1)
    assert (labels[nearest] == labels[500:]).mean() > 0.6


def test_the_eyes_are_where_celeba_has_them(tmp_path: Path) -> None:
    write_celeba(tmp_path / "f", 40, seed=1, workers=1)
    pictures = faces(tmp_path / "f").astype(float)
    for x in (69, 108):
        pupil, white = pictures[:, 110:113, x - 1 : x + 2], pictures[:, 110:113, [x - 7, x + 7]]
        assert (pupil.mean((1, 2, 3)) < white.mean((1, 2, 3)) - 60).mean() > 0.9


def test_archives_are_laid_out_as_the_official_ones(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "c", 12, seed=0, workers=1)
    with tarfile.open(tmp_path / "c") as tar:
        sizes = {member.name: member.size for member in tar}
        assert all(member.mtime == 0 for member in tar)
    names = [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)]
    assert [sizes[name] // 3073 for name in names] == [2, 2, 3, 2, 3]
    assert (tmp_path / "c").read_bytes()[4:8] == bytes(4), "no time of day in the gzip header"
    write_celeba(tmp_path / "f", 2, seed=0, workers=1)
    with zipfile.ZipFile(tmp_path / "f") as packed:
        assert packed.namelist() == ["img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg"]
        assert packed.testzip() is None
    write_fashion_mnist(tmp_path / "g", 12, seed=0, workers=1)
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == list(FASHION_MNIST_FILES)
    assert all(content[4:8] == bytes(4) for content in contents(tmp_path / "g")), "no time of day in the gzip header"


@pytest.mark.parametrize(
    ("dataset", "write", "read"),
    [("fashion_mnist", write_fashion_mnist, read_fashion_mnist), ("sprites", write_sprites, read_sprites)],
)
def test_a_label_names_what_is_drawn(
    tmp_path: Path,
    dataset: str,
    write: Callable[..., None],
    read: Callable[[Path], tuple[np.ndarray, np.ndarray]],
) -> None:
    """Every class is drawn, and the nearest of 250 pictures has the label of most of 100 others."""
    write(tmp_path / "raw", 350, seed=0, workers=1)
    images, labels = read(tmp_path / "raw")
    assert set(labels) == set(range(len(CLASSES[dataset])))
    drawn = images[..., 0] > 50 if dataset == "fashion_mnist" else images.min(-1) < 250  # light on black, dark on white
    apart = (drawn[250:, None] != drawn[None, :250]).sum((2, 3))
    assert (labels[apart.argmin(1)] == labels[250:]).mean() > 0.7
