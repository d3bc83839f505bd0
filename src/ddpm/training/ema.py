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
        # Listed once: walking the modules costs more than averaging.
        self._averages: list[Tensor] = list(self.network.parameters())
        self._live: list[Tensor] = list(network.parameters())
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int, usable: Tensor) -> None:
        """Average in the live weights after optimizer step `step` (1, 2, ...).

        `usable`: float (), 1, or 0 after a step that changed nothing: then the average stays as it is. It is not read,
        so that nothing waits for the device.
        """
        targets = list(torch._foreach_mul(self._live, usable))
        torch._foreach_add_(targets, list(torch._foreach_mul(self._averages, 1 - usable)))  # towards itself: no move
        torch._foreach_lerp_(self._averages, targets, 1 - ema_decay_at(step, self.decay))
        for ours, theirs in self._buffers:
            ours.copy_(theirs)  # batch norm's statistics, which are averages already
