"""What stands around the training loop: when it saves and stops, and what the stage reports."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Checkout
from ddpm.base.faults import Fault
from ddpm.model.weights import load_network, read_metadata
from ddpm.training import loop, session
from ddpm.training.loop import TrainState, new_state, train
from ddpm.training.loss import training_loss
from ddpm.training.settings import TrainConfig
from ddpm.training.states import StateFolder, state_key
from ddpm.training.stop import Interrupts
from tiny import random_images, train_config

CPU = torch.device("cpu")
IMAGES = random_images()


class Stop:
    """In place of the signals: calls `after(step)` after each step, and ends the run if that returns a reason."""

    def __init__(self, state: TrainState, after: Any) -> None:
        self.state, self.after, self.reason = state, after, None

    def pending(self) -> str | None:
        self.reason = self.after(self.state.step)
        return self.reason


def folder_of(config: TrainConfig, parent: Path) -> StateFolder:
    folder = StateFolder(parent, state_key(config, "data", "code"))
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def run_session(folder: StateFolder, config: TrainConfig, state: TrainState, after: Any = lambda step: None) -> None:
    """Train to the end, saving after every step."""
    metadata = {"config": config.model_dump()}
    session.run(state, config, folder, Stop(state, after), IMAGES, None, 0.0, metadata)  # type: ignore[arg-type]


def assert_same(a: TrainState, b: TrainState) -> None:
    assert a.step == b.step
    assert torch.equal(a.history.sums, b.history.sums)
    for left, right in ((a.network, b.network), (a.ema.network, b.ema.network)):
        assert all(torch.equal(*pair) for pair in zip(left.parameters(), right.parameters(), strict=True))


def test_an_interrupted_stage_saves_and_exits_with_the_reason(tmp_path: Path) -> None:
    config = train_config()
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    with pytest.raises(SystemExit, match="stopped by SIGTERM at step 3"):
        run_session(folder, config, state, lambda step: "SIGTERM" if step == 3 else None)
    resumed = new_state(config, CPU)
    assert folder.restore(resumed, config.steps) == []
    run_session(folder, config, resumed)
    whole = new_state(config, CPU)
    list(train(whole, IMAGES, config))
    assert_same(resumed, whole)


def test_a_diverging_run_stops_and_its_last_state_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From step 6 on every loss is NaN: the weights stay those of step 5, whatever is saved."""
    calls = iter(range(1, 1000))

    def loss(*arguments: Any) -> torch.Tensor:
        return training_loss(*arguments) * (float("nan") if next(calls) >= 6 else 1.0)

    config = train_config(steps=50, log_every=100, checkpoints=[2])
    good = new_state(config, CPU)
    next(step for step in train(good, IMAGES, config) if step == 5)
    monkeypatch.setattr(loop, "training_loss", loss)
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    with pytest.raises(Fault, match=r"the last 6 steps, up to step 11, .*train\.lr"):
        run_session(folder, config, state)
    kept = new_state(config, CPU)
    assert folder.restore(kept, config.steps) == []
    for name, value in kept.network.state_dict().items():
        assert torch.equal(value, good.network.state_dict()[name]), name


def test_signals_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        interrupts = Interrupts()
        assert interrupts.pending() is None
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.pending() == "SIGTERM"
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_lost_kept_file_is_made_again_from_the_state_before_it(tmp_path: Path) -> None:
    config = train_config(checkpoints=[4])
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    run_session(folder, config, state)
    session.publish(state, config, folder, {}, tmp_path / "models")
    before = {path.name: path.read_bytes() for path in folder.path.glob("*.safetensors")}
    published = {path.name: path.read_bytes() for path in (tmp_path / "models").iterdir()}
    names = {"raw-000004.safetensors", "ema-000004.safetensors", "raw-000010.safetensors", "ema.safetensors"}
    assert published.keys() == names
    for kind, step, begin in (("raw", 10, 10), ("ema", 10, 10), ("raw", 4, 0), ("ema", 4, 0)):
        folder.kept_path(kind, step).unlink()
        state = new_state(config, CPU)
        (tmp_path / "models.new").mkdir()  # of a process that was killed while publishing
        assert session.resume(state, config, folder, tmp_path / "models") == []
        assert state.step == begin
        run_session(folder, config, state)
        session.publish(state, config, folder, {}, tmp_path / "models")
        for name, content in before.items():
            assert (folder.path / name).read_bytes() == content
        assert {path.name: path.read_bytes() for path in (tmp_path / "models").iterdir()} == published
    assert session.resume(state, config, folder, tmp_path / "models", fresh=True) == []
    assert list(folder.path.iterdir()) == []


def test_a_fresh_start_leaves_weights_of_another_training(tmp_path: Path) -> None:
    """Those that lie here under a name of this one, and those that an earlier start renamed."""
    ours, other = train_config(checkpoints=[4]), train_config(checkpoints=[4], lr=0.5)
    mine, foreign = folder_of(ours, tmp_path), folder_of(other, tmp_path)
    for config, folder in ((ours, mine), (other, foreign)):
        run_session(folder, config, new_state(config, CPU))
    theirs = {path.name: path.read_bytes() for path in foreign.path.glob("raw-000004.s*")}
    for name, content in theirs.items():
        (mine.path / name).write_bytes(content)
    for count in (1, 0):  # at the second start nothing is foreign any more
        lines = session.resume(new_state(ours, CPU), ours, mine, tmp_path / "models", fresh=True)
        assert len(lines) == count, lines
        left = {path.name: path.read_bytes() for path in mine.path.iterdir()}
        assert left == {"raw-000004.safetensors.foreign-1": theirs["raw-000004.safetensors"]}


def test_published_weights_sort_by_their_names(tmp_path: Path) -> None:
    """Also where the last step has seven digits and an earlier one six: stages, tools and people sort names as text."""
    config = train_config(steps=1_000_000, checkpoints=[4, 999_999])
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    state.step = config.steps
    for step in config.kept_steps:
        folder.keep(step, [state.network, state.ema.network], {})
    session.publish(state, config, folder, {}, tmp_path / "models")
    names = sorted(path.name for path in (tmp_path / "models").glob("raw-*"))
    assert names == [f"raw-{step}.safetensors" for step in ("0000004", "0999999", "1000000")]
    assert [read_metadata(tmp_path / "models" / name)["step"] for name in names] == [4, 999_999, 1_000_000]


def test_a_conditional_checkpoint_names_its_classes(fresh: Checkout) -> None:
    fresh.params(train__context_dim=10, recipe_names=["cifar10"], conditional=["cifar10"])
    fresh.dvc("repro", "train@cifar10")
    config, metadata = load_network(fresh.path / "models/demo/cifar10/ema.safetensors")[1:]
    assert len(metadata["classes"]) == config.context_dim == 10
    assert metadata["classes"] == json.loads((fresh.path / "metrics/demo/cifar10/config/data.json").read_text())["classes"]


def test_what_looks_is_never_behind_the_saved_state(tmp_path: Path) -> None:
    """Stopped or killed between the two, a training goes on from a state that had not been looked at."""
    config = train_config()
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    seen: list[int] = []

    class Watching:
        def due(self, step: int) -> bool:
            assert not list(folder.path.glob(f"state-{step:06d}.pt")), "this step is not saved yet"
            return step > 0

        def look(self, state: TrainState) -> None:
            seen.append(state.step)

    stop: Any = Stop(state, lambda step: "enough" if step == 3 else None)
    with pytest.raises(SystemExit, match="step 3"):
        session.run(state, config, folder, stop, IMAGES, None, 0.0, {"config": config.model_dump()}, Watching())
    assert seen == [1, 2, 3]
