"""The download and preprocess stages as the pipeline runs them, in a copy of the project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm.synthetic import write_celeba, write_cifar10

ROOT = Path(__file__).resolve().parents[1]


class Project:
    """A copy of the code and settings with a small data set, and its own work folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("stages", "src"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        params = (ROOT / "params.yaml").read_text().replace("synthetic_images: 2000", "synthetic_images: 20")
        (root / "params.yaml").write_text(params)

    def set_source(self, source: str, shareable: bool = True) -> None:
        params = (self.root / "params.yaml").read_text().replace("source: synthetic", f"source: '{source}'")
        if not shareable:
            params = params.replace("shareable: true", "shareable: false")
        (self.root / "params.yaml").write_text(params)

    def run(self, *command: str, data_home: Path | None = None) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "DATA_HOME", "PYTHONPATH")}
        if data_home:
            kept["DATA_HOME"] = str(data_home)
        line = [sys.executable, *command]
        return subprocess.run(line, cwd=self.root, env=kept, capture_output=True, text=True)

    def stages(self, recipe: str, *names: str, data_home: Path | None = None) -> None:
        for name in names:
            done = self.run("-m", f"stages.{name}", recipe, data_home=data_home)
            assert done.returncode == 0, done.stderr

    def facts(self, recipe: str, name: str) -> dict[str, object]:
        facts: dict[str, object] = json.loads((self.root / "data/demo" / recipe / name).read_text())
        return facts

    def array(self, recipe: str) -> Path:
        (path,) = (self.root / "work/demo" / recipe).glob("images-*.npy")
        return path

    def training_images(self, recipe: str) -> subprocess.CompletedProcess[str]:
        """Print how many images a later stage sees."""
        code = (
            "from stages.common import Paths, fault_to_exit\nfrom stages.packed import training_images\n"
            f"with fault_to_exit(): print('seen', len(training_images(Paths('demo', '{recipe}'))[0]))"
        )
        return self.run("-c", code)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.mark.parametrize("recipe", ["cifar10", "celeba"])
def test_synthetic_images_from_nothing_to_an_array(project: Project, recipe: str) -> None:
    project.stages(recipe, "config", "download", "preprocess")
    manifest, stats = project.facts(recipe, "manifest.json"), project.facts(recipe, "stats.json")
    assert manifest["source"] == stats["source"] == "synthetic"
    assert "synthetic" in str(stats["origin"])
    assert manifest["matches_official"] is False
    assert str(project.root) not in json.dumps([manifest, stats])
    array = np.load(project.array(recipe))
    assert array.shape == (20, stats["size"], stats["size"], 3)
    assert np.allclose((array / 255).mean((0, 1, 2)), np.array(stats["mean"]))
    strip = (project.root / "metrics/demo" / recipe / "data.png").read_bytes()
    assert strip == (project.root / "work/demo" / recipe / "training-images.png").read_bytes()
    produced = {path.name for path in (project.root / "data/demo" / recipe).iterdir()}
    assert produced == {"manifest.json", "stats.json"}, "no image outside work/"


def test_a_missing_array_is_made_again_from_nothing_but_the_facts(project: Project) -> None:
    project.stages("cifar10", "config", "download", "preprocess")
    before = project.array("cifar10").read_bytes()
    shutil.rmtree(project.root / "work")
    done = project.training_images("cifar10")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("seen 20\n")
    assert project.array("cifar10").read_bytes() == before
    assert project.training_images("cifar10").stdout == "seen 20\n"


def test_images_that_are_not_the_recorded_ones_are_refused(project: Project) -> None:
    project.stages("cifar10", "config", "download", "preprocess")
    shutil.rmtree(project.root / "work")
    stats = project.root / "data/demo/cifar10/stats.json"
    stats.write_text(stats.read_text().replace('"sha256": "', '"sha256": "0'))
    done = project.training_images("cifar10")
    assert done.returncode == 1
    assert "data/demo/cifar10/stats.json" in done.stderr
    assert "dvc repro preprocess@cifar10" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((project.root / "work/demo/cifar10").glob("*.npy"))


