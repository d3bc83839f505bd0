"""The diffusion process: noising, the conversions between eps, x0 and v, and the training loss.

All images are float (B, C, H, W) in [-1, 1]; t is int64 (B,) in 1..T. Tables are float64 and cast at look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ddpm.schedule import NoiseSchedule

Prediction = Literal["eps", "x0", "v"]
Weighting = Literal["plain", "min_snr"]
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x_t, t, context) -> what `Prediction` names

MIN_SNR_GAMMA = 5.0  # the paper's choice


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


def loss_weight(schedule: NoiseSchedule, prediction: Prediction, weighting: Weighting, t: Tensor) -> Tensor:
    """The weight of each image's loss at t (B,), float64 (B,).

    "min_snr": min(SNR, MIN_SNR_GAMMA) on the error of x0, as the prediction's own error counts it; SNR is
    alpha_bar / (1 - alpha_bar). Hang et al. 2023 (arXiv 2303.09556), section 3.4, with v's weight from section 3.5.
    """
    if weighting == "plain":
        return torch.ones_like(t, dtype=torch.float64)
    alpha_bar = schedule.alpha_bar_at(t, t)
    snr = alpha_bar / (1 - alpha_bar)
    # The error of x0 is that of eps times 1 / SNR, and that of v times 1 / (SNR + 1): equation 4 of DDPM, v's definition.
    per_x0 = {"eps": 1 / snr, "x0": torch.ones_like(snr), "v": 1 / (snr + 1)}[prediction]
    return snr.clamp(max=MIN_SNR_GAMMA) * per_x0


def training_loss(
    network: Network,
    schedule: NoiseSchedule,
    prediction: Prediction,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    context: Tensor | None = None,
    weighting: Weighting = "plain",
) -> Tensor:
    """Weighted mean squared error of the network's target for each image, (B,) in float32.

    With the "plain" weight and prediction "eps" this is L_simple, equation 14 of DDPM. `context`: float (B, context_dim).
    """
    x_t = q_sample(schedule, x0, t, eps)
    target = {"eps": lambda: eps, "x0": lambda: x0, "v": lambda: v_target(schedule, x0, t, eps)}[prediction]()
    error = (network(x_t, t, context).float() - target).square().flatten(1).mean(1)
    return error if weighting == "plain" else error * loss_weight(schedule, prediction, weighting, t).float()


class Denoiser:
    """A network whose prediction is resolved: maps (x_t, t) to x0_hat, clipped to [-1, 1].

    Clipping matters with the cosine schedule: near t = T an eps-network's error is multiplied by 1 / sqrt(alpha_bar).
    Samplers derive eps_hat again from the clipped x0_hat, so that the two always add up to x_t.

    With a `context` (B, context_dim), `guidance` w is classifier-free (Ho and Salimans 2022, arXiv 2207.12598, equation 6,
    whose scale is w - 1): the unconditional estimate plus w times the way from it to the conditional one. w = 1 is
    the conditional network, w = 0 the unconditional one; every other w takes both, in one call of twice the images.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        prediction: Prediction,
        context: Tensor | None = None,
        guidance: float = 1.0,
    ) -> None:
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.context = None if guidance == 0 else context
        self.guidance = guidance

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        output = self._guided(x_t, t).to(x_t.dtype)
        if self.prediction == "x0":
            return output.clamp(-1, 1)
        to_x0 = eps_to_x0 if self.prediction == "eps" else v_to_x0
        return to_x0(self.schedule, x_t, t, output).clamp(-1, 1)

    def _guided(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self.context is None or self.guidance == 1:
            return self.network(x_t, t, self.context)
        both = torch.cat([self.context, torch.zeros_like(self.context)])  # zeros: no context, as in training
        conditional, unconditional = self.network(torch.cat([x_t, x_t]), torch.cat([t, t]), both).float().chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)
