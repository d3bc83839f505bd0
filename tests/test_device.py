"""Devices and seconds."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from conftest import ROOT
from ddpm.base.faults import Fault
from ddpm.machine.device import device_name, measure_seconds, pick_device


def test_measured_seconds_are_those_of_the_work() -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        time.sleep(0.05)

    assert 0.05 <= measure_seconds(work, torch.device("cpu")) < 5
    assert len(calls) == 1


def test_a_device_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(Fault, match=r"device = 'cuda:99': .*accepted: auto, cpu"):
        pick_device("cuda:99")


@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_wait_asleep_unless_the_user_says_otherwise(given: dict[str, str], policy: str) -> None:
    """As OpenMP shows it, which reads the policy when torch loads."""
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "OMP_DISPLAY_ENV": "TRUE"} | given
    command = [sys.executable, "-c", "import ddpm, torch"]
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stderr
    assert f"OMP_WAIT_POLICY = '{policy}'" in shown


def test_the_device_name_says_how_many_threads_work() -> None:
    before = torch.get_num_threads()
    try:
        for count, words in ((1, ", 1 thread"), (2, ", 2 threads")):
            torch.set_num_threads(count)
            assert device_name(torch.device("cpu")).endswith(words)
    finally:
        torch.set_num_threads(before)
