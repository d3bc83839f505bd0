"""The same network in each library, as nearly as the library can say it: widths, blocks a level, attention.

Peers are optional and untyped: they are imported when they are asked for.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import torch
from torch import nn

from ddpm.machine.precision import memory_format
from ddpm.training.settings import TrainConfig

PEERS = ("diffusers", "denoising_diffusion_pytorch")


@functools.cache
def installed(package: str) -> bool:
    """Whether `package` can be imported."""
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def diffusers_unet(config: TrainConfig, size: int) -> Any:
    """diffusers.UNet2DModel for images of `size` pixels: our widths, blocks a level and single-headed attention.

    Its own are the bottom (always two residual blocks and attention), one more block a level on the way up, a skip from
    each block, and attention after each block of a level instead of after the last one.
    """
    diffusers = importlib.import_module("diffusers")
    diffusers.utils.logging.set_verbosity_error()  # it warns of nothing when its weights become bf16
    return diffusers.UNet2DModel(
        sample_size=size,
        block_out_channels=tuple(config.channels),
        layers_per_block=config.num_res,
        down_block_types=tuple("AttnDownBlock2D" if attention else "DownBlock2D" for attention in config.attention),
        up_block_types=tuple("AttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(config.attention)),
        attention_head_dim=None,  # one head as wide as the level
        norm_num_groups=math.gcd(32, *config.channels),  # its default of 32 groups where that divides every width
        time_embedding_dim=4 * config.time_emb_dim,
        dropout=config.dropout,
    )


def lucidrains_unet(config: TrainConfig, fused_attention: bool) -> nn.Module:
    """denoising_diffusion_pytorch.Unet with our widths, by `dim` and `dim_mults`, and full attention on our levels.

    Its own are two residual blocks a level, each level's blocks at the width of the level above, a skip from each block,
    4 heads of 32 channels, and linear attention on the other levels. `fused_attention` is its `flash_attn`.
    """
    dim = math.gcd(*config.channels)
    unet: nn.Module = importlib.import_module("denoising_diffusion_pytorch").Unet(
        dim=dim,
        init_dim=config.channels[0],
        dim_mults=tuple(width // dim for width in config.channels),
        full_attn=tuple(config.attention),
        flash_attn=fused_attention,
        dropout=config.dropout,
    )
    return unet


def tuned(network: nn.Module, device: torch.device, compiled: bool, sampling: bool) -> nn.Module:
    """A peer's network in our memory format and, if ours is, compiled: in place and as ours is for training or sampling."""
    network.to(device).to(memory_format=memory_format(device))
    if compiled and device.type == "cuda":
        network.compile(mode="reduce-overhead", dynamic=False)
    elif compiled:
        network.compile(options={"freezing": True} if sampling else None, dynamic=False)
    return network
