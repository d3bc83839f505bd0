"""Draw from a shared or trained checkpoint: samples, animations of their making, and changes of given images.

examples:
  python -m tools.sample --list                                       the checkpoints that are here, or can be fetched
  python -m tools.sample cifar10                                      64 images by UniPC, 20 network calls, EMA weights
  python -m tools.sample celeba --scale small --per-row 4             16 faces from the checkpoint trained on real ones
  python -m tools.sample cifar10 --method dpm_solver_pp --steps 15    by another sampler
  python -m tools.sample sprites --class food spell --guidance 4      a class by name; or --context 0.5,0,0,0.5,0
  python -m tools.sample sprites --method ddpm --out path.gif         the way from noise to image; wrong: --method wrong
  torchrun --nproc-per-node=2 -m tools.sample cifar10 --images 10000 --out images.npy
                                                                      uint8 (10000, 32, 32, 3), drawn by two processes
  python -m tools.sample celeba --mode interpolate --seed 3 --seed-to 4
  python -m tools.sample celeba --mode interpolate --image a.png b.png
  python -m tools.sample celeba --mode reconstruct --image a.png      encoded to noise (DDIM inversion) and back
  python -m tools.sample celeba --mode edit --image a.png --strength 0.5
  python -m tools.sample celeba --mode inpaint --image a.png --mask 8,16,24,28 --method ddpm --steps 50 --times 5
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import amount, check_regular, free_bytes, whole_file
from ddpm.data.folder import FORMATS, as_seen
from ddpm.editing import edit_start, encode, inpainting, noised, resampled, resampling, slerp
from ddpm.figures.pictures import TARGET_WIDTH, Row, rms_distance, save_gif, save_grid, save_labelled_rows
from ddpm.machine import distributed
from ddpm.model.pixels import normalised, to_float, to_uint8
from ddpm.model.weights import load_network
from ddpm.sampling import Model, load
from ddpm.sampling.denoiser import Denoise
from ddpm.sampling.drawing import GUIDANCE, SAMPLER, Shown, watched
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.samplers import METHODS, SampleState, ddpm
from ddpm.sampling.settings import SPACINGS, Sampler, sampler_of
from stages import ROOT, SCALES, Paths, load_params, params_file, shown
from tools import check_out, dvc, name_of, positive
from tools.revisions import read_object

MAX_PIXELS = 64_000_000  # of a picture that is given
MAX_IMAGES = 1_000_000  # that are drawn: a .npy of CIFAR-10's size then has 3 GB
MAX_SHOWN = 10_000  # in a picture, which of 64 pixels then takes as much as a photograph of 60 megapixels
BATCH_SIZE = 64  # images a network call: bounds the memory
SOLVER = sampler_of(SAMPLER)  # the method that draws where none is asked for, and the steps of all methods of higher order
JUMP = 5  # steps of a piece that is drawn again: long enough to change, short enough not to lose what fits
MODES = ("generate", "reconstruct", "interpolate", "inpaint", "edit")


def numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted: numbers with commas between them, as in 0.5,0,0,0.5,0") from None


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.sample", description=__doc__, formatter_class=formatter)
    parser.add_argument("recipe", nargs="?", help="a recipe that has checkpoints; not needed with --checkpoint")

    what = parser.add_argument_group("what to draw")
    what.add_argument("--mode", choices=MODES, default="generate", help="default: generate")
    many = "how many (default: the square of --per-row; of given images --per-row, with reconstruct 1)"
    what.add_argument("--images", type=positive, help=many)
    what.add_argument("--per-row", type=positive, help="images a row of the grid (default: 8 up to 32 pixels, else 4)")
    what.add_argument("--seed", type=int, default=0, help="the same seed draws the same images (default: 0)")
    what.add_argument("--class", nargs="+", dest="classes", metavar="CLASS", help="names or numbers of classes, drawn in turn")
    what.add_argument("--context", type=numbers, help="the context itself: a number for each class, fractions allowed")
    what.add_argument("--guidance", type=float, help="guidance scale, 1 = none (default: 2 for a conditional checkpoint)")
    away = "scale of guidance away from weights of an earlier step, for twice the time; 1 = none (default)"
    what.add_argument("--autoguidance", type=float, default=1.0, help=away)

    how = parser.add_argument_group("how to sample")
    method = f"default: {SOLVER.method}, but ddim of given images and with --eta; wrong = ddpm without its noise"
    how.add_argument("--method", choices=list(METHODS), help=method)
    steps = f"network calls (default: all T of ddpm and wrong, 100 of ddim, else {SOLVER.num_steps})"
    how.add_argument("--steps", type=positive, help=steps)
    how.add_argument("--spacing", choices=SPACINGS, help="of the steps (default: uniform of ddpm and ddim, else karras)")
    how.add_argument("--eta", type=float, help="of ddim: 0, deterministic (the default), to 1, as much noise as ddpm")
    how.add_argument("--variance", choices=["small", "large"], help="of ddpm (default: large above 300 steps, else small)")

    given = parser.add_argument_group("given images (every mode but generate)")
    given.add_argument("--image", nargs="+", type=Path, metavar="FILE", help="one image, for interpolate two")
    given.add_argument("--seed-to", type=int, help="interpolate: the seed at the other end, instead of images")
    given.add_argument("--mask", help="inpaint: a picture, white where to draw anew, or a box LEFT,TOP,RIGHT,BOTTOM in pixels")
    again = "inpaint by ddpm: so many times each piece of its way is drawn, so that a large hole fits (default: 1)"
    given.add_argument("--times", type=positive, help=again)
    given.add_argument("--jump", type=positive, help="inpaint by ddpm: steps of such a piece (default: 5)")
    given.add_argument("--strength", type=float, help="edit: share of the noising that is undone, above 0 to 1 (default: 0.5)")

    checkpoint = parser.add_argument_group("checkpoint and machine")
    checkpoint.add_argument("--list", action="store_true", help="list the checkpoints of every scale, and draw nothing")
    checkpoint.add_argument("--scale", choices=SCALES, help="whose checkpoint (default: demo); not with --checkpoint")
    checkpoint.add_argument("--weights", choices=["ema", "raw"], help="default: ema")
    checkpoint.add_argument("--checkpoint", type=Path, help="a .safetensors file instead of a recipe's")
    worse = "a worse checkpoint for --autoguidance (default: of the recipe's kept steps the one before the last)"
    checkpoint.add_argument("--guide", type=Path, metavar="FILE", help=worse)
    checkpoint.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    checkpoint.add_argument("--precision", choices=["auto", "fp32", "bf16"], help="default: as it was trained")
    checkpoint.add_argument("--out", type=Path, help=".png, .gif or .npy (default: samples/<scale>-<recipe>-<method>.png)")

    args = parser.parse_args()
    args.method = args.method or ("ddim" if args.image or args.eta is not None else SOLVER.method)
    check(args, parser)
    args.scale = args.scale or "demo"
    return args


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a message that says what would be right if the arguments contradict each other."""

    def refuse(wrong: object, message: str) -> None:
        if wrong:
            parser.error(message)

    mode, method, eta = args.mode, args.method, args.eta
    for name, seed in (("seed", args.seed), ("seed-to", args.seed_to or 0)):
        refuse(not 0 <= seed < 2**32, f"--{name} {seed}: accepted: 0 to 2**32 - 1")
    ending = args.out.suffix if args.out else ".png"
    refuse(ending not in (".png", ".gif", ".npy"), f"--out {args.out}: accepted: a file name that ends in .png, .gif or .npy")
    if args.list:
        return
    refuse((args.recipe is None) == (args.checkpoint is None), "accepted: a recipe, or --checkpoint FILE, and not both")
    for name, value in (("weights", args.weights), ("scale", args.scale)):
        refuse(args.checkpoint and value, f"--{name} and --checkpoint both choose a file: accepted: one of the two")
    with_eta = f"--eta {eta} with --method {method}: accepted: 0 to 1, with --method ddim"
    refuse(eta is not None and (method != "ddim" or not 0 <= eta <= 1), with_eta)
    with_variance = f"--variance {args.variance} with --method {method}: accepted with --method ddpm"
    refuse(args.variance and method != "ddpm", with_variance)
    refuse(args.classes and args.context, "--class and --context both say what to draw: accepted: one of the two")
    refuse(not 0 <= (args.guidance or 0) <= 1000, f"--guidance {args.guidance}: accepted: 0 or more, at most 1000")
    auto = args.autoguidance
    refuse(not 1 <= auto <= 1000, f"--autoguidance {auto}: accepted: 1 or more, at most 1000")
    refuse(auto != 1 and mode in ("reconstruct", "interpolate"), f"--autoguidance with --mode {mode}: accepted without it")
    refuse(args.guide and auto == 1, "--guide: accepted with --autoguidance above 1")
    refuse(auto != 1 and args.checkpoint and not args.guide, "--autoguidance with --checkpoint: accepted with --guide FILE too")
    largest = max(map(abs, args.context or [0.0]), key=lambda value: math.inf if math.isnan(value) else value)
    refuse(not largest <= 1000, f"--context with {largest}: accepted: numbers from -1000 to 1000")
    many = max(args.images or 0, (args.per_row or 0) ** 2)
    most = MAX_IMAGES if ending == ".npy" else MAX_SHOWN
    accepted = f"up to {MAX_IMAGES} in a .npy and {MAX_SHOWN} in a picture, and the square root of that with --per-row"
    refuse(many > most, f"{many} images: accepted: {accepted}")
    for name, only in (("mask", "inpaint"), ("strength", "edit"), ("seed_to", "interpolate")):
        option = f"--{name.replace('_', '-')} with --mode {mode}"
        refuse(getattr(args, name) is not None and mode != only, f"{option}: accepted with --mode {only}")
    wanted, count = {"generate": 0, "interpolate": 0 if args.seed_to is not None else 2}.get(mode, 1), len(args.image or [])
    instead = ", or --seed-to instead of images" if mode == "interpolate" else ""
    refuse(count != wanted, f"--image: {count} given with --mode {mode}; accepted: {wanted}{instead}")
    with_mask = "--mode inpaint: accepted with --mask: a picture, white where to draw anew, or LEFT,TOP,RIGHT,BOTTOM"
    refuse(mode == "inpaint" and args.mask is None, with_mask)
    for name, value in (("times", args.times), ("jump", args.jump)):
        by = f"--{name} with --mode {mode} and --method {method}: accepted with --mode inpaint and --method ddpm"
        refuse(value is not None and (mode != "inpaint" or method != "ddpm"), by)
    refuse(args.jump is not None and (args.times or 1) == 1, f"--jump {args.jump}: accepted with --times 2 or more")
    no_share = args.strength is not None and not 0 < args.strength <= 1
    refuse(no_share, f"--strength {args.strength}: accepted: above 0, at most 1")
    following = ", ".join(name for name in METHODS if Sampler(name, 1).follows_ode)
    asked = f"--mode {mode} follows the ODE, {method}{' with --eta' if eta else ''} does not"
    noisy = mode in ("reconstruct", "interpolate") and not Sampler(method, 1, eta=eta or 0.0).follows_ode
    refuse(noisy, f"{asked}: accepted: --method {following}, with eta 0")


