"""The library alone: a wheel of it, in an environment that has what it names as its dependencies and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ddpm
from conftest import ROOT
from tiny import write_weights

pytestmark = pytest.mark.slow

NOT_THERE = ("dvc", "matplotlib", "yaml", "torchvision", "diffusers", "torch_fidelity", "stages", "tools", "pytest")
USE = """
import importlib, importlib.util, json, pkgutil, sys
from pathlib import Path

import numpy as np
import torch

for name in json.loads(sys.argv[2]):
    assert importlib.util.find_spec(name) is None, name

import ddpm
from ddpm.model.pixels import to_uint8
from ddpm.model.weights import save_weights
from ddpm.sampling import load
from ddpm.training.loop import new_state, train
from ddpm.training.settings import TrainConfig

assert Path(ddpm.__file__).is_relative_to(sys.prefix), ddpm.__file__
for module in pkgutil.walk_packages(ddpm.__path__, "ddpm."):
    if module.name != "ddpm.figures.curves":  # which the extra `plots` is for
        importlib.import_module(module.name)

weights = Path(sys.argv[1])
model = load(weights, "cpu")
images = model.sample(3, "unipc 4", seed=1)
assert images.shape == (3, 8, 8, 3) and images.dtype == np.uint8

config = TrainConfig(**model.metadata["config"] | {"steps": 3, "context_dim": 0})
own = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
state = new_state(config, torch.device("cpu"))
before = [parameter.clone() for parameter in state.network.parameters()]
assert list(train(state, own, config)) == [1, 2, 3]
assert any(not torch.equal(a, b) for a, b in zip(before, state.network.parameters()))
metadata = {"config": config.model_dump(), "step": 3, "kind": "ema", "data": model.metadata["data"], "classes": []}
save_weights(weights.with_name("mine.safetensors"), state.ema.network, metadata)
assert load(weights.with_name("mine.safetensors")).sample(2, "ddim 3").shape == (2, 8, 8, 3)

from ddpm.evaluation.yardstick import features
assert len(features(images)) == 3, "the yardstick's weights came along"
print("version", ddpm.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy of the checkout's sources: building leaves files beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "project" / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "project")
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, folder / "project"], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, and links to the packages that it needs, as they are installed here."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    own = importlib.metadata.PathDistribution(next(site.glob("ddpm_dvc-*.dist-info")))
    for name in needed(own.requires or []):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():  # parts of a namespace come with the first
                (site / top).symlink_to(str(distribution.locate_file(top)))
    return folder / "bin" / "python"


def needed(requirements: list[str]) -> set[str]:
    """The names of distributions behind `requirements`, and of what these need, without any extra."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += importlib.metadata.requires(name) or []
    return found


def test_the_wheel_loads_samples_and_trains_with_what_it_names(clean: Path, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "ema.safetensors", context_dim=5)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [clean, "-c", USE, path, json.dumps(NOT_THERE)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["version", ddpm.__version__]


def test_its_types_are_seen(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text("from ddpm.sampling import load\n\nload('a').sample('many')\n")
    command = [sys.executable, "-m", "mypy", "--python-executable", clean, "--config-file=", "use.py"]
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False).stdout
    assert 'Argument 1 to "sample" of "Model" has incompatible type "str"; expected "int"' in said, said
    assert "py.typed" not in said


def test_the_version_is_the_newest_of_the_changelog(wheel: Path) -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == ddpm.__version__
    assert wheel.name.startswith(f"ddpm_dvc-{ddpm.__version__}-")
    assert sorted(versions, key=lambda version: [int(part) for part in version.split(".")], reverse=True) == versions
