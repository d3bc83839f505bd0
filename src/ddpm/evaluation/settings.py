"""How a recipe's model is measured: the part `evaluation` of its settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ddpm.base.settings import Count, Seed, Strict
from ddpm.sampling.settings import CHOICE, Autoguidance, Choice, Sampler, sampler_of

FEWEST = 20  # images of which a distance between distributions says anything


class EvaluationConfig(Strict):
    """Which images of the EMA weights are measured, and against what."""

    sampler: Choice = Field(description=CHOICE)
    images: Annotated[int, Field(ge=FEWEST)] = Field(description=f"images to draw, {FEWEST} or more")
    seed: Seed
    guidance: Annotated[float, Field(ge=0)] = Field(description="guidance scale of a conditional recipe, 0 or more; 1 = none")
    autoguidance: Autoguidance = 1.0
    batch_size: Count = Field(description="images a network call, 1 or more")
    precision: Literal["fp32", "bf16", "auto"] = Field(description="fp32, bf16 or auto: of the sampling; all else is fp32")
    bound_images: Annotated[int, Field(ge=2)] = Field(description="held-out images whose bits/dim are bounded, 2 or more")
    inception: str = Field(description='"" = none, official, or the path of the Inception weights that FID is defined by')

    @property
    def chosen(self) -> Sampler:
        """The sampler, with the variance that suits its steps."""
        return sampler_of(self.sampler)
