"""Distances between two sets of features: Frechet distance, KID, density and coverage. NumPy only, float64.

Every one depends on the features' network and, but for KID, on the number of images: compare numbers of one network and
one N, and read each beside its floor, the same measure of held-out real images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCKS = 25  # of KID's jackknife: its standard error is itself known to about 1 / sqrt(2 * 24) = 14 %
TILE = 1 << 20  # numbers of a matrix of distances that exist at a time: 8 MB


class Distances(NamedTuple):
    """What `compare` measures."""

    fd: float
    kid: float
    kid_se: float
    density: float
    coverage: float


def compare(found: np.ndarray, training: np.ndarray, some: np.ndarray, compared: int | None = None) -> Distances:
    """Features `found` (N, d) beside those of all `training` images (M, d) and of `some` of them (m, d), drawn at random.

    KID takes all of `found` and `some`; the others, whose values depend on the number of images, the first `compared` of
    `found` (default: as many as both have), which should be the number of all that is to be compared. Raises ValueError as
    the measures do.
    """
    compared = compared or min(len(found), len(some))
    few = found[:compared]
    return Distances(frechet_distance(few, training), *kid(found, some), *density_coverage(some[:compared], few))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to features `a` (N, d) and `b` (M, d), at least 0 but for rounding.

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2)), FID where the features are Inception's (Heusel 2017,
    1706.08500, equation 6). Covariances divide by N - 1 and may be singular. Two samples of one Gaussian of covariance I are
    about (d(d + 1)/4 + d)(1/N + 1/M) apart, d = 64: 2.2 at N = M = 1000, 0.44 at 5000. Raises ValueError for arrays that are
    not two-dimensional, of different d, with fewer than two rows, or not finite.
    """
    a, b = _checked(a, b, least=2)
    difference = a.mean(axis=0) - b.mean(axis=0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    # With S = R^T R the eigenvalues of S_a S_b are the squared singular values of R_a R_b^T. Summing these needs no
    # square root of an eigenvalue that ought to be 0, which would turn an error of 1e-16 into one of 1e-8.
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2 * cross)


