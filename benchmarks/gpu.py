"""All that is worth doing on a GPU that can be had for minutes, in order, each part with a limit of its own.

  python -m benchmarks.gpu OUT                     every part, for the recipes of gpu/params.yaml
  python -m benchmarks.gpu OUT --part data --part train --limit train=300 --slices 2

  data       settings, raw images and packed images of every recipe, all at once
  tests      the tests marked cuda
  training   benchmarks.training of the full networks
  sampling   benchmarks.sampling of the full CIFAR-10 network
  train      the trainings, all at once; after each slice they are stopped by SIGTERM and resumed, as after any interruption.
             At the limit one with lr_decay: constant ends where it is; set its train.steps to that afterwards
  figures    evaluate and every figure, some at once; then timing, alone

Nothing here needs DVC: stages are run by hand, with the python that runs this. Logs, tables, pictures and checkpoints are
copied into the folder OUT, whole or not at all, the small ones first and at most --megabytes in all. What was cut off goes
on with the same command: a part that is done is left out (work/gpu/gpu.json says which), a training resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import whole_file, write_json
from stages import ROOT, SCALES, WORK, Paths, load_params

AT_ONCE = 6  # figure stages that share the GPU
FIGURES = ("evaluate", "overview", "progression", "samplers", "ema", "grid", "solvers", "path")
LIMITS = {"data": 120.0, "tests": 120.0, "training": 240.0, "sampling": 120.0, "train": 600.0, "figures": 240.0}  # seconds
COLLECT = 20.0  # seconds between copies of what there is
GRACE = 30.0  # seconds that a process has to save its state


class Job(NamedTuple):
    """A process: its name for people, what python is given, and the modules that follow if it succeeds."""

    name: str
    arguments: tuple[str, ...]
    then: tuple[tuple[str, ...], ...] = ()


class Running:
    """A job's processes, one after the other; what they print goes to a file of its own in `logs`."""

    def __init__(self, job: Job, logs: Path) -> None:
        self.job, self.log = job, (logs / f"{job.name}.txt").open("ab")
        self.rest = [job.arguments, *job.then]
        self.status: int | None = None
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        output: IO[bytes] = self.log
        return subprocess.Popen([sys.executable, *self.rest.pop(0)], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)

    def poll(self) -> bool:
        """Whether all is done, or one has failed: then `status` says which."""
        while self.status is None and (status := self.process.poll()) is not None:
            if status == 0 and self.rest:
                self.process = self.start()
            else:
                self.status = status
        return self.status is not None

    def end(self) -> int:
        """The exit status of a process that has been asked to end, once it has saved what it must."""
        try:
            return self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def at_once(
    jobs: Iterable[Job], seconds: float, logs: Path, meanwhile: Callable[[], object], most: int = 100
) -> dict[str, int]:
    """Run the jobs, at most `most` at a time, for at most so many seconds; their exit statuses. What is left is stopped.

    `meanwhile` is called every COLLECT seconds.
    """
    waiting, running, statuses = list(jobs), list[Running](), dict[str, int]()
    collected = time.monotonic()
    deadline = collected + seconds
    try:
        while waiting or running:
            while waiting and len(running) < most and time.monotonic() < deadline:
                running.append(Running(waiting.pop(0), logs))
            for one in [one for one in running if one.poll()]:
                running.remove(one)
                statuses[one.job.name] = one.status or 0
            if (now := time.monotonic()) >= deadline:
                break
            if now - collected > COLLECT:
                meanwhile()
                collected = now
            time.sleep(0.05)
    finally:
        for one in running:  # all are asked before any is waited for
            one.process.send_signal(signal.SIGTERM)
        for one in running:
            statuses[one.job.name] = one.end()
    return statuses | {job.name: -signal.SIGTERM for job in waiting}


