"""Batches: every image once an epoch, whatever the batch size; exact conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm.model.pixels import to_float
from ddpm.training.batches import batch_indices, load_images, step_generator

CPU = torch.device("cpu")


def stream(count: int, batch_size: int, seed: int, epochs: int) -> torch.Tensor:
    steps = -(-epochs * count // batch_size)
    batches = [batch_indices(count, batch_size, seed, step, CPU) for step in range(steps)]
    assert all(len(batch) == batch_size for batch in batches)
    return torch.cat(batches)[: epochs * count].view(epochs, count)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 15, 25, 40])
def test_an_epoch_shows_every_image_once(batch_size: int) -> None:
    """Batches that divide the epoch, cross its end, or hold several epochs."""
    epochs = stream(10, batch_size, seed=3, epochs=6)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert len(epochs.unique(dim=0)) == 6, "each epoch has its own order"


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    for batch_size in (4, 10, 25):
        assert torch.equal(stream(10, batch_size, 3, 6), stream(10, 1, 3, 6))


def test_the_order_depends_on_the_seed_and_on_nothing_before() -> None:
    later = batch_indices(10, 4, seed=3, step=7, device=CPU).clone()
    for step in range(30):
        batch_indices(10, 4, seed=step, step=step, device=CPU)
    assert torch.equal(batch_indices(10, 4, seed=3, step=7, device=CPU), later)
    assert not torch.equal(stream(10, 4, 3, 3), stream(10, 4, 4, 3))


def test_a_step_draws_the_same_again() -> None:
    first = torch.randn(5, generator=step_generator(1, 2, CPU))
    assert torch.equal(torch.randn(5, generator=step_generator(1, 2, CPU)), first)
    assert not torch.equal(torch.randn(5, generator=step_generator(2, 1, CPU)), first)


def test_to_float_is_exact() -> None:
    images = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    images[0, 1, 2] = torch.tensor([255, 51, 128])
    floats = to_float(images)
    assert floats.shape == (1, 3, 2, 3)
    assert floats.dtype == torch.float32
    assert floats[0, :, 0, 0].tolist() == [-1, -1, -1]
    assert floats[0, :, 1, 2].tolist() == pytest.approx([1, -0.6, 1 / 255], abs=1e-7)
    assert floats[0, 0, 1, 2] == 1
    assert floats.is_contiguous(memory_format=torch.channels_last)


def test_images_are_mapped_not_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", array)
    before = (tmp_path / "images.npy").read_bytes()
    images = load_images(np.load(tmp_path / "images.npy", mmap_mode="r"), CPU)
    assert torch.equal(images, torch.from_numpy(array))
    images += 1  # even a mistake leaves the file as it is
    assert (tmp_path / "images.npy").read_bytes() == before
    assert torch.equal(load_images(array, CPU), torch.from_numpy(array))
