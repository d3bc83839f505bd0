"""What a training step is given: all of it depends only on (seed, step), not on the number of processes that share it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ddpm.base.seeds import derive_seed
from ddpm.machine import distributed
from ddpm.machine.precision import memory_format
from ddpm.model.pixels import to_float
from ddpm.training.settings import TrainConfig

_ORDER, _DRAWS, _DROPOUT = 1, 2, 3  # names of the random streams of a training


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


def dropout_seed(seed: int, step: int) -> int:
    """What torch's own generator starts from in step 0, 1, ... of this process: dropout takes no other."""
    return derive_seed(seed, _DROPOUT, step, distributed.rank())


def draw_batch(
    images: Tensor, labels: Tensor | None, config: TrainConfig, step: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """This process's share of the batch of step 0, 1, ...: x0 float32 (b, C, H, W), t int64 (b,), eps float32 (b, C, H, W)
    and, where there are labels, their context float32 (b, context_dim): 1 in the class's place, all zeros for those that
    context_dropout leaves without one, so that the network learns the unconditional estimate too.

    Every process draws for the whole batch and takes its part, so that the draws do not depend on their number.
    """
    mine = distributed.share(config.batch_size)
    indices = batch_indices(len(images), config.batch_size, config.seed, step, images.device)
    x0 = to_float(images[indices[mine]].to(device))
    generator = step_generator(config.seed, step, device)
    if config.flip:
        mirrored = torch.rand(config.batch_size, 1, 1, 1, generator=generator, device=device) < 0.5
        x0 = torch.where(mirrored[mine], x0.flip(-1), x0)
    t = torch.randint(1, config.num_timesteps + 1, (config.batch_size,), generator=generator, device=device)
    eps = torch.randn(config.batch_size, *x0.shape[1:], generator=generator, device=device)
    context = None
    if labels is not None:
        kept = torch.rand(config.batch_size, 1, generator=generator, device=device) >= config.context_dropout
        context = torch.nn.functional.one_hot(labels[indices].to(device), config.context_dim) * kept.float()
        context = context[mine]
    memory = memory_format(device)
    return x0.contiguous(memory_format=memory), t[mine], eps[mine].contiguous(memory_format=memory), context


def load_images(array: np.ndarray, device: torch.device) -> Tensor:
    """The packed uint8 (N, H, W, C) array as a tensor: mapped from disk on the CPU, copied to a GPU."""
    # torch wants a writable buffer to share memory with; a copy-on-write map is one, and nothing writes to it.
    images = torch.from_numpy(np.load(str(array.filename), mmap_mode="c") if isinstance(array, np.memmap) else array)
    return images if device.type == "cpu" else images.to(device)
