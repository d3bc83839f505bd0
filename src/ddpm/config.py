"""Strict, typed settings: what a recipe may say, and errors that name key, value and what is accepted.

`resolve` merges the defaults (`train`, `figures`) with one recipe's overrides (`recipes.<name>.train`, ...; null =
inherit) and checks the result. It is pure: it reads no file and knows no project path.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self


class ConfigError(ValueError):
    """A setting is unknown, missing or impossible; the message has one line per fault."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="a whole number, 0 to 2**32 - 1")]


class RemoteFile(_Strict):
    """One file of a data set as its publisher offers it."""

    name: str = Field(description="a file name without folders", pattern=r"^[\w.-]+$")
    size: Count = Field(description="size in bytes")
    md5: str | None = Field(description="32 hex digits, or null", pattern=r"^[0-9a-f]{32}$")
    sha256: str | None = Field(description="64 hex digits, or null", pattern=r"^[0-9a-f]{64}$")
    urls: list[str] = Field(description="http(s) addresses, the official one first", min_length=1)
    by_hand: str = Field(description="what to do when no address answers")

    @model_validator(mode="after")
    def _has_checksum(self) -> Self:
        if self.md5 is None and self.sha256 is None:
            raise ValueError(f"{self.name}: one of md5 and sha256 must be given")
        if bad := [url for url in self.urls if not url.startswith(("https://", "http://"))]:
            raise ValueError(f"{self.name}: urls must start with http:// or https://, not {bad[0]!r}")
        return self


class DataConfig(_Strict):
    """Where a recipe's images come from and how they are cut."""

    dataset: Literal["cifar10", "celeba"] = Field(description="one of cifar10, celeba")
    source: str = Field(
        description="official, synthetic, or the path of an archive or folder ($DATA_HOME and ~ are expanded)",
        min_length=1,
    )
    origin: str = Field(description="a sentence that says what a local source holds; shown with every result")
    synthetic_images: Count = Field(description="images to draw when source is synthetic, 1 or more")
    synthetic_seed: Seed
    crop: list[Whole] | None = Field(
        description="[left, top, width, height] in pixels inside the 178x218 image for celeba, null for cifar10",
        min_length=4,
        max_length=4,
    )
    size: Count = Field(description="side of the square training images in pixels; 32 for cifar10")
    shareable: bool = Field(description="true if the data's licence allows a strip of images in git, else false")
    file: RemoteFile

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dataset == "cifar10" and (self.size != 32 or self.crop is not None):
            raise ValueError(f"data.size = {self.size}, data.crop = {self.crop}; accepted for cifar10: 32 and null")
        if self.crop is not None:
            left, top, width, height = self.crop
            if width < 1 or height < 1 or left + width > 178 or top + height > 218:
                raise ValueError(
                    f"data.crop = {self.crop} does not lie inside the 178x218 image; "
                    "accepted: [left, top, width, height] with left + width <= 178 and top + height <= 218"
                )
            if width != height:
                raise ValueError(f"data.crop = {self.crop} is not square; accepted: width equal to height")
        elif self.dataset == "celeba":
            raise ValueError("data.crop = None; accepted for celeba: a box, the usual one is [25, 57, 128, 128]")
        return self


class ModelConfig(_Strict):
    """Network and process: what must be known of a checkpoint to draw from it."""

    # Network (documents 000 and 001): one entry of `channels` and `attention` a resolution level.
    channels: list[Count] = Field(
        description="a list of positive integers, one a level, e.g. [64, 128, 256, 256]", min_length=1
    )
    attention: list[bool] = Field(description="a list of true/false, as long as channels", min_length=1)
    num_res: Count = Field(description="residual blocks a level, 1 or more")
    neck_length: Whole = Field(description="residual blocks at the bottom, 0 or more")
    time_emb_dim: Annotated[int, Field(ge=4, multiple_of=2)] = Field(description="an even number, 4 or more")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="a number in [0, 1)")
    # Process.
    num_timesteps: Annotated[int, Field(ge=2)] = Field(description="T, 2 or more")
    prediction: Literal["eps", "v"] = Field(description="eps or v")
    precision: Literal["auto", "fp32", "bf16"] = Field(description="auto, fp32 or bf16")

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"train.attention = {self.attention} has {len(self.attention)} entries and "
                f"train.channels = {self.channels} has {len(self.channels)}; accepted: lists of equal length"
            )
        if odd := [width for width in self.channels if width % 4]:
            raise ValueError(
                f"train.channels = {self.channels}: the norm's groups of 4 channels do not divide {odd[0]}; "
                "accepted: multiples of 4"
            )
        return self


