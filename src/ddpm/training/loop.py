"""The training loop as a generator of steps. All that a step draws derives from (seed, step), so a resumed run
repeats what the uninterrupted one would have drawn, a longer run continues a shorter one, and the images, timesteps and
noise of a step do not depend on the number of processes that share it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ddpm.machine import distributed
from ddpm.machine.compilation import forward_flops, training_repays
from ddpm.machine.precision import autocast, configure, memory_format
from ddpm.model.schedule import schedule_of
from ddpm.model.unet import UNet, build_network
from ddpm.training.batches import draw_batch, dropout_seed
from ddpm.training.ema import EMA
from ddpm.training.history import History, loss_sums
from ddpm.training.loss import training_loss
from ddpm.training.settings import TrainConfig

LossFunction = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]  # (x0, t, eps, context) -> (b,)
Unsummed = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass
class TrainState:
    """All that a training is: `step` optimizer steps are done."""

    step: int
    network: UNet
    ema: EMA
    optimizer: torch.optim.Optimizer
    history: History
    whole: bool = True  # False inside a step, when weights and moments are ahead of the rest: not to be saved
    seconds: float = 0.0  # wall-clock time spent so far
    speed: list[list[float]] = field(default_factory=list)  # [step, seconds so far, peak memory in bytes] every log_every steps

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.state_dict(),
            "seconds": self.seconds,
            "speed": self.speed,
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.network.load_state_dict(values["network"])
        self.ema.network.load_state_dict(values["ema"])
        self.optimizer.load_state_dict(values["optimizer"])
        _lay_out(self.optimizer)
        self.history.load_state_dict(values["history"])
        self.step, self.seconds, self.speed = values["step"], values["seconds"], values["speed"]


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give the moments the memory order of their parameters, which the device decides and the state may not share.

    The fused AdamW walks both as they lie in memory: in another order it raises an error on a GPU and on a CPU silently
    pairs each weight with the moment of another one.
    """
    for parameter, moments in optimizer.state.items():
        for name, values in moments.items():
            if values.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(values)


def new_state(config: TrainConfig, device: torch.device, in_channels: int = 3) -> TrainState:
    """The state before the first step."""
    network = build_network(config, config.seed, in_channels).to(device).to(memory_format=memory_format(device))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return TrainState(0, network, EMA(network, config.ema_decay), optimizer, History(config, device))


def train(state: TrainState, images: Tensor, config: TrainConfig, labels: Tensor | None = None) -> Iterator[int]:
    """Train until config.steps, yielding the number of steps done after each one; `state` advances in place.

    `images`: uint8 (N, H, W, C) on any device, all of them in every process; the processes of ddpm.machine.distributed
    share each batch. `labels`: their classes, int64 (N,) below config.context_dim on the same device, where that is not 0.
    A step whose loss or gradient is not finite changes nothing and is counted. Raises Fault where, after a multiple of
    config.log_every steps, the last ones were such, more than history.MAX_SKIPPED.
    """
    device = next(state.network.parameters()).device
    configure(config.precision, device)
    if config.threads:
        torch.set_num_threads(config.threads)  # another number adds up the gradients of weights in another order
    state.network.eval()  # to count operations it is called once, of which batch norm's statistics must not learn
    loss_of, unsummed = _loss_function(state, images, config, device)
    state.network.train()
    # Listed once: walking the modules takes as long as a small step on a GPU.
    parameters, buffers = list(state.network.parameters()), list(state.network.buffers())
    while state.step < config.steps:
        for group in state.optimizer.param_groups:
            group["lr"] = config.lr_at(state.step)
        x0, t, eps, context = draw_batch(images, labels, config, state.step, device)
        if config.dropout > 0:  # dropout has no generator argument
            torch.manual_seed(dropout_seed(config.seed, state.step))
        statistics = [buffer.clone() for buffer in buffers]  # batch norm's
        losses = backward(loss_of, unsummed, config, x0, t, eps, context)
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        sums = distributed.sum_(loss_sums(losses, t, config.num_timesteps))
        usable = (sums[0] + grad_norm).isfinite()
        state.whole = False
        guarded_step(state.optimizer, buffers, statistics, usable)
        state.ema.update(state.step + 1, usable.float())
        state.history.add(state.step, sums, grad_norm, usable)
        state.step += 1
        state.whole = True
        if state.step % config.log_every == 0:
            state.history.check(state.step)
        yield state.step


