"""The results in README.md and docs/results.md are those of metrics/, and the tree in docs/ names the files that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.results import MEASURES, OTHERS, PAGE, PARTS, README, block, quality_table, rewritten, yardsticks

ROOT = Path(__file__).resolve().parents[1]
both = pytest.mark.parametrize("page", PARTS, ids=str)


@both
def test_results_tables_are_those_of_metrics(page: Path) -> None:
    assert rewritten(page) == (ROOT / page).read_text(), "stale: run `python -m tools.results`"


@pytest.mark.parametrize("tool", ["results", "links"])
def test_to_ask_for_help_writes_nothing(tool: str) -> None:
    pages = {page: page.stat().st_mtime_ns for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    for word in ("--help", "--nosuch"):
        command = [sys.executable, "-m", f"tools.{tool}", word]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, "usage: python -m tools." in done.stdout + done.stderr) == (2 * (word == "--nosuch"), True)
    assert {page: page.stat().st_mtime_ns for page in pages} == pages


@both
def test_tables_change_with_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: Path) -> None:
    """The comparison above can fail: other metrics give another block."""
    monkeypatch.setattr("tools.results.ROOT", tmp_path)
    assert block(page) not in (ROOT / page).read_text()


def measure(root: Path, recipe: str, dataset: str, **quality: float) -> None:
    """The files of a trained recipe of small/ that the table of quality reads; with `quality` it has been measured, too."""
    folder = root / "metrics/small" / recipe
    files = {"config/data.json": {"dataset": dataset}, "train.json": {}}
    if quality:
        floors = {"kid_floor": 0.001, "fd_floor": 1.25, "coverage_floor": 0.97, "near_copies_floor": 0.002}
        measures = {"kid_se": 0.0015, "fd": 20.5, "coverage": 0.5, "bits_per_dim": 4.217, "bits_per_dim_se": 0.031, "c_t": 1.26}
        copies = {"near_copies": 0.01, "copied": 0.0125, "copied_se": 0.0251}
        drawn = {"samples": 5000, "sampler": "unipc 10", "yardstick_sha256": "0123456789abcdef"}
        files["evaluate.json"] = floors | measures | copies | drawn | quality
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))


def rows_of(table: str) -> list[list[str]]:
    """The cells of a table, its head left out."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    return rows[2:]


def test_the_table_of_quality_is_sorted_by_kid_above_its_floor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Within a data set; the floor of `far` lies so high that it comes first, and what is not measured comes last."""
    for module in ("stages", "tools.results"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    names = ["unmeasured", "faces", "near", "far"]
    for scale, recipes in (("small", names), ("gpu", []), ("full", [])):
        (tmp_path / scale).mkdir()
        (tmp_path / scale / "params.yaml").write_text(json.dumps({"recipe_names": recipes}))
    measure(tmp_path, "unmeasured", "cifar10")
    measure(tmp_path, "faces", "celeba", kid=0.05)
    measure(tmp_path, "near", "cifar10", kid=0.02, accuracy=0.456)
    measure(tmp_path, "far", "cifar10", kid=0.03, kid_floor=0.025)
    (tmp_path / "metrics/small/near/README.md").touch()
    assert [row[0] for row in rows_of(quality_table(MEASURES, README))] == [
        "small / far", "[small / near](metrics/small/near/README.md)", "small / unmeasured", "small / faces",
    ]  # fmt: skip
    named = "[small / near](../metrics/small/near/README.md)"
    assert rows_of(quality_table(MEASURES, PAGE))[1:3] == [
        [named, "20.00 ± 1.50 (1.00)", "20.50 (1.25)", "0.500 (0.970)", "4.22 ± 0.03"],
        ["small / unmeasured", "not measured", "", "", ""],
    ]
    cells = [named, "1.0% (0.2%)", "1.2% ± 2.5%", "+1.3", "45.6%", "5,000 by unipc 10"]
    assert rows_of(quality_table(OTHERS, PAGE))[1] == cells
    assert yardsticks() == " Yardstick: `0123456789ab` (the beginning of its SHA-256)."


def test_tree_names_every_module() -> None:
    tree = (ROOT / "docs/extending.md").read_text().split("## The tree")[1]
    modules = {path for path in (ROOT / "src/ddpm").rglob("*.py") if path.name != "__init__.py"}
    assert {path.name for path in modules if path.name not in tree} == set()
    rooms = {path.parent.name for path in modules} - {"ddpm"}
    assert {room for room in rooms if f"{room}/" not in tree} == set()
    others = {path.name for folder in ("stages", "tools") for path in (ROOT / folder).glob("*.py")}
    assert set(re.findall(r"\b\w+\.py\b", tree)) <= {path.name for path in modules} | others | {"test_rooms.py"}
