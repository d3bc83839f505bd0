"""Two revisions or experiments beside each other: the settings that differ, the numbers with a verdict, one picture of both.

examples:
  python -m tools.compare main                          the branch main against this working tree
  python -m tools.compare main puffy-daks               the branch main against an experiment (`dvc exp list` names them)
  python -m tools.compare HEAD~1 HEAD --scale small --recipes cifar10 celeba --images 10 --out wider.png

A difference below two standard errors is called none. Only measures that have a standard error get a verdict, and only where
both sides were measured alike. In the picture images above each other have the same seed: they start from the same noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.settings import validate
from ddpm.evaluation.settings import EvaluationConfig
from ddpm.figures.pictures import save_labelled_rows
from ddpm.recipe import PARTS, flattened
from ddpm.sampling import Model, load
from stages import ROOT, SCALES, Paths, params_file, shown
from tools import check_out, dvc, positive
from tools.outdated import outdated
from tools.revisions import read_file, read_object, resolve
from tools.tables import aligned

WORKSPACE = "workspace"  # DVC's word for the working tree
BETTER = {
    "fd": "lower", "kid": "lower", "density": "higher", "coverage": "higher", "bits_per_dim": "lower", "near_copies": "lower",
    "copied": "lower", "c_t": "higher", "accuracy": "higher", "fid": "lower", "inception_kid": "lower",
    "inception_score": "higher", "precision": "higher", "recall": "higher", "loss": "lower", "seconds to train": "lower",
    "seconds to draw": "lower",
}  # fmt: skip
# Of evaluate.json: where they differ, so do the scales. (Its earlier versions knew no autoguidance.)
ALIKE = ("yardstick_sha256", "samples", "compared", "sampler", "autoguidance")
ENDINGS = ("_se", "_floor")  # of keys that belong to another
CLEAR = 2  # standard errors
MEANING = (
    f"none: a difference below {CLEAR} standard errors. They are of the images that were drawn and compared; what another\n"
    "seed of the same training would change is not in them. To judge a setting, compare several seeds of it."
)
HEADER = ("measure", "{a}", "{b}", "difference", "standard error", "floor", "{b} is")
MAX_COLUMNS = 100  # of the picture
LABEL = 13  # characters beside a row of images


class Side(NamedTuple):
    """One of the two that are compared."""

    name: str
    revision: str | None  # None: the working tree

    def read(self, path: str) -> dict[str, Any]:
        """The object in the JSON or YAML file `path`, relative to the checkout; empty without that file. Raises Fault."""
        return read_object(self.revision, path, self.name)


def side_of(name: str) -> Side:
    """The side that the command line names. Raises Fault for a name that is unknown here."""
    return Side(name, None if name == WORKSPACE else resolve(name))


class Facts(NamedTuple):
    """What the files of a recipe say on one side. What is missing there is missing here."""

    settings: dict[str, Any]  # by dotted names
    quality: dict[str, Any]  # evaluate.json
    others: dict[str, Any]  # of the training: loss, parameters, seconds
    hashes: dict[str, Any]  # of the packed images
    old: Sequence[str] = ()  # stages whose results are older than what they are made from
    timed: str | None = None  # sha256 of the EMA weights whose training the seconds are of

    def beside(self, other: Facts) -> Facts:
        """These without the seconds of the training where they are still those of `other`, which was another training: no
        output of the pipeline, they stay where DVC restores a training from its run cache."""
        if not self.timed or self.timed != other.timed or self.others.get("loss") == other.others.get("loss"):
            return self
        return self._replace(others={key: value for key, value in self.others.items() if key != "seconds to train"})


def facts_of(side: Side, scale: str, recipe: str) -> Facts:
    """What the files of `recipe` at `scale` say on `side`. Raises Fault for one that is no json."""
    metrics, seconds = f"metrics/{scale}/{recipe}", f"metrics/{scale}/seconds/{recipe}"
    training = side.read(f"{metrics}/train.json")
    others = {key: training.get(key) for key in ("loss", "parameters")}
    others |= {f"seconds to {work}": side.read(f"{seconds}/{work}.json").get("seconds") for work in ("train", "draw")}
    data = [f"data/{scale}/{recipe}/{name}.json" for name in ("stats", "heldout")]
    return Facts(
        flattened({part: side.read(f"{metrics}/config/{part}.json") for part in PARTS}),
        side.read(f"{metrics}/evaluate.json"),
        {key: value for key, value in others.items() if value is not None},
        {f"sha256 of {path}": side.read(path).get("sha256") for path in data},
        outdated(side.revision, scale, recipe),
        side.read(f"{metrics}/speed.json").get("weights_sha256"),
    )


# --- The numbers ---------------------------------------------------------------------------------------------------


def differing(a: Facts, b: Facts) -> list[str]:
    """What the two sides' numbers were not measured alike in, for people; something that neither names counts too."""
    ours, theirs = ({"autoguidance": 1.0} | side.quality for side in (a, b))
    pairs = {key: (ours.get(key), theirs.get(key)) for key in ALIKE}
    pairs |= {key: (a.hashes[key], b.hashes[key]) for key in a.hashes}
    if any(side.settings.get("train.context_dim") for side in (a, b)):
        pairs |= {"guidance": (a.settings.get("evaluation.guidance"), b.settings.get("evaluation.guidance"))}
    unlike = {key: pair for key, pair in pairs.items() if pair[0] != pair[1] or pair[0] is None}
    if "evaluate" in (*a.old, *b.old):
        of_a, of_b = ("outdated" if "evaluate" in side.old else "current" for side in (a, b))
        unlike["evaluate.json"] = of_a, of_b
    names = {key: ["missing" if value is None else str(value) for value in pair] for key, pair in unlike.items()}
    return [f"{key} ({' / '.join(name[:12] if 'sha256' in key else name for name in pair)})" for key, pair in names.items()]


