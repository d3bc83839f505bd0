"""Show the way from noise to images: strips, and animations of the right sampling beside document 004's wrong one.

A conditional model draws one class: what the wrong sampler loses is the variety within it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ddpm.base.files import write_csv
from ddpm.base.progress import progress_bar
from ddpm.figures.pictures import Row, save_gif, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.model.pixels import to_uint8
from ddpm.model.schedule import NoiseSchedule
from ddpm.sampling import Model, load
from ddpm.sampling.settings import Sampler
from stages import Paths, stage

ROWS, COLUMNS = 4, 10  # rows of the animations' grid, columns of the strip
FRAMES = 20  # of an animation
REACH = 2.5  # standard deviations of noise between gray and black or white


class Frame(NamedTuple):
    """A state of a sampling at step `t`, uint8 (N, H, W, C)."""

    t: int
    x_t: np.ndarray
    x0_hat: np.ndarray


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, own, model = figures.drawing, figures.path, load(paths.ema, paths.runtime().device)
    right = drawing.chosen()
    shown = model.classes[:1]
    walk, wrong_walk = (
        frames_of(model, sampler, own.images, own.seed, drawing.guidance) for sampler in (right, replace(right, method="wrong"))
    )
    per_row, whose = own.images // ROWS, f"{paths.recipe} ({paths.scale}){''.join(f', {name}' for name in shown)}"
    how = f"EMA weights of step {model.step:,}, {drawing.told(own.seed, model.classes)}"
    wrong = f"{right.label} without its noise"
    times = [f"t = {frame.t}" for frame in walk]
    for name, frames, label in (("path.gif", walk, right.label), ("path-wrong.gif", wrong_walk, f"WRONG: {wrong}")):
        title = f"{whose}, step {model.step:,}, seed {own.seed}: {label}"
        save_gif(paths.metrics / name, [frame.x_t for frame in frames], per_row, title, times)

    columns = min(COLUMNS, len(walk))
    chosen = [walk[round(i * (len(walk) - 1) / max(1, columns - 1))] for i in range(columns)]
    strip = []
    for image in range(2):
        captions = [f"t = {frame.t}" for frame in chosen] if image == 0 else ()
        strip.append(Row(f"x_t,\nimage {image}", np.stack([frame.x_t[image] for frame in chosen]), captions))
        strip.append(Row(f"x0_hat,\nimage {image}", np.stack([frame.x0_hat[image] for frame in chosen])))
    title = f"{whose}: noisy images x_t, and what the network takes for the image in them, x0_hat; {how}"
    save_labelled_rows(paths.metrics / "path.png", strip, title)

    spreads = [(right.t, spread(right.x0_hat), spread(wrong.x0_hat)) for right, wrong in zip(walk, wrong_walk, strict=True)]
    rows = [
        {"t": t, "spread": round(good, 4), "wrong_spread": round(bad, 4), "lost": round(1 - bad / good, 4)}
        for t, good, bad in spreads
    ]
    write_csv(paths.metrics / "path.csv", rows)
    # Image by image, right above wrong: the same noise at the start.
    pairs = [
        Row(f"{right.label}\nspread {rows[-1]['spread']:.3f}", walk[-1].x_t[:per_row]),
        Row(f"no noise\nadded back\nspread {rows[-1]['wrong_spread']:.3f}", wrong_walk[-1].x_t[:per_row]),
    ]
    title = (
        f"{whose}: right above wrong, from the same first noise; {how}. Spread: how far a pixel's values lie apart in "
        f"{own.images} images, deviation of 0..1"
    )
    save_labelled_rows(paths.metrics / "wrong.png", pairs, title)


def frames_of(model: Model, sampler: Sampler, images: int, seed: int, guidance: float) -> list[Frame]:
    """At most FRAMES states of a sampling, the first and the last among them, evenly spaced in the share of noise: evenly
    spaced in t, the first third would be noise in which nobody sees an image."""
    steps = sampler.grid(model.schedule)[1:]
    wanted = evenly([noise_share(model.schedule, t) for t in steps], FRAMES)
    classes = [0] if model.classes else None
    found = []
    with progress_bar(total=len(steps), desc=sampler.label, unit="step") as bar:
        for number, state in enumerate(model.states(images, sampler, seed, classes, guidance)):
            bar.update()
            if number in wanted:
                # One rule for all steps, so that nothing jumps: gray is 0, and the range shrinks with the noise to [-1, 1].
                share = noise_share(model.schedule, state.t)
                reach = (1 - share**2 + (REACH * share) ** 2) ** 0.5
                found.append(Frame(state.t, to_uint8(state.x_t / reach), to_uint8(state.x0_hat)))
    return found


def noise_share(schedule: NoiseSchedule, t: int) -> float:
    """The standard deviation of the noise in x_t, sqrt(1 - alpha_bar)."""
    return float(1 - schedule.alpha_bar[t]) ** 0.5


def evenly(values: list[float], count: int) -> set[int]:
    """The places among falling `values` of those nearest to `count` evenly spaced ones, the first and last among them."""
    wanted = np.linspace(values[0], values[-1], count)
    return {int(np.abs(np.array(values) - value).argmin()) for value in wanted}


def spread(images: np.ndarray) -> float:
    """How far images (N, H, W, C) differ: each pixel's standard deviation over them, of 0..1, averaged."""
    return float((images / 255).std(0).mean())


if __name__ == "__main__":
    stage(main, __doc__)
