"""Drawing samples from a checkpoint: what the figure stages and the `sample` command share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from ddpm import distributed
from ddpm.checkpoint import CheckpointError, load_network
from ddpm.compilation import forward_flops, sampling_repays
from ddpm.config import FiguresConfig, class_names, parts_of
from ddpm.diffusion import Denoiser
from ddpm.images import to_uint8
from ddpm.inference import prepare
from ddpm.memory import keep_freed_memory
from ddpm.progress import progress_bar
from ddpm.samplers import Denoise, NoiseStreams, SampleState, ddim, ddpm, ddpm_without_noise, dpm_solver_pp, heun, unipc
from ddpm.schedule import NoiseSchedule, Spacing, noise_schedule, timestep_grid
from stages.common import Fault, Paths

LABELS = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "dpm_solver_pp": "DPM-Solver++",
    "unipc": "UniPC",
    "heun": "Heun",
    "wrong": "Wrong",  # document 004's: DDPM that adds no noise back
}


@dataclass(frozen=True)
class Sampler:
    """A sampler with its settings; `num_steps` counts network calls, of images without guidance."""

    method: str  # a key of LABELS
    num_steps: int
    eta: float = 0.0
    variance: Literal["small", "large"] = "small"
    spacing: Spacing = "uniform"

    @property
    def label(self) -> str:
        """How figures and tables name it, e.g. "DDIM 20", "UniPC 20, quadratic"."""
        return f"{LABELS[self.method]} {self.num_steps}" + (f", {self.spacing}" if self.spacing != "uniform" else "")

    def grid(self, schedule: NoiseSchedule, start: int | None = None) -> list[int]:
        """The grid of as many steps as take at most num_steps calls: Heun takes two a step, but one for the last."""
        steps = (self.num_steps + 1) // 2 if self.method == "heun" else self.num_steps
        return timestep_grid(schedule, steps, self.spacing, start)

    def run(
        self, denoiser: Denoise, schedule: NoiseSchedule, x_t: Tensor, noise: NoiseStreams, start: int | None = None
    ) -> Iterator[SampleState]:
        """Sample from `x_t` at step `start` (default: T) down to 0."""
        grid = self.grid(schedule, start)
        if self.method == "ddpm":
            return ddpm(denoiser, schedule, x_t, grid, noise, self.variance)
        if self.method == "ddim":
            return ddim(denoiser, schedule, x_t, grid, noise, self.eta)
        others = {"wrong": ddpm_without_noise, "dpm_solver_pp": dpm_solver_pp, "unipc": unipc, "heun": heun}
        return others[self.method](denoiser, schedule, x_t, grid)


def sampler_of(figures: FiguresConfig, choice: str) -> Sampler:
    """The sampler that `choice`, such as "ddim 100", names."""
    method, steps, spacing = parts_of(choice)
    return Sampler(method, steps, figures.ddim_eta, figures.ddpm_variance, cast(Spacing, spacing))


def chosen_sampler(figures: FiguresConfig) -> Sampler:
    """The sampler of most figures: `figures.sampler`."""
    return sampler_of(figures, figures.sampler)


def compared_samplers(figures: FiguresConfig) -> list[Sampler]:
    """The rows of the samplers and timing figures: `figures.compared`."""
    return [sampler_of(figures, choice) for choice in figures.compared]


@dataclass(frozen=True)
class Condition:
    """What each image is drawn for: `context` float32 (count, context_dim), and the guidance scale."""

    context: Tensor | None
    guidance: float = 1.0

    def rows(self, indices: range, device: torch.device) -> Tensor | None:
        """The contexts of the images `indices`; the last one's for those beyond it."""
        if self.context is None:
            return None
        return self.context[[min(index, len(self.context) - 1) for index in indices]].to(device)

    @property
    def passes(self) -> int:
        """Images that pass through the network for each image of a step."""
        return 1 if self.context is None or self.guidance in (0, 1) else 2


UNCONDITIONAL = Condition(None)