def standard_error(key: str, quality: dict[str, Any]) -> float | None:
    """The standard error of the measure `key`, None without one. That of accuracy, a share of `samples` images, is binomial."""
    if key == "accuracy" and {"accuracy", "samples"} <= quality.keys():
        return math.sqrt(quality["accuracy"] * (1 - quality["accuracy"]) / quality["samples"])
    return quality.get(f"{key}_se")


def verdict(key: str, difference: float, error: float | None) -> str:
    """What B is against A where the measure `key` is larger by `difference`, whose standard error is `error`."""
    if key not in BETTER:
        return ""
    if difference == 0:
        return "none"
    if error is None:
        return "no standard error"
    # The numbers are decimal fractions: their exact double must not fall below itself by a rounding.
    if abs(difference) < CLEAR * error and not math.isclose(abs(difference), CLEAR * error):
        return "none"
    return "better" if (difference < 0) == (BETTER[key] == "lower") else "worse"


def rows(a: Facts, b: Facts) -> list[list[str]]:
    """A row under HEADER for every measure of either side, then for what else is known of the trainings."""
    parts = ((a.quality, b.quality, not differing(a, b)), (a.others, b.others, True))
    return [row(key, of_a, of_b, comparable) for of_a, of_b, comparable in parts for key in measures(of_a | of_b)]


def measures(values: dict[str, Any]) -> list[str]:
    """The keys that name a number of their own, not one that belongs to another."""
    numbers = [key for key, value in values.items() if isinstance(value, int | float)]
    return [key for key in numbers if key not in ALIKE and not key.endswith(ENDINGS)]


def row(key: str, a: dict[str, Any], b: dict[str, Any], comparable: bool) -> list[str]:
    """The row of `key`; some cells are empty where a side lacks it.

    The error of a difference takes both sides' errors as independent. They share seeds and held-out images, so it is rather
    too large than too small, and a difference is called none too often rather than too seldom.
    """
    floors = dict.fromkeys(readable(side[f"{key}_floor"]) for side in (a, b) if f"{key}_floor" in side)
    beginning, floor = [key, readable(a.get(key)), readable(b.get(key))], " / ".join(floors)
    if key not in a or key not in b:
        return [*beginning, "", "", floor, ""]
    errors = [error for error in (standard_error(key, a), standard_error(key, b)) if error is not None]
    difference, error = b[key] - a[key], math.hypot(*errors) if len(errors) == 2 else None
    said = verdict(key, difference, error) if comparable or key not in BETTER else "not comparable"
    signed = f"{difference:+,}" if isinstance(difference, int) else f"{difference:+g}"
    return [*beginning, signed, "" if error is None else f"{error:.2g}", floor, said]


