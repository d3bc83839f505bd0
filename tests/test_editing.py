"""Encoding, interpolation, inpainting and editing from a noisy start, on data whose exact denoiser is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ddpm.editing import edit_start, encode, inpainting, noised, resampled, resampling, rim, slerp
from ddpm.model.schedule import NoiseSchedule, cosine_schedule, noise_schedule
from ddpm.sampling.grid import timestep_grid
from ddpm.sampling.samplers import SampleState, ddim, ddpm, ddpm_without_noise, dpm_solver_pp, heun, unipc

T = 1000
SCHEDULE = cosine_schedule(T)
ALPHA_BAR = SCHEDULE.alpha_bar.tolist()
S2 = 0.25


def gaussian_denoiser(x_t: Tensor, t: Tensor, schedule: NoiseSchedule = SCHEDULE) -> Tensor:
    alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * S2 / (alpha_bar * S2 + 1 - alpha_bar) * x_t


def variance(t: int) -> float:
    return ALPHA_BAR[t] * S2 + 1 - ALPHA_BAR[t]


def final(states: Iterable[SampleState]) -> Tensor:
    return list(states)[-1].x_t


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Draws:
    def __init__(self, make: Callable[[int], Tensor]) -> None:
        self.make, self.count = make, 0

    def draw(self) -> Tensor:
        self.count += 1
        return self.make(self.count - 1)


# Encoding.


@pytest.mark.parametrize("end", [T, 600])
def test_encode_converges_to_the_noise_of_the_ode(end: int) -> None:
    """On N(0, S2) the probability-flow ODE scales: x_t = x_0 sqrt(var_t / S2)."""
    x0, errors = randn(2, 3, 4, 4), []
    for num_steps in (20, 40, 80, 160):
        noise = final(encode(gaussian_denoiser, SCHEDULE, x0, timestep_grid(SCHEDULE, num_steps, start=end)))
        errors.append(float((noise / (x0 * math.sqrt(variance(end) / S2)) - 1).abs().max()))
    assert all(0.8 < math.log2(coarse / fine) < 1.2 for coarse, fine in pairwise(errors)), errors
    assert errors[-1] < 0.02


def test_an_encoded_image_is_made_again_with_an_error_of_first_order() -> None:
    x0, errors = randn(2, 3, 4, 4), []
    for num_steps in (20, 40, 80, 160, 320):
        grid = timestep_grid(SCHEDULE, num_steps)
        again = final(ddim(gaussian_denoiser, SCHEDULE, final(encode(gaussian_denoiser, SCHEDULE, x0, grid)), grid))
        errors.append(float((again / x0 - 1).abs().max()))
    assert all(0.8 < math.log2(coarse / fine) < 1.2 for coarse, fine in pairwise(errors)), errors
    assert errors[-1] < 0.02


def test_encode_walks_the_grid_upwards_and_never_asks_about_0() -> None:
    asked = []

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(t.tolist())
        return gaussian_denoiser(x_t, t)

    states = list(encode(denoiser, SCHEDULE, randn(2, 1, 2, 2), [900, 400, 100, 0]))
    assert asked == [[1, 1], [100, 100], [400, 400]]
    assert [state.t for state in states] == [100, 400, 900]


def test_a_step_of_encode_undoes_a_step_of_ddim_that_saw_the_same_noise() -> None:
    """Equation 13 of DDIM is symmetric for a fixed eps_hat."""
    eps = randn(1, 1, 2, 2, seed=1)

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = SCHEDULE.alpha_bar[t].view(-1, 1, 1, 1)
        return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()

    x0 = randn(1, 1, 2, 2)
    grid = [900, 400, 100, 0]
    noise = final(encode(denoiser, SCHEDULE, x0, grid))
    torch.testing.assert_close(noise, math.sqrt(ALPHA_BAR[900]) * x0 + math.sqrt(1 - ALPHA_BAR[900]) * eps)
    torch.testing.assert_close(final(ddim(denoiser, SCHEDULE, noise, grid)), x0)


def test_encode_reaches_zero_terminal_snr() -> None:
    schedule = noise_schedule("linear", T, zero_terminal_snr=True)
    x0 = randn(2, 1, 2, 2)
    noise = final(encode(lambda x_t, t: gaussian_denoiser(x_t, t, schedule), schedule, x0, timestep_grid(schedule, 500)))
    assert float((noise / (x0 / math.sqrt(S2)) - 1).abs().max()) < 0.02


# Interpolation.


def angle(a: Tensor, b: Tensor) -> float:
    return math.acos(float((a * b).sum() / (a.norm() * b.norm())))


def test_slerp_turns_evenly_and_keeps_the_norm() -> None:
    a, b = randn(3, 4, 4), randn(3, 4, 4, seed=1)
    b = b * a.norm() / b.norm()
    weights = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
    between = slerp(a, b, weights)
    assert between.shape == (6, 3, 4, 4)
    for weight, row in zip(weights.tolist(), between, strict=True):
        assert float(row.norm()) == pytest.approx(float(a.norm()), rel=1e-12)
        if 0 < weight < 1:
            assert angle(a, row) == pytest.approx(weight * angle(a, b), rel=1e-7)
            assert angle(row, b) == pytest.approx((1 - weight) * angle(a, b), rel=1e-7)
    straight = float(((a + b) / 2).norm() / a.norm())
    assert straight < 0.8, "where a straight line would leave the sphere"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_ends_exactly_on_its_ends(dtype: torch.dtype) -> None:
    for seed in range(20):
        a, b = randn(1, 3, 3, seed=seed).to(dtype), 2 * randn(1, 3, 3, seed=seed + 100).to(dtype)
        ends = slerp(a, b, torch.tensor([0.0, 1.0]))
        assert ends.dtype == dtype
        assert torch.equal(ends, torch.stack([a, b]))


def test_slerp_is_straight_where_no_angle_is_defined() -> None:
    a = randn(1, 3, 3)
    weights = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    for b in (a, a * (1 + 1e-9), -a, torch.zeros_like(a)):
        expected = torch.stack([(1 - weight) * a + weight * b for weight in weights])
        torch.testing.assert_close(slerp(a, b, weights), expected)


@pytest.mark.parametrize("weight", [-0.01, 1.01, math.nan])
def test_slerp_refuses_weights_outside_0_to_1(weight: float) -> None:
    with pytest.raises(ValueError, match="accepted: 0 to 1"):
        slerp(randn(1, 2, 2), randn(1, 2, 2, seed=1), torch.tensor([0.5, weight]))


# Inpainting.

KNOWN = randn(3, 4, 4, seed=5).clamp(-1, 1)
MASK = torch.zeros(1, 4, 4)
MASK[:, :, :2] = 1


def some_denoiser(x_t: Tensor, t: Tensor) -> Tensor:
    """Every pixel depends on all of them, as with a network."""
    return torch.tanh(x_t + x_t.mean((1, 2, 3), keepdim=True))


@pytest.mark.parametrize("sampler", [ddpm, ddpm_without_noise, ddim, dpm_solver_pp, heun, unipc])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sampler_ends_on_the_known_part_bit_by_bit(
    sampler: Callable[..., Iterable[SampleState]], zero: bool, dtype: torch.dtype
) -> None:
    schedule = noise_schedule("cosine", T, zero_terminal_snr=zero)
    start = randn(2, 3, 4, 4, seed=9).to(dtype)
    known = KNOWN.to(dtype)
    more = {"noise": Draws(lambda i: randn(2, 3, 4, 4, seed=i).to(dtype))} if sampler is ddpm else {}
    result = final(sampler(inpainting(some_denoiser, known, MASK), schedule, start, timestep_grid(schedule, 12), **more))
    assert result.dtype == dtype
    assert torch.equal(result[..., :2], known[..., :2].expand(2, 3, 4, 2))
    assert float((result[0] - result[1])[..., 2:].abs().min()) > 0, "the rest is sampled"


def test_the_rest_is_asked_of_the_denoiser_with_all_of_x_t() -> None:
    x_t, t = randn(2, 3, 4, 4), torch.tensor([4, 4])
    for mask in (MASK, MASK.bool(), MASK.expand(2, 3, 4, 4)):
        x0_hat = inpainting(some_denoiser, KNOWN, mask)(x_t, t)
        assert torch.equal(x0_hat[..., 2:], some_denoiser(x_t, t)[..., 2:])
        assert torch.equal(x0_hat[..., :2], KNOWN[..., :2].expand(2, 3, 4, 2))


@pytest.mark.parametrize("num_steps", [20, T])
def test_with_ddpm_the_known_part_follows_q(num_steps: int) -> None:
    """q(x_t | x0) is N(sqrt(alpha_bar) x0, 1 - alpha_bar): exact mean and variance, as x_t is linear in x0 and the draws."""
    grid = timestep_grid(SCHEDULE, num_steps)

    def known_pixel(x0: float, start: Tensor, draw: Callable[[int], Tensor]) -> list[SampleState]:
        denoiser = inpainting(some_denoiser, torch.full((1, 1, 1), x0), torch.ones(1, 1, 1))
        return list(ddpm(denoiser, SCHEDULE, start, grid, Draws(draw)))  # type: ignore[arg-type]

    def unit(i: int) -> Tensor:
        return (torch.arange(num_steps) == i).double().view(-1, 1, 1, 1)  # image i sees only draw i

    start = torch.full((1, 1, 1, 1), math.sqrt(ALPHA_BAR[T]) * 0.7, dtype=torch.float64)
    means = known_pixel(0.7, start, lambda i: torch.zeros_like(start))
    parts = known_pixel(0.0, math.sqrt(1 - ALPHA_BAR[T]) * unit(0), lambda i: unit(i + 1))
    for mean, part in zip(means, parts, strict=True):
        assert float(mean.x_t) == pytest.approx(math.sqrt(ALPHA_BAR[mean.t]) * 0.7, rel=1e-6)
        assert float(part.x_t.square().sum()) == pytest.approx(1 - ALPHA_BAR[part.t], rel=1e-9, abs=1e-15)


def test_a_grid_is_cut_into_pieces_that_are_walked_several_times() -> None:
    grid = [9, 7, 6, 4, 2, 0]
    assert resampling(grid, 1, 9) == [[9, 7, 6, 4, 2], [2, 0]]
    assert resampling(grid, 2, 2) == [[9, 7, 6], [9, 7, 6], [6, 4, 2], [6, 4, 2], [2, 0]]
    assert resampling(grid, 2, 3) == [[9, 7, 6, 4]] * 2 + [[4, 2]] * 2 + [[2, 0]]
    assert resampling([5, 0], 3, 1) == [[5, 0]], "the last step is taken once"
    for times, jump, named in ((0, 1, "times = 0"), (1, 0, "jump = 0")):
        with pytest.raises(ValueError, match=f"{named}; accepted: 1 or more"):
            resampling(grid, times, jump)


def test_drawn_once_it_is_the_sampler_itself() -> None:
    start, grid = randn(2, 3, 4, 4, seed=9), timestep_grid(SCHEDULE, 12)
    draws, again = (Draws(lambda i: randn(2, 3, 4, 4, seed=i)) for _ in range(2))
    plain = list(ddpm(some_denoiser, SCHEDULE, start, grid, draws))  # type: ignore[arg-type]
    walk = partial(ddpm, some_denoiser, SCHEDULE, noise=again)  # type: ignore[arg-type]
    pieces = list(resampled(walk, SCHEDULE, start, resampling(grid, 1, 5), again))  # type: ignore[arg-type]
    assert [state.t for state in pieces] == [state.t for state in plain]
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(plain, pieces, strict=True))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("jump", [1, 5, 100])
def test_resampling_keeps_the_distribution(zero: bool, jump: int) -> None:
    """On N(0, S2): each state's variance is that of q, whatever was drawn again; also from alpha_bar = 0."""
    schedule = noise_schedule("cosine", T, zero_terminal_snr=zero)
    grid = timestep_grid(schedule, 200)
    noise = Draws(lambda i: randn(4, 1, 40, 40, seed=i))
    walk = partial(ddpm, lambda x_t, t: gaussian_denoiser(x_t, t, schedule), schedule, noise=noise)  # type: ignore[arg-type]
    states = list(resampled(walk, schedule, noise.draw(), resampling(grid, 3, jump), noise))  # type: ignore[arg-type]
    assert len(states) == 3 * 199 + 1
    for state in states:
        alpha_bar = float(schedule.alpha_bar[state.t])
        expected = alpha_bar * S2 + 1 - alpha_bar
        assert float(state.x_t.var()) == pytest.approx(expected, rel=0.08), state.t


