"""Get a recipe's raw images (official, local or synthetic), check them and record what they are."""

from __future__ import annotations

from ddpm.base.faults import Fault
from ddpm.base.files import write_json
from ddpm.data.settings import DataConfig
from stages import Paths, stage
from stages.raw import described, find, heldout_sha256, identity


def main(paths: Paths) -> None:
    config = paths.settings("data", DataConfig)
    raw = find(paths, config, redraw=True)
    size, sha256, official = identity(raw.source, config)
    heldout = heldout_sha256(raw, config)
    if heldout == sha256:
        raise Fault(
            f"recipes.{paths.recipe}.data.heldout = {config.heldout!r}: holds the same files as data.source, which all train; "
            "accepted: others"
        )
    for source, part in raw.splits.values():
        config.table.check(source, part)
    manifest = {
        "dataset": config.dataset,
        "source": config.source if config.source in ("official", "synthetic") else "local",
        "origin": origin(config, official),
        "name": raw.source.name,
        "size": size,
        "sha256": sha256,
        "heldout_sha256": heldout,
        "matches_official": official,
        "shareable": config.shareable,
    } | described(paths, config, raw)
    write_json(paths.data / "manifest.json", manifest)


def origin(config: DataConfig, official: bool) -> str:
    """What the images are, in words shown with every result."""
    if config.source == "synthetic":
        return f"drawn by this project's code (synthetic), {config.images} images, seed {config.seed}"
    if official:
        return "official archive" if len(config.table.files) == 1 else "official files"
    if config.is_own_folder:
        return config.origin or "pictures of a local folder; their origin is not stated (data.origin)"
    return config.origin or "a local copy that is not the official archive; its origin is not stated (data.origin)"


if __name__ == "__main__":
    stage(main, __doc__)
