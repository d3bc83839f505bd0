"""Measure the images of the EMA weights and their likelihood, each number beside that of held-out real images.

On a CPU the work is shared over processes of one thread each, in batches of one size: the numbers do not depend on how many.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm.base.faults import Fault
from ddpm.base.files import whole_file, write_csv, write_json
from ddpm.base.parallel import in_processes
from ddpm.base.progress import progress_bar
from ddpm.base.seeds import derive_seed
from ddpm.evaluation import inception
from ddpm.evaluation.copies import Nearest, c_t, copied, near_copies, nearest, nearest_distance
from ddpm.evaluation.distances import compare
from ddpm.evaluation.likelihood import Terms, denoiser_of, image_terms, joined, summary
from ddpm.evaluation.settings import EvaluationConfig
from ddpm.evaluation.yardstick import CLASSES, features, measured, yardstick_sha256
from ddpm.machine.device import pick_device
from ddpm.model.pixels import to_uint8
from ddpm.sampling import load
from stages import DATA_HOME, WORK, Paths, expanded, shown, stage
from stages.packed import heldout_images, heldout_labels, training_images, training_labels

COPIES = 1000  # samples that near_copies and c_t compare with as many held-out images, at most
SUSPECTS = 16  # of them that nearest.csv lists
BATCH = 250  # real images a task


class Task(NamedTuple):
    """A batch of work: images to draw, whose numbers are `indices`, or real `images`, to measure or to bound."""

    kind: str  # draw, measure or bound
    indices: range
    images: np.ndarray | None = None
    labels: np.ndarray | None = None


class Worker:
    """Does tasks with the model of `checkpoint`; one a process."""

    def __init__(self, checkpoint: Path, device: str, config: EvaluationConfig, guide: Path | None) -> None:
        if device == "cpu":
            torch.set_num_threads(1)
        self.device, self.config = device, config
        self.drawing = load(checkpoint, device, config.precision, guide)
        self.exact = self.drawing if config.precision == "fp32" else load(checkpoint, device, "fp32")

    def __call__(self, task: Task) -> Any:
        if task.images is None:
            return self.draw(task.indices)
        if task.kind == "measure":
            return features(task.images, self.device)
        images = torch.from_numpy(task.images).to(self.device)
        denoiser = denoiser_of(self.exact, task.labels)
        return image_terms(denoiser, images, self.config.seed, task.indices.start, batch_size=len(images))

    def draw(self, indices: range) -> tuple[np.ndarray, ...]:
        """These images, their features, and what the yardstick names them."""
        config = self.config
        guided = {"guidance": config.guidance, "autoguidance": config.autoguidance}
        *_, last = self.drawing.states(indices, config.chosen, config.seed, classes=None, of=None, **guided)
        images = to_uint8(last.x_t)
        return images, *measured(images, self.device)


class Real(NamedTuple):
    """Real images, uint8 (N, H, W, C), and their labels where the model knows classes."""

    images: np.ndarray
    labels: np.ndarray | None = None

    def tasks(self, kind: str, count: int, size: int) -> list[Task]:
        """The first `count` images in tasks of `size`."""
        rows = [slice(part.start, part.stop) for part in parts(count, size)]
        return [
            Task(kind, range(row.start, row.stop), self.images[row], None if self.labels is None else self.labels[row])
            for row in rows
        ]


class Found(NamedTuple):
    """What the workers bring home. Features are float64 (N, 64)."""

    drawn: np.ndarray  # uint8 (N, H, W, C)
    generated: np.ndarray  # features
    named: np.ndarray  # int64 (N,): the yardstick's classes
    heldout: np.ndarray  # features
    training: np.ndarray  # features of all training images
    heldout_terms: Terms
    training_terms: Terms  # of as many images


def main(paths: Paths) -> None:
    config, runtime = paths.settings("evaluation", EvaluationConfig), paths.runtime()
    device = str(pick_device(runtime.device))
    model = load(paths.ema, "cpu")
    training, facts = training_images(paths)
    heldout, _ = heldout_images(paths)
    if model.metadata["data"]["sha256"] != facts["sha256"]:
        raise Fault(
            f"{shown(paths.ema)} was trained on other images than {shown(paths.data / 'stats.json')} describes, perhaps on "
            f"held-out ones; accepted: one trained on these, as by: dvc repro train@{paths.recipe}"
        )
    network, guide = inception_of(config, device), paths.guide(config.autoguidance)
    labels = (training_labels(paths), heldout_labels(paths)) if model.classes else (None, None)
    order = shuffled(len(training), config)
    known = Real(training[order], None if labels[0] is None else labels[0][order])
    order = shuffled(len(heldout), config)
    unknown = Real(heldout[order], None if labels[1] is None else labels[1][order])
    cached = WORK / f"features-{facts['sha256'][:16]}-{yardstick_sha256()[:16]}.npy"
    found = work(paths, config, device, runtime.workers, training, known, unknown, cached, guide)

    drawn, sought = found.drawn, min(COPIES, len(found.drawn), len(unknown.images))
    everyone = nearest(np.concatenate([drawn, unknown.images[:sought]]), training)
    ours, floor = (Nearest(*(values[part] for values in everyone)) for part in (slice(len(drawn)), slice(len(drawn), None)))
    first = Nearest(*(values[:sought] for values in ours))
    write_csv(paths.metrics / "nearest.csv", suspects(first))
    share, share_se = copied(ours, nearest(drawn, heldout), len(training), len(heldout))
    results = distances(found, config) | likelihood(found) | {
        "near_copies": round(near_copies(first.d1, first.d2), 4),
        "near_copies_floor": round(near_copies(floor.d1, floor.d2), 4),
        "copied": round(share, 4),
        "copied_se": round(share_se, 4),
        "c_t": round(c_t(*(nearest_distance(each[:sought], found.training) for each in (found.generated, found.heldout))), 2),
    }  # fmt: skip
    if model.classes == CLASSES:
        asked = np.arange(len(found.named)) % len(CLASSES)  # all classes in turn
        results["accuracy"] = round(float((found.named == asked).mean()), 4)
    if network:
        kept = [WORK / f"inception-{part}-{facts['sha256'][:16]}.npz" for part in ("statistics", "features")]
        against = inception.reference(network, training, facts["sha256"], *kept)
        results |= {key: rounded(value) for key, value in inception.measures(network, found.drawn, against).items()}
    results |= {"samples": len(found.drawn), "sampler": config.sampler, "autoguidance": config.autoguidance}
    results |= {"guide": guide.name if guide else "", "yardstick_sha256": yardstick_sha256()}
    write_json(paths.metrics / "evaluate.json", results)


def inception_of(config: EvaluationConfig, device: str) -> inception.Inception | None:
    """The network of the published measures, where it is asked for and to be had; else a line says what it lacks."""
    if not config.inception:
        return None
    weights = DATA_HOME / inception.FILE if config.inception == "official" else expanded(config.inception)
    if lack := inception.lacking(weights):
        print(f"warning: {lack}; then run this stage again with dvc repro --force --single-item", file=sys.stderr, flush=True)
        return None
    return inception.Inception(weights, torch.device(device))


def rounded(value: Any) -> Any:
    """Four digits behind the point of a number, and anything else as it is."""
    return round(value, 4) if isinstance(value, float) else value


def shuffled(available: int, config: EvaluationConfig) -> np.ndarray:
    """The places of at most as many real images as are drawn, out of `available`, in an order drawn from the seed."""
    return np.random.default_rng(derive_seed(config.seed, available)).permutation(available)[: config.images]


def work(
    paths: Paths,
    config: EvaluationConfig,
    device: str,
    workers: int,
    training: np.ndarray,
    known: Real,
    unknown: Real,
    cached: Path,
    guide: Path | None,
) -> Found:
    """Draw, measure what was drawn, held-out images and all `training` images, and bound held-out and training images.

    `known`, `unknown`: training and held-out images in random order. `cached`: where the features of all training images
    are kept for the next evaluation. `guide`: the weights that autoguidance leads away from.
    """
    bounded = min(config.bound_images, len(known.images), len(unknown.images))
    groups = [
        [Task("draw", part) for part in parts(config.images, config.batch_size)],
        unknown.tasks("measure", len(unknown.images), BATCH),
        [] if cached.exists() else Real(training).tasks("measure", len(training), BATCH),
        unknown.tasks("bound", bounded, config.batch_size),
        known.tasks("bound", bounded, config.batch_size),
    ]
    tasks = [task for group in groups for task in group]
    made_of = (paths.ema, device, config, guide)
    results = in_processes(Worker, made_of, tasks, workers if device == "cpu" else 1)
    with progress_bar(iterable=results, total=len(tasks), desc=f"evaluate {paths.recipe}", unit=" batches") as bar:
        done = iter(bar)
        draws, heldout, every, bound_unknown, bound_known = [list(islice(done, len(group))) for group in groups]
    drawn, generated, named = (np.concatenate(arrays) for arrays in zip(*draws, strict=True))
    if every:
        with whole_file(cached) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.concatenate(every))
    known_terms, unknown_terms = joined(bound_known), joined(bound_unknown)
    return Found(drawn, generated, named, np.concatenate(heldout), np.load(cached), unknown_terms, known_terms)


def parts(count: int, size: int) -> list[range]:
    """0..count-1 in ranges of `size`, the last perhaps shorter."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def distances(found: Found, config: EvaluationConfig) -> dict[str, Any]:
    """Of samples, and of held-out images, to training images.

    What depends on the number of images is taken of as many samples as there are held-out images; KID takes all.
    """
    compared = min(len(found.generated), len(found.heldout), len(found.training))
    some = found.training[shuffled(len(found.training), config)]
    ours, floor = (compare(part, found.training, some, compared) for part in (found.generated, found.heldout))
    return {
        "fd": round(ours.fd, 3),
        "fd_floor": round(floor.fd, 3),
        "kid": round(ours.kid, 5),
        "kid_se": round(ours.kid_se, 5),
        "kid_floor": round(floor.kid, 5),
        "density": round(ours.density, 3),
        "density_floor": round(floor.density, 3),
        "coverage": round(ours.coverage, 3),
        "coverage_floor": round(floor.coverage, 3),
        "compared": compared,
    }


def likelihood(found: Found) -> dict[str, float]:
    """The bound of the held-out images, and by quarter of t how much more they lose than training images."""
    bound = summary(found.heldout_terms, found.training_terms)
    results = {"bits_per_dim": round(bound.bits_per_dim, 3), "bits_per_dim_se": round(bound.bits_per_dim_se, 3)}
    for number, (gap, error) in enumerate(zip(bound.gaps, bound.gaps_se, strict=True), 1):
        results |= {f"gap_q{number}": round(gap, 5), f"gap_q{number}_se": round(error, 5)}
    return results


def suspects(found: Nearest) -> list[dict[str, Any]]:
    """The samples most like one training image and no other, as rows of nearest.csv."""
    ratios = found.d1 / found.d2
    return [
        {
            "sample": int(row),
            "index": int(found.indices[row]),
            "mirrored": int(found.mirrored[row]),
            "distance": round(float(found.d1[row]), 1),
            "ratio": round(float(ratios[row]), 4),
        }
        for row in ratios.argsort(kind="stable")[:SUSPECTS]
    ]


if __name__ == "__main__":
    stage(main, __doc__)
