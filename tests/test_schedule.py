"""The cosine schedule against its closed form, and the grid of steps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from ddpm.schedule import NoiseSchedule, cosine_schedule, timestep_grid


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
        torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64),
        torch.tensor([1.0, 0.5, math.nan], dtype=torch.float64),
    ],
)
def test_impossible_schedules_are_refused(alpha_bar: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="alpha_bar must"):
        NoiseSchedule(alpha_bar)


@pytest.mark.parametrize("num_timesteps", [2, 7, 8, 100, 1000])
def test_the_grid_has_as_many_steps_as_asked_for(num_timesteps: int) -> None:
    for num_steps in {1, 2, 3, 5, 7, 20, 50, 100, 250, 300, 333, 667, 999, 1000}:
        if num_steps > num_timesteps:
            continue
        grid = timestep_grid(num_timesteps, num_steps)
        assert len(grid) == num_steps + 1
        assert (grid[0], grid[-1]) == (num_timesteps, 0)
        steps = [t - t_prev for t, t_prev in pairwise(grid)]
        assert min(steps) >= 1, "no repeats"
        assert max(steps) - num_timesteps / num_steps <= 1, "even"


def test_the_full_grid_visits_every_step() -> None:
    assert timestep_grid(1000, 1000) == list(range(1000, -1, -1))
    assert timestep_grid(1000, 20) == list(range(1000, -1, -50))


@pytest.mark.parametrize("num_steps", [0, -1, 11])
def test_the_grid_refuses_impossible_numbers_of_steps(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps = {num_steps}; accepted: 1 to num_timesteps = 10"):
        timestep_grid(10, num_steps)
