"""The network against hand-written layers, its own promises, and the published sizes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.model.settings import norm_groups
from ddpm.model.unet import (
    BilinearDoubling,
    LayerNorm,
    ResidualBlock,
    SelfAttention,
    Style,
    UNet,
    build_network,
    doubled,
    timestep_embedding,
)
from ddpm.recipe import resolve
from ddpm.training.settings import TrainConfig
from stages import load_params
from tiny import randomised, train_config


def images(count: int = 2, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def count_by_hand(config: TrainConfig) -> int:
    """The number of parameters, from the documents' description of the network."""
    emb = 4 * config.time_emb_dim

    def conv(a: int, b: int, kernel: int) -> int:
        return a * b * kernel**2 + b

    def residual(a: int, b: int) -> int:
        skip = 0 if a == b else conv(a, b, 1)
        return 2 * a + conv(a, b, 3) + conv(emb, b, 1) + 2 * b + conv(b, b, 3) + skip

    def attention(c: int) -> int:
        return 2 * c + conv(c, 3 * c, 1) + conv(c, c, 1)

    channels, last = config.channels, len(config.channels) - 1
    total = conv(config.time_emb_dim, emb, 1) + conv(emb, emb, 1) + conv(3, channels[0], 3)
    total += config.neck_length * residual(channels[-1], channels[-1])
    for i, width in enumerate(channels):
        above, below = channels[max(0, i - 1)], channels[min(i + 1, last)]
        repeats = (config.num_res - 1) * residual(width, width)
        total += residual(above, width) + repeats  # down
        total += residual(below + width, width) + repeats  # up
        total += conv(width, width, 3) * (i < last) + 2 * attention(width) * config.attention[i]
    return total + 2 * channels[0] + conv(channels[0], 3, 3)


def test_a_new_network_outputs_exactly_0() -> None:
    network = build_network(train_config())
    assert not network(images(), torch.tensor([1, 100])).any()


def test_every_parameter_learns() -> None:
    """Zero weights open one after another: the head in the first step, the branches behind it in the next ones."""
    network = build_network(train_config(channels=[8, 12], attention=[True, True], neck_length=2, num_res=2))
    before = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for step in range(4):
        (network(images(seed=step), torch.tensor([3, 50])) - images(seed=99)).square().mean().backward()
        optimizer.step()
    still = [
        name for (name, new), old in zip(network.named_parameters(), before.parameters(), strict=True) if torch.equal(new, old)
    ]
    assert not still


def test_each_block_gets_its_own_shift() -> None:
    """The one product for all blocks gives what each block's own layer gives, in the order of use."""
    network = randomised(build_network(train_config(channels=[8, 4, 12], attention=[False] * 3, num_res=2)))
    t, used = torch.tensor([1, 50]), []
    for name, module in network.named_modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(lambda block, inputs, output, name=name: used.append((name, block, inputs[1])))
    network(images(), t)
    downs, ups = ([f"{part}.{level}.blocks.{i}" for level in range(3) for i in (0, 1)] for part in ("downs", "ups"))
    assert [name for name, _, _ in used] == [*downs, "neck.0", *ups[4:], *ups[2:4], *ups[:2]]
    emb = network.time(timestep_embedding(t, network.time_emb_dim))
    for name, block, shift in used:
        torch.testing.assert_close(shift[:, :, 0, 0], block.time(emb), msg=name)


@pytest.mark.parametrize(("ours", "theirs"), [(False, "default"), (True, "scale_shift")])
def test_a_residual_block_is_that_of_diffusers(ours: bool, theirs: str) -> None:
    resnet = pytest.importorskip("diffusers.models.resnet")
    block = randomised(ResidualBlock(8, 12, 16, Style(scale_shift_norm=ours)))
    groups = {"groups": norm_groups(8), "groups_out": norm_groups(12), "eps": 1e-5}
    peer = resnet.ResnetBlock2D(in_channels=8, out_channels=12, temb_channels=16, time_embedding_norm=theirs, **groups)
    names = {"time": "time_emb_proj", "skip": "conv_shortcut"}
    values = {names.get(name.partition(".")[0], name.partition(".")[0]) + "." + name.partition(".")[2]: value
              for name, value in block.state_dict().items()}  # fmt: skip
    peer.load_state_dict(values)
    x, emb = torch.randn(2, 8, 6, 6), torch.randn(2, 16)
    torch.testing.assert_close(block(x, block.time(F.silu(emb))[:, :, None, None]), peer(x, emb))


