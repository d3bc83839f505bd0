"""Nearest training images against a plain search, planted copies, and the three numbers made of the distances."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ddpm.evaluation.copies as module
from ddpm.evaluation.copies import Nearest, c_t, copied, near_copies, nearest, nearest_distance


def images(count: int, seed: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def noisy(clean: np.ndarray, seed: int, deviation: float = 5.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, deviation, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def plain_distances(some: np.ndarray, training: np.ndarray) -> np.ndarray:
    """By subtracting every pair in whole numbers: (2, N, M), of the training images and of their mirrors."""
    wide = some.astype(np.int64)
    turns = (training, training[:, :, ::-1])
    return np.sqrt([[((image - turned) ** 2).sum(axis=(1, 2, 3)) for image in wide] for turned in turns])


# --- The search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [1, 100, 1 << 21])
@pytest.mark.parametrize(("size", "channels"), [(8, 3), (7, 1), (32, 3)])
def test_the_search_is_exact(tile: int, size: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what whole numbers give, in blocks of any size; 32 px images are more than one part of exact sums."""
    monkeypatch.setattr(module, "TILE", tile)
    some, training = images(6, 0, size, channels), images(23, 1, size, channels)
    some[0], some[1] = 0, 255  # the longest vectors
    training[3], training[4] = 255, 0
    plain = plain_distances(some, training)
    both = plain.min(axis=0)
    found = nearest(some, training)
    assert (found.indices == both.argmin(axis=1)).all()
    assert (found.mirrored == [plain[1, i, j] < plain[0, i, j] for i, j in enumerate(found.indices)]).all()
    assert found.mirrored.any()
    assert (found.d1 == np.sort(both, axis=1)[:, 0]).all()
    assert (found.d2 == np.sort(both, axis=1)[:, 1]).all()
    unmirrored = nearest(some, training, flips=False)
    assert (unmirrored.indices == plain[0].argmin(axis=1)).all()
    assert (unmirrored.d1 == plain[0].min(axis=1)).all()
    assert (unmirrored.d2 == np.sort(plain[0], axis=1)[:, 1]).all()
    assert not unmirrored.mirrored.any()


def test_a_training_set_on_disk_gives_the_same(tmp_path: Path) -> None:
    some, training = images(3, 0), images(20, 1)
    np.save(tmp_path / "training.npy", training)
    mapped = np.load(tmp_path / "training.npy", mmap_mode="r")
    for one, other in zip(nearest(some, mapped), nearest(some, training), strict=True):
        assert (one == other).all()


def test_planted_copies_are_found() -> None:
    """Exact ones, mirrors, noisy ones and noisy mirrors, with their places; fresh images are none."""
    training, fresh = images(50, 0), images(4, 1)
    mirrors = training[:, :, ::-1]
    some = np.concatenate([training[10:12], mirrors[20:22], noisy(training[30:32], 2), noisy(mirrors[40:42], 3), fresh])
    found = nearest(some, training)
    assert found.indices[:8].tolist() == [10, 11, 20, 21, 30, 31, 40, 41]
    assert found.mirrored[:8].tolist() == [False, False, True, True, False, False, True, True]
    assert (found.d1[:4] == 0).all()
    assert found.d1[4:8] == pytest.approx(5 * math.sqrt(8 * 8 * 3), rel=0.2)  # the noise's length
    assert near_copies(found.d1, found.d2) == 8 / 12
    without = nearest(some, training, flips=False)
    assert near_copies(without.d1, without.d2) == 4 / 12


def test_a_training_image_s_mirror_is_no_second_image() -> None:
    """A symmetric training image, and its mirror, would otherwise stand nearest and second nearest."""
    training = images(30, 0)
    training[5, :, 4:] = training[5, :, 3::-1]
    assert (training[5] == training[5, :, ::-1]).all()
    found = nearest(noisy(training[5:6], 1), training)
    assert found.indices[0] == 5
    assert not found.mirrored[0]
    assert near_copies(found.d1, found.d2) == 1


