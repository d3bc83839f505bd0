"""What is seen of a training while it runs: previews and TensorBoard's events, neither of which changes a bit of it."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Checkout, wait_for
from ddpm.base.faults import Fault
from ddpm.base.settings import validate
from ddpm.figures.pictures import images_in
from ddpm.model.weights import load_network
from ddpm.training import session
from ddpm.training.loop import TrainState, new_state
from ddpm.training.states import StateFolder, state_key
from stages import RuntimeConfig, load_params
from tiny import random_images, train_config

TRAIN = ("-m", "stages.train", "cifar10")
WORK, METRICS = "work/demo/cifar10", "metrics/demo/cifar10"
STEPS, LOG_EVERY = 105, 4  # the last row of loss.csv is of one step
PROC = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")


@pytest.fixture(scope="module")
def ready(untouched: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A conditional training is ready to start, in fp32, without previews. Copy it before use."""
    checkout = untouched.copy(tmp_path_factory.mktemp("ready") / "project")
    checkout.params(train__steps=STEPS, train__log_every=LOG_EVERY, train__num_timesteps=12)
    checkout.params(recipe_names=["cifar10"], recipes__cifar10__train={"context_dim": 10}, conditional=["cifar10"])
    checkout.params(runtime__preview_every=0.0, runtime__tensorboard=False)
    for name in ("config", "download", "preprocess"):
        checkout.python("-m", f"stages.{name}", "cifar10")
    return checkout


@pytest.fixture
def checkout(ready: Checkout, tmp_path: Path) -> Checkout:
    return ready.copy(tmp_path / "project")


@pytest.fixture(scope="module")
def unseen(ready: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Trained without previews and events."""
    checkout = ready.copy(tmp_path_factory.mktemp("unseen") / "project")
    checkout.python(*TRAIN)
    assert not list(checkout.path.glob(f"{WORK}/**/preview*"))
    assert not list(checkout.path.glob(f"{WORK}/**/*tfevents*"))
    return checkout


def slowed(checkout: Checkout, seconds: float) -> None:
    """Let every step of the checkout's trainings take `seconds` longer, until there is a file `enough`, which ends the wait."""
    stop = checkout.path / "src/ddpm/training/stop.py"
    text = stop.read_text()
    anchor = '        """The reason to end, None if there is none."""\n'
    assert anchor in text
    pause = f"        any(os.path.exists('enough') or __import__('time').sleep(0.05) for _ in range({round(seconds / 0.05)}))\n"
    stop.write_text(text.replace(anchor, anchor + pause))


def last_state(checkout: Checkout) -> dict[str, Any]:
    """The newest state, flat: weights, EMA, Adam's moments and the sums behind loss.csv."""
    path = max(checkout.path.glob(f"{WORK}/train-*/state-*.pt"))
    values = torch.load(path, weights_only=True)["state"]
    found: dict[str, Any] = {}

    def flatten(value: Any, name: str) -> None:
        if isinstance(value, (dict, list)):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                flatten(inner, f"{name}/{key}")
        else:
            found[name] = value

    flatten({key: values[key] for key in ("step", "network", "ema", "optimizer", "history")}, "")
    return found


def assert_bit_equal(a: Checkout, b: Checkout) -> None:
    left, right = last_state(a), last_state(b)
    assert left.keys() == right.keys()
    assert len([name for name in left if name.startswith("/optimizer/state")]) > 20
    for name, value in left.items():
        assert torch.equal(value, right[name]) if isinstance(value, torch.Tensor) else value == right[name], name
    for path in (f"{METRICS}/loss.csv", f"{METRICS}/train.json"):
        assert a.files(path) == b.files(path) != {}
    weights = [path.name for path in (a.path / "models/demo/cifar10").iterdir()]
    assert len(weights) == 6
    for name in weights:  # their headers name the code, whose trainings some tests slow down
        theirs = load_network(b.path / "models/demo/cifar10" / name)[0].state_dict()
        ours = load_network(a.path / "models/demo/cifar10" / name)[0].state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def rows(checkout: Checkout) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((checkout.path / METRICS / "loss.csv").read_text())))


