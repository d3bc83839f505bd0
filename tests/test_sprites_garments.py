"""Drawings by code: the same from the same generator, no two alike, and every kind unlike the others."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ddpm import garments, sprites
from ddpm.garments import draw_garment
from ddpm.sprites import draw_sprite

Draw = Callable[[int, random.Random], Image.Image]
BOTH = pytest.mark.parametrize(("draw", "kinds"), [(draw_sprite, len(sprites.KINDS)), (draw_garment, len(garments.KINDS))])


def drawn(draw: Draw, kind: int, name: str, count: int) -> np.ndarray:
    return np.stack([np.asarray(draw(kind, random.Random(f"{name} {kind} {i}")), np.float64).ravel() for i in range(count)])


@BOTH
def test_the_generator_alone_decides(draw: Draw, kinds: int) -> None:
    for kind in range(kinds):
        first = [draw(kind, random.Random(seed)).tobytes() for seed in range(10)]
        random.seed(1)
        assert [draw(kind, random.Random(seed)).tobytes() for seed in reversed(range(10))] == first[::-1]


@BOTH
def test_hardly_two_drawings_are_equal(draw: Draw, kinds: int) -> None:
    for kind in range(kinds):
        assert len({draw(kind, random.Random(seed)).tobytes() for seed in range(100)}) >= 98


@pytest.mark.parametrize(("draw", "kinds", "least"), [(draw_sprite, 5, 0.95), (draw_garment, 10, 0.9)])
def test_the_nearest_mean_of_a_kind_tells_the_kind(draw: Draw, kinds: int, least: float) -> None:
    """Of held-out drawings, without learning; so a network that is told the kind has something to learn from it."""
    means = np.stack([drawn(draw, kind, "known", 100).mean(0) for kind in range(kinds)])
    held_out = np.stack([drawn(draw, kind, "held out", 50) for kind in range(kinds)])
    nearest = ((held_out[:, :, None] - means) ** 2).sum(-1).argmin(-1)
    hits = (nearest == np.arange(kinds)[:, None]).mean(1)
    assert hits.mean() > least
    assert hits.min() >= 0.8, f"kind {hits.argmin()} is taken for another"


@BOTH
def test_drawings_of_a_kind_vary(draw: Draw, kinds: int) -> None:
    """Within a kind the mean square distance to the mean is a good part of what it is over all kinds."""
    sets = np.stack([drawn(draw, kind, "known", 50) for kind in range(kinds)])
    within = (sets - sets.mean(1, keepdims=True)) ** 2
    overall = ((sets - sets.mean((0, 1))) ** 2).mean()
    assert (within.mean((1, 2)) > 0.1 * overall).all()


def test_sprites_stand_on_white_within_their_frame() -> None:
    letters = {letter for art in (*sprites.MONSTERS, *sprites.FOODS, *sprites.SPELLS) for row in art for letter in row}
    assert letters <= set(".owkshmrgabABSM")
    for kind in range(len(sprites.KINDS)):
        pictures = [draw_sprite(kind, random.Random(seed)) for seed in range(50)]
        assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (16, 16))}
        white = np.stack([(np.asarray(picture) == 255).all(-1) for picture in pictures])
        assert 0.2 < white.mean() < 0.8
        assert white[:, 0].all(), "the topmost row is free"


def test_garments_are_light_on_black() -> None:
    for kind, name in enumerate(garments.KINDS):
        pictures = [draw_garment(kind, random.Random(seed)) for seed in range(50)]
        assert {(picture.mode, picture.size) for picture in pictures} == {("L", (28, 28))}
        values = np.stack([np.asarray(picture) for picture in pictures])
        assert values[:, [0, 0, -1], [0, -1, -1]].max() == 0, f"{name}: black corners"
        assert 0.05 < (values > 30).mean() < 0.7, name
        assert (values.max((1, 2)) > 80).all(), name
        assert len(np.unique(values)) > 100, f"{name}: shades of gray"


@pytest.mark.parametrize("draw", [draw_sprite, draw_garment])
def test_an_unknown_kind_is_refused(draw: Draw) -> None:
    with pytest.raises(IndexError):
        draw(10, random.Random(0))
