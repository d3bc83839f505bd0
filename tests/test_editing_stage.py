"""The stage editing: which images it changes, and that its pictures and numbers are what they say."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ddpm.base.files import write_json
from ddpm.base.hashes import sha256_of
from ddpm.figures.pictures import images_in
from results_tree import Tree
from stages import Paths, editing

DRAWING = {
    "sampler": "ddpm 4", "variance": "small", "eta": 0.0, "guidance": 2.0, "per_row": 4,
    "batch_size": 4,
}  # fmt: skip
PICTURES = ("inpainting", "edits", "interpolation", "reconstruction")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A tree of results with checkpoints, of which four images are edited."""
    path = tmp_path / "project"
    path.mkdir()
    tree = Tree(path)
    tree.use(monkeypatch)
    for recipe in ("sprites", "celeba"):
        tree.checkpoint(recipe)
        tree.change(recipe, "config/figures.json", drawing=DRAWING)
    return tree


def first_row(paths: Paths, name: str, images: np.ndarray) -> bool:
    """Whether the picture `name` begins with these images."""
    (rows,) = images_in((paths.metrics / f"{name}.png").read_bytes())
    return np.array_equal(rows[0], images)


def distances(paths: Paths) -> dict[str, float]:
    with (paths.metrics / "editing.csv").open() as file:
        return {row["change"]: float(row["distance"]) for row in csv.DictReader(file)}


def test_held_out_images_are_changed_where_they_may_be_shown(tree: Tree, tmp_path: Path) -> None:
    paths = Paths("demo", "sprites")
    heldout = np.random.default_rng(3).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "heldout.npy", heldout)
    facts = paths.facts("heldout.json", "preprocess") | {"sha256": sha256_of(tmp_path / "heldout.npy")}
    write_json(paths.data / "heldout.json", facts)
    (tmp_path / "heldout.npy").rename(paths.work / f"heldout-images-{facts['sha256'][:16]}.npy")
    editing.main(paths)
    for name in ("inpainting", "edits", "reconstruction"):
        assert first_row(paths, name, heldout[:4]), name
    found = distances(paths)
    for hole in ("middle", "right half"):
        assert {f"rim of {hole} drawn once", f"rim of {hole} drawn 2 times"} <= found.keys()
    assert {"edit of strength 0.5", "reconstruction, DDIM 4", "reconstruction, DDIM 1"} <= found.keys()
    assert len(found) == 7
    before = {name: (paths.metrics / f"{name}.png").read_bytes() for name in PICTURES}
    editing.main(paths)
    assert before == {name: (paths.metrics / f"{name}.png").read_bytes() for name in PICTURES}, "a second run draws the same"


def test_licensed_images_are_neither_read_nor_shown(tree: Tree) -> None:
    """None are there to be read; the model's own stand in."""
    paths = Paths("demo", "celeba")
    assert not paths.facts("manifest.json", "download")["shareable"]
    assert not list(paths.work.glob("heldout-*"))
    editing.main(paths)
    drawn = editing.load(paths.ema, "cpu").sample(4, "ddpm 4", 0)
    for name in ("inpainting", "edits", "reconstruction"):
        assert first_row(paths, name, drawn), name


def test_what_is_known_of_an_image_stays_and_the_hole_does_not(tree: Tree) -> None:
    model = editing.load(Paths("demo", "celeba").ema, "cpu")
    images = np.random.default_rng(4).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    settings = editing.EditingFigure(seed=0, steps=4, times=2, jump=2, strengths=[0.1, 1.0])
    editor = editing.Editor(model, settings, editing.sampler_of("ddpm 4"), images, "given")
    rows, _ = editor.inpainting()
    drawn = ["drawn once", "drawn\n2 times"]
    assert [label for label, _ in rows] == ["given", "without\nmiddle", *drawn, "without\nright half", *drawn]
    for _, filled in rows[2:4]:
        changed = (filled != images).any((0, 3))
        assert changed[4:12, 4:12].all()
        assert not changed[:4].any()
        assert not changed[12:].any()
    assert np.array_equal(rows[5][1][:, :, :8], images[:, :, :8])
    assert len(editor.interpolation()) == 1, "of three images one pair"
    weak, strong = editor.edits()[1].values()
    assert weak < strong


def test_a_single_image_is_mixed_with_itself(tree: Tree) -> None:
    model = editing.load(Paths("demo", "celeba").ema, "cpu")
    settings = editing.EditingFigure(seed=0, steps=4, times=2, jump=2, strengths=[1.0])
    images = np.random.default_rng(4).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    (row,) = editing.Editor(model, settings, editing.sampler_of("ddpm 4"), images, "given").interpolation()
    assert row[1].shape == images.shape
