"""Settings: each kind of bad value is refused by a line that names key, value and what is accepted."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml

from ddpm.base.faults import Fault
from ddpm.base.settings import validate
from ddpm.data.settings import Contents
from ddpm.model.weights import MAX_SIDE
from ddpm.recipe import MOST, check, resolve
from ddpm.training.settings import TrainConfig, in_steps
from stages import SCALES, Paths, RuntimeConfig, load_params, load_yaml
from tiny import train_config

DELETE = object()
BASE = load_params("full")


def params(changes: dict[str, Any]) -> dict[str, Any]:
    """full/params.yaml with `changes`, by dotted keys; DELETE removes a key."""
    changed = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parents, key = path.split(".")
        section: Any = changed
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is DELETE:
            section.pop(key, None)
        else:
            section[key] = value
    return changed


def message(changes: dict[str, Any], recipe: str) -> str:
    with pytest.raises(Fault) as caught:
        resolve(params(changes), recipe)
    return str(caught.value)


# key, bad value, what the message must say besides both. Where the recipe overrides nothing, the default is to blame.
BAD_FOR_CIFAR10 = [
    ("train.lr", "0.1", "a number in (0, 1]"),
    ("train.lr", True, "a number in (0, 1]"),
    ("train.lr", math.nan, "a number in (0, 1]"),
    ("train.lr", 0, "a number in (0, 1]"),
    ("train.lr", None, "a number in (0, 1]"),
    ("train.lr", 1e-320, "at least 1e-12"),
    ("train.grad_clip", 1e-300, "1e-12 at least"),
    ("train.steps", 10**12, "at most 10^9"),
    ("train.steps", 10**26, "at most 10^9"),
    ("train.steps", "٥٠ epochs", "or epochs, as in: 50 epochs"),
    ("train.batch_size", 10**9, "at most 1,000,000"),
    ("train.num_res", 10**6, "at most 100"),
    ("train.channels", [4] * 13, "at most 12"),
    ("train.num_timesteps", 10**9, "at most 100,000"),
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
    ("train.prediction", "score", "eps, x0 or v"),
    ("train.schedule", "quadratic", "cosine, linear or sigmoid"),
    ("train.beta_min", 0.0, "a number in (0, 1)"),
    ("train.beta_min", 0.5, "at most train.beta_max = 0.02"),
    ("train.zero_terminal_snr", True, "accepted: train.prediction v or x0"),  # eps is full's
    ("train.attention", [1, 5], "1 to 4, the levels of train.channels"),
    ("train.attention", [0], "1 to 4, the levels of train.channels"),
    ("train.heads", 3, "a divisor of each width that has attention"),
    ("train.context_dim", 9, "0, unconditional, or 10, the classes of cifar10"),
    ("train.norm", "layer", "group or batch"),
    ("train.steps", "50 epoches", "or epochs, as in: 50 epochs"),
    ("train.steps", "0 epochs", "or epochs, as in: 50 epochs"),
    ("train.loss_weighting", "p2", "plain or min_snr"),
    ("train.lr_decay", "cosine", "constant, or linear"),
    ("train.warmup_steps", 350000, "less than train.steps = 350000"),
    ("train.checkpoints", [4, 2], "ascending"),
    ("train.checkpoints", [2, 2], "ascending"),
    ("train.precision", "fp16", "auto, fp32 or bf16"),
    ("figures.drawing.sampler", "euler 10", "methods: ddpm, ddim, dpm_solver_pp, unipc, heun"),
    ("figures.drawing.sampler", "ddim", "as in `unipc 20`"),
    ("figures.drawing.sampler", "ddim 0", "as in `unipc 20`"),
    ("figures.drawing.sampler", "ddpm 1001", "at most train.num_timesteps = 1000"),
    ("figures.solvers.steps", [5, 1001], "at most train.num_timesteps = 1000"),
    ("figures.drawing.sampler", "ddim 20 cubic", "spacings: uniform, quadratic, karras"),
    ("figures.drawing.guidance", -1.0, "0 or more"),
    ("figures.path.images", 6, "a multiple of 4"),
    ("figures.drawing.eta", 1.5, "[0, 1]"),
    ("figures.grid.images", 50, "a square number"),
    ("figures.grid.images", 10**400, "at most 10,000"),
    ("figures.grid.images", 10**12, "at most 10,000"),
    ("figures.drawing.per_row", 10**12, "at most 1,000"),
    ("figures.drawing.batch_size", 10**12, "at most 100,000"),
    ("figures.drawing.guidance", 1e300, "at most 1,000"),
    ("figures.classes.scales", [2, 1e300], "at most 1,000"),
    ("figures.path.images", 4 * 10**12, "at most 1,000"),
    ("figures.editing.times", 10**12, "at most 1,000"),
    ("figures.editing.jump", 10**12, "at most 100,000"),
    ("figures.timing.images", 10**12, "at most 100,000"),
    ("evaluation.images", 10**12, "at most 1,000,000"),
    ("evaluation.bound_images", 10**12, "at most 1,000,000"),
    ("evaluation.batch_size", 10**12, "at most 100,000"),
    ("evaluation.guidance", 1e300, "at most 1,000"),
    ("evaluation.inception", "a\0b", "none of them NUL"),
    ("train.weight_decay", 1e308, "less than 1 / train.lr = 5000"),
    ("recipes.cifar10.data.source", "a\ud800", "characters of Unicode"),
    ("recipes.cifar10.data.images", 10**15, "at most 10,000,000"),
    ("recipes.cifar10.data.size", 64, "accepted for cifar10"),
    ("recipes.cifar10.data.crop", [0, 0, 8, 8], "accepted for cifar10"),
    ("recipes.cifar10.data.dataset", "mnist", "one of cifar10, celeba, fashion_mnist, sprites"),
    ("recipes.cifar10.data.source", "", "official, synthetic, or"),
    ("evaluation.sampler", "wrong 10", "methods: ddpm, ddim"),
    ("evaluation.sampler", "unipc 1001", "at most train.num_timesteps = 1000"),
    ("evaluation.images", 5, "20 or more"),
    ("evaluation.inception", None, "official, or the path"),
    ("figures.drawing.sampler", "wrong 10", "methods: ddpm, ddim"),
    ("figures.drawing.sampler", 5, "methods: ddpm, ddim"),
    ("figures.drawing", 5, "accepted"),
    ("recipes.cifar10.train", 5, "a section of settings"),
    ("recipes.cifar10.figures", ["a"], "a section of settings"),
    ("recipes.cifar10", 3, "a section of settings"),
    ("train", None, "a section of settings"),
]
# Overridden by the recipe: its key is to blame.
BAD_FOR_CELEBA = [
    ("recipes.celeba.train.lr", 5, "a number in (0, 1]"),
    ("recipes.celeba.train.lr", "2e-4", "a number in (0, 1]"),
    ("recipes.celeba.train.channels", [64, 128], "accepted: 1 to 2, the levels of"),
    ("recipes.celeba.train.channels", [64, 128, 6, 8, 8], "multiples of 4"),
    ("recipes.celeba.train.warmup_steps", 229000, "less than recipes.celeba.train.steps = 229000"),
    ("recipes.celeba.figures.drawing.sampler", "ddim 2000", "at most train.num_timesteps = 1000"),
    ("recipes.celeba.evaluation.guidance", -1.0, "0 or more"),
    ("recipes.celeba.train.context_dim", 10, "accepted: 0, unconditional"),
    ("recipes.celeba.data.size", 8, "accepted: more than 8"),
    ("recipes.celeba.data.size", 0, "side of the square"),
    ("recipes.celeba.data.size", 10**9, "at most 1,024"),
    ("recipes.celeba.figures.grid.images", 10**12, "at most 10,000"),
    ("recipes.celeba.data.crop", [51, 57, 128, 128], "left + width <= 178"),
    ("recipes.celeba.data.crop", [25, 91, 128, 128], "top + height <= 218"),
    ("recipes.celeba.data.crop", [25, 57, 0, 0], "does not lie inside"),
    ("recipes.celeba.data.crop", [25, 57, 128, 100], "width equal to height"),
    ("recipes.celeba.data.crop", [25, 57, 128], "[left, top, width, height]"),
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


def test_the_largest_images_are_those_whose_network_can_be_loaded() -> None:
    assert MOST["data.size"] == MAX_SIDE


def test_what_fills_a_disk_is_refused() -> None:
    drawn = {"recipes.celeba.data.source": "synthetic", "recipes.celeba.data.images": 10_000_000}
    line = message(drawn | {"recipes.celeba.data.size": 512}, "celeba")
    assert "recipes.celeba.data.size = 512: 10,000,000 images take 7.9 TB; accepted: a size or a number" in line


@pytest.mark.parametrize("key", ["train.checkpoints", "figures.samplers.compared", "figures.solvers.steps"])
def test_endless_lists_are_counted_and_not_shown(key: str) -> None:
    assert message({key: [5] * 10**5}, "cifar10") == f"{key} = a list of 100,000 entries; accepted: at most 1,000"


def test_endless_texts_are_cut() -> None:
    line = message({"recipes.cifar10.data.origin": "x" * 10**6}, "cifar10")
    assert line.startswith("recipes.cifar10.data.origin = 'xxxx")
    assert "... of 1,000,000 letters; accepted: at most 4,096 characters" in line
    assert len(line) < 200


def test_bad_values_inside_lists_are_named() -> None:
    assert "train.channels.1 = 'x'" in message({"train.channels": [64, "x", 64, 64]}, "cifar10")
    assert "recipes.celeba.train.channels.2 = 0" in message({"recipes.celeba.train.channels": [4, 4, 0, 4, 4]}, "celeba")
    assert "recipes.celeba.data.crop.0 = -1" in message({"recipes.celeba.data.crop": [-1, 0, 9, 9]}, "celeba")
    compared = "figures.samplers.compared"
    assert f"{compared} = 'ddim 1001'" in message({compared: ["ddim 20", "ddim 1001"]}, "cifar10")
    assert f"{compared}.1 = 'ddim x'" in message({compared: ["ddim 20", "ddim x"]}, "cifar10")
    assert "train.checkpoints.1 = '2 years'" in message({"train.checkpoints": ["1 epoch", "2 years"]}, "cifar10")


@pytest.mark.parametrize(
    ("key", "accepted"),
    [
        ("train.lrr", "unknown key"),
        ("figures.steps", "unknown key; accepted: drawing, progression"),
        ("figures.grid.image", "unknown key; accepted: images"),
        ("recipes.cifar10.train.lrr", "unknown key; accepted: lr"),
        ("recipes.cifar10.data.crops", "unknown key"),
        ("recipes.cifar10.data.file", "unknown key"),
        ("recipes.cifar10.training", "unknown key; accepted: data, train, figures"),
    ],
)
def test_typos_are_named(key: str, accepted: str) -> None:
    line = message({key: 1}, "cifar10")
    assert line.startswith(f"{key}: ")
    assert accepted in line


@pytest.mark.parametrize("key", ["train.flip", "figures.drawing.sampler", "figures.grid", "recipes.cifar10.data.source"])
def test_missing_keys_are_named(key: str) -> None:
    assert f"{key}: missing; accepted: " in message({key: DELETE}, "cifar10")


def test_unknown_recipe_and_several_faults_at_once() -> None:
    assert "recipes.mnist" in message({}, "mnist")
    assert "this level has: cifar10, celeba" in message({}, "mnist")
    lines = message({"train.lr": 7, "train.seed": -1, "figures.drawing.sampler": "x"}, "cifar10").splitlines()
    assert [line.partition(" = ")[0] for line in lines] == ["train.seed", "train.lr", "figures.drawing.sampler"]


def test_a_recipe_s_settings_win_over_the_defaults_key_by_key() -> None:
    changes = {"recipes.celeba.train.lr": 0.5, "train.lr": 0.25, "train.flip": True, "recipes.celeba.train.flip": False}
    changes |= {"recipes.celeba.figures.grid.seed": 9}
    recipe, settings = resolve(params(changes), "celeba")
    assert (recipe.train.lr, recipe.train.flip) == (0.5, False)
    assert (recipe.figures.grid.seed, recipe.figures.grid.images) == (9, BASE["figures"]["grid"]["images"])
    assert settings["figures"] == recipe.figures.model_dump()
    other = resolve(params(changes), "cifar10")[0]
    assert (other.train.lr, other.train.flip, other.figures.grid.seed) == (0.25, True, 0)


def test_null_is_a_value_like_others() -> None:
    assert "recipes.celeba.train.lr = None" in message({"recipes.celeba.train.lr": None}, "celeba")


def test_a_new_recipe_takes_data_and_what_differs() -> None:
    """As in dvc exp run -S '+recipes.mine={data: {dataset: sprites, source: synthetic}, train: {context_dim: 5}}'."""
    mine = {"data": {"dataset": "sprites", "source": "synthetic"}, "train": {"context_dim": 5}}
    recipe, settings = resolve(params({"recipes.mine": mine}), "mine")
    assert (recipe.data.size, recipe.data.channels, recipe.train.context_dim) == (16, 3, 5)
    assert settings["data"]["classes"] == ["hero", "monster", "food", "spell", "side"]
    assert message({"recipes.mine": {"train": {}}}, "mine").startswith("recipes.mine.data = None")


def test_every_recipe_that_runs_is_checked() -> None:
    """So that a fault of one stops before another trains; what is wrong in the defaults is said once."""
    assert list(check(BASE)) == BASE["recipe_names"]
    with pytest.raises(Fault, match=r"^recipes\.celeba\.train\.lr = 5; accepted: [^\n]*$"):
        check(params({"recipes.celeba.train.lr": 5}))
    with pytest.raises(Fault, match=r"^train\.lr = 5; accepted: [^\n]*$"):
        check(params({"train.lr": 5, "recipe_names": ["cifar10", "celeba"], "conditional": []}))
    for names in ([], ["mnist"], "cifar10", ["cifar10", "cifar10"]):
        with pytest.raises(Fault, match=r"^recipe_names = .*accepted: a list of different names out of cifar10, "):
            check(params({"recipe_names": names}))
    with pytest.raises(Fault, match=r"^conditional = \['celeba'\]; accepted: a list out of cifar10_classes, sprites"):
        check(params({"conditional": ["celeba"]}))
    mine = {"recipes.mine": {"data": {"dataset": "folder", "source": "/one"}, "train": {"context_dim": 1}}}
    alone = params(mine | {"recipe_names": ["mine"], "conditional": ["mine"], "editing": []})
    with pytest.raises(Fault, match=r"^conditional = \['mine'\]; accepted: \[\], .* train.context_dim above 1"):
        check(alone, lambda name, data: Contents(("cats",), 100))
    with pytest.raises(Fault, match=r"^editing = \['mnist'\]; accepted: a list out of cifar10, .*, recipes that run"):
        check(params({"editing": ["mnist"]}))
    with pytest.raises(Fault, match=r"^yardstick = \['mnist'\]; accepted: \[\], or one of cifar10, "):
        check(params({"yardstick": ["mnist"]}))
    check(params({"recipes.celeba.train.lr": 5, "recipe_names": ["cifar10"], "conditional": [], "editing": []}))


@pytest.mark.parametrize(("dataset", "size", "channels"), [("cifar10", 32, 3), ("fashion_mnist", 28, 1), ("sprites", 16, 3)])
def test_data_sets_that_are_used_as_they_are(dataset: str, size: int, channels: int) -> None:
    recipe = "recipes.cifar10.data."
    good = {f"{recipe}dataset": dataset, f"{recipe}source": "synthetic", "train.channels": [8, 16], "train.attention": [2]}
    data = resolve(params(good), "cifar10")[0].data
    assert (data.size, data.channels, data.crop) == (size, channels, None)
    assert f"{recipe}size = 40; accepted for {dataset}: {size}" in message(good | {f"{recipe}size": 40}, "cifar10")
    assert f"{recipe}crop = [0, 0, 8, 8]; accepted" in message(good | {f"{recipe}crop": [0, 0, 8, 8]}, "cifar10")


def test_no_publisher_offers_sprites() -> None:
    recipe = "recipes.cifar10.data."
    changes = {f"{recipe}dataset": "sprites", f"{recipe}source": "official"}
    assert f"{recipe}source = 'official'; accepted for sprites" in message(changes, "cifar10")


def test_resolving_changes_nothing_in_its_input() -> None:
    before = copy.deepcopy(BASE)
    resolve(BASE, "cifar10")
    resolve(BASE, "celeba")
    assert before == BASE


@pytest.mark.parametrize("scale", SCALES)
def test_the_committed_settings_are_valid(scale: str) -> None:
    values = load_params(scale)
    for recipe in values["recipes"]:
        train = resolve(values, recipe)[0].train
        assert train.kept_steps[-1] == train.steps


def test_attention_by_level_is_attention_spelled_out() -> None:
    """Document 002's attention_layer counts the levels from 1: [1, 2] are those of 64 and 128 channels."""
    by_level, spelled = ({"train.attention": value} for value in ([1, 2], [True, True, False, False]))
    assert resolve(params(by_level), "cifar10")[0] == resolve(params(spelled), "cifar10")[0]
    assert resolve(params({"train.attention": []}), "cifar10")[0].train.attention == [False] * 4


