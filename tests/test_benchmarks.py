"""The benchmarks measure what they say: turns, ratios, FLOPs, shares; and they run, with and without the peers."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import choices, inpainting, report, sampling, training
from benchmarks.common import Contender, alternate, ceilings, measure, paired_ratio, share_of_ceiling, total_flops
from benchmarks.networks import PEERS, diffusers_unet, lucidrains_unet
from conftest import Checkout
from ddpm.model.pixels import to_float
from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from ddpm.recipe import Recipe, resolve
from ddpm.sampling import load
from stages import load_params
from tiny import random_images, randomised, train_config

CPU = torch.device("cpu")


def test_works_take_turns() -> None:
    calls: list[str] = []
    works = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = alternate(works, 3, CPU, warmup=2)
    assert "".join(calls) == "aabbcc" + "abc" * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_ratio_is_that_of_the_same_round() -> None:
    """The machine is ten times slower in the second of three rounds: the ratio of medians would be 1."""
    assert paired_ratio([2.0, 30.0, 3.0], [1.0, 10.0, 3.0]) == 2.0


def test_a_row_says_how_long_a_step_takes_and_what_it_achieves() -> None:
    nap = 0.03  # seconds a step
    ours = Contender("ours", lambda: time.sleep(nap), 1, 4, "fp32", 10, 1000)
    slow = Contender("slow", lambda: time.sleep(20 * nap), 20, 4, "fp32", 10, 6000)
    measured = measure([ours, slow], 3, 2, CPU)
    first, row = measured["rows"]
    assert first["ratio"] == first["ratio_per_flop"] == 1
    assert all(nap <= seconds < 10 * nap for seconds in row["seconds"])
    assert row["ratio"] == paired_ratio(row["seconds"], first["seconds"])
    assert row["ratio_per_flop"] == pytest.approx(row["ratio"] / 6)
    assert (row["median"], row["min"]) == (sum(row["seconds"]) / 2, min(row["seconds"]))
    ceiling = max(measured["ceilings"].values())
    assert row["share"] == pytest.approx(3 * 6000 * 4 / row["median"] / ceiling)


def test_a_share_of_the_ceiling() -> None:
    assert share_of_ceiling(flops=50.0, seconds=2.0, ceiling=100.0) == 0.25


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_ceilings_count_their_flops(precision: str) -> None:
    for top in ceilings(precision, CPU):
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            out = top.work()
        assert isinstance(out, torch.Tensor)
        assert out.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        assert counter.get_total_flops() == top.flops


class OneOfEach(nn.Module):
    """A convolution and a single-headed attention of known sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.out = nn.Linear(5, 3)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x_t).flatten(2).transpose(1, 2)[:, None]
        return self.out(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens))


def test_flops_of_known_layers() -> None:
    pixels = 8 * 8
    expected = 2 * pixels * 9 * 3 * 5 + 2 * (2 * pixels**2 * 5) + 2 * pixels * 5 * 3
    assert total_flops(OneOfEach(), (3, 8, 8)) == expected


def tiny_recipe(**train: Any) -> Recipe:
    recipe, _ = resolve(load_params("demo"), "celeba")
    data = recipe.data.model_copy(update={"size": 8})
    drawing = recipe.figures.drawing.model_copy(update={"sampler": "ddpm 4"})
    figures = recipe.figures.model_copy(update={"drawing": drawing})
    return recipe.model_copy(update={"data": data, "figures": figures, "train": train_config(**train)})


