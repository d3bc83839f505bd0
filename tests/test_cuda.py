"""What only a GPU can show: run by `python -m benchmarks.gpu`, or by hand with pytest -m cuda tests/test_cuda.py."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm.machine.compilation import forward_flops
from ddpm.machine.precision import memory_format
from ddpm.model.unet import UNet, build_network
from ddpm.model.weights import save_weights
from ddpm.recipe import resolve
from ddpm.sampling import load
from ddpm.sampling.fast import prepare
from ddpm.sampling.noise import NoiseStreams, philox
from ddpm.training import loop
from ddpm.training.loop import TrainState, new_state, train
from ddpm.training.settings import TrainConfig, in_steps
from ddpm.training.states import StateFolder, state_key
from stages import load_params
from tiny import random_images, randomised, train_config

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
DEMO = load_params("demo")


def run(config: TrainConfig, device: torch.device, size: int = 16, steps: int | None = None) -> TrainState:
    labels = torch.arange(8, device=device) % config.context_dim if config.context_dim else None
    state = new_state(config, device)
    for step in train(state, random_images(8, size).to(device), config, labels):
        if step == steps:
            break
    return state


def weights(state: TrainState) -> list[Tensor]:
    return [parameter.detach().cpu().clone() for parameter in state.ema.network.parameters()]


def of_recipe(name: str, **changes: object) -> TrainConfig:
    """The demo's recipe, for a few steps."""
    params = {"recipe_names": [name], **{key: DEMO[key] for key in DEMO if key != "recipe_names"}}
    config = TrainConfig(**in_steps(resolve(params, name)[0].train.model_dump(), 64))
    few = {"steps": 12, "batch_size": 8, "warmup_steps": 2, "checkpoints": [], "log_every": 4, "precision": "fp32"}
    return config.model_copy(update={**few, "compile": False, **changes})


@pytest.mark.parametrize("name", list(DEMO["recipes"]))
def test_fp32_repeats_and_a_resumed_training_is_bit_equal(name: str, tmp_path: Path) -> None:
    """Every recipe's blocks: their gradients add up in one order."""
    config = of_recipe(name)
    first, second = (weights(run(config, CUDA)) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    folder = StateFolder(tmp_path, state_key(config, "data", "code"))
    folder.path.mkdir()
    folder.save(run(config, CUDA, steps=5), protect=config.steps)
    state = new_state(config, CUDA)
    assert folder.restore(state, config.steps) == []
    assert state.step == 5
    labels = torch.arange(8, device=CUDA) % config.context_dim if config.context_dim else None
    list(train(state, random_images(8, 16).to(CUDA), config, labels))
    assert all(torch.equal(*pair) for pair in zip(weights(state), first, strict=True))


@pytest.mark.parametrize(("before", "after"), [(CPU, CUDA), (CUDA, CPU)])
def test_a_state_moves_between_cpu_and_gpu(before: torch.device, after: torch.device, tmp_path: Path) -> None:
    """The update that follows is the one that the other device would have made of the same gradients."""
    config = train_config(steps=6, lr=0.01, warmup_steps=0, channels=[16, 32])
    folder = StateFolder(tmp_path, state_key(config, "data", "code"))
    folder.path.mkdir()
    saved = run(config, before, steps=5)
    folder.save(saved, protect=config.steps)
    moved = new_state(config, after)
    assert folder.restore(moved, config.steps) == []
    generator = torch.Generator().manual_seed(0)
    for left, right in zip(saved.network.parameters(), moved.network.parameters(), strict=True):
        assert torch.equal(left.detach().cpu(), right.detach().cpu())
        gradient = torch.randn(left.shape, generator=generator)
        left.grad = torch.empty_like(left).copy_(gradient)
        right.grad = torch.empty_like(right).copy_(gradient)
    saved.optimizer.step()
    moved.optimizer.step()
    for left, right in zip(saved.network.parameters(), moved.network.parameters(), strict=True):
        torch.testing.assert_close(left.detach().cpu(), right.detach().cpu(), rtol=0, atol=1e-6)


def test_a_training_on_a_gpu_is_the_one_on_a_cpu() -> None:
    """From the same batches; their noise is another, so the losses agree, not the weights."""
    config = train_config(steps=60, batch_size=32, log_every=60, num_timesteps=100)
    here, there = (run(config, device).history.rows()[-1]["loss"] for device in (CPU, CUDA))
    assert there == pytest.approx(here, rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 3}, {"dropout": 0.1}, {"norm": "batch"}, {"context_dim": 5}])
def test_compiled_training_is_training(changes: dict[str, Any]) -> None:
    """With CUDA graphs, and without where parts of a batch add up."""
    compiled, eager = (
        run(train_config(steps=20, batch_size=8, log_every=20, compile=choice, precision="fp32", **changes), CUDA)
        for choice in (True, False)
    )
    first, second = (state.history.rows()[-1] for state in (compiled, eager))
    tolerance = 0.05 if changes.get("dropout") else 1e-3  # compiled dropout draws other numbers
    assert first["loss"] == pytest.approx(second["loss"], rel=tolerance)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=5 * tolerance)