def test_each_block_of_a_network_that_scales_gets_its_own_scale_and_shift() -> None:
    network = build_network(train_config(scale_shift_norm=True, time_in="neck"))
    shifts = list(network.shifts(torch.tensor([1, 2])))
    assert {None if shift is None else tuple(shift.shape) for shift in shifts} == {
        None,
        (2, 2 * train_config().channels[-1], 1, 1),
    }
    network = randomised(build_network(train_config(scale_shift_norm=True)))
    x, first = images(1), network(images(1), torch.tensor([1]))
    assert not torch.allclose(network(x, torch.tensor([90])), first)
    plain = sum(p.numel() for p in build_network(train_config()).parameters())
    more = sum(block.time.weight.numel() + block.time.bias.numel() for block in network._in_order) // 2
    assert sum(p.numel() for p in network.parameters()) == plain + more


def test_the_output_depends_on_t() -> None:
    network = randomised(build_network(train_config()))
    outputs = network(images(1).expand(4, -1, -1, -1), torch.tensor([1, 2, 50, 100])).detach()
    for i in range(3):
        assert float((outputs[i] - outputs[i + 1]).abs().max()) > 1e-4


@pytest.mark.parametrize("attention", [[False, True], [True, False]])
def test_a_pixel_sees_the_whole_image(attention: list[bool]) -> None:
    network = randomised(build_network(train_config(attention=attention)))
    x = images(1, size=32).requires_grad_()
    network(x, torch.tensor([7]))[0, 0, 0, 0].backward()
    assert (x.grad != 0).all()


def test_without_attention_a_pixel_sees_only_its_surroundings() -> None:
    """Group norm's statistics aside: the check that the test above can fail."""
    network = randomised(UNet(3, [4], [False], 1, 0, 8))
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    x = images(1, size=32).requires_grad_()
    network(x, torch.tensor([7]))[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert not x.grad[..., 12:].any()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_skip_carries_the_image_upwards(level: int) -> None:
    """All other ways are cut: the other levels' skips, and the bottom's output to the neck."""
    network = randomised(build_network(train_config(channels=[4, 8, 12], attention=[False] * 3)))
    for i, down in enumerate(network.downs):
        if i != level:
            down.register_forward_hook(lambda module, inputs, output: (output[0], torch.zeros_like(output[1])))
    network.downs[-1].register_forward_hook(lambda module, inputs, output: (torch.zeros_like(output[0]), output[1]))
    x = images(1).requires_grad_()
    network(x, torch.tensor([7])).sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_images_of_a_batch_do_not_mix() -> None:
    network = randomised(build_network(train_config())).eval()
    x, t = images(3), torch.tensor([1, 50, 100])
    together = network(x, t)
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], t[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-4)


def test_attention_is_softmax_attention() -> None:
    layer = randomised(SelfAttention(8))
    x = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    normed = (x - x.view(2, 2, -1).mean(-1).repeat_interleave(4, 1)[..., None, None]) / (
        x.view(2, 2, -1).var(-1, unbiased=False).repeat_interleave(4, 1)[..., None, None] + 1e-5
    ).sqrt()
    normed = normed * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
    qkv = torch.einsum("oc,bchw->bohw", layer.qkv.weight[:, :, 0, 0], normed) + layer.qkv.bias[:, None, None]
    q, k, v = qkv.flatten(2).split(8, dim=1)  # each (B, C, HW)
    weights = (torch.einsum("bcq,bck->bqk", q, k) / math.sqrt(8)).softmax(-1)
    attended = torch.einsum("bqk,bck->bcq", weights, v)
    out = torch.einsum("oc,bcq->boq", layer.out.weight[:, :, 0, 0], attended) + layer.out.bias[:, None]
    torch.testing.assert_close(layer(x), x + out.view(2, 8, 3, 5), rtol=1e-4, atol=1e-5)


