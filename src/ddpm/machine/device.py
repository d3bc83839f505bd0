"""The device, and honest measurements of seconds."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ddpm.base.faults import Fault


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that `name` (auto, cpu, cuda, cuda:N) means here. Raises Fault if there is no such device.

    auto and cuda mean the GPU number `local_rank`: processes of one machine take one each.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise Fault(f"device = {name!r}; accepted: auto, cpu, cuda or cuda:N")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise Fault(f"device = {name!r}: this machine has {count} CUDA devices; accepted: auto, cpu")
    return device


def device_name(device: torch.device) -> str:
    """What a reader needs to know of the machine: the GPU's name, or the processor's with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [platform.processor() or platform.machine()]
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        names = [line.partition(":")[2].strip() for line in lines] or names
    threads = torch.get_num_threads()
    return f"{names[0]}, {threads} thread{'s' if threads > 1 else ''}"


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of `work()`, waiting for the GPU before and after."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