def events(checkout: Checkout) -> Any:
    """The events of the checkout's only training, as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (folder,) = (checkout.path / WORK / "tensorboard").iterdir()
    assert folder.name in [path.name for path in (checkout.path / WORK).glob("train-*")]
    return accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def assert_events_are_the_rows(checkout: Checkout) -> None:
    read, expected = events(checkout), rows(checkout)
    assert len(expected) == math.ceil(STEPS / LOG_EVERY)
    assert sorted(read.Tags()["scalars"]) == sorted(set(expected[0]) - {"step"})
    for name in read.Tags()["scalars"]:
        found = [(event.step, event.value) for event in read.Scalars(name)]
        wanted = [(int(row["step"]), float(row[name])) for row in expected if row[name]]
        assert [step for step, _ in found] == [step for step, _ in wanted], name
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6), name


def drawing(checkout: Checkout) -> list[int]:
    """Processes that draw previews for this checkout."""
    return checkout.processes("stages.preview")


@pytest.mark.slow
def test_a_training_that_is_watched_is_bit_equal(checkout: Checkout, unseen: Checkout) -> None:
    """Pictures as often as they can be drawn, and events, against neither."""
    pytest.importorskip("tensorboard")
    slowed(checkout, 4.0)  # seven minutes for two pictures: on a busy machine one takes a minute
    # Not before step 1, however long the events take to open: there is no checkpoint of step 0, and so no picture.
    checkout.params(runtime__preview_every=10.0, runtime__tensorboard=True)
    picture, process = checkout.path / WORK / "preview.png", checkout.start(sys.executable, *TRAIN)
    seen: list[bytes] = []

    def ended() -> bool:
        if picture.exists() and (content := picture.read_bytes()) not in seen:
            seen.append(content)
        if len(seen) == 2:
            (checkout.path / "enough").touch()
        return process.poll() is not None

    wait_for(ended, "the training", 600)
    output = checkout.log.read_text()
    assert process.returncode == 0, output
    assert "warning" not in output
    assert_bit_equal(checkout, unseen)
    assert len(seen) >= 2, "drawn while the training runs, and again, later weights draw other images"
    for content in seen:
        with Image.open(io.BytesIO(content)) as image:
            image.load()  # whole
            assert (image.format, image.mode) == ("PNG", "RGB")
        (rows,) = images_in(content)
        assert [row.shape for row in rows] == [(4, 32, 32, 3)] * 4
    assert_events_are_the_rows(checkout)
    images = events(checkout).Images("preview")
    steps = [image.step for image in images]
    assert steps == sorted(set(steps))
    assert 0 <= steps[0] < steps[-1] < STEPS
    shown = {np.asarray(Image.open(io.BytesIO(content))).tobytes() for content in seen}
    logged = {np.asarray(Image.open(io.BytesIO(image.encoded_image_string))).tobytes() for image in images}
    assert shown <= logged, "the same pictures"
    assert not list(checkout.path.glob(f"{WORK}/train-*/preview*")), "no scratch is left"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_training_continues_its_events(checkout: Checkout, unseen: Checkout, how: signal.Signals) -> None:
    """After SIGKILL the state is older than the events, some of which are then logged again."""
    pytest.importorskip("tensorboard")
    slowed(checkout, 0.2)
    checkout.params(runtime__tensorboard=True, runtime__save_seconds=1.0)
    process = checkout.start(sys.executable, *TRAIN)

    def logged() -> int:
        return last_state(checkout)["/step"] if list(checkout.path.glob(f"{WORK}/train-*/state-*.pt")) else 0

    wait_for(lambda: logged() > 3 * LOG_EVERY, "a saved state")
    os.kill(process.pid, how)
    assert process.wait(60) != 0
    before, step = [event.step for event in events(checkout).Scalars("loss")], last_state(checkout)["/step"]
    assert before == [LOG_EVERY * (row + 1) for row in range(len(before))]
    assert step // LOG_EVERY <= len(before) < STEPS // LOG_EVERY, "nothing that the state has passed is missing"
    (checkout.path / "enough").touch()
    assert f"resuming at step {step}" in checkout.python(*TRAIN)
    assert_events_are_the_rows(checkout)
    assert_bit_equal(checkout, unseen)
    checkout.python(*TRAIN)  # with nothing left to train
    assert_events_are_the_rows(checkout)


def test_events_switched_on_later_have_all_rows(checkout: Checkout, unseen: Checkout) -> None:
    pytest.importorskip("tensorboard")
    done = unseen.copy(checkout.path.with_name("done"))
    done.params(runtime__tensorboard=True)
    done.python(*TRAIN)
    assert_events_are_the_rows(done)


@PROC
@pytest.mark.parametrize(
    "how", [*(pytest.param(other, marks=pytest.mark.slow) for other in (signal.SIGTERM, signal.SIGINT)), signal.SIGKILL]
)
def test_no_process_outlives_the_training(checkout: Checkout, how: signal.Signals) -> None:
    """The trainer's end ends a drawing that would take ten minutes."""
    slowed(checkout, 0.1)
    preview = checkout.path / "stages/preview.py"
    anchor = '    model = load(weights, "cpu")\n'
    assert anchor in preview.read_text()
    waits = "    (picture.parent / 'drawing').touch()\n    __import__('time').sleep(600)\n"
    preview.write_text(preview.read_text().replace(anchor, waits + anchor))
    checkout.params(runtime__preview_every=0.01, train__steps=100_000)
    checkout.python("-m", "stages.config", "cifar10")
    process = checkout.start(sys.executable, *TRAIN)
    (marker,) = wait_for(lambda: list(checkout.path.glob(f"{WORK}/train-*/drawing")), "a drawing")
    (pid,) = drawing(checkout)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    if how == signal.SIGINT:  # Ctrl-C reaches the whole group
        os.killpg(process.pid, how)
    else:
        os.kill(process.pid, how)
    assert process.wait(60) != 0
    wait_for(lambda: not drawing(checkout), "the end of the drawing", 10)
    output = checkout.log.read_text()
    assert "preview" not in output, output
    if how != signal.SIGKILL:
        assert f"stopped by {how.name}" in output
        assert [path.name for path in marker.parent.glob("*preview*")] == []


