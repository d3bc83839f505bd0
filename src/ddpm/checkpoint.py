"""Weights to share: safetensors files whose header says what they are. Loading one executes nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddpm.config import ConfigError, ModelConfig, validate
from ddpm.unet import UNet, build_network

# Settings that checkpoints of earlier versions do not name, and what they were.
EARLIER: dict[str, Any] = {
    "heads": 1,
    "neck_attention": False,
    "time_in": "blocks",
    "context_dim": 0,
    "norm": "group",
    "activation": "silu",
    "downsample": "conv",
    "upsample": "bilinear",
    "schedule": "cosine",
    "beta_min": 1e-4,  # of no account with the cosine schedule
    "beta_max": 0.02,
    "zero_terminal_snr": False,
}


class CheckpointError(RuntimeError):
    """A file of weights or a training state cannot be used; the message names the file and the reason."""


def write_whole(path: Path, write: Callable[[Path], object], size: int) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place, so that `path` is whole or absent.

    `size`: about how many bytes it writes. Raises CheckpointError where the disk refuses; `path` then is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_faults(path, size):
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def disk_faults(path: Path, size: int) -> Iterator[None]:
    """Where the disk refuses to take `path`, of about `size` bytes, raise a CheckpointError that says so."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, RuntimeError) as error:
        refusal = error if isinstance(error, OSError) else error.__context__  # torch.save hides what the disk said
        if not isinstance(refusal, OSError):
            raise
        raise CheckpointError(
            f"{path}: {refusal.strerror or refusal} ({amount(size)} to write, {amount(free_bytes(path))} free there). "
            "What was saved before is whole; mend this, and the same command continues"
        ) from error


def free_bytes(path: Path) -> int:
    """Bytes free on the file system of `path`, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """The nearest of `path` and the folders above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def amount(size: float) -> str:
    """Bytes for people, as in `1.3 GB`."""
    power = min((len(str(int(size))) - 1) // 3, 4)
    return f"{size / 1000**power:.{min(power, 1)}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def save_weights(path: Path, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the weights of `network` in fp16, with `metadata` (config, step, kind, data) in the file's header."""
    values = network.state_dict().items()
    tensors = {name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for name, tensor in values}
    # One entry only: safetensors writes several in an order that changes from run to run.
    content = save(tensors, {"ddpm": json.dumps(metadata, sort_keys=True)})
    write_whole(path, lambda temporary: temporary.write_bytes(content), len(content))


def load_network(path: Path, device: torch.device | str = "cpu") -> tuple[UNet, ModelConfig, dict[str, Any]]:
    """The network stored in `path`, in fp32 and eval mode, with its settings and metadata. Raises CheckpointError."""
    metadata, tensors = _read(path)
    settings = metadata.get("config")
    if isinstance(settings, dict):  # how it was trained is of no concern here, and may be spelled as in another version
        settings = EARLIER | {name: value for name, value in settings.items() if name in ModelConfig.model_fields}
    try:
        config = validate(ModelConfig, settings, "train")
    except ConfigError as error:
        raise CheckpointError(f"{path}: its settings do not fit this code: {error}") from None
    stem = tensors.get("stem.weight")
    network = build_network(config, in_channels=3 if stem is None else stem.shape[1])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the network of this code: {error}") from None
    return network.to(device).eval().requires_grad_(False), config, metadata


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
