"""10,000 wrong inputs from a fixed seed: none ends in anything but a Fault or the right result."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save

from ddpm.base.faults import Fault
from ddpm.base.files import read_json
from ddpm.base.settings import validate
from ddpm.data.archives import CelebaImages
from ddpm.data.drawn.layouts import write_celeba, write_cifar10, write_fashion_mnist, write_sprites
from ddpm.data.sets import DATA_SETS
from ddpm.model.schedule import schedule_of
from ddpm.model.unet import build_network
from ddpm.model.weights import load_network, save_weights
from ddpm.recipe import check
from stages import FACTS, load_params, load_yaml
from tiny import randomised, train_config

hypothesis = pytest.importorskip("hypothesis", reason="an extra of the tests: pip install -r requirements.lock")
given, st = hypothesis.given, hypothesis.strategies
pytestmark = pytest.mark.slow

EXAMPLES = {"settings": 4000, "headers": 2000, "small files": 2000, "archives": 2000}


def fuzz(name: str) -> Any:
    """The same inputs on every run, each within seconds."""
    return hypothesis.settings(
        max_examples=EXAMPLES[name],
        derandomize=True,
        deadline=5000,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


numbers = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([10**6, 10**9, 10**12, 10**26, 2**31, 2**32, 2**63, 2**64, -(10**9), 10**400]),
    st.floats(),
    st.sampled_from([1e-320, 1e-300, 1e-20, 1e-12, 0.0, 0.5, 0.999, 1.0, 1e300]),
)
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "../x",
            "/etc/passwd",
            "a b",
            "$(x)",
            "",
            "ddim 100",
            "unipc 20 quadratic",
            "50 epochs",
            "9999999999 epochs",
            "٥ epochs",
            "synthetic",
            "official",
            "cifar10",
            "celeba",
            "sprites",
            "linear",
            "v",
            "cuda:7",
            "bf16",
            "\0",
            "\ud800",
        ]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


def result_or_fault(action: Callable[[], Any]) -> Any:
    """What `action()` returns, or the Fault that it raises."""
    try:
        return action()
    except Fault as fault:
        return fault


def paths_in(section: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The places in nested sections, each as the keys that lead there."""
    inner = section.items() if isinstance(section, dict) else enumerate(section) if isinstance(section, list) else ()
    return [place for key, value in inner for place in [(*prefix, key), *paths_in(value, (*prefix, key))]]


def changed(whole: Any, place: tuple[str | int, ...], value: Any, remove: bool) -> Any:
    """A copy of `whole` with another value at `place`, or without it."""
    whole = copy.deepcopy(whole)
    section = whole
    for key in place[:-1]:
        section = section[key]
    if remove:
        del section[place[-1]]
    else:
        section[place[-1]] = value
    return whole


PARAMS = load_params("demo")
PLACES = paths_in(PARAMS)


@fuzz("settings")
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), values, st.booleans()), min_size=1, max_size=3))
def test_settings(changes: list[tuple[tuple[str | int, ...], Any, bool]]) -> None:
    params = PARAMS
    for place, value, remove in changes:
        try:
            params = changed(params, place, value, remove)
        except (KeyError, IndexError, TypeError):  # an earlier change took that place away
            continue

    def checked() -> None:
        for recipe in check(params).values():
            schedule_of(recipe.train)
            recipe.train.lr_at(recipe.train.steps - 1)

    result_or_fault(checked)


@fuzz("small files")
@given(
    written=st.one_of(
        st.binary(max_size=200), st.builds(json.dumps, values).map(str.encode), st.text(max_size=100).map(str.encode)
    )
)
def test_small_files(written: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(written)
    for kind in FACTS.values():
        result_or_fault(lambda kind=kind: validate(kind, read_json(path, "make it again")))  # type: ignore[misc]
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):  # as load_params does
        load_yaml(written.decode())


FACTS_OF_DATA = {"dataset": "cifar10", "size": 8, "count": 3, "origin": "a test", "mean": [0.5] * 3, "std": [0.2] * 3}
HEADER = {"config": train_config().model_dump(), "step": 7, "kind": "ema", "data": FACTS_OF_DATA, "classes": []}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "good.safetensors"
    save_weights(path, randomised(build_network(train_config())), HEADER)
    return path


