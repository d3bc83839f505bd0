"""Write the tables of results from metrics/ into README.md and docs/results.md: `python -m tools.results`.

A test says when they are stale.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.base.faults import faults_reported
from ddpm.base.files import read_json, write_text
from ddpm.sampling.settings import autoguided
from stages import ROOT, SCALES, load_params, shown
from stages.timing import cell

BEGIN = "<!-- results: written by `python -m tools.results`, do not edit -->"
END = "<!-- end of results -->"
README, PAGE = Path("README.md"), Path("docs/results.md")

RECIPE = "recipe and its card"
MEASURES = [RECIPE, "KID x 1000", "Frechet distance", "coverage", "bits/dim"]
OTHERS = [RECIPE, "near copies", "copied", "C_T", "accuracy", "drawn"]


def read(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name, "the stages write it; git has the last one", shown(folder / name))


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
    cells: dict[str, str]  # by column


def quality_row(scale: str, folder: Path, page: Path) -> Row:
    """The measures of the recipe whose metrics lie in `folder`, each with its standard error or its floor."""
    dataset = read(folder / "config", "data.json")["dataset"]
    card, recipe = Path("metrics", scale, folder.name, "README.md"), f"{scale} / {folder.name}"
    linked = f"[{recipe}]({os.path.relpath(card, page.parent)})" if (ROOT / card).exists() else recipe
    named = {RECIPE: linked}
    if not (folder / "evaluate.json").exists():
        return Row(dataset, math.inf, named | {"KID x 1000": "not measured"})
    found = read(folder, "evaluate.json")
    measures = {
        "KID x 1000": f"{1000 * found['kid']:.2f} ± {1000 * found['kid_se']:.2f} ({1000 * found['kid_floor']:.2f})",
        "Frechet distance": f"{found['fd']:.2f} ({found['fd_floor']:.2f})",
        "coverage": f"{found['coverage']:.3f} ({found['coverage_floor']:.3f})",
        "bits/dim": f"{found['bits_per_dim']:.2f} ± {found['bits_per_dim_se']:.2f}",
        "near copies": f"{found['near_copies']:.1%} ({found['near_copies_floor']:.1%})",
        "copied": f"{found['copied']:.1%} ± {found['copied_se']:.1%}" if "copied" in found else "",
        "C_T": f"{found['c_t']:+.1f}",
        "accuracy": f"{found['accuracy']:.1%}" if "accuracy" in found else "",
        "drawn": f"{found['samples']:,} by {found['sampler']}{autoguided(found.get('autoguidance', 1))}",
    }
    return Row(dataset, found["kid"] - found["kid_floor"], named | measures)


def quality_table(columns: list[str], page: Path) -> str:
    """A row a recipe: those of a data set below each other, the nearest to its floor in KID first. For links from `page`."""
    rows = [quality_row(scale, folder, page) for scale, _, folder in trained()]
    order = list(dict.fromkeys(row.dataset for row in rows))
    rows.sort(key=lambda row: (order.index(row.dataset), row.above_floor))
    return table(columns, [[row.cells.get(column, "") for column in columns] for row in rows])


def yardsticks() -> str:
    """Whose features the table's distances are taken of, by the beginning of its hash: a sentence, or nothing."""
    measured = [read(folder, "evaluate.json") for _, _, folder in trained() if (folder / "evaluate.json").exists()]
    hashes = dict.fromkeys(found["yardstick_sha256"][:12] for found in measured)
    return f" Yardstick: {', '.join(f'`{name}`' for name in hashes)} (the beginning of its SHA-256)." if hashes else ""


def training_tables() -> list[str]:
    """On what and where each model was trained, and how."""
    places, numbers = [], []
    for scale, recipe, folder in trained():
        data = read(ROOT / "data" / scale / recipe, "stats.json")
        train, speed, config = read(folder, "train.json"), read(folder, "speed.json"), read(folder / "config", "train.json")
        processes = f" in each of {speed['processes']} processes" if speed.get("processes", 1) > 1 else ""
        name, machine = f"{scale} / {recipe}", f"{speed['device']}{processes}, {speed['precision']}, torch {speed['torch']}"
        places.append([name, f"{data['origin']}, {data['size']} px", machine])
        numbers.append(
            [
                name,
                f"{train['parameters'] / 1e6:.2f} M",
                f"{config['prediction']}",
                f"{speed['steps']:,} x {config['batch_size']}",
                f"{speed['images_seen']:,}",
                f"{train['loss']:.4f}",
                f"{speed['seconds'] / 60:.0f}",
                f"{speed['images_per_second']:.0f}",
            ]
        )
    header = "scale / recipe, parameters, predicts, steps x batch, images seen, last loss, minutes, images/s"
    return [table(header.split(", "), numbers), table(["scale / recipe", "training images", "trained on"], places)]


