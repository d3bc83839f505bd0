"""Freed memory stays with the process, so that taking it again costs few page faults."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COUNT = """
import resource, sys
import torch
from ddpm.memory import keep_freed_memory
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_memory_is_taken_again_with_few_page_faults() -> None:
    faults = {}
    for keep in (True, False):
        command = [sys.executable, "-c", COUNT, str(keep)]
        env = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
        faults[keep] = int(subprocess.check_output(command, env=env, timeout=120))
    assert 3 * faults[True] < faults[False], faults
