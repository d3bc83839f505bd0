"""Write the model's card, metrics/<scale>/<recipe>/README.md, which GitHub shows beside the pictures.

Every number comes from a file of the pipeline, every limit from a rule about such numbers: nothing is claimed by hand.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from ddpm.base.files import read_json, write_text
from ddpm.base.hashes import sha256_of
from ddpm.data.sets import DATA_SETS, DataSet
from ddpm.evaluation.inception import comparison
from ddpm.model.weights import load_network
from ddpm.sampling.samplers import METHODS
from ddpm.sampling.settings import Sampler, autoguided, sampler_of
from stages import Paths, load_params, params_file, read_facts, shown, stage

ABOVE = "../../.."  # the checkout as seen from the card
PICTURE_WIDTH = 800  # pixels; about what GitHub leaves a page
LINE = 120
NAMES = {"cifar10": "CIFAR-10", "celeba": "CelebA", "fashion_mnist": "Fashion-MNIST", "sprites": "sprites"}
# Settings that every card has; others are named where they differ from the scale's defaults.
SETTINGS = (
    "channels", "attention", "context_dim", "num_timesteps", "schedule", "prediction", "loss_weighting", "steps",
    "batch_size", "lr", "ema_decay", "flip",
)  # fmt: skip
WITHOUT_EFFECT = ("checkpoints", "log_every", "compile", "accumulate")  # on the weights, but for rounding

# When a number is a limit to speak of.
FAR = 3.0  # standard errors of a number whose floor has an error of its own, or that is one of several
WIDE = 2.0  # standard errors of a difference
REACHED = 0.8  # share of the floor's coverage
COPYING = -3.0  # C_T (Meehan, Chaudhuri and Dasgupta 2020, arXiv 2004.05675)
RECOGNISED = 0.75  # share of samples in which the yardstick sees the class that was asked for
CAST, CONTRAST = 0.05, 0.9  # a colour cast that is seen; the data's spread of values that is left
PUBLISHED = 102_400_000  # images that the DDPM paper's CIFAR-10 model saw: 800,000 steps of 128 (arXiv 2006.11239, appendix B)
SHORT = 0.1  # of these
SOUGHT = 1000  # samples, and held-out images, among which near copies are sought, at most
FEW_COMPARED = 1000  # images, below which the distances are noisy

# Key of evaluate.json, name, what is better, what it says. <key>_floor and <key>_se stand beside a key.
MEASURES = (
    ("fd", "Frechet distance", "lower", "how far the samples as a whole lie from the training images"),
    ("kid", "KID", "lower", "the same by another formula; only its 0, no difference, has a meaning"),
    ("density", "density", "higher", "how typical the samples are of the training images"),
    ("coverage", "coverage", "higher", "how much of the training images' variety the samples reach"),
    ("bits_per_dim", "bits per dimension", "lower", "a bound on how well it predicts held-out images; rewards unseen detail"),
    ("gap", "held-out minus training loss", "near 0", "by quarter of t, least noise first; above 0, training images are known"),
    ("near_copies", "near copies", "lower", "share of samples much nearer to one training image than to the next"),
    ("copied", "copied", "near 0", "share of copies, by how often the nearest real image is a training image"),
    ("c_t", "C_T", "higher", f"below {COPYING:g}, samples lie nearer to training images than held-out images do"),
    ("accuracy", "accuracy", "higher", "share of samples in which the yardstick sees the class that was asked for"),
)
INCEPTION = (
    ("fid", "FID", "lower", "Frechet distance of Inception's features"),
    ("inception_kid", "KID", "lower", "of Inception's features"),
    ("inception_score", "Inception Score", "higher", "how clear and how varied the samples' classes are"),
    ("precision", "precision", "higher", "share of samples that lie among the training images"),
    ("recall", "recall", "higher", "share of training images that lie among the samples"),
)
# Outputs of the stages, by what they show; the other parts are of the recipes that the stages classes and editing are for.
FIGURES = {
    "loss.png": "the loss",
    "progression.png": "samples by training step",
    "ema.png": "raw weights above EMA weights",
    "samplers.png": "samplers from one seed",
    "solvers.png": "samplers by network calls",
    "solvers-images.png": "their images",
    "path.png": "the way from noise to image",
    "path.gif": "the same, animated",
    "wrong.png": "a wrong sampler below the right one",
    "path-wrong.gif": "the wrong one, animated",
}
CLASS_FIGURES = {"classes.png": "a row for each class", "guidance.png": "one seed by guidance"}
EDITING_FIGURES = {
    "inpainting.png": "holes filled",
    "edits.png": "images edited from a noisy start",
    "interpolation.png": "from one image to another",
    "reconstruction.png": "images to noise and back",
}


@dataclass(frozen=True)
class Facts:
    """What the files say of one model; each field but the first three is what its file holds."""

    scale: str
    recipe: str
    classes_drawn: bool  # whether the stage classes runs for this recipe
    edited: bool  # whether the stage editing does
    defaults: dict[str, Any]  # the section train of params.yaml
    data: dict[str, Any]
    train: dict[str, Any]
    figures: dict[str, Any]
    evaluation: dict[str, Any]
    manifest: dict[str, Any]
    stats: dict[str, Any]
    heldout: dict[str, Any]
    trained: dict[str, Any]
    grid: dict[str, Any]
    measured: dict[str, Any]
    header: dict[str, Any]  # of the EMA weights
    speed: dict[str, Any]  # empty if no training was timed, or another than that of these weights
    guide: str  # the file that the measured samples are guided away from, from the checkout; empty if there is none

    @classmethod
    def of(cls, paths: Paths) -> Facts:
        """Read all files of a recipe. Raises Fault for the first that is missing."""
        params, header, measured = load_params(paths.scale), load_network(paths.ema)[2], result(paths, "evaluate")
        # No dependency: a measured time never repeats. Nor is it restored with the weights of another experiment.
        timed = paths.metrics / "speed.json"
        speed = read_json(timed, "git has the last one", shown(timed)) if timed.exists() else {}
        return cls(
            scale=paths.scale,
            recipe=paths.recipe,
            classes_drawn=paths.recipe in params["conditional"],
            edited=paths.recipe in params["editing"],
            defaults=params["train"],
            data=paths.resolved("data"),
            train=paths.resolved("train"),
            figures=paths.resolved("figures"),
            evaluation=paths.resolved("evaluation"),
            manifest=paths.facts("manifest.json", "download"),
            stats=paths.facts("stats.json", "preprocess"),
            heldout=paths.facts("heldout.json", "preprocess"),
            trained=result(paths, "train"),
            grid=result(paths, "grid"),
            measured=measured,
            header=header,
            speed=speed if speed.get("weights_sha256") == sha256_of(paths.ema) else {},
            guide=str(shown(paths.models / guide)) if (guide := measured.get("guide")) else "",
        )

    @property
    def table(self) -> DataSet:
        """The data set's entry."""
        return DATA_SETS[self.data["dataset"]]

    @property
    def name(self) -> str:
        """The data set's name for people."""
        return NAMES.get(self.data["dataset"], self.data["dataset"])

    @property
    def synthetic(self) -> bool:
        """Whether the images are drawn by this project's code."""
        return self.manifest["source"] == "synthetic"

    @property
    def classes(self) -> list[str]:
        """The classes that the model can be asked for."""
        return self.data["classes"] if self.train["context_dim"] else []

    @property
    def seen(self) -> int:
        """Images that the training saw, repeats counted."""
        return self.header["step"] * self.train["batch_size"]

    @property
    def sampler(self) -> Sampler:
        """The one that the measured samples come from."""
        return sampler_of(self.measured["sampler"])

    @property
    def autoguidance(self) -> float:
        """The scale by which the measured samples are guided away from the file `guide`; 1 = not at all."""
        return float(self.measured.get("autoguidance", 1))  # which measures of earlier versions do not name

    @property
    def weights(self) -> str:
        """The file of the EMA weights, from the checkout."""
        return f"models/{self.scale}/{self.recipe}/ema.safetensors"


