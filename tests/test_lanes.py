"""Recipes side by side come to the bytes that `dvc repro` comes to, and what goes wrong in one of them is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import stages
from conftest import Checkout, wait_for
from ddpm.base.faults import Fault
from stages import load_params
from tools import lanes
from tools.lanes import ALONE, Group, ended_with_this, targets_of

ROOT = Path(__file__).resolve().parents[1]

# A stage that saves when it is asked to end, which takes a second, and its child, which ends when it is asked to.
HOLD = """
import pathlib, signal, subprocess, sys, time
def save(number, frame):
    time.sleep(1)
    pathlib.Path(f"{name}.saved").write_text(signal.Signals(number).name)
    sys.exit(1)
name = sys.argv[1]
if name == "celeba" and pathlib.Path("fail").exists():
    while not pathlib.Path("cifar10.runs").exists():
        time.sleep(0.1)
    sys.exit("celeba has failed")
if name != "child":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, save)
    subprocess.Popen([sys.executable, "hold.py", "child", name])
else:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pathlib.Path(f"{sys.argv[2]}.runs").touch()
time.sleep(300)
"""


def test_all_stages_have_a_lane_but_those_that_measure_time() -> None:
    """All that the committed demo has run, by dvc itself."""
    declared, lock = (yaml.safe_load((ROOT / name).read_text())["stages"] for name in ("dvc.yaml", "dvc.lock"))
    params = load_params("demo")
    targets = {target for recipe in params["recipe_names"] for target in targets_of(declared, params, recipe)}
    alone = {f"{name}@{recipe}" for name in ALONE for recipe in params["recipe_names"]}
    assert targets.isdisjoint(alone)
    assert targets | alone == {name for name in lock if name.partition("@")[2] in params["recipe_names"]}
    assert targets_of(declared, params, "no_such_recipe") == []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's and full's settings, the pipeline of the former, and a `dvc` that must not be reached."""
    for name in ("dvc.yaml", "params.yaml", "full/params.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "dvc").write_text("#!/bin/sh\nexit 99\n")
    (tmp_path / "dvc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr(lanes, "WORK", tmp_path / "work")
    return tmp_path


@pytest.mark.parametrize("key", ["recipe_names", "conditional", "editing"])
@pytest.mark.parametrize("value", [7, None, "cifar10", {"cifar10": 1}, [7], ["../cifar10"], "absent"])
def test_a_list_of_recipes_that_is_none_is_named(project: Path, key: str, value: Any) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text()) | {key: value}
    if value == "absent":
        del params[key]
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(Fault) as fault:
        lanes.main(Namespace(scale="demo", jobs=None))
    said = f"{key}: missing" if value == "absent" else f"{key} = {value!r}"
    assert str(fault.value) == f"params.yaml: {said}; accepted: a list of names, each of lower-case letters, digits and _"


def test_an_empty_list_of_recipes_is_named(project: Path) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text()) | {"recipe_names": []}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(Fault, match=r"^params\.yaml: recipe_names = \[\]; accepted: one name or more$"):
        lanes.main(Namespace(scale="demo", jobs=None))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("jobs", [None, 1])
def test_a_scale_without_its_pipeline_says_what_makes_it(jobs: int | None) -> None:
    with pytest.raises(Fault, match=r"^full/dvc\.yaml: no such file; `make full` makes it"):
        lanes.main(Namespace(scale="full", jobs=jobs))


@pytest.mark.parametrize("jobs", [None, 1])
def test_without_dvc_it_says_how_to_come_to_it(project: Path, jobs: int | None) -> None:
    (project / "dvc").unlink()
    with pytest.raises(Fault, match=r"^dvc: no such program; activate the environment, `\. \.venv/bin/activate`, or install"):
        lanes.main(Namespace(scale="demo", jobs=jobs))


def test_what_does_not_end_when_asked_to_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself ends at once, its child does not."""
    monkeypatch.setattr(lanes, "PATIENCE", 1.0)
    pid = tmp_path / "pid"
    child = f"trap '' TERM; echo $$ > {pid}.new; mv {pid}.new {pid}; while :; do sleep 0.1; done"
    group = Group(["sh", "-c", 'sh -c "$0" & exec sleep 300', child])
    try:
        with pytest.raises(ZeroDivisionError), ended_with_this([group]):  # noqa: PT012
            wait_for(pid.exists, "the child")
            raise ZeroDivisionError
        assert group.process.returncode == -signal.SIGTERM
        wait_for(lambda: state(int(pid.read_text())) in ("", "Z"), "the child to end", seconds=10)
    finally:
        group.send(signal.SIGKILL)


def test_what_has_ended_well_is_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of its group may be another's by now."""
    group = Group(["true"])
    group.process.wait()
    monkeypatch.setattr(os, "killpg", None)
    with ended_with_this([group]):
        pass


def state(pid: int) -> str:
    """S, R, T (stopped), Z (ended, but nobody has asked for its status) and so on; empty where there is no such process."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout[:1]


@pytest.fixture
def holding(fresh: Checkout) -> Iterator[Checkout]:
    """A checkout whose only stage is HOLD."""
    hold = {"matrix": {"name": "${recipe_names}"}, "cmd": "python hold.py ${item.name}"}
    (fresh.path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"hold": hold}}))
    (fresh.path / "hold.py").write_text(HOLD)
    yield fresh
    for module in ("tools.lanes", "repro", "hold.py"):
        for pid in fresh.processes(module):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [2, 1])  # 1: all in the `dvc repro` that comes last
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_that_it_has_started(holding: Checkout, how: signal.Signals, jobs: int) -> None:
    """Sent to the tool alone, twice, as make passes a signal on that the terminal or the system has sent already."""
    process = holding.start(sys.executable, "-m", "tools.lanes", "--jobs", str(jobs))
    wait_for(lambda: len(list(holding.path.glob("*.runs"))) == jobs, "the stages to run")
    for _ in range(2):
        process.send_signal(how)
        time.sleep(0.2)
    assert process.wait(timeout=120) == 1
    assert not holding.processes("hold.py")
    assert not holding.processes("repro")
    received = "SIGINT" if how == signal.SIGINT else "SIGTERM"
    saved = {path.name: path.read_text() for path in holding.path.glob("*.saved")}
    assert saved == {f"{name}.saved": received for name in ["cifar10", "celeba"][:jobs]}
    output = holding.log.read_text()
    assert "stopped; the same command goes on" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_lane_that_fails_ends_the_other_lanes_stage(holding: Checkout) -> None:
    (holding.path / "fail").touch()
    output = holding.python("-m", "tools.lanes", "--jobs", "2", rc=1)
    assert "celeba has failed" in output
    assert not holding.processes("hold.py")
    assert not holding.processes("repro")
    assert (holding.path / "cifar10.saved").read_text() == "SIGTERM"


@pytest.mark.slow
def test_a_pause_pauses_the_stages_too(holding: Checkout) -> None:
    process = holding.start(sys.executable, "-m", "tools.lanes", "--jobs", "2")
    wait_for(lambda: len(holding.processes("hold.py")) == 4, "the stages to run")
    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: state(process.pid) == "T", "the tool to stop", seconds=30)
    assert {state(pid) for pid in holding.processes("hold.py")} == {"T"}
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: "T" not in {state(pid) for pid in holding.processes("hold.py")}, "the stages to go on", seconds=30)
    process.terminate()
    assert process.wait(timeout=120) == 1
    assert not holding.processes("hold.py")


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
