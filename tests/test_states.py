"""Resuming: bit-equal, longer after shorter, past damaged and foreign files, on a full disk, by one process at a time."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm.base import files
from ddpm.base.faults import Fault
from ddpm.base.files import amount
from ddpm.model.weights import save_weights
from ddpm.training import fingerprint, loop, session
from ddpm.training.fingerprint import FINGERPRINTED, code_fingerprint
from ddpm.training.loop import TrainState, new_state, train
from ddpm.training.settings import TrainConfig
from ddpm.training.states import FORMAT, StateFolder, state_bytes, state_key, weights_bytes
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
        parts |= {"ema": state.ema.network.state_dict(), "step": state.step, "history": state.history.state_dict()}
        return flat(parts)

    left, right = leaves(a), leaves(b)
    assert left.keys() == right.keys()
    assert len([path for path in left if path.startswith("/optimizer/state")]) > 20, "Adam's moments are there"
    for path, value in left.items():
        assert torch.equal(value, right[path]) if isinstance(value, torch.Tensor) else value == right[path], path


@pytest.mark.parametrize(
    "changes",
    [{}, {"lr_decay": "linear", "dropout": 0.2, "accumulate": 2}, {"norm": "batch", "activation": "relu", "compile": "auto"}],
)
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


def test_a_state_of_another_memory_order_is_continued_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As between a CPU and a GPU, whose network is channels_last: the fused AdamW walks moments as they lie in memory."""
    config = train_config(lr=0.01, warmup_steps=0, steps=7)
    whole = advance(new_state(config, CPU), config)
    for before, after in permutations([torch.contiguous_format, torch.channels_last]):
        folder = folder_of(config, tmp_path / str(after))
        monkeypatch.setattr(loop, "memory_format", lambda device, order=before: order)
        folder.save(advance(new_state(config, CPU), config, to=5), protect=config.steps)
        monkeypatch.setattr(loop, "memory_format", lambda device, order=after: order)
        state = restored(folder, config)
        for parameter, moments in state.optimizer.state.items():
            assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()
        ours, theirs = (
            torch.cat([parameter.detach().flatten() for parameter in each.network.parameters()])
            for each in (advance(state, config), whole)
        )
        # Convolutions round otherwise in another order, which Adam magnifies where a gradient is almost 0.
        assert float((ours - theirs).abs().mean()) < 1e-5, "a hundredth of what the wrong moments do in two steps"


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


def test_the_number_of_states_stays_bounded_over_many_resumes(tmp_path: Path, whole: TrainState) -> None:
    config = train_config()
    folder_of(config, tmp_path).save(whole, protect=10)  # of an earlier run; it has to make up for a lost file
    for step in range(1, 10):
        folder = folder_of(config, tmp_path)
        state = new_state(config, CPU)
        assert folder.restore(state, 9) == []
        assert state.step == step - 1
        folder.save(advance(state, config, to=step), protect=10)
        assert len(list(folder.path.iterdir())) <= StateFolder.KEPT_STATES + 1
        assert (folder.path / "state-000010.pt").exists()
    assert_same(restored(folder, config), whole)


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
        {"ema_decay": 0.5}, {"flip": False}, {"precision": "bf16"}, {"accumulate": 2}, {"data": "other"}, {"code": "other"},
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
    for file, content in zip(sorted(tmp_path.glob("*/key.json")), ("", '{"train": '), strict=True):
        file.write_text(content)
    assert folder_of(train_config(), tmp_path).difference() is None, "damaged"


SOURCE = "def f(x):\n    return x + 1\n"
ALIKE = '"""Doc."""\n# note\ndef f(x):\n    """Doc."""\n\n    return (x +  1)\n'
OTHERS = [SOURCE.replace(*change) for change in [("1", "2"), ("+", "-"), ("f(", "g("), ("return", "x -= 1; return")]]


