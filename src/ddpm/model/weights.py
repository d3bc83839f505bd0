"""Weights to share: safetensors files whose header says what they are. Loading one executes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddpm.base.faults import Fault
from ddpm.base.files import whole_file
from ddpm.base.settings import validate
from ddpm.model.settings import ModelConfig
from ddpm.model.unet import UNet, build_network

# What checkpoints of earlier versions do not name, and what it was; it goes when no committed checkpoint needs it.
EARLIER: dict[str, Any] = {
    "heads": 1, "neck_attention": False, "time_in": "blocks", "context_dim": 0, "norm": "group", "activation": "silu",
    "downsample": "conv", "upsample": "bilinear", "schedule": "cosine", "beta_min": 1e-4, "beta_max": 0.02,
    "zero_terminal_snr": False,
}  # fmt: skip
EARLIER_CLASSES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "sprites": ["hero", "monster", "food", "spell", "side"],
}


def save_weights(path: Path, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the weights of `network` in fp16, with `metadata` in the file's header. Raises Fault where the disk refuses.

    `metadata`: config (ModelConfig's fields at least), step, kind (raw or ema), data (the facts of stats.json), classes
    (names in the order of their labels), code (the fingerprint of what trained them), recipe and scale.
    """
    values = network.state_dict().items()
    tensors = {name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for name, tensor in values}
    # One entry only: safetensors writes several in an order that changes from run to run.
    content = save(tensors, {"ddpm": json.dumps(metadata, sort_keys=True)})
    with whole_file(path, len(content)) as temporary:
        temporary.write_bytes(content)


def load_network(path: Path, device: torch.device | str = "cpu") -> tuple[UNet, ModelConfig, dict[str, Any]]:
    """The network stored in `path`, in fp32 and eval mode, with its settings and metadata. Raises Fault."""
    metadata, tensors = _read(path)
    settings = metadata.get("config")
    if isinstance(settings, dict):  # how it was trained is of no concern here, and may be spelled as in another version
        settings = EARLIER | {name: value for name, value in settings.items() if name in ModelConfig.model_fields}
    try:
        config = validate(ModelConfig, settings, "train")
    except Fault as fault:
        raise Fault(f"{path}: its settings do not fit this code: {fault}") from None
    if "classes" not in metadata:
        metadata["classes"] = EARLIER_CLASSES.get(metadata.get("data", {}).get("dataset"), []) if config.context_dim else []
    stem = tensors.get("stem.weight")
    network = build_network(config, in_channels=3 if stem is None else stem.shape[1])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise Fault(f"{path}: the weights do not fit the network of this code: {error}") from None
    return network.to(device).eval().requires_grad_(False), config, metadata


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise Fault(f"{path}: no such file; `dvc pull` fetches shared checkpoints, `dvc repro` trains them")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise Fault(f"{path}: not a whole safetensors file ({error})") from None
    if "ddpm" not in metadata:
        raise Fault(f"{path}: not written by this project (its header lacks the entry 'ddpm')")
    return json.loads(metadata["ddpm"]), tensors
