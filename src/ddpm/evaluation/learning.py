"""The training of the yardstick, once, on CIFAR-10's training images; resumes after the last whole epoch."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm.base.files import whole_file
from ddpm.base.progress import progress_bar
from ddpm.base.seeds import derive_seed
from ddpm.evaluation.yardstick import YardstickNetwork, as_input
from ddpm.machine.precision import autocast

BATCH_SIZE, SEED = 128, 0
# Epochs and highest learning rate of each cycle, which begins with a warm-up and falls to nothing as a cosine (SGDR, arXiv
# 1608.03983). The second lowered the training loss a little and named no more held-out images right: 87.9 % of them by
# the image alone after either, 88.7 % with the mirror.
CYCLES = ((24, 0.1), (8, 0.05))
WARMUP = 0.15  # share of a cycle
MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.9, 5e-4, 0.1  # SGD with Nesterov's momentum, as usual for CIFAR-10
SHIFT = 4  # pixels that an image is moved at most, each way


def train_yardstick(
    images: np.ndarray, labels: np.ndarray, state_file: Path, cycles: Sequence[tuple[int, float]] = CYCLES
) -> YardstickNetwork:
    """A network trained on `images`, uint8 (N, H, W, 3), and `labels`, (N,) in 0..9; on the CPU, in bf16 where that is fast.

    Order, shifts and mirrors derive from the seed and the epoch, and `state_file` keeps the last whole epoch: interrupted
    and called again, it goes on to the same bits.
    """
    torch.manual_seed(derive_seed(SEED, 0))
    network = YardstickNetwork(norm=True)
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, 0.0, MOMENTUM, nesterov=True)
    steps, epochs = len(images) // BATCH_SIZE, sum(length for length, _ in cycles)
    first = _resume(network, optimiser, state_file)
    pixels, targets = torch.from_numpy(np.array(images)), torch.from_numpy(np.array(labels)).long()
    with progress_bar(total=epochs * steps, initial=first * steps, desc="yardstick", unit="step") as bar:
        for epoch in range(first, epochs):
            network.train()
            generator = torch.Generator().manual_seed(derive_seed(SEED, 1, epoch))
            order = torch.randperm(len(images), generator=generator)
            total = 0.0
            for step in range(steps):
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(epoch + step / steps, cycles)
                rows = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
                batch = as_input(_moved(pixels[rows], generator))
                with autocast("auto", torch.device("cpu")):
                    logits = network.classify(network(batch))
                loss = nn.functional.cross_entropy(logits.float(), targets[rows], label_smoothing=SMOOTHING)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.item()
                bar.update()
            bar.set_postfix(epoch=epoch + 1, loss=f"{total / steps:.3f}")
            state = {"epoch": epoch + 1, "network": network.state_dict(), "optimiser": optimiser.state_dict()}
            with whole_file(state_file) as temporary:
                torch.save(state, temporary)
    return network.eval()


def _resume(network: nn.Module, optimiser: torch.optim.Optimizer, state_file: Path) -> int:
    """Load what `state_file` holds, if it is there and whole; return the number of whole epochs."""
    try:
        state = torch.load(state_file, weights_only=True)
    except (FileNotFoundError, EOFError, RuntimeError, pickle.UnpicklingError):
        return 0
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epoch"])


def learning_rate(epoch: float, cycles: Sequence[tuple[int, float]]) -> float:
    """The rate after `epoch` epochs, fractions allowed."""
    for length, highest in cycles:
        if epoch < length:
            done = epoch / length
            rising = done / WARMUP
            return highest * min(rising, 0.5 + 0.5 * math.cos(math.pi * max(done - WARMUP, 0) / (1 - WARMUP)))
        epoch -= length
    return 0.0


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image, uint8 (N, H, W, C), shifted by up to SHIFT pixels each way, edges reflected, and mirrored or not."""
    count, height, width, _ = images.shape
    planes = images.permute(0, 3, 1, 2).float()
    padded = nn.functional.pad(planes, (SHIFT,) * 4, "reflect").permute(0, 2, 3, 1).to(torch.uint8)
    top, left = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
