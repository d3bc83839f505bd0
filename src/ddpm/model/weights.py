"""Weights to share: safetensors files whose header says what they are. Loading one executes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ddpm.base.faults import Fault
from ddpm.base.files import check_regular, whole_file
from ddpm.base.settings import Count, Strict, is_text, validate
from ddpm.model.schedule import schedule_of
from ddpm.model.settings import ModelConfig
from ddpm.model.unet import UNet, build_network

# What checkpoints of earlier versions do not name, and what it was; it goes when no committed checkpoint needs it.
EARLIER: dict[str, Any] = {
    "heads": 1, "neck_attention": False, "time_in": "blocks", "context_dim": 0, "norm": "group", "activation": "silu",
    "downsample": "conv", "upsample": "bilinear", "schedule": "cosine", "beta_min": 1e-4, "beta_max": 0.02,
    "zero_terminal_snr": False, "scale_shift_norm": False,
}  # fmt: skip
EARLIER_CLASSES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "sprites": ["hero", "monster", "food", "spell", "side"],
}
MAX_SIDE = 1024  # pixels: what a file may ask to be drawn
_DTYPES = {"F16": "float16", "I64": "int64"}  # as safetensors spells what is written here


class _DataFacts(Strict):
    """What must be known of the images that a network was trained on; a file may say more."""

    model_config = ConfigDict(extra="ignore")

    dataset: str = Field(description="the name of a data set")
    size: Annotated[int, Field(ge=1, le=MAX_SIDE)] = Field(description=f"side of the images in pixels, 1 to {MAX_SIDE}")
    count: Count = Field(description="training images, 1 or more")
    origin: str = Field(description="a sentence")
    mean: list[float] = Field([0.0], description="a number a channel", min_length=1, max_length=4)
    std: list[float] = Field([1.0], description="a number a channel", min_length=1, max_length=4)
    sha256: str = Field("", description="64 hexadecimal digits")


class _Header(Strict):
    """What every checkpoint says of itself, beside its network's settings."""

    model_config = ConfigDict(extra="ignore")

    step: Count = Field(description="training steps, 1 or more")
    kind: Literal["raw", "ema"] = Field(description="raw or ema")
    data: _DataFacts = Field(description="the facts of the training images")
    classes: list[str] = Field(description="a list of names", max_length=10_000)
    recipe: str = Field("", description="a name")
    scale: str = Field("", description="a name")


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


def copy_weights(source: Path, target: Path, metadata: dict[str, Any]) -> None:
    """Write the tensors of the file `source`, which is known to be good, to `target` under the header `metadata`."""
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    content = save(tensors, {"ddpm": json.dumps(metadata, sort_keys=True)})
    with whole_file(target, len(content)) as temporary:
        temporary.write_bytes(content)


def load_network(path: Path, device: torch.device | str = "cpu") -> tuple[UNet, ModelConfig, dict[str, Any]]:
    """The network stored in `path`, in fp32 and eval mode, with its settings and metadata. Raises Fault.

    The file is not trusted: its header is checked, and its tensors compared with those of the network that the header asks
    for, before anything of their size is allocated.
    """
    check_regular(path, "`dvc pull` fetches shared checkpoints, `dvc repro` trains them")
    try:
        with safe_open(path, "pt") as file:
            metadata = _metadata(path, file.metadata())
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            found = {name: (_DTYPES.get(part.get_dtype(), part.get_dtype()), part.get_shape()) for name, part in slices.items()}
            config = _settings(path, metadata, found)
            stem = found.get("stem.weight", ("", []))[1]
            in_channels = stem[1] if len(stem) == 4 else 3
            _compare(path, config, in_channels, found)
            tensors = {name: file.get_tensor(name) for name in slices}
    except SafetensorError as error:
        raise Fault(f"{path}: not a whole safetensors file ({error})") from None
    except OSError as error:
        raise Fault(f"{path}: {error.strerror or error}") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise Fault(f"{path}: {name} holds NaN or infinity; accepted: numbers")
    network = build_network(config, in_channels=in_channels)
    network.load_state_dict(tensors)
    return network.to(device).eval().requires_grad_(False), config, metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """The header of `path` as it stands there, no tensor read. Raises Fault."""
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            return _parsed(path, file.metadata())
    except SafetensorError as error:
        raise Fault(f"{path}: not a whole safetensors file ({error})") from None


