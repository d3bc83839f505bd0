"""The whole pipeline with the real DVC, in temporary clones with tiny settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, Checkout, stages_run, wait_for
from stages.common import load_yaml

RECIPES = ("cifar10", "celeba")
FIGURES = ("progression", "samplers", "ema", "grid", "solvers", "classes", "path", "timing")
PICTURES = (
    "data.png", "loss.png", "progression.png", "samplers.png", "ema.png", "grid.png", "solvers.png", "solvers-images.png",
    "classes.png", "guidance.png", "path.png", "path.gif", "path-wrong.gif", "wrong.png", "timing.png",
)  # fmt: skip
STAGES = ("config", "download", "preprocess", "train", *FIGURES)
WALL_CLOCK = ("speed.csv", "speed.json", "timing.json", "timing.png")
# Written by a stage, in git, but no output: measured wall-clock time.
MEASURED = {f"metrics/demo/{recipe}/{name}" for recipe in RECIPES for name in WALL_CLOCK}


def of(recipe: str, *stages: str) -> set[str]:
    return {f"{stage}@{recipe}" for stage in stages}


def outputs(lock: dict[str, Any]) -> dict[str, str]:
    """Path and hash of every output in dvc.lock."""
    return {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", [])}


def without_nulls(values: Any) -> Any:
    """`values` as DVC shows metrics, at any depth without what is null."""
    if not isinstance(values, dict):
        return values
    return {key: without_nulls(value) for key, value in values.items() if value is not None}


def stale(checkout: Checkout) -> set[str]:
    """Stages that would run now because of what they read, leaving out what would follow from that."""
    return set(json.loads(checkout.dvc("status", "--json")))


# --- One run, and no more than one ---------------------------------------------------------------------------------


def test_it_writes_what_it_declares_and_nothing_else(done: Checkout) -> None:
    declared = outputs(done.lock())
    results = [path for folder in ("data", "metrics", "models") for path in done.files(f"{folder}/**/*")]
    written = {str(Path(path).parent) if path.startswith("models/") else path for path in results}
    assert written == {*declared, *MEASURED}
    assert set(done.lock()) == of("cifar10", *STAGES) | of("celeba", *STAGES)
    assert done.git("status", "--porcelain") == "", "everything else is ignored by git"


def test_a_second_run_does_nothing(done: Checkout) -> None:
    before = done.files("metrics/**/*")
    output = done.dvc("repro")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output
    assert done.files("metrics/**/*") == before


@pytest.mark.parametrize("recipe", ["cifar10", pytest.param("celeba", marks=pytest.mark.slow)])
def test_two_runs_from_scratch_are_bit_equal(done: Checkout, fresh: Checkout, recipe: str) -> None:
    fresh.dvc("repro", *(f"{stage}@{recipe}" for stage in STAGES))
    assert fresh.lock() == {name: stage for name, stage in done.lock().items() if name.endswith(recipe)}


def test_metrics_show_the_measured_times(done: Checkout) -> None:
    shown = json.loads(done.dvc("metrics", "show", "--json"))[""]["data"]
    for path in MEASURED:
        if path.endswith(".json"):
            assert shown[path]["data"] == without_nulls(json.loads((done.path / path).read_text()))


def test_plots_need_no_network(done: Checkout) -> None:
    done.dvc("plots", "show")
    page = (done.path / "dvc_plots" / "index.html").read_text()
    assert "<script src" not in page
    assert "window.vegaEmbed=" in page
    assert page.count("vegaEmbed('#loss-demo', spec)") == 1
    for recipe in RECIPES:
        for name in PICTURES:
            assert page.count(f'<img src="static/workspace_metrics_demo_{recipe}_{name}">') == 1


# --- Every recipe --------------------------------------------------------------------------------------------------


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("cifar10_linear", "cifar10_classes", "fashion_mnist")]


@pytest.mark.parametrize("recipe", ["sprites", *OTHERS])
def test_a_recipe_runs_by_its_name_in_recipe_names(fresh: Checkout, recipe: str) -> None:
    """With what makes it that recipe; only the numbers of images and steps, T and the widths are a test's."""
    params = load_yaml((fresh.path / "params.yaml").read_text())
    section = f"recipes__{recipe}__"
    tiny = {f"{section}train__{key}": None for key in ("steps", "num_timesteps", "time_emb_dim")}
    levels = len(params["recipes"][recipe]["train"]["channels"] or params["train"]["channels"])
    tiny[f"{section}train__channels"] = [8, 12, 8, 12][:levels]
    tiny[f"{section}data__synthetic_images"] = 40
    tiny[f"{section}figures__compared"] = None
    if recipe == "fashion_mnist":
        tiny |= {f"{section}train__steps": "1 epoch", f"{section}train__checkpoints": [1]}
    fresh.params(recipe_names=[recipe], **tiny)
    fresh.dvc("repro")
    assert set(fresh.lock()) == of(recipe, *STAGES)
    results = fresh.path / "metrics/demo" / recipe
    assert {path.name for path in results.glob("*") if path.suffix in (".png", ".gif")} == set(PICTURES)
    classes = json.loads((results / "classes.json").read_text())["classes"]
    assert len(classes) == {"sprites": 5, "cifar10_classes": 10}.get(recipe, 0)
    train = json.loads((results / "train.json").read_text())
    assert train["steps"] == (10 if recipe == "fashion_mnist" else 6), "an epoch of 40 images in batches of 4"
    stats = json.loads((fresh.path / "data/demo" / recipe / "stats.json").read_text())
    with Image.open(results / "grid.png") as grid:
        pixels = np.asarray(grid)
    gray = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())
    assert gray == (stats["channels"] == 1) == (recipe == "fashion_mnist")
    # Drawn by its own checkpoint, class by class where it has classes.
    asked = ["--class", "1"] if classes else []
    fresh.python("-m", "stages.sample", recipe, "--steps", "2", "--images", "2", *asked, "--out", "two.npy")
    assert np.load(fresh.path / "two.npy").shape == (2, stats["size"], stats["size"], stats["channels"])


