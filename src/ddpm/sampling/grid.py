"""The grids of sampling steps."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from ddpm.model.schedule import NoiseSchedule

Spacing = Literal["uniform", "quadratic", "karras"]
RHO, SIGMA_MAX = 7.0, 80.0  # EDM's, of "karras"


def timestep_grid(schedule: NoiseSchedule, num_steps: int, spacing: Spacing = "uniform", start: int | None = None) -> list[int]:
    """S+1 steps falling strictly from `start` (default T) to 0: every pair of neighbours (t, t_prev) is one step.

    "uniform": evenly spaced; S = T gives T, T-1, ..., 0. "quadratic": t proportional to the square of the place, so
    the steps are short near the image: DDIM (arXiv 2010.02502), appendix D.2. "karras": evenly spaced in sigma_bar^(1/7)
    between sigma_bar of 80, or of start if that is less, and of 1, then 0: EDM (arXiv 2206.00364), equation 5. The larger an
    image, the more noise hides its brightness and large shapes, which are decided early: there uniform steps are too long for
    few of them, and samples of one brightness come out. Steps that rounding would repeat move apart.

    Raises ValueError unless 1 <= start <= num_timesteps, 1 <= num_steps <= start and `spacing` is one of these.
    """
    num_timesteps = schedule.num_timesteps
    start = num_timesteps if start is None else start
    if not 1 <= start <= num_timesteps:
        raise ValueError(f"start = {start}; accepted: 1 to num_timesteps = {num_timesteps}")
    if not 1 <= num_steps <= start:
        limit = "num_timesteps" if start == num_timesteps else "start"
        raise ValueError(f"num_steps = {num_steps}; accepted: 1 to {limit} = {start}")
    if spacing == "uniform":
        rising = [round(start * i / num_steps) for i in range(num_steps + 1)]
    elif spacing == "quadratic":
        rising = [round(start * (i / num_steps) ** 2) for i in range(num_steps + 1)]
    elif spacing == "karras":
        rising = _karras(schedule, num_steps, start)
    else:
        raise ValueError(f"spacing = {spacing!r}; accepted: {', '.join(get_args(Spacing))}")
    for i in range(1, num_steps + 1):
        rising[i] = max(rising[i], rising[i - 1] + 1)
    # Moved up from below, then held down from above: the smaller of two strictly rising rows rises strictly too.
    return [min(rising[i], start - (num_steps - i)) for i in range(num_steps, -1, -1)]


def _karras(schedule: NoiseSchedule, num_steps: int, start: int) -> list[int]:
    """0, then the num_steps steps in 1..start whose half_log_snr is nearest to that of "karras"; rising, start is the last."""
    finite = schedule.half_log_snr[1 : start + 1]
    finite = finite[finite.isfinite()]  # zero terminal SNR: up to the last finite one, and T stands in for it
    least, most = (math.exp(-float(end) / RHO) for end in (finite[0], finite[-1]))  # sigma_bar = exp(-half_log_snr)
    wanted = -RHO * torch.linspace(least, min(most, SIGMA_MAX ** (1 / RHO)), num_steps, dtype=torch.float64).log()
    halfway = (finite[1:] + finite[:-1]) / 2
    nearest = 1 + torch.bucketize(-wanted, -halfway)
    return [0, *nearest.tolist()[:-1], start]
