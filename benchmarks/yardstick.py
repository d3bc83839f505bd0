"""Do the measures of images grow with the damage to them? `python -m benchmarks.yardstick` writes the answer to docs/.

Real images are damaged more and more and compared with other real images, as Heusel et al. 2017 (arXiv 1706.08500, figure 3)
do for FID: blur, noise, swapped blocks, JPEG, classes that are missing, and images of another data set among them. Then come
damages, and sets of images, of which the measures say little or the wrong thing.

Needs the packed images, held-out ones too, of small's recipes cifar10, celeba and fashion_mnist (the stages download and
preprocess make them of real data; small/params.yaml says where that lies). Takes about five minutes on one core. Writes
the tables of docs/yardstick.md and the curves, docs/yardstick.png; a second run writes the same. No image is written.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from benchmarks.report import aligned
from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import whole_file, write_text
from ddpm.base.progress import progress_bar
from ddpm.evaluation.distances import density_coverage, frechet_distance, kid
from ddpm.evaluation.yardstick import features, yardstick_sha256
from stages import ROOT, Paths
from stages.packed import heldout_images, heldout_labels, training_images, training_labels

PAGE, CURVES = ROOT / "docs" / "yardstick.md", ROOT / "docs" / "yardstick.png"
BEGIN = "<!-- measured: written by `python -m benchmarks.yardstick`, do not edit -->"
END = "<!-- end of what was measured -->"

GROUPS = 10  # classes, or tenths by brightness where there are none
POOL = 3.2  # images of a subject, in units of those compared: enough to stand in for half of the classes
GRID = 4  # blocks a side that are swapped


Change = Callable[[np.ndarray], np.ndarray]  # of images, uint8 (N, H, W, C), to damaged ones


class Source(NamedTuple):
    """A recipe of small/ whose images are damaged."""

    recipe: str
    title: str
    number: int  # of images on each side
    other: str  # the recipe whose images are mixed in


SOURCES = (
    Source("cifar10", "CIFAR-10", 2000, "celeba"),
    Source("celeba", "Faces (CelebA)", 1000, "cifar10"),
    Source("fashion_mnist", "Garments (Fashion-MNIST)", 280, "cifar10"),  # of the 900 that small/ has
)


class Subject(NamedTuple):
    """Real images in an order drawn by lot. The first `number` are the reference, the next are damaged."""

    title: str
    number: int
    images: np.ndarray  # uint8 (POOL * number, H, W, C)
    groups: np.ndarray  # (POOL * number,), 0..9: the class of each, or what stands for it
    others: np.ndarray  # uint8 (number, H, W, C): of another data set


class Score(NamedTuple):
    """What the measures say of a set of images."""

    fd: float
    kid: float
    kid_se: float
    density: float
    coverage: float


class Result(NamedTuple):
    """All that was measured of a subject."""

    title: str
    number: int
    size: int
    floor: Score  # of undamaged images
    quarter: Score  # of a quarter as many on each side
    grown: dict[str, list[Score]]  # by damage, its strengths in turn
    single: dict[str, Score]


# --- Damage: uint8 (N, H, W, C) to the same; greater strength is more of the same damage, noise and places included -----


def each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """`change` made to each of the images."""
    pictures = (Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in images)
    changed = np.stack([np.asarray(change(picture)) for picture in pictures])
    return changed.reshape(*changed.shape[:3], -1)


def blurred(images: np.ndarray, strength: float) -> np.ndarray:
    return each(images, lambda picture: picture.filter(ImageFilter.GaussianBlur(strength)))


def noisy(images: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(images.shape, np.float32)
    return np.clip(np.rint(images + strength * noise), 0, 255).astype(np.uint8)


def swapped(images: np.ndarray, strength: float) -> np.ndarray:
    """So many pairs of the blocks of a GRID x GRID grid changed over, other ones in each image."""
    count, height, width, channels = images.shape
    blocks = images.reshape(count, GRID, height // GRID, GRID, width // GRID, channels).swapaxes(2, 3)
    blocks = blocks.reshape(count, GRID**2, height // GRID, width // GRID, channels)
    lots = np.random.default_rng(2).permuted(np.tile(np.arange(GRID**2), (count, 1)), axis=1)
    used = lots[:, : 2 * int(strength)]
    first, second = used[:, ::2], used[:, 1::2]
    places = np.tile(np.arange(GRID**2), (count, 1))
    np.put_along_axis(places, first, second, 1)
    np.put_along_axis(places, second, first, 1)
    moved = blocks[np.arange(count)[:, None], places].reshape(count, GRID, GRID, height // GRID, width // GRID, channels)
    return moved.swapaxes(2, 3).reshape(images.shape)


def compressed(images: np.ndarray, strength: float) -> np.ndarray:
    def through_jpeg(picture: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=int(strength))
        return Image.open(stream, formats=["JPEG"])

    return each(images, through_jpeg)


def moved(images: np.ndarray, pixels: int) -> np.ndarray:
    """Moved to the right, the edge reflected."""
    return np.pad(images, ((0, 0), (0, 0), (pixels, 0), (0, 0)), "reflect")[:, :, :-pixels]


def redder(images: np.ndarray, levels: int) -> np.ndarray:
    return np.clip(images + np.array([levels, 0, 0]), 0, 255).astype(np.uint8)


def colourless(images: np.ndarray) -> np.ndarray:
    return each(images, lambda picture: picture.convert("L").convert("RGB"))


def coarse(images: np.ndarray) -> np.ndarray:
    """Halved and enlarged again: nothing is left that half as many pixels could not show."""
    size = images.shape[1]
    return resized(resized(images, size // 2), size)


def patched(images: np.ndarray) -> np.ndarray:
    """A black square of an eighth of a side at a place drawn for each image."""
    side, changed = images.shape[1] // 8, images.copy()
    for image, (top, left) in zip(changed, np.random.default_rng(3).integers(0, 7 * side, (len(images), 2)), strict=True):
        image[top : top + side, left : left + side] = 0
    return changed


def halved(images: np.ndarray) -> np.ndarray:
    """The left half of each image beside the right half of the next."""
    half = images.shape[2] // 2
    return np.concatenate([images[:, :, :half], np.roll(images, -1, axis=0)[:, :, half:]], axis=2)


def resized(images: np.ndarray, size: int, gray: bool = False) -> np.ndarray:
    """The images at `size` pixels a side, and gray if wanted."""
    return each(images, lambda picture: (picture.convert("L") if gray else picture).resize((size, size)))


PIXELS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "blur, sigma in pixels": blurred,
    "noise, sigma of 255": noisy,
    "swapped blocks, pairs of 16": swapped,
    "JPEG, quality": compressed,
}
MISSING, MIXED = "five classes of ten, % missing", "another data set, %"
STRENGTHS: dict[str, tuple[float, ...]] = {
    "blur, sigma in pixels": (0.5, 0.75, 1, 2),
    "noise, sigma of 255": (8, 16, 32, 64),
    "swapped blocks, pairs of 16": (1, 2, 4, 8),
    "JPEG, quality": (30, 20, 12, 5),
    MISSING: (40, 60, 80, 100),
    MIXED: (10, 25, 50, 75),
}
SINGLE: dict[str, Change] = {
    "mirrored": lambda images: images[:, :, ::-1],
    "upside down": lambda images: images[:, ::-1],
    "moved by 1 pixel": partial(moved, pixels=1),
    "moved by an eighth": lambda images: moved(images, images.shape[2] // 8),
    "a tenth darker": lambda images: np.rint(0.9 * images).astype(np.uint8),
    "red raised by 8 of 255": partial(redder, levels=8),
    "without colour": colourless,
    "finest detail lost": coarse,
    "noise, sigma 4 of 255": partial(noisy, strength=4),
    "JPEG, quality 50": partial(compressed, strength=50),
    "a small black square": patched,
    "halves changed over": lambda images: np.roll(images, images.shape[2] // 2, axis=2),
    "half of another image": halved,
}
COLOUR = ("red raised by 8 of 255", "without colour")  # not of gray images


# --- Measuring ---------------------------------------------------------------------------------------------------------


def subjects() -> list[Subject]:
    """The images of SOURCES. Raises Fault where there are none or too few."""
    pools = {source.recipe: pool(source) for source in SOURCES}
    found = []
    for source in SOURCES:
        (images, groups), (others, _) = pools[source.recipe], pools[source.other]
        others = resized(others[: source.number], images.shape[1], gray=images.shape[3] == 1)
        found.append(Subject(source.title, source.number, images, groups, others))
    return found


def pool(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Images and groups of a Subject: held-out images, and training images where these are too few."""
    paths, needed = Paths("small", source.recipe), round(POOL * source.number)
    parts = heldout_images(paths)[0][:needed], training_images(paths)[0]
    images = np.concatenate([parts[0], parts[1][: needed - len(parts[0])]])
    if len(images) < needed:
        raise Fault(f"recipe {source.recipe} of small has {len(images)} images; accepted: {needed} or more")
    labels = [found for found in (heldout_labels(paths), training_labels(paths)) if found is not None]
    groups = np.concatenate(labels)[:needed] if labels else brightness_tenths(images)
    order = np.random.default_rng(0).permutation(needed)
    return images[order], groups[order]


