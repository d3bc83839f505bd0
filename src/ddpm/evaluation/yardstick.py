"""The yardstick: a small classifier of CIFAR-10 whose last features every measure of images is taken in.

Its weights are a file of this package, so that every machine measures with the same ones; a retrained yardstick moves the
scale of every number, which is why results name the file's SHA-256. `ddpm.evaluation.learning` trained it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddpm.base.faults import Fault
from ddpm.base.files import whole_file
from ddpm.base.hashes import sha256_of
from ddpm.base.progress import progress_bar

FEATURES = 64  # before the last layer: the bias of a Frechet distance grows with their square
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WEIGHTS = Path(__file__).with_name("yardstick.safetensors")
SMALLEST = 24  # pixels a side; smaller images are enlarged, for two halvings would leave little of them
BATCH_SIZE = 250  # images a call; bounds the memory
ORIGIN = "the file of this version of the package"
MANY = 2500  # images from which measuring shows a bar


class YardstickNetwork(nn.Module):
    """Seven 3x3 convolutions in three resolutions with two shortcuts, after He et al. 2015 (arXiv 1512.03385).

    Maps images, float32 (N, 3, H, W) in [-1, 1], H and W of about 24 or more, to features, float32 (N, 64). Their mean over
    the classifier's training images is about 0 and their deviation about 1: no feature outweighs another in a distance.
    `norm`: with batch norm, as it is trained; without, as it is stored, the norms folded into the convolutions.
    """

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem = _Convolution(3, 32, norm=norm)
        self.down1 = _Convolution(32, 64, stride=2, norm=norm)
        self.block1 = nn.Sequential(_Convolution(64, 64, norm=norm), _Convolution(64, 64, norm=norm))
        self.down2 = _Convolution(64, 128, stride=2, norm=norm)
        self.block2 = nn.Sequential(_Convolution(128, 128, norm=norm), _Convolution(128, 128, norm=norm))
        self.narrow = _Convolution(128, FEATURES, size=1, norm=norm)
        # Batch norm without scale and shift, also in the stored network: it is what makes the features comparable.
        self.standardise = nn.BatchNorm1d(FEATURES, affine=False)
        self.classify = nn.Linear(FEATURES, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.down1(self.stem(images))
        hidden = self.down2(hidden + self.block1(hidden))
        hidden = self.narrow(hidden + self.block2(hidden))
        features: Tensor = self.standardise(hidden.mean((2, 3)))
        return features


class _Convolution(nn.Module):
    """Convolution, batch norm where it is wanted, and ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=not norm)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.norm(self.convolution(images)))


def features(images: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The yardstick's features, float64 (N, 64), of images, uint8 (N, H, W, C) with C = 1 (gray, repeated) or 3.

    The mean over an image and its mirror, which the two have in common: the classifier learned from both, and so names more
    images right. Images of fewer than 24 pixels a side are doubled. Computed in fp32, with a progress bar. Raises Fault for
    other arrays.
    """
    return measured(images, device)[0]


def measured(images: np.ndarray, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """As `features`, and the class that the yardstick sees in each of the images: int64 (N,), places in CLASSES."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or len(images) == 0:
        raise Fault(f"images: {images.dtype} {images.shape}; accepted: uint8 (N, H, W, C), N of 1 or more, C of 1 or 3")
    network = load_yardstick(WEIGHTS).to(device)
    found, classes = [], []
    bar = progress_bar(total=len(images), desc="features", unit=" images", leave=False, disable=len(images) < MANY)
    with torch.inference_mode(), bar:
        for start in range(0, len(images), BATCH_SIZE):
            batch = as_input(torch.from_numpy(np.array(images[start : start + BATCH_SIZE])).to(device))
            values = (network(batch) + network(batch.flip(3))) / 2
            found.append(values.double().cpu().numpy())
            classes.append(network.classify(values).argmax(1).cpu().numpy())
            bar.update(len(batch))
    return np.concatenate(found), np.concatenate(classes)


def yardstick_sha256() -> str:
    """SHA-256 (hex) of the file of weights that the features are computed with."""
    return sha256_of(WEIGHTS)


def as_input(images: Tensor) -> Tensor:
    """Images, uint8 (N, H, W, C), as the network takes them: float32 (N, 3, H, W) in [-1, 1]."""
    values = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    if min(values.shape[2:]) < SMALLEST:
        values = values.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return values.expand(-1, 3, -1, -1)


def save_yardstick(trained: YardstickNetwork, path: Path, header: dict[str, Any]) -> None:
    """Write the network to `path` without its norms, as fp16 safetensors with `header` as json, whole or not at all."""
    stored = YardstickNetwork()
    for ours, theirs in zip(_convolutions(stored), _convolutions(trained.eval()), strict=True):
        assert isinstance(theirs.norm, nn.BatchNorm2d)  # as it was trained
        folded = nn.utils.fuse_conv_bn_eval(theirs.convolution, theirs.norm)
        ours.convolution.load_state_dict(folded.state_dict())
    stored.standardise.load_state_dict(trained.standardise.state_dict())
    stored.classify.load_state_dict(trained.classify.state_dict())
    tensors = {name: tensor.half().contiguous() for name, tensor in stored.state_dict().items() if tensor.is_floating_point()}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, {"yardstick": json.dumps(header)})  # one entry: safetensors keeps no order of several


@cache
def load_yardstick(path: Path) -> YardstickNetwork:
    """The network in the .safetensors file `path`, fp32, ready to measure. Executes nothing of the file. Raises Fault."""
    network = YardstickNetwork()
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        found = network.load_state_dict(tensors, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise Fault(f"{path}: holds no weights of the yardstick ({str(error).splitlines()[0]}); accepted: {ORIGIN}") from error
    if wrong := [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.endswith("num_batches_tracked")]:
        raise Fault(f"{path}: is not of the yardstick: {wrong[0]} is missing or unknown; accepted: {ORIGIN}")
    return network.eval().requires_grad_(False)


def _convolutions(network: YardstickNetwork) -> list[_Convolution]:
    return [module for module in network.modules() if isinstance(module, _Convolution)]