def result(paths: Paths, name: str) -> dict[str, Any]:
    """The numbers that the stage `name` has written. Raises Fault if they are missing."""
    path = paths.metrics / f"{name}.json"
    return read_facts(path, f"it is made by: dvc repro {name}@{paths.recipe}")


def main(paths: Paths) -> None:
    write_text(paths.metrics / "README.md", card(Facts.of(paths)))


def card(facts: Facts) -> str:
    """The text of the card, Markdown as GitHub shows it; its links start at the folder of the recipe's metrics."""
    sections = [
        [f"# Model card: {facts.recipe} ({facts.scale})", *overview(facts)],
        ["## Data", *data(facts)],
        ["## Settings", *settings(facts)],
        ["## Training", *training(facts)],
        ["## Measures", *measures(facts)],
        ["## Limits and known failures", "\n".join(fill_item(limit) for limit in limits(facts))],
        ["## Use", *use(facts)],
        ["## Files", *files(facts)],
    ]
    return "\n\n".join(block for section in sections for block in section) + "\n"


# --- Sections: blocks of Markdown, between which a line stays empty ---------------------------------------------------


def overview(facts: Facts) -> Iterator[str]:
    size, train = facts.stats["size"], facts.train
    if facts.synthetic:
        like = f"like those that this project's code draws{f' in place of {facts.name}' if facts.table.files else ''}"
    else:
        like = f"like those {f'of {facts.name}' if facts.table.files else 'that it was trained on'}"
    asked = f"each of one of {len(facts.classes)} classes" if facts.classes else "unconditional"
    yield wrapped(
        f"A diffusion model that draws {size} x {size} {'gray ' if facts.stats['channels'] == 1 else ''}pictures {like}, "
        f"{asked}: a U-Net of {facts.trained['parameters'] / 1e6:.2f} M parameters that predicts {train['prediction']}, on a "
        f"{train['schedule']} schedule of {train['num_timesteps']:,} steps."
    )
    grid, drawing = facts.figures["grid"], facts.figures["drawing"]
    yield f'<img src="grid.png" width="{PICTURE_WIDTH}" alt="{grid["images"]} samples of {facts.recipe}">'
    label = sampler_of(drawing["sampler"]).label
    turn = f", all classes in turn, guidance {drawing['guidance']:g}" if facts.classes else ""
    turn += autoguided(grid["autoguidance"])
    yield wrapped(f"*The first {grid['images']} samples of seed {grid['seed']}, none left out: {label}, EMA weights{turn}.*")


