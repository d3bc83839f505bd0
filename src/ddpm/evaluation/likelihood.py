"""Bits per dimension of images by the variational bound, and how much better a network knows its training images.

The bound is that of DDPM (arXiv 2006.11239, equation 5) with the small variance of its section 3.2, beta tilde; another
variance, or a learned one, gives other numbers. Its terms, in nats:

    prior    KL(q(x_T | x0) || N(0, 1)), 0 for zero terminal SNR
    steps    1/2 (SNR[t - 1] - SNR[t]) |x0 - x0_hat(x_t, t)|^2 for t = 2..T, where SNR = alpha_bar / (1 - alpha_bar)
    decoder  -log p(x0 | x_1): a Gaussian about x0_hat(x_1, 1) with variance beta[1], summed over the bin of the value

Both Gaussians of a step have the variance beta tilde, and means that differ only by their x0: their KL is the line above
(VDM, arXiv 2107.00630, section 4) for networks that predict eps, x0 or v alike. x0_hat is clipped, as in sampling.

Even the best denoiser stays above the data's entropy, for the true reverse step is wider than beta tilde. The cosine and
linear schedules leave (t - 1) / t of SNR in their first steps t, at any T: for images that vary by much more than the
noise of those steps, the sum of (1 / (t - 1) - log(t / (t - 1))) / 2 remains, gamma / 2 nats (0.42 bits a dimension).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.model.diffusion import q_sample, v_target
from ddpm.model.pixels import to_float
from ddpm.model.schedule import NoiseSchedule
from ddpm.sampling.denoiser import Denoiser
from ddpm.sampling.drawing import BATCH_SIZE, Model
from ddpm.sampling.noise import NoiseStreams

STRATA = 20  # draws of t an image, beside t = 1
QUARTERS = 4  # of 1..T, by which losses are reported


class Terms(NamedTuple):
    """What is known of each of N images, in float64.

    `prior`, `steps` and `decoder` (N,) are the bound's terms in bits per dimension. `losses` (N, 4) are the mean losses
    of the quarters of t = 1..T: squared errors of what the network predicts, unclipped and unweighted; 0 for a quarter
    that T < 4 leaves empty. `steps` and `losses` are unbiased estimates, independent between images.
    """

    prior: np.ndarray
    steps: np.ndarray
    decoder: np.ndarray
    losses: np.ndarray

    @property
    def bits(self) -> np.ndarray:
        """The bound in bits per dimension, (N,)."""
        return self.prior + self.steps + self.decoder


class Likelihood(NamedTuple):
    """Means over images; `_se` is the standard error of such a mean, from the spread between images."""

    bits_per_dim: float  # of held-out images: the sum of the three terms
    bits_per_dim_se: float
    prior: float
    steps: float
    decoder: float
    gaps: tuple[float, ...]  # held-out minus training loss by quarter of t; above 0 = the training images are known better
    gaps_se: tuple[float, ...]


def denoiser_of(model: Model, labels: np.ndarray | None = None) -> Denoiser:
    """`model` as `image_terms` takes it: without guidance, each image's own class its context. Raises Fault.

    `labels`: the numbers of the images' classes, integers (N,); a model without classes does not look at them. A model
    loaded in fp32 gives the bits of its weights; the rounding of bf16 adds to every error of x0_hat.
    """
    if not model.classes:
        return model.denoiser(guidance=1)
    count = len(model.classes)
    numbers = np.zeros(0, np.int64) if labels is None else np.asarray(labels).astype(np.int64)
    if len(numbers) == 0 or numbers.min() < 0 or numbers.max() >= count:
        given = f"{numbers.min()} to {numbers.max()}" if len(numbers) else "none"
        raise Fault(f"labels of the images: {given}; this model is conditional; accepted: one an image, 0 to {count - 1}")
    return model.denoiser(torch.nn.functional.one_hot(torch.from_numpy(numbers), count).float(), guidance=1)


@torch.no_grad()
def image_terms(
    denoiser: Denoiser, images: Tensor, seed: int = 0, first: int = 0, strata: int = STRATA, batch_size: int = BATCH_SIZE
) -> Terms:
    """The terms of `images`, uint8 (N, H, W, C) on the network's device, which are number `first` and on of their set.

    A denoiser with a context has a row of it for each of these images, and its guidance is left out. Image i takes its t
    and noise from (seed, i): however a set is cut into parts and batches its terms are the same, and the i-th images of
    two sets meet the same t and noise. Each takes at most `strata` + 1 network calls.

    Raises ValueError for no images, strata < 1, and a context of other length.
    """
    if strata < 1 or len(images) == 0:
        raise ValueError(f"strata = {strata}, {len(images)} images; accepted: 1 or more of both")
    if denoiser.context is not None and len(denoiser.context) != len(images):
        raise ValueError(f"a context of {len(denoiser.context)} rows for {len(images)} images; accepted: one an image")
    parts = []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        context = None if denoiser.context is None else denoiser.context[rows]
        parts.append(_batch_terms(denoiser, images[rows], context, seed, first + start, strata))
    return joined(parts)


def joined(parts: Iterable[Terms]) -> Terms:
    """The terms of a set from those of its parts, at least one, in their order."""
    return Terms(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def summary(heldout: Terms, training: Terms) -> Likelihood:
    """The bound of held-out images, and the gap between their losses and those of as many training images.

    Both sets from the same seed and `first`: the chance of t and noise then cancels in the gap. Raises Fault for fewer
    than two images, which have no standard error, and ValueError for sets of different size.
    """
    count = len(heldout.bits)
    if count < 2:
        raise Fault(f"bits per dimension of {count} held-out images; accepted: 2 or more, for the standard error")
    if len(training.bits) != count:
        raise ValueError(f"{count} held-out images and {len(training.bits)} training images; accepted: as many of both")
    bits, bits_se = _mean_and_error(heldout.bits[:, None])
    gaps, gaps_se = _mean_and_error(heldout.losses - training.losses)
    prior, steps, decoder = (float(term.mean()) for term in heldout[:3])
    return Likelihood(bits[0], bits_se[0], prior, steps, decoder, gaps, gaps_se)


def _mean_and_error(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and its standard error of each column of (N, M)."""
    return tuple(values.mean(0).tolist()), tuple((values.std(0, ddof=1) / len(values) ** 0.5).tolist())


