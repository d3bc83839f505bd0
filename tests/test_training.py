"""The training loop: what it draws, how it learns, and that it stops at the first number that is none."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean

import pytest
import torch
from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.model.pixels import to_float
from ddpm.training import loop
from ddpm.training.batches import draw_batch
from ddpm.training.history import History, loss_sums, speed_rows
from ddpm.training.loop import TrainState, new_state, train
from ddpm.training.loss import training_loss
from tiny import random_images, train_config

CPU = torch.device("cpu")


def run(images: Tensor, **changes: object) -> TrainState:
    config = train_config(**changes)
    state = new_state(config, CPU)
    assert list(train(state, images, config)) == list(range(1, config.steps + 1))
    return state


def losses(state: TrainState) -> list[float]:
    return [row["loss"] for row in state.history.rows()]


def test_constant_learning_rate_after_the_warm_up() -> None:
    config = train_config(lr=0.1, warmup_steps=4, steps=20)
    assert [config.lr_at(step) for step in range(4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert {config.lr_at(step) for step in range(4, 20)} == {0.1}
    assert train_config(lr=0.1, warmup_steps=0).lr_at(0) == 0.1


def test_linear_learning_rate_falls_to_a_twentieth() -> None:
    config = train_config(lr=0.1, warmup_steps=4, steps=25, lr_decay="linear")
    rates = [config.lr_at(step) for step in range(25)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1), "continuous"
    assert rates[24] == pytest.approx(0.005)
    falls = [before - after for before, after in pairwise(rates[4:])]
    assert falls == pytest.approx([0.095 / 20] * 20)


@pytest.mark.parametrize("steps", [1, 2])
def test_shortest_linear_trainings_have_a_learning_rate(steps: int) -> None:
    config = train_config(lr=0.1, warmup_steps=0, steps=steps, lr_decay="linear")
    assert all(0 < config.lr_at(step) <= 0.1 for step in range(steps))


def test_the_optimizer_gets_the_learning_rate() -> None:
    """The first step of Adam moves every weight that has a gradient by the learning rate: here 1/5 of lr."""
    config = train_config(steps=10, warmup_steps=5, lr=1e-2, weight_decay=0.0)
    state = new_state(config, CPU)
    before = state.network.head[2].weight.detach().clone()
    next(iter(train(state, random_images(), config)))
    moved = (state.network.head[2].weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 2e-3), rtol=1e-2, atol=0)


def test_what_a_step_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrored half of the time, t uniform over 1..T, eps standard normal, images from the set."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def spy(network: object, schedule: object, kind: object, x0: Tensor, t: Tensor, eps: Tensor, *rest: object) -> Tensor:
        seen.append((x0, t, eps))
        return training_loss(network, schedule, kind, x0, t, eps, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "training_loss", spy)
    images = random_images(5)
    run(images, steps=60, batch_size=10, num_timesteps=4, checkpoints=[])
    x0, t, eps = (torch.cat(parts) for parts in zip(*seen, strict=True))
    plain = {row.numpy().tobytes() for row in to_float(images).contiguous()}
    mirrored = {row.numpy().tobytes() for row in to_float(images).flip(-1).contiguous()}
    rows = [row.contiguous().numpy().tobytes() for row in x0]
    assert set(rows) == plain | mirrored
    assert sum(row in mirrored for row in rows) == pytest.approx(300, abs=50)  # 4 standard deviations
    assert torch.bincount(t, minlength=5).tolist()[0] == 0
    assert torch.bincount(t, minlength=5)[1:].tolist() == pytest.approx([150] * 4, abs=43)
    n = eps.numel()
    assert float(eps.mean()) == pytest.approx(0, abs=4 / n**0.5)
    assert float(eps.var()) == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    assert len(eps.flatten(1).unique(dim=0)) == 600
    seen.clear()
    run(images, steps=5, batch_size=10, num_timesteps=4, flip=False)
    assert {row.contiguous().numpy().tobytes() for row in seen[0][0]} == plain


def test_every_image_comes_with_its_class_or_with_none() -> None:
    images, labels = random_images(6), torch.tensor([0, 3, 1, 4, 2, 2])
    of = {row.numpy().tobytes(): int(label) for row, label in zip(to_float(images).contiguous(), labels, strict=True)}
    config = train_config(batch_size=6, context_dim=5, context_dropout=0.25, flip=False)
    dropped = 0
    for step in range(100):
        x0, t, eps, context = draw_batch(images, labels, config, step, CPU)
        assert context is not None
        for row, vector in zip(x0, context, strict=True):
            label = of[row.contiguous().numpy().tobytes()]
            assert vector.tolist() in ([float(i == label) for i in range(5)], [0.0] * 5)
        dropped += int((context.sum(1) == 0).sum())
        # Labels change nothing of what else is drawn.
        for ours, theirs in zip((x0, t, eps), draw_batch(images, None, config, step, CPU)[:3], strict=True):
            assert torch.equal(ours, theirs)
    assert dropped == pytest.approx(150, abs=43)  # 4 standard deviations


def test_classes_are_learnt() -> None:
    """Two gray images, one dark and one bright: what the network draws depends on the context that it is given."""
    images = torch.full((2, 8, 8, 3), 40, dtype=torch.uint8)
    images[1] = 215
    config = train_config(
        context_dim=5, context_dropout=0.1, steps=120, batch_size=8, lr=5e-3, channels=[16, 16], num_timesteps=10,
        prediction="x0", loss_weighting="min_snr", flip=False, warmup_steps=10, ema_decay=0.8,
    )  # fmt: skip
    state = new_state(config, CPU)
    list(train(state, images, config, torch.tensor([1, 3])))
    network = state.ema.network
    noise, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor([10, 10])
    context = torch.nn.functional.one_hot(torch.tensor([1, 3]), 5).float()
    dark, bright = network(noise, t, context).detach().mean((1, 2, 3)).tolist()
    assert dark == pytest.approx(40 / 127.5 - 1, abs=0.15)
    assert bright == pytest.approx(215 / 127.5 - 1, abs=0.15)


def test_batch_norm_statistics_reach_the_average() -> None:
    config = train_config(norm="batch", activation="relu", steps=6)
    state = new_state(config, CPU)
    for _ in train(state, random_images(), config):
        pairs = list(zip(state.network.buffers(), state.ema.network.buffers(), strict=True))
        assert len(pairs) > 10
        assert all(torch.equal(a, b) for a, b in pairs)


def test_to_count_operations_changes_nothing() -> None:
    """`auto` calls the network once to decide whether compiling it repays; one position is no batch to take statistics of."""
    changes = {"norm": "batch", "activation": "relu", "channels": [4, 4, 4, 4], "attention": [], "steps": 3}
    auto, never = (run(random_images(), compile=compiled, **changes).network.state_dict() for compiled in ("auto", False))
    assert sum(name.endswith("running_var") for name in auto) > 10
    assert all(torch.equal(auto[name], never[name]) for name in auto)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_tiny_set_is_learnt(prediction: str) -> None:
    state = run(
        random_images(2),
        steps=80,
        batch_size=8,
        lr=5e-3,
        channels=[16, 16],
        num_timesteps=10,
        prediction=prediction,
        flip=False,
        warmup_steps=10,
        ema_decay=0.8,
        log_every=1,
    )
    loss = losses(state)
    assert mean(loss[-20:]) < (0.3 if prediction == "eps" else 0.7) * mean(loss[:5])
    # The average follows: it predicts as well, on draws of its own.
    config = train_config(
        steps=1, warmup_steps=0, batch_size=64, num_timesteps=10, prediction=prediction, flip=False, seed=9, log_every=1,
        channels=[16, 16],
    )  # fmt: skip
    follower = new_state(config, CPU)
    follower.network.load_state_dict(state.ema.network.state_dict())
    next(iter(train(follower, random_images(2), config)))
    assert losses(follower)[0] < (0.3 if prediction == "eps" else 0.45)


def test_the_average_is_that_of_the_weights_after_each_step() -> None:
    config = train_config(ema_decay=0.3)  # reached after two steps of warm-up
    state = new_state(config, CPU)
    expected = state.network.head[2].weight.detach().clone()
    for step in train(state, random_images(), config):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * state.network.head[2].weight.detach()
        torch.testing.assert_close(state.ema.network.head[2].weight, expected, rtol=1e-4, atol=1e-9)


def test_the_same_settings_give_the_same_bits_and_another_seed_others() -> None:
    first, again, other = (run(random_images(), dropout=0.1, seed=seed) for seed in (0, 0, 1))
    assert first.history.rows() == again.history.rows() != other.history.rows()
    for a, b, c in zip(first.network.parameters(), again.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim < 2 or not torch.equal(a, c)


def test_the_setting_threads_decides_the_bits_and_the_environment_does_not() -> None:
    images, before = random_images(64, 32), torch.get_num_threads()

    def weights(threads: int, given: int) -> Tensor:
        torch.set_num_threads(given)
        state = run(images, threads=threads, steps=3, channels=[16, 32], batch_size=16, precision="fp32")
        assert torch.get_num_threads() == threads
        return torch.cat([weight.flatten() for weight in state.network.parameters()])

    try:
        alone, first, second = weights(1, 2), weights(2, 1), weights(2, 2)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first, second)
    assert not torch.equal(alone, first), "were they equal, the setting could go"


def test_bf16_trains_like_fp32() -> None:
    full, half = (losses(run(random_images(), precision=precision, log_every=1)) for precision in ("fp32", "bf16"))
    assert full != half
    assert half == pytest.approx(full, rel=0.02)


@pytest.mark.slow
def test_compiled_training_is_training() -> None:
    eager, compiled = (run(random_images(), compile=compiled, log_every=1) for compiled in ("auto", True))
    torch.testing.assert_close(compiled.history.sums, eager.history.sums, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_a_batch_in_parts_is_the_same_batch(accumulate: int) -> None:
    """Parts of unequal size too: 4 images in 3 parts."""
    whole, parts = (run(random_images(), accumulate=count, steps=20) for count in (1, accumulate))
    torch.testing.assert_close(parts.history.sums, whole.history.sums, rtol=1e-4, atol=1e-5)
    for a, b in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_parts_call_the_network_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def spy(network: object, schedule: object, kind: object, x0: Tensor, *rest: object) -> Tensor:
        sizes.append(len(x0))
        return training_loss(network, schedule, kind, x0, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "training_loss", spy)
    run(random_images(), accumulate=3, steps=3)
    assert sizes == [2, 1, 1] * 3


def test_loss_sums_by_quarter_of_the_timesteps() -> None:
    losses, t = torch.arange(1.0, 9), torch.tensor([1, 25, 26, 50, 51, 75, 76, 100])
    assert loss_sums(losses, t, 100).tolist() == [36, 1 + 2, 3 + 4, 5 + 6, 7 + 8, 2, 2, 2, 2]
    few = loss_sums(torch.tensor([5.0]), torch.tensor([2]), 2)  # T = 2 has only two quarters
    assert few.tolist() == [5, 0, 0, 5, 0, 0, 0, 1, 0]


def test_history_holds_the_sums_of_each_interval() -> None:
    every, thirds = run(random_images(), steps=7, log_every=1).history, run(random_images(), steps=7, log_every=3).history
    assert thirds.sums.shape == (12, 3)
    steps, skipped, grad_norm, loss, *quarters = every.sums
    assert (steps.tolist(), skipped.tolist()) == ([1] * 7, [0] * 7)
    joined = torch.stack([every.sums[:, :3].sum(1), every.sums[:, 3:6].sum(1), every.sums[:, 6]], dim=1)
    torch.testing.assert_close(thirds.sums, joined)
    assert (loss > 0).all()
    assert (grad_norm > 0).all()
    # The quarters' losses are those of the images: their sum over the batch's size is the batch's loss.
    torch.testing.assert_close(sum(quarters[:4]) / 4, loss)
    assert sum(quarters[4:]).tolist() == [4] * 7
    for step in (3, 6):
        assert thirds.loss(step) == pytest.approx(thirds.rows()[step // 3 - 1]["loss"], abs=1e-6)


def test_rows_of_the_history_are_means_over_an_interval() -> None:
    """7 steps of 2 images, 3 to a row: two usable ones and one not; one of each; and none usable."""
    history = History(train_config(steps=7, log_every=3, batch_size=2, lr=0.5, warmup_steps=0), CPU)

    def add(step: int, losses: list[float], t: list[int], grad_norm: float, usable: bool = True) -> None:
        history.add(step, loss_sums(torch.tensor(losses), torch.tensor(t), 100), torch.tensor(grad_norm), torch.tensor(usable))

    nan = float("nan")
    add(0, [2.0, 4.0], [1, 100], 10.0)  # quarters 1 and 4
    add(1, [nan, 1.0], [1, 30], nan, usable=False)
    add(2, [3.0, 5.0], [25, 60], 20.0)  # 1 and 3
    add(3, [1.0, 2.0], [26, 50], 7.0)  # 2 and 2
    add(4, [1.0, 2.0], [26, 50], float("inf"), usable=False)
    assert int(history.skipped_in_a_row) == 1
    add(6, [nan, nan], [26, 50], 1.0, usable=False)
    rows = history.rows()
    names = ("step", "loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "grad_norm", "lr", "skipped")
    assert [tuple(row) for row in rows] == [names] * 3
    assert [tuple(row.values()) for row in rows] == [
        (3, 3.5, 2.5, None, 5, 4, 15, 0.5, 1),
        (6, 1.5, None, 1.5, None, None, 7, 0.5, 1),
        (7, None, None, None, None, None, None, 0.5, 1),
    ]


def test_rows_of_the_speed_are_those_of_the_training_not_of_the_process() -> None:
    """After a resumption the seconds go on from the saved ones."""
    assert speed_rows([[50, 10.0, 3e6], [100, 15.0, 4e6]], batch_size=4) == [
        {"step": 50, "images_per_second": 20.0, "peak_memory_mb": 3.0},
        {"step": 100, "images_per_second": 40.0, "peak_memory_mb": 4.0},
    ]


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: set[int], value: float) -> None:
    """Let the loss of the given steps (1, 2, ...) be multiplied by `value`, and with it the gradient."""
    calls = iter(range(1, 1000))

    def loss(*arguments: object) -> Tensor:
        return training_loss(*arguments) * (value if next(calls) in steps else 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "training_loss", loss)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_without_a_finite_gradient_moves_nothing_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, value: float, norm: str
) -> None:
    """Neither weights nor their average, Adam's moments or batch norm's statistics."""
    poisoned(monkeypatch, {4, 7, 8}, value)
    config = train_config(steps=10, log_every=5, norm=norm)
    state = new_state(config, CPU)
    before: dict[str, list[Tensor]] = {}
    for step in train(state, random_images(), config):
        now = {
            "weights": list(state.network.parameters()),
            "average": list(state.ema.network.parameters()),
            "moments": [entry[name] for entry in state.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq", "step")],
        }
        if norm == "batch":
            now |= {"statistics": list(state.network.buffers()), "their copies": list(state.ema.network.buffers())}
        now = {name: [tensor.detach().clone() for tensor in tensors] for name, tensors in now.items()}
        for name, tensors in before.items():
            assert len(tensors) > 10
            unchanged = all(torch.equal(a, b) for a, b in zip(tensors, now[name], strict=True))
            assert unchanged == (step in {4, 7, 8}), (step, name)
        assert int(state.history.skipped_in_a_row) == {4: 1, 7: 1, 8: 2}.get(step, 0)
        before = now
    assert [row["skipped"] for row in state.history.rows()] == [1, 2]
    assert state.history.sums[0].tolist() == [4, 3]
    assert state.history.sums.isfinite().all()


def test_many_bad_steps_in_a_row_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, set(range(4, 10)), float("nan"))  # 6, one more than is borne
    config = train_config(steps=30, log_every=3)
    state = new_state(config, CPU)
    with pytest.raises(Fault, match=r"^the last 6 steps, up to step 9, .*train\.lr"):
        list(train(state, random_images(), config))
    assert all(parameter.isfinite().all() for parameter in state.network.parameters())


def test_five_bad_steps_in_a_row_are_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, set(range(4, 9)), float("nan"))
    config = train_config(steps=12, log_every=1)
    state = new_state(config, CPU)
    list(train(state, random_images(), config))
    assert sum(row["skipped"] for row in state.history.rows()) == 5
