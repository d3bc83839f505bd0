"""What both benchmarks share: their options, the alternation, the machine's ceiling and facts, and the json."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import PEERS, installed
from benchmarks.report import run_text
from ddpm.base.files import write_json
from ddpm.base.progress import progress_bar
from ddpm.machine.device import device_name, measure_seconds, pick_device
from ddpm.machine.memory import keep_freed_memory
from ddpm.machine.precision import configure, memory_format
from ddpm.recipe import Recipe, resolve
from stages import SCALES, WORK, load_params
from tools import positive

Work = Callable[[], object]
# A turn ends with a wait for the GPU, as a training or a chain of operations does not after each of its steps.
STEPS_A_TURN = {"cpu": 1, "cuda": 10}


@dataclass(frozen=True)
class Contender:
    """Something whose time is taken, and what it computes meanwhile."""

    name: str
    work: Work
    steps: int  # of training or sampling, each a network call, in one call of `work`
    images: int  # batch size
    precision: str  # fp32 or bf16
    parameters: int
    flops: int  # of the forward pass of one image
    switches: bool = True  # work under ddpm.precision.configure and keep_freed_memory, or as torch and glibc begin


@dataclass(frozen=True)
class Ceiling:
    """A large operation: a network that is made of such operations runs at no higher rate."""

    name: str
    work: Work
    precision: str
    flops: int


def total_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Floating-point operations of a call of any fp32 `network` for one image of `shape` (C, H, W), attention included.

    A multiplication and an addition count as two. Counted by calling it once.
    """
    device = next(network.parameters()).device
    x_t, t = torch.zeros(1, *shape, device=device), torch.ones(1, dtype=torch.int64, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x_t, t)
    return int(counter.get_total_flops())


