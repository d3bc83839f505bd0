"""Images per second of training steps: ours, diffusers' and lucidrains', taking turns in one process.

  ours, as shipped     ddpm.training.loop.train with the recipe's own settings
  ours, options off    the same with precision: fp32 and compile: false
  diffusers, default   UNet2DModel in the loop of its unconditional training example: fp32, eager
  diffusers, as ours   the same with our precision, memory format and choice of compilation
  lucidrains, default  denoising-diffusion-pytorch's Unet and GaussianDiffusion in the loop of its Trainer: fp32, eager
  lucidrains, as ours  the same with our precision, memory format and choice of compilation

The peers get ready batches, so that their data loaders are not measured; ours draws, mirrors and scales its own. Accelerate,
which both peers wrap around their steps, is left out: one process on one device needs nothing of it.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import STEPS_A_TURN, Contender, Work, benchmark, measure, options, total_flops
from benchmarks.networks import diffusers_unet, installed, lucidrains_unet, tuned
from ddpm.base.faults import faults_reported
from ddpm.machine.compilation import training_repays
from ddpm.machine.precision import autocast, memory_format, resolve_precision
from ddpm.model.pixels import to_float
from ddpm.model.unet import build_network
from ddpm.recipe import Recipe
from ddpm.training.loop import new_state, train
from ddpm.training.settings import TrainConfig

CPU_BATCH_SIZE = 16
PASSES = 3  # forward, and a backward pass that takes twice its multiplications
ENDLESS = 1_000_000  # steps: the measurement ends before


def ours(config: TrainConfig, images: Tensor, device: torch.device) -> Work:
    """A training step as the train stage takes it. `images`: uint8 (N, H, W, C)."""
    steps = train(new_state(config, device), images, config)
    return lambda: next(steps)


class Peer(NamedTuple):
    """A training of another library."""

    step: Callable[[], float]  # returns the loss
    averaged: Callable[[], Any]  # the network with its averaged weights, in the library's own wrapping


def diffusers_training(
    network: Any, config: TrainConfig, batches: Iterator[Tensor], precision: str, steps: int = ENDLESS, lr: float = 1e-4
) -> Peer:
    """diffusers' examples/unconditional_image_generation/train_unconditional.py with --use_ema: a step is all from the
    noise to the logged loss. `batches`: float32 (B, C, H, W) in [-1, 1]."""
    diffusers = importlib.import_module("diffusers")
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=config.num_timesteps)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    lr_scheduler = importlib.import_module("diffusers.optimization").get_scheduler(
        "cosine", optimizer=optimizer, num_warmup_steps=min(500, steps // 10), num_training_steps=steps
    )
    ema = importlib.import_module("diffusers.training_utils").EMAModel(
        network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4
    )
    network.train()

    def step() -> float:
        x0 = next(batches)
        noise = torch.randn_like(x0)
        timesteps = torch.randint(0, config.num_timesteps, (len(x0),), device=x0.device)
        noisy = scheduler.add_noise(x0, noise, timesteps)
        with autocast(precision, x0.device):
            output = network(noisy, timesteps).sample
        loss = F.mse_loss(output.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(network.parameters())
        return loss.item()

    def averaged() -> Any:
        ema.copy_to(network.parameters())
        return network

    return Peer(step, averaged)


def lucidrains_training(
    network: nn.Module, config: TrainConfig, batches: Iterator[Tensor], size: int, precision: str, lr: float = 1e-4
) -> Peer:
    """denoising_diffusion_pytorch.Trainer with its defaults. `batches`: float32 (B, C, `size`, `size`) in [0, 1]."""
    package, device = importlib.import_module("denoising_diffusion_pytorch"), next(network.parameters()).device
    diffusion = package.GaussianDiffusion(network, image_size=size, timesteps=config.num_timesteps)
    diffusion.to(device).train()
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=lr, betas=(0.9, 0.99))
    ema = importlib.import_module("ema_pytorch").EMA(diffusion, beta=0.995, update_every=10).to(device)

    def step() -> float:
        with autocast(precision, device):
            loss = diffusion(next(batches))
        value = loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        return value

    return Peer(step, lambda: ema.ema_model)


def contenders(recipe: Recipe, batch_size: int, device: torch.device) -> list[Contender]:
    """The rows of the table; the first is ours as shipped."""
    size, shape = recipe.data.size, (3, recipe.data.size, recipe.data.size)
    precision = resolve_precision(recipe.train.precision, device)
    steps = STEPS_A_TURN[device.type]
    found = []

    def add(
        name: str, network: nn.Module, flops: int, work: Callable[[], object], arithmetic: str, switches: bool = True
    ) -> None:
        def turn() -> None:
            for _ in range(steps):
                work()

        parameters = sum(parameter.numel() for parameter in network.parameters())
        found.append(Contender(name, turn, steps, batch_size, arithmetic, parameters, flops, switches))

    asked = recipe.train
    network: nn.Module = build_network(asked, asked.seed)
    flops = total_flops(network, shape)
    compiled = asked.compile
    if compiled == "auto":  # as ddpm.training.loop decides for the whole training
        compiled = training_repays(PASSES * flops * asked.batch_size * asked.steps, device)
    config = asked.model_copy(update={"batch_size": batch_size, "steps": ENDLESS, "compile": compiled, "threads": 0})
    off = config.model_copy(update={"precision": "fp32", "compile": False})
    images = torch.randint(0, 256, (512, size, size, 3), dtype=torch.uint8).to(device)
    add("ours, as shipped", network, flops, ours(config, images, device), precision)
    add("ours, options off", network, flops, ours(off, images, device), "fp32", False)

    x0 = to_float(images[torch.arange(batch_size, device=device) % len(images)]).contiguous()
    x0_tuned = x0.contiguous(memory_format=memory_format(device))
    if installed("diffusers"):
        plain = diffusers_unet(config, size).to(device)
        flops = total_flops(plain, shape)
        peer = diffusers_training(plain, config, itertools.repeat(x0), "fp32")
        add("diffusers, default", plain, flops, peer.step, "fp32", False)
        network = tuned(diffusers_unet(config, size), device, compiled, sampling=False)
        peer = diffusers_training(network, config, itertools.repeat(x0_tuned), precision)
        add("diffusers, as ours", network, flops, peer.step, precision)
    if installed("denoising_diffusion_pytorch"):
        plain = lucidrains_unet(config, fused_attention=False).to(device)
        flops = total_flops(plain, shape)
        peer = lucidrains_training(plain, config, itertools.repeat((x0 + 1) / 2), size, "fp32")
        add("lucidrains, default", plain, flops, peer.step, "fp32", False)
        network = tuned(lucidrains_unet(config, fused_attention=precision == "bf16"), device, compiled, sampling=False)
        peer = lucidrains_training(network, config, itertools.repeat((x0_tuned + 1) / 2), size, precision)
        add("lucidrains, as ours", network, flops, peer.step, precision)
    return found


def run(recipe: Recipe, device: torch.device, batch_size: int | None, rounds: int) -> dict[str, Any]:
    """Measure one recipe's network: a run of the json."""
    batch_size = batch_size or (recipe.train.batch_size if device.type == "cuda" else CPU_BATCH_SIZE)
    measured = measure(contenders(recipe, batch_size, device), PASSES, rounds, device, warmup=2)
    for row in measured["rows"]:
        row["images_per_second"] = batch_size / row["median"]
    return {"batch_size": batch_size, **measured}


def main(args: argparse.Namespace) -> None:
    benchmark("training", args, lambda recipe, device: run(recipe, device, args.batch_size, args.repeats))


if __name__ == "__main__":
    with faults_reported():
        main(options(__doc__).parse_args())
