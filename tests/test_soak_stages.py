"""Killing each stage, a download and queued experiments at random: no output is ever wrong, nothing stays behind.

A stage's outputs are removed before it starts, as DVC does. After each kill, an output is whole or missing; after the run
that follows the last one, all are byte-equal to those of a run that nobody disturbed. What a kill may cost a training,
and dvc itself, is tests/test_soak.py's.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import Checkout, quick_python, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),  # ten minutes on a machine that has nothing else to do
    pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc"),
]

SEED = 20_261_126
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP")
KILLS = {  # of each stage, in the pipeline's order; the last is no stage, but what one does where data are published
    "config": 4,
    "download": 9,
    "preprocess": 9,
    "train": 8,
    "overview": 5,
    "progression": 5,
    "samplers": 5,
    "ema": 5,
    "grid": 8,
    "solvers": 5,
    "classes": 6,
    "path": 6,
    "editing": 6,
    "evaluate": 6,
    "fetch": 7,
}
QUEUE_KILLS = 6
RECIPE = {"data": {"dataset": "sprites", "source": "synthetic", "images": 60}, "train": {"context_dim": 5}}
CONTENT = random.Random(SEED).randbytes(400_000)  # of a published file
FETCHING = """
import stages  # which finds the library of this checkout
import sys
from pathlib import Path
from ddpm.data.fetch import RemoteFile, fetch
url, size, sha256 = sys.argv[1:]
print(fetch(RemoteFile("pictures.bin", int(size), (url,), "nothing", sha256=sha256), Path("fetched")))
"""


class Slowly(http.server.BaseHTTPRequestHandler):
    """Sends CONTENT, from the byte asked for on, in about a second."""

    def do_GET(self) -> None:
        start = int(re.sub("[^0-9]", "", self.headers.get("Range", "0")))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for place in range(start, len(CONTENT), 10_000):
                self.wfile.write(CONTENT[place : place + 10_000])
                time.sleep(0.025)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slowly)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/pictures.bin"
    server.shutdown()


def prepare(checkout: Checkout) -> None:
    """One small recipe of sprites, with every figure that there is."""
    checkout.params(recipe_names=["sprites"], conditional=["sprites"], editing=["sprites"], recipes={"sprites": RECIPE})
    checkout.params(train__steps=40, train__checkpoints=[10, 20], runtime__workers=2, runtime__save_seconds=0.05)
    (checkout.path / "fetching.py").write_text(FETCHING)


def outputs(checkout: Checkout, stage: str) -> list[Path]:
    """The files and folders that dvc.yaml says `stage` writes."""
    if stage == "fetch":
        return [checkout.path / "fetched"]
    declared = yaml.safe_load((checkout.path / "dvc.yaml").read_text())["stages"][stage]
    listed = [entry for kind in ("outs", "metrics", "plots") for entry in declared.get(kind, [])]
    names = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in listed]
    return [checkout.path / name.replace("${scale}", "demo").replace("${item.name}", "sprites") for name in names]


def contents(places: list[Path]) -> dict[str, bytes]:
    """The files at `places`, by path from the checkout's parent on, but for half-written ones, which have another name."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    return {str(file): file.read_bytes() for file in files if not file.name.endswith((".part", ".lock"))}


def running(checkout: Checkout) -> dict[int, list[bytes]]:
    """The processes that run in the checkout, and the words of their commands."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if (folder / "cwd").readlink().is_relative_to(checkout.path):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
    return found


def jobs(checkout: Checkout) -> list[int]:
    """Of these the forks that do a stage's work."""
    return [pid for pid, words in running(checkout).items() if any(word.endswith(b"forked.py") for word in words)]


def temporaries(checkout: Checkout) -> list[Path]:
    return [path for path in checkout.path.rglob(".*.tmp-*") if not path.is_relative_to(checkout.path / ".dvc")]