def test_epochs_become_steps_when_the_images_are_counted() -> None:
    changes = {"train.steps": "2 epochs", "train.checkpoints": [7, "1 epoch"], "train.warmup_steps": 5, "train.batch_size": 30}
    recipe, settings = resolve(params(changes), "cifar10")
    assert settings["train"]["steps"] == "2 epochs", "kept as it was written: how many images there are is not known yet"
    assert recipe.train.steps == 3334, "of the 50,000 that there are officially"
    config = validate(TrainConfig, in_steps(settings["train"], 301), "train")
    assert (config.steps, config.checkpoints) == (21, [7, 11]), "301 images twice are 602 of the 630 of 21 steps"
    with pytest.raises(Fault, match=r"train.warmup_steps = 5; accepted: less than train.steps = 4"):
        validate(TrainConfig, in_steps(settings["train"] | {"checkpoints": []}, 60), "train")
    with pytest.raises(Fault, match=r"train.checkpoints = \[7, 1\]; accepted: ascending"):
        validate(TrainConfig, in_steps(settings["train"] | {"warmup_steps": 0}, 30), "train")


def test_batch_norm_needs_the_whole_batch() -> None:
    changes = {"train.norm": "batch", "train.accumulate": 2}
    assert "train.accumulate = 2; accepted: 1 with train.norm = batch" in message(changes, "cifar10")