def test_timestep_embedding_is_the_formula() -> None:
    t = [0, 1, 17, 1000]
    embedded = timestep_embedding(torch.tensor(t), 6)
    for row, step in zip(embedded.tolist(), t, strict=True):
        angles = [step / 10000 ** (i / 3) for i in range(3)]
        assert row == pytest.approx([*map(math.cos, angles), *map(math.sin, angles)], abs=2e-4)


def test_channels_last_changes_nothing() -> None:
    network = randomised(build_network(train_config())).eval()
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x, t = images(), torch.tensor([1, 50])
    expected = network(x, t)
    for format_ in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(last(x.to(memory_format=format_), t), expected, rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only() -> None:
    network = randomised(build_network(train_config(dropout=0.5)))
    x, t = images(), torch.tensor([1, 50])
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = build_network(train_config(), 5)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after), "the global generator is left as it was"
    b, c = build_network(train_config(), 5), build_network(train_config(), 6)
    assert torch.equal(a.stem.weight, b.stem.weight)
    assert not torch.equal(a.stem.weight, c.stem.weight)


GOLDEN = {"cifar10": 20_102_339, "celeba": 99_702_339}


@pytest.mark.parametrize("recipe", GOLDEN)
def test_the_published_networks(recipe: str) -> None:
    config = resolve(load_params("full"), recipe)[0].train
    with torch.device("meta"):
        network = UNet(3, config.channels, config.attention, config.num_res, config.neck_length, config.time_emb_dim)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == count_by_hand(config) == GOLDEN[recipe]
    if recipe == "celeba":
        assert 95e6 < parameters < 105e6, "published: about 100 M"


@pytest.mark.parametrize(
    ("channels", "attention", "num_res", "neck_length"),
    [([4], [False], 1, 0), ([8, 4], [True, False], 2, 0), ([4, 8, 12], [False, True, True], 1, 3)],
)
def test_other_networks_have_the_parameters_counted_by_hand(
    channels: list[int], attention: list[bool], num_res: int, neck_length: int
) -> None:
    config = train_config(channels=channels, attention=attention, num_res=num_res, neck_length=neck_length)
    network = build_network(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == count_by_hand(config)
    x = images(1, size=16)
    assert randomised(network)(x, torch.tensor([3])).shape == x.shape


def test_128_pixels_and_six_levels() -> None:
    levels = [False, False, False, False, True, True]
    with torch.device("meta"):
        wide = UNet(3, [64, 64, 128, 256, 512, 512], levels, 2, 2)
        assert wide(torch.empty(1, 3, 128, 128), torch.ones(1, dtype=torch.int64)).shape == (1, 3, 128, 128)
    network = randomised(build_network(train_config(channels=[4, 4, 4, 8, 8, 8], attention=levels)))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = network(images(1, size=128), torch.tensor([9])).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("upsample", ["bilinear", "transposed"])
@pytest.mark.parametrize("downsample", ["conv", "max_pool"])
def test_odd_sides_are_halved_upwards(downsample: str, upsample: str) -> None:
    """Document 003's levels: 28, 14, 7 and 4 pixels."""
    config = train_config(channels=[4, 8, 8, 12], attention=[False] * 4, downsample=downsample, upsample=upsample)
    network = randomised(build_network(config, in_channels=1))
    sizes = []
    for down in network.downs:
        down.register_forward_hook(lambda module, inputs, output: sizes.append(output[1].shape[-1]))
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = network(x, torch.tensor([1, 50]))
    assert sizes == [28, 14, 7, 4]
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).all()), "the last row and column are seen too"


def test_sizes_that_cannot_be_halved_are_refused() -> None:
    network = UNet(3, [4, 4, 4], [False] * 3, 1, 0)
    with pytest.raises(ValueError, match="too small to be halved 2 times"):
        network(torch.zeros(1, 3, 8, 2), torch.tensor([1]))
    with pytest.raises(ValueError, match="must have equal length"):
        UNet(3, [4, 4], [False], 1, 0)


