"""Frechet distance, KID, density and coverage against closed forms, their own expectations and torch-fidelity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ddpm.evaluation.distances as module
from ddpm.evaluation.distances import density_coverage, frechet_distance, kid


def normal(count: int, dim: int, seed: int, mean: Any = 0.0, scale: Any = 1.0) -> np.ndarray:
    return mean + scale * np.random.default_rng(seed).normal(size=(count, dim))


def with_moments(count: int, mean: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """Features whose mean and covariance are exactly these."""
    white = normal(count, len(mean), seed)
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return np.asarray(mean + white @ np.linalg.cholesky(covariance).T)


# --- Frechet distance ----------------------------------------------------------------------------------------------


def test_frechet_distance_of_gaussians_whose_covariances_commute() -> None:
    """Then it is |difference of the means|^2 + |difference of the standard deviations|^2."""
    deviations = np.array([[0.5, 1.0, 2.0], [1.5, 0.1, 2.5]])
    turn = np.linalg.qr(normal(3, 3, 0))[0]
    a, b = (
        with_moments(50 + i, mean, turn @ np.diag(deviations[i] ** 2) @ turn.T, seed=i)
        for i, mean in enumerate((np.array([3.0, 0.0, 1.0]), np.array([1.0, 0.5, 1.0])))
    )
    expected = 2.0**2 + 0.5**2 + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_gaussians_whose_covariances_do_not_commute() -> None:
    """In two dimensions tr(P^(1/2)) = (tr P + 2 det(P)^(1/2))^(1/2)."""
    s_a, s_b = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    product = s_a @ s_b
    assert not np.allclose(product, product.T)
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    a, b = with_moments(40, np.zeros(2), s_a, 0), with_moments(70, np.zeros(2), s_b, 1)
    assert frechet_distance(a, b) == pytest.approx(np.trace(s_a) + np.trace(s_b) - 2 * root, rel=1e-12)


@pytest.mark.parametrize("count", [5, 500])
def test_frechet_distance_is_0_to_rounding_where_covariances_are_singular(count: int) -> None:
    """Fewer images than features, or features that are always 0: a matrix's square root gives 1e-6 and more there."""
    a = normal(count, 64, 0)
    a[:, :10] = 0
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-11)
    assert frechet_distance(a, a + 1) == pytest.approx(64, rel=1e-12)
    b = normal(count, 64, 1)
    b[:, 10:] = 0  # no direction in common: nothing to subtract
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum() + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    assert frechet_distance(a, b) == pytest.approx(apart, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "m", "quoted"), [(1000, 20000, 1.15), (5000, 20000, 0.27), (1000, 1000, 2.2), (5000, 5000, 0.44)]
)
def test_the_frechet_distance_s_bias(n: int, m: int, quoted: float) -> None:
    """To second order; a part of order (d/N)^2 remains, which is why the tolerance is wider for small N."""
    formula = (64 * 65 / 4 + 64) * (1 / n + 1 / m)
    assert formula == pytest.approx(quoted, rel=0.04)
    assert frechet_distance(normal(n, 64, 0), normal(m, 64, 1)) == pytest.approx(formula, rel=0.1)


def test_the_frechet_distance_of_more_images_is_smaller() -> None:
    floors = [frechet_distance(normal(count, 16, 0), normal(count, 16, 1)) for count in (100, 400, 1600)]
    assert floors[0] > 3 * floors[1] > 9 * floors[2]


# --- KID -----------------------------------------------------------------------------------------------------------


