"""Resolve and check a recipe's settings, so that a bad value stops here, before anything is deleted or computed."""

from ddpm.config import resolve
from stages.common import ROOT, Paths, load_params, params_file, runtime, stage, write_json


def main(paths: Paths) -> None:
    recipe, overridden = resolve(load_params(paths.scale), paths.recipe)
    runtime(paths.scale)
    if overridden:
        print(f"{params_file(paths.scale).relative_to(ROOT)}: these override the defaults: {', '.join(overridden)}")
    for part in ("data", "train", "figures"):
        write_json(paths.metrics / "config" / f"{part}.json", getattr(recipe, part).model_dump())


if __name__ == "__main__":
    stage(main, __doc__)
