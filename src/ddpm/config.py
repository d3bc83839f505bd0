"""Strict, typed settings: what a recipe may say, and errors that name key, value and what is accepted.

`resolve` merges the defaults (`train`, `figures`) with one recipe's overrides (`recipes.<name>.train`, ...; null =
inherit) and checks the result. It is pure: it reads no file and knows no project path.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self


class ConfigError(ValueError):
    """A setting is unknown, missing or impossible; the message has one line per fault."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="a whole number, 0 to 2**32 - 1")]

# The classes of each data set, in the order of their labels; none for celeba.
CLASSES: dict[str, tuple[str, ...]] = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "celeba": (),
    "fashion_mnist": (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    "sprites": ("hero", "monster", "food", "spell", "side"),
}  # fmt: skip
_KINDS = ("sunset", "house", "tree", "car", "ship", "ball", "fish", "flower", "bird", "plane")  # of the drawn stand-in
_SIZES = {"cifar10": 32, "fashion_mnist": 28, "sprites": 16}  # of the images as published, which are packed as they are
_FILES = {"cifar10": 1, "celeba": 1, "fashion_mnist": 2, "sprites": 0}  # that a data set is published in


def class_names(dataset: str, source: str) -> tuple[str, ...]:
    """The names of a data set's classes; what is drawn in cifar10's place shows other things than CIFAR-10."""
    return _KINDS if (dataset, source) == ("cifar10", "synthetic") else CLASSES[dataset]


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

    dataset: Literal["cifar10", "celeba", "fashion_mnist", "sprites"] = Field(
        description="one of cifar10, celeba, fashion_mnist, sprites"
    )
    source: str = Field(
        description="official, synthetic, or the path of an archive or folder ($DATA_HOME and ~ are expanded)",
        min_length=1,
    )
    origin: str = Field(description="a sentence that says what a local source holds; shown with every result")
    synthetic_images: Count = Field(description="images to draw when source is synthetic, 1 or more")
    synthetic_seed: Seed
    crop: list[Whole] | None = Field(
        description="[left, top, width, height] in pixels inside the 178x218 image for celeba, null for the others",
        min_length=4,
        max_length=4,
    )
    size: Count = Field(
        description="side of the square training images in pixels; 32 for cifar10, 28 for fashion_mnist, 16 for sprites"
    )
    shareable: bool = Field(description="true if the data's licence allows a strip of images in git, else false")
    files: list[RemoteFile] = Field(description="a list with an entry for each file that the publisher offers")

    @property
    def channels(self) -> int:
        """3, or 1 where the images are gray."""
        return 1 if self.dataset == "fashion_mnist" else 3

    @model_validator(mode="after")
    def _fits(self) -> Self:
        size = _SIZES.get(self.dataset)
        if size is not None and (self.size != size or self.crop is not None):
            raise ValueError(f"data.size = {self.size}, data.crop = {self.crop}; accepted for {self.dataset}: {size} and null")
        if len(self.files) != (number := _FILES[self.dataset]):
            names = [file.name for file in self.files]
            raise ValueError(f"data.files = {names}; accepted for {self.dataset}: a list of {number}")
        if self.source == "official" and not self.files:
            raise ValueError(
                f"data.source = {self.source!r}; accepted for {self.dataset}, which no publisher offers: synthetic, or the "
                "path of an .npz file"
            )
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
    attention: list[bool] = Field(
        description="a list of true/false, as long as train.channels, or of the levels that have it, the first being 1"
    )
    heads: Count = Field(description="heads of every attention, a divisor of the widths that have one")
    num_res: Count = Field(description="residual blocks a level, 1 or more")
    neck_length: Whole = Field(description="residual blocks at the bottom, 0 or more")
    neck_attention: bool = Field(description="true or false: self-attention with layer norm at the bottom")
    time_emb_dim: Annotated[int, Field(ge=4, multiple_of=2)] = Field(description="an even number, 4 or more")
    time_in: Literal["blocks", "neck"] = Field(description="blocks or neck: which residual blocks see time and context")
    context_dim: Whole = Field(description="0, or the number of the data set's classes: width of the context vector")
    norm: Literal["group", "batch"] = Field(description="group or batch")
    activation: Literal["silu", "relu"] = Field(description="silu or relu")
    downsample: Literal["conv", "max_pool"] = Field(description="conv or max_pool")
    upsample: Literal["bilinear", "transposed"] = Field(description="bilinear or transposed")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="a number in [0, 1)")
    # Process.
    num_timesteps: Annotated[int, Field(ge=2)] = Field(description="T, 2 or more")
    schedule: Literal["cosine", "linear", "sigmoid"] = Field(description="cosine, linear or sigmoid")
    beta_min: Annotated[float, Field(gt=0, lt=1)] = Field(description="a number in (0, 1): beta of step 1 when linear")
    beta_max: Annotated[float, Field(gt=0, lt=1)] = Field(description="a number in (0, 1): beta of step T when linear")
    zero_terminal_snr: bool = Field(description="true or false: rescale the schedule so that nothing of the image is left at T")
    prediction: Literal["eps", "x0", "v"] = Field(description="eps, x0 or v")
    precision: Literal["auto", "fp32", "bf16"] = Field(description="auto, fp32 or bf16")

    @model_validator(mode="before")
    @classmethod
    def _attention_by_level(cls, values: Any) -> Any:
        """`attention` as the levels that have it (document 002's attention_layer), spelled out."""
        if not isinstance(values, dict) or not isinstance(values.get("channels"), list):
            return values
        levels, attention = len(values["channels"]), values.get("attention")
        if not isinstance(attention, list) or any(type(level) is not int for level in attention):
            return values
        if bad := [level for level in attention if not 1 <= level <= levels]:
            raise ValueError(
                f"train.attention = {attention} names a level {bad[0]}; accepted: 1 to {levels}, the levels of "
                f"train.channels = {values['channels']}"
            )
        return values | {"attention": [level in attention for level in range(1, levels + 1)]}

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
        attended = [width for width, attention in zip(self.channels, self.attention, strict=True) if attention]
        attended += [self.channels[-1]] if self.neck_attention else []
        if odd := [width for width in attended if width % self.heads]:
            raise ValueError(
                f"train.heads = {self.heads} does not divide the width {odd[0]} of train.channels = {self.channels}; "
                "accepted: a divisor of each width that has attention"
            )
        if self.time_in == "neck" and self.neck_length == 0:
            raise ValueError(
                "train.neck_length = 0 leaves no block that sees the time; accepted: 1 or more with train.time_in = neck"
            )
        return self

    @model_validator(mode="after")
    def _process(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError(f"train.beta_min = {self.beta_min}; accepted: at most train.beta_max = {self.beta_max}")
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError(
                "train.zero_terminal_snr = True with train.prediction = 'eps': x_T holds nothing of the image, so that its "
                "noise says nothing about it; accepted: train.prediction v or x0, or train.zero_terminal_snr false"
            )
        return self


class _Training(ModelConfig):
    """Network, process and optimisation, but for how long it lasts."""

    loss_weighting: Literal["plain", "min_snr"] = Field(description="plain or min_snr")
    context_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="a number in [0, 1)")
    seed: Seed
    batch_size: Count = Field(description="images a step, 1 or more")
    accumulate: Count = Field(description="parts in which a batch goes through the network, 1 to train.batch_size")
    lr: Annotated[float, Field(gt=0, le=1)] = Field(description="a number in (0, 1]")
    lr_decay: Literal["constant", "linear"] = Field(description="constant, or linear (to 5 % of lr at the last step)")
    warmup_steps: Whole = Field(description="steps over which the learning rate rises from 0, 0 or more")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="a number, 0 or more")
    grad_clip: Annotated[float, Field(gt=0)] = Field(description="largest norm of the gradient, more than 0")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(description="a number in [0, 1)")
    flip: bool = Field(description="true or false: mirror each image left-right with probability 1/2")
    log_every: Count = Field(description="steps a row of loss.csv, 1 or more")
    compile: Literal["auto"] | bool = Field(description="auto, true or false")

    @model_validator(mode="after")
    def _batches(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(f"train.accumulate = {self.accumulate}; accepted: 1 to train.batch_size = {self.batch_size}")
        if self.norm == "batch" and self.accumulate > 1:
            raise ValueError(
                f"train.accumulate = {self.accumulate}; accepted: 1 with train.norm = batch, which takes its statistics "
                "from the whole batch"
            )
        return self


class TrainConfig(_Training):
    """All that decides the trained weights, in steps: what a training is given."""

    steps: Count = Field(description="optimizer steps, 1 or more")
    checkpoints: list[Count] = Field(description="steps at which raw weights are kept, ascending; the last always is")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.checkpoints != sorted(set(self.checkpoints)):
            raise ValueError(f"train.checkpoints = {self.checkpoints}; accepted: ascending steps without repeats")
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


def _duration(value: Any) -> int | str:
    """A number of steps, or of epochs as in `50 epochs`."""
    if (type(value) is int and value >= 1) or (isinstance(value, str) and re.fullmatch(r"[1-9]\d* epochs?", value)):
        return value
    raise PydanticCustomError("duration", "not a number of steps or epochs")


Duration = Annotated[int | str, PlainValidator(_duration)]


class TrainSettings(_Training):
    """As TrainConfig, but durations may be epochs: what params.yaml says."""

    steps: Duration = Field(description="optimizer steps, 1 or more, or epochs, as in: 50 epochs")
    checkpoints: list[Duration] = Field(description="ascending steps, or epochs, as in: [10 epochs, 20 epochs]")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if all(isinstance(duration, int) for duration in (self.steps, *self.checkpoints)):
            self.in_steps(1)  # what contradicts itself is said before the images are there
        return self

    def in_steps(self, num_images: int) -> TrainConfig:
        """These settings with each number of epochs over `num_images` images turned into steps, rounded up.

        Raises ConfigError where they then contradict each other.
        """

        def steps(duration: int | str) -> int:
            if isinstance(duration, int):
                return duration
            return -(-int(duration.split()[0]) * num_images // self.batch_size)

        values = self.model_dump() | {"steps": steps(self.steps), "checkpoints": [steps(kept) for kept in self.checkpoints]}
        return validate(TrainConfig, values, "train")


METHODS = ("ddpm", "ddim", "dpm_solver_pp", "unipc", "heun")  # the samplers, see samplers.py
SPACINGS = ("uniform", "quadratic", "logsnr")  # of their steps, see schedule.timestep_grid
CHOICE = (
    f"a method, its network calls and, if not uniform, their spacing, as in `ddim 100` or `unipc 20 quadratic`; "
    f"methods: {', '.join(METHODS)}; spacings: {', '.join(SPACINGS)}"
)
Choice = Annotated[str, Field(pattern=rf"^({'|'.join(METHODS)}) [1-9]\d*( ({'|'.join(SPACINGS)}))?$")]


def parts_of(choice: str) -> tuple[str, int, str]:
    """("ddim", 100, "uniform") for "ddim 100"."""
    method, steps, spacing = [*choice.split(), "uniform"][:3]
    return method, int(steps), spacing


class FiguresConfig(_Strict):
    """What the figure stages draw."""

    sampler: Choice = Field(description=CHOICE)
    compared: list[Choice] = Field(description=f"a list of samplers, each {CHOICE}", min_length=1)
    ddpm_variance: Literal["small", "large"] = Field(description="small or large")
    ddim_eta: Annotated[float, Field(ge=0, le=1)] = Field(description="a number in [0, 1]")
    solver_steps: list[Count] = Field(description="network calls of the solvers figure, 1 to train.num_timesteps", min_length=1)
    guidance: Annotated[float, Field(ge=0)] = Field(description="guidance scale of a conditional recipe, 0 or more; 1 = none")
    guidance_scales: list[Annotated[float, Field(ge=0)]] = Field(
        description="a list of numbers, 0 or more, e.g. [0, 1, 2, 4]", min_length=1
    )
    images_per_row: Count = Field(description="1 or more")
    progression_seed: Seed
    samplers_seed: Seed
    ema_seed: Seed
    grid_seed: Seed
    grid_images: Count = Field(description="a square number such as 16 or 100")
    path_images: Count = Field(description="images of the animations, a multiple of 4")
    timing_images: Count = Field(description="1 or more")
    timing_max_seconds: Annotated[float, Field(gt=0)] = Field(description="seconds, more than 0")
    batch_size: Count = Field(description="images a network call, 1 or more")

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if round(self.grid_images**0.5) ** 2 != self.grid_images:
            raise ValueError(f"figures.grid_images = {self.grid_images}; accepted: a square number such as 16 or 100")
        if self.path_images % 4:
            raise ValueError(f"figures.path_images = {self.path_images}; accepted: a multiple of 4, for four rows")
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
    train: TrainSettings
    figures: FiguresConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        levels = len(self.train.channels)
        if levels > 1 and self.data.size <= 2 ** (levels - 2):
            raise ValueError(
                f"data.size = {self.data.size} cannot be halved {levels - 1} times for the "
                f"{levels} levels of train.channels = {self.train.channels}; accepted: more than {2 ** (levels - 2)}"
            )
        classes = len(CLASSES[self.data.dataset])
        if self.train.context_dim not in (0, classes):
            conditional = f", or {classes}, the classes of {self.data.dataset}" if classes else ""
            raise ValueError(f"train.context_dim = {self.train.context_dim}; accepted: 0, unconditional{conditional}")
        asked = [(f"figures.{key} = {choice!r}", parts_of(choice)[1]) for key, choice in self._choices()]
        for key, steps in [*asked, (f"figures.solver_steps = {self.figures.solver_steps}", max(self.figures.solver_steps))]:
            if steps > self.train.num_timesteps:
                raise ValueError(
                    f"{key}: {steps} network calls; accepted: at most train.num_timesteps = {self.train.num_timesteps}"
                )
        return self

    def _choices(self) -> list[tuple[str, str]]:
        return [("sampler", self.figures.sampler), *(("compared", choice) for choice in self.figures.compared)]


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
    if "files" in data:
        raise ConfigError(f"recipes.{name}.data.files: unknown key; the files of a data set stand under sources")
    if isinstance(data.get("dataset"), str) and data["dataset"] in sources:
        data["files"] = sources[data["dataset"]]
        origin["data.files"] = f"sources.{data['dataset']}"
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
        if part.isdecimal():  # a place in a list
            continue
        if part not in fields:
            break
        description = fields[part].description or description
        inner = fields[part].annotation
        inner = next(iter(get_args(inner)), inner)  # of a list's items
        fields = inner.model_fields if isinstance(inner, type) and issubclass(inner, BaseModel) else {}
    return description


def _section(values: dict[str, Any], key: str, prefix: str) -> dict[str, Any]:
    section = values.get(key) if isinstance(values, dict) else None
    if not isinstance(section, dict):
        known = ", ".join(map(str, values)) if isinstance(values, dict) else "nothing"
        raise ConfigError(f"{prefix}{key} = {section!r}: a section of settings is needed here; this level has: {known}")
    return section
