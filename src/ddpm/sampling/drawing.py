"""A model loaded from a file, and images from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.base.progress import progress_bar
from ddpm.machine import distributed
from ddpm.machine.compilation import forward_flops, sampling_repays
from ddpm.machine.device import pick_device
from ddpm.machine.memory import keep_freed_memory
from ddpm.model.pixels import normalised, to_uint8
from ddpm.model.schedule import schedule_of
from ddpm.model.weights import load_network
from ddpm.sampling.denoiser import Autoguided, Denoise, Denoiser
from ddpm.sampling.fast import prepare
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.samplers import SampleState
from ddpm.sampling.settings import Sampler, sampler_of

SAMPLER = "unipc 20"
GUIDANCE = 2.0  # of conditional models: clearer classes than 1, which is none, for a little variety
BATCH_SIZE = 50  # images a network call: bounds the memory
FRAMES = 24  # of an animation
Classes = Sequence[str | int] | Tensor | None
Shown = tuple[int, np.ndarray, np.ndarray]  # t, and x_t and x0_hat as uint8 (N, H, W, C)


def load(path: Path | str, device: str = "auto", precision: str | None = None, guide: Path | str | None = None) -> Model:
    """The model in the .safetensors file `path`, ready to draw. Executes nothing of the file.

    `device`: auto, cpu, cuda or cuda:N. `precision`: auto, fp32 or bf16 instead of the one it was trained in. `guide`: the
    file of a worse model for autoguidance, such as weights of an earlier step. Raises Fault.
    """
    return Model(Path(path), pick_device(device, distributed.local_rank()), precision, Path(guide) if guide else None)


class Model:
    """A trained network and its process.

    Where several images are drawn, image i of a seed has its own noise: it is the same image however many are drawn, in
    batches of any size and by any number of processes. `sampler` is a Sampler or its name, as in "unipc 20". `classes`
    says what to draw: names or numbers of classes, taken in turn; a context for each image, float (count, context_dim),
    fractions allowed; or None, all classes in turn. A model without classes takes None. `guidance` is that of classes,
    `autoguidance` that of the model's guide; 1 is none.
    """

    def __init__(self, path: Path, device: torch.device, precision: str | None = None, guide: Path | None = None) -> None:
        self.network, self.config, self.metadata = load_network(path, device)
        self.device, self.precision = device, precision or self.config.precision
        self.schedule = schedule_of(self.config)
        self.classes: tuple[str, ...] = tuple(self.metadata["classes"])
        self.step: int = self.metadata["step"]
        self._flops = forward_flops(self.network, self.shape)
        self._prepared: dict[bool, Denoiser] = {}
        self.guide = self._guide(guide) if guide else None
        keep_freed_memory()

    def _guide(self, path: Path) -> Model:
        """The model of `path`, of the same images, classes and process. Raises Fault."""
        guide = Model(path, self.device, self.precision)
        same = torch.equal(guide.schedule.alpha_bar, self.schedule.alpha_bar)
        if (guide.shape, guide.classes) != (self.shape, self.classes) or not same:
            raise Fault(f"{path}: is no guide for this model; accepted: one of the same size, classes and schedule")
        return guide

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        size = int(self.metadata["data"]["size"])
        return self.network.stem.in_channels, size, size

    def sample(
        self,
        count: int,
        sampler: str | Sampler = SAMPLER,
        seed: int = 0,
        classes: Classes = None,
        guidance: float = GUIDANCE,
        batch_size: int = BATCH_SIZE,
        autoguidance: float = 1.0,
    ) -> np.ndarray:
        """Images 0..count-1 of `seed`: uint8 (count, H, W, C), with a progress bar. Raises Fault.

        The processes of a torchrun share them, and every one gets them all.
        """
        sampler, context = self.sampler(sampler), self.context(count, classes)
        mine = distributed.share(count)
        first, last = mine.start, mine.stop
        # Batches of one size: each shape costs a compilation or a capture. The last may reach beyond and is cut.
        size = math.ceil((last - first) / max(1, math.ceil((last - first) / batch_size)))
        images = [np.zeros((0, *self.shape[1:], self.shape[0]), np.uint8)]
        steps = len(sampler.grid(self.schedule)) - 1
        options = {"unit": "image step", "unit_scale": True, "disable": distributed.rank() > 0}
        with progress_bar(total=(last - first) * steps, desc=sampler.label, **options) as bar:
            for start in range(first, last, size or 1):
                batch = range(start, start + size)
                for state in self.states(batch, sampler, seed, context, guidance, last - first, autoguidance):
                    x_t = state.x_t
                    bar.update(min(size, last - start))
                images.append(to_uint8(x_t)[: last - start])
        return np.concatenate([part for parts in distributed.gathered(images) for part in parts])

    def states(
        self,
        images: int | range,
        sampler: str | Sampler = SAMPLER,
        seed: int = 0,
        classes: Classes = None,
        guidance: float = GUIDANCE,
        of: int | None = None,
        autoguidance: float = 1.0,
    ) -> Iterator[SampleState]:
        """The sampling of `images` of `seed` (a number of them, or a range), state by state, in one batch.

        `of`: how many are drawn in all, if more than these, which decides whether compiling repays. Raises Fault.
        """
        indices = range(images) if isinstance(images, int) else images
        sampler, context = self.sampler(sampler), self.context(indices.stop, classes)
        rows = None if context is None else context[indices.start :]
        noise = self.noise(seed, indices)
        denoiser = self.autoguided(rows, guidance, (of or len(indices)) * sampler.num_steps, autoguidance)
        return sampler.run(denoiser, self.schedule, noise.draw(), noise)

    def denoiser(self, context: Tensor | None = None, guidance: float = GUIDANCE, calls: int = 0) -> Denoiser:
        """(x_t, t) -> x0_hat for images of `context` (B, context_dim); compiled where `calls` network calls repay it."""
        if not math.isfinite(guidance):
            raise Fault(f"guidance = {guidance}; accepted: a finite number")
        passes = 1 if context is None or guidance in (0, 1) else 2
        compiled = sampling_repays(calls * passes * self._flops, self.device)
        if compiled not in self._prepared:
            network = prepare(self.network, self.precision, self.device, compiled)
            self._prepared[compiled] = Denoiser(network, self.schedule, self.config.prediction)
        context = None if context is None else context.to(self.device)
        return Denoiser(self._prepared[compiled].network, self.schedule, self.config.prediction, context, guidance)

    def autoguided(self, context: Tensor | None, guidance: float, calls: int, scale: float) -> Denoise:
        """As `denoiser`, guided away from this model's guide. Raises Fault if it has none and `scale` is not 1."""
        own = self.denoiser(context, guidance, calls)
        if scale == 1:
            return own
        if self.guide is None or not math.isfinite(scale):
            accepted = "a finite number" if self.guide else "1, which is none, of a model that was loaded without a guide"
            raise Fault(f"autoguidance = {scale}; accepted: {accepted}")
        return Autoguided(own, self.guide.denoiser(context, guidance, calls), scale)

    def noise(self, seed: int, indices: range) -> NoiseStreams:
        """The noise of the images `indices` of `seed`."""
        return NoiseStreams(seed, indices, self.shape, self.device)

    def sampler(self, choice: str | Sampler) -> Sampler:
        """`choice` as a Sampler that this model's process has enough steps for. Raises Fault."""
        sampler = sampler_of(choice) if isinstance(choice, str) else choice
        if sampler.num_steps > self.config.num_timesteps:
            longest = self.config.num_timesteps
            raise Fault(f"sampler = {sampler.label!r}; accepted: at most {longest} network calls, T of this model")
        return sampler

    def context(self, count: int, classes: Classes = None) -> Tensor | None:
        """What `classes` asks of the images 0..count-1: float32 (count, context_dim), or None. Raises Fault."""
        if not self.classes:
            if classes is not None:
                raise Fault("classes: this model is unconditional; accepted with one trained with train.context_dim above 0")
            return None
        if isinstance(classes, Tensor):
            if classes.ndim != 2 or classes.shape[1] != len(self.classes) or len(classes) == 0:
                raise Fault(f"context of shape {tuple(classes.shape)}; accepted: a row an image of {len(self.classes)} numbers")
            if not classes.isfinite().all():
                raise Fault("context: holds NaN or infinity; accepted: finite numbers")
            return classes[[min(index, len(classes) - 1) for index in range(count)]].float()
        labels = [self.label(name) for name in classes] if classes else list(range(len(self.classes)))
        chosen = torch.tensor([labels[index % len(labels)] for index in range(count)], dtype=torch.int64)
        return torch.nn.functional.one_hot(chosen, len(self.classes)).float()

    def label(self, name: str | int) -> int:
        """The number of a class, given by its name or its number. Raises Fault."""
        if str(name) in self.classes:
            return self.classes.index(str(name))
        if not str(name).isdecimal() or int(name) >= len(self.classes):
            raise Fault(f"class {name}; accepted: {', '.join(self.classes)}, or 0 to {len(self.classes) - 1}")
        return int(name)


def watched(states: Iterable[SampleState], steps: int, label: str) -> list[Shown]:
    """About FRAMES of the `steps` states of a sampling, evenly spaced, the first and the last among them."""
    shown = {round(i * (steps - 1) / (FRAMES - 1)) for i in range(FRAMES)}
    found = []
    with progress_bar(total=steps, desc=label, unit="step") as bar:
        for number, state in enumerate(states):
            bar.update()
            if number in shown:
                # Between noise and image the range changes from step to step; the image itself is shown as it is.
                x_t = to_uint8(state.x_t) if state.t == 0 else normalised(state.x_t)
                found.append((state.t, x_t, to_uint8(state.x0_hat)))
    return found
