"""Find a recipe's raw images and pack them; `python -m stages.raw RECIPE --scale SCALE` packs them again.

Nothing here imports torch: the processes that draw and pack import the main module again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from string import Template
from typing import Any

from ddpm.base.faults import Fault
from ddpm.base.hashes import checksums
from ddpm.base.locks import locked
from ddpm.data.fetch import fetch
from ddpm.data.preprocess import pack
from ddpm.data.settings import DataConfig
from stages import DATA_HOME, WORK, Paths, shown, stage
from stages.packed import array_path, labels_path


def find(paths: Paths, config: DataConfig, redraw: bool = False) -> Path:
    """The archive or folder that holds the raw images; official files are fetched, synthetic ones drawn if need be."""
    if config.source == "official":
        return _fetched(config)
    if config.source == "synthetic":
        return _drawn(paths, config, redraw)
    return _local(paths, config)


def locate(paths: Paths, config: DataConfig) -> Path:
    """As `find`, and the raw images are those that the recipe's manifest.json describes. Raises Fault."""
    recorded = paths.facts("manifest.json", "download")["sha256"]
    source = find(paths, config)
    found = identity(source, config)[1]
    if config.source == "synthetic" and found != recorded:  # drawn by an earlier version of the code
        source = find(paths, config, redraw=True)
        found = identity(source, config)[1]
    if found != recorded:
        raise Fault(
            f"{source}: is not what {shown(paths.data / 'manifest.json')} describes: its sha256 is {found}, "
            f"recorded is {recorded}; put the recorded one there, or record this one with: "
            f"dvc repro download@{paths.recipe}"
        )
    return source


def identity(source: Path, config: DataConfig) -> tuple[int, str, bool]:
    """Size in bytes and SHA-256 of an archive or of a folder's files; whether it is what the publisher offers.

    A folder's SHA-256 is that of its lines `name size sha256`, sorted by name.
    """
    files = [source] if source.is_file() else config.table.folder_files(source)
    sums, offered = [checksums(file) for file in files], config.table.files
    official = len(files) == len(offered) and not any(file.difference(found) for file, found in zip(offered, sums, strict=True))
    if source.is_file():
        return sums[0][0], sums[0][2], official
    lines = [f"{file.name} {size} {sha256}\n" for file, (size, _, sha256) in zip(files, sums, strict=True)]
    return sum(size for size, _, _ in sums), hashlib.sha256("".join(lines).encode()).hexdigest(), official


def _fetched(config: DataConfig) -> Path:
    """The official file in DATA_HOME, or a folder of them in it."""
    files = config.table.files
    folder = DATA_HOME / config.dataset if len(files) > 1 else DATA_HOME
    fetched = [fetch(file, folder) for file in files]
    return folder if len(files) > 1 else fetched[0]


def _drawn(paths: Paths, config: DataConfig, redraw: bool) -> Path:
    path = DATA_HOME / "synthetic" / f"{config.dataset}-{config.images}-seed{config.seed}{config.table.ending}"
    with locked(path.with_name(path.name + ".lock")):
        if redraw or not path.exists():
            config.table.write(path, config.images, config.seed, paths.runtime().workers)
    return path


def _local(paths: Paths, config: DataConfig) -> Path:
    expanded = Template(config.source).safe_substitute(os.environ | {"DATA_HOME": str(DATA_HOME)})
    path = WORK.parent / Path(expanded).expanduser()  # an absolute path stands for itself
    if len(config.table.files) == 1 and (archive := path / config.table.files[0].name).is_file():
        return archive
    if not path.exists():
        raise Fault(
            f"recipes.{paths.recipe}.data.source = {config.source!r}: there is nothing at {path}; accepted: "
            f"{config.accepted} ($DATA_HOME, now {DATA_HOME}, and ~ are expanded; a relative path starts at {WORK.parent})"
        )
    return path


def pack_images(paths: Paths, config: DataConfig) -> dict[str, Any]:
    """Pack the recipe's images and labels to the paths that `stages.packed` names; return the statistics of `pack`."""
    source = locate(paths, config)
    images, labels = paths.work / "images.npy", paths.work / "labels.npy"
    with locked(paths.work / "images.lock"):
        for left in (*paths.work.glob(f".*.tmp-{images.name}"), *paths.work.glob(f".*.tmp-{labels.name}")):
            left.unlink()  # by a packing that was killed: nobody else is at work here
        stats = pack(config, source, images, paths.runtime().workers, labels)
        images.replace(array_path(paths, stats["sha256"]))
        if stats["labels_sha256"] is not None:
            labels.replace(labels_path(paths, stats["labels_sha256"]))
    return stats


def repack(paths: Paths) -> None:
    """Make the recipe's packed arrays again from the raw images; they must equal those that stats.json records."""
    recorded = paths.facts("stats.json", "preprocess")
    found = pack_images(paths, paths.settings("data", DataConfig))
    for key, place in (("sha256", array_path), ("labels_sha256", labels_path)):
        if found[key] == recorded[key]:
            continue
        if found[key] is not None:
            place(paths, found[key]).unlink()
        raise Fault(
            f"the {key} of what is packed here is not that of {shown(paths.data / 'stats.json')}: it is {found[key]}, "
            f"recorded is {recorded[key]}. The settings or the code changed, or Pillow is another version than the one in "
            f"requirements.lock; record these with: dvc repro preprocess@{paths.recipe}"
        )


if __name__ == "__main__":
    stage(repack, __doc__)
