"""Devices and seconds."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
import torch

from benchmarks.busy import Busy
from conftest import ROOT
from ddpm.base.faults import Fault
from ddpm.base.parallel import cpu_count
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


SPINS, SLEEPS = "300000", "0"  # turns that a thread of libgomp spins before it sleeps: its own default, and none


def turns(given: dict[str, str], before: str = "") -> str:
    """How long OpenMP's threads spin once ddpm and torch are loaded, as OpenMP shows it, which settles it when torch loads."""
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "OMP_DISPLAY_ENV": "VERBOSE"} | given
    command = [sys.executable, "-c", f"{before}\nimport ddpm, torch"]
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stderr
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", shown)
    assert found, shown
    return found[1]


def pretend(loadavg: str | None) -> str:
    """Code for a process to see this as /proc/loadavg; None: there is no such file, as on other systems."""
    there = f"io.StringIO({loadavg!r})" if loadavg is not None else "real('/proc/nothing')"
    return (
        "import builtins, io; real = open\n"
        f"builtins.open = lambda path, *rest, **more: {there} if path == '/proc/loadavg' else real(path, *rest, **more)"
    )


@pytest.mark.parametrize(
    ("loadavg", "threads", "expected"),
    [
        ("0.00 0.00 0.00 1/85 7", "all", SPINS),  # this process runs, and nothing else
        ("9.00 9.00 9.00 1/85 7", "all", SPINS),  # what ran a minute ago, a stage before this one say, is no reason
        ("0.00 0.00 0.00 2/85 7", "all", SLEEPS),
        ("0.00 0.00 0.00 2/85 7", "1", SPINS),  # one thread waits for none
        (None, "all", SLEEPS),
        ("nonsense", "all", SLEEPS),
    ],
)
def test_threads_spin_only_where_each_has_a_core_to_itself(loadavg: str | None, threads: str, expected: str) -> None:
    given = {} if threads == "all" else {"OMP_NUM_THREADS": threads}
    assert turns(given, pretend(loadavg)) == expected


def test_threads_sleep_beside_busy_processes() -> None:
    """Real ones, one for each core."""
    with ExitStack() as stack:
        for _ in range(cpu_count()):
            stack.enter_context(Busy(True))
        assert turns({"OMP_NUM_THREADS": str(max(2, cpu_count()))}) == SLEEPS


@pytest.mark.parametrize(
    ("given", "expected"), [({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000"), ({"GOMP_SPINCOUNT": "77"}, "77")]
)
def test_how_the_user_lets_threads_wait_comes_first(given: dict[str, str], expected: str) -> None:
    assert turns(given, pretend("9.00 9.00 9.00 9/85 7")) == expected


def test_the_device_name_says_how_many_threads_work() -> None:
    before = torch.get_num_threads()
    try:
        for count, words in ((1, ", 1 thread"), (2, ", 2 threads")):
            torch.set_num_threads(count)
            assert device_name(torch.device("cpu")).endswith(words)
    finally:
        torch.set_num_threads(before)