def test_facts_that_were_never_made_are_named(project: Project) -> None:
    done = project.training_images("cifar10")
    assert done.returncode == 1
    missing, maker = "data/demo/cifar10/stats.json is missing", "dvc repro preprocess@cifar10"
    assert done.stderr == f"error: {missing}; it is made by: {maker}\n"


def test_stale_drawings_are_drawn_again(project: Project) -> None:
    project.stages("cifar10", "config", "download")
    (drawn,) = (project.root / "work/downloads/synthetic").glob("*.tar.gz")
    sound = drawn.read_bytes()
    write_cifar10(drawn, 20, seed=9, workers=1)
    project.stages("cifar10", "preprocess")
    assert drawn.read_bytes() == sound


def test_a_local_archive_or_folder_in_data_home(project: Project, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    write_celeba(home / "img_align_celeba.zip", 17, seed=1, workers=1)
    project.set_source("$DATA_HOME", shareable=False)
    project.stages("celeba", "config", "download", "preprocess", data_home=home)
    manifest = project.facts("celeba", "manifest.json")
    assert manifest["source"] == "local"
    assert manifest["name"] == "img_align_celeba.zip"
    assert str(tmp_path) not in json.dumps(manifest)
    sha256, array = manifest["sha256"], project.array("celeba").read_bytes()
    strip, notice = (project.root / place / "celeba" for place in ("work/demo", "metrics/demo"))
    assert (strip / "training-images.png").read_bytes() != (notice / "data.png").read_bytes(), "not shareable"
    # The same images unpacked, at a path relative to the checkout.
    shutil.unpack_archive(home / "img_align_celeba.zip", project.root / "faces")
    params = (project.root / "params.yaml").read_text()
    (project.root / "params.yaml").write_text(params.replace("$DATA_HOME'", "faces'"))
    project.stages("celeba", "config", "download", "preprocess")
    manifest = project.facts("celeba", "manifest.json")
    assert manifest["name"] == "faces"
    assert manifest["sha256"] != sha256
    assert project.array("celeba").read_bytes() == array


def test_data_home_has_a_default(project: Project) -> None:
    write_cifar10(project.root / "work/downloads/mine.tar.gz", 10, seed=1, workers=1)
    project.set_source("${DATA_HOME}/mine.tar.gz")
    project.stages("cifar10", "config", "download", "preprocess")
    assert project.facts("cifar10", "stats.json")["count"] == 10


def test_a_local_source_that_is_not_there_is_explained(project: Project) -> None:
    project.set_source("~/no such folder")
    project.stages("celeba", "config")
    done = project.run("-m", "stages.download", "celeba")
    assert done.returncode == 1
    assert "recipes.celeba.data.source = '~/no such folder'" in done.stderr
    assert str(Path("~/no such folder").expanduser()) in done.stderr
    for accepted in ("official", "synthetic", "img_align_celeba.zip", "folder"):
        assert accepted in done.stderr
    assert "Traceback" not in done.stderr


def test_a_local_archive_that_changed_since_it_was_recorded_is_refused(project: Project) -> None:
    archive = project.root / "mine.tar.gz"
    write_cifar10(archive, 10, seed=1, workers=1)
    project.set_source("mine.tar.gz")
    project.stages("cifar10", "config", "download")
    write_cifar10(archive, 10, seed=2, workers=1)
    done = project.run("-m", "stages.preprocess", "cifar10")
    assert done.returncode == 1
    assert "is not what data/demo/cifar10/manifest.json describes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_local_archive_stops_the_download_stage(project: Project) -> None:
    archive = project.root / "mine.tar.gz"
    write_cifar10(archive, 10, seed=1, workers=1)
    archive.write_bytes(archive.read_bytes()[:-4])
    project.set_source("mine.tar.gz")
    project.stages("cifar10", "config")
    done = project.run("-m", "stages.download", "cifar10")
    assert done.returncode == 1
    assert "mine.tar.gz: not a whole .tar.gz archive" in done.stderr
    assert not (project.root / "data").exists()
