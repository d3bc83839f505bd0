"""The way from noise to image as it is shown: no frames of mere noise, no jump of contrast, the image itself at the end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ddpm.model.pixels import to_uint8
from ddpm.model.schedule import NoiseSchedule, cosine_schedule, linear_schedule
from ddpm.sampling.samplers import SampleState
from ddpm.sampling.settings import sampler_of
from stages.path import FRAMES, evenly, frames_of, noise_share, spread


def walker(schedule: NoiseSchedule, images: torch.Tensor) -> Any:
    """A model whose states are `images` (B, C, H, W) under the noise of each step."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))

    def states(count: int, sampler: Any, seed: int, classes: Any, guidance: float) -> Iterator[SampleState]:
        for t in sampler.grid(schedule)[1:]:
            share = noise_share(schedule, t)
            yield SampleState(t, (1 - share**2) ** 0.5 * images + share * noise, images)

    return SimpleNamespace(schedule=schedule, classes=(), states=states)


@pytest.mark.parametrize("schedule", [cosine_schedule(1000), linear_schedule(1000)])
def test_frames_show_something_and_do_not_jump(schedule: NoiseSchedule) -> None:
    images = (torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1) ** 3 + 0.3
    frames = frames_of(walker(schedule, images), sampler_of("ddpm 250"), 4, 0, 1.0)
    assert len(frames) == FRAMES
    assert (frames[0].t, frames[-1].t) == (996, 0)
    assert np.array_equal(frames[-1].x_t, to_uint8(images))
    noisy = [frame for frame in frames if noise_share(schedule, frame.t) > 0.9]
    assert len(noisy) <= FRAMES / 5, "noise in which nothing is seen"
    for one, other in pairwise(frames):
        assert abs(one.x_t.std() - other.x_t.std()) < 10, "of 255"
        assert abs(one.x_t.mean() - other.x_t.mean()) < 25


def test_few_states_are_all_shown() -> None:
    schedule = cosine_schedule(20)
    frames = frames_of(walker(schedule, torch.zeros(1, 1, 4, 4)), sampler_of("ddim 4"), 1, 0, 1.0)
    assert [frame.t for frame in frames] == [15, 10, 5, 0]


def test_evenly_takes_the_nearest_and_both_ends() -> None:
    assert evenly([1.0, 0.99, 0.98, 0.6, 0.5, 0.4, 0.0], 3) == {0, 4, 6}
    assert evenly([0.7], 5) == {0}


def test_the_spread_is_between_images_and_not_within_them() -> None:
    chequered = np.indices((1, 4, 4, 1)).sum(0).astype(np.uint8) % 2 * 255
    assert spread(chequered.repeat(3, 0)) == 0
    assert spread(np.concatenate([chequered, 255 - chequered])) == pytest.approx(0.5)
