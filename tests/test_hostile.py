"""Wrong values, damaged and hostile files, given to the real commands: one message, exit status 1, nothing lost, in seconds.

The commands run in forks of one process that has imported torch: starting each anew would take most of the time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save

from conftest import Checkout
from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from stages import load_yaml
from tiny import randomised, train_config

# Answers to each line (arguments, environment) of its input with what the command did: status, what it wrote to stderr.
RUNNER = """
import json, os, resource, runpy, signal, sys, tempfile
import torch, numpy, PIL.Image, safetensors.torch, yaml, pydantic
import torch.distributed.elastic.multiprocessing.errors
import torch._dynamo, torch.utils.flop_counter  # which sampling imports when it begins, in seconds
import ddpm.editing, ddpm.figures.pictures, ddpm.recipe, ddpm.sampling, ddpm.training.session
import stages.packed, stages.raw, stages.window
for line in sys.stdin:
    arguments, environment = json.loads(line)
    said = tempfile.TemporaryFile()
    if (child := os.fork()) == 0:
        os.environ.update(environment)
        os.dup2(said.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 1_500_000_000, -1))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)  # a hang ends with that signal
        sys.argv = arguments
        status = 0
        try:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=False)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 99
        sys.stderr.flush()
        os._exit(status)
    status = os.waitpid(child, 0)[1]
    said.seek(0)
    print(json.dumps([os.waitstatus_to_exitcode(status), said.read().decode(errors="replace")]), flush=True)
"""


class Runner:
    """Runs commands of the checkout `path`."""

    def __init__(self, checkout: Checkout) -> None:
        self.path = checkout.path
        env = checkout.env | {"PYTHONPATH": f"{checkout.path}{os.pathsep}{checkout.path / 'src'}"}
        command = [sys.executable, "-c", RUNNER]
        self.process = subprocess.Popen(
            command, cwd=checkout.path, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: object, **environment: str) -> tuple[int, str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([[str(word) for word in arguments], environment]) + "\n")
        self.process.stdin.flush()
        status, said = json.loads(self.process.stdout.readline())
        return status, said

    def refused(self, *arguments: object, **environment: str) -> str:
        """The message of a command that must refuse."""
        status, said = self(*arguments, **environment)
        assert "Traceback" not in said, said
        assert status in (1, 2), f"ended with {status}: {said}"  # 2 is argparse's, of tools
        return said[said.index("error: ") :]


@pytest.fixture(scope="module")
def runner(untouched: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """In a checkout whose recipe cifar10 is trained."""
    checkout = untouched.copy(tmp_path_factory.mktemp("hostile") / "project")
    runner = Runner(checkout)
    for stage in ("config", "download", "preprocess", "train"):
        status, said = runner(f"stages.{stage}", "cifar10")
        assert status == 0, said
    yield runner
    assert runner.process.stdin is not None
    runner.process.stdin.close()
    runner.process.wait()


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a checkout that hold work."""
    places = [folder / name for name in ("data", "metrics", "models", "work")]
    files = [file for place in places for file in place.rglob("*") if file.is_file() and file.stat().st_size < 1 << 30]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if not file.name.endswith((".lock", "lock"))}


# --- Small files -----------------------------------------------------------------------------------------------------

SMALL = {
    "data/demo/cifar10/manifest.json": ("preprocess", "dvc repro download@cifar10"),
    "data/demo/cifar10/stats.json": ("train", "dvc repro preprocess@cifar10"),
    "metrics/demo/cifar10/config/data.json": ("download", "python -m stages.config cifar10 --scale demo"),
    "metrics/demo/cifar10/config/train.json": ("train", "python -m stages.config cifar10 --scale demo"),
}
SPOILT: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "cut": lambda path: path.write_bytes(path.with_name("good").read_bytes()[:40]),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "a list": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "NaN": lambda path: path.write_text('{"count": NaN}'),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "5,000 digits": lambda path: path.write_text('{"count": ' + "9" * 5000 + "}"),
    "missing keys": lambda path: path.write_text("{}"),
    "wrong types": lambda path: path.write_text(
        json.dumps({key: [] for key in json.loads(path.with_name("good").read_text())})
    ),
    "a folder": os.mkdir,
    "a FIFO": os.mkfifo,
    "a loop": lambda path: os.symlink(path, path),
    "1 TB": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_small_file_is_named_with_what_makes_it_again(runner: Runner, name: str, spoilt: str) -> None:
    path, (stage, remedy) = runner.path / name, SMALL[name]
    good = path.rename(path.with_name("good"))
    try:
        SPOILT[spoilt](path)
        before = contents(runner.path)
        message = runner.refused(f"stages.{stage}", "cifar10")
        assert message.startswith(f"error: {name}")
        assert remedy in message
        if stage == "train" and "config" in name and spoilt in ("missing keys", "wrong types"):
            assert "train.channels" in message, "with each key, and what is accepted"
        assert contents(runner.path) == before
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        good.rename(path)


