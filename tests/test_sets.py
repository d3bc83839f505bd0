"""The table of the data sets is complete, and the settings that choose from it say what is wrong with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm.base.faults import Fault
from ddpm.base.settings import validate
from ddpm.data.archives import CELEBA_SIZE
from ddpm.data.drawn.kinds import KINDS
from ddpm.data.preprocess import pack
from ddpm.data.sets import DATA_SETS
from ddpm.data.settings import DataConfig

EACH = pytest.mark.parametrize("dataset", DATA_SETS)
WRITTEN = {"data": "recipes.mine.data", **{f"data.{key}": f"recipes.mine.data.{key}" for key in DataConfig.model_fields}}


def config(**values: Any) -> DataConfig:
    return validate(DataConfig, {"source": "synthetic"} | values, "data")


def message(**values: Any) -> str:
    with pytest.raises(Fault) as caught:
        config(**values)
    return str(caught.value)


@EACH
def test_an_entry_is_complete(dataset: str) -> None:
    table = DATA_SETS[dataset]
    assert table.channels in (1, 3)
    assert len(set(table.classes)) == len(table.classes) == len(table.drawn_classes)
    assert (table.frame is None) == (table.crop is None)
    assert (table.count is None) == (not table.files)
    assert table.licence
    assert re.fullmatch(r"(\.[a-z]+)*", table.ending)
    for file in table.files:
        assert re.fullmatch(r"[\w.-]+", file.name), "no folder in it"
        assert file.size > 0
        assert file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", file.md5)
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.md5 or file.sha256
        assert file.urls
        assert all(url.startswith(("https://", "http://")) for url in file.urls)
        assert file.name in file.by_hand
        assert file.name in table.local


@EACH
def test_a_stand_in_is_read_by_its_data_sets_reader(tmp_path: Path, dataset: str) -> None:
    """It has the official images' size and channels, and labels for the classes that it is said to show."""
    table, source = DATA_SETS[dataset], tmp_path / f"raw{DATA_SETS[dataset].ending}"
    table.write(source, 30, 0, 1)
    table.check(source)
    found = table.read(source)
    if not isinstance(found, tuple):
        assert not table.drawn_classes
        assert found.labels is None
        assert {found.image(name).size for name in found.names} == {table.frame or CELEBA_SIZE}
    else:
        images, labels = found
        assert images.shape == (30, table.size, table.size, table.channels)
        assert images.flags.c_contiguous
        assert labels.max() < len(table.drawn_classes)
        assert images.dtype == labels.dtype == np.uint8
    stats = pack(config(dataset=dataset), source, tmp_path / "images.npy", 1)
    assert (stats["count"], stats["size"], stats["channels"]) == (30, table.size, table.channels)


def test_numbers_and_classes_are_the_publishers() -> None:
    assert {name: table.count for name, table in DATA_SETS.items()} == {
        "cifar10": 50_000, "celeba": 202_599, "fashion_mnist": 60_000, "sprites": None, "folder": None,
    }  # fmt: skip
    assert {name: len(table.classes) for name, table in DATA_SETS.items()} == {
        "cifar10": 10, "celeba": 0, "fashion_mnist": 10, "sprites": 5, "folder": 0,
    }  # fmt: skip
    assert DATA_SETS["cifar10"].classes[3] == "cat"
    assert DATA_SETS["fashion_mnist"].classes[9] == "ankle boot"


def test_the_table_is_torchvisions() -> None:
    from torchvision import datasets

    assert DATA_SETS["celeba"].files[0].md5 in {md5 for _, md5, _ in datasets.CelebA.file_list}
    fashion = dict(datasets.FashionMNIST.resources)
    assert {file.name: file.md5 for file in DATA_SETS["fashion_mnist"].files} == fashion
    named = [name.lower() for name in datasets.FashionMNIST.classes]
    assert [name.split("/")[0] for name in named] == list(DATA_SETS["fashion_mnist"].classes)


def test_drawn_pictures_have_the_names_of_what_they_show() -> None:
    for dataset in ("cifar10", "fashion_mnist"):
        assert config(dataset=dataset).classes == DATA_SETS[dataset].class_names("synthetic") == tuple(KINDS)
        for source in ("official", "/some/folder"):
            assert config(dataset=dataset, source=source).classes == DATA_SETS[dataset].classes
    assert config(dataset="sprites").classes == ("hero", "monster", "food", "spell", "side")
    assert config(dataset="celeba").classes == ()


