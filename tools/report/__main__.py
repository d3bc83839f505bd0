"""Write one self-contained page about the recipes of a scale, or about two revisions of them beside each other.

examples:
  python -m tools.report                                 this working tree, demo scale -> report.html
  python -m tools.report --scale small --recipes cifar10 celeba
  python -m tools.report --rev main                      what the branch main holds
  python -m tools.report --rev main --rev puffy-daks     the branch main and an experiment (`dvc exp list` names them)
  python -m tools.report --rev HEAD --rev workspace      the last commit and this working tree

The page asks nothing of any other address, so it can be mailed. The same results give the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import amount, write_text
from stages import ROOT, SCALES
from tools import check_out
from tools.compare import WORKSPACE, side_of
from tools.report.page import page
from tools.report.results import Results, params_of

LIMIT = 15_000_000  # bytes that mail takes and a phone opens


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.report", description=__doc__, formatter_class=formatter)
    parser.add_argument("--scale", choices=SCALES, default="demo", help="default: demo")
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="default: all of the scale")
    accepted = f"a commit, branch or tag, an experiment, or {WORKSPACE}, this working tree, which is the default; twice for two"
    parser.add_argument("--rev", action="append", metavar="REV", help=accepted)
    parser.add_argument("--out", type=Path, default=ROOT / "report.html", help="default: report.html in the checkout")
    args = parser.parse_args()
    if len(args.rev or []) > 2:
        parser.error(f"--rev is given {len(args.rev)} times; accepted: once or twice")
    if args.out.suffix != ".html":
        parser.error(f"--out {args.out}: accepted: a file name that ends in .html")
    return args


def chosen(scale: str, revisions: list[str], asked: list[str] | None) -> list[list[Results]]:
    """The results of each recipe, one for each revision. Raises Fault if there are none, or not all that are `asked` for."""
    sides = [side_of(name) for name in revisions]
    known = list(dict.fromkeys(name for side in sides for name in params_of(side, scale)["recipe_names"]))
    for recipe in asked or []:
        if recipe not in known:
            raise Fault(f"--recipes {recipe}; accepted: {', '.join(known)}")
    recipes = [[Results(side, scale, name) for side in sides] for name in known if not asked or name in asked]
    if not any(results.json("train.json") for each in recipes for results in each):
        where = " and ".join(revisions)
        raise Fault(f"no recipe of the scale {scale} has been trained at {where}; `make {scale}` trains them all")
    return recipes


def main(args: argparse.Namespace) -> None:
    check_out(args.out)
    text = page(args.scale, chosen(args.scale, args.rev or [WORKSPACE], args.recipes))
    write_text(args.out, text)
    size = len(text.encode())
    print(f"wrote {args.out}: {amount(size)}")
    if size > LIMIT:
        print(f"That is more than {amount(LIMIT)}: --recipes shows fewer of them")


if __name__ == "__main__":
    with faults_reported():
        main(arguments())
