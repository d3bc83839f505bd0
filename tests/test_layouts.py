"""What is drawn by code, as files: the same bytes every time, kinds that differ, the official layouts."""

from __future__ import annotations

import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm.data.archives import FASHION_MNIST_FILES
from ddpm.data.drawn import layouts
from ddpm.data.drawn.kinds import KINDS
from ddpm.data.drawn.layouts import write_celeba, write_cifar10, write_fashion_mnist
from ddpm.data.sets import DATA_SETS

EACH = pytest.mark.parametrize("dataset", DATA_SETS)


def drawn(dataset: str, path: Path, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels (zeros where the data set has none) of a stand-in, as the data set's reader finds them."""
    DATA_SETS[dataset].write(path, count, seed, 1)
    found = DATA_SETS[dataset].read(path)
    if not isinstance(found, tuple):
        return np.stack([np.asarray(found.image(name)) for name in found.names]), np.zeros(len(found), np.uint8)
    return found


def contents(path: Path) -> list[bytes]:
    """Of a file, or of the files in a folder."""
    return [file.read_bytes() for file in ([path] if path.is_file() else sorted(path.iterdir()))]


@EACH
def test_the_same_bytes_every_time_on_any_number_of_processes(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = DATA_SETS[dataset].write
    write(tmp_path / "one", 60, 3, 1)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    write(tmp_path / "two", 60, 3, 2)
    write(tmp_path / "other", 60, 4, 1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "other"}


@EACH
def test_an_image_does_not_depend_on_how_many_are_drawn(tmp_path: Path, dataset: str) -> None:
    for few, many in zip(drawn(dataset, tmp_path / "7", 7), drawn(dataset, tmp_path / "12", 12), strict=True):
        assert (len(few), len(many)) == (7, 12)
        assert np.array_equal(few, many[:7])


@pytest.mark.parametrize(("dataset", "count"), [("cifar10", 100), ("fashion_mnist", 100), ("celeba", 20)])
def test_no_two_images_are_the_same(tmp_path: Path, dataset: str, count: int) -> None:
    assert len({image.tobytes() for image in drawn(dataset, tmp_path / "raw", count)[0]}) == count


@pytest.mark.parametrize("dataset", ["cifar10", "fashion_mnist"])
def test_the_kinds_differ(tmp_path: Path, dataset: str) -> None:
    """A nearest-neighbour rule on edges, blind to colour, names the kind of most new pictures: 1 in 10 by chance."""
    images, labels = drawn(dataset, tmp_path / "raw", 600)
    assert set(labels) == set(range(len(KINDS)))
    grey = images.mean(-1)
    edges = np.abs(np.diff(grey, axis=1))[:, :, 1:] + np.abs(np.diff(grey, axis=2))[:, 1:]
    features = (edges / np.linalg.norm(edges, axis=(1, 2), keepdims=True)).reshape(600, -1)
    nearest = (features[500:] @ features[:500].T).argmax(1)
    assert (labels[nearest] == labels[500:]).mean() > 0.6


def test_a_label_names_the_sprite_that_is_drawn(tmp_path: Path) -> None:
    """Every class is drawn, and the nearest of 250 pictures has the label of most of 100 others."""
    images, labels = drawn("sprites", tmp_path / "raw", 350)
    assert set(labels) == set(range(len(DATA_SETS["sprites"].classes)))
    dark = images.min(-1) < 250
    apart = (dark[250:, None] != dark[None, :250]).sum((2, 3))
    assert (labels[apart.argmin(1)] == labels[250:]).mean() > 0.7


def test_the_eyes_are_where_celeba_has_them(tmp_path: Path) -> None:
    pictures = drawn("celeba", tmp_path / "f", 40, seed=1)[0].astype(float)
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


def test_a_drawing_that_fails_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_celeba(tmp_path / "f", 2, seed=0, workers=1)
    before = (tmp_path / "f").read_bytes()
    monkeypatch.setattr(layouts, "draw_face", lambda rng: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        write_celeba(tmp_path / "f", 20, seed=0, workers=1)
    assert (tmp_path / "f").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
