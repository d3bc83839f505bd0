"""The network as samplers ask it: (x_t, t) -> x0_hat, with guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm.model.diffusion import Network, Prediction, eps_to_x0, v_to_x0
from ddpm.model.schedule import NoiseSchedule

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> x0_hat


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


class Autoguided:
    """Two denoisers as one: away from what a worse one, `guide`, says, (x_t, t) -> x0_hat, clipped to [-1, 1].

    x0_hat = guide + scale (denoiser - guide); scale 1 is `denoiser` alone. A network that is trained less errs as the better
    one does, only more: where the two agree little changes, and where they differ the better one's error shrinks. It needs no
    classes, but twice the calls. Autoguidance: Karras et al. 2024 (arXiv 2406.02507), section 4.
    """

    def __init__(self, denoiser: Denoise, guide: Denoise, scale: float) -> None:
        self.denoiser, self.guide, self.scale = denoiser, guide, scale

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        worse = self.guide(x_t, t)
        return torch.lerp(worse, self.denoiser(x_t, t), self.scale).clamp(-1, 1)