def data(facts: Facts) -> Iterator[str]:
    manifest, of_code = facts.manifest, f"that of this project's code ([LICENSE]({ABOVE}/LICENSE))"
    kind = "Synthetic: no photographs. " if facts.synthetic else ""
    yield wrapped(f"{kind}Origin: {plain(manifest['origin'])}. Licence: {of_code if facts.synthetic else facts.table.licence}.")
    rows = [["raw files", "", digits(manifest["sha256"]), code(manifest["name"])]]
    cut = f", cut from {facts.data['crop']} (left, top, width, height)" if facts.data["crop"] else ""
    for name, split, what in (
        ("training", facts.stats, f"packed at {facts.stats['size']} px{cut}"),
        ("held out", facts.heldout, f"no training sees them: {plain(facts.heldout['split'])}"),
    ):
        labels = f"; labels {digits(split['labels_sha256'])}" if split["labels_sha256"] else ""
        rows.append([name, f"{split['count']:,}", digits(split["sha256"]), what + labels])
    yield table(["", "images>", "sha256", "what it is"], rows)


def settings(facts: Facts) -> Iterator[str]:
    file = shown(params_file(facts.scale))
    rows = []
    for key, value in facts.train.items():
        now, default = setting(value), setting(facts.defaults.get(key))
        differs = now != default and key not in WITHOUT_EFFECT
        if differs or key in SETTINGS:
            rows.append([code(key), f"**{now}**" if differs else now, default if differs else ""])
    yield wrapped(f"In bold what differs from the defaults of [{file}]({ABOVE}/{file}), which explains each; all: "
                  "[config/train.json](config/train.json).")  # fmt: skip
    yield table(["setting", "value", "default"], rows)


def training(facts: Facts) -> Iterator[str]:
    step, seen, speed = facts.header["step"], facts.seen, facts.speed
    epochs = f"{seen / facts.stats['count']:.3g}"
    lines = [
        f"{step:,} steps of {facts.train['batch_size']} images: {seen:,} images seen, {epochs} epochs.",
        f"Last loss: {number(facts.trained['loss'])}.",
    ]
    if speed:
        processes = f", {speed['processes']} processes" if speed.get("processes", 1) > 1 else ""
        lines.append(
            f"It took {duration(speed['seconds'])} on {plain(speed['device'])}{processes}, in {speed['precision']}, torch "
            f"{speed['torch']}."
        )
    if facts.header.get("code"):
        lines.append(f"Fingerprint of the code that trained these weights: {digits(facts.header['code'])}.")
    yield wrapped(" ".join(lines))


