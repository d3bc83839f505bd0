"""Draw a square grid of samples from the EMA weights, and compare their colours with the training images'."""

import numpy as np

from ddpm.base.files import write_json
from ddpm.figures.pictures import save_grid
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from ddpm.sampling.settings import autoguided
from stages import Paths, stage


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, own = figures.drawing, figures.grid
    model = load(paths.ema, paths.runtime().device, guide=paths.guide(own.autoguidance))
    images = model.sample(own.images, drawing.chosen(), own.seed, autoguidance=own.autoguidance, **drawing.options)
    turn = ", all classes in turn" if model.classes else ""
    title = (
        f"{paths.recipe} ({paths.scale}): the first {len(images)} samples{turn}; EMA weights of step {model.step:,}, "
        f"{drawing.told(own.seed, model.classes)}{autoguided(own.autoguidance, model.guide.step if model.guide else None)}"
    )
    save_grid(paths.metrics / "grid.png", images, round(own.images**0.5), title)
    values, data = images / 255, model.metadata["data"]
    # Averaged over the channels, of 0..1: a colour cast shows as a mean far from the data's, grey mush as too small a spread.
    cast = np.abs(values.mean((0, 1, 2)) - data["mean"]).mean()
    spread = (values.std((0, 1, 2)) / data["std"]).mean()
    write_json(paths.metrics / "grid.json", {"colour_cast": round(float(cast), 3), "contrast": round(float(spread), 3)})


if __name__ == "__main__":
    stage(main, __doc__)