def _batch_terms(denoiser: Denoiser, images: Tensor, context: Tensor | None, seed: int, first: int, strata: int) -> Terms:
    """`image_terms` of one batch."""
    schedule = denoiser.schedule
    x0 = to_float(images).contiguous()
    noise = NoiseStreams(seed, range(first, first + len(x0)), x0.shape[1:], x0.device)
    t, weight = draw_steps(schedule, noise.uniform(strata).cpu())
    losses, errors = torch.zeros(2, *t.shape, dtype=torch.float64)
    decoder = losses[:, 0]
    for column in range(t.shape[1]):
        output, target, x0_hat = _ask(denoiser, x0, t[:, column].to(x0.device), noise.draw(), context)
        losses[:, column] = _mean_square(output - target)
        errors[:, column] = _mean_square(x0_hat - x0)
        if column == 0:  # t = 1
            log_probability = decoder_log_probability(schedule, images.permute(0, 3, 1, 2), x0_hat)
            decoder = -log_probability.flatten(1).mean(1).cpu()
    steps = (weight * snr_drops(schedule)[t] / 2 * errors).sum(1)
    bits = [(term / math.log(2)).numpy() for term in (prior_kl(schedule, x0), steps, decoder)]
    return Terms(bits[0], bits[1], bits[2], _by_quarter(schedule, t, weight * losses).numpy())


