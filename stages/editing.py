"""Change images with a trained model: fill holes, edit from a noisy start, go between two, encode and make again.

Held-out images where they may be shown; else images of the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ddpm.base.files import write_csv
from ddpm.editing import edit_start, encode, inpainting, noised, resampled, resampling, rim, slerp
from ddpm.figures.pictures import rms_distance, save_labelled_rows
from ddpm.figures.settings import EditingFigure, FiguresConfig
from ddpm.model.pixels import normalised, to_float, to_uint8
from ddpm.sampling import Model, load
from ddpm.sampling.denoiser import Denoise
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.samplers import SampleState, ddpm
from ddpm.sampling.settings import Sampler, sampler_of
from stages import Paths, stage
from stages.packed import heldout_images

RIM = 3  # pixels
PAIRS = 4  # that are mixed
Labelled = tuple[str, np.ndarray]  # a label, and images uint8 (N, H, W, C)


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, own, model = figures.drawing, figures.editing, load(paths.ema, paths.runtime().device)
    if paths.facts("manifest.json", "download")["shareable"]:
        images, kind = np.array(heldout_images(paths)[0][: drawing.per_row]), "held-out"
    else:
        images, kind = model.sample(drawing.per_row, drawing.chosen(), own.seed, **drawing.options), "drawn"
    editor = Editor(model, own, drawing.chosen(f"ddpm {own.steps}"), images, kind)
    distances: dict[str, float] = {}
    whose = f"{paths.recipe} ({paths.scale}), step {model.step:,}, seed {own.seed}"
    for name, (rows, found) in {
        "inpainting": editor.inpainting(), "edits": editor.edits(), "reconstruction": editor.reconstruction(),
        "interpolation": (editor.interpolation(), {}),
    }.items():  # fmt: skip
        save_labelled_rows(paths.metrics / f"{name}.png", rows, f"{whose}: {name} of {kind} images")
        distances |= found
    write_csv(paths.metrics / "editing.csv", [{"change": key, "distance": value} for key, value in distances.items()])


class Editor:
    """`model` on `images`, uint8 (N, H, W, C), which people are told are `kind`, as the settings `own` say.

    `sampler`, a DDPM, fills and edits; DDIM encodes. Methods return rows of images for people and, by name, root mean square
    distances from `images`, in units of the full range.
    """

    def __init__(self, model: Model, own: EditingFigure, sampler: Sampler, images: np.ndarray, kind: str) -> None:
        self.model, self.schedule, self.own, self.sampler = model, model.schedule, own, sampler
        self.images, self.kind = images, kind
        self.x0 = to_float(torch.from_numpy(images)).contiguous().to(model.device)
        self.denoiser: Denoise = model.denoiser(calls=own.steps * own.times * len(images))

    def noise(self) -> NoiseStreams:
        return self.model.noise(self.own.seed, range(len(self.images)))

    def inpainting(self) -> tuple[list[Labelled], dict[str, float]]:
        """Holes of a quarter and of a half of an image, drawn once and as often as the settings say; distances in the rim."""
        size, (middle, right) = self.images.shape[1], self.x0.new_ones(2, 1, 1, *self.images.shape[1:3])
        middle[..., size // 4 : size - size // 4, size // 4 : size - size // 4] = 0
        right[..., size // 2 :] = 0
        rows, distances = [(self.kind, self.images)], {}
        for name, mask in (("middle", middle), ("right half", right)):
            rows.append((f"without\n{name}", to_uint8(self.x0 * mask + (1 - mask))))
            near = rim(mask, RIM)[0, 0].cpu().numpy()
            for times in sorted({1, self.own.times}):
                label = "drawn once" if times == 1 else f"drawn\n{times} times"
                rows.append((label, filled := self.filled(mask, times)))
                distances[f"rim of {name} {' '.join(label.split())}"] = rms_distance(filled[:, near], self.images[:, near])
        return rows, distances

    def filled(self, mask: Tensor, times: int) -> np.ndarray:
        """The images, drawn anew where `mask` (1, 1, H, W) is 0."""
        noise, denoiser = self.noise(), inpainting(self.denoiser, self.x0, mask)
        walk = partial(ddpm, denoiser, self.schedule, noise=noise, variance=self.sampler.variance)
        pieces = resampling(self.sampler.grid(self.schedule), times, self.own.jump)
        return last(resampled(walk, self.schedule, noise.draw(), pieces, noise))

    def edits(self) -> tuple[list[Labelled], dict[str, float]]:
        """A row for each strength."""
        rows, distances = [(self.kind, self.images)], {}
        for strength in self.own.strengths:
            noise, start = self.noise(), edit_start(self.schedule.num_timesteps, strength)
            walk = replace(self.sampler, num_steps=min(start, max(1, round(self.own.steps * strength))))
            x_t = noised(self.schedule, self.x0, start, noise.draw())
            rows.append((f"strength\n{strength:g}", edited := last(walk.run(self.denoiser, self.schedule, x_t, noise, start))))
            distances[f"edit of strength {strength:g}"] = rms_distance(edited, self.images)
        return rows, distances

    def reconstruction(self) -> tuple[list[Labelled], dict[str, float]]:
        """The noise that DDIM's inversion finds, and what is made of it, over fewer and over all steps."""
        rows, distances = [(self.kind, self.images)], {}
        for steps in sorted({max(1, self.own.steps // 5), self.own.steps}):
            walk = sampler_of(f"ddim {steps}")
            encoded = self.encoded(walk)
            rows += [(f"its noise,\n{walk.label}", normalised(encoded)), ("and back", made := self.decoded(encoded, walk))]
            distances[f"reconstruction, {walk.label}"] = rms_distance(made, self.images)
        return rows, distances

    def interpolation(self) -> list[Labelled]:
        """A row for each pair of encoded images: from the first to the second."""
        walk, rows = sampler_of(f"ddim {self.own.steps}"), []
        noise, weights = self.encoded(walk), torch.linspace(0, 1, len(self.images))
        for first in range(0, min(2 * PAIRS, max(1, len(noise) - 1)), 2):
            second = (first + 1) % len(noise)  # of a single image itself
            between = slerp(noise[first], noise[second], weights)
            rows.append((f"{self.kind}\n{first} to {second}", self.decoded(between, walk)))
        return rows

    def encoded(self, walk: Sampler) -> Tensor:
        """The noise of the images, float32 (N, C, H, W), by the steps of `walk`."""
        return list(encode(self.denoiser, self.schedule, self.x0, walk.grid(self.schedule)))[-1].x_t

    def decoded(self, x_t: Tensor, walk: Sampler) -> np.ndarray:
        """The images that DDIM makes of noise."""
        return last(walk.run(self.denoiser, self.schedule, x_t, self.noise()))


def last(states: Iterable[SampleState]) -> np.ndarray:
    """The images at the end of a sampling: uint8 (N, H, W, C)."""
    return to_uint8(list(states)[-1].x_t)


if __name__ == "__main__":
    stage(main, __doc__)
