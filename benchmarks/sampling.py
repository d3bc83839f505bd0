"""Images per second of sampling, and the part of the time that is not the network's, taking turns in one process.

  ours, as shipped     ddpm.sampling.fast.prepare and samplers; compiled if that repays the recipe's grid of images
  ours, (not) compiled the other choice
  ours, options off    fp32, neither compiled nor captured
  diffusers, default   UNet2DModel with DDIMScheduler and DPMSolverMultistepScheduler (DPM-Solver++): fp32, eager
  diffusers, as ours   the same with weights in our precision, our memory format and choice of compilation
  lucidrains, default  denoising-diffusion-pytorch's GaussianDiffusion.sample by DDIM: fp32, eager
  lucidrains, as ours  the same under autocast to our precision, with our memory format and choice of compilation

In each round our samplers' whole loop of steps and as many calls of the network alone take turns; `outside` is the part of
the loop's time that the calls alone do not need.
"""

from __future__ import annotations

import argparse
import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.common import Contender, Work, benchmark, measure, options, paired_ratio, total_flops
from benchmarks.networks import diffusers_unet, installed, lucidrains_unet, tuned
from ddpm.base.faults import Fault, faults_reported
from ddpm.machine.compilation import sampling_repays
from ddpm.machine.precision import autocast, resolve_precision
from ddpm.model.schedule import schedule_of
from ddpm.model.unet import build_network
from ddpm.recipe import Recipe
from ddpm.sampling.denoiser import Denoiser
from ddpm.sampling.fast import prepare
from ddpm.sampling.grid import timestep_grid
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.samplers import ddim, ddpm
from ddpm.training.settings import TrainConfig
from tools import positive

CPU_BATCH_SIZE = 64
STEPS = {"cpu": 5, "cuda": 50}
ALONE = "network alone"


