"""What a trained model does besides sampling: encode an image, go between two, fill in a part, start from a sketch.

Every function works with any denoiser(x_t, t) -> x0_hat and any sampler of `ddpm.sampling.samplers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.model.diffusion import q_sample, x0_to_eps
from ddpm.model.schedule import NoiseSchedule
from ddpm.sampling.denoiser import Denoise
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.samplers import SampleState

Walk = Callable[[Tensor, Sequence[int]], Iterator[SampleState]]  # a sampler from x_t over a grid, all else bound


def encode(denoiser: Denoise, schedule: NoiseSchedule, x0: Tensor, grid: Sequence[int]) -> Iterator[SampleState]:
    """DDIM run upwards, from the images `x0` (B, C, H, W) to the noise at grid[0] from which `ddim` makes them again.

    `grid` falls to 0 as from `timestep_grid`. DDIM (arXiv 2010.02502), equation 14 backwards in time, as in its section
    5.4. A step to t uses eps_hat of where it starts, as the network has no t = 0: there it is asked about t = 1. The
    error of the image made again over the same grid falls as 1 / num_steps.
    """
    x_t = x0
    for t, t_next in pairwise(reversed(grid)):
        steps = torch.full((len(x_t),), max(t, 1), device=x_t.device)
        x0_hat = denoiser(x_t, steps)
        eps_hat = x0_to_eps(schedule, x_t, steps, x0_hat)
        alpha_bar, alpha_bar_next = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[t_next])
        signal = (alpha_bar_next / alpha_bar) ** 0.5
        x_t = signal * x_t + ((1 - alpha_bar_next) ** 0.5 - signal * (1 - alpha_bar) ** 0.5) * eps_hat
        yield SampleState(t_next, x_t, x0_hat)


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Spherical interpolation from noise `a` (C, H, W) at weight 0 to `b` at weight 1: (n, C, H, W) for `weights` (n,).

    DDIM, appendix D.5. The angle is that between all elements of a and all of b, so that what lies between two noises
    is as long as noise is; a straight line would be up to sqrt(2) shorter. It is taken where the angle says nothing:
    for nearly parallel or opposite a and b, or zeros. Raises ValueError for a weight outside [0, 1].
    """
    cosine = float((a.double() * b.double()).sum() / (a.double().norm() * b.double().norm()))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    rows = []
    for weight in weights.tolist():
        if not 0 <= weight <= 1:
            raise ValueError(f"weights holds {weight}; accepted: 0 to 1")
        of_a, of_b = 1 - weight, weight
        if math.sin(angle) > 1e-4:
            of_a, of_b = math.sin((1 - weight) * angle) / math.sin(angle), math.sin(weight * angle) / math.sin(angle)
        rows.append(of_a * a + of_b * b)
    return torch.stack(rows)


def inpainting(denoiser: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """A denoiser that keeps `known` where `mask` is 1 and asks `denoiser` for the rest; both broadcast to (B, C, H, W).

    DDNM (arXiv 2212.00490), equation 13, with A a mask: x0_hat has the known part as it is given. Then x_t there follows
    q(x_t | x0) under `ddpm`, any sampler ends on it exactly, and the network sees both parts in all its calls.
    """
    is_known = mask.bool()

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        x0_hat = denoiser(x_t, t)
        return torch.where(is_known, known.to(x0_hat.dtype), x0_hat)

    return denoise


def rim(mask: Tensor, width: int) -> Tensor:
    """What is 0 in `mask` (B, 1, H, W) within `width` pixels, diagonal ones too, of a 1: bool (B, 1, H, W).

    There a filled hole must be as its surroundings say; in the middle of a large one it may be many things.
    """
    near = F.max_pool2d(mask.float(), 2 * width + 1, stride=1, padding=width)
    return (near > 0) & ~mask.bool()


def resampling(grid: Sequence[int], times: int, jump: int) -> list[list[int]]:
    """The walks over `grid`, which falls to 0, by which `resampled` goes: pieces of `jump` steps, each `times` times.

    RePaint (arXiv 2201.09865), algorithm 1 and, for jumps, appendix B. As there, the last step, to 0, is taken once.
    Raises ValueError for fewer than 1.
    """
    for name, value in (("times", times), ("jump", jump)):
        if value < 1:
            raise ValueError(f"{name} = {value}; accepted: 1 or more")
    above = list(grid[:-1])
    pieces = [above[first : first + jump + 1] for first in range(0, len(above) - 1, jump)]
    return [piece for piece in pieces for _ in range(times)] + [[above[-1], grid[-1]]]


def resampled(
    walk: Walk, schedule: NoiseSchedule, x_t: Tensor, pieces: Sequence[Sequence[int]], noise: NoiseStreams
) -> Iterator[SampleState]:
    """`walk` over each of the `pieces`, from `x_t` (B, C, H, W) at pieces[0][0]; before one that starts higher than the last
    ended, x_t is noised up to it.

    What is drawn into a hole at one step can only follow what was around it before. Noised and drawn again it follows what
    is around it now, and a large hole fits its surroundings.
    """
    t = pieces[0][0]
    for piece in pieces:
        if piece[0] != t:
            kept = float(schedule.alpha_bar[piece[0]] / schedule.alpha_bar[t])
            x_t = kept**0.5 * x_t + (1 - kept) ** 0.5 * noise.draw()
        for state in walk(x_t, piece):
            t, x_t = state.t, state.x_t
            yield state


def edit_start(num_timesteps: int, strength: float) -> int:
    """The step t in 1..T from which to edit: a part `strength` of T, in (0, 1], else ValueError. At 1 little is kept."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength = {strength}; accepted: above 0, to 1")
    return max(1, round(num_timesteps * strength))


def noised(schedule: NoiseSchedule, x0: Tensor, t: int, noise: Tensor) -> Tensor:
    """Images or sketches `x0` (B, C, H, W) at step `t`, where a sampler can start: SDEdit (arXiv 2108.01073), section 3."""
    return q_sample(schedule, x0, torch.full((len(x0),), t, device=x0.device), noise)
