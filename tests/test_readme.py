"""The README says what is true: its tables are those of metrics/, its links and its tree lead to files that exist."""

from __future__ import annotations

import re
from pathlib import Path

from stages.results import block, rewritten

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_results_tables_are_those_of_metrics() -> None:
    assert rewritten(README) == README, "stale: run `python -m stages.results`"


def test_tables_change_with_metrics(monkeypatch, tmp_path) -> None:
    """The comparison above can fail: other metrics give another block."""
    monkeypatch.setattr("stages.results.ROOT", tmp_path)
    assert block() not in README


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", README)
    assert len(targets) >= 3
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_tree_names_every_module() -> None:
    tree = README.split("## The tree")[1].split("## Sources")[0]
    modules = {path.name for path in (ROOT / "src/ddpm").glob("*.py")} - {"__init__.py"}
    assert {name for name in modules if name not in tree} == set()
    stages = {path.name for path in (ROOT / "stages").glob("*.py")}
    assert set(re.findall(r"\b\w+\.py\b", tree)) <= modules | stages
