"""Drawings by code: the same from the same generator, no two alike, and every kind unlike the others."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ddpm.data.drawn import sprites
from ddpm.data.drawn.faces import draw_face
from ddpm.data.drawn.kinds import KINDS, draw_kind
from ddpm.data.drawn.sprites import SPRITE_KINDS, draw_sprite

Draw = Callable[[int, random.Random], Image.Image]
BOTH = pytest.mark.parametrize(("draw", "kinds"), [(draw_sprite, len(SPRITE_KINDS)), (draw_kind, len(KINDS))])


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


def test_the_nearest_mean_of_a_kind_of_sprite_tells_the_kind() -> None:
    """Of held-out drawings, without learning; so a network that is told the kind has something to learn from it."""
    kinds = range(len(SPRITE_KINDS))
    means = np.stack([drawn(draw_sprite, kind, "known", 100).mean(0) for kind in kinds])
    held_out = np.stack([drawn(draw_sprite, kind, "held out", 50) for kind in kinds])
    nearest = ((held_out[:, :, None] - means) ** 2).sum(-1).argmin(-1)
    hits = (nearest == np.arange(len(kinds))[:, None]).mean(1)
    assert hits.mean() > 0.95
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
    for kind in range(len(SPRITE_KINDS)):
        pictures = [draw_sprite(kind, random.Random(seed)) for seed in range(50)]
        assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (16, 16))}
        white = np.stack([(np.asarray(picture) == 255).all(-1) for picture in pictures])
        assert 0.2 < white.mean() < 0.8
        assert white[:, 0].all(), "the topmost row is free"


@pytest.mark.parametrize("size", [28, 32])
def test_kinds_are_drawn_at_any_size(size: int) -> None:
    """The same picture: what a smaller one shows is what the other shows, averaged."""
    for kind in range(len(KINDS)):
        picture, large = (draw_kind(kind, random.Random(5), pixels) for pixels in (size, 128))
        assert (picture.mode, picture.size) == ("RGB", (size, size))
        small = np.asarray(large.resize((size, size), Image.Resampling.BOX), int)
        assert np.abs(np.asarray(picture, int) - small).max() <= 1


def test_faces_have_celebas_frame() -> None:
    assert {(draw_face(random.Random(seed)).mode, draw_face(random.Random(seed)).size) for seed in range(5)} == {
        ("RGB", (178, 218))
    }


@pytest.mark.parametrize("draw", [draw_sprite, draw_kind])
def test_an_unknown_kind_is_refused(draw: Draw) -> None:
    with pytest.raises(IndexError):
        draw(10, random.Random(0))
