"""Show the way from noise to images: strips, and animations of the right sampling beside document 004's wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ddpm.images import normalised, save_gif, save_labelled_rows, to_uint8
from ddpm.progress import progress_bar
from ddpm.samplers import SampleState
from ddpm.timing import pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import Checkpoint, Condition, Sampler, chosen_sampler, ema_checkpoint

FRAMES, ROWS, COLUMNS = 24, 4, 10  # frames of an animation, rows of its grid, columns of the strip


Shown = tuple[int, np.ndarray, np.ndarray]  # t, and x_t and x0_hat as uint8 (N, H, W, C)


def watched(states: Iterable[SampleState], steps: int, label: str) -> list[Shown]:
    """About FRAMES of the `steps` states of a sampling, evenly spaced, the first and the last among them."""
    shown = {round(i * (steps - 1) / (FRAMES - 1)) for i in range(FRAMES)}
    found = []
    with progress_bar(total=steps, desc=label, unit="step") as bar:
        for number, state in enumerate(states):
            bar.update()
            if number in shown:
                # Between noise and image the range changes from step to step; the image itself is shown as it is.
                x_t = to_uint8(state.x_t) if state.t == 0 else normalised(state.x_t)
                found.append((state.t, x_t, to_uint8(state.x0_hat)))
    return found


def walk(checkpoint: Checkpoint, sampler: Sampler, seed: int, count: int, condition: Condition) -> list[Shown]:
    """The sampling of the images 0..count-1 of `seed`, watched."""
    steps = len(sampler.grid(checkpoint.schedule)) - 1
    return watched(checkpoint.states(sampler, seed, range(count), condition), steps, sampler.label)


def main(paths: Paths) -> None:
    figures, device = paths.figures_config(), pick_device(runtime(paths.scale).device)
    checkpoint, right = Checkpoint(ema_checkpoint(paths), device), chosen_sampler(figures)
    wrong = replace(right, method="wrong")
    count, seed = figures.path_images, figures.grid_seed
    condition = checkpoint.in_turn(count, figures.guidance)
    states = walk(checkpoint, right, seed, count, condition)
    wrong_states = walk(checkpoint, wrong, seed, count, condition)
    per_row = count // ROWS
    save_gif(paths.metrics / "path.gif", [x_t for _, x_t, _ in states], per_row)
    save_gif(paths.metrics / "path-wrong.gif", [x_t for _, x_t, _ in wrong_states], per_row)
    columns = min(COLUMNS, len(states))
    chosen = [states[round(i * (len(states) - 1) / max(1, columns - 1))] for i in range(columns)]
    strip = []
    for image in range(min(2, count)):
        strip.append((f"x_t, image {image}", np.stack([x_t[image] for _, x_t, _ in chosen])))
        strip.append((f"x0_hat, image {image}", np.stack([x0_hat[image] for _, _, x0_hat in chosen])))
    save_labelled_rows(paths.metrics / "path.png", strip, columns=[f"t = {t}" for t, _, _ in chosen])
    # Image by image, right above wrong: the same noise at the start.
    final, wrong_final = states[-1][1], wrong_states[-1][1]
    pairs = [(right.label, final[:per_row]), ("the wrong one:\nno noise\nadded back", wrong_final[:per_row])]
    save_labelled_rows(paths.metrics / "wrong.png", pairs)
    write_json(
        paths.metrics / "path.json",
        {
            "step": checkpoint.step,
            "sampler": right.label,
            "data_std": [round(value, 4) for value in checkpoint.metadata["data"]["std"]],
            # The wrong sampler loses the data's variety: its images are smoother and closer to an average.
            "std": _std(final),
            "wrong_std": _std(wrong_final),
        },
    )


def _std(images: np.ndarray) -> list[float]:
    """Of each channel in 0..1, over all pixels of all images."""
    return [round(float(value), 4) for value in (images / 255).std((0, 1, 2))]


if __name__ == "__main__":
    stage(main, __doc__)
