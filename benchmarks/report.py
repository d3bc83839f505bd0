"""The tables of a benchmark's json. `python -m benchmarks.report` writes those of benchmarks/results into the README beside
this file; a test says when they are stale."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
BEGIN = "<!-- results: written by `python -m benchmarks.report`, do not edit -->"
END = "<!-- end of results -->"


def run_text(result: dict[str, Any], run: dict[str, Any]) -> str:
    """One network's measurement: a heading, the table, and the ceilings."""
    heading = f"{result['benchmark']}, {run['scale']} / {run['recipe']}: {run['size']} px, batches of {run['batch_size']}"
    if "steps" in run:
        heading += f", {run['steps']} steps"
    tops = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in run["ceilings"].items())
    return f"{heading}\n\n{table(run)}\n\nCeilings: {tops}."


def table(run: dict[str, Any]) -> str:
    """A row for each contender."""
    sampling = "steps" in run
    header = ["", "arithmetic", "images/s", "ms a step", "fastest"]
    header += ["network alone", "outside"] if sampling else []
    header += ["time / ours", "a FLOP", "parameters", "GFLOPs", "of ceiling"]
    rows = [header]
    for row in run["rows"]:
        cells = [row["name"], row["precision"], f"{row['images_per_second']:.1f}", ms(row["median"]), ms(row["min"])]
        if sampling:
            cells += [ms(row["network"]), f"{row['outside']:.1%}"] if "outside" in row else ["", ""]
        cells += [
            f"{row['ratio']:.2f}",
            f"{row['ratio_per_flop']:.2f}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['flops'] / 1e9:.2f}",
            f"{row['share']:.0%}",
        ]
        rows.append(cells)
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    """A Markdown table that can be read as it stands; the first of the rows is the header."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("| " + " | ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) + " |" for row in rows)


def ms(seconds: float) -> str:
    """Milliseconds, three digits or all before the point."""
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def block(folder: Path) -> str:
    """The README's results: each json of `folder` under its machine and command."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        facts = "\n".join(f"- {key}: {value}" for key, value in result["machine"].items())
        if "runs" in result:
            text = "\n\n".join(f"#### {run_text(result, run)}" for run in result["runs"])
        else:
            text = importlib.import_module(f"benchmarks.{result['benchmark']}").text(result)
        parts.append(f"### {path.stem}\n\n`{result['command']}`\n\n{facts}\n\n{text}")
    return "\n\n".join([BEGIN, *(parts or ["No result is kept yet."]), END])


def rewritten(readme: str, folder: Path) -> str:
    """The text of README.md with its block of results replaced by the current one."""
    before, rest = readme.split(BEGIN)
    return before + block(folder) + rest.split(END)[1]


if __name__ == "__main__":
    path = FOLDER / "README.md"
    path.write_text(rewritten(path.read_text(), FOLDER / "results"))
