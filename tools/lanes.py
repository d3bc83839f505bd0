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
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.parallel import cpu_count
from ddpm.base.progress import progress_bar
from ddpm.base.settings import NAME, NAME_IN_WORDS
from stages import SCALES, WORK, load_params, params_file, shown
from tools import positive

ALONE = ("timing",)  # stages that measure what another lane would disturb
PAUSE = 0.5  # seconds between looks at the logs
PATIENCE = 60.0  # seconds that trainings have to save their state; the processes of a torchrun have 30 of it
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # what asks this to end
TAIL = 15  # lines of a failed lane's log that are shown
STAGE = re.compile(r"^(?:Running stage|Stage) '([^']+)'", re.MULTILINE)


class Group:
    """A command and all that it starts: a group of processes of their own, which the keys of the terminal do not reach."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self.process = subprocess.Popen(command, start_new_session=True, **options)

    def send(self, number: int) -> bool:
        """Send a signal to each of the group, 0 for none; whether there was one. What outlives `dvc` is of the group still."""
        self.process.poll()  # while nobody has asked for its status, a command that has ended counts as one of them
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):  # the latter on macOS, where only such ended ones are left
            return False
        return True


class Lane(Group):
    """A `dvc repro` of the stages `targets` that writes into the file `log`."""

    def __init__(self, recipe: str, targets: Sequence[str], folder: Path, log: Path, threads: int) -> None:
        self.recipe, self.log = recipe, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            # It waits for the lock that another lane holds between stages, instead of giving up.
            super().__init__(
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


def lists_of(stages: dict[str, Any]) -> dict[str, str]:
    """The stages of a dvc.yaml, and the key of params.yaml that lists the recipes of each."""
    return {name: stage["matrix"]["name"].strip("${}") for name, stage in stages.items()}  # as in "${recipe_names}"


def targets_of(stages: dict[str, Any], params: dict[str, Any], recipe: str) -> list[str]:
    """The stages of a dvc.yaml that run for `recipe`, as `dvc repro` names them, but for those that run alone."""
    return [f"{name}@{recipe}" for name, key in lists_of(stages).items() if name not in ALONE and recipe in params[key]]


def check_lists(params: dict[str, Any], keys: Iterable[str], file: Path) -> None:
    """Raise Fault unless all of `keys` list names. Whether these are recipes' the stage config says, which each lane runs."""
    for key in keys:
        names = params.get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) and re.fullmatch(NAME, name) for name in names):
            said = f"{key} = {names!r}" if key in params else f"{key}: missing"
            raise Fault(f"{shown(file)}: {said}; accepted: a list of names, each of {NAME_IN_WORDS}")
    if not params["recipe_names"]:
        raise Fault(f"{shown(file)}: recipe_names = []; accepted: one name or more")


_asked: list[int] = []  # the signals of ENDINGS that have come


def note_signals() -> None:
    """Let signals of ENDINGS be noted. A handler that raised could do so while a `dvc` starts, and nothing would end that."""
    for number in ENDINGS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` ignores SIGHUP
            signal.signal(number, lambda number, _: _asked.append(number))


def pause() -> None:
    """Wait until the next look; end this if it was asked to."""
    time.sleep(PAUSE)
    if _asked:
        sys.exit("stopped; the same command goes on")


@contextlib.contextmanager
def ended_with_this(groups: Sequence[Group]) -> Iterator[None]:
    """Whatever ends this, ends `groups`, whose trainings save their state, and waits for them. Ctrl-Z reaches them too."""

    def suspend(*_: object) -> None:
        running = [group for group in groups if group.process.poll() is None]
        for group in running:
            group.send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the shell's `fg` or `bg`
        for group in running:
            group.send(signal.SIGCONT)

    before = signal.signal(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)
        # A `dvc` that ended well has left no process, and the number of its group may be another's by now.
        left = [group for group in groups if group.process.poll() != 0]
        for group in left:
            group.send(signal.SIGINT if signal.SIGINT in _asked else signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and any(group.send(0) for group in left):
            time.sleep(PAUSE)
        for group in left:
            group.send(signal.SIGKILL)
            group.process.wait()


def run(waiting: dict[str, list[str]], jobs: int, scale: str) -> None:
    """Run a lane for each recipe of `waiting`, with its targets, `jobs` at a time, and show where they are.

    Raises Fault if one fails.
    """
    threads, lanes = max(1, cpu_count() // jobs), list[Lane]()
    bar = progress_bar(total=sum(map(len, waiting.values())), desc=scale, unit=" stages")
    with ended_with_this(lanes), bar:
        while waiting or any(lane.process.poll() is None for lane in lanes):
            while waiting and sum(lane.process.poll() is None for lane in lanes) < jobs:
                recipe = next(iter(waiting))
                log = WORK / scale / f"lane-{recipe}.log"
                lanes.append(Lane(recipe, waiting.pop(recipe), params_file(scale).parent, log, threads))
            pause()
            for lane in lanes:
                if lane.process.poll():
                    end = f"{shown(lane.log)} ends in:\n{lane.last_lines()}"
                    raise Fault(f"{lane.recipe} stopped; once that is mended, the same command goes on. {end}")
            come_to = [(lane, lane.stages()) for lane in lanes]  # read once a look
            bar.n = sum(len(names) for _, names in come_to)
            running = [f"{lane.recipe}: {names[-1]}" for lane, names in come_to if names and lane.process.poll() is None]
            bar.set_postfix_str(", ".join(running))


def main(args: argparse.Namespace) -> None:
    file = params_file(args.scale)
    if not (pipeline := file.with_name("dvc.yaml")).exists():
        how = "`make full` makes it and runs it, `make full/dvc.yaml` only makes it" if args.scale == "full" else "restore it"
        raise Fault(f"{shown(pipeline)}: no such file; {how}")
    stages, params = yaml.safe_load(pipeline.read_text())["stages"], load_params(args.scale)
    check_lists(params, lists_of(stages).values(), file)
    if shutil.which("dvc") is None:
        raise Fault("dvc: no such program; activate the environment, `. .venv/bin/activate`, or install it: pip install dvc")
    recipes = params["recipe_names"]
    jobs = min(args.jobs or cpu_count() + 1, len(recipes))  # one more, so that none is idle while another ends or starts
    note_signals()
    if jobs > 1:
        run({recipe: targets_of(stages, params, recipe) for recipe in recipes}, jobs, args.scale)
    last = Group(["dvc", "repro"], cwd=file.parent)
    with ended_with_this([last]):
        while last.process.poll() is None:
            pause()
    sys.exit(last.process.returncode)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "python -m tools.lanes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="demo", help="default: demo")
    parser.add_argument("--jobs", type=positive, help="recipes at a time (default: one a core, and one more)")
    with faults_reported():
        main(parser.parse_args())
