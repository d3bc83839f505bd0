"""What makes better images in the same minutes: trainings that differ from a recipe in a few settings, measured alike.

`python -m benchmarks.trials narrow channels=[16,48,64] lr=2e-3` trains small's `cifar10` with these settings for each seed,
draws from its averaged weights and measures the images by the yardstick. Its row is kept in the json under its name; what is
there already is not trained again. Options that were tried on a branch, and did not win, have rows without code here.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine
from benchmarks.quality import CPU, Measures, done, kept, must_be, ours, unconditional
from benchmarks.report import aligned
from ddpm.base.faults import faults_reported
from ddpm.base.files import write_json
from ddpm.machine.memory import keep_freed_memory
from ddpm.machine.precision import resolve_precision
from stages import SCALES, WORK, Paths
from stages.packed import training_images
from tools import positive

COLUMNS = ("trial", "what differs", "seeds", "core minutes", "drawn", "by", "KID x 1000", "of base", "Frechet", "coverage")
BASE = "base"  # the name of the row that the others of its recipe and images seen are compared with


def text(result: dict[str, Any]) -> str:
    """The result in Markdown that can be read as it stands: a row a trial, means over its seeds, by its best sampler."""
    groups: dict[tuple[str, str, int], dict[str, list[dict[str, Any]]]] = {}
    for row in result["rows"].values():
        groups.setdefault((row["scale"], row["recipe"], row["seen"]), {}).setdefault(row["name"], []).append(row)
    parts = []
    for (scale, recipe, seen), trials in groups.items():
        rows = [list(COLUMNS)]
        base = {row["seed"]: best(row)[1]["kid"] for row in trials.get(BASE, [])}
        for name, found in trials.items():
            sampler, values = best(found[0])[0], [best(row)[1] for row in found]
            ratios = [value["kid"] / base[row["seed"]] for row, value in zip(found, values, strict=True) if row["seed"] in base]
            error = sum(value["kid_se"] ** 2 for value in values) ** 0.5 / len(values)
            minutes = f"{statistics.mean(row['cpu_seconds'] for row in found) / 60:.1f}, {found[0]['arithmetic']}"
            cells = [found[0]["differs"], str(len(found)), minutes, f"{found[0]['drawn']:,}"]
            cells += [sampler, f"{1e3 * statistics.mean(value['kid'] for value in values):,.0f} ± {1e3 * error:,.0f}"]
            cells += [f"{statistics.mean(ratios):.2f}" if ratios else ""]
            cells += [f"{statistics.mean(value[key] for value in values):.2f}" for key in ("fd", "coverage")]
            rows.append([name, *cells])
        parts.append(f"{scale} / {recipe}, {seen:,} images seen\n\n{aligned(rows)}")
    return "\n\n".join(parts)


def best(row: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """The sampler of a row whose images have the smallest KID, and its measures."""
    return min(row["samplers"].items(), key=lambda item: item[1]["kid"])


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    path = args.json or WORK / "benchmarks" / "trials.json"
    result, recipe = kept(path, "trials"), unconditional(args.scale, args.recipe, args.settings)
    # A guide of the same training would hide what the training is worth.
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"autoguidance": 1.0})})
    images = np.array(training_images(Paths(args.scale, args.recipe))[0])
    measure, differs = Measures(images), " ".join(args.settings)
    result |= {"command": "python -m benchmarks.trials NAME SETTING=VALUE ...", "machine": machine(CPU)}
    steps = max(1, args.seen // recipe.train.batch_size)
    facts = {"scale": args.scale, "recipe": args.recipe, "seen": args.seen, "name": args.name, "differs": differs}
    facts["arithmetic"] = resolve_precision(recipe.train.precision, CPU)
    for seed in range(args.seeds):
        key = f"{args.scale}/{args.recipe}/{args.seen}/{args.name}/{seed}"
        if key not in result["rows"]:
            row = done(f"{args.name}, seed {seed}", ours(recipe, images, steps, seed), steps, args.images, measure)
            result["rows"][key] = {**facts, "seed": seed, **row}
            write_json(path, result)
        else:
            row = result["rows"][key]
            must_be((row["differs"], row["drawn"]), (differs, args.images), path, f"a trial {args.name!r} of")
    print(f"\n{text(result)}\n\nwrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=f"of the row; {BASE} is what the others are compared with")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="of train, what differs from the recipe")
    parser.add_argument("--scale", choices=SCALES, default="small", help="default: small")
    parser.add_argument("--recipe", default="cifar10", help="default: cifar10")
    parser.add_argument("--seen", type=positive, default=38_400, help="images that the training sees (default: 38400)")
    parser.add_argument("--seeds", type=positive, default=1, help="default: 1")
    parser.add_argument("--images", type=positive, default=1000, help="drawn by each sampler (default: 1000)")
    parser.add_argument("--json", type=Path, help="where results are kept (default: work/benchmarks/trials.json)")
    with faults_reported():
        main(parser.parse_args())
