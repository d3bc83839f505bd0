"""Resuming: bit-equal, longer after shorter, past damaged files, by one process at a time, and never from a NaN."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddpm.checkpoint import CheckpointError
from ddpm.config import TrainConfig
from ddpm.states import StateFolder, code_fingerprint, state_key
from ddpm.training import TrainState, new_state, train
from stages import train as train_stage
from stages.common import Fault
from tiny import random_images, train_config

CPU = torch.device("cpu")
IMAGES = random_images()
ROOT = Path(__file__).resolve().parents[1]


def folder_of(config: TrainConfig, parent: Path, data: str = "data", code: str = "code") -> StateFolder:
    folder = StateFolder(parent, state_key(config, data, code))
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def advance(state: TrainState, config: TrainConfig, to: int | None = None) -> TrainState:
    for step in train(state, IMAGES, config):
        if step == to:
            break
    return state


def restored(folder: StateFolder, config: TrainConfig) -> TrainState:
    state = new_state(config, CPU)
    assert folder.restore(state, config.steps) == []
    return state


def flat(values: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists, by path."""
    if isinstance(values, (dict, list)):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {path: leaf for key, value in items for path, leaf in flat(value, f"{name}/{key}").items()}
    return {name: values}


def assert_same(a: TrainState, b: TrainState) -> None:
    def leaves(state: TrainState) -> dict[str, Any]:  # not by state_dict(), which may itself be wrong
        parts = {name: getattr(state, name).state_dict() for name in ("network", "optimizer")}
        parts |= {"ema": state.ema.network.state_dict(), "step": state.step, "history": state.history[:, : state.step]}
        return flat(parts)

    left, right = leaves(a), leaves(b)
    assert left.keys() == right.keys()
    assert len([path for path in left if path.startswith("/optimizer/state")]) > 20, "Adam's moments are there"
    for path, value in left.items():
        assert torch.equal(value, right[path]) if isinstance(value, torch.Tensor) else value == right[path], path


@pytest.mark.parametrize("changes", [{}, {"lr_decay": "linear", "dropout": 0.2, "channels_last": True}])
@pytest.mark.parametrize("stop", [5, 9])
def test_a_resumed_training_is_bit_equal(tmp_path: Path, changes: dict[str, Any], stop: int) -> None:
    config = train_config(**changes)
    whole = advance(new_state(config, CPU), config)
    folder = folder_of(config, tmp_path)
    first = advance(new_state(config, CPU), config, to=stop)
    first.seconds = 12.5
    folder.save(first, protect=config.steps)
    torch.manual_seed(99)  # another process has another global state
    second = restored(folder, config)
    assert (second.step, second.seconds) == (stop, 12.5)
    assert_same(second, first)
    assert_same(advance(second, config), whole)


def test_a_longer_run_continues_a_shorter_one(tmp_path: Path) -> None:
    short, long = train_config(steps=6), train_config(steps=10, checkpoints=[6])
    folder_of(short, tmp_path).save(advance(new_state(short, CPU), short), protect=6)
    continued = restored(folder_of(long, tmp_path), long)
    assert continued.step == 6
    assert_same(advance(continued, long), advance(new_state(long, CPU), long))


def test_a_shorter_run_does_not_use_a_later_state(tmp_path: Path) -> None:
    long, short = train_config(steps=10), train_config(steps=6)
    folder = folder_of(long, tmp_path)
    state = advance(new_state(long, CPU), long, to=4)
    folder.save(state, protect=10)
    folder.save(advance(state, long), protect=10)
    state = restored(folder_of(short, tmp_path), short)
    assert state.step == 4
    assert_same(advance(state, short), advance(new_state(short, CPU), short))


def test_only_the_newest_states_and_the_protected_one_are_kept(tmp_path: Path) -> None:
    config = train_config(steps=10)
    folder = folder_of(config, tmp_path)
    state = new_state(config, CPU)
    for _ in train(state, IMAGES, config):
        folder.save(state, protect=3)
    assert sorted(path.name for path in folder.path.glob("state-*")) == [f"state-{step:06d}.pt" for step in (3, 9, 10)]


def test_a_state_just_saved_is_kept_even_where_later_ones_lie(tmp_path: Path) -> None:
    """After a longer run, a shorter one or one that has to make up for a lost file works before those states."""
    config = train_config(steps=10)
    folder = folder_of(config, tmp_path)
    state = new_state(config, CPU)
    for step in train(state, IMAGES, config):
        if step >= 9:
            folder.save(state, protect=10)
    again = train_config(steps=5)
    folder = folder_of(again, tmp_path)
    folder.save(advance(new_state(again, CPU), again, to=3), protect=5)
    assert restored(folder, again).step == 3