def ours(
    function: Callable[..., Tensor], config: TrainConfig, noise: Callable[[], NoiseStreams], steps: int
) -> dict[str, Work]:
    """DDIM and DDPM of ddpm.sampling over a network as a function of x_t and t, and its calls alone."""
    schedule = schedule_of(config)
    denoiser = Denoiser(function, schedule, config.prediction)
    grid = timestep_grid(schedule, steps)
    x_t = noise().draw()
    t = torch.full((len(x_t),), config.num_timesteps // 2, device=x_t.device)

    def loop(sampler: Any) -> None:
        streams = noise()
        for _ in sampler(denoiser, schedule, streams.draw(), grid, streams):
            pass

    @torch.no_grad()
    def alone() -> None:
        for _ in range(steps):
            function(x_t, t)

    return {"DDIM": lambda: loop(ddim), "DDPM": lambda: loop(ddpm), ALONE: alone}


def diffusers_sampling(network: Any, x_t: Tensor, steps: int) -> dict[str, Work]:
    """The loop of diffusers' DDIMPipeline, over its DDIM and its DPM-Solver++ scheduler. `x_t`: in the network's dtype."""
    diffusers = importlib.import_module("diffusers")
    ddim_scheduler, dpm_solver = diffusers.DDIMScheduler(), diffusers.DPMSolverMultistepScheduler()
    network.eval()

    @torch.no_grad()
    def loop(scheduler: Any) -> None:
        scheduler.set_timesteps(steps)
        image = torch.randn_like(x_t)
        for t in scheduler.timesteps:
            # UNet2DModel would move t itself; outside of it, a compiled one can be captured in a CUDA graph.
            image = scheduler.step(network(image, t.to(image.device)).sample, t, image).prev_sample

    return {"DDIM": lambda: loop(ddim_scheduler), "DPM-Solver++": lambda: loop(dpm_solver)}


def lucidrains_sampling(network: nn.Module, x_t: Tensor, num_timesteps: int, steps: int, precision: str) -> dict[str, Work]:
    """GaussianDiffusion.sample by DDIM, as denoising_diffusion_pytorch.Trainer draws its samples."""
    module: Any = importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    module.tqdm = functools.partial(tqdm, disable=True)  # its progress bars would tear ours
    diffusion = module.GaussianDiffusion(network, image_size=x_t.shape[-1], timesteps=num_timesteps, sampling_timesteps=steps)
    diffusion.to(x_t.device).eval()

    def loop() -> None:
        with autocast(precision, x_t.device):
            diffusion.sample(batch_size=len(x_t))

    return {"DDIM": loop}


def contenders(recipe: Recipe, batch_size: int, steps: int, device: torch.device) -> list[Contender]:
    """The rows of the table and our networks alone, named "network: sampler"; the first is ours as shipped, by DDIM."""
    config, size = recipe.train, recipe.data.size
    shape = (3, size, size)
    precision = resolve_precision(config.precision, device)
    found = []

    def add(name: str, network: nn.Module, flops: int, works: dict[str, Work], arithmetic: str, switches: bool = True) -> None:
        parameters = sum(parameter.numel() for parameter in network.parameters())
        for sampler, work in works.items():
            found.append(Contender(f"{name}: {sampler}", work, steps, batch_size, arithmetic, parameters, flops, switches))

    def fresh() -> nn.Module:
        return build_network(config, config.seed).to(device)

    def noise() -> NoiseStreams:
        return NoiseStreams(0, range(batch_size), shape, device)

    flops = total_flops(fresh(), shape)
    # As ddpm.sampling.drawing decides for the grid figure.
    calls = recipe.figures.grid.images * recipe.figures.drawing.chosen().num_steps
    compiled = sampling_repays(calls * flops, device)
    for choice in [compiled, not compiled]:
        if choice and not sampling_repays(float("inf"), device):
            print("ours, compiled, is left out: torch.compile finds no C++ compiler here")
            continue
        label = "as shipped" if choice == compiled else "compiled" if choice else "not compiled"
        network = fresh()
        function = prepare(network, precision, device, choice)
        add(f"ours, {label}", network, flops, ours(function, config, noise, steps), precision)
    network = fresh().eval()
    add("ours, options off", network, flops, ours(network, config, noise, steps), "fp32", False)

    x_t = torch.randn(batch_size, *shape, device=device)
    if installed("diffusers"):
        plain = diffusers_unet(config, size).to(device)
        flops = total_flops(plain, shape)
        add("diffusers, default", plain, flops, diffusers_sampling(plain, x_t, steps), "fp32", False)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        network = tuned(diffusers_unet(config, size).to(dtype), device, compiled, sampling=True)
        add("diffusers, as ours", network, flops, diffusers_sampling(network, x_t.to(dtype), steps), precision)
    if installed("denoising_diffusion_pytorch"):
        plain = lucidrains_unet(config, fused_attention=False).to(device)
        flops = total_flops(plain, shape)
        works = lucidrains_sampling(plain, x_t, config.num_timesteps, steps, "fp32")
        add("lucidrains, default", plain, flops, works, "fp32", False)
        network = tuned(lucidrains_unet(config, fused_attention=precision == "bf16"), device, compiled, sampling=True)
        works = lucidrains_sampling(network, x_t, config.num_timesteps, steps, precision)
        add("lucidrains, as ours", network, flops, works, precision)
    return found


def run(recipe: Recipe, device: torch.device, batch_size: int | None, steps: int | None, rounds: int) -> dict[str, Any]:
    """Measure one recipe's network: a run of the json."""
    batch_size = batch_size or (recipe.figures.drawing.batch_size if device.type == "cuda" else CPU_BATCH_SIZE)
    steps = steps or STEPS[device.type]
    if steps >= recipe.train.num_timesteps:
        raise Fault(f"--steps {steps}: accepted: 1 to {recipe.train.num_timesteps - 1}, less than train.num_timesteps")
    measured = measure(contenders(recipe, batch_size, steps, device), 1, rounds, device)
    alone = {row["name"]: row for row in measured["rows"] if row["name"].endswith(ALONE)}
    rows = [row for row in measured["rows"] if row["name"] not in alone]
    for row in rows:
        row["images_per_second"] = batch_size / (row["median"] * steps)
        if network := alone.get(f"{row['name'].partition(': ')[0]}: {ALONE}"):
            row["network_seconds"], row["network"] = network["seconds"], network["median"]
            row["outside"] = 1 - paired_ratio(network["seconds"], row["seconds"])
    return {"batch_size": batch_size, "steps": steps, **measured, "rows": rows}


def main(args: argparse.Namespace) -> None:
    benchmark("sampling", args, lambda recipe, device: run(recipe, device, args.batch_size, args.steps, args.repeats))


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--steps", type=positive, help="network calls of a sampling (default: 5, on a GPU 50)")
    with faults_reported():
        main(parser.parse_args())
