"""Weights to share: safetensors files whose header says what they are. Loading one executes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddpm.config import ConfigError, TrainConfig, validate
from ddpm.unet import UNet, build_network


class CheckpointError(RuntimeError):
    """A file of weights or a training state cannot be used; the message names the file and the reason."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place, so that `path` is whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_weights(path: Path, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the weights of `network` in fp16, with `metadata` (config, step, kind, data) in the file's header."""
    tensors = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    # One entry only: safetensors writes several in an order that changes from run to run.
    content = save(tensors, {"ddpm": json.dumps(metadata, sort_keys=True)})
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def load_network(path: Path, device: torch.device | str = "cpu") -> tuple[UNet, TrainConfig, dict[str, Any]]:
    """The network stored in `path`, in fp32 and eval mode, with its settings and metadata. Raises CheckpointError."""
    metadata, tensors = _read(path)
    try:
        config = validate(TrainConfig, metadata.get("config"), "train")
    except ConfigError as error:
        raise CheckpointError(f"{path}: its settings do not fit this code: {error}") from None
    network = build_network(config)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the network of this code: {error}") from None
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    return network.to(device).to(memory_format=memory_format).eval().requires_grad_(False), config, metadata


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; `dvc pull` fetches shared checkpoints, `dvc repro` trains them")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None
    if "ddpm" not in metadata:
        raise CheckpointError(f"{path}: not written by this project (its header lacks the entry 'ddpm')")
    return json.loads(metadata["ddpm"]), tensors