# --- What a change reruns ------------------------------------------------------------------------------------------


def test_a_changed_width_trains_again_and_prepares_nothing_again(done: Checkout) -> None:
    ran = stages_run(done.dvc("exp", "run", "--set-param", "train.channels=[8,24]", "train"))
    assert set(ran) == of("cifar10", "config", "train") | of("celeba", "config", "train")
    for recipe in RECIPES:
        config = json.loads((done.path / f"metrics/demo/{recipe}/config/train.json").read_text())
        assert config["channels"] == [8, 24]
    assert stale(done) == of("cifar10", *FIGURES) | of("celeba", *FIGURES)
    diff = json.loads(done.dvc("metrics", "diff", "--json"))
    assert diff["metrics/demo/celeba/train.json"]["parameters"]["diff"] > 0


def test_one_recipe_leaves_the_other_alone_and_an_exponent_is_a_number(done: Checkout) -> None:
    output = done.dvc("exp", "run", "--set-param", "recipes.celeba.train.lr=1e-5", "config")
    assert stages_run(output) == ["config@celeba"]
    assert "recipes.celeba.train.lr" in output, "what a recipe overrides is said"
    assert json.loads((done.path / "metrics/demo/celeba/config/train.json").read_text())["lr"] == 1e-5
    assert stale(done) == {"train@celeba"}


def test_a_figure_setting_trains_nothing(done: Checkout) -> None:
    done.params(figures__grid_seed=7)
    done.dvc("repro", "config")
    assert stale(done) == of("cifar10", *FIGURES) | of("celeba", *FIGURES)


def test_a_default_that_a_recipe_overrides_leaves_it_alone(done: Checkout) -> None:
    done.params(recipes__celeba__train__lr=0.001)  # the default's value, so nothing changes yet
    done.params(train__lr=0.002)
    done.dvc("repro", "config")
    assert stale(done) == {"train@cifar10"}


def test_machine_settings_change_no_result(done: Checkout) -> None:
    done.params(runtime__workers=2, runtime__save_seconds=9.5)
    assert stages_run(done.dvc("repro")) == []


# --- Bad settings stop early ---------------------------------------------------------------------------------------