@pytest.mark.parametrize("kind", ["a folder", "a FIFO", "a loop"])
@pytest.mark.parametrize(
    ("name", "stage"), [("packed.lock", "train"), ("images.lock", "preprocess"), ("train-*/lock", "train")]
)
def test_what_is_no_file_in_the_place_of_a_lock_is_not_waited_for(runner: Runner, name: str, stage: str, kind: str) -> None:
    (path,) = (runner.path / "work/demo/cifar10").glob(name)
    good = path.rename(path.with_name("good"))
    try:
        SPOILT[kind](path)
        assert f"{path.name}: " in runner.refused(f"stages.{stage}", "cifar10")
    finally:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        good.rename(path)


@pytest.mark.parametrize("kind", ["a FIFO", "a loop"])
@pytest.mark.parametrize("stage", ["train", "progression", "ema", "grid", "evaluate", "card"])
def test_what_is_no_folder_in_the_place_of_the_models_is_not_waited_for(runner: Runner, stage: str, kind: str) -> None:
    path = runner.path / "models/demo/cifar10"
    good = path.rename(path.with_name("good"))
    try:
        SPOILT[kind](path)
        runner.refused(f"stages.{stage}", "cifar10")
    finally:
        path.unlink()
        good.rename(path)


# --- Packed arrays ---------------------------------------------------------------------------------------------------


def other_bytes(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.reshape(-1)[::3] ^= 1
    return array


WRONG_ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flipped": other_bytes,
    "zeros": np.zeros_like,
    "float64": lambda array: array.astype(np.float64),
    "another size": lambda array: array[:, ::2, ::2] if array.ndim > 1 else array[::2],
    "too few": lambda array: array[:-1],
    "beyond the classes": lambda array: np.full_like(array, 200),
}


@pytest.mark.parametrize("wrong", WRONG_ARRAYS)
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_wrong_packed_array_is_set_aside_and_packed_again(runner: Runner, wrong: str, kind: str) -> None:
    (path,) = (runner.path / "work/demo/cifar10").glob(f"{kind}-*.npy")
    good, models = path.read_bytes(), (runner.path / "models/demo/cifar10/ema.safetensors").read_bytes()
    np.save(path, WRONG_ARRAYS[wrong](np.load(path)))
    bad = path.read_bytes()
    status, said = runner("stages.train", "cifar10", FRESH="1")
    assert status == 0, said
    assert path.read_bytes() == good
    assert path.with_name(f"{path.name}.damaged").read_bytes() == bad
    assert (runner.path / "models/demo/cifar10/ema.safetensors").read_bytes() == models, "the same training"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)])
def test_a_packed_array_that_is_no_file_is_refused(runner: Runner, make: Callable[[Path], Any]) -> None:
    (path,) = (runner.path / "work/demo/cifar10").glob("images-*.npy")
    good = path.rename(path.with_name("good"))
    try:
        make(path)
        assert "move it away, and the same command packs it again" in runner.refused("stages.train", "cifar10")
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
        good.rename(path)


def test_facts_that_are_not_those_of_the_array_are_named(runner: Runner) -> None:
    path = runner.path / "data/demo/cifar10/stats.json"
    good = path.read_text()
    try:
        for key, value in (("count", 31), ("size", 16), ("channels", 1)):
            path.write_text(json.dumps(json.loads(good) | {key: value}))
            message = runner.refused("stages.train", "cifar10")
            assert ", and data/demo/cifar10/stats.json says uint8 [" in message
            assert "dvc repro preprocess@cifar10" in message
    finally:
        path.write_text(good)


# --- Settings and the environment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["x", "yes", "-1", "2"])
def test_fresh_is_1_or_nothing(runner: Runner, written: str) -> None:
    before = contents(runner.path)
    assert f"FRESH = {written!r}" in runner.refused("stages.train", "cifar10", FRESH=written)
    assert contents(runner.path) == before


