"""The yardstick: its features, its file, its training, and that what is measured with it grows with the damage to images."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import benchmarks.yardstick as benchmark
from ddpm.base.faults import Fault
from ddpm.base.hashes import sha256_of
from ddpm.data.drawn.faces import draw_face
from ddpm.data.drawn.kinds import KINDS, draw_kind
from ddpm.evaluation import features, learning, yardstick
from ddpm.evaluation.yardstick import (
    CLASSES,
    WEIGHTS,
    YardstickNetwork,
    as_input,
    load_yardstick,
    measured,
    save_yardstick,
    yardstick_sha256,
)
from stages import ROOT, Paths
from stages import yardstick as yardstick_stage
from tiny import random_images

METRICS = ROOT / "metrics" / "small" / "cifar10" / "yardstick.json"


def pictures(count: int, size: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (count, size, size, channels), np.uint8)


# --- Features ------------------------------------------------------------------------------------------------------


def test_the_network_is_small() -> None:
    network = load_yardstick(WEIGHTS)
    assert sum(parameter.numel() for parameter in network.parameters()) <= 600_000
    assert network.classify.in_features == 64
    assert WEIGHTS.stat().st_size < 1_300_000


@pytest.mark.parametrize(("size", "channels"), [(16, 3), (28, 1), (32, 3), (64, 3)])
def test_features_are_64_float64_of_any_size(size: int, channels: int) -> None:
    found = features(pictures(3, size, channels))
    assert (found.shape, found.dtype) == ((3, 64), np.float64)
    assert np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize("size", [28, 32, 64])
def test_images_are_taken_as_they_are(size: int) -> None:
    images = pictures(2, size)
    expected = np.moveaxis(images, 3, 1) / 127.5 - 1
    np.testing.assert_allclose(as_input(torch.from_numpy(images)), expected, atol=1e-6)


def test_images_of_16_pixels_are_doubled() -> None:
    images = pictures(3, 16)
    enlarged = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(features(images), features(enlarged), atol=1e-4)


def test_gray_images_are_repeated() -> None:
    gray = pictures(3, 28, 1)
    np.testing.assert_allclose(features(gray), features(np.repeat(gray, 3, axis=3)), atol=1e-4)


def test_features_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for rounding: another number of images may be summed in another order."""
    images = pictures(7, 32)
    images[0] = 255  # a norm of the batch would move all others
    together = features(images)
    monkeypatch.setattr(yardstick, "BATCH_SIZE", 3)
    np.testing.assert_allclose(features(images), together, atol=1e-4)
    np.testing.assert_allclose(features(images[4:5]), together[4:5], atol=1e-4)
    np.testing.assert_allclose(features(images[::-1]), together[::-1], atol=1e-4)


