"""A network prepared for sampling computes what it computed before; compiled and captured ones nearly so."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm.machine.compilation import forward_flops, sampling_repays, training_repays
from ddpm.machine.precision import autocast
from ddpm.model.unet import UNet, build_network
from ddpm.sampling.fast import prepare
from tiny import randomised, train_config

CPU = torch.device("cpu")


@pytest.fixture
def network() -> UNet:
    built = randomised(build_network(train_config(channels=[8, 16])))
    assert isinstance(built, UNet)
    return built.eval().requires_grad_(False)


def inputs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(1, count + 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eager_calls_give_the_same_bits(network: UNet, precision: str) -> None:
    """In bf16 too: casting the weights once is what autocast does at every call."""
    x_t, t = inputs()
    with autocast(precision, CPU):
        expected = copy.deepcopy(network)(x_t, t)
    out = prepare(network, precision, CPU)(x_t, t)
    assert torch.equal(out, expected)
    assert not out.requires_grad
    kinds = {type(module): module.weight.dtype for module in network.modules() if hasattr(module, "weight")}
    assert kinds[nn.GroupNorm] == torch.float32, "norms stay fp32"
    assert kinds[nn.Conv2d] == kinds[nn.Linear] == (torch.bfloat16 if precision == "bf16" else torch.float32)


def test_every_choice_of_blocks_gives_the_same_bits() -> None:
    """Transposed convolutions, batch norm and a context, in bf16."""
    config = train_config(
        norm="batch", activation="relu", upsample="transposed", heads=2, neck_attention=True, context_dim=5, time_in="neck"
    )
    network = randomised(build_network(config)).eval().requires_grad_(False)
    x_t, t = inputs()
    context = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    with autocast("bf16", CPU):
        expected = copy.deepcopy(network)(x_t, t, context)
    assert torch.equal(prepare(network, "bf16", CPU)(x_t, t, context), expected)
    assert network.ups[0].upsample.weight.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_calls_agree_at_every_shape(network: UNet, precision: str) -> None:
    exact = copy.deepcopy(network)
    call = prepare(network, precision, CPU, compile=True)
    for count in (3, 2):
        x_t, t = inputs(count)
        tolerance = 1e-4 if precision == "fp32" else 0.1
        torch.testing.assert_close(call(x_t, t).float(), exact(x_t, t), rtol=tolerance, atol=tolerance)


def test_flops_of_known_layers() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.time = nn.Conv2d(3, 7, 3, padding=1), nn.Linear(1, 5)

        def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.conv(x_t).sum() + self.time(t.float()[:, None]).sum()

    assert forward_flops(Layers(), (3, 8, 6)) == 2 * 3 * 7 * 9 * 8 * 6 + 2 * 5


@pytest.mark.parametrize("changes", [{}, {"upsample": "transposed", "attention": [False, True], "heads": 2}])
def test_flops_are_those_that_torch_counts_of_the_layers(changes: dict[str, Any]) -> None:
    network = build_network(train_config(channels=[16, 32], **changes))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32), torch.ones(1, dtype=torch.int64))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    embedding = sum(2 * layer.weight.numel() for layer in network.time if isinstance(layer, nn.Linear))
    assert forward_flops(network, (3, 32, 32)) == convolutions + embedding


def test_what_repays_a_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert not training_repays(1e30, CPU), "measured: it never does"
    assert [training_repays(flops, cuda) for flops in (1e15, 1e17)] == [False, True]
    assert not sampling_repays(1e12, CPU)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    assert sampling_repays(1e15, CPU)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not sampling_repays(1e15, CPU), "no compiler"
