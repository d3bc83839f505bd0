"""Time each sampler on each device of this machine. What would take too long is timed over fewer steps and projected.

The measured seconds never repeat, so the files are no outputs of the stage (see dvc.yaml): git keeps them.
"""

from __future__ import annotations

import platform
from itertools import islice
from typing import Any

import torch

from ddpm.base.files import write_json
from ddpm.figures.curves import save_table
from ddpm.figures.settings import FiguresConfig
from ddpm.machine.device import device_name, measure_seconds, pick_device
from ddpm.sampling import Model, load
from ddpm.sampling.settings import Sampler
from stages import Paths, stage


def seconds(model: Model, sampler: Sampler, count: int, guidance: float, max_seconds: float) -> tuple[float, bool]:
    """Wall-clock seconds to draw `count` images in one batch, and whether they are projected from fewer steps."""

    def run(steps: int) -> None:
        for _ in islice(model.states(count, sampler, guidance=guidance), steps):
            pass

    run(1)  # warm-up: allocations, kernel choice
    every = len(sampler.grid(model.schedule)) - 1  # Heun makes two network calls a step
    few = min(3, every)
    estimate = measure_seconds(lambda: run(few), model.device) / few * every
    if estimate <= max_seconds:
        return measure_seconds(lambda: run(every), model.device), False
    steps = max(few, int(max_seconds / estimate * every))
    return measure_seconds(lambda: run(steps), model.device) / steps * every, True


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    own, drawing = figures.timing, figures.drawing
    choices = dict.fromkeys([*figures.samplers.compared, drawing.sampler])  # the recipe's own too, once
    samplers = [drawing.chosen(choice) for choice in choices]
    device = pick_device(paths.runtime().device)
    devices = [torch.device("cpu")] + ([device] if device.type == "cuda" else [])
    table: dict[str, dict[str, Any]] = {sampler.label: {"cuda": None} for sampler in samplers}
    for device in devices:
        model = load(paths.ema, str(device))
        for sampler in samplers:
            taken, projected = seconds(model, sampler, own.images, drawing.guidance, own.max_seconds)
            table[sampler.label] |= {device.type: round(taken, 2), f"{device.type}_projected": projected}
            print(f"{sampler.label} on {device.type}: {taken:.1f} s{' (projected)' if projected else ''}")
    write_json(paths.seconds / "draw.json", {"seconds": table[drawing.chosen().label][device.type]})
    machine = {device.type: device_name(device) for device in devices}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    write_json(paths.metrics / "timing.json", {"images": own.images, "seconds": table, "machine": machine | versions})
    rows = [[label, *(cell(row, device.type) for device in devices)] for label, row in table.items()]
    guided = "\nwith guidance, two passes a call" if model.classes and drawing.guidance not in (0, 1) else ""
    title = f"{paths.recipe} ({paths.scale}): seconds to draw {own.images} images in a batch{guided}"
    save_table(
        paths.metrics / "timing.png", ["sampler, network calls", *(machine[device.type] for device in devices)], rows, title
    )


def cell(row: dict[str, Any], device: str) -> str:
    """The seconds of a sampler on a device, for people; nothing where there are none."""
    if row.get(device) is None:
        return ""
    return f"{row[device]:.1f}" + (" (projected)" if row[f"{device}_projected"] else "")


if __name__ == "__main__":
    stage(main, __doc__)
