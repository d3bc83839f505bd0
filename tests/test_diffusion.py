"""Noising, conversions, the loss and the denoiser against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddpm.model.diffusion import eps_to_x0, q_sample, v_target, v_to_x0, x0_to_eps
from ddpm.model.schedule import cosine_schedule
from ddpm.sampling.denoiser import Denoiser
from ddpm.training.loss import MIN_SNR_GAMMA, loss_weight, training_loss

T = 1000
SCHEDULE = cosine_schedule(T)


def images(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def noise(count: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_q_sample_has_the_mean_and_variance_of_equation_4() -> None:
    draws = 200_000
    for t in (1, 300, 700, T):
        alpha_bar = float(SCHEDULE.alpha_bar[t])
        eps = torch.randn(draws, 1, 1, 1, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        x_t = q_sample(SCHEDULE, torch.full_like(eps, 0.7), torch.full((draws,), t), eps)
        deviation = math.sqrt(1 - alpha_bar)
        assert float(x_t.mean()) == pytest.approx(math.sqrt(alpha_bar) * 0.7, abs=4 * deviation / math.sqrt(draws))
        assert float(x_t.var()) == pytest.approx(1 - alpha_bar, rel=4 * math.sqrt(2 / draws))


def test_every_image_has_its_own_t() -> None:
    x0, eps, t = images(3), noise(3), torch.tensor([1, 400, T])
    together = q_sample(SCHEDULE, x0, t, eps)
    for i in range(3):
        assert torch.equal(together[i : i + 1], q_sample(SCHEDULE, x0[i : i + 1], t[i : i + 1], eps[i : i + 1]))
        alpha_bar = float(SCHEDULE.alpha_bar[t[i]])
        expected = math.sqrt(alpha_bar) * x0[i] + math.sqrt(1 - alpha_bar) * eps[i]
        torch.testing.assert_close(together[i], expected, rtol=1e-12, atol=0)


def test_tables_are_cast_after_the_subtraction() -> None:
    """1 - alpha_bar in float32 would be wrong by 0.1 % at t = 1."""
    zero, one, t = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.tensor([1])
    expected = math.sqrt(1 - float(SCHEDULE.alpha_bar[1]))
    x_t = q_sample(SCHEDULE, zero, t, one)
    assert x_t.dtype == torch.float32
    assert float(x_t[0, 0, 0, 0]) == pytest.approx(expected, rel=3e-7)


@pytest.mark.parametrize("t", [1, 2, 500, T - 1, T])
def test_conversions_are_each_others_inverses(t: int) -> None:
    steps = torch.full((5,), t)
    x0, eps = images(5), noise(5)
    x_t = q_sample(SCHEDULE, x0, steps, eps)
    # At T the signal's amplitude is 5e-5: 16 digits less 4 or 5 are left.
    torch.testing.assert_close(eps_to_x0(SCHEDULE, x_t, steps, eps), x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(x0_to_eps(SCHEDULE, x_t, steps, x0), eps, rtol=0, atol=1e-12)
    torch.testing.assert_close(v_to_x0(SCHEDULE, x_t, steps, v_target(SCHEDULE, x0, steps, eps)), x0, rtol=0, atol=1e-12)


def test_v_is_the_velocity_of_the_paper() -> None:
    """d x_t / d phi with x_t = cos(phi) x0 + sin(phi) eps (Salimans and Ho 2022, appendix D)."""
    x0, eps = images(1), noise(1)
    for t in (1, 500, T):
        phi = math.acos(math.sqrt(float(SCHEDULE.alpha_bar[t])))
        h = 1e-6
        derivative = ((math.cos(phi + h) - math.cos(phi - h)) * x0 + (math.sin(phi + h) - math.sin(phi - h)) * eps) / (2 * h)
        v = v_target(SCHEDULE, x0, torch.tensor([t]), eps)
        torch.testing.assert_close(v, derivative, rtol=0, atol=1e-8)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_loss_is_zero_for_the_true_target_and_its_mean_square_for_a_network_of_zeros(prediction: str) -> None:
    x0, eps, t = images(4, dtype=torch.float32), noise(4, dtype=torch.float32), torch.tensor([1, 250, 600, T])
    signal = SCHEDULE.alpha_bar[t].sqrt().float().view(-1, 1, 1, 1)
    deviation = (1 - SCHEDULE.alpha_bar[t]).sqrt().float().view(-1, 1, 1, 1)
    target = {"eps": eps, "x0": x0, "v": signal * eps - deviation * x0}[prediction]
    seen = []

    def perfect(x_t: Tensor, steps: Tensor, context: Tensor | None) -> Tensor:
        seen.append((x_t, steps))
        return target

    loss = training_loss(perfect, SCHEDULE, prediction, x0, t, eps)
    assert loss.shape == (4,)
    torch.testing.assert_close(loss, torch.zeros(4), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[0][0], signal * x0 + deviation * eps, rtol=0, atol=1e-6)
    assert torch.equal(seen[0][1], t)
    zeros = training_loss(lambda x_t, steps, context: torch.zeros_like(x_t), SCHEDULE, prediction, x0, t, eps)
    torch.testing.assert_close(zeros, target.square().mean((1, 2, 3)), rtol=1e-5, atol=0)


def test_loss_of_a_low_precision_network_is_summed_in_float32() -> None:
    x0, eps = images(2, dtype=torch.float32), noise(2, dtype=torch.float32)
    loss = training_loss(lambda x_t, t, context: x_t.bfloat16() * 0, SCHEDULE, "eps", x0, torch.tensor([3, 4]), eps)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, eps.square().mean((1, 2, 3)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_denoiser_undoes_the_noise_for_a_perfect_network(prediction: str) -> None:
    x0, eps, t = images(3), noise(3), torch.tensor([1, 500, T])
    x_t = q_sample(SCHEDULE, x0, t, eps)
    target = {"eps": eps, "x0": x0, "v": v_target(SCHEDULE, x0, t, eps)}[prediction]
    x0_hat = Denoiser(lambda x, steps, context: target, SCHEDULE, prediction)(x_t, t)
    torch.testing.assert_close(x0_hat, x0, rtol=0, atol=1e-10)


def test_denoiser_clips_and_the_derived_noise_adds_up() -> None:
    """At T an eps-network's error is multiplied by 1 / sqrt(alpha_bar) = 20000."""
    x0, eps, t = images(2), noise(2), torch.full((2,), T)
    x_t = q_sample(SCHEDULE, x0, t, eps)
    wrong = eps + 0.1 * noise(2, seed=9)
    assert float(eps_to_x0(SCHEDULE, x_t, t, wrong).abs().max()) > 1000
    x0_hat = Denoiser(lambda x, steps, context: wrong, SCHEDULE, "eps")(x_t, t)
    assert float(x0_hat.abs().max()) == 1
    eps_hat = x0_to_eps(SCHEDULE, x_t, t, x0_hat)
    assert float(eps_hat.abs().max()) < 6
    torch.testing.assert_close(q_sample(SCHEDULE, x0_hat, t, eps_hat), x_t, rtol=0, atol=1e-12)