def moments(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E x, E x x^T and E x x x of a Gaussian."""
    mixed = np.einsum("i,jk->ijk", mean, covariance)
    third = np.einsum("i,j,k->ijk", mean, mean, mean) + mixed + mixed.transpose(1, 0, 2) + mixed.transpose(2, 1, 0)
    return mean, covariance + np.outer(mean, mean), third


def population_kid(p: tuple[np.ndarray, np.ndarray], q: tuple[np.ndarray, np.ndarray]) -> float:
    """The kernel is a polynomial in x.y, and E (x.y)^r is the product of the two r-th moments. So the squared discrepancy
    of two Gaussians (mean, covariance) is a sum of squared differences of moments."""
    dim = len(p[0])
    apart = [((a - b) ** 2).sum() for a, b in zip(moments(*p), moments(*q), strict=True)]
    return float(sum(weight * square / dim**order for order, weight, square in zip((1, 2, 3), (3, 3, 1), apart, strict=True)))


GAUSSIANS = {
    "equal": ((np.zeros(4), np.eye(4)), (np.zeros(4), np.eye(4))),
    "moved": ((np.zeros(4), np.eye(4)), (np.array([0.5, 0.0, -0.3, 0.2]), np.eye(4))),
    "other covariance": ((np.ones(4), np.eye(4)), (np.ones(4), np.eye(4) + 0.5)),
}


@pytest.mark.parametrize("name", GAUSSIANS)
def test_kid_of_gaussians_is_unbiased_and_its_standard_error_is_true(name: str) -> None:
    """Over many draws: the mean is the closed form, at 60 and 90 images, and the values spread as the errors say."""
    p, q = GAUSSIANS[name]
    random = np.random.default_rng(0)
    draws = np.array(
        [kid(random.multivariate_normal(*p, size=60), random.multivariate_normal(*q, size=90)) for _ in range(150)]
    )
    values, errors = draws.T
    assert abs(values.mean() - population_kid(p, q)) < 3 * values.std() / np.sqrt(150)
    assert errors.mean() == pytest.approx(values.std(), rel=0.25)
    if name == "equal":
        assert (values < 0).any()


def test_kid_is_the_formula() -> None:
    a, b = normal(30, 5, 0), normal(41, 5, 1, mean=0.3)
    xx, yy, xy = ((x @ y.T / 5 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    expected = (xx.sum() - np.trace(xx)) / (30 * 29) + (yy.sum() - np.trace(yy)) / (41 * 40) - 2 * xy.mean()
    assert kid(a, b)[0] == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_kid_s_standard_error_is_the_jackknife_s_without_what_it_counts_twice(apart: float) -> None:
    """25 images make 25 blocks of one: leave each pair out by hand, and fit an effect of each block to all pairs of them."""
    a, b = normal(25, 3, 0), normal(25, 3, 1, mean=apart)
    random = np.random.default_rng(0)
    a, b = a[random.permutation(25)], b[random.permutation(25)]  # the blocks that kid will draw
    inverse = np.random.default_rng(0)
    error = kid(a[np.argsort(inverse.permutation(25))], b[np.argsort(inverse.permutation(25))])[1]

    jackknife = 24 * np.var([kid(np.delete(a, i, 0), np.delete(b, i, 0))[0] for i in range(25)])
    pairs = [(i, j) for i in range(25) for j in range(i)]
    kernels = [[(x[i] @ y[j] / 3 + 1) ** 3 for i, j in pairs] for x, y in ((a, a), (b, b), (a, b), (b, a))]
    design = np.array([[float(block in pair) for block in range(25)] for pair in pairs])
    residue = np.linalg.lstsq(design, np.array([1, 1, -1, -1]) @ kernels)[1][0]
    second = residue / (300 - 25)  # 300 pairs
    assert 0 < 4 * second / (25 * 23) < jackknife
    assert error == pytest.approx(np.sqrt(jackknife - 4 * second / (25 * 23) + 2 * second / (25 * 24)), rel=1e-9)


@pytest.mark.parametrize("arrange", [np.sort, lambda labels: labels], ids=["sorted", "in turn"])
def test_kid_s_standard_error_does_not_depend_on_the_order_of_classes(arrange: Any) -> None:
    """Blocks cut from images in order would each hold just one class, or some classes only."""
    labels = arrange(np.tile(np.arange(5), 100))
    a, b = labels[:, None] + normal(500, 5, 0), labels[:, None] / 2 + normal(500, 5, 1)
    shuffled = np.random.default_rng(9).permutation(500)
    assert kid(a, b)[1] == pytest.approx(kid(a[shuffled], b[shuffled])[1], rel=0.4)
    assert kid(a, b)[0] == pytest.approx(kid(a[shuffled], b[shuffled])[0], rel=1e-11)


# --- Density and coverage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5])
def test_identical_sets_have_density_and_coverage_1(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point lies in its own ball and in those of points to which it is one of the k - 1 nearest: k balls, on average."""
    points = normal(300, 8, 0, mean=5.0)
    assert density_coverage(points, points.copy(), k) == (1, 1)
    monkeypatch.setattr(module, "TILE", 1000)  # three rows at a time
    assert density_coverage(points, points.copy(), k) == (1, 1)


def test_density_and_coverage_of_points_on_a_line() -> None:
    real = np.array([[0.0], [1.0], [3.0], [7.0]])  # radii for k = 2: 3, 2, 3, 6
    generated = np.array([[0.5], [1.0], [-2.5], [20.0]])  # within 3, 3, 1 and 0 of the balls; an edge is outside
    assert density_coverage(real, generated, k=2) == ((3 + 3 + 1 + 0) / (2 * 4), 3 / 4)
    assert density_coverage(real, np.array([[3.0]]), k=2) == ((0 + 0 + 1 + 1) / 2, 2 / 4)


@pytest.mark.parametrize(("n", "m", "k"), [(100, 100, 5), (100, 100, 1), (60, 150, 3)])
def test_expected_density_and_coverage_of_two_samples_of_one_distribution(n: int, m: int, k: int) -> None:
    """A ball is empty if the k nearest of all N - 1 + M other points are real ones; and it holds a k-th part of 1/N."""
    coverage = 1 - np.prod([(n - i) / (n + m - i) for i in range(1, k + 1)])
    if n == m:
        assert coverage == pytest.approx(1 - 2.0**-k, abs=0.005)
    random = np.random.default_rng(0)
    draws = np.array([density_coverage(random.normal(size=(n, 3)), random.normal(size=(m, 3)), k) for _ in range(200)])
    errors = draws.std(axis=0) / np.sqrt(200)
    assert (np.abs(draws.mean(axis=0) - (1, coverage)) < 3 * errors).all()
    assert (errors < 0.02).all()


def test_density_and_coverage_tell_lost_variety_from_lost_fidelity() -> None:
    real = np.concatenate([normal(200, 4, seed, mean=10 * seed) for seed in range(2)])
    one_mode, blurred = normal(400, 4, 5), np.concatenate([normal(200, 4, 6, scale=3), normal(200, 4, 7, mean=10, scale=3)])
    density, coverage = density_coverage(real, one_mode)
    assert density > 0.9
    assert 0.4 < coverage <= 0.5
    density, coverage = density_coverage(real, blurred)
    assert density < 0.3
    assert coverage < 0.8


# --- What they refuse, and torch-fidelity --------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [frechet_distance, kid, density_coverage])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros(5), np.zeros((5, 2)), "shapes"),
        (np.zeros((5, 3)), np.zeros((5, 2)), "shapes"),
        (np.zeros((9, 2)), np.zeros((0, 2)), "at least"),
        (np.zeros((9, 2)), np.full((9, 2), np.nan), "NaN"),
        (np.full((9, 2), np.inf), np.zeros((9, 2)), "NaN"),
    ],
)
def test_bad_features_are_refused(measure: Any, a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(a, b)


def test_too_few_features_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(np.zeros((1, 2)), np.zeros((9, 2)))
    with pytest.raises(ValueError, match="at least 4"):
        kid(np.zeros((9, 2)), np.zeros((3, 2)))
    for k in (0, 9):
        with pytest.raises(ValueError, match=f"k = {k}; accepted: 1 to 8"):
            density_coverage(np.zeros((9, 2)), np.zeros((9, 2)), k)


def test_torch_fidelity_gives_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = np.maximum(normal(400, 64, 0), 0), np.maximum(normal(400, 64, 1, mean=0.1, scale=1.2), 0)
    statistics = [fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    expected = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-6)
    result = metric_kid.kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=400, verbose=False
    )
    assert kid(a, b)[0] == pytest.approx(result["kernel_inception_distance_mean"], abs=1e-10)