@pytest.mark.slow
def test_a_preview_that_fails_is_a_warning(checkout: Checkout, unseen: Checkout) -> None:
    slowed(checkout, 2.0)
    checkout.params(runtime__preview_every=0.01)
    (checkout.path / METRICS / "config/figures.json").write_text("{}")
    process = checkout.start(sys.executable, *TRAIN)
    wait_for(lambda: process.poll() is not None or "warning" in checkout.log.read_text(), "a warning")
    (checkout.path / "enough").touch()
    assert process.wait(120) == 0
    output = checkout.log.read_text()
    said = re.findall(r"warning: no preview of step (\d+): stages.preview ended with 1: (.*)", output)
    assert said
    assert all("accepted" in message for _, message in said), said
    assert not (checkout.path / WORK / "preview.png").exists()
    assert_bit_equal(checkout, unseen)


def test_a_drawing_ends_with_its_picture(checkout: Checkout, unseen: Checkout) -> None:
    """At once: a training that ends between the two would leave the picture among its states."""
    preview = checkout.path / "stages/preview.py"
    _, code = preview.read_text().split("annotations\n", 1)
    preview.write_text(f"import atexit, time\natexit.register(time.sleep, 600)\n{code}")
    weights, picture = unseen.path / "models/demo/cifar10/ema.safetensors", checkout.path / "preview.png"
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.preview", weights, picture], cwd=checkout.path, env=checkout.env, stdin=subprocess.PIPE
    )
    try:
        assert process.wait(300) == 0
        assert picture.exists()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_preview_takes_no_room_that_the_training_needs(checkout: Checkout, unseen: Checkout) -> None:
    """The disk has a kilobyte left, but for what the training itself needs."""
    window = checkout.path / "stages/window.py"
    anchor = "free_bytes(self.folder.path)"
    assert anchor in window.read_text()
    window.write_text(window.read_text().replace(anchor, "1000"))
    checkout.params(runtime__preview_every=0.01)
    output = checkout.python(*TRAIN)
    assert re.search(
        r"warning: no preview of step \d+: the disk of .* has 1.0 kB free, and the training may need [\d.]+ MB", output
    )
    assert_bit_equal(checkout, unseen)


@pytest.mark.slow
def test_a_missing_tensorboard_is_said_before_anything_starts(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "hidden/tensorboard").mkdir(parents=True)
    (tmp_path / "hidden/tensorboard/__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'tensorboard'\")\n")
    checkout.params(runtime__tensorboard=True)
    output = checkout.python(*TRAIN, rc=1, PYTHONPATH=str(tmp_path / "hidden"))
    assert output.startswith("error: runtime.tensorboard = True: ")
    assert "pip install tensorboard" in output
    assert "Traceback" not in output
    assert not list(checkout.path.glob(f"{WORK}/train-*"))
    checkout.params(runtime__tensorboard=False)
    checkout.python(*TRAIN, PYTHONPATH=str(tmp_path / "hidden"))  # and is not missed


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("preview_every", -1.0, "0 or more; 0 = none"),
        ("preview_every", float("inf"), "0 or more; 0 = none"),
        ("preview_every", "often", "0 or more; 0 = none"),
        ("tensorboard", 1, "true or false"),
        ("tensorboard", "yes", "true or false"),
    ],
)
def test_bad_settings_are_refused(key: str, value: Any, accepted: str) -> None:
    good = load_params("demo")["runtime"]
    assert validate(RuntimeConfig, good | {"preview_every": 0, "tensorboard": True}, "runtime").tensorboard
    with pytest.raises(Fault, match=rf"^runtime\.{key} = {value!r}; accepted: .*{re.escape(accepted)}$"):
        validate(RuntimeConfig, good | {key: value}, "runtime")


class Slow:
    """Looks after every step but the first, for 50 ms."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.seen: list[int] = []

    def due(self, step: int) -> bool:
        self.asked.append(step)
        return step != 1

    def look(self, state: TrainState) -> None:
        time.sleep(0.05)
        self.seen.append(state.step)


def test_looking_is_not_counted_as_training(tmp_path: Path) -> None:
    config, slow = train_config(steps=8), Slow()
    folder, state = StateFolder(tmp_path, state_key(config, "data", "code")), new_state(config, torch.device("cpu"))
    folder.path.mkdir(parents=True)

    class Never:
        reason = None

        def pending(self) -> None:
            return None

    never: Any = Never()
    begin = time.monotonic()
    session.run(state, config, folder, never, random_images(), None, 1000.0, {"config": config.model_dump()}, slow)
    passed = time.monotonic() - begin
    assert slow.asked == list(range(9))
    assert slow.seen == [0, *range(2, 9)]
    assert state.seconds <= passed - 8 * 0.05 + 1e-3
    assert state.speed[-1][1] <= state.seconds