@pytest.mark.parametrize("sampler", [ddpm, ddim, unipc])
def test_resampling_ends_on_the_known_part_bit_by_bit(sampler: Callable[..., Iterator[SampleState]]) -> None:
    noise = Draws(lambda i: randn(2, 3, 4, 4, seed=i))
    walk = partial(sampler, inpainting(some_denoiser, KNOWN, MASK), SCHEDULE, **({"noise": noise} if sampler is ddpm else {}))
    pieces = resampling(timestep_grid(SCHEDULE, 12), 3, 4)
    result = final(resampled(walk, SCHEDULE, noise.draw(), pieces, noise))  # type: ignore[arg-type]
    assert torch.equal(result[..., :2], KNOWN[..., :2].to(result.dtype).expand(2, 3, 4, 2))


def test_resampling_brings_what_is_drawn_in_line_with_what_is_known() -> None:
    """Two pixels that are always equal, one of them known: the other comes nearer to it."""

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        """The mean of two equal unit normals, from what both say: exact for this prior."""
        alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1, 1)
        mean = alpha_bar.sqrt() * x_t.sum((1, 2, 3), keepdim=True) / (2 * alpha_bar + 1 - alpha_bar)
        return mean.expand_as(x_t)

    schedule, known, distances = SCHEDULE, randn(500, 1, 1, 2, seed=3), []
    known[..., 1] = known[..., 0]
    mask = torch.tensor([[[1.0, 0.0]]])
    for times in (1, 4):
        noise = Draws(lambda i: randn(500, 1, 1, 2, seed=100 + i))
        walk = partial(ddpm, inpainting(denoiser, known, mask), schedule, noise=noise)  # type: ignore[arg-type]
        pieces = resampling(timestep_grid(schedule, 50), times, 5)
        result = final(resampled(walk, schedule, noise.draw(), pieces, noise))  # type: ignore[arg-type]
        distances.append(float((result - known)[..., 1].square().mean().sqrt()))
    assert distances[0] > 1.3 * distances[1], distances


