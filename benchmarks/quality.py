"""Time to quality: what the same minutes of one core make of the same images, in ours and in the libraries people use.

  ours        the small scale's recipe, as shipped but for --settings; by its sampler, its autoguidance, DDPM, UniPC
  diffusers   UNet2DModel in the loop of its unconditional training example: epsilon, linear schedule; DDIM and DPM-Solver++
  lucidrains  denoising-diffusion-pytorch's Unet in the loop of its Trainer: v, sigmoid schedule; DDIM

Each has the widths and attention of our recipe and our arithmetic, and the batch, learning rate and EMA that its own
documentation recommends; mirrored images for all. Minutes are those of the processor, of one thread: another program slows a
training down, but takes no step away from it. The number of steps is settled first, by timing a few, for the learning rates
of two of the three depend on it. Then each draws images from its averaged weights by each of its samplers, and the yardstick
measures all alike (docs/yardstick.md); the best sampler counts.

What is done is kept in the json: the same command continues after a stop, training by training.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import itertools
import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.common import machine
from benchmarks.networks import diffusers_unet, installed, lucidrains_unet
from benchmarks.report import aligned
from benchmarks.training import diffusers_training, lucidrains_training
from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import write_json
from ddpm.base.progress import progress_bar
from ddpm.base.seeds import derive_seed
from ddpm.base.settings import validate
from ddpm.evaluation.distances import compare
from ddpm.evaluation.yardstick import features, yardstick_sha256
from ddpm.machine.memory import keep_freed_memory
from ddpm.machine.precision import autocast
from ddpm.model.pixels import to_float, to_uint8
from ddpm.model.schedule import schedule_of
from ddpm.recipe import Recipe, resolve
from ddpm.sampling.denoiser import Autoguided, Denoise, Denoiser
from ddpm.sampling.fast import prepare
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.settings import sampler_of
from ddpm.training.loop import new_state, train
from ddpm.training.settings import TrainConfig
from stages import SCALES, WORK, Paths, load_params, load_yaml
from stages.packed import heldout_images, training_images
from tools import positive

CPU = torch.device("cpu")
TIMED, WARM = 12, 3  # steps that settle how many fit into the minutes, and those before them
DRAWN_AT_ONCE = 50
GUIDE = 5  # ours keeps the average of a fifth of its steps, as small's recipes do, for autoguidance
REFERENCE = 10_000  # training images, at most, that samples are compared with
Draw = Callable[[int], np.ndarray]  # number of images -> uint8 (N, H, W, C)


class Training(NamedTuple):
    """One that goes step by step, and the samplers of what it has learned."""

    step: Callable[[], object]
    samplers: Callable[[], dict[str, Draw]]
    batch_size: int
    parameters: int


def batches(images: np.ndarray, size: int, seed: int) -> Iterator[Tensor]:
    """Batches of a peer: float32 (size, C, H, W) in [-1, 1], each image mirrored at random; an epoch shows each once."""
    random = np.random.default_rng(seed)
    order: list[int] = []
    while True:
        if len(order) < size:
            order += random.permutation(len(images)).tolist()
        chosen, order = order[:size], order[size:]
        batch = to_float(torch.from_numpy(images[np.sort(chosen)]))
        mirrored = torch.from_numpy(random.random(size) < 0.5)[:, None, None, None]
        yield torch.where(mirrored, batch.flip(-1), batch).contiguous()


def parts(count: int) -> Iterator[range]:
    return (range(first, min(first + DRAWN_AT_ONCE, count)) for first in range(0, count, DRAWN_AT_ONCE))


def ours(recipe: Recipe, images: np.ndarray, steps: int, seed: int) -> Training:
    warmup = min(recipe.train.warmup_steps, max(1, steps // 10))
    changes = {"steps": steps, "seed": seed, "warmup_steps": warmup, "threads": 1, "compile": False, "checkpoints": []}
    config = recipe.train.model_copy(update=changes)
    state, schedule = new_state(config, CPU, images.shape[-1]), schedule_of(config)
    steps_of = train(state, torch.from_numpy(images), config)
    shape = (images.shape[-1], recipe.data.size, recipe.data.size)

    guides: list[nn.Module] = []

    def step() -> None:
        if next(steps_of) == max(1, steps // GUIDE):
            guides.append(copy.deepcopy(state.ema.network))

    @functools.cache  # it changes the networks
    def denoisers() -> list[Denoise]:
        networks = [state.ema.network, *guides]
        return [Denoiser(prepare(network, config.precision, CPU), schedule, config.prediction) for network in networks]

    def draw(choice: str, autoguidance: float, count: int) -> np.ndarray:
        denoiser, *guide = denoisers()
        if autoguidance != 1:
            denoiser = Autoguided(denoiser, guide[0], autoguidance)
        found = []
        for part in parts(count):
            noise = NoiseStreams(seed, part, shape)
            *_, last = sampler_of(choice).run(denoiser, schedule, noise.draw(), noise)
            found.append(to_uint8(last.x_t))
        return np.concatenate(found)

    own, scale = recipe.evaluation.sampler, recipe.evaluation.autoguidance
    samplers: dict[str, Draw] = {choice: functools.partial(draw, choice, 1.0) for choice in (own, "ddpm 20", "unipc 10")}
    if scale != 1:
        samplers[f"{own}, autoguidance {scale:g}"] = functools.partial(draw, own, scale)
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    return Training(step, lambda: samplers, config.batch_size, parameters)


def diffusers(recipe: Recipe, images: np.ndarray, steps: int, seed: int) -> Training:
    """As the example's documentation starts it: batches of 16, learning rate 1e-4 with a cosine, EMA."""
    torch.manual_seed(seed)
    package, config = importlib.import_module("diffusers"), recipe.train
    network = diffusers_unet(config, recipe.data.size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    peer = diffusers_training(network, config, batches(images, 16, seed), config.precision, steps)
    schedulers = {"DDIM 50": (package.DDIMScheduler(), 50), "DPM-Solver++ 20": (package.DPMSolverMultistepScheduler(), 20)}

    @torch.no_grad()
    def draw(name: str, count: int) -> np.ndarray:
        averaged, (scheduler, calls), found = peer.averaged().eval(), schedulers[name], []
        torch.manual_seed(seed)
        for part in parts(count):
            scheduler.set_timesteps(calls)
            x_t = torch.randn(len(part), 3, recipe.data.size, recipe.data.size)
            for t in scheduler.timesteps:
                with autocast(config.precision, CPU):
                    output = averaged(x_t, t).sample.float()
                x_t = scheduler.step(output, t, x_t).prev_sample
            found.append(to_uint8(x_t))
        return np.concatenate(found)

    return Training(peer.step, lambda: {name: functools.partial(draw, name) for name in schedulers}, 16, parameters)


def lucidrains(recipe: Recipe, images: np.ndarray, steps: int, seed: int) -> Training:
    """As its README trains: batches of 32, learning rate 8e-5; one part a batch instead of its two."""
    torch.manual_seed(seed)
    module: Any = importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    module.tqdm = functools.partial(tqdm, disable=True)
    config = recipe.train
    network = lucidrains_unet(config, fused_attention=False)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    scaled = ((batch + 1) / 2 for batch in batches(images, 32, seed))
    peer = lucidrains_training(network, config, scaled, recipe.data.size, config.precision, lr=8e-5)

    def draw(calls: int, count: int) -> np.ndarray:
        averaged, found = peer.averaged().eval(), []
        averaged.sampling_timesteps, averaged.is_ddim_sampling = calls, True
        torch.manual_seed(seed)
        for part in parts(count):
            with autocast(config.precision, CPU):
                drawn = averaged.sample(batch_size=len(part))
            found.append(to_uint8(drawn.float() * 2 - 1))
        return np.concatenate(found)

    return Training(peer.step, lambda: {f"DDIM {n}": functools.partial(draw, n) for n in (50,)}, 32, parameters)


CONTENDERS: dict[str, tuple[str | None, Callable[[Recipe, np.ndarray, int, int], Training]]] = {
    "ours": (None, ours),
    "diffusers": ("diffusers", diffusers),
    "lucidrains": ("denoising_diffusion_pytorch", lucidrains),
}


def steps_in(minutes: float, make: Callable[[int], Training]) -> int:
    """How many steps of processor time fit into `minutes`, by timing a few of a training that is thrown away."""
    trial = make(10**6)
    for _ in range(WARM):
        trial.step()
    begin = time.process_time()
    for _ in range(TIMED):
        trial.step()
    return max(1, int(60 * minutes * TIMED / (time.process_time() - begin)))


class Measures:
    """What samples of a recipe are worth beside its training images."""

    def __init__(self, training: np.ndarray) -> None:
        chosen = np.random.default_rng(derive_seed(0, len(training))).permutation(len(training))[:REFERENCE]
        self.reference = np.concatenate([features(training[chosen[i : i + 250]], "cpu") for i in range(0, len(chosen), 250)])

    def __call__(self, drawn: np.ndarray) -> dict[str, float]:
        found = np.concatenate([features(drawn[i : i + 250], "cpu") for i in range(0, len(drawn), 250)])
        distances = compare(found, self.reference, self.reference)
        places = {"kid": 5, "kid_se": 5, "fd": 3, "coverage": 3}
        return {name: round(getattr(distances, name), places[name]) for name in places}


def run(
    name: str, recipe: Recipe, images: np.ndarray, minutes: float, count: int, seed: int, measure: Measures
) -> dict[str, Any]:
    """Train for `minutes` of one core, draw `count` images by each sampler, and measure them."""
    make = CONTENDERS[name][1]
    steps = steps_in(minutes, lambda steps: make(recipe, images, steps, seed))
    return done(f"{name}, {minutes:g} minutes", make(recipe, images, steps, seed), steps, count, measure) | {"seed": seed}


def done(title: str, training: Training, steps: int, count: int, measure: Measures) -> dict[str, Any]:
    """Take `steps` of `training`, draw `count` images by each of its samplers, and measure them."""
    begin = time.process_time()
    with progress_bar(total=steps, desc=title, unit="step") as bar:
        for _ in range(steps):
            training.step()
            bar.update()
    seconds, found = time.process_time() - begin, {}
    for sampler, draw in training.samplers().items():
        begin = time.process_time()
        drawn = draw(count)
        found[sampler] = {"cpu_seconds": round(time.process_time() - begin, 1), **measure(drawn)}
    facts = {"steps": steps, "batch_size": training.batch_size, "parameters": training.parameters}
    return {**facts, "cpu_seconds": round(seconds, 1), "drawn": count, "samplers": found}


def text(result: dict[str, Any]) -> str:
    """The result in Markdown that can be read as it stands: the best sampler of each training."""
    rows = [["images", "minutes", "", "parameters", "images seen", "by", "KID x 1000", "Frechet distance", "coverage"]]
    for key, row in result["rows"].items():
        recipe, minutes, name = key.split("/")[:3]
        sampler, best = min(row["samplers"].items(), key=lambda item: item[1]["kid"])
        cells = [f"{row['parameters'] / 1e6:.2f} M", f"{row['steps'] * row['batch_size']:,}", sampler]
        cells += [f"{1e3 * best['kid']:,.0f} ± {1e3 * best['kid_se']:,.0f}", f"{best['fd']:.1f}", f"{best['coverage']:.2f}"]
        rows.append([recipe, minutes, name, *cells])
    floors = ", ".join(f"{recipe} {1e3 * floor['kid']:,.0f}" for recipe, floor in result["floors"].items())
    return f"{aligned(rows)}\n\nHeld-out real images (KID x 1000): {floors}. Yardstick {result['yardstick_sha256'][:12]}."


def kept(path: Path, benchmark: str) -> dict[str, Any]:
    """What the json `path` holds of `benchmark`, or a result without rows. Raises Fault for another one's or yardstick's."""
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"benchmark": benchmark, "rows": {}}
    if result["benchmark"] != benchmark:
        raise Fault(f"--json {path}: holds the benchmark {result['benchmark']!r}; accepted: one of {benchmark}, or a new file")
    must_be(result.setdefault("yardstick_sha256", yardstick_sha256()), yardstick_sha256(), path, "measures by the yardstick")
    return result