def _ask(denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The network's output, what it is trained to be, and x0_hat: one call serves the losses and the bound."""
    schedule, prediction = denoiser.schedule, denoiser.prediction
    x_t = q_sample(schedule, x0, t, eps)
    output = denoiser.network(x_t, t, context).float()
    target = {"eps": lambda: eps, "x0": lambda: x0, "v": lambda: v_target(schedule, x0, t, eps)}[prediction]()
    return output, target, Denoiser(lambda *_: output, schedule, prediction)(x_t, t)


def _mean_square(values: Tensor) -> Tensor:
    """Over each image, float64 (B,) on the CPU."""
    return values.double().square().flatten(1).mean(1).cpu()


def _by_quarter(schedule: NoiseSchedule, t: Tensor, losses: Tensor) -> Tensor:
    """The mean over each quarter's steps, (B, 4), from weighted draws (B, K) that add up to its sum on average."""
    quarters = torch.arange(schedule.num_timesteps) * QUARTERS // schedule.num_timesteps  # of t = 1..T
    sums = (torch.nn.functional.one_hot(quarters[t - 1], QUARTERS) * losses[..., None]).sum(1)
    return sums / quarters.bincount(minlength=QUARTERS).clamp(min=1)


def draw_steps(schedule: NoiseSchedule, within: Tensor) -> tuple[Tensor, Tensor]:
    """t, int64, and its weight, float64, both (B, K + 1), by which a sum over the draws estimates the sum over t = 1..T.

    The first is t = 1. The others are one of each of K equally probable parts of 2..T, weighted by 1 / (K p(t)), which makes
    the estimate unbiased; `within`, float64 (B, K) evenly spread in [0, 1), says where in its part each lies. Half of
    p is uniform, for the losses; half follows the growth of log(1 - alpha_bar), as the bound's terms do for standard normal
    data, since most of its sum lies at few small t. From T - 1 strata on, each step is taken once instead.
    """
    last, (rows, strata) = schedule.num_timesteps, within.shape
    if strata >= last - 1:
        return torch.arange(1, last + 1).repeat(rows, 1), torch.ones(rows, last, dtype=torch.float64)
    growth = torch.log1p(-schedule.alpha_bar[1:]).diff()
    p = (1 / (last - 1) + growth / growth.sum()) / 2  # of t = 2..T
    index = torch.searchsorted(p.cumsum(0), (torch.arange(strata) + within) / strata).clamp(max=last - 2)
    one = torch.ones(rows, 1, dtype=torch.float64)
    return torch.cat([one.long(), index + 2], 1), torch.cat([one, 1 / (strata * p[index])], 1)


def snr_drops(schedule: NoiseSchedule) -> Tensor:
    """SNR[t - 1] - SNR[t], float64 (T+1,); 0 at t = 1, whose term is the decoder's, and at t = 0."""
    alpha_bar = schedule.alpha_bar
    drops = torch.zeros_like(alpha_bar)
    drops[2:] = (alpha_bar[1:-1] - alpha_bar[2:]) / ((1 - alpha_bar[1:-1]) * (1 - alpha_bar[2:]))
    return drops


def prior_kl(schedule: NoiseSchedule, x0: Tensor) -> Tensor:
    """KL(q(x_T | x0) || N(0, 1)) in nats per dimension, float64 (B,) on the CPU; exactly 0 for alpha_bar[T] = 0."""
    alpha_bar = float(schedule.alpha_bar[-1])
    return (alpha_bar * (_mean_square(x0) - 1) - math.log1p(-alpha_bar)) / 2


def decoder_log_probability(schedule: NoiseSchedule, values: Tensor, x0_hat: Tensor) -> Tensor:
    """log p(x0 | x_1) of uint8 `values`, float64 of the shape that they and x0_hat in [-1, 1] share.

    Equation 13 of DDPM with sigma^2 = beta[1]: a bin of 2 / 255 about each value, those of 0 and 255 open to the outside.
    """
    deviation = (1 - float(schedule.alpha_bar[1])) ** 0.5
    centre = values.double() / 127.5 - 1 - x0_hat.double()
    low = torch.where(values == 0, -math.inf, (centre - 1 / 255) / deviation)
    high = torch.where(values == 255, math.inf, (centre + 1 / 255) / deviation)
    # Far out on the right both logarithms round to 0: by symmetry it is computed on the left.
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(log_low - log_high))
