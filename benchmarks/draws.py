"""Which way to draw suits a checkpoint: samplers, guidance and autoguidance, measured by the yardstick on the same seeds.

`python -m benchmarks.draws cifar10 "unipc 10" "ddpm 20" --autoguidance 1 1.5` draws from small's `cifar10` by each sampler
with each scale, and measures the images beside its training images. Besides distances it says how far the values spread and
how much neighbouring pixels differ, as parts of what the training images do: flat, blurred or noisy images show there.
Autoguidance is by the weights of the last kept step before. `--step` draws from the average of an earlier kept step, to show
what more training buys. A way that the json has already is not drawn again.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine
from benchmarks.quality import CPU, Measures, kept
from benchmarks.report import aligned
from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import write_json
from ddpm.base.hashes import sha256_of
from ddpm.evaluation.yardstick import CLASSES, measured
from ddpm.machine.memory import keep_freed_memory
from ddpm.sampling import Model, load
from ddpm.sampling.settings import sampler_of
from stages import SCALES, WORK, Paths, shown
from stages.packed import training_images
from tools import positive

SEED = 0


def spread(images: np.ndarray) -> float:
    """The standard deviation of all values, of 0 to 255."""
    return float(images.std())


def roughness(images: np.ndarray) -> float:
    """The mean difference of neighbouring pixels of a row, of 0 to 255."""
    return float(np.abs(np.diff(images.astype(np.float32), axis=2)).mean())


def way(
    model: Model, choice: str, guidance: float, autoguidance: float, count: int, images: np.ndarray, measure: Measures
) -> Any:
    """The row of one way to draw `count` images; `images`: uint8 (N, H, W, C), what the model was trained on."""
    sampler = model.sampler(sampler_of(choice))
    drawn = model.sample(count, sampler, SEED, guidance=guidance, autoguidance=autoguidance)
    row: dict[str, Any] = {
        "sampler": choice,
        "guidance": guidance,
        "autoguidance": autoguidance,
        "drawn": count,
        **measure(drawn),
    }
    row |= {"spread": round(spread(drawn) / spread(images), 3), "roughness": round(roughness(drawn) / roughness(images), 3)}
    if model.classes == CLASSES:
        asked = np.arange(count) % len(CLASSES)
        row["accuracy"] = round(float((measured(drawn)[1] == asked).mean()), 3)
    passes = (2 if model.classes and guidance not in (0, 1) else 1) * (2 if autoguidance != 1 else 1)
    return row | {"calls": sampler.num_steps * passes}


def weights(paths: Paths, step: int | None, autoguidance: float) -> tuple[Path, Path | None]:
    """The averaged weights of a kept step, None: the last, and those that guide them, of the kept step before.

    None where `autoguidance` is 1. Raises Fault.
    """
    files = {int(raw.stem.removeprefix("raw-")): average for raw, average in paths.averages().items()}
    chosen = max(files) if step is None else step
    if chosen not in files:
        raise Fault(f"--step {step}: {shown(paths.models)} has no average of it; accepted: {', '.join(map(str, files))}")
    if autoguidance == 1:
        return files[chosen], None
    if chosen == max(files):
        return files[chosen], paths.guide(autoguidance)
    if not (earlier := [kept for kept in files if kept < chosen]):
        raise Fault(f"--autoguidance {autoguidance:g} --step {step}: no average of an earlier step; accepted: 1")
    return files[chosen], files[max(earlier)]


def text(result: dict[str, Any]) -> str:
    """The result in Markdown that can be read as it stands: a table a checkpoint, the smallest KID first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, row in result["rows"].items():
        scale, recipe, digest = key.split("/")[:3]
        groups.setdefault(f"{scale}/{recipe}, step {row['step']:,} (weights {digest})", []).append(row)
    parts = []
    for name, found in groups.items():
        conditional = any("accuracy" in row for row in found)
        header = ["by", *(["guidance"] if conditional else []), "autoguidance", "calls", "images", "KID x 1000", "Frechet"]
        rows = [[*header, "coverage", *(["accuracy"] if conditional else []), "spread", "roughness"]]
        for row in sorted(found, key=lambda row: row["kid"]):
            by = row["sampler"] + ("" if row["precision"] == "fp32" else f", {row['precision']}")
            cells = [by, *([f"{row['guidance']:g}"] if conditional else []), f"{row['autoguidance']:g}"]
            cells += [str(row["calls"]), f"{row['drawn']:,}", f"{1e3 * row['kid']:,.0f} ± {1e3 * row['kid_se']:,.0f}"]
            cells += [f"{row['fd']:.2f}", f"{row['coverage']:.2f}"]
            cells += [f"{row['accuracy']:.0%}" if "accuracy" in row else ""] if conditional else []
            rows.append([*cells, f"{row['spread']:.2f}", f"{row['roughness']:.2f}"])
        parts.append(f"#### {name}\n\n{aligned(rows)}")
    return "\n\n".join([*parts, f"Yardstick {result['yardstick_sha256'][:12]}."])


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    path, paths = args.json or WORK / "benchmarks" / "draws.json", Paths(args.scale, args.recipe)
    result = kept(path, "draws")
    result |= {"command": "python -m benchmarks.draws RECIPE SAMPLER ... --guidance ... --autoguidance ..."}
    result["machine"] = machine(CPU)
    chosen, guide = weights(paths, args.step, max(args.autoguidance))
    model, digest = load(chosen, "cpu", args.precision, guide), sha256_of(chosen)[:12]
    images = np.array(training_images(paths)[0])
    measure = Measures(images)
    scales = args.guidance if model.classes else [1.0]
    for choice, guidance, autoguidance in itertools.product(args.samplers, scales, args.autoguidance):
        key = f"{args.scale}/{args.recipe}/{digest}/{choice}/{guidance:g}/{autoguidance:g}/{args.images}/{args.precision}"
        if key not in result["rows"]:
            row = way(model, choice, guidance, autoguidance, args.images, images, measure)
            result["rows"][key] = {"step": model.step, "precision": args.precision, **row}
            write_json(path, result)
    print(f"\n{text(result)}\n\nwrote {shlex.quote(str(path))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("samplers", nargs="+", metavar="sampler", help="as in 'ddpm 20'")
    parser.add_argument("--scale", choices=SCALES, default="small", help="default: small")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0], help="of a conditional recipe (default: 1 2)")
    parser.add_argument("--autoguidance", type=float, nargs="+", default=[1.0], help="1 = none (default)")
    parser.add_argument("--step", type=positive, help="a kept step (default: the last)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    parser.add_argument("--images", type=positive, default=1000, help="drawn each way (default: 1000)")
    parser.add_argument("--json", type=Path, help="where results are kept (default: work/benchmarks/draws.json)")
    with faults_reported():
        main(parser.parse_args())
