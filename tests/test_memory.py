"""What a process took, and that freed memory stays with it, so that taking it again costs few page faults."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddpm.machine.memory import peak_memory

ROOT = Path(__file__).resolve().parents[1]
COUNT = """
import resource, sys
import torch
from ddpm.machine.memory import keep_freed_memory
keep_freed_memory(sys.argv[1] == "True")
def take():
    blocks = [torch.ones(10_000_000) for _ in range(4)]  # 40 MB each: glibc maps such blocks, and unmaps them, by itself
take()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    take()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(10)))  # the system may take idle pages away meanwhile, but not in every round
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_memory_is_taken_again_with_few_page_faults() -> None:
    faults = {}
    for keep in (True, False):
        command = [sys.executable, "-c", COUNT, str(keep)]
        env = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
        faults[keep] = int(subprocess.check_output(command, env=env, timeout=120))
    assert 3 * faults[True] < faults[False], faults


def test_peak_memory_counts_what_was_held() -> None:
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    block = torch.ones(before // 4 + 50_000_000)  # float32: more than ever before, by 200 MB at least
    assert peak_memory(cpu) - before > 190e6
    del block
