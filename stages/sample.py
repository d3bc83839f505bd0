"""Draw from a shared or trained checkpoint: samples, animations of their making, and changes of given images.

examples:
  python -m stages.sample cifar10                                      64 images by DDIM, 100 steps, EMA weights
  python -m stages.sample celeba --scale small --per-row 4             16 faces from the checkpoint trained on real ones
  python -m stages.sample cifar10 --method dpm_solver_pp --steps 20 --spacing logsnr
  python -m stages.sample sprites --class food spell --guidance 4      a class by name; or --context 0.5,0,0,0.5,0
  python -m stages.sample sprites --method ddpm --out path.gif         the way from noise to image; wrong: --method wrong
  torchrun --nproc-per-node=2 -m stages.sample cifar10 --images 10000 --out images.npy
                                                                       uint8 (10000, 32, 32, 3), drawn by two processes
  python -m stages.sample celeba --mode interpolate --seed 3 --seed-to 4
  python -m stages.sample celeba --mode interpolate --image a.png b.png
  python -m stages.sample celeba --mode reconstruct --image a.png      encoded to noise (DDIM inversion) and back
  python -m stages.sample celeba --mode edit --image a.png --strength 0.5
  python -m stages.sample celeba --mode inpaint --image a.png --mask 8,16,24,28 --method ddpm
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ddpm import distributed
from ddpm.data import to_float
from ddpm.editing import edit_start, encode, inpainting, noised, slerp
from ddpm.images import normalised, save_gif, save_grid, to_uint8
from ddpm.samplers import Denoise, NoiseStreams
from ddpm.timing import pick_device
from stages.common import ROOT, SCALES, Fault, Paths, fault_to_exit
from stages.drawing import LABELS, Checkpoint, Condition, Sampler, ema_checkpoint, raw_checkpoints
from stages.path import watched

BATCH_SIZE = 64  # images a network call: bounds the memory
MODES = ("generate", "reconstruct", "interpolate", "inpaint", "edit")
DETERMINISTIC = ("ddim", "dpm_solver_pp", "unipc", "heun")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: accepted: 1 or more")
    return value


def numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted: numbers with commas between them, as in 0.5,0,0,0.5,0") from None


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m stages.sample", description=__doc__, formatter_class=formatter)
    parser.add_argument("recipe", nargs="?", help="a recipe that has checkpoints; not needed with --checkpoint")

    what = parser.add_argument_group("what to draw")
    what.add_argument("--mode", choices=MODES, default="generate", help="default: generate")
    what.add_argument("--images", type=positive, help="how many (default: the square of --per-row; with an image, --per-row)")
    what.add_argument("--per-row", type=positive, help="images a row of the grid (default: 8 up to 32 pixels, else 4)")
    what.add_argument("--seed", type=int, default=0, help="the same seed draws the same images (default: 0)")
    what.add_argument("--class", nargs="+", dest="classes", metavar="CLASS", help="names or numbers of classes, drawn in turn")
    what.add_argument("--context", type=numbers, help="the context itself: a number for each class, fractions allowed")
    what.add_argument("--guidance", type=float, help="guidance scale, 1 = none (default: 2 for a conditional checkpoint)")

    how = parser.add_argument_group("how to sample")
    how.add_argument("--method", choices=list(LABELS), default="ddim", help="default: ddim; wrong = ddpm without its noise")
    how.add_argument("--steps", type=positive, help="network calls (default: all T for ddpm and wrong, else 100)")
    how.add_argument("--spacing", choices=["uniform", "quadratic", "logsnr"], default="uniform", help="default: uniform")
    how.add_argument("--eta", type=float, help="of ddim: 0, deterministic (the default), to 1, as much noise as ddpm")
    how.add_argument("--variance", choices=["small", "large"], help="of ddpm (default: large above 300 steps, else small)")

    given = parser.add_argument_group("given images (every mode but generate)")
    given.add_argument("--image", nargs="+", type=Path, metavar="FILE", help="one image, for interpolate two")
    given.add_argument("--seed-to", type=int, help="interpolate: the seed at the other end, instead of images")
    given.add_argument("--mask", help="inpaint: a picture, white where to draw anew, or a box LEFT,TOP,RIGHT,BOTTOM in pixels")
    given.add_argument("--strength", type=float, help="edit: share of the noising that is undone, above 0 to 1 (default: 0.5)")

    checkpoint = parser.add_argument_group("checkpoint and machine")
    checkpoint.add_argument("--scale", choices=SCALES, default="demo", help="whose checkpoint (default: demo)")
    checkpoint.add_argument("--weights", choices=["ema", "raw"], help="default: ema")
    checkpoint.add_argument("--checkpoint", type=Path, help="a .safetensors file instead of a recipe's")
    checkpoint.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    checkpoint.add_argument("--precision", choices=["auto", "fp32", "bf16"], help="default: as it was trained")
    checkpoint.add_argument("--out", type=Path, help=".png, .gif or .npy (default: samples/<scale>-<recipe>-<method>.png)")

    args = parser.parse_args()
    check(args, parser)
    return args


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a message that says what would be right if the arguments contradict each other."""
    for name in ("seed", "seed_to"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < 2**32:
            parser.error(f"--{name.replace('_', '-')} {value}: accepted: 0 to 2**32 - 1")
    if args.out is not None and args.out.suffix not in (".png", ".gif", ".npy"):
        parser.error(f"--out {args.out}: accepted: a file name that ends in .png, .gif or .npy")
    if (args.recipe is None) == (args.checkpoint is None):
        parser.error("accepted: a recipe, or --checkpoint FILE, and not both")
    if args.checkpoint is not None and args.weights is not None:
        parser.error("--weights chooses between a recipe's checkpoints; --checkpoint names one: accepted: one of the two")
    if args.eta is not None and (args.method != "ddim" or not 0 <= args.eta <= 1):
        parser.error(f"--eta {args.eta} with --method {args.method}: accepted: 0 to 1, with --method ddim")
    if args.variance is not None and args.method != "ddpm":
        parser.error(f"--variance {args.variance} with --method {args.method}: accepted with --method ddpm")
    if args.classes is not None and args.context is not None:
        parser.error("--class and --context both say what to draw: accepted: one of the two")
    if args.guidance is not None and args.guidance < 0:
        parser.error(f"--guidance {args.guidance}: accepted: 0 or more")
    only = {"mask": "inpaint", "strength": "edit", "seed_to": "interpolate"}
    for name, mode in only.items():
        if getattr(args, name) is not None and args.mode != mode:
            parser.error(f"--{name.replace('_', '-')} with --mode {args.mode}: accepted with --mode {mode}")
    wanted = {"generate": 0, "interpolate": 0 if args.seed_to is not None else 2}.get(args.mode, 1)
    if len(args.image or []) != wanted:
        instead = ", or --seed-to instead of images" if args.mode == "interpolate" else ""
        parser.error(f"--image: {len(args.image or [])} given with --mode {args.mode}; accepted: {wanted}{instead}")
    if args.mode == "inpaint" and args.mask is None:
        parser.error("--mode inpaint: accepted with --mask: a picture, white where to draw anew, or LEFT,TOP,RIGHT,BOTTOM")
    if args.strength is not None and not 0 < args.strength <= 1:
        parser.error(f"--strength {args.strength}: accepted: above 0, at most 1")
    if args.mode in ("reconstruct", "interpolate") and (args.method not in DETERMINISTIC or args.eta):
        parser.error(
            f"--mode {args.mode} follows the ODE, {args.method}{' with --eta' if args.eta else ''} adds noise to it: accepted: "
            f"--method {', '.join(DETERMINISTIC)}, with eta 0"
        )


def condition_of(args: argparse.Namespace, checkpoint: Checkpoint, count: int) -> Condition:
    """What the arguments ask of `count` images. Raises Fault if the checkpoint cannot be asked for it."""
    classes = checkpoint.classes
    for name, value in (("class", args.classes), ("context", args.context), ("guidance", args.guidance)):
        if value is not None and not classes:
            raise Fault(f"--{name}: this checkpoint is unconditional; accepted with one trained with train.context_dim above 0")
    guidance = 2.0 if args.guidance is None else args.guidance
    if args.context is not None:
        if len(args.context) != len(classes):
            raise Fault(f"--context has {len(args.context)} numbers; accepted: {len(classes)}, for {', '.join(classes)}")
        return Condition(torch.tensor([args.context]).expand(count, -1), guidance)
    if args.classes is None:
        return checkpoint.in_turn(count, guidance)
    labels = []
    for name in args.classes:
        if name not in classes and not (name.isdecimal() and int(name) < len(classes)):
            raise Fault(f"--class {name}: accepted: {', '.join(classes)}, or 0 to {len(classes) - 1}")
        labels.append(classes.index(name) if name in classes else int(name))
    return checkpoint.condition([labels[index % len(labels)] for index in range(count)], guidance)


def read_image(path: Path, checkpoint: Checkpoint) -> Tensor:
    """The picture `path`, its middle square at the checkpoint's size: float32 (1, C, H, W) in [-1, 1]. Raises Fault."""
    channels, size, _ = checkpoint.shape
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB" if channels == 3 else "L"), (size, size), Image.Resampling.BICUBIC)
    except (OSError, UnidentifiedImageError) as error:
        raise Fault(f"--image {path}: {error}; accepted: a picture such as a .png or .jpg") from None
    pixels = np.asarray(square).reshape(1, size, size, channels)
    return to_float(torch.from_numpy(pixels.copy())).contiguous().to(checkpoint.device)


def read_mask(text: str, checkpoint: Checkpoint) -> Tensor:
    """1 where the image is kept, 0 where it is drawn anew: float32 (1, 1, H, W). Raises Fault."""
    size = checkpoint.shape[-1]
    mask = torch.ones(1, 1, size, size, device=checkpoint.device)
    if Path(text).exists():
        mask[0, 0] = (read_image(Path(text), checkpoint)[0].mean(0) <= 0).float()
        return mask
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        left = top = right = bottom = 0
    if not (0 <= left < right <= size and 0 <= top < bottom <= size):
        raise Fault(f"--mask {text}: accepted: a picture, or LEFT,TOP,RIGHT,BOTTOM within 0 to {size}, as in 8,8,24,24")
    mask[..., top:bottom, left:right] = 0
    return mask


class Work(NamedTuple):
    """A sampling that starts from something given."""

    x_t: Tensor
    start: int | None  # the step of x_t, None = T
    denoiser: Denoise
    before: list[np.ndarray]  # pictures to show before the results, each uint8 (1, H, W, C)


def prepared(
    args: argparse.Namespace, checkpoint: Checkpoint, sampler: Sampler, noise: NoiseStreams, condition: Condition
) -> Work:
    """The start of the sampling that args.mode asks for; encodes images where it takes their noise."""
    count, schedule = len(noise.generators), checkpoint.schedule
    context = condition.rows(range(count), checkpoint.device)
    denoiser: Denoise = checkpoint.denoiser(count * sampler.num_steps, context, condition.guidance)
    images = [read_image(path, checkpoint) for path in args.image or []]
    before = [to_uint8(image) for image in images]
    x_t, start = noise.draw(), None
    if args.mode in ("reconstruct", "interpolate"):
        # One image each, and its own condition, as the first of those that are drawn.
        first = checkpoint.denoiser(sampler.num_steps, None if context is None else context[:1], condition.guidance)
        grid = sampler.grid(schedule)
        ends = [list(encode(first, schedule, image, grid))[-1].x_t for image in images]
        if args.mode == "reconstruct":
            return Work(ends[0].expand(count, -1, -1, -1).contiguous(), None, denoiser, [*before, normalised(ends[0])])
        ends = ends or [checkpoint.noise(seed, range(1)).draw() for seed in (args.seed, args.seed_to)]
        x_t = slerp(ends[0][0], ends[1][0], torch.linspace(0, 1, count, device=x_t.device))
    elif args.mode == "inpaint":
        mask = read_mask(args.mask, checkpoint)
        denoiser = inpainting(denoiser, images[0], mask)
        before = [to_uint8(images[0] * mask + (1 - mask))]
    elif args.mode == "edit":
        start = edit_start(schedule.num_timesteps, args.strength or 0.5)
        x_t = noised(schedule, images[0].expand_as(x_t), start, x_t)
    return Work(x_t, start, denoiser, before)


def drawn(
    args: argparse.Namespace, checkpoint: Checkpoint, sampler: Sampler, count: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The images, uint8 (N, H, W, C), given ones first; and, for a .gif, the frames of their making."""
    condition = condition_of(args, checkpoint, count)
    animated = args.out is not None and args.out.suffix == ".gif"
    if args.mode == "generate" and not animated:
        return checkpoint.draw(sampler, args.seed, count, BATCH_SIZE, condition), []
    if count > BATCH_SIZE:
        raise Fault(f"--images {count}: accepted: at most {BATCH_SIZE} in an animation or with --mode {args.mode}")
    if distributed.world_size() > 1:
        raise Fault("several processes share --mode generate to a .png or .npy; accepted here: one process")
    noise = checkpoint.noise(args.seed, range(count))
    work = prepared(args, checkpoint, sampler, noise, condition)
    states = sampler.run(work.denoiser, checkpoint.schedule, work.x_t, noise, work.start)
    steps = len(sampler.grid(checkpoint.schedule, work.start)) - 1
    frames = [x_t for _, x_t, _ in watched(states, steps, sampler.label)]
    return np.concatenate([*work.before, frames[-1]]), frames


def main(args: argparse.Namespace) -> None:
    try:
        device = pick_device(args.device, distributed.local_rank())
    except ValueError as error:
        raise Fault(f"--device {error}") from None
    path = args.checkpoint
    if path is None:
        paths = Paths(args.scale, args.recipe)
        path = raw_checkpoints(paths)[-1] if args.weights == "raw" else ema_checkpoint(paths)
    checkpoint = Checkpoint(path, device, args.precision)
    longest = checkpoint.config.num_timesteps
    steps = args.steps or (longest if args.method in ("ddpm", "wrong") else min(100, longest))
    if args.mode == "edit":  # so many steps as lie below the noise that the image is given
        longest = edit_start(longest, args.strength or 0.5)
        steps = args.steps or min(steps, longest)
    if steps > longest:
        raise Fault(f"--steps {steps}: accepted: 1 to {longest}, the timesteps from its start to the image")
    # The variance that suits the number of steps: they cross between 200 and 400 (Bao et al. 2022, arXiv 2201.06503).
    variance: Any = args.variance or ("large" if steps > 300 else "small")
    sampler = Sampler(args.method, steps, eta=args.eta or 0.0, variance=variance, spacing=args.spacing)
    per_row = args.per_row or (8 if checkpoint.shape[-1] <= 32 else 4)
    count = args.images or (per_row**2 if args.mode == "generate" else 1 if args.mode == "reconstruct" else per_row)
    with distributed.process_group(device):
        images, frames = drawn(args, checkpoint, sampler, count)
        if distributed.rank() > 0:
            return
    name = args.recipe or path.stem
    out = args.out or ROOT / "samples" / f"{args.scale}-{name}-{args.method if args.mode == 'generate' else args.mode}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        np.save(out, images)
    elif out.suffix == ".gif":
        save_gif(out, frames, per_row)
    else:
        save_grid(out, images, per_row)
    facts = checkpoint.metadata["data"]
    kind = checkpoint.metadata["kind"]
    print(f"wrote {out}: {len(images)} images, {sampler.label}, {kind} weights of step {checkpoint.step}")
    print(f"trained on {facts['count']} images: {facts['origin']}")


if __name__ == "__main__":
    with fault_to_exit():
        main(arguments())
