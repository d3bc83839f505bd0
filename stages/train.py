"""Train a recipe's network, resuming where an earlier run of the same settings stopped; keep raw and EMA weights.

Ctrl-C, SIGTERM, or the death of the `dvc` that started it: the state is saved, the exit status is not 0, and the same
command continues. FRESH=1 in the environment starts from nothing. runtime.launcher, or torchrun by hand, shares each
batch over several processes; only the first one writes.
"""

from __future__ import annotations

import csv
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from ddpm import compilation, data, diffusion, distributed, ema, precision, schedule, seeds, training, unet
from ddpm.checkpoint import CheckpointError, disk_faults, save_weights
from ddpm.config import TrainConfig, TrainSettings
from ddpm.images import save_loss_curve
from ddpm.memory import keep_freed_memory
from ddpm.precision import resolve_precision
from ddpm.progress import progress_bar
from ddpm.states import StateFolder, code_fingerprint, state_key, weights_bytes
from ddpm.timing import device_name, pick_device
from stages.common import ROOT, Fault, Paths, runtime, stage, write_json
from stages.packed import training_images, training_labels

# The code that decides the trained weights. A change in it starts a training anew; comments and docstrings do not count.
MODULES = (compilation, data, diffusion, distributed, ema, precision, schedule, seeds, training, unet)
CODE = [Path(str(module.__file__)) for module in MODULES]


class Interrupts:
    """Notices that the run should end: SIGINT, SIGTERM, or, under DVC, the death of the parent."""

    def __init__(self) -> None:
        self.reason: str | None = None
        # Under torchrun the parent is torchrun; the process that started it watches over dvc.
        self._parent = os.getppid() if "DVC_STAGE" in os.environ and not distributed.launched() else None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name

    def pending(self) -> str | None:
        if self.reason is None and self._parent is not None and os.getppid() != self._parent:
            self.reason = "the death of dvc"
        return self.reason


@record  # torchrun repeats the traceback of the process that failed
def main(paths: Paths) -> None:
    asked, settings = paths.train_config(), runtime(paths.scale)
    interrupts = Interrupts()
    if settings.launcher is not None and not distributed.launched():
        launch(settings.launcher, paths, interrupts)
        return
    device = pick_device(settings.device, distributed.local_rank())
    with distributed.process_group(device):
        if asked.batch_size < distributed.world_size():
            raise Fault(
                f"train.batch_size = {asked.batch_size} cannot be shared by {distributed.world_size()} processes; "
                f"accepted: {distributed.world_size()} or more"
            )
        if asked.norm == "batch" and distributed.world_size() > 1:
            raise Fault(
                f"train.norm = batch with {distributed.world_size()} processes, each of which would take the statistics of "
                "its own images; accepted: one process, or train.norm = group"
            )
        train(paths, asked, settings.save_seconds, device, interrupts)


def launch(launcher: str, paths: Paths, interrupts: Interrupts) -> None:
    """Run this stage in the processes that `launcher` starts, and pass an interruption on to it."""
    command = [*shlex.split(launcher), "-m", "stages.train", paths.recipe, "--scale", paths.scale]
    try:
        # A session of its own: Ctrl-C reaches this process only, which then asks the launcher once, and waits for it.
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    except OSError as error:
        raise Fault(
            f"runtime.launcher = {launcher!r}: {error}; accepted: null, or the start of a command such as "
            "torchrun --nproc-per-node=2"
        ) from None
    told = False
    while (status := process.poll()) is None:
        if interrupts.pending() and not told:
            process.terminate()
            told = True
        time.sleep(0.1)
    if status:
        sys.exit(status if status > 0 else 1)


