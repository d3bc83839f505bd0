"""Recipes side by side come to the bytes that `dvc repro` comes to, and what goes wrong in one of them is said."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import yaml

from conftest import Checkout, wait_for
from stages import load_params
from tools.lanes import ALONE, targets_of

ROOT = Path(__file__).resolve().parents[1]


def test_all_stages_have_a_lane_but_those_that_measure_time() -> None:
    """All that the committed demo has run, by dvc itself."""
    stages, lock = (yaml.safe_load((ROOT / name).read_text())["stages"] for name in ("dvc.yaml", "dvc.lock"))
    params = load_params("demo")
    targets = {target for recipe in params["recipe_names"] for target in targets_of(stages, params, recipe)}
    alone = {f"{name}@{recipe}" for name in ALONE for recipe in params["recipe_names"]}
    assert targets.isdisjoint(alone)
    assert targets | alone == {name for name in lock if name.partition("@")[2] in params["recipe_names"]}
    assert targets_of(stages, params, "no_such_recipe") == []


@pytest.mark.slow
def test_lanes_come_to_the_same_bytes(fresh: Checkout, finished: Checkout) -> None:
    fresh.python("-m", "tools.lanes", "--jobs", "2")
    assert {path.name for path in (fresh.path / "work/demo").glob("lane-*.log")} == {"lane-cifar10.log", "lane-celeba.log"}
    assert "up to date" in fresh.dvc("status")
    for path in [*finished.path.glob("models/demo/*/*"), *finished.path.glob("metrics/demo/*/*.csv")]:
        if path.name != "speed.csv":  # measured times
            assert (fresh.path / path.relative_to(finished.path)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_a_lane_that_fails_is_named_with_the_end_of_its_log(fresh: Checkout) -> None:
    fresh.params(recipes__celeba__data__source="nowhere/faces.zip")
    output = fresh.python("-m", "tools.lanes", "--jobs", "2", rc=1)
    assert "error: celeba stopped; once that is mended, the same command goes on. work/demo/lane-celeba.log ends in:" in output
    assert "nowhere/faces.zip" in output
    assert "Traceback" not in output
    assert not fresh.processes("--wait-for-lock"), "the other lane has ended too"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on(fresh: Checkout, how: signal.Signals) -> None:
    fresh.params(train__steps=3000, runtime__save_seconds=1000.0)
    process = fresh.start(sys.executable, "-m", "tools.lanes", "--jobs", "2")
    states = (fresh.path / "work/demo/cifar10").glob
    wait_for(lambda: "train:" in (log.read_text() if (log := fresh.path / "work/demo/lane-cifar10.log").exists() else ""), "it")
    os.killpg(process.pid, how)
    assert process.wait(timeout=120) != 0
    wait_for(lambda: list(states("train-*/state-*.pt")), "the trainer to save")
    wait_for(lambda: not fresh.processes("stages.train"), "it to end")
    fresh.params(train__steps=3000)
    assert "resuming at step" in fresh.run("bash", "-c", "python -m tools.lanes --jobs 2; cat work/demo/lane-cifar10.log")