def test_what_may_be_shared() -> None:
    """CelebA's own images may not; what is drawn in their place may."""
    assert not config(dataset="celeba", source="official").shareable
    assert not config(dataset="celeba", source="celeba.zip").shareable
    assert not config(dataset="folder", source="/some/folder").shareable
    assert config(dataset="celeba").shareable
    for dataset, source in (("cifar10", "official"), ("fashion_mnist", "official"), ("sprites", "mine.npz")):
        assert config(dataset=dataset, source=source).shareable


@pytest.mark.parametrize(
    ("dataset", "crop", "size", "channels"),
    [
        ("cifar10", None, 32, 3),
        ("celeba", [25, 57, 128, 128], 64, 3),
        ("fashion_mnist", None, 28, 1),
        ("sprites", None, 16, 3),
        ("folder", None, 64, 3),
    ],
)
def test_what_is_left_out_is_as_the_table_says(dataset: str, crop: list[int] | None, size: int, channels: int) -> None:
    settings = config(dataset=dataset)
    assert settings.model_dump() == {
        "dataset": dataset, "source": "synthetic", "origin": "", "heldout": "", "images": 2000, "seed": 0, "crop": crop,
        "size": size, "channels": channels,
    }  # fmt: skip
    assert config(**settings.model_dump()) == settings, "what the config stage writes is read again"
    assert config(dataset=dataset, crop=None, size=None, channels=None) == settings


def test_a_box_and_a_size_of_ones_own() -> None:
    settings = config(dataset="celeba", crop=[0, 20, 178, 178], size=32)
    assert (settings.crop, settings.size) == ([0, 20, 178, 178], 32)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dataset": "imagenet"}, "dataset = 'imagenet'; accepted: one of cifar10, celeba, fashion_mnist, sprites"),
        ({"dataset": "cifar10\n"}, r"dataset = 'cifar10\n'; accepted: one of cifar10"),
        ({"dataset": ["cifar10"]}, "dataset = ['cifar10']; accepted: one of cifar10"),
        ({}, "dataset: missing; accepted: one of cifar10"),
        ({"dataset": "cifar10", "source": ""}, "source = ''; accepted: official, synthetic, or"),
        ({"dataset": "cifar10", "images": 0}, "images = 0; accepted: images to draw when source is synthetic, 1 or more"),
        ({"dataset": "cifar10", "seed": -1}, "seed = -1; accepted: a whole number, 0 to 2**32 - 1"),
        ({"dataset": "cifar10", "synthetic_images": 9}, "synthetic_images: unknown key; accepted: "),
        ({"dataset": "cifar10", "heldout": 3}, "heldout = 3; accepted: the path of another archive or folder"),
        ({"dataset": "cifar10", "heldout": "b"}, "heldout = 'b'; accepted where data.source = 'synthetic': none"),
        (
            {"dataset": "cifar10", "source": "official", "heldout": "b"},
            "heldout = 'b'; accepted where data.source = 'official'",
        ),
        ({"dataset": "cifar10", "size": 40}, "size = 40; accepted for cifar10: 32"),
        ({"dataset": "fashion_mnist", "size": 32}, "size = 32; accepted for fashion_mnist: 28"),
        ({"dataset": "sprites", "crop": [0, 0, 8, 8]}, "crop = [0, 0, 8, 8]; accepted for sprites, whose images are used as"),
        ({"dataset": "sprites", "source": "official"}, "source = 'official'; accepted for sprites, which is not published"),
        ({"dataset": "celeba", "size": 0}, "size = 0; accepted: side of the square training images in pixels"),
        ({"dataset": "celeba", "crop": [0, 0, 9]}, "crop = [0, 0, 9]; accepted: [left, top, width, height]"),
        ({"dataset": "celeba", "crop": [60, 57, 128, 128]}, "crop = [60, 57, 128, 128] does not lie inside the 178x218 image"),
        ({"dataset": "celeba", "crop": [0, 0, 0, 0]}, "crop = [0, 0, 0, 0] does not lie inside the 178x218 image"),
        ({"dataset": "celeba", "crop": [0, 0, 9, 8]}, "crop = [0, 0, 9, 8] is not square; accepted: width equal to height"),
    ],
)
def test_wrong_settings_are_named_with_what_is_accepted(values: dict[str, Any], words: str) -> None:
    said = message(**values)
    assert f"data.{words}" in said
    assert "\n" not in said, "one line: nothing else is wrong"


def test_keys_are_named_where_the_user_wrote_them() -> None:
    wrongs = ({"size": 40}, "size = 40"), ({"images": 0}, "images = 0"), ({"heldout": "b"}, "heldout = 'b'")
    for wrong, words in wrongs:
        with pytest.raises(Fault, match=f"^recipes.mine.data.{words}"):
            validate(DataConfig, {"dataset": "cifar10", "source": "synthetic"} | wrong, {"": "recipes.mine.data"} | WRITTEN)
