"""The benchmark of quality trains what it says for as long as it says, measures all alike, and goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stages
from benchmarks import busy, draws, quality, report, trials
from benchmarks.networks import installed
from ddpm.base.faults import Fault
from ddpm.base.hashes import sha256_of
from ddpm.recipe import Recipe, resolve
from stages import load_params
from tiny import random_images, train_config, write_weights


def tiny_recipe() -> Recipe:
    recipe, _ = resolve(load_params("demo"), "celeba")
    data = recipe.data.model_copy(update={"size": 8})
    evaluation = recipe.evaluation.model_copy(update={"sampler": "unipc 2", "autoguidance": 2.0})
    return recipe.model_copy(update={"data": data, "evaluation": evaluation, "train": train_config(num_timesteps=100)})


def spinning(seconds: float) -> quality.Training:
    def step() -> None:
        begin = time.process_time()
        while time.process_time() - begin < seconds:
            pass

    return quality.Training(step, dict, 1, 0)


def test_as_many_steps_as_fit_into_the_minutes() -> None:
    assert quality.steps_in(1 / 60, lambda steps: spinning(0.01)) == pytest.approx(100, rel=0.1)


def test_an_epoch_of_a_peer_shows_each_image_once_and_half_of_them_mirrored() -> None:
    images = random_images(40).numpy()
    drawn = [next(batch) for batch in [quality.batches(images, 8, seed=0)] for _ in range(10)]
    assert all(batch.shape == (8, 3, 8, 8) and batch.dtype == torch.float32 for batch in drawn)
    plain = [image.tobytes() for image in (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()]
    ours = [image.numpy().tobytes() for batch in drawn for image in batch]
    turned = [image.flip(-1).contiguous().numpy().tobytes() for batch in drawn for image in batch]
    found = [plain.index(a) if a in plain else plain.index(b) for a, b in zip(ours, turned, strict=True)]
    assert sorted(found[:40]) == sorted(found[40:]) == list(range(40))
    assert found[:40] != found[40:]
    assert 20 < sum(a in plain for a in ours) < 60


@pytest.mark.parametrize("name", quality.CONTENDERS)
def test_a_contender_learns_and_draws(name: str) -> None:
    package, make = quality.CONTENDERS[name]
    if package is not None and not installed(package):
        pytest.skip(f"{package} is not installed")
    images = random_images(32).numpy()
    training = make(tiny_recipe(), images, 4, 0)
    for _ in range(4):
        training.step()
    for sampler, draw in training.samplers().items():
        drawn = draw(6)
        assert drawn.shape == (6, 8, 8, 3)
        assert drawn.dtype == np.uint8
        assert drawn.std() > 1, sampler
        assert np.array_equal(draw(6), drawn), "the seed decides"


def test_ours_is_drawn_with_the_autoguidance_of_its_recipe_by_the_average_of_a_fifth_of_its_steps() -> None:
    """Eleven steps: the guide is that of the second, so its denoiser is the one of a training that has just taken two."""
    images, recipe = random_images(32).numpy(), tiny_recipe()
    by_scale = {}
    for scale in (1.0, 2.0, 0.0):  # 0 is the guide alone
        evaluation = recipe.evaluation.model_copy(update={"autoguidance": scale})
        training = quality.ours(recipe.model_copy(update={"evaluation": evaluation}), images, 11, 0)
        for _ in range(11):
            training.step()
        assert len(training.samplers()) == 3 + (scale != 1)
        by_scale[scale] = [draw(4) for draw in training.samplers().values()][-1 if scale != 1 else 0]
    assert len({drawn.tobytes() for drawn in by_scale.values()}) == 3
    early = quality.ours(recipe, images, 11, 0)
    for _ in range(2):
        early.step()
    assert np.array_equal(early.samplers()["unipc 2"](4), by_scale[0.0])


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    images, calls = random_images(60, 32).numpy(), []
    monkeypatch.setattr(quality, "training_images", lambda paths: (images, {}))
    monkeypatch.setattr(quality, "heldout_images", lambda paths: (images[::-1], {}))
    path, before = tmp_path / "quality.json", quality.run

    def run(name: str, *rest: Any) -> dict[str, Any]:
        calls.append(name)
        if calls == ["first", "second"]:
            raise KeyboardInterrupt
        return before(name, *rest)

    def contender(recipe: Recipe, images: np.ndarray, steps: int, seed: int) -> quality.Training:
        worse = np.clip(images.astype(int) // 2, 0, 255).astype(np.uint8)
        samplers = {"good": lambda count: images[:count], "bad": lambda count: worse[:count]}
        return spinning(0.001)._replace(samplers=lambda: samplers)

    monkeypatch.setattr(quality, "run", run)
    monkeypatch.setattr(quality, "CONTENDERS", {"first": (None, contender), "second": (None, contender)})
    args = argparse.Namespace(scale="demo", recipe=["cifar10"], minutes=[0.001], images=40, seeds=1, json=path)
    args.settings = ["lr=1e-3"]
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        quality.main(args)
    assert list(json.loads(path.read_text())["rows"]) == ["cifar10/0.001/first/0"]
    quality.main(args)
    torch.set_num_threads(threads)
    assert calls == ["first", "second", "second"]
    result = json.loads(path.read_text())
    row = result["rows"]["cifar10/0.001/second/0"]
    assert row["samplers"]["good"]["kid"] < row["samplers"]["bad"]["kid"]
    assert row["cpu_seconds"] == pytest.approx(0.06, abs=0.05)
    table = quality.text(result)
    assert table in capsys.readouterr().out
    assert table.count("| good ") == 2, "the best sampler counts"
    (tmp_path / "README.md").write_text(f"{report.BEGIN}\n{report.END}")
    assert table in report.rewritten((tmp_path / "README.md").read_text(), tmp_path)


@pytest.mark.slow
def test_what_is_left_beside_a_busy_process() -> None:
    """Real processes, one round: each answers with a rate; that threads that sleep keep more is for the benchmark to show."""
    result = busy.measure(1, seconds=0.2)
    assert set(result["rates"]) == set(busy.WORKS)
    for contenders in result["rates"].values():
        assert list(contenders) == ["2 threads, asleep", "2 threads, spinning", "2 threads, as ddpm chooses", "1 thread"]
        for rates in contenders.values():
            assert all(len(values) == 1 and values[0] > 0 for values in rates.values())
    assert busy.text(result).count("%") == 16


def test_trials_are_kept_and_compared_with_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    images = random_images(60, 32).numpy()
    monkeypatch.setattr(trials, "training_images", lambda paths: (images, {}))
    seen: list[tuple[float, int, int]] = []

    def contender(recipe: Recipe, images: np.ndarray, steps: int, seed: int) -> quality.Training:
        lr = recipe.train.lr
        assert recipe.evaluation.autoguidance == 1
        seen.append((lr, steps, seed))
        other = np.clip(images * (1 - 100 * lr), 0, 255).astype(np.uint8)  # the higher, the darker
        return spinning(0.001)._replace(samplers=lambda: {"one": lambda count: other[:count]})

    monkeypatch.setattr(trials, "ours", contender)
    path, threads = tmp_path / "trials.json", torch.get_num_threads()
    common = {"scale": "demo", "recipe": "cifar10", "seen": 44, "seeds": 2, "images": 40, "json": path}
    params = load_params("demo")
    params["evaluation"]["autoguidance"] = 2.0
    monkeypatch.setattr(quality, "load_params", lambda scale: params)
    for name, settings in (("base", []), ("high", ["lr=5e-3"]), ("base", [])):
        trials.main(argparse.Namespace(name=name, settings=settings, **common))
    torch.set_num_threads(threads)
    assert seen == [(2e-3, 5, 0), (2e-3, 5, 1), (5e-3, 5, 0), (5e-3, 5, 1)], "the second base was there"
    table = trials.text(json.loads(path.read_text()))
    assert table in capsys.readouterr().out
    base, high = table.splitlines()[-2:]
    assert "| 1.00 " in base
    assert "| lr=5e-3" in high
    assert float(high.split("|")[8]) > 1.2
    for word in ("lr", "=3", "learning=1"):
        with pytest.raises(Fault, match=r"accepted|unknown"):
            trials.main(argparse.Namespace(name="wrong", settings=[word], **common))
    for changed in ({"settings": ["lr=6e-3"]}, {"settings": ["lr=5e-3"], "images": 41}):
        with pytest.raises(Fault, match=r"holds a trial 'high' of \('lr=5e-3', 40\), and this is .*; accepted: the same"):
            trials.main(argparse.Namespace(**common | {"name": "high"} | changed))
    path.write_text(path.read_text().replace('"yardstick_sha256": "', '"yardstick_sha256": "0'))
    with pytest.raises(Fault, match="holds measures by the yardstick '0"):
        trials.main(argparse.Namespace(name="base", settings=[], **common))


def test_ways_to_draw_are_kept_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    images = random_images(60, 32).numpy()
    monkeypatch.setattr(draws, "training_images", lambda paths: (images, {}))
    folder, threads = tmp_path / "models/demo/cifar10", torch.get_num_threads()
    folder.mkdir(parents=True)
    for name, seed in (("ema", 0), ("raw-000007", 0), ("raw-000003", 1), ("ema-000003", 2)):
        write_weights(folder / f"{name}.safetensors", seed, 32)
    common = {"scale": "demo", "recipe": "cifar10", "step": None, "precision": "fp32", "guidance": [1.0, 2.0], "images": 30}
    common |= {"json": tmp_path / "draws.json"}
    draws.main(argparse.Namespace(samplers=["ddim 2"], autoguidance=[1.0, 3.0], **common))
    draws.main(argparse.Namespace(samplers=["ddim 2", "ddpm 3"], autoguidance=[1.0], **common))
    draws.main(argparse.Namespace(samplers=["ddim 2"], autoguidance=[1.0], **common | {"step": 3}))
    torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "draws.json").read_text())["rows"]
    last, kept = (sha256_of(folder / f"{name}.safetensors")[:12] for name in ("ema", "ema-000003"))
    ways = [f"{last}/ddim 2/1/1", f"{last}/ddim 2/1/3", f"{last}/ddpm 3/1/1"]  # it has no classes to guide by
    assert list(rows) == [f"demo/cifar10/{way}/30/fp32" for way in [*ways, f"{kept}/ddim 2/1/1"]]
    plain, guided, _, earlier = rows.values()
    assert [row["calls"] for row in rows.values()] == [2, 4, 3, 2]
    assert len({row["kid"] for row in (plain, guided, earlier)}) == 3
    for step, autoguidance, accepted in ((4, 1.0, "accepted: 3, 7"), (3, 2.0, "accepted: 1")):
        with pytest.raises(Fault, match=accepted):
            draws.main(argparse.Namespace(samplers=["ddim 2"], autoguidance=[autoguidance], **common | {"step": step}))
    flat = np.full_like(images, 9)
    assert (draws.spread(flat), draws.roughness(flat)) == (0, 0)
    assert draws.roughness(np.tile(np.array([0, 255], np.uint8)[:, None], (2, 4, 4, 3))) == 255
    table = draws.text(json.loads((tmp_path / "draws.json").read_text()))
    assert table in capsys.readouterr().out
    assert table.count("| 30 ") == 4
