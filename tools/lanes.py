"""Bring a scale up to date with several recipes at a time, each in a lane of its own: `python -m tools.lanes --scale small`.

`dvc repro` runs one stage after another, and a small network cannot use more than one core well. Here each lane is a
`dvc repro` of one recipe's stages, on its share of the cores; the results are the same bytes. What measures time runs
afterwards, alone. Lanes write into work/<scale>/lane-<recipe>.log. After Ctrl-C or an error the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.parallel import cpu_count
from ddpm.base.progress import progress_bar
from stages import SCALES, WORK, load_params, params_file, shown
from tools import positive

ALONE = ("timing",)  # stages that measure what another lane would disturb
PAUSE = 0.5  # seconds between looks at the logs
PATIENCE = 30.0  # seconds that lanes have to end after Ctrl-C
TAIL = 15  # lines of a failed lane's log that are shown
STAGE = re.compile(r"^(?:Running stage|Stage) '([^']+)'", re.MULTILINE)


class Lane:
    """A `dvc repro` of the stages `targets` that writes into the file `log`."""

    def __init__(self, recipe: str, targets: Sequence[str], folder: Path, log: Path, threads: int) -> None:
        self.recipe, self.log = recipe, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            # It waits for the lock that another lane holds between stages, instead of giving up.
            self.process = subprocess.Popen(
                ["dvc", "--wait-for-lock", "repro", *targets], cwd=folder, stdout=output, stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": str(threads)} | os.environ,
            )  # fmt: skip

    def stages(self) -> list[str]:
        """The stages that it has come to, without the recipe's name."""
        found = STAGE.findall(self.log.read_text(errors="replace"))
        return [name.rpartition(":")[2].partition("@")[0] for name in dict.fromkeys(found)]

    def last_lines(self) -> str:
        """The end of its log, bars as they last were."""
        lines = [line.rpartition("\r")[2] for line in self.log.read_text(errors="replace").rstrip().split("\n")]
        return "\n".join(lines[-TAIL:])


def targets_of(stages: dict[str, Any], params: dict[str, Any], recipe: str) -> list[str]:
    """The stages of a dvc.yaml that run for `recipe`, as `dvc repro` names them, but for those that run alone."""
    lists = {name: stage["matrix"]["name"].strip("${}") for name, stage in stages.items()}  # as in "${recipe_names}"
    return [f"{name}@{recipe}" for name, key in lists.items() if name not in ALONE and recipe in params[key]]


@contextlib.contextmanager
def ended_with_this(lanes: list[Lane]) -> Iterator[None]:
    """Whatever ends this, ends the lanes, whose trainings save their state, and waits for them."""
    try:
        yield
    except KeyboardInterrupt:  # a terminal sends it to them too, and they end in order
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and any(lane.process.poll() is None for lane in lanes):
            time.sleep(PAUSE)
        raise
    finally:
        for lane in lanes:
            if lane.process.poll() is None:
                lane.process.terminate()
        for lane in lanes:
            lane.process.wait()


def run(recipes: list[str], jobs: int, scale: str) -> None:
    """Run a lane for each of `recipes`, `jobs` at a time, and show where they are. Raises Fault if one fails."""
    folder, params = params_file(scale).parent, load_params(scale)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    waiting = {recipe: targets_of(stages, params, recipe) for recipe in recipes}
    threads, lanes = max(1, cpu_count() // jobs), list[Lane]()
    bar = progress_bar(total=sum(map(len, waiting.values())), desc=scale, unit=" stages")
    with ended_with_this(lanes), bar:
        while waiting or any(lane.process.poll() is None for lane in lanes):
            while waiting and sum(lane.process.poll() is None for lane in lanes) < jobs:
                recipe = next(iter(waiting))
                log = WORK / scale / f"lane-{recipe}.log"
                lanes.append(Lane(recipe, waiting.pop(recipe), folder, log, threads))
            time.sleep(PAUSE)
            for lane in lanes:
                if lane.process.poll():
                    end = f"{shown(lane.log)} ends in:\n{lane.last_lines()}"
                    raise Fault(f"{lane.recipe} stopped; once that is mended, the same command goes on. {end}")
            come_to = [(lane, lane.stages()) for lane in lanes]  # read once a look
            bar.n = sum(len(names) for _, names in come_to)
            running = [f"{lane.recipe}: {names[-1]}" for lane, names in come_to if names and lane.process.poll() is None]
            bar.set_postfix_str(", ".join(running))


def main(args: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not (recipes := load_params(args.scale)["recipe_names"]):
        raise Fault(f"{shown(params_file(args.scale))}: recipe_names = []; accepted: one name or more")
    jobs = min(args.jobs or cpu_count() + 1, len(recipes))  # one more, so that none is idle while another ends or starts
    if jobs > 1:
        try:
            run(recipes, jobs, args.scale)
        except KeyboardInterrupt:
            sys.exit("stopped; the same command goes on")
    sys.exit(subprocess.run(["dvc", "repro"], cwd=params_file(args.scale).parent).returncode)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "python -m tools.lanes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="demo", help="default: demo")
    parser.add_argument("--jobs", type=positive, help="recipes at a time (default: one a core, and one more)")
    with faults_reported():
        main(parser.parse_args())
