"""Check the settings of all recipes that run, and write down this one's, before anything is deleted or computed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from ddpm.base.faults import Fault
from ddpm.base.files import amount, write_json
from ddpm.data.folder import FolderImages
from ddpm.data.settings import Contents, DataConfig
from ddpm.machine.device import pick_device
from ddpm.model.schedule import schedule_of
from ddpm.model.unet import build_network
from ddpm.recipe import DEFAULTS, Recipe, check, flattened, resolve, unreached
from stages import ROOT, SCALES, Paths, RuntimeConfig, expanded, load_params, load_yaml, params_file, shown, stage

KEYS = {"scale", "root", "file", "recipe_names", "conditional", "editing", "yardstick", *DEFAULTS, "recipes", "runtime"}
MOST_PARAMETERS = 20_000_000_000  # of a network: more takes a cluster, and other code
TRAINING_BYTES = 20  # a parameter: weights, gradients, Adam's two moments and the EMA, in fp32
FEWEST_HELDOUT = 6  # pictures: the stage evaluate looks for the five nearest others of each


def main(paths: Paths) -> None:
    params = load_params(paths.scale)
    if set(params) != KEYS:
        wrong = min(set(params) ^ KEYS)
        fault = "unknown key" if wrong in params else "missing"
        raise Fault(f"{shown(params_file(paths.scale))}: {wrong}: {fault}; accepted: {', '.join(sorted(KEYS))}")

    def look(recipe: str, data: DataConfig) -> Contents:
        return contents(Paths(paths.scale, recipe), data)

    recipes = check(params, look)
    for scale in SCALES:
        if params_file(scale).exists() and load_params(scale).get("recipe_names") == []:
            file = shown(params_file(scale))  # where a pipeline is empty, dvc runs those of the folders below, unasked
            raise Fault(f"{file}: recipe_names = []; accepted: one name or more, or dvc would run another scale in its place")
    for name, recipe in recipes.items():
        try:
            schedule_of(recipe.train)
        except Fault as fault:
            raise Fault(f"recipes.{name}: {fault}") from None
    check_data_home()
    device = check_machine(paths.runtime())
    for name, recipe in recipes.items():
        check_network(name, recipe, device)
        for key, written in (("source", recipe.data.source), ("heldout", recipe.data.heldout)):
            place(f"recipes.{name}.data.{key}", written)
        inception = place(f"recipes.{name}.evaluation.inception", recipe.evaluation.inception)
        if recipe.evaluation.inception not in ("", "official") and not inception.is_file():
            asked = f"recipes.{name}: evaluation.inception = {recipe.evaluation.inception!r}"
            print(f"warning: {asked}: no such file here, and the stage evaluate will ask for it", file=sys.stderr)
    checked, settings = resolve(params, paths.recipe, look)
    for part, values in settings.items():
        write_json(paths.metrics / "config" / f"{part}.json", values)
    own = params["recipes"][paths.recipe]
    if overrides := list(flattened({part: own[part] for part in DEFAULTS if part in own})):
        print(f"recipes.{paths.recipe} has its own: {', '.join(overrides)}")
    if checked.train.context_dim and paths.recipe in recipes and paths.recipe not in params["conditional"]:
        print(f"{paths.recipe} is conditional: with its name in the list `conditional`, the stage classes draws its classes")
    if before := committed(paths.scale):  # without git nothing says what is new
        for line in unreached(params, before):
            print(f"warning: {line}", file=sys.stderr)


def committed(scale: str) -> dict[str, Any]:
    """The settings as the last commit has them; empty where git knows of none."""
    command = ["git", "show", f"HEAD:./{shown(params_file(scale))}"]
    try:
        params = load_yaml(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode())
    except (OSError, subprocess.CalledProcessError, ValueError, yaml.YAMLError):
        return {}
    return params if isinstance(params, dict) else {}


def check_data_home() -> None:
    """Raise Fault for a DATA_HOME that would be one folder here and another in a copy of the checkout."""
    if (written := os.environ.get("DATA_HOME")) and not os.path.isabs(written):
        raise Fault(f"DATA_HOME = {written!r} in the environment; accepted: an absolute path (a shell expands ~ in no quotes)")


def place(key: str, written: str) -> Path:
    """The path that the setting `key` names. Raises Fault for the home of nobody."""
    try:
        return expanded(written)
    except RuntimeError as error:
        raise Fault(f"{key} = {written!r}: {error} accepted: ~, or ~ and the name of a user of this machine") from None


def check_machine(runtime: RuntimeConfig) -> torch.device:
    """The device that `runtime` asks for. Raises Fault for what this machine lacks: as the training would, but before it."""
    if runtime.tensorboard and find_spec("tensorboard") is None:
        raise Fault("runtime.tensorboard = True: it is not installed; accepted: false, or true after `pip install tensorboard`")
    try:
        return pick_device(runtime.device)
    except Fault as fault:
        raise Fault(f"runtime.{fault}") from None


def check_network(name: str, recipe: Recipe, device: torch.device) -> None:
    """Raise Fault if the network is beyond all machines; warn if to train it takes more memory than `device` has."""
    with torch.device("meta"):  # allocates nothing
        network = build_network(recipe.train, in_channels=recipe.data.channels)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    need = parameters * TRAINING_BYTES
    told = (
        f"recipes.{name}: the network of train.channels = {recipe.train.channels} and train.num_res = {recipe.train.num_res} "
        f"has {parameters:,} parameters; to train it takes {amount(need)} for weights, gradients, Adam's moments and the EMA"
    )
    if parameters > MOST_PARAMETERS:
        raise Fault(f"{told}; accepted: at most {MOST_PARAMETERS:,} parameters")
    if need > (memory := memory_of(device)):
        print(f"warning: {told}, and this machine's {device.type} has {amount(memory)}", file=sys.stderr)


def memory_of(device: torch.device) -> int:
    """Bytes that `device` has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def contents(paths: Paths, data: DataConfig) -> Contents:
    """What the recipe's folder of pictures holds or, where it is away, what manifest.json says of it. Raises Fault."""
    folder, manifest = place(f"recipes.{paths.recipe}.data.source", data.source), paths.data / "manifest.json"
    if not folder.exists() and manifest.exists():
        facts = paths.facts("manifest.json", "download")
        if facts["dataset"] == data.dataset and "classes" in facts:
            return Contents(tuple(facts["classes"]), facts["count"])
    key, beside = "source", place(f"recipes.{paths.recipe}.data.heldout", data.heldout)
    try:
        pictures = FolderImages(folder)
        if data.heldout:
            key = "heldout"
        heldout = len(FolderImages(beside) if data.heldout else FolderImages(folder, "heldout"))
    except Fault as fault:
        raise Fault(f"recipes.{paths.recipe}.data.{key} = {getattr(data, key)!r}: {fault}") from None
    if heldout < FEWEST_HELDOUT:
        what = "pictures to hold out" if data.heldout else f"of its {len(pictures)} pictures would be held out, a tenth by name"
        accepted = f"accepted: {FEWEST_HELDOUT} or more, which the measures need: more pictures, or more in data.heldout"
        raise Fault(f"recipes.{paths.recipe}.data.{key} = {getattr(data, key)!r}: {heldout} {what}; {accepted}")
    return Contents(pictures.classes, len(pictures))


if __name__ == "__main__":
    stage(main, __doc__)
