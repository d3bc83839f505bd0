"""Devices and seconds."""

from __future__ import annotations

import time

import pytest
import torch

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


def test_the_device_name_says_how_many_threads_work() -> None:
    before = torch.get_num_threads()
    try:
        for count, words in ((1, ", 1 thread"), (2, ", 2 threads")):
            torch.set_num_threads(count)
            assert device_name(torch.device("cpu")).endswith(words)
    finally:
        torch.set_num_threads(before)