class Soak:
    """Starts and kills the stages of a checkout."""

    def __init__(self, checkout: Checkout, address: str) -> None:
        self.checkout, self.chance = checkout, random.Random(SEED)
        self.address = [address, str(len(CONTENT)), hashlib.sha256(CONTENT).hexdigest()]
        self.expected: dict[str, dict[str, bytes]] = {}  # of each stage
        self.seconds: dict[str, float] = {}  # that each stage takes
        self.done: Counter[tuple[str, str]] = Counter()
        self.victims: set[int] = set()

    def start(self, stage: str, log: str = "") -> subprocess.Popen[str]:
        words = ["fetching", *self.address] if stage == "fetch" else [f"stages.{stage}", "sprites"]
        with (self.checkout.path.parent / f"{log or stage}.log").open("w") as output:
            return subprocess.Popen(
                [quick_python(), "-m", *words], cwd=self.checkout.path, env=self.checkout.env | {"no_proxy": "*"}, text=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self, log: str) -> str:
        return (self.checkout.path.parent / f"{log}.log").read_text()

    def clear(self, stage: str) -> None:
        """Remove what the stage writes, as DVC does, and for a new start what it finds in work/ and would use again."""
        for place in outputs(self.checkout, stage) if stage != "fetch" else []:
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        work = self.checkout.path / "work"
        scratch = {"download": work.glob("downloads/synthetic/*"), "preprocess": work.glob("demo/sprites/*.npy*")}
        for path in scratch.get(stage, ()):
            path.unlink()

    def whole_run(self, stage: str) -> dict[str, bytes]:
        """Run the stage to its end and return what it wrote."""
        self.clear(stage)
        begin, process = time.monotonic(), self.start(stage)
        assert process.wait(900) == 0, self.said(stage)
        self.seconds[stage] = time.monotonic() - begin
        found = contents(outputs(self.checkout, stage))
        assert found, stage
        return found

    def kill(self, stage: str, name: str) -> None:
        """Start the stage and interrupt it at a moment of its life; again, and sooner, if it had ended before."""
        for attempt in range(10):
            share = self.chance.uniform(0.02, 1.0) * 0.8**attempt
            self.clear(stage)
            if stage == "train" and attempt:  # what has come to its end has nothing left to be killed
                shutil.rmtree(*self.checkout.path.glob("work/demo/sprites/train-*"))
            process = self.start(stage)
            begin = time.monotonic()
            while not (found := jobs(self.checkout)) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(max(0.0, share * self.seconds[stage] - (time.monotonic() - begin)))
            hit = bool(found) and self.strike(process, stage, found[0], signal.Signals[name])
            status = process.wait(900)
            wait_for(lambda: not running(self.checkout), f"the end of what {stage} started", 60)
            print(f"{stage} {name} at {share:.2f}: {'hit' if hit else 'missed'}, exit status {status}", flush=True)
            self.check(stage, status, name)
            if hit:
                self.done[stage, name] += 1
                return
        pytest.fail(f"{stage} {name}: missed ten times")

    def strike(self, process: subprocess.Popen[str], stage: str, job: int, number: signal.Signals) -> bool:
        """Send the signal to the stage's process, Ctrl-C to all of its group; return whether that was in time."""
        if process.poll() is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGSTOP:
                return self.pause(process, stage, job)
            self.victims.add(job)
            os.killpg(job, number) if number == signal.SIGINT else os.kill(job, number)
        return process.wait(120) != 0

    def pause(self, process: subprocess.Popen[str], stage: str, job: int) -> bool:
        """Stop the stage for a while, in which it is started once more: that one is refused, waits, or does the same."""
        os.killpg(job, signal.SIGSTOP)
        try:
            second = self.start(stage, "second")
            with contextlib.suppress(subprocess.TimeoutExpired):
                second.wait(2 * self.seconds[stage] + 1)
        finally:
            os.killpg(job, signal.SIGCONT)
        assert process.wait(900) == 0, self.said(stage)
        if second.wait(900):
            said = self.said("second")
            assert "error: " in said, said
            assert "another process" in said, said
        return True

    def check(self, stage: str, status: int, name: str) -> None:
        """Nothing is wrong: what the stage wrote is whole or missing, and all else is as it was."""
        said = self.said(stage)
        if name != "SIGINT":  # Python says where Ctrl-C struck
            assert "Traceback" not in said, said
        for other, expected in self.expected.items():
            found = contents(outputs(self.checkout, other))
            if other == stage:
                assert found.keys() <= expected.keys(), stage
                assert status or found.keys() == expected.keys(), stage
            else:
                assert found.keys() == expected.keys(), f"{stage} reached what {other} had written"
            assert [path for path in found if found[path] != expected[path]] == [], stage
        if (part := self.checkout.path / "fetched/pictures.bin.part").exists():
            assert CONTENT.startswith(part.read_bytes())


