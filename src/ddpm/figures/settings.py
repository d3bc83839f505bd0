"""What the figure stages draw: a section for what they share, and one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import Self

from ddpm.base.settings import Count, Seed, Strict
from ddpm.sampling.settings import CHOICE, Autoguidance, Choice, Sampler, Variance, sampler_of


class Drawing(Strict):
    """How all figures draw."""

    sampler: Choice = Field(description=CHOICE)
    variance: Variance = Field(description="small or large")
    eta: Annotated[float, Field(ge=0, le=1)] = Field(description="a number in [0, 1]")
    guidance: Annotated[float, Field(ge=0)] = Field(description="guidance scale of a conditional recipe, 0 or more; 1 = none")
    per_row: Count = Field(description="images a row, 1 or more")
    batch_size: Count = Field(description="images a network call, 1 or more")

    def chosen(self, choice: str | None = None) -> Sampler:
        """The sampler that `choice` (default: the one of all figures) names, with the options of all figures."""
        return sampler_of(choice or self.sampler, self.eta, self.variance)

    def told(self, seed: int, classes: Sequence[str] = (), sampler: Sampler | None = None) -> str:
        """How images were drawn, as titles say it: "DDPM 250, seed 0", and of a model with `classes` the guidance."""
        how = f"{(sampler or self.chosen()).label}, seed {seed}"
        return how + (f", guidance {self.guidance:g}" if classes else "")

    def asked(self, classes: Sequence[str]) -> list[str]:
        """The class of each image of a row, all in turn; none of a model without."""
        return [classes[i % len(classes)] for i in range(self.per_row)] if classes else []

    @property
    def options(self) -> dict[str, Any]:
        """What Model.sample takes besides images, sampler, seed and classes."""
        return {"guidance": self.guidance, "batch_size": self.batch_size}


class Figure(Strict):
    """Images of one seed, drawing.per_row of them where nothing else is said."""

    seed: Seed


class SamplersFigure(Figure):
    compared: list[Choice] = Field(description=f"a list of samplers, each {CHOICE}", min_length=1)


class GridFigure(Figure):
    images: Count = Field(description="a square number such as 16 or 100")
    autoguidance: Autoguidance = 1.0

    @model_validator(mode="after")
    def _square(self) -> Self:
        if round(self.images**0.5) ** 2 != self.images:
            raise ValueError(f"figures.grid.images = {self.images}; accepted: a square number such as 16 or 100")
        return self


class SolversFigure(Figure):
    steps: list[Count] = Field(description="a list of network calls, each 1 to train.num_timesteps", min_length=1)


class ClassesFigure(Figure):
    scales: list[Annotated[float, Field(ge=0)]] = Field(description="a list of numbers, e.g. [0, 1, 2]", min_length=1)


class PathFigure(Figure):
    images: Annotated[int, Field(ge=4, multiple_of=4)] = Field(description="a multiple of 4, for four rows")


class EditingFigure(Figure):
    steps: Count = Field(description="1 to train.num_timesteps")
    times: Count = Field(description="1 or more; 1 = holes are not drawn again")
    jump: Count = Field(description="steps, 1 or more")
    strengths: list[Annotated[float, Field(gt=0, le=1)]] = Field(description="a list of numbers in (0, 1]", min_length=1)


class TimingFigure(Strict):
    images: Count = Field(description="1 or more")
    max_seconds: Annotated[float, Field(gt=0)] = Field(description="seconds, more than 0")


class FiguresConfig(Strict):
    """What the figure stages draw; each depends on `drawing` and its own section."""

    drawing: Drawing
    progression: Figure
    samplers: SamplersFigure
    ema: Figure
    grid: GridFigure
    solvers: SolversFigure
    classes: ClassesFigure
    path: PathFigure
    editing: EditingFigure
    timing: TimingFigure

    def asked(self) -> list[tuple[str, int]]:
        """Every number of network calls that is asked for, with its key and value as in `key = value`."""
        choices = [("figures.drawing.sampler", self.drawing.sampler)]
        choices += [("figures.samplers.compared", choice) for choice in self.samplers.compared]
        asked = [(f"{key} = {choice!r}", self.drawing.chosen(choice).num_steps) for key, choice in choices]
        asked += [(f"figures.editing.steps = {self.editing.steps}", self.editing.steps)]
        return [*asked, (f"figures.solvers.steps = {self.solvers.steps}", max(self.solvers.steps))]
