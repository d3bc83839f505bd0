"""The page: what each part shows of one recipe, or of two revisions of it beside each other."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ddpm.base.progress import progress_bar
from ddpm.evaluation.inception import comparison
from ddpm.figures.settings import Drawing
from ddpm.recipe import DEFAULTS, PARTS, flattened
from ddpm.sampling.settings import autoguided
from stages import params_file, shown
from stages.card import sampling_options
from stages.editing import PAIRS
from stages.overview import COLUMNS, STRIPS
from tools import dvc
from tools.compare import BETTER, MEANING, Facts, Side, differing, facts_of, measures, readable, row
from tools.report.charts import Curve, chart
from tools.report.markup import Html, join, picture, sheet, table, tag
from tools.report.results import Results

HERE = Path(__file__).parent
WIDTH, PAIR = 830, 102  # CSS pixels of a grid of images, and of a sample above a training image, at most
ANIMATED = 16 * 32 * 32  # pixels a frame of the player, at most: noise cannot be compressed
SECONDS = 6  # of an animation
NAMES = {
    "fd": ("Frechet distance", "How far the samples' features lie, taken as one Gaussian, from those of training images."),
    "kid": ("Kernel distance (KID)", "The same without the Gaussian: 0 on average for images that nothing tells apart."),
    "density": ("Density", "How closely samples crowd where training images lie: about 1 for real images."),
    "coverage": ("Coverage", "Share of the training images that have a sample for a neighbour: the variety."),
    "bits_per_dim": ("Bits per dimension", "What a value of a held-out image costs under the model, at most."),
    "gap_q1": ("Gap, least noise", "Loss of held-out minus that of training images: above 0, it learns by heart."),
    "gap_q2": ("Gap, second quarter", "The same at more noise."),
    "gap_q3": ("Gap, third quarter", "The same at more noise still."),
    "gap_q4": ("Gap, most noise", "The same in the noisiest quarter of the steps."),
    "near_copies": ("Near copies", "Share of the samples three times nearer to one training image than to any other."),
    "copied": ("Copied", "Share of copies, by how often the nearest real image is a training image: near 0 without them."),
    "c_t": ("C_T", "Are samples nearer to training images than held-out ones are? Below -3 they are copies, or only typical."),
    "accuracy": ("Accuracy of the classes", "Share of the samples that the yardstick takes for the class that was asked for."),
    "fid": ("FID", "Frechet distance on Inception features, as papers report it."),
    "inception_kid": ("KID on Inception", "Kernel distance on Inception features."),
    "inception_score": ("Inception score", "Whether single samples are of clear classes and all together of many."),
    "precision": ("Precision", "Share of the samples that lie where training images do."),
    "recall": ("Recall", "Share of the training images that lie where samples do."),
}  # fmt: skip
DIRECTION = {"gap": "near 0 is better"}  # where tools.compare knows no better side
Render = Callable[[Results], Html]


def page(scale: str, recipes: list[list[Results]]) -> str:
    """The whole page, of the `Results` of each recipe: one, or two whose revisions stand beside each other."""
    sides = [results.side for results in recipes[0]]
    title = f"Diffusion models at {scale} scale"
    holds = f"What {' and '.join(map(side_title, sides))} {'hold' if len(sides) == 2 else 'holds'}."
    about = f"{holds} Small images are enlarged without smoothing, each pixel as it is."
    names = [results[0].paths.recipe for results in recipes]
    links = [tag("li", tag("a", name, href=f"#{name}")) for name in names]
    body = join(
        tag("header", tag("h1", title), tag("p", about, class_="quiet")),
        tag("nav", tag("ul", *links), aria_label="Recipes"),
        tag("main", *map(recipe_section, progress_bar(iterable=recipes, desc="report", unit=" recipes"))),
    )
    parts = {name.partition(".")[2]: (HERE / name).read_text() for name in ("page.html", "page.css", "page.js")}
    return Template(parts["html"]).substitute(title=join(title), style=parts["css"], script=parts["js"], body=body)


def side_title(side: Side) -> str:
    return f"{side.name} ({side.revision[:7]})" if side.revision else "this working tree"


def recipe_section(results: list[Results]) -> Html:
    """All of a recipe; what is the same in two revisions is shown once."""
    name = results[0].paths.recipe
    conditional = any(each.json("config/train.json").get("context_dim") for each in results)
    parts: list[tuple[str, Html]] = [
        ("Data and training", beside(results, facts)),
        ("Measures", measures_of(results)),
        ("Samples", beside(results, samples, "grid")),
        ("Training images", beside(results, training_images, "overview")),
        ("Curves", curves(results)),
        ("How samples improve over the training", beside(results, progression, "progression")),
        ("Samplers", beside(results, samplers, "samplers")),
        ("From noise to image", beside(results, path, "path")),
        ("Nearest training images", beside(results, nearest, "evaluate")),
    ]
    if conditional:
        parts.append(("Classes", beside(results, classes, "classes")))
        parts.append(("Guidance", beside(results, guidance, "classes")))
    if any(name in (each.params.get("editing") or []) for each in results):
        parts.append(("Given images", beside(results, editing, "editing")))
    parts += [("Settings", settings(results)), ("Reproduce", beside(results, commands))]
    blocks = [join(tag("h3", title), content) for title, content in parts]
    return tag("section", tag("h2", name), *blocks, id=name, class_="recipe")


def beside(results: list[Results], render: Render, stage: str = "") -> Html:
    """What `render` makes, out of results of `stage`, of each revision, in columns; once if it is the same."""
    cells = [cell(each, render, stage) for each in results]
    if len(cells) == 1:
        return cells[0]
    if cells[0] == cells[1]:
        return join(tag("p", "The same in both revisions.", class_="quiet"), cells[0])
    titled = [tag("div", tag("h4", side_title(each.side)), cell) for each, cell in zip(results, cells, strict=True)]
    return tag("div", *titled, class_="columns")


def cell(results: Results, render: Render, stage: str) -> Html:
    """What `render` makes of one revision, or why nothing of it can be shown."""
    if not results.params:
        return missing(f"No recipe of {side_title(results.side)}.")
    return older(results, stage) if stage in results.old else render(results)


def older(results: Results, stage: str) -> Html:
    """Says that the results of `stage` do not belong to the training, or the settings, beside which they stand."""
    return missing("Not made again since what it is made from changed: ", tag("code", repro(results, stage)))


def missing(*text: str) -> Html:
    return tag("p", *text, class_="missing")


def unmade(results: Results, stage: str, *names: str) -> Html:
    """Says which of the files `names` is missing and what makes it, or that what is there cannot be shown."""
    for name in names:
        if results.content(name) is None:
            return missing(f"{results.path(name)} is not made yet: ", tag("code", repro(results, stage)))
    return missing(f"{results.path(names[0])} is laid out in another way than this version lays it out.")


def repro(results: Results, *stages: str) -> str:
    """The command that runs `stages` of the recipe."""
    scale, recipe = results.paths.scale, results.paths.recipe
    return dvc("repro", scale, *(f"{stage}@{recipe}" for stage in stages))


# --- Numbers -------------------------------------------------------------------------------------------------------


def facts(results: Results) -> Html:
    """What the model saw, and how large and long its training was."""
    data, stats = results.json("manifest.json", "data"), results.json("stats.json", "data")
    if not data or not stats:
        return missing("The data are not packed yet: ", tag("code", repro(results, "preprocess")))
    heldout = results.json("heldout.json", "data")
    train, speed = results.json("train.json"), results.json("speed.json")
    synthetic = data["source"] == "synthetic"
    allowed = "may be shown" if results.shareable else "may not be shown, and none is on this page"
    rows = [
        ("Data", data["origin"]),
        ("Images", f"{stats['count']:,} of {stats['size']} x {stats['size']} px"),
        ("Licence", f"training images {allowed}"),
        ("Held out", f"{heldout['count']:,}: {heldout['split']}" if heldout else ""),
        ("Parameters", f"{train['parameters']:,}" if train else ""),
        ("Last loss", f"{train['loss']:g}" if train else ""),
        ("Training", f"{speed['steps']:,} steps, {speed['images_seen']:,} images seen" if speed else ""),
        ("Took", f"{speed['seconds'] / 60:.0f} min on {speed['device']}, {speed['precision']}" if speed else ""),
    ]
    badge = tag("p", tag("span", "Synthetic data, drawn by code", class_="badge")) if synthetic else ""
    return join(badge, tag("dl", *(join(tag("dt", name), tag("dd", text)) for name, text in rows if text)))


def measures_of(results: list[Results]) -> Html:
    """A row a measure: value and standard error, or both values and the verdict on their difference; floor; meaning."""
    known = [facts_of(each.side, each.paths.scale, each.paths.recipe) for each in results]
    if not any(each.quality for each in known):
        return unmade(next((each for each in results if each.params), results[0]), "evaluate", "evaluate.json")
    keys = measures(known[0].quality | known[-1].quality)
    names = [each.side.name for each in results]
    header = ["Measure", "Value" if len(known) == 1 else names[0], *names[1:]]
    header += [f"Verdict on {names[1]}", "Floor"] if len(known) == 2 else ["Floor"]
    rows = [measure_cells(key, known, header) for key in keys]
    notes = [tag("p", note) for note in measure_notes(results, known)]
    caption = "Floor: the same measure of held-out real images in the place of samples; ±: one standard error."
    return join(table([*header, "What it says"], rows, caption, "measures"), *notes)


def measure_cells(key: str, known: list[Facts], header: list[str]) -> list[str]:
    """The row of the measure `key`."""
    name, meaning = NAMES.get(key, (key, ""))
    better = f"{BETTER[key]} is better" if key in BETTER else DIRECTION.get(key.partition("_")[0], "")
    values = [with_error(key, each.quality) for each in known]
    floors = dict.fromkeys(readable(each.quality.get(f"{key}_floor")) for each in known)
    floor = " / ".join(filter(None, floors))
    if len(known) == 2:
        values.append(row(key, known[0].quality, known[1].quality, not differing(*known))[-1])
    said = " ".join(filter(None, [meaning, f"{better[:1].upper()}{better[1:]}." if better else ""]))
    return [name, *values, floor, said]


def with_error(key: str, quality: dict[str, Any]) -> str:
    """A measure and, where it has one, its standard error."""
    value, error = quality.get(key), quality.get(f"{key}_se")
    return readable(value) + (f" ± {error:g}" if value is not None and error is not None else "")


def measure_notes(results: list[Results], known: list[Facts]) -> list[str]:
    """What has to be known to read the measures."""
    notes = []
    for each, found in zip(results, known, strict=True):
        quality, data = found.quality, each.json("manifest.json", "data")
        if not quality:
            continue
        if "evaluate" in found.old:
            notes.append(f"What {side_title(each.side)} has measured is older than its training: {repro(each, 'evaluate')}.")
        by = f"{quality['samples']:,} samples by {quality['sampler']}{autoguided(quality.get('autoguidance', 1))}"
        made = f"{by}; distances of {quality['compared']:,} images a side"
        notes.append(f"{made}; yardstick {quality['yardstick_sha256'][:12]}. Other features give other numbers.")
        if "fid" in quality and data:
            notes.append(comparison(quality["samples"], data))
        elif "JPEG" in data.get("origin", ""):
            notes.append(f"The data are {data['origin']}: no distance here compares with published ones.")
        if data.get("source") == "synthetic":
            notes.append("The real images of these measures are synthetic too: drawn by this project's code.")
    if len(known) == 2:
        unlike = differing(*known)
        notes += [f"Not measured alike, so not comparable: {', '.join(unlike)}."] if unlike else []
        notes.append(MEANING[0].upper() + MEANING[1:])
    return list(dict.fromkeys(notes))


def curves(results: list[Results]) -> Html:
    """The loss of each revision, or of one with its quarters of t, and how far samplers get in few calls."""
    charts = []
    if len(results) == 2:
        losses = {side_title(each.side): column(each.csv("loss.csv"), "step", "loss") for each in results}
    else:
        named = {
            "loss": "all steps",
            "loss_q1": "least noise",
            "loss_q2": "second",
            "loss_q3": "third",
            "loss_q4": "most noise",
        }
        losses = {label: column(results[0].csv("loss.csv"), "step", key) for key, label in named.items()}
    if any(losses.values()):
        charts.append(captioned(chart("Training loss", losses, "step", "loss"), LOSS_CAPTION))
    else:
        charts.append(unmade(results[0], "train", "loss.csv"))
    for each in results:
        rows = [line for line in each.csv("solvers.csv") if line["spacing"] == "karras"]
        found = {
            name: column([line for line in rows if line["sampler"] == name], "calls", "distance")
            for name in dict.fromkeys(line["sampler"] for line in rows)
        }
        whose = f" ({side_title(each.side)})" if len(results) == 2 else ""
        if "solvers" in each.old:
            charts.append(older(each, "solvers"))
            continue
        drawn = chart(f"Distance of samplers{whose}", found, "network calls", "distance", log_x=True)
        charts.append(captioned(drawn, SOLVER_CAPTION + whose + ".") if rows else unmade(each, "solvers", "solvers.csv"))
    return tag("div", *charts, class_="columns")


LOSS_CAPTION = "Mean squared error by training step, of all images and by quarter of the noise levels."
SOLVER_CAPTION = (
    "How far a sampler's images are, after so many network calls by karras steps, from a long solution of the same equation "
    "and noise; 1 is the full range of a pixel. DDPM adds noise of its own and so comes to other images"
)


def captioned(figure: Html, caption: str) -> Html:
    return tag("figure", figure, tag("figcaption", caption))


def column(rows: list[dict[str, str]], x: str, y: str) -> Curve:
    """The points (x, y) of a .csv file's rows, without empty cells."""
    return [(float(line[x]), float(line[y])) for line in rows if line.get(y)]


