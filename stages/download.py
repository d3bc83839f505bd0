"""Get a recipe's raw images (official, local or synthetic), check them and record what they are."""

from __future__ import annotations

from ddpm.config import DataConfig
from stages.common import Paths, stage, write_json
from stages.raw import check, find, identity


def main(paths: Paths) -> None:
    config = paths.data_config()
    source = find(paths, config, redraw=True)
    check(source, config)
    size, sha256, official = identity(source, config)
    manifest = {
        "dataset": config.dataset,
        "source": config.source if config.source in ("official", "synthetic") else "local",
        "origin": origin(config, official),
        "name": source.name,
        "size": size,
        "sha256": sha256,
        "matches_official": official,
    }
    write_json(paths.data / "manifest.json", manifest)


def origin(config: DataConfig, official: bool) -> str:
    """What the images are, in words shown with every result."""
    if config.source == "synthetic":
        return f"drawn by this project's code (synthetic), {config.synthetic_images} images, seed {config.synthetic_seed}"
    if official:
        return "official archive" if len(config.files) == 1 else "official files"
    return config.origin or "a local copy that is not the official archive; its origin is not stated (data.origin)"


if __name__ == "__main__":
    stage(main, __doc__)
