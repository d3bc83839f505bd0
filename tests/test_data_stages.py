"""The download and preprocess stages as the pipeline runs them, in a copy of the project."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import stages
from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import write_json
from ddpm.data.archives import FASHION_MNIST_FILES, read_cifar10, read_fashion_mnist, read_sprites
from ddpm.data.drawn.layouts import write_celeba, write_cifar10, write_fashion_mnist, write_sprites
from ddpm.data.fetch import RemoteFile
from ddpm.data.sets import DATA_SETS
from ddpm.data.settings import DataConfig
from stages import Paths, download, preprocess, raw
from stages.packed import labels_path

ROOT = Path(__file__).resolve().parents[1]


def write_settings(root: Path, recipe: str, **data: Any) -> None:
    """Leave the settings of a recipe, with 20 drawn images unless `data` says otherwise, as the stage config does."""
    settings = DataConfig(**({"dataset": recipe, "source": "synthetic", "images": 20} | data))
    write_json(root / "metrics/demo" / recipe / "config/data.json", settings.model_dump())
    runtime = stages.load_params("demo")["runtime"] | {"workers": 1}
    (root / "params.yaml").write_text(yaml.safe_dump({"runtime": runtime}))


class Project:
    """A copy of the code with a small data set, and its own work folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("stages", "src"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))

    def set(self, recipe: str, **data: Any) -> None:
        write_settings(self.root, recipe, **data)

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

    def array(self, recipe: str, kind: str = "images") -> Path:
        (path,) = (self.root / "work/demo" / recipe).glob(f"{kind}-*.npy")
        return path

    def training_images(self, recipe: str) -> subprocess.CompletedProcess[str]:
        """Print how many images a later stage sees."""
        return self._see(recipe, "len(training_images(paths)[0])")

    def training_labels(self, recipe: str) -> subprocess.CompletedProcess[str]:
        """Print the sum of the labels that a later stage sees, or None."""
        return self._see(recipe, "None if (labels := training_labels(paths)) is None else labels.sum(dtype=int)")

    def _see(self, recipe: str, what: str) -> subprocess.CompletedProcess[str]:
        code = (
            "from stages import Paths, faults_reported\nfrom stages.packed import training_images, training_labels\n"
            f"paths = Paths('demo', '{recipe}')\n"
            f"with faults_reported(): print('seen', {what})"
        )
        return self.run("-c", code)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.mark.parametrize(("recipe", "channels"), [("cifar10", 3), ("celeba", 3), ("fashion_mnist", 1), ("sprites", 3)])
def test_synthetic_images_from_nothing_to_an_array(project: Project, recipe: str, channels: int) -> None:
    project.set(recipe)
    project.stages(recipe, "download", "preprocess")
    manifest, stats = project.facts(recipe, "manifest.json"), project.facts(recipe, "stats.json")
    assert manifest["source"] == stats["source"] == "synthetic"
    assert "synthetic" in str(stats["origin"])
    assert manifest["matches_official"] is False
    assert manifest["shareable"] is True
    assert list(stats) == ["count", "size", "channels", "mean", "std", "sha256", "labels_sha256", "dataset", "source", "origin"]
    assert str(project.root) not in json.dumps([manifest, stats])
    array = np.load(project.array(recipe))
    assert array.shape == (20, stats["size"], stats["size"], channels)
    assert stats["channels"] == channels
    assert np.allclose((array / 255).mean((0, 1, 2)), np.array(stats["mean"]))
    produced = {path.name for path in (project.root / "data/demo" / recipe).iterdir()}
    assert produced == {"manifest.json", "stats.json"}, "no image outside work/"


def test_a_missing_array_is_made_again_from_nothing_but_the_facts(project: Project) -> None:
    project.set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    before = project.array("cifar10").read_bytes()
    shutil.rmtree(project.root / "work")
    done = project.training_images("cifar10")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("seen 20\n")
    assert project.array("cifar10").read_bytes() == before
    assert project.training_images("cifar10").stdout == "seen 20\n"