def kid(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Kernel distance of features `a` (N, d) and `b` (M, d) and its standard error.

    The squared maximum mean discrepancy with the kernel (x.y/d + 1)^3, as one unbiased U-statistic of all pairs: KID where
    the features are Inception's (Binkowski 2018, 1801.01401). Its mean does not depend on N and M, and is 0 for equal
    distributions; a value may be negative.

    The standard error is a jackknife over 25 blocks, drawn at random (fixed seed), of both sets at once. The jackknife counts
    the variance of second order twice (Efron and Stein 1981), which would make the error 1.4 times too large where the
    distributions are equal; it is estimated from the blocks' pairs and counted once. Memory grows with (N / 25)^2, 64 MB at
    N = 50,000. Raises ValueError as `frechet_distance` does, here for fewer than four rows.
    """
    a, b = _checked(a, b, least=4)
    blocks = min(BLOCKS, len(a), len(b))
    random = np.random.default_rng(0)  # images may come in the order of their classes
    xs = np.array_split(a[random.permutation(len(a))], blocks)
    ys = np.array_split(b[random.permutation(len(b))], blocks)
    xx, yy, xy = _symmetric_sums(xs), _symmetric_sums(ys), np.array([[_kernel_sum(x, y) for y in ys] for x in xs])
    n, m = np.array([len(x) for x in xs]), np.array([len(y) for y in ys])

    value = _u_statistic(xx.sum(), yy.sum(), xy.sum(), len(a), len(b))
    without = _u_statistic(_without_each(xx), _without_each(yy), _without_each(xy), len(a) - n, len(b) - m)
    jackknife = (blocks - 1) * without.var()
    mixed = xy / np.outer(n, m)
    second = _interaction(xx / np.outer(n, n) + yy / np.outer(m, m) - mixed - mixed.T)
    first = max(jackknife - 4 * second / (blocks * (blocks - 2)), 0.0)
    return float(value), float(np.sqrt(first + 2 * second / (blocks * (blocks - 1))))


def density_coverage(real: np.ndarray, generated: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Density and coverage of `generated` (M, d) among `real` (N, d) features (Naeem 2020, 2002.09797).

    Every real point has a ball that reaches to its k-th nearest other real point, which itself lies outside, as in the authors'
    code. Density: the balls that a generated point lies in, mean, divided by k; it may exceed 1. Coverage: the share of
    balls with a generated point in them. Identical sets without duplicates have 1 and 1; two independent samples of one
    distribution have density 1 in expectation and coverage 1 - (N-1)...(N-k) / ((N+M-1)...(N+M-k)), for N = M
    about 1 - 2^-k. So coverage grows with M / N: compare it for one N and M only. More than k equal real points have empty
    balls. Raises ValueError as `frechet_distance` does, and for k outside 1 to N - 1.
    """
    real, generated = _checked(real, generated, least=1)
    if not 1 <= k < len(real):
        raise ValueError(f"k = {k}; accepted: 1 to {len(real) - 1}, one less than the real points")
    inside = np.empty(len(real), np.int64)  # generated points in the ball of each real one
    for rows in _tiles(len(real), max(len(real), len(generated))):
        radii = np.partition(_squared_distances(real[rows], real), k, axis=1)[:, k, None]  # 0 is the point itself
        inside[rows] = (_squared_distances(real[rows], generated) < radii).sum(axis=1)
    return float(inside.sum() / (k * len(generated))), float((inside > 0).mean())


def _checked(a: np.ndarray, b: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, or ValueError."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise ValueError(f"features of shapes {a.shape} and {b.shape}; accepted: (N, d) and (M, d)")
    if min(len(a), len(b)) < least:
        raise ValueError(f"{len(a)} and {len(b)} features; accepted: at least {least} of each")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features are NaN or infinite; accepted: finite numbers")
    return a, b


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R, of at most d rows, with R^T R the covariance of `features` (N, d)."""
    centred = features - features.mean(axis=0)
    return np.linalg.qr(centred, mode="r") / np.sqrt(len(features) - 1)


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """The sum of the kernel over all pairs of a row of `x` and one of `y`."""
    kernel = x @ y.T
    kernel /= x.shape[1]
    kernel += 1
    return float(np.vdot(kernel * kernel, kernel))


def _symmetric_sums(xs: list[np.ndarray]) -> np.ndarray:
    """The sums of the kernel over pairs of different rows, for every pair of blocks `xs`."""
    sums = np.empty((len(xs), len(xs)))
    for i, x in enumerate(xs):
        for j in range(i):
            sums[i, j] = sums[j, i] = _kernel_sum(x, xs[j])
        sums[i, i] = _kernel_sum(x, x) - (((x**2).mean(axis=1) + 1) ** 3).sum()
    return sums


def _u_statistic(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, n: np.ndarray | int, m: np.ndarray | int) -> np.ndarray:
    """The unbiased estimate of n and m points whose pairs' kernels sum to `xx`, `yy` and `xy`."""
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def _without_each(sums: np.ndarray) -> np.ndarray:
    """What all of `sums` (blocks, blocks) sum to without each block, that is without its row and its column."""
    return sums.sum() - sums.sum(axis=0) - sums.sum(axis=1) + np.diag(sums)


def _interaction(pairs: np.ndarray) -> float:
    """Variance of the symmetric `pairs` (blocks, blocks), the diagonal aside, about the sum of an effect of each block."""
    blocks = len(pairs)
    apart = ~np.eye(blocks, dtype=bool)
    centred = np.where(apart, pairs - pairs[apart].mean(), 0)
    effects = centred.sum(axis=1) / (blocks - 2)
    return float(((centred - effects - effects[:, None])[apart] ** 2).sum() / (blocks * (blocks - 3)))


def _tiles(rows: int, columns: int) -> Iterator[slice]:
    """Slices of `rows`, each of about TILE numbers where every row has `columns`."""
    step = max(1, TILE // columns)
    return (slice(start, start + step) for start in range(0, rows, step))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|^2 of `x` (n, d) and `y` (m, d), with errors of about 1e-16 of the squared lengths."""
    # -2 y is a copy: x @ x.T would go another way than x @ y.T, and equal points would not have equal distances.
    distances = x @ (-2 * y).T
    distances += (x**2).sum(axis=1)[:, None]
    distances += (y**2).sum(axis=1)
    return distances
