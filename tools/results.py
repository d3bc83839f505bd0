"""Write the results tables of README.md from metrics/: `python -m tools.results`. A test says when they are stale."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from stages import ROOT, SCALES, load_params
from stages.timing import cell

BEGIN = "<!-- results: written by `python -m tools.results`, do not edit -->"
END = "<!-- end of results -->"


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def trained() -> list[tuple[str, str, Path]]:
    """(scale, recipe, folder of metrics) of every recipe that has been trained; what else it has, its rows show."""
    found = []
    for scale in SCALES[1:]:  # the demo's times and last digits are those of whoever ran it last
        folders = [ROOT / "metrics" / scale / recipe for recipe in load_params(scale)["recipe_names"]]
        found += [(scale, folder.name, folder) for folder in folders if (folder / "train.json").exists()]
    return found


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)


class Row(NamedTuple):
    """A line of the table of quality, and what it is sorted by."""

    dataset: str
    above_floor: float  # KID above its floor; infinite where nothing is measured
    cells: list[str]


def quality_row(scale: str, folder: Path) -> Row:
    """The measures of the recipe whose metrics lie in `folder`, each with its standard error or its floor."""
    dataset, speed = read(folder / "config", "data.json")["dataset"], read(folder, "speed.json")
    card = Path("metrics", scale, folder.name, "README.md")
    recipe = f"{scale} / {folder.name}"
    name = f"[{recipe}]({card})" if (ROOT / card).exists() else recipe
    spent = [f"{speed['images_seen']:,}", f"{speed['seconds'] / 60:.0f}"]
    if not (folder / "evaluate.json").exists():
        return Row(dataset, math.inf, [dataset, name, "not measured", *[""] * 6, *spent])
    found = read(folder, "evaluate.json")
    measures = [
        f"{1000 * found['kid']:.2f} ± {1000 * found['kid_se']:.2f} ({1000 * found['kid_floor']:.2f})",
        f"{found['fd']:.2f} ({found['fd_floor']:.2f})",
        f"{found['coverage']:.3f} ({found['coverage_floor']:.3f})",
        f"{found['bits_per_dim']:.2f} ± {found['bits_per_dim_se']:.2f}",
        f"{found['near_copies']:.1%} ({found['near_copies_floor']:.1%}), {found['c_t']:+.1f}",
        f"{found['accuracy']:.1%}" if "accuracy" in found else "",
        f"{found['samples']:,} by {found['sampler']}",
    ]
    return Row(dataset, found["kid"] - found["kid_floor"], [dataset, name, *measures, *spent])


def quality_table() -> str:
    """A row a recipe: those of a data set below each other, the nearest to its floor in KID first."""
    rows = [quality_row(scale, folder) for scale, _, folder in trained()]
    order = list(dict.fromkeys(row.dataset for row in rows))
    rows.sort(key=lambda row: (order.index(row.dataset), row.above_floor))
    measures = ["KID x 1000", "Frechet distance", "coverage", "bits/dim", "near copies, C_T", "accuracy", "drawn"]
    return table(["data set", "recipe and its card", *measures, "images seen", "minutes"], [row.cells for row in rows])


def yardsticks() -> str:
    """Whose features the table's distances are taken of, by the beginning of its hash: a sentence, or nothing."""
    measured = [read(folder, "evaluate.json") for _, _, folder in trained() if (folder / "evaluate.json").exists()]
    hashes = dict.fromkeys(found["yardstick_sha256"][:12] for found in measured)
    return f" Yardstick: {', '.join(f'`{name}`' for name in hashes)} (the beginning of its SHA-256)." if hashes else ""


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
                f"{speed['steps']:,} x {config['batch_size']}",
                f"{train['loss']:.4f}",
                f"{speed['images_per_second']:.0f}",
                f"{speed['device']}, {speed['precision']}, torch {speed['torch']}",
            ]
        )
    header = "scale / recipe, training images, parameters, predicts, steps x batch, last loss, images/s, on"
    return table(header.split(", "), rows)


def timing_table() -> str:
    """A row a recipe and device, a column a sampler."""
    runs = [
        (f"{scale} / {recipe}", read(folder, "timing.json"))
        for scale, recipe, folder in trained()
        if (folder / "timing.json").exists()
    ]
    for _, timing in runs:  # the spacing of the steps changes no time
        timing["seconds"] = {label.partition(",")[0]: cells for label, cells in timing["seconds"].items()}
    labels = list(dict.fromkeys(label for _, timing in runs for label in timing["seconds"]))
    labels.sort(key=lambda label: (label.startswith("DDPM"), label.startswith("DDIM")))
    rows = []
    for name, timing in runs:
        for device in ("cpu", "cuda"):
            cells = [cell(timing["seconds"].get(label, {}), device) for label in labels]
            if any(cells):
                rows.append([name, f"{timing['images']}", timing["machine"][device], *cells])
    return table(["scale / recipe", "images", "on", *labels], rows)


CALLS = "20"  # in the README's table of solvers


def solvers_table() -> str:
    """The distances of the solvers figure at CALLS network calls: uniform and quadratic spacing."""
    rows: list[list[str]] = []
    methods: list[str] = []
    for scale, recipe, folder in trained():
        if not (folder / "solvers.csv").exists():
            continue
        with (folder / "solvers.csv").open(newline="") as file:
            found = [row for row in csv.DictReader(file) if row["calls"] == CALLS and row["sampler"] != "DDPM"]
        methods = list(dict.fromkeys(row["sampler"] for row in found)) or methods
        cells = [" / ".join(f"{float(row['distance']):.3f}" for row in found if row["sampler"] == method) for method in methods]
        if found:
            rows.append([f"{scale} / {recipe}", *cells])
    return table(["scale / recipe", *methods], rows)


def block() -> str:
    parts = [
        "What the models are worth, on the EMA weights: ± the standard error, in brackets the floor, the same measure of "
        "held-out real images. Lower is better but for coverage and accuracy; C_T below -3 means copies of training images. "
        f"Distances depend on the data set, its size and the images drawn: compare within a data set.{yardsticks()}",
        quality_table(),
        "How they were trained:",
        training_table(),
        "Seconds to draw a batch of images (with guidance where there are classes, which takes two passes a call):",
        timing_table(),
        f"How far {CALLS} network calls get: the distance of a sampler's images to a long solution of the same ODE from the "
        "same noise (RMS, 1 = the full range of a pixel), with uniform / quadratic spacing of the steps (figure `solvers`):",
        solvers_table(),
    ]
    return "\n\n".join([BEGIN, *parts, END])


def rewritten(readme: str) -> str:
    """The text of README.md with its block of results replaced by the current one."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return before + block() + after


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(rewritten(path.read_text()))
