"""DDPM and DDIM against closed forms: the posterior, each other, and data whose exact denoiser is known.

The solvers of higher order are in test_solvers.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations, pairwise, product

import pytest
import torch
from torch import Tensor

from ddpm.base.seeds import derive_seed
from ddpm.model.schedule import cosine_schedule
from ddpm.model.unet import build_network
from ddpm.sampling.denoiser import Denoiser
from ddpm.sampling.grid import timestep_grid
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.samplers import SampleState, ddim, ddpm, ddpm_without_noise
from ddpm.training.batches import step_generator
from tiny import randomised, train_config

T = 1000
SCHEDULE = cosine_schedule(T)
ALPHA_BAR = SCHEDULE.alpha_bar.tolist()


class Draws:
    """Noise that a test chooses; counts what is drawn."""

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        self.make, self.count = draw, 0

    def draw(self) -> Tensor:
        self.count += 1
        return self.make(self.count - 1)


def final(states: Iterable[SampleState]) -> Tensor:
    return list(states)[-1].x_t


def random_draws(batch: int = 4, seed: int = 0) -> Draws:
    generator = torch.Generator().manual_seed(seed)
    return Draws(lambda i: torch.randn(batch, 3, 4, 4, generator=generator, dtype=torch.float64))


def random_start(batch: int = 4) -> Tensor:
    return random_draws(batch, seed=1).draw()


def some_denoiser(x_t: Tensor, t: Tensor) -> Tensor:
    """Neither linear nor right: an identity between samplers holds for any denoiser."""
    return torch.tanh(1.3 * x_t + 0.3 * torch.cos(t.to(x_t.dtype) / 100)[:, None, None, None])


def mean_and_sigma(
    sampler: Callable[..., Iterable[SampleState]], t: int, t_prev: int, **options: object
) -> tuple[float, float]:
    """What one step makes of x_t = 0.6 and x0_hat = -0.4: the mean, and the factor of the noise."""

    def step(noise: float) -> float:
        x_t = torch.full((1, 1, 1, 1), 0.6, dtype=torch.float64)
        draws = Draws(lambda i: torch.full_like(x_t, noise))
        return float(final(sampler(lambda x_t, t: torch.full_like(x_t, -0.4), SCHEDULE, x_t, [t, t_prev], draws, **options)))

    return step(0.0), step(1.0) - step(0.0)


def posterior(t: int, t_prev: int, x_t: float, x0: float) -> tuple[float, float]:
    """Mean and variance of q(x_t_prev | x_t, x0), by multiplying the two Gaussians' densities."""
    alpha = ALPHA_BAR[t] / ALPHA_BAR[t_prev]
    prior_mean, prior_precision = math.sqrt(ALPHA_BAR[t_prev]) * x0, 1 / (1 - ALPHA_BAR[t_prev])
    seen_mean, seen_precision = x_t / math.sqrt(alpha), alpha / (1 - alpha)
    precision = prior_precision + seen_precision
    return (prior_precision * prior_mean + seen_precision * seen_mean) / precision, 1 / precision


PAIRS = [(2, 1), (500, 499), (T, T - 1), (1000, 950), (700, 100), (20, 1)]


@pytest.mark.parametrize(("t", "t_prev"), PAIRS)
def test_ddpm_draws_from_the_posterior(t: int, t_prev: int) -> None:
    mean, variance = posterior(t, t_prev, 0.6, -0.4)
    small_mean, small = mean_and_sigma(ddpm, t, t_prev)
    large_mean, large = mean_and_sigma(ddpm, t, t_prev, variance="large")
    assert small_mean == pytest.approx(mean, rel=1e-8)
    assert large_mean == small_mean
    assert small == pytest.approx(math.sqrt(variance), rel=1e-8)
    assert large == pytest.approx(math.sqrt(1 - ALPHA_BAR[t] / ALPHA_BAR[t_prev]), rel=1e-8)