def context_of(args: argparse.Namespace, model: Model, count: int) -> Tensor | None:
    """What the arguments ask of `count` images, (count, context_dim). Raises Fault if the model cannot be asked for it."""
    for name, value in (("class", args.classes), ("context", args.context), ("guidance", args.guidance)):
        if value is not None and not model.classes:
            raise Fault(f"--{name}: this checkpoint is unconditional; accepted with one trained with train.context_dim above 0")
    if args.context is None:
        return model.context(count, args.classes)
    if len(args.context) != len(model.classes):
        wanted = f"{len(model.classes)}, for {', '.join(model.classes)}"
        raise Fault(f"--context has {len(args.context)} numbers; accepted: {wanted}")
    return model.context(count, torch.tensor([args.context]))


def read_image(path: Path, model: Model) -> Tensor:
    """The picture `path` as a viewer shows it, its middle square at the model's size: float32 (1, C, H, W) in [-1, 1].

    Raises Fault.
    """
    channels, size, _ = model.shape
    check_regular(path, "accepted: a picture such as a .png or .jpg")
    try:
        with Image.open(path, formats=(*FORMATS, "BMP", "GIF", "TIFF")) as image:  # others, as EPS, start programs
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}")
            seen = as_seen(image).convert("RGB" if channels == 3 else "L")
            square = ImageOps.fit(seen, (size, size), Image.Resampling.BICUBIC)
    except MemoryError:
        raise
    except Exception as error:  # what is cut or lies provokes almost any
        raise Fault(f"--image {path}: {error}; accepted: a picture such as a .png or .jpg") from None
    pixels = np.asarray(square).reshape(1, size, size, channels)
    return to_float(torch.from_numpy(pixels.copy())).contiguous().to(model.device)