def test_a_step_without_a_finite_gradient_changes_nothing_in_a_compiled_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config(steps=6, batch_size=4, compile=True, log_every=1)
    draw_batch = loop.draw_batch

    def with_a_nan(*args: Any) -> Any:
        x0, *rest = draw_batch(*args)
        return x0 * float("nan") if args[3] == 2 else x0, *rest

    monkeypatch.setattr(loop, "draw_batch", with_a_nan)
    state = new_state(config, CUDA)
    kept: list[list[Tensor]] = []
    for _ in train(state, random_images(8, 16).to(CUDA), config):
        moments = [values.cpu().clone() for moments in state.optimizer.state.values() for values in moments.values()]
        kept.append(
            [*weights(state), *(parameter.detach().cpu().clone() for parameter in state.network.parameters()), *moments]
        )
    same = [all(torch.equal(*pair) for pair in zip(*two, strict=True)) for two in pairwise(kept)]
    assert same == [False, True, False, False, False]
    assert [row["skipped"] for row in state.history.rows()] == [0, 0, 1, 0, 0, 0]


@pytest.fixture
def network() -> UNet:
    built = randomised(build_network(train_config(channels=[8, 16], attention=[False, True])))
    assert isinstance(built, UNet)
    return built.eval().requires_grad_(False)


def inputs(count: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(1, count + 1)


def test_captured_calls_give_the_same_bits(network: UNet) -> None:
    """At several shapes, whose graphs share one pool of memory."""
    expected_network = copy.deepcopy(network).to(CUDA).to(memory_format=memory_format(CUDA))
    call = prepare(network, "fp32", CUDA)
    for count in (3, 2, 3, 5, 2):
        x_t, t = (values.to(CUDA) for values in inputs(count))
        first = call(x_t, t, None)
        assert torch.equal(first, expected_network(x_t, t))
        call(x_t + 1, t, None)
        assert torch.equal(first, expected_network(x_t, t)), "a later call leaves an earlier result alone"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_and_captured_calls_agree(network: UNet, precision: str) -> None:
    exact = copy.deepcopy(network).to(CUDA)
    tolerance = 1e-3 if precision == "fp32" else 0.1
    for compiled in (False, True):
        call = prepare(copy.deepcopy(network), precision, CUDA, compiled)
        x_t, t = (values.to(CUDA) for values in inputs())
        torch.testing.assert_close(call(x_t, t, None).float(), exact(x_t, t), rtol=tolerance, atol=tolerance)


def test_the_published_words_of_the_noise() -> None:
    counter = [torch.tensor(number, device=CUDA) for number in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
    words = [int(word) for word in philox(counter, (0xA4093822, 0x299F31D0))]
    assert words == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_a_gpu_draws_the_noise_of_a_cpu() -> None:
    here, there = (NoiseStreams(2**32 - 1, [0, 5, 2**31], (3, 9, 7), device) for device in (CPU, CUDA))
    for _ in range(4):  # the first is drawn as it is, the others from a recorded graph
        ours, theirs = here.draw(), there.draw()
        assert theirs.device.type == "cuda"
        torch.testing.assert_close(theirs.cpu(), ours, rtol=0, atol=1e-5)
    assert torch.equal(there.uniform(9).cpu(), here.uniform(9))


@pytest.mark.parametrize("sampler", ["ddpm 20", "ddim 10", "unipc 8", "heun 9"])
def test_a_gpu_draws_the_images_of_a_cpu(sampler: str, tmp_path: Path) -> None:
    """The same seed, the same images, in fp32 and at any batch size."""
    config = train_config(channels=[8, 16], prediction="v")
    facts = {"size": 16, "count": 8, "origin": "test", "dataset": "sprites", "mean": [0.5] * 3, "std": [0.5] * 3}
    file = tmp_path / "ema.safetensors"
    metadata = {"config": config.model_dump(), "step": 1, "kind": "ema", "data": facts, "classes": []}
    save_weights(file, randomised(build_network(config)), metadata)
    here = load(file, "cpu", "fp32").sample(10, sampler, seed=3)
    there = load(file, "cuda", "fp32")
    for batch_size in (10, 4):
        difference = abs(here.astype(int) - there.sample(10, sampler, seed=3, batch_size=batch_size).astype(int))
        assert int(difference.max()) <= 2
        assert float(difference.mean()) < 0.05


def test_flops_are_counted_on_a_gpu_as_on_a_cpu(network: UNet) -> None:
    assert forward_flops(copy.deepcopy(network).to(CUDA), (3, 16, 16)) == forward_flops(network, (3, 16, 16))
