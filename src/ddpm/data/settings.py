"""Where a recipe's images come from and how they are cut: the part `data` of its settings."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field, PrivateAttr, model_validator
from typing_extensions import Self

from ddpm.base.settings import Count, Seed, Strict, Whole
from ddpm.data.sets import DATA_SETS, DataSet


class Contents(NamedTuple):
    """What a folder of pictures holds."""

    classes: tuple[str, ...]  # its subfolders, by name; none where it has none
    pictures: int  # how many, held-out ones too


class DataConfig(Strict):
    """Where a recipe's images come from and how they are cut. What is left out is as the data set's entry says."""

    dataset: str = Field(description=f"one of {', '.join(DATA_SETS)}", pattern=rf"^({'|'.join(DATA_SETS)})$")
    source: str = Field(
        description="official, synthetic, or the path of an archive or folder ($DATA_HOME and ~ are expanded)", min_length=1
    )
    origin: str = Field(default="", description="a sentence that says what a local source holds; shown with every result")
    heldout: str = Field(
        default="",
        description="the path of another archive or folder, all of it held out of the training; for local sources alone",
    )
    images: Count = Field(default=2000, description="images to draw when source is synthetic, 1 or more")
    seed: Seed = 0  # of the drawing
    crop: list[Whole] | None = Field(
        default=None,
        description="[left, top, width, height] in pixels inside the 178x218 image, for celeba, or inside every picture of a "
        "folder, there also center",
        min_length=4,
        max_length=4,
    )
    size: Count = Field(
        default=64, description="side of the square training images in pixels; as published where they are not cut"
    )
    channels: Literal[1, 3] = Field(default=3, description="3, or of a folder 1: its pictures in gray")
    _contents: Contents | None = PrivateAttr(default=None)  # of a local folder, which the stage config looks into

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, values: Any) -> Any:
        """The values, and crop and size as the table says where they are missing."""
        table = DATA_SETS.get(str(values.get("dataset"))) if isinstance(values, dict) else None
        if table is None:
            return values
        missing = {"crop": table.crop and list(table.crop), "size": table.size, "channels": table.channels}
        if table.any_size and values.get("crop") == "center":  # the largest square there, as without a box
            values = values | {"crop": None}
        return missing | {key: value for key, value in values.items() if value is not None or key not in missing}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        table, crop = self.table, self.crop
        if self.source == "official" and not table.files:
            raise ValueError(f"data.source = 'official'; accepted for {self.dataset}, which is not published: {self.accepted}")
        if self.heldout and self.source in ("official", "synthetic"):
            raise ValueError(f"data.heldout = {self.heldout!r}; accepted where data.source = {self.source!r}: none")
        if self.channels != table.channels and not table.any_size:
            raise ValueError(f"data.channels = {self.channels}; accepted for {self.dataset}: {table.channels}")
        if table.any_size:
            if crop is not None and (crop[2] != crop[3] or crop[2] < 1):
                raise ValueError(f"data.crop = {crop} is not square; accepted: width equal to height, 1 or more, or center")
            return self
        if table.frame is None:
            if crop is not None:
                raise ValueError(f"data.crop = {crop}; accepted for {self.dataset}, whose images are used as they are: none")
            if self.size != table.size:
                raise ValueError(f"data.size = {self.size}; accepted for {self.dataset}: {table.size}")
            return self
        assert crop is not None  # the table has one
        (left, top, width, height), (right, bottom) = crop, table.frame
        if width < 1 or height < 1 or left + width > right or top + height > bottom:
            raise ValueError(
                f"data.crop = {crop} does not lie inside the {right}x{bottom} image; "
                f"accepted: [left, top, width, height] with left + width <= {right} and top + height <= {bottom}"
            )
        if width != height:
            raise ValueError(f"data.crop = {crop} is not square; accepted: width equal to height")
        return self

    @property
    def table(self) -> DataSet:
        """The data set's entry."""
        return DATA_SETS[self.dataset]

    def holding(self, contents: Contents) -> Self:
        """These settings, of a local folder that holds `contents`."""
        copy = self.model_copy()
        copy._contents = contents
        return copy

    @property
    def is_own_folder(self) -> bool:
        """Whether only the folder itself says what its classes are."""
        return self.table.any_size and self.source != "synthetic"

    @property
    def count(self) -> int:
        """Images that an epoch is taken to have before they are packed: as published, as are to be drawn, or as lie there."""
        if self._contents:
            return self._contents.pictures
        return self.images if self.source == "synthetic" else self.table.count or self.images

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of this source in the order of the labels; none where there are no labels."""
        return self._contents.classes if self._contents else self.table.class_names(self.source)

    @property
    def shareable(self) -> bool:
        """Whether images of this source may be shown to others."""
        return self.table.shareable or self.source == "synthetic"

    @property
    def accepted(self) -> str:
        """What `source` may be."""
        return f"{'official, ' if self.table.files else ''}synthetic, or {self.table.local}"