def test_every_python_takes_the_same_fingerprint() -> None:
    """A checkpoint trained by one is known to another, and a state is continued; each needs the standard library only."""
    code = "from ddpm.training.fingerprint import code_fingerprint; print(code_fingerprint())"
    found = {name for name in (f"python3.{minor}" for minor in range(10, 16)) if shutil.which(name)}
    asked = 0
    for name in sorted(found):
        env = os.environ | {"PYTHONPATH": str(Path(fingerprint.__file__).parents[2])}
        done = subprocess.run([name, "-c", code], env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0:  # a name on the path may lead to nothing
            assert done.stdout.strip() == code_fingerprint(), name
            asked += 1
    if not asked:
        pytest.skip("no other Python here")


@pytest.mark.parametrize("room", FINGERPRINTED)
def test_the_fingerprint_ignores_comments_and_sees_formulas(tmp_path: Path, room: str) -> None:
    for name in (*FINGERPRINTED, "figures"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('"""A room."""')
    module = tmp_path / room / "module.py"

    def fingerprint_of(text: str) -> str:
        module.write_text(text)
        return code_fingerprint(tmp_path)

    plain = fingerprint_of(SOURCE)
    assert fingerprint_of(ALIKE) == plain
    assert len({plain, *map(fingerprint_of, OTHERS)}) == 1 + len(OTHERS)
    (tmp_path / "figures" / "module.py").write_text(SOURCE)
    assert fingerprint_of(SOURCE) == plain, "that room decides no weight"
    (tmp_path / room / "inner").mkdir()
    module = module.rename(tmp_path / room / "renamed.py")
    renamed = code_fingerprint(tmp_path)
    module.rename(tmp_path / room / "inner" / "module.py")
    assert len({plain, renamed, code_fingerprint(tmp_path)}) == 3


def test_the_fingerprint_is_that_of_the_library_in_use(tmp_path: Path) -> None:
    package = Path(fingerprint.__file__).parents[1]
    shutil.copytree(package, tmp_path / "ddpm")
    assert code_fingerprint(tmp_path / "ddpm") == code_fingerprint(package) == code_fingerprint(), "wherever it lies"
    with (tmp_path / "ddpm/training/loop.py").open("a") as file:
        file.write("\nSTEPS = 3\n")
    assert code_fingerprint(tmp_path / "ddpm") != code_fingerprint()


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


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a folder with the states of steps 2 and 4."""
    config = train_config()
    folder = folder_of(config, tmp_path_factory.mktemp("states"))
    state = new_state(config, CPU)
    for step in (2, 4):
        folder.save(advance(state, config, to=step), protect=10)
    return {path.name: path.read_bytes() for path in folder.path.glob("state-*")}


@pytest.fixture
def folder(tmp_path: Path, saved_twice: dict[str, bytes]) -> StateFolder:
    """A folder with the states of steps 2 and 4, of this test's own."""
    folder = folder_of(train_config(), tmp_path)
    for name, content in saved_twice.items():
        (folder.path / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def whole() -> TrainState:
    """The uninterrupted training."""
    return advance(new_state(train_config(), CPU), train_config())


def contents(folder: StateFolder, pattern: str = "*") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.glob(pattern)}


def saving_every_step(folder: StateFolder, state: TrainState) -> TrainState:
    """Train on to the end of ten steps."""
    for _ in train(state, IMAGES, train_config()):
        folder.save(state, protect=10)
    return state


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_state_is_named_and_the_older_one_used(folder: StateFolder, damage: str) -> None:
    newest = folder.path / "state-000004.pt"
    damaged = DAMAGES[damage](newest.read_bytes())
    newest.write_bytes(damaged)
    state = new_state(train_config(), CPU)
    (line,) = folder.restore(state, 10)
    assert line.startswith(f"{newest} is damaged (")
    assert line.endswith("it was left out and is now state-000004.pt.damaged-1")
    assert state.step == 2
    assert (folder.path / "state-000004.pt.damaged-1").read_bytes() == damaged
    # It takes no good state's place among those that are kept.
    folder.save(advance(state, train_config(), to=5), protect=10)
    assert {path.name for path in folder.path.glob("*.pt")} == {"state-000002.pt", "state-000005.pt"}


def test_any_damage_is_noticed_or_harmless(folder: StateFolder, saved_twice: dict[str, bytes]) -> None:
    """A bit flipped or the end cut off, anywhere: the older state or, where no value changed, the very same one."""
    good = {}
    for step in (2, 4):
        good[step] = new_state(train_config(), CPU)
        folder.restore(good[step], step)
    chance, newest, used = random.Random(0), folder.path / "state-000004.pt", []
    content = saved_twice[newest.name]
    for trial in range(16):
        place = chance.randrange(len(content))
        newest.write_bytes(content[:place] if trial % 4 == 0 else flipped(content, place))
        state = new_state(train_config(), CPU)
        assert len(folder.restore(state, 10)) == (state.step == 2)
        assert_same(state, good[state.step])
        used.append(state.step)
    assert used.count(2) > 8


def test_all_damaged_is_a_new_start_and_all_are_named(tmp_path: Path) -> None:
    folder = folder_of(train_config(), tmp_path)
    for step in (2, 4):
        (folder.path / f"state-{step:06d}.pt").write_bytes(b"")
    state = new_state(train_config(), CPU)
    assert len(folder.restore(state, 10)) == 2
    assert state.step == 0


def test_damaged_states_do_not_pile_up(folder: StateFolder) -> None:
    state = new_state(train_config(), CPU)
    for step in range(3, 9):
        (folder.path / f"state-{step:06d}.pt").write_bytes(b"damaged")
        folder.restore(state, 10)
    assert len(list(folder.path.glob("*.damaged-*"))) == StateFolder.KEPT_STATES
    assert state.step == 2


def resaved(content: bytes, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The state file `content`, whole, with its values changed."""
    path = tmp_path / "resaved.pt"
    path.write_bytes(content)
    values = torch.load(path, weights_only=True)
    change(values)
    torch.save(values, path)
    return path.read_bytes()


FOREIGN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer": (
        lambda values: values.update(format=7, novelty=torch.ones(3)),
        f"was written by a newer version of this project (format 7; this one reads {FORMAT})",
    ),
    "older": (
        lambda values: values.update(format=0),
        f"was written by an older version of this project (format 0; this one reads {FORMAT})",
    ),
    "other settings": (
        lambda values: values.update(key=values["key"].replace('"lr": 0.001', '"lr": 0.25')),
        "belongs to another training (train.lr: 0.25 -> 0.001)",
    ),
    "other data": (
        lambda values: values.update(key=values["key"].replace('"data": "data"', '"data": "more"')),
        "belongs to another training (data changed)",
    ),
    "other program": (lambda values: values.pop("format"), "is no training state of this project"),
}


@pytest.mark.parametrize(("kind", "step"), [*((kind, 4) for kind in FOREIGN), ("newer", 1)])
def test_a_foreign_state_is_named_left_out_and_never_overwritten(
    folder: StateFolder, tmp_path: Path, whole: TrainState, kind: str, step: int
) -> None:
    """Whether it is newer than the good states, so that a save goes to its name, or older, so that it would be pruned."""
    change, fault = FOREIGN[kind]
    path = folder.path / f"state-{step:06d}.pt"
    foreign = resaved((folder.path / "state-000004.pt").read_bytes(), tmp_path, change)
    path.write_bytes(foreign)
    state = new_state(train_config(), CPU)
    aside = f"{path.name}.foreign-1"
    assert folder.restore(state, 10) == [f"{path} {fault}; it was left out and is now {aside}"]
    assert state.step == (2 if step == 4 else 4)
    assert_same(saving_every_step(folder, state), whole)
    assert contents(folder, "*.foreign-*") == {aside: foreign}
    # Another one of that name takes a name of its own.
    path.write_bytes(foreign + b"second")
    folder.restore(state, 10)
    assert set(contents(folder, "*.foreign-*").values()) == {foreign, foreign + b"second"}


def without_optimizer(values: dict[str, Any]) -> None:
    del values["state"]["optimizer"]


def with_another_width(values: dict[str, Any]) -> None:
    values["state"]["ema"]["head.2.bias"] = torch.ones(5)


def with_another_optimizer(values: dict[str, Any]) -> None:
    values["state"]["optimizer"]["param_groups"][0]["params"].pop()


def with_another_step(values: dict[str, Any]) -> None:
    values["state"]["step"] = 3


UNFIT = [without_optimizer, with_another_width, with_another_optimizer, with_another_step]


@pytest.mark.parametrize("change", UNFIT)
@pytest.mark.parametrize("older", [True, False])
def test_a_state_that_does_not_fit_counts_as_damaged_and_leaves_nothing_behind(
    folder: StateFolder, tmp_path: Path, whole: TrainState, change: Callable[[dict[str, Any]], None], older: bool
) -> None:
    newest = folder.path / "state-000004.pt"
    newest.write_bytes(resaved(newest.read_bytes(), tmp_path, change))
    if not older:
        (folder.path / "state-000002.pt").unlink()
    state = new_state(train_config(), CPU)
    (line,) = folder.restore(state, 10)
    assert line.startswith(f"{newest} is damaged (")
    assert state.step == (2 if older else 0)
    assert_same(advance(state, train_config()), whole)


@pytest.mark.parametrize("error", [MemoryError("host"), torch.cuda.OutOfMemoryError("device")])
def test_too_little_memory_is_not_damage(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch, saved_twice: dict[str, bytes], error: Exception
) -> None:
    def load(*arguments: Any, mmap: bool = False, **options: Any) -> Any:
        if not mmap:  # the tensors too
            raise error
        return real(*arguments, mmap=mmap, **options)

    real = torch.load
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(Fault, match=r"state-000004\.pt: cannot be read \(.*It may be good, so nothing was changed"):
        folder.restore(new_state(train_config(), CPU), 10)
    assert contents(folder) == saved_twice


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE])
@pytest.mark.parametrize("start", ["normal", "fresh"])
def test_what_cannot_be_read_is_not_damage(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch, saved_twice: dict[str, bytes], number: int, start: str
) -> None:
    """FRESH=1 included: it would have removed what it could not look into."""

    def load(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number), str(folder.path / "state-000004.pt"))

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(Fault, match=rf"state-000004\.pt: cannot be read \(.*{os.strerror(number)}"):
        folder.clear() if start == "fresh" else folder.restore(new_state(train_config(), CPU), 10)
    assert contents(folder) == saved_twice


SHORT = """
import resource, sys
from pathlib import Path
import torch
from ddpm.base.faults import faults_reported
from ddpm.training.loop import new_state
from ddpm.training.states import StateFolder, state_key
from tiny import train_config
config = train_config(channels=[64, 128])
folder = StateFolder(Path(sys.argv[1]), state_key(config, "data", "code"))
state = new_state(config, torch.device("cpu"))
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(sys.argv[2]), -1))
try:
    with faults_reported():
        folder.restore(state, 10)
finally:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))  # what torch does at the end needs some
print("restored", state.step)
"""


@pytest.mark.parametrize("room", [pytest.param(0, marks=pytest.mark.slow), 15_000_000])
def test_too_little_memory_changes_nothing_on_disk(tmp_path: Path, room: int) -> None:
    """With a real limit: torch says RuntimeError, not MemoryError, where a file of 11 MB cannot be mapped or read."""
    config = train_config(channels=[64, 128])
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    for state.step in (2, 4):
        folder.save(state, protect=10)
    before = contents(folder)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SHORT, str(tmp_path), str(room)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert re.search(r"^error: .*too little memory", done.stderr, re.MULTILINE), done.stderr
    assert contents(folder) == before


NO_FILES = [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path), lambda path: os.symlink("nothing", path)]


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("name", ["state-000006.pt", "raw-000010.safetensors", "raw-000010.sha256"])
def test_what_is_no_file_is_refused_and_not_waited_for(
    folder: StateFolder, saved_twice: dict[str, bytes], make: Callable[[Path], None], name: str
) -> None:
    config = train_config()
    if name == "raw-000010.sha256":
        folder.keep(10, [new_state(config, CPU).network] * 2, {})
        (folder.path / name).unlink()
    make(folder.path / name)
    with pytest.raises(Fault, match=rf"{name}: .*move it away, and the same command continues"):
        session.resume(new_state(config, CPU), config, folder, folder.path / "models")
    assert contents(folder, "state-00000[24].pt") == saved_twice


def test_folders_among_the_files_that_were_set_aside_do_no_harm(folder: StateFolder) -> None:
    for number in (1, 2, 3):
        (folder.path / f"state-000001.pt.damaged-{number}").mkdir()
    newest = folder.path / "state-000004.pt"
    newest.write_bytes(b"")
    state = new_state(train_config(), CPU)
    assert len(folder.restore(state, 10)) == 1
    assert state.step == 2


def test_a_start_at_0_beside_states_that_were_set_aside_says_so(folder: StateFolder) -> None:
    config = train_config()
    for path in folder.path.glob("state-*"):
        path.write_bytes(b"")
    state = new_state(config, CPU)
    folder.restore(state, 10)
    for restart in (folder, StateFolder(folder.path.parent, folder.key)):  # the next start too, which finds no state at all
        line = session.opening_lines("a", state, config, restart)[1]
        assert line.startswith("starting at step 0")
        assert "state-000002.pt.damaged-1, state-000004.pt.damaged-1" in line


def test_files_of_other_names_are_no_states(folder: StateFolder, saved_twice: dict[str, bytes]) -> None:
    for name in ("state-4.pt", "state-000005 (copy).pt", "state-best.pt"):
        (folder.path / name).write_bytes(saved_twice["state-000002.pt"])
    before = contents(folder)
    assert restored(folder, train_config()).step == 4
    assert contents(folder) == before


def test_a_fresh_start_removes_what_is_this_training_s_only(folder: StateFolder, tmp_path: Path) -> None:
    newer = resaved((folder.path / "state-000004.pt").read_bytes(), tmp_path, FOREIGN["newer"][0])
    (folder.path / "state-000006.pt").write_bytes(newer)
    folder.keep(2, [new_state(train_config(), CPU).network] * 2, {})
    (line,) = folder.clear()
    assert "state-000006.pt was written by a newer version" in line
    assert contents(folder) == {"state-000006.pt.foreign-1": newer}


def test_kept_weights_are_checked(folder: StateFolder) -> None:
    config = train_config(checkpoints=[2, 4])  # and 10
    network = new_state(config, CPU).network
    for step in config.kept_steps:
        folder.keep(step, [network, network], {})
    before = contents(folder)
    assert folder.check_kept(config) == []
    assert contents(folder) == before

    content = folder.kept_path("raw", 2).read_bytes()
    damaged = flipped(content, len(content) - 100)
    folder.kept_path("raw", 2).write_bytes(damaged)
    folder.kept_path("ema", 4).unlink()  # as after a kill between the two kinds
    folder.kept_path("raw", 10).with_suffix(".sha256").unlink()  # as after a kill between a file and its checksum
    (line,) = folder.check_kept(config)
    assert line.startswith(f"{folder.kept_path('raw', 2)} is damaged (wrong checksum")
    assert [step for step in config.kept_steps if folder.is_kept(step)] == []
    assert (folder.path / "raw-000002.safetensors.damaged-1").read_bytes() == damaged


def test_kept_weights_that_were_exchanged_with_their_checksums_are_noticed(folder: StateFolder, tmp_path: Path) -> None:
    config = train_config(checkpoints=[2, 4])  # and 10
    network = new_state(config, CPU).network
    for step in config.kept_steps:
        folder.keep(step, [network, network], {})
    for ending in ("safetensors", "sha256"):
        first, second = (folder.path / f"raw-00000{step}.{ending}" for step in (2, 4))
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    other = folder_of(train_config(lr=0.5), tmp_path)  # another training's, of the right step
    other.keep(10, [network, network], {})
    for ending in ("safetensors", "sha256"):
        (folder.path / f"raw-000010.{ending}").write_bytes((other.path / f"raw-000010.{ending}").read_bytes())
    lines = folder.check_kept(config)
    key = folder.path.name
    for line, step, of in zip(lines, (2, 4, 10), (f"4 of {key}", f"2 of {key}", f"10 of {other.path.name}"), strict=True):
        assert f"raw-0000{step:02d}.safetensors holds raw of step {of}, not raw of step {step} of {key}" in line
    assert [step for step in config.kept_steps if folder.is_kept(step)] == []
    assert len(contents(folder, "raw-*.foreign-1")) == 3


def test_a_continued_training_publishes_what_a_fresh_one_does(tmp_path: Path) -> None:
    """In particular the settings and the origin in the headers of weights that an earlier, shorter run kept."""
    short, long = train_config(steps=4, checkpoints=[2]), train_config(steps=10, checkpoints=[2, 4])
    published = []
    for name, runs in (("continued", [(short, "an origin"), (long, "another")]), ("fresh", [(long, "another")])):
        for config, origin in runs:
            folder, state, models = folder_of(config, tmp_path / name), new_state(config, CPU), tmp_path / name / "models"
            metadata = {"config": config.model_dump(), "data": {"origin": origin}}
            session.resume(state, config, folder, models)
            session.run(state, config, folder, Stop(state, lambda step: None), IMAGES, None, 0.0, metadata)  # type: ignore[arg-type]
            session.publish(state, config, folder, metadata, models)
        published.append({path.name: path.read_bytes() for path in models.iterdir()})
    assert len(published[0]) == 6
    assert published[0] == published[1]


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The mount point of a file system of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount") or "mount"
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system takes more rights: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(params=["full disk", "limited file size"])
def refusal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str, Callable[[bool], None]]]:
    """A folder whose disk refuses what is larger than 100 kB, the words of the refusal, and a switch for it."""
    if request.param == "full disk":
        place = request.getfixturevalue("small_disk")

        def fill(full: bool) -> None:
            (place / "filler").unlink(missing_ok=True)
            if full:
                (place / "filler").write_bytes(bytes(shutil.disk_usage(place).free - 100_000))

        yield place, "No space left on device", fill
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        yield (
            tmp_path,
            "File too large",
            lambda full: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if full else before[0], before[1])),
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_refuses_a_state(refusal: tuple[Path, str, Callable[[bool], None]], whole: TrainState) -> None:
    place, words, fill = refusal
    config = train_config()
    folder = folder_of(config, place)
    state = advance(new_state(config, CPU), config, to=2)
    folder.save(state, protect=10)
    fill(True)
    before = contents(folder)
    advance(state, config, to=4)
    with pytest.raises(Fault, match=rf"state-000004\.pt: {words} \(\d+\.\d kB to write, \d+\.\d .B free there\)"):
        folder.save(state, protect=10)
    assert contents(folder) == before, "the last good state, and no half-written file"
    with pytest.raises(Fault, match=rf"wide\.safetensors: {words}"):
        save_weights(place / "wide.safetensors", torch.nn.Linear(1000, 1000), {})
    fill(False)
    assert_same(saving_every_step(folder, restored(folder, config)), whole)


def test_a_disk_without_room_for_the_lock(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(Fault, match=r"(lock|key\.json): No space left on device"):
        StateFolder(small_disk, state_key(train_config(), "data", "code")).lock()


def test_other_errors_while_saving_are_not_the_disk_s(
    folder: StateFolder, saved_twice: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainState, "state_dict", lambda self: {"step": lambda: 0})
    with pytest.raises(AttributeError, match="pickle"):
        folder.save(new_state(train_config(), CPU), protect=10)
    assert contents(folder) == saved_twice
    with pytest.raises(RuntimeError, match="no disk"), files.disk_faults(folder.path, 1):
        raise RuntimeError("no disk")


# --- How much disk a training takes --------------------------------------------------------------------------------


def measured_peak(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that holds, as its last entry, the most bytes that the folder has held: just before a file is put in place."""
    peak = [0]

    def replace(source: Path, target: Path) -> None:
        peak.append(max(peak[-1], sum(path.stat().st_size for path in folder.path.iterdir())))
        os.rename(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    return peak


@pytest.mark.parametrize("start", [0, 3, 6])
@pytest.mark.parametrize("protected", [False, True])
def test_the_announced_need_is_the_measured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int, protected: bool
) -> None:
    """From nothing or from the states of an earlier run; also where a last state lies there that must stay."""
    config = train_config(channels=[32, 48], steps=8, checkpoints=[4])
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    if protected:
        last = copy.deepcopy(state)
        last.step = config.steps
        folder.save(last, protect=config.steps)
    if start:
        with pytest.raises(SystemExit):
            run_session(folder, config, state, lambda step: "SIGTERM" if step == start else None)
        state = new_state(config, CPU)
        assert folder.restore(state, config.steps - 1) == []
    elsewhere = Path("/dev")  # outputs on another disk
    need = folder.disk_need(state, config, elsewhere, copies=1)[folder.path]
    before = sum(path.stat().st_size for path in folder.path.iterdir())
    peak = measured_peak(folder, monkeypatch)
    run_session(folder, config, state, lambda step: None)
    assert peak[-1] <= before + need < 1.7 * peak[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channels": [4], "attention": [False], "neck_length": 0},
        {"norm": "batch", "num_res": 3, "log_every": 1, "steps": 40},
        {"channels": [64, 96, 128], "attention": [False, True, True], "steps": 3},
    ],
)
def test_no_file_is_larger_than_predicted_nor_much_smaller(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = train_config(**changes)
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    predicted = state_bytes(state), weights_bytes(state.network)
    run_session(folder, config, state, lambda step: None)
    assert predicted == (state_bytes(state), weights_bytes(state.network)), "from the start"
    for pattern, limit in zip(("*.pt", "*.safetensors"), predicted, strict=True):
        size = max(path.stat().st_size for path in folder.path.glob(pattern))
        assert size <= limit < 2 * size + 50_000, pattern


def test_a_finished_training_needs_room_for_its_outputs_only(tmp_path: Path) -> None:
    config = train_config(channels=[32, 48], steps=3)
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    run_session(folder, config, state, lambda step: None)
    weights = folder.kept_path("raw", 3).stat().st_size
    for copies in (1, 2):
        (need,) = folder.disk_need(state, config, tmp_path / "models", copies).values()
        assert 2 * copies * weights <= need < 2 * copies * 1.6 * weights


def test_a_training_that_cannot_fit_is_refused_and_one_that_just_fits_runs(small_disk: Path, tmp_path: Path) -> None:
    config = train_config(channels=[16, 32], checkpoints=[2], steps=4)
    folder = StateFolder(small_disk / "work", state_key(config, "data", "code"))
    outputs, state = tmp_path / "models", new_state(config, CPU)
    need = folder.disk_need(state, config, outputs, copies=1)[folder.path]

    def leave(room: int) -> None:
        (small_disk / "filler").unlink(missing_ok=True)
        (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))

    leave(need - 4096)
    with pytest.raises(Fault, match=rf"^this run will need .* on the disk of {folder.path}; .* are free"):
        folder.check_room(state, config, outputs, copies=1)
    assert not folder.path.exists()
    leave(need + 4096)  # a file system deals in blocks
    first, second = folder.check_room(state, config, outputs, copies=1)
    assert first.startswith(f"this run will need {amount(need)} on the disk of {folder.path}; ")
    assert f" on the disk of {outputs}; " in second
    folder.path.mkdir(parents=True)
    run_session(folder, config, state, lambda step: None)
    assert restored(folder, config).step == 4


