"""Images as a network takes them, float (B, C, H, W) in [-1, 1], and as files and people do, uint8 (B, H, W, C)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) in 0..255 -> float32 (B, C, H, W) in [-1, 1], in channels_last memory order."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> np.ndarray:
    """Float (B, C, H, W) in [-1, 1] -> uint8 (B, H, W, C), clipped and rounded: for images and samples."""
    scaled = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def normalised(x_t: Tensor) -> np.ndarray:
    """Float (B, C, H, W) of any range -> uint8 (B, H, W, C), each image stretched from its least to its greatest value.

    For noisy states, many of whose values lie outside [-1, 1], where `to_uint8` clips. The brightness of two images, or
    of two steps of one, cannot be compared then; a constant image becomes black.
    """
    values = x_t.detach().float().cpu()
    least, greatest = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    scaled = ((values - least) / (greatest - least).clamp(min=torch.finfo(torch.float32).tiny) * 255).round()
    return scaled.permute(0, 2, 3, 1).numpy().astype(np.uint8)