def test_the_neck_needs_a_block_to_see_the_time() -> None:
    changes = {"train.time_in": "neck", "train.neck_length": 0}
    assert "train.neck_length = 0 leaves no block" in message(changes, "cifar10")


def test_averages_are_those_of_the_raw_weights_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.ROOT", tmp_path)
    paths = Paths("demo", "cifar10")
    with pytest.raises(Fault, match=r"models/demo/cifar10: no raw-\*\.safetensors here"):
        paths.averages()
    names = ["raw-000002", "ema-000002", "raw-000004", "raw-000006", "ema", "ema-000009"]  # 4: of an earlier version
    paths.models.mkdir(parents=True)
    for name in names:
        (paths.models / f"{name}.safetensors").touch()
    pairs = [(raw.stem, average.stem) for raw, average in paths.averages().items()]
    assert pairs == [("raw-000002", "ema-000002"), ("raw-000006", "ema")]


def test_the_guide_is_of_the_last_kept_step_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.ROOT", tmp_path)
    paths = Paths("demo", "cifar10")
    paths.models.mkdir(parents=True)
    assert paths.guide(1) is None, "nothing is looked for"
    for name in ("raw-000006", "ema"):
        (paths.models / f"{name}.safetensors").touch()
    with pytest.raises(Fault, match=r"^autoguidance = 1\.5: models/demo/cifar10 has no weights of a step before raw-000006"):
        paths.guide(1.5)
    for name, guide in (("raw-000002", "raw-000002"), ("raw-000004", "raw-000004"), ("ema-000004", "ema-000004")):
        (paths.models / f"{name}.safetensors").touch()
        assert paths.guide(1.5) == paths.models / f"{guide}.safetensors", "the average where it is kept"


