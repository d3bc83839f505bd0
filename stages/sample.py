"""Draw samples from a shared or trained checkpoint: a grid, or an array for evaluation.

examples:
  python -m stages.sample cifar10                                   64 images by DDIM, 100 steps, EMA weights
  python -m stages.sample celeba --scale small --per-row 4          16 faces from the checkpoint trained on real ones
  python -m stages.sample cifar10 --method ddpm --seed 7 --out grid.png
  torchrun --nproc-per-node=2 -m stages.sample cifar10 --images 10000 --out images.npy
                                                                    uint8 (10000, 32, 32, 3), drawn by two processes
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ddpm import distributed
from ddpm.images import save_grid
from ddpm.timing import pick_device
from stages.common import ROOT, SCALES, Fault, Paths, fault_to_exit
from stages.drawing import Checkpoint, Sampler, ema_checkpoint, raw_checkpoints

BATCH_SIZE = 64  # images a network call: bounds the memory


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: accepted: 1 or more")
    return value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="cifar10, celeba, or another recipe that has checkpoints")
    parser.add_argument("--scale", choices=SCALES, default="demo", help="whose checkpoint (default: demo)")
    parser.add_argument("--method", choices=["ddim", "ddpm"], default="ddim", help="default: ddim")
    parser.add_argument("--steps", type=positive, help="network calls (default: 100 for ddim, all T for ddpm)")
    parser.add_argument("--images", type=positive, help="how many (default: the square of --per-row)")
    parser.add_argument("--per-row", type=positive, help="images a row of the grid (default: 8 up to 32 pixels, else 4)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same images (default: 0)")
    parser.add_argument("--weights", choices=["ema", "raw"], default="ema", help="default: ema")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--out", type=Path, help="a .png or .npy (default: samples/<scale>-<recipe>-<method>.png)")
    args = parser.parse_args()
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed {args.seed}: accepted: 0 to 2**32 - 1")
    if args.out is not None and args.out.suffix not in (".png", ".npy"):
        parser.error(f"--out {args.out}: accepted: a file name that ends in .png or .npy")
    return args


def main(args: argparse.Namespace) -> None:
    paths = Paths(args.scale, args.recipe)
    path = ema_checkpoint(paths) if args.weights == "ema" else raw_checkpoints(paths)[-1]
    try:
        device = pick_device(args.device, distributed.local_rank())
    except ValueError as error:
        raise Fault(f"--device {error}") from None
    checkpoint = Checkpoint(path, device)
    longest = checkpoint.config.num_timesteps
    steps = args.steps or (min(100, longest) if args.method == "ddim" else longest)
    if steps > longest:
        raise Fault(f"--steps {steps}: accepted: 1 to {longest}, the timesteps this checkpoint was trained with")
    # The variance that suits the number of steps: they cross between 200 and 400 (Bao et al. 2022, arXiv 2201.06503).
    sampler = Sampler(args.method, steps, eta=0.0, variance="large" if steps > 300 else "small")
    per_row = args.per_row or (8 if checkpoint.shape[-1] <= 32 else 4)
    with distributed.process_group(device):
        images = checkpoint.draw(sampler, args.seed, args.images or per_row**2, BATCH_SIZE)
        if distributed.rank() > 0:
            return
    out = args.out or ROOT / "samples" / f"{args.scale}-{args.recipe}-{args.method}.png"
    if out.suffix == ".npy":
        out.parent.mkdir(parents=True, exist_ok=True)
        np.save(out, images)
    else:
        save_grid(out, images, per_row)
    facts = checkpoint.metadata["data"]
    print(f"wrote {out}: {len(images)} images, {sampler.label}, {args.weights} weights of step {checkpoint.step}")
    print(f"trained on {facts['count']} images: {facts['origin']}")


if __name__ == "__main__":
    with fault_to_exit():
        main(arguments())
