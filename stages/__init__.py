"""One short script a stage, run as `python -m stages.NAME RECIPE --scale SCALE`: read settings, call src, write outputs.

Here is what all of them share: where things lie, how settings are read, and how a stage starts.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Annotated, Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
# This checkout's own library comes first: a queued or temporary experiment runs in a copy of the project and must not
# import the library of the checkout that is installed.
sys.path.insert(0, str(ROOT / "src"))

from pydantic import ConfigDict, Field, field_validator  # noqa: E402

from ddpm.base.faults import Fault, faults_reported  # noqa: E402
from ddpm.base.files import check_regular, read_json  # noqa: E402
from ddpm.base.settings import NAME, NAME_IN_WORDS, Count, Model, Strict, Whole, validate  # noqa: E402

# DVC names the main checkout in DVC_ROOT even inside a temporary experiment's copy: resumable state and archives stay there.
WORK = Path(os.environ.get("DVC_ROOT") or ROOT) / "work"
DATA_HOME = Path(os.environ.get("DATA_HOME") or WORK / "downloads")
SCALES = ("demo", "small", "gpu", "full")


class RuntimeConfig(Strict):
    """How this machine does the work: the section `runtime`. Never changes a result and is tracked by no stage."""

    device: str = Field(description="auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:[0-9]{1,4})?)$")
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(description="processes for preprocessing, 1 to 1024; 0 = one a core")
    save_seconds: Annotated[float, Field(gt=0)] = Field(description="seconds between saves of the training state, more than 0")
    preview_every: Annotated[float, Field(ge=0)] = Field(120.0, description="seconds between previews, 0 or more; 0 = none")
    tensorboard: bool = Field(False, description="true or false")
    launcher: str = Field(description='"" = one process, or the start of a command that starts several, e.g. torchrun ...')

    @field_validator("launcher")
    @classmethod
    def _words(cls, launcher: str) -> str:
        try:
            words = shlex.split(launcher)
        except ValueError as error:
            raise ValueError(f"runtime.launcher = {launcher!r}: {error}; accepted: a command as a shell reads it") from None
        if launcher and ("\0" in launcher or not words or not shutil.which(words[0])):
            raise ValueError(
                f'runtime.launcher = {launcher!r}: no such command; accepted: "", or the start of a command such as '
                "torchrun --nproc-per-node=2"
            )
        return launcher


class _Facts(Strict):
    """What the json files about a recipe's data must say at least."""

    model_config = ConfigDict(extra="ignore")

    sha256: str = Field(description="64 hexadecimal digits", pattern="^[0-9a-f]{64}$")


class Manifest(_Facts):
    """What is known of the raw images."""

    dataset: str = Field(description="a data set's name")
    origin: str = Field(description="a sentence")
    name: str = Field(description="a file's name")
    size: Whole = Field(description="bytes, 0 or more")
    heldout_sha256: str | None = Field(None, description="64 hexadecimal digits, or null", pattern="^[0-9a-f]{64}$")
    matches_official: bool = Field(description="true or false")
    shareable: bool = Field(description="true or false")


class Packed(_Facts):
    """What is known of packed images."""

    count: Count = Field(description="images, 1 or more")
    labels_sha256: str | None = Field(description="64 hexadecimal digits, or null", pattern="^[0-9a-f]{64}$")


class Stats(Packed):
    """What is known of the packed training images."""

    size: Count = Field(description="side of the images in pixels, 1 or more")
    channels: Count = Field(description="1 or 3", le=3)
    mean: list[float] = Field(description="a number a channel", min_length=1)
    std: list[float] = Field(description="a number a channel", min_length=1)
    dataset: str = Field(description="a data set's name")
    origin: str = Field(description="a sentence")


FACTS: dict[str, type[Strict]] = {"manifest.json": Manifest, "stats.json": Stats, "heldout.json": Packed}


