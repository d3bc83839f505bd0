"""Pack a recipe's images into one array under work/, and record its statistics and hash."""

from __future__ import annotations

from ddpm.base.files import write_json
from ddpm.data.settings import DataConfig
from stages import Paths, stage
from stages.raw import pack_images


def main(paths: Paths) -> None:
    stats = pack_images(paths, paths.settings("data", DataConfig))
    manifest = paths.facts("manifest.json", "download")
    write_json(paths.data / "stats.json", stats | {key: manifest[key] for key in ("dataset", "source", "origin")})


if __name__ == "__main__":
    stage(main, __doc__)