def test_fresh_0_removes_nothing(runner: Runner) -> None:
    states = set((runner.path / "work/demo/cifar10").glob("train-*/state-*"))
    status, said = runner("stages.train", "cifar10", FRESH="0")
    assert status == 0, said
    assert set((runner.path / "work/demo/cifar10").glob("train-*/state-*")) == states


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a b", "a;b", "$(a)", "A", "", "..", "é", "a/b", "a\nb"])
def test_names_that_would_become_paths_or_commands_are_refused(runner: Runner, name: str) -> None:
    before = contents(runner.path)
    for module in ("stages.config", "stages.download", "stages.train", "tools.sample"):
        message = runner.refused(module, name)
        assert "accepted: a name of lower-case letters, digits and _" in message
    assert contents(runner.path) == before
    params = runner.path / "params.yaml"
    good = params.read_text()
    try:
        changed = load_yaml(good)
        changed["recipes"][name] = changed["recipes"]["cifar10"]
        params.write_text(yaml.safe_dump(changed | {"recipe_names": ["cifar10", name]}, sort_keys=False))
        assert "accepted: lower-case letters, digits and _" in runner.refused("stages.config", "cifar10")
    finally:
        params.write_text(good)
    assert contents(runner.path) == before


BAD_PARAMS: list[tuple[str, Any, str]] = [
    ("runtime.device", "cuda:7", "runtime.device = 'cuda:7': this machine has"),
    ("runtime.device", "cuda:99999999999999999999", "runtime.device = 'cuda:99999999999999999999'; accepted: auto, cpu"),
    ("runtime.device", "cuda:٣", "runtime.device = 'cuda:٣'; accepted: auto, cpu"),
    ("runtime.workers", 10**9, "runtime.workers = 1000000000; accepted: processes for preprocessing, 1 to 1024"),
    ("runtime.launcher", "no_such_command --nproc 2", "runtime.launcher = 'no_such_command --nproc 2': no such command"),
    ("runtime.launcher", "  ", "runtime.launcher = '  ': no such command"),
    ("runtime.launcher", "torchrun \0", 'no such command; accepted: "", or the start of a command such as torchrun'),
    ("runtime.launcher", "torchrun 'a", 'runtime.launcher = "torchrun \'a"'),
    ("recipe_names", [], "recipe_names = []"),
    ("evaluation.inception", "~nobodyhere/w.pt", "evaluation.inception = '~nobodyhere/w.pt': Could not determine home"),
    (
        "recipes.cifar10.data",
        {"dataset": "folder", "source": "~nobodyhere/x", "size": 32},
        "recipes.cifar10.data.source = '~nobodyhere/x': Could not determine home directory. accepted: ~, or ~ and the name",
    ),
    (
        "recipes.cifar10.train",
        {"channels": [8192, 8192], "attention": [], "num_res": 10},
        "of train.channels = [8192, 8192] and train.num_res = 10 has ",
    ),
    ("recipes.celeba.data.size", 10**9, "recipes.celeba.data.size = 1000000000; accepted: at most 1,024"),
    ("figures.grid.images", 10**400, "; accepted: at most 10,000"),
    ("train.num_timesteps", 10**9, "at most 100,000"),
    ("train.steps", 10**26, "at most 10^9"),
    ("train.batch_size", 10**9, "at most 1,000,000"),
    ("train.lr", 1e-320, "1e-12"),
    (
        "recipes.cifar10.train",
        {"schedule": "linear", "num_timesteps": 4000, "beta_max": 0.5},
        "recipes.cifar10: train.schedule",
    ),
    ("recipes.cifar10.train", {"schedule": "linear", "beta_min": 0.999, "beta_max": 0.999}, "does not fall|T"),
    ("recipes.cifar10.train", {"schedule": "linear", "beta_min": 1e-20, "beta_max": 1e-20}, "does not fall"),
    ("recipes.cifar10.train", {"schedule": "linear", "beta_min": 1e-300, "beta_max": 1e-300}, "does not fall"),
]


