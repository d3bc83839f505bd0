"""Do holes fit their surroundings better when they are drawn again (RePaint)? Distances on held-out images, as a table.

Each held-out image loses its middle, half as wide and high, and a model fills it: once with few and with as many network
calls as the others take, and several times by pieces of different lengths. The distance of the filled from the true image
is measured in the rim of the hole, where the surroundings say what must be there, and in the whole hole.

Needs a checkpoint and the packed held-out images (the stage preprocess makes them). No image is written.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.report import aligned
from ddpm.base.faults import faults_reported
from ddpm.base.progress import progress_bar
from ddpm.editing import inpainting, resampled, resampling, rim
from ddpm.model.pixels import to_float
from ddpm.sampling import Model, load
from ddpm.sampling.drawing import BATCH_SIZE
from ddpm.sampling.samplers import ddpm
from ddpm.sampling.settings import sampler_of
from stages import SCALES, Paths
from stages.packed import heldout_images
from tools import positive

RIM = 3  # pixels


class Way(NamedTuple):
    """A way to fill a hole: DDPM of so many steps, each piece of `jump` steps `times` times."""

    steps: int
    times: int
    jump: int


def ways(steps: int, times: int) -> list[Way]:
    """Those that are compared; the second takes as many network calls as those after it."""
    return [Way(steps, 1, 1), Way(1 + times * (steps - 1), 1, 1), *(Way(steps, times, jump) for jump in (1, 5, 10))]


def distances(model: Model, images: np.ndarray, way: Way, seed: int) -> np.ndarray:
    """Root mean square distances of the filled from the true `images`, uint8 (N, H, W, C), in units of the full range:
    float64 (2, N), in the rim of the hole and in all of it.
    """
    size, found = images.shape[1], []
    mask = torch.ones(1, 1, size, size, device=model.device)
    mask[..., size // 4 : size - size // 4, size // 4 : size - size // 4] = 0
    places = [place.expand(1, model.shape[0], size, size)[0] for place in (rim(mask, RIM), mask == 0)]
    sampler = sampler_of(f"ddpm {way.steps}")
    pieces = resampling(sampler.grid(model.schedule), way.times, way.jump)
    label = f"{way.steps} steps, {way.times} times, jump {way.jump}"
    with progress_bar(total=len(images) * sum(len(piece) - 1 for piece in pieces), desc=label, unit=" image steps") as bar:
        for first in range(0, len(images), BATCH_SIZE):
            x0 = to_float(torch.from_numpy(np.array(images[first : first + BATCH_SIZE]))).contiguous().to(model.device)
            noise = model.noise(seed, range(first, first + len(x0)))
            denoiser = inpainting(model.denoiser(), x0, mask)
            walk = partial(ddpm, denoiser, model.schedule, noise=noise, variance=sampler.variance)
            for state in resampled(walk, model.schedule, noise.draw(), pieces, noise):
                x_t = state.x_t
                bar.update(len(x0))
            square = ((x_t - x0).double() / 2).square()
            found.append(torch.stack([square[:, place].mean(1).sqrt() for place in places]).cpu().numpy())
    joined: np.ndarray = np.concatenate(found, axis=1)
    return joined


def table(measured: dict[Way, np.ndarray]) -> str:
    """A Markdown table: means over the images, and how much nearer than by the first way, image by image."""
    rows = [["steps", "times", "jump", "network calls", "rim", "hole", "rim, less than the first"]]
    first = next(iter(measured.values()))
    for way, found in measured.items():
        less = (first - found)[0]
        error = less.std(ddof=1) / len(less) ** 0.5 if len(less) > 1 else float("nan")
        gained = "" if found is first else f"{less.mean():.4f} ± {error:.4f}"
        calls = str(1 + way.times * (way.steps - 1))
        rows.append([*map(str, way), calls, *(f"{mean:.4f}" for mean in found.mean(1)), gained])
    return aligned(rows)


def main(args: argparse.Namespace) -> None:
    paths = Paths(args.scale, args.recipe)
    model, images = load(paths.ema, args.device), heldout_images(paths)[0][: args.images]
    measured = {way: distances(model, images, way, args.seed) for way in ways(args.steps, args.times)}
    print(f"\n{len(images)} held-out images of {args.recipe} ({args.scale})\n")
    print(table(measured))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="small", help="default: small")
    parser.add_argument("--recipe", default="celeba", help="default: celeba")
    parser.add_argument("--images", type=positive, default=32, help="default: 32")
    parser.add_argument("--steps", type=positive, default=50, help="of DDPM (default: 50)")
    parser.add_argument("--times", type=positive, default=5, help="default: 5")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    with faults_reported():
        main(parser.parse_args())