def test_outputs_on_another_disk_are_counted_there(tmp_path: Path, small_disk: Path) -> None:
    config = train_config()
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    weights, size = weights_bytes(state.network), state_bytes(state)
    outputs = small_disk / "models"
    assert folder.disk_need(state, config, outputs, 2) == {folder.path: 3 * size + 2 * weights, outputs: 4 * weights}
    folder = folder_of(config, small_disk)
    assert folder.disk_need(state, config, outputs, 2) == {folder.path: 3 * size + 6 * weights}


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1.25e9, "1.2 GB"), (5e15, "5000.0 TB")]
)
def test_amounts_for_people(size: float, text: str) -> None:
    assert amount(size) == text


HOLDER = """
import sys, time
from pathlib import Path
from ddpm.base.faults import Fault
from ddpm.training.states import StateFolder
folder = StateFolder(Path(sys.argv[1]), {"train": {}, "data": "", "code": ""})
try:
    folder.lock(float(sys.argv[2]))
except Fault as error:
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
        half_written = folder.path / ".1.tmp-state-000009.pt"
        half_written.touch()
        with pytest.raises(Fault, match=f"another process .{first.pid}. is writing this training's states"):
            folder.lock()
        assert half_written.exists(), "the holder's"
        first.send_signal(signal.SIGKILL)
        folder.lock(wait_seconds=20)
        assert not half_written.exists(), "swept up"
        second = start_holder(tmp_path)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"refused: {folder.path}/lock: another process ({os.getpid()})" in errors
    finally:
        first.kill()
        first.communicate()


class Stop:
    """In place of the signals: `after(step)` is the reason to end after a step, or None."""

    def __init__(self, state: TrainState, after: Callable[[int], str | None]) -> None:
        self.state, self.after = state, after
        self.reason: str | None = None

    def pending(self) -> str | None:
        self.reason = self.after(self.state.step)
        return self.reason


def run_session(folder: StateFolder, config: TrainConfig, state: TrainState, after: Callable[[int], str | None]) -> None:
    """Train to the end, saving after every step; `after(step)` is called after each and may name a reason to end."""
    stop: Any = Stop(state, after)
    session.run(state, config, folder, stop, IMAGES, None, 0.0, {"config": config.model_dump()})


@pytest.mark.parametrize(("breaks", "left"), [("training_loss", [3]), ("update", [])])
def test_half_a_step_is_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str, left: list[int]) -> None:
    """Where one of two processes fails in its fourth step, three are saved, but not once the fourth has changed weights."""
    config = train_config()
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    place, name = (state.ema, "update") if breaks == "update" else (loop, breaks)
    right = getattr(place, name)

    def fail(*given: Any) -> Any:
        if state.step < 3:
            return right(*given)
        monkeypatch.setattr(session.distributed, "world_size", lambda: 2)  # only now: this is one process
        raise torch.OutOfMemoryError("device")

    monkeypatch.setattr(place, name, fail)
    stop: Any = Stop(state, lambda step: None)
    with pytest.raises(torch.OutOfMemoryError):
        session.run(state, config, folder, stop, IMAGES, None, 1e9, {})
    monkeypatch.undo()
    assert [path.name for path in folder.path.glob("state-*")] == [f"state-{step:06d}.pt" for step in left]
    again = restored(folder, config)
    assert again.step == sum(left)
    assert_same(advance(again, config), advance(new_state(config, CPU), config))


def test_a_nan_is_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config(steps=20, log_every=100, checkpoints=[2, 6])
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    loss = loop.training_loss
    monkeypatch.setattr(loop, "training_loss", lambda *given: loss(*given) * (float("nan") if state.step >= 5 else 1))
    with pytest.raises(Fault, match=r"^the last 6 steps, up to step 11, .*train\.lr"):
        run_session(folder, config, state, lambda step: None)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.path.glob("*.pt")) == ["state-000009.pt", "state-000010.pt"]
    good = restored(folder, config)
    leaves = flat(good.state_dict()).values()
    assert all(value.isfinite().all() for value in leaves if isinstance(value, torch.Tensor))
    assert advance(good, config).step == 20


def test_an_interrupted_session_saves_and_exits_with_the_reason(tmp_path: Path, whole: TrainState) -> None:
    config = train_config()
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    with pytest.raises(SystemExit, match="stopped by SIGTERM at step 3"):
        run_session(folder, config, state, lambda step: "SIGTERM" if step == 3 else None)
    resumed = restored(folder, config)
    run_session(folder, config, resumed, lambda step: None)
    assert_same(resumed, whole)