@pytest.mark.parametrize(("key", "value", "words"), BAD_PARAMS, ids=[f"{key} = {value}" for key, value, _ in BAD_PARAMS])
def test_config_finds_what_training_would(runner: Runner, key: str, value: Any, words: str) -> None:
    path = runner.path / "params.yaml"
    good, before = path.read_text(), contents(runner.path)
    try:
        params = load_yaml(good)
        *sections, last = key.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[last] = value
        if key == "recipes.cifar10.train" and value.get("beta_min") == 0.999:
            value["num_timesteps"] = 1000
        path.write_text(yaml.safe_dump(params, sort_keys=False))
        message = runner.refused("stages.config", "cifar10")
        assert any(part in message for part in words.split("|")), message
        assert contents(runner.path) == before
    finally:
        path.write_text(good)


@pytest.mark.parametrize("home", ["data", "~/data"])
def test_config_refuses_a_data_home_that_is_not_the_same_everywhere(runner: Runner, home: str) -> None:
    message = runner.refused("stages.config", "cifar10", DATA_HOME=home)
    assert f"DATA_HOME = '{home}' in the environment; accepted: an absolute path" in message


def test_config_warns_of_what_this_machine_cannot_train(runner: Runner) -> None:
    """And accepts it, as every machine does: the files that it writes are those of another machine."""
    path = runner.path / "params.yaml"
    good, before = path.read_text(), contents(runner.path)
    try:
        params = load_yaml(good)
        params["recipes"]["cifar10"] |= {"train": {"channels": [2048, 2048], "attention": [], "num_res": 50}}
        params["evaluation"]["inception"] = "no/such/weights.pth"
        path.write_text(yaml.safe_dump(params, sort_keys=False))
        status, said = runner("stages.config", "cifar10")
        assert status == 0, said
        assert re.search(
            r"warning: recipes.cifar10: the network of .* has [\d,]{14} parameters; .* and this machine's cpu has", said
        )
        assert "celeba: the network" not in said
        assert "evaluation.inception = 'no/such/weights.pth': no such file here" in said
    finally:
        path.write_text(good)
        runner("stages.config", "cifar10")
    assert contents(runner.path) == before


@pytest.mark.parametrize("written", ["", "[1, 2]", "3", "a: [", "a: " + "9" * 5000, "[" * 5000, "\x00"])
def test_a_params_file_that_holds_no_settings_is_named(runner: Runner, written: str) -> None:
    path = runner.path / "params.yaml"
    good = path.read_text()
    try:
        path.write_text(written)
        assert runner.refused("stages.config", "cifar10").startswith("error: params.yaml: ")
    finally:
        path.write_text(good)


def test_no_names_at_one_scale_stop_another_that_dvc_would_run_unasked(runner: Runner) -> None:
    """A bare dvc in a folder whose pipeline is empty runs those of the folders below."""
    path, small = runner.path / "params.yaml", runner.path / "small" / "params.yaml"
    good = path.read_text()
    small.parent.mkdir()
    try:
        small.write_text(good.replace("scale: demo", "scale: small"))
        path.write_text(yaml.safe_dump(load_yaml(good) | {"recipe_names": []}, sort_keys=False))
        for scale, words in (("small", "error: params.yaml: recipe_names = []"), ("demo", "error: recipe_names = []")):
            assert runner.refused("stages.config", "cifar10", "--scale", scale).startswith(words)
    finally:
        path.write_text(good)
        shutil.rmtree(small.parent)


@pytest.mark.parametrize("change", [{"lr": "fast"}, {"learning_rate": 1e-3}])
def test_wrong_settings_of_a_training_name_their_file(runner: Runner, change: dict[str, Any]) -> None:
    path = runner.path / "metrics/demo/cifar10/config/train.json"
    good = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(good) | change))
        message = runner.refused("stages.train", "cifar10")
    finally:
        path.write_text(good)
    assert message.startswith(f"error: metrics/demo/cifar10/config/train.json: train.{next(iter(change))}")
    assert "it is made by: python -m stages.config cifar10 --scale demo" in message


def test_a_training_that_moves_no_weight_says_so(runner: Runner) -> None:
    path = runner.path / "metrics/demo/cifar10/config/train.json"
    good = path.read_text()
    models = shutil.copytree(runner.path / "models", runner.path / "kept")
    try:
        path.write_text(json.dumps(json.loads(good) | {"lr": 1e-12}))
        status, said = runner("stages.train", "cifar10")
        assert status == 0
        assert "warning: no weight differs from its start" in said
    finally:
        path.write_text(good)
        shutil.rmtree(runner.path / "models")
        models.rename(runner.path / "models")


# --- Checkpoints, pictures, outputs ----------------------------------------------------------------------------------

