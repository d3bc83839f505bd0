"""What the network is trained to: its target, and how much each step t weighs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ddpm.model.diffusion import Network, Prediction, q_sample, v_target
from ddpm.model.schedule import NoiseSchedule

Weighting = Literal["plain", "min_snr"]

MIN_SNR_GAMMA = 5.0  # the paper's choice


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