def brightness_tenths(images: np.ndarray) -> np.ndarray:
    """Of each image the tenth, 0 (darkest) to 9, that its mean lies in."""
    ranks = images.mean((1, 2, 3)).argsort(kind="stable").argsort(kind="stable")
    tenths: np.ndarray = ranks * GROUPS // len(images)
    return tenths


def score(reference: np.ndarray, found: np.ndarray) -> Score:
    """The measures of features `found` against those of the reference."""
    return Score(frechet_distance(found, reference), *kid(found, reference), *density_coverage(reference, found))


def at(strength: float, change: Callable[[np.ndarray, float], np.ndarray]) -> Change:
    """The damage `change` of that strength."""
    return lambda images: change(images, strength)


def measure(subject: Subject) -> Result:
    """Damage the subject's images in every way and measure them; with a progress bar. Raises Fault where classes are few."""
    number, images = subject.number, subject.images[subject.number : 2 * subject.number]
    changes = [(name, at(strength, change)) for name, change in PIXELS.items() for strength in STRENGTHS[name]]
    changes += [(name, change) for name, change in SINGLE.items() if images.shape[3] == 3 or name not in COLOUR]
    clean, others = features(subject.images), features(subject.others)
    reference, rest, undamaged = clean[:number], clean[number:], clean[number : 2 * number]
    scores: dict[str, list[Score]] = {}

    def add(name: str, found: np.ndarray) -> None:
        scores.setdefault(name, []).append(score(reference, found))

    def without(classes: int, percent: float) -> np.ndarray:
        """Undamaged images, but instead of so many of the last `classes` further ones of the others."""
        lost = subject.groups[number:] >= GROUPS - classes
        gone, instead = np.flatnonzero(lost[:number]), rest[number:][~lost[number:]]
        gone = gone[: round(len(gone) * percent / 100)]
        if len(instead) < len(gone):
            raise Fault(f"{subject.title}: {len(instead)} images to stand in for others; accepted: {len(gone)} or more")
        found = undamaged.copy()
        found[gone] = instead[: len(gone)]
        return found

    def mixed(percent: float) -> np.ndarray:
        cut = round(number * percent / 100)
        return np.concatenate([others[:cut], undamaged[cut:]])

    for strength in STRENGTHS[MISSING]:
        add(MISSING, without(GROUPS // 2, strength))
    for strength in STRENGTHS[MIXED]:
        add(MIXED, mixed(strength))
    for name, change in progress_bar(iterable=changes, desc=subject.title, unit=" sets"):
        add(name, features(change(images)))
    for classes in (1, 2, 3, 4):
        add(f"without {classes} of ten classes", without(classes, 100))
    add("5 % of another data set", mixed(5))
    add("every image twice", np.repeat(undamaged[: number // 2], 2, axis=0))
    add("every image ten times", np.repeat(undamaged[: number // 10], 10, axis=0))
    add("copies of the reference", reference)
    add("half of them copies", np.concatenate([reference[: number // 2], undamaged[number // 2 :]]))
    floor, quarter = score(reference, undamaged), score(reference[: number // 4], undamaged[: number // 4])
    grown = {name: scores.pop(name) for name in STRENGTHS}
    return Result(
        subject.title, number, images.shape[1], floor, quarter, grown, {name: found for name, (found,) in scores.items()}
    )


def grows(floor: float, values: list[float]) -> bool:
    """Each of the values is greater than the one before, the first than the floor."""
    return bool(np.all(np.diff([floor, *values]) > 0))


def seen(found: Score, floor: Score) -> bool:
    """KID is above its floor by more than two standard errors, as it must be between two models to be called a difference."""
    return bool(found.kid - floor.kid > 2 * np.hypot(found.kid_se, floor.kid_se))


# --- What is written ---------------------------------------------------------------------------------------------------


def block(results: list[Result]) -> str:
    """What stands between the marks of docs/yardstick.md."""
    curves, flat = 0, []
    for result in results:
        for name, scores in result.grown.items():
            curves += 2
            label = f"{result.title} under {name.partition(',')[0]}"
            if not grows(result.floor.fd, [found.fd for found in scores]):
                flat.append(f"Frechet distance, {label}")
            if not grows(result.floor.kid, [found.kid for found in scores]):
                flat.append(f"KID, {label}")
    verdict = f"{curves - len(flat)} of {curves} curves grow with every strength, from the floor on"
    verdict += f"; not: {'; '.join(flat)}." if flat else "."
    return "\n\n".join([BEGIN, yardstick_facts(), verdict, *map(section, results), END])


def yardstick_facts() -> str:
    """Which yardstick measured, and what is known of it."""
    facts, path = f"The yardstick's SHA-256 is `{yardstick_sha256()}`.", Paths("small", "cifar10").metrics / "yardstick.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("sha256") != yardstick_sha256():
        return facts
    right = f"names {known['heldout_accuracy']:.1%} of CIFAR-10's test batch rightly"
    return f"{facts} It has {known['parameters']:,} parameters and {right}."


def section(result: Result) -> str:
    """The tables of a subject."""
    blind = [name for name, found in result.single.items() if not seen(found, result.floor)]
    rows = [["damage and its strengths", "Frechet distance", "KID x 1000", "density", "coverage"]]
    rows.append(["none: the floor", *cells([result.floor])])
    for name, scores in result.grown.items():
        rows.append([f"{name}: {' / '.join(f'{strength:g}' for strength in STRENGTHS[name])}", *cells(scores)])
    singles = [["images", "Frechet distance", "KID x 1000", "density", "coverage", "seen"]]
    for name, found in {"none: the floor": result.floor, **result.single}.items():
        fd, _, *others = cells([found])
        kid_and_error = f"{round(1000 * found.kid)} ± {round(1000 * found.kid_se)}"
        verdict = "" if found is result.floor else "yes" if seen(found, result.floor) else "no"
        singles.append([name, fd, kid_and_error, *others, verdict])
    return "\n\n".join(
        [
            f"### {result.title}, {result.size} px, {result.number:,} images on each side",
            aligned(rows),
            f"With {result.number // 4:,} images on each side the floor is {result.quarter.fd:.2f} in Frechet distance and "
            f"{round(1000 * result.quarter.kid)} ± {round(1000 * result.quarter.kid_se)} in KID x 1000.",
            f"Not seen, that is KID less than two standard errors above its floor: {', '.join(blind)}.",
            aligned(singles),
        ]
    )


def cells(scores: list[Score]) -> list[str]:
    """The measures of the scores, one after the other."""
    rows = [(f"{s.fd:.2f}", f"{round(1000 * s.kid)}", f"{s.density:.2f}", f"{s.coverage:.2f}") for s in scores]
    return [" / ".join(column) for column in zip(*rows, strict=True)]


def save_curves(path: Path, results: list[Result]) -> None:
    """Draw Frechet distance and KID against the strength, a column for each data set."""
    figure = Figure(figsize=(4 * len(results), 6.5), layout="constrained")
    rows = figure.subplots(2, len(results), sharex=True, sharey="row", squeeze=False)
    for column, result in enumerate(results):
        for name, scores in result.grown.items():
            label = name.partition(",")[0]
            for axes, values in (
                (rows[0, column], [found.fd for found in (result.floor, *scores)]),
                (rows[1, column], [1000 * found.kid for found in (result.floor, *scores)]),
            ):
                axes.plot(["none", *"1234"], values, linewidth=1, marker="o", markersize=4, label=label)
        rows[0, column].set(yscale="log", title=f"{result.title}, {result.number:,} images")
        rows[1, column].set_yscale("symlog", linthresh=100)
        rows[1, column].set_xlabel("strength of the damage")
        for axes in rows[:, column]:
            axes.grid(which="major", alpha=0.3)
    rows[0, 0].set_ylabel("Frechet distance, 64 features")
    rows[1, 0].set_ylabel("KID x 1000")
    rows[0, 0].legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def rewritten(page: str, results: list[Result]) -> str:
    """The text of docs/yardstick.md with the current results."""
    before, rest = page.split(BEGIN)
    return before + block(results) + rest.split(END)[1]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    results = [measure(subject) for subject in subjects()]
    save_curves(CURVES, results)
    write_text(PAGE, rewritten(PAGE.read_text(), results))
    print(f"{block(results)}\n\nwrote {PAGE} and {CURVES}")


if __name__ == "__main__":
    with faults_reported():
        main()