def train(paths: Paths, asked: TrainSettings, save_seconds: float, device: torch.device, interrupts: Interrupts) -> None:
    """The work of one process, of which the first one holds the state and writes."""
    first = distributed.rank() == 0
    keep_freed_memory()
    if distributed.local_rank() == 0:
        training_labels(paths)  # packs missing arrays, images' too, on each machine once
    distributed.barrier()
    array, facts = training_images(paths)
    config = asked.in_steps(len(array))
    images, labels, sha256 = data.load_images(array, device), None, facts["sha256"]
    if config.context_dim:
        labels = torch.from_numpy(training_labels(paths)).long().to(device)
        sha256 += facts["labels_sha256"]
    folder = StateFolder(paths.work, state_key(config, sha256, code_fingerprint(CODE)))
    if first:
        # Under DVC a trainer whose dvc was killed may still be saving: give it a moment. By hand, refuse at once.
        folder.lock(wait_seconds=20 if "DVC_STAGE" in os.environ else 0)
    state = training.new_state(config, device, in_channels=images.shape[-1])
    metadata = {"config": config.model_dump(), "recipe": paths.recipe, "scale": paths.scale, "data": facts}
    if first:
        shutil.rmtree(unfinished(paths), ignore_errors=True)
        warnings = folder.clear() if os.environ.get("FRESH") else []
        warnings += folder.check_raws(config)
        missing = [step for step in config.kept_steps if not folder.raw_path(step).exists()]
        warnings += folder.restore(state, min([config.steps, *missing]))
        for line in warnings:
            print(f"warning: {line}", file=sys.stderr)
        announce(paths, config, folder, state, device)
        for line in folder.check_room(state, config, paths.models, copies=2 if "DVC_STAGE" in os.environ else 1):
            print(line, flush=True)
        if state.step in missing:  # its weights are the state's
            folder.save_raw(state.step, state.network, metadata | {"step": state.step, "kind": "raw"})
    if distributed.world_size() > 1:
        state.load_state_dict(distributed.from_first(state.state_dict()))
    run(state, config, folder, interrupts, images, save_seconds, metadata, labels)
    if first:
        with disk_faults(paths.models, weights_bytes(state.network) * (len(config.kept_steps) + 1)):
            write_outputs(paths, config, folder, state, metadata, device)


def announce(paths: Paths, config: TrainConfig, folder: StateFolder, state: training.TrainState, device: torch.device) -> None:
    """Say what is about to happen, and why a training starts anew where there is an earlier one."""
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    arithmetic = resolve_precision(config.precision, device)
    shared = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    print(f"{paths.recipe} ({paths.scale}): {parameters / 1e6:.2f} M parameters, {arithmetic} on {device_name(device)}{shared}")
    if state.step:
        print(f"resuming at step {state.step} of {config.steps} from {folder.path}")
    elif difference := folder.difference():
        print(f"starting anew, an earlier training differs: {difference}")
        if config.lr_decay != "constant" and "train.steps" in difference:
            print(f"(lr_decay: {config.lr_decay} makes the learning rate depend on train.steps)")
    sys.stdout.flush()


