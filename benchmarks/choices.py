"""What ours was chosen from: a bare training step of our network in each memory order, eager and compiled, with a matrix
product for each block's time shift instead of one for all, and upsampled by F.interpolate. The first row is what ships where
nothing is compiled.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import Contender, Work, benchmark, measure, options, total_flops
from benchmarks.training import CPU_BATCH_SIZE, PASSES
from ddpm.base.faults import faults_reported
from ddpm.machine.precision import autocast, memory_format, resolve_precision
from ddpm.model.unet import BilinearDoubling, UNet, build_network, timestep_embedding
from ddpm.recipe import Recipe
from ddpm.training.settings import TrainConfig


class OneByOne(UNet):
    """The network with a matrix product for each residual block's shift."""

    def shifts(self, t: Tensor, context: Tensor | None = None) -> Iterator[Tensor | None]:
        emb = self.time(timestep_embedding(t, self.time_emb_dim))
        return iter([None if block.time is None else block.time(emb)[:, :, None, None] for block in self._in_order])


class Interpolated(BilinearDoubling):
    """Upsampling by F.interpolate."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear")


def with_shift_products(network: UNet) -> None:
    network.__class__ = OneByOne


def with_interpolate(network: UNet) -> None:
    for module in network.modules():
        if isinstance(module, BilinearDoubling):
            module.__class__ = Interpolated


OTHERS = {"": lambda network: None, ", a product a block": with_shift_products, ", F.interpolate": with_interpolate}


def step(network: nn.Module, function: Any, config: TrainConfig, x_t: Tensor) -> Work:
    """Forward and backward pass, clipping and AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, fused=True)
    t = torch.randint(1, config.num_timesteps + 1, (len(x_t),), device=x_t.device)
    target = torch.randn_like(x_t)

    def work() -> None:
        with autocast(config.precision, x_t.device):
            out = function(x_t, t)
        F.mse_loss(out.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()

    return work


def run(recipe: Recipe, device: torch.device, batch_size: int | None, rounds: int) -> dict[str, Any]:
    """Measure one recipe's network: a run of the json."""
    config, size = recipe.train, recipe.data.size
    batch_size = batch_size or (config.batch_size if device.type == "cuda" else CPU_BATCH_SIZE)
    precision = resolve_precision(config.precision, device)
    names = {torch.contiguous_format: "contiguous", torch.channels_last: "channels_last"}
    shipped = memory_format(device)
    (other,) = set(names) - {shipped}
    found = []
    plain = [(order, compiled, "") for compiled in (False, True) for order in (shipped, other)]
    for order, compiled, change in [*plain, *((shipped, False, change) for change in OTHERS if change)]:
        network = build_network(config, config.seed).to(device).to(memory_format=order)
        OTHERS[change](network)
        x_t = torch.randn(batch_size, 3, size, size, device=device).to(memory_format=order)
        flops = total_flops(network, (3, size, size))
        work = step(network, torch.compile(network) if compiled else network, config, x_t)
        name = f"{names[order]}, {'compiled' if compiled else 'eager'}{change}"
        parameters = sum(parameter.numel() for parameter in network.parameters())
        found.append(Contender(name, work, 1, batch_size, precision, parameters, flops))
    measured = measure(found, PASSES, rounds, device, warmup=2)
    for row in measured["rows"]:
        row["images_per_second"] = batch_size / row["median"]
    return {"batch_size": batch_size, **measured}


def main(args: argparse.Namespace) -> None:
    benchmark("choices", args, lambda recipe, device: run(recipe, device, args.batch_size, args.repeats))


if __name__ == "__main__":
    with faults_reported():
        main(options(__doc__).parse_args())
