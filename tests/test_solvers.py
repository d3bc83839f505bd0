"""DPM-Solver++, UniPC and Heun against exact solutions, their measured orders, and diffusers' schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm.model.schedule import NoiseSchedule, cosine_schedule, linear_schedule, noise_schedule
from ddpm.sampling.grid import timestep_grid
from ddpm.sampling.samplers import (
    Denoise,
    NoiseStreams,
    SampleState,
    _corrector_weights,
    ddim,
    ddpm,
    ddpm_without_noise,
    dpm_solver_pp,
    heun,
    unipc,
)

Sampler = Callable[..., Iterable[SampleState]]

SOLVERS: list[Sampler] = [ddim, dpm_solver_pp, heun, unipc]
LINEAR = linear_schedule(1000)
FINE = linear_schedule(20000, 1e-4 / 20, 0.02 / 20)  # the same process in steps short enough to place a grid freely
S2 = 0.25
START = torch.linspace(-1.7, 1.7, 12, dtype=torch.float64).view(6, 1, 1, 2)


def final(states: Iterable[SampleState]) -> Tensor:
    return list(states)[-1].x_t


def some_denoiser(x_t: Tensor, t: Tensor) -> Tensor:
    """Neither linear nor right: an identity holds for any denoiser."""
    return torch.tanh(1.3 * x_t + 0.3 * torch.cos(t.to(x_t.dtype) / 100)[:, None, None, None])


def gaussian(schedule: NoiseSchedule) -> Denoise:
    """The exact denoiser of x0 ~ N(0, S2)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * S2 / (alpha_bar * S2 + 1 - alpha_bar) * x_t

    return denoise


def mixture(schedule: NoiseSchedule) -> Denoise:
    """The exact denoiser of images of two pixels from three Gaussians of variance 0.01: the posterior's mean."""
    means = torch.tensor([[-0.8, 0.1], [0.5, 0.6], [0.3, -0.7]], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1)
        variance = alpha_bar * 0.01 + 1 - alpha_bar
        off = x_t.reshape(-1, 1, 2) - alpha_bar.sqrt() * means
        chosen = torch.softmax(weights.log() - off.square().sum(-1) / (2 * variance[..., 0]), 1)
        posterior_means = means + alpha_bar.sqrt() * 0.01 / variance * off
        return (chosen[..., None] * posterior_means).sum(1).view_as(x_t)

    return denoise


def even_grid(num_steps: int, stop: int = 1000) -> list[int]:
    """Even in half_log_snr from T of FINE to `stop`, where everything is smooth, as near as integers allow."""
    lambdas = FINE.half_log_snr
    wanted = torch.linspace(float(lambdas[-1]), float(lambdas[stop]), num_steps + 1, dtype=torch.float64)
    return [int((lambdas - value).abs().argmin()) for value in wanted]


ORDERS = [(ddim, 0.95, 1.05), (dpm_solver_pp, 1.8, 2.2), (heun, 1.9, 2.1), (unipc, 2.8, 3.3)]


def check_order(solver: Sampler, denoiser: Denoise, exact: Tensor, low: float, high: float) -> None:
    """The slope between 50 and 400 steps: between neighbours it is blurred, as the grid's places are integers."""
    errors = [float((final(solver(denoiser, FINE, START, even_grid(n))) - exact).norm()) for n in (50, 100, 200, 400)]
    assert all(coarse > 1.7 * fine for coarse, fine in pairwise(errors)), errors
    slope = math.log2(errors[0] / errors[-1]) / 3
    assert low < slope < high, (slope, errors)


@pytest.mark.parametrize(("solver", "low", "high"), ORDERS)
def test_solvers_converge_to_the_gaussian_solution_with_their_order(solver: Sampler, low: float, high: float) -> None:
    """x0 ~ N(0, S2): the ODE's solution is x_t = x_T sqrt(var_t / var_T)."""
    before, after = (float(FINE.alpha_bar[t]) * S2 + 1 - float(FINE.alpha_bar[t]) for t in (20000, 1000))
    check_order(solver, gaussian(FINE), START * math.sqrt(after / before), low, high)


