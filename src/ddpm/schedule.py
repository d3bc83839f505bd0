"""The noise schedule and the grid of sampling steps.

Notation, used everywhere (code = paper):

| code                    | meaning                                                  | elsewhere                               |
|-------------------------|----------------------------------------------------------|-----------------------------------------|
| beta, alpha = 1 - beta  | noise added at step t = 1..T, signal kept                |                                         |
| alpha_bar[t]            | product of alpha up to t: signal power; alpha_bar[0] = 1 | alpha (DDIM paper), alphas_cumprod      |
| sigma                   | standard deviation of the noise a sampling step adds     | sigma_t (DDPM, DDIM)                    |
| x0, x_t, eps            | image, noisy image, standard normal noise                | x_start                                 |
| v                       | sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0             | velocity (Salimans and Ho 2022)         |
| x0_hat, eps_hat         | the network's estimates                                  | pred_original_sample, pred_noise        |
| t, t_prev               | neighbours in the sampling grid, t > t_prev >= 0         | t_next in some code                     |
| num_timesteps (T)       | steps of the training process                            | timesteps                               |
| num_steps (S)           | network calls of a sampler                               | sampling_timesteps, num_inference_steps |
| denoiser(x_t, t)        | any callable that returns x0_hat                         | model, denoise_fn                       |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class NoiseSchedule:
    """alpha_bar[0..T] in float64, where t = 0 is the clean image, so that t_prev = 0 needs no special case."""

    def __init__(self, alpha_bar: Tensor) -> None:
        """`alpha_bar`: float64 (T+1,), from exactly 1 strictly falling to something above 0, else ValueError."""
        if alpha_bar.dtype != torch.float64 or alpha_bar.ndim != 1 or len(alpha_bar) < 2:
            raise ValueError(f"alpha_bar must be float64 of shape (T+1,), not {alpha_bar.dtype} {tuple(alpha_bar.shape)}")
        if alpha_bar[0] != 1 or not (alpha_bar.diff() < 0).all() or alpha_bar[-1] <= 0:
            raise ValueError("alpha_bar must start at 1, fall strictly and stay above 0")
        self.alpha_bar = alpha_bar
        self._copies = {alpha_bar.device: alpha_bar}

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.alpha_bar) - 1

    def alpha_bar_at(self, t: Tensor, like: Tensor) -> Tensor:
        """alpha_bar of integer `t` (B,), as float64 (B, 1, 1, 1) on the device of `like` (B, C, H, W)."""
        # A copy for each device: samplers read single numbers of the CPU's without waiting for a GPU.
        if like.device not in self._copies:
            self._copies[like.device] = self.alpha_bar.to(like.device)
        return self._copies[like.device][t].view(-1, *[1] * (like.ndim - 1))


def cosine_schedule(num_timesteps: int, s: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """Cosine schedule of Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17, with beta clipped at `max_beta`."""
    t = torch.arange(num_timesteps + 1, dtype=torch.float64)
    f = torch.cos((t / num_timesteps + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return NoiseSchedule(torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)]))


def timestep_grid(num_timesteps: int, num_steps: int) -> list[int]:
    """S+1 evenly spaced steps from T down to 0: every pair of neighbours (t, t_prev) is one network call.

    Raises ValueError unless 1 <= num_steps <= num_timesteps. There are no repeats; S = T gives T, T-1, ..., 0.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"num_steps = {num_steps}; accepted: 1 to num_timesteps = {num_timesteps}")
    return [round(num_timesteps * i / num_steps) for i in range(num_steps, -1, -1)]
