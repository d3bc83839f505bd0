"""Time each sampler on each device of this machine. What would take too long is timed over fewer steps and projected.

The measured seconds never repeat, so the files are no outputs of the stage (see dvc.yaml): git keeps them.
"""

from __future__ import annotations

import platform
from itertools import islice

import torch

from ddpm.images import save_table
from ddpm.timing import device_name, measure_seconds, pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import Checkpoint, Sampler, compared_samplers, ema_checkpoint


def seconds(checkpoint: Checkpoint, sampler: Sampler, count: int, max_seconds: float) -> tuple[float, bool]:
    """Wall-clock seconds to draw `count` images in one batch, and whether they are projected from fewer steps."""

    def run(steps: int) -> None:
        for _ in islice(checkpoint.states(sampler, 0, range(count)), steps):
            pass

    run(1)  # warm-up: allocations, kernel choice
    few = min(3, sampler.num_steps)
    estimate = measure_seconds(lambda: run(few), checkpoint.device) / few * sampler.num_steps
    if estimate <= max_seconds:
        return measure_seconds(lambda: run(sampler.num_steps), checkpoint.device), False
    steps = max(few, int(max_seconds / estimate * sampler.num_steps))
    return measure_seconds(lambda: run(steps), checkpoint.device) / steps * sampler.num_steps, True


def main(paths: Paths) -> None:
    figures = paths.figures_config()
    count = figures.timing_images
    device = pick_device(runtime(paths.scale).device)
    devices = [torch.device("cpu")] + ([device] if device.type == "cuda" else [])
    table: dict[str, dict[str, object]] = {sampler.label: {"cuda": None} for sampler in compared_samplers(figures)}
    for device in devices:
        checkpoint = Checkpoint(ema_checkpoint(paths), device)
        for sampler in compared_samplers(figures):
            taken, projected = seconds(checkpoint, sampler, count, figures.timing_max_seconds)
            table[sampler.label] |= {device.type: round(taken, 2), f"{device.type}_projected": projected}
            print(f"{sampler.label} on {device.type}: {taken:.1f} s{' (projected)' if projected else ''}")
    machine = {device.type: device_name(device) for device in devices} | {
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_json(paths.metrics / "timing.json", {"images": count, "seconds": table, "machine": machine})
    rows = [[label, _cell(row, "cpu"), _cell(row, "cuda")] for label, row in table.items()]
    title = f"{paths.recipe} ({paths.scale}): seconds for {count} images"
    save_table(paths.metrics / "timing.png", ["sampler", "CPU", "CUDA"], rows, title)


def _cell(row: dict[str, object], device: str) -> str:
    if row.get(device) is None:
        return ""
    return f"{row[device]:.1f}" + (" (projected)" if row[f"{device}_projected"] else "")


if __name__ == "__main__":
    stage(main, __doc__)
