"""Killing the real trainer and the real dvc, at random and at the worst moments: nothing is lost, no bit changes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Checkout, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")]

STEPS = 300
TRAINER = [sys.executable, "-m", "stages.train", "cifar10"]
DVC = [sys.executable, "-m", "dvc", "repro", "train@cifar10"]
WORK, MODELS, METRICS = (f"{name}/demo/cifar10" for name in ("work", "models", "metrics"))

SEED = 20_240_607
# (signal, moment): how often. "any" lies in the first seconds: imports, reading the state, training, saving. "dvc" is
# kill -9 of dvc alone, while it trains. Ctrl-C, and what is sent while dvc collects outputs, goes to the process group.
PLAN = {
    ("SIGKILL", "step"): 4,
    ("SIGTERM", "step"): 3,
    ("SIGINT", "step"): 3,
    ("SIGKILL", "saving"): 4,
    ("SIGTERM", "saving"): 3,
    ("SIGINT", "saving"): 3,
    ("SIGKILL", "any"): 3,
    ("SIGTERM", "any"): 1,
    ("SIGINT", "any"): 1,
    ("SIGKILL", "dvc"): 5,
}
COLLECTING = {("SIGKILL", "collecting"): 2, ("SIGTERM", "collecting"): 2, ("SIGINT", "collecting"): 2}


@pytest.fixture(scope="module")
def ready(untouched: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """All is ready for the training."""
    checkout = untouched.copy(tmp_path_factory.mktemp("ready") / "project")
    checkout.params(recipe_names=["cifar10"], train__steps=STEPS, train__checkpoints=list(range(20, STEPS, 20)))
    checkout.params(runtime__save_seconds=60.0)
    checkout.dvc("repro", "config", "preprocess")
    return checkout


def results(checkout: Checkout) -> dict[str, bytes]:
    """What the training publishes, without the measured speed."""
    return checkout.files(f"{MODELS}/*") | checkout.files(f"{METRICS}/loss.csv") | checkout.files(f"{METRICS}/train.json")


@pytest.fixture(scope="module")
def uninterrupted(ready: Checkout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of the uninterrupted training, and its dvc.lock."""
    checkout = ready.copy(tmp_path_factory.mktemp("uninterrupted") / "project")
    checkout.run(*DVC)
    found = results(checkout)
    assert len(found) == 2 * len(range(20, STEPS, 20)) + 4  # raw and averaged each, the last ones too, two of METRICS
    return found | checkout.files("dvc.lock")


def trainers(checkout: Checkout) -> list[int]:
    """Processes that run this checkout's training."""
    return checkout.processes("stages.train")


def newest(checkout: Checkout, pattern: str = "state-*.pt") -> int:
    """The step of the newest state, or of the newest file of that pattern."""
    return max((int(path.stem.split("-")[1]) for path in checkout.path.glob(f"{WORK}/train-*/{pattern}")), default=0)


def half_written(checkout: Checkout) -> list[Path]:
    return list(checkout.path.glob(f"{WORK}/train-*/.*.tmp-state-*"))


