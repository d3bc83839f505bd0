"""When torch.compile repays its start, and the work that decides it. The decision depends on the settings and the kind of
device alone, never on a measured time, so that a resumed or repeated run computes the same bits."""

from __future__ import annotations

import shutil

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Floating-point operations from which compiling repays its start. On a CPU (benchmarks/README.md) it saves about a tenth of
# sampling, at a start of about half a minute, and nothing of training; the number for a GPU is an estimate.
_CPU_SAMPLING, _CUDA = 1e14, 1e16


def forward_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Floating-point operations of a call of the fp32 `network` for one image of `shape` (C, H, W).

    A multiplication and an addition count as two. Counted by calling it once.
    """
    device = next(network.parameters()).device
    x_t, t = torch.zeros(1, *shape, device=device), torch.ones(1, dtype=torch.int64, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x_t, t)
    return int(counter.get_total_flops())


def training_repays(flops: float, device: torch.device) -> bool:
    """Whether to compile a training of `flops` in all, backward passes included."""
    return device.type == "cuda" and flops >= _CUDA


def sampling_repays(flops: float, device: torch.device) -> bool:
    """Whether to compile for sampling of `flops` in all. On a CPU, inductor also needs a C++ compiler."""
    if device.type == "cuda":
        return flops >= _CUDA
    return flops >= _CPU_SAMPLING and any(shutil.which(name) for name in ("c++", "g++", "clang++"))
