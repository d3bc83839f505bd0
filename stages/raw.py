"""Find a recipe's raw images and pack them; `python -m stages.raw RECIPE --scale SCALE` packs them again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

from ddpm import synthetic
from ddpm.archives import READERS, ArchiveError, CelebaImages, cifar10_files, fashion_mnist_files
from ddpm.config import DataConfig, RemoteFile
from ddpm.fetch import FetchError, checksums, fetch, locked
from ddpm.parallel import WorkerKilledError
from ddpm.preprocess import PackError, pack
from stages.common import DATA_HOME, WORK, Fault, Paths, runtime, stage
from stages.packed import array_path, labels_path, read_facts, shown

# What draws a data set, and how the name of the file or folder ends that it writes.
DRAWN = {
    "cifar10": (synthetic.write_cifar10, ".tar.gz"),
    "celeba": (synthetic.write_celeba, ".zip"),
    "fashion_mnist": (synthetic.write_fashion_mnist, ""),
    "sprites": (synthetic.write_sprites, ".npz"),
}


@contextmanager
def library_faults() -> Iterator[None]:
    """Turn the library's expected errors into the stage's message."""
    try:
        yield
    except (ArchiveError, FetchError, PackError, WorkerKilledError) as error:
        raise Fault(str(error)) from error


def find(paths: Paths, config: DataConfig, redraw: bool = False) -> Path:
    """The archive or folder that holds the raw images; official files are fetched, synthetic ones drawn if need be."""
    with library_faults():
        if config.source == "official":
            return _fetched(config)
        if config.source == "synthetic":
            return _drawn(paths, config, redraw)
        return _local(paths, config)


def locate(paths: Paths, config: DataConfig) -> Path:
    """As `find`, and the raw images are those that the recipe's manifest.json describes. Raises Fault."""
    manifest = read_facts(paths, "manifest.json", "download")
    source = find(paths, config)
    found = identity(source, config)[1]
    if config.source == "synthetic" and found != manifest["sha256"]:  # drawn by an earlier version of the code
        source = find(paths, config, redraw=True)
        found = identity(source, config)[1]
    if found != manifest["sha256"]:
        raise Fault(
            f"{source}: is not what {shown(paths.data / 'manifest.json')} describes: its sha256 is {found}, "
            f"recorded is {manifest['sha256']}; put the recorded one there, or record this one with: "
            f"dvc repro download@{paths.recipe}"
        )
    return source


def identity(source: Path, config: DataConfig) -> tuple[int, str, bool]:
    """Size in bytes and SHA-256 of an archive or of a folder's files; whether it is what the publisher offers.

    A folder's SHA-256 is that of its lines `name size sha256`, sorted by name.
    """
    files = [source] if source.is_file() else _files(source, config)
    sums = [checksums(file) for file in files]
    official = len(files) == len(config.files) and all(map(_matches, sums, config.files))
    if source.is_file():
        return sums[0][0], sums[0][2], official
    lines = [f"{file.name} {size} {sha256}\n" for file, (size, _, sha256) in zip(files, sums, strict=True)]
    return sum(size for size, _, _ in sums), hashlib.sha256("".join(lines).encode()).hexdigest(), official


def check(source: Path, config: DataConfig) -> None:
    """Read the whole archive or folder; raise Fault at the first thing that is not as its publisher's layout says."""
    with library_faults():
        if config.dataset in READERS:
            READERS[config.dataset](source)
        else:
            CelebaImages(source).check()


def _files(folder: Path, config: DataConfig) -> list[Path]:
    """The files of a data set that lie in `folder`, sorted by name; none of one that is a single file only."""
    if config.dataset == "celeba":
        with library_faults():
            return CelebaImages(folder).files()
    if config.dataset == "cifar10":
        return cifar10_files(folder)
    return fashion_mnist_files(folder) if config.dataset == "fashion_mnist" else []


def _matches(found: tuple[int, str, str], file: RemoteFile) -> bool:
    size, md5, sha256 = found
    return size == file.size and file.md5 in (None, md5) and file.sha256 in (None, sha256)


def _fetched(config: DataConfig) -> Path:
    """The official file in DATA_HOME, or a folder of them in it."""
    if len(config.files) == 1:
        return fetch(config.files[0], DATA_HOME)
    folder = DATA_HOME / config.dataset
    for file in config.files:
        fetch(file, folder)
    return folder


def _drawn(paths: Paths, config: DataConfig, redraw: bool) -> Path:
    draw, ending = DRAWN[config.dataset]
    name = f"{config.dataset}-{config.synthetic_images}-seed{config.synthetic_seed}{ending}"
    path = DATA_HOME / "synthetic" / name
    with locked(path.with_name(path.name + ".lock")):
        if redraw or not path.exists():
            draw(path, config.synthetic_images, config.synthetic_seed, runtime(paths.scale).workers)
    return path


def _local(paths: Paths, config: DataConfig) -> Path:
    expanded = Template(config.source).safe_substitute(os.environ | {"DATA_HOME": str(DATA_HOME)})
    path = WORK.parent / Path(expanded).expanduser()  # an absolute path stands for itself
    if len(config.files) == 1 and (archive := path / config.files[0].name).is_file():
        return archive
    if not path.exists():
        raise Fault(
            f"recipes.{paths.recipe}.data.source = {config.source!r}: there is nothing at {path}; accepted: "
            f"{_accepted(config)} ($DATA_HOME, now {DATA_HOME}, and ~ are expanded; a relative path starts at {WORK.parent})"
        )
    return path


def _accepted(config: DataConfig) -> str:
    """What data.source may be."""
    names = [file.name for file in config.files]
    if not names:
        return "synthetic, or the path of an .npz file with the arrays images and labels"
    if len(names) > 1:
        return f"official, synthetic, or the path of a folder with {' and '.join(names)}, packed or unpacked"
    return f"official, synthetic, or the path of {names[0]}, of a folder that contains it, or of its unpacked folder"


def pack_images(paths: Paths, config: DataConfig) -> dict[str, Any]:
    """Pack the recipe's images and labels to the paths that `stages.packed` names; return the statistics of `pack`."""
    source = locate(paths, config)
    images, labels = paths.work / "images.npy", paths.work / "labels.npy"
    with locked(paths.work / "images.lock"), library_faults():
        stats = pack(config, source, images, runtime(paths.scale).workers, labels)
        images.replace(array_path(paths, stats["sha256"]))
        if stats["labels_sha256"] is not None:
            labels.replace(labels_path(paths, stats["labels_sha256"]))
    return stats


def repack(paths: Paths) -> None:
    """Make the recipe's packed arrays again from the raw images; they must equal those that stats.json records."""
    recorded = read_facts(paths, "stats.json", "preprocess")
    found = pack_images(paths, paths.data_config())
    places = {"sha256": array_path, "labels_sha256": labels_path}
    if wrong := [key for key in places if found[key] != recorded[key]]:
        for key in wrong:
            if found[key] is not None:
                places[key](paths, found[key]).unlink()
        what, key = "images" if "sha256" in wrong else "labels", wrong[0]
        raise Fault(
            f"the {what} packed here are not those of {shown(paths.data / 'stats.json')}: their sha256 is {found[key]}, "
            f"recorded is {recorded[key]}. The settings or the code changed, or Pillow is another version than the one in "
            f"requirements.lock; record these with: dvc repro preprocess@{paths.recipe}"
        )


if __name__ == "__main__":
    stage(repack, __doc__)
