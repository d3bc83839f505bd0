"""Settings: each kind of bad value is refused by a line that names key, value and what is accepted."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml

from ddpm.config import ConfigError, RuntimeConfig, resolve, validate
from stages.common import SCALES, load_params, load_yaml
from tiny import train_config

DELETE = object()
BASE = load_params("full")


def params(changes: dict[str, Any]) -> dict[str, Any]:
    """full/params.yaml with `changes`, by dotted keys; DELETE removes a key."""
    changed = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parents, key = path.split(".")
        section = changed
        for parent in parents:
            section = section[parent]
        if value is DELETE:
            del section[key]
        else:
            section[key] = value
    return changed


def message(changes: dict[str, Any], recipe: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(params(changes), recipe)
    return str(caught.value)


# key, bad value, what the message must say besides both. Where the recipe overrides nothing, the default is to blame.
BAD_FOR_CIFAR10 = [
    ("train.lr", "0.1", "a number in (0, 1]"),
    ("train.lr", True, "a number in (0, 1]"),
    ("train.lr", math.nan, "a number in (0, 1]"),
    ("train.lr", 0, "a number in (0, 1]"),
    ("train.lr", None, "a number in (0, 1]"),
    ("train.steps", -5, "1 or more"),
    ("train.steps", 10.0, "1 or more"),
    ("train.steps", True, "1 or more"),
    ("train.flip", 1, "true or false"),
    ("train.flip", "on", "true or false"),
    ("train.seed", -1, "0 to 2**32 - 1"),
    ("train.seed", 2**32, "0 to 2**32 - 1"),
    ("train.channels", "banana", "a list of positive integers"),
    ("train.channels", [], "a list of positive integers"),
    ("train.attention", [True, False], "lists of equal length"),
    ("train.channels", [64, 128, 254, 256], "multiples of 4"),
    ("train.time_emb_dim", 7, "an even number"),
    ("train.dropout", 1.0, "[0, 1)"),
    ("train.num_timesteps", 1, "2 or more"),
    ("train.prediction", "x0", "eps or v"),
    ("train.lr_decay", "cosine", "constant, or linear"),
    ("train.warmup_steps", 350000, "less than train.steps = 350000"),
    ("train.checkpoints", [4, 2], "ascending"),
    ("train.checkpoints", [2, 2], "ascending"),
    ("train.precision", "fp16", "auto, fp32 or bf16"),
    ("figures.method", "euler", "ddpm or ddim"),
    ("figures.ddpm_steps", 1001, "at most train.num_timesteps = 1000"),
    ("figures.ddim_eta", 1.5, "[0, 1]"),
    ("figures.grid_images", 50, "a square number"),
    ("recipes.cifar10.data.size", 64, "accepted for cifar10"),
    ("recipes.cifar10.data.crop", [0, 0, 8, 8], "accepted for cifar10"),
    ("recipes.cifar10.data.dataset", "mnist", "one of cifar10, celeba"),
    ("recipes.cifar10.data.source", "", "official, synthetic, or"),
    ("sources.cifar10.size", "big", "size in bytes"),
    ("sources.cifar10.md5", "abc", "32 hex digits"),
    ("recipes.cifar10.train", 5, "a section of settings"),
    ("recipes.cifar10.figures", ["a"], "a section of settings"),
    ("recipes.cifar10", None, "a section of settings"),
    ("train", None, "a section of settings"),
    ("sources", "x", "a section of settings"),
]
# Overridden by the recipe: its key is to blame.
BAD_FOR_CELEBA = [
    ("recipes.celeba.train.lr", 5, "a number in (0, 1]"),
    ("recipes.celeba.train.lr", "2e-4", "a number in (0, 1]"),
    ("recipes.celeba.train.channels", [64, 128], "lists of equal length"),
    ("recipes.celeba.train.channels", [64, 128, 6, 8, 8], "multiples of 4"),
    ("recipes.celeba.train.warmup_steps", 229000, "less than recipes.celeba.train.steps = 229000"),
    ("recipes.celeba.figures.ddpm_steps", 2000, "at most train.num_timesteps = 1000"),
    ("recipes.celeba.data.size", 60, "a multiple of 16"),
    ("recipes.celeba.data.size", 0, "side of the square"),
    ("recipes.celeba.data.crop", [51, 57, 128, 128], "left + width <= 178"),
    ("recipes.celeba.data.crop", [25, 91, 128, 128], "top + height <= 218"),
    ("recipes.celeba.data.crop", [25, 57, 0, 0], "does not lie inside"),
    ("recipes.celeba.data.crop", [25, 57, 128, 100], "width equal to height"),
    ("recipes.celeba.data.crop", [25, 57, 128], "[left, top, width, height]"),
    ("recipes.celeba.data.crop", None, "[25, 57, 128, 128]"),
]


@pytest.mark.parametrize(
    ("recipe", "key", "value", "accepted"),
    [("cifar10", *case) for case in BAD_FOR_CIFAR10] + [("celeba", *case) for case in BAD_FOR_CELEBA],
)
def test_bad_values_are_named(recipe: str, key: str, value: Any, accepted: str) -> None:
    line = message({key: value}, recipe)
    assert f"{key} = {value!r}" in line
    assert accepted in line
    assert f".{key}" not in line, "named as it was written"
    assert "\n" not in line, "one fault, one line"


def test_bad_values_inside_lists_are_named() -> None:
    assert "train.channels.1 = 'x'" in message({"train.channels": [64, "x", 64, 64]}, "cifar10")
    assert "recipes.celeba.train.channels.2 = 0" in message({"recipes.celeba.train.channels": [4, 4, 0, 4, 4]}, "celeba")
    assert "recipes.celeba.data.crop.0 = -1" in message({"recipes.celeba.data.crop": [-1, 0, 9, 9]}, "celeba")
    assert "figures.ddim_steps = 1001" in message({"figures.ddim_steps": [20, 1001]}, "cifar10")
    for urls in ([], ["ftp://a"]):
        assert "urls" in message({"sources.cifar10.urls": urls}, "cifar10")


@pytest.mark.parametrize(
    ("key", "accepted"),
    [
        ("train.lrr", "unknown key"),
        ("figures.steps", "unknown key"),
        ("recipes.cifar10.train.lrr", "unknown key; accepted: seed, channels"),
        ("recipes.cifar10.data.crops", "unknown key"),
        ("recipes.cifar10.data.file", "stands under sources"),
        ("recipes.cifar10.training", "unknown key; accepted: data, train, figures"),
        ("sources.cifar10.url", "unknown key"),
    ],
)
def test_typos_are_named(key: str, accepted: str) -> None:
    line = message({key: 1}, "cifar10")
    assert line.startswith(f"{key}: ")
    assert accepted in line


@pytest.mark.parametrize("key", ["train.flip", "figures.method", "recipes.cifar10.data.size", "sources.cifar10.sha256"])
def test_missing_keys_are_named(key: str) -> None:
    changes = {key: DELETE}
    if key.split(".")[0] in ("train", "figures"):
        changes[f"recipes.cifar10.{key}"] = DELETE
    assert f"{key}: missing; accepted: " in message(changes, "cifar10")


def test_unknown_recipe_and_several_faults_at_once() -> None:
    assert "recipes.mnist" in message({}, "mnist")
    assert "this level has: cifar10, celeba" in message({}, "mnist")
    lines = message({"train.lr": 7, "train.seed": -1, "figures.method": "x"}, "cifar10").splitlines()
    assert [line.partition(" = ")[0] for line in lines] == ["train.seed", "train.lr", "figures.method"]


def test_overrides_win_over_defaults_and_null_inherits() -> None:
    changes = {"recipes.celeba.train.lr": 0.5, "train.lr": 0.25, "train.flip": True, "recipes.celeba.train.flip": False}
    config, overridden = resolve(params(changes), "celeba")
    assert (config.train.lr, config.train.flip) == (0.5, False), "false overrides, only null inherits"
    assert {"recipes.celeba.train.lr", "recipes.celeba.train.flip"} <= set(overridden)
    assert "recipes.celeba.train.seed" not in overridden
    other, _ = resolve(params(changes), "cifar10")
    assert (other.train.lr, other.train.flip) == (0.25, True)
    assert other.data.file.name == "cifar-10-binary.tar.gz"


def test_resolving_changes_nothing_in_its_input() -> None:
    before = copy.deepcopy(BASE)
    resolve(BASE, "cifar10")
    resolve(BASE, "celeba")
    assert before == BASE


@pytest.mark.parametrize("scale", SCALES)
def test_the_committed_settings_are_valid(scale: str) -> None:
    values = load_params(scale)
    for recipe in values["recipe_names"]:
        config, _ = resolve(values, recipe)
        assert config.train.kept_steps[-1] == config.train.steps


def test_kept_steps_end_with_the_last_step() -> None:
    assert train_config(steps=10, checkpoints=[2, 4]).kept_steps == [2, 4, 10]
    assert train_config(steps=10, checkpoints=[2, 10]).kept_steps == [2, 10]
    assert train_config(steps=10, checkpoints=[2, 10, 11, 99]).kept_steps == [2, 10]
    assert train_config(steps=10, checkpoints=[]).kept_steps == [10]


@pytest.mark.parametrize(
    ("key", "value"), [("device", "gpu"), ("device", "cuda:x"), ("workers", -1), ("save_seconds", 0.0), ("colour", 1)]
)
def test_runtime_settings_are_checked(key: str, value: Any) -> None:
    values = BASE["runtime"] | {key: value}
    with pytest.raises(ConfigError, match=rf"^runtime\.{key}\b"):
        validate(RuntimeConfig, values, "runtime")
    assert validate(RuntimeConfig, BASE["runtime"], "runtime").workers == BASE["runtime"]["workers"]


# `dvc exp run -S` writes YAML 1.2, which plain PyYAML misreads.
SCALARS = [
    "1e-05", "1e-4", "1.0e-3", "2e3", "-1e+3", "+.5", ".5", "1.", "0.1", "5", "-3", "0", "1000000", "1_000", "0x10",
    "010", "08", "1:30", "0o10",
    "on", "off", "yes", "no", "y", "n", "true", "True", "false", "FALSE", "null", "~", "", ".inf", "-.inf",
    "'1e-4'", "'5'", "1e", "e5", "1.2.3", "cuda:0", "[1, 1e-4, on, null]", "{a: 1e-4}",
]  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_yaml_is_read_as_dvc_reads_it(text: str) -> None:
    ours, theirs = load_yaml(f"key: {text}"), parse_yaml(f"key: {text}", "params.yaml")
    assert ours == theirs
    assert type(ours["key"]) is type(theirs["key"])


def test_yaml_executes_nothing() -> None:
    with pytest.raises(Exception, match="could not determine a constructor"):
        load_yaml("a: !!python/object/apply:os.getcwd []")