BAD = [
    ({"train__channels": "banana"}, ["train.channels", "banana", "a list of positive integers"]),
    ({"train__channels": [8, 16, 32]}, ["train.channels = [8, 16, 32]", "equal length"]),
    ({"train__channels": [8] * 6, "train__attention": [False] * 6}, ["data.size = 16", "accepted: more than 16"]),
    ({"train__channels": [8, 70]}, ["train.channels = [8, 70]", "do not divide 70", "multiples of 4"]),
    ({"train__steps": -5}, ["train.steps = -5", "1 or more"]),
    ({"train__lr": "fast"}, ["train.lr = 'fast'", "a number in (0, 1]"]),
    ({"figures__sampler": "foo 4"}, ["figures.sampler = 'foo 4'", "a method, its network calls"]),
    ({"figures__sampler": "ddpm 9"}, ["figures.sampler = 'ddpm 9'", "train.num_timesteps = 8"]),
    ({"train__steps": "many epochs"}, ["train.steps = 'many epochs'", "or epochs, as in: 50 epochs"]),
    ({"train__chanels": [8, 16]}, ["train.chanels", "unknown key"]),
    ({"recipes__celeba__train__stepz": 3}, ["recipes.celeba.train.stepz", "unknown key", "steps"]),
    ({"recipes__celeba__data__crop": [100, 57, 128, 128]}, ["crop = [100, 57, 128, 128]", "178x218"]),
    ({"runtime__device": "tpu"}, ["runtime.device = 'tpu'", "auto, cpu, cuda or cuda:N"]),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[" ".join(changes) for changes, _ in BAD])
