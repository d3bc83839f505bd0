"""Bits per dimension against entropies, closed forms and a slow bound written from the paper; gaps against planted memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm.base.faults import Fault
from ddpm.evaluation.likelihood import (
    Terms,
    decoder_log_probability,
    denoiser_of,
    draw_steps,
    image_terms,
    joined,
    prior_kl,
    snr_drops,
    summary,
)
from ddpm.model.diffusion import Prediction, x0_to_eps
from ddpm.model.pixels import to_float
from ddpm.model.schedule import NoiseSchedule, cosine_schedule, linear_schedule, noise_schedule, sigmoid_schedule
from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from ddpm.sampling import Model, load
from ddpm.sampling.denoiser import Denoiser
from ddpm.sampling.noise import NoiseStreams
from ddpm.training.loss import training_loss
from tiny import random_images, randomised, train_config

Estimate = Callable[[Tensor, Tensor], Tensor]
PREDICTIONS: list[Prediction] = ["eps", "x0", "v"]


def predicting(estimate: Estimate, schedule: NoiseSchedule, prediction: Prediction = "x0") -> Denoiser:
    """A denoiser whose network says by eps, x0 or v that the image is `estimate(x_t, t)`."""

    def network(x_t: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        x_t = x_t.double()
        x0 = estimate(x_t, t)
        if prediction == "x0":
            return x0
        eps = x0_to_eps(schedule, x_t, t, x0)
        alpha_bar = schedule.alpha_bar_at(t, x_t)
        return eps if prediction == "eps" else alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0

    return Denoiser(network, schedule, prediction)


def wild(x_t: Tensor, t: Tensor) -> Tensor:
    """An estimate that is poor, depends on t and the place in the image, and is often clipped."""
    ramp = torch.linspace(-1, 1, x_t[0].numel(), dtype=x_t.dtype).view(x_t[0].shape)
    return 1.5 * x_t + ramp - 0.02 * t.view(-1, 1, 1, 1)


def fast_linear(num_timesteps: int) -> NoiseSchedule:
    """DDPM's linear schedule with its beta scaled so that fewer steps reach noise too."""
    return linear_schedule(num_timesteps, 0.1 / num_timesteps, 20 / num_timesteps)


# --- The whole bound -----------------------------------------------------------------------------------------------

MEAN, DEVIATION = 0.1, 0.2  # the values' ends lie 4.5 deviations away, and a bin is 0.04 of one