def test_missing_labels_are_made_again(project: Project) -> None:
    project.set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    (drawn,) = (project.root / "work/downloads/synthetic").glob("*.tar.gz")
    labels = read_cifar10(drawn)[1]
    path = project.array("cifar10", "labels")
    assert project.facts("cifar10", "stats.json")["labels_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(np.load(path), labels)
    path.unlink()
    done = project.training_labels("cifar10")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"seen {labels.sum(dtype=int)}\n")
    assert np.array_equal(np.load(path), labels)
    shutil.rmtree(project.root / "work")
    assert project.training_labels("cifar10").stdout.endswith(f"seen {labels.sum(dtype=int)}\n")


def test_labels_that_are_not_those_of_the_images_are_refused(project: Project) -> None:
    project.set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    path = project.array("cifar10", "labels")
    np.save(path, np.load(path)[:-1])
    done = project.training_labels("cifar10")
    assert done.returncode == 1
    name = path.relative_to(project.root)
    assert done.stderr == f"error: {name} has 19 labels for 20 images; remove it, and it is packed again\n"
    path.unlink()
    stats = project.root / "data/demo/cifar10/stats.json"
    stats.write_text(stats.read_text().replace('"labels_sha256": "', '"labels_sha256": "0'))
    done = project.training_labels("cifar10")
    assert done.returncode == 1
    assert "error: the labels_sha256 of what is packed here is not that of data/demo/cifar10/stats.json" in done.stderr
    assert "Traceback" not in done.stderr
    work = project.root / "work/demo/cifar10"
    assert not list(work.glob("labels*.npy"))
    assert len(list(work.glob("images-*.npy"))) == 1, "the images are the recorded ones"


def test_celeba_has_no_labels(project: Project) -> None:
    project.set("celeba")
    project.stages("celeba", "download", "preprocess")
    assert project.facts("celeba", "stats.json")["labels_sha256"] is None
    assert project.training_labels("celeba").stdout == "seen None\n"


def test_images_that_are_not_the_recorded_ones_are_refused(project: Project) -> None:
    project.set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    shutil.rmtree(project.root / "work")
    stats = project.root / "data/demo/cifar10/stats.json"
    stats.write_text(stats.read_text().replace('"sha256": "', '"sha256": "0'))
    done = project.training_images("cifar10")
    assert done.returncode == 1
    assert "data/demo/cifar10/stats.json" in done.stderr
    assert "dvc repro preprocess@cifar10" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((project.root / "work/demo/cifar10").glob("images*.npy"))


def test_facts_that_were_never_made_are_named(project: Project) -> None:
    done = project.training_images("cifar10")
    assert done.returncode == 1
    missing, maker = "data/demo/cifar10/stats.json is missing", "dvc repro preprocess@cifar10"
    assert done.stderr == f"error: {missing}; it is made by: {maker}\n"


def test_stale_drawings_are_drawn_again(project: Project) -> None:
    project.set("cifar10")
    project.stages("cifar10", "download")
    (drawn,) = (project.root / "work/downloads/synthetic").glob("*.tar.gz")
    sound = drawn.read_bytes()
    write_cifar10(drawn, 20, seed=9, workers=1)
    project.stages("cifar10", "preprocess")
    assert drawn.read_bytes() == sound


def test_stale_or_incomplete_folders_are_drawn_again(project: Project) -> None:
    project.set("fashion_mnist")
    project.stages("fashion_mnist", "download")
    (drawn,) = (path for path in (project.root / "work/downloads/synthetic").iterdir() if path.is_dir())
    sound = {path.name: path.read_bytes() for path in drawn.iterdir()}
    for name in FASHION_MNIST_FILES:
        (drawn / name).unlink()
        project.stages("fashion_mnist", "preprocess")
        assert {path.name: path.read_bytes() for path in drawn.iterdir()} == sound


