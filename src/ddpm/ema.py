"""The exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def ema_decay_at(step: int, decay: float) -> float:
    """The decay of update number `step` (1, 2, ...): min(decay, (1 + step) / (10 + step)).

    The warm-up lets the average forget the random initial weights: without it, early EMA samples are noise.
    """
    return min(decay, (1 + step) / (10 + step))


class EMA:
    """A frozen copy of a network in eval mode, moved towards the live one after each step; the live one is never swapped."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Average in the weights of `network` after optimizer step `step` (1, 2, ...)."""
        averaged: list[Tensor] = list(self.network.parameters())
        live: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averaged, live, 1 - ema_decay_at(step, self.decay))
        for ours, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            ours.copy_(theirs)  # batch norm's statistics, which are averages already