def measures(facts: Facts) -> Iterator[str]:
    measured, guidance = facts.measured, facts.evaluation["guidance"]
    guided = f", all classes in turn, guidance {guidance:g}" if facts.classes else ""
    guided += autoguided(facts.autoguidance)
    yield wrapped(
        f"Of {measured['samples']:,} samples of the EMA weights by {facts.sampler.label}{guided}; Frechet distance, density, "
        f"coverage and their floors take {measured['compared']:,} images a side. A floor is the same measure of held-out "
        f"images instead of samples; ± one standard error. Features: the yardstick {digits(measured['yardstick_sha256'])}; "
        "numbers of another yardstick, sampler or number of images do not compare."
    )
    yield measures_table(measured, MEASURES)
    if "fid" in measured:
        yield wrapped(f"By Inception, weights {digits(measured['inception_sha256'])}. "
                      f"{plain(comparison(measured['samples'], facts.manifest))}")  # fmt: skip
        yield measures_table(measured, INCEPTION)


def limits(facts: Facts) -> Iterator[str]:
    """What the files show to be wrong with the model, or beyond it: a sentence each."""
    yield from limits_of_data(facts)
    yield from limits_of_samples(facts)
    yield from limits_of_measures(facts)


def limits_of_data(facts: Facts) -> Iterator[str]:
    """What no training on these images could give, and what their owners and subjects forbid."""
    manifest, count, official = facts.manifest, facts.stats["count"], facts.table.count
    if facts.synthetic:
        yield "**It draws no photographs**: the training images are drawn by code, and so its samples look."
    elif facts.table.files and not manifest["matches_official"]:
        yield "**Not the official files**: its numbers compare with no published ones."
    if not facts.synthetic and official and count < official:
        yield f"**A part of the data set**: {count:,} of {official:,} images; what is rare among those is missing here."
    if not manifest["shareable"]:
        yield f"**Not for every use**: the images are {facts.table.licence}. None is shown here; use the weights for no more."
    if facts.data["dataset"] == "celeba" and not facts.synthetic:
        yield (
            "**Faces**: photographs of celebrities, whose bias (age, skin, pose, make-up, light) is that of the samples. Not "
            "for identifying, imitating or judging people. A sample may resemble a person who exists."
        )
    if not facts.classes:
        yield "**Unconditional**: it cannot be asked for a kind of picture."
    if facts.seen < SHORT * PUBLISHED:
        yield (
            f"**A short training**: {facts.seen:,} images seen, {100 * facts.seen / PUBLISHED:.2g} % of the "
            f"{PUBLISHED / 1e6:.0f} M of the DDPM paper's CIFAR-10 model."
        )


def limits_of_samples(facts: Facts) -> Iterator[str]:
    """What the numbers say against the samples."""
    m = facts.measured
    if m["kid"] - m["kid_floor"] > FAR * m["kid_se"]:
        times = f", Frechet distance {m['fd'] / m['fd_floor']:.1f} times the floor" if m["fd_floor"] > 0 else ""
        against = f"KID {number(m['kid'])} ± {number(m['kid_se'])} against {number(m['kid_floor'])} of held-out images"
        yield f"**Samples can be told from real images**: {against}{times}."
    if m["coverage"] < REACHED * m["coverage_floor"]:
        reached = f"coverage {number(m['coverage'])} where held-out images have {number(m['coverage_floor'])}"
        yield f"**Variety is missing**: {reached}."
    if copies := list(signs_of_copies(m)):
        yield f"**It may know training images by heart**: {'; '.join(copies)}."
    if typical(m):
        yield (
            f"**Typical images**: samples lie nearer to training images than held-out images do, C_T {number(m['c_t'])}, and "
            f"just as near to held-out ones (copied: {number(m['copied'])} ± {number(m['copied_se'])}): not copies, as far as "
            f"that tells, but more alike than real ones (density {number(m['density'])}, theirs {number(m['density_floor'])})."
        )
    if "accuracy" in m and m["accuracy"] < RECOGNISED:
        chance = f"chance: {1 / len(facts.classes):.2g}"
        yield f"**Classes are mixed up**: the yardstick sees the asked one in a share of {number(m['accuracy'])} ({chance})."
    guidance = facts.evaluation["guidance"]
    if facts.classes and guidance > 1:
        yield f"**Guidance** ({guidance:g} here) makes classes clearer at the cost of variety: read accuracy beside coverage."
    cast, contrast = facts.grid["colour_cast"], facts.grid["contrast"]
    if cast > CAST:
        yield f"**A colour cast**: the grid's mean colour is {number(cast)} off the training images' (1 = black to white)."
    if contrast < CONTRAST:
        yield f"**Flat**: the grid's values spread {number(contrast)} times as far as the training images'."