@contextmanager
def watched() -> Iterator[tuple[list[str], set[torch.dtype]]]:
    """The networks called meanwhile, by class, and the dtypes that their convolutions and linear layers computed."""
    calls: list[str] = []
    dtypes: set[torch.dtype] = set()

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if type(module).__name__ in ("UNet", "UNet2DModel", "Unet"):
            calls.append(type(module).__name__)
        if isinstance(module, nn.Conv2d | nn.Linear):
            dtypes.add(output.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        yield calls, dtypes
    finally:
        handle.remove()


def check_contenders(contenders: list[Contender], steps: int) -> list[str]:
    """Each turn makes as many network calls as it says, in the arithmetic it says. Returns the names."""
    for contender in contenders:
        with watched() as (calls, dtypes):
            contender.work()
        network = {"ours": "UNet", "diff": "UNet2DModel", "luci": "Unet"}[contender.name[:4]]
        assert calls == [network] * steps, contender.name
        assert contender.steps == steps
        assert dtypes == {{"fp32": torch.float32, "bf16": torch.bfloat16}[contender.precision]}, contender.name
        assert contender.precision == ("fp32" if "default" in contender.name or "off" in contender.name else "bf16")
    return [contender.name for contender in contenders]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes half a minute."""
    monkeypatch.setenv("PATH", "")


def test_training_turns() -> None:
    for package in PEERS:
        pytest.importorskip(package)
    contenders = training.contenders(tiny_recipe(precision="bf16"), 4, CPU)
    names = [f"{who}, {how}" for who in ("diffusers", "lucidrains") for how in ("default", "as ours")]
    assert check_contenders(contenders, 1) == ["ours, as shipped", "ours, options off", *names]


@pytest.mark.usefixtures("no_compiler")
def test_sampling_turns() -> None:
    for package in PEERS:
        pytest.importorskip(package)
    names = check_contenders(sampling.contenders(tiny_recipe(precision="bf16"), 2, 3, CPU), 3)
    loops = {"ours": ["DDIM", "DDPM", "network alone"], "diffusers": ["DDIM", "DPM-Solver++"], "lucidrains": ["DDIM"]}
    ways = {"ours": ["as shipped", "options off"]}
    expected = [
        f"{who}, {how}: {loop}" for who in loops for how in ways.get(who, ["default", "as ours"]) for loop in loops[who]
    ]
    assert names == expected


def test_a_peer_learns() -> None:
    """The peers' loops change every weight, and diffusers' average follows: one that skipped a part would seem fast."""
    for package in PEERS:
        pytest.importorskip(package)
    config, x0 = train_config(), to_float(random_images(16))
    networks = [diffusers_unet(config, 8), lucidrains_unet(config, fused_attention=False)]
    peers = [
        training.diffusers_training(networks[0], config, repeat(x0), "fp32"),
        training.lucidrains_training(networks[1], config, repeat((x0 + 1) / 2), 8, "fp32"),
    ]
    for network, peer in zip(networks, peers, strict=True):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        losses = [peer.step() for _ in range(12)]
        assert all(torch.tensor(losses).isfinite())
        assert [name for name, value in network.named_parameters() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize("scale", ["full", "small"])
@pytest.mark.parametrize("name", ["cifar10", "celeba"])
def test_the_peers_have_our_widths_and_attention(scale: str, name: str) -> None:
    for package in PEERS:
        pytest.importorskip(package)
    recipe, _ = resolve(load_params(scale), name)
    config = recipe.train
    with torch.device("meta"):
        peer, lucidrains = diffusers_unet(config, recipe.data.size), lucidrains_unet(config, fused_attention=False)
    assert [block.resnets[-1].out_channels for block in peer.down_blocks] == config.channels
    assert [len(block.resnets) for block in peer.down_blocks] == [config.num_res] * len(config.channels)
    assert [hasattr(block, "attentions") for block in peer.down_blocks] == config.attention
    assert [hasattr(block, "attentions") for block in peer.up_blocks] == config.attention[::-1]
    heads = {module.heads for module in peer.modules() if type(module).__name__ == "Attention"}
    assert heads == {1}
    assert peer.time_embedding.linear_2.out_features == 4 * config.time_emb_dim
    assert [
        down[3].weight.shape[0] if hasattr(down[3], "weight") else down[3][1].weight.shape[0] for down in lucidrains.downs
    ] == (config.channels)
    assert [type(down[2]).__name__ == "Attention" for down in lucidrains.downs] == config.attention


@pytest.mark.parametrize("kind", ["training", "sampling"])
def test_a_run_without_the_peers(kind: str, fresh: Checkout) -> None:
    """As a real process that finds neither peers nor a C++ compiler; the printed table and the page say what the json holds."""
    blocked = fresh.path / "blocked"
    for package in PEERS:
        (blocked / package).mkdir(parents=True)
        (blocked / package / "__init__.py").write_text("raise ImportError")
    path = fresh.path / "benchmarks" / "results" / "here.json"
    command = f"-m benchmarks.{kind} --scale demo --recipe celeba --device cpu --repeats 2 --batch-size 2 --json {path}"
    command += " --steps 3" if kind == "sampling" else ""
    output = fresh.python(*command.split(), PYTHONPATH=str(blocked), PATH=str(blocked))
    assert output.count("is left out: `pip install -e '.[benchmarks]'`") == 2
    result = json.loads(path.read_text())
    assert set(result["machine"]) == {"date", "device", "torch", "python"}
    assert result["command"].startswith(f"python -m benchmarks.{kind} --scale demo --recipe celeba")
    (run,) = result["runs"]
    assert (run["scale"], run["recipe"], run["size"], run["batch_size"]) == ("demo", "celeba", 16, 2)
    samplers = [""] if kind == "training" else [": DDIM", ": DDPM"]
    names = [f"ours, {label}{sampler}" for label in ("as shipped", "options off") for sampler in samplers]
    assert [row["name"] for row in run["rows"]] == names
    for row in run["rows"]:
        assert len(row["seconds"]) == 2
        assert row["images_per_second"] == pytest.approx(2 / statistics.median(row["seconds"]) / run.get("steps", 1))
        if kind == "sampling":
            pairs = zip(row["network_seconds"], row["seconds"], strict=True)
            assert row["outside"] == pytest.approx(1 - statistics.median(alone / loop for alone, loop in pairs))
        (line,) = [line for line in output.splitlines() if line.startswith(f"| {row['name']} ")]
        assert f"| {row['images_per_second']:.1f} " in line
        assert f"| {row['share']:.0%} " in line
    assert report.run_text(result, run) in output
    fresh.python("-m", "benchmarks.report")
    page = (fresh.path / "benchmarks" / "README.md").read_text()
    assert report.table(run) in page
    assert report.rewritten(page, path.parent) == page


def test_the_page_shows_the_results_that_are_kept() -> None:
    page = (report.FOLDER / "README.md").read_text()
    assert report.rewritten(page, report.FOLDER / "results") == page, "stale: run `python -m benchmarks.report`"


@pytest.mark.parametrize("change", choices.OTHERS)
def test_another_way_computes_the_same(change: str) -> None:
    network = randomised(build_network(train_config()))
    x_t, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 70])
    expected = network(x_t, t)
    choices.OTHERS[change](network)
    torch.testing.assert_close(network(x_t, t), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_every_choice_is_measured() -> None:
    recipe, _ = resolve(load_params("demo"), "cifar10")
    tiny = recipe.train.model_copy(update={"channels": [8, 8], "attention": [False, True]})
    run = choices.run(recipe.model_copy(update={"train": tiny}), CPU, batch_size=2, rounds=1)
    assert [row["name"] for row in run["rows"]] == [
        "contiguous, eager",
        "channels_last, eager",
        "contiguous, compiled",
        "channels_last, compiled",
        "contiguous, eager, a product a block",
        "contiguous, eager, F.interpolate",
    ]
    assert all(row["images_per_second"] > 0 for row in run["rows"])


def test_filled_holes_are_measured_in_their_rim(tmp_path: Path) -> None:
    """A network that always sees gray: the distance is that of the true image from gray, whatever the way."""
    config = train_config(prediction="x0", num_timesteps=20)
    network = build_network(config)  # whose last layer starts as zeros
    data = {"size": 8, "count": 3, "origin": "test", "dataset": "celeba"}
    metadata = {"config": config.model_dump(), "step": 1, "kind": "ema", "data": data, "classes": []}
    save_weights(tmp_path / "gray.safetensors", network, metadata)
    model, images = load(tmp_path / "gray.safetensors", "cpu"), random_images(3).numpy()
    images[1:, 2:6, 2:6] = [[[0] * 3]]
    ways = inpainting.ways(steps=4, times=2)
    assert [(way.steps, way.times) for way in ways] == [(4, 1), (7, 1), (4, 2), (4, 2), (4, 2)]
    measured = {way: inpainting.distances(model, images, way, seed=0) for way in ways}
    for near, everywhere in measured.values():
        assert near[1:] == pytest.approx([0.5, 0.5])
        values = images[0].astype(float) / 255 - 0.5
        assert everywhere[0] == pytest.approx(float((values[2:6, 2:6] ** 2).mean() ** 0.5), rel=1e-5)
    header, _, *rows = inpainting.table(measured).splitlines()
    assert header.split("|")[4].strip() == "network calls"
    assert [row.split("|")[4].strip() for row in rows] == ["4", "7", "7", "7", "7"]
    assert "0.0000 ± 0.0000" in rows[-1]
