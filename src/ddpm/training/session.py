"""What happens around the loop: a training goes on from its last state, is saved on the way, ends early when it must, and
hands over its weights."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.base.files import disk_faults
from ddpm.base.progress import progress_bar
from ddpm.machine import distributed
from ddpm.machine.device import device_name, synchronize
from ddpm.machine.memory import peak_memory
from ddpm.machine.precision import resolve_precision
from ddpm.model.weights import copy_weights
from ddpm.training.loop import TrainState, train
from ddpm.training.settings import TrainConfig
from ddpm.training.states import StateFolder, weights_bytes
from ddpm.training.stop import Interrupts


def check_processes(config: TrainConfig) -> None:
    """Raise Fault if the processes cannot share the batches of `config`."""
    processes = distributed.world_size()
    if config.batch_size < processes:
        raise Fault(
            f"train.batch_size = {config.batch_size} cannot be shared by {processes} processes; accepted: {processes} or more"
        )
    if config.norm == "batch" and processes > 1:
        raise Fault(
            f"train.norm = batch with {processes} processes, each of which would take the statistics of "
            "its own images; accepted: one process, or train.norm = group"
        )


def resume(state: TrainState, config: TrainConfig, folder: StateFolder, models: Path, fresh: bool = False) -> list[str]:
    """Bring `state` to the newest step from which all that is to be kept can be made; return a line for each file left out.

    `fresh`: remove what this training saved before. Only the holder of the folder's lock may call this. Raises Fault, too,
    if something that is no folder lies where the weights will go.
    """
    for place in (models, _unfinished(models)):
        if os.path.lexists(place) and not place.is_dir():
            raise Fault(f"{place}: is no folder; move it away, for a folder of weights will go there")
    shutil.rmtree(_unfinished(models), ignore_errors=True)
    lines = folder.check_kept(config)
    if fresh:
        lines += folder.clear()
    missing = [step for step in config.kept_steps if not folder.is_kept(step)]
    return lines + folder.restore(state, min([config.steps, *missing]))


def opening_lines(title: str, state: TrainState, config: TrainConfig, folder: StateFolder) -> list[str]:
    """What is about to happen, and why a training starts anew where there is an earlier one."""
    parameters = list(state.network.parameters())
    millions, device = sum(parameter.numel() for parameter in parameters) / 1e6, parameters[0].device
    shared = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    arithmetic = resolve_precision(config.precision, device)
    lines = [f"{title}: {millions:.2f} M parameters, {arithmetic} on {device_name(device)}{shared}"]
    if state.step:
        lines.append(f"resuming at step {state.step} of {config.steps} from {folder.path}")
    elif aside := folder.set_aside():
        lines.append(f"starting at step 0: no state is left that continues; beside it lie {', '.join(aside)} in {folder.path}")
    elif difference := folder.difference():
        lines.append(f"starting anew, an earlier training differs: {difference}")
        if config.lr_decay != "constant" and "train.steps" in difference:
            lines.append(f"(lr_decay: {config.lr_decay} makes the learning rate depend on train.steps)")
    return lines


class Watcher(Protocol):
    """Who looks at a training while it runs, and changes nothing of it."""

    def due(self, step: int) -> bool:
        """Whether to look after `step` (0: before the first one). Asked after every step, so it must be quick."""

    def look(self, state: TrainState) -> None:
        """Look at `state` between two steps. What this raises ends the training."""


def run(
    state: TrainState,
    config: TrainConfig,
    folder: StateFolder,
    interrupts: Interrupts,
    images: Tensor,
    labels: Tensor | None,
    save_seconds: float,
    metadata: dict[str, Any],
    watcher: Watcher | None = None,
) -> None:
    """Train to the end, saving every `save_seconds` and when interrupted, which ends in SystemExit.

    The first process writes: states, and weights at config.kept_steps, with `metadata` in their headers. It alone lets
    `watcher` look, whose time does not count into that of the training. Raises Fault where the disk refuses or the gradients
    stay unusable; what was saved before stays good.
    """
    device, first = next(state.network.parameters()).device, distributed.rank() == 0
    started, seconds_before, begin = time.monotonic(), state.seconds, state.step
    saved_at = started
    # Processes must agree on when to end. On GPUs asking is waiting, so they ask rarely.
    ask_every = config.log_every if device.type == "cuda" and distributed.world_size() > 1 else 1

    def keep() -> None:
        if first and state.step in config.kept_steps:
            folder.keep(state.step, (state.network, state.ema.network), metadata)

    def save() -> None:
        nonlocal saved_at
        if first:
            state.history.check(state.step)
            state.seconds = seconds_before + time.monotonic() - started
            folder.save(state, protect=config.steps)
            saved_at = time.monotonic()

    def show() -> None:
        nonlocal started
        if first and watcher is not None and watcher.due(state.step):
            synchronize(device)  # what a GPU still computes is time of the training
            before = time.monotonic()
            watcher.look(state)
            started += time.monotonic() - before

    if not folder.is_kept(state.step):
        keep()  # a lost file's weights are the state's
    show()
    with progress_bar(total=config.steps, initial=begin, desc="train", unit="step", disable=not first) as bar:
        try:
            for step in train(state, images, config, labels):
                bar.update()
                if step % config.log_every == 0:
                    seconds = time.monotonic() - started
                    state.speed.append([step, seconds_before + seconds, peak_memory(device)])
                    rate = (step - begin) * config.batch_size / seconds
                    bar.set_postfix_str(f"loss {state.history.loss(step):.4f}, {rate:.0f} images/s", refresh=False)
                keep()
                show()  # before a state is saved: what looks is never behind it
                if step == config.steps or time.monotonic() - saved_at > save_seconds:
                    save()
                if step % ask_every == 0 and distributed.any_of(interrupts.pending() is not None, device):
                    save()
                    bar.close()
                    reason = interrupts.reason or "another process"
                    sys.exit(f"stopped by {reason} at step {step}: the state is saved, the same command continues")
        except RuntimeError:
            # Where another process is gone, the last step is not lost; one that broke off half-way must not be saved.
            if distributed.world_size() > 1 and state.whole:
                save()
            raise


def publish(state: TrainState, config: TrainConfig, folder: StateFolder, metadata: dict[str, Any], models: Path) -> None:
    """Replace the folder `models` by the kept weights, which sort by their names; the last average is ema.safetensors.
    Raises Fault where the disk refuses."""
    new, digits = _unfinished(models), max(6, len(str(state.step)))
    with disk_faults(models, weights_bytes(state.network) * 2 * len(config.kept_steps)):
        new.mkdir(parents=True)
        for step, kind in itertools.product(config.kept_steps, folder.KINDS):
            source = folder.kept_path(kind, step)  # of an earlier run, perhaps: the header is that of this one
            name = "ema.safetensors" if (kind, step) == ("ema", state.step) else f"{kind}-{step:0{digits}d}.safetensors"
            copy_weights(source, new / name, metadata | {"step": step, "kind": kind})
        shutil.rmtree(models, ignore_errors=True)
        os.replace(new, models)


def _unfinished(models: Path) -> Path:
    """Where the weights for `models` are gathered."""
    return models.with_name(models.name + ".new")