def readable(value: Any) -> str:
    """A number for people; nothing for None."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def report(sides: tuple[Side, Side], scale: str, recipe: str) -> str:
    """The settings of `recipe` that differ, whether the measures may be compared, and the numbers: text of several lines."""
    a, b = (facts_of(side, scale, recipe) for side in sides)
    b = b.beside(a)
    names = {"a": sides[0].name, "b": sides[1].name}
    lines = [f"{recipe}: {names['a']} -> {names['b']}"]
    changed = [key for key in {**a.settings, **b.settings} if a.settings.get(key) != b.settings.get(key)]
    lines += ["settings that differ:" if changed else "settings that differ: none"]
    told = [[json.dumps(side.settings[key]) if key in side.settings else "unset" for side in (a, b)] for key in changed]
    lines += [f"  {key}: {' -> '.join(pair)}" for key, pair in zip(changed, told, strict=True)]
    lines += [older(side, scale, recipe, facts.old) for side, facts in zip(sides, (a, b), strict=True) if facts.old]
    if unlike := differing(a, b):
        lines += [f"the measures are not comparable; on the two sides differ: {', '.join(unlike)}"]
    return "\n".join([*lines, *aligned([[word.format(**names) for word in HEADER], *rows(a, b)])])


def older(side: Side, scale: str, recipe: str, stages: Sequence[str]) -> str:
    """A line about results that do not belong to the training, or the settings, beside which they stand."""
    where = "" if side.revision is None else f" where {side.name} is the working tree"
    again = dvc("repro", scale, *(f"{stage}@{recipe}" for stage in stages))
    return f"older at {side.name} than what they are made from: {', '.join(stages)}; made again{where} by: {again}"


# --- The picture ---------------------------------------------------------------------------------------------------


def checkpoint(side: Side, path: str, folder: Path) -> Path:
    """The DVC output `path` as it is on `side`: the working tree's own file, or a copy in `folder`. Raises Fault.

    The copy comes out of DVC's cache or, where it is not there, the default remote.
    """
    if side.revision is None:
        return ROOT / path
    copy = folder / f"{side.revision}-{path.replace('/', '-')}"
    try:
        files = files_at(ROOT, side.revision)
        recorded = files.info(path)["md5"]
        files.get_file(path, str(copy))
    except Exception as error:  # those of DVC and of the libraries behind its remotes have no class in common
        whose = "`dvc push` where it was trained shares it, an experiment's `dvc exp push`; then `dvc pull` or `dvc exp pull`"
        raise Fault(
            f"{path} of {side.name} is neither in DVC's cache nor in its remote ({error}); {whose} fetches it"
        ) from error
    # DVC checks nothing that it does not put into the cache.
    if hashlib.md5(copy.read_bytes(), usedforsecurity=False).hexdigest() != recorded:
        mended = "`python -m tools.verify --repair` where it is whole mends the remote"
        raise Fault(f"{path} of {side.name} is damaged in DVC's cache or remote; {mended}")
    return copy


@cache
def files_at(root: Path, revision: str) -> DVCFileSystem:
    """The files of `revision`, those that DVC keeps too."""
    return DVCFileSystem(str(root), rev=revision)


def drawn(sides: tuple[Side, Side], scale: str, recipe: str, count: int, folder: Path) -> list[np.ndarray]:
    """The first `count` images of the EMA weights of each side: uint8 (count, H, W, C) each, of all classes in turn.

    Both by the sampler, seed and precision of the second side's evaluation; each side's guidance, autoguidance and guide are
    its own. Raises Fault.
    """
    own = [validate(EvaluationConfig, side.read(settings_file(scale, recipe)), "evaluation") for side in sides]
    common = own[1]
    models = [measured_model(side, scale, recipe, common.precision, folder) for side in sides]
    ways = [(settings.guidance, common.batch_size, settings.autoguidance) for settings in own]
    both = zip(models, ways, strict=True)
    return [model.sample(count, common.chosen, common.seed, None, *way) for model, way in both]


def measured_model(side: Side, scale: str, recipe: str, precision: str, folder: Path) -> Model:
    """The EMA weights of `side`, with the guide that its measured samples were led away from. Raises Fault."""
    guide = side.read(f"metrics/{scale}/{recipe}/evaluate.json").get("guide")
    names = ["ema.safetensors", *([guide] if guide else [])]
    files = [checkpoint(side, f"models/{scale}/{recipe}/{name}", folder) for name in names]
    return load(files[0], Paths(scale, recipe).runtime().device, precision, files[1] if guide else None)


def settings_file(scale: str, recipe: str) -> str:
    """Where the settings of a recipe's evaluation lie, relative to the checkout."""
    return f"metrics/{scale}/{recipe}/config/evaluation.json"