def alternate(works: dict[str, Work], rounds: int, device: torch.device, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each work in each round. The works take turns, A B C A B C ..., so that what slows the machine for a
    while slows all of them; each runs `warmup` times before (compilation, allocations, choice of kernels)."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with progress_bar(total=len(works) * (1 + rounds), unit="turn") as bar:
        for name, work in works.items():
            bar.set_description(f"warm-up: {name}", refresh=False)
            for _ in range(warmup):
                work()
            bar.update()
        for number in range(rounds):
            for name, work in works.items():
                bar.set_description(f"round {number + 1}: {name}", refresh=False)
                seconds[name].append(measure_seconds(work, device))
                bar.update()
    return seconds


def paired_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Median over the rounds of seconds / reference."""
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=True))


def ceilings(precision: str, device: torch.device) -> list[Ceiling]:
    """A square matrix product and a 3x3 convolution, large for the device."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    n, batch, width, side = (8192, 128, 256, 64) if device.type == "cuda" else (2048, 16, 256, 32)
    a = torch.randn(n, n, device=device, dtype=dtype)
    x = torch.randn(batch, width, side, side, device=device, dtype=dtype).to(memory_format=memory_format(device))
    weight = torch.randn(width, width, 3, 3, device=device, dtype=dtype).to(memory_format=memory_format(device))
    convolution_flops = 2 * batch * side**2 * width**2 * 9
    return [
        Ceiling(f"{precision} {n}x{n} matrix product", lambda: a @ a, precision, 2 * n**3),
        Ceiling(f"{precision} 3x3 convolution", lambda: F.conv2d(x, weight, padding=1), precision, convolution_flops),
    ]


def measure(contenders: list[Contender], passes: int, rounds: int, device: torch.device, warmup: int = 1) -> dict[str, Any]:
    """Let the contenders and the ceilings of their precisions take turns, and compare.

    `passes`: FLOPs of a step in forward passes. All seconds are those of one step; ratios are taken with the first
    contender, round by round; `share` is the part of the ceiling of the same precision that the median step achieves.
    """
    tops = [top for precision in dict.fromkeys(c.precision for c in contenders) for top in ceilings(precision, device)]
    works = {c.name: _turn(c, device) for c in contenders} | {top.name: _top_turn(top, device) for top in tops}
    seconds = alternate(works, rounds, device, warmup)
    rates = {top.name: STEPS_A_TURN[device.type] * top.flops / min(seconds[top.name]) for top in tops}
    first, rows = contenders[0], []
    reference = [s / first.steps for s in seconds[first.name]]
    for c in contenders:
        steps = [s / c.steps for s in seconds[c.name]]
        ratio, median = paired_ratio(steps, reference), statistics.median(steps)
        ceiling = max(rates[top.name] for top in tops if top.precision == c.precision)
        rows.append(
            {
                "name": c.name,
                "precision": c.precision,
                "seconds": steps,
                "median": median,
                "min": min(steps),
                "ratio": ratio,
                "ratio_per_flop": ratio * first.flops / c.flops,
                "parameters": c.parameters,
                "flops": c.flops,
                "share": share_of_ceiling(passes * c.flops * c.images, median, ceiling),
            }
        )
    return {"ceilings": rates, "rows": rows}


def share_of_ceiling(flops: float, seconds: float, ceiling: float) -> float:
    """The part of `ceiling` (FLOP/s) that `flops` done in `seconds` make."""
    return flops / seconds / ceiling


def _turn(contender: Contender, device: torch.device) -> Work:
    def work() -> None:
        keep_freed_memory(contender.switches)
        if contender.switches:
            configure(contender.precision, device)
        elif device.type == "cuda":
            torch_defaults()
        contender.work()

    return work


def _top_turn(top: Ceiling, device: torch.device) -> Work:
    def work() -> None:
        configure(top.precision, device)
        for _ in range(STEPS_A_TURN[device.type]):
            top.work()

    return work


def torch_defaults() -> None:
    """The switches for CUDA as torch starts with them: what a library computes with that sets none."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = False
    torch.backends.cuda.enable_mem_efficient_sdp(True)


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser of the options that both benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", action="append", choices=SCALES, help="may be repeated (default: full and small)")
    parser.add_argument("--recipe", action="append", help="may be repeated (default: all of the scale)")
    parser.add_argument("--batch-size", type=positive, help="images a step")
    parser.add_argument("--repeats", type=positive, default=5, help="rounds (default: 5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], help="of ours (default: the recipe's)")
    parser.add_argument("--json", type=Path, help="where to write the results (default: below work/benchmarks)")
    return parser


def chosen(args: argparse.Namespace) -> Iterator[tuple[str, str, Recipe]]:
    """(scale, name, recipe) of each network that the options name."""
    for scale in args.scale or ["full", "small"]:
        params = load_params(scale)
        for name in args.recipe or params["recipe_names"]:
            recipe, _ = resolve(params, name)
            if args.precision:
                recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": args.precision})})
            yield scale, name, recipe


def benchmark(kind: str, args: argparse.Namespace, run: Callable[[Recipe, torch.device], dict[str, Any]]) -> None:
    """Do `run` for each chosen network, print its table, and write everything into one json."""
    device = pick_device(args.device)
    path = args.json or WORK / "benchmarks" / f"{kind}-{device.type}.json"
    command = shlex.join(["python", "-m", f"benchmarks.{kind}", *sys.argv[1:]])
    result: dict[str, Any] = {"benchmark": kind, "command": command, "machine": machine(device), "runs": []}
    print("\n".join(f"{key}: {value}" for key, value in result["machine"].items()))
    for package in PEERS:
        if not installed(package):
            print(f"{package} is left out: `pip install -e '.[benchmarks]'` installs it")
    for scale, name, recipe in chosen(args):
        result["runs"].append({"scale": scale, "recipe": name, "size": recipe.data.size, **run(recipe, device)})
        write_json(path, result)
        print(f"\n{run_text(result, result['runs'][-1])}", flush=True)
        torch.compiler.reset()  # it compiles one function for only so many networks
    print(f"\nwrote {path}")


def machine(device: torch.device) -> dict[str, str]:
    """What the numbers depend on besides the code."""
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "device": device_name(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return facts | {package: importlib.metadata.version(package) for package in PEERS if installed(package)}