def read_mask(text: str, model: Model) -> Tensor:
    """1 where the image is kept, 0 where it is drawn anew: float32 (1, 1, H, W). Raises Fault."""
    size = model.shape[-1]
    mask = torch.ones(1, 1, size, size, device=model.device)
    if os.path.lexists(text):
        mask[0, 0] = (read_image(Path(text), model)[0].mean(0) <= 0).float()
        return mask
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        left = top = right = bottom = 0
    if not (0 <= left < right <= size and 0 <= top < bottom <= size):
        raise Fault(f"--mask {text}: accepted: a picture, or LEFT,TOP,RIGHT,BOTTOM within 0 to {size}, as in 8,8,24,24")
    mask[..., top:bottom, left:right] = 0
    return mask


def prepared(
    args: argparse.Namespace, model: Model, sampler: Sampler, noise: NoiseStreams, context: Tensor | None
) -> tuple[Tensor, int | None, Denoise, list[np.ndarray]]:
    """Where the sampling that args.mode asks for starts: x_t, its step (None = T), the denoiser, and pictures to show first.

    Encodes images where it takes their noise. The pictures are uint8 (1, H, W, C).
    """
    count, schedule, guidance = len(noise), model.schedule, guidance_of(args)
    denoiser = model.autoguided(context, guidance, count * sampler.num_steps, args.autoguidance)
    images = [read_image(path, model) for path in args.image or []]
    before = [to_uint8(image) for image in images]
    x_t, start = noise.draw(), None
    if args.mode in ("reconstruct", "interpolate"):
        # One image each, and its own condition, as the first of those that are drawn.
        first = model.denoiser(None if context is None else context[:1], guidance, sampler.num_steps)
        grid = sampler.grid(schedule)
        ends = [list(encode(first, schedule, image, grid))[-1].x_t for image in images]
        if args.mode == "reconstruct":
            return ends[0].expand(count, -1, -1, -1).contiguous(), None, denoiser, [*before, normalised(ends[0])]
        ends = ends or [model.noise(seed, range(1)).draw() for seed in (args.seed, args.seed_to)]
        x_t = slerp(ends[0][0], ends[1][0], torch.linspace(0, 1, count, device=x_t.device))
    elif args.mode == "inpaint":
        mask = read_mask(args.mask, model)
        denoiser = inpainting(denoiser, images[0], mask)
        before = [to_uint8(images[0] * mask + (1 - mask))]
    elif args.mode == "edit":
        start = edit_start(schedule.num_timesteps, args.strength or 0.5)
        x_t = noised(schedule, images[0].expand_as(x_t), start, x_t)
    return x_t, start, denoiser, before


