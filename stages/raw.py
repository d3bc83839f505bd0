"""Find a recipe's raw images and pack them; `python -m stages.raw RECIPE --scale SCALE` packs them again.

Nothing here imports torch: the processes that draw and pack import the main module again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ddpm.base.faults import Fault
from ddpm.base.files import amount, check_regular
from ddpm.base.hashes import checksums
from ddpm.base.locks import locked
from ddpm.data.archives import Part
from ddpm.data.fetch import fetch
from ddpm.data.folder import FolderImages
from ddpm.data.preprocess import pack
from ddpm.data.settings import DataConfig
from stages import DATA_HOME, WORK, Paths, expanded, shown, stage
from stages.packed import FACTS, Split, array_path, labels_path

HELDOUT_SEED = 2**32  # is added to data.seed, which is less: so held-out stand-ins are those of no training


class Raw(NamedTuple):
    """Where a recipe's raw images lie."""

    source: Path  # an archive or folder
    heldout: Path | None = None  # another, of the held-out images; None: `source` has them too
    partition: Path | None = None  # the publisher's list that says which of `source` they are

    @property
    def splits(self) -> dict[Split, tuple[Path, Part]]:
        """For both, the archive or folder and what is to be read of it."""
        if self.heldout:
            return {"training": (self.source, "all"), "heldout": (self.heldout, "all")}
        return {"training": (self.source, "training"), "heldout": (self.source, "heldout")}


def find(paths: Paths, config: DataConfig, redraw: bool = False) -> Raw:
    """Where the raw images lie; official files are fetched, synthetic ones drawn if need be. Raises Fault."""
    if config.source == "synthetic":
        drawn = _drawn(paths, config, config.images, config.seed, redraw)
        return Raw(drawn, _drawn(paths, config, _heldout_count(config), config.seed + HELDOUT_SEED, redraw))
    source = _fetched(config) if config.source == "official" else _local(paths, config, "source")
    if not config.heldout:
        return Raw(source, partition=config.table.partition(source))
    return Raw(source, _local(paths, config, "heldout"))


def locate(paths: Paths, config: DataConfig) -> Raw:
    """As `find`, and the raw images are those that the recipe's manifest.json describes. Raises Fault."""
    manifest = paths.facts("manifest.json", "download")
    recorded = (manifest["sha256"], manifest.get("heldout_sha256"))  # absent in those of before there was a split
    raw = find(paths, config)
    found = identity(raw.source, config)[1], heldout_sha256(raw, config)
    if config.source == "synthetic" and found != recorded:  # drawn by an earlier version of the code
        raw = find(paths, config, redraw=True)
        found = identity(raw.source, config)[1], heldout_sha256(raw, config)
    for place, is_, was in zip((raw.source, raw.heldout or raw.partition or raw.source), found, recorded, strict=True):
        if is_ != was:
            raise Fault(
                f"{place}: is not what {shown(paths.data / 'manifest.json')} describes: its sha256 is {is_}, "
                f"recorded is {was}; put the recorded one there, or record this one with: "
                f"dvc repro -f download@{paths.recipe}"
            )
    return raw


def identity(source: Path, config: DataConfig) -> tuple[int, str, bool]:
    """Size in bytes and SHA-256 of an archive or of a folder's files; whether it is what the publisher offers.

    A folder's SHA-256 is that of its lines `name size sha256`, sorted by name; a name is the path from the folder in which, or
    below which, all files lie.
    """
    files = config.table.folder_files(source) if source.is_dir() else [source]
    for file in files:  # before minutes go into hashing what is no archive
        check_regular(file)
        if (size := file.stat().st_size) > config.table.most_bytes:
            raise Fault(f"{file}: has {amount(size)}; accepted of {config.dataset}: up to {amount(config.table.most_bytes)}")
    sums, offered = [checksums(file) for file in files], config.table.files
    official = len(files) == len(offered) and not any(file.difference(found) for file, found in zip(offered, sums, strict=True))
    if source.is_file():
        return sums[0][0], sums[0][2], official
    top = os.path.commonpath([file.parent for file in files]) if files else source
    names = [file.relative_to(top).as_posix() for file in files]
    lines = [f"{name} {size} {sha256}\n" for name, (size, _, sha256) in zip(names, sums, strict=True)]
    return sum(size for size, _, _ in sums), hashlib.sha256(os.fsencode("".join(lines))).hexdigest(), official


def heldout_sha256(raw: Raw, config: DataConfig) -> str | None:
    """SHA-256 of what decides the held-out images beside `raw.source`: their own archive or folder, a list, or None."""
    beside = raw.heldout or raw.partition
    return identity(beside, config)[1] if beside else None