CONFIG = train_config(context_dim=2)
FACTS = {"dataset": "cifar10", "size": 8, "count": 3, "origin": "a test", "mean": [0.5] * 3, "std": [0.2] * 3}
HEADER = {"config": CONFIG.model_dump(), "step": 7, "kind": "ema", "data": FACTS, "classes": ["cat", "dog"]}


def settings(**changes: Any) -> dict[str, Any]:
    return HEADER | {"config": HEADER["config"] | changes}  # type: ignore[operator]


def facts(**changes: Any) -> dict[str, Any]:
    return HEADER | {"data": FACTS | changes}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in HEADER.items() if name != key}


HEADERS: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is no JSON"),
    "too deep": ("[" * 100_000, "is no JSON"),
    "a list": ([1], "accepted: an object"),
    "null": (None, "accepted: an object"),
    "5,000 digits": ('{"step": ' + "9" * 5000 + "}", "is no JSON"),
    "no step": (without("step"), "step: missing"),
    "no kind": (without("kind"), "kind: missing"),
    "no data": (without("data"), "data: missing"),
    "no config": (without("config"), "train = None"),
    "a step of text": (HEADER | {"step": "7"}, "step = '7'"),
    "step 0": (HEADER | {"step": 0}, "step = 0"),
    "another kind": (HEADER | {"kind": "best"}, "accepted: raw or ema"),
    "size 0": (facts(size=0), "data.size = 0; accepted: side of the images in pixels, 1 to 1024"),
    "size -5": (facts(size=-5), "data.size = -5"),
    "size 10^6": (facts(size=10**6), "data.size = 1000000"),
    "size x": (facts(size="x"), "data.size = 'x'"),
    "one class": (HEADER | {"classes": ["cat"]}, "names 1 classes; accepted: context_dim = 2"),
    "no list of classes": (HEADER | {"classes": 2}, "accepted: a list of names"),
    "a number for a data set": (facts(dataset=5), "data.dataset = 5"),
    "10^6 blocks": (settings(num_res=10**6), "train.num_res = 1000000; accepted"),
    "100 blocks": (settings(num_res=100), "asks for 201 blocks"),
    "wide levels": (settings(channels=[8192, 8192]), "accepted: float16 [8192]"),
    "13 levels": (settings(channels=[4] * 13, attention=[False] * 13), "accepted"),
    "T of 10^9": (settings(num_timesteps=10**9), "at most 100,000"),
    "a context of 10^9": (settings(context_dim=10**9), "at most 10,000"),
    "no text": (facts(origin="a\ud800b"), "holds half of a surrogate pair; accepted: text in Unicode"),
    "classes that are no text": (HEADER | {"classes": ["cat", "\udc00"]}, "half of a surrogate pair"),
    "beta of 1e-300": (settings(schedule="linear", beta_min=1e-300, beta_max=1e-300), "does not fall"),
}


@pytest.fixture(scope="module")
def checkpoint(runner: Runner) -> Path:
    """A good checkpoint of two classes."""
    path = runner.path / "good.safetensors"
    save_weights(path, randomised(build_network(CONFIG)), HEADER)
    return path


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused(runner: Runner, checkpoint: Path, name: str) -> None:
    header, words = HEADERS[name]
    path = checkpoint.with_name("hostile.safetensors")
    text = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(save(load_file(checkpoint), {"ddpm": text}))
    message = runner.refused("tools.sample", "--checkpoint", path, "--out", path.with_suffix(".png"))
    assert message.startswith(f"error: {path}: ")
    assert words in message
    assert not path.with_suffix(".png").exists()


