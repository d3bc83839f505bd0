"""FID and its like through torch-fidelity, with a stand-in for the weights: right structure, random values."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from ddpm.base.faults import Fault
from ddpm.evaluation import inception
from ddpm.evaluation.inception import Inception, Reference, comparison, lacking, measures, reference

CPU = torch.device("cpu")


class Bare(FeatureExtractorInceptionV3):
    """The network as it is before its weights are loaded."""

    def load_state_dict(self, *_: Any, **__: Any) -> None:
        pass


def random_weights() -> dict[str, torch.Tensor]:
    """A state of the network with random values that keep the features of the order of 1."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    state = Bare("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, values in state.items():
        if values.ndim > 1 or name == "fc.bias":  # what is left is the batch norms', which change nothing
            gain = 100 if name == "Conv2d_1a_3x3.conv.weight" else 1  # and with it of all that follows
            values.normal_(0, gain * (2 / values[0].numel()) ** 0.5, generator=generator)
        assert values.isfinite().all(), name
    return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / inception.FILE
    torch.save(random_weights(), path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path) -> Any:
    """The stand-in, loaded. It sees images at 75 px, the smallest that its layers take: twenty times as fast as at 299."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)
        yield Inception(weights, CPU, sha256(weights.read_bytes()).hexdigest())


def pictures(count: int, seed: int, brightness: float = 128, channels: int = 3) -> np.ndarray:
    """Noise over a colour of each image's own: uint8 (count, 32, 32, channels)."""
    random = np.random.default_rng(seed)
    colour = random.normal(brightness, 30, (count, 1, 1, channels))
    return (colour + random.normal(0, 40, (count, 32, 32, channels))).clip(0, 255).astype(np.uint8)


class Watched(np.ndarray):
    """Images that note which of them were read."""

    read: list[int]

    def __getitem__(self, rows: Any) -> Any:
        self.read += list(rows)
        return self.view(np.ndarray)[rows]


def watched(images: np.ndarray) -> Watched:
    view = images.view(Watched)
    view.read = []
    return view


# --- The weights, and what is missing ------------------------------------------------------------------------------


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_other_weights_are_refused_before_anything_is_unpickled(tmp_path: Path) -> None:
    planted, mark = tmp_path / inception.FILE, tmp_path / "executed"
    torch.save(Bomb(mark), planted)
    with pytest.raises(Fault) as refusal:
        Inception(planted, CPU)
    assert not mark.exists()
    for named in (str(planted), sha256(planted.read_bytes()).hexdigest(), inception.SHA256, inception.URL):
        assert named in str(refusal.value)
    torch.load(planted, weights_only=False)
    assert mark.exists(), "what torch-fidelity does with a file would have executed it"


def test_the_weights_name_holds_the_beginning_of_their_hash() -> None:
    assert inception.FILE.removesuffix(".pth").rpartition("-")[2] == inception.SHA256[:8]
    assert inception.URL == torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3


def test_the_bytes_that_were_checked_are_those_that_are_loaded(weights: Path, network: Inception) -> None:
    state = network.network.state_dict()
    assert all(torch.equal(values, state[name]) for name, values in random_weights().items())
    assert network.sha256 == sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize("found", [None, "0.3.0"])
def test_a_missing_or_old_package_is_named(monkeypatch: pytest.MonkeyPatch, weights: Path, found: str | None) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    assert lacking(weights) == ""
    monkeypatch.setattr(inception, "version", version)
    assert "pip install -e '.[fid]'" in lacking(weights)
    assert (found or "missing") in lacking(weights)


def test_missing_weights_are_named_with_the_command_that_gets_them(tmp_path: Path) -> None:
    line = lacking(tmp_path / "absent.pth")
    assert line.endswith(f"curl --location --create-dirs -o '{tmp_path}/absent.pth' {inception.URL}")
    assert "\n" not in line
    assert "is missing" in lacking(tmp_path), "a folder is no file"


# --- The features --------------------------------------------------------------------------------------------------


def test_gray_images_are_repeated_to_three_channels(network: Inception) -> None:
    gray = pictures(5, seed=3, channels=1)
    features, logits = network.features(gray)
    assert (features.shape, logits.shape, features.dtype) == ((5, 2048), (5, 1008), torch.float32)
    repeated, _ = network.features(np.repeat(gray, 3, axis=3))
    assert torch.equal(features, repeated)
    assert features.std(0).mean() > 0.1, "the stand-in tells images apart"


def test_rows_may_be_chosen_of_images_on_disk(network: Inception, tmp_path: Path) -> None:
    images = pictures(6, seed=4)
    np.save(tmp_path / "images.npy", images)
    lying = np.load(tmp_path / "images.npy", mmap_mode="r")
    chosen, _ = network.features(lying, np.array([4, 1]))
    torch.testing.assert_close(chosen, network.features(images)[0][[4, 1]], rtol=1e-4, atol=1e-5)


# --- The reference -------------------------------------------------------------------------------------------------


