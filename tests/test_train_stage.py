"""The stage around the training loop: when it saves and stops, and what it reports."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Checkout
from ddpm import training
from ddpm.config import TrainConfig
from ddpm.diffusion import training_loss
from ddpm.states import StateFolder, state_key
from ddpm.training import TrainState, new_state, train
from stages import train as train_stage
from stages.common import Fault
from tiny import random_images, train_config

CPU = torch.device("cpu")
IMAGES = random_images()


class Interrupts:
    """Calls `after(step)` after each step, and ends the run if that returns a reason."""

    def __init__(self, state: TrainState, after: Any) -> None:
        self.state, self.after, self.reason = state, after, None

    def pending(self) -> str | None:
        self.reason = self.after(self.state.step)
        return self.reason


def folder_of(config: TrainConfig, parent: Path) -> StateFolder:
    folder = StateFolder(parent, state_key(config, "data", "code"))
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def run_stage(folder: StateFolder, config: TrainConfig, state: TrainState, after: Any = lambda step: None) -> None:
    """The stage's loop, saving after every step."""
    metadata = {"config": config.model_dump()}
    train_stage.run(state, config, folder, Interrupts(state, after), IMAGES, 0.0, metadata)  # type: ignore[arg-type]


def assert_same(a: TrainState, b: TrainState) -> None:
    assert a.step == b.step
    assert torch.equal(a.history, b.history)
    for left, right in ((a.network, b.network), (a.ema.network, b.ema.network)):
        assert all(torch.equal(*pair) for pair in zip(left.parameters(), right.parameters(), strict=True))


def test_an_interrupted_stage_saves_and_exits_with_the_reason(tmp_path: Path) -> None:
    config = train_config()
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    with pytest.raises(SystemExit, match="stopped by SIGTERM at step 3"):
        run_stage(folder, config, state, lambda step: "SIGTERM" if step == 3 else None)
    resumed = new_state(config, CPU)
    assert folder.restore(resumed, config.steps) == []
    run_stage(folder, config, resumed)
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
    monkeypatch.setattr(training, "training_loss", loss)
    folder, state = folder_of(config, tmp_path), new_state(config, CPU)
    with pytest.raises(Fault, match=rf"the last 6 steps, up to step 11, .*train\.lr.* kept in {folder.path}"):
        run_stage(folder, config, state)
    kept = new_state(config, CPU)
    assert folder.restore(kept, config.steps) == []
    for name, value in kept.network.state_dict().items():
        assert torch.equal(value, good.network.state_dict()[name]), name


def test_rows_of_the_loss_are_means_over_an_interval() -> None:
    config = train_config(steps=7, log_every=3, lr=0.5, warmup_steps=0)
    history = torch.zeros(12, 3)
    history[:4] = torch.tensor([[3, 2, 0], [0, 1, 1], [30, 40, 0], [6, 1, 0]])  # steps, skipped, norms, losses
    history[4:8] = torch.tensor([[4.0, 1, 0], [6, 1, 0], [0, 2, 0], [3, 3, 0]])
    history[8:] = torch.tensor([[2.0, 1, 0], [4, 1, 0], [0, 4, 0], [6, 2, 0]])
    rows = train_stage.loss_rows(history, config)
    names = ("step", "loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "grad_norm", "lr", "skipped")
    assert [tuple(row) for row in rows] == [names] * 3
    assert [tuple(row.values()) for row in rows] == [
        (3, 2, 2, 1.5, None, 0.5, 10, 0.5, 0),
        (6, 0.5, 1, 1, 0.5, 1.5, 20, 0.5, 1),
        (7, None, None, None, None, None, None, 0.5, 1),
    ]


def test_rows_of_the_speed_are_those_of_the_training_not_of_the_process() -> None:
    """After a resumption the seconds go on from the saved ones."""
    speed = [[50, 10.0, 3e6], [100, 15.0, 4e6]]
    assert train_stage.speed_rows(speed, train_config(batch_size=4)) == [
        {"step": 50, "images_per_second": 20.0, "peak_memory_mb": 3.0},
        {"step": 100, "images_per_second": 40.0, "peak_memory_mb": 4.0},
    ]


def test_peak_memory_counts_what_was_held() -> None:
    before = train_stage.peak_memory(CPU)
    block = torch.ones(before // 4 + 50_000_000)  # float32: more than ever before, by 200 MB at least
    assert train_stage.peak_memory(CPU) - before > 190e6
    del block


def test_signals_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        interrupts = train_stage.Interrupts()
        assert interrupts.pending() is None
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.pending() == "SIGTERM"
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_what_a_training_reports(done: Checkout) -> None:
    folder = done.path / "metrics/demo/cifar10"
    header, *rows = (folder / "loss.csv").read_text().splitlines()
    assert header == "step,loss,loss_q1,loss_q2,loss_q3,loss_q4,grad_norm,lr,skipped"
    assert [row.split(",")[0] for row in rows] == ["2", "4", "6"]
    header, *rows = (folder / "speed.csv").read_text().splitlines()
    assert header == "step,images_per_second,peak_memory_mb"
    assert [row.split(",")[0] for row in rows] == ["2", "4", "6"]
