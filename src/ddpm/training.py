"""The training loop as a generator of steps. All that a step draws derives from (seed, step), so a resumed run
repeats what the uninterrupted one would have drawn, a longer run continues a shorter one, and the images, timesteps and
noise of a step do not depend on the number of processes that share it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ddpm import distributed
from ddpm.compilation import forward_flops, training_repays
from ddpm.config import TrainConfig
from ddpm.data import batch_indices, step_generator, to_float
from ddpm.diffusion import training_loss
from ddpm.ema import EMA
from ddpm.precision import autocast, configure, memory_format
from ddpm.schedule import noise_schedule
from ddpm.seeds import derive_seed
from ddpm.unet import UNet, build_network

LR_FLOOR = 0.05  # what is left of the learning rate at the end of a linear decay
MAX_SKIPPED = 5  # steps in a row without a usable gradient: more end the training
QUARTERS = 4  # of the timesteps 1..T, by which the loss is reported

# Rows of TrainState.history: sums over the steps of an interval of log_every.
STEPS, SKIPPED, GRAD_NORM, LOSS = range(4)
QUARTER_LOSS = slice(4, 4 + QUARTERS)  # sums over images
QUARTER_COUNT = slice(4 + QUARTERS, 4 + 2 * QUARTERS)


class NonFiniteGradient(RuntimeError):
    """Too many steps in a row had an infinite or NaN loss or gradient; the message says what to change."""


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
    history: Tensor  # float32 (12, intervals): see STEPS and the other rows
    skipped_in_a_row: Tensor  # float32 (): steps without a usable gradient since the last good one
    seconds: float = 0.0  # wall-clock time spent so far
    speed: list[list[float]] = field(default_factory=list)  # [step, seconds so far, peak memory in bytes] every log_every steps

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.cpu(),
            "skipped_in_a_row": self.skipped_in_a_row.cpu(),
            "seconds": self.seconds,
            "speed": self.speed,
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.network.load_state_dict(values["network"])
        self.ema.network.load_state_dict(values["ema"])
        self.optimizer.load_state_dict(values["optimizer"])
        intervals = min(self.history.shape[1], values["history"].shape[1])  # a longer run continues a shorter one
        self.history[:, :intervals] = values["history"][:, :intervals]
        self.skipped_in_a_row.copy_(values["skipped_in_a_row"])
        self.step, self.seconds, self.speed = values["step"], values["seconds"], values["speed"]


def new_state(config: TrainConfig, device: torch.device, in_channels: int = 3) -> TrainState:
    """The state before the first step."""
    network = build_network(config, config.seed, in_channels).to(device).to(memory_format=memory_format(device))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    history = torch.zeros(QUARTER_COUNT.stop, math.ceil(config.steps / config.log_every), device=device)
    return TrainState(0, network, EMA(network, config.ema_decay), optimizer, history, torch.zeros((), device=device))


def train(state: TrainState, images: Tensor, config: TrainConfig, labels: Tensor | None = None) -> Iterator[int]:
    """Train until config.steps, yielding the number of steps done after each one; `state` advances in place.

    `images`: uint8 (N, H, W, C) on any device, all of them in every process; the processes of ddpm.distributed share
    each batch. `labels`: their classes, int64 (N,) below config.context_dim on the same device, where that is not 0.
    A step whose loss or gradient is not finite changes no weight and is counted. Raises NonFiniteGradient when more than
    MAX_SKIPPED steps in a row were such, at the latest after config.log_every steps.
    """
    device = next(state.network.parameters()).device
    schedule = noise_schedule(
        config.schedule, config.num_timesteps, config.beta_min, config.beta_max, config.zero_terminal_snr
    )
    configure(config.precision, device)
    state.network.train()
    network = _fast_network(state, images, config, device)
    while state.step < config.steps:
        step = state.step
        for group in state.optimizer.param_groups:
            group["lr"] = lr_at(step, config)
        x0, t, eps, context = draw_batch(images, labels, config, step, device)
        if config.dropout > 0:  # dropout has no generator argument
            torch.manual_seed(derive_seed(config.seed, step, distributed.rank()))
        count = min(config.accumulate, len(x0))
        statistics = [buffer.clone() for buffer in state.network.buffers()]  # batch norm's
        losses = []
        for part in range(count):
            part_x0, part_t, part_eps = (values.tensor_split(count)[part] for values in (x0, t, eps))
            part_context = None if context is None else context.tensor_split(count)[part]
            # Gradients are summed over the processes once a step, with the last part's.
            more_follow = isinstance(network, DistributedDataParallel) and part < count - 1
            with network.no_sync() if more_follow else contextlib.nullcontext():
                with autocast(config.precision, device):
                    loss = training_loss(
                        network,
                        schedule,
                        config.prediction,
                        part_x0,
                        part_t,
                        part_eps,
                        part_context,
                        config.loss_weighting,
                    )
                # DistributedDataParallel takes the mean over processes: times their number, it is the batch's mean.
                (loss.sum() * distributed.world_size() / config.batch_size).backward()
            losses.append(loss.detach())
        grad_norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.grad_clip)
        sums = distributed.sum_(loss_sums(torch.cat(losses), t, config.num_timesteps))
        unusable = (~(sums[0] + grad_norm).isfinite()).float()
        state.optimizer.found_inf = unusable  # type: ignore[attr-defined]  # 1 lets the fused AdamW change nothing
        state.optimizer.step()
        state.optimizer.zero_grad()
        for buffer, before in zip(state.network.buffers(), statistics, strict=True):
            buffer.copy_(torch.where(unusable == 1, before, buffer))
        state.ema.update(state.network, step + 1)

        record = torch.cat([torch.stack([1 - unusable, unusable, grad_norm, sums[0] / config.batch_size]), sums[1:]])
        record[2:] = record[2:].where(unusable == 0, 0.0)
        state.history[:, step // config.log_every] += record
        state.skipped_in_a_row.add_(1).mul_(unusable)
        state.step = step + 1
        if state.step % config.log_every == 0:
            check_gradients(state)
        yield state.step


def draw_batch(
    images: Tensor, labels: Tensor | None, config: TrainConfig, step: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """This process's share of the batch of step 0, 1, ...: x0 float32 (b, C, H, W), t int64 (b,), eps float32 (b, C, H, W)
    and, where there are labels, their context float32 (b, context_dim): 1 in the class's place, all zeros for those that
    context_dropout leaves without one, so that the network learns the unconditional estimate too.

    Every process draws for the whole batch and takes its part, so that the draws do not depend on their number.
    """
    mine = distributed.share(config.batch_size)
    indices = batch_indices(len(images), config.batch_size, config.seed, step, images.device)
    x0 = to_float(images[indices[mine]].to(device))
    generator = step_generator(config.seed, step, device)
    if config.flip:
        mirrored = torch.rand(config.batch_size, 1, 1, 1, generator=generator, device=device) < 0.5
        x0 = torch.where(mirrored[mine], x0.flip(-1), x0)
    t = torch.randint(1, config.num_timesteps + 1, (config.batch_size,), generator=generator, device=device)
    eps = torch.randn(config.batch_size, *x0.shape[1:], generator=generator, device=device)
    context = None
    if labels is not None:
        kept = torch.rand(config.batch_size, 1, generator=generator, device=device) >= config.context_dropout
        context = torch.nn.functional.one_hot(labels[indices].to(device), config.context_dim) * kept.float()
        context = context[mine]
    memory = memory_format(device)
    return x0.contiguous(memory_format=memory), t[mine], eps[mine].contiguous(memory_format=memory), context


def loss_sums(losses: Tensor, t: Tensor, num_timesteps: int) -> Tensor:
    """Of each image's loss (B,) at t (B,): float32 (9,), the sum, the sums by quarter of 1..T, the images in each quarter."""
    quarter = (t - 1) * QUARTERS // num_timesteps
    by_quarter = losses.new_zeros(QUARTERS).index_add_(0, quarter, losses)
    count = losses.new_zeros(QUARTERS).index_add_(0, quarter, torch.ones_like(losses))
    return torch.cat([losses.sum()[None], by_quarter, count])


