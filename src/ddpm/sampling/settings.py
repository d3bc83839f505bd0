"""A sampler with its settings, as in "unipc 20" or "ddim 100 karras"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.model.schedule import NoiseSchedule
from ddpm.sampling.denoiser import Denoise
from ddpm.sampling.grid import Spacing, timestep_grid
from ddpm.sampling.noise import NoiseStreams
from ddpm.sampling.samplers import METHODS, SampleState

Variance = Literal["small", "large"]
SPACINGS = get_args(Spacing)
CHOICE = (
    "a method, its network calls and, if it is to be another than the default, the spacing of its steps, as in `unipc 20` or "
    f"`ddim 100 karras`; methods: {', '.join(name for name, method in METHODS.items() if method.order)}; "
    f"spacings: {', '.join(SPACINGS)}"
)
LARGE_ABOVE = 300  # steps from which ddpm's large variance draws better; they cross between 200 and 400 (arXiv 2201.06503)


@dataclass(frozen=True)
class Sampler:
    """A method of samplers.METHODS with its settings."""

    method: str
    num_steps: int  # network calls, of images without guidance
    spacing: Spacing = "uniform"
    eta: float = 0.0
    variance: Variance = "small"

    @property
    def name(self) -> str:
        """What sampler_of takes, e.g. "ddim 20", "unipc 20 quadratic"."""
        return f"{self.method} {self.num_steps}" + (f" {self.spacing}" if self.spacing != suited_spacing(self.method) else "")

    @property
    def label(self) -> str:
        """How figures and tables name it, e.g. "DDIM 20", "UniPC 20, quadratic"."""
        return f"{METHODS[self.method].label} {self.num_steps}" + (f", {self.spacing}" if self.spacing != "uniform" else "")

    @property
    def follows_ode(self) -> bool:
        """Whether it adds no noise, so that the start decides the image."""
        method = METHODS[self.method]
        takes_none = "noise" not in method.options or ("eta" in method.options and self.eta == 0)
        return method.order > 0 and takes_none

    def grid(self, schedule: NoiseSchedule, start: int | None = None) -> list[int]:
        """The grid from step `start` (default: T) of as many steps as take at most num_steps calls. Raises ValueError.

        The last step takes one call, whatever the method.
        """
        calls = METHODS[self.method].calls
        return timestep_grid(schedule, (self.num_steps + calls - 1) // calls, self.spacing, start)

    def run(
        self, denoiser: Denoise, schedule: NoiseSchedule, x_t: Tensor, noise: NoiseStreams, start: int | None = None
    ) -> Iterator[SampleState]:
        """Sample from `x_t` at step `start` (default: T) down to 0."""
        method = METHODS[self.method]
        known: dict[str, Any] = {"noise": noise, "eta": self.eta, "variance": self.variance}
        options = {name: known[name] for name in method.options}
        return method.run(denoiser, schedule, x_t, self.grid(schedule, start), **options)


def suited_spacing(method: str) -> Spacing:
    """karras for methods of higher order, which come nearest to the ODE's solution by it; uniform, as in the papers, else."""
    return "karras" if METHODS[method].order > 1 else "uniform"


def sampler_of(choice: str, eta: float = 0.0, variance: Variance | None = None) -> Sampler:
    """The sampler that `choice`, such as "unipc 20", names. Raises Fault for anything else than CHOICE says.

    `eta` is ddim's, `variance` ddpm's (None: the one that suits the number of steps). Where `choice` names no spacing it is
    the suited_spacing.
    """
    parts = re.fullmatch(rf"({'|'.join(METHODS)}) ([1-9]\d*)(?: ({'|'.join(SPACINGS)}))?", choice)
    if parts is None:
        raise Fault(f"sampler = {choice!r}; accepted: {CHOICE}")
    name, steps = parts[1], int(parts[2])
    spacing = cast(Spacing, parts[3] or suited_spacing(name))
    suited: Variance = variance or ("large" if steps > LARGE_ABOVE else "small")
    return Sampler(name, steps, spacing, eta if name == "ddim" else 0.0, suited if name == "ddpm" else "small")


def _choice(value: Any) -> Any:
    try:
        drawn = METHODS[sampler_of(value).method].order > 0
    except (Fault, TypeError):
        drawn = False
    if not drawn:
        raise PydanticCustomError("sampler", "not a sampler to draw with")
    return value


def autoguided(scale: float, step: int | None = None) -> str:
    """What follows a sampler's name where autoguidance leads away from an earlier `step`'s weights; nothing for scale 1."""
    return "" if scale == 1 else f", autoguidance {scale:g}" + (f" by step {step:,}" if step else "")


Autoguidance = Annotated[float, Field(ge=1, description="scale of autoguidance, 1 or more; 1 = none")]  # of a setting
Choice = Annotated[str, BeforeValidator(_choice)]  # of a setting: what `sampler_of` takes, but for the wrong method
