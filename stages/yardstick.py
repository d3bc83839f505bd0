"""Train the classifier in whose features images are measured, on a recipe's images and labels; resumes where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ddpm.base.faults import Fault
from ddpm.base.files import write_json
from ddpm.base.hashes import sha256_of
from ddpm.evaluation import learning
from ddpm.evaluation.yardstick import CLASSES, WEIGHTS, load_yardstick, measured, save_yardstick, yardstick_sha256
from ddpm.machine.memory import keep_freed_memory
from stages import Paths, stage
from stages.packed import heldout_images, heldout_labels, training_images, training_labels


def main(paths: Paths) -> None:
    keep_freed_memory()
    images, facts = training_images(paths)
    labels, known = training_labels(paths), heldout_labels(paths)
    classes = tuple(paths.resolved("data")["classes"])
    if labels is None or known is None or classes != CLASSES:
        raise Fault(f"yardstick = ['{paths.recipe}']; accepted: a recipe whose classes are {', '.join(CLASSES)}")
    code = sha256_of(Path(learning.__file__))  # a changed schedule goes on from no state of the earlier one
    trained = learning.train_yardstick(images, labels, paths.work / f"yardstick-{facts['sha256'][:16]}-{code[:16]}.pt")
    save_yardstick(trained, WEIGHTS, {"classes": CLASSES, "data": facts["sha256"], "origin": facts["origin"]})
    right = float((measured(np.asarray(heldout_images(paths)[0]))[1] == known).mean())
    parameters = sum(parameter.numel() for parameter in load_yardstick(WEIGHTS).parameters())
    write_json(
        paths.metrics / "yardstick.json",
        {"heldout_accuracy": round(right, 4), "parameters": parameters, "sha256": yardstick_sha256()},
    )


if __name__ == "__main__":
    stage(main, __doc__)
