"""Pack a recipe's training images and held-out ones into arrays under work/; record their statistics and hashes."""

from __future__ import annotations

from ddpm.base.files import write_json
from ddpm.data.settings import DataConfig
from stages import Paths, stage
from stages.raw import pack_images


def main(paths: Paths) -> None:
    facts = pack_images(paths, paths.settings("data", DataConfig))
    manifest = paths.facts("manifest.json", "download")
    write_json(paths.data / "stats.json", facts["training"] | {key: manifest[key] for key in ("dataset", "source", "origin")})
    write_json(paths.data / "heldout.json", facts["heldout"])


if __name__ == "__main__":
    stage(main, __doc__)