def backward(
    loss_of: LossFunction, unsummed: Unsummed, config: TrainConfig, x0: Tensor, t: Tensor, eps: Tensor, context: Tensor | None
) -> Tensor:
    """Add the gradient of the batch's mean loss to the parameters' own, in config.accumulate parts that take less memory.

    The batch is this process's share as draw_batch returns it. Returns the loss of each image, float32 (b,).
    """
    count = min(config.accumulate, len(x0))
    contexts = [None] * count if context is None else context.tensor_split(count)
    batches = zip(x0.tensor_split(count), t.tensor_split(count), eps.tensor_split(count), contexts, strict=True)
    losses = []
    for part, batch in enumerate(batches, 1):
        # Gradients are summed over the processes once a step, with the last part's.
        with unsummed() if part < count else contextlib.nullcontext():
            loss = loss_of(*batch)
            # DistributedDataParallel takes the mean over processes: times their number, it is the batch's mean.
            (loss.sum() * distributed.world_size() / config.batch_size).backward()
        losses.append(loss.detach())
    return torch.cat(losses)


def guarded_step(
    optimizer: torch.optim.Optimizer, buffers: Sequence[Tensor], statistics: Sequence[Tensor], usable: Tensor
) -> None:
    """The optimizer's step, and no gradient left. Where `usable`, bool (), is false, weights and moments stay as they are
    and `buffers` become `statistics` again. It is not read, so that nothing waits for the device."""
    optimizer.found_inf = (~usable).float()  # type: ignore[attr-defined]  # 1 lets the fused AdamW change nothing
    optimizer.step()
    optimizer.zero_grad()
    for buffer, before in zip(buffers, statistics, strict=True):
        buffer.copy_(torch.where(usable, buffer, before))


def _loss_function(
    state: TrainState, images: Tensor, config: TrainConfig, device: torch.device
) -> tuple[LossFunction, Unsummed]:
    """The loss of each image of a batch, compiled if config says so, and what keeps gradients from being summed over the
    processes that share it."""
    network, schedule = state.network, schedule_of(config)
    compiled = config.compile
    if compiled == "auto":
        height, width, channels = images.shape[1:]
        flops = 3 * forward_flops(network, (channels, height, width)) * config.batch_size * config.steps
        compiled = training_repays(flops, device)
    call: Any = network
    unsummed: Unsummed = contextlib.nullcontext
    if distributed.world_size() > 1:
        # What DistributedDataParallel adds to the backward pass is compiled only if the network itself is.
        wrapped = DistributedDataParallel(
            torch.compile(network) if compiled else network,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        call, unsummed, compiled = wrapped, wrapped.no_sync, False

    def loss_of(x0: Tensor, t: Tensor, eps: Tensor, context: Tensor | None) -> Tensor:
        with autocast(config.precision, device):
            return training_loss(call, schedule, config.prediction, x0, t, eps, context, config.loss_weighting)

    if not compiled:
        return loss_of, unsummed
    schedule.alpha_bar_at(torch.ones(1, dtype=torch.int64, device=device), images.new_zeros(1).to(device))  # the copy there
    # reduce-overhead records CUDA graphs; these write over their gradients, which accumulation must keep.
    graphs = device.type == "cuda" and config.accumulate == 1
    return torch.compile(loss_of, mode="reduce-overhead" if graphs else None, dynamic=False), unsummed