class Paths:
    """Where the files of one recipe at one scale lie, and what its settings say."""

    def __init__(self, scale: str, recipe: str) -> None:
        self.scale, self.recipe = scale, check_name(recipe)
        self.data = ROOT / "data" / scale / recipe  # git-tracked facts about the data: manifest.json and stats.json
        self.metrics = ROOT / "metrics" / scale / recipe  # numbers and pictures
        self.seconds = ROOT / "metrics" / scale / "seconds" / recipe  # measured times, no outputs: no second run repeats them
        self.models = ROOT / "models" / scale / recipe  # the checkpoints
        self.ema = self.models / "ema.safetensors"  # the one that most figures draw from
        self.work = WORK / scale / recipe  # scratch: packed images and training states

    def raws(self) -> list[Path]:
        """The weights of the kept steps, in their order. Raises Fault if there are none."""
        if files := sorted(self.models.glob("raw-*.safetensors")):
            return files
        how = "`dvc pull` fetches shared checkpoints, `dvc repro` trains them"
        raise Fault(f"{shown(self.models)}: no raw-*.safetensors here; {how}")

    def averages(self) -> dict[Path, Path]:
        """Of the files of `raws`, in their order, those whose average (EMA) is here too, and the average. Raises Fault."""
        raws = self.raws()
        found = {raw: raw.with_name(raw.name.replace("raw", "ema", 1)) for raw in raws} | {raws[-1]: self.ema}
        return {raw: average for raw, average in found.items() if average.exists()}

    def guide(self, autoguidance: float) -> Path | None:
        """The weights that samples are guided away from: those of the last kept step before the end, averaged where their
        average is here; None if `autoguidance` is 1, which is none. Raises Fault."""
        if autoguidance == 1:
            return None
        *earlier, last = self.raws()
        if not earlier:
            raise Fault(
                f"autoguidance = {autoguidance:g}: {shown(self.models)} has no weights of a step before {last.stem}; accepted: "
                "1, or train.checkpoints with a step before the last"
            )
        return self.averages().get(earlier[-1], earlier[-1])

    def facts(self, name: str, maker: str) -> dict[str, Any]:
        """A git-tracked json file of the recipe's data, made by the stage `maker`, checked. Raises Fault."""
        path, made = self.data / name, f"it is made by: dvc repro {maker}@{self.recipe}"
        facts = read_facts(path, made)
        if name in FACTS:
            try:
                validate(FACTS[name], facts)
            except Fault as fault:
                raise Fault(f"{shown(path)}: {fault}; {made}") from None
        return facts

    def settings(self, part: str, kind: type[Model]) -> Model:
        """The resolved settings `part` (data, train or figures) of the recipe, as the stage config left them."""
        values = self.resolved(part)
        # What the stage config derives from settings stands beside them, for stages that cannot import the room that knows it.
        return self.checked(part, kind, {key: value for key, value in values.items() if key in kind.model_fields})

    def checked(self, part: str, kind: type[Model], values: dict[str, Any]) -> Model:
        """`values`, which are or follow from the settings `part`, as a `kind`. Raises Fault, which names their file."""
        try:
            return validate(kind, values, part)
        except Fault as fault:
            made = f"python -m stages.config {self.recipe} --scale {self.scale}"
            raise Fault(f"{shown(self.metrics / 'config' / f'{part}.json')}: {fault}; it is made by: {made}") from None

    def resolved(self, part: str) -> dict[str, Any]:
        """The settings `part` as they stand in the file. Raises Fault."""
        made = f"it is made by: python -m stages.config {self.recipe} --scale {self.scale}"
        return read_facts(self.metrics / "config" / f"{part}.json", made)

    def runtime(self) -> RuntimeConfig:
        """The section `runtime` of params.yaml."""
        return validate(RuntimeConfig, load_params(self.scale).get("runtime"), "runtime")


def read_facts(path: Path, made: str) -> dict[str, Any]:
    """The object in the JSON file `path`; `made`: what makes it again, for the message. Raises Fault."""
    if not os.path.lexists(path):
        raise Fault(f"{shown(path)} is missing; {made}")
    return read_json(path, made, shown(path))


def check_name(recipe: str) -> str:
    """`recipe`, whose name becomes part of paths and commands. Raises Fault if it cannot."""
    if not re.fullmatch(NAME, recipe):
        raise Fault(f"recipe {recipe!r}; accepted: a name of {NAME_IN_WORDS}")
    return recipe


def shown(path: Path) -> Path:
    """`path` as messages name it: relative to the checkout where it lies in it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def expanded(written: str) -> Path:
    """The path that a setting names: $DATA_HOME, other variables and ~ are expanded, a relative one starts at the checkout."""
    filled = Template(written).safe_substitute(os.environ | {"DATA_HOME": str(DATA_HOME)})
    return WORK.parent / Path(filled).expanduser()  # an absolute path stands for itself


def params_file(scale: str) -> Path:
    """The params.yaml of `scale`."""
    return ROOT / ("params.yaml" if scale == "demo" else f"{scale}/params.yaml")


def load_params(scale: str) -> dict[str, Any]:
    """The parsed params.yaml of `scale`. Raises Fault if it is no YAML."""
    path = params_file(scale)
    check_regular(path)
    try:
        params = load_yaml(path.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no text, a number of thousands of digits, too deep
        raise Fault(f"{shown(path)}: {error}") from None
    if not isinstance(params, dict):
        raise Fault(f"{shown(path)}: holds {type(params).__name__}; accepted: sections of settings")
    return params


class _Yaml12(yaml.SafeLoader):
    """DVC writes YAML 1.2, where 1e-05 is a number and `on` a string; PyYAML reads 1.1, where they are not."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own way)
        first: [pair for pair in pairs if pair[0].rpartition(":")[2] not in ("int", "float", "bool", "timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))  # 010 is ten


_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7_]+|0x[0-9a-fA-F_]+", "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
):
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Yaml12.add_constructor("tag:yaml.org,2002:int", _Yaml12.integer)


def load_yaml(text: str) -> Any:
    """Parse YAML 1.2 scalars as DVC does. Executes nothing."""
    return yaml.load(text, Loader=_Yaml12)


def stage(main: Callable[[Paths], None], description: str) -> None:
    """Run `main` for the recipe and scale of the command line; a Fault becomes one message and exit status 1."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("recipe", help="a name in recipe_names of params.yaml")
    parser.add_argument("--scale", choices=SCALES, default="demo", help="whose params.yaml (default: demo)")
    args = parser.parse_args()
    with faults_reported():
        main(Paths(args.scale, args.recipe))