class Files:
    """Where a test keeps its reference, and how it asks for it."""

    def __init__(self, folder: Path, network: Inception) -> None:
        self.statistics, self.features = folder / "statistics.npz", folder / "features.npz"
        self.network = network

    def reference(self, images: np.ndarray, data: str = "d" * 64) -> Reference:
        return reference(self.network, images, data, self.statistics, self.features)


@pytest.fixture
def files(tmp_path: Path, network: Inception) -> Files:
    return Files(tmp_path, network)


def test_the_statistics_are_those_of_all_training_images_and_are_read_the_second_time(files: Files) -> None:
    images = watched(pictures(7, seed=0))
    first = files.reference(images)
    assert images.read == [*range(7)]
    features = files.network.features(np.asarray(images))[0].double()
    centred = features - features.mean(0)
    np.testing.assert_allclose(first.mu, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(first.sigma, centred.T @ centred / 6, rtol=1e-8, atol=1e-12)
    assert first.mu.dtype == first.sigma.dtype == np.float64
    assert torch.equal(first.features.double(), features)

    images.read.clear()
    second = files.reference(images)
    assert images.read == []
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))

    written = files.statistics.read_bytes()
    files.statistics.unlink()
    files.reference(images)
    assert files.statistics.read_bytes() == written, "a second run gives the same bytes"


def test_the_header_says_what_the_statistics_are_of(files: Files) -> None:
    files.reference(pictures(4, seed=0))
    for path, arrays in ((files.statistics, {"header", "mu", "sigma"}), (files.features, {"header", "features"})):
        with np.load(path, allow_pickle=False) as file:
            assert set(file) == arrays
            header = json.loads(str(file["header"]))
        assert header["data_sha256"] == "d" * 64
        assert header["inception_sha256"] == files.network.sha256
        assert (header["images"], header["shape"], header["torch_fidelity"]) == (4, [32, 32, 3], torch_fidelity.__version__)
        assert "unflipped" in header["protocol"]


def test_other_data_other_weights_and_damage_make_the_reference_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    images = watched(pictures(4, seed=0))

    def reads(data: str = "d" * 64) -> bool:
        images.read.clear()
        files.reference(images, data)
        return bool(images.read)

    assert [reads(), reads(), reads("e" * 64), reads("e" * 64)] == [True, False, True, False]
    with monkeypatch.context() as patch:
        patch.setattr(files.network, "sha256", "f" * 64)
        assert [reads("e" * 64), reads("e" * 64)] == [True, False]
    assert reads("e" * 64)
    for damaged in (files.statistics, files.features):
        damaged.write_bytes(damaged.read_bytes()[:-1000])
        assert [reads("e" * 64), reads("e" * 64)] == [True, False]


def test_a_planted_pickle_among_the_statistics_is_not_executed(files: Files, tmp_path: Path) -> None:
    images, mark = pictures(4, seed=0), tmp_path / "executed"
    whole = files.reference(images)
    with np.load(files.statistics) as file:
        arrays = dict(file)
    np.savez(files.statistics, **(arrays | {"mu": np.array(Bomb(mark), dtype=object)}))
    assert np.array_equal(files.reference(images).mu, whole.mu)
    assert not mark.exists()
    np.savez(files.statistics, **(arrays | {"mu": np.array(Bomb(mark), dtype=object)}))
    with np.load(files.statistics, allow_pickle=True) as file:
        assert file["mu"] is not None
    assert mark.exists()


def test_of_many_images_some_are_drawn_and_few_are_kept(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "MOST", 8)
    monkeypatch.setattr(inception, "COMPARED", 3)
    images = watched(pictures(12, seed=0))
    found = files.reference(images)
    drawn = sorted(set(images.read))
    assert len(images.read) == len(drawn) == 8
    every = files.network.features(np.asarray(images), np.array(drawn))[0]
    np.testing.assert_allclose(found.mu, every.double().mean(0), rtol=1e-12)
    kept = [index for index in range(8) if any(torch.equal(every[index], row) for row in found.features)]
    assert len(kept) == len(found.features) == 3

    files.features.unlink()  # as where the statistics alone were fetched
    images.read.clear()
    again = files.reference(images)
    assert images.read == [drawn[index] for index in kept]
    torch.testing.assert_close(again.features, found.features, rtol=1e-4, atol=1e-5)


# --- The measures --------------------------------------------------------------------------------------------------


