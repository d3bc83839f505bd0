"""Draw a conditional checkpoint class by class, mixes of two classes, and one seed at several guidance scales.

An unconditional recipe (train.context_dim: 0) gets pictures that say so.
"""

import torch

from ddpm.images import save_labelled_rows, save_notice
from ddpm.timing import pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import Checkpoint, Condition, chosen_sampler, ema_checkpoint, rms_distance


def main(paths: Paths) -> None:
    figures, device = paths.figures_config(), pick_device(runtime(paths.scale).device)
    checkpoint, sampler = Checkpoint(ema_checkpoint(paths), device), chosen_sampler(figures)
    if not (classes := checkpoint.classes):
        notice = f"{paths.recipe} ({paths.scale}) is unconditional: train.context_dim = 0"
        for name in ("classes", "guidance"):
            save_notice(paths.metrics / f"{name}.png", notice)
        write_json(paths.metrics / "classes.json", {"step": checkpoint.step, "classes": []})
        return
    count = figures.images_per_row
    by_class = torch.eye(len(classes)).repeat_interleave(count, 0)
    mixes = torch.zeros(count, len(classes))
    mixes[:, 1] = torch.linspace(0, 1, count)
    mixes[:, 0] = 1 - mixes[:, 1]
    condition = Condition(torch.cat([by_class, mixes]), figures.guidance)
    images = checkpoint.draw(sampler, figures.grid_seed, len(by_class) + count, figures.batch_size, condition)
    labels = [*classes, f"{classes[0]} to\n{classes[1]}"]
    rows = [images[start : start + count] for start in range(0, len(images), count)]
    save_labelled_rows(paths.metrics / "classes.png", list(zip(labels, rows, strict=True)))

    sweep = []
    for scale in figures.guidance_scales:
        drawn = checkpoint.draw(
            sampler, figures.grid_seed, count, figures.batch_size, checkpoint.in_turn(count, float(scale))
        )
        sweep.append((f"guidance {scale:g}", drawn))
    save_labelled_rows(paths.metrics / "guidance.png", sweep)
    means = torch.stack([torch.from_numpy(row).double().mean(0) for row in rows[:-1]])
    write_json(
        paths.metrics / "classes.json",
        {
            "step": checkpoint.step,
            "sampler": sampler.label,
            "guidance": figures.guidance,
            "classes": list(classes),
            # How far the classes' mean images lie from each other; of classes that are ignored, only noise is left of it.
            "distance_between_class_means": round(float(means.std(0).square().mean().sqrt()) / 255, 4),
            "distance_to_first_scale": {label: rms_distance(drawn, sweep[0][1]) for label, drawn in sweep},
        },
    )


if __name__ == "__main__":
    stage(main, __doc__)
