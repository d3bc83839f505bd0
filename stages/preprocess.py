"""Pack a recipe's images into one array under work/, and record its statistics and a strip of its first images."""

from __future__ import annotations

import numpy as np

from stages.common import Paths, stage, write_json
from stages.packed import array_path, read_facts
from stages.raw import pack_images

ROWS, COLUMNS = 2, 8  # of the strip


def main(paths: Paths) -> None:
    from ddpm.images import save_grid, save_notice  # here, or every process that packs would load torch with it

    config = paths.data_config()
    stats = pack_images(paths, config)
    manifest = read_facts(paths, "manifest.json", "download")
    first = np.load(array_path(paths, stats["sha256"]), mmap_mode="r")[: ROWS * COLUMNS]
    local, public = paths.work / "training-images.png", paths.metrics / "data.png"
    save_grid(local, first, COLUMNS)
    if config.shareable:
        save_grid(public, first, COLUMNS)
    else:
        place = f"work/{paths.scale}/{paths.recipe}/{local.name}"
        save_notice(public, f"The licence of this data allows no sharing of its images.\nThe strip lies in {place}")
    write_json(paths.data / "stats.json", stats | {key: manifest[key] for key in ("dataset", "source", "origin")})


if __name__ == "__main__":
    stage(main, __doc__)