class Planted:
    """In place of Inception: features and logits that a test chose."""

    sha256 = "p" * 64

    def __init__(self, features: np.ndarray, logits: np.ndarray) -> None:
        self.results = torch.from_numpy(features).float(), torch.from_numpy(logits).float()

    def features(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        assert len(images) == len(self.results[0])
        return self.results


def planted(generated: np.ndarray, real: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """The measures of these features, float (N, d) and (M, d)."""
    against = Reference(real.mean(0), np.cov(real, rowvar=False), torch.from_numpy(real).float())
    return measures(Planted(generated, logits), np.zeros((len(generated), 1, 1, 3), np.uint8), against)  # type: ignore[arg-type]


def whitened(points: np.ndarray) -> np.ndarray:
    """`points` (N, d), moved and stretched so that their mean is 0 and their covariance 1."""
    points = points - points.mean(0)
    return points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T


def test_the_measures_are_their_formulas() -> None:
    random = np.random.default_rng(0)
    real = whitened(random.normal(size=(60, 2)))
    generated = whitened(random.normal(size=(60, 2))) * [2, 3] + [1, -2]
    classes = np.tile(np.eye(6) * 50, (10, 1))  # each image of one class for certain, six classes in equal shares
    found = planted(generated, real, classes[random.permutation(60)])
    # |m1 - m2|^2 and, of covariances that commute, the sum of (s1 - s2)^2 over the axes: float32 features.
    assert found["fid"] == pytest.approx(1 + 4 + 1 + 4, rel=1e-5)
    assert 1 < found["inception_score"] <= 6
    assert found["inception_sha256"] == "p" * 64

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 2 + 1) ** 3

    own = [(kernel(one, one).sum() - np.trace(kernel(one, one))) / (60 * 59) for one in (generated, real)]
    assert found["inception_kid"] == pytest.approx(sum(own) - 2 * kernel(generated, real).mean(), rel=1e-4)

    def share(inside: np.ndarray, balls: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(balls - centre, axis=1))[3] for centre in balls]
        within = [any(np.linalg.norm(point - balls, axis=1) <= radii) for point in inside]
        return float(np.mean(within))

    assert found["precision"] == pytest.approx(share(generated, real))
    assert found["recall"] == pytest.approx(share(real, generated))
    assert found["precision"] < 0.8 < found["recall"], "generated images too far apart: precision and recall are not exchanged"


def test_the_inception_score_of_certain_and_varied_images_is_the_number_of_classes() -> None:
    points = np.random.default_rng(0).normal(size=(40, 2))
    certain = np.zeros((40, 7))
    assert planted(points, points, certain)["inception_score"] == pytest.approx(1)
    parts = np.random.RandomState(2020).permutation(40)  # which image stands where in the ten parts of four
    certain[parts, np.arange(40) % 4] = 60
    assert planted(points, points, certain)["inception_score"] == pytest.approx(4, rel=1e-6)


def test_as_many_real_as_generated_images_count_for_precision_and_recall() -> None:
    random = np.random.default_rng(1)
    for few, many in ((20, 391), (391, 20)):
        generated, real = random.normal(size=(few, 8)), random.normal(size=(many, 8))
        found = planted(generated, real, np.zeros((few, 5)))
        shares = np.array([found["precision"], found["recall"]])
        assert all(shares > 0.5), shares
        assert all(shares < 1), shares
        np.testing.assert_allclose(shares * 20, np.round(shares * 20), atol=1e-5)  # parts of 20, none of 391


def test_too_few_images_are_refused() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(Fault, match=r"evaluation\.images = 9, training images: 30; accepted .*10 or more of each"):
        planted(points[:9], points, np.zeros((9, 5)))
    with pytest.raises(Fault, match=r"training images: 9"):
        planted(points, points[:9], np.zeros((30, 5)))


class Images(Dataset):
    """What torch-fidelity takes: uint8 (3, H, W) an item."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.images[index].transpose(2, 0, 1).copy())


def test_the_numbers_are_those_of_torch_fidelity_called_by_hand(files: Files, weights: Path) -> None:
    generated, training = pictures(40, seed=1, brightness=110), pictures(40, seed=2)
    files.reference(training)
    ours = measures(files.network, generated, files.reference(training))  # a reference that was read
    by_hand = torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(training),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        kid_subset_size=40,
        cache=False,
        save_cpu_ram=True,
        cuda=False,
        verbose=False,
    )
    theirs = {
        "fid": by_hand["frechet_inception_distance"],
        "inception_kid": by_hand["kernel_inception_distance_mean"],
        "inception_score": by_hand["inception_score_mean"],
        "precision": by_hand["precision"],
        "recall": by_hand["recall"],
    }
    assert set(ours) == {*theirs, "inception_sha256"}
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)
    assert ours["inception_score"] > 1.05
    assert 0 < ours["precision"] < 1
    assert 0 < ours["recall"] < 1


# --- The sentence beside the number --------------------------------------------------------------------------------

OFFICIAL = {"dataset": "cifar10", "origin": "official archive", "matches_official": True}


@pytest.mark.parametrize(
    ("samples", "changes", "named"),
    [
        (5000, {}, ["5,000 samples where published ones are of 50,000"]),
        (50_000, {"dataset": "celeba"}, ["no agreed protocol for celeba"]),
        (
            50_000,
            {"matches_official": False, "origin": "re-encoded from JPEG"},
            ["not the official files (re-encoded from JPEG)"],
        ),
        (500, {"matches_official": False}, ["not the official files", "500 samples"]),
    ],
)
def test_what_does_not_compare_with_published_numbers_says_why(samples: int, changes: dict[str, Any], named: list[str]) -> None:
    sentence = comparison(samples, OFFICIAL | changes)
    assert sentence.startswith("This FID does not compare with published ones: ")
    assert all(words in sentence for words in named)


def test_the_published_protocol_compares() -> None:
    assert comparison(50_000, OFFICIAL).startswith("This FID compares with published ones: 50,000 samples")
