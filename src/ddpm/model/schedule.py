"""The noise schedules.

Notation, used everywhere (code = paper):

| code                    | meaning                                                  | elsewhere                               |
|-------------------------|----------------------------------------------------------|-----------------------------------------|
| beta, alpha = 1 - beta  | noise added at step t = 1..T, signal kept                |                                         |
| alpha_bar[t]            | product of alpha up to t: signal power; alpha_bar[0] = 1 | alpha (DDIM paper), alphas_cumprod      |
| sigma                   | standard deviation of the noise a sampling step adds     | sigma_t (DDPM, DDIM)                    |
| half_log_snr[t]         | log sqrt(alpha_bar / (1 - alpha_bar))                    | lambda_t (DPM-Solver, UniPC)            |
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
from typing import Literal

import torch
from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.model.settings import ModelConfig

ScheduleKind = Literal["cosine", "linear", "sigmoid"]


class NoiseSchedule:
    """alpha_bar[0..T] in float64, where t = 0 is the clean image, so that t_prev = 0 needs no special case.

    `half_log_snr` (T+1,) is +inf at t = 0, and -inf at T where alpha_bar[T] = 0 (zero terminal SNR).
    """

    def __init__(self, alpha_bar: Tensor) -> None:
        """`alpha_bar`: float64 (T+1,), from exactly 1 strictly falling to something not below 0, else ValueError."""
        if alpha_bar.dtype != torch.float64 or alpha_bar.ndim != 1 or len(alpha_bar) < 2:
            raise ValueError(f"alpha_bar must be float64 of shape (T+1,), not {alpha_bar.dtype} {tuple(alpha_bar.shape)}")
        if alpha_bar[0] != 1 or not (alpha_bar.diff() < 0).all() or alpha_bar[-1] < 0:
            raise ValueError("alpha_bar must start at 1, fall strictly and never below 0")
        self.alpha_bar = alpha_bar
        self.half_log_snr = torch.logit(alpha_bar) / 2
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


def _from_betas(beta: Tensor) -> NoiseSchedule:
    """The schedule of float64 `beta` (T,) of the steps 1..T."""
    return NoiseSchedule(torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)]))


def _times(num_timesteps: int) -> Tensor:
    """t / T for t = 0..T, float64."""
    return torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps


def cosine_schedule(num_timesteps: int, s: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """Cosine schedule of Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17, with beta clipped at `max_beta`."""
    f = torch.cos((_times(num_timesteps) + s) / (1 + s) * math.pi / 2) ** 2
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def linear_schedule(num_timesteps: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> NoiseSchedule:
    """beta rises evenly from `beta_min` to `beta_max`: DDPM (arXiv 2006.11239), section 4, whose T is 1000.

    Raises ValueError unless 0 < beta_min <= beta_max < 1.
    """
    if not 0 < beta_min <= beta_max < 1:
        raise ValueError(f"beta_min = {beta_min}, beta_max = {beta_max}; accepted: 0 < beta_min <= beta_max < 1")
    return _from_betas(torch.linspace(beta_min, beta_max, num_timesteps, dtype=torch.float64))


def sigmoid_schedule(
    num_timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
) -> NoiseSchedule:
    """Sigmoid schedule of Jabri et al. 2022 (arXiv 2212.11972), written out in Chen 2023 (arXiv 2301.10972), algorithm 1.

    It ends at alpha_bar = 0; beta is clipped at `max_beta`, as for the cosine.
    """
    v = torch.sigmoid((start + (end - start) * _times(num_timesteps)) / tau)
    f = (v[-1] - v) / (v[-1] - v[0])
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def rescale_zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule with alpha_bar[T] exactly 0 and alpha_bar[1] as it was: Lin et al. 2023 (arXiv 2305.08891), algorithm 1.

    At T the network then sees noise only, as it does when sampling. An eps-network cannot be sampled from there: x_T
    = eps says nothing of x0. Raises ValueError for T = 1.
    """
    if schedule.num_timesteps < 2:
        raise ValueError("num_timesteps = 1; zero terminal SNR needs at least 2: alpha_bar[1] stays, alpha_bar[T] becomes 0")
    root = schedule.alpha_bar.sqrt()
    rescaled = root[1] * (root[1:] - root[-1]) / (root[1] - root[-1])
    return NoiseSchedule(torch.cat([root[:1], rescaled**2]))


def noise_schedule(
    kind: ScheduleKind, num_timesteps: int, beta_min: float = 1e-4, beta_max: float = 0.02, zero_terminal_snr: bool = False
) -> NoiseSchedule:
    """The schedule that a config names; `beta_min` and `beta_max` matter to "linear" only. ValueError for another kind."""
    if kind == "linear":
        schedule = linear_schedule(num_timesteps, beta_min, beta_max)
    elif kind == "cosine":
        schedule = cosine_schedule(num_timesteps)
    elif kind == "sigmoid":
        schedule = sigmoid_schedule(num_timesteps)
    else:
        raise ValueError(f"kind = {kind!r}; accepted: cosine, linear, sigmoid")
    return rescale_zero_terminal_snr(schedule) if zero_terminal_snr else schedule


def schedule_of(config: ModelConfig) -> NoiseSchedule:
    """The schedule that the settings `config` name. Raises Fault where float64 cannot tell its steps apart."""
    try:
        return noise_schedule(config.schedule, config.num_timesteps, config.beta_min, config.beta_max, config.zero_terminal_snr)
    except ValueError:
        raise Fault(
            f"train.schedule = {config.schedule!r} with train.num_timesteps = {config.num_timesteps}, train.beta_min = "
            f"{config.beta_min} and train.beta_max = {config.beta_max}: what is left of the image does not fall with every "
            "step; accepted: a beta_min of 1e-12 or more, and fewer steps or a smaller beta_max, so that some of it is left"
        ) from None
