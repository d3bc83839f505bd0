"""Draw a square grid of samples from the EMA weights, and compare their colours with the training images'."""

import numpy as np

from ddpm.images import save_grid
from ddpm.timing import pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import Checkpoint, chosen_sampler, ema_checkpoint


def main(paths: Paths) -> None:
    figures, device = paths.figures_config(), pick_device(runtime(paths.scale).device)
    sampler, checkpoint = chosen_sampler(figures), Checkpoint(ema_checkpoint(paths), device)
    condition = checkpoint.in_turn(figures.grid_images, figures.guidance)
    images = checkpoint.draw(sampler, figures.grid_seed, figures.grid_images, figures.batch_size, condition)
    save_grid(paths.metrics / "grid.png", images, per_row=round(figures.grid_images**0.5))
    values = images.astype(np.float64) / 255
    facts = checkpoint.metadata["data"]
    write_json(
        paths.metrics / "grid.json",
        {
            "sampler": sampler.label,
            "step": checkpoint.step,
            # A colour cast shows as a mean far from the data's; grey mush as too small a deviation.
            "samples": _channels(values.mean((0, 1, 2)), values.std((0, 1, 2))),
            "data": _channels(facts["mean"], facts["std"]),
        },
    )


def _channels(mean: np.ndarray, std: np.ndarray) -> dict[str, dict[str, float]]:
    names = ("red", "green", "blue") if len(mean) == 3 else ("gray",)
    return {
        "mean": {name: round(float(value), 3) for name, value in zip(names, mean, strict=True)},
        "std": {name: round(float(value), 3) for name, value in zip(names, std, strict=True)},
    }


if __name__ == "__main__":
    stage(main, __doc__)
