"""FID, KID, Inception score, precision and recall as the literature reports them: torch-fidelity on Inception-v3's features.

These are the numbers that papers compare. They need a package (the extra `fid`) and weights of 96 MB that are no part of this
project, so they are measured only where `evaluation.inception` names those; all else is measured without them.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.base.faults import Fault
from ddpm.base.files import whole_file
from ddpm.base.progress import progress_bar
from ddpm.machine.precision import configure

# The network that FID is defined with, TensorFlow's of 2015-12-05, as torch-fidelity's authors publish it for torch.
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
FILE = URL.rpartition("/")[2]
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of FILE, whose name has its beginning

FEATURES = 2048  # of the last pooling
MOST = 50_000  # training images behind the statistics, as in the published protocol
COMPARED = 10_000  # of them whose own features are kept: KID's subsets are of 1000, and P/R costs the square of this
LEAST = 10  # images on each side: the Inception score is a mean over ten parts
BATCH_SIZE = 64  # images a call, as torch-fidelity has it: another one rounds differently
PROTOCOL = (
    "Inception-v3 of 2015-12-05, 2048 features of the last pooling, in fp32; images as packed, uint8, unflipped, gray repeated "
    f"to three channels; of more than {MOST:,} training images, as many drawn at random with seed 0"
)


def lacking(weights: Path) -> str:
    """What these measures lack here, the package or its weights, and how to get it: one line, or "" if nothing is missing."""
    try:
        found = version("torch-fidelity")
    except PackageNotFoundError:
        found = "missing"
    without = "FID, KID, Inception score, precision and recall are left out"
    if not found.startswith("0.4."):  # before, precision and recall were exchanged
        return f"torch-fidelity 0.4 is needed and is {found}, so {without}; `pip install -e '.[fid]'` installs it"
    if not weights.is_file():
        command = f"curl --location --create-dirs -o '{weights}' {URL}"
        return f"evaluation.inception: {weights} is missing, so {without}; to get it: {command}"
    return ""


class Inception:
    """Inception-v3 on `device`, with the weights of the file `weights`.

    torch-fidelity unpickles them, which may execute what a file holds: they are read only if their SHA-256 is `sha256`.
    Raises Fault, before anything is unpickled, if it is not.
    """

    def __init__(self, weights: Path, device: torch.device, sha256: str = SHA256) -> None:
        content = weights.read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != sha256:
            raise Fault(
                f"evaluation.inception: {weights} has the SHA-256 {found}; accepted: {sha256}, which is that of {URL}. "
                "Nothing of the file was loaded"
            )
        create = import_module("torch_fidelity.utils").create_feature_extractor
        layers = [str(FEATURES), "logits_unbiased"]
        # The bytes that were checked, not the path: the file may change meanwhile.
        options = {"feature_extractor_weights_path": io.BytesIO(content), "verbose": False}
        self.network = create("inception-v3-compat", layers, cuda=False, **options).to(device)
        self.device, self.sha256 = device, sha256

    def features(self, images: np.ndarray, rows: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Features, float32 (N, 2048), and logits without their bias, float32 (N, 1008), of `images`, or of these rows of them.

        `images`: uint8 (N, H, W, C), C = 1 (gray) or 3; they may lie on disk. Both results lie on the CPU. With a progress bar.
        """
        configure("fp32", self.device)  # TF32 would move the numbers
        rows = np.arange(len(images)) if rows is None else rows
        found: list[tuple[Tensor, ...]] = []
        with progress_bar(total=len(rows), desc="Inception-v3", unit=" images") as bar, torch.inference_mode():
            for start in range(0, len(rows), BATCH_SIZE):
                batch = torch.from_numpy(images[rows[start : start + BATCH_SIZE]]).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
                found.append(tuple(values.cpu() for values in self.network(batch.contiguous().to(self.device))))
                bar.update(len(batch))
        features, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
        return features, logits


class Reference(NamedTuple):
    """What the training images are to these measures."""

    mu: np.ndarray  # float64 (2048,), mean of the features of at most MOST images
    sigma: np.ndarray  # float64 (2048, 2048), their covariance
    features: Tensor  # float32 (n, 2048), of at most COMPARED of them


def reference(inception: Inception, training: np.ndarray, data_sha256: str, statistics: Path, features: Path) -> Reference:
    """Measure the training images, uint8 (M, H, W, C), or read what an earlier call wrote of the same images and weights.

    `statistics` and `features` become .npz files: mu and sigma, which say nothing of single images and may be shared; and the
    features of COMPARED images, scratch for this machine. Each has a `header`, JSON: SHA-256 of data and weights, number and
    shape of the images, version of torch-fidelity, PROTOCOL. A file whose header differs is made again, one that fits is all
    that is read. On two CPU cores 50,000 images take two hours. Raises Fault where the disk is full.
    """
    rows = _some(len(training), MOST)
    compared = _some(len(rows), COMPARED)
    header = {
        "data_sha256": data_sha256,
        "inception_sha256": inception.sha256,
        "images": len(rows),
        "shape": list(training.shape[1:]),
        "torch_fidelity": version("torch-fidelity"),
        "protocol": PROTOCOL,
    }
    moments, kept = _read(statistics, header), _read(features, header)
    if moments is None:
        every, _ = inception.features(training, rows)
        moments = _moments(every)
        _write(statistics, header, moments)
        kept = {"features": every[compared].numpy()}
        _write(features, header, kept)
    elif kept is None:
        kept = {"features": inception.features(training, rows[compared])[0].numpy()}
        _write(features, header, kept)
    return Reference(moments["mu"], moments["sigma"], torch.from_numpy(kept["features"]))


