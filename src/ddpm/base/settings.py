"""Strict, typed settings, and messages that name the key, its value and what is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddpm.base.faults import Fault


class Strict(BaseModel):
    """A section of settings: every key known, every type exact. Each field's description says what is accepted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


NAME = r"[a-z0-9_]{1,100}"  # of a recipe: it becomes part of paths, of stages' names and of commands
NAME_IN_WORDS = "lower-case letters, digits and _"
Model = TypeVar("Model", bound=Strict)
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="a whole number, 0 to 2**32 - 1")]


def is_text(written: str) -> bool:
    """Whether `written` can be stored as UTF-8: half of a surrogate pair, as a name in another encoding has it, cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in written)


def validate(kind: type[Model], values: Any, written: str | Mapping[str, str] = "") -> Model:
    """Check `values` against `kind`. Raises Fault with a line for each thing that is wrong.

    `written`: where the user wrote them, as a prefix of every key, or for parts of keys each its own: {"train.lr":
    "recipes.celeba.train.lr"}. The validators of `kind` name their keys as `kind` does, in `key = value`.
    """
    places = {"": written} if isinstance(written, str) else written
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Fault("\n".join(_line(kind, fault, places) for fault in error.errors())) from None


def _line(kind: type[BaseModel], fault: Any, places: Mapping[str, str]) -> str:
    """One fault as `key = value; accepted: ...`."""
    path = [str(part) for part in fault["loc"]]
    key = _spelled(path, places)
    if fault["type"] == "value_error":  # from a validator of ours: the message names keys and values itself
        message = str(fault["ctx"]["error"])
        for inner, outer in places.items():
            message = message.replace(f"{inner} =", f"{outer} =") if inner else message
        return message
    fields, description = _field(kind, path)
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(path[-1], fields, n=1)
        return f"{key}: unknown key; accepted: {near[0] if near else ', '.join(fields)}"
    if fault["type"] == "missing":
        return f"{key}: missing; accepted: {description}"
    return f"{key} = {fault['input']!r}; accepted: {description or fault['msg']}"


def _spelled(path: list[str], places: Mapping[str, str]) -> str:
    """The key as the user wrote it: the longest known beginning of `path` replaced by where it came from."""
    for length in range(len(path), -1, -1):
        if outer := places.get(".".join(path[:length])):
            return ".".join([outer, *path[length:]])
    return ".".join(path)


def _field(kind: type[BaseModel], path: list[str]) -> tuple[list[str], str]:
    """The keys beside the last one of `path`, and the description of the deepest field that `path` leads to."""
    description, fields = "", kind.model_fields
    for part in path:
        if part.isdecimal():  # a place in a list
            continue
        if part not in fields:
            break
        description = fields[part].description or description
        inner = fields[part].annotation
        inner = next(iter(get_args(inner)), inner)  # of a list's items
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            fields = inner.model_fields
    return list(fields), description
