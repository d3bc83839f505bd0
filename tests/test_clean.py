"""`make clean-states`: what old sweeps left goes, and nothing else; after real trainings."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from conftest import Checkout, wait_for


def states(checkout: Checkout, recipe: str = "cifar10") -> dict[str, Path]:
    """The folders of states of a recipe, by the learning rate of their training."""
    keys = (checkout.path / "work/demo" / recipe).glob("train-*/key.json")  # of one that has just begun there is none yet
    return {str(json.loads(key.read_text())["train"]["lr"]): key.parent for key in keys}


def cleaned(checkout: Checkout) -> list[str]:
    return checkout.python("-m", "tools.clean").splitlines()


@pytest.mark.slow
def test_what_an_old_sweep_left_goes_and_nothing_else(done: Checkout) -> None:
    (present,) = states(done).values()
    others = {path: held for path, held in done.files("work/**/*").items() if not path.endswith(("lock", ".checked"))}
    for lr in (0.01, 0.02, 0.03):
        done.params(train__lr=lr)
        if lr == 0.03:
            done.params(train__steps=100_000, train__warmup_steps=0)
        done.python("-m", "stages.config", "cifar10")
        if lr < 0.03:
            done.python("-m", "stages.train", "cifar10")
    running = done.start(sys.executable, "-m", "stages.train", "cifar10")
    try:
        wait_for(lambda: "0.03" in states(done) and list(states(done)["0.03"].glob("state-*.pt")), "a state")
        done.git("checkout", "--quiet", "--", ".")
        swept = states(done)
        assert set(swept) == {"0.001", "0.01", "0.02", "0.03"}
        (aside,) = (path.rename(f"{path}.damaged-1") for path in [next(swept["0.02"].glob("state-*.pt"))])
        lines = cleaned(done)
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait()
    name = {lr: f"work/demo/cifar10/{folder.name}" for lr, folder in swept.items()}
    said = {line.split()[1].rstrip(","): line for line in lines[:-1]}
    assert said[name["0.001"]].endswith("of the present settings")
    assert re.fullmatch(rf"removed {name['0.01']}, [\d.]+ [kM]B: lr = 0\.01", said[name["0.01"]])
    assert said[name["0.02"]].endswith(f": lr = 0.02; kept there: {aside.name}")
    assert f"another process ({running.pid}) is writing them" in said[name["0.03"]]
    assert re.fullmatch(r"freed [\d.]+ [kM]B in work", lines[-1])
    assert not swept["0.01"].exists()
    assert sorted(path.name for path in swept["0.02"].iterdir()) == sorted([aside.name, "key.json", "lock"])
    assert list(swept["0.03"].glob("state-*.pt")), "the training that was running"
    after = done.files("work/**/*")
    assert {path: after.get(path) for path in others} == others, "packed images, and the present training's states"
    assert present.exists()

    (swept["0.03"] / "key.json").write_text("{")
    lines = cleaned(done)
    assert any(line.startswith(f"kept    {name['0.03']}") and "key.json" in line for line in lines)
    assert lines[-1] == "freed 0 bytes in work"
    (present / "key.json").unlink()
    assert any(line.startswith(f"kept    {name['0.001']}") for line in cleaned(done)), "nobody knows whose it is"


def test_a_recipe_that_is_no_more_leaves_nothing(done: Checkout) -> None:
    done.params(recipe_names=["cifar10"], recipes={"cifar10": {"data": {"dataset": "cifar10", "source": "synthetic"}}})
    (folder,) = states(done, "celeba").values()
    kept = [line for line in cleaned(done) if folder.name in line]
    assert len(kept) == 1
    assert kept[0].startswith("kept    work/demo/celeba/")
    assert kept[0].endswith("of the present settings")
    assert folder.exists(), "its settings still stand in metrics/"
    for path in (done.path / "metrics/demo/celeba/config").iterdir():
        path.unlink()
    assert any(line.startswith("removed") and "of no recipe that is known" in line for line in cleaned(done))
    assert not folder.exists()
