"""Did a model learn its training images by heart? The nearest of them to each image, and three numbers made of distances.

A smooth image is near to many others, a typical one too, and a shifted copy is far from its original. So each number is to be
read beside what real images, or a model that has copied nothing, would give.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ddpm.base.progress import progress_bar

TILE = 1 << 21  # distances that exist at a time: 32 MB
EXACT = 1024  # products of numbers up to 2^7 whose sum, at most 2^24, is exact in float32


class Nearest(NamedTuple):
    """For each of N images its nearest among real ones; distances are L2 over pixels of 0 to 255."""

    indices: np.ndarray  # (N,) int64; of equally near ones the first
    mirrored: np.ndarray  # (N,) bool: the mirror of that image is nearer than itself
    d1: np.ndarray  # (N,) float64: the distance to it
    d2: np.ndarray  # (N,) float64: to the next one; infinite if all are equally near


def nearest(images: np.ndarray, real: np.ndarray, flips: bool = True) -> Nearest:
    """Search all of `real` (M, H, W, C) for the nearest of each of `images` (N, H, W, C), both uint8; a progress bar.

    `flips`: a real image and its left-right mirror count as one, at the smaller of their distances. So do real images at
    exactly the same distance: they are duplicates, and d2 is meant to be of another image. Exact: all sums are whole
    numbers. `real` may be a memory map, of which a block is read at a time. Raises ValueError for other shapes or types,
    for no images and for fewer than two real ones.
    """
    for name, array, least in (("images", images, 1), ("real", real, 2)):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != images.shape[1:] or len(array) < least:
            accepted = f"at least {least} of uint8 (N, H, W, C), of one shape for both"
            raise ValueError(f"{name} are {array.dtype} {array.shape}; accepted: {accepted}")
    count = len(images)
    queries = _centred(np.concatenate([images, images[:, :, ::-1]]) if flips else images)
    indices, mirrored = np.zeros(count, np.int64), np.zeros(count, bool)
    first, second = np.full(count, np.inf), np.full(count, np.inf)  # squared
    step = max(1, TILE // len(queries))
    with progress_bar(total=len(real), desc="nearest real images", unit=" images") as bar:
        for start in range(0, len(real), step):
            squared = _squared_distances(queries, _centred(real[start : start + step]))
            upright = squared[:count]
            squared = np.minimum(upright, squared[count:]) if flips else upright
            here = squared.argmin(axis=1)
            rows = np.arange(count)
            least_here = squared[rows, here]
            nearer = least_here < first
            indices[nearer] = start + here[nearer]
            mirrored[nearer] = (least_here < upright[rows, here])[nearer]
            next_here = np.where(squared > least_here[:, None], squared, np.inf).min(axis=1)
            known = np.stack([first, second, least_here, next_here])
            first = np.minimum(first, least_here)
            second = np.where(known > first, known, np.inf).min(axis=0)
            bar.update(len(upright[0]))
    return Nearest(indices, mirrored, np.sqrt(first), np.sqrt(second))


def near_copies(d1: np.ndarray, d2: np.ndarray) -> float:
    """The share, 0 to 1, of images with d1 / d2 < 1/3: three times nearer to a training image than to any other.

    `d1`, `d2` (N,): of `nearest`. The criterion of Yoon et al. 2023 ("Diffusion probabilistic models generalize when they
    fail to memorize"). d1 = 0 always counts; an infinite d2 tells nothing and does not.
    """
    return float(((d1 == 0) | ((3 * d1 < d2) & np.isfinite(d2))).mean())


def nearest_distance(features: np.ndarray, training: np.ndarray) -> np.ndarray:
    """The Euclidean distance of each of `features` (N, d) to the nearest of `training` (M, d): float64 (N,)."""
    found = np.empty(len(features))
    lengths, step = (training**2).sum(axis=1), max(1, TILE // len(training))
    for start in range(0, len(features), step):
        part = features[start : start + step]
        squared = (part**2).sum(axis=1) + (lengths - 2 * part @ training.T).min(axis=1)
        found[start : start + step] = np.sqrt(squared.clip(min=0))
    return found


def c_t(generated: np.ndarray, heldout: np.ndarray) -> float:
    """Are generated images nearer to the training images than held-out ones are? A Z score; below about -3 they are copies.

    `generated` (n,), `heldout` (m,): distances to the nearest training image, by `nearest` or, which smoothness moves less,
    `nearest_distance` of features. With U the pairs in which the generated image is farther, ties
    counted half, Z = (U - nm/2) / s with s^2 = nm/12 (n + m + 1 - sum(t^3 - t) / ((n + m)(n + m - 1))) over groups of t equal
    distances: Mann and Whitney's test, as C_T in Meehan, Chaudhuri and Dasgupta 2020 (2004.05675), who average it
    over cells of a feature space; here all of space is one cell. About standard normal if both are of one
    distribution, far above 0 where images are less like the training images than real ones are. 0 if all distances are
    equal. It grows with sqrt(n): compare for one n and m. Raises ValueError for no distances and for NaN.
    """
    both = np.concatenate([generated, heldout])
    n, m, total = len(generated), len(heldout), len(both)
    if min(n, m) == 0 or np.isnan(both).any():
        raise ValueError(f"{n} generated and {m} held-out distances; accepted: at least one of each, none NaN")
    ordered = np.sort(heldout)
    farther = (np.searchsorted(ordered, generated, "left") + np.searchsorted(ordered, generated, "right")).sum() / 2
    ties = np.unique(both, return_counts=True)[1].astype(np.float64)
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return float((farther - n * m / 2) / np.sqrt(variance)) if len(ties) > 1 else 0.0


def copied(known: Nearest, unknown: Nearest, training: int, heldout: int) -> tuple[float, float]:
    """The estimated share of n images that are copies of training images, and its standard error.

    `known`, `unknown`: the nearest of M = `training` training images, and of m = `heldout` held-out ones, to each. A model that
    knows training images no better than held-out ones of the same distribution draws images whose nearest real image is a
    training image in a share of p = M / (M + m), be they smooth, typical or strange: they are so to both sets. Copies have
    all theirs there, and of a share q of them q + (1 - q) p: the estimate is that share solved for q, about 0 without
    copies, often below. A tie counts half. After Platzer and Reutterer 2021 (Frontiers in Big Data 4, "Holdout-based
    empirical assessment of mixed-type synthetic data"), who take equally many of both and report the share. By pixels, not
    by features: a network that has learned the training images tells them from held-out ones.

    The error is that of a lot which decides of each real image whether it was trained on: a real image that is the nearest
    of k others, as smooth ones are of many, counts k times. Raises ValueError where a set is empty or the images differ.
    """
    count = len(known.d1)
    if min(count, training, heldout) == 0 or count != len(unknown.d1):
        sizes = f"{count} and {len(unknown.d1)} images, {training} training and {heldout} held-out ones"
        raise ValueError(f"{sizes}; accepted: at least one of each, and the same images for both")
    share = ((known.d1 < unknown.d1) + (known.d1 == unknown.d1) / 2).mean()
    p = training / (training + heldout)
    places = np.where(known.d1 <= unknown.d1, known.indices, training + unknown.indices)
    times = np.unique(places, return_counts=True)[1].astype(np.float64)
    error = np.sqrt(p * (1 - p) * (times**2).sum()) / count
    return float((share - p) / (1 - p)), float(error / (1 - p))


def _centred(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) as int8 (N, pixels), 128 less."""
    return (np.ascontiguousarray(images) ^ np.uint8(128)).view(np.int8).reshape(len(images), -1)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|^2 of int8 `x` (n, d) and `y` (m, d), float64 (n, m), exact; float32 is twice as fast as float64."""
    products, lengths_x, lengths_y = np.zeros((len(x), len(y))), np.zeros((len(x), 1)), np.zeros(len(y))
    for start in range(0, x.shape[1], EXACT):
        part_x, part_y = (array[:, start : start + EXACT].astype(np.float32) for array in (x, y))
        products += part_x @ part_y.T
        lengths_x += (part_x**2).sum(axis=1, keepdims=True)
        lengths_y += (part_y**2).sum(axis=1)
    products *= -2
    products += lengths_x
    products += lengths_y
    return products