def run(
    state: training.TrainState,
    config: TrainConfig,
    folder: StateFolder,
    interrupts: Interrupts,
    images: torch.Tensor,
    save_seconds: float,
    metadata: dict[str, Any],
    labels: torch.Tensor | None = None,
) -> None:
    """Train to the end, saving on the way; leaves with SystemExit when interrupted."""
    device, first = state.history.device, distributed.rank() == 0
    started, seconds_before, begin = time.monotonic(), state.seconds, state.step
    saved_at = time.monotonic()
    # Processes must agree on when to end. On GPUs asking is waiting, so they ask rarely.
    ask_every = config.log_every if device.type == "cuda" and distributed.world_size() > 1 else 1

    def save() -> None:
        nonlocal saved_at
        if first:
            training.check_gradients(state)
            state.seconds = seconds_before + time.monotonic() - started
            folder.save(state, protect=config.steps)
            saved_at = time.monotonic()

    with progress_bar(total=config.steps, initial=begin, desc="train", unit="step", disable=not first) as bar:
        try:
            for step in training.train(state, images, config, labels):
                bar.update()
                if step % config.log_every == 0:
                    seconds = time.monotonic() - started
                    state.speed.append([step, seconds_before + seconds, peak_memory(device)])
                    last = state.history[:, step // config.log_every - 1]
                    loss = float(last[training.LOSS] / last[training.STEPS])
                    rate = (step - begin) * config.batch_size / seconds
                    bar.set_postfix_str(f"loss {loss:.4f}, {rate:.0f} images/s", refresh=False)
                if first and step in config.kept_steps:
                    folder.save_raw(step, state.network, metadata | {"step": step, "kind": "raw"})
                if step == config.steps or time.monotonic() - saved_at > save_seconds:
                    save()
                if step % ask_every == 0 and distributed.any_of(interrupts.pending() is not None, device):
                    save()
                    bar.close()
                    reason = interrupts.reason or "another process"
                    sys.exit(f"stopped by {reason} at step {step}: the state is saved, the same command continues")
        except training.NonFiniteGradient as error:
            raise Fault(f"{error} The last good state is kept in {folder.path}.") from None
        except CheckpointError:
            raise
        except RuntimeError:
            if distributed.world_size() > 1:  # another process is gone, and this one's last whole step is not lost
                save()
            raise


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU, the most its tensors ever took; on a CPU, the most this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def unfinished(paths: Paths) -> Path:
    """Where the weights to publish are gathered."""
    return paths.models.with_name(paths.models.name + ".new")


def write_outputs(
    paths: Paths,
    config: TrainConfig,
    folder: StateFolder,
    state: training.TrainState,
    metadata: dict[str, Any],
    device: torch.device,
) -> None:
    """Write the stage's outputs: weights, loss curve and metrics. The measured speed is no output: it never repeats."""
    new = unfinished(paths)
    new.mkdir(parents=True)
    for step in config.kept_steps:
        shutil.copyfile(folder.raw_path(step), new / folder.raw_path(step).name)
    save_weights(new / "ema.safetensors", state.ema.network, metadata | {"step": state.step, "kind": "ema"})
    shutil.rmtree(paths.models, ignore_errors=True)
    os.replace(new, paths.models)

    rows = loss_rows(state.history.cpu(), config)
    paths.metrics.mkdir(parents=True, exist_ok=True)
    write_csv(paths.metrics / "loss.csv", rows)
    write_csv(paths.metrics / "speed.csv", speed_rows(state.speed, config))
    save_loss_curve(paths.metrics / "loss.png", rows, f"{paths.recipe} ({paths.scale})")
    images_seen = config.steps * config.batch_size
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    write_json(
        paths.metrics / "train.json",
        {
            "loss": rows[-1]["loss"],
            "steps": config.steps,
            "skipped": sum(row["skipped"] for row in rows),
            "images_seen": images_seen,
            "parameters": parameters,
        },
    )
    write_json(
        paths.metrics / "speed.json",
        {
            "seconds": round(state.seconds, 1),
            "images_per_second": round(images_seen / state.seconds, 1),
            "device": device_name(device),
            "precision": resolve_precision(config.precision, device),
            "processes": distributed.world_size(),
            "torch": torch.__version__,
        },
    )
    print(f"wrote {paths.models.relative_to(ROOT)} after {state.seconds / 60:.1f} minutes of training")


def loss_rows(history: torch.Tensor, config: TrainConfig) -> list[dict[str, Any]]:
    """A row for every log_every steps: means over them of the loss, of the loss of images whose t fell in each quarter
    of 1..T (loss_q1: the least noise), and of the gradient's norm; the learning rate at their end; the skipped steps.
    A mean over nothing is None.
    """
    rows = []
    for interval, sums in enumerate(history.double().T.tolist()):
        end = min((interval + 1) * config.log_every, config.steps)
        steps = sums[training.STEPS]
        quarters = zip(sums[training.QUARTER_LOSS], sums[training.QUARTER_COUNT], strict=True)
        means = {"loss": _mean(sums[training.LOSS], steps)}
        means |= {f"loss_q{number}": _mean(*quarter) for number, quarter in enumerate(quarters, 1)}
        means |= {"grad_norm": _mean(sums[training.GRAD_NORM], steps)}
        lr = float(f"{training.lr_at(end - 1, config):.6g}")
        rows.append({"step": end, **means, "lr": lr, "skipped": int(sums[training.SKIPPED])})
    return rows


def _mean(total: float, count: float) -> float | None:
    return round(total / count, 6) if count else None


def speed_rows(speed: list[list[float]], config: TrainConfig) -> list[dict[str, float]]:
    """A row for every log_every steps: images a second over them, and the peak memory so far in MB (10**6 bytes)."""
    return [
        {
            "step": int(step),
            "images_per_second": round((step - step_before) * config.batch_size / (seconds - seconds_before), 1),
            "peak_memory_mb": round(memory / 1e6, 1),
        }
        for (step_before, seconds_before, _), (step, seconds, memory) in pairwise([[0, 0.0, 0], *speed])
    ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys() if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    try:
        stage(main, __doc__)
    except CheckpointError as error:
        sys.exit(f"error: {error}")