def _heldout_count(config: DataConfig) -> int:
    return max(1, config.images // 2)


def _fetched(config: DataConfig) -> Path:
    """The official file in DATA_HOME, or a folder of them in it."""
    files = config.table.files
    folder = DATA_HOME / config.dataset if len(files) > 1 else DATA_HOME
    fetched = [fetch(file, folder) for file in files]
    return folder if len(files) > 1 else fetched[0]


def _drawn(paths: Paths, config: DataConfig, images: int, seed: int, redraw: bool) -> Path:
    path = DATA_HOME / "synthetic" / f"{config.dataset}-{images}-seed{seed}{config.table.ending}"
    if path.exists() and not redraw:
        return path  # so that a folder that is only read will do
    with locked(path.with_name(path.name + ".lock")):
        if redraw or not path.exists():
            config.table.write(path, images, seed, paths.runtime().workers)
    return path


def described(paths: Paths, config: DataConfig, raw: Raw) -> dict[str, Any]:
    """What manifest.json says of a folder of pictures beyond its bytes. Raises Fault if its classes are not those recorded."""
    if not config.is_own_folder:
        return {}
    pictures, recorded = FolderImages(raw.source), tuple(paths.resolved("data")["classes"])
    for found in (pictures, *([FolderImages(raw.heldout)] if raw.heldout else [])):
        if found.classes != recorded:
            raise Fault(
                f"{found.path}: its classes, which are its subfolders, are {', '.join(found.classes) or 'none'}; recorded are "
                f"{', '.join(recorded) or 'none'}; accepted: these, or record those with: dvc repro -f download@{paths.recipe}"
            )
    widths, heights = zip(*pictures.sizes(), strict=True)
    sides = {"width": [min(widths), max(widths)], "height": [min(heights), max(heights)]}  # from ... to, in pixels
    return {"count": len(pictures), "classes": list(pictures.classes), **sides}


def _local(paths: Paths, config: DataConfig, key: Literal["source", "heldout"]) -> Path:
    """The archive or folder that this setting names."""
    written, accepted = (config.source, config.accepted) if key == "source" else (config.heldout, config.table.local)
    path = expanded(written)
    if len(config.table.files) == 1 and (archive := path / config.table.files[0].name).is_file():
        return archive
    if not path.exists():
        raise Fault(
            f"recipes.{paths.recipe}.data.{key} = {written!r}: there is nothing at {path}; accepted: "
            f"{accepted} ($DATA_HOME, now {DATA_HOME}, and ~ are expanded; a relative path starts at {WORK.parent})"
        )
    return path


def pack_images(paths: Paths, config: DataConfig) -> dict[Split, dict[str, Any]]:
    """Pack the recipe's images and labels, of both splits, to the paths that `stages.packed` names. Raises Fault.

    Returns what `pack` says of the training's, and what heldout.json says of the others.
    """
    raw = locate(paths, config)
    facts: dict[Split, dict[str, Any]] = {}
    images, labels = paths.work / "images.npy", paths.work / "labels.npy"
    with locked(paths.work / "images.lock"):
        for left in (*paths.work.glob(f".*.tmp-{images.name}"), *paths.work.glob(f".*.tmp-{labels.name}")):
            left.unlink()  # by a packing that was killed: nobody else is at work here
        for split, (source, part) in raw.splits.items():
            facts[split] = pack(config, source, images, paths.runtime().workers, labels, part)
            images.replace(array_path(paths, facts[split]["sha256"], split))
            if facts[split]["labels_sha256"] is not None:
                labels.replace(labels_path(paths, facts[split]["labels_sha256"], split))
    heldout = {key: facts["heldout"][key] for key in ("count", "sha256", "labels_sha256")}
    return facts | {"heldout": heldout | {"split": split_in_words(raw, config)}}


def split_in_words(raw: Raw, config: DataConfig) -> str:
    """Which images are held out of the training."""
    if config.source == "synthetic":
        return f"{_heldout_count(config)} images drawn by this project's code, seed {config.seed + HELDOUT_SEED}"
    if raw.heldout:
        return f"all images of {raw.heldout.name} (data.heldout)"
    return f"the images that {raw.partition.name} does not give to training" if raw.partition else config.table.heldout


def repack(paths: Paths) -> None:
    """Make the recipe's packed arrays again from the raw images; they must equal those that the facts beside them record."""
    facts = {split: paths.facts(name, "preprocess") for split, name in FACTS.items()}
    packed = pack_images(paths, paths.settings("data", DataConfig))
    for split, name in FACTS.items():
        recorded, found = facts[split], packed[split]
        for key, place in (("sha256", array_path), ("labels_sha256", labels_path)):
            if found[key] == recorded[key]:
                continue
            if found[key] is not None:
                place(paths, found[key], split).unlink()
            raise Fault(
                f"the {key} of what is packed here is not that of {shown(paths.data / name)}: it is {found[key]}, "
                f"recorded is {recorded[key]}. The settings or the code changed, or Pillow is another version than the one in "
                f"requirements.lock; record these with: dvc repro preprocess@{paths.recipe}"
            )


if __name__ == "__main__":
    stage(repack, __doc__)
