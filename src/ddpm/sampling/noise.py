"""Noise that is a function of numbers: counter-based, so that any machine draws any part of it, in any order, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm.sampling.fast import CapturedCall

_WORD = 0xFFFFFFFF  # 32 bits; words are held in int64, whose products wrap as those of 64 bits without a sign
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_NORMAL, _UNIFORM = 0, 1  # the last word of the counter: what the numbers are for


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four random words of 32 bits for
    each counter of four. int64 tensors whose shapes broadcast, words 0 to 2**32 - 1, in and out."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (product1 >> 32).bitwise_and(_WORD) ^ c1 ^ k0, product1.bitwise_and(_WORD)
        c2, c3 = (product0 >> 32).bitwise_and(_WORD) ^ c3 ^ k1, product0.bitwise_and(_WORD)
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


class NoiseStreams:
    """Random numbers, one stream an image: stream i of a seed never depends on the other images, nor on the device.

    Number 4 b + k of draw d of image i of a seed is word k of philox((b, i, d, what for), (seed, 0)), b = 0, 1, ...; normal
    ones are made of pairs of words (Box and Muller 1958). The words are the same everywhere; logarithm and sine differ
    between devices by rounding.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        """`seed` and `indices`, the numbers of the images: 0 to 2**32 - 1; `shape`: (C, H, W) of one image."""
        self.seed, self.shape, self.device = seed, tuple(shape), torch.device(device)
        self.indices = torch.tensor(list(indices), dtype=torch.int64, device=self.device)[:, None]
        self.draws = 0
        self._blocks = torch.arange(-(-math.prod(self.shape) // 4), device=self.device)[None]
        self._captured: CapturedCall | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.indices)

    def draw(self) -> Tensor:
        """The next standard normal noise of every stream: float32 (B, C, H, W)."""
        number = torch.tensor(self.draws, device=self.device)
        self.draws += 1
        if self.device.type != "cuda" or self.draws == 1:
            return self._normal(number)
        # Drawn at every step, as DDPM does: some 150 kernels in one launch.
        self._captured = self._captured or CapturedCall(self._normal)
        return self._captured(number)

    def uniform(self, count: int) -> Tensor:
        """`count` numbers of every stream, evenly spread in [0, 1): float64 (B, count). The same ones at every call."""
        blocks = torch.arange(-(-count // 4), device=self.device)[None]
        words = philox((blocks, self.indices, *self._scalars(0, _UNIFORM)), (self.seed, 0))
        return torch.stack(words, -1).flatten(1)[:, :count].double() * 2**-32

    def _scalars(self, *numbers: int) -> list[Tensor]:
        return [torch.tensor(number, device=self.device) for number in numbers]

    def _normal(self, draw: Tensor) -> Tensor:
        """The noise of draw number `draw`, int64 ()."""
        words = philox((self._blocks, self.indices, draw, torch.zeros_like(draw)), (self.seed, 0))
        first, second = (torch.stack(pair, -1).float() for pair in (words[::2], words[1::2]))
        radius = (-2 * ((first + 1) * 2**-32).log()).sqrt()  # + 1: no logarithm of 0
        angle = second * (2 * math.pi * 2**-32)
        normal = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return normal.flatten(1)[:, : math.prod(self.shape)].reshape(len(self), *self.shape)
