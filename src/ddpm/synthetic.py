"""Sprites, and stand-ins for CIFAR-10, CelebA and Fashion-MNIST, drawn by code in the publishers' raw layouts.

They let the whole pipeline run without a download or a licence. Image i of a seed is the same picture however many are
drawn and by however many processes. Smooth shapes on smooth grounds: a small network learns them in minutes, and a
viewer sees how far it has come. Calls that write one file must not overlap.
"""

from __future__ import annotations

import colorsys
import gzip
import io
import math
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ddpm.archives import (
    CELEBA_FOLDER,
    CELEBA_SIZE,
    CIFAR10_BATCHES,
    CIFAR10_FOLDER,
    FASHION_MNIST_FILES,
    SPRITES_MEMBERS,
)
from ddpm.config import CLASSES
from ddpm.garments import draw_garment
from ddpm.parallel import in_processes
from ddpm.progress import progress_bar
from ddpm.sprites import draw_sprite

CHUNK = 50  # images a task
Colour = tuple[int, int, int]
Point = tuple[float, float]


def write_cifar10(path: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write `num_images` pictures of ten kinds to `path` in the layout of cifar-10-binary.tar.gz."""
    records = list(_draw_all(_cifar10_record, num_images, seed, workers, "draw cifar10"))
    cuts = [num_images * batch // len(CIFAR10_BATCHES) for batch in range(len(CIFAR10_BATCHES) + 1)]
    members = [("batches.meta.txt", "".join(f"{kind}\n" for kind in KINDS).encode())]
    members += [(name, b"".join(records[cuts[i] : cuts[i + 1]])) for i, name in enumerate(CIFAR10_BATCHES)]
    temporary = _temporary(path)
    with (
        temporary.open("wb") as stream,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, content in members:
            info = tarfile.TarInfo(f"{CIFAR10_FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    temporary.replace(path)


def write_celeba(path: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write `num_images` drawn faces to `path` in the layout of img_align_celeba.zip, eyes where CelebA's are."""
    temporary = _temporary(path)
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:  # JPEG compresses no further
        for index, jpeg in enumerate(_draw_all(_celeba_jpeg, num_images, seed, workers, "draw celeba")):
            _add(archive, f"{CELEBA_FOLDER}/{index + 1:06d}.jpg", jpeg)
    temporary.replace(path)


def write_fashion_mnist(folder: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write `num_images` garments and their labels to `folder`, in the layout of Fashion-MNIST's two training files."""
    records = b"".join(_draw_all(_fashion_mnist_record, num_images, seed, workers, "draw fashion_mnist"))
    labelled: np.ndarray = np.frombuffer(records, np.uint8).reshape(num_images, -1)
    headers = [struct.pack(">4B3I", 0, 0, 8, 3, num_images, 28, 28), struct.pack(">4BI", 0, 0, 8, 1, num_images)]
    for name, header, items in zip(FASHION_MNIST_FILES, headers, (labelled[:, 1:], labelled[:, 0]), strict=True):
        temporary = _temporary(folder / name)
        with (
            temporary.open("wb") as stream,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0) as packed,
        ):
            packed.write(header + items.tobytes())
        temporary.replace(folder / name)


def write_sprites(path: Path, num_images: int, seed: int, workers: int = 0) -> None:
    """Write `num_images` sprites and their labels to the .npz file `path`, as `ddpm.archives.read_sprites` reads it."""
    records = b"".join(_draw_all(_sprites_record, num_images, seed, workers, "draw sprites"))
    labelled: np.ndarray = np.frombuffer(records, np.uint8).reshape(num_images, -1)
    temporary = _temporary(path)
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in zip(SPRITES_MEMBERS, (labelled[:, 1:].reshape(-1, 16, 16, 3), labelled[:, 0]), strict=True):
            stream = io.BytesIO()
            np.save(stream, array)
            _add(archive, name, stream.getvalue())
    temporary.replace(path)


def draw_kind(kind: int, rng: random.Random) -> Image.Image:
    """A 32x32 picture of KINDS[kind]."""
    picture = KINDS[list(KINDS)[kind]](rng)
    return picture.image.resize((32, 32), Image.Resampling.BOX)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.tmp")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member without the time of day."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.external_attr = 0o100644 << 16
    archive.writestr(member, content)


def _draw_all(draw: Callable[[int, int], bytes], num_images: int, seed: int, workers: int, title: str) -> Iterator[bytes]:
    tasks = [range(start, min(start + CHUNK, num_images)) for start in range(0, num_images, CHUNK)]
    with progress_bar(total=num_images, desc=title, unit=" images") as bar:
        for chunk in in_processes(_Artist, (draw, seed), tasks, workers):
            yield from chunk
            bar.update(len(chunk))


class _Artist:
    def __init__(self, draw: Callable[[int, int], bytes], seed: int) -> None:
        self.draw, self.seed = draw, seed

    def __call__(self, indices: range) -> list[bytes]:
        return [self.draw(self.seed, index) for index in indices]


def _generator(dataset: str, seed: int, index: int) -> random.Random:
    """The standard library's generator: its numbers are the same in every version, on every system."""
    return random.Random(f"{dataset} {seed} {index}")


def _cifar10_record(seed: int, index: int) -> bytes:
    rng = _generator("cifar10", seed, index)
    label = rng.randrange(len(KINDS))
    return bytes([label]) + np.ascontiguousarray(np.moveaxis(np.asarray(draw_kind(label, rng)), 2, 0)).tobytes()


def _fashion_mnist_record(seed: int, index: int) -> bytes:
    rng = _generator("fashion_mnist", seed, index)
    label = rng.randrange(len(CLASSES["fashion_mnist"]))
    return bytes([label]) + draw_garment(label, rng).tobytes()


def _sprites_record(seed: int, index: int) -> bytes:
    rng = _generator("sprites", seed, index)
    label = rng.randrange(len(CLASSES["sprites"]))
    return bytes([label]) + draw_sprite(label, rng).tobytes()


def _celeba_jpeg(seed: int, index: int) -> bytes:
    stream = io.BytesIO()
    draw_face(_generator("celeba", seed, index)).save(stream, "JPEG", quality=96, subsampling=0)
    return stream.getvalue()


class _Picture:
    """A canvas with `zoom` pixels a unit of length: drawn large and scaled down, which smooths edges."""

    def __init__(self, ground: Image.Image, zoom: float) -> None:
        self.image, self.zoom = ground, zoom
        self.draw = ImageDraw.Draw(ground)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        z = self.zoom
        self.draw.ellipse(((x - rx) * z, (y - ry) * z, (x + rx) * z, (y + ry) * z), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour, radius: float = 0.0) -> None:
        z = self.zoom
        self.draw.rounded_rectangle((left * z, top * z, right * z, bottom * z), radius * z, fill=fill)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self.draw.polygon([(x * self.zoom, y * self.zoom) for x, y in points], fill=fill)

    def line(self, points: list[Point], fill: Colour, width: float) -> None:
        """A line with round ends."""
        scaled = [(x * self.zoom, y * self.zoom) for x, y in points]
        self.draw.line(scaled, fill=fill, width=max(1, round(width * self.zoom)), joint="curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, fill)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(255 * red), round(255 * green), round(255 * blue)


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` times `factor`: darker below 1, lighter above."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def mix(one: Colour, other: Colour, weight: float) -> Colour:
    """`weight` of `other` in `one`."""
    red, green, blue = (round(a + (b - a) * weight) for a, b in zip(one, other, strict=True))
    return red, green, blue


def gradient(width: int, height: int, start: Colour, end: Colour, direction: Point = (0.0, 1.0)) -> Image.Image:
    """From `start` to `end` along `direction` = (right, down), two non-negative weights with sum 1."""
    along = direction[0] * np.linspace(0, 1, width)[None, :] + direction[1] * np.linspace(0, 1, height)[:, None]
    pixels = np.asarray(start) + along[..., None] * (np.asarray(end) - np.asarray(start))
    return Image.fromarray(pixels.round().astype(np.uint8))


# --- CIFAR-10's stand-in: ten kinds of small pictures, in units of the 32x32 image ---

ZOOM = 4


def _sky(rng: random.Random) -> _Picture:
    """Blue by day, now and then peach or rose, paler at the horizon."""
    hue, saturation = rng.choice([(0.55, 0.7), (0.58, 0.7), (0.62, 0.6), (0.09, 0.45), (0.95, 0.35)])
    hue, saturation = hue + rng.uniform(-0.02, 0.02), saturation * rng.uniform(0.6, 1.0)
    top, bottom = hsv(hue, saturation, rng.uniform(0.7, 0.95)), hsv(hue, rng.uniform(0.1, 0.4) * saturation, 0.97)
    return _Picture(gradient(32 * ZOOM, 32 * ZOOM, top, bottom), ZOOM)


def _ground(picture: _Picture, rng: random.Random, top: float, hue: float, saturation: float = 0.5) -> None:
    """A floor from height `top` to the bottom edge, darker towards the viewer."""
    value = rng.uniform(0.5, 0.8)
    rows = max(1, round((32 - top) * ZOOM))
    near, far = hsv(hue, saturation, 0.75 * value), hsv(hue, saturation, value)
    picture.image.paste(gradient(32 * ZOOM, rows, far, near), (0, 32 * ZOOM - rows))


def _vivid(rng: random.Random) -> Colour:
    return hsv(rng.random(), rng.uniform(0.65, 0.95), rng.uniform(0.7, 0.95))


def _sunset(rng: random.Random) -> _Picture:
    hue = rng.uniform(-0.06, 0.1)
    picture = _Picture(
        gradient(32 * ZOOM, 32 * ZOOM, hsv(hue - 0.12, 0.6, rng.uniform(0.45, 0.8)), hsv(hue + 0.05, 0.6, 1.0)), ZOOM
    )
    horizon, x, radius = rng.uniform(17, 22), rng.uniform(8, 24), rng.uniform(4, 7)
    sun = hsv(hue + 0.1, 0.35, 1.0)
    picture.ellipse(x, horizon - rng.uniform(0, radius), radius, radius, sun)
    sea = hsv(rng.uniform(0.54, 0.66), 0.6, rng.uniform(0.35, 0.6))
    _ground(picture, rng, horizon, 0.6)
    picture.box(0, horizon, 32, 32, sea)
    for step in range(3):
        y, half = horizon + 2 + 3 * step, radius * (0.9 - 0.22 * step)
        picture.box(x - half, y, x + half, y + 1.2, mix(sea, sun, 0.7), 0.6)
    return picture


def _house(rng: random.Random) -> _Picture:
    picture = _sky(rng)
    floor = rng.uniform(25, 28)
    _ground(picture, rng, floor - 2, rng.uniform(0.22, 0.36))
    x, half, height = rng.uniform(13, 19), rng.uniform(7, 10), rng.uniform(8, 11)
    wall, roof = (
        hsv(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.8, 0.98)),
        hsv(rng.choice([0.0, 0.03, 0.6, 0.9]), 0.65, rng.uniform(0.4, 0.7)),
    )
    eaves = floor - height
    picture.box(x - half, eaves, x + half, floor, wall)
    picture.polygon([(x - half - 2, eaves), (x, eaves - rng.uniform(6, 9)), (x + half + 2, eaves)], roof)
    door = x + rng.choice([-1, 1]) * half * 0.45
    picture.box(door - 1.7, floor - 5.5, door + 1.7, floor, shade(roof, 0.8))
    window = 2 * x - door
    picture.box(
        window - 2,
        eaves + 2,
        window + 2,
        eaves + 5.5,
        hsv(0.13, 0.45, 1.0) if rng.random() < 0.5 else hsv(0.56, 0.5, 0.8),
    )
    return picture


def _tree(rng: random.Random) -> _Picture:
    picture = _sky(rng)
    floor = rng.uniform(25, 29)
    _ground(picture, rng, floor - 3, rng.uniform(0.2, 0.36))
    x, top = rng.uniform(12, 20), rng.uniform(5, 9)
    picture.box(x - 1.5, 16, x + 1.5, floor, hsv(0.07, 0.6, rng.uniform(0.3, 0.5)), 0.5)
    leaf = hsv(rng.choice([0.3, 0.34, 0.38, 0.1, 0.05]) + rng.uniform(-0.03, 0.03), 0.7, rng.uniform(0.4, 0.75))
    if rng.random() < 0.5:
        for level in range(3):
            y, half = top - 1 + 5 * level, 5 + 2 * level
            picture.polygon([(x - half, y + 8), (x, y), (x + half, y + 8)], shade(leaf, 0.9 + 0.08 * level))
    else:
        spread = rng.uniform(5, 6.5)
        for dx, dy in ((-4, 3), (4, 3), (0, 0)):
            picture.ellipse(x + dx, top + 5.5 + dy, spread, spread, shade(leaf, 0.88 if dy else 1.0))
    return picture


def _car(rng: random.Random) -> _Picture:
    picture = _sky(rng)
    floor = rng.uniform(23, 27)
    _ground(picture, rng, floor - 4, rng.random(), 0.08)
    x, half, side, paint = rng.uniform(14, 18), rng.uniform(10.5, 13), rng.choice([-1, 1]), _vivid(rng)
    glass = hsv(0.55, 0.25, 0.9)
    roof = floor - rng.uniform(10.5, 12)
    cabin = [(-0.7, floor - 5), (-0.42, roof), (0.32, roof), (0.62, floor - 5)]
    picture.polygon([(x + side * half * u, y) for u, y in cabin], shade(paint, 0.9))
    panes = [(-0.5, floor - 6), (-0.34, roof + 1.3), (0.26, roof + 1.3), (0.44, floor - 6)]
    picture.polygon([(x + side * half * u, y) for u, y in panes], glass)
    picture.box(x - half, floor - 6.5, x + half, floor - 0.8, paint, 2)
    for wheel in (-0.55, 0.55):
        picture.ellipse(x + half * wheel, floor - 0.8, 2.9, 2.9, (28, 28, 32))
        picture.ellipse(x + half * wheel, floor - 0.8, 1.3, 1.3, (190, 190, 195))
    picture.ellipse(x + side * (half - 1), floor - 4.3, 0.9, 1.0, (255, 240, 170))
    return picture


def _ship(rng: random.Random) -> _Picture:
    picture = _sky(rng)
    sea = rng.uniform(22, 25)
    x, side, paint = rng.uniform(14, 18), rng.choice([-1, 1]), _vivid(rng)
    if rng.random() < 0.6:
        sail = hsv(rng.random(), rng.choice([0.05, 0.5]), 0.98)
        picture.line([(x, 5), (x, sea - 3)], hsv(0.08, 0.5, 0.35), 0.9)
        picture.polygon([(x + side, 5), (x + side, sea - 4), (x + side * rng.uniform(8, 10), sea - 4)], sail)
        picture.polygon([(x - side, 8), (x - side, sea - 4), (x - side * 6.5, sea - 4)], shade(sail, 0.88))
    else:
        picture.box(x - 6, sea - 8, x + 6, sea - 3, (240, 240, 235), 0.8)
        chimney = x + side * 2
        picture.box(chimney - 1.6, sea - 13, chimney + 1.6, sea - 8, _vivid(rng))
    picture.polygon([(x - 12, sea - 3.5), (x + 12, sea - 3.5), (x + 8, sea + 3), (x - 8, sea + 3)], paint)
    _ground(picture, rng, sea, rng.uniform(0.52, 0.64), 0.65)
    return picture


def _ball(rng: random.Random) -> _Picture:
    hue = rng.random()
    ends = hsv(hue, 0.2, rng.uniform(0.75, 0.95)), hsv(hue + 0.05, 0.35, rng.uniform(0.5, 0.8))
    picture = _Picture(gradient(32 * ZOOM, 32 * ZOOM, *ends), ZOOM)
    x, y, radius, paint = rng.uniform(13, 19), rng.uniform(13, 18), rng.uniform(7.5, 11), _vivid(rng)
    picture.ellipse(x + 1, y + radius * 0.97, radius * 0.85, radius * 0.2, shade(ends[1], 0.6))
    for ring in range(8):  # light from above left
        u = ring / 8
        picture.ellipse(
            x - 0.38 * radius * u,
            y - 0.38 * radius * u,
            radius * (1 - u),
            radius * (1 - u),
            mix(shade(paint, 0.7), mix(paint, (255, 255, 255), 0.5), u),
        )
    return picture


def _fish(rng: random.Random) -> _Picture:
    hue = rng.uniform(0.47, 0.62)
    picture = _Picture(gradient(32 * ZOOM, 32 * ZOOM, hsv(hue, 0.45, 0.95), hsv(hue + 0.05, 0.8, rng.uniform(0.3, 0.55))), ZOOM)
    x, y, length, side = rng.uniform(14, 18), rng.uniform(12, 20), rng.uniform(7.5, 9.5), rng.choice([-1, 1])
    paint = hsv(rng.choice([0.0, 0.05, 0.1, 0.14, 0.83, 0.92]), rng.uniform(0.65, 0.9), 0.97)
    tail, fin, height = x - side * length * 0.75, shade(paint, 0.8), length * rng.uniform(0.5, 0.65)
    picture.polygon([(tail, y), (tail - side * 6, y - 5), (tail - side * 4.5, y), (tail - side * 6, y + 5)], fin)
    picture.polygon([(x - side * 4, y - height * 0.7), (x + side, y - height - 3), (x + side * 3, y - height * 0.7)], fin)
    picture.ellipse(x, y, length, height, paint)
    if rng.random() < 0.5:
        picture.box(x - 1.3, y - height * 0.96, x + 1.3, y + height * 0.96, (250, 250, 250))
    picture.ellipse(x + side * length * 0.55, y - 1.2, 1.6, 1.6, (255, 255, 255))
    picture.ellipse(x + side * length * 0.62, y - 1.2, 0.9, 0.9, (20, 20, 30))
    return picture


def _flower(rng: random.Random) -> _Picture:
    hue = rng.uniform(0.22, 0.42)
    picture = _Picture(
        gradient(32 * ZOOM, 32 * ZOOM, hsv(hue, rng.uniform(0.1, 0.35), 0.95), hsv(hue, 0.55, rng.uniform(0.4, 0.7))),
        ZOOM,
    )
    x, y, reach = rng.uniform(13, 19), rng.uniform(11, 15), rng.uniform(5, 6.2)
    green = hsv(0.33, 0.7, rng.uniform(0.35, 0.55))
    picture.line([(x, y), (x + rng.uniform(-2, 2), 32)], green, 1.6)
    picture.ellipse(x + rng.choice([-1, 1]) * 3.4, 26, 3.4, 1.5, green)
    petals, paint, turn = (
        rng.choice([5, 6, 8]),
        hsv(rng.choice([0.0, 0.08, 0.13, 0.6, 0.75, 0.85, 0.93]), rng.choice([0.15, 0.7, 0.85]), 0.97),
        rng.random(),
    )
    for petal in range(petals):
        angle = 2 * math.pi * (petal + turn) / petals
        picture.ellipse(
            x + reach * math.cos(angle), y + reach * math.sin(angle), 3.6, 3.6, shade(paint, 0.9 if petal % 2 else 1.0)
        )
    picture.ellipse(x, y, 3.4, 3.4, hsv(rng.choice([0.08, 0.13, 0.15]), 0.85, rng.uniform(0.55, 1.0)))
    return picture


def _bird(rng: random.Random) -> _Picture:
    picture = _sky(rng)
    x, y, side, paint = rng.uniform(14, 17), rng.uniform(15, 18), rng.choice([-1, 1]), _vivid(rng)
    picture.line([(0, 26.5), (32, rng.uniform(25, 28))], hsv(0.07, 0.55, 0.35), 2)
    picture.line([(x, y + 5), (x, 26)], (200, 130, 40), 1)
    picture.polygon([(x - side * 4, y - 1), (x - side * 13, y - rng.uniform(-1, 5)), (x - side * 5, y + 4)], shade(paint, 0.75))
    picture.ellipse(x, y, 7.5, 5.8, paint)
    picture.ellipse(x + side * 1.5, y + 2, 4.5, 3.4, mix(paint, (255, 255, 255), 0.6))
    picture.ellipse(x - side * 2, y - 0.5, 4.3, 2.8, shade(paint, 0.72))
    head = x + side * 6.5
    picture.polygon([(head + side * 3, y - 7), (head + side * 7.5, y - 5), (head + side * 3, y - 3.6)], (245, 165, 40))
    picture.ellipse(head, y - 5.5, 4.2, 4.2, paint)
    picture.ellipse(head + side * 1.4, y - 6.3, 1.0, 1.0, (15, 15, 20))
    return picture


def _plane(rng: random.Random) -> _Picture:
    picture = _sky(rng)
    x, y, side, paint = rng.uniform(14, 18), rng.uniform(13, 19), rng.choice([-1, 1]), _vivid(rng)
    body = hsv(rng.random(), 0.06, rng.uniform(0.85, 0.98))
    climb = rng.uniform(-0.15, 0.35)

    def at(u: float, v: float) -> Point:  # u forwards, v downwards
        return x + side * u, y + v - climb * u

    for cloud in range(2):
        cx, cy = rng.uniform(2, 30), rng.uniform(3, 8) if cloud else rng.uniform(24, 29)
        picture.ellipse(cx, cy, rng.uniform(4, 7), 1.8, (250, 250, 252))
    picture.polygon([at(-8, 0), at(-13.5, -7.5), at(-10.5, -7.5), at(-5, -1)], paint)
    picture.polygon([at(1, -1), at(-3, -7), at(-5, -7), at(-3, -1)], shade(paint, 0.7))
    picture.line([at(-11, -0.5), at(10, 0)], body, 5)
    picture.polygon([at(3.5, 0.5), at(-4, 9), at(-6.8, 9), at(-3.5, 0.5)], paint)
    for window in range(4):
        wx, wy = at(-4 + 3.3 * window, -0.9)
        picture.ellipse(wx, wy, 0.75, 0.75, hsv(0.58, 0.5, 0.45))
    return picture


KINDS: dict[str, Callable[[random.Random], _Picture]] = {
    "sunset": _sunset,
    "house": _house,
    "tree": _tree,
    "car": _car,
    "ship": _ship,
    "ball": _ball,
    "fish": _fish,
    "flower": _flower,
    "bird": _bird,
    "plane": _plane,
}

# --- CelebA's stand-in: aligned faces, in pixels of the 178x218 image ---

FACE_ZOOM = 2
EYES = ((69.0, 111.0), (108.0, 111.0))  # where the aligned images have them, mean of the landmarks
SKINS: list[Colour] = [
    (250, 220, 196),
    (241, 200, 168),
    (228, 180, 142),
    (206, 152, 112),
    (168, 116, 80),
    (126, 82, 56),
    (92, 60, 44),
]
HAIRS: list[Colour] = [
    (28, 24, 26),
    (52, 36, 28),
    (88, 58, 36),
    (128, 84, 48),
    (196, 150, 84),
    (228, 196, 130),
    (150, 62, 34),
    (168, 166, 168),
]
IRISES: list[Colour] = [(60, 40, 28), (92, 62, 36), (70, 110, 150), (84, 120, 72)]


def draw_face(rng: random.Random) -> Image.Image:
    """A 178x218 portrait: ground, hair, shoulders, face, features; looking straight ahead or a little aside."""
    width, height = CELEBA_SIZE[0] * FACE_ZOOM, CELEBA_SIZE[1] * FACE_ZOOM
    picture = _Picture(_backdrop(rng, width, height), FACE_ZOOM)
    tone = rng.randrange(len(SKINS) - 1)
    skin = mix(SKINS[tone], SKINS[tone + 1], rng.random())
    hair = shade(rng.choice(HAIRS), rng.uniform(0.85, 1.15))
    turn = rng.uniform(-5, 5)  # of the head: middle line and outline move against the eyes
    x, rx, chin = 88.5 + 0.5 * turn, rng.uniform(41, 48), rng.uniform(178, 190)
    style = rng.choice(["short", "short", "long", "long", "bob", "curls", "bun", "bald"])
    _hair_behind(picture, rng, style, hair, x, rx)
    _shoulders(picture, rng, skin, x)
    _head(picture, rng, skin, x, rx, chin)
    beard = rng.random() < 0.2 and style in ("short", "bald", "curls")
    if beard:
        _beard(picture, mix(skin, hair, 0.75), x, rx, chin)
    _features(picture, rng, skin, hair, x + 0.6 * turn, beard)
    _hair_before(picture, rng, style, hair, x, rx)
    return picture.image.resize(CELEBA_SIZE, Image.Resampling.BOX)


def _backdrop(rng: random.Random, width: int, height: int) -> Image.Image:
    """A gradient with soft blots, as if out of focus; drawn small and enlarged, so smooth."""
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.55), rng.uniform(0.3, 0.95)
    across = rng.random()
    start, end = (
        hsv(hue, saturation, value),
        hsv(hue + rng.uniform(-0.12, 0.12), saturation, value * rng.uniform(0.55, 0.9)),
    )
    small = _Picture(gradient(44, 54, start, end, (across, 1 - across)), 1)
    for _ in range(rng.randrange(4)):
        radius = rng.uniform(5, 13)
        small.ellipse(
            rng.uniform(0, 44),
            rng.uniform(0, 54),
            radius,
            radius,
            shade(mix(start, end, rng.random()), rng.uniform(0.8, 1.25)),
        )
    return small.image.filter(ImageFilter.GaussianBlur(3)).resize((width, height), Image.Resampling.BICUBIC)


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float, taper: float = 0.0) -> list[Point]:
    """Points on an ellipse from angle `start` to `end` in degrees (0 = right, 90 = down), narrower below by `taper`."""
    angles = [math.radians(start + (end - start) * i / 40) for i in range(41)]
    return [(x + rx * math.cos(a) * (1 - taper * max(0.0, math.sin(a)) ** 2), y + ry * math.sin(a)) for a in angles]


def _hair_behind(picture: _Picture, rng: random.Random, style: str, hair: Colour, x: float, rx: float) -> None:
    dark = shade(hair, 0.8)
    if style == "long":
        half = rx + rng.uniform(8, 14)
        picture.ellipse(x, 106, half, 60, hair)
        picture.box(x - half, 104, x + half, 240, dark, 14)
        picture.box(x - half, 104, x + half, 175, hair, 10)
    elif style == "bob":
        half, bottom = rx + rng.uniform(9, 14), rng.uniform(158, 186)
        picture.ellipse(x, 104, half, 58, hair)
        picture.box(x - half, 102, x + half, bottom, hair, 16)
    elif style == "curls":
        reach = rng.uniform(9, 13)
        for px, py in _arc(x, 104, rx + 4, 52, 150, 390)[::4]:
            picture.ellipse(px, py, reach, reach, hair)
    elif style == "bun":
        picture.ellipse(x, 46, rng.uniform(15, 21), 16, dark)


def _shoulders(picture: _Picture, rng: random.Random, skin: Colour, x: float) -> None:
    cloth = hsv(rng.random(), rng.uniform(0.05, 0.8), rng.uniform(0.2, 0.9))
    picture.box(x - 21, 160, x + 21, 225, shade(skin, 0.82), 8)
    half = rng.uniform(66, 84)
    picture.polygon(_arc(x, 236, half, rng.uniform(34, 42), 180, 360), cloth)
    if rng.random() < 0.5:
        picture.polygon([(x - 20, 196), (x + 20, 196), (x, rng.uniform(210, 222))], shade(skin, 0.9))


def _head(picture: _Picture, rng: random.Random, skin: Colour, x: float, rx: float, chin: float) -> None:
    """Ears, then the face, lit from one side."""
    for side in (-1, 1):
        picture.ellipse(x + side * (rx + 1), 119, 6.5, 11, shade(skin, 0.86))
    outline = _arc(x, 116, rx, chin - 116, 0, 180, rng.uniform(0.05, 0.3)) + _arc(x, 116, rx, 58, 180, 360)
    mask = Image.new("L", picture.image.size)
    ImageDraw.Draw(mask).polygon([(px * FACE_ZOOM, py * FACE_ZOOM) for px, py in outline], fill=255)
    light, shadow = shade(skin, 1.06), shade(skin, 0.8)
    across = rng.uniform(0.45, 0.8)
    lit = gradient(89, 109, light, shadow, (across, 1 - across)).resize(picture.image.size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        lit = lit.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cheeks = Image.new("L", (89, 109))
    for side in (-1, 1):
        cx, cy = (x + side * 25) / 2, 138 / 2
        ImageDraw.Draw(cheeks).ellipse((cx - 6, cy - 5, cx + 6, cy + 5), fill=rng.randrange(40, 110))
    cheeks = cheeks.filter(ImageFilter.GaussianBlur(3)).resize(picture.image.size, Image.Resampling.BICUBIC)
    lit.paste(mix(skin, (220, 70, 70), 0.55), mask=cheeks)
    picture.image.paste(lit, mask=mask)


def _beard(picture: _Picture, colour: Colour, x: float, rx: float, chin: float) -> None:
    outer = _arc(x, 128, rx, chin - 126, 5, 175, 0.18)
    inner = _arc(x, 126, rx - 12, 22, 175, 5)
    picture.polygon(outer + inner, colour)
    picture.polygon([*_arc(x, 150, 19, 9, 180, 360), (x - 19, 152)], colour)


def _features(picture: _Picture, rng: random.Random, skin: Colour, hair: Colour, x: float, beard: bool) -> None:
    """Eyes, brows, nose, mouth and, on some, glasses; `x` is the middle of nose and mouth."""
    iris, look, lid = rng.choice(IRISES), rng.uniform(-1.6, 1.6), rng.uniform(4.6, 6.6)
    brow, brow_y, brow_tilt = shade(mix(hair, skin, 0.15), 0.75), rng.uniform(95, 99), rng.uniform(-0.5, 1.5)
    dark = shade(skin, 0.5)
    made_up = rng.random() < 0.45 and not beard
    for (ex, ey), side in zip(EYES, (-1, 1), strict=True):
        picture.ellipse(ex, ey, 10.5, lid + 1.4, dark if made_up else shade(skin, 0.7))
        picture.ellipse(ex, ey + 0.5, 9.6, lid, (246, 244, 240))
        picture.ellipse(ex + look, ey + 0.3, min(5.0, lid), min(5.0, lid), iris)
        picture.ellipse(ex + look, ey + 0.3, 2.4, 2.4, (14, 12, 14))
        picture.ellipse(ex + look + 1.6, ey - 1.5, 1.2, 1.2, (255, 255, 255))
        thick = 2.6 if made_up else 4.0
        picture.line(
            [(ex - side * 10, brow_y + 2 - brow_tilt), (ex, brow_y - 1.5), (ex + side * 11, brow_y + 1 + brow_tilt)],
            brow,
            thick,
        )
    bridge = rng.choice([-1, 1])
    picture.line([(x + bridge * 3, 116), (x + bridge * 6.5, 133), (x, 137)], shade(skin, 0.78), 2.2)
    for side in (-1, 1):
        picture.ellipse(x + side * 4.5, 137, 1.9, 1.4, shade(skin, 0.58))
    _mouth(picture, rng, skin, x, made_up)
    if rng.random() < 0.2:
        frame = rng.choice([(24, 22, 24), (90, 50, 34), (150, 30, 40)])
        z, radius = FACE_ZOOM, rng.uniform(13.5, 16.5)
        for ex, ey in EYES:
            square = (ex - radius) * z, (ey - radius * 0.8) * z, (ex + radius) * z, (ey + radius * 0.9) * z
            picture.draw.rounded_rectangle(square, radius * 0.8 * z, outline=frame, width=5)
        picture.line([(EYES[0][0] + radius, 109), (EYES[1][0] - radius, 109)], frame, 2.4)


def _mouth(picture: _Picture, rng: random.Random, skin: Colour, x: float, made_up: bool) -> None:
    lips = mix(shade(skin, 0.85), (190, 30, 60) if made_up else (190, 80, 80), rng.uniform(0.6, 0.9) if made_up else 0.45)
    half, smile, y = rng.uniform(13, 19), rng.uniform(0, 6), 152.0
    corner = y - smile * 0.5
    if smile > 2.5 and rng.random() < 0.7:  # open, with teeth
        depth = rng.uniform(6, 11)
        bow = [(x - half - 2, corner - 3), (x, y - 6), (x + half + 2, corner - 3)]
        picture.polygon([*_arc(x, corner - 2, half + 2, depth + 5, 0, 180), *bow], lips)
        picture.polygon(_arc(x, corner, half - 1, depth, 0, 180), (110, 30, 36))
        picture.polygon(_arc(x, corner, half - 2, depth * 0.6, 0, 180), (250, 248, 244))
    else:
        full = rng.uniform(3.5, 6.5)
        lower = _arc(x, corner + smile * 0.4, half * 0.9, full + smile * 0.6, 0, 180)
        upper = [(x - half, corner), (x - 5, y - full), (x, y - full + 1.5), (x + 5, y - full), (x + half, corner)]
        picture.polygon(upper + lower, lips)
        picture.line(
            [
                (x - half, corner),
                (x - half / 2, y + smile * 0.15),
                (x, y + smile * 0.3),
                (x + half / 2, y + smile * 0.15),
                (x + half, corner),
            ],
            shade(lips, 0.6),
            1.4,
        )


def _hair_before(picture: _Picture, rng: random.Random, style: str, hair: Colour, x: float, rx: float) -> None:
    """The hair over the forehead, and strands beside the face."""
    if style == "bald":
        return
    side, line = rng.choice([-1, 1]), rng.uniform(76, 88)  # the parting's side and the height of the hairline
    half = rx + rng.uniform(2, 5)
    crown = _arc(x, 108, half, rng.uniform(58, 66), 180, 360)
    fringe = rng.choice(["parted", "straight", "swept"])
    if fringe == "parted":
        inner = [
            (x + half, 110),
            (x + rx - 5, 100),
            (x + side * 10 + 6, line - 8),
            (x + side * 10 - 6, line - 8),
            (x - rx + 5, 100),
        ]
    elif fringe == "straight":
        inner = [(x + half, 112), (x + rx - 4, line + 8), (x, line + 5), (x - rx + 4, line + 8), (x - half, 112)]
    else:
        inner = [
            (x + half, 112),
            (x + rx - 6, 98),
            (x + side * 18, line + 6),
            (x, line),
            (x - side * 24, line - 10),
            (x - rx + 6, 98),
        ]
        inner = inner[:2] + sorted(inner[2:5], key=lambda point: -point[0]) + inner[5:]
    picture.polygon(crown + inner, hair)
    if style in ("long", "bob"):
        for flank in (-1, 1):
            outer, bottom = x + flank * (half + 3), 205 if style == "long" else 160
            picture.polygon(
                [
                    (x + flank * (rx - 6), 92),
                    (outer, 92),
                    (outer, bottom),
                    (x + flank * (rx - 2), bottom - 10),
                    (x + flank * (rx + 1), 130),
                ],
                shade(hair, 0.92),
            )