def guidance_of(args: argparse.Namespace) -> float:
    """The guidance scale that the arguments ask for."""
    return GUIDANCE if args.guidance is None else args.guidance


def title(args: argparse.Namespace, model: Model, sampler: Sampler) -> str:
    """The line above the picture: whose images these are, and what makes them again."""
    kind = {"ema": "EMA"}.get(model.metadata["kind"], model.metadata["kind"])
    whose = args.checkpoint.name if args.checkpoint else f"{args.scale}/{args.recipe}"
    words = [f"{whose}, {kind} weights of step {model.step:,}: {sampler.label}, seed {args.seed}"]
    words += [f"to {args.seed_to}"] if args.seed_to is not None else []
    asked = [f"{args.mode} {', '.join(path.name for path in args.image)}"] if args.image else []
    asked += [f"strength {args.strength or 0.5:g}"] if args.mode == "edit" else []
    if model.classes:
        asked += [f"context {', '.join(f'{value:g}' for value in args.context)}"] if args.context else []
        asked += [" and ".join(names_of(args, model))] if args.classes else []
        asked += [f"guidance {guidance_of(args):g}"]
    if model.guide:
        asked += [f"autoguidance {args.autoguidance:g} by step {model.guide.step:,}"]
    return ", ".join([" ".join(words), *asked])


def names_of(args: argparse.Namespace, model: Model) -> list[str]:
    """The classes that are drawn in turn, by name; none where the context itself is given, or none counts."""
    if args.context or guidance_of(args) == 0:
        return []
    return [model.classes[model.label(name)] for name in args.classes] if args.classes else list(model.classes)