@pytest.mark.parametrize(("t", "t_prev"), PAIRS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step_is_equation_12(t: int, t_prev: int, eta: float) -> None:
    """Whatever eta: x_t_prev given x0 alone has the marginal's mean and variance, which is how DDIM is made."""
    before, after = ALPHA_BAR[t], ALPHA_BAR[t_prev]
    eps_hat = (0.6 + 0.4 * math.sqrt(before)) / math.sqrt(1 - before)
    mean, sigma = mean_and_sigma(ddim, t, t_prev, eta=eta)
    assert sigma == pytest.approx(eta * math.sqrt(posterior(t, t_prev, 0.6, -0.4)[1]), rel=1e-8, abs=1e-15)
    direction = (mean + 0.4 * math.sqrt(after)) / eps_hat
    assert direction**2 + sigma**2 == pytest.approx(1 - after, rel=1e-8)


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_the_last_step_returns_the_estimate_without_noise(sampler: Callable[..., Iterable[SampleState]]) -> None:
    for t in (1, 50):
        mean, sigma = mean_and_sigma(sampler, t, 0)
        assert mean == pytest.approx(-0.4, abs=1e-12)
        assert sigma == 0


@pytest.mark.parametrize("num_steps", [T, 300, 7])
def test_ddim_with_eta_1_is_ddpm_with_the_small_variance(num_steps: int) -> None:
    grid = timestep_grid(SCHEDULE, num_steps)
    states = zip(
        ddpm(some_denoiser, SCHEDULE, random_start(), grid, random_draws()),
        ddim(some_denoiser, SCHEDULE, random_start(), grid, random_draws(), eta=1.0),
        strict=True,
    )
    worst = max(float((a.x_t - b.x_t).abs().max()) for a, b in states)
    assert worst < 1e-9


def test_states_follow_the_grid() -> None:
    grid = timestep_grid(SCHEDULE, 7)
    asked = []

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(t.tolist())
        return some_denoiser(x_t, t)

    for sampler in (ddpm, ddim):
        asked.clear()
        states = list(sampler(denoiser, SCHEDULE, random_start(2), grid, random_draws(2)))
        assert asked == [[t, t] for t in grid[:-1]]
        assert [state.t for state in states] == grid[1:]


def test_noise_is_drawn_only_where_it_is_added() -> None:
    grid = timestep_grid(SCHEDULE, 20)
    for sampler, count in ((ddim, 0), (partial(ddim, eta=0.5), 19), (ddpm, 19)):
        draws = random_draws()
        final(sampler(some_denoiser, SCHEDULE, random_start(), grid, draws))
        assert draws.count == count, "none for the last step"
    with pytest.raises(ValueError, match=r"eta = 0.5 adds noise, but none was given"):
        final(ddim(some_denoiser, SCHEDULE, random_start(), grid, eta=0.5))


# Data x0 ~ N(0, s^2): the best estimate of x0 is linear in x_t, the probability-flow ODE has the solution
# x_0 = x_T sqrt(s^2 / var_T), and a sampler's result is a linear map of its draws.
S2 = 0.25


def marginal_variance(t: int) -> float:
    return ALPHA_BAR[t] * S2 + 1 - ALPHA_BAR[t]


def gaussian_denoiser(x_t: Tensor, t: Tensor) -> Tensor:
    alpha_bar = SCHEDULE.alpha_bar[t].view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * S2 / (alpha_bar * S2 + 1 - alpha_bar) * x_t


def test_ddim_converges_to_the_ode_at_first_order() -> None:
    exact = math.sqrt(S2 / marginal_variance(T))
    errors = []
    for num_steps in (25, 50, 100, 200, 400):
        start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        result = float(final(ddim(gaussian_denoiser, SCHEDULE, start, timestep_grid(SCHEDULE, num_steps))))
        errors.append(abs(result / exact - 1))
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(0.85 < slope < 1.15 for slope in slopes), (errors, slopes)
    assert errors[-1] < 0.01


def sample_variance(num_steps: int, variance: str) -> float:
    """The exact variance of DDPM's samples: image j sees only draw j, so the sum of squares is over all draws."""
    draws = Draws(lambda i: (torch.arange(num_steps) == i).double().view(-1, 1, 1, 1))
    grid = timestep_grid(SCHEDULE, num_steps)
    return float(final(ddpm(gaussian_denoiser, SCHEDULE, draws.draw(), grid, draws, variance)).square().sum())


def test_ddpm_tends_to_the_variance_of_the_data() -> None:
    small = [sample_variance(num_steps, "small") / S2 - 1 for num_steps in (20, 100, 1000)]
    large = [sample_variance(num_steps, "large") / S2 - 1 for num_steps in (20, 100, 1000)]
    for errors in (small, large):
        assert abs(errors[0]) > abs(errors[1]) > abs(errors[2])
        assert abs(errors[2]) < 0.01
    assert small[0] < 0 < large[0], "beta tilde is a lower bound, beta an upper one (DDPM, section 3.2)"


@pytest.mark.parametrize("num_steps", [1, 20, T])
def test_ddpm_without_noise_collapses_to_the_average(num_steps: int) -> None:
    """On Gaussian data it returns E[x0 | x_T] whatever the grid: the mean image, as x_T says next to nothing of x0.

    A step is E[x_t_prev | x_t] = sqrt(alpha_bar / alpha_bar_prev) var_prev / var x_t, and the product telescopes.
    """
    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    grid = timestep_grid(SCHEDULE, num_steps)
    states = list(ddpm_without_noise(gaussian_denoiser, SCHEDULE, start, grid))
    for state in states:
        factor = math.sqrt(ALPHA_BAR[T] / ALPHA_BAR[state.t]) * marginal_variance(state.t) / marginal_variance(T)
        assert float(state.x_t) == pytest.approx(factor, rel=1e-9)
    assert float(states[-1].x_t) ** 2 < 1e-8 * S2, "the variance of the samples; ddpm's is right, see above"


def test_ddpm_without_noise_is_ddpm_whose_noise_is_zero() -> None:
    zeros = Draws(lambda i: torch.zeros(4, 3, 4, 4, dtype=torch.float64))
    grid = timestep_grid(SCHEDULE, 9)
    wrong = list(ddpm_without_noise(some_denoiser, SCHEDULE, random_start(), grid))
    right = list(ddpm(some_denoiser, SCHEDULE, random_start(), grid, zeros))
    assert [state.t for state in wrong] == grid[1:]
    assert all(torch.equal(a.x_t, b.x_t) and torch.equal(a.x0_hat, b.x0_hat) for a, b in zip(wrong, right, strict=True))


# Randomness.


@pytest.mark.parametrize("sampler", [ddpm, ddim, partial(ddim, eta=0.7)])
def test_an_image_of_a_seed_is_the_same_at_any_batch_size(sampler: Callable[..., Iterable[SampleState]]) -> None:
    grid = timestep_grid(SCHEDULE, 5)

    def sample(seed: int, indices: Iterable[int]) -> Tensor:
        noise = NoiseStreams(seed, list(indices), (3, 4, 4))
        return final(sampler(some_denoiser, SCHEDULE, noise.draw(), grid, noise))

    eight = sample(30, range(8))
    for size in (1, 3):
        parts = [sample(30, range(i, min(i + size, 8))) for i in range(0, 8, size)]
        assert torch.equal(torch.cat(parts), eight)
    assert torch.equal(sample(30, [5, 2]), eight[[5, 2]])
    for a, b in combinations([*eight, *sample(31, range(8))], 2):
        assert float((a - b).abs().max()) > 0.1


def test_the_batch_size_does_not_matter_to_the_network_either() -> None:
    config = train_config()
    network = randomised(build_network(config)).eval()
    denoiser = Denoiser(network, cosine_schedule(config.num_timesteps), "v")
    grid = timestep_grid(denoiser.schedule, 4)

    def sample(indices: Iterable[int]) -> Tensor:
        noise = NoiseStreams(0, list(indices), (3, 8, 8))
        return final(ddpm(denoiser, denoiser.schedule, noise.draw(), grid, noise))

    eight = sample(range(8))
    for i in range(8):
        torch.testing.assert_close(sample([i])[0], eight[i], rtol=0, atol=1e-3)


def test_streams_are_standard_normal_and_independent() -> None:
    streams = NoiseStreams(3, range(40), (3, 16, 16))
    rows = torch.stack([streams.draw(), streams.draw()], 1).reshape(80, -1).double()  # (images x draws, 768)
    n = rows.shape[1]
    assert float(rows.mean()) == pytest.approx(0, abs=4 / math.sqrt(80 * n))
    assert float(rows.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / (80 * n)))
    assert float(rows.pow(4).mean()) == pytest.approx(3, abs=4 * math.sqrt(96 / (80 * n)))
    assert float(rows.mean(1).abs().max()) < 5 / math.sqrt(n), "every row by itself"
    correlation = rows @ rows.T / n - torch.eye(80)
    assert float(correlation.fill_diagonal_(0).abs().max()) < 5.5 / math.sqrt(n)


SEEDS = [0, 1, 2, 30, 2**16, 2**16 + 1, 2**31, 2**31 + 30, 2**32 - 1]


def test_every_seed_and_index_has_its_own_noise() -> None:
    """torch's CPU generator keeps 32 bits of a seed: seed and index must be mixed into them."""
    firsts = [NoiseStreams(seed, range(20), (1, 1, 4)).draw().flatten(1) for seed in SEEDS]
    assert len(torch.cat(firsts).unique(dim=0)) == 20 * len(SEEDS)


def test_every_seed_and_step_has_its_own_training_draws() -> None:
    device = torch.device("cpu")
    draws = {
        tuple(torch.rand(4, generator=step_generator(seed, step, device)).tolist())
        for seed, step in product(SEEDS, [*range(20), 2**20])
    }
    assert len(draws) == 21 * len(SEEDS)


def test_seeds_differ_in_the_bits_that_torch_keeps() -> None:
    low = {derive_seed(a, b) & 0xFFFFFFFF for a, b in product(range(60), range(60))}
    assert len(low) == 3600
    assert derive_seed(7, 5) == derive_seed(7, 5)
    assert all(0 <= derive_seed(a, 1) < 2**64 for a in range(9))