def key_of(data: str = "data", code: str = "code", **changes: Any) -> str:
    return StateFolder(Path("x"), state_key(train_config(**changes), data, code)).path.name


def test_what_a_state_depends_on() -> None:
    same = key_of()
    assert key_of(checkpoints=[3, 5]) == same
    assert key_of(steps=20) == same, "constant learning rate: the number of steps changes no step"
    assert key_of(steps=20, lr_decay="linear") != key_of(steps=10, lr_decay="linear")
    others: list[dict[str, Any]] = [
        {"seed": 1}, {"channels": [8, 12]}, {"attention": [True, True]}, {"num_res": 2}, {"neck_length": 2},
        {"time_emb_dim": 16}, {"dropout": 0.1}, {"num_timesteps": 99}, {"prediction": "v"}, {"batch_size": 5},
        {"lr": 2e-3}, {"lr_decay": "linear"}, {"warmup_steps": 3}, {"weight_decay": 0.0}, {"grad_clip": 2.0},
        {"ema_decay": 0.5}, {"flip": False}, {"precision": "bf16"}, {"data": "other"}, {"code": "other"},
    ]  # fmt: skip
    names = [key_of(**change) for change in others]
    assert len({same, *names}) == len(others) + 1


def test_the_nearest_other_training_is_named(tmp_path: Path) -> None:
    assert folder_of(train_config(), tmp_path).difference() is None
    for config in (train_config(lr=0.5, seed=7), train_config(lr=0.25)):
        folder_of(config, tmp_path).lock()
    assert folder_of(train_config(), tmp_path).difference() == "train.lr: 0.25 -> 0.001"
    folder = folder_of(train_config(lr=0.25), tmp_path, data="new", code="new")
    assert folder.difference() == "data changed; code changed"