class Soak:
    """One training that is killed again and again. Whenever it comes to its end, its bytes are compared and it starts anew."""

    def __init__(self, checkout: Checkout, expected: dict[str, bytes]) -> None:
        self.checkout, self.expected = checkout, expected
        self.lock = checkout.files("dvc.lock")
        self.chance = random.Random(SEED)
        self.kills: Counter[tuple[str, str]] = Counter()

    def kill(self, name: str, moment: str) -> None:
        """Let the training get further, kill it in the way named, check what that leaves; again if the moment was missed."""
        for _ in range(6):
            begin, started = newest(self.checkout), time.monotonic()
            # Saving after every step makes saves frequent; seldom, that a kill strikes between them.
            self.checkout.params(runtime__save_seconds=1e-6 if moment == "saving" else self.chance.choice([0.02, 0.1]))
            process = self.checkout.start(*(DVC if moment in ("dvc", "collecting") else TRAINER))
            try:
                hit = self.strike(process, name, moment, begin)
                status = process.wait(120)
            finally:
                self.end(process)
            after, seconds = newest(self.checkout), time.monotonic() - started
            result = "hit" if hit else "missed"
            print(f"{name} {moment}: {begin} -> {after}, {result}, exit status {status}, {seconds:.1f} s", flush=True)
            if status == 0:
                self.compare()
                if moment != "collecting":
                    self.start_anew()
            else:
                self.check(name, moment, begin, after)
            if hit:
                self.kills[name, moment] += 1
                return
        pytest.fail(f"{name} {moment}: missed the moment six times")

    def strike(self, process: subprocess.Popen[str], name: str, moment: str, begin: int) -> bool:
        """Wait for the moment and send the signal; return whether it was the moment."""
        checkout, number = self.checkout, signal.Signals[name]
        if moment == "any":
            time.sleep(self.chance.uniform(0, 8))
        elif moment == "collecting":
            wait_for(lambda: f"wrote {MODELS}" in checkout.log.read_text() or process.poll() is not None, "the outputs")
            time.sleep(self.chance.uniform(0, 0.4))
        else:
            enough = begin + (self.chance.randint(1, 8) if moment == "saving" else 1)
            while newest(checkout) < enough and process.poll() is None:
                time.sleep(0.002)
            if moment == "saving":
                while process.poll() is None and not half_written(checkout):
                    pass
            else:
                time.sleep(self.chance.uniform(0, 0.15))
        if process.poll() is not None:
            return False
        if name == "SIGINT" or moment == "collecting":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        status = process.wait(120)
        if moment == "dvc":
            wait_for(lambda: not trainers(checkout), "the orphaned trainer to save and leave", seconds=60)
        if (name, moment) == ("SIGKILL", "saving"):
            return bool(half_written(checkout))
        return status != 0

    def check(self, name: str, moment: str, begin: int, after: int) -> None:
        """What a kill left: no saved state is lost, and of the work only what followed the last save."""
        output = self.checkout.log.read_text()
        assert not trainers(self.checkout)
        assert self.checkout.files("dvc.lock") == self.lock
        if moment == "any":
            assert after >= begin
        else:
            assert after > begin or after == STEPS, "every life gets further"
            assert begin == 0 or f"resuming at step {begin} of {STEPS}" in output
        if moment in ("step", "saving") and name != "SIGKILL":
            assert f"stopped by {name} at step {after}: the state is saved" in output
        if moment == "dvc":
            assert f"stopped by the death of dvc at step {after}: the state is saved" in output
        if (name, moment) == ("SIGKILL", "saving"):  # after every step: none but the last one is lost
            assert newest(self.checkout, "raw-*.safetensors") <= after + 1
        assert len(list(self.checkout.path.glob(f"{WORK}/train-*/state-*"))) <= 3
        assert "warning: " not in output

    def compare(self) -> None:
        """The training has come to its end."""
        found = results(self.checkout)
        assert found.keys() == self.expected.keys() - {"dvc.lock"}
        assert [name for name in found if found[name] != self.expected[name]] == []

    def start_anew(self) -> None:
        """Remove all that the training made, and what DVC would bring it back from."""
        for folder in [*self.checkout.path.glob(f"{WORK}/train-*"), self.checkout.path / ".dvc/cache/runs"]:
            shutil.rmtree(folder, ignore_errors=True)
        (self.checkout.path / "dvc.lock").write_bytes(self.lock["dvc.lock"])

    def end(self, process: subprocess.Popen[str]) -> None:
        for pid in [*trainers(self.checkout), *([process.pid] if process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)
        process.wait(60)


def test_no_kill_changes_a_bit(ready: Checkout, uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    soak = Soak(ready.copy(tmp_path / "project"), uninterrupted)
    print("seed", SEED)
    kills = [kind for kind, count in PLAN.items() for _ in range(count)]
    soak.chance.shuffle(kills)
    kills += [kind for kind, count in COLLECTING.items() for _ in range(count)]
    for kind in kills:
        soak.kill(*kind)
    assert soak.kills.total() >= 30
    for names in (("SIGKILL", "SIGTERM", "SIGINT"), ("step", "saving", "dvc", "collecting")):
        for name in names:
            assert sum(count for kind, count in soak.kills.items() if name in kind) >= 5, name
    soak.checkout.run(*DVC)
    soak.compare()
    assert (soak.checkout.path / "dvc.lock").read_bytes() == uninterrupted["dvc.lock"]


def test_a_second_trainer_refuses_at_once_and_names_the_first(
    ready: Checkout, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    checkout = ready.copy(tmp_path / "project")
    checkout.params(runtime__save_seconds=0.05)
    process = checkout.start(*TRAINER)
    wait_for(lambda: newest(checkout), "a saved state")
    os.kill(process.pid, signal.SIGSTOP)  # it cannot end meanwhile
    try:
        before = checkout.files(f"{WORK}/train-*/*")
        second = subprocess.run(
            TRAINER, cwd=checkout.path, env=checkout.env, capture_output=True, text=True, check=False, timeout=60
        )
        assert checkout.files(f"{WORK}/train-*/*") == before
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert second.returncode == 1
    assert f"another process ({process.pid}) is writing this training's states" in second.stderr
    assert "Traceback" not in second.stderr
    assert process.wait(300) == 0, checkout.log.read_text()
    found = results(checkout)
    assert found == {name: uninterrupted[name] for name in found}


def test_damaged_files_are_named_and_made_again(ready: Checkout, uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    checkout = ready.copy(tmp_path / "project")
    checkout.params(runtime__save_seconds=0.02)
    checkout.run(*TRAINER)
    (folder,) = (checkout.path / WORK).glob("train-*")
    last = folder / f"raw-{STEPS:06d}.safetensors"
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    output = checkout.run(*TRAINER)  # its state holds the same weights
    assert f"warning: {last} is damaged" in output
    assert f"resuming at step {STEPS} of {STEPS}" in output
    assert results(checkout) == {name: uninterrupted[name] for name in results(checkout)}

    state = folder / f"state-{STEPS:06d}.pt"
    os.truncate(state, state.stat().st_size // 2)
    output = checkout.run(*TRAINER)
    assert f"warning: {state} is damaged" in output
    assert f"resuming at step {STEPS} " not in output
    assert "resuming at step " in output
    assert results(checkout) == {name: uninterrupted[name] for name in results(checkout)}


def size_of(*folders: Path) -> int:
    """Bytes in the files of the folders."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):  # gone meanwhile
                    total += os.stat(os.path.join(place, name)).st_size
    return total


def test_a_training_takes_the_disk_that_it_announces(ready: Checkout, tmp_path: Path) -> None:
    """States, kept weights, outputs, and the copies of these in DVC's cache."""
    checkout = ready.copy(tmp_path / "project")
    checkout.params(runtime__save_seconds=0.02)
    folders = [checkout.path / name for name in (WORK, "models", METRICS, ".dvc/cache")]
    before = size_of(*folders)
    process, most = checkout.start(*DVC), 0
    while process.poll() is None:
        most = max(most, size_of(*folders) - before)
    assert process.returncode == 0, checkout.log.read_text()
    (line,) = [line for line in checkout.log.read_text().splitlines() if line.startswith("this run will need ")]
    words = line.split()
    assert words[5] == "MB"
    need = float(words[4]) * 1e6
    assert most < need < 2 * most


@pytest.fixture
def small_disks(ready: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A checkout whose folders work and models are file systems of 32 MiB each."""
    checkout = ready.copy(tmp_path / "project")
    places = [checkout.path / "work", checkout.path / "models"]
    mounted: list[Path] = []
    try:
        for place in places:
            place.mkdir(exist_ok=True)
            packed = {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}
            command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", place]
            if (mount := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
                pytest.skip(f"mounting a small file system takes more rights: {mount.stderr.strip()}")
            mounted.append(place)
            for path, content in packed.items():
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(content)
        yield checkout
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


def fill(filler: Path) -> None:
    """Write until the disk is full, then leave 20 kB: enough for the lock, not for a state or weights."""
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - 20_000)


@pytest.mark.parametrize("place", ["work", "models"])
def test_a_disk_that_fills_up(small_disks: Checkout, uninterrupted: dict[str, bytes], place: str) -> None:
    checkout, filler = small_disks, small_disks.path / place / "filler"
    checkout.params(runtime__save_seconds=0.05)
    process = checkout.start(*TRAINER)
    wait_for(lambda: newest(checkout), "a saved state")
    fill(filler)
    assert process.wait(300) == 1
    output = checkout.log.read_text()
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {checkout.path / place}/")
    assert "No space left on device" in line
    assert "What was saved before is whole" in line
    assert not half_written(checkout)
    saved = newest(checkout)
    assert saved == STEPS if place == "models" else 0 < saved < STEPS

    # While it is full the training is refused before it starts, and nothing is lost.
    before = checkout.files(f"{WORK}/train-*/*.pt")
    output = checkout.run(*TRAINER, rc=1)
    assert f"on the disk of {checkout.path / place}/" in output
    assert "error: this run will need" in output
    assert checkout.files(f"{WORK}/train-*/*.pt") == before

    filler.unlink()
    assert f"resuming at step {saved} of {STEPS}" in checkout.run(*TRAINER)
    found = results(checkout)
    assert found == {name: uninterrupted[name] for name in found}
