"""The training loop as a generator of steps. All that a step draws derives from (seed, step), so a resumed run
repeats what the uninterrupted one would have drawn, and a longer run continues a shorter one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm.config import TrainConfig
from ddpm.data import batch_indices, step_generator, to_float
from ddpm.diffusion import training_loss
from ddpm.ema import EMA
from ddpm.precision import autocast
from ddpm.schedule import cosine_schedule
from ddpm.seeds import derive_seed
from ddpm.unet import UNet, build_network

LR_FLOOR = 0.05  # what is left of the learning rate at the end of a linear decay


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient became infinite or NaN; the message names the step and what to change."""


def lr_at(step: int, config: TrainConfig) -> float:
    """Learning rate of step 0, 1, ...: a linear rise over warmup_steps, then constant or a linear fall to LR_FLOOR."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.lr_decay == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    return config.lr * (1 - (1 - LR_FLOOR) * done)


@dataclass
class TrainState:
    """All that a training is: `step` optimizer steps are done."""

    step: int
    network: UNet
    ema: EMA
    optimizer: torch.optim.Optimizer
    history: Tensor  # float32 (2, steps): loss and gradient norm of every step done
    seconds: float  # wall-clock time spent so far

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history[:, : self.step].cpu(),
            "seconds": self.seconds,
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.step, self.seconds = values["step"], values["seconds"]
        self.network.load_state_dict(values["network"])
        self.ema.network.load_state_dict(values["ema"])
        self.optimizer.load_state_dict(values["optimizer"])
        self.history[:, : self.step] = values["history"]


def new_state(config: TrainConfig, device: torch.device) -> TrainState:
    """The state before the first step."""
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    network = build_network(config).to(device).to(memory_format=memory_format)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    history = torch.zeros(2, config.steps, device=device)
    return TrainState(0, network, EMA(network, config.ema_decay), optimizer, history, 0.0)


def train(state: TrainState, images: Tensor, config: TrainConfig) -> Iterator[int]:
    """Train until config.steps, yielding the number of steps done after each one; `state` advances in place.

    `images`: uint8 (N, H, W, C) on any device. Raises NonFiniteLoss, at the latest after config.log_every steps:
    a caller that saves `state` must call `check_finite` first.
    """
    device = next(state.network.parameters()).device
    schedule = cosine_schedule(config.num_timesteps)
    network: Callable[[Tensor, Tensor], Tensor] = torch.compile(state.network) if config.compile else state.network
    state.network.train()
    while state.step < config.steps:
        step = state.step
        for group in state.optimizer.param_groups:
            group["lr"] = lr_at(step, config)
        indices = batch_indices(len(images), config.batch_size, config.seed, step)
        x0 = to_float(images[indices.to(images.device)].to(device))
        generator = step_generator(config.seed, step, device)
        if config.flip:
            mirrored = torch.rand(len(x0), 1, 1, 1, generator=generator, device=device) < 0.5
            x0 = torch.where(mirrored, x0.flip(-1), x0)
        t = torch.randint(1, config.num_timesteps + 1, (len(x0),), generator=generator, device=device)
        eps = torch.empty_like(x0).normal_(generator=generator)
        if config.dropout > 0:  # dropout has no generator argument
            torch.manual_seed(derive_seed(config.seed, step))
        with autocast(config.precision, device):
            loss = training_loss(network, schedule, config.prediction, x0, t, eps).mean()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.grad_clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.ema.update(state.network, step + 1)
        state.history[0, step], state.history[1, step] = loss.detach(), grad_norm
        state.step = step + 1
        if state.step % config.log_every == 0:
            check_finite(state, state.step - config.log_every)
        yield state.step


def check_finite(state: TrainState, since: int) -> None:
    """Raise NonFiniteLoss if a step from `since` on had a loss or gradient that is not finite."""
    bad = (~state.history[:, since : state.step].isfinite()).any(0).nonzero()
    if len(bad):
        step = since + int(bad[0])
        loss, grad_norm = state.history[:, step].tolist()
        raise NonFiniteLoss(
            f"loss {loss}, gradient norm {grad_norm} at step {step + 1}: the training diverged. "
            "Lower train.lr, raise train.warmup_steps, or set train.precision=fp32."
        )
