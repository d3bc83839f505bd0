"""Several real processes, started by torchrun and joined over gloo, train and draw what one process does."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Checkout, wait_for
from ddpm.machine import distributed

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
TRAIN = ("-m", "stages.train", "cifar10")


def test_the_gpu_is_chosen_before_the_group_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL sends objects through the current GPU, which is the first one in every process until another is chosen."""
    calls: list[Any] = []
    monkeypatch.setattr(distributed, "launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set", device)))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **named: calls.append(("join", *args, named)))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append("leave"))
    device = torch.device("cuda:3")
    with distributed.process_group(device):
        assert calls == [("set", device), ("join", "nccl", {"device_id": device})]
    assert calls[2:] == ["leave"]


SENT = {
    "step": 7, "name": "a", "none": None, "list": [1.5, torch.arange(3)], "bf16": torch.ones(2, 3, dtype=torch.bfloat16),
    "order": torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last),
    "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 2), "nested": {"of": {3: torch.tensor([True, False])}},
}  # fmt: skip


def receive(rank: int, folder: Path) -> None:
    """One of two processes of `test_a_state_travels`."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    pickled: list[int] = []
    pickle_object = torch.distributed.distributed_c10d._object_to_tensor

    def weighed(*args: Any) -> Any:
        tensor, size = pickle_object(*args)
        pickled.append(int(size))
        return tensor, size

    torch.distributed.distributed_c10d._object_to_tensor = weighed
    large = {"weights": torch.full((1000, 1000), 0.5)}
    found = [distributed.from_first(value if rank == 0 else {}, torch.device("cpu")) for value in (SENT, large)]
    torch.save({"found": found, "pickled": pickled}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_a_state_travels_to_every_process_as_tensors(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(receive, (tmp_path,), nprocs=2)
    for rank in range(2):
        sent, large = torch.load(tmp_path / f"{rank}.pt")["found"]
        assert sent.keys() == SENT.keys()
        assert (sent["step"], sent["name"], sent["none"], sent["list"][0]) == (7, "a", None, 1.5)
        for path in (lambda v: v["list"][1], lambda v: v["bf16"], lambda v: v["order"], lambda v: v["scalar"],
                     lambda v: v["empty"], lambda v: v["nested"]["of"][3]):  # fmt: skip
            assert path(sent).dtype == path(SENT).dtype
            assert torch.equal(path(sent), path(SENT))
        assert torch.equal(large["weights"], torch.full((1000, 1000), 0.5))
    assert max(torch.load(tmp_path / "0.pt")["pickled"]) < 10_000, "4 MB of weights are not pickled"


@pytest.fixture(scope="module")
def ready(untouched: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the images packed and 20 steps to train in fp32. Copy it before use."""
    checkout = untouched.copy(tmp_path_factory.mktemp("ready") / "project")
    checkout.params(train__steps=20, train__batch_size=5, train__log_every=4, train__checkpoints=[])
    for name in ("config", "download", "preprocess"):
        checkout.python("-m", f"stages.{name}", "cifar10")
    return checkout


@pytest.fixture
def checkout(ready: Checkout, tmp_path: Path) -> Checkout:
    return ready.copy(tmp_path / "project")


def states(checkout: Checkout) -> list[Path]:
    return sorted(checkout.path.glob("work/demo/cifar10/train-*/state-*.pt"))


def last_state(checkout: Checkout) -> dict[str, Any]:
    values: dict[str, Any] = torch.load(states(checkout)[-1], weights_only=True)["state"]
    return values


