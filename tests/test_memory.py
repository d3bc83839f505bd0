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
    blocks = [torch.ones(1_000_000) for _ in range(40)]  # 4 MB each
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_memory_is_taken_again_with_few_page_faults() -> None:
    faults = {}
    for keep in (True, False):
        command = [sys.executable, "-c", COUNT, str(keep)]
        env = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
        faults[keep] = int(subprocess.check_output(command, env=env, timeout=120))
    assert 3 * faults[True] < faults[False], faults