def typical(m: dict[str, Any]) -> bool:
    """Whether C_T is what it is because samples are more typical than real images, and not because they are copies."""
    return m["c_t"] < COPYING and m["copied"] <= FAR * m["copied_se"] and m["density"] > m["density_floor"]


def signs_of_copies(m: dict[str, Any]) -> Iterator[str]:
    """Each number that held-out images would not give a model that has copied nothing."""
    if m["copied"] > FAR * m["copied_se"]:
        nearest = "so many more have a training image for their nearest real image than by chance"
        yield f"a share of {number(m['copied'])} ± {number(m['copied_se'])} would be copies, for {nearest}"
    if m["c_t"] < COPYING and not typical(m):
        yield f"C_T {number(m['c_t'])} is below {COPYING:g}"
    share, floor = m["near_copies"], m["near_copies_floor"]
    sought = min(SOUGHT, m["compared"])
    if share - floor > WIDE * ((share * (1 - share) + floor * (1 - floor)) / sought) ** 0.5:
        yield f"near copies are a share of {number(share)}, of held-out images {number(floor)}"
    # Without its error a gap says nothing; of four, one is two errors from 0 by chance every fifth time or so.
    errors = [(quarter, f"gap_q{quarter}") for quarter in range(1, 5) if f"gap_q{quarter}_se" in m]
    if wide := [f"{quarter}" for quarter, key in errors if m[key] > FAR * m[f"{key}_se"]]:
        yield f"the loss of held-out images is above that of training images in quarter {', '.join(wide)} of t"


def limits_of_measures(facts: Facts) -> Iterator[str]:
    """What the numbers do not see."""
    if facts.synthetic or facts.data["dataset"] != "cifar10":
        yield "**A foreign yardstick**: it has learned CIFAR-10's photographs; compare with models of the same images alone."
    if (compared := facts.measured["compared"]) < FEW_COMPARED:
        yield f"**Few images measured**: {compared:,} a side; the distances are noisy, and Frechet's comes out too large."
    yield "**What the yardstick does not see**, no number here says: look at the picture."


def use(facts: Facts) -> Iterator[str]:
    sampler, size, channels = facts.sampler, facts.stats["size"], facts.stats["channels"]
    asked = facts.classes[:2]
    words = ["python", "-m", "tools.sample", facts.recipe, "--scale", facts.scale]
    words += sampling_options(sampler, facts.autoguidance if facts.guide else 1.0) + (["--class", *asked] if asked else [])
    command = shlex.join(words)
    yield wrapped(f"Draw, with the checkpoint from the store (all modes: `python -m tools.sample --help`; the library: "
                  f"[docs/library.md]({ABOVE}/docs/library.md)):")  # fmt: skip
    yield f"```sh\ndvc pull\n{command}\n```"
    choice = json.dumps(facts.measured["sampler"]) + (f", classes={json.dumps(asked)}" if asked else "")
    choice += f", autoguidance={facts.autoguidance:g}" if facts.guide else ""
    loaded = json.dumps(facts.weights) + (f", guide={json.dumps(facts.guide)}" if facts.guide else "")
    lines = [
        "from ddpm.sampling import load",
        "",
        f"model = load({loaded})",
        f"images = model.sample(16, {choice})  # uint8 (16, {size}, {size}, {channels})",
    ]
    yield "\n".join(["```python", *lines, "```"])
    name = code(facts.manifest["name"])
    needs = f" {name} must lie where `data.source` of the recipe says." if facts.manifest["source"] == "local" else ""
    yield wrapped("Reproduce: data, weights, measures, picture and card, as far as they are not those of the settings already; "
                  f"without the stage's name, all pictures.{needs}")  # fmt: skip
    folder = shown(params_file(facts.scale)).parent
    yield f"```sh\n{f'cd {folder} && ' if folder != Path() else ''}dvc repro card@{facts.recipe}\n```"