class Campaign:
    """The parts of the module's description."""

    def __init__(
        self, out: Path, scale: str, recipes: list[str], limits: dict[str, float], slices: int, megabytes: float
    ) -> None:
        self.out, self.scale, self.recipes, self.limits, self.slices = out, scale, recipes, limits, slices
        self.bytes = megabytes * 1e6
        self.logs, self.record = WORK / "gpu" / "logs", WORK / "gpu" / "gpu.json"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, object]] = json.loads(self.record.read_text()) if self.record.exists() else {}

    def run(self, parts: list[str]) -> bool:
        """Do the parts that are not done; whether all has gone well. What there is so far is in OUT after each."""
        for part in parts:
            if self.done.get(part, {}).get("well"):
                print(f"{part}: done before", flush=True)
                continue
            begin = time.monotonic()
            work: Callable[[], dict[str, int]] = getattr(self, part)
            try:
                statuses = work()
                self.done[part] = {
                    "seconds": round(time.monotonic() - begin, 1),
                    "well": not any(statuses.values()),
                    "statuses": statuses,
                }
                write_json(self.record, self.done)
                print(f"{part}: {self.done[part]}", flush=True)
            finally:
                self.collect()
        return all(self.done.get(part, {}).get("well") for part in parts)

    def at_once(self, jobs: Iterable[Job], seconds: float, most: int = 100) -> dict[str, int]:
        """As the function, with this campaign's logs and OUT."""
        return at_once(jobs, seconds, self.logs, self.collect, most)

    def job(self, recipe: str, *names: str) -> Job:
        """The stages `names` of a recipe, one after the other."""
        first, *rest = [("-m", f"stages.{name}", recipe, "--scale", self.scale) for name in names]
        return Job(f"{names[-1]}-{recipe}", first, tuple(rest))

    def data(self) -> dict[str, int]:
        jobs = [self.job(recipe, "config", "download", "preprocess") for recipe in self.recipes]
        return self.at_once(jobs, self.limits["data"])

    def tests(self) -> dict[str, int]:
        arguments = ("-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests/test_cuda.py")
        return self.at_once([Job("tests", arguments)], self.limits["tests"])

    def training(self) -> dict[str, int]:
        kept = str(self.logs / "training.json")
        names = ("--scale", "full", "--recipe", "cifar10", "--recipe", "celeba", "--repeats", "3")
        return self.at_once([Job("training", ("-m", "benchmarks.training", *names, "--json", kept))], self.limits["training"])

    def sampling(self) -> dict[str, int]:
        kept = str(self.logs / "sampling.json")
        names = ("--scale", "full", "--recipe", "cifar10", "--repeats", "3")
        return self.at_once([Job("sampling", ("-m", "benchmarks.sampling", *names, "--json", kept))], self.limits["sampling"])

    def train(self) -> dict[str, int]:
        deadline, statuses = time.monotonic() + self.limits["train"], dict[str, int]()
        for number in range(self.slices):
            seconds = (deadline - time.monotonic()) / (self.slices - number)
            statuses = self.at_once([self.job(recipe, "train") for recipe in self.recipes], seconds)
            for recipe in self.recipes:
                preview = Paths(self.scale, recipe).work / "preview.png"
                if preview.exists():
                    copy(preview, self.logs / f"preview-{recipe}-{number + 1}.png")
            self.collect()
        late = [recipe for recipe in self.recipes if statuses[f"train-{recipe}"] and self.ended(recipe)]
        return statuses | self.at_once([self.job(recipe, "train") for recipe in late], GRACE)

    def ended(self, recipe: str) -> bool:
        """Let a training whose time is over end at the step of its newest state, where any step may be the last."""
        paths = Paths(self.scale, recipe)
        states, settings = sorted(paths.work.glob("train-*/state-*.pt")), paths.resolved("train")
        if not states or settings["lr_decay"] != "constant":
            return False
        step = int(max(states, key=lambda path: path.stat().st_mtime_ns).stem.partition("-")[2])
        print(f"{recipe}: its time is over at step {step}: set recipes.{recipe}.train.steps = {step} to keep this", flush=True)
        write_json(paths.metrics / "config" / "train.json", settings | {"steps": step})
        return True

    def figures(self) -> dict[str, int]:
        params, deadline = load_params(self.scale), time.monotonic() + self.limits["figures"]
        own = {recipe: [*FIGURES, *["classes"] * (recipe in params["conditional"])] for recipe in self.recipes}
        jobs = [self.job(recipe, name) for recipe, names in own.items() for name in names]
        statuses = self.at_once(jobs, deadline - time.monotonic(), AT_ONCE)
        jobs = [self.job(recipe, "timing") for recipe in self.recipes]
        return statuses | self.at_once(jobs, deadline - time.monotonic(), 1)

    def collect(self) -> None:
        """Copy what there is into OUT, small things first, up to the limit; what is there already stays."""
        folders = {"logs": self.logs}
        for recipe in self.recipes:
            paths = Paths(self.scale, recipe)
            folders |= {f"{name}/{recipe}": getattr(paths, name) for name in ("data", "metrics", "seconds", "models")}
        found = [
            (path, self.out / name / path.relative_to(folder)) for name, folder in folders.items() for path in files(folder)
        ]
        found += [(self.record, self.out / "gpu.json")] if self.record.exists() else []
        total = 0
        for path, target in sorted(found, key=lambda pair: (pair[0].suffix == ".safetensors", "raw-" in pair[0].name)):
            total += path.stat().st_size
            if total > self.bytes:
                print(f"{path} and what follows is not copied: more than {self.bytes / 1e6:.0f} MB", flush=True)
                break
            if not target.exists() or target.stat().st_mtime_ns != path.stat().st_mtime_ns:
                copy(path, target)


def files(folder: Path) -> list[Path]:
    """The files below `folder` that are whole."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def copy(path: Path, target: Path) -> None:
    """Copy `path` with its times to `target`, whole or not at all."""
    with whole_file(target, path.stat().st_size) as temporary:
        shutil.copy2(path, temporary)


def limit(text: str) -> tuple[str, float]:
    """PART=SECONDS."""
    part, _, seconds = text.partition("=")
    try:
        if part in LIMITS and float(seconds) > 0:
            return part, float(seconds)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text}: accepted: PART=SECONDS with a part of {', '.join(LIMITS)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder that gets the results")
    parser.add_argument("--scale", choices=SCALES, default="gpu")
    parser.add_argument("--recipe", action="append", help="may be repeated (default: all of the scale)")
    parser.add_argument("--part", action="append", choices=list(LIMITS), help="may be repeated (default: all)")
    parser.add_argument("--limit", action="append", type=limit, default=[], help="PART=SECONDS; may be repeated")
    parser.add_argument("--slices", type=int, default=1, help="of the trainings (default: 1)")
    parser.add_argument("--megabytes", type=float, default=64.0, help="that OUT may take (default: 64)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM: the same command does the rest"))
    with faults_reported():
        if args.slices < 1:
            raise Fault(f"--slices {args.slices}; accepted: 1 or more")
        known = load_params(args.scale)["recipe_names"]
        if unknown := set(args.recipe or []) - set(known):
            raise Fault(f"--recipe {', '.join(sorted(unknown))}; accepted: {', '.join(known)}")
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
        campaign = Campaign(args.out, args.scale, args.recipe or known, LIMITS | dict(args.limit), args.slices, args.megabytes)
        if not campaign.run(args.part or list(LIMITS)):
            sys.exit("some of it went wrong: gpu.json and logs/ in the folder say what; the same command does the rest")


if __name__ == "__main__":
    main()
