"""DDPM and DDIM as generators over a grid of steps, for any denoiser(x_t, t) -> x0_hat.

A sampler yields a SampleState for each grid step, so a progress bar, a strip or an animation costs nothing extra; the
last state's `x_t` is the sample. Randomness is an argument: every image has its own stream of noise, so image i of a
seed is the same image at any batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ddpm.diffusion import x0_to_eps
from ddpm.schedule import NoiseSchedule
from ddpm.seeds import derive_seed

Denoise = Callable[[Tensor, Tensor], Tensor]


class SampleState(NamedTuple):
    """Where a sampler stands: `x_t` (B, C, H, W) at step `t`, and the estimate of the image that led there."""

    t: int
    x_t: Tensor
    x0_hat: Tensor


class NoiseStreams:
    """Standard normal noise, one stream an image: stream i of a seed never depends on the other images.

    Drawn on the CPU, so that CPU and GPU start from the same noise.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        """`indices`: the numbers of the images; `shape`: (C, H, W) of one image; `device`: where draws are put."""
        self.shape, self.device = tuple(shape), torch.device(device)
        self.generators = [torch.Generator().manual_seed(derive_seed(seed, index)) for index in indices]

    def draw(self) -> Tensor:
        """The next noise of every stream: float32 (B, C, H, W)."""
        on_gpu = self.device.type == "cuda"
        noise = torch.empty(len(self.generators), *self.shape, pin_memory=on_gpu)
        for row, generator in zip(noise, self.generators, strict=True):
            row.normal_(generator=generator)
        return noise.to(self.device, non_blocking=on_gpu)  # drawn while the GPU still works on the last step


def ddpm(
    denoiser: Denoise,
    schedule: NoiseSchedule,
    noise: NoiseStreams,
    grid: Sequence[int],
    variance: Literal["small", "large"] = "small",
) -> Iterator[SampleState]:
    """Ancestral sampling: algorithm 2 of DDPM (arXiv 2006.11239) over any grid, with its equation 7 for the mean.

    `variance` is one of the two that the paper's section 3.2 names: "small" (beta tilde, the posterior's) or "large"
    (beta). Over a grid coarser than 1..T, beta is that of the respaced process: 1 - alpha_bar[t] / alpha_bar[t_prev].
    """
    x_t = noise.draw()
    for t, t_prev in pairwise(grid):
        x0_hat = denoiser(x_t, torch.full((len(x_t),), t, device=x_t.device))
        alpha_bar, alpha_bar_prev = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[t_prev])
        beta = 1 - alpha_bar / alpha_bar_prev
        mean = (
            alpha_bar_prev**0.5 * beta / (1 - alpha_bar) * x0_hat
            + (1 - beta) ** 0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar) * x_t
        )
        # The last step, to t_prev = 0, adds no noise: beta tilde is 0 there, and "large" follows algorithm 2, line 3.
        sigma = (beta if variance == "large" else beta * (1 - alpha_bar_prev) / (1 - alpha_bar)) ** 0.5
        x_t = mean + sigma * noise.draw() if t_prev > 0 else mean
        yield SampleState(t_prev, x_t, x0_hat)


def ddim(
    denoiser: Denoise,
    schedule: NoiseSchedule,
    noise: NoiseStreams,
    grid: Sequence[int],
    eta: float = 0.0,
) -> Iterator[SampleState]:
    """Equation 12 of DDIM (arXiv 2010.02502), with sigma of its equation 16.

    eta = 0 is deterministic given the first noise; eta = 1 is `ddpm` with the small variance. eps_hat is derived from
    the denoiser's x0_hat, which may be clipped, so that the pair always adds up to x_t.
    """
    x_t = noise.draw()
    for t, t_prev in pairwise(grid):
        steps = torch.full((len(x_t),), t, device=x_t.device)
        x0_hat = denoiser(x_t, steps)
        eps_hat = x0_to_eps(schedule, x_t, steps, x0_hat)
        alpha_bar, alpha_bar_prev = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[t_prev])
        sigma = eta * ((1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)) ** 0.5
        x_t = alpha_bar_prev**0.5 * x0_hat + max(0.0, 1 - alpha_bar_prev - sigma**2) ** 0.5 * eps_hat
        if sigma > 0:
            x_t = x_t + sigma * noise.draw()
        yield SampleState(t_prev, x_t, x0_hat)