@pytest.fixture(scope="module")
def mixture_solution() -> Tensor:
    """By classical Runge-Kutta of order 4 in half_log_snr: d (x_t / sigma) / d lambda = exp(lambda) x0_hat."""
    lambdas = FINE.half_log_snr
    grid = even_grid(1200)
    # alpha_bar at half steps is by formula, not from the table: the denoiser is asked on a schedule made of them.
    ends = lambdas[grid]
    places = torch.stack([ends[:-1], (ends[:-1] + ends[1:]) / 2], 1).flatten()
    places = torch.cat([places, ends[-1:]])
    table = NoiseSchedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(2 * places).flip(0)]))
    denoiser = mixture(table)

    def slope(y: Tensor, i: int) -> Tensor:
        """y = x_t / sigma at places[i], which is step len(places) - i of the table."""
        sigma = math.sqrt(1 - float(torch.sigmoid(2 * places[i])))
        t = torch.full((len(y),), len(places) - i)
        return math.exp(float(places[i])) * denoiser(sigma * y, t)

    y = START / math.sqrt(1 - float(FINE.alpha_bar[-1]))
    for i in range(0, len(places) - 1, 2):
        h = float(places[i + 2] - places[i])
        k1 = slope(y, i)
        k2 = slope(y + h / 2 * k1, i + 1)
        k3 = slope(y + h / 2 * k2, i + 1)
        k4 = slope(y + h * k3, i + 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y * math.sqrt(1 - float(FINE.alpha_bar[grid[-1]]))


@pytest.mark.parametrize(("solver", "low", "high"), ORDERS)
def test_solvers_converge_on_a_mixture_with_their_order(
    solver: Sampler, low: float, high: float, mixture_solution: Tensor
) -> None:
    check_order(solver, mixture(FINE), mixture_solution, low, high)


@pytest.mark.parametrize("kind", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("solver", [dpm_solver_pp, heun, unipc])
@pytest.mark.parametrize("zero", [False, True])
def test_a_higher_order_pays_on_the_schedules_in_use(kind: Any, solver: Sampler, zero: bool) -> None:
    """20 steps to t = 0 are nearer to all 1000 than DDIM's, the clipped end of the cosine included."""
    schedule = noise_schedule(kind, 1000, zero_terminal_snr=zero)
    denoiser, grid = mixture(schedule), timestep_grid(schedule, 20, "quadratic")
    exact = final(dpm_solver_pp(denoiser, schedule, START, list(range(1000, -1, -1))))
    error, of_ddim = (float((final(s(denoiser, schedule, START, grid)) - exact).norm()) for s in (solver, ddim))
    assert error < of_ddim / 2


def test_the_corrector_integrates_parabolas_exactly() -> None:
    """x0_hat = u^k, u in [0, h] the way through the step: its integral against exp(-(h - u)), by parts."""
    for h, h_before in [(0.5, 0.5), (0.3, 0.7), (2.0, 0.4)]:
        a_1, a_2 = _corrector_weights(h, h / h_before)
        total = -math.expm1(-h)
        first = h - total
        for k, integral in ((1, first), (2, h**2 - 2 * first)):
            d_1 = h / h_before * (0 - (-h_before) ** k)
            assert a_1 * d_1 + a_2 * h**k == pytest.approx(integral / total, rel=1e-10)


def test_the_first_corrected_step_is_a_trapezium() -> None:
    """UniC-1 with B_2: the mean of both ends' x0_hat. Nothing before it, so the predictors are those of DDIM and 2M."""
    grid = [500, 400, 300]
    first, second = unipc(some_denoiser, LINEAR, START, grid)
    s0, s1, s2 = (math.sqrt(1 - float(LINEAR.alpha_bar[t])) for t in grid)
    h1, h2 = LINEAR.half_log_snr[grid].diff().tolist()
    m0, m1 = (some_denoiser(x_t, torch.full((6,), t)) for x_t, t in ((START, 500), (first.x_t, 400)))
    corrected = s1 / s0 * START - math.sqrt(1 - s1**2) * math.expm1(-h1) * (m0 + m1) / 2
    expected = s2 / s1 * corrected - math.sqrt(1 - s2**2) * math.expm1(-h2) * (m1 + h2 / h1 / 2 * (m1 - m0))
    torch.testing.assert_close(second.x_t, expected)


def test_a_step_of_infinite_length_is_not_corrected() -> None:
    schedule = noise_schedule("linear", 1000, zero_terminal_snr=True)
    with_corrector, without = (
        [state.x_t for state in solver(some_denoiser, schedule, START, [1000, 700, 500, 300])]
        for solver in (unipc, dpm_solver_pp)
    )
    same = [torch.equal(a, b) for a, b in zip(with_corrector, without, strict=True)]
    assert same == [True, True, False], "corrected is only the step from 700 to 500"


# Every sampler.

EVERY: list[Sampler] = [ddpm, ddpm_without_noise, *SOLVERS, partial(ddim, eta=0.7)]


def run(sampler: Sampler, denoiser: Denoise, schedule: NoiseSchedule, x_t: Tensor, grid: list[int], **more: Any) -> Any:
    """A sampler's states, with noise where it takes any."""
    if sampler is ddpm or isinstance(sampler, partial):
        more = {"noise": NoiseStreams(0, range(len(x_t)), x_t.shape[1:])} | more
    return list(sampler(denoiser, schedule, x_t, grid, **more))


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("num_steps", [1, 2, 9])
@pytest.mark.parametrize("kind", ["cosine", "linear", "sigmoid"])
def test_samplers_start_from_zero_terminal_snr_and_end_on_the_estimate(sampler: Sampler, num_steps: int, kind: Any) -> None:
    schedule = noise_schedule(kind, 1000, zero_terminal_snr=True)
    states = run(sampler, some_denoiser, schedule, START, timestep_grid(schedule, num_steps))
    assert all(torch.isfinite(state.x_t).all() for state in states)
    assert torch.equal(states[-1].x_t, states[-1].x0_hat)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_from_pure_noise_keeps_it_as_eps(solver: Sampler) -> None:
    """Where alpha_bar = 0, x_T is eps."""
    schedule = noise_schedule("linear", 1000, zero_terminal_snr=True)
    state = next(iter(solver(some_denoiser, schedule, START, [1000, 700, 0])))
    alpha_bar = float(schedule.alpha_bar[700])
    x0_hat = some_denoiser(START, torch.full((6,), 1000))
    torch.testing.assert_close(state.x_t, math.sqrt(alpha_bar) * x0_hat + math.sqrt(1 - alpha_bar) * START)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_converge_from_zero_terminal_snr(solver: Sampler) -> None:
    """There var_T = 1, so the Gaussian's solution is x_0 = x_T sqrt(S2)."""
    schedule = noise_schedule("cosine", 1000, zero_terminal_snr=True)
    errors = [
        float((final(solver(gaussian(schedule), schedule, START, timestep_grid(schedule, n, "quadratic"))) - START / 2).norm())
        for n in (5, 20, 80)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.04


@pytest.mark.parametrize("sampler", EVERY)
def test_states_follow_the_grid_from_any_start(sampler: Sampler) -> None:
    asked = []

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        assert t.dtype == torch.int64
        asked.append(t.tolist())
        return some_denoiser(x_t, t)

    grid = timestep_grid(LINEAR, 7, "quadratic", start=600)
    states = run(sampler, denoiser, LINEAR, START, grid)
    assert [state.t for state in states] == grid[1:]
    if sampler is not heun:
        assert asked == [[t] * 6 for t in grid[:-1]]
    # Whatever was before, a state's estimate is the denoiser's for the x_t of the state before.
    for before, state in pairwise([SampleState(600, START, START), *states]):
        assert torch.equal(state.x0_hat, some_denoiser(before.x_t, torch.full((6,), before.t)))


def test_heun_asks_twice_but_over_the_longest_steps() -> None:
    def calls(schedule: NoiseSchedule, grid: list[int]) -> list[int]:
        asked: list[int] = []

        def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
            asked.append(int(t[0]))
            return some_denoiser(x_t, t)

        final(heun(denoiser, schedule, START, grid))
        return asked

    assert calls(LINEAR, [1000, 900, 800, 0]) == [1000, 900, 900, 800, 800]
    assert len(calls(LINEAR, timestep_grid(LINEAR, 20))) == 39
    cosine = cosine_schedule(1000)  # sigma_bar is 20291 at 1000 and 12.6 at 950
    assert calls(cosine, [1000, 950, 900, 0]) == [1000, 950, 900, 900]
    rescaled = noise_schedule("linear", 1000, zero_terminal_snr=True)
    assert calls(rescaled, [1000, 500, 400, 0]) == [1000, 500, 400, 400]


@pytest.mark.parametrize("sampler", EVERY)
def test_an_image_is_the_same_at_any_batch_size(sampler: Sampler) -> None:
    grid = timestep_grid(LINEAR, 6)

    def sample(indices: Iterable[int]) -> Tensor:
        noise = NoiseStreams(30, list(indices), (3, 4, 4))
        return run(sampler, some_denoiser, LINEAR, noise.draw(), grid, **takes_noise(sampler, noise))[-1].x_t

    eight = sample(range(8))
    for size in (1, 3):
        assert torch.equal(torch.cat([sample(range(i, min(i + size, 8))) for i in range(0, 8, size)]), eight)
    assert torch.equal(sample([5, 2]), eight[[5, 2]])


def takes_noise(sampler: Sampler, noise: NoiseStreams) -> dict[str, NoiseStreams]:
    return {"noise": noise} if sampler is ddpm or isinstance(sampler, partial) else {}


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("kind", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("spacing", ["uniform", "karras"])
def test_float32_is_enough_and_kept(sampler: Sampler, kind: Any, spacing: Any) -> None:
    schedule = noise_schedule(kind, 1000)
    grid = timestep_grid(schedule, 20, spacing)
    single = run(sampler, some_denoiser, schedule, START.float(), grid)[-1].x_t
    double = run(sampler, some_denoiser, schedule, START, grid)[-1].x_t
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


# Diffusers. Its index t - 1 is our t, and its tables are float32. Evenly spaced steps counted from T are "trailing".


def diffusers_scheduler(name: str, **options: Any) -> Any:
    schedulers = pytest.importorskip("diffusers").schedulers
    betas = (1 - LINEAR.alpha_bar[1:] / LINEAR.alpha_bar[:-1]).tolist()
    scheduler = getattr(schedulers, name)(
        1000, trained_betas=betas, prediction_type="sample", timestep_spacing="trailing", **options
    )
    scheduler.set_timesteps(20)
    return scheduler


def step_by_step(scheduler: Any, ours: list[SampleState], **options: Any) -> list[float]:
    """The largest difference of x_t after each of the scheduler's steps."""
    x_t, worst = START, []
    assert scheduler.timesteps.tolist() == [t - 1 for t in timestep_grid(LINEAR, 20)[:-1]]
    for t, state in zip(scheduler.timesteps, ours, strict=True):
        x0_hat = some_denoiser(x_t.double(), torch.full((6,), int(t) + 1))
        x_t = scheduler.step(x0_hat, t, x_t, **options).prev_sample
        worst.append(float((x_t - state.x_t).abs().max()))
    return worst


class SharedNoise:
    """The same draws for ours and for diffusers."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)

    def draw(self, *_: Any, **__: Any) -> Tensor:
        return torch.randn(START.shape, generator=self.generator, dtype=torch.float64)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_is_that_of_diffusers(variance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the last step with the large variance: theirs adds noise unless the step starts at their index 0."""
    scheduler = diffusers_scheduler("DDPMScheduler", variance_type=f"fixed_{variance}", clip_sample=False)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", SharedNoise().draw)
    ours = list(ddpm(some_denoiser, LINEAR, START, timestep_grid(LINEAR, 20), SharedNoise(), variance))  # type: ignore[arg-type]
    worst = step_by_step(scheduler, ours)
    assert max(worst[:-1]) < 1e-4
    assert (worst[-1] < 1e-4) == (variance == "small")


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(eta: float) -> None:
    scheduler = diffusers_scheduler("DDIMScheduler", clip_sample=False, set_alpha_to_one=True)
    grid, shared = timestep_grid(LINEAR, 20), SharedNoise()
    ours = list(ddim(some_denoiser, LINEAR, START, grid, SharedNoise(), eta))  # type: ignore[arg-type]
    x_t = START
    for t, state in zip(scheduler.timesteps, ours, strict=True):
        x0_hat = some_denoiser(x_t, torch.full((6,), int(t) + 1))
        x_t = scheduler.step(x0_hat, t, x_t, eta=eta, variance_noise=shared.draw() if eta else None).prev_sample
        assert float((x_t - state.x_t).abs().max()) < 1e-4, state.t


@pytest.mark.parametrize(
    ("solver", "name", "options"),
    [
        (dpm_solver_pp, "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"}),
        (unipc, "UniPCMultistepScheduler", {"predict_x0": True, "solver_type": "bh2"}),
    ],
)
def test_multistep_solvers_are_those_of_diffusers(solver: Sampler, name: str, options: dict[str, Any]) -> None:
    """All steps: its last one, to final_sigmas_type = "zero", is our t = 0, and of first order too."""
    scheduler = diffusers_scheduler(name, solver_order=2, final_sigmas_type="zero", **options)
    worst = step_by_step(scheduler, list(solver(some_denoiser, LINEAR, START, timestep_grid(LINEAR, 20))))
    assert max(worst) < 1e-4, worst
    of_ddim = step_by_step(
        diffusers_scheduler(name, solver_order=2, **options),
        list(ddim(some_denoiser, LINEAR, START, timestep_grid(LINEAR, 20))),
    )
    assert max(of_ddim) > 1e-2, "the comparison can tell methods apart"


def test_heun_is_that_of_diffusers() -> None:
    """Its sample is x_bar = x_t / sqrt(alpha_bar), its step half of ours; on this grid ours shortens no step but the last."""
    scheduler = diffusers_scheduler("HeunDiscreteScheduler")
    ours = {state.t: state.x_t for state in heun(some_denoiser, LINEAR, START, timestep_grid(LINEAR, 20))}
    x_bar, compared = START / float(LINEAR.alpha_bar[-1]) ** 0.5, 0
    for i, t in enumerate(scheduler.timesteps):
        x_t = scheduler.scale_model_input(x_bar, t)
        x_bar = scheduler.step(some_denoiser(x_t, torch.full((6,), int(t) + 1)), t, x_bar).prev_sample
        if i % 2 == 1 or i == 38:  # the second half of a step, or the last step
            t_prev = timestep_grid(LINEAR, 20)[i // 2 + 1]
            theirs = x_bar * float(LINEAR.alpha_bar[t_prev]) ** 0.5
            assert float((theirs - ours[t_prev]).abs().max()) < 1e-4, t_prev
            compared += 1
    assert compared == 20
