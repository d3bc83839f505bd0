"""Show the way from noise to images: strips, and animations of the right sampling beside document 004's wrong one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ddpm.base.files import write_csv
from ddpm.figures.pictures import save_gif, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from ddpm.sampling.drawing import watched
from stages import Paths, stage

ROWS, COLUMNS = 4, 10  # rows of the animations' grid, columns of the strip


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, own, model = figures.drawing, figures.path, load(paths.ema, paths.runtime().device)
    right = drawing.chosen()
    walks = []
    for sampler in (right, replace(right, method="wrong")):
        states = model.states(own.images, sampler, own.seed, guidance=drawing.guidance)
        walks.append(watched(states, len(sampler.grid(model.schedule)) - 1, sampler.label))
    walk, wrong_walk = walks
    per_row = own.images // ROWS
    save_gif(paths.metrics / "path.gif", [x_t for _, x_t, _ in walk], per_row)
    save_gif(paths.metrics / "path-wrong.gif", [x_t for _, x_t, _ in wrong_walk], per_row)
    columns = min(COLUMNS, len(walk))
    chosen = [walk[round(i * (len(walk) - 1) / max(1, columns - 1))] for i in range(columns)]
    strip = []
    for image in range(2):
        strip.append((f"x_t, image {image}", np.stack([x_t[image] for _, x_t, _ in chosen])))
        strip.append((f"x0_hat, image {image}", np.stack([x0_hat[image] for _, _, x0_hat in chosen])))
    save_labelled_rows(paths.metrics / "path.png", strip, columns=[f"t = {t}" for t, _, _ in chosen])
    # Image by image, right above wrong: the same noise at the start.
    pairs = [(right.label, walk[-1][1][:per_row]), ("the wrong one:\nno noise\nadded back", wrong_walk[-1][1][:per_row])]
    save_labelled_rows(paths.metrics / "wrong.png", pairs)
    # The spread of x0_hat: the wrong sampler's images lose the data's variety, they are smoother and closer to an average.
    spreads = [
        (t, float((x0_hat / 255).std()), float((wrong / 255).std()))
        for (t, _, x0_hat), (_, _, wrong) in zip(*walks, strict=True)
    ]
    rows = [
        {"t": t, "std": round(std, 4), "wrong_std": round(wrong, 4), "lost": round(1 - wrong / std, 4)}
        for t, std, wrong in spreads
    ]
    write_csv(paths.metrics / "path.csv", rows)


if __name__ == "__main__":
    stage(main, __doc__)
