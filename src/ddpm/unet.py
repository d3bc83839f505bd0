"""The U-Net of documents 000 and 001: one DownBlock and one UpBlock a resolution level, residual blocks in the neck.

Maps float (B, in_channels, H, W) and int64 t (B,) to float (B, in_channels, H, W); H and W must be divisible by
2 ** (levels - 1). The last convolution of every residual branch and of the head starts at zero, so that a new network
outputs exactly 0 and each block starts as the identity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.config import ModelConfig, norm_groups
from ddpm.seeds import derive_seed


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


def group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(norm_groups(width), width)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm and SiLU, a shift that depends on time between them, and a skip around both.

    `time` maps the time embedding to the shift; UNet.time_shifts applies it for all blocks at once.
    """

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(emb_dim, out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """x (B, in, H, W), shift (B, out, 1, 1) -> (B, out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x))) + shift
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class SelfAttention(nn.Module):
    """Every position attends to every other (Vaswani et al. 2017), with group norm before and a skip around."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, HW, 3C)
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)  # each (B, 1, HW, C)
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1)  # (B, HW, C)
        return x + self.out(attended.transpose(1, 2).reshape(b, c, h, w))


class DownBlock(nn.Module):
    """`num_res` residual blocks, optional self-attention, then a strided convolution, absent at the bottom."""

    def __init__(
        self,
        in_channels: int,
        block_channels: int,
        num_res: int,
        emb_dim: int,
        attention: bool = False,
        no_downsample: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [block_channels] * num_res
        self.blocks = nn.ModuleList(ResidualBlock(a, b, emb_dim, dropout) for a, b in pairwise(widths))
        self.attention = SelfAttention(block_channels) if attention else nn.Identity()
        self.downsample = nn.Identity() if no_downsample else nn.Conv2d(block_channels, block_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, shifts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, in, H, W) -> the input of the next level (B, block, H/2, W/2) and the skip (B, block, H, W)."""
        for block in self.blocks:
            x = block(x, next(shifts))
        skip = self.attention(x)
        return self.downsample(skip), skip


class UpBlock(nn.Module):
    """Bilinear upsampling, absent at the bottom, the skip of its level concatenated, `num_res` residual blocks, attention."""

    def __init__(
        self,
        in_channels: int,
        block_channels: int,
        num_res: int,
        emb_dim: int,
        attention: bool = False,
        no_upsample: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.upsample = nn.Identity() if no_upsample else nn.Upsample(scale_factor=2, mode="bilinear")
        widths = [in_channels + block_channels] + [block_channels] * num_res
        self.blocks = nn.ModuleList(ResidualBlock(a, b, emb_dim, dropout) for a, b in pairwise(widths))
        self.attention = SelfAttention(block_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor, shifts: Iterator[Tensor]) -> Tensor:
        """x (B, in, H/2, W/2), skip (B, block, H, W) -> (B, block, H, W)."""
        x = torch.cat([self.upsample(x), skip], dim=1)
        for block in self.blocks:
            x = block(x, next(shifts))
        return self.attention(x)


class UNet(nn.Module):
    """The network: `channels` and `attention` have one entry a level, from the image's resolution downwards."""

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        attention: Sequence[bool],
        num_res: int,
        neck_length: int,
        time_emb_dim: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(channels) != len(attention):
            raise ValueError(f"channels {list(channels)} and attention {list(attention)} must have equal length")
        self.time_emb_dim = time_emb_dim
        emb_dim = 4 * time_emb_dim
        self.time = nn.Sequential(nn.Linear(time_emb_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim), nn.SiLU())
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        bottom = len(channels) - 1
        above = [channels[0], *channels[:-1]]
        below = [*channels[1:], channels[-1]]
        self.downs = nn.ModuleList(
            DownBlock(above[i], channels[i], num_res, emb_dim, attention[i], i == bottom, dropout) for i in range(len(channels))
        )
        self.neck = nn.ModuleList(ResidualBlock(channels[-1], channels[-1], emb_dim, dropout) for _ in range(neck_length))
        self.ups = nn.ModuleList(
            UpBlock(below[i], channels[i], num_res, emb_dim, attention[i], i == bottom, dropout) for i in range(len(channels))
        )
        parts = [*self.downs, self.neck, *reversed(self.ups)]  # in the order of use; a list registers no module twice
        self._in_order = [block for part in parts for block in part.modules() if isinstance(block, ResidualBlock)]
        self.head = nn.Sequential(
            group_norm(channels[0]), nn.SiLU(), zero_init(nn.Conv2d(channels[0], in_channels, 3, padding=1))
        )

    def time_shifts(self, t: Tensor) -> Iterator[Tensor]:
        """The shift (B, out, 1, 1) of every residual block, in the order of use: one matrix product for all of them."""
        layers = [block.time for block in self._in_order]
        emb = self.time(timestep_embedding(t, self.time_emb_dim))
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        return iter(F.linear(emb, weight, bias)[:, :, None, None].split([layer.out_features for layer in layers], dim=1))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        factor = 2 ** (len(self.downs) - 1)
        if x_t.shape[-1] % factor or x_t.shape[-2] % factor:
            raise ValueError(f"height and width {tuple(x_t.shape[-2:])} must be multiples of {factor}")
        shifts = self.time_shifts(t)
        x = self.stem(x_t)
        skips = []
        for down in self.downs:
            x, skip = down(x, shifts)
            skips.append(skip)
        for block in self.neck:
            x = block(x, next(shifts))
        for up in reversed(self.ups):
            x = up(x, skips.pop(), shifts)
        return self.head(x)


def build_network(config: ModelConfig, seed: int = 0, in_channels: int = 3) -> UNet:
    """The network of a recipe, with weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed))
        return UNet(
            in_channels,
            config.channels,
            config.attention,
            config.num_res,
            config.neck_length,
            config.time_emb_dim,
            config.dropout,
        )