def check_gradients(state: TrainState) -> None:
    """Raise NonFiniteGradient if the last steps, more than MAX_SKIPPED, had no usable gradient."""
    if (skipped := int(state.skipped_in_a_row)) > MAX_SKIPPED:
        raise NonFiniteGradient(
            f"the last {skipped} steps, up to step {state.step}, had an infinite or NaN loss or gradient and changed nothing. "
            "Lower train.lr or train.grad_clip, raise train.warmup_steps, or set train.precision=fp32."
        )


def _fast_network(state: TrainState, images: Tensor, config: TrainConfig, device: torch.device) -> Any:
    """state.network as a function of (x_t, t, context): compiled if config says so, wrapped if processes share the batch."""
    network: Any = state.network
    compiled = config.compile
    if compiled == "auto":
        height, width, channels = images.shape[1:]
        flops = 3 * forward_flops(network, (channels, height, width)) * config.batch_size * config.steps
        compiled = training_repays(flops, device)
    if compiled:
        # reduce-overhead records CUDA graphs; these write over their gradients, which accumulation must keep.
        graphs = device.type == "cuda" and config.accumulate == 1 and distributed.world_size() == 1
        network = torch.compile(network, mode="reduce-overhead" if graphs else None)
    if distributed.world_size() > 1:
        network = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    return network