def test_denoiser_keeps_no_graph() -> None:
    network = torch.nn.Conv2d(3, 3, 1)
    x0_hat = Denoiser(lambda x, t, context: network(x), SCHEDULE, "v")(images(1, dtype=torch.float32), torch.tensor([5]))
    assert not x0_hat.requires_grad


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction(prediction: str) -> None:
    """An error of x0 weighs min(SNR, gamma), however the network spells it (Hang et al. 2023, section 3.4)."""
    x0, eps, t = images(5), noise(5), torch.tensor([1, 100, 400, 800, T])
    x_t, wrong = q_sample(SCHEDULE, x0, t, eps), x0 + 0.1 * noise(5, seed=4)
    spelled = {
        "eps": lambda x: x0_to_eps(SCHEDULE, x_t, t, x),
        "x0": lambda x: x,
        # v of an estimate of x0 has the noise that goes with it.
        "v": lambda x: v_target(SCHEDULE, x, t, x0_to_eps(SCHEDULE, x_t, t, x)),
    }[prediction]
    error = (spelled(wrong) - spelled(x0)).square().mean((1, 2, 3))
    snr = SCHEDULE.alpha_bar[t] / (1 - SCHEDULE.alpha_bar[t])
    assert float(snr[0]) > MIN_SNR_GAMMA > float(snr[-1])
    expected = snr.clamp(max=MIN_SNR_GAMMA) * (wrong - x0).square().mean((1, 2, 3))
    torch.testing.assert_close(loss_weight(SCHEDULE, prediction, "min_snr", t) * error, expected, rtol=1e-6, atol=0)


def test_the_weight_multiplies_the_plain_loss() -> None:
    x0, eps, t = images(3, dtype=torch.float32), noise(3, dtype=torch.float32), torch.tensor([1, 500, T])

    def network(x_t: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        return 0.3 * x_t

    plain = training_loss(network, SCHEDULE, "v", x0, t, eps)
    weighted = training_loss(network, SCHEDULE, "v", x0, t, eps, weighting="min_snr")
    torch.testing.assert_close(weighted, plain * loss_weight(SCHEDULE, "v", "min_snr", t).float(), rtol=1e-6, atol=0)
    assert float(weighted[0]) < 0.01 * float(plain[0])


# Guidance.


def by_context(x_t: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
    """A stand-in that answers with its context's first number, 0.1 where there is none."""
    first = torch.zeros(len(x_t)) if context is None else context[:, 0]
    answer = torch.where(first == 0, 0.1, first).to(x_t.dtype)
    return answer[:, None, None, None].expand_as(x_t)


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 0.1), (1.0, 0.3), (2.0, 0.5), (3.5, 0.8), (20.0, 1.0)])
def test_guidance_goes_on_from_the_unconditional_estimate(guidance: float, expected: float) -> None:
    """Ho and Salimans 2022, equation 6: 0.1 + w (0.3 - 0.1), clipped to 1."""
    context, t = torch.tensor([[0.3, 0.0], [0.3, 0.7]]), torch.tensor([5, T])
    x0_hat = Denoiser(by_context, SCHEDULE, "x0", context, guidance)(images(2), t)
    torch.testing.assert_close(x0_hat, torch.full_like(x0_hat, expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_guidance_of_the_network_s_output_is_guidance_of_x0(prediction: str) -> None:
    """Every prediction is affine in x0 with factors that do not depend on the context."""
    x_t, t, context = 0.1 * noise(2), torch.tensor([50, 300]), torch.tensor([[0.05], [0.02]])
    estimates = [Denoiser(by_context, SCHEDULE, prediction, context, guidance)(x_t, t) for guidance in (0.0, 1.0, 1.5)]
    assert max(float(estimate.abs().max()) for estimate in estimates) < 1, "nothing is clipped"
    torch.testing.assert_close(estimates[2], estimates[0] + 1.5 * (estimates[1] - estimates[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, [2]), (1.0, [2]), (2.0, [4])])
def test_guidance_costs_a_pass_only_where_it_needs_two(guidance: float, rows: list[int]) -> None:
    called = []

    def network(x_t: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        called.append(len(x_t))
        return by_context(x_t, t, context)

    Denoiser(network, SCHEDULE, "x0", torch.ones(2, 1), guidance)(images(2), torch.tensor([3, 4]))
    assert called == rows
