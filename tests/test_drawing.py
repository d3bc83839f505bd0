"""What the figure stages and the `sample` command share: samplers by name, and who is drawn for which class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.checkpoint import save_weights
from ddpm.config import METHODS, resolve
from ddpm.samplers import NoiseStreams
from ddpm.schedule import linear_schedule
from ddpm.unet import build_network
from stages.common import load_params
from stages.drawing import LABELS, Checkpoint, Sampler, chosen_sampler, compared_samplers
from tiny import randomised, train_config

CPU = torch.device("cpu")


@pytest.fixture
def conditional(tmp_path: Path) -> Checkpoint:
    config = train_config(context_dim=5, num_timesteps=20, prediction="v", schedule="linear", beta_max=0.5)
    facts = {"size": 8, "count": 3, "origin": "test", "dataset": "sprites", "source": "synthetic"}
    metadata = {"config": config.model_dump(), "step": 7, "kind": "ema", "data": facts}
    save_weights(tmp_path / "ema.safetensors", randomised(build_network(config)), metadata)
    return Checkpoint(tmp_path / "ema.safetensors", CPU)


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "logsnr"])
@pytest.mark.parametrize("method", LABELS)
def test_steps_are_network_calls(method: str, spacing: str) -> None:
    """Heun takes two a step, but for the last and those that are too long for its correction: never more than asked."""
    schedule = linear_schedule(1000)
    for steps in (1, 2, 5, 20, 21):
        calls = []

        def denoiser(x_t: Tensor, t: Tensor, calls: list[int] = calls) -> Tensor:
            calls.append(int(t[0]))
            return 0.5 * x_t

        noise = NoiseStreams(0, range(2), (3, 4, 4))
        sampler = Sampler(method, steps, spacing=spacing)
        states = list(sampler.run(denoiser, schedule, noise.draw(), noise))
        assert states[-1].t == 0
        assert calls[0] == 1000
        if method != "heun":
            assert len(calls) == steps
        else:
            assert len(calls) <= steps
            if steps > 20 and spacing == "uniform":
                assert len(calls) == steps


def test_every_method_of_the_settings_has_a_name_in_figures() -> None:
    assert set(LABELS) == {*METHODS, "wrong"}


def test_samplers_of_a_recipe() -> None:
    figures = resolve(load_params("demo"), "cifar10")[0].figures
    chosen = {"sampler": "heun 9 logsnr", "compared": ["ddpm 7", "ddim 3 quadratic"], "ddim_eta": 0.5}
    figures = figures.model_copy(update=chosen)
    assert chosen_sampler(figures).label == "Heun 9, logsnr"
    first, second = compared_samplers(figures)
    assert (first.method, first.num_steps, first.variance, first.spacing) == ("ddpm", 7, "small", "uniform")
    assert (second.label, second.eta) == ("DDIM 3, quadratic", 0.5)


def test_every_image_keeps_its_class_in_batches_of_any_size(conditional: Checkpoint) -> None:
    sampler, condition = Sampler("ddim", 3), conditional.in_turn(7, 2.0)
    whole = conditional.draw(sampler, 0, 7, 7, condition).astype(int)
    for batch_size in (1, 2, 3):
        assert np.abs(conditional.draw(sampler, 0, 7, batch_size, condition) - whole).max() <= 1
    turned = conditional.condition([1, 2, 3, 4, 0, 1, 2], 2.0)
    others = conditional.draw(sampler, 0, 7, 7, turned)
    assert all(np.abs(a - b).max() > 3 for a, b in zip(others, whole, strict=True)), "each has another class now"
    assert conditional.classes == ("hero", "monster", "food", "spell", "side")
    assert condition.passes == 2
    assert conditional.in_turn(2, 1.0).passes == conditional.in_turn(2, 0.0).passes == 1