def captions(args: argparse.Namespace, model: Model, count: int) -> list[str]:
    """What stands above each image of the picture, given ones first; all empty where there is nothing to say."""
    if args.mode == "reconstruct":
        return ["given", "its noise", *["and back"] * count]
    if args.mode == "interpolate":
        between = [f"{share:.2f}" for share in np.linspace(0, 1, count)]
        return [*(["given", "given"] if args.image else []), *between]
    names = names_of(args, model) or [""]
    return [*["given"] * len(args.image or []), *(names[i % len(names)] for i in range(count))]


def save_picture(path: Path, images: np.ndarray, per_row: int, above: str, words: list[str]) -> None:
    """Write a .png of rows of `per_row` images under the line `above`, with `words` over each image, if there are any."""
    if not any(words):
        save_grid(path, images, per_row, above)
        return
    white = -len(images) % per_row  # a shorter row would be enlarged more
    images = np.concatenate([images, np.full((white, *images.shape[1:]), 255, np.uint8)])
    words = [*words, *[""] * white]
    rows = [Row("", images[i : i + per_row], words[i : i + per_row]) for i in range(0, len(images), per_row)]
    save_labelled_rows(path, rows, above)


def drawn(args: argparse.Namespace, model: Model, sampler: Sampler, count: int) -> tuple[np.ndarray, list[Shown]]:
    """The images, uint8 (N, H, W, C), given ones first; and, but for a plain --mode generate, the states of their making."""
    context = context_of(args, model, count)
    animated = args.out is not None and args.out.suffix == ".gif"
    if args.mode == "generate" and not animated:
        return model.sample(count, sampler, args.seed, context, guidance_of(args), BATCH_SIZE, args.autoguidance), []
    if count > BATCH_SIZE:
        raise Fault(f"--images {count}: accepted: at most {BATCH_SIZE} in an animation or with --mode {args.mode}")
    if distributed.world_size() > 1:
        raise Fault("several processes share --mode generate to a .png or .npy; accepted here: one process")
    noise = model.noise(args.seed, range(count))
    x_t, start, denoiser, before = prepared(args, model, sampler, noise, context)
    states, steps = walked(args, model, sampler, noise, x_t, start, denoiser)
    made = watched(states, steps, sampler.label)
    return np.concatenate([*before, made[-1][1]]), made


def walked(
    args: argparse.Namespace,
    model: Model,
    sampler: Sampler,
    noise: NoiseStreams,
    x_t: Tensor,
    start: int | None,
    denoiser: Denoise,
) -> tuple[Iterator[SampleState], int]:
    """The sampling from `x_t` at step `start` (None = T), and the number of its states."""
    grid = sampler.grid(model.schedule, start)
    if (args.times or 1) == 1:
        return sampler.run(denoiser, model.schedule, x_t, noise, start), len(grid) - 1
    walk = partial(ddpm, denoiser, model.schedule, noise=noise, variance=sampler.variance)
    pieces = resampling(grid, args.times, args.jump or JUMP)
    return resampled(walk, model.schedule, x_t, pieces, noise), sum(len(piece) - 1 for piece in pieces)


def sampler_asked(args: argparse.Namespace, longest: int) -> Sampler:
    """The sampler that the arguments ask for, of a model whose T is `longest`. Raises Fault."""
    steps = args.steps or min(longest, {"ddpm": longest, "wrong": longest, "ddim": 100}.get(args.method, SOLVER.num_steps))
    if args.mode == "edit":  # so many steps as lie below the noise that the image is given
        longest = edit_start(longest, args.strength or 0.5)
        steps = args.steps or min(steps, longest)
    if steps > longest:
        raise Fault(f"--steps {steps}: accepted: 1 to {longest}, the timesteps from its start to the image")
    return sampler_of(" ".join(filter(None, (args.method, str(steps), args.spacing))), args.eta or 0.0, args.variance)


def trained(scale: str) -> list[str]:
    """The recipes of `scale` whose checkpoints the pipeline has recorded, for `dvc pull` to fetch."""
    stages = read_object(None, str(shown(params_file(scale).with_name("dvc.lock")))).get("stages", {})
    return [name.partition("@")[2] for name in stages if name.startswith("train@")]


def fetching(scale: str, recipe: str) -> str:
    """The command that fetches the checkpoint of a recipe that is `trained`."""
    return f"dvc pull {'' if scale == 'demo' else f'{scale}/dvc.yaml:'}train@{recipe}"


