"""Training and sampling beside another busy process: what is left of their speed, by how OpenMP's threads wait.

Two threads that spin while they wait for each other take the processor from one another as soon as something else runs.
ddpm looks for that when it starts, and lets them sleep then. Every contender is a process of its own, for OpenMP reads how to
wait when it loads; one is started on the quiet machine, another beside a process that loops in one thread. They take turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import aligned
from ddpm.base.faults import faults_reported
from ddpm.base.files import write_json
from ddpm.base.progress import progress_bar
from stages import ROOT, WORK, load_params

# What the environment says comes before ddpm's choice; the number of turns is libgomp's own where nothing is said.
POLICIES = {"asleep": {"OMP_WAIT_POLICY": "PASSIVE"}, "spinning": {"GOMP_SPINCOUNT": "300000"}, "as ddpm chooses": {}}
MACHINES = ("quiet", "busy")
SECONDS = 4.0  # a turn, or one step where that takes longer
WORKS = {"training": "steps/s, demo/cifar10", "sampling": "image steps/s, small's network of CelebA"}


class Contender(NamedTuple):
    """How many threads work, and how they wait for each other."""

    threads: int
    waiting: str

    @property
    def name(self) -> str:
        return "1 thread" if self.threads == 1 else f"{self.threads} threads, {self.waiting}"


CONTENDERS = [*(Contender(2, waiting) for waiting in POLICIES), Contender(1, "as ddpm chooses")]


def training() -> Callable[[], int]:
    """A training step of the demo; returns 1, the number of steps."""
    import torch

    from ddpm.machine.memory import keep_freed_memory
    from ddpm.recipe import resolve
    from ddpm.training.loop import new_state, train

    keep_freed_memory()
    recipe, _ = resolve(load_params("demo"), "cifar10")
    config = recipe.train.model_copy(update={"steps": 10**6, "threads": torch.get_num_threads()})
    images = torch.randint(0, 256, (512, 32, 32, 3), dtype=torch.uint8)
    steps = train(new_state(config, torch.device("cpu")), images, config)
    return lambda: min(next(steps), 1)


def sampling() -> Callable[[], int]:
    """A network call for 8 images of 64 px; returns 8."""
    import torch

    from ddpm.machine.memory import keep_freed_memory
    from ddpm.model.unet import build_network
    from ddpm.recipe import resolve
    from ddpm.sampling.fast import prepare

    keep_freed_memory()
    recipe, _ = resolve(load_params("small"), "celeba")
    device = torch.device("cpu")
    network = prepare(build_network(recipe.train), recipe.train.precision, device, False)
    x_t, t = torch.randn(8, 3, 64, 64), torch.full((8,), 500)

    def call() -> int:
        with torch.no_grad():
            return len(network(x_t, t, None))

    return call


def serve(work: str, threads: int) -> None:
    """Do `work` for each line of stdin that says for how many seconds; answer with its rate."""
    import torch

    torch.set_num_threads(threads)
    step = {"training": training, "sampling": sampling}[work]()
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        begin, done = time.perf_counter(), 0
        while (passed := time.perf_counter() - begin) < float(line):
            done += step()
        print(done / passed, flush=True)


def start(work: str, contender: Contender) -> subprocess.Popen[str]:
    told = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name not in told}
    environment |= {"OMP_NUM_THREADS": str(contender.threads)} | POLICIES[contender.waiting]
    command = [sys.executable, "-m", "benchmarks.busy", "--serve", work, str(contender.threads)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def rate(process: subprocess.Popen[str], seconds: float) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(rounds: int, seconds: float = SECONDS) -> dict[str, Any]:
    """The rates of each contender in each round, quiet and beside a busy process."""
    rates: dict[str, dict[str, dict[str, list[float]]]] = {
        work: {contender.name: {machine: [] for machine in MACHINES} for contender in CONTENDERS} for work in WORKS
    }
    processes: dict[str, dict[tuple[str, Contender], subprocess.Popen[str]]] = {machine: {} for machine in MACHINES}
    try:
        for machine, started in processes.items():
            with Busy(machine == "busy"):
                for key in itertools.product(WORKS, CONTENDERS):
                    started[key] = start(*key)
        with progress_bar(total=rounds * sum(map(len, processes.values())), unit="turn") as bar:
            for _, (machine, started) in itertools.product(range(rounds), processes.items()):
                with Busy(machine == "busy"):
                    for (work, contender), process in started.items():
                        rates[work][contender.name][machine].append(rate(process, seconds))
                        bar.update()
    finally:
        for process in itertools.chain(*(started.values() for started in processes.values())):
            process.kill()
            process.wait()
    return {"seconds": seconds, "rates": rates}


class Busy:
    """A process that does nothing but take the time of a core, as another program would: in a session of its own."""

    def __init__(self, wanted: bool) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) if wanted else None

    def __enter__(self) -> None:
        time.sleep(0.5)

    def __exit__(self, *error: object) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


def text(result: dict[str, Any]) -> str:
    """The result in Markdown that can be read as it stands: medians, and their part of the fastest on the quiet machine."""
    parts = []
    for work, contenders in result["rates"].items():
        medians = {name: [statistics.median(rates[machine]) for machine in MACHINES] for name, rates in contenders.items()}
        fastest = max(quiet for quiet, _ in medians.values())
        rows = [[WORKS[work], "quiet", "of the fastest", "beside a busy process", "of the fastest"]]
        for name, rates in medians.items():
            rows.append([name, *itertools.chain(*((f"{rate:.3g}", f"{rate / fastest:.0%}") for rate in rates))])
        parts.append(aligned(rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of a turn (default: {SECONDS:g})")
    parser.add_argument("--json", type=Path, help="where to write the results (default: work/benchmarks/busy.json)")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], int(args.serve[1]))
        return
    path = args.json or WORK / "benchmarks" / "busy.json"
    result = measure(args.repeats, args.seconds)
    from benchmarks.common import machine  # here: the contenders' torch is not this one
    from ddpm.machine.device import pick_device

    options = ["--repeats", str(args.repeats), "--seconds", f"{args.seconds:g}"]
    command = shlex.join(["python", "-m", "benchmarks.busy", *options])
    facts = {**machine(pick_device("cpu")), "cores": str(os.cpu_count())}
    facts["device"] = facts["device"].partition(",")[0]  # the threads are the contenders'
    write_json(path, {"benchmark": "busy", "command": command, "machine": facts, **result})
    print(f"{text(result)}\n\nwrote {path}")


if __name__ == "__main__":
    with faults_reported():
        main()