# --- Pictures ------------------------------------------------------------------------------------------------------


def of_what(results: Results) -> str:
    """What a sample is an imitation of, for captions and alternative texts."""
    data = results.json("manifest.json", "data")
    if data.get("source") == "synthetic":
        return f"synthetic {results.paths.recipe} images"
    return f"{results.paths.recipe} images" + (f" ({data['origin']})" if data else "")


def samples(results: Results) -> Html:
    """The grid of samples."""
    images = results.grid()
    if images is None:
        return unmade(results, "grid", "grid.png")
    sampler, seed = Drawing(**results.figures["drawing"]).chosen(), results.figures["grid"]["seed"]
    about = f"samples of a model of {of_what(results)}"
    guided = autoguided(results.figures["grid"].get("autoguidance", 1.0))
    caption = f"{len(images)} {about}, by {sampler.label}{guided}, seed {seed}; not selected."
    return figure(images, round(len(images) ** 0.5), f"Grid of {about}", caption)


def training_images(results: Results) -> Html:
    """The first training images, where the licence lets them be shown."""
    if not results.shareable:
        return missing("The licence of the training images does not let them be shown.")
    rows = results.rows("data.png", 1 + STRIPS, COLUMNS)
    if rows is None:
        return unmade(results, "overview", "data.png")
    images = np.concatenate(rows[1:])
    caption = f"The first {len(images)} of the {of_what(results)} that the model was trained on."
    return figure(images, COLUMNS, f"Training images: {of_what(results)}", caption)


