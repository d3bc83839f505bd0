"""The average against its closed form; the live network is left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ddpm.ema import EMA, ema_decay_at


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
        ema.update(live, n)
        left = math.factorial(n + 1) * math.factorial(10) / math.factorial(n + 10)
        assert float(ema.network.weight) == pytest.approx(1 - left, rel=1e-12)


def test_after_the_warm_up_weights_fall_geometrically() -> None:
    """Decay 0.5 is reached at step 8; the live value is n at step n."""
    live = scalar(0.0)
    ema = EMA(live, 0.5)
    expected = 0.0
    for n in range(1, 60):
        nn.init.constant_(live.weight, float(n))
        ema.update(live, n)
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
    ema.update(live, 1)
    assert live.training
    assert all(parameter.requires_grad for parameter in live.parameters())
    for parameter, old in zip(live.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    assert not any(module.training for module in ema.network.modules())
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    with torch.no_grad():
        live[0].weight.add_(1)
    assert torch.equal(ema.network[0].weight, before[0]), "no shared memory"
