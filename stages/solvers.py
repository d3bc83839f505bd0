"""Measure how far each sampler gets in few network calls: its distance to a long solution of the same ODE, same noise.

DDPM is shown for comparison: it adds noise of its own, so it comes to other images, however many its steps.
"""

from __future__ import annotations

import numpy as np

from ddpm.base.files import write_csv
from ddpm.figures.curves import save_curves
from ddpm.figures.pictures import Row, rms_distance, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from ddpm.sampling.samplers import METHODS
from ddpm.sampling.settings import SPACINGS, Sampler
from stages import Paths, stage

FINER, LONGEST = 10, 1000  # calls of the long solution: so many times those of the longest one compared, or so many


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, own, model = figures.drawing, figures.solvers, load(paths.ema, paths.runtime().device)

    def draw(sampler: Sampler) -> np.ndarray:
        return model.sample(drawing.per_row, sampler, own.seed, **drawing.options)

    reference = Sampler("dpm_solver_pp", min(FINER * max(own.steps), LONGEST, model.config.num_timesteps))
    truth = draw(reference)
    few = own.steps[len(own.steps) // 4]
    table, rows = (
        [],
        [Row(f"{METHODS[reference.method].label}\n{reference.num_steps} calls", truth, drawing.asked(model.classes))],
    )
    panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {f"{spacing} steps": {} for spacing in SPACINGS}
    for name, method in METHODS.items():
        if not method.order:  # wrong on purpose
            continue
        for spacing in SPACINGS:
            images = {steps: draw(Sampler(name, steps, spacing=spacing)) for steps in own.steps}
            distances = [rms_distance(drawn, truth) for drawn in images.values()]
            panels[f"{spacing} steps"][method.label] = own.steps, distances
            row = {"sampler": method.label, "spacing": spacing}
            table += [
                row | {"calls": calls, "distance": distance} for calls, distance in zip(own.steps, distances, strict=True)
            ]
            rows.append(Row(f"{method.label}\n{spacing}\n({rms_distance(images[few], truth):.3f})", images[few]))
    of_model = f"{paths.recipe} ({paths.scale})"
    guided = f", guidance {drawing.guidance:g}" if model.classes else ""
    spacings = f"{', '.join(SPACINGS[:-1])} and {SPACINGS[-1]}"
    title = (
        f"{of_model}: {few} network calls with {spacings} steps, below a long solution; EMA weights of step {model.step:,}, "
        f"the same first noise of seed {own.seed}{guided}. In brackets the distance to the long solution, where 1 = full range"
    )
    save_labelled_rows(paths.metrics / "solvers-images.png", rows, title)
    save_curves(
        paths.metrics / "solvers.png",
        panels,
        xlabel="network calls",
        ylabel=f"RMS distance to {reference.label}",
        title=f"{of_model}, step {model.step:,}: {drawing.per_row} images of seed {own.seed}{guided}; distance 1 = full range",
        ticks=own.steps,
    )
    write_csv(paths.metrics / "solvers.csv", table)


if __name__ == "__main__":
    stage(main, __doc__)
