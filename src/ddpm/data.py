"""Batches of images for training: which images, and in which order, depends only on (seed, step)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ddpm.seeds import derive_seed

_ORDER, _DRAWS = 1, 2  # names of the two random streams of a training


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, _ORDER, epoch))
    return torch.randperm(count, generator=generator).to(device)


def batch_indices(count: int, batch_size: int, seed: int, step: int, device: torch.device) -> Tensor:
    """Image numbers of step 0, 1, ...: int64 (batch_size,), on `device`. Each epoch shows every image once, in its own order.

    The order is drawn on the CPU, so that it is the same everywhere, and put on `device` once an epoch.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = range(positions[0] // count, positions[-1] // count + 1)
    order = torch.cat([_epoch_order(count, seed, epoch, device) for epoch in epochs])
    start = positions[0] - epochs[0] * count
    return order[start : start + batch_size]


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The generator of all that step 0, 1, ... draws (timesteps, noise, flips), on `device`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, _DRAWS, step) & (2**63 - 1))


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) in 0..255 -> float32 (B, C, H, W) in [-1, 1], in channels_last memory order."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def load_images(array: np.ndarray, device: torch.device) -> Tensor:
    """The packed uint8 (N, H, W, C) array as a tensor: mapped from disk on the CPU, copied to a GPU."""
    # torch wants a writable buffer to share memory with; a copy-on-write map is one, and nothing writes to it.
    images = torch.from_numpy(np.load(str(array.filename), mmap_mode="c") if isinstance(array, np.memmap) else array)
    return images if device.type == "cpu" else images.to(device)
