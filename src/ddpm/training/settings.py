"""All that decides the trained weights."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from ddpm.base.settings import Count, Seed, Whole
from ddpm.model.settings import ModelConfig

TINY = 1e-12  # least learning rate and clipping norm: Adam's own epsilon is 1e-8
MAX_STEPS = 10**9
MAX_ROWS = 1_000_000  # of loss.csv, whose sums lie in memory
LR_FLOOR = 0.05  # what is left of the learning rate at the end of a linear decay


class TrainConfig(ModelConfig):
    """Network, process and optimisation; durations are in steps (`in_steps` makes them so)."""

    loss_weighting: Literal["plain", "min_snr"] = Field(description="plain or min_snr")
    context_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="a number in [0, 1)")
    seed: Seed
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="images a step, 1 or more, at most 1,000,000")
    accumulate: Count = Field(description="parts in which a batch goes through the network, 1 to train.batch_size")
    lr: Annotated[float, Field(ge=TINY, le=1)] = Field(
        description=f"a number in (0, 1], at least {TINY}, as less moves no weight"
    )
    lr_decay: Literal["constant", "linear"] = Field(description="constant, or linear (to 5 % of lr at the last step)")
    warmup_steps: Whole = Field(description="steps over which the learning rate rises from 0, 0 or more")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="a number, 0 or more")
    grad_clip: Annotated[float, Field(ge=TINY)] = Field(
        description=f"largest norm of the gradient, more than 0: {TINY} at least"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(description="a number in [0, 1)")
    flip: bool = Field(description="true or false: mirror each image left-right with probability 1/2")
    log_every: Annotated[int, Field(ge=1, le=MAX_STEPS)] = Field(description="steps a row of loss.csv, 1 or more")
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        description="threads of the processor for each step, 1 or more, or 0 for one a core, at most 1024"
    )
    compile: Literal["auto"] | bool = Field(description="auto, true or false")
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = Field(
        description="optimizer steps, 1 or more, at most 10^9, or epochs, as in: 50 epochs"
    )
    checkpoints: list[Count] = Field(
        description="a list of ascending steps, or epochs, as in: [10 epochs, 20 epochs], whose raw weights are kept"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(f"train.accumulate = {self.accumulate}; accepted: 1 to train.batch_size = {self.batch_size}")
        if self.norm == "batch" and self.accumulate > 1:
            raise ValueError(
                f"train.accumulate = {self.accumulate}; accepted: 1 with train.norm = batch, which takes its statistics "
                "from the whole batch"
            )
        if self.steps > MAX_ROWS * self.log_every:
            raise ValueError(
                f"train.steps = {self.steps} would make {self.steps // self.log_every} rows of loss.csv; accepted: at most "
                f"{MAX_ROWS}, as with train.log_every = {-(-self.steps // MAX_ROWS)}"
            )
        if self.checkpoints != sorted(set(self.checkpoints)):
            raise ValueError(f"train.checkpoints = {self.checkpoints}; accepted: ascending steps without repeats")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"train.warmup_steps = {self.warmup_steps}; accepted: less than train.steps = {self.steps}")
        return self

    @property
    def kept_steps(self) -> list[int]:
        """Steps whose raw weights are kept: the listed ones before the end, then the last step."""
        return [step for step in self.checkpoints if step < self.steps] + [self.steps]

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: a linear rise over warmup_steps, then constant or a linear fall to LR_FLOOR."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.lr_decay == "constant":
            return self.lr
        done = (step - self.warmup_steps) / max(1, self.steps - 1 - self.warmup_steps)
        return self.lr * (1 - (1 - LR_FLOOR) * done)


def in_steps(settings: dict[str, Any], num_images: int) -> dict[str, Any]:
    """`settings` with each number of epochs over `num_images` images turned into steps, rounded up.

    What is no number of epochs stays as it is, for TrainConfig to judge.
    """
    batch_size = settings.get("batch_size")

    def steps(duration: Any) -> Any:
        epochs = re.fullmatch(r"([1-9][0-9]{0,11}) epochs?", duration) if isinstance(duration, str) else None
        if epochs is None or type(batch_size) is not int or batch_size < 1:
            return duration
        return -(-int(epochs[1]) * num_images // batch_size)

    turned = {key: steps(settings[key]) for key in ("steps",) if key in settings}
    if isinstance(kept := settings.get("checkpoints"), list):
        turned["checkpoints"] = [steps(duration) for duration in kept]
    return settings | turned