@pytest.mark.parametrize("tile", [4, 1 << 21])  # in one block with the original, and in another
@pytest.mark.parametrize("turn", [1, -1], ids=["duplicate", "mirror"])
def test_duplicates_in_the_training_set_do_not_hide_a_copy(tile: int, turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a data set holds twice is what a model learns by heart first."""
    monkeypatch.setattr(module, "TILE", tile)
    training = images(30, 0)
    training[17] = training[5, :, ::turn]
    found = nearest(np.concatenate([training[5:6], noisy(training[5:6], 1)]), training)
    assert found.indices.tolist() == [5, 5]
    assert found.mirrored.tolist() == [False, False]
    assert (found.d2 > 400).all()
    assert near_copies(found.d1, found.d2) == 1


def test_one_training_image_many_times_has_no_second() -> None:
    training = np.repeat(images(1, 0), 3, axis=0)
    found = nearest(np.concatenate([training[:1], images(1, 1)]), training)
    assert np.isinf(found.d2).all()
    assert near_copies(found.d1, found.d2) == 1 / 2, "the exact copy"


@pytest.mark.parametrize(
    ("some", "training", "message"),
    [
        (images(2, 0), images(1, 1), "real are"),
        (images(0, 0), images(9, 1), "images are"),
        (images(2, 0).astype(np.float32), images(9, 1), "images are float32"),
        (images(2, 0), images(9, 1).astype(np.int64), "real are int64"),
        (images(2, 0), images(9, 1, size=7), "real are"),
        (images(2, 0)[0], images(9, 1), "images are"),
    ],
)
def test_bad_images_are_refused(some: np.ndarray, training: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(some, training)


# --- The numbers ---------------------------------------------------------------------------------------------------


def test_near_copies_are_those_below_a_third() -> None:
    d1, d2 = np.array([0.0, 0.0, 1.0, 1.0, 5.0]), np.array([0.0, 7.0, 3.0, 3.01, 6.0])
    assert near_copies(d1, d2) == 3 / 5


@pytest.mark.parametrize("rounding", [1, 8], ids=["few ties", "many ties"])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 2.0])
def test_c_t_is_mann_and_whitney_s(rounding: int, shift: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    generated = np.rint(random.normal(100 + shift, 3, 70) * 8 / rounding)
    heldout = np.rint(random.normal(100, 3, 45) * 8 / rounding)
    assert len(np.unique([*generated, *heldout])) < 115
    options: dict[str, Any] = {"alternative": "less", "method": "asymptotic", "use_continuity": False}
    expected = stats.mannwhitneyu(generated, heldout, **options).pvalue
    assert stats.norm.cdf(c_t(generated, heldout)) == pytest.approx(expected, rel=1e-9)
    assert c_t(heldout, generated) == pytest.approx(-c_t(generated, heldout), rel=1e-12)


def test_c_t_by_hand() -> None:
    """Generated 1, 2 and 2 against 2 and 3: farther in no pair, equal in two; U = 1, three equal distances."""
    variance = 6 / 12 * (6 - (3**3 - 3) / (5 * 4))
    assert c_t(np.array([1.0, 2.0, 2.0]), np.array([2.0, 3.0])) == pytest.approx((1 - 3) / math.sqrt(variance), rel=1e-12)


def test_c_t_of_two_halves_of_one_distribution_is_standard_normal() -> None:
    random = np.random.default_rng(0)
    scores = np.array([c_t(*random.gamma(3.0, size=(2, 100))) for _ in range(1000)])
    assert abs(scores.mean()) < 0.1
    assert scores.std() == pytest.approx(1, rel=0.07)
    assert 0.025 < (np.abs(scores) > 1.96).mean() < 0.075


def test_c_t_falls_with_the_share_of_copies() -> None:
    training, heldout = images(200, 0, size=4), images(200, 1, size=4)
    distances = nearest(heldout, training).d1
    scores = []
    for copies in (0, 60, 120):
        some = images(200, 2, size=4)
        some[:copies] = noisy(training[:copies], 3)
        scores.append(c_t(nearest(some, training).d1, distances))
    assert abs(scores[0]) < 3
    assert scores[0] > -3 > scores[1] > scores[2]


def test_c_t_of_blurred_images_of_no_training_image_is_positive() -> None:
    """Distances larger than those of real images: the model does not fit, which is no copying."""
    assert c_t(np.linspace(5, 6, 50), np.linspace(1, 5.5, 50)) > 3


def test_c_t_of_equal_distances_is_0_and_of_none_is_refused() -> None:
    assert c_t(np.ones(5), np.ones(9)) == 0
    with pytest.raises(ValueError, match="0 generated"):
        c_t(np.ones(0), np.ones(9))
    with pytest.raises(ValueError, match="none NaN"):
        c_t(np.ones(5), np.array([1.0, np.nan]))


def test_distances_of_features_are_those_one_by_one() -> None:
    random = np.random.default_rng(0)
    features, training = random.normal(size=(7, 5)), random.normal(size=(300, 5))
    features[3] = training[250]
    expected = [min(float(np.linalg.norm(row - other)) for other in training) for row in features]
    assert nearest_distance(features, training) == pytest.approx(expected, abs=1e-7)
    assert nearest_distance(features, training)[3] < 1e-6


def normal(count: int, seed: int, deviation: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, deviation, (count, 8))


def copied_of(some: np.ndarray, training: np.ndarray, heldout: np.ndarray) -> tuple[float, float]:
    """`copied` of points instead of images."""
    found = []
    for others in (training, heldout):
        distances = np.sqrt(((some[:, None] - others) ** 2).sum(axis=2))
        rank = np.sort(distances, axis=1)
        found.append(Nearest(distances.argmin(axis=1), np.zeros(len(some), bool), rank[:, 0], rank[:, 1]))
    return copied(*found, len(training), len(heldout))


def test_copied_is_the_share_of_copies() -> None:
    """Of 400 points a quarter are training points, exactly or nearly; the rest is of the same distribution."""
    training, heldout = normal(2000, 0), normal(1000, 1)
    for deviation in (0.0, 0.05):
        copies = training[:100] + normal(100, 2, deviation)
        share, error = copied_of(np.concatenate([copies, normal(300, 3)]), training, heldout)
        assert share == pytest.approx(0.25, abs=2.5 * error)
    independent = math.sqrt(2 / 400)  # p = 2/3, and p (1 - p) / n over (1 - p)^2
    assert copied_of(training[:400], training, heldout) == pytest.approx((1, independent), rel=1e-12)
    assert copied_of(heldout[:400], training, heldout) == pytest.approx((-2, independent), rel=1e-12)
    twice = np.concatenate([heldout[:200], heldout[:200]])
    assert copied_of(twice, training, heldout)[1] == pytest.approx(independent * math.sqrt(2), rel=1e-12)


def test_copied_sees_planted_copies_of_images() -> None:
    training, heldout, fresh = images(60, 0), images(40, 1), images(30, 2)
    some = np.concatenate([noisy(training[:30, :, ::-1], 3), fresh])
    share, error = copied(nearest(some, training), nearest(some, heldout), 60, 40)
    assert share == pytest.approx(0.5, abs=2.5 * error)
    assert share > 2 * error


def test_copied_is_0_where_c_t_takes_typical_images_for_copies() -> None:
    """Points nearer to the middle than real ones: near to training points, and as near to held-out ones."""
    training, heldout, typical = normal(2000, 0), normal(1000, 1), normal(1000, 2, 0.5)
    assert c_t(nearest_distance(typical, training), nearest_distance(heldout, training)) < -15
    share, error = copied_of(typical, training, heldout)
    assert abs(share) < 2 * error


@pytest.mark.parametrize("deviation", [1.0, 0.3], ids=["as real ones", "typical"])
def test_copied_without_copies_has_the_error_that_it_says(deviation: float) -> None:
    """Other sets each time; typical points share their neighbours, and the error knows."""
    scores = []
    for seed in range(400):
        share, error = copied_of(normal(60, 3 * seed, deviation), normal(200, 3 * seed + 1), normal(100, 3 * seed + 2))
        scores.append(share / error)
    assert abs(np.mean(scores)) < 4 / math.sqrt(400)
    assert np.std(scores) == pytest.approx(1, abs=4 / math.sqrt(2 * 400))


def test_copied_of_images_in_both_sets_is_even_and_of_none_is_refused() -> None:
    some = images(20, 0)
    both, few = nearest(some, some), nearest(some[:5], some)
    assert copied(both, both, 20, 20)[0] == 0
    for wrong in ((both, both, 0, 20), (both, both, 20, 0), (both, few, 20, 20)):
        with pytest.raises(ValueError, match="accepted: at least one of each, and the same images for both"):
            copied(*wrong)
