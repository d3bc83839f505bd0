"""Drawing samples from a checkpoint: what the figure stages and the `sample` command share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ddpm import distributed
from ddpm.checkpoint import CheckpointError, load_network
from ddpm.compilation import forward_flops, sampling_repays
from ddpm.config import FiguresConfig
from ddpm.diffusion import Denoiser
from ddpm.images import to_uint8
from ddpm.inference import prepare
from ddpm.memory import keep_freed_memory
from ddpm.progress import progress_bar
from ddpm.samplers import NoiseStreams, SampleState, ddim, ddpm
from ddpm.schedule import cosine_schedule, timestep_grid
from stages.common import Fault, Paths


@dataclass(frozen=True)
class Sampler:
    """A sampler with its settings."""

    method: Literal["ddpm", "ddim"]
    num_steps: int
    eta: float
    variance: Literal["small", "large"]

    @property
    def label(self) -> str:
        """How figures and tables name it, e.g. "DDIM 20"."""
        return f"{self.method.upper()} {self.num_steps}"


def chosen_sampler(figures: FiguresConfig) -> Sampler:
    """The sampler of the progression, ema and grid figures: `figures.method`."""
    return compared_samplers(figures)[-1 if figures.method == "ddpm" else -2]


def compared_samplers(figures: FiguresConfig) -> list[Sampler]:
    """The rows of the samplers and timing figures: DDIM by rising steps, then DDPM."""
    eta, variance = figures.ddim_eta, figures.ddpm_variance
    rows = [Sampler("ddim", steps, eta, variance) for steps in sorted(figures.ddim_steps)]
    return [*rows, Sampler("ddpm", figures.ddpm_steps, eta, variance)]


class Checkpoint:
    """A network from a file, ready to draw from."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Raises Fault if the file is missing or damaged."""
        try:
            self.network, self.config, self.metadata = load_network(path, device)
        except CheckpointError as error:
            raise Fault(str(error)) from None
        self.schedule = cosine_schedule(self.config.num_timesteps)
        self.device = device
        self.flops = forward_flops(self.network, self.shape)
        keep_freed_memory()
        self._prepared: dict[bool, Denoiser] = {}

    def denoiser(self, calls: int) -> Denoiser:
        """The denoiser for `calls` network calls of one image each, compiled where that many repay it."""
        compiled = sampling_repays(calls * self.flops, self.device)
        if compiled not in self._prepared:
            network = prepare(self.network, self.config.precision, self.device, compiled)
            self._prepared[compiled] = Denoiser(network, self.schedule, self.config.prediction)
        return self._prepared[compiled]

    @property
    def step(self) -> int:
        """The training step the weights are from."""
        return int(self.metadata["step"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        size = int(self.metadata["data"]["size"])
        return 3, size, size

    def states(self, sampler: Sampler, seed: int, indices: range, count: int | None = None) -> Iterator[SampleState]:
        """The sampling of the images `indices` of `seed`, step by step; `count` images are drawn in all, if more than these."""
        grid = timestep_grid(self.config.num_timesteps, sampler.num_steps)
        noise = NoiseStreams(seed, indices, self.shape, self.device)
        denoiser = self.denoiser((count or len(indices)) * sampler.num_steps)
        if sampler.method == "ddim":
            return ddim(denoiser, self.schedule, noise, grid, sampler.eta)
        return ddpm(denoiser, self.schedule, noise, grid, sampler.variance)

    def draw(self, sampler: Sampler, seed: int, count: int, batch_size: int) -> np.ndarray:
        """Images 0..count-1 of `seed`: uint8 (count, H, W, C). At most `batch_size` at a time, with a progress bar.

        The processes of a torchrun share them, and every one gets them all.
        """
        mine = distributed.share(count)
        first, last = mine.start, mine.stop
        # Batches of one size: each shape costs a compilation or a capture. The last may reach beyond and is cut.
        size = math.ceil((last - first) / max(1, math.ceil((last - first) / batch_size)))
        images = [np.zeros((0, *self.shape[1:], self.shape[0]), np.uint8)]
        total = (last - first) * sampler.num_steps
        options = {"unit": "image step", "unit_scale": True, "disable": distributed.rank() > 0}
        with progress_bar(total=total, desc=sampler.label, **options) as bar:
            for start in range(first, last, size or 1):
                for state in self.states(sampler, seed, range(start, start + size), last - first):
                    x_t = state.x_t
                    bar.update(min(size, last - start))
                images.append(to_uint8(x_t)[: last - start])
        return np.concatenate([part for parts in distributed.gathered(images) for part in parts])


def raw_checkpoints(paths: Paths) -> list[Path]:
    """The kept raw weights, by step. Raises Fault if there are none."""
    if files := sorted(paths.models.glob("raw-*.safetensors")):
        return files
    raise Fault(f"{paths.models}: no raw-*.safetensors here; `dvc pull` fetches shared checkpoints, `dvc repro` trains them")


def ema_checkpoint(paths: Paths) -> Path:
    return paths.models / "ema.safetensors"


def rms_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two uint8 arrays of images, in units of the full range 0..1."""
    return round(float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)) / 255), 4)
