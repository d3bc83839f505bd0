"""What every stage shares: where things lie, how settings are read, how results are written."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ddpm.config import ConfigError, DataConfig, FiguresConfig, Model, RuntimeConfig, TrainSettings, validate

ROOT = Path(__file__).resolve().parents[1]
# DVC names the main checkout in DVC_ROOT even inside a temporary experiment's copy: resumable state and archives stay there.
WORK = Path(os.environ.get("DVC_ROOT") or ROOT) / "work"
DATA_HOME = Path(os.environ.get("DATA_HOME") or WORK / "downloads")
SCALES = ("demo", "small", "full")


@dataclass(frozen=True)
class Paths:
    """Where the files of one recipe at one scale lie, relative to the checkout."""

    scale: str
    recipe: str

    @property
    def data(self) -> Path:
        """Git-tracked facts about the data: manifest.json and stats.json."""
        return ROOT / "data" / self.scale / self.recipe

    @property
    def metrics(self) -> Path:
        return ROOT / "metrics" / self.scale / self.recipe

    @property
    def models(self) -> Path:
        return ROOT / "models" / self.scale / self.recipe

    @property
    def work(self) -> Path:
        """Scratch of this recipe: packed images and training states."""
        return WORK / self.scale / self.recipe

    def data_config(self) -> DataConfig:
        return self._config("data", DataConfig)

    def train_config(self) -> TrainSettings:
        return self._config("train", TrainSettings)

    def figures_config(self) -> FiguresConfig:
        return self._config("figures", FiguresConfig)

    def _config(self, part: str, kind: type[Model]) -> Model:
        path = self.metrics / "config" / f"{part}.json"
        if not path.exists():
            raise ConfigError(
                f"{path.relative_to(ROOT)} is missing; it is made by: "
                f"python -m stages.config {self.recipe} --scale {self.scale}"
            )
        return validate(kind, json.loads(path.read_text()), part)


def params_file(scale: str) -> Path:
    return ROOT / ("params.yaml" if scale == "demo" else f"{scale}/params.yaml")


def load_params(scale: str) -> dict[str, Any]:
    """The parsed params.yaml of `scale`."""
    return load_yaml(params_file(scale).read_text())


def runtime(scale: str) -> RuntimeConfig:
    return validate(RuntimeConfig, load_params(scale).get("runtime"), "runtime")


class _Yaml12(yaml.SafeLoader):
    """DVC writes YAML 1.2, where 1e-05 is a number and `on` a string; PyYAML reads 1.1, where they are not."""


_Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("int", "float", "bool", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9][0-9_]*|0o[0-7_]+|0x[0-9a-fA-F_]+)$"), list("-+0123456789")
)
_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)
_Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def _construct_int(loader: _Yaml12, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))  # 010 is ten


_Yaml12.add_constructor("tag:yaml.org,2002:int", _construct_int)


def load_yaml(text: str) -> Any:
    """Parse YAML 1.2 scalars as DVC does. Executes nothing."""
    return yaml.load(text, Loader=_Yaml12)


def write_json(path: Path, values: Any) -> None:
    """Write `values` to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def stage(main: Callable[[Paths], None], description: str) -> None:
    """Run `main` for the recipe and scale of the command line; expected faults become one message and exit status 1."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("recipe", help="a name in recipe_names of params.yaml")
    parser.add_argument("--scale", choices=SCALES, default="demo", help="whose params.yaml (default: demo)")
    args = parser.parse_args()
    with fault_to_exit():
        main(Paths(args.scale, args.recipe))


class fault_to_exit:
    """Turn an expected fault (of our checks, or a full disk) into its message and exit status 1, without a traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, (ConfigError, Fault)):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "the disk"
            print(f"error: {where}: {error.strerror}; make room, and the same command does the rest", file=sys.stderr)
            sys.exit(1)


class Fault(Exception):
    """Something the user can mend: the message says what and how."""