def _parsed(path: Path, header: dict[str, str] | None) -> dict[str, Any]:
    if "ddpm" not in (header := header or {}):
        raise Fault(f"{path}: not written by this project (its header lacks the entry 'ddpm')")
    try:
        metadata = json.loads(header["ddpm"])
    except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, too deep
        raise Fault(f"{path}: the entry 'ddpm' of its header is no JSON ({error})") from None
    if not is_text(json.dumps(metadata, ensure_ascii=False)):
        raise Fault(f"{path}: the entry 'ddpm' of its header holds half of a surrogate pair; accepted: text in Unicode")
    if not isinstance(metadata, dict):
        raise Fault(f"{path}: the entry 'ddpm' of its header is {type(metadata).__name__}; accepted: an object")
    return metadata


def _metadata(path: Path, header: dict[str, str] | None) -> dict[str, Any]:
    """The checked header; files of earlier versions get the classes that they do not name."""
    metadata = _parsed(path, header)
    if "classes" not in metadata:
        data, settings = metadata.get("data"), metadata.get("config")
        conditional = isinstance(settings, dict) and settings.get("context_dim")
        named = str(data.get("dataset")) if isinstance(data, dict) else ""
        metadata["classes"] = EARLIER_CLASSES.get(named, []) if conditional else []
    try:
        validate(_Header, metadata)
    except Fault as fault:
        raise Fault(f"{path}: its header: {fault}") from None
    return metadata


def _settings(path: Path, metadata: dict[str, Any], found: dict[str, Any]) -> ModelConfig:
    settings = metadata.get("config")
    if isinstance(settings, dict):  # how it was trained is of no concern here, and may be spelled as in another version
        settings = EARLIER | {name: value for name, value in settings.items() if name in ModelConfig.model_fields}
    try:
        config = validate(ModelConfig, settings, "train")
        schedule_of(config)
    except Fault as fault:
        raise Fault(f"{path}: its settings do not fit this code: {fault}") from None
    blocks = len(config.channels) * config.num_res + config.neck_length
    if blocks > len(found):  # each has several; to build them only to compare could take for ever
        raise Fault(f"{path}: the weights do not fit: its header asks for {blocks} blocks, and it has {len(found)} tensors")
    if (size := metadata["data"]["size"]) <= (least := 2 ** (len(config.channels) - 2)):
        raise Fault(f"{path}: its header: data.size = {size}; accepted: more than {least:g} for {len(config.channels)} levels")
    if config.context_dim != len(metadata["classes"]):
        raise Fault(
            f"{path}: its header names {len(metadata['classes'])} classes; accepted: context_dim = {config.context_dim}"
        )
    return config


def _compare(path: Path, config: ModelConfig, in_channels: int, found: dict[str, tuple[str, list[int]]]) -> None:
    """Raise Fault unless `found`, dtype and shape by name, are the tensors of the network that `config` describes."""
    if not 1 <= in_channels <= 4:
        raise Fault(f"{path}: stem.weight is for images of {in_channels} channels; accepted: 1 to 4")
    with torch.device("meta"):  # allocates nothing
        expected = build_network(config, in_channels=in_channels).state_dict()
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            fault = "missing" if name in expected else "unknown"
            raise Fault(f"{path}: the weights do not fit the network of its header: {name}: {fault}")
        dtype = "float16" if expected[name].is_floating_point() else "int64"
        if found[name] != (dtype, list(expected[name].shape)):
            is_, wanted = f"{found[name][0]} {found[name][1]}", f"{dtype} {list(expected[name].shape)}"
            raise Fault(f"{path}: the weights do not fit the network of its header: {name} is {is_}; accepted: {wanted}")