HEAD = "head.2.weight"
TENSORS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor | None], str]] = {
    "missing": (lambda value: None, f"{HEAD}: missing"),
    "int16": (lambda value: value.to(torch.int16), "accepted: float16 [3, 8, 3, 3]"),
    "float32": (lambda value: value.float(), "accepted: float16 [3, 8, 3, 3]"),
    "another shape": (lambda value: value[:1].contiguous(), "is float16 [1, 8, 3, 3]"),
    "NaN": (lambda value: value * torch.nan, "holds NaN or infinity"),
    "infinity": (lambda value: value + torch.inf, "holds NaN or infinity"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_hostile_weights_are_refused(runner: Runner, checkpoint: Path, name: str) -> None:
    change, words = TENSORS[name]
    tensors = load_file(checkpoint)
    changed = change(tensors.pop(HEAD))
    path = checkpoint.with_name("hostile.safetensors")
    path.write_bytes(save(tensors | ({} if changed is None else {HEAD: changed}), {"ddpm": json.dumps(HEADER)}))
    message = runner.refused("tools.sample", "--checkpoint", path, "--out", path.with_suffix(".png"))
    assert message.startswith(f"error: {path}: ")
    assert words in message


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "a folder": os.mkdir,
    "a FIFO": os.mkfifo,
    "a loop": lambda path: os.symlink(path, path),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("option", ["--checkpoint", "--image"])
def test_what_is_no_file_is_not_waited_for(runner: Runner, checkpoint: Path, tmp_path: Path, kind: str, option: str) -> None:
    path, out = tmp_path / "x.png", tmp_path / "out.png"
    NO_FILES[kind](path)
    words = [option, path] if option == "--checkpoint" else ["--checkpoint", checkpoint, "--mode", "edit", option, path]
    assert runner.refused("tools.sample", *words, "--out", out).startswith(f"error: {path}: ")
    assert not out.exists()


def test_a_picture_that_is_cut_or_claims_too_much_is_refused(runner: Runner, checkpoint: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(good)
    huge = bytearray(good.read_bytes())
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(bytes(huge[12:29])).to_bytes(4, "big")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"  # Pillow would ask Ghostscript to run it
    for content in (good.read_bytes()[:60], b"", b"<html>", bytes(huge), program):
        path = tmp_path / "given.png"
        path.write_bytes(content)
        words = ("--checkpoint", checkpoint, "--mode", "edit", "--image", path, "--out", tmp_path / "out.png")
        assert f"--image {path}: " in runner.refused("tools.sample", *words)


OPTIONS = [
    (["--guidance", "nan"], "--guidance nan: accepted"),
    (["--guidance", "inf"], "--guidance inf: accepted"),
    (["--guidance", "1e300"], "--guidance 1e+300: accepted"),
    (["--autoguidance", "nan"], "--autoguidance nan: accepted"),
    (["--autoguidance", "2"], "--autoguidance with --checkpoint: accepted with --guide FILE too"),
    (["--autoguidance", "2", "--guide", "/dev/zero"], "/dev/zero: is no regular file"),
    (["--guide", "/dev/zero"], "--guide: accepted with --autoguidance above 1"),
    (["--context", "nan,0"], "accepted: numbers from -1000 to 1000"),
    (["--context", "inf,0"], "accepted: numbers from -1000 to 1000"),
    (["--context", "0,1e39"], "accepted: numbers from -1000 to 1000"),
    (["--images", "1000000000000"], "accepted: up to 1000000"),
    (["--per-row", "1000000"], "accepted: up to 1000000"),
]


@pytest.mark.parametrize(("words", "said"), OPTIONS, ids=[" ".join(words) for words, _ in OPTIONS])
def test_options_that_would_draw_nothing_are_refused(
    runner: Runner, checkpoint: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    assert said in runner.refused("tools.sample", "--checkpoint", checkpoint, *words, "--out", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_from_python_too_nan_and_infinity_are_refused(checkpoint: Path) -> None:
    from ddpm.base.faults import Fault
    from ddpm.sampling import load

    model = load(checkpoint, "cpu")
    for value in (float("nan"), float("inf")):
        with pytest.raises(Fault, match="accepted: a finite number"):
            model.sample(2, "ddim 2", guidance=value)
        with pytest.raises(Fault, match="accepted: finite numbers"):
            model.sample(2, "ddim 2", classes=torch.tensor([[value, 0.0]]))


@pytest.mark.parametrize("ending", [".png", ".gif", ".npy"])
def test_a_place_that_refuses_is_named_and_nothing_remains(
    runner: Runner, checkpoint: Path, tmp_path: Path, ending: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "file").touch()
    for out in (tmp_path / "a", Path("/proc/nowhere/out"), tmp_path / "file" / "out"):
        place = out.with_suffix(ending)
        if out.name == "a":
            out.rename(place)
        message = runner.refused(
            "tools.sample", "--checkpoint", checkpoint, "--method", "ddim", "--steps", 2, "--per-row", 1, "--out", place
        )
        assert str(place) in message or str(place.parent) in message
    assert {path.name for path in tmp_path.iterdir()} == {f"a{ending}", "file"}
