"""The U-Net of documents 000 and 001: one DownBlock and one UpBlock a resolution level, residual blocks in the neck.

Maps float (B, in_channels, H, W), int64 t (B,) and, where it is conditional, a context (B, context_dim) to float
(B, in_channels, H, W). An odd side is halved upwards, 7 to 4, and what upsampling then has too much is cut off. The last
convolution of every residual branch and of the head starts at zero, so that a new network outputs exactly 0 and each
block starts as the identity. `Style` holds the choices in which documents 002 to 004 differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.base.seeds import derive_seed
from ddpm.model.settings import ModelConfig, norm_groups


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of t (B,): float32 (B, width), cosines then sines (Vaswani et al. 2017, section 3.5)."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t.float()[:, None] * frequencies  # (B, width / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero_init(module: nn.Conv2d) -> nn.Conv2d:
    """Set weight and bias to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Style(NamedTuple):
    """What the blocks are made of, the same in the whole network. The values are those of ModelConfig."""

    norm: str = "group"
    activation: str = "silu"
    downsample: str = "conv"
    upsample: str = "bilinear"
    heads: int = 1
    dropout: float = 0.0
    scale_shift_norm: bool = False

    def normalise(self, width: int) -> nn.Module:
        return nn.BatchNorm2d(width) if self.norm == "batch" else nn.GroupNorm(norm_groups(width), width)

    def activate(self) -> nn.Module:
        return nn.ReLU() if self.activation == "relu" else nn.SiLU()

    def halve(self, width: int) -> nn.Module:
        """Halve height and width, an odd one upwards."""
        if self.downsample == "max_pool":
            return nn.MaxPool2d(2, ceil_mode=True)
        return nn.Conv2d(width, width, 3, stride=2, padding=1)

    def attend(self, width: int) -> nn.Module:
        return SelfAttention(width, self.heads, self.normalise(width))

    def double(self, width: int) -> nn.Module:
        if self.upsample == "transposed":
            return nn.ConvTranspose2d(width, width, 2, stride=2)
        return BilinearDoubling()


PLAIN = Style()


class BilinearDoubling(nn.Module):
    """Height and width doubled by bilinear interpolation, as F.interpolate does it without aligned corners.

    On a CPU as two matrix products, which take a fifth to a third of F.interpolate's time in bf16, gradient included.
    On a GPU F.interpolate computes in fp32 under autocast, and its gradient adds up in an order that changes from run to
    run: there each output is 3/4 of the nearest input and 1/4 of the next, in slices. All are equal but for rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W), in the dtype of `x`."""
        if x.device.type != "cpu":
            return doubled(doubled(x, 2), 3)
        rows, columns = (doubled(torch.eye(size), 0).to(x.dtype) for size in x.shape[-2:])
        return rows @ (x @ columns.T)


