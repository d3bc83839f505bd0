"""Which arithmetic the network runs in, and in which memory order."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16": what "auto" means on `device`, bf16 where the hardware computes in it."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"  # processors with AMX have it too


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast, or nothing: weights, norm statistics, softmax sums and the loss stay fp32 either way."""
    if resolve_precision(precision, device) == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def memory_format(device: torch.device) -> torch.memory_format:
    """channels_last on a GPU, whose tensor cores read it; not on a CPU, where torch's group norm is slow in it."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def configure(precision: str, device: torch.device) -> None:
    """Set this process's switches for CUDA. bf16: TF32 for what stays fp32, the fastest kernels.

    fp32: kernels whose sums have one order, so that weights and images repeat on the same GPU. (Losses by quarter of t do not
    to the last digit: they are added up as they come.)
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        fast = resolve_precision(precision, device) == "bf16"
        torch.backends.cuda.matmul.allow_tf32 = fast
        torch.backends.cudnn.allow_tf32 = fast
        torch.backends.cudnn.benchmark = fast
        torch.backends.cudnn.deterministic = not fast
        torch.backends.cuda.enable_mem_efficient_sdp(fast)  # the gradient of its attention adds up in any order