@pytest.fixture(scope="module")
def alone(ready: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Trained by one process."""
    checkout = ready.copy(tmp_path_factory.mktemp("alone") / "project")
    checkout.python(*TRAIN)
    return checkout


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_processes_train_the_weights_of_one(checkout: Checkout, alone: Checkout, accumulate: int) -> None:
    """5 images over 2 processes: shares of 2 and 3, and of these, parts of unequal size."""
    checkout.params(train__accumulate=accumulate)
    checkout.python("-m", "stages.config", "cifar10")
    output = checkout.run(*TORCHRUN, *TRAIN)
    assert "2 processes" in output
    assert output.count("wrote models/demo/cifar10") == 1, "only the first process writes"
    two, one = last_state(checkout), last_state(alone)
    assert two["step"] == one["step"] == 20
    for part in ("network", "ema"):
        for name, value in two[part].items():
            torch.testing.assert_close(value, one[part][name], rtol=0, atol=1e-5, msg=f"{part} {name}")
    torch.testing.assert_close(two["history"]["sums"], one["history"]["sums"], rtol=1e-4, atol=1e-5)
    moved = one["network"]["head.2.weight"].abs().max()  # from zero
    assert float(moved) > 1e-2, "20 steps move the weights by far more"


@pytest.mark.slow
def test_two_machines_without_a_shared_disk_train_one_network(checkout: Checkout, alone: Checkout, tmp_path: Path) -> None:
    """Two checkouts, a launcher in each; the state of the first 8 steps lies on machine 0 only."""
    checkout.params(train__steps=8)
    other = checkout.copy(tmp_path / "other")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for steps in (8, 20):
        processes = []
        for number, machine in enumerate([checkout, other]):
            machine.params(train__steps=steps)
            machine.python("-m", "stages.config", "cifar10")
            where = ("--nnodes=2", f"--node-rank={number}", "--master-addr=127.0.0.1", f"--master-port={port}")
            processes.append(machine.start(sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node=1", *TRAIN))
        assert [process.wait(120) for process in processes] == [0, 0], other.log.read_text() + checkout.log.read_text()
    assert "resuming at step 8 of 20" in checkout.log.read_text()
    assert not states(other), "only the first process writes"
    torch.testing.assert_close(
        last_state(checkout)["ema"]["head.2.weight"], last_state(alone)["ema"]["head.2.weight"], rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_the_launcher_of_the_settings_is_used(checkout: Checkout, alone: Checkout) -> None:
    checkout.params(runtime__launcher="torchrun --standalone --nproc-per-node=2")
    assert "2 processes" in checkout.python(*TRAIN)
    torch.testing.assert_close(
        last_state(checkout)["ema"]["head.2.weight"], last_state(alone)["ema"]["head.2.weight"], rtol=0, atol=1e-5
    )
    checkout.params(runtime__launcher="no-such-launcher --now")
    output = checkout.python(*TRAIN, rc=1)
    assert "error: runtime.launcher = 'no-such-launcher --now'" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_an_interrupted_launcher_saves_and_the_same_command_continues(checkout: Checkout, alone: Checkout) -> None:
    """SIGTERM to the stage alone: torchrun and its two processes end, with one state, and so does Ctrl-C."""
    checkout.params(runtime__launcher="torchrun --standalone --nproc-per-node=2", runtime__save_seconds=0.01, train__steps=4000)
    checkout.python("-m", "stages.config", "cifar10")
    done = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        process = checkout.start(sys.executable, *TRAIN)
        wait_for(lambda before=done: [s for s in states(checkout) if int(s.stem[6:]) > before + 5], "steps", 120)
        os.kill(process.pid, number)
        assert process.wait(60) != 0
        output = checkout.log.read_text()
        (step,) = set(re.findall(r"stopped by \S+ at step (\d+): the state is saved", output.replace("another process", "X")))
        assert last_state(checkout)["step"] == int(step) > done, "all processes stop at the same step, which is saved"
        done = int(step)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_leaves_a_state(checkout: Checkout) -> None:
    checkout.params(runtime__save_seconds=1000.0, train__steps=100000)
    checkout.python("-m", "stages.config", "cifar10")
    process = checkout.start(*TORCHRUN, *TRAIN)
    second = wait_for(lambda: worker(process.pid, rank=1), "the second process", 120)
    wait_for(lambda: "2 processes" in checkout.log.read_text(), "the start", 120)
    started = cpu_seconds(second)
    wait_for(lambda: cpu_seconds(second) > started + 2, "some steps", 120)
    os.kill(second, signal.SIGKILL)
    assert process.wait(120) != 0
    assert "Signal 9 (SIGKILL)" in checkout.log.read_text()
    assert last_state(checkout)["step"] > 0, "the first process kept what was done"
    # And it can be used: one process goes on from there.
    checkout.params(train__steps=last_state(checkout)["step"] + 1)
    checkout.python("-m", "stages.config", "cifar10")
    assert "resuming at step" in checkout.python(*TRAIN)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["the stage", "dvc"])
def test_what_was_launched_ends_when_who_launched_it_is_killed(checkout: Checkout, victim: str) -> None:
    """SIGKILL leaves nobody to pass a signal on: the trainers notice it themselves, save, and end."""
    launcher = "torchrun --standalone --nproc-per-node=2"
    checkout.params(runtime__launcher=launcher, runtime__save_seconds=1000.0, train__steps=100000)
    checkout.python("-m", "stages.config", "cifar10")
    command = (
        [sys.executable, "-m", "dvc", "repro", "--single-item", "train@cifar10"]
        if victim == "dvc"
        else [sys.executable, *TRAIN]
    )
    process = checkout.start(*command)
    wait_for(lambda: "2 processes" in checkout.log.read_text(), "the start", 120)
    trainers = wait_for(lambda: found if len(found := checkout.processes("stages.train")) >= 3 else None, "the trainers", 60)
    started = [cpu_seconds(pid) for pid in trainers]
    wait_for(lambda: sum(map(cpu_seconds, trainers)) > sum(started) + 3, "some steps", 120)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not checkout.processes("stages.train"), "the end of all that was launched", 60)
    assert last_state(checkout)["step"] > 0, "and what was done is saved"


@pytest.mark.slow
def test_an_error_in_one_process_shows_its_traceback(checkout: Checkout) -> None:
    loop = checkout.path / "src/ddpm/training/loop.py"
    text = loop.read_text()
    broken = '        if state.step == 3 and distributed.rank() == 1:\n            raise OSError("a cable was cut")\n'
    anchor = "        x0, t, eps, context = draw_batch("
    assert anchor in text
    loop.write_text(text.replace(anchor, broken + anchor))
    output = checkout.run(*TORCHRUN, *TRAIN, rc=1)
    assert "OSError: a cable was cut" in output
    assert "draw_batch" in output or "in train" in output, "with the lines that led there"
    assert last_state(checkout)["step"] == 3


def worker(launcher: int, rank: int) -> int | None:
    """The process of `rank` that torchrun (the process `launcher`) has started."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == launcher and f"\0RANK={rank}\0" in "\0" + (folder / "environ").read_text():
                    return int(folder.name)
            except OSError:
                continue
    return None


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_batch_too_small_for_the_processes_is_refused(checkout: Checkout) -> None:
    checkout.params(train__batch_size=1)
    checkout.python("-m", "stages.config", "cifar10")
    output = checkout.run(*TORCHRUN, *TRAIN, rc=1)
    assert "error: train.batch_size = 1 cannot be shared by 2 processes; accepted: 2 or more" in output


@pytest.mark.slow
def test_batch_norm_of_several_processes_is_refused(checkout: Checkout) -> None:
    checkout.params(train__norm="batch")
    checkout.python("-m", "stages.config", "cifar10")
    output = checkout.run(*TORCHRUN, *TRAIN, rc=1)
    assert "error: train.norm = batch with 2 processes" in output
    assert "accepted: one process, or train.norm = group" in output


def test_two_processes_draw_the_images_of_one(alone: Checkout) -> None:
    """An odd number: shares of 3 and 4, in batches of unequal size."""
    sample = ("-m", "tools.sample", "cifar10", "--method", "ddpm", "--steps", "4", "--images", "7", "--device", "cpu")
    alone.run(sys.executable, *sample, "--out", "one.npy")
    output = alone.run(*TORCHRUN, *sample, "--out", "two.npy")
    assert output.count("7 images") == 1
    one, two = (np.load(alone.path / f"{name}.npy").astype(int) for name in ("one", "two"))
    assert one.shape == (7, 32, 32, 3)
    assert len(np.unique(one.reshape(7, -1), axis=0)) == 7
    assert np.abs(one - two).max() <= 1, "the same image i, but for the rounding of another batch size"
