"""The README says what is true: its tables are those of metrics/, its links and its tree lead to files that exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from ddpm.recipe import check
from stages import load_params, load_yaml
from tiny import randomised, train_config
from tools.results import block, quality_table, rewritten, yardsticks

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_results_tables_are_those_of_metrics() -> None:
    assert rewritten(README) == README, "stale: run `python -m tools.results`"


def test_tables_change_with_metrics(monkeypatch, tmp_path) -> None:
    """The comparison above can fail: other metrics give another block."""
    monkeypatch.setattr("tools.results.ROOT", tmp_path)
    assert block() not in README


def measure(root: Path, recipe: str, dataset: str, **quality: float) -> None:
    """The files of a trained recipe of small/ that the table of quality reads; with `quality` it has been measured, too."""
    folder = root / "metrics/small" / recipe
    files = {
        "config/data.json": {"dataset": dataset},
        "speed.json": {"images_seen": 192_000, "seconds": 3708.3},
        "train.json": {},
    }
    if quality:
        floors = {"kid_floor": 0.001, "fd_floor": 1.25, "coverage_floor": 0.97, "near_copies_floor": 0.002}
        measures = {"kid_se": 0.0015, "fd": 20.5, "coverage": 0.5, "bits_per_dim": 4.217, "bits_per_dim_se": 0.031, "c_t": 1.26}
        drawn = {"near_copies": 0.01, "samples": 5000, "sampler": "unipc 10", "yardstick_sha256": "0123456789abcdef"}
        files["evaluate.json"] = floors | measures | drawn | quality
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))


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
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in quality_table().splitlines()]
    assert [row[1] for row in rows[2:]] == [
        "small / far", "[small / near](metrics/small/near/README.md)", "small / unmeasured", "small / faces",
    ]  # fmt: skip
    assert dict(zip(rows[0], rows[3], strict=True)) == {
        "data set": "cifar10", "recipe and its card": rows[3][1], "KID x 1000": "20.00 ± 1.50 (1.00)",
        "Frechet distance": "20.50 (1.25)", "coverage": "0.500 (0.970)", "bits/dim": "4.22 ± 0.03",
        "near copies, C_T": "1.0% (0.2%), +1.3", "accuracy": "45.6%", "drawn": "5,000 by unipc 10",
        "images seen": "192,000", "minutes": "62",
    }  # fmt: skip
    assert rows[4] == ["cifar10", "small / unmeasured", "not measured", *[""] * 6, "192,000", "62"]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert yardsticks() == " Yardstick: `0123456789ab` (the beginning of its SHA-256)."


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", README)
    assert len(targets) >= 3
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_tree_names_every_module() -> None:
    tree = README.split("## The tree")[1].split("## Sources")[0]
    modules = {path for path in (ROOT / "src/ddpm").rglob("*.py") if path.name != "__init__.py"}
    assert {path.name for path in modules if path.name not in tree} == set()
    rooms = {path.parent.name for path in modules} - {"ddpm"}
    assert {room for room in rooms if f"{room}/" not in tree} == set()
    others = {path.name for folder in ("stages", "tools") for path in (ROOT / folder).glob("*.py")}
    assert set(re.findall(r"\b\w+\.py\b", tree)) <= {path.name for path in modules} | others | {"test_rooms.py"}


def experiments() -> list[list[str]]:
    """What the README's experiments at demo scale set, command by command."""
    joined = README.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.startswith("dvc exp run ")]
    words = [shlex.split(line.partition(" && ")[0], comments=True) for line in lines]
    return [[word for option, word in pairwise(command) if option == "-S"] for command in words]


@pytest.mark.parametrize("overrides", experiments(), ids=" ".join)
def test_the_experiments_have_good_settings(overrides: list[str], tmp_path: Path) -> None:
    assert overrides
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    apply_overrides(path, [re.sub(r"=[^\[{,]+,", "=", value) for value in overrides])  # of a sweep the last
    changed = load_yaml(path.read_text())
    assert changed != load_params("demo")
    assert set(changed) == set(load_params("demo"))
    check(changed)


def test_the_code_of_the_docs_runs(tmp_path: Path) -> None:
    """Every Python block of the library's page, in order, with a checkpoint of this test's own; without DVC and stages."""
    page = (ROOT / "docs/library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 4
    config = train_config(context_dim=10, num_timesteps=100, prediction="v")
    facts = {"size": 8, "count": 3, "origin": "test", "dataset": "cifar10", "source": "official"}
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    metadata = {"config": config.model_dump(), "step": 7, "kind": "ema", "data": facts, "classes": names}
    save_weights(tmp_path / "ema.safetensors", randomised(build_network(config)), metadata)
    script = "\n".join(blocks).replace("models/small/cifar10_classes/ema.safetensors", "ema.safetensors")
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).absolute()), "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in tmp_path.iterdir()} >= {".png", ".gif"}