def figure(images: np.ndarray, per_row: int, alt: str, caption: str) -> Html:
    return tag("figure", picture(sheet(images, per_row), alt, WIDTH), tag("figcaption", caption))


def labelled(results: Results, stage: str, files: list[str], labels: list[tuple[str, str]], alt: str, caption: str) -> Html:
    """Rows of images out of a picture, the first of `files`, each with its label and what is known of it beside it."""
    rows = results.rows(files[0], len(labels))
    if rows is None:
        return unmade(results, stage, *files)
    cells = []
    for (label, note), images in zip(labels, rows, strict=True):
        cells.append(tag("span", label, tag("small", note) if note else ""))
        cells.append(picture(sheet(images, len(images)), f"{alt}: {label}", WIDTH))
    return tag("figure", tag("div", *cells, class_="rows"), tag("figcaption", caption))


def samplers(results: Results) -> Html:
    """A row a sampler, from the same weights and noise."""
    rows = results.csv("samplers.csv")
    labels = [(line["sampler"], f"distance {float(line['distance']):.3f}") for line in rows]
    to = rows[0]["to"] if rows else ""
    caption = f"The same weights and first noise in every row. Distance: to {to}, where 1 is the full range of a pixel."
    return labelled(results, "samplers", ["samplers.png", "samplers.csv"], labels, "Samples of one model", caption)


