"""The average against its closed form; the live network is left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ddpm.training.ema import EMA, ema_decay_at

USED = torch.ones(())


def scalar(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, value)
    return layer


def test_warm_up_has_the_closed_form() -> None:
    """From 0 towards a constant 1: what is left is the product of (1 + k) / (10 + k), a ratio of factorials."""
    live = scalar(0.0)
    ema = EMA(live, 0.9999)
    nn.init.constant_(live.weight, 1.0)
    for n in range(1, 41):
        ema.update(n, USED)
        left = math.factorial(n + 1) * math.factorial(10) / math.factorial(n + 10)
        assert float(ema.network.weight) == pytest.approx(1 - left, rel=1e-12)


def test_after_the_warm_up_weights_fall_geometrically() -> None:
    """Decay 0.5 is reached at step 8; the live value is n at step n."""
    live = scalar(0.0)
    ema = EMA(live, 0.5)
    expected = 0.0
    for n in range(1, 60):
        nn.init.constant_(live.weight, float(n))
        ema.update(n, USED)
        decay = (1 + n) / (10 + n) if n < 8 else 0.5
        expected = decay * expected + (1 - decay) * n
        assert float(ema.network.weight) == pytest.approx(expected, rel=1e-12)
    assert float(ema.network.weight) == pytest.approx(59 - 1, rel=1e-12), "a lag of decay / (1 - decay) = 1 step"


def test_the_decay_is_capped() -> None:
    assert ema_decay_at(1, 0.9999) == pytest.approx(2 / 11)
    assert ema_decay_at(89_990, 0.9999) == pytest.approx(0.9999, abs=1e-9)
    assert ema_decay_at(10**9, 0.9999) == 0.9999
    assert ema_decay_at(1, 0.0) == 0.0


def test_the_live_network_is_untouched_and_the_copy_is_frozen() -> None:
    live = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    live.train()
    before = [parameter.detach().clone() for parameter in live.parameters()]
    ema = EMA(live, 0.9)
    ema.update(1, USED)
    assert live.training
    assert all(parameter.requires_grad for parameter in live.parameters())
    for parameter, old in zip(live.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    assert not any(module.training for module in ema.network.modules())
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    with torch.no_grad():
        live[0].weight.add_(1)
    assert torch.equal(ema.network[0].weight, before[0]), "no shared memory"


@pytest.mark.parametrize("decay", [0.2, 0.999])
def test_an_unusable_step_leaves_the_average_as_it_is_and_a_usable_one_is_a_plain_lerp(decay: float) -> None:
    """To the last bit, in the warm-up, whose weight is above 1/2, and after it."""
    live = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    ema = EMA(live, decay)
    for step in (1, 2, 30, 1000):
        with torch.no_grad():
            for parameter in live.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        before = [parameter.clone() for parameter in ema.network.parameters()]
        ema.update(step, torch.zeros(()))
        assert all(torch.equal(a, b) for a, b in zip(ema.network.parameters(), before, strict=True))
        ema.update(step, USED)
        for average, old, new in zip(ema.network.parameters(), before, live.parameters(), strict=True):
            assert torch.equal(average, old.lerp(new.detach(), 1 - ema_decay_at(step, decay)))