@fuzz("headers")
@given(
    change=st.tuples(st.sampled_from(paths_in(HEADER)), values, st.booleans()),
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 9),
)
def test_headers(good: Path, change: Any, flips: list[tuple[int, int]], cut: int) -> None:
    """Another value in the header, or other bytes anywhere; what is accepted draws as many numbers as it says."""
    path = good.with_name("fuzzed.safetensors")
    if flips:
        content = bytearray(good.read_bytes())
        for place, byte in flips:
            # Every second one in the part that says what follows.
            content[place % (len(content) if place % 2 else 9000)] = byte
        path.write_bytes(bytes(content)[: len(content) if cut else len(content) // 2])
    else:
        path.write_bytes(save(load_file(good), {"ddpm": json.dumps(changed(HEADER, *change))}))
    result = result_or_fault(lambda: load_network(path))
    if isinstance(result, Fault):
        assert str(result).startswith(str(path))
    else:
        network, config, metadata = result
        assert all(parameter.isfinite().all() for parameter in network.parameters())
        assert 1 <= metadata["data"]["size"] <= 1024
        schedule_of(config)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    """Small archives of each layout: data set and content; a folder's files stand for themselves."""
    place = tmp_path_factory.mktemp("archives")
    write_cifar10(place / "cifar10", 20, 0, 1)
    write_celeba(place / "celeba", 20, 0, 1)
    write_sprites(place / "sprites", 40, 0, 1)
    write_fashion_mnist(place / "fashion_mnist", 20, 0, 1)
    found = {name: (name, (place / name).read_bytes()) for name in ("cifar10", "celeba", "sprites")}
    return found | {file.name: ("fashion_mnist", file.read_bytes()) for file in (place / "fashion_mnist").iterdir()}


@fuzz("archives")
@given(
    which=st.integers(0, 100),
    flips=st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.floats(0, 4),
    inside=st.booleans(),
)
def test_archives(
    archives: dict[str, tuple[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    which: int,
    flips: list[tuple[int, int]],
    cut: float,
    inside: bool,
) -> None:
    """Other bytes or a cut anywhere, also in what is packed, where no checksum of gzip stands in the way."""
    name = sorted(archives)[which % len(archives)]
    data_set, content = archives[name]
    packed = inside and content[:2] == b"\x1f\x8b"
    spoilt = bytearray(gzip.decompress(content) if packed else content)
    for place, byte in flips:
        # Headers stand at the beginning and at the end.
        near = [place % len(spoilt), place % min(len(spoilt), 1024), len(spoilt) - 1 - place % min(len(spoilt), 1024)]
        spoilt[near[place % 3]] = byte
    if cut < 1:
        spoilt = spoilt[: int(len(spoilt) * cut)]
    path = tmp_path_factory.getbasetemp() / "fuzzed" / "archive"
    if data_set == "fashion_mnist":
        for other, (kind, good) in archives.items():
            if kind == data_set:
                (path / other).parent.mkdir(parents=True, exist_ok=True)
                (path / other).write_bytes(good)
        target = path / name
    else:
        target = path.with_suffix(".file")
        target.parent.mkdir(exist_ok=True)
    target.write_bytes(gzip.compress(bytes(spoilt), 1) if packed else bytes(spoilt))
    table, source = DATA_SETS[data_set], path if data_set == "fashion_mnist" else target

    def first() -> np.ndarray:
        table.check(source)
        images = table.read(source, "all")
        return np.asarray(images[0] if isinstance(images, CelebaImages) else images[0][0])

    result = result_or_fault(first)
    assert str(result).startswith(str(path.parent)) if isinstance(result, Fault) else result.dtype == np.uint8


def test_the_fuzzed_archives_are_good_before(archives: dict[str, tuple[str, bytes]]) -> None:
    """So that what is found is due to the change."""
    with tarfile.open(fileobj=io.BytesIO(archives["cifar10"][1])) as tar:
        assert len(tar.getnames()) >= 5
    with zipfile.ZipFile(io.BytesIO(archives["celeba"][1])) as archive:
        assert len(archive.namelist()) >= 20
    assert sum(EXAMPLES.values()) == 10_000
