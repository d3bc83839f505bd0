"""The campaign on a GPU, as far as a CPU can show it: limits, order, what is copied, and a real one at toy size."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import LIMITS, Campaign, Job, at_once, limit
from conftest import Checkout, wait_for
from ddpm.model.weights import load_network


def sleeper(name: str, seconds: float, status: int = 0) -> Job:
    return Job(name, ("-c", f"import sys, time; print('began'); time.sleep({seconds}); sys.exit({status})"))


def test_jobs_share_the_time_that_there_is(tmp_path: Path) -> None:
    """Two at a time; one fails, one of two steps has both, one is stopped at the limit and one never begins."""
    steps = Job("steps", ("-c", "print('first')"), (("-c", "print('second')"),))
    stops = Job("stops", ("-c", "print('first'); raise SystemExit(3)"), (("-c", "print('second')"),))
    jobs = [sleeper("fails", 0, 7), steps, stops, sleeper("long", 60), sleeper("longer", 60), sleeper("never", 60)]
    begin = time.monotonic()
    statuses = at_once(jobs, 5, tmp_path, lambda: None, most=2)
    assert time.monotonic() - begin < 30
    assert (statuses["fails"], statuses["steps"], statuses["stops"]) == (7, 0, 3)
    assert statuses["long"] == statuses["longer"] == statuses["never"] == -signal.SIGTERM
    assert (tmp_path / "steps.txt").read_text() == "first\nsecond\n"
    assert (tmp_path / "stops.txt").read_text() == "first\n"
    assert not (tmp_path / "never.txt").exists()


def test_what_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    assert at_once([Job("deaf", ("-c", deaf))], 3, tmp_path, lambda: None) == {"deaf": -signal.SIGKILL}
    assert (tmp_path / "deaf.txt").read_text() == "deaf\n"


@pytest.mark.parametrize("text", ["train", "train=", "train=0", "train=-1", "train=x", "nothing=5", "=5"])
def test_bad_limits_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="accepted: PART=SECONDS with a part of data, tests"):
        limit(text)
    assert limit("train=2.5") == ("train", 2.5)


@pytest.mark.parametrize(
    ("words", "said"), [(["--slices", "0"], "1 or more"), (["--recipe", "mine"], "accepted: cifar10_classes")]
)
def test_bad_options_are_refused(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path / "out"), *words])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match=said):
            gpu.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "out").exists()


def test_the_small_is_copied_first_and_all_of_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name in ("gpu.ROOT", "gpu.WORK"):
        monkeypatch.setattr(f"benchmarks.{name}", tmp_path / "work")
    monkeypatch.setattr("stages.ROOT", tmp_path)
    monkeypatch.setattr("stages.WORK", tmp_path / "work")
    campaign = Campaign(tmp_path / "out", "gpu", ["celeba"], LIMITS, 1, 0.0125)
    models, metrics = tmp_path / "models/gpu/celeba", tmp_path / "metrics/gpu/celeba"
    for path, size in (
        (models / "ema.safetensors", 8000), (models / "raw-000001.safetensors", 8000), (metrics / "grid.png", 3000),
        (metrics / ".7.tmp-half.png", 10), (campaign.logs / "train-celeba.txt", 100),
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    campaign.collect()
    copied = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert copied == {"logs/train-celeba.txt", "metrics/celeba/grid.png", "models/celeba/ema.safetensors"}
    assert "raw-000001.safetensors and what follows is not copied: more than 0 MB" in capsys.readouterr().out
    first = (tmp_path / "out/metrics/celeba/grid.png").stat().st_ino
    (campaign.logs / "train-celeba.txt").write_bytes(bytes(200))
    campaign.collect()
    assert (tmp_path / "out/metrics/celeba/grid.png").stat().st_ino == first, "what has not changed is not copied again"
    assert (tmp_path / "out/logs/train-celeba.txt").stat().st_size == 200


@pytest.mark.slow
def test_a_campaign_that_is_killed_goes_on(untouched: Checkout, tmp_path: Path) -> None:
    """At toy size on a CPU: killed while it trains, given again, stopped and resumed between slices, ended at its limit."""
    checkout = untouched.copy(tmp_path / "project")
    checkout.params(recipe_names=["cifar10"], train__steps=100000, train__log_every=4, runtime__preview_every=1.0)
    out = tmp_path / "out"
    options = ("--scale", "demo", "--slices", "2", "--limit", "train=80", "--limit", "figures=300")
    parts = [word for part in ("data", "tests", "train", "figures") for word in ("--part", part)]
    command = (sys.executable, "-m", "benchmarks.gpu", out, *options, *parts)
    process = checkout.start(*command)
    states = lambda: list(checkout.path.glob("work/demo/cifar10/train-*/state-*.pt"))  # noqa: E731
    wait_for(states, "a saved state")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((out / "gpu.json").read_text())["data"]["well"], "what was done is there"
    output = checkout.run(*command)
    assert "data: done before" in output
    log = (out / "logs/train-cifar10.txt").read_text()
    assert log.count("resuming at step") == 3, "after the kill, between the slices, and to end"
    assert "stopped by SIGTERM" in log
    done = json.loads((out / "gpu.json").read_text())
    assert {part: entry["well"] for part, entry in done.items()} == dict.fromkeys(("data", "tests", "train", "figures"), True)
    (said,) = [line for line in output.splitlines() if "its time is over at step" in line]
    step = int(said.partition("at step ")[2].partition(":")[0])
    for name in ("ema.safetensors", f"raw-{step:06d}.safetensors"):
        assert load_network(out / "models/cifar10" / name)[2]["step"] == step
    assert {path.name for path in (out / "metrics/cifar10").glob("*.png")} >= {"grid.png", "samplers.png", "timing.png"}
    assert json.loads((out / "metrics/cifar10/evaluate.json").read_text())["samples"] == 20
    assert list((out / "logs").glob("preview-cifar10-*.png"))
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 64e6