class TrainConfig(ModelConfig):
    """Network, process and optimisation: all that decides the trained weights."""

    seed: Seed
    steps: Count = Field(description="optimizer steps, 1 or more")
    batch_size: Count = Field(description="images a step, 1 or more")
    accumulate: Count = Field(description="parts in which a batch goes through the network, 1 to train.batch_size")
    lr: Annotated[float, Field(gt=0, le=1)] = Field(description="a number in (0, 1]")
    lr_decay: Literal["constant", "linear"] = Field(description="constant, or linear (to 5 % of lr at the last step)")
    warmup_steps: Whole = Field(description="steps over which the learning rate rises from 0, 0 or more")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="a number, 0 or more")
    grad_clip: Annotated[float, Field(gt=0)] = Field(description="largest norm of the gradient, more than 0")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(description="a number in [0, 1)")
    flip: bool = Field(description="true or false: mirror each image left-right with probability 1/2")
    checkpoints: list[Count] = Field(description="steps at which raw weights are kept, ascending; the last always is")
    log_every: Count = Field(description="steps a row of loss.csv, 1 or more")
    compile: Literal["auto"] | bool = Field(description="auto, true or false")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.checkpoints != sorted(set(self.checkpoints)):
            raise ValueError(f"train.checkpoints = {self.checkpoints}; accepted: ascending steps without repeats")
        if self.accumulate > self.batch_size:
            raise ValueError(f"train.accumulate = {self.accumulate}; accepted: 1 to train.batch_size = {self.batch_size}")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"train.warmup_steps = {self.warmup_steps} leaves no step at full rate; "
                f"accepted: less than train.steps = {self.steps}"
            )
        return self

    @property
    def kept_steps(self) -> list[int]:
        """Steps whose raw weights are kept: the listed ones before the end, then the last step."""
        return [step for step in self.checkpoints if step < self.steps] + [self.steps]


class FiguresConfig(_Strict):
    """What the figure stages draw."""

    method: Literal["ddpm", "ddim"] = Field(description="ddpm or ddim")
    ddpm_steps: Count = Field(description="network calls of DDPM, 1 to train.num_timesteps")
    ddpm_variance: Literal["small", "large"] = Field(description="small or large")
    ddim_steps: list[Count] = Field(description="network calls of each DDIM row, 1 to train.num_timesteps", min_length=1)
    ddim_eta: Annotated[float, Field(ge=0, le=1)] = Field(description="a number in [0, 1]")
    images_per_row: Count = Field(description="1 or more")
    progression_seed: Seed
    samplers_seed: Seed
    ema_seed: Seed
    grid_seed: Seed
    grid_images: Count = Field(description="a square number such as 16 or 100")
    timing_images: Count = Field(description="1 or more")
    timing_max_seconds: Annotated[float, Field(gt=0)] = Field(description="seconds, more than 0")
    batch_size: Count = Field(description="images a network call, 1 or more")

    @model_validator(mode="after")
    def _square(self) -> Self:
        if round(self.grid_images**0.5) ** 2 != self.grid_images:
            raise ValueError(f"figures.grid_images = {self.grid_images}; accepted: a square number such as 16 or 100")
        return self