def test_a_rim_is_what_lies_near_the_known_part() -> None:
    mask = torch.ones(1, 1, 9, 9)
    mask[..., 2:8, 3:] = 0
    near = rim(mask, 2)[0, 0]
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[2:8, 3:] = True
    expected[4:6, 5:] = False  # the edge of the image is none of the hole's
    assert torch.equal(near, expected)
    assert not rim(torch.ones(1, 1, 4, 4), 1).any()
    assert not rim(torch.zeros(1, 1, 4, 4), 1).any(), "nothing is known"


# From a noisy start.


def test_strength_is_a_part_of_the_process() -> None:
    assert [edit_start(1000, strength) for strength in (1e-9, 0.0004, 0.3, 0.5, 1.0)] == [1, 1, 300, 500, 1000]
    assert edit_start(1, 0.01) == 1
    for strength in (0.0, -0.1, 1.0001, math.nan):
        with pytest.raises(ValueError, match=rf"strength = {strength}; accepted: above 0, to 1"):
            edit_start(1000, strength)


def test_noised_is_the_forward_process() -> None:
    x0, noise = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    for t in (1, 300, T):
        expected = math.sqrt(ALPHA_BAR[t]) * x0 + math.sqrt(1 - ALPHA_BAR[t]) * noise
        torch.testing.assert_close(noised(SCHEDULE, x0, t, noise), expected)


def test_an_edit_keeps_less_of_the_image_the_stronger_it_is() -> None:
    """x0 goes to sqrt(alpha_bar) x0 + noise and through the ODE: the factor of x0 is sqrt(alpha_bar S2 / var) on N(0, S2)."""
    x0 = randn(1, 1, 4, 4)
    for strength in (0.1, 0.5, 0.9):
        t = edit_start(T, strength)
        edited = final(ddim(gaussian_denoiser, SCHEDULE, noised(SCHEDULE, x0, t, torch.zeros_like(x0)), list(range(t, -1, -1))))
        kept = edited / x0
        torch.testing.assert_close(kept, torch.full_like(kept, math.sqrt(ALPHA_BAR[t] * S2 / variance(t))), rtol=0.01, atol=0)