def test_autoguidance_needs_an_earlier_step() -> None:
    for key in ("figures.grid.autoguidance", "evaluation.autoguidance"):
        wanted = f"{key} = 1.5 needs weights of an earlier step, and train.checkpoints = [9000] keeps none; accepted: 1"
        assert wanted in message({key: 1.5, "train.checkpoints": [9000], "train.steps": 9000}, "cifar10")
        assert f"{key} = 0.5; accepted: scale of autoguidance, 1 or more" in message({key: 0.5}, "cifar10")


def test_kept_steps_end_with_the_last_step() -> None:
    assert train_config(steps=10, checkpoints=[2, 4]).kept_steps == [2, 4, 10]
    assert train_config(steps=10, checkpoints=[2, 10]).kept_steps == [2, 10]
    assert train_config(steps=10, checkpoints=[2, 10, 11, 99]).kept_steps == [2, 10]
    assert train_config(steps=10, checkpoints=[]).kept_steps == [10]


@pytest.mark.parametrize(
    ("key", "value"),
    [("device", "gpu"), ("device", "cuda:x"), ("device", "cuda:٣"), ("workers", -1), ("save_seconds", 0.0), ("colour", 1)],
)
def test_runtime_settings_are_checked(key: str, value: Any) -> None:
    values = BASE["runtime"] | {key: value}
    with pytest.raises(Fault, match=rf"^runtime\.{key}\b"):
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