def doubled(x: Tensor, dim: int) -> Tensor:
    """`x` with linearly interpolated values along `dim`, two for each; beyond the edges its outermost values go on."""
    count = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, count - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, count - 1), x.narrow(dim, count - 1, 1)], dim)
    return torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim + 1).flatten(dim, dim + 1)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the channels at each position of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norm and activation, a shift that depends on time between them, and a skip around both.

    `time` maps the embedding of time and context, `emb_dim` wide, to the shift; UNet.shifts applies it for all blocks at
    once. `emb_dim` = 0 makes a block that sees neither. With scale_shift_norm the shift comes after the second norm, and a
    scale before it: adaptive group norm (Dhariwal and Nichol 2021, arXiv 2105.05233, section 3.1).
    """

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, style: Style = PLAIN) -> None:
        super().__init__()
        self.norm1 = style.normalise(in_channels)
        self.activate = style.activate()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scales = style.scale_shift_norm and emb_dim > 0
        self.time = nn.Linear(emb_dim, (1 + self.scales) * out_channels) if emb_dim else None
        self.norm2 = style.normalise(out_channels)
        self.dropout = nn.Dropout(style.dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, shift: Tensor | None) -> Tensor:
        """x (B, in, H, W), shift (B, out, 1, 1), or scale and shift (B, 2 out, 1, 1) -> (B, out, H, W)."""
        h = self.conv1(self.activate(self.norm1(x)))
        if shift is None:
            h = self.norm2(h)
        elif self.scales:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + shift)
        h = self.conv2(self.dropout(self.activate(h)))
        return self.skip(x) + h


class SelfAttention(nn.Module):
    """Every position attends to every other (Vaswani et al. 2017), with a norm before and a skip around.

    `heads`, a divisor of `channels`, attend side by side, each in its part of the channels.
    """

    def __init__(self, channels: int, heads: int = 1, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm or PLAIN.normalise(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, HW, 3C)
        q, k, v = qkv.unflatten(2, (3, self.heads, c // self.heads)).permute(2, 0, 3, 1, 4)  # each (B, heads, HW, C / heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(2, 3).reshape(b, c, h, w))


class DownBlock(nn.Module):
    """`num_res` residual blocks, optional self-attention, then a strided convolution or max-pooling, absent at the bottom."""

    def __init__(
        self,
        in_channels: int,
        block_channels: int,
        num_res: int,
        emb_dim: int,
        attention: bool = False,
        no_downsample: bool = False,
        style: Style = PLAIN,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [block_channels] * num_res
        self.blocks = nn.ModuleList(ResidualBlock(a, b, emb_dim, style) for a, b in pairwise(widths))
        self.attention = style.attend(block_channels) if attention else nn.Identity()
        self.downsample = nn.Identity() if no_downsample else style.halve(block_channels)

    def forward(self, x: Tensor, shifts: Iterator[Tensor | None]) -> tuple[Tensor, Tensor]:
        """x (B, in, H, W) -> the input of the next level (B, block, ceil(H/2), ceil(W/2)) and the skip (B, block, H, W)."""
        for block in self.blocks:
            x = block(x, next(shifts))
        skip = self.attention(x)
        return self.downsample(skip), skip


class UpBlock(nn.Module):
    """Upsampling, absent at the bottom, the skip of its level concatenated, `num_res` residual blocks, attention."""

    def __init__(
        self,
        in_channels: int,
        block_channels: int,
        num_res: int,
        emb_dim: int,
        attention: bool = False,
        no_upsample: bool = False,
        style: Style = PLAIN,
    ) -> None:
        super().__init__()
        self.upsample = nn.Identity() if no_upsample else style.double(in_channels)
        widths = [in_channels + block_channels] + [block_channels] * num_res
        self.blocks = nn.ModuleList(ResidualBlock(a, b, emb_dim, style) for a, b in pairwise(widths))
        self.attention = style.attend(block_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor, shifts: Iterator[Tensor | None]) -> Tensor:
        """x (B, in, ceil(H/2), ceil(W/2)), skip (B, block, H, W) -> (B, block, H, W)."""
        x = self.upsample(x)[..., : skip.shape[-2], : skip.shape[-1]]  # an odd side was halved upwards
        x = torch.cat([x, skip], dim=1)
        for block in self.blocks:
            x = block(x, next(shifts))
        return self.attention(x)


class UNet(nn.Module):
    """The network: `channels` and `attention` have one entry a level, from the image's resolution downwards.

    `context_dim` > 0 makes it conditional on a vector, of which zeros mean none. `time_in` = "neck" lets only the blocks of
    the neck see time and context (document 003). `neck_attention`: self-attention with layer norm after these blocks.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        attention: Sequence[bool],
        num_res: int,
        neck_length: int,
        time_emb_dim: int = 64,
        *,
        context_dim: int = 0,
        time_in: str = "blocks",
        neck_attention: bool = False,
        style: Style = PLAIN,
    ) -> None:
        super().__init__()
        if len(channels) != len(attention):
            raise ValueError(f"channels {list(channels)} and attention {list(attention)} must have equal length")
        self.time_emb_dim, self.context_dim = time_emb_dim, context_dim
        emb_dim = 4 * time_emb_dim
        block_emb = 0 if time_in == "neck" else emb_dim
        self.time = nn.Sequential(nn.Linear(time_emb_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim), nn.SiLU())
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        bottom = len(channels) - 1
        above = [channels[0], *channels[:-1]]
        below = [*channels[1:], channels[-1]]
        self.downs = nn.ModuleList(
            DownBlock(above[i], channels[i], num_res, block_emb, attention[i], i == bottom, style) for i in range(len(channels))
        )
        self.neck = nn.ModuleList(ResidualBlock(channels[-1], channels[-1], emb_dim, style) for _ in range(neck_length))
        self.ups = nn.ModuleList(
            UpBlock(below[i], channels[i], num_res, block_emb, attention[i], i == bottom, style) for i in range(len(channels))
        )
        parts = [*self.downs, self.neck, *reversed(self.ups)]  # in the order of use; a list registers no module twice
        self._in_order = [block for part in parts for block in part.modules() if isinstance(block, ResidualBlock)]
        self.head = nn.Sequential(
            style.normalise(channels[0]), style.activate(), zero_init(nn.Conv2d(channels[0], in_channels, 3, padding=1))
        )
        # Last, so that the weights drawn for all that is above do not depend on them.
        attend = neck_attention and SelfAttention(channels[-1], style.heads, LayerNorm(channels[-1]))
        self.neck_attention: nn.Module = attend or nn.Identity()
        self.context: nn.Sequential | None = None
        if context_dim:
            self.context = nn.Sequential(nn.Linear(context_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))

    def shifts(self, t: Tensor, context: Tensor | None = None) -> Iterator[Tensor | None]:
        """The shift (B, out, 1, 1) of every residual block, in the order of use, after its scale where it has one; None for
        one without.

        One matrix product for all of them.
        """
        layers = [block.time for block in self._in_order if block.time is not None]
        emb = self.time(timestep_embedding(t, self.time_emb_dim))
        if self.context is not None:
            emb = emb + self.context(emb.new_zeros(t.shape[0], self.context_dim) if context is None else context)
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        split = F.linear(emb, weight, bias)[:, :, None, None].split([layer.out_features for layer in layers], dim=1)
        following = iter(split)
        return iter([None if block.time is None else next(following) for block in self._in_order])

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        if context is not None and context.shape != (x_t.shape[0], self.context_dim):
            raise ValueError(f"context has shape {tuple(context.shape)}; accepted: {(x_t.shape[0], self.context_dim)}")
        if min(x_t.shape[-2:]) <= 2 ** (len(self.downs) - 2):
            raise ValueError(f"height and width {tuple(x_t.shape[-2:])} are too small to be halved {len(self.downs) - 1} times")
        shifts = self.shifts(t, context)
        x = self.stem(x_t)
        skips = []
        for down in self.downs:
            x, skip = down(x, shifts)
            skips.append(skip)
        for block in self.neck:
            x = block(x, next(shifts))
        x = self.neck_attention(x)
        for up in reversed(self.ups):
            x = up(x, skips.pop(), shifts)
        return self.head(x)


def build_network(config: ModelConfig, seed: int = 0, in_channels: int = 3) -> UNet:
    """The network of a recipe, with weights drawn from `seed`."""
    names = ("channels", "attention", "num_res", "neck_length", "time_emb_dim", "context_dim", "time_in", "neck_attention")
    style = Style(**{name: getattr(config, name) for name in Style._fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed))
        return UNet(in_channels, **{name: getattr(config, name) for name in names}, style=style)
