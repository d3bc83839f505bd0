"""The diffusion process: noising, and the conversions between eps, x0 and v.

All images are float (B, C, H, W) in [-1, 1]; t is int64 (B,) in 1..T. Tables are float64 and cast at look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from ddpm.model.schedule import NoiseSchedule

Prediction = Literal["eps", "x0", "v"]
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x_t, t, context) -> what `Prediction` names


def _signal_and_noise(schedule: NoiseSchedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at t, (B, 1, 1, 1), in the dtype of `like`."""
    alpha_bar = schedule.alpha_bar_at(t, like)
    return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)


def q_sample(schedule: NoiseSchedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t ~ q(x_t | x0) for the given noise. DDPM (arXiv 2006.11239), equation 4."""
    signal, noise = _signal_and_noise(schedule, t, x0)
    return signal * x0 + noise * eps


def eps_to_x0(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar): equation 4 of DDPM, solved for x0."""
    signal, noise = _signal_and_noise(schedule, t, x_t)
    return (x_t - noise * eps) / signal


def x0_to_eps(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
    """eps = (x_t - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar): equation 4 of DDPM, solved for eps."""
    signal, noise = _signal_and_noise(schedule, t, x_t)
    return (x_t - signal * x0) / noise


def v_target(schedule: NoiseSchedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0. Salimans and Ho 2022 (arXiv 2202.00512), appendix D."""
    signal, noise = _signal_and_noise(schedule, t, x0)
    return signal * eps - noise * x0


def v_to_x0(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """x0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v. Salimans and Ho 2022, appendix D."""
    signal, noise = _signal_and_noise(schedule, t, x_t)
    return signal * x_t - noise * v
