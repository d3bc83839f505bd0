"""Train a recipe's network, resuming where an earlier run of the same settings stopped; keep raw and EMA weights.

Ctrl-C, SIGTERM, or the death of the `dvc` that started it: the state is saved, the exit status is not 0, and the same
command continues. FRESH=1 in the environment starts from nothing.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ddpm import data, diffusion, ema, precision, schedule, seeds, training, unet
from ddpm.checkpoint import CheckpointError, save_weights
from ddpm.config import TrainConfig
from ddpm.images import save_loss_curve
from ddpm.precision import resolve_precision
from ddpm.progress import progress_bar
from ddpm.states import StateFolder, code_fingerprint, state_key
from ddpm.timing import device_name, pick_device
from stages.common import ROOT, Fault, Paths, runtime, stage, write_json
from stages.packed import training_images

# The code that decides the trained weights. A change in it starts a training anew; comments and docstrings do not count.
CODE = [Path(str(module.__file__)) for module in (data, diffusion, ema, precision, schedule, seeds, training, unet)]


class Interrupts:
    """Notices that the run should end: SIGINT, SIGTERM, or, under DVC, the death of the parent."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._parent = os.getppid() if "DVC_STAGE" in os.environ else None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name

    def pending(self) -> str | None:
        if self.reason is None and self._parent is not None and os.getppid() != self._parent:
            self.reason = "the death of dvc"
        return self.reason


def main(paths: Paths) -> None:
    config, settings = paths.train_config(), runtime(paths.scale)
    array, facts = training_images(paths)
    device = pick_device(settings.device)
    folder = StateFolder(paths.work, state_key(config, facts["sha256"], code_fingerprint(CODE)))
    interrupts = Interrupts()
    # Under DVC a trainer whose dvc was killed may still be saving: give it a moment. By hand, refuse at once.
    folder.lock(wait_seconds=20 if "DVC_STAGE" in os.environ else 0)
    if os.environ.get("FRESH"):
        for old in [*folder.path.glob("state-*.pt"), *folder.path.glob("raw-*.safetensors")]:
            old.unlink()
    state = training.new_state(config, device)
    missing = [step for step in config.kept_steps if not folder.raw_path(step).exists()]
    for line in folder.restore(state, min([config.steps, *missing])):
        print(f"warning: {line}", file=sys.stderr)
    announce(paths, config, folder, state, device)
    metadata = {"config": config.model_dump(), "recipe": paths.recipe, "scale": paths.scale, "data": facts}
    run(state, config, folder, interrupts, data.load_images(array, device), settings.save_seconds, metadata)
    write_outputs(paths, config, folder, state, metadata, device)


def announce(paths: Paths, config: TrainConfig, folder: StateFolder, state: training.TrainState, device: torch.device) -> None:
    """Say what is about to happen, and why a training starts anew where there is an earlier one."""
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    arithmetic = resolve_precision(config.precision, device)
    print(f"{paths.recipe} ({paths.scale}): {parameters / 1e6:.2f} M parameters, {arithmetic} on {device_name(device)}")
    if state.step:
        print(f"resuming at step {state.step} of {config.steps} from {folder.path}")
    elif difference := folder.difference():
        print(f"starting anew, an earlier training differs: {difference}")
        if config.lr_decay != "constant" and "train.steps" in difference:
            print(f"(lr_decay: {config.lr_decay} makes the learning rate depend on train.steps)")


def run(
    state: training.TrainState,
    config: TrainConfig,
    folder: StateFolder,
    interrupts: Interrupts,
    images: torch.Tensor,
    save_seconds: float,
    metadata: dict[str, Any],
) -> None:
    """Train to the end, saving on the way; leaves with SystemExit when interrupted."""
    started, seconds_before, first, checked = time.monotonic(), state.seconds, state.step, state.step
    saved_at = time.monotonic()

    def save() -> None:
        nonlocal checked, saved_at
        training.check_finite(state, checked)
        checked = state.step
        state.seconds = seconds_before + time.monotonic() - started
        folder.save(state, protect=config.steps)
        saved_at = time.monotonic()

    with progress_bar(total=config.steps, initial=first, desc="train", unit="step") as bar:
        try:
            for step in training.train(state, images, config):
                bar.update()
                if step % config.log_every == 0:
                    loss = float(state.history[0, step - config.log_every : step].mean())
                    rate = (step - first) * config.batch_size / (time.monotonic() - started)
                    bar.set_postfix_str(f"loss {loss:.4f}, {rate:.0f} images/s", refresh=False)
                if step in config.kept_steps:
                    training.check_finite(state, checked)
                    save_weights(folder.raw_path(step), state.network, metadata | {"step": step, "kind": "raw"})
                if step == config.steps or time.monotonic() - saved_at > save_seconds:
                    save()
                if reason := interrupts.pending():
                    save()
                    bar.close()
                    sys.exit(f"stopped by {reason} at step {step}: the state is saved, the same command continues")
        except training.NonFiniteLoss as error:
            raise Fault(f"{error} The last good state is kept in {folder.path}.") from None


def write_outputs(
    paths: Paths,
    config: TrainConfig,
    folder: StateFolder,
    state: training.TrainState,
    metadata: dict[str, Any],
    device: torch.device,
) -> None:
    """Write the stage's outputs: weights, loss curve and metrics. The measured speed is no output: it never repeats."""
    new = paths.models.with_name(paths.models.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for step in config.kept_steps:
        shutil.copyfile(folder.raw_path(step), new / folder.raw_path(step).name)
    save_weights(new / "ema.safetensors", state.ema.network, metadata | {"step": state.step, "kind": "ema"})
    shutil.rmtree(paths.models, ignore_errors=True)
    os.replace(new, paths.models)

    rows = loss_rows(state.history.cpu(), config)
    paths.metrics.mkdir(parents=True, exist_ok=True)
    with (paths.metrics / "loss.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    save_loss_curve(paths.metrics / "loss.png", rows, f"{paths.recipe} ({paths.scale})")
    images_seen = config.steps * config.batch_size
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    write_json(
        paths.metrics / "train.json",
        {"loss": rows[-1]["loss"], "steps": config.steps, "images_seen": images_seen, "parameters": parameters},
    )
    write_json(
        paths.metrics / "speed.json",
        {
            "seconds": round(state.seconds, 1),
            "images_per_second": round(images_seen / state.seconds, 1),
            "device": device_name(device),
            "precision": resolve_precision(config.precision, device),
            "torch": torch.__version__,
        },
    )
    print(f"wrote {paths.models.relative_to(ROOT)} after {state.seconds / 60:.1f} minutes of training")


def loss_rows(history: torch.Tensor, config: TrainConfig) -> list[dict[str, float]]:
    """A row for every log_every steps: means of loss and gradient norm over them, and the learning rate at their end."""
    rows = []
    for end in [*range(config.log_every, config.steps, config.log_every), config.steps]:
        start = (end - 1) // config.log_every * config.log_every
        loss, grad_norm = history[:, start:end].double().mean(1).tolist()
        lr = training.lr_at(end - 1, config)
        rows.append({"step": end, "loss": round(loss, 6), "grad_norm": round(grad_norm, 6), "lr": float(f"{lr:.6g}")})
    return rows


if __name__ == "__main__":
    try:
        stage(main, __doc__)
    except CheckpointError as error:
        sys.exit(f"error: {error}")
