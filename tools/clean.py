"""Remove the training states below work/ that belong to no present settings, as an old sweep leaves them behind.

Present are the settings of every recipe in params.yaml, and those in metrics/<scale>/<recipe>/config. States of a training
that is running stay, and so does what was set aside as damaged or foreign. Nothing is asked; every folder is named.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import TEMPORARY, amount, read_json
from ddpm.base.locks import claim
from ddpm.base.settings import validate
from ddpm.recipe import resolve
from ddpm.training.settings import TrainConfig, in_steps
from ddpm.training.states import OURS, state_key
from stages import SCALES, WORK, Paths, load_params, params_file, shown
from stages.config import contents

MARKS = ("key.json", "lock")  # whose states a folder holds, and who writes them


def present(paths: Paths) -> list[dict[str, Any]]:
    """The settings of the recipe's trainings as their states name them: of params.yaml, and as the stage config left them.

    Raises Fault where they cannot be read: then nobody knows what belongs to them.
    """
    params, asked, count = load_params(paths.scale), [], 0
    if (paths.metrics / "config/train.json").exists():
        asked.append(paths.resolved("train"))
    if paths.recipe in params.get("recipes", {}):
        checked, settings = resolve(params, paths.recipe, lambda name, data: contents(Paths(paths.scale, name), data))
        asked.append(settings["train"])
        count = checked.data.count
    if (paths.data / "stats.json").exists():
        count = paths.facts("stats.json", "preprocess")["count"]
    configs = [validate(TrainConfig, in_steps(settings, count), "train") for settings in asked]
    return [json.loads(json.dumps(state_key(config, "", "")["train"])) for config in configs]


def emptied(folder: Path, paths: Paths) -> tuple[int, str]:
    """Remove the states in `folder` if they belong to no present settings: the bytes freed, and a line about it."""
    size = sum(path.lstat().st_size for path in folder.iterdir())
    kept = f"kept    {shown(folder)}, {amount(size)}: "
    try:
        key = read_json(folder / "key.json", "nobody knows whose states these are", shown(folder / "key.json"))
        settings, now = key.get("train"), present(paths)
        if not isinstance(settings, dict):
            raise Fault("its key.json names no settings")
        if settings in now:
            return 0, f"{kept}of the present settings"
        lock = claim(folder / "lock", use="is writing them")
    except Fault as fault:
        return 0, kept + str(fault).replace("\n", "; ")
    with lock:
        ours = [path for path in folder.iterdir() if OURS.fullmatch(path.name) or path.match(TEMPORARY)]
        left = sorted({path.name for path in folder.iterdir()} - {path.name for path in ours})
        gone = [path for path in ours if not left or path.name not in MARKS]  # what is left there needs its marks
        freed = sum(path.lstat().st_size for path in gone)
        for path in gone:
            path.unlink()
    if not left:
        folder.rmdir()
    differs = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if now and now[-1].get(key) != value]
    stays = f"; kept there: {', '.join(left)}" if left else ""
    return freed, f"removed {shown(folder)}, {amount(freed)}: {', '.join(differs) or 'of no recipe that is known'}{stays}"


def main() -> None:
    """Look at all folders of states; print a line for each, and how much is freed."""
    freed = 0
    for folder in sorted(WORK.glob("*/*/train-*")):
        scale, recipe = folder.parts[-3:-1]
        if scale in SCALES and params_file(scale).exists() and folder.is_dir() and not folder.is_symlink():
            size, line = emptied(folder, Paths(scale, recipe))
            freed += size
            print(line)
    print(f"freed {amount(freed)} in {shown(WORK)}")


if __name__ == "__main__":
    argparse.ArgumentParser("python -m tools.clean", description=__doc__).parse_args()
    with faults_reported():
        main()