def classes(results: Results) -> Html:
    """A row a class, and a mix of the first two."""
    names = results.json("config/data.json").get("classes", [])
    labels = [(name, "") for name in names] + [(f"{names[0]} to {names[1]}", "mixed")] if names else []
    caption = "A row for each class that the model was asked for, and last the first two mixed, from one noise."
    return labelled(results, "classes", ["classes.png"], labels, "Samples of the class", caption)


def guidance(results: Results) -> Html:
    """A row a guidance scale."""
    rows = results.csv("guidance.csv")
    labels = [(f"guidance {float(line['guidance']):g}", "") for line in rows]
    caption = "The same noise and classes at growing guidance: 0 ignores the class, 1 is none, more is clearer and less varied."
    return labelled(results, "classes", ["guidance.png", "guidance.csv"], labels, "Samples at", caption)


def editing(results: Results) -> Html:
    """What the stage editing draws: a picture each of filled holes, edits, the way to noise and back, and mixtures."""
    if not (own := results.figures.get("editing")):
        return unmade(results, "editing", "inpainting.png")
    kind = "held-out image" if results.shareable else "image of the model's own"
    drawn = ["drawn once" if times == 1 else f"drawn {times} times" for times in sorted({1, own["times"]})]
    walks = [f"DDIM {steps}" for steps in sorted({max(1, own["steps"] // 5), own["steps"]})]
    pairs = range(0, min(2 * PAIRS, max(1, results.figures["drawing"]["per_row"] - 1)), 2)
    holes = [[f"without the {hole}", *(f"{hole}, {how}" for how in drawn)] for hole in ("middle", "right half")]
    pictures = {
        "inpainting": ("Holes, filled once and several times.", [kind, *chain(*holes)]),
        "edits": ("Noised so far, and drawn from there.", [kind, *(f"strength {strength:g}" for strength in own["strengths"])]),
        "reconstruction": (
            "Encoded to noise, and made of it again.",
            [kind, *chain(*([f"noise by {walk}", f"and back by {walk}"] for walk in walks))],
        ),
        "interpolation": ("From one image to the next, through their noise.", [f"{pair} to {pair + 1}" for pair in pairs]),
    }
    shown = []
    for name, (caption, labels) in pictures.items():
        rows = [(label, "") for label in labels]
        shown.append(labelled(results, "editing", [f"{name}.png"], rows, name.capitalize(), caption))
    return join(*shown)


def progression(results: Results) -> Html:
    """A slider over the kept steps of the training."""
    steps = [int(line["step"]) for line in results.csv("progression.csv")]
    rows = results.rows("progression.png", len(steps))
    if rows is None:
        return unmade(results, "progression", "progression.png", "progression.csv")
    labels = [f"step {step:,}" for step in steps]
    caption = f"Raw weights after each of {len(steps)} kept steps, always from the same noise; a model of {of_what(results)}."
    return player(
        rows, len(rows[0]), labels, "Training step", f"Samples over the training, a model of {of_what(results)}", caption
    )


def path(results: Results) -> Html:
    """The sampling as a player."""
    frames, steps = results.path_frames(), results.csv("path.csv")
    if frames is None:
        return unmade(results, "path", "path.gif")
    per_row = 8 if results.size <= 32 else 4
    count = max(per_row, ANIMATED // results.size**2 // per_row * per_row)
    cut = [frame[:count] for frame in frames]
    known = len(steps) == len(frames)
    labels = [f"t = {line['t']}" for line in steps] if known else [f"frame {i + 1}" for i in range(len(frames))]
    conditional = results.json("config/train.json").get("context_dim")
    names = results.json("config/data.json").get("classes") if conditional else None
    shown = f"images of the class {names[0]}" if names else "images"
    caption = f"{len(cut[0])} {shown} on their way from noise to t = 0, in the colours of path.gif, at most 255 in all."
    return player(cut, per_row, labels, "Sampling", f"Sampling, a model of {of_what(results)}", caption, SECONDS)


def player(
    frames: list[np.ndarray], per_row: int, labels: list[str], name: str, alt: str, caption: str, seconds: int = 0
) -> Html:
    """Frames of images and a slider that chooses one; with `seconds` also a button that plays all in about that time."""
    sheets = np.concatenate([sheet(frame, per_row) for frame in frames])
    last = len(frames) - 1
    slider = tag("input", type="range", min=0, max=last, value=0 if seconds else last, autocomplete="off")
    button = tag("button", "Play", type="button") if seconds else ""
    controls = tag("div", button, tag("label", tag("span", name), slider), tag("output", labels[-1]), class_="controls")
    parts = (picture(sheets, alt, WIDTH, len(frames)), controls, tag("figcaption", caption))
    return tag("figure", *parts, class_="player", data_labels=json.dumps(labels), data_seconds=seconds)


def nearest(results: Results) -> Html:
    """The samples most like a training image, beside it where the licence lets it be shown."""
    rows = results.csv("nearest.csv")
    if not rows:
        return unmade(results, "evaluate", "nearest.csv")
    explained = (
        f"Of the measured samples the {len(rows)} that are most like one training image and unlike the next one. "
        "The ratio of the two distances is near 1 for new images; below 1/3 it counts as a near copy."
    )
    found = results.neighbours()
    if isinstance(found, str):
        header = ["Sample", "Training image", "Distance", "Ratio"]
        numbers = [[line["sample"], line["index"], line["distance"], line["ratio"]] for line in rows]
        return join(tag("p", explained), missing(found), table(header, numbers, "Distances (L2) over pixels of 0 to 255"))
    items = []
    for line, sample, training in zip(rows, *found, strict=True):
        turned = ", mirrored" if line["mirrored"] == "1" else ""
        names = f"Sample {line['sample']} above training image {line['index']}{turned}"
        both = np.stack([np.broadcast_to(image, (*image.shape[:2], 3)) for image in (sample, training)])
        note = tag("small", f"no. {line['index']}{turned}", tag("br"), f"ratio {float(line['ratio']):.2f}")
        items.append(tag("li", picture(sheet(both, 1), names, PAIR), note))
    caption = tag("p", f"Above the sample, below the training image, one of the {of_what(results)}.", class_="quiet")
    return join(tag("p", explained), tag("ul", *items, class_="pairs"), caption)


# --- Settings and commands -----------------------------------------------------------------------------------------


def settings(results: list[Results]) -> Html:
    """What the recipe sets otherwise than its scale; of two revisions, what differs between them."""
    if len(results) == 2:
        both = [flattened({part: each.json(f"config/{part}.json") for part in PARTS}) for each in results]
        keys = [key for key in {**both[0], **both[1]} if both[0].get(key) != both[1].get(key)]
        if not keys:
            return tag("p", "No setting differs between the two revisions.")
        rows = [[key, *(setting(each, key) for each in both)] for key in keys]
        return table(
            ["Setting", *(side_title(each.side) for each in results)], rows, "What differs between the revisions", "settings"
        )
    only, recipe = results[0], results[0].paths.recipe
    own = only.params["recipes"][recipe]
    changed = flattened({part: own[part] for part in DEFAULTS if part in own})
    defaults = flattened({part: only.params.get(part, {}) for part in DEFAULTS})
    rows = [[key, setting(changed, key), setting(defaults, key)] for key in changed]
    file = str(shown(params_file(only.paths.scale)))
    if not rows:
        return tag("p", f"None differs from the defaults of {file}.")
    return table(
        ["Setting", recipe, "Default"], rows, f"What the recipe sets otherwise than the defaults of {file}", "settings"
    )


def setting(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "unset"


def commands(results: Results) -> Html:
    """What makes all of this again."""
    scale, recipe, side = results.paths.scale, results.paths.recipe, results.side
    lines = []
    if side.revision:
        lines.append(f"git switch --detach {side.revision}   # {side.name}")
    stages = ["overview", "progression", "samplers", "grid", "solvers", "path", "evaluate"]
    if recipe in (results.params.get("conditional") or []):
        stages.append("classes")
    if recipe in (results.params.get("editing") or []):
        stages.append("editing")
    lines += [dvc("pull", scale, f"train@{recipe}")]
    lines += [repro(results, *stages), sample_command(results), f"python -m tools.report --scale {scale}"]
    explained = "The shared checkpoint, or else a training; the numbers and pictures; more samples; this page."
    return join(tag("p", explained), tag("pre", tag("code", "\n".join(filter(None, lines))), tabindex=0))


def sample_command(results: Results) -> str:
    """The command that draws the grid, or nothing where its settings are unknown."""
    if not results.figures:
        return ""
    drawing, grid = Drawing(**results.figures["drawing"]), results.figures["grid"]
    words = ["python -m tools.sample", results.paths.recipe, "--scale", results.paths.scale]
    words += sampling_options(drawing.chosen(), grid.get("autoguidance", 1.0))
    if results.json("config/train.json").get("context_dim"):
        words += ["--guidance", f"{drawing.guidance:g}"]
    words += ["--seed", str(grid["seed"]), "--images", str(grid["images"]), "--per-row", str(round(grid["images"] ** 0.5))]
    return words[0] + " " + shlex.join(words[1:])
