"""Curves and tables as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ddpm.base.files import whole_file


def save_loss_curve(path: Path, curve: Sequence[tuple[int, float]], title: str) -> None:
    """Draw the loss against the step, both axes logarithmic, from pairs of (step, loss)."""
    steps, losses = zip(*curve, strict=True)
    save_curves(path, {"": {"loss": (steps, losses)}}, "step", "loss (mean squared error)", title, marker="")


Curve = tuple[Sequence[float], Sequence[float]]  # xs, ys


def save_curves(
    path: Path, panels: Mapping[str, Mapping[str, Curve]], xlabel: str, ylabel: str, title: str, marker: str = "o"
) -> None:
    """Draw a panel for each title -> {label -> (xs, ys)}, side by side, all axes logarithmic; several curves get a legend."""
    figure = Figure(figsize=(7 if len(panels) == 1 else 5 * len(panels), 4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel, curves) in zip(row, panels.items(), strict=True):
        for label, (xs, ys) in curves.items():
            axes.plot(xs, ys, linewidth=1, marker=marker, markersize=4, label=label)
        axes.set(xscale="log", yscale="log", xlabel=xlabel, title=panel)
        axes.grid(which="both", alpha=0.3)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(ylabel)
        if len(curves) > 1:
            axes.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def save_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Draw a small table of text."""
    figure = Figure(figsize=(6, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.set_title(title, fontsize=11)
    table = axes.table([list(row) for row in rows], colLabels=list(header), loc="center", cellLoc="center")
    table.scale(1, 1.4)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
