"""Write the results tables of README.md from metrics/: `python -m stages.results`. A test says when they are stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.common import ROOT, SCALES

BEGIN = "<!-- results: written by `python -m stages.results`, do not edit -->"
END = "<!-- end of results -->"


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def trained() -> list[tuple[str, str, Path]]:
    """(scale, recipe, folder of metrics) of every recipe whose training and figures are finished."""
    found = []
    for scale in SCALES:
        folders = sorted((ROOT / "metrics" / scale).glob("*"), reverse=True)
        found += [(scale, folder.name, folder) for folder in folders if (folder / "timing.json").exists()]
    return found


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)


def training_table() -> str:
    rows = []
    for scale, recipe, folder in trained():
        data = read(ROOT / "data" / scale / recipe, "stats.json")
        train, speed, config = read(folder, "train.json"), read(folder, "speed.json"), read(folder / "config", "train.json")
        rows.append(
            [
                f"{scale} / {recipe}",
                f"{data['origin']}, {data['size']} px",
                f"{train['parameters'] / 1e6:.2f} M",
                f"{config['prediction']}",
                f"{train['steps']:,} x {config['batch_size']}",
                f"{train['loss']:.4f}",
                f"{speed['seconds'] / 60:.0f} min, {speed['images_per_second']:.0f} images/s",
                f"{speed['device']}, {speed['precision']}, torch {speed['torch']}",
            ]
        )
    header = [
        "scale / recipe",
        "training images",
        "parameters",
        "predicts",
        "steps x batch",
        "last loss",
        "training took",
        "on",
    ]
    return table(header, rows)


def timing_table() -> str:
    rows = []
    for scale, recipe, folder in trained():
        timing = read(folder, "timing.json")
        for label, cells in timing["seconds"].items():
            marks = [_seconds(cells, device) for device in ("cpu", "cuda")]
            rows.append([f"{scale} / {recipe}", f"{timing['images']}", label, *marks, timing["machine"]["cpu"]])
    return table(["scale / recipe", "images", "sampler", "CPU, seconds", "CUDA, seconds", "CPU"], rows)


def _seconds(cells: dict[str, Any], device: str) -> str:
    if cells.get(device) is None:
        return ""
    return f"{cells[device]:.1f}" + (" (projected)" if cells[f"{device}_projected"] else "")


def block() -> str:
    return f"{BEGIN}\n\n{training_table()}\n\nSeconds to draw a batch of images:\n\n{timing_table()}\n\n{END}"


def rewritten(readme: str) -> str:
    """The text of README.md with its block of results replaced by the current one."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return before + block() + after


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(rewritten(path.read_text()))