class RuntimeConfig(_Strict):
    """How this machine does the work; never changes a result and is tracked by no stage."""

    device: str = Field(description="auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    workers: Whole = Field(description="processes for preprocessing; 0 = one a core")
    save_seconds: Annotated[float, Field(gt=0)] = Field(description="seconds between saves of the training state, more than 0")
    launcher: str | None = Field(description="null, or the start of a command that starts several trainers, e.g. torchrun ...")


class RecipeConfig(_Strict):
    """A recipe, resolved and checked."""

    data: DataConfig
    train: TrainConfig
    figures: FiguresConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        factor = 2 ** (len(self.train.channels) - 1)
        if self.data.size % factor:
            raise ValueError(
                f"data.size = {self.data.size} cannot be halved {len(self.train.channels) - 1} times for the "
                f"{len(self.train.channels)} levels of train.channels = {self.train.channels}; accepted: a multiple of {factor}"
            )
        for key, steps in [("ddpm_steps", [self.figures.ddpm_steps]), ("ddim_steps", self.figures.ddim_steps)]:
            if max(steps) > self.train.num_timesteps:
                raise ValueError(
                    f"figures.{key} = {max(steps)}; accepted: at most train.num_timesteps = {self.train.num_timesteps}"
                )
        return self


def norm_groups(width: int) -> int:
    """Groups of a group norm over `width` channels: the largest divisor that leaves 4 channels a group, at most 32."""
    return max(groups for groups in range(1, min(32, max(1, width // 4)) + 1) if width % groups == 0)


def resolve(params: dict[str, Any], name: str) -> tuple[RecipeConfig, list[str]]:
    """Merge defaults and the overrides of recipe `name`, check all, and list the keys that the recipe overrides.

    `params` is the parsed params.yaml. Raises ConfigError with one line per fault.
    """
    recipes = _section(params, "recipes", "")
    recipe = _section(recipes, name, "recipes.")
    if unknown := set(recipe) - {"data", "train", "figures"}:
        raise ConfigError(f"recipes.{name}.{min(unknown)}: unknown key; accepted: data, train, figures")
    merged: dict[str, Any] = {"data": dict(_section(recipe, "data", f"recipes.{name}."))}
    origin: dict[str, str] = {"data": f"recipes.{name}.data"}
    overridden: list[str] = []
    for part in ("train", "figures"):
        defaults = _section(params, part, "")
        overrides = _section(recipe, part, f"recipes.{name}.") if recipe.get(part) is not None else {}
        if unknown := set(overrides) - set(defaults):
            raise ConfigError(f"recipes.{name}.{part}.{min(unknown)}: unknown key; accepted: {', '.join(defaults)}")
        chosen = {key: value for key, value in overrides.items() if value is not None}
        merged[part] = {**defaults, **chosen}
        overridden += [f"recipes.{name}.{part}.{key}" for key in chosen]
        origin |= {f"{part}.{key}": f"recipes.{name}.{part}.{key}" for key in chosen}
    data = merged["data"]
    origin |= {f"data.{key}": f"recipes.{name}.data.{key}" for key in data}
    sources = _section(params, "sources", "")
    if "file" in data:
        raise ConfigError(f"recipes.{name}.data.file: unknown key; the file of a data set stands under sources")
    if isinstance(data.get("dataset"), str) and data["dataset"] in sources:
        data["file"] = sources[data["dataset"]]
        origin["data.file"] = f"sources.{data['dataset']}"
    else:
        raise ConfigError(f"recipes.{name}.data.dataset = {data.get('dataset')!r}; accepted: one of {', '.join(sources)}")
    return _validate(RecipeConfig, merged, origin), overridden


def validate(kind: type[Model], values: Any, prefix: str) -> Model:
    """Check `values` against `kind`; faults are reported under the key `prefix`. Raises ConfigError."""
    return _validate(kind, values, {"": prefix})


def _validate(kind: type[Model], values: Any, origin: dict[str, str]) -> Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(kind, fault, origin) for fault in error.errors())) from None


def _line(kind: type[BaseModel], fault: Any, origin: dict[str, str]) -> str:
    """One fault as `key = value: what is wrong; accepted: ...`."""
    path = [str(part) for part in fault["loc"]]
    description = _description(kind, path)
    key = _spelled(path, origin)
    if fault["type"] == "value_error":  # from a validator of ours: the message names keys and values itself
        message = str(fault["ctx"]["error"])
        for resolved, written in origin.items():
            message = message.replace(f"{resolved} =", f"{written} =") if resolved else message
        return message
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if fault["type"] == "missing":
        return f"{key}: missing; accepted: {description}"
    return f"{key} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}; accepted: {description}"


def _spelled(path: list[str], origin: dict[str, str]) -> str:
    """The key as the user wrote it: the longest known prefix of `path` replaced by where it came from."""
    for length in range(len(path), -1, -1):
        if written := origin.get(".".join(path[:length])):
            return ".".join([written, *path[length:]])
    return ".".join(path)


def _description(kind: type[BaseModel], path: list[str]) -> str:
    """The description of the deepest field of `kind` that `path` leads to."""
    description = ""
    fields = kind.model_fields
    for part in path:
        if part not in fields:
            break
        description = fields[part].description or description
        inner = fields[part].annotation
        fields = inner.model_fields if isinstance(inner, type) and issubclass(inner, BaseModel) else {}
    return description


def _section(values: dict[str, Any], key: str, prefix: str) -> dict[str, Any]:
    section = values.get(key) if isinstance(values, dict) else None
    if not isinstance(section, dict):
        known = ", ".join(map(str, values)) if isinstance(values, dict) else "nothing"
        raise ConfigError(f"{prefix}{key} = {section!r}: a section of settings is needed here; this level has: {known}")
    return section
