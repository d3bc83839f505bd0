"""Curves and tables as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ddpm.base.files import whole_file

Curve = tuple[Sequence[float], Sequence[float]]  # xs, ys


def save_curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    xlabel: str,
    ylabel: str,
    title: str,
    marker: str = "o",
    ticks: Sequence[float] = (),
) -> None:
    """Draw a panel for each title -> {label -> (xs, ys)}, side by side, all axes logarithmic, and below them, where they hide
    nothing, what the curves are. `ticks`: where the x axis has numbers (default: at powers of ten)."""
    figure = Figure(figsize=(8 if len(panels) == 1 else 5 * len(panels), 4.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    lines: dict[str, Line2D] = {}  # a colour for each label, in every panel the same
    for axes, (panel, curves) in zip(row, panels.items(), strict=True):
        for label, (xs, ys) in curves.items():
            colour = lines[label].get_color() if label in lines else f"C{len(lines)}"
            (line,) = axes.plot(xs, ys, linewidth=1.2, marker=marker, markersize=4, label=label, color=colour)
            lines.setdefault(label, line)
        axes.set(xscale="log", yscale="log", xlabel=xlabel, title=panel)
        axes.grid(which="both", alpha=0.3)
        if ticks:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(ylabel)
    if len(lines) > 1:
        figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=min(len(lines), 5))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def save_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Draw a small table of text."""
    figure = Figure(figsize=(7, 1.1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.set_title(title, fontsize=11)
    table = axes.table([list(row) for row in rows], colLabels=list(header), loc="center", cellLoc="center")
    table.scale(1, 1.4)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
