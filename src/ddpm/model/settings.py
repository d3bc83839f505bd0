"""Network and process: what must be known of a checkpoint to draw from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from ddpm.base.settings import Count, Strict, Whole

Width = Annotated[int, Field(ge=1, le=8192)]  # what a layer may be asked for: a hundred times what is published
Blocks = Annotated[int, Field(ge=0, le=100)]


class ModelConfig(Strict):
    """Network and process: what must be known of a checkpoint to draw from it."""

    # Network (documents 000 and 001): one entry of `channels` and `attention` a resolution level.
    channels: list[Width] = Field(
        description="a list of positive integers, one a level, e.g. [64, 128, 256, 256], at most 12 of at most 8192",
        min_length=1,
        max_length=12,
    )
    attention: list[bool] = Field(
        description="a list of true/false, as long as train.channels, or of the levels that have it, the first being 1"
    )
    heads: Count = Field(description="heads of every attention, a divisor of the widths that have one")
    num_res: Annotated[Blocks, Field(ge=1)] = Field(description="residual blocks a level, 1 or more, at most 100")
    neck_length: Blocks = Field(description="residual blocks at the bottom, 0 or more, at most 100")
    neck_attention: bool = Field(description="true or false: self-attention with layer norm at the bottom")
    time_emb_dim: Annotated[int, Field(ge=4, le=8192, multiple_of=2)] = Field(
        description="an even number, 4 or more, at most 8192"
    )
    time_in: Literal["blocks", "neck"] = Field(description="blocks or neck: which residual blocks see time and context")
    context_dim: Annotated[Whole, Field(le=10_000)] = Field(
        description="0, or the number of the data set's classes: width of the context vector, at most 10,000"
    )
    norm: Literal["group", "batch"] = Field(description="group or batch")
    activation: Literal["silu", "relu"] = Field(description="silu or relu")
    downsample: Literal["conv", "max_pool"] = Field(description="conv or max_pool")
    upsample: Literal["bilinear", "transposed"] = Field(description="bilinear or transposed")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="a number in [0, 1)")
    scale_shift_norm: bool = Field(description="true or false: time and context scale, too, what they shift, after the norm")
    # Process.
    num_timesteps: Annotated[int, Field(ge=2, le=100_000)] = Field(description="T, 2 or more, at most 100,000")
    schedule: Literal["cosine", "linear", "sigmoid"] = Field(description="cosine, linear or sigmoid")
    beta_min: Annotated[float, Field(gt=0, lt=1)] = Field(description="a number in (0, 1): beta of step 1 when linear")
    beta_max: Annotated[float, Field(gt=0, lt=1)] = Field(description="a number in (0, 1): beta of step T when linear")
    zero_terminal_snr: bool = Field(description="true or false: rescale the schedule so that nothing of the image is left at T")
    prediction: Literal["eps", "x0", "v"] = Field(description="eps, x0 or v")
    precision: Literal["auto", "fp32", "bf16"] = Field(description="auto, fp32 or bf16")

    @model_validator(mode="before")
    @classmethod
    def _attention_by_level(cls, values: Any) -> Any:
        """`attention` as the levels that have it (document 002's attention_layer), spelled out."""
        if not isinstance(values, dict) or not isinstance(values.get("channels"), list):
            return values
        levels, attention = len(values["channels"]), values.get("attention")
        if not isinstance(attention, list) or any(type(level) is not int for level in attention):
            return values
        if bad := [level for level in attention if not 1 <= level <= levels]:
            raise ValueError(
                f"train.attention = {attention} names a level {bad[0]}; accepted: 1 to {levels}, the levels of "
                f"train.channels = {values['channels']}"
            )
        return values | {"attention": [level in attention for level in range(1, levels + 1)]}

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"train.attention = {self.attention} has {len(self.attention)} entries and "
                f"train.channels = {self.channels} has {len(self.channels)}; accepted: lists of equal length"
            )
        if odd := [width for width in self.channels if width % 4]:
            raise ValueError(
                f"train.channels = {self.channels}: the norm's groups of 4 channels do not divide {odd[0]}; "
                "accepted: multiples of 4"
            )
        attended = [width for width, attention in zip(self.channels, self.attention, strict=True) if attention]
        attended += [self.channels[-1]] if self.neck_attention else []
        if odd := [width for width in attended if width % self.heads]:
            raise ValueError(
                f"train.heads = {self.heads} does not divide the width {odd[0]} of train.channels = {self.channels}; "
                "accepted: a divisor of each width that has attention"
            )
        if self.time_in == "neck" and self.neck_length == 0:
            raise ValueError(
                "train.neck_length = 0 leaves no block that sees the time; accepted: 1 or more with train.time_in = neck"
            )
        return self

    @model_validator(mode="after")
    def _process(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError(f"train.beta_min = {self.beta_min}; accepted: at most train.beta_max = {self.beta_max}")
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError(
                "train.zero_terminal_snr = True with train.prediction = 'eps': x_T holds nothing of the image, so that its "
                "noise says nothing about it; accepted: train.prediction v or x0, or train.zero_terminal_snr false"
            )
        return self


def norm_groups(width: int) -> int:
    """Groups of a group norm over `width` channels: the largest divisor that leaves 4 channels a group, at most 32."""
    return max(groups for groups in range(1, min(32, max(1, width // 4)) + 1) if width % groups == 0)
