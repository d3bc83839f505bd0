"""Measure how far each sampler gets in few network calls: its distance to a long solution of the same ODE, same noise.

DDPM is shown for comparison: it adds noise of its own, so it comes to other images, however many its steps.
"""

import numpy as np

from ddpm.config import METHODS
from ddpm.images import save_curves, save_labelled_rows
from ddpm.schedule import Spacing
from ddpm.timing import pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import LABELS, Checkpoint, Sampler, ema_checkpoint, rms_distance

REFERENCE_STEPS = 1000  # of DPM-Solver++, or all T where there are fewer
SPACINGS: tuple[Spacing, ...] = ("uniform", "quadratic")


def main(paths: Paths) -> None:
    figures, device = paths.figures_config(), pick_device(runtime(paths.scale).device)
    checkpoint, count = Checkpoint(ema_checkpoint(paths), device), figures.images_per_row
    condition = checkpoint.in_turn(count, figures.guidance)

    def draw(sampler: Sampler) -> np.ndarray:
        return checkpoint.draw(sampler, figures.samplers_seed, count, figures.batch_size, condition)

    reference = Sampler("dpm_solver_pp", min(REFERENCE_STEPS, checkpoint.config.num_timesteps))
    truth = draw(reference)
    few = figures.solver_steps[len(figures.solver_steps) // 4]
    distances: dict[str, dict[str, dict[str, float]]] = {}
    rows = []
    for method in METHODS:
        label, distances[LABELS[method]] = LABELS[method], {}
        for spacing in SPACINGS:
            images = {steps: draw(Sampler(method, steps, spacing=spacing)) for steps in figures.solver_steps}
            distances[label][spacing] = {str(steps): rms_distance(drawn, truth) for steps, drawn in images.items()}
            if spacing == SPACINGS[-1]:
                rows.append((f"{label} {few}\n{spacing}", images[few]))
    save_labelled_rows(paths.metrics / "solvers-images.png", [*rows, (f"{reference.label}\n(reference)", truth)])
    panels = {
        f"{spacing} steps": {
            label: (figures.solver_steps, list(by_spacing[spacing].values())) for label, by_spacing in distances.items()
        }
        for spacing in SPACINGS
    }
    save_curves(
        paths.metrics / "solvers.png",
        panels,
        xlabel="network calls",
        ylabel=f"RMS distance to {reference.label}",
        title=f"{paths.recipe} ({paths.scale}): {count} images from the same noise; distance 1 = full range",
    )
    write_json(
        paths.metrics / "solvers.json",
        {"step": checkpoint.step, "reference": reference.label, "images": count, "distance": distances},
    )


if __name__ == "__main__":
    stage(main, __doc__)
