"""When torch.compile repays its start, and the work that decides it. The decision depends on the settings and the kind of
device alone, never on a measured time, so that a resumed or repeated run computes the same bits."""

from __future__ import annotations

import shutil

import torch
from torch import Tensor, nn

# Floating-point operations from which compiling repays its start. On a CPU (benchmarks/README.md) it saves about a tenth of
# sampling, at a start of about half a minute, and nothing of training; the number for a GPU is an estimate.
_CPU_SAMPLING, _CUDA = 1e14, 1e16


def forward_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Floating-point operations that the layers of the fp32 `network` make of one image of `shape` (C, H, W).

    Those of convolutions and linear layers, a multiplication and an addition being two: nearly all of them. Counted by
    calling it once. (torch's own counter, which sees attention too, takes seconds to import.)
    """
    flops = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops
        positions = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output  # each of which meets weight[0] once
        flops += 2 * positions.numel() * layer.get_parameter("weight")[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    device = next(network.parameters()).device
    with torch.no_grad():
        network(torch.zeros(1, *shape, device=device), torch.ones(1, dtype=torch.int64, device=device))
    for hook in hooks:
        hook.remove()
    return flops


def training_repays(flops: float, device: torch.device) -> bool:
    """Whether to compile a training of `flops` in all, backward passes included."""
    return device.type == "cuda" and flops >= _CUDA


def sampling_repays(flops: float, device: torch.device) -> bool:
    """Whether to compile for sampling of `flops` in all. On a CPU, inductor also needs a C++ compiler."""
    if device.type == "cuda":
        return flops >= _CUDA
    return flops >= _CPU_SAMPLING and any(shutil.which(name) for name in ("c++", "g++", "clang++"))