def test_the_fingerprint_ignores_comments_and_sees_formulas(tmp_path: Path) -> None:
    def fingerprint(text: str) -> str:
        (tmp_path / "a.py").write_text(text)
        return code_fingerprint([tmp_path / "a.py"])

    plain = fingerprint("def f(x):\n    return x + 1\n")
    assert fingerprint('"""Doc."""\n# note\ndef f(x):\n    """Doc."""\n\n    return (x +  1)\n') == plain
    for other in ("def f(x):\n    return x + 2\n", "def f(x):\n    return x - 1\n", "def g(x):\n    return x + 1\n"):
        assert fingerprint(other) != plain


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES = {
    "truncated": truncated,
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"<html>quota exceeded</html>\n" * 100,
    "one bit flipped": lambda content: flipped(content, len(content) // 2),
    "zero tail": lambda content: content[:-4096] + bytes(4096),
    # Each of these makes torch.load raise another class of error.
    **{
        f"garbage {first:02x}": lambda content, first=first: bytes([first]) + content[1000:3000]
        for first in (0x52, 0x58, 0x6A, 0x8F, 0x93)
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_state_is_named_and_the_older_one_used(
    tmp_path: Path, damage: str, saved_twice: tuple[StateFolder, dict[str, bytes]]
) -> None:
    original, files = saved_twice
    folder = StateFolder(tmp_path, original.key)
    folder.path.mkdir()
    for name, content in files.items():
        (folder.path / name).write_bytes(content)
    newest = folder.path / "state-000004.pt"
    newest.write_bytes(DAMAGES[damage](files[newest.name]))
    state = new_state(train_config(), CPU)
    (line,) = folder.restore(state, 10)
    assert str(newest) in line
    assert "damaged" in line
    assert state.step == 2


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[StateFolder, dict[str, bytes]]:
    """A folder with the states of steps 2 and 4."""
    config = train_config()
    folder = folder_of(config, tmp_path_factory.mktemp("states"))
    state = new_state(config, CPU)
    for step in (2, 4):
        folder.save(advance(state, config, to=step), protect=10)
    return folder, {path.name: path.read_bytes() for path in folder.path.glob("state-*")}


def test_all_damaged_is_a_new_start_and_all_are_named(tmp_path: Path) -> None:
    folder = folder_of(train_config(), tmp_path)
    for step in (2, 4):
        (folder.path / f"state-{step:06d}.pt").write_bytes(b"")
    state = new_state(train_config(), CPU)
    assert len(folder.restore(state, 10)) == 2
    assert state.step == 0


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("writer", [torch.save, lambda values, path: path.write_bytes(pickle.dumps(values))])
def test_code_in_a_state_is_not_executed(tmp_path: Path, writer: Any) -> None:
    folder = folder_of(train_config(), tmp_path)
    writer({"step": 4, "network": Payload(tmp_path / "executed")}, folder.path / "state-000004.pt")
    state = new_state(train_config(), CPU)
    (line,) = folder.restore(state, 10)
    assert "state-000004.pt" in line
    assert state.step == 0
    assert not (tmp_path / "executed").exists()


def test_an_interrupted_save_leaves_the_old_state_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config()
    folder = folder_of(config, tmp_path)
    state = advance(new_state(config, CPU), config, to=2)
    folder.save(state, protect=10)

    def full_disk(values: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    advance(state, config, to=3)
    with pytest.raises(OSError, match="No space"):
        folder.save(state, protect=10)
    assert [path.name for path in folder.path.iterdir()] == ["state-000002.pt"]


HOLDER = """
import sys, time
from pathlib import Path
from ddpm.states import StateFolder
from ddpm.checkpoint import CheckpointError
folder = StateFolder(Path(sys.argv[1]), {"train": {}, "data": "", "code": ""})
try:
    folder.lock(float(sys.argv[2]))
except CheckpointError as error:
    sys.exit(f"refused: {error}")
print("locked", flush=True)
time.sleep(60)
"""


def start_holder(parent: Path, wait_seconds: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(parent), str(wait_seconds)]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_second_process_is_refused_until_the_first_one_is_gone(tmp_path: Path) -> None:
    first = start_holder(tmp_path)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        folder = StateFolder(tmp_path, {"train": {}, "data": "", "code": ""})
        half_written = folder.path / ".state-000009.pt.1.tmp"
        half_written.touch()
        with pytest.raises(CheckpointError, match=f"another trainer .process {first.pid}. is writing"):
            folder.lock()
        assert half_written.exists(), "the holder's"
        first.send_signal(signal.SIGKILL)
        folder.lock(wait_seconds=20)
        assert not half_written.exists(), "swept up"
        second = start_holder(tmp_path)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"refused: {folder.path}: another trainer (process {os.getpid()})" in errors
    finally:
        first.kill()
        first.communicate()


def run_stage(folder: StateFolder, config: TrainConfig, state: TrainState, after: Any) -> None:
    """The stage's loop, saving after every step; `after(step)` is called after each."""
    interrupts = SimpleNamespace(pending=lambda: after(state.step))
    train_stage.run(state, config, folder, interrupts, IMAGES, 0.0, {"config": config.model_dump()})  # type: ignore[arg-type]


def test_a_nan_is_never_saved(tmp_path: Path) -> None:
    config = train_config(log_every=100, checkpoints=[2, 6])
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)

    def poison(step: int) -> None:
        if step == 5:
            state.network.head[2].bias.data.fill_(float("nan"))

    with pytest.raises(Fault, match=f"at step 6: .*{folder.path}"):
        run_stage(folder, config, state, poison)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "raw-000002.safetensors", "state-000004.pt", "state-000005.pt",
    ]  # fmt: skip
    good = restored(folder, config)
    assert good.step == 5
    leaves = flat(good.state_dict()).values()
    assert all(value.isfinite().all() for value in leaves if isinstance(value, torch.Tensor))
    assert_same(advance(good, config), advance(new_state(config, CPU), config))


def test_an_interrupted_stage_saves_and_exits_with_the_reason(tmp_path: Path) -> None:
    config = train_config()
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    with pytest.raises(SystemExit, match="stopped by SIGTERM at step 3"):
        run_stage(folder, config, state, lambda step: "SIGTERM" if step == 3 else None)
    resumed = restored(folder, config)
    run_stage(folder, config, resumed, lambda step: None)
    assert_same(resumed, advance(new_state(config, CPU), config))


def test_loss_rows_are_means_over_the_steps_since_the_last_row() -> None:
    config = train_config(steps=7, log_every=3, lr=0.5, warmup_steps=0)
    history = torch.stack([torch.arange(7.0), torch.arange(7.0) * 10])
    assert train_stage.loss_rows(history, config) == [
        {"step": 3, "loss": 1.0, "grad_norm": 10.0, "lr": 0.5},
        {"step": 6, "loss": 4.0, "grad_norm": 40.0, "lr": 0.5},
        {"step": 7, "loss": 6.0, "grad_norm": 60.0, "lr": 0.5},
    ]
