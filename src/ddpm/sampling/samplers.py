"""Samplers as generators over a grid of steps, for any denoiser(x_t, t) -> x0_hat.

The table METHODS at the end names them all, with the order of their error; a new one is a function and its line there.
Each starts from `x_t` (B, C, H, W) at step grid[0], which is standard normal noise if grid[0] = T, and works in its
dtype. It yields a SampleState for each grid step, so a progress bar, a strip or an animation costs nothing extra; the
last state's `x_t` is the sample. Randomness is an argument: every image has its own stream of noise, so image i of a
seed is the same image at any batch size. The last step, to t = 0, returns x0_hat, and alpha_bar[T] may be 0.

In the papers on solvers alpha_t = sqrt(alpha_bar), sigma_t = sqrt(1 - alpha_bar), lambda_t = half_log_snr and h is the
length of a step in lambda_t, here infinite from alpha_bar = 0 and to t = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ddpm.model.diffusion import x0_to_eps
from ddpm.model.schedule import NoiseSchedule
from ddpm.sampling.denoiser import Denoise
from ddpm.sampling.noise import NoiseStreams


class SampleState(NamedTuple):
    """Where a sampler stands: `x_t` (B, C, H, W) at step `t`, and the estimate of the image that led there."""

    t: int
    x_t: Tensor
    x0_hat: Tensor


def _ask(denoiser: Denoise, x_t: Tensor, t: int) -> Tensor:
    """x0_hat of a batch that stands at one step."""
    return denoiser(x_t, torch.full((len(x_t),), t, device=x_t.device))


def _posterior_mean(schedule: NoiseSchedule, x_t: Tensor, x0: Tensor, t: int, t_prev: int) -> Tensor:
    """Mean of q(x_t_prev | x_t, x0): equation 7 of DDPM, with the beta of the step t -> t_prev."""
    alpha_bar, alpha_bar_prev = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[t_prev])
    beta = 1 - alpha_bar / alpha_bar_prev
    return alpha_bar_prev**0.5 * beta / (1 - alpha_bar) * x0 + (1 - beta) ** 0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar) * x_t


def ddpm(
    denoiser: Denoise,
    schedule: NoiseSchedule,
    x_t: Tensor,
    grid: Sequence[int],
    noise: NoiseStreams,
    variance: Literal["small", "large"] = "small",
) -> Iterator[SampleState]:
    """Ancestral sampling: algorithm 2 of DDPM (arXiv 2006.11239) over any grid, with its equation 7 for the mean.

    `variance` is one of the two that the paper's section 3.2 names: "small" (beta tilde, the posterior's) or "large"
    (beta). Over a grid coarser than 1..T, beta is that of the respaced process: 1 - alpha_bar[t] / alpha_bar[t_prev].
    """
    for t, t_prev in pairwise(grid):
        x0_hat = _ask(denoiser, x_t, t)
        alpha_bar, alpha_bar_prev = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[t_prev])
        beta = 1 - alpha_bar / alpha_bar_prev
        x_t = _posterior_mean(schedule, x_t, x0_hat, t, t_prev)
        # The last step, to t_prev = 0, adds no noise: beta tilde is 0 there, and "large" follows algorithm 2, line 3.
        sigma = (beta if variance == "large" else beta * (1 - alpha_bar_prev) / (1 - alpha_bar)) ** 0.5
        if t_prev > 0:
            x_t = x_t + sigma * noise.draw()
        yield SampleState(t_prev, x_t, x0_hat)


def ddpm_without_noise(denoiser: Denoise, schedule: NoiseSchedule, x_t: Tensor, grid: Sequence[int]) -> Iterator[SampleState]:
    """WRONG, kept for teaching: `ddpm` that forgets to add noise back after each step.

    The posterior's mean is less spread than the posterior: every step loses variance that only the noise gives back.
    x_t ends up less noisy than the network expects at t, and the samples collapse towards an average image.
    """
    for t, t_prev in pairwise(grid):
        x0_hat = _ask(denoiser, x_t, t)
        x_t = _posterior_mean(schedule, x_t, x0_hat, t, t_prev)
        yield SampleState(t_prev, x_t, x0_hat)


def ddim(
    denoiser: Denoise,
    schedule: NoiseSchedule,
    x_t: Tensor,
    grid: Sequence[int],
    noise: NoiseStreams | None = None,
    eta: float = 0.0,
) -> Iterator[SampleState]:
    """Equation 12 of DDIM (arXiv 2010.02502), with sigma of its equation 16.

    eta = 0 is deterministic given x_t; eta = 1 is `ddpm` with the small variance, and any eta above 0 needs `noise`,
    else ValueError. eps_hat is derived from the denoiser's x0_hat, which may be clipped, so that the pair always adds
    up to x_t.
    """
    if eta > 0 and noise is None:
        raise ValueError(f"eta = {eta} adds noise, but none was given; accepted without noise: eta = 0")
    for t, t_prev in pairwise(grid):
        x0_hat = _ask(denoiser, x_t, t)
        eps_hat = x0_to_eps(schedule, x_t, torch.full((len(x_t),), t, device=x_t.device), x0_hat)
        alpha_bar, alpha_bar_prev = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[t_prev])
        sigma = eta * ((1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)) ** 0.5
        x_t = alpha_bar_prev**0.5 * x0_hat + max(0.0, 1 - alpha_bar_prev - sigma**2) ** 0.5 * eps_hat
        if noise is not None and sigma > 0:
            x_t = x_t + sigma * noise.draw()
        yield SampleState(t_prev, x_t, x0_hat)


def _step(schedule: NoiseSchedule, x_t: Tensor, x0: Tensor, t: int, t_prev: int) -> Tensor:
    """The probability-flow ODE from t to t_prev for a constant x0: DPM-Solver++, equation 9 with k = 1; a step of DDIM.

    The paper's -alpha_t (exp(-h) - 1) is written without h, so that it holds where h is infinite.
    """
    alpha_bar, alpha_bar_prev = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[t_prev])
    ratio = ((1 - alpha_bar_prev) / (1 - alpha_bar)) ** 0.5
    return ratio * x_t + (alpha_bar_prev**0.5 - ratio * alpha_bar**0.5) * x0


def dpm_solver_pp(denoiser: Denoise, schedule: NoiseSchedule, x_t: Tensor, grid: Sequence[int]) -> Iterator[SampleState]:
    """DPM-Solver++(2M), algorithm 2 of arXiv 2211.01095: x0_hat goes on as the straight line through the last two.

    Steps of infinite h, that is the last and one from alpha_bar = 0, are of first order, and so is the first.
    """
    x0_before, h_before = x_t, math.inf  # no step yet: an infinite one leaves x0_before no weight
    for t, t_prev in pairwise(grid):
        x0_hat = _ask(denoiser, x_t, t)
        h = float(schedule.half_log_snr[t_prev] - schedule.half_log_snr[t])
        ratio = h / h_before if math.isfinite(h) else 0.0  # 1 / r in the paper
        x_t = _step(schedule, x_t, x0_hat + ratio / 2 * (x0_hat - x0_before), t, t_prev)
        x0_before, h_before = x0_hat, h
        yield SampleState(t_prev, x_t, x0_hat)


def unipc(denoiser: Denoise, schedule: NoiseSchedule, x_t: Tensor, grid: Sequence[int]) -> Iterator[SampleState]:
    """UniPC-2, algorithms 1 and 2 of arXiv 2302.04867 for data prediction, with B(h) = B_2(h) = exp(-h) - 1.

    The predictor UniP-2 is DPM-Solver++(2M). The corrector UniC-2 does the step to t again once x0_hat at t is known,
    from the network call that the next step needs anyway: a state's x_t is the predictor's, which the network is asked
    about, and the next step starts from the corrected one. First order is where `dpm_solver_pp` has it.
    """
    t_before, h_before, ratio = grid[0], math.inf, 0.0  # no step yet, as above
    x_before = x0_before = d_1 = x_t
    for t, t_prev in pairwise(grid):
        x0_hat = _ask(denoiser, x_t, t)
        if math.isfinite(h_before):
            rho_1, rho_2 = _corrector_weights(h_before, ratio)
            x_t = _step(schedule, x_before, x0_before + rho_1 * d_1 + rho_2 * (x0_hat - x0_before), t_before, t)
        h = float(schedule.half_log_snr[t_prev] - schedule.half_log_snr[t])
        ratio = h / h_before if math.isfinite(h) else 0.0  # -1 / r_1 in the paper
        d_1 = ratio * (x0_hat - x0_before)  # D_1 / r_1 in the paper
        t_before, x_before, x0_before, h_before = t, x_t, x0_hat, h
        x_t = _step(schedule, x_t, x0_hat + d_1 / 2, t, t_prev)
        yield SampleState(t_prev, x_t, x0_hat)


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """UniC's a_1 and a_2, by which R_2(h) a B(h) = phi_2(h), for r_1 = -1 / ratio and r_2 = 1; UniC-1's if ratio is 0.

    With them x0_hat is the parabola through its last three values, and the ODE is solved for that exactly.
    """
    if ratio == 0:
        return 0.0, 0.5
    big_b = math.expm1(-h)
    phi_1 = -big_b / h - 1
    phi_2 = -2 * phi_1 / h - 1
    a_1 = (phi_1 - phi_2) / big_b * ratio / (1 + ratio)
    return a_1, phi_1 / big_b - a_1


HEUN_LIMIT = 4  # the longest step that is corrected, as sigma_bar / sigma_bar_prev; EDM's own grid of 18 steps stays below


def heun(denoiser: Denoise, schedule: NoiseSchedule, x_t: Tensor, grid: Sequence[int]) -> Iterator[SampleState]:
    """Heun's method on the probability-flow ODE: algorithm 1 of EDM (arXiv 2206.00364) without churn.

    In its variables, x_bar = x_t / sqrt(alpha_bar) and sigma_bar = sqrt((1 - alpha_bar) / alpha_bar), the ODE is
    d x_bar / d sigma_bar = (x_bar - x0_hat) / sigma_bar = eps_hat. A step asks the network twice, but for steps that
    stay Euler's: the last one, as in the paper, and any over which sigma_bar falls by more than HEUN_LIMIT times. The
    correction weighs errors of x0_hat by up to half that ratio, which is 1600 in the first of 20 even steps of the
    cosine schedule, and infinite from alpha_bar = 0.
    """
    for t, t_prev in pairwise(grid):
        x0_hat = _ask(denoiser, x_t, t)
        x_prev = _step(schedule, x_t, x0_hat, t, t_prev)  # Euler's step in x_bar
        sigma_bar, sigma_bar_prev = (math.exp(-float(schedule.half_log_snr[step])) for step in (t, t_prev))
        if sigma_bar <= HEUN_LIMIT * sigma_bar_prev:
            signal, signal_prev = (float(schedule.alpha_bar[step]) ** 0.5 for step in (t, t_prev))
            d = (x_t / signal - x0_hat) / sigma_bar
            d_prev = (x_prev / signal_prev - _ask(denoiser, x_prev, t_prev)) / sigma_bar_prev
            x_prev = signal_prev * (x_t / signal + (sigma_bar_prev - sigma_bar) * (d + d_prev) / 2)
        x_t = x_prev
        yield SampleState(t_prev, x_t, x0_hat)


class Method(NamedTuple):
    """A sampler as people name it."""

    label: str  # in figures and tables
    run: Callable[..., Iterator[SampleState]]  # (denoiser, schedule, x_t, grid, and what `options` name)
    order: int  # of its error in the step's length, on the ODE or, for ddpm, the SDE; 0 = it converges to neither
    paper: str
    calls: int = 1  # network calls a step, at most
    options: tuple[str, ...] = ()  # what else `run` takes: noise, and the settings variance and eta


METHODS: dict[str, Method] = {
    "ddpm": Method("DDPM", ddpm, 1, "Ho et al. 2020, arXiv 2006.11239", options=("noise", "variance")),
    "ddim": Method("DDIM", ddim, 1, "Song et al. 2020, arXiv 2010.02502", options=("noise", "eta")),
    "dpm_solver_pp": Method("DPM-Solver++", dpm_solver_pp, 2, "Lu et al. 2022, arXiv 2211.01095"),
    "unipc": Method("UniPC", unipc, 3, "Zhao et al. 2023, arXiv 2302.04867"),
    "heun": Method("Heun", heun, 2, "Karras et al. 2022, arXiv 2206.00364", calls=2),
    "wrong": Method("Wrong", ddpm_without_noise, 0, "document 004's fault: DDPM that adds no noise back"),
}