def checkpoint_of(args: argparse.Namespace) -> Path:
    """The file that the arguments name. Raises Fault that says what would bring it here, if anything would."""
    if args.checkpoint:
        check_regular(args.checkpoint, "accepted: a .safetensors file of this project")
        return args.checkpoint
    paths = Paths(args.scale, args.recipe)
    if found := sorted(paths.models.glob("raw-*.safetensors" if args.weights == "raw" else paths.ema.name)):
        return found[-1]
    start = f"there are no {args.weights or 'ema'} weights of {args.recipe} in {shown(paths.models)}, "
    if args.recipe in trained(args.scale) and not paths.ema.exists():
        raise Fault(f"{start}but shared ones: {fetching(args.scale, args.recipe)}")
    if not params_file(args.scale).exists() or args.recipe not in (load_params(args.scale).get("recipes") or {}):
        raise Fault(f"{start}and no such recipe in {shown(params_file(args.scale))}: python -m tools.sample --list")
    trains = dvc("repro", args.scale, f"train@{args.recipe}")
    raise Fault(f"{start}nor shared ones; once recipe_names has its name, this trains it: {trains}")


def guide_of(args: argparse.Namespace) -> Path | None:
    """The worse checkpoint that the arguments ask for. Raises Fault."""
    if args.autoguidance == 1:
        return None
    if args.guide:
        check_regular(args.guide, "accepted: a .safetensors file of this project")
        return args.guide
    try:
        return Paths(args.scale, args.recipe).guide(args.autoguidance)
    except Fault as fault:
        raise Fault(f"--{fault}; or --guide FILE") from None


def listed() -> list[str]:
    """A line for each checkpoint: the arguments that draw from it, and what it is or how it comes here."""
    lines = []
    for scale in SCALES:
        here = [path.parent.name for path in sorted((ROOT / "models" / scale).glob("*/ema.safetensors"))]
        for recipe in sorted({*here, *trained(scale)}):
            words = f"{recipe} --scale {scale}"
            try:
                what = described(Paths(scale, recipe).ema) if recipe in here else f"not here; {fetching(scale, recipe)}"
            except Fault as fault:  # one bad file hides no other
                what = f"cannot be drawn from: {fault}"
            lines.append(f"{words:32} {what}")
    return lines


def described(path: Path) -> str:
    """What the checkpoint `path` is. Raises Fault."""
    network, _, header = load_network(path)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    data, classes = header["data"], f"; {', '.join(header['classes'])}" if header["classes"] else ""
    return f"{data['size']} px, {millions:.1f} M parameters, step {header['step']}: {data['origin']}{classes}"


def main(args: argparse.Namespace) -> None:
    if args.list:
        print("\n".join(listed()))
        return
    path = checkpoint_of(args)
    if args.out:
        check_out(args.out)
    model = load(path, args.device, args.precision, guide_of(args))
    name = name_of(model.metadata, path) if args.checkpoint else f"{args.scale}-{args.recipe}"
    out = args.out or ROOT / "samples" / f"{name}-{args.method if args.mode == 'generate' else args.mode}.png"
    check_out(out)
    sampler = sampler_asked(args, model.config.num_timesteps)
    per_row = args.per_row or (8 if model.shape[-1] <= 32 else 4)
    count = args.images or (per_row**2 if args.mode == "generate" else 1 if args.mode == "reconstruct" else per_row)
    if out.suffix == ".npy" and (need := count * math.prod(model.shape)) > (free := free_bytes(out)):
        raise Fault(f"--out {out}: {count} images take {amount(need)}, and {amount(free)} are free there")
    with distributed.process_group(model.device):
        images, made = drawn(args, model, sampler, count)
        if distributed.rank() > 0:
            return
    if out.suffix == ".npy":
        with whole_file(out) as temporary:
            np.save(temporary, images)
    elif out.suffix == ".gif":
        times, frames = [f"t = {t}" for t, _, _ in made], [x_t for _, x_t, _ in made]
        save_gif(out, frames, per_row, title(args, model, sampler), times, target_width=TARGET_WIDTH)
    else:
        save_picture(out, images, per_row, title(args, model, sampler), captions(args, model, count))
    data, kind = model.metadata["data"], model.metadata["kind"]
    print(f"wrote {out}: {len(images)} images, {sampler.label}, {kind} weights of step {model.step}")
    print(f"trained on {data['count']} images: {data['origin']}")
    if args.mode == "reconstruct":
        print(f"the way to noise and back changed the image by {rms_distance(images[0], images[2])} (RMS, 1 = all of a pixel)")


if __name__ == "__main__":
    with faults_reported():
        main(arguments())
