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
from ddpm.archives import ArchiveError, CelebaImages, cifar10_files, read_cifar10
from ddpm.config import DataConfig
from ddpm.fetch import FetchError, checksums, fetch, locked, sha256_of
from ddpm.parallel import WorkerKilledError
from ddpm.preprocess import PackError, pack
from stages.common import DATA_HOME, WORK, Fault, Paths, runtime, stage
from stages.packed import array_path, read_facts, shown


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
            return fetch(config.file, DATA_HOME)
        if config.source == "synthetic":
            return _drawn(paths, config, redraw)
        return _local(paths, config)


def locate(paths: Paths, config: DataConfig) -> Path:
    """As `find`, and the raw images are those that the recipe's manifest.json describes. Raises Fault."""
    manifest = read_facts(paths, "manifest.json", "download")
    source = find(paths, config)
    if config.source == "synthetic" and sha256_of(source) != manifest["sha256"]:
        source = find(paths, config, redraw=True)  # drawn by an earlier version of the code
    if (found := identity(source, config)[1]) != manifest["sha256"]:
        raise Fault(
            f"{source}: is not what {shown(paths.data / 'manifest.json')} describes: its sha256 is {found}, "
            f"recorded is {manifest['sha256']}; put the recorded one there, or record this one with: "
            f"dvc repro download@{paths.recipe}"
        )
    return source


def identity(source: Path, config: DataConfig) -> tuple[int, str, bool]:
    """Size in bytes and SHA-256 of an archive or of an unpacked folder's image files; whether it is the official one.

    A folder's SHA-256 is that of its lines `name size sha256`, sorted by name.
    """
    if source.is_file():
        size, md5, sha256 = checksums(source)
        official = size == config.file.size and config.file.md5 in (None, md5) and config.file.sha256 in (None, sha256)
        return size, sha256, official
    with library_faults():
        images = None if config.dataset == "cifar10" else CelebaImages(source)
    files = cifar10_files(source) if images is None else images.files()
    lines = [f"{file.name} {file.stat().st_size} {sha256_of(file)}\n" for file in files]
    return sum(file.stat().st_size for file in files), hashlib.sha256("".join(lines).encode()).hexdigest(), False


def check(source: Path, config: DataConfig) -> None:
    """Read the whole archive or folder; raise Fault at the first thing that is not as its publisher's layout says."""
    with library_faults():
        if config.dataset == "cifar10":
            read_cifar10(source)
        else:
            CelebaImages(source).check()


def _drawn(paths: Paths, config: DataConfig, redraw: bool) -> Path:
    stem = f"{config.dataset}-{config.synthetic_images}-seed{config.synthetic_seed}"
    path = DATA_HOME / "synthetic" / (f"{stem}.tar.gz" if config.dataset == "cifar10" else f"{stem}.zip")
    draw = synthetic.write_cifar10 if config.dataset == "cifar10" else synthetic.write_celeba
    with locked(path.with_name(path.name + ".lock")):
        if redraw or not path.exists():
            draw(path, config.synthetic_images, config.synthetic_seed, runtime(paths.scale).workers)
    return path


def _local(paths: Paths, config: DataConfig) -> Path:
    expanded = Template(config.source).safe_substitute(os.environ | {"DATA_HOME": str(DATA_HOME)})
    path = WORK.parent / Path(expanded).expanduser()  # an absolute path stands for itself
    archive = path / config.file.name
    if archive.is_file():
        return archive
    if not path.exists():
        raise Fault(
            f"recipes.{paths.recipe}.data.source = {config.source!r}: there is nothing at {path}; accepted: official, "
            f"synthetic, or the path of {config.file.name}, of a folder that contains it, or of its unpacked folder "
            f"($DATA_HOME, now {DATA_HOME}, and ~ are expanded; a relative path starts at {WORK.parent})"
        )
    return path


def pack_images(paths: Paths, config: DataConfig) -> dict[str, Any]:
    """Pack the recipe's images to the path that `array_path` names; return the statistics of `pack`."""
    source = locate(paths, config)
    fresh = paths.work / "images.npy"
    with locked(paths.work / "images.lock"), library_faults():
        stats = pack(config, source, fresh, runtime(paths.scale).workers)
        fresh.replace(array_path(paths, stats["sha256"]))
    return stats


def repack(paths: Paths) -> None:
    """Make the recipe's packed array again from the raw images; it must equal the one that stats.json records."""
    recorded = read_facts(paths, "stats.json", "preprocess")["sha256"]
    found = pack_images(paths, paths.data_config())["sha256"]
    if found != recorded:
        array_path(paths, found).unlink()
        raise Fault(
            f"the images packed here are not those of {shown(paths.data / 'stats.json')}: their sha256 is {found}, "
            f"recorded is {recorded}. The settings or the code changed, or Pillow is another version than the one in "
            f"requirements.lock; record these with: dvc repro preprocess@{paths.recipe}"
        )


if __name__ == "__main__":
    stage(repack, __doc__)