def sampling_options(sampler: Sampler, autoguidance: float) -> list[str]:
    """Those of tools.sample that draw by `sampler`, guided away from an earlier step by `autoguidance` (1 = not)."""
    method, steps, *spacing = sampler.name.split()
    words = ["--method", method, "--steps", steps, *(word for name in spacing for word in ("--spacing", name))]
    if "variance" in METHODS[method].options:
        words += ["--variance", sampler.variance]
    if "eta" in METHODS[method].options and sampler.eta:
        words += ["--eta", f"{sampler.eta:g}"]
    return words + (["--autoguidance", f"{autoguidance:g}"] if autoguidance != 1 else [])


def files(facts: Facts) -> Iterator[str]:
    shows = "what the training saw" + ("" if facts.manifest["shareable"] else ", in sum: no image of the data set")
    pictures = {"data.png": shows} | FIGURES | (CLASS_FIGURES if facts.classes_drawn else {})
    pictures |= EDITING_FIGURES if facts.edited else {}
    yield "\n".join(fill_item(f"[{name}]({name}): {what}") for name, what in pictures.items())
    folder = f"{ABOVE}/data/{facts.scale}/{facts.recipe}"
    numbers = {f"{name}.json": f"{name}.json" for name in ("train", "evaluate", "grid")}
    numbers |= {f"{name}.json": f"{folder}/{name}.json" for name in ("manifest", "stats", "heldout")}
    yield wrapped(f"Numbers: {', '.join(f'[{name}]({target})' for name, target in numbers.items())}.")


# --- Markdown --------------------------------------------------------------------------------------------------------


def measures_table(measured: dict[str, Any], rows: tuple[tuple[str, str, str, str], ...]) -> str:
    """A table of those measures that were taken."""
    found = []
    for key, name, better, meaning in rows:
        keys = [f"{key}_q{quarter}" for quarter in range(1, 5)] if key == "gap" else [key]
        if keys[0] in measured:
            errors = [f" ± {number(measured[f'{part}_se'])}" if f"{part}_se" in measured else "" for part in keys]
            value = ", ".join(f"{number(measured[part])}{error}" for part, error in zip(keys, errors, strict=True))
            floor = number(measured[f"{key}_floor"]) if f"{key}_floor" in measured else ""
            found.append([name, value, floor, better, meaning])
    return table(["measure", "value>", "floor>", "better", "what it says"], found)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table; a heading that ends in > is of numbers, which stand at the right."""
    rule = ["---:" if name.endswith(">") else ":---" for name in header]
    return "\n".join(f"| {' | '.join(row)} |" for row in [[name.rstrip(">") for name in header], rule, *rows])


def wrapped(text: str) -> str:
    """`text` in lines of LINE characters at most, links and long words whole."""
    return fill(text, LINE, break_long_words=False, break_on_hyphens=False)


def fill_item(text: str) -> str:
    """`text` as an item of a list."""
    return fill(text, LINE, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def plain(text: str) -> str:
    """`text`, which somebody wrote into a setting, on one line and without a meaning in Markdown."""
    return re.sub(r"([\\`*_<>|\[\]~])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """`text` as code; a vertical line would end a table's cell."""
    return f"`{text.replace('`', '').replace('|', '')}`"


def digits(sha256: str) -> str:
    """The beginning of a hash, enough to tell files apart."""
    return code(sha256[:12])


def number(value: float) -> str:
    """A number of a results file, as many digits as it has there, up to six decimals."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def setting(value: Any) -> str:
    """A setting as params.yaml would have it; attention as its levels, the first being 1."""
    if isinstance(value, list) and all(isinstance(item, bool) for item in value):
        value = [level for level, attended in enumerate(value, 1) if attended]
    return value if isinstance(value, str) else json.dumps(value)


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, length, least in (("h", 3600, 3), ("min", 60, 2)):
        if seconds >= least * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    stage(main, __doc__)