def test_heads_attend_side_by_side() -> None:
    """Several heads are torch's multi-head attention with the same weights."""
    layer = randomised(SelfAttention(12, heads=3))
    layer.norm = torch.nn.Identity()
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(layer.qkv.weight[:, :, 0, 0])
        theirs.in_proj_bias.copy_(layer.qkv.bias)
        theirs.out_proj.weight.copy_(layer.out.weight[:, :, 0, 0])
        theirs.out_proj.bias.copy_(layer.out.bias)
    x = torch.randn(2, 12, 3, 5, generator=torch.Generator().manual_seed(0))
    tokens = x.flatten(2).transpose(1, 2)
    attended = theirs(tokens, tokens, tokens)[0].transpose(1, 2).view_as(x)
    torch.testing.assert_close(layer(x), x + attended, rtol=1e-4, atol=1e-5)


def test_layer_norm_is_over_the_channels_of_a_position() -> None:
    x = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    torch.testing.assert_close(LayerNorm(8)(x), (x - mean) / (variance + 1e-5).sqrt(), rtol=1e-4, atol=1e-5)


def test_time_in_the_neck_only() -> None:
    network = randomised(build_network(train_config(time_in="neck", neck_length=2, neck_attention=True)))
    timed = [name for name, module in network.named_modules() if isinstance(module, ResidualBlock) and module.time]
    assert timed == ["neck.0", "neck.1"]
    outputs = network(images(1).expand(2, -1, -1, -1), torch.tensor([1, 90])).detach()
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-4, "and yet the output depends on it"


def test_batch_norm_is_the_batch_s() -> None:
    """In training an image's output depends on the other images, in sampling it does not."""
    network = randomised(build_network(train_config(norm="batch", activation="relu")))
    x, t = images(3), torch.tensor([5, 50, 90])
    assert float((network(x, t)[:1] - network(x[:2], t[:2])[:1]).detach().abs().max()) > 1e-4
    network.eval()
    torch.testing.assert_close(network(x, t)[:1], network(x[:1], t[:1]), rtol=1e-4, atol=1e-4)


def test_context_moves_the_output_and_zeros_are_none() -> None:
    network = randomised(build_network(train_config(context_dim=5)))
    x, t = images(1).expand(3, -1, -1, -1), torch.tensor([7, 7, 7])
    context = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0], [0.5, 0, 0, 0, 0.5]])
    outputs = network(x, t, context).detach()
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert float((outputs[i] - outputs[j]).abs().max()) > 1e-4
    assert torch.equal(network(x, t), network(x, t, torch.zeros(3, 5)))
    with pytest.raises(ValueError, match=r"context has shape \(3, 4\); accepted: \(3, 5\)"):
        network(x, t, torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"accepted: \(3, 0\)"):
        build_network(train_config())(x, t, context)


def test_an_unconditional_network_s_weights_do_not_depend_on_later_choices() -> None:
    plain, conditional = build_network(train_config(), 3), build_network(train_config(context_dim=5, neck_attention=True), 3)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, conditional.get_parameter(name)), name


def test_norm_groups() -> None:
    assert {width: norm_groups(width) for width in (4, 8, 48, 64, 128, 256, 384, 512, 1024, 148)} == {
        4: 1, 8: 2, 48: 12, 64: 16, 128: 32, 256: 32, 384: 32, 512: 32, 1024: 32, 148: 4,
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 7, 5), (1, 1, 1, 4), (1, 2, 1, 1)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("double", [BilinearDoubling(), lambda x: doubled(doubled(x, 2), 3)], ids=["products", "slices"])
def test_doubling_is_bilinear_interpolation(
    double: Callable[[Tensor], Tensor], shape: tuple[int, ...], order: torch.memory_format
) -> None:
    """In products on a CPU, in slices on a GPU, each with its gradient; in bf16 it stays in bf16."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=order)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = double(ours)
    expected = F.interpolate(theirs, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-15)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for result in (out, expected):
        (result * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=4e-15)
    assert double(x.bfloat16()).dtype == torch.bfloat16
