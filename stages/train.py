"""Train a recipe's network, resuming where an earlier run of the same settings stopped; keep raw and EMA weights.

Ctrl-C, SIGTERM, or the death of the `dvc` or the stage that started it: the state is saved, the exit status is not 0,
and the same command continues. FRESH=1 in the environment starts from nothing. runtime.launcher, or torchrun by hand,
shares each batch over several processes; only the first one writes.
"""

from __future__ import annotations

import contextlib
import os
import sys

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from ddpm.base.faults import Fault
from ddpm.base.files import write_csv, write_json
from ddpm.base.hashes import sha256_of
from ddpm.machine import distributed
from ddpm.machine.device import device_name, pick_device
from ddpm.machine.memory import keep_freed_memory
from ddpm.machine.precision import resolve_precision
from ddpm.model.unet import build_network
from ddpm.training.batches import load_images
from ddpm.training.fingerprint import code_fingerprint
from ddpm.training.history import speed_rows
from ddpm.training.loop import TrainState, new_state
from ddpm.training.session import check_processes, opening_lines, publish, resume, run
from ddpm.training.settings import TrainConfig, in_steps
from ddpm.training.states import StateFolder, state_key
from ddpm.training.stop import Interrupts
from stages import ROOT, Paths, RuntimeConfig, shown, stage
from stages.packed import training_images, training_labels
from stages.window import Window, check_tensorboard, warn


@record  # torchrun repeats the traceback of the process that failed
def main(paths: Paths) -> None:
    settings, interrupts, fresh = paths.runtime(), Interrupts(), fresh_start()
    if settings.tensorboard:
        check_tensorboard()
    if settings.launcher and not distributed.launched():
        command = ["-m", "stages.train", paths.recipe, "--scale", paths.scale]
        if status := distributed.launch(settings.launcher, command, ROOT, interrupts.pending):
            sys.exit(max(status, 1))
        return
    device = pick_device(settings.device, distributed.local_rank())
    with distributed.process_group(device):
        train(paths, settings, device, interrupts, fresh)


def fresh_start() -> bool:
    """Whether FRESH in the environment asks to remove what this training saved before. Raises Fault."""
    written = os.environ.get("FRESH", "0")
    if written not in ("0", "1", ""):
        raise Fault(f"FRESH = {written!r} in the environment; accepted: 1, which removes all saved states, or 0")
    return written == "1"


def train(paths: Paths, settings: RuntimeConfig, device: torch.device, interrupts: Interrupts, fresh: bool) -> None:
    """The work of one process, of which the first one holds the state and writes."""
    keep_freed_memory()
    if distributed.local_rank() == 0:
        training_images(paths), training_labels(paths)  # packs missing arrays, on each machine once
    distributed.barrier()
    array, facts = training_images(paths)
    config = paths.checked("train", TrainConfig, in_steps(paths.resolved("train"), len(array)))
    check_processes(config)
    images, labels, classes, data = load_images(array, device), None, [], facts["sha256"]
    if config.context_dim:
        labels = torch.from_numpy(training_labels(paths)).long().to(device)
        classes, data = paths.resolved("data")["classes"], data + facts["labels_sha256"]
    code = code_fingerprint()
    metadata = {
        "config": config.model_dump(), "recipe": paths.recipe, "scale": paths.scale,
        "data": facts, "classes": classes, "code": code,
    }  # fmt: skip
    folder, under_dvc = StateFolder(paths.work, state_key(config, data, code)), "DVC_STAGE" in os.environ
    state, first = new_state(config, device, in_channels=images.shape[-1]), distributed.rank() == 0
    if first:
        # Under DVC a trainer whose dvc was killed may still be saving: give it a moment. By hand, refuse at once.
        folder.lock(wait_seconds=20 if under_dvc else 0)
        for line in resume(state, config, folder, paths.models, fresh=fresh):
            warn(line)
        lines = opening_lines(f"{paths.recipe} ({paths.scale})", state, config, folder)
        lines += folder.check_room(state, config, paths.models, copies=2 if under_dvc else 1)
        print(*lines, sep="\n", flush=True)
    if distributed.world_size() > 1:
        state.load_state_dict(distributed.from_first(state.state_dict(), device))
    window = Window(paths, settings, config, folder, metadata, state.step) if first else None
    with contextlib.closing(window) if window else contextlib.nullcontext():
        run(state, config, folder, interrupts, images, labels, settings.save_seconds, metadata, window)
    if first:
        if unmoved(state, config):
            warn("no weight differs from its start in the precision of checkpoints: train.lr or train.grad_clip is too small")
        publish(state, config, folder, metadata, paths.models)
        report(paths, config, state, device)


def unmoved(state: TrainState, config: TrainConfig) -> bool:
    """Whether all weights, as checkpoints store them, are still those of before the first step."""
    start = build_network(config, config.seed, state.network.stem.in_channels).parameters()
    return all(
        torch.equal(now.cpu().half(), before.half()) for now, before in zip(state.network.parameters(), start, strict=True)
    )


def report(paths: Paths, config: TrainConfig, state: TrainState, device: torch.device) -> None:
    """Write the loss and the metrics. The measured times are no outputs: they never repeat."""
    rows = state.history.rows()
    write_csv(paths.metrics / "loss.csv", rows)
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    write_json(paths.metrics / "train.json", {"loss": rows[-1]["loss"], "parameters": parameters})

    seconds, images_seen = round(state.seconds, 1), config.steps * config.batch_size
    write_json(paths.seconds / "train.json", {"seconds": seconds})
    speed = {
        "weights_sha256": sha256_of(paths.ema),  # whose time this is: a restored training has other weights
        "seconds": seconds,
        "images_per_second": round(images_seen / state.seconds, 1),
        "steps": config.steps,
        "images_seen": images_seen,
        "device": device_name(device),
        "precision": resolve_precision(config.precision, device),
        "processes": distributed.world_size(),
        "torch": torch.__version__,
    }
    write_json(paths.metrics / "speed.json", speed)
    write_csv(paths.metrics / "speed.csv", speed_rows(state.speed, config.batch_size))
    print(f"wrote {shown(paths.models)} after {state.seconds / 60:.1f} minutes of training")


if __name__ == "__main__":
    stage(main, __doc__)