def test_a_bad_setting_is_named_with_its_value_and_what_is_accepted(
    untouched: Checkout, tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    (tmp_path / "project").mkdir()
    small = Checkout(tmp_path / "project")
    for part in ("src", "stages"):
        shutil.copytree(untouched.path / part, small.path / part)
    shutil.copy(untouched.path / "params.yaml", small.path)
    small.params(**changes)
    message = small.python("-m", "stages.config", "celeba", rc=1)
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert not (small.path / "metrics").exists()


def test_a_bad_setting_deletes_nothing_that_took_time(done: Checkout) -> None:
    before = done.files("m*/**/*")
    output = done.dvc("exp", "run", "--set-param", "train.channels=banana", rc=255)
    assert "train.channels = 'banana'" in output
    gone = set(before) - set(done.files("m*/**/*"))
    assert len({path.split("/")[2] for path in gone}) == 1, "the first recipe stops the run"
    assert {path.split("/", 3)[3] for path in gone} <= {f"config/{part}.json" for part in ("data", "train", "figures")}
    assert "Could not override" in done.dvc("exp", "run", "--set-param", "train.chanels=[8,16]", rc=255)
    done.git("checkout", "--", ".")
    assert stages_run(done.dvc("repro")) == []


# --- Interruptions -------------------------------------------------------------------------------------------------

LONG = {"train__steps": 400, "train__checkpoints": [100], "recipe_names": ["cifar10"]}
TRAIN = [sys.executable, "-m", "dvc", "repro", "train@cifar10"]


@pytest.fixture(scope="session")
def prepared(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """All is ready for a training of 400 steps."""
    checkout = finished.copy(tmp_path_factory.mktemp("prepared") / "project")
    checkout.params(**LONG)
    checkout.dvc("repro", "preprocess", "config")
    checkout.commit("a longer training")
    return checkout


@pytest.fixture(scope="session")
def uninterrupted(prepared: Checkout, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """dvc.lock after the training of 400 steps."""
    checkout = prepared.copy(tmp_path_factory.mktemp("uninterrupted") / "project")
    checkout.run(*TRAIN)
    return (checkout.path / "dvc.lock").read_bytes()


def trainers(checkout: Checkout) -> list[int]:
    """Processes that run this checkout's training."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, cwd = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "cwd").readlink()
        except OSError:  # it ended meanwhile
            continue
        if b"stages.train" in words and cwd.is_relative_to(checkout.path):
            found.append(int(folder.name))
    return found


def start_training(checkout: Checkout, *command: str) -> subprocess.Popen[str]:
    """Start `command` and return once its training has saved a state before the end."""
    before = set(checkout.path.glob("work/demo/cifar10/train-*/state-*.pt"))
    process = checkout.start(*command)

    def saved() -> bool:
        assert process.poll() is None, f"ended before a state was saved:\n{checkout.log.read_text()}"
        return set(checkout.path.glob("work/demo/cifar10/train-*/state-*.pt")) != before

    wait_for(saved, "a saved training state")
    return process


def interrupt_by_ctrl_c(checkout: Checkout, process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)
    process.wait(120)


def terminate_trainer(checkout: Checkout, process: subprocess.Popen[str]) -> None:
    os.kill(*trainers(checkout), signal.SIGTERM)
    process.wait(120)


def kill_trainer(checkout: Checkout, process: subprocess.Popen[str]) -> None:
    os.kill(*trainers(checkout), signal.SIGKILL)
    process.wait(120)


def kill_dvc(checkout: Checkout, process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(120)
    wait_for(lambda: not trainers(checkout), "the orphaned trainer to save and leave", seconds=120)


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize(
    "stop",
    [
        interrupt_by_ctrl_c,
        pytest.param(terminate_trainer, marks=pytest.mark.slow),
        pytest.param(kill_trainer, marks=pytest.mark.slow),
        pytest.param(kill_dvc, marks=pytest.mark.slow),
    ],
)
def test_the_same_command_continues_an_interrupted_training(
    prepared: Checkout, uninterrupted: bytes, tmp_path: Path, stop: Callable[[Checkout, subprocess.Popen[str]], None]
) -> None:
    checkout = prepared.copy(tmp_path / "project")
    process = start_training(checkout, *TRAIN)
    stop(checkout, process)
    assert process.returncode not in (0, None)
    assert not trainers(checkout)
    assert (checkout.path / "dvc.lock").read_bytes() == (prepared.path / "dvc.lock").read_bytes()
    assert "resuming at step" in checkout.run(*TRAIN)
    assert (checkout.path / "dvc.lock").read_bytes() == uninterrupted


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")
def test_a_second_trainer_of_the_same_state_refuses(prepared: Checkout, tmp_path: Path) -> None:
    checkout = prepared.copy(tmp_path / "project")
    process = start_training(checkout, *TRAIN)
    command = [sys.executable, "-m", "stages.train", "cifar10"]
    second = subprocess.run(command, cwd=checkout.path, env=checkout.env, capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "another trainer" in second.stderr
    assert process.wait(600) == 0, checkout.log.read_text()


@pytest.mark.slow
def test_fresh_ignores_the_state(prepared: Checkout, uninterrupted: bytes, tmp_path: Path) -> None:
    checkout = prepared.copy(tmp_path / "project")
    process = start_training(checkout, *TRAIN)
    interrupt_by_ctrl_c(checkout, process)
    assert "resuming" not in checkout.run(*TRAIN, FRESH="1")
    assert (checkout.path / "dvc.lock").read_bytes() == uninterrupted


# --- Experiments ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_queued_experiment_runs_its_own_copy_of_the_code(done: Checkout) -> None:
    measured = {path for path in MEASURED if path.endswith(".json")}
    for path in measured:  # two runs may measure the same hundredths of a second
        (done.path / path).write_text('{"seconds": -1}\n')
    done.commit("mark the measured times")
    script = done.path / "stages" / "config.py"
    original = script.read_text()
    script.write_text(original.replace('"""', '"""QUEUED ', 1) + "\nprint('stage', __file__)\n")
    library = done.path / "src" / "ddpm" / "config.py"
    library.write_text(library.read_text() + "\nprint('library', __file__)\n")
    done.dvc("exp", "run", "--queue", "--name", "queued", "--set-param", "train.lr=1e-5")
    done.git("checkout", "--", "src", "stages")
    done.dvc("queue", "start")
    wait_for(lambda: "Success" in done.dvc("queue", "status") or "Failed" in done.log.read_text(), "the queue", 400)
    log = done.dvc("queue", "logs", "queued")
    assert "Success" in done.dvc("queue", "status"), log
    places = [line.split()[-1] for line in log.splitlines() if line.startswith(("stage /", "library /"))]
    assert places, "the queued code, not the workspace's, has run"
    assert all(".dvc/tmp/exps" in place for place in places)

    assert done.git("status", "--porcelain") == "", "the workspace is as it was"
    done.dvc("exp", "apply", "queued")
    changed = set(done.git("diff", "--name-only").split())
    assert {"dvc.lock", "params.yaml", "metrics/demo/cifar10/train.json"} <= changed
    assert measured <= changed, "measured times travel with the experiment"
    assert stages_run(done.dvc("repro")) == []


# --- Sharing -------------------------------------------------------------------------------------------------------


def test_a_clone_pulls_checkpoints_and_samples(done: Checkout, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", done.path, tmp_path / "clone"], check=True, env=done.env)
    clone = Checkout(tmp_path / "clone")
    clone.dvc("pull")
    assert clone.files("models/**/*") == done.files("models/**/*")
    assert stages_run(clone.dvc("repro")) == [], "results and checkpoints are those of the pipeline as committed"
    clone.python("-m", "stages.sample", "cifar10")
    assert list(clone.path.glob("samples/**/*.png"))
    assert clone.git("status", "--porcelain") == ""
    clone.dvc("metrics", "diff")


def test_one_checkpoint_can_be_fetched_alone(done: Checkout, tmp_path: Path) -> None:
    """From the path of a clone: of a remote repository, DVC cannot reach a store that lies inside it."""
    path = "models/demo/celeba/ema.safetensors"
    shutil.rmtree(done.path / ".dvc" / "cache")  # so that it must come out of the committed store
    done.dvc("get", done.path, path, "--out", tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").read_bytes() == (done.path / path).read_bytes()


def test_a_damaged_object_of_the_store_is_noticed(done: Checkout, tmp_path: Path) -> None:
    victim = max((done.path / "store").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0\0")
    done.commit("damage")
    subprocess.run(["git", "clone", "--quiet", done.path, tmp_path / "clone"], check=True, env=done.env)
    assert "Checkout failed" in Checkout(tmp_path / "clone").dvc("pull", rc=None)


def test_metrics_and_plots_compare_commits_in_a_clone(done: Checkout, tmp_path: Path) -> None:
    path = done.path / "metrics/demo/cifar10/train.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"loss": values["loss"] + 1}))
    done.commit("worse")
    subprocess.run(["git", "clone", "--quiet", done.path, tmp_path / "clone"], check=True, env=done.env)
    clone = Checkout(tmp_path / "clone")
    diff = json.loads(clone.dvc("metrics", "diff", "--json", "HEAD~1", "HEAD"))
    assert list(diff) == ["metrics/demo/cifar10/train.json"]
    assert diff["metrics/demo/cifar10/train.json"]["loss"]["diff"] == pytest.approx(1)
    clone.dvc("plots", "diff", "HEAD~1", "HEAD")


@pytest.mark.slow
def test_a_download_without_git_runs(fresh: Checkout) -> None:
    shutil.rmtree(fresh.path / ".git")
    (fresh.path / ".venv").symlink_to(sys.prefix)
    demo = ["make", "--assume-old=.venv/.installed", "demo"]  # as after `make setup`
    output = fresh.run(*demo)
    assert "metrics/demo/*/*.png" in output
    assert fresh.files("metrics/demo/*/grid.png")
    assert "Data and pipelines are up to date." in fresh.run(*demo)


# --- This checkout -------------------------------------------------------------------------------------------------


def test_every_pipeline_that_dvc_sees_has_run() -> None:
    """`dvc pull`, `dvc checkout` and `dvc exp apply` fail where a pipeline has an output that was never made."""
    hidden = {line.strip("/") for line in (ROOT / ".dvcignore").read_text().splitlines()}
    for folder in (".", "small", "full"):
        if folder not in hidden:
            assert (ROOT / folder / "dvc.lock").exists(), f"{folder}: run the pipeline, or hide it in .dvcignore"
