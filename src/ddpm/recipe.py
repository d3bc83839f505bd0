"""Recipes: defaults under what each of them changes, checked as a whole. Reads no file and knows no project path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from pydantic import BaseModel, model_validator
from typing_extensions import Self

from ddpm.base.faults import Fault
from ddpm.base.files import amount
from ddpm.base.settings import NAME, NAME_IN_WORDS, Strict, is_text, validate
from ddpm.data.settings import Contents, DataConfig
from ddpm.evaluation.settings import EvaluationConfig
from ddpm.figures.settings import FiguresConfig
from ddpm.training.settings import TrainConfig, in_steps

PARTS = ("data", "train", "figures", "evaluation")
Look = Callable[[str, DataConfig], Contents]  # what the folder of pictures of the recipe of this name holds; raises Fault
DEFAULTS = ("train", "figures", "evaluation")  # the parts whose defaults stand at the top

# The most that a setting may ask for: far beyond what anyone draws, far below what fills a memory or never ends.
MOST = {
    "data.size": 1024,  # as model.weights.MAX_SIDE: larger images' networks could not be loaded
    "data.images": 10_000_000,
    "figures.drawing.guidance": 1000,
    "figures.drawing.per_row": 1000,
    "figures.drawing.batch_size": 100_000,
    "figures.grid.images": 10_000,
    "figures.grid.autoguidance": 1000,
    "figures.classes.scales": 1000,
    "figures.path.images": 1000,
    "figures.editing.times": 1000,
    "figures.editing.jump": 100_000,
    "figures.timing.images": 100_000,
    "evaluation.images": 1_000_000,
    "evaluation.guidance": 1000,
    "evaluation.autoguidance": 1000,
    "evaluation.batch_size": 100_000,
    "evaluation.bound_images": 1_000_000,
}
MOST_ENTRIES = 1000  # of a list
MOST_LETTERS = 4096  # of a text: the longest path of Linux
MOST_PACKED = 10**12  # bytes of a recipe's packed images


class _Data(Strict):
    data: DataConfig

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, values: Any) -> Any:
        """First of all: what comes after computes with these numbers."""
        if faults := list(_beyond(values)):
            raise ValueError("\n".join(faults))
        return values


class Recipe(_Data):
    """A recipe, resolved and checked; an epoch is as many images as the data set has officially, or are to be drawn."""

    train: TrainConfig
    figures: FiguresConfig
    evaluation: EvaluationConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        levels = len(self.train.channels)
        if levels > 1 and self.data.size <= 2 ** (levels - 2):
            raise ValueError(
                f"data.size = {self.data.size} cannot be halved {levels - 1} times for the "
                f"{levels} levels of train.channels = {self.train.channels}; accepted: more than {2 ** (levels - 2)}"
            )
        classes = len(self.data.classes)
        if self.train.context_dim not in (0, classes):
            conditional = f", or {classes}, the classes of {self.data.dataset}" if classes else ""
            raise ValueError(f"train.context_dim = {self.train.context_dim}; accepted: 0, unconditional{conditional}")
        packed = self.data.count * self.data.size**2 * self.data.channels
        if packed > MOST_PACKED:
            raise ValueError(
                f"data.size = {self.data.size}: {self.data.count:,} images take {amount(packed)}; accepted: a size or a number "
                f"of images with which they take at most {amount(MOST_PACKED)}"
            )
        if self.train.lr * self.train.weight_decay >= 1:
            raise ValueError(
                f"train.weight_decay = {self.train.weight_decay}: with train.lr = {self.train.lr} a step would take more than "
                f"all of each weight; accepted: less than 1 / train.lr = {1 / self.train.lr:g}"
            )
        evaluated = (f"evaluation.sampler = {self.evaluation.sampler!r}", self.evaluation.chosen.num_steps)
        for asked, steps in [*self.figures.asked(), evaluated]:
            if steps > self.train.num_timesteps:
                raise ValueError(f"{asked}; accepted: at most train.num_timesteps = {self.train.num_timesteps} network calls")
        if all(step >= self.train.steps for step in self.train.checkpoints):
            for key, scale in (("figures.grid", self.figures.grid.autoguidance), ("evaluation", self.evaluation.autoguidance)):
                if scale != 1:
                    raise ValueError(
                        f"{key}.autoguidance = {scale:g} needs weights of an earlier step, and train.checkpoints = "
                        f"{self.train.checkpoints} keeps none; accepted: 1, or there a step below {self.train.steps}"
                    )
        return self


def _beyond(values: Any) -> Iterator[str]:
    """What of the settings `values` asks for more than anything here can do."""
    for key in _settings(Recipe):
        value = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str):
            if len(value) > MOST_LETTERS or "\0" in value or not is_text(value):
                said = repr(value) if len(value) < 100 else f"{value[:40]!r}... of {len(value):,} letters"
                yield f"{key} = {said}; accepted: at most {MOST_LETTERS:,} characters of Unicode, none of them NUL"
        elif isinstance(value, list) and len(value) > MOST_ENTRIES:
            yield f"{key} = a list of {len(value):,} entries; accepted: at most {MOST_ENTRIES:,}"
        elif key in MOST and any(_above(number, MOST[key]) for number in (value if isinstance(value, list) else [value])):
            yield f"{key} = {value}; accepted: at most {MOST[key]:,}"


def _settings(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    """The dotted keys of all settings of `kind`."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Strict):
            yield from _settings(field.annotation, f"{before}{name}.")
        else:
            yield before + name


def _above(value: Any, most: int) -> bool:
    return type(value) in (int, float) and most < value < inf  # infinity is no number of settings, which is said elsewhere