class Checkpoint:
    """A network from a file, ready to draw from."""

    def __init__(self, path: Path, device: torch.device, precision: str | None = None) -> None:
        """`precision`: instead of the one it was trained with. Raises Fault if the file is missing or damaged."""
        try:
            self.network, self.config, self.metadata = load_network(path, device)
        except CheckpointError as error:
            raise Fault(str(error)) from None
        self.precision = precision or self.config.precision
        config = self.config
        self.schedule = noise_schedule(
            config.schedule, config.num_timesteps, config.beta_min, config.beta_max, config.zero_terminal_snr
        )
        self.device = device
        self.flops = forward_flops(self.network, self.shape)
        keep_freed_memory()
        self._prepared: dict[bool, Denoiser] = {}

    def denoiser(self, calls: int, context: Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The denoiser for `calls` network calls of one image each, compiled where that many repay it."""
        compiled = sampling_repays(calls * self.flops, self.device)
        if compiled not in self._prepared:
            network = prepare(self.network, self.precision, self.device, compiled)
            self._prepared[compiled] = Denoiser(network, self.schedule, self.config.prediction)
        prepared = self._prepared[compiled]
        return Denoiser(prepared.network, self.schedule, self.config.prediction, context, guidance)

    @property
    def step(self) -> int:
        """The training step the weights are from."""
        return int(self.metadata["step"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        size = int(self.metadata["data"]["size"])
        return self.network.stem.in_channels, size, size

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it can be asked for; none if it is unconditional."""
        data = self.metadata["data"]
        return class_names(data["dataset"], data["source"]) if self.config.context_dim else ()

    def condition(self, labels: list[int], guidance: float) -> Condition:
        """The condition for images of the classes `labels`; of an unconditional checkpoint, none."""
        if not self.classes:
            return UNCONDITIONAL
        context = torch.nn.functional.one_hot(torch.tensor(labels), len(self.classes)).float()
        return Condition(context, guidance)

    def in_turn(self, count: int, guidance: float) -> Condition:
        """The condition for `count` images of all classes in turn."""
        return self.condition([index % max(1, len(self.classes)) for index in range(count)], guidance)

    def noise(self, seed: int, indices: range) -> NoiseStreams:
        """The noise of the images `indices` of `seed`."""
        return NoiseStreams(seed, indices, self.shape, self.device)

    def states(
        self, sampler: Sampler, seed: int, indices: range, condition: Condition = UNCONDITIONAL, count: int | None = None
    ) -> Iterator[SampleState]:
        """The sampling of the images `indices` of `seed`, step by step; `count` images are drawn in all, if more than these."""
        noise = self.noise(seed, indices)
        calls = (count or len(indices)) * sampler.num_steps * condition.passes
        denoiser = self.denoiser(calls, condition.rows(indices, self.device), condition.guidance)
        return sampler.run(denoiser, self.schedule, noise.draw(), noise)

    def draw(
        self, sampler: Sampler, seed: int, count: int, batch_size: int, condition: Condition = UNCONDITIONAL
    ) -> np.ndarray:
        """Images 0..count-1 of `seed`: uint8 (count, H, W, C). At most `batch_size` at a time, with a progress bar.

        The processes of a torchrun share them, and every one gets them all.
        """
        mine = distributed.share(count)
        first, last = mine.start, mine.stop
        # Batches of one size: each shape costs a compilation or a capture. The last may reach beyond and is cut.
        size = math.ceil((last - first) / max(1, math.ceil((last - first) / batch_size)))
        images = [np.zeros((0, *self.shape[1:], self.shape[0]), np.uint8)]
        steps = len(sampler.grid(self.schedule)) - 1
        options = {"unit": "image step", "unit_scale": True, "disable": distributed.rank() > 0}
        with progress_bar(total=(last - first) * steps, desc=sampler.label, **options) as bar:
            for start in range(first, last, size or 1):
                for state in self.states(sampler, seed, range(start, start + size), condition, last - first):
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
