"""Settings and images small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from ddpm.training.settings import TrainConfig

SETTINGS: dict[str, Any] = {
    "seed": 0,
    "channels": [8, 16],
    "attention": [False, True],
    "heads": 1,
    "num_res": 1,
    "neck_length": 1,
    "neck_attention": False,
    "time_emb_dim": 8,
    "time_in": "blocks",
    "context_dim": 0,
    "norm": "group",
    "activation": "silu",
    "downsample": "conv",
    "upsample": "bilinear",
    "dropout": 0.0,
    "scale_shift_norm": False,
    "num_timesteps": 100,
    "schedule": "cosine",
    "beta_min": 1e-4,
    "beta_max": 0.02,
    "zero_terminal_snr": False,
    "prediction": "eps",
    "loss_weighting": "plain",
    "context_dropout": 0.1,
    "steps": 10,
    "batch_size": 4,
    "accumulate": 1,
    "lr": 1e-3,
    "lr_decay": "constant",
    "warmup_steps": 2,
    "weight_decay": 0.01,
    "grad_clip": 1.0,
    "ema_decay": 0.9,
    "flip": True,
    "checkpoints": [],
    "log_every": 2,
    "precision": "fp32",
    "threads": 1,
    "compile": False,
}


def train_config(**changes: Any) -> TrainConfig:
    return TrainConfig(**(SETTINGS | changes))


def random_images(count: int = 7, size: int = 8, seed: int = 0) -> Tensor:
    """uint8 (count, size, size, 3)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def randomised(network: nn.Module, seed: int = 0, scale: float = 0.2) -> nn.Module:
    """`network` with every parameter drawn anew, so that nothing starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return network


def write_weights(path: Path, seed: int = 0, size: int = 8, **changes: Any) -> Path:
    """Write the weights of a network of `changes` that draws images of `size` pixels a side to `path`; returns that."""
    config = train_config(**({"num_timesteps": 40, "prediction": "v"} | changes))
    data = {"size": size, "count": 3, "origin": "test", "dataset": "sprites", "source": "synthetic"}
    classes = [f"kind {i}" for i in range(config.context_dim)]
    metadata = {"config": config.model_dump(), "step": 7, "kind": "ema", "data": data, "classes": classes}
    # No zeros; with larger weights roundings would grow, as they do in no trained network.
    save_weights(path, randomised(build_network(config, seed), seed, scale=0.03), metadata)
    return path
