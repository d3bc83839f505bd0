"""The house: rooms import one way, the pipeline's lists are what the code imports, and the files that must agree do."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm.training.fingerprint import FINGERPRINTED
from stages import SCALES, load_params, params_file

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "src" / "ddpm"
# What each room, or module that stands alone, may import of the others: a room, or some modules of it.
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "machine": {"base"},
    "model": {"base"},
    "data": {"base"},
    "training": {"base", "machine", "model"},
    "sampling": {"base", "machine", "model"},
    "figures": {"base", "sampling.settings", "sampling.grid"},
    "evaluation": {"base", "machine", "model", "sampling"},
    "editing": {"model", "sampling"},
    "recipe": {"base", "data.settings", "training.settings", "figures.settings", "evaluation.settings"},
}


def module_file(module: str) -> Path | None:
    """The file of a dotted name such as ddpm.base.files, or None if this project has no such module."""
    for top in (ROOT / "src", ROOT):
        path = top.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return file
    return None


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules of this project that the file imports at any depth; `from a import b` gives a and, where it is a module, a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if name.split(".")[0] in ("ddpm", "stages", "tools") and module_file(name))


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
        waiting += [name.rpartition(".")[0], *imports(path)] if "." in name else [*imports(path)]
    return found - {LIBRARY / "__init__.py"}


def room_of(path: Path) -> str:
    """The room that a file of the library lies in, or the module that stands alone."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def pipeline() -> dict[str, Any]:
    """dvc.yaml as written, templates unresolved."""
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    return parsed


STAGES = pipeline()["stages"]


def rooms_of(stage: str) -> list[str]:
    """The rooms, and modules that stand alone, that a stage depends on; the stage config depends on all."""
    library = [dep.removeprefix("src/ddpm/") for dep in STAGES[stage]["deps"] if dep.startswith("src/ddpm/")]
    rooms = [dep.removesuffix(".py") for dep in library]
    return rooms or sorted(path.name for path in LIBRARY.iterdir() if path.is_dir() and path.name != "__pycache__")


# --- The library ---------------------------------------------------------------------------------------------------


def test_rooms_import_downwards_only() -> None:
    files = [path for path in LIBRARY.rglob("*.py") if path != LIBRARY / "__init__.py"]
    assert {room_of(path) for path in files} == set(MAY_IMPORT)
    for path in files:
        room = room_of(path)
        for name in imports(path):
            top, _, inner = name.partition(".")
            assert top == "ddpm", f"{path}: the library knows nothing of {top}"
            allowed = {inner, inner.split(".")[0]} & (MAY_IMPORT[room] | {room})
            assert allowed or inner in ("", *[other.split(".")[0] for other in MAY_IMPORT[room]]), f"{path} imports {name}"


def test_the_library_needs_no_dvc_and_figures_no_torch() -> None:
    for path in LIBRARY.rglob("*.py"):
        names = {node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        names |= {
            alias.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import) for alias in node.names
        }
        tops = {name.split(".")[0] for name in names}
        assert "dvc" not in tops, path
        if room_of(path) in ("figures", "data", "base"):
            assert "torch" not in tops, path


def test_samplers_take_any_denoiser() -> None:
    sampling = {"ddpm.sampling.samplers", "ddpm.sampling.grid"}
    for module in sampling:
        path = module_file(module)
        assert path is not None
        assert not {name for name in imports(path) if "unet" in name or "weights" in name}


# --- The pipeline's lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_s_imports_lie_in_what_it_lists(name: str) -> None:
    assert STAGES[name]["cmd"] == f"python -m stages.{name} ${{item.name}} --scale ${{scale}}"
    listed = {ROOT / dep for dep in STAGES[name]["deps"] if dep.startswith("stages/")}
    behind = files_behind(f"stages.{name}")
    assert {path for path in behind if path.is_relative_to(ROOT / "stages")} == listed, "scripts are listed one by one"
    outside = {path for path in behind if path.is_relative_to(LIBRARY) and room_of(path) not in rooms_of(name)}
    if name != "config":  # which lists the whole library
        assert not outside


@pytest.mark.parametrize("room", sorted({room for name in STAGES if name != "config" for room in rooms_of(name)}))
def test_every_file_of_a_listed_room_is_used_by_a_stage_that_lists_it(room: str) -> None:
    used: set[Path] = set().union(*(files_behind(f"stages.{name}") for name in STAGES if room in rooms_of(name)))
    assert set((LIBRARY / room).rglob("*.py")) - used == set()


def test_the_fingerprint_covers_the_rooms_that_train_depends_on() -> None:
    assert sorted(FINGERPRINTED) == sorted(rooms_of("train"))


def test_the_pipeline_is_short_and_every_scale_s_the_same() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert len(text.splitlines()) <= 245
    for scale in ("small", "gpu", "full"):
        copy = ROOT / scale / "dvc.yaml"
        if copy.exists():  # `make full` makes full's
            assert not copy.is_symlink(), "DVC cannot read links from git's history"
            assert copy.read_text() == text, f"cp dvc.yaml {scale}/dvc.yaml"


def test_no_output_is_listed_twice() -> None:
    """DVC draws a file twice that is both a stage's plot and a top-level one."""
    parsed = pipeline()
    assert set(parsed) == {"stages", "metrics"}
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                path = out if isinstance(out, str) else next(iter(out))
                assert not path.startswith("metrics/${scale}/seconds")


@pytest.mark.parametrize("name", STAGES)
def test_no_figure_has_an_output_that_costs_its_run_cache(name: str) -> None:
    """DVC restores no stage that has a plain output with `cache: false`; metrics and plots are exempt."""
    plain = [out for out in STAGES[name].get("outs", []) if isinstance(out, dict)]
    assert not plain or name in ("config", "download", "preprocess", "card"), "quick, and git is to show what they say"


# --- Settings ------------------------------------------------------------------------------------------------------


def nulls(values: Any) -> bool:
    if isinstance(values, (dict, list)):
        return any(nulls(value) for value in (values.values() if isinstance(values, dict) else values))
    return values is None


@pytest.mark.parametrize("scale", SCALES)
def test_settings_say_only_what_differs(scale: str) -> None:
    params = load_params(scale)
    assert not nulls(params)
    for name, recipe in params["recipes"].items():
        for key, value in recipe.get("train", {}).items():
            assert value != params["train"][key], f"recipes.{name}.train.{key} is the default"


def test_the_scales_have_the_same_defaults() -> None:
    def keys(values: Any, prefix: str = "") -> set[str]:
        if not isinstance(values, dict):
            return {prefix}
        return set().union(*(keys(value, f"{prefix}.{key}") for key, value in values.items()))

    for scale in SCALES:
        params, demo = load_params(scale), load_params("demo")
        for part in ("train", "figures", "runtime"):
            assert keys(params[part]) == keys(demo[part]), params_file(scale)
        assert list(params) == list(demo)
        known = [name for name in demo["recipes"] if name in params["recipes"]]
        assert list(params["recipes"]) == known, "of the demo's, in its order"


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_knows_where_it_stands(scale: str) -> None:
    params = load_params(scale)
    assert params["scale"] == scale
    assert (ROOT / params["file"]) == params_file(scale)
    assert (params_file(scale).parent / params["root"]).resolve() == ROOT