def nowhere(name: str, data: DataConfig) -> Contents:
    """Look into no folder: pictures of one's own have no classes then."""
    return Contents((), data.images)


def resolve(params: dict[str, Any], name: str, look: Look = nowhere) -> tuple[Recipe, dict[str, dict[str, Any]]]:
    """The recipe `name` of `params`, a parsed params.yaml, checked; and its settings by part, as stages are to read them.

    `train`, `figures` and `evaluation` are the defaults, recipes.<name>.train and so on what differs. In the settings epochs
    stay epochs, and the classes' names stand beside those of the data. `look` is asked what a folder of pictures of one's own
    holds. Raises Fault with a line for each thing that is wrong.
    """
    recipe = _section(_section(params, "recipes", ""), name, "recipes.")
    if unknown := set(recipe) - set(PARTS):
        raise Fault(f"recipes.{name}.{min(unknown)}: unknown key; accepted: {', '.join(PARTS)}")
    merged = {"data": _section(recipe, "data", f"recipes.{name}.")}
    places = {part: f"recipes.{name}.{part}" for part in ("data", *(f"data.{key}" for key in DataConfig.model_fields))}
    for part in DEFAULTS:
        overrides = _section(recipe, part, f"recipes.{name}.") if part in recipe else {}
        merged[part] = _merged(_section(params, part, ""), overrides, part, f"recipes.{name}.{part}", places)
    data, asked = validate(_Data, {"data": merged["data"]}, places).data, merged["train"]
    if data.is_own_folder:
        data = data.holding(look(name, data))
    checked = validate(Recipe, merged | {"data": data, "train": in_steps(asked, data.count)}, places)
    durations = {key: asked[key] for key in ("steps", "checkpoints")}
    settings = {
        "data": data.model_dump() | {"classes": list(data.classes)},
        "train": checked.train.model_dump() | durations,
        "figures": checked.figures.model_dump(),
        "evaluation": checked.evaluation.model_dump(),
    }
    return checked, settings


def check(params: dict[str, Any], look: Look = nowhere) -> dict[str, Recipe]:
    """Resolve every recipe of `params` that runs, so that a fault of one stops before another trains. Raises Fault."""
    names, known = params.get("recipe_names"), _section(params, "recipes", "")
    if bad := [name for name in known if not re.fullmatch(NAME, str(name))]:
        raise Fault(f"recipes.{bad[0]}: this name would become part of paths and commands; accepted: {NAME_IN_WORDS}")
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names) or set(map(str, names)) - set(known):
        raise Fault(f"recipe_names = {names!r}; accepted: a list of different names out of {', '.join(known)}")
    recipes, lines = {}, []
    for name in names:
        try:
            recipes[name] = resolve(params, name, look)[0]
        except Fault as fault:
            lines += str(fault).split("\n")
    if lines:
        raise Fault("\n".join(dict.fromkeys(lines)))  # a fault of the defaults is that of every recipe
    conditional = params.get("conditional")
    can_be = [name for name, recipe in recipes.items() if recipe.train.context_dim > 1]
    if not isinstance(conditional, list) or not set(map(str, conditional)) <= set(can_be):
        accepted = f"a list out of {', '.join(can_be)}" if can_be else "[]"
        raise Fault(f"conditional = {conditional!r}; accepted: {accepted}, recipes that run with train.context_dim above 1")
    editing = params.get("editing")
    if not isinstance(editing, list) or not set(map(str, editing)) <= set(recipes):
        raise Fault(f"editing = {editing!r}; accepted: a list out of {', '.join(recipes)}, recipes that run")
    if (yardstick := params.get("yardstick")) not in ([], *([name] for name in known)):
        raise Fault(f"yardstick = {yardstick!r}; accepted: [], or one of {', '.join(known)}, of real CIFAR-10 images")
    return recipes


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections by their dotted names; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def unreached(params: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A line for each setting of `params`, already checked, that differs from `before` and reaches no recipe that runs.

    Those are defaults that every recipe of recipe_names sets itself, and settings of recipes that are not in that list.
    """
    names, lines = params["recipe_names"], []
    new, old = (flattened({part: side.get(part) or {} for part in (*DEFAULTS, "recipes")}) for side in (params, before))
    for key in new:
        if key in old and new[key] == old[key]:
            continue
        section, name = key.split(".")[:2]
        own = {f"recipes.{name}.{key}": new.get(f"recipes.{name}.{key}") for name in names}
        if section == "recipes" and name not in names:
            lines.append(f"{key} = {new[key]!r} reaches no recipe that runs; accepted in recipe_names: {name} too")
        elif section != "recipes" and own.keys() <= new.keys():
            theirs = ", ".join(f"{place} = {value!r}" for place, value in own.items())
            lines.append(f"{key} = {new[key]!r} reaches no recipe that runs, for each has its own: {theirs}")
    return lines


def _merged(defaults: Any, overrides: Any, inner: str, outer: str, places: dict[str, str]) -> Any:
    """`defaults` with `overrides` put in their place, section by section; `places` learns where each of these stands."""
    if not isinstance(defaults, dict) or not isinstance(overrides, dict):
        places[inner] = outer
        return overrides
    changed = {
        key: _merged(defaults.get(key), value, f"{inner}.{key}", f"{outer}.{key}", places) for key, value in overrides.items()
    }
    return defaults | changed


def _section(values: Any, key: str, prefix: str) -> dict[str, Any]:
    section = values.get(key) if isinstance(values, dict) else None
    if not isinstance(section, dict):
        known = ", ".join(map(str, values)) if isinstance(values, dict) else "nothing"
        raise Fault(f"{prefix}{key} = {section!r}: a section of settings is needed here; this level has: {known}")
    return section
