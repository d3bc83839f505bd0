"""Show what the training saw and how its loss fell.

Images whose licence allows no sharing are shown only in sum: their mean, and how far each pixel strays from it.
"""

from __future__ import annotations

import csv

import numpy as np

from ddpm.figures.curves import Curve, save_curves
from ddpm.figures.pictures import Row, mean_and_deviation, save_labelled_rows
from stages import Paths, stage
from stages.packed import training_images

COLUMNS, STRIPS = 8, 2  # images a row, rows of images
LOSSES = {  # columns of loss.csv: of all noise levels, and of each quarter of the steps 1..T
    "loss": "all",
    "loss_q1": "t up to T/4: least noise",
    "loss_q2": "to T/2",
    "loss_q3": "to 3T/4",
    "loss_q4": "to T: most noise",
}


def main(paths: Paths) -> None:
    images, stats = training_images(paths)
    sums = mean_and_deviation(images)
    blank = np.full((COLUMNS - len(sums), *sums.shape[1:]), 255, np.uint8)  # so that they are as large as the images below
    names = ["mean", "deviation x2", *[""] * len(blank)]
    rows = [Row("all images", np.concatenate([sums, blank]), names)]
    if paths.facts("manifest.json", "download")["shareable"]:
        for start in range(0, min(len(images), STRIPS * COLUMNS), COLUMNS):
            strip = images[start : start + COLUMNS]
            rows.append(Row(f"{start} to {start + len(strip) - 1}", strip))
    of_data = f"{paths.recipe} ({paths.scale})"
    title = f"{of_data}: what the model was trained on, {stats['count']:,} images of {stats['size']} px; {stats['origin']}"
    save_labelled_rows(paths.metrics / "data.png", rows, title)
    with (paths.metrics / "loss.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    curves = {label: points(lines, column) for column, label in LOSSES.items()}
    about = f"{of_data}: {stats['count']:,} images; means over {lines[0]['step']} steps"
    drawn = {label: curve for label, curve in curves.items() if curve[0]}
    save_curves(paths.metrics / "loss.png", {"": drawn}, "training step", "loss (mean squared error)", about, marker="")


def points(rows: list[dict[str, str]], column: str) -> Curve:
    """The steps and values of a column of loss.csv; a step without a value is left out."""
    found = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
    return [step for step, _ in found], [value for _, value in found]


if __name__ == "__main__":
    stage(main, __doc__)
