"""The experiments of a commit on one screen: for each recipe the settings that differ from the commit's, and the measures.

examples:
  python -m tools.experiments                           those of the last commit, and this working tree
  python -m tools.experiments --rev main --scale small --recipes cifar10
  python -m tools.compare main narrow                   then two of them with a verdict, and their samples

An experiment stands under the recipes that it changes. `dvc exp show` has every number of every recipe, a column for each.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from itertools import chain

from ddpm.base.faults import Fault, faults_reported
from stages import SCALES, params_file, shown
from tools.compare import WORKSPACE, Facts, Side, differing, facts_of, readable, side_of, standard_error
from tools.revisions import experiments
from tools.tables import aligned

WIDTH = 160  # columns of a terminal
NAME = 28  # letters of an experiment's name
KEYS = {
    "kid": "KID", "fd": "FD", "coverage": "coverage", "accuracy": "accuracy", "bits_per_dim": "bits/dim", "loss": "loss",
    "seconds to train": "seconds",
}  # fmt: skip
OTHERWISE = "* not measured as the first line was; what differs: python -m tools.compare {a} NAME"
OUTDATED = "outdated: measured before the training that stands beside it"


def listing(base: Side, others: list[Side], scale: str, recipe: str) -> list[str]:
    """The table of `recipe`: a line for `base`, and for each of the others that differs there; no line if none does."""
    known = facts_of(base, scale, recipe)
    found = [(side, facts_of(side, scale, recipe).beside(known)) for side in others]
    changed = [(side, facts) for side, facts in found if facts.settings and facts._replace(old=()) != known._replace(old=())]
    if not changed:
        return []
    sides = [(base, known), *changed]
    keys = [key for key in KEYS if any(key in facts.quality | facts.others for _, facts in sides)]
    table = [[recipe, *(KEYS[key] for key in keys)]]
    table += [[shortened(side.name), *(cell(key, facts, known) for key in keys)] for side, facts in sides]
    lines = aligned([[*row, ""] for row in table])
    left = max(map(len, lines)) + 3
    lines[0] = f"{lines[0]:{left}}settings that differ"
    made = [lines[0], lines[1]]
    for line, (_, facts) in zip(lines[2:], changed, strict=True):
        settings = wrapped(facts, known, max(40, WIDTH - left))
        made += [f"{start:{left}}{text}".rstrip() for start, text in zip([line, *[""] * len(settings)], settings, strict=False)]
    return made


def wrapped(facts: Facts, base: Facts, width: int) -> list[str]:
    """The settings that differ from those of `base`, in lines of at most `width` letters; one empty line if none do."""
    keys = [key for key in {**base.settings, **facts.settings} if base.settings.get(key) != facts.settings.get(key)]
    told = ", ".join(f"{key} = {json.dumps(facts.settings[key]) if key in facts.settings else 'unset'}" for key in keys)
    return textwrap.wrap(told, width) or [""]


def cell(key: str, facts: Facts, base: Facts) -> str:
    """A measure with its standard error, and a star where it was not measured as that of `base` was."""
    if key in facts.others:
        return readable(facts.others[key])
    if "evaluate" in facts.old:
        return "outdated" if key in facts.quality else ""
    error = standard_error(key, facts.quality)
    star = "*" if key in facts.quality and facts is not base and differing(facts, base) else ""
    return readable(facts.quality.get(key)) + (f" ± {error:.2g}" if error is not None else "") + star


def shortened(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 3] + "..."


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.experiments", description=__doc__, formatter_class=formatter)
    parser.add_argument("--rev", default="HEAD", metavar="REV", help="the commit that they started from (default: HEAD)")
    parser.add_argument("--scale", choices=SCALES, default="demo", help="default: demo")
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="default: all that run")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    base = side_of(args.rev)
    if base.revision is None:
        raise Fault(f"--rev {args.rev}; accepted: a commit, branch or tag")
    others = [side_of(WORKSPACE), *(Side(name, commit) for name, commit in experiments(base.revision).items())]
    file = str(shown(params_file(args.scale)))
    known = [side.read(file).get("recipe_names") or [] for side in (base, *others)]
    names = list(dict.fromkeys(chain(*known)))
    for recipe in args.recipes or []:
        if recipe not in names:
            raise Fault(f"--recipes {recipe}; accepted: {', '.join(names)}")
    tables = [listing(base, others, args.scale, recipe) for recipe in args.recipes or names]
    text = "\n".join(line for table in tables if table for line in (*table, ""))
    print(text or f"no experiment of {args.rev} differs from it; `dvc exp list --all` names those of all commits")
    notes = {"*": OTHERWISE.format(a=args.rev), "outdated": OUTDATED}
    print("".join(f"{note}\n" for word, note in notes.items() if word in text), end="")


if __name__ == "__main__":
    with faults_reported():
        main(arguments())
