"""What is reported of the steps of a training: sums on its device, read at the end of an interval of log_every steps."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.training.settings import TrainConfig

MAX_SKIPPED = 5  # steps in a row without a usable gradient: more end the training
QUARTERS = 4  # of the timesteps 1..T, by which the loss is reported

# Rows of History.sums. The loss of a step is the mean of its images' losses; those of the quarters are sums over images.
_STEPS, _SKIPPED, _GRAD_NORM, _LOSS = range(4)
_QUARTER_LOSS = slice(4, 4 + QUARTERS)
_QUARTER_COUNT = slice(4 + QUARTERS, 4 + 2 * QUARTERS)


def loss_sums(losses: Tensor, t: Tensor, num_timesteps: int) -> Tensor:
    """Of each image's loss (B,) at t (B,): float32 (9,), the sum, the sums by quarter of 1..T, the images in each quarter."""
    quarter = (t - 1) * QUARTERS // num_timesteps
    by_quarter = losses.new_zeros(QUARTERS).index_add_(0, quarter, losses)
    count = losses.new_zeros(QUARTERS).index_add_(0, quarter, torch.ones_like(losses))
    return torch.cat([losses.sum()[None], by_quarter, count])


class History:
    """Sums over the steps of each interval; a step without a usable gradient is counted and adds nothing else."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.sums = torch.zeros(_QUARTER_COUNT.stop, math.ceil(config.steps / config.log_every), device=device)
        self.skipped_in_a_row = torch.zeros((), device=device)  # since the last step with a usable gradient

    def add(self, step: int, sums: Tensor, grad_norm: Tensor, usable: Tensor) -> None:
        """Add step 0, 1, ...: `loss_sums` of the whole batch, the gradient's norm () and whether it was usable, bool ()."""
        measured = torch.cat([torch.stack([grad_norm, sums[0] / self.config.batch_size]), sums[1:]])
        counts = torch.stack([usable, ~usable]).float()
        self.sums[:, step // self.config.log_every] += torch.cat([counts, measured.where(usable, 0.0)])
        self.skipped_in_a_row.add_(1).mul_(~usable)

    def check(self, step: int) -> None:
        """Raise Fault if the last steps up to `step` (1, 2, ...), more than MAX_SKIPPED, had no usable gradient."""
        if (skipped := int(self.skipped_in_a_row)) > MAX_SKIPPED:
            raise Fault(
                f"the last {skipped} steps, up to step {step}, had an infinite or NaN loss or gradient and changed nothing. "
                "Lower train.lr or train.grad_clip, raise train.warmup_steps, or set train.precision=fp32"
            )

    def loss(self, step: int) -> float:
        """The mean loss over the interval that ends with `step` (1, 2, ...), NaN if none of its steps was usable."""
        last = self.sums[:, (step - 1) // self.config.log_every]
        return float(last[_LOSS] / last[_STEPS])

    def rows(self) -> list[dict[str, Any]]:
        """A row for every log_every steps: means over them of the loss, of the loss of images whose t fell in each quarter
        of 1..T (loss_q1: the least noise), and of the gradient's norm; the learning rate at their end; the skipped steps.
        A mean over nothing is None.
        """
        rows = []
        for interval, sums in enumerate(self.sums.double().T.tolist(), 1):
            end = min(interval * self.config.log_every, self.config.steps)
            means = {"loss": _mean(sums[_LOSS], sums[_STEPS])}
            for number, quarter in enumerate(zip(sums[_QUARTER_LOSS], sums[_QUARTER_COUNT], strict=True), 1):
                means[f"loss_q{number}"] = _mean(*quarter)
            means["grad_norm"] = _mean(sums[_GRAD_NORM], sums[_STEPS])
            lr = float(f"{self.config.lr_at(end - 1):.6g}")
            rows.append({"step": end, **means, "lr": lr, "skipped": int(sums[_SKIPPED])})
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return {"sums": self.sums.cpu(), "skipped_in_a_row": self.skipped_in_a_row.cpu()}

    def load_state_dict(self, values: dict[str, Tensor]) -> None:
        intervals = min(self.sums.shape[1], values["sums"].shape[1])  # a longer run continues a shorter one
        self.sums[:, :intervals] = values["sums"][:, :intervals]
        self.skipped_in_a_row.copy_(values["skipped_in_a_row"])


def speed_rows(speed: list[list[float]], batch_size: int) -> list[dict[str, float]]:
    """Of TrainState.speed, a row for every log_every steps: images a second over them, the peak memory so far in MB (10**6)."""
    return [
        {
            "step": int(step),
            "images_per_second": round((step - step_before) * batch_size / (seconds - seconds_before), 1),
            "peak_memory_mb": round(memory / 1e6, 1),
        }
        for (step_before, seconds_before, _), (step, seconds, memory) in pairwise([[0, 0.0, 0], *speed])
    ]


def _mean(total: float, count: float) -> float | None:
    return round(total / count, 6) if count else None
