"""Draw a few images from the EMA weights of a training that runs: `python -m stages.preview WEIGHTS PICTURE`.

No stage of the pipeline: the training starts this as a process of its own (stages/window.py), so that drawing changes no bit
of it, and so that an edit of a sampler makes no checkpoint stale. It ends when its standard input does, that is, with the
training, however that ends.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from ddpm.base.faults import faults_reported
from ddpm.figures.pictures import Row, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from stages import Paths

PER_ROW, ROWS = 4, 4
CALLS, SEED = 10, 0  # one seed, so that the pictures of a training show the same images get better


def main(weights: Path, picture: Path) -> None:
    """Draw PER_ROW x ROWS images from the file `weights`, on the CPU, all classes in turn, and write them as the PNG
    `picture`, whole or not at all, with the step in its title. Raises Fault."""
    threading.Thread(target=end_with_input, daemon=True).start()
    model = load(weights, "cpu")
    drawing = Paths(model.metadata["scale"], model.metadata["recipe"]).settings("figures", FiguresConfig).drawing
    sampler = drawing.chosen(f"unipc {min(CALLS, model.config.num_timesteps)}")
    images = model.sample(PER_ROW * ROWS, sampler, SEED, guidance=drawing.guidance)
    title = (
        f"{model.metadata['recipe']} ({model.metadata['scale']}) while it is trained: EMA weights of step {model.step:,}, "
        f"{drawing.told(SEED, model.classes, sampler)}"
    )
    rows = images.reshape(ROWS, PER_ROW, *images.shape[1:])
    asked = [model.classes[i % len(model.classes)] if model.classes else "" for i in range(len(images))]
    captions = [asked[start : start + PER_ROW] if model.classes else [] for start in range(0, len(images), PER_ROW)]
    save_labelled_rows(picture, [Row("", row, names) for row, names in zip(rows, captions, strict=True)], title)


def end_with_input() -> None:
    """Wait for the end of standard input, a pipe from the training, and end this process."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    with faults_reported():
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # at once: to unload torch takes seconds, and a training that ends meanwhile would leave the picture behind