def timing_tables() -> list[str]:
    """A table for each machine: a row a recipe, a column a sampler."""
    rows: dict[str, list[tuple[list[str], dict[str, str]]]] = {}  # by machine: recipe and images, then seconds by sampler
    for scale, recipe, folder in trained():
        if not (folder / "timing.json").exists():
            continue
        timing = read(folder, "timing.json")
        for device in ("cpu", "cuda"):
            # The spacing of the steps, behind the comma, changes no time.
            cells = {label.partition(",")[0]: cell(by, device) for label, by in timing["seconds"].items()}
            if any(cells.values()):
                named = [f"{scale} / {recipe}", f"{timing['images']}"]
                rows.setdefault(timing["machine"][device], []).append((named, cells))
    parts = []
    for machine, found in rows.items():
        labels = list(dict.fromkeys(label for _, cells in found for label in cells))
        labels.sort(key=lambda label: (label.startswith("DDPM"), label.startswith("DDIM")))
        lines = [named + [cells.get(label, "").replace(" (projected)", " *") for label in labels] for named, cells in found]
        parts += [f"On {machine}:", table(["scale / recipe", "images", *labels], lines)]
    return parts


CALLS = "20"  # in the table of solvers


def solvers_table() -> str:
    """The distances of the solvers figure at CALLS network calls, by spacing: uniform, quadratic and karras."""
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


def paragraph(text: str) -> str:
    return textwrap.fill(text, 128, break_long_words=False, break_on_hyphens=False)


MEANING = (
    "Samples of the EMA weights beside real images: ± the standard error, in brackets the floor, which is the same measure of "
    "held-out real images. "
)
WITHIN = "Distances depend on the data set, its size and the images drawn: compare within a data set, and one number drawn."


def in_brief(page: Path = README) -> list[str]:
    """What README.md says, with links from `page`."""
    text = f"{MEANING}Lower is better but for coverage. {WITHIN}{yardsticks()}"
    return [paragraph(text), quality_table(MEASURES, page)]


def in_full() -> list[str]:
    """What docs/results.md says."""
    return [
        "## What the models are worth",
        *in_brief(PAGE),
        paragraph(
            "Copied: the share of copies by how often the nearest real image is a training image, ± its standard error; about "
            "0 without them. C_T below -3: samples lie nearer to training images than held-out images do. They are copies, or "
            "only the most typical images ([how to tell](experiments.md#how-to-read-them)). Accuracy, of conditional models: "
            "the higher, the better."
        ),
        quality_table(OTHERS, PAGE),
        "## How they were trained",
        *training_tables(),
        "## Seconds to draw",
        paragraph(
            "A batch of images; with guidance where there are classes, which takes two passes a call. What would have taken "
            "too long was timed over fewer steps and multiplied (*)."
        ),
        *timing_tables(),
        f"## What {CALLS} network calls reach",
        paragraph(
            "The distance of a sampler's images to a long solution of the same ODE from the same noise (RMS, 1 = the full "
            "range of a pixel), with uniform / quadratic / karras spacing of the steps (figure `solvers`)."
        ),
        solvers_table(),
    ]


PARTS = {README: in_brief, PAGE: in_full}


def block(page: Path) -> str:
    """The results of `page`, README or PAGE, between their marks."""
    return "\n\n".join([BEGIN, *PARTS[page](), END])


def rewritten(page: Path) -> str:
    """The text of `page` with its block of results replaced by the current one."""
    before, rest = (ROOT / page).read_text().split(BEGIN)
    after = rest.split(END)[1]
    return before + block(page) + after


if __name__ == "__main__":
    argparse.ArgumentParser("python -m tools.results", description=__doc__).parse_args()
    with faults_reported():
        for name, text in [(written, rewritten(written)) for written in PARTS]:  # nothing is written where one fails
            write_text(ROOT / name, text)