def test_a_local_folder_of_fashion_mnist(project: Project) -> None:
    write_fashion_mnist(project.root / "mine", 17, seed=1, workers=1)
    project.set("fashion_mnist", source="mine")
    project.stages("fashion_mnist", "download", "preprocess")
    manifest = project.facts("fashion_mnist", "manifest.json")
    assert (manifest["source"], manifest["name"], manifest["matches_official"]) == ("local", "mine", False)
    lines = [f"{path.name} {path.stat().st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
             for path in sorted((project.root / "mine").iterdir())]  # fmt: skip
    assert manifest["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    images, labels = read_fashion_mnist(project.root / "mine")
    assert np.array_equal(np.load(project.array("fashion_mnist")), images)
    assert np.array_equal(np.load(project.array("fashion_mnist", "labels")), labels)
    write_fashion_mnist(project.root / "mine", 17, seed=2, workers=1)
    done = project.run("-m", "stages.preprocess", "fashion_mnist")
    assert done.returncode == 1
    assert "is not what data/demo/fashion_mnist/manifest.json describes" in done.stderr


def test_a_local_file_of_sprites(project: Project) -> None:
    write_sprites(project.root / "mine.npz", 17, seed=1, workers=1)
    project.set("sprites", source="mine.npz")
    project.stages("sprites", "download", "preprocess")
    manifest = project.facts("sprites", "manifest.json")
    assert (manifest["source"], manifest["name"], manifest["matches_official"]) == ("local", "mine.npz", False)
    images, labels = read_sprites(project.root / "mine.npz")
    assert np.array_equal(np.load(project.array("sprites")), images)
    assert np.array_equal(np.load(project.array("sprites", "labels")), labels)


@pytest.mark.parametrize(
    ("dataset", "accepted"),
    [
        ("fashion_mnist", "a folder with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, packed or unpacked"),
        ("sprites", "accepted: synthetic, or the path of an .npz file with the arrays images and labels"),
    ],
)
def test_a_wrong_local_source_is_explained(project: Project, dataset: str, accepted: str) -> None:
    project.set(dataset, source="mine")
    absent = project.run("-m", "stages.download", dataset)
    assert accepted in absent.stderr
    (project.root / "mine").mkdir()
    empty = project.run("-m", "stages.download", dataset)
    assert "mine: " in empty.stderr
    for done in (absent, empty):
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of Fashion-MNIST's two files that a server offers as the official ones; the stages work in tmp_path."""
    folder = tmp_path / "published"
    write_fashion_mnist(folder, 30, seed=5, workers=1)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    contents = {name: (folder / name).read_bytes() for name in FASHION_MNIST_FILES}
    address = f"http://127.0.0.1:{server.server_port}"
    files = tuple(
        RemoteFile(name, len(content), (f"{address}/{name}",), "Ask the publisher.", hashlib.md5(content).hexdigest())
        for name, content in contents.items()
    )
    offer(monkeypatch, files)
    write_settings(tmp_path, "fashion_mnist", source="official")
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    for module in (stages, raw):
        monkeypatch.setattr(module, "WORK", tmp_path / "work")
    monkeypatch.setattr(raw, "DATA_HOME", tmp_path / "home")
    yield folder
    server.shutdown()
    server.server_close()


def offer(monkeypatch: pytest.MonkeyPatch, files: tuple[RemoteFile, ...]) -> None:
    """Let these be the official files of Fashion-MNIST."""
    monkeypatch.setitem(DATA_SETS, "fashion_mnist", dataclasses.replace(DATA_SETS["fashion_mnist"], files=files))


def test_official_files_are_fetched_into_a_folder_of_the_data_set(published: Path, tmp_path: Path) -> None:
    paths = Paths("demo", "fashion_mnist")
    download.main(paths)
    preprocess.main(paths)
    for name in FASHION_MNIST_FILES:
        assert (tmp_path / "home/fashion_mnist" / name).read_bytes() == (published / name).read_bytes()
    manifest, stats = paths.facts("manifest.json", ""), paths.facts("stats.json", "")
    assert (manifest["source"], manifest["matches_official"]) == ("official", True)
    assert manifest["origin"] == stats["origin"] == "official files"
    assert np.array_equal(np.load(labels_path(paths, stats["labels_sha256"])), read_fashion_mnist(published)[1])
    # The same files as a local source are recognised.
    write_settings(tmp_path, "fashion_mnist", source=str(published))
    download.main(paths)
    local = paths.facts("manifest.json", "")
    assert (local["source"], local["matches_official"], local["sha256"]) == ("local", True, manifest["sha256"])


def test_an_official_file_that_differs_is_not_used(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = DATA_SETS["fashion_mnist"].files
    offer(monkeypatch, (images, dataclasses.replace(labels, md5="0" * 32)))
    with pytest.raises(Fault, match=r"(?s)train-labels-idx1-ubyte.gz could not be downloaded.*Put it into the folder"):
        download.main(Paths("demo", "fashion_mnist"))
    assert {path.name for path in (tmp_path / "home/fashion_mnist").glob("*.gz")} == {FASHION_MNIST_FILES[0]}
    assert not (tmp_path / "data").exists()


def test_a_local_archive_or_folder_in_data_home(project: Project, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    write_celeba(home / "img_align_celeba.zip", 17, seed=1, workers=1)
    project.set("celeba", source="$DATA_HOME", size=16)
    project.stages("celeba", "download", "preprocess", data_home=home)
    manifest = project.facts("celeba", "manifest.json")
    assert manifest["source"] == "local"
    assert manifest["name"] == "img_align_celeba.zip"
    assert manifest["shareable"] is False
    assert str(tmp_path) not in json.dumps(manifest)
    sha256, array = manifest["sha256"], project.array("celeba").read_bytes()
    # The same images unpacked, at a path relative to the checkout.
    shutil.unpack_archive(home / "img_align_celeba.zip", project.root / "faces")
    project.set("celeba", source="faces", size=16)
    project.stages("celeba", "download", "preprocess")
    manifest = project.facts("celeba", "manifest.json")
    assert manifest["name"] == "faces"
    assert manifest["sha256"] != sha256
    assert project.array("celeba").read_bytes() == array


def test_data_home_has_a_default(project: Project) -> None:
    write_cifar10(project.root / "work/downloads/mine.tar.gz", 10, seed=1, workers=1)
    project.set("cifar10", source="${DATA_HOME}/mine.tar.gz")
    project.stages("cifar10", "download", "preprocess")
    assert project.facts("cifar10", "stats.json")["count"] == 10


def test_a_local_source_that_is_not_there_is_explained(project: Project) -> None:
    project.set("celeba", source="~/no such folder")
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
    project.set("cifar10", source="mine.tar.gz")
    project.stages("cifar10", "download")
    write_cifar10(archive, 10, seed=2, workers=1)
    done = project.run("-m", "stages.preprocess", "cifar10")
    assert done.returncode == 1
    assert "is not what data/demo/cifar10/manifest.json describes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_local_archive_stops_the_download_stage(project: Project) -> None:
    archive = project.root / "mine.tar.gz"
    write_cifar10(archive, 10, seed=1, workers=1)
    archive.write_bytes(archive.read_bytes()[:-4])
    project.set("cifar10", source="mine.tar.gz")
    done = project.run("-m", "stages.download", "cifar10")
    assert done.returncode == 1
    assert "mine.tar.gz: not a whole .tar.gz archive" in done.stderr
    assert not (project.root / "data").exists()


def test_what_a_killed_packing_left_is_removed(project: Project) -> None:
    project.set("cifar10")
    project.stages("cifar10", "download")
    work = project.root / "work/demo/cifar10"
    work.mkdir(parents=True)
    left, other = work / ".123.tmp-images.npy", work / ".123.tmp-state.pt"
    for path in (left, other):
        path.write_bytes(b"half")
    project.stages("cifar10", "preprocess")
    assert not left.exists()
    assert other.exists(), "a training may be at work on that"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, faults_reported(), open("/dev/full", "w", buffering=1) as full:
        full.write("x\n")
    assert ended.value.code == "error: the disk: No space left on device; make room, and the same command does the rest"