def gaussian_images(count: int, size: int) -> tuple[Tensor, np.ndarray]:
    """uint8 (N, size, size, 1) of independent pixels N(MEAN, DEVIATION^2), and each image's -log2 probability a pixel."""
    draws = torch.randn(count, size, size, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = ((MEAN + DEVIATION * draws + 1) * 127.5).round().clamp(0, 255)
    edges = Normal(MEAN, DEVIATION).cdf((torch.arange(257, dtype=torch.float64) - 0.5) / 127.5 - 1)
    edges[0], edges[-1] = 0, 1
    return values.to(torch.uint8), -edges.diff().log2()[values.long()].flatten(1).mean(1).numpy()


def gaussian_denoiser(schedule: NoiseSchedule, prediction: Prediction = "x0") -> Denoiser:
    """The mean of x0 given x_t for those pixels."""

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = schedule.alpha_bar_at(t, x_t)
        gain = DEVIATION**2 * alpha_bar.sqrt() / (alpha_bar * DEVIATION**2 + 1 - alpha_bar)
        return MEAN + gain * (x_t - alpha_bar.sqrt() * MEAN)

    return predicting(estimate, schedule, prediction)


def gaussian_excess(schedule: NoiseSchedule) -> float:
    """What the bound must lie above those pixels' entropy, in bits, by the chain rule of the KL of whole paths.

    At T it is the KL of q(x_T) from N(0, 1). Before, q(x_t-1 | x_t) has the model's mean, and its variance is beta tilde
    and that of x0 given x_t, seen through the posterior mean of DDPM's equation 7: a factor of 1 + r, whose KL is
    (r - log(1 + r)) / 2.
    """
    alpha_bar = schedule.alpha_bar
    end = Normal(alpha_bar[-1].sqrt() * MEAN, (alpha_bar[-1] * DEVIATION**2 + 1 - alpha_bar[-1]).sqrt())
    excess = float(kl_divergence(end, Normal(torch.zeros_like(end.mean), 1.0)))
    for t in range(1, schedule.num_timesteps + 1):
        now, before = float(alpha_bar[t]), float(alpha_bar[t - 1])
        beta = 1 - now / before
        unknown = DEVIATION**2 * (1 - now) / (now * DEVIATION**2 + 1 - now)
        if t > 1:
            variance = beta * (1 - before) / (1 - now)
            r = before * beta**2 / (1 - now) ** 2 * unknown / variance
        else:  # the decoder's beta in place of what is unknown, with bins too narrow to matter
            r = unknown / beta - 1
        excess += (r - math.log1p(r)) / 2
    return excess / math.log(2)


def even_log_snr(num_timesteps: int) -> NoiseSchedule:
    """Noise falls evenly to the same beta[1], 1e-4, whatever T is."""
    log_snr = torch.linspace(9.2, -9.2, num_timesteps, dtype=torch.float64)
    return NoiseSchedule(torch.cat([torch.ones(1, dtype=torch.float64), log_snr.sigmoid()]))


@pytest.mark.parametrize("make", [cosine_schedule, fast_linear, even_log_snr])
def test_bits_of_a_gaussian_with_the_best_denoiser_are_known(make: Callable[[int], NoiseSchedule]) -> None:
    images, exact = gaussian_images(100, 12)
    for num_timesteps in (40, 300):
        schedule = make(num_timesteps)
        terms = image_terms(gaussian_denoiser(schedule), images, strata=num_timesteps, batch_size=100)
        excess = terms.bits - exact  # an image at a time: the luck of the images cancels
        error = float(excess.std(ddof=1)) / len(images) ** 0.5
        assert error < 0.05, "of an excess of 0.1 to 2 bits"
        assert excess.mean() == pytest.approx(gaussian_excess(schedule), abs=4 * error)


def test_bits_of_a_gaussian_fall_to_its_entropy_as_steps_grow() -> None:
    images, exact = gaussian_images(100, 12)
    entropy = math.log2(DEVIATION * math.sqrt(2 * math.pi * math.e) * 127.5)
    assert exact.mean() == pytest.approx(entropy, abs=0.03)
    above = []
    for num_timesteps in (40, 300, 3000):
        bits = image_terms(gaussian_denoiser(even_log_snr(num_timesteps)), images, strata=150, batch_size=100).bits
        above.append(float((bits - exact).mean()))
    assert above[0] > 5 * above[1] > 0.5
    assert 4 * abs(above[2]) < above[1]
    assert abs(above[2]) < 0.04


def test_schedules_that_start_ever_finer_leave_gamma_halves() -> None:
    """What the module says of the cosine and linear schedules, in bits."""
    for make in (cosine_schedule, fast_linear):
        assert gaussian_excess(make(100_000)) == pytest.approx(0.5772157 / 2 / math.log(2), rel=0.05)


def slow_bound(schedule: NoiseSchedule, image: Tensor, estimate: Estimate, draws: list[Tensor]) -> tuple[float, float, float]:
    """Prior, steps and decoder of one uint8 (H, W, C) image in bits a dimension, pixel by pixel as DDPM writes them."""
    alpha_bar = schedule.alpha_bar.tolist()
    x0 = [value / 127.5 - 1 for value in image.permute(2, 0, 1).flatten().tolist()]
    shape = (1, *image.permute(2, 0, 1).shape)
    prior = steps = decoder = 0.0
    for x in x0:
        mean, variance = math.sqrt(alpha_bar[-1]) * x, 1 - alpha_bar[-1]
        prior += 0.5 * (variance + mean**2 - 1 - math.log(variance))
    for t in range(1, schedule.num_timesteps + 1):
        noise = draws[t - 1].flatten().tolist()
        x_t = [math.sqrt(alpha_bar[t]) * x + math.sqrt(1 - alpha_bar[t]) * e for x, e in zip(x0, noise, strict=True)]
        answer = estimate(torch.tensor(x_t, dtype=torch.float64).view(shape), torch.tensor([t]))
        x0_hat = [min(1.0, max(-1.0, x)) for x in answer.flatten().tolist()]
        beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
        for x, x_hat, noisy in zip(x0, x0_hat, x_t, strict=True):
            if t > 1:
                of_x0 = math.sqrt(alpha_bar[t - 1]) * beta / (1 - alpha_bar[t])  # equation 7
                of_x_t = math.sqrt(1 - beta) * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
                variance = beta * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
                steps += ((of_x0 * x + of_x_t * noisy) - (of_x0 * x_hat + of_x_t * noisy)) ** 2 / (2 * variance)
            else:  # equation 13
                low, high = ((x + side / 255 - x_hat) / math.sqrt(2 * beta) for side in (-1, 1))
                below = 0.0 if x == -1 else (1 + math.erf(low)) / 2
                above = 1.0 if x == 1 else (1 + math.erf(high)) / 2
                decoder -= math.log(above - below)
    prior, steps, decoder = (term / len(x0) / math.log(2) for term in (prior, steps, decoder))
    return prior, steps, decoder


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_terms_are_those_of_a_slow_bound_for_every_prediction(prediction: Prediction) -> None:
    """Every step once, a poor network that is clipped, images that are not square and hold the ends' values."""
    schedule = linear_schedule(7, 0.15, 0.6)
    images = torch.randint(0, 256, (2, 2, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, 0, :2, 0] = torch.tensor([0, 255])
    terms = image_terms(predicting(wild, schedule, prediction), images, seed=5, first=3, strata=20)
    for index, image in enumerate(images):
        noise = NoiseStreams(5, [3 + index], (3, 2, 4))
        expected = slow_bound(schedule, image, wild, [noise.draw() for _ in range(7)])
        found = (terms.prior[index], terms.steps[index], terms.decoder[index])
        assert found == pytest.approx(expected, rel=2e-5)
        assert terms.bits[index] == pytest.approx(sum(expected), rel=2e-5)


def test_eps_x0_and_v_of_one_denoiser_have_the_same_bits() -> None:
    images, _ = gaussian_images(3, 8)
    bits = [image_terms(gaussian_denoiser(cosine_schedule(1000), kind), images, strata=30).bits for kind in PREDICTIONS]
    np.testing.assert_allclose(bits[0], bits[1], rtol=1e-4)
    np.testing.assert_allclose(bits[2], bits[1], rtol=1e-4)


# --- Its terms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule", [cosine_schedule(30), noise_schedule("linear", 30, 0.01, 0.3, zero_terminal_snr=True), sigmoid_schedule(9)]
)
def test_half_a_drop_of_snr_is_the_kl_of_both_gaussians_of_a_step(schedule: NoiseSchedule) -> None:
    """q(x_t-1 | x_t, x0) and p(x_t-1 | x_t) from equations 6 and 7 of DDPM, whose variance is beta tilde."""
    generator = torch.Generator().manual_seed(0)
    drops = snr_drops(schedule)
    assert drops[:2].tolist() == [0, 0]
    for t in range(2, schedule.num_timesteps + 1):
        x0, x0_hat, x_t = torch.rand(3, 50, generator=generator, dtype=torch.float64) * 2 - 1
        now, before = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
        alpha = now / before
        mean = before.sqrt() * (1 - alpha) / (1 - now) * x0 + alpha.sqrt() * (1 - before) / (1 - now) * x_t
        mean_hat = before.sqrt() * (1 - alpha) / (1 - now) * x0_hat + alpha.sqrt() * (1 - before) / (1 - now) * x_t
        deviation = ((1 - before) / (1 - now) * (1 - alpha)).sqrt()
        expected = kl_divergence(Normal(mean, deviation), Normal(mean_hat, deviation))
        torch.testing.assert_close(drops[t] / 2 * (x0 - x0_hat).square(), expected, rtol=1e-9, atol=1e-14)


def test_the_prior_is_the_kl_of_x_t_at_the_end() -> None:
    x0 = to_float(random_images(5))
    for schedule in (cosine_schedule(50), linear_schedule(50), linear_schedule(1000)):
        last = schedule.alpha_bar[-1]
        end = Normal(last.sqrt() * x0.double(), (1 - last).sqrt().expand(x0.shape))
        expected = kl_divergence(end, Normal(torch.zeros_like(end.mean), 1.0)).flatten(1).mean(1)
        torch.testing.assert_close(prior_kl(schedule, x0), expected, rtol=1e-6, atol=1e-13)
    assert prior_kl(noise_schedule("cosine", 50, zero_terminal_snr=True), x0).tolist() == [0] * 5


@pytest.mark.parametrize("beta", [4e-5, 1e-4, 0.01, 0.9])
def test_the_decoder_s_256_probabilities_add_up_to_one(beta: float) -> None:
    schedule = linear_schedule(2, beta, 0.95)
    values = torch.arange(256, dtype=torch.uint8)
    for x0_hat in (-1.0, -0.9993, -0.3, 0.0, 0.4567, 1.0):
        probability = decoder_log_probability(schedule, values, torch.full((256,), x0_hat)).exp()
        assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
        assert abs(int(probability.argmax()) - (x0_hat + 1) * 127.5) <= (0.51 if beta < 1e-3 else 256)


def test_the_decoder_is_exact_far_out_and_on_both_sides() -> None:
    """Against erfc, and where that is 0, its asymptotic series."""
    schedule, deviation = linear_schedule(2, 1e-4, 0.5), 0.01
    for value in (127, 128, 160, 166, 200, 250):
        low, high = ((value / 127.5 - 1 + side / 255) / deviation for side in (-1, 1))
        if low < 35:
            expected = math.log((math.erfc(low / 2**0.5) - math.erfc(high / 2**0.5)) / 2)
        else:
            expected = -(low**2) / 2 - math.log(low * math.sqrt(2 * math.pi)) + math.log1p(-1 / low**2 + 3 / low**4)
        for number in (value, 255 - value):
            found = decoder_log_probability(schedule, torch.tensor([number], dtype=torch.uint8), torch.zeros(1))
            assert float(found) == pytest.approx(expected, rel=1e-9), number
    ends = decoder_log_probability(schedule, torch.tensor([0, 255], dtype=torch.uint8), torch.tensor([1.0, -1.0]))
    assert ends.tolist() == pytest.approx([-(((2 - 1 / 255) / deviation) ** 2) / 2] * 2, rel=1e-3)


# --- Drawing t -----------------------------------------------------------------------------------------------------


def places(count: int, strata: int) -> Tensor:
    return NoiseStreams(0, range(count), (1,)).uniform(strata)


@pytest.mark.parametrize(("num_timesteps", "strata"), [(50, 1), (50, 7), (50, 48), (997, 20)])
def test_weighted_draws_of_t_are_unbiased(num_timesteps: int, strata: int) -> None:
    """For sums over 1..T of anything: here of each step alone, of 1, and of a steep term."""
    schedule, count = cosine_schedule(num_timesteps), 3000
    t, weight = draw_steps(schedule, places(count, strata))
    assert t.shape == weight.shape == (count, strata + 1)
    assert (t[:, 0] == 1).all()
    assert (weight[:, 0] == 1).all()
    assert int(t[:, 1:].min()) >= 2
    assert int(t[:, 1:].max()) <= num_timesteps
    assert (t.diff() >= 0).all(), "one of each part"
    assert float(weight[:, 1:].max()) <= 2 * (num_timesteps - 1) / strata, "never more than twice that of uniform draws"
    for f, total in ((torch.ones(num_timesteps + 1), num_timesteps), (snr_drops(schedule), float(snr_drops(schedule).sum()))):
        sums = (weight * f[t]).sum(1)
        assert float(sums.mean()) == pytest.approx(total, abs=4 * float(sums.std()) / count**0.5)
    shares = torch.zeros(num_timesteps + 1, dtype=torch.float64).index_add(0, t.flatten(), weight.flatten()) / count
    allowed = 4.5 * (float(weight[:, 1:].max()) / count) ** 0.5  # Poisson's
    torch.testing.assert_close(shares[1:], torch.ones(num_timesteps, dtype=torch.float64), rtol=0, atol=allowed)


def test_as_many_strata_as_steps_are_the_exact_sum() -> None:
    for strata in (9, 10, 40):
        t, weight = draw_steps(cosine_schedule(10), places(3, strata))
        assert t.tolist() == [list(range(1, 11))] * 3
        assert weight.tolist() == [[1.0] * 10] * 3


def test_estimates_agree_with_the_exact_sum_for_each_image() -> None:
    schedule, images = cosine_schedule(60), gaussian_images(3, 4)[0]
    denoiser = gaussian_denoiser(schedule)
    exact = [image_terms(denoiser, images, seed, strata=59) for seed in range(60)]
    drawn = [image_terms(denoiser, images, seed, strata=6) for seed in range(1000, 1150)]
    for name in ("steps", "losses"):
        sums, estimates = (np.stack([getattr(terms, name) for terms in runs]) for runs in (exact, drawn))
        error = (sums.var(0) / len(sums) + estimates.var(0) / len(estimates)) ** 0.5
        assert (np.abs(estimates.mean(0) - sums.mean(0)) < 4 * error).all()
        assert (error < 0.1 * sums.mean(0)).all(), "so that the line above can fail"


def test_few_draws_measure_an_image_well() -> None:
    """Most of the bound lies at few small t: uniform draws of t, stratified likewise, spread more than five times as much."""
    schedule, images = cosine_schedule(1000), gaussian_images(1, 16)[0]
    spread = np.std([image_terms(gaussian_denoiser(schedule), images, seed).steps for seed in range(40)])
    unknown = DEVIATION**2 * (1 - schedule.alpha_bar) / (schedule.alpha_bar * DEVIATION**2 + 1 - schedule.alpha_bar)
    term = snr_drops(schedule) / 2 * unknown / math.log(2)
    places = (torch.arange(20) + torch.rand(400, 20, generator=torch.Generator().manual_seed(0))) / 20
    uniform = 2 + (places * 999).long()
    assert 5 * spread < float((term[uniform].sum(1) * 999 / 20).std())


# --- Losses and gaps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_losses_are_the_training_s_own_by_quarter(prediction: Prediction) -> None:
    """Unclipped and without weights; T = 10 has quarters of 3, 2, 3 and 2 steps."""
    schedule, images = linear_schedule(10, 0.1, 0.4), random_images(3)
    denoiser = predicting(wild, schedule, prediction)
    losses = image_terms(denoiser, images, seed=2, strata=10).losses
    noise = NoiseStreams(2, range(3), (3, 8, 8))
    x0 = to_float(images)
    by_step = []
    for t in range(1, 11):
        steps = torch.full((3,), t)
        by_step.append(training_loss(denoiser.network, schedule, prediction, x0, steps, noise.draw()).numpy())
    quarters = [(1, 2, 3), (4, 5), (6, 7, 8), (9, 10)]
    expected = [np.mean([by_step[t - 1] for t in quarter], axis=0) for quarter in quarters]
    np.testing.assert_allclose(losses, np.stack(expected, 1), rtol=1e-5)


def test_steps_that_fill_no_quarter_leave_it_zero() -> None:
    losses = image_terms(predicting(wild, linear_schedule(2, 0.2, 0.5)), random_images(2)).losses
    assert ((losses > 0) == [True, False, True, False]).all()


def remembering(images: Tensor, schedule: NoiseSchedule) -> Denoiser:
    """The best denoiser for data that are these images and nothing else: the mean of x0 given x_t."""
    known = to_float(images).double()

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = schedule.alpha_bar_at(t, x_t)
        distances = (x_t[:, None] - alpha_bar[:, None].sqrt() * known[None]).square().flatten(2).sum(2)
        weights = (-distances / (2 * (1 - alpha_bar.flatten()[:, None]))).softmax(1)
        return (weights[..., None] * known.flatten(1)).sum(1).view(x_t.shape)

    return predicting(estimate, schedule)


def test_a_network_that_remembers_its_images_has_a_gap() -> None:
    schedule = cosine_schedule(100)
    training, heldout = random_images(12, seed=0), random_images(12, seed=1)
    denoiser = remembering(training, schedule)
    seen, new = image_terms(denoiser, training), image_terms(denoiser, heldout)
    found = summary(new, seen)
    assert all(gap > 5 * error for gap, error in zip(found.gaps[:3], found.gaps_se[:3], strict=True))
    assert found.gaps[0] > 0.2, "where almost the image itself is seen: half its variance of 1/3 and more"
    assert found.bits_per_dim > seen.bits.mean() + 10
    assert found.bits_per_dim == pytest.approx(found.prior + found.steps + found.decoder)
    swapped = summary(seen, new)
    assert swapped.gaps == tuple(-gap for gap in found.gaps)
    same = summary(seen, image_terms(denoiser, training))
    assert same.gaps == (0, 0, 0, 0), "the i-th of both sets meet the same t and noise"


def test_standard_errors_are_over_images() -> None:
    rows = np.arange(12.0).reshape(3, 4) ** 2
    heldout = Terms(np.zeros(3), np.array([1.0, 2.0, 4.0]), np.ones(3), rows)
    found = summary(heldout, heldout._replace(losses=np.zeros((3, 4))))
    assert found.bits_per_dim == pytest.approx(10 / 3)
    assert found.bits_per_dim_se == pytest.approx(math.sqrt(7 / 3 / 3))
    assert found.gaps == pytest.approx(rows.mean(0))
    assert found.gaps_se == pytest.approx(rows.std(0, ddof=1) / 3**0.5)


def test_too_few_images_are_refused() -> None:
    one, three = (image_terms(predicting(wild, cosine_schedule(5)), random_images(count)) for count in (1, 3))
    with pytest.raises(Fault, match=r"^bits per dimension of 1 held-out images; accepted: 2 or more"):
        summary(one, one)
    with pytest.raises(ValueError, match="3 held-out images and 1 training images"):
        summary(three, one)
    for count, strata in ((2, 0), (0, 2)):
        with pytest.raises(ValueError, match=f"strata = {strata}, {count} images"):
            image_terms(predicting(wild, cosine_schedule(5)), random_images(count), strata=strata)


# --- Parts, batches and models ---------------------------------------------------------------------------------------


def test_an_image_s_terms_do_not_depend_on_parts_or_batches() -> None:
    denoiser, images = predicting(wild, cosine_schedule(200)), random_images(7)
    whole = image_terms(denoiser, images, seed=3)
    parts = joined(
        image_terms(denoiser, images[first:last], seed=3, first=first, batch_size=2) for first, last in ((0, 3), (3, 4), (4, 7))
    )
    for found, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    other = image_terms(denoiser, images, seed=4)
    moved = image_terms(denoiser, images, seed=3, first=1)
    assert (np.abs(other.steps / whole.steps - 1) > 1e-3).all()
    assert (np.abs(moved.steps / whole.steps - 1) > 1e-3).all()


@pytest.fixture
def conditional(tmp_path: Path) -> Model:
    config = train_config(context_dim=5, num_timesteps=20, prediction="v")
    facts = {"size": 8, "count": 3, "origin": "test", "dataset": "sprites", "source": "synthetic"}
    metadata = {"config": config.model_dump(), "step": 7, "kind": "ema", "data": facts, "classes": list("abcde")}
    save_weights(tmp_path / "ema.safetensors", randomised(build_network(config)), metadata)
    return load(tmp_path / "ema.safetensors", "cpu")


def test_a_conditional_model_is_told_each_image_s_class(conditional: Model) -> None:
    labels, images = np.array([4, 0, 2, 2]), random_images(4)
    together = image_terms(denoiser_of(conditional, labels), images, batch_size=3)
    for index, label in enumerate(labels):
        plain = Denoiser(
            lambda x_t, t, context, label=label: conditional.network(x_t, t, torch.eye(5)[label].expand(len(x_t), 5)),
            conditional.schedule,
            "v",
        )
        alone = image_terms(plain, images[index : index + 1], first=index)
        np.testing.assert_allclose(together.bits[index], alone.bits[0], rtol=1e-5)
    turned = image_terms(denoiser_of(conditional, (labels + 1) % 5), images)
    assert (np.abs(turned.bits / together.bits - 1) > 1e-4).all()
    with pytest.raises(ValueError, match="a context of 4 rows for 3 images"):
        image_terms(denoiser_of(conditional, labels), images[:3])


@pytest.mark.parametrize(("labels", "given"), [(None, "none"), ([], "none"), ([0, 5], "0 to 5"), ([-1, 2], "-1 to 2")])
def test_labels_that_a_conditional_model_does_not_know_are_refused(
    conditional: Model, labels: list[int] | None, given: str
) -> None:
    with pytest.raises(Fault, match=rf"^labels of the images: {given}; .* accepted: one an image, 0 to 4"):
        denoiser_of(conditional, None if labels is None else np.array(labels))
