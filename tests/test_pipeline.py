"""The whole pipeline with the real DVC, in temporary clones with tiny settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, Checkout, stages_run, wait_for
from ddpm.model.weights import load_network
from ddpm.recipe import PARTS
from ddpm.training.fingerprint import code_fingerprint

RECIPES = ("cifar10", "celeba")
DRAWN = ("progression", "samplers", "ema", "grid", "solvers", "path", "timing")  # from checkpoints
PICTURES = (
    "data.png", "loss.png", "progression.png", "samplers.png", "ema.png", "grid.png", "solvers.png", "solvers-images.png",
    "path.png", "path.gif", "path-wrong.gif", "wrong.png",
)  # fmt: skip
OF_CLASSES = ("classes.png", "guidance.png")
STAGES = ("config", "download", "preprocess", "train", "overview", *DRAWN, "evaluate", "card")
# Written by a stage, in git, but no output: measured wall-clock time. The first two are metrics all the same.
SECONDS = {f"metrics/demo/seconds/{recipe}/{name}.json" for recipe in RECIPES for name in ("train", "draw")}
WALL_CLOCK = ("speed.csv", "speed.json", "timing.json", "timing.png")
MEASURED = SECONDS | {f"metrics/demo/{recipe}/{name}" for recipe in RECIPES for name in WALL_CLOCK}


def of(recipe: str, *stages: str) -> set[str]:
    return {f"{stage}@{recipe}" for stage in stages}


def outputs(lock: dict[str, Any]) -> dict[str, str]:
    """Path and hash of every output in dvc.lock."""
    return {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", [])}


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


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cifar10", pytest.param("celeba", marks=pytest.mark.slow)])
def test_two_runs_from_scratch_are_bit_equal(done: Checkout, fresh: Checkout, recipe: str) -> None:
    fresh.dvc("repro", *(f"{stage}@{recipe}" for stage in STAGES))
    ours, theirs = fresh.lock(), {name: stage for name, stage in done.lock().items() if name.endswith(recipe)}
    for lock in (ours, theirs):
        del lock[f"card@{recipe}"]["outs"]  # the card says how long the training took
    assert ours == theirs


def test_metrics_are_few_and_fit_a_terminal(done: Checkout) -> None:
    """Losses, distances and seconds: what people compare; the data behind figures are plots. Measures have tools.compare."""
    every = json.loads(done.dvc("metrics", "show", "--json"))[""]["data"]
    shown = {path: values for path, values in every.items() if not path.endswith("evaluate.json")}
    assert len(every) - len(shown) == len(RECIPES)
    for path in SECONDS:
        assert shown[path]["data"] == json.loads((done.path / path).read_text())
    for recipe in RECIPES:
        of_recipe = [values["data"] for path, values in shown.items() if f"/{recipe}/" in path]
        assert 0 < sum(map(len, of_recipe)) <= 12
    assert max(map(len, done.dvc("metrics", "show", *shown).splitlines())) <= 120


def test_plots_need_no_network(done: Checkout) -> None:
    done.dvc("plots", "show")
    page = (done.path / "dvc_plots" / "index.html").read_text()
    assert "<script src" not in page
    assert "window.vegaEmbed=" in page
    assert page.count("vegaEmbed(") >= 5 * len(RECIPES), "the curves of loss, progression, samplers, solvers and path"
    for recipe in RECIPES:
        for name in PICTURES:
            assert page.count(f'<img src="static/workspace_metrics_demo_{recipe}_{name}">') == 1, name


def test_what_a_training_reports(done: Checkout) -> None:
    folder = done.path / "metrics/demo/cifar10"
    header, *rows = (folder / "loss.csv").read_text().splitlines()
    assert header == "step,loss,loss_q1,loss_q2,loss_q3,loss_q4,grad_norm,lr,skipped"
    assert [row.split(",")[0] for row in rows] == ["2", "4", "6"]
    metrics = json.loads((folder / "train.json").read_text())
    assert metrics.keys() == {"loss", "parameters"}
    assert metrics["loss"] == float(rows[-1].split(",")[1])
    header, *rows = (folder / "speed.csv").read_text().splitlines()
    assert header == "step,images_per_second,peak_memory_mb"
    assert [row.split(",")[0] for row in rows] == ["2", "4", "6"]
    times = json.loads((done.path / "metrics/demo/seconds/cifar10/train.json").read_text())
    assert times.keys() == {"seconds"}
    speed = json.loads((folder / "speed.json").read_text())
    assert times.items() < speed.items()
    assert (speed["steps"], speed["images_seen"], speed["processes"], speed["precision"]) == (6, 24, 1, "fp32")


def test_a_checkpoint_says_what_it_is(done: Checkout) -> None:
    models = done.path / "models/demo/cifar10"
    kept = {f"{kind}-00000{step}.safetensors" for kind in ("raw", "ema") for step in (2, 4)}
    assert {path.name for path in models.iterdir()} == {*kept, "raw-000006.safetensors", "ema.safetensors"}
    early = load_network(models / "ema-000002.safetensors")[2]
    assert (early["kind"], early["step"]) == ("ema", 2)
    _, _, metadata = load_network(models / "ema.safetensors")
    assert (metadata["recipe"], metadata["scale"], metadata["kind"], metadata["step"]) == ("cifar10", "demo", "ema", 6)
    assert metadata["code"] == code_fingerprint(done.path / "src/ddpm")
    assert metadata["classes"] == [], "unconditional"
    assert metadata["data"] == json.loads((done.path / "data/demo/cifar10/stats.json").read_text())


# --- What a change reruns ------------------------------------------------------------------------------------------


def edited(checkout: Checkout, path: str) -> set[str]:
    """Stages that `dvc status` names once the code in `path` computes something else; then it is as before."""
    file = checkout.path / path
    before = file.read_text()
    file.write_text(before + "\n\nEDITED = True\n")
    try:
        return stale(checkout)
    finally:
        file.write_text(before)


def of_all(*stages: str) -> set[str]:
    return {name for recipe in RECIPES for name in of(recipe, *stages)}


MEASURED_BY = ("evaluate", "card")
# config checks what every room says of settings: it runs again, in a second, and what it writes stays the same.
EDITS = [
    ("src/ddpm/sampling/samplers.py", (*DRAWN, *MEASURED_BY)),
    ("src/ddpm/evaluation/distances.py", MEASURED_BY),
    ("src/ddpm/figures/pictures.py", ("overview", *DRAWN)),
    ("src/ddpm/figures/curves.py", ("overview", *DRAWN)),
    ("src/ddpm/data/archives.py", ("download", "preprocess", "card")),
    ("src/ddpm/data/drawn/kinds.py", ("download", "preprocess", "card")),
    ("src/ddpm/training/loop.py", ("train",)),
    ("src/ddpm/model/unet.py", ("train", *DRAWN, *MEASURED_BY)),
    ("src/ddpm/machine/precision.py", ("train", *DRAWN, *MEASURED_BY)),
    ("src/ddpm/base/files.py", ("download", "preprocess", "train", "overview", *DRAWN, *MEASURED_BY)),
    ("src/ddpm/editing.py", ()),
    ("src/ddpm/recipe.py", ()),
    ("tools/sample.py", None),
    ("stages/grid.py", None),
]


@pytest.mark.slow
def test_an_edit_makes_stale_what_depends_on_it_and_no_more(done: Checkout) -> None:
    assert stale(done) == set()
    for path, stages in EDITS:
        expected = of_all("config", *stages) if stages is not None else of_all("grid") if "grid" in path else set()
        assert edited(done, path) == expected, path
    for name in ("src/ddpm/model/notes.md", "src/ddpm/model/.unet.py.swp", "src/ddpm/model/unet.py~"):
        (done.path / name).write_text("an editor's file")
    assert stale(done) == set(), "what is no code of a room is none of the pipeline's"


@pytest.mark.slow
def test_a_reader_that_reads_the_same_reaches_no_checkpoint(done: Checkout) -> None:
    reader = done.path / "src/ddpm/data/archives.py"
    reader.write_text(reader.read_text() + "\n\nEDITED = True\n")
    ran = stages_run(done.dvc("repro"))
    assert set(ran) == of_all("config", "download", "preprocess", "card")


@pytest.mark.parametrize(
    ("setting", "value", "stages"),
    [
        ("figures__grid__images", 9, ("grid",)),
        pytest.param("figures__path__seed", 5, ("path",), marks=pytest.mark.slow),
        pytest.param("figures__samplers__compared", ["ddim 3"], ("samplers", "timing"), marks=pytest.mark.slow),
        pytest.param("figures__drawing__variance", "large", DRAWN, marks=pytest.mark.slow),
    ],
)
def test_a_figure_s_setting_draws_that_figure_again(done: Checkout, setting: str, value: Any, stages: tuple[str, ...]) -> None:
    done.params(**{setting: value})
    assert stale(done) == of_all("config")
    done.dvc("repro", "config")
    assert stale(done) == of_all(*stages, "card"), "the card, in a second, says what the settings are"


def test_a_recipe_s_setting_reaches_no_other_recipe(done: Checkout) -> None:
    done.params(recipes__celeba__train__lr=0.0005, recipes__celeba__figures__grid__seed=3)
    assert stale(done) == of_all("config"), "each checks the settings of all"
    done.dvc("repro", "config")
    assert stale(done) == of("celeba", "train", "grid", "card")


@pytest.mark.slow
def test_a_changed_width_trains_again_and_prepares_nothing_again(done: Checkout) -> None:
    ran = stages_run(done.dvc("exp", "run", "--set-param", "train.channels=[8,24]", "train"))
    assert set(ran) == of_all("config", "train")
    for recipe in RECIPES:
        config = json.loads((done.path / f"metrics/demo/{recipe}/config/train.json").read_text())
        assert config["channels"] == [8, 24]
    assert stale(done) == of_all("overview", *DRAWN, *MEASURED_BY)
    diff = json.loads(done.dvc("metrics", "diff", "--json"))
    assert diff["metrics/demo/celeba/train.json"]["parameters"]["diff"] > 0


@pytest.mark.slow
def test_old_settings_bring_back_their_results_without_running(done: Checkout) -> None:
    """The run cache holds the settings, the facts of the data, the training and every figure; work/ is not asked."""
    before = done.lock()
    done.params(recipes__cifar10__data__seed=5, train__lr=0.002)
    ran = set(stages_run(done.dvc("repro")))
    assert ran > of("cifar10", "config", "download", "preprocess", "train", *DRAWN)
    done.git("checkout", "--", "params.yaml")
    shutil.rmtree(done.path / "work")
    output = done.dvc("repro")
    assert set(stages_run(output)) <= of_all("card", "timing"), "no plot, and without outputs"
    assert set(re.findall(r"Stage '(\S+)' is cached - skipping run", output)) == ran - of_all("card", "timing")
    assert done.git("status", "--porcelain", "metrics/demo/cifar10/grid.png") == ""
    ours, theirs = done.lock(), before
    for lock in (ours, theirs):
        for name in of_all("card"):
            del lock[name]["outs"]  # the card says how long the last training took, which no cache keeps
    assert ours == theirs


@pytest.mark.slow
def test_a_recipe_takes_a_setting_that_it_does_not_name_yet(done: Checkout) -> None:
    assert "Could not override" in done.dvc("exp", "run", "--set-param", "recipes.celeba.train.lr=1e-5", "config", rc=255)
    done.git("checkout", "--", ".")
    output = done.dvc("exp", "run", "--set-param", "+recipes.celeba.train.lr=1e-5", "config")
    assert "recipes.celeba has its own: train.lr" in output
    assert json.loads((done.path / "metrics/demo/celeba/config/train.json").read_text())["lr"] == 1e-5
    assert stale(done) == of("celeba", "train", "card")
    refused = done.dvc("exp", "run", "--set-param", "+recipes.celeba.train.lrr=1", "config", rc=255)
    assert "recipes.celeba.train.lrr: unknown key; accepted: lr" in refused


@pytest.mark.slow
def test_a_new_recipe_runs_without_editing_a_file(done: Checkout) -> None:
    mine = "+recipes.mine={data: {dataset: sprites, source: synthetic, images: 40}, train: {context_dim: 5, steps: 4}}"
    done.dvc("exp", "run", "-S", mine, "-S", "recipe_names=[mine]", "-S", "conditional=[mine]", "-S", "editing=[mine]")
    for name in ("classes", "inpainting", "edits", "interpolation", "reconstruction"):
        assert done.files(f"metrics/demo/mine/{name}.png"), name
    assert "mine" in done.dvc("metrics", "show")


@pytest.mark.slow
def test_a_default_that_a_recipe_overrides_leaves_it_alone(done: Checkout) -> None:
    done.params(recipes__celeba__train__lr=0.001)  # the default's value, so nothing changes yet
    done.params(train__lr=0.002)
    done.dvc("repro", "config")
    assert stale(done) == of("cifar10", "train") | of_all("card"), "which names what differs from the defaults"


def test_machine_settings_change_no_result(done: Checkout) -> None:
    done.params(runtime__workers=2, runtime__save_seconds=9.5)
    assert stages_run(done.dvc("repro")) == []


# --- Bad settings stop early ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bad_setting_deletes_nothing_that_took_time(done: Checkout) -> None:
    before = done.files("m*/**/*")
    output = done.dvc("exp", "run", "--set-param", "train.channels=banana", rc=255)
    assert "train.channels = 'banana'" in output
    gone = set(before) - set(done.files("m*/**/*"))
    assert len({path.split("/")[2] for path in gone}) == 1, "the first recipe stops the run"
    assert {path.split("/", 3)[3] for path in gone} <= {f"config/{part}.json" for part in PARTS}
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
    return checkout.processes("stages.train")


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


@pytest.mark.slow
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
    assert "is writing this training's states; wait for it or stop it" in second.stderr
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
    measured = SECONDS
    for path in measured:  # two runs may measure the same hundredths of a second
        (done.path / path).write_text('{"seconds": -1}\n')
    done.commit("mark the measured times")
    script = done.path / "stages" / "config.py"
    original = script.read_text()
    script.write_text(original.replace('"""', '"""QUEUED ', 1) + "\nprint('stage', __file__)\n")
    library = done.path / "src" / "ddpm" / "recipe.py"
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
    clone.python("-m", "tools.sample", "cifar10")
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


def test_the_published_scale_has_the_same_pipeline(fresh: Checkout) -> None:
    """What `make full` does before it trains."""
    (needed,) = re.findall(r"^full: (.*) ##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert needed.split() == ["setup", "full/dvc.yaml"]
    fresh.run("make", "full/dvc.yaml")
    listed = fresh.dvc("stage", "list", "--name-only", cwd="full").split()
    assert {"config@cifar10", "train@celeba", "classes@cifar10_classes", "grid@fashion_mnist"} <= set(listed)
    assert "editing@celeba" in listed
    assert not {"classes@cifar10", "editing@cifar10"} & set(listed)


# --- This checkout -------------------------------------------------------------------------------------------------


def test_every_pipeline_that_dvc_sees_has_run() -> None:
    """`dvc pull`, `dvc checkout` and `dvc exp apply` fail where a pipeline has an output that was never made."""
    hidden = {line.strip("/") for line in (ROOT / ".dvcignore").read_text().splitlines()}
    for folder in (".", "small", "gpu", "full"):
        if folder not in hidden:
            assert (ROOT / folder / "dvc.lock").exists(), f"{folder}: run the pipeline, or hide it in .dvcignore"
