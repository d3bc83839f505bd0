"""Pictures of one's own: a folder of .jpg, .png and .webp files of any size and mode, whose subfolders are classes."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ddpm.base.faults import Fault
from ddpm.base.progress import progress_bar
from ddpm.base.settings import is_text
from ddpm.data.archives import Part, part_of

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")  # in upper case too
FORMATS = ("JPEG", "PNG", "WEBP")
MOST_CLASSES = 256  # a label is one byte
TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # characters that turn the direction of a line's text


class FolderImages:
    """The pictures of a folder in name order: `len(images)`, `images.names`, `images.labels`, `images.image(name)`.

    As torchvision's ImageFolder has it, each subfolder is a class, the classes are in the order of their names, and a picture
    may lie at any depth in its class; a folder without subfolders has pictures without classes. What is no picture by its
    name, or hidden, is left alone. Held out is a tenth of the pictures by their names, which are paths from the folder.
    Pickled, only the place is left. Raises Fault for a folder without pictures, or one that mixes pictures and classes.
    """

    def __init__(self, path: Path, part: Part = "all") -> None:
        self.path = path
        names = [file.relative_to(path).as_posix() for file in picture_files(path)]
        self.classes = class_names(path)
        check_names(path, names, self.classes)
        self.names = [names[place] for place in part_of(path, names, part)]
        self.labels: np.ndarray | None = None  # uint8 (N,)
        if self.classes:
            number = {name: label for label, name in enumerate(self.classes)}
            self.labels = np.array([number[name.partition("/")[0]] for name in self.names], np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __len__(self) -> int:
        return len(self.names)

    def check(self) -> None:
        """Read the beginning of every file, decoding none; raise Fault at the first that is no picture."""
        self.sizes()

    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each picture in pixels, upright. Raises Fault."""
        names = progress_bar(iterable=self.names, desc=f"check {self.path.name}", unit=" images")
        return [self._decoded(name, lambda image: turned_size(image)) for name in names]

    def image(self, name: str) -> Image.Image:
        """The picture of this name, decoded, RGB or L. Raises Fault."""
        return self._decoded(name, as_seen)

    def _decoded(self, name: str, use: Any) -> Any:
        try:
            with Image.open(io.BytesIO((self.path / name).read_bytes()), formats=FORMATS) as image:
                return use(image)
        except Exception as error:  # whatever Pillow makes of a damaged file, or the system of the disk
            raise Fault(
                f"{self.path}: {name} cannot be read ({error}); accepted: whole .jpg, .png and .webp files; "
                "mend it or take it away"
            ) from error


def class_names(folder: Path) -> tuple[str, ...]:
    """The names of the subfolders, sorted; those that are hidden do not count."""
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def check_names(folder: Path, names: Iterable[str], classes: Iterable[str]) -> None:
    """Raise Fault for names that cannot be hashed or shown: of pictures and classes not in UTF-8, of classes with controls."""
    for name in (*classes, *names):
        if not is_text(name):
            raise Fault(f"{folder}: the name {name!r} is no text; accepted: names in UTF-8")
    for name in classes:
        if any(unicodedata.category(letter) == "Cc" or unicodedata.bidirectional(letter) in TURNS for letter in name):
            raise Fault(f"{folder}: the class {name!r}; accepted: names without line breaks and other controls")


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder or of its classes, by their paths. Raises Fault."""
    if not folder.is_dir():
        raise Fault(f"{folder}: is no folder; accepted: a folder of pictures, or of one folder of pictures a class")
    beside, classes = sorted(file for file in folder.iterdir() if _is_picture(file)), class_names(folder)
    if len(classes) > MOST_CLASSES:
        raise Fault(f"{folder}: has {len(classes)} subfolders; accepted: at most {MOST_CLASSES}, each of which is a class")
    if beside and classes:
        raise Fault(
            f"{folder}: the picture {beside[0].name} lies beside the subfolder {classes[0]}; accepted: pictures alone, or one "
            "subfolder of pictures a class"
        )
    files = beside
    for name in classes:
        inside = _pictures_below(folder / name)
        if not inside:
            raise Fault(f"{folder}: no picture in {name}, a class as a subfolder; accepted: {', '.join(ENDINGS)} files in each")
        files += inside
    if not files:
        raise Fault(f"{folder}: holds no picture; accepted: {', '.join(ENDINGS)} files, there or in one subfolder a class")
    return files


def _pictures_below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:  # else os.walk leaves out what it may not read
        raise error

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [file for name in files if _is_picture(file := Path(place, name))]
    return sorted(found)


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a picture that is not decoded yet, as its EXIF orientation shows it."""
    width, height = image.size
    return (height, width) if image.getexif().get(0x0112, 1) >= 5 else (width, height)


def as_seen(image: Image.Image) -> Image.Image:
    """A picture as a viewer shows it, RGB or L: turned as its EXIF says, over white where it is transparent, 16 bits as 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of gray a pixel
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image if image.mode in ("RGB", "L") else image.convert("L" if image.mode == "1" else "RGB")
