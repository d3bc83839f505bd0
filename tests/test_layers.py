"""The pipeline's file lists against the code's real imports, the library's levels, and the files that must agree."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common import SCALES, load_params, params_file

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"ddpm": ROOT / "src" / "ddpm", "stages": ROOT / "stages"}
# A module may import only modules of lower levels, and of the project only the library.
LEVELS = [
    {"compilation", "config", "distributed", "garments", "images", "memory", "parallel"}
    | {"precision", "progress", "schedule", "seeds", "sprites", "timing"},
    {"archives", "data", "diffusion", "ema", "fetch", "inference", "unet"},
    {"checkpoint", "preprocess", "samplers", "synthetic"},
    {"editing", "training"},
    {"states"},
]


def module_file(module: str) -> Path | None:
    """The file of a dotted name such as ddpm.config, or None if this project has no such module."""
    package, _, rest = module.partition(".")
    if package not in PACKAGES:
        return None
    path = PACKAGES[package] / (rest.replace(".", "/") + ".py" if rest else "__init__.py")
    return path if path.exists() else None


def imports(path: Path) -> set[str]:
    """Dotted names that the file imports at any depth; `from a import b` gives a and, where it is a module, a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_behind(module: str) -> set[Path]:
    """Every file of this project that running `module` loads, packages' __init__.py too."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = module_file(name)
        if path is None or path in found:
            continue
        found.add(path)
        waiting += [name.partition(".")[0], *imports(path)]
    return found


def pipeline() -> dict[str, Any]:
    """dvc.yaml as written, templates unresolved."""
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    return parsed


@pytest.mark.parametrize("name", pipeline()["stages"])
def test_a_stage_depends_on_exactly_the_files_that_it_imports(name: str) -> None:
    stage = pipeline()["stages"][name]
    assert stage["cmd"] == f"python -m stages.{name} ${{item.name}} --scale ${{scale}}"
    listed = [dep for dep in stage["deps"] if dep.endswith(".py")]
    assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for path in files_behind(f"stages.{name}"))


def test_the_library_imports_downwards_only() -> None:
    level_of = {f"ddpm.{name}": level for level, names in enumerate(LEVELS) for name in names}
    modules = {f"ddpm.{path.stem}" for path in PACKAGES["ddpm"].glob("*.py") if path.stem != "__init__"}
    assert modules == set(level_of), "every module of src/ddpm has a level, and every level's module exists"
    for module, level in level_of.items():
        path = module_file(module)
        assert path is not None
        names = imports(path)
        assert not {name for name in names if name.partition(".")[0] in {"stages", "tests", "dvc"}}, module
        above = {name for name in names if level_of.get(name, -1) >= level}
        assert not above, f"{module} imports {above}"


def test_samplers_take_any_denoiser() -> None:
    assert module_file("ddpm.unet") not in files_behind("ddpm.samplers")


def test_the_scales_share_one_pipeline() -> None:
    for scale in ("small", "full"):
        copy = ROOT / scale / "dvc.yaml"
        assert not copy.is_symlink(), "DVC cannot read links from git's history"
        ours, _, lists = (ROOT / "dvc.yaml").read_text().partition("\nmetrics:\n")
        assert lists
        assert copy.read_text().partition("\nmetrics:\n")[0] == ours, f"copy the stages of dvc.yaml to {scale}/dvc.yaml"


def keys(values: Any, prefix: str = "") -> set[str]:
    """Dotted names of all settings below `values`."""
    if not isinstance(values, dict):
        return {prefix}
    return {prefix}.union(*(keys(value, f"{prefix}.{key}") for key, value in values.items()))


def test_the_scales_have_the_same_settings() -> None:
    demo = keys(load_params("demo"))
    for scale in SCALES:
        assert keys(load_params(scale)) == demo, params_file(scale)


@pytest.mark.parametrize("scale", SCALES)
def test_every_default_can_be_overridden(scale: str) -> None:
    params = load_params(scale)
    assert set(params["recipe_names"]) <= set(params["recipes"])
    for recipe in params["recipes"].values():
        for part in ("train", "figures"):
            assert list(recipe[part]) == list(params[part])


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_knows_where_it_stands(scale: str) -> None:
    params = load_params(scale)
    assert params["scale"] == scale
    assert (ROOT / params["file"]) == params_file(scale)
    assert (params_file(scale).parent / params["root"]).resolve() == ROOT


@pytest.mark.parametrize("scale", SCALES)
def test_charts_show_every_recipe(scale: str) -> None:
    """Lists outside the stages cannot use the matrix: a new recipe has to be added to them by hand."""
    parsed = yaml.safe_load(params_file(scale).with_name("dvc.yaml").read_text())
    recipes = load_params(scale)["recipe_names"]
    loss = next(plot["loss-${scale}"] for plot in parsed["plots"] if isinstance(plot, dict))
    folder = "${root}/metrics/${scale}"
    assert list(loss["y"]) == [f"{folder}/{recipe}/loss.csv" for recipe in recipes]
    for recipe in recipes:
        assert {f"{folder}/{recipe}/speed.json", f"{folder}/{recipe}/timing.json"} <= set(parsed["metrics"])
        assert f"{folder}/{recipe}/timing.png" in parsed["plots"]


def test_no_output_is_listed_twice() -> None:
    """DVC draws a file twice that is both a stage's plot and a top-level one."""
    parsed = pipeline()
    top = {str(plot) for plot in parsed["plots"]} | set(parsed["metrics"])
    for stage in parsed["stages"].values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                path = out if isinstance(out, str) else next(iter(out))
                assert "${root}/" + path.replace("${item.name}", "cifar10") not in top