def must_be(kept: Any, now: Any, path: Path, what: str) -> None:
    """Raises Fault if what is kept in `path` was made otherwise than now: its rows would stand beside others' name."""
    if kept != now:
        raise Fault(f"--json {path}: holds {what} {kept!r}, and this is {now!r}; accepted: the same, or a new file")


def changes_of(words: list[str]) -> dict[str, Any]:
    """{"lr": 0.002} of ["lr=2e-3"]. Raises Fault."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise Fault(f"{word!r}: accepted: a setting of train and its value, as in lr=2e-3")
        found[key] = load_yaml(value)
    return found


def unconditional(scale: str, name: str, settings: list[str]) -> Recipe:
    """The recipe of this name with these settings of train. Raises Fault if it has classes or gray images."""
    recipe, _ = resolve(load_params(scale), name)
    train = validate(TrainConfig, recipe.train.model_dump() | changes_of(settings), "train")
    recipe = recipe.model_copy(update={"train": train})
    if recipe.train.context_dim or recipe.data.channels != 3:
        raise Fault(f"--recipe {name}: has classes or is gray; accepted: an unconditional recipe of colour images")
    return recipe


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    path = args.json or WORK / "benchmarks" / "quality.json"
    result = {"floors": {}} | kept(path, "quality")
    options = ["--recipe", *args.recipe, "--minutes", *(f"{minutes:g}" for minutes in args.minutes)]
    options += ["--settings", *args.settings] if args.settings else []
    result["command"] = f"python -m benchmarks.quality --scale {args.scale} {' '.join(options)} --images {args.images}"
    alike = {"scale": args.scale, "settings": args.settings, "images": args.images}
    must_be(result.setdefault("alike", alike), alike, path, "rows of")
    result["machine"] = machine(CPU)
    names = [name for name, (package, _) in CONTENDERS.items() if package is None or installed(package)]
    for name in sorted(CONTENDERS.keys() - set(names)):
        print(f"{name} is left out: `pip install -e '.[benchmarks]'` installs it")
    for recipe_name in args.recipe:
        recipe, paths = unconditional(args.scale, recipe_name, args.settings), Paths(args.scale, recipe_name)
        images = np.array(training_images(paths)[0])
        measure = Measures(images)
        result["floors"].setdefault(recipe_name, measure(np.array(heldout_images(paths)[0][: args.images])))
        for minutes, seed, name in itertools.product(args.minutes, range(args.seeds), names):
            key = f"{recipe_name}/{minutes:g}/{name}/{seed}"
            if key not in result["rows"]:
                result["rows"][key] = run(name, recipe, images, minutes, args.images, seed, measure)
                write_json(path, result)
    write_json(path, result)
    print(f"\n{text(result)}\n\nwrote {shlex.quote(str(path))}")


def minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e4:
        raise argparse.ArgumentTypeError(f"{text}: accepted: more than 0")
    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="small", help="whose recipes and packed images (default: small)")
    parser.add_argument("--recipe", nargs="+", default=["cifar10", "celeba"], help="default: cifar10 celeba")
    parser.add_argument("--minutes", nargs="+", type=minutes, default=[10.0, 40.0], help="default: 10 40")
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="of train: what ours is trained with")
    parser.add_argument("--images", type=positive, default=2000, help="drawn by each sampler (default: 2000)")
    parser.add_argument("--seeds", type=positive, default=1, help="trainings of each (default: 1)")
    parser.add_argument("--json", type=Path, help="where results are kept (default: work/benchmarks/quality.json)")
    with faults_reported():
        main(parser.parse_args())