def test_no_kill_of_a_stage_leaves_anything_wrong(untouched: Checkout, tmp_path: Path, address: str) -> None:
    print("seed", SEED)
    soak = Soak(untouched.copy(tmp_path / "project"), address)
    prepare(soak.checkout)
    for stage, count in KILLS.items():
        soak.expected[stage] = soak.whole_run(stage)
        if stage == "train":
            shutil.rmtree(*soak.checkout.path.glob("work/demo/sprites/train-*"))
        if stage == "fetch":
            assert soak.expected.pop("fetch") == {str(soak.checkout.path / "fetched/pictures.bin"): CONTENT}
        names = soak.chance.sample(SIGNALS, len(SIGNALS))
        for number in range(count):
            if stage == "fetch":
                (soak.checkout.path / "fetched/pictures.bin").unlink(missing_ok=True)
            soak.kill(stage, names[number % len(names)])
        found = soak.whole_run(stage)
        assert found == soak.expected.get(stage, found)
        assert stage != "fetch" or found == {str(soak.checkout.path / "fetched/pictures.bin"): CONTENT}
    for stage, expected in soak.expected.items():
        assert contents(outputs(soak.checkout, stage)) == expected, stage
    assert soak.done.total() == sum(KILLS.values())
    for name in SIGNALS:
        assert sum(count for (_, how), count in soak.done.items() if how == name) >= 15, name
    assert not running(soak.checkout)
    # What a process that is given no moment to clean up leaves, the next that writes the same file takes away.
    assert not temporaries(soak.checkout)
    assert not list(soak.checkout.path.glob("fetched/*.part*"))


def ended(checkout: Checkout, names: list[str]) -> dict[str, str]:
    """Success or Failed for each of the queued experiments; empty while one of them has not ended."""
    lines = [line.split() for line in checkout.dvc("queue", "status").splitlines()]
    states = {name: word for line in lines for name in set(line) & set(names) for word in line if word in ("Success", "Failed")}
    return states if len(states) == len(names) else {}


def test_no_kill_changes_what_queued_experiments_find(untouched: Checkout, tmp_path: Path) -> None:
    """Two workers, and a kill of a stage or its `dvc` at a time: the experiment fails, and succeeds when queued again."""
    print("seed", SEED)
    checkout, chance = untouched.copy(tmp_path / "project"), random.Random(SEED)
    prepare(checkout)
    checkout.params(train__steps=150)
    checkout.dvc("repro", "preprocess")
    checkout.commit("ready")
    python = quick_python()
    quick = {"PATH": f"{python.parent}{os.pathsep}{checkout.env['PATH']}"}
    rates = {"one": 0.001, "two": 0.002}

    def lock(name: str) -> dict[str, Any]:
        """What dvc.lock says in the end of the training of the experiment `name`."""
        stages = yaml.safe_load(checkout.git("show", f"{name}:dvc.lock"))["stages"]
        return {key: stages["train@sprites"][key] for key in ("deps", "outs")}

    expected = {}
    for name, rate in rates.items():
        checkout.dvc("exp", "run", "--temp", "--name", f"{name}-expected", "-S", f"train.lr={rate}", "train@sprites")
        expected[name] = lock(checkout.git("for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}-expected").strip())
    shutil.rmtree(checkout.path / ".dvc/cache/runs")
    for folder in checkout.path.glob("work/demo/sprites/train-*"):
        shutil.rmtree(folder)

    kills, attempts, waiting = 0, 0, dict(rates)
    while waiting:
        attempts += 1
        assert attempts <= 2 * QUEUE_KILLS + 4
        for name, rate in waiting.items():
            checkout.dvc("exp", "run", "--queue", "--name", f"{name}-{attempts}", "-S", f"train.lr={rate}", "train@sprites")
        checkout.dvc("queue", "start", "--jobs", "2", **quick)
        if kills < QUEUE_KILLS:
            trainers = lambda: checkout.processes("stages.train") or jobs(checkout)  # noqa: E731
            begun = wait_for(lambda: list(checkout.path.glob("work/demo/sprites/train-*/state-*.pt")), "a saved state", 600)
            time.sleep(chance.uniform(0, 0.5))
            for pid in trainers() if begun else []:
                number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    kills += 1
                    print(f"attempt {attempts}: {number.name}", flush=True)

        names = [f"{name}-{attempts}" for name in waiting]
        states = wait_for(lambda names=names: ended(checkout, names), "the queue", 900)
        for name in list(waiting):
            if states[f"{name}-{attempts}"] == "Success":
                ref = checkout.git("for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}-{attempts}").strip()
                assert lock(ref) == expected[name]
                del waiting[name]
        if not waiting and kills < QUEUE_KILLS:  # once more, from nothing
            waiting = dict(rates)
            shutil.rmtree(checkout.path / ".dvc/cache/runs", ignore_errors=True)
            for folder in checkout.path.glob("work/demo/sprites/train-*"):
                shutil.rmtree(folder)
    assert kills >= QUEUE_KILLS
    checkout.dvc("queue", "stop", **quick)
    wait_for(lambda: not running(checkout), "the end of the workers", 120)
    assert not temporaries(checkout)
    assert not list(checkout.path.glob(".dvc/tmp/exps/tmp*")), "no copy of the project is left"
