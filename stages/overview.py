"""Show what the training saw and how its loss fell.

Images whose licence allows no sharing are shown only in sum: their mean, and how far each pixel strays from it.
"""

from __future__ import annotations

import csv

import numpy as np

from ddpm.figures.curves import save_loss_curve
from ddpm.figures.pictures import mean_and_deviation, save_labelled_rows
from stages import Paths, stage
from stages.packed import training_images

COLUMNS, STRIPS = 8, 2  # images a row, rows of images


def main(paths: Paths) -> None:
    images, stats = training_images(paths)
    sums = mean_and_deviation(images)
    blank = np.full((COLUMNS - len(sums), *sums.shape[1:]), 255, np.uint8)  # so that they are as large as the images below
    rows = [("mean of all,\nand their\nspread", np.concatenate([sums, blank]))]
    if paths.facts("manifest.json", "download")["shareable"]:
        for start in range(0, min(len(images), STRIPS * COLUMNS), COLUMNS):
            strip = images[start : start + COLUMNS]
            rows.append((f"images\n{start} to {start + len(strip) - 1}", strip))
    save_labelled_rows(paths.metrics / "data.png", rows)
    with (paths.metrics / "loss.csv").open(newline="") as file:
        curve = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file) if row["loss"]]
    save_loss_curve(paths.metrics / "loss.png", curve, f"{paths.recipe} ({paths.scale}): {stats['count']} images")


if __name__ == "__main__":
    stage(main, __doc__)