def label(recipe: str, side: Side) -> str:
    """What stands beside a row of images, in short lines."""
    return "\n".join([*textwrap.wrap(recipe.replace("_", " "), LABEL), *textwrap.wrap(side.name, LABEL)])


# --- The command ---------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.compare", description=__doc__, formatter_class=formatter)
    accepted = f"a commit, branch or tag, an experiment, or {WORKSPACE}, this working tree"
    parser.add_argument("a", metavar="A", help=accepted)
    parser.add_argument("b", metavar="B", nargs="?", default=WORKSPACE, help=f"what is judged (default: {WORKSPACE})")
    parser.add_argument("--scale", choices=SCALES, default="demo", help="default: demo")
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="default: all that are measured on both sides")
    parser.add_argument("--images", type=positive, default=8, help="columns of the picture (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("compare.png"), help="the picture (default: compare.png)")
    args = parser.parse_args()
    if args.out.suffix != ".png":
        parser.error(f"--out {args.out}: accepted: a file name that ends in .png")
    if args.images > MAX_COLUMNS:
        parser.error(f"--images {args.images}: accepted: 1 to {MAX_COLUMNS}")
    return args


def measured(side: Side, scale: str) -> list[str]:
    """The recipes of params.yaml that have been evaluated on `side`. Raises Fault if that is no YAML."""
    recipes = side.read(str(shown(params_file(scale)))).get("recipes") or {}
    needed = [(recipe, (f"metrics/{scale}/{recipe}/evaluate.json", settings_file(scale, recipe))) for recipe in recipes]
    return [recipe for recipe, files in needed if all(read_file(side.revision, file) is not None for file in files)]


def chosen(sides: tuple[Side, Side], scale: str, asked: list[str] | None) -> list[str]:
    """The recipes to compare, in the order of params.yaml. Raises Fault if there are none, or not all that are `asked` for."""
    known = [measured(side, scale) for side in sides]
    both = [recipe for recipe in known[1] if recipe in known[0]]
    if not both:
        have = " and ".join(f"{side.name} has {', '.join(names) or 'none'}" for side, names in zip(sides, known, strict=True))
        raise Fault(
            f"no recipe of the scale {scale} is measured on both sides: {have}; accepted: revisions that hold the same "
            f"metrics/{scale}/<recipe>/evaluate.json, which `dvc repro` makes and git keeps"
        )
    for recipe in asked or []:
        if recipe not in both:
            raise Fault(
                f"--recipes {recipe}; accepted: {', '.join(both)}, those measured at both {sides[0].name} and {sides[1].name}"
            )
    return [recipe for recipe in both if not asked or recipe in asked]


def main(args: argparse.Namespace) -> None:
    check_out(args.out)
    sides = side_of(args.a), side_of(args.b)
    recipes = chosen(sides, args.scale, args.recipes)
    for recipe in recipes:
        print(report(sides, args.scale, recipe), end="\n\n", flush=True)
    print(MEANING)
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in recipes:
            try:
                images = drawn(sides, args.scale, recipe, args.images, Path(folder))
            except Fault as fault:
                print(f"{recipe} is not in the picture: {fault}")
                continue
            if images[0].shape != images[1].shape:
                print(
                    f"{recipe}: images of another shape start from other noise; those above each other have nothing in common"
                )
            pictures += [(label(recipe, side), row) for side, row in zip(sides, images, strict=True)]
    if pictures:
        save_labelled_rows(args.out, pictures, f"{args.scale}: {args.a} above {args.b}, the same {args.images} seeds")
        print(f"wrote {args.out}: for each recipe {args.a} above {args.b}, the same {args.images} seeds")


if __name__ == "__main__":
    with faults_reported():
        main(arguments())
