"""The schedules against closed forms and diffusers, and the grids of steps."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.model.schedule import (
    NoiseSchedule,
    ScheduleKind,
    cosine_schedule,
    linear_schedule,
    noise_schedule,
    rescale_zero_terminal_snr,
    sigmoid_schedule,
)
from ddpm.sampling.grid import Spacing, timestep_grid
from ddpm.sampling.samplers import unipc

KINDS: list[ScheduleKind] = ["cosine", "linear", "sigmoid"]
SPACINGS: list[Spacing] = ["uniform", "quadratic", "karras"]


def closed_form(t: int, num_timesteps: int) -> float:
    """Equation 17 of arXiv 2102.09672 in plain floats."""
    return math.cos((t / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2


@pytest.mark.parametrize("num_timesteps", [10, 100, 1000, 4000])
def test_cosine_schedule_is_the_closed_form_where_beta_is_not_clipped(num_timesteps: int) -> None:
    alpha_bar = cosine_schedule(num_timesteps).alpha_bar
    assert alpha_bar.dtype == torch.float64
    assert len(alpha_bar) == num_timesteps + 1
    assert alpha_bar[0] == 1
    for t in range(num_timesteps):
        assert float(alpha_bar[t]) == pytest.approx(closed_form(t, num_timesteps), rel=1e-9)
    # At T the closed form is 0, that is beta = 1; the cap makes it 0.999.
    assert float(alpha_bar[-1]) == pytest.approx(0.001 * closed_form(num_timesteps - 1, num_timesteps), rel=1e-9)


def test_golden_numbers() -> None:
    alpha_bar = cosine_schedule(1000).alpha_bar
    # beta of step 1 as printed by OpenAI's improved-diffusion; the others from equation 17 by hand.
    assert float(1 - alpha_bar[1]) == pytest.approx(4.12842e-05, rel=1e-5)
    assert float(alpha_bar[250]) == pytest.approx(0.847013, rel=1e-6)
    assert float(alpha_bar[500]) == pytest.approx(0.493844, rel=1e-5)
    assert float(alpha_bar[1000]) == pytest.approx(2.42878e-09, rel=1e-5)


@pytest.mark.parametrize("num_timesteps", [2, 8, 1000])
def test_alpha_bar_falls_strictly_and_is_the_product_of_alphas(num_timesteps: int) -> None:
    alpha_bar = cosine_schedule(num_timesteps).alpha_bar.tolist()
    product = 1.0
    for before, after in pairwise(alpha_bar):
        beta = 1 - after / before
        assert 0 < beta <= 0.999 + 1e-12
        product *= 1 - beta
        assert after == pytest.approx(product, rel=1e-9)


def test_s_and_the_cap_are_arguments() -> None:
    assert float(cosine_schedule(100, max_beta=0.5).alpha_bar[-1]) > float(cosine_schedule(100).alpha_bar[-1])
    assert float(cosine_schedule(100, s=0.0).alpha_bar[50]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "alpha_bar",
    [
        torch.tensor([1.0, 0.5]),  # float32
        torch.tensor([1.0], dtype=torch.float64),
        torch.tensor([[1.0, 0.5]], dtype=torch.float64),
        torch.tensor([0.9, 0.5], dtype=torch.float64),
        torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64),
        torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=torch.float64),
        torch.tensor([1.0, 0.5, -1e-9], dtype=torch.float64),
        torch.tensor([1.0, 0.5, math.nan], dtype=torch.float64),
    ],
)
def test_impossible_schedules_are_refused(alpha_bar: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="alpha_bar must"):
        NoiseSchedule(alpha_bar)


def test_linear_schedule_is_the_product_of_its_alphas() -> None:
    alpha_bar = linear_schedule(1000).alpha_bar.tolist()
    product = 1.0
    for t in range(1, 1001):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * (t - 1) / 999)
        assert alpha_bar[t] == pytest.approx(product, rel=1e-10)
    assert alpha_bar[1000] == pytest.approx(4.0358e-05, rel=1e-4), "as printed by DDPM's code"
    assert linear_schedule(10, 0.1, 0.5).alpha_bar[10] == pytest.approx(math.prod(0.9 - 0.4 * i / 9 for i in range(10)))


@pytest.mark.parametrize(("beta_min", "beta_max"), [(0.0, 0.02), (0.02, 1e-4), (1e-4, 1.0), (-0.1, 0.02), (math.nan, 0.02)])
def test_impossible_betas_are_refused(beta_min: float, beta_max: float) -> None:
    with pytest.raises(ValueError, match=rf"beta_max = {beta_max}; accepted: 0 < beta_min <= beta_max < 1"):
        linear_schedule(10, beta_min, beta_max)


@pytest.mark.parametrize("num_timesteps", [10, 1000])
def test_sigmoid_schedule_is_the_closed_form_where_beta_is_not_clipped(num_timesteps: int) -> None:
    alpha_bar = sigmoid_schedule(num_timesteps).alpha_bar.tolist()

    def closed(t: int) -> float:
        low, high = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
        return (high - 1 / (1 + math.exp(3 - 6 * t / num_timesteps))) / (high - low)

    assert alpha_bar[0] == 1
    assert alpha_bar[:-1] == pytest.approx([closed(t) for t in range(num_timesteps)], rel=1e-9)
    assert alpha_bar[num_timesteps // 2] == pytest.approx(0.5), "the sigmoid is odd about its middle"
    assert alpha_bar[-1] == pytest.approx(0.001 * closed(num_timesteps - 1), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_half_log_snr_is_the_ratio_of_signal_and_noise(kind: ScheduleKind) -> None:
    schedule = noise_schedule(kind, 100)
    assert schedule.half_log_snr[0] == math.inf
    for t in range(1, 101):
        signal, noise = math.sqrt(schedule.alpha_bar[t]), math.sqrt(1 - schedule.alpha_bar[t])
        assert float(schedule.half_log_snr[t]) == pytest.approx(math.log(signal / noise), rel=1e-9, abs=1e-9)
    assert rescale_zero_terminal_snr(schedule).half_log_snr[-1] == -math.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_timesteps", [2, 50, 1000])
def test_zero_terminal_snr_shifts_and_scales_the_signal(kind: ScheduleKind, num_timesteps: int) -> None:
    before = noise_schedule(kind, num_timesteps)
    after = rescale_zero_terminal_snr(before)
    assert after.alpha_bar[-1] == 0
    assert float(after.alpha_bar[1]) == pytest.approx(float(before.alpha_bar[1]), rel=1e-14)
    # A straight line maps one signal to the other: all slopes between neighbours have the same ratio.
    slopes = after.alpha_bar[1:].sqrt().diff() / before.alpha_bar[1:].sqrt().diff()
    torch.testing.assert_close(slopes, slopes[:1].expand_as(slopes), rtol=1e-7, atol=0)


def test_one_step_cannot_have_zero_terminal_snr() -> None:
    with pytest.raises(ValueError, match="num_timesteps = 1; zero terminal SNR needs at least 2"):
        rescale_zero_terminal_snr(cosine_schedule(1))


def test_a_schedule_is_picked_by_name() -> None:
    assert torch.equal(noise_schedule("cosine", 30, 0.3, 0.4).alpha_bar, cosine_schedule(30).alpha_bar)
    assert torch.equal(noise_schedule("sigmoid", 30, 0.3, 0.4).alpha_bar, sigmoid_schedule(30).alpha_bar)
    linear = linear_schedule(30, 0.3, 0.4)
    assert torch.equal(noise_schedule("linear", 30, 0.3, 0.4).alpha_bar, linear.alpha_bar)
    rescaled = noise_schedule("linear", 30, 0.3, 0.4, zero_terminal_snr=True)
    assert torch.equal(rescaled.alpha_bar, rescale_zero_terminal_snr(linear).alpha_bar)
    with pytest.raises(ValueError, match="kind = 'quadratic'; accepted: cosine, linear, sigmoid"):
        noise_schedule("quadratic", 30)  # type: ignore[arg-type]


def test_diffusers_has_the_same_schedules() -> None:
    """Float32 there; its "sigmoid" is a sigmoid of beta (GeoDiff), another schedule."""
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    cosine, linear = cosine_schedule(1000).alpha_bar, linear_schedule(1000).alpha_bar
    torch.testing.assert_close(
        schedulers.betas_for_alpha_bar(1000).double(), 1 - cosine[1:] / cosine[:-1], rtol=1e-4, atol=1e-6
    )
    theirs = schedulers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(theirs.alphas_cumprod.double(), linear[1:], rtol=1e-4, atol=0)
    betas = schedulers.rescale_zero_terminal_snr((1 - linear[1:] / linear[:-1]).clone())
    torch.testing.assert_close((1 - betas).cumprod(0), rescale_zero_terminal_snr(noise_schedule("linear", 1000)).alpha_bar[1:])


def check_grid(grid: list[int], start: int, num_steps: int) -> None:
    assert len(grid) == num_steps + 1
    assert (grid[0], grid[-1]) == (start, 0)
    assert all(t > t_prev for t, t_prev in pairwise(grid)), "no repeats"


@pytest.mark.parametrize("num_timesteps", [2, 7, 8, 100, 1000])
def test_the_grid_has_as_many_steps_as_asked_for(num_timesteps: int) -> None:
    schedule = cosine_schedule(num_timesteps)
    for num_steps in {1, 2, 3, 5, 7, 20, 50, 100, 250, 300, 333, 667, 999, 1000}:
        if num_steps > num_timesteps:
            continue
        grid = timestep_grid(schedule, num_steps)
        check_grid(grid, num_timesteps, num_steps)
        assert grid == [round(num_timesteps * i / num_steps) for i in range(num_steps, -1, -1)]
        assert max(t - t_prev for t, t_prev in pairwise(grid)) - num_timesteps / num_steps <= 1, "even"


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", [False, True])
def test_every_grid_falls_strictly_from_any_start(spacing: Spacing, kind: ScheduleKind, zero: bool) -> None:
    for num_timesteps in (2, 7, 200):
        schedule = noise_schedule(kind, num_timesteps, zero_terminal_snr=zero)
        for start in {1, 2, num_timesteps // 2, num_timesteps - 1, num_timesteps}:
            for num_steps in {1, 2, start // 3, start // 2, start - 1, start} & set(range(1, start + 1)):
                check_grid(timestep_grid(schedule, num_steps, spacing, start), start, num_steps)
            assert timestep_grid(schedule, start, spacing, start) == list(range(start, -1, -1))


def test_the_full_grid_visits_every_step() -> None:
    assert timestep_grid(cosine_schedule(1000), 1000) == list(range(1000, -1, -1))
    assert timestep_grid(cosine_schedule(1000), 20) == list(range(1000, -1, -50))


def test_the_quadratic_grid_is_a_parabola() -> None:
    schedule = cosine_schedule(1000)
    assert timestep_grid(schedule, 10, "quadratic") == [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0]
    assert timestep_grid(schedule, 4, "quadratic", start=160) == [160, 90, 40, 10, 0]
    # 100 steps: i^2 / 10 begins 0, 0.1, 0.4, 0.9, 1.6, 2.5, 3.6, 4.9, ...; repeats move up.
    assert timestep_grid(schedule, 100, "quadratic")[-8:] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert timestep_grid(schedule, 100, "quadratic")[:3] == [1000, 980, 960]


def test_the_karras_grid_of_zero_terminal_snr_starts_at_the_last_finite_place() -> None:
    schedule = noise_schedule("linear", 1000, zero_terminal_snr=True)
    cut = NoiseSchedule(schedule.alpha_bar[:-1])
    assert timestep_grid(schedule, 8, "karras") == [1000, *timestep_grid(cut, 8, "karras")[1:]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "num_steps"), [(1000, 10), (1000, 18), (300, 6)])
def test_the_karras_grid_takes_the_noise_levels_of_edm(kind: ScheduleKind, start: int, num_steps: int) -> None:
    """Equation 5 of EDM as it stands there, with sigma_max = 80 or what start has, and sigma_min = what step 1 has."""
    alpha_bar = noise_schedule(kind, 1000).alpha_bar[: start + 1].numpy()
    sigmas = np.sqrt((1 - alpha_bar[1:]) / alpha_bar[1:])
    largest, smallest = min(80.0, sigmas[-1]), sigmas[0]
    places = np.arange(num_steps) / (num_steps - 1)
    wanted = (largest ** (1 / 7) + places * (smallest ** (1 / 7) - largest ** (1 / 7))) ** 7
    nearest = [1 + int(np.abs(np.log(sigmas / sigma)).argmin()) for sigma in wanted]
    assert timestep_grid(noise_schedule(kind, 1000), num_steps, "karras", start) == [start, *nearest[1:], 0]


def test_the_karras_grid_decides_brightness_in_more_than_one_step() -> None:
    """Of pixels that all share one normal value, samples keep its variance; uniform steps lose most of it.

    64 x 64 x 3 pixels of one value: the best denoiser is known, and its mean pixel is seen through much noise.
    """
    size, spread, schedule = 3 * 64 * 64, 0.23, cosine_schedule(1000)

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = float(schedule.alpha_bar[int(t[0])])
        noise = (1 - alpha_bar) / size / alpha_bar  # variance of the mean of x_t / sqrt(alpha_bar) around the value
        mean = x_t.mean(dim=(1, 2, 3), keepdim=True) / alpha_bar**0.5
        return (mean * spread**2 / (spread**2 + noise)).expand_as(x_t)

    x_t = torch.randn(200, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = {}
    for spacing in ("uniform", "karras"):
        *_, last = unipc(denoiser, schedule, x_t, timestep_grid(schedule, 10, spacing))
        kept[spacing] = float(last.x_t.mean(dim=(1, 2, 3)).std()) / spread
    assert kept["karras"] == pytest.approx(1, abs=0.15), "the standard deviation of 200 has an error of 5 %"
    assert kept["uniform"] < 0.5


@pytest.mark.parametrize("num_steps", [0, -1, 11])
def test_the_grid_refuses_impossible_numbers_of_steps(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps = {num_steps}; accepted: 1 to num_timesteps = 10"):
        timestep_grid(cosine_schedule(10), num_steps)


def test_the_grid_refuses_other_starts_and_spacings() -> None:
    schedule = cosine_schedule(10)
    for start in (0, 11):
        with pytest.raises(ValueError, match=f"start = {start}; accepted: 1 to num_timesteps = 10"):
            timestep_grid(schedule, 1, start=start)
    with pytest.raises(ValueError, match="num_steps = 6; accepted: 1 to start = 5"):
        timestep_grid(schedule, 6, start=5)
    with pytest.raises(ValueError, match="spacing = 'cubic'; accepted: uniform, quadratic, karras"):
        timestep_grid(schedule, 5, "cubic")  # type: ignore[arg-type]
