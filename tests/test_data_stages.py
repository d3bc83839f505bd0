"""The download and preprocess stages as the pipeline runs them, in a copy of the project."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import stages
from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import write_json
from ddpm.data.archives import (
    CELEBA_PARTITION,
    CIFAR10_BATCHES,
    CIFAR10_FOLDER,
    CIFAR10_TEST_BATCH,
    FASHION_MNIST_FILES,
    FASHION_MNIST_TEST_FILES,
    read_cifar10,
    read_fashion_mnist,
    read_sprites,
)
from ddpm.data.drawn.layouts import write_celeba, write_cifar10, write_fashion_mnist, write_sprites
from ddpm.data.fetch import RemoteFile
from ddpm.data.preprocess import pack
from ddpm.data.sets import DATA_SETS
from ddpm.data.settings import DataConfig
from stages import Paths, download, packed, preprocess, raw
from stages.packed import labels_path

ROOT = Path(__file__).resolve().parents[1]


def write_settings(root: Path, recipe: str, **data: Any) -> None:
    """Leave the settings of a recipe, with 20 drawn images unless `data` says otherwise, as the stage config does."""
    settings = DataConfig(**({"dataset": recipe, "source": "synthetic", "images": 20} | data))
    write_json(root / "metrics/demo" / recipe / "config/data.json", settings.model_dump())
    runtime = stages.load_yaml((ROOT / "params.yaml").read_text())["runtime"] | {"workers": 1}
    (root / "params.yaml").write_text(yaml.safe_dump({"runtime": runtime}))


def with_another(key: str, facts: str) -> str:
    """A file of facts that records another hash under `key`."""
    return re.sub(rf'("{key}": ")[0-9a-f]{{8}}', r"\g<1>00000000", facts)


class Project:
    """The folders of a checkout with a small data set. Its stages run in this process, and a copy of the code in others."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.root, self.monkeypatch, self.capfd = root, monkeypatch, capfd
        root.mkdir()
        work_in(monkeypatch, root, root / "work/downloads")

    def set(self, recipe: str, **data: Any) -> None:
        write_settings(self.root, recipe, **data)

    def with_code(self) -> Project:
        """This, with what packs images again when they are missing: a process of its own does."""
        for folder in ("stages", "src"):
            shutil.copytree(ROOT / folder, self.root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        return self

    def run(self, *command: str, data_home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a copy of the code in a process of its own."""
        kept = {key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "DATA_HOME", "PYTHONPATH")}
        if data_home:
            kept["DATA_HOME"] = str(data_home)
        line = [sys.executable, *command]
        return subprocess.run(line, cwd=self.root, env=kept, capture_output=True, text=True)

    def here(self, call: Callable[[], object]) -> subprocess.CompletedProcess[str]:
        """Run `call` in this process, and report as of a process of its own that runs it as a stage's main function."""
        self.capfd.readouterr()
        code: object = 0
        try:
            with faults_reported():
                call()
        except SystemExit as ended:
            code = ended.code
        out, err = self.capfd.readouterr()
        if isinstance(code, str):  # as Python ends a process
            code, err = 1, f"{err}{code}\n"
        return subprocess.CompletedProcess([], code, out, err)  # type: ignore[arg-type]

    def stage(self, recipe: str, name: str, data_home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a stage's main function."""
        main = {"download": download, "preprocess": preprocess}[name].main
        with self.monkeypatch.context() as patched:
            if data_home:
                work_in(patched, self.root, data_home)
            return self.here(lambda: main(Paths("demo", recipe)))

    def stages(self, recipe: str, *names: str, data_home: Path | None = None) -> None:
        for name in names:
            done = self.stage(recipe, name, data_home)
            assert done.returncode == 0, done.stderr

    def facts(self, recipe: str, name: str) -> dict[str, object]:
        facts: dict[str, object] = json.loads((self.root / "data/demo" / recipe / name).read_text())
        return facts

    def array(self, recipe: str, kind: str = "images") -> Path:
        (path,) = (self.root / "work/demo" / recipe).glob(f"{kind}-*.npy")
        return path

    def error(self, recipe: str, stage: str) -> str:
        """What the stage, which must end with a message, says."""
        done = self.stage(recipe, stage)
        assert done.returncode == 1
        return done.stderr

    def training_images(self, recipe: str) -> subprocess.CompletedProcess[str]:
        """Print how many images a later stage sees."""
        return self._see(recipe, lambda paths: len(packed.training_images(paths)[0]))

    def training_labels(self, recipe: str) -> subprocess.CompletedProcess[str]:
        """Print the sum of the labels that a later stage sees, or None."""
        return self._see(recipe, lambda paths: total(packed.training_labels(paths)))

    def heldout_images(self, recipe: str) -> subprocess.CompletedProcess[str]:
        """Print how many images are held out for a later stage."""
        return self._see(recipe, lambda paths: len(packed.heldout_images(paths)[0]))

    def heldout_labels(self, recipe: str) -> subprocess.CompletedProcess[str]:
        """Print the sum of the held-out images' labels that a later stage sees, or None."""
        return self._see(recipe, lambda paths: total(packed.heldout_labels(paths)))

    def _see(self, recipe: str, what: Callable[[Paths], object]) -> subprocess.CompletedProcess[str]:
        return self.here(lambda: print("seen", what(Paths("demo", recipe))))


def total(labels: np.ndarray | None) -> int | None:
    return None if labels is None else int(labels.sum(dtype=int))


def work_in(monkeypatch: pytest.MonkeyPatch, root: Path, data_home: Path) -> None:
    """Let the stages of this process work in the checkout `root`, whatever the environment says."""
    monkeypatch.delenv("DATA_HOME", raising=False)
    for module in (stages, packed):
        monkeypatch.setattr(module, "ROOT", root)
    for module in (stages, raw):
        monkeypatch.setattr(module, "WORK", root / "work")
        monkeypatch.setattr(module, "DATA_HOME", data_home)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Project:
    return Project(tmp_path / "project", monkeypatch, capfd)


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
    assert produced == {"manifest.json", "stats.json", "heldout.json"}, "no image outside work/"


@pytest.mark.parametrize("recipe", DATA_SETS)
def test_synthetic_images_of_no_training_are_held_out(project: Project, recipe: str) -> None:
    """Half as many, drawn as those of another seed; the training's are all that are drawn of its own."""
    project.set(recipe, seed=7)
    project.stages(recipe, "download", "preprocess")
    facts, array = project.facts(recipe, "heldout.json"), np.load(project.array(recipe, "heldout-images"))
    assert list(facts) == ["count", "sha256", "labels_sha256", "split"]
    assert facts["split"] == f"10 images drawn by this project's code, seed {2**32 + 7}"
    assert facts["sha256"] == hashlib.sha256(project.array(recipe, "heldout-images").read_bytes()).hexdigest()
    DATA_SETS[recipe].write(project.root / "drawn", 10, 2**32 + 7, 1)
    wanted = project.root / "wanted.npy"
    settings = DataConfig(dataset=recipe, source="synthetic")
    assert pack(settings, project.root / "drawn", wanted, 1, wanted.with_name("labels.npy"))["sha256"] == facts["sha256"]
    assert np.array_equal(np.load(wanted), array)
    training = np.load(project.array(recipe))
    assert (len(training), len(array)) == (20, 10)
    assert not {image.tobytes() for image in training} & {image.tobytes() for image in array}
    if facts["labels_sha256"]:
        assert np.array_equal(np.load(project.array(recipe, "heldout-labels")), np.load(wanted.with_name("labels.npy")))
    project.set(recipe, images=1)
    project.stages(recipe, "download", "preprocess")
    assert project.facts(recipe, "heldout.json")["count"] == 1


def test_missing_held_out_images_are_made_again_and_must_be_the_recorded_ones(project: Project) -> None:
    project.with_code().set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    images, labels = (project.array("cifar10", f"heldout-{kind}") for kind in ("images", "labels"))
    before, sum_ = images.read_bytes(), np.load(labels).sum(dtype=int)
    shutil.rmtree(project.root / "work")
    assert project.heldout_images("cifar10").stdout.endswith("seen 10\n")
    assert images.read_bytes() == before
    labels.unlink()
    assert project.heldout_labels("cifar10").stdout.endswith(f"seen {sum_}\n")
    assert project.heldout_labels("cifar10").stdout == f"seen {sum_}\n"
    np.save(labels, np.load(labels)[:-1])
    name = labels.relative_to(project.root)
    assert f"{name} is damaged: its sha256 is not the recorded one" in (said := project.heldout_labels("cifar10").stdout)
    assert said.endswith(f"seen {sum_}\n")
    facts = project.root / "data/demo/cifar10/heldout.json"
    facts.write_text(with_another("sha256", facts.read_text()))
    done = project.heldout_images("cifar10")
    assert done.returncode == 1
    assert "error: the sha256 of what is packed here is not that of data/demo/cifar10/heldout.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert not images.exists()
    facts.unlink()
    missing, maker = "data/demo/cifar10/heldout.json is missing", "dvc repro preprocess@cifar10"
    assert project.heldout_images("cifar10").stderr == f"error: {missing}; it is made by: {maker}\n"
    assert project.training_images("cifar10").stdout == "seen 20\n", "which needs nothing of them"


def test_stale_held_out_drawings_are_drawn_again(project: Project) -> None:
    project.set("sprites")
    project.stages("sprites", "download")
    drawn = project.root / f"work/downloads/synthetic/sprites-10-seed{2**32}.npz"
    sound = drawn.read_bytes()
    write_sprites(drawn, 10, seed=9, workers=1)
    project.stages("sprites", "preprocess")
    assert drawn.read_bytes() == sound


def test_a_manifest_of_before_there_was_a_split_is_made_again(project: Project) -> None:
    project.set("sprites")
    project.stages("sprites", "download")
    manifest = project.root / "data/demo/sprites/manifest.json"
    facts = project.facts("sprites", "manifest.json")
    del facts["heldout_sha256"]
    manifest.write_text(json.dumps(facts))
    assert "recorded is None" in (said := project.error("sprites", "preprocess"))
    assert "dvc repro -f download@sprites" in said


def test_a_missing_array_is_made_again_from_nothing_but_the_facts(project: Project) -> None:
    project.with_code().set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    before = project.array("cifar10").read_bytes()
    shutil.rmtree(project.root / "work")
    done = project.training_images("cifar10")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("seen 20\n")
    assert project.array("cifar10").read_bytes() == before
    assert project.training_images("cifar10").stdout == "seen 20\n"


def test_missing_labels_are_made_again(project: Project) -> None:
    project.with_code().set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    labels = read_cifar10(project.root / "work/downloads/synthetic/cifar10-20-seed0.tar.gz")[1]
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


def test_labels_that_are_not_the_recorded_ones_are_packed_again_or_refused(project: Project) -> None:
    project.with_code().set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    path = project.array("cifar10", "labels")
    good = path.read_bytes()
    np.save(path, np.load(path)[:-1])
    damaged = path.read_bytes()
    done = project.training_labels("cifar10")
    assert done.returncode == 0, done.stderr
    name = path.relative_to(project.root)
    assert f"{name} is damaged: its sha256 is not the recorded one; it is now {path.name}.damaged" in done.stdout
    assert path.read_bytes() == good
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    path.unlink()
    stats = project.root / "data/demo/cifar10/stats.json"
    stats.write_text(with_another("labels_sha256", stats.read_text()))
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
    project.with_code().set("cifar10")
    project.stages("cifar10", "download", "preprocess")
    shutil.rmtree(project.root / "work")
    stats = project.root / "data/demo/cifar10/stats.json"
    stats.write_text(with_another("sha256", stats.read_text()))
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
    drawn = project.root / "work/downloads/synthetic/cifar10-20-seed0.tar.gz"
    sound = drawn.read_bytes()
    write_cifar10(drawn, 20, seed=9, workers=1)
    project.stages("cifar10", "preprocess")
    assert drawn.read_bytes() == sound


def test_stale_or_incomplete_folders_are_drawn_again(project: Project) -> None:
    project.set("fashion_mnist")
    project.stages("fashion_mnist", "download")
    drawn = project.root / "work/downloads/synthetic/fashion_mnist-20-seed0"
    sound = {path.name: path.read_bytes() for path in drawn.iterdir()}
    for name in FASHION_MNIST_FILES:
        (drawn / name).unlink()
        project.stages("fashion_mnist", "preprocess")
        assert {path.name: path.read_bytes() for path in drawn.iterdir()} == sound


def write_garments(folder: Path, images: int, seed: int) -> Path:
    """Fashion-MNIST's four files, four images in the t10k ones."""
    write_fashion_mnist(folder / "t10k", 4, seed + 1, workers=1)
    write_fashion_mnist(folder, images, seed, workers=1)
    for name, held_out in zip(FASHION_MNIST_FILES, FASHION_MNIST_TEST_FILES, strict=True):
        (folder / "t10k" / name).replace(folder / held_out)
    (folder / "t10k").rmdir()
    return folder


def write_pictures(path: Path, images: int, seed: int) -> Path:
    """CIFAR-10's archive, with a test batch of four images."""
    for name, count, other in (("train", images, 0), ("test", 4, 1)):
        write_cifar10(path.with_name(f"{name}.tar.gz"), count, seed + other, workers=1)
        shutil.unpack_archive(path.with_name(f"{name}.tar.gz"), path.with_name(name))
    batches, tested = (path.with_name(name) / CIFAR10_FOLDER for name in ("train", "test"))
    joined = b"".join((tested / name).read_bytes() for name in CIFAR10_BATCHES)
    (batches / CIFAR10_TEST_BATCH).write_bytes(joined)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(batches, CIFAR10_FOLDER)
    for name in ("train", "test"):
        shutil.rmtree(path.with_name(name))
        path.with_name(f"{name}.tar.gz").unlink()
    return path


def test_a_local_folder_of_fashion_mnist(project: Project) -> None:
    write_garments(project.root / "mine", 17, seed=1)
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
    images, labels = read_fashion_mnist(project.root / "mine", "heldout")
    assert np.array_equal(np.load(project.array("fashion_mnist", "heldout-images")), images)
    assert np.array_equal(np.load(project.array("fashion_mnist", "heldout-labels")), labels)
    facts = project.facts("fashion_mnist", "heldout.json")
    assert (facts["count"], facts["split"]) == (4, "Fashion-MNIST's t10k files")
    (project.root / "mine" / FASHION_MNIST_TEST_FILES[0]).write_bytes(b"others")
    described = "is not what data/demo/fashion_mnist/manifest.json describes"
    assert described in project.error("fashion_mnist", "preprocess")
    assert "t10k-images-idx3-ubyte.gz: not a whole .gz file" in project.error("fashion_mnist", "download")
    write_garments(project.root / "mine", 17, seed=2)
    assert described in project.error("fashion_mnist", "preprocess")


def test_a_local_file_of_sprites(project: Project) -> None:
    write_sprites(project.root / "mine.npz", 100, seed=1, workers=1)
    project.set("sprites", source="mine.npz")
    project.stages("sprites", "download", "preprocess")
    manifest = project.facts("sprites", "manifest.json")
    assert (manifest["source"], manifest["name"], manifest["matches_official"]) == ("local", "mine.npz", False)
    for part, prefix in (("training", ""), ("heldout", "heldout-")):
        images, labels = read_sprites(project.root / "mine.npz", part)
        assert np.array_equal(np.load(project.array("sprites", f"{prefix}images")), images)
        assert np.array_equal(np.load(project.array("sprites", f"{prefix}labels")), labels)
    assert project.facts("sprites", "stats.json")["count"] == 95
    split = "a tenth of the images, chosen by a hash of their place in the file"
    assert project.facts("sprites", "heldout.json")["split"] == split


def test_another_archive_is_held_out(project: Project, tmp_path: Path) -> None:
    """Then all images of the first one train, whatever a list beside it or its test files say."""
    home = tmp_path / "home"
    write_celeba(home / "first/img_align_celeba.zip", 6, seed=1, workers=1)
    write_celeba(home / "second/img_align_celeba.zip", 3, seed=2, workers=1)
    (home / "first" / CELEBA_PARTITION).write_text("nobody reads this")
    project.set("celeba", source="$DATA_HOME/first", heldout="$DATA_HOME/second", size=16)
    project.stages("celeba", "download", "preprocess", data_home=home)
    assert project.facts("celeba", "stats.json")["count"] == 6
    facts = project.facts("celeba", "heldout.json")
    assert (facts["count"], facts["split"]) == (3, "all images of img_align_celeba.zip (data.heldout)")
    settings = DataConfig(dataset="celeba", source="synthetic", size=16)
    pack(settings, home / "second/img_align_celeba.zip", tmp_path / "wanted.npy", 1)
    assert project.array("celeba", "heldout-images").read_bytes() == (tmp_path / "wanted.npy").read_bytes()
    write_celeba(home / "second/img_align_celeba.zip", 3, seed=3, workers=1)
    done = project.stage("celeba", "preprocess", home)
    assert "second/img_align_celeba.zip: is not what data/demo/celeba/manifest.json describes" in done.stderr
    write_cifar10(project.root / "first.tar.gz", 10, seed=1, workers=1)
    write_cifar10(project.root / "second.tar.gz", 5, seed=2, workers=1)
    project.set("cifar10", source="first.tar.gz", heldout="second.tar.gz")
    project.stages("cifar10", "download", "preprocess")
    assert np.array_equal(np.load(project.array("cifar10", "heldout-labels")), read_cifar10(project.root / "second.tar.gz")[1])


def test_a_wrong_archive_to_hold_out_is_explained(project: Project) -> None:
    write_cifar10(project.root / "first.tar.gz", 10, seed=1, workers=1)
    project.set("cifar10", source="first.tar.gz", heldout="none.tar.gz")
    said = project.error("cifar10", "download")
    assert f"recipes.cifar10.data.heldout = 'none.tar.gz': there is nothing at {project.root / 'none.tar.gz'}; accepted" in said
    assert "official" not in said
    shutil.copy(project.root / "first.tar.gz", project.root / "copy.tar.gz")
    for same in ("first.tar.gz", "copy.tar.gz"):
        project.set("cifar10", source="first.tar.gz", heldout=same)
        said = project.error("cifar10", "download")
        assert f"recipes.cifar10.data.heldout = '{same}': holds the same files as data.source" in said
    (project.root / "broken.tar.gz").write_bytes((project.root / "first.tar.gz").read_bytes()[:-4])
    project.set("cifar10", source="first.tar.gz", heldout="broken.tar.gz")
    assert "broken.tar.gz: not a whole .tar.gz archive" in project.error("cifar10", "download")
    project.set("cifar10", source="first.tar.gz")
    assert "first.tar.gz: test_batch.bin is missing" in project.error("cifar10", "download")
    assert not (project.root / "data").exists()


def test_a_list_that_changed_does_not_change_the_split(project: Project) -> None:
    write_celeba(project.root / "img_align_celeba.zip", 4, seed=1, workers=1)
    listed = project.root / CELEBA_PARTITION
    listed.write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 0\n000004.jpg 2\n")
    project.set("celeba", source="img_align_celeba.zip", size=16)
    project.stages("celeba", "download", "preprocess")
    assert project.facts("celeba", "manifest.json")["heldout_sha256"] == hashlib.sha256(listed.read_bytes()).hexdigest()
    settings = DataConfig(dataset="celeba", source="synthetic", size=16)
    pack(settings, project.root / "img_align_celeba.zip", project.root / "all.npy", 1)
    everything = np.load(project.root / "all.npy")
    assert np.array_equal(np.load(project.array("celeba")), everything[[0, 2]])
    assert np.array_equal(np.load(project.array("celeba", "heldout-images")), everything[[1, 3]])
    split = f"the images that {CELEBA_PARTITION} does not give to training"
    assert project.facts("celeba", "heldout.json")["split"] == split
    listed.write_text(listed.read_text().replace("000003.jpg 0", "000003.jpg 1"))
    said = project.error("celeba", "preprocess")
    assert f"{listed}: is not what data/demo/celeba/manifest.json describes" in said
    assert "dvc repro -f download@celeba" in said
    listed.unlink()
    assert "is not what data/demo/celeba/manifest.json describes" in project.error("celeba", "preprocess")


@pytest.mark.parametrize(
    ("dataset", "accepted"),
    [
        ("fashion_mnist", "a folder with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, packed or unpacked"),
        ("sprites", "accepted: synthetic, or the path of an .npz file with the arrays images and labels"),
    ],
)
def test_a_wrong_local_source_is_explained(project: Project, dataset: str, accepted: str) -> None:
    project.set(dataset, source="mine")
    absent = project.stage(dataset, "download")
    assert accepted in absent.stderr
    (project.root / "mine").mkdir()
    empty = project.stage(dataset, "download")
    assert "mine: " in empty.stderr
    assert absent.returncode == empty.returncode == 1


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of Fashion-MNIST's four files that a server offers as the official ones; the stages work in tmp_path."""
    folder = tmp_path / "published"
    write_garments(folder, 30, seed=5)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    address = f"http://127.0.0.1:{server.server_port}"
    files = tuple(
        RemoteFile(name, len(content), (f"{address}/{name}",), "Ask the publisher.", hashlib.md5(content).hexdigest())
        for name, content in contents.items()
    )
    offer(monkeypatch, files)
    write_settings(tmp_path, "fashion_mnist", source="official")
    work_in(monkeypatch, tmp_path, tmp_path / "home")
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
    for name in FASHION_MNIST_FILES + FASHION_MNIST_TEST_FILES:
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
    *sound, labels = DATA_SETS["fashion_mnist"].files
    offer(monkeypatch, (*sound, dataclasses.replace(labels, md5="0" * 32)))
    with pytest.raises(Fault, match=r"(?s)train-labels-idx1-ubyte.gz could not be downloaded.*Put it into the folder"):
        download.main(Paths("demo", "fashion_mnist"))
    assert {path.name for path in (tmp_path / "home/fashion_mnist").glob("*.gz")} == {file.name for file in sound}
    assert not (tmp_path / "data").exists()


def test_a_local_archive_or_folder_in_data_home(project: Project, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    write_celeba(home / "img_align_celeba.zip", 5, seed=1, workers=1)
    project.with_code().set("celeba", source="$DATA_HOME", size=16)
    for name in ("download", "preprocess"):  # as the pipeline runs them: processes that find DATA_HOME in their environment
        done = project.run("-m", f"stages.{name}", "celeba", data_home=home)
        assert done.returncode == 0, done.stderr
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
    write_pictures(project.root / "work/downloads/mine.tar.gz", 10, seed=1)
    project.set("cifar10", source="${DATA_HOME}/mine.tar.gz")
    project.stages("cifar10", "download", "preprocess")
    assert project.facts("cifar10", "stats.json")["count"] == 10
    facts = project.facts("cifar10", "heldout.json")
    assert (facts["count"], facts["split"]) == (4, "CIFAR-10's test batch")


def test_a_local_source_that_is_not_there_is_explained(project: Project) -> None:
    project.set("celeba", source="~/no such folder")
    done = project.stage("celeba", "download")
    assert done.returncode == 1
    assert "recipes.celeba.data.source = '~/no such folder'" in done.stderr
    assert str(Path("~/no such folder").expanduser()) in done.stderr
    for accepted in ("official", "synthetic", "img_align_celeba.zip", "folder"):
        assert accepted in done.stderr


def test_a_local_archive_that_changed_since_it_was_recorded_is_refused(project: Project) -> None:
    archive = write_pictures(project.root / "mine.tar.gz", 10, seed=1)
    project.set("cifar10", source="mine.tar.gz")
    project.stages("cifar10", "download")
    write_pictures(archive, 10, seed=2)
    done = project.stage("cifar10", "preprocess")
    assert done.returncode == 1
    assert "is not what data/demo/cifar10/manifest.json describes" in done.stderr


def test_a_broken_local_archive_stops_the_download_stage(project: Project) -> None:
    archive = project.root / "mine.tar.gz"
    write_cifar10(archive, 10, seed=1, workers=1)
    archive.write_bytes(archive.read_bytes()[:-4])
    project.set("cifar10", source="mine.tar.gz")
    done = project.stage("cifar10", "download")
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
