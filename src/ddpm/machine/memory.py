"""How much memory a process took, and how the C library hands it back to the system."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
MIB = 2**20


def keep_freed_memory(keep: bool = True) -> None:
    """Let this process keep what it frees, up to its peak: a step on a CPU then finds its memory where the last left it.

    Otherwise glibc returns hundreds of megabytes after each backward pass, and the next step waits for thousands of pages.
    `keep` = False sets the thresholds at which glibc's own adjustment ends. Does nothing under another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_TRIM_THRESHOLD, 2047 * MIB if keep else 64 * MIB)
    mallopt(_M_MMAP_THRESHOLD, 1024 * MIB if keep else 32 * MIB)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU, the most its tensors ever took; on a CPU, the most this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
