"""The drawn stand-ins: the same bytes every time, kinds that differ, the official layouts."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm.archives import CIFAR10_BATCHES, CelebaImages, read_cifar10
from ddpm.synthetic import KINDS, write_celeba, write_cifar10


def faces(path: Path) -> np.ndarray:
    images = CelebaImages(path)
    return np.stack([np.asarray(images[index]) for index in range(len(images))])


@pytest.mark.parametrize("write", [write_cifar10, write_celeba])
def test_the_same_bytes_every_time_on_any_number_of_processes(tmp_path: Path, write: type) -> None:
    write(tmp_path / "one", 60, seed=3, workers=1)
    write(tmp_path / "two", 60, seed=3, workers=2)
    write(tmp_path / "other", 60, seed=4, workers=1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "other"}


def test_an_image_does_not_depend_on_how_many_are_drawn(tmp_path: Path) -> None:
    for number in (7, 12):
        write_cifar10(tmp_path / f"c{number}", number, seed=0, workers=1)
        write_celeba(tmp_path / f"f{number}", number, seed=0, workers=1)
    few, many = read_cifar10(tmp_path / "c7"), read_cifar10(tmp_path / "c12")
    assert (len(few), len(many)) == (7, 12)
    assert np.array_equal(few, many[:7])
    few, many = faces(tmp_path / "f7"), faces(tmp_path / "f12")
    assert (len(few), len(many)) == (7, 12)
    assert np.array_equal(few, many[:7])


def test_no_two_images_are_the_same(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "c", 100, seed=0, workers=1)
    write_celeba(tmp_path / "f", 20, seed=0, workers=1)
    assert len({image.tobytes() for image in read_cifar10(tmp_path / "c")}) == 100
    assert len({image.tobytes() for image in faces(tmp_path / "f")}) == 20


def test_the_kinds_differ(tmp_path: Path) -> None:
    """A nearest-neighbour rule on edges, blind to colour, names the kind of most new pictures: 1 in 10 by chance."""
    write_cifar10(tmp_path / "c", 600, seed=0, workers=1)
    with tarfile.open(tmp_path / "c") as tar:
        contents = [tar.extractfile(f"cifar-10-batches-bin/{name}") for name in CIFAR10_BATCHES]
        records = b"".join(stream.read() for stream in contents if stream is not None)
    labels = np.frombuffer(records, np.uint8).reshape(-1, 3073)[:, 0]
    assert set(labels) == set(range(len(KINDS)))
    grey = read_cifar10(tmp_path / "c").mean(-1)
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