def test_the_class_is_what_the_last_layer_makes_of_the_features() -> None:
    found, classes = measured(pictures(20, 32))
    logits = load_yardstick(WEIGHTS).classify(torch.from_numpy(found).float())
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, logits.argmax(1).numpy())


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((2, 32, 32, 2), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(images: np.ndarray) -> None:
    with pytest.raises(Fault, match="accepted: uint8"):
        features(images)


# --- The file of weights -------------------------------------------------------------------------------------------


class Bomb:
    """What a pickle runs when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_loading_executes_nothing(tmp_path: Path) -> None:
    path, mark = tmp_path / "yardstick.pt", tmp_path / "executed"
    torch.save({"stem.convolution.weight": Bomb(mark)}, path)
    with pytest.raises(Fault, match="accepted"):
        load_yardstick(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "this file would have executed something"


def missing(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "narrow.convolution.weight"}


def of_other_shape(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"classify.weight": torch.zeros(100, 64)}


def foreign(_: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"weight": torch.zeros(3)}


@pytest.mark.parametrize("change", [missing, of_other_shape, foreign])
def test_foreign_weights_are_refused(tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = tmp_path / "other.safetensors"
    save_file(change(load_file(WEIGHTS)), path)
    with pytest.raises(Fault, match=r"(?s)other\.safetensors.*accepted"):
        load_yardstick(path)


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "other.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Fault, match=r"(?s)other\.safetensors.*accepted"):
        load_yardstick(path)


def test_without_its_norms_the_network_computes_the_same(tmp_path: Path) -> None:
    """The difference is of the order that rounding the weights to fp16 makes by itself."""
    torch.manual_seed(0)
    trained, x0 = YardstickNetwork(norm=True), as_input(random_images(16, 24))
    for module in trained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0  # it keeps what the last batch was like
    with torch.no_grad():
        trained(x0)
        trained.eval()
        path = tmp_path / "yardstick.safetensors"
        save_yardstick(trained, path, {"classes": ",".join(CLASSES)})
        stored, expected = load_yardstick(path), trained(x0)
        rounded = YardstickNetwork(norm=True).eval()
        rounded.load_state_dict({name: value.half().to(value.dtype) for name, value in trained.state_dict().items()})
        rounding = (rounded(x0) - expected).square().mean().sqrt()
        difference = (stored(x0) - expected).square().mean().sqrt()
    assert 0 < difference < 3 * rounding < 0.03 * expected.std()
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    assert not [name for name in load_file(path) if ".norm." in name]


def test_the_file_is_the_one_that_was_measured() -> None:
    known = json.loads(METRICS.read_text())
    assert known["sha256"] == yardstick_sha256() == sha256_of(WEIGHTS)
    assert known["parameters"] == sum(parameter.numel() for parameter in load_yardstick(WEIGHTS).parameters())
    assert known["heldout_accuracy"] >= 0.88


# --- Its training --------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_training_ends_on_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    """Stopped within its second epoch; `damaged`: of the saved state only a part is left, so it starts anew."""
    images, labels = random_images(24).numpy(), np.arange(24) % 10
    monkeypatch.setattr(learning, "BATCH_SIZE", 8)  # three steps an epoch
    whole = learning.train_yardstick(images, labels, tmp_path / "whole.pt", cycles=((1, 0.1), (1, 0.05)))

    move, calls, state_file = learning._moved, [], tmp_path / "stopped.pt"

    def stopping(batch: Tensor, generator: torch.Generator) -> Tensor:
        calls.append(len(batch))
        if len(calls) == 5:
            raise Stopped
        return move(batch, generator)

    monkeypatch.setattr(learning, "_moved", stopping)
    with pytest.raises(Stopped):
        learning.train_yardstick(images, labels, state_file, cycles=((1, 0.1), (1, 0.05)))
    if damaged:
        state_file.write_bytes(state_file.read_bytes()[:1000])
    torch.manual_seed(1)  # nothing may depend on it
    resumed = learning.train_yardstick(images, labels, state_file, cycles=((1, 0.1), (1, 0.05)))
    assert calls[5:] == [8] * (6 if damaged else 3)
    state = resumed.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_training_whose_code_changed_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage keeps the state of other epochs, rates or shifts under another name."""
    images, found = random_images(4).numpy(), []

    def trained(images: np.ndarray, labels: np.ndarray, state_file: Path) -> None:
        found.append(state_file)
        raise Stopped

    monkeypatch.setattr(learning, "train_yardstick", trained)
    for name in ("training", "heldout"):
        monkeypatch.setattr(yardstick_stage, f"{name}_images", lambda paths: (images, {"sha256": "ab" * 32}))
        monkeypatch.setattr(yardstick_stage, f"{name}_labels", lambda paths: np.zeros(4, np.uint8))
    monkeypatch.setattr(Paths, "resolved", lambda self, part: {"classes": list(CLASSES)})
    source = Path(learning.__file__).read_text()
    for text in (source, source, source.replace("(24, 0.1)", "(25, 0.1)")):
        (tmp_path / "learning.py").write_text(text)
        monkeypatch.setattr(learning, "__file__", str(tmp_path / "learning.py"))
        with pytest.raises(Stopped):
            yardstick_stage.main(Paths("small", "cifar10"))
    assert found[0] == found[1] != found[2]
    assert len({path.parent for path in found}) == 1


def test_the_network_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three classes that differ in colour are told apart after ten epochs."""
    monkeypatch.setattr(learning, "BATCH_SIZE", 8)
    labels = np.arange(48) % 3
    images = (random_images(48).numpy() // 4 + 150 * np.eye(3)[labels][:, None, None]).astype(np.uint8)
    network = learning.train_yardstick(images, labels, tmp_path / "state.pt", cycles=((10, 0.1),))
    with torch.inference_mode():
        named = network.classify(network(as_input(torch.from_numpy(images)))).argmax(1).numpy()
    assert (named == labels).mean() > 0.9


# --- It is tested itself -------------------------------------------------------------------------------------------


@cache
def result() -> benchmark.Result:
    """The benchmark's measurement of a few pictures drawn by code."""
    number, kinds = 64, len(KINDS)
    drawn = [np.asarray(draw_kind(index % kinds, random.Random(index))) for index in range(round(benchmark.POOL * number))]
    faces = np.stack([np.asarray(draw_face(random.Random(index))) for index in range(number)])
    others = benchmark.resized(faces, 32)
    subject = benchmark.Subject("drawn", number, np.stack(drawn), np.arange(len(drawn)) % kinds, others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(benchmark.STRENGTHS, benchmark.MISSING, (60, 75, 90, 100))  # KID of so few is noisy
        patch.setattr(benchmark, "SINGLE", {"mirrored": benchmark.SINGLE["mirrored"]})
        return benchmark.measure(subject)


@pytest.mark.parametrize("name", benchmark.STRENGTHS)
def test_measures_grow_with_the_damage(name: str) -> None:
    floor, scores = result().floor, result().grown[name]
    assert len(scores) == 4
    assert benchmark.grows(floor.fd, [found.fd for found in scores])
    assert benchmark.grows(floor.kid, [found.kid for found in scores])


def test_what_the_measures_say_of_copies() -> None:
    """Copies of the reference look better than other real images; repeated images cost coverage."""
    floor, single = result().floor, result().single
    copies, repeated = single["copies of the reference"], single["every image ten times"]
    assert copies.fd == pytest.approx(0, abs=1e-6)
    assert copies.kid < floor.kid
    assert copies.density == copies.coverage == 1
    assert repeated.coverage < 0.7 * floor.coverage


def test_growth_is_seen_and_its_absence_too() -> None:
    assert benchmark.grows(1, [2, 3, 4, 5])
    assert not benchmark.grows(1, [2, 3, 3, 5])
    assert not benchmark.grows(1, [0.9, 3, 4, 5])


@pytest.mark.parametrize("pairs", [1, 2, 4, 8])
def test_swapped_blocks(pairs: int) -> None:
    """Of 16 blocks of known content two a pair are elsewhere, each where the other was; the rest stay."""
    numbers = np.kron(np.arange(16).reshape(4, 4), np.ones((7, 7)))[None, :, :, None].repeat(3, axis=0).astype(np.uint8)
    places = benchmark.swapped(numbers, pairs)[:, ::7, ::7, 0].reshape(3, 16)
    for row in places:
        assert (row != np.arange(16)).sum() == 2 * pairs
        np.testing.assert_array_equal(row[row], np.arange(16))
    np.testing.assert_array_equal(np.sort(benchmark.swapped(numbers, pairs), axis=None), np.sort(numbers, axis=None))


def test_images_are_moved_and_halved() -> None:
    images = pictures(3, 32)
    np.testing.assert_array_equal(benchmark.moved(images, 3)[:, :, 3:], images[:, :, :-3])
    np.testing.assert_array_equal(benchmark.halved(images)[0, :, :16], images[0, :, :16])
    np.testing.assert_array_equal(benchmark.halved(images)[2, :, 16:], images[0, :, 16:])


def test_the_page_is_of_this_yardstick() -> None:
    page = benchmark.PAGE.read_text()
    block = page.split(benchmark.BEGIN)[1].split(benchmark.END)[0]
    assert yardstick_sha256() in block, "stale: run `python -m benchmarks.yardstick`"


def test_the_block_is_rewritten_and_nothing_else() -> None:
    page = f"before\n{benchmark.BEGIN}\nold\n{benchmark.END}\nafter\n"
    written = benchmark.rewritten(page, [result()])
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "old" not in written
    assert f"| none: the floor | {result().floor.fd:.2f} " in " ".join(written.split())
    assert benchmark.rewritten(written, [result()]) == written