def measures(inception: Inception, generated: np.ndarray, against: Reference) -> dict[str, Any]:
    """Measures of the images `generated`, uint8 (N, H, W, C), N and the reference's n at least 10. Raises Fault for fewer.

    fid: Frechet distance of the features (Heusel et al. 2017, 1706.08500, equation 6), 0 or more, lower is better. Its bias
        falls with N: only numbers of one N compare.
    inception_kid: squared maximum mean discrepancy with the kernel (x.y/2048 + 1)^3, mean over 100 subsets of min(1000, N, n)
        images (Binkowski et al. 2018, 1801.01401, section 4), lower is better, about 0 for the same distribution.
    inception_score: of the 1008 classes, mean over ten parts (Salimans et al. 2016, 1606.03498), 1 to 1008, higher is better.
    precision, recall: share of generated images among the training images and of training images among the generated, by
        their third nearest neighbours (Kynkäänniemi et al. 2019, 1904.06991, equation 2), 0 to 1, higher is better; as there,
        of equally many images on each side, min(N, n).
    inception_sha256: of the weights.
    """
    if (fewest := min(len(generated), len(against.features))) < LEAST:
        numbers = f"evaluation.images = {len(generated)}, training images: {len(against.features)}"
        raise Fault(f"{numbers}; accepted with evaluation.inception: {LEAST} or more of each")
    features, logits = inception.features(generated)
    equal = against.features[_some(len(against.features), fewest)]
    fid, kid, isc, prc = (import_module(f"torch_fidelity.metric_{name}") for name in ("fid", "kid", "isc", "prc"))
    distance = fid.fid_statistics_to_metric(_moments(features), {"mu": against.mu, "sigma": against.sigma}, verbose=False)
    discrepancy = kid.kid_features_to_metric(features, against.features, kid_subset_size=min(1000, fewest), verbose=False)
    score = isc.isc_features_to_metric(logits)
    # save_cpu_ram: or it takes the distances of all pairs at once.
    shares = prc.prc_features_to_metric(features[:fewest], equal, save_cpu_ram=True, verbose=False)
    return {
        "fid": distance[fid.KEY_METRIC_FID],
        "inception_kid": discrepancy[kid.KEY_METRIC_KID_MEAN],
        "inception_score": score[isc.KEY_METRIC_ISC_MEAN],
        "precision": shares[prc.KEY_METRIC_PRECISION],
        "recall": shares[prc.KEY_METRIC_RECALL],
        "inception_sha256": inception.sha256,
    }


def comparison(samples: int, manifest: Mapping[str, Any]) -> str:
    """A sentence to stand beside an FID of `samples` images: what it may be compared with.

    `manifest`: the facts about the data, of which dataset, origin and matches_official count. Published FIDs of CIFAR-10 are
    of 50,000 samples against its 50,000 training images, unaltered; other data sets have no such custom.
    """
    against = []
    if not manifest["matches_official"]:
        against.append(f"the training images are not the official files ({manifest['origin']})")
    elif manifest["dataset"] != "cifar10":
        against.append(f"there is no agreed protocol for {manifest['dataset']}")
    if samples < MOST:
        against.append(f"it is of {samples:,} samples where published ones are of {MOST:,}, and fewer give a larger FID")
    if against:
        return f"This FID does not compare with published ones: {'; '.join(against)}."
    return f"This FID compares with published ones: {samples:,} samples against the official training images."


def _some(count: int, most: int) -> np.ndarray:
    """Rows of `count`, int64 in ascending order: all, or of more than `most` as many drawn at random, always the same."""
    rows = np.arange(count)
    return rows if count <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def _moments(features: Tensor) -> dict[str, np.ndarray]:
    """Mean and covariance of `features`, float64; torch-fidelity sums the mean of thousands of images in float32."""
    return {"mu": features.mean(0, dtype=torch.float64).numpy(), "sigma": np.cov(features.numpy(), rowvar=False)}


def _read(path: Path, header: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """The arrays in the file `path`, or None if there is none with this header. Unpickles nothing."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file) if json.loads(str(file["header"])) == header else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing, or damaged: it is made again
        return None


def _write(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write what `_read` reads, whole or not at all; the same arrays give the same bytes."""
    contents: dict[str, Any] = {"header": np.array(json.dumps(header)), **arrays}
    with whole_file(path, sum(array.nbytes for array in arrays.values())) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **contents)
