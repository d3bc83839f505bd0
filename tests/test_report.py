"""The report: every number and image of a made-up tree in its place, nothing that a licence forbids, nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Checkout
from ddpm.base.faults import Fault
from results_tree import FRAMES, JPEG, SPRITES, STEPS, Tree
from tools.compare import Side
from tools.report import __main__ as command
from tools.report import results as reading
from tools.report.charts import HEIGHT, chart
from tools.report.markup import MARGIN, Html, sheet, tag
from tools.report.results import Results


class Page(HTMLParser):
    """What a page says: elements with their attributes, and the text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[str] = []
        self.feed(markup)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, Any]]:
        return [attributes for found, attributes in self.elements if found == name]

    def picture(self, beginning: str) -> np.ndarray:
        """The pixels (H, W, 4) of the one picture whose alternative text begins so."""
        (source,) = [attributes["src"] for attributes in self.all("img") if attributes["alt"].startswith(beginning)]
        header, _, content = source.partition(",")
        assert header == "data:image/webp;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("original"))


@pytest.fixture
def tree(original: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A copy of the tree, taken for the project."""
    tree = original.copy(tmp_path / "project")
    tree.use(monkeypatch)
    return tree


def write(monkeypatch: pytest.MonkeyPatch, tree: Tree, *words: str) -> str:
    """The page that the command writes."""
    out = tree.path / "out.html"
    monkeypatch.setattr(sys, "argv", ["report", *words, "--out", str(out)])
    command.main(command.arguments())
    return out.read_text()


def section(page: str, recipe: str) -> Page:
    """What the page says of one recipe."""
    (found,) = re.findall(rf'<section id="{recipe}".*?</section>', page, re.DOTALL)
    return Page(found)


def opaque(images: np.ndarray) -> np.ndarray:
    return np.concatenate([images, np.full((*images.shape[:3], 1), 255, np.uint8)], -1)


# --- Sheets of images ----------------------------------------------------------------------------------------------


def test_a_sheet_keeps_every_pixel_and_is_clear_between_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    found = sheet(images, 3)
    assert found.shape == (2 * (4 + MARGIN), 3 * (4 + MARGIN), 4)
    assert np.array_equal(found[6:10, 6:10], opaque(images[4:5])[0])
    assert (found[..., 3] > 0).sum() == 5 * 16


def test_every_image_of_the_tree_is_on_the_page(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(monkeypatch, tree)
    for recipe in ("cifar10", "sprites"):
        found, images = section(page, recipe), tree.images[recipe]
        assert np.array_equal(found.picture("Grid of samples"), sheet(images["grid"][0], 2))
        assert np.array_equal(found.picture("Training images"), sheet(np.concatenate(images["data"][1:]), 8))
        for label, row in zip(("DDIM 2", "DDPM 4"), images["samplers"], strict=True):
            assert np.array_equal(found.picture(f"Samples of one model: {label}"), sheet(row, 2))
        over_training = np.concatenate([sheet(row, 2) for row in images["progression"]])
        assert np.array_equal(found.picture("Samples over the training"), over_training)
        frames = found.picture("Sampling").reshape(FRAMES, -1, found.picture("Sampling").shape[1], 4)
        for frame, expected in zip(frames, images["path"], strict=True):
            assert np.abs(frame.astype(int) - sheet(expected, 8)).max() <= 4, "but for the palette"
    for label, row in zip([*SPRITES[1:], "hero to monster"], tree.images["sprites"]["classes"][1:], strict=True):
        assert np.array_equal(section(page, "sprites").picture(f"Samples of the class: {label}"), sheet(row, 2))
    assert "Guidance" not in section(page, "cifar10").text, "it has no classes"
    edited, images = section(page, "sprites"), tree.images["sprites"]
    for alt, row in (
        ("Inpainting: held-out image", images["inpainting"][0]),
        ("Inpainting: right half, drawn 2 times", images["inpainting"][6]),
        ("Edits: strength 0.5", images["edits"][1]), ("Reconstruction: and back by DDIM 4", images["reconstruction"][4]),
        ("Interpolation: 0 to 1", images["interpolation"][0]),
    ):  # fmt: skip
        assert np.array_equal(edited.picture(alt), sheet(row, 2)), alt
    assert "Given images" not in section(page, "cifar10").text


def test_sliders_name_their_frames(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    found = section(write(monkeypatch, tree), "cifar10")
    steps, path = (figure["data-labels"] for figure in found.all("figure") if figure.get("class") == "player")
    assert steps == str([f"step {step}" for step in STEPS]).replace("'", '"')
    assert path == '["t = 8", "t = 6", "t = 4", "t = 2", "t = 0"]'
    assert "4 images on their way" in found.text
    assert "4 images of the class hero on their way" in section(write(monkeypatch, tree), "sprites").text
    assert [(slider["max"], slider["value"]) for slider in found.all("input")] == [("2", "2"), ("4", "0")]


# --- Numbers and words ---------------------------------------------------------------------------------------------


def test_measures_stand_beside_floor_error_and_meaning(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(monkeypatch, tree, "--recipes", "cifar10")
    rows = {cells[0]: cells[1:] for cells in table(page, "Measure")}
    assert rows["Kernel distance (KID)"][:2] == ["0.0125 ± 0.002", "-0.0001"]
    assert rows["Frechet distance"][:2] == ["3.25", "0.5"]
    assert rows["Bits per dimension"][:2] == ["4.125 ± 0.05", ""]
    endings = {"Coverage": "Higher is better.", "Near copies": "Lower is better.", "C_T": "Higher is better."}
    for name, ending in endings.items():
        assert rows[name][-1].endswith(ending)
    assert "20 samples by unipc 4; distances of 20 images a side; yardstick 3fa23fa23fa2" in Page(page).text


def table(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose first header is `first`, row by row, without the header."""
    (found,) = [part for part in re.findall(r"<table>.*?</table>", page, re.DOTALL) if f'col">{first}<' in part]
    rows = re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)[1:]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


def test_data_are_called_what_they_are(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(monkeypatch, tree)
    sprites, cifar10 = section(page, "sprites"), section(page, "cifar10")
    assert "Synthetic data, drawn by code" in sprites.text
    alts = [image["alt"] for image in sprites.all("img")]
    assert [alt for alt in alts if alt.startswith(("Grid", "Training", "Sampl")) and ":" not in alt] != []
    assert all("synthetic" in alt for alt in alts if alt.startswith(("Grid", "Training images", "Samples over", "Sampling")))
    assert f"The data are {JPEG}: no distance here compares with published ones." in cifar10.text
    assert f"cifar10 images ({JPEG})" in cifar10.text
    assert "ynthetic" not in cifar10.text
    tree.change("cifar10", "evaluate.json", fid=12.5)
    text = section(write(monkeypatch, tree), "cifar10").text
    assert "This FID does not compare with published ones" in text


MADE = {
    "evaluate.json": "evaluate", "grid.png": "grid", "data.png": "overview", "loss.csv": "train", "solvers.csv": "solvers",
    "samplers.csv": "samplers", "progression.png": "progression", "path.gif": "path", "classes.png": "classes",
    "inpainting.png": "editing",
}  # fmt: skip
ALSO_MADE = {
    "nearest.csv": "evaluate", "samplers.png": "samplers", "progression.csv": "progression", "guidance.csv": "classes",
}  # fmt: skip


@pytest.mark.parametrize("removed", [MADE, ALSO_MADE])
def test_what_is_missing_is_left_out_with_the_command_that_makes_it(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, removed: dict[str, str]
) -> None:
    for name in removed:
        (tree.metrics("sprites") / name).unlink()
    page = write(monkeypatch, tree)
    told = re.findall(r"metrics/demo/sprites/(\S+) is not made yet: <code>dvc repro (\w+)@sprites<", page)
    assert dict(told) == removed
    assert len(told) == len(removed)
    assert "not made yet" not in section(page, "cifar10").text


def test_a_picture_of_another_layout_is_left_out(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.change("cifar10", "config/figures.json", grid={"seed": 0, "images": 9})
    text = section(write(monkeypatch, tree), "cifar10").text
    assert "metrics/demo/cifar10/grid.png is laid out in another way" in text


def test_settings_that_differ_and_commands(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(monkeypatch, tree)
    settings = dict(zip(("context_dim", "flip"), table(page, "Setting"), strict=True))
    assert settings["context_dim"] == ["train.context_dim", "5", "0"]
    assert settings["flip"] == ["train.flip", "false", "true"]
    assert "None differs from the defaults of params.yaml." in section(page, "cifar10").text
    text = section(page, "sprites").text
    sample = (
        "python -m tools.sample sprites --scale demo --method ddpm --steps 4 --variance small --guidance 2 "
        "--seed 0 --images 4 --per-row 2"
    )
    assert sample in text
    assert "evaluate@sprites classes@sprites editing@sprites" in text
    assert "classes@" not in section(page, "cifar10").text


def test_autoguidance_of_the_grid_is_said(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = json.loads((tree.metrics("sprites") / "config/figures.json").read_text())
    tree.change("sprites", "config/figures.json", grid=figures["grid"] | {"autoguidance": 1.5})
    text = section(write(monkeypatch, tree), "sprites").text
    assert "--method ddpm --steps 4 --variance small --autoguidance 1.5 --guidance 2 --seed 0" in text
    assert "by DDPM 4, autoguidance 1.5, seed 0; not selected." in text


def test_text_is_no_markup(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = '<script>alert("1")</script><img src=x onerror=alert(1)> & "quoted"'
    for name in ("manifest.json", "stats.json"):
        file = tree.path / "data/demo/cifar10" / name
        file.write_text(file.read_text().replace(JPEG, hostile.replace('"', '\\"')))
    tree.change("cifar10", "evaluate.json", sampler=hostile)
    page = Page(write(monkeypatch, tree))
    assert len(page.all("script")) == 1
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert hostile in page.text
    assert any(hostile in image["alt"] for image in page.all("img"))


def test_markup_escapes_all_but_itself() -> None:
    assert tag("p", "a<b", tag("b", "&")) == "<p>a&lt;b<b>&amp;</b></p>"
    assert tag("input", aria_label='"', class_="x", value=0, hidden=True, disabled=False) == (
        '<input aria-label="&quot;" class="x" value="0" hidden>'
    )
    assert isinstance(tag("p"), Html)


def test_nothing_comes_from_outside(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    markup = write(monkeypatch, tree)
    page = Page(markup)
    for _, attributes in page.elements:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {name for name, _ in page.elements}
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttpRequest", re.sub(r"base64,[^\"]*", "", markup))
    (policy,) = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_same_results_give_the_same_bytes(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.checkpoint("cifar10")
    assert write(monkeypatch, tree) == write(monkeypatch, tree)


# --- Neighbours and licences ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["cifar10", "sprites"])
def test_samples_are_drawn_again_beside_their_neighbours(tree: Tree, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    tree.checkpoint(recipe)
    found = section(write(monkeypatch, tree), recipe)
    copied, other = tree.images[recipe]["nearest"]
    for beginning, expected in (
        ("Sample 1 above training image 4, mirrored", copied),
        ("Sample 2 above training image 0", other),
    ):
        pixels = found.picture(beginning).astype(int)
        assert np.abs(pixels - sheet(expected, 1)).max() <= 1, "a batch of another size may round otherwise"
    assert "Numbers only" not in found.text


def test_pictures_of_another_checkpoint_are_left_out(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.checkpoint("cifar10")
    tree.change("cifar10", "config/evaluation.json", seed=1)
    found = section(write(monkeypatch, tree), "cifar10")
    assert "the checkpoint that is here draws other images than were measured" in found.text
    assert not [image for image in found.all("img") if image["alt"].startswith("Sample 1")]
    assert table(write(monkeypatch, tree, "--recipes", "cifar10"), "Sample")[0] == ["1", "4", "0.0", "0.0"]


def test_licensed_images_are_not_even_opened(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.checkpoint("celeba")

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(reading.np, "load", load)
    found = section(write(monkeypatch, tree, "--recipes", "celeba"), "celeba")
    assert not [image for image in found.all("img") if image["alt"].startswith(("Training", "Sample 1"))]
    assert "Numbers only: the licence of the training images does not let them be shown." in found.text
    assert "The licence of the training images does not let them be shown." in found.text
    facts = tree.path / "data/demo/celeba/manifest.json"
    facts.write_text("{}")
    assert not Results(Side("workspace", None), "demo", "celeba").shareable, "where nothing says so, no"


# --- Two revisions -------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tree: Tree) -> Tree:
    """The tree as two commits, of which the second has another KID, learning rate and grid."""
    checkout = Checkout(tree.path)
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.commit("first")
    tree.change("cifar10", "evaluate.json", kid=0.0225)
    tree.change("cifar10", "config/train.json", lr=0.5)
    (tree.metrics("cifar10") / "grid.png").write_bytes((tree.metrics("sprites") / "grid.png").read_bytes())
    tree.images["cifar10"]["changed"] = tree.images["cifar10"]["grid"]
    checkout.commit("second")
    return tree


def test_two_revisions_beside_each_other(two: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(monkeypatch, two, "--rev", "HEAD~1", "--rev", "main", "--recipes", "cifar10")
    rows = {cells[0]: cells[1:] for cells in table(page, "Measure")}
    # The difference of 0.01 is 3.5 of its standard errors, sqrt(2) 0.002.
    assert rows["Kernel distance (KID)"][:4] == ["0.0125 ± 0.002", "0.0225 ± 0.002", "worse", "-0.0001"]
    assert rows["Bits per dimension"][:3] == ["4.125 ± 0.05", "4.125 ± 0.05", "none"]
    assert table(page, "Setting") == [["train.lr", "0.001", "0.5"]]
    found = section(page, "cifar10")
    assert len([image for image in found.all("img") if image["alt"].startswith("Samples of one model: DDIM 2")]) == 1
    assert "The same in both revisions." in found.text
    assert "metrics/demo/cifar10/grid.png is laid out in another way" in found.text, "16 px where 32 are expected"
    assert np.array_equal(found.picture("Grid of samples"), sheet(two.images["cifar10"]["grid"][0], 2)), "of the first"
    assert write(monkeypatch, two, "--rev", "main", "--rev", "workspace").count("No setting differs") == 3


def test_a_recipe_that_one_revision_lacks(two: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    file = two.path / "params.yaml"
    file.write_text(file.read_text().replace("- cifar10\n", "", 1))
    page = write(monkeypatch, two, "--rev", "main", "--rev", "workspace")
    assert "No recipe of this working tree." in section(page, "cifar10").text
    assert "No recipe of" not in section(page, "sprites").text


# --- Curves and the command line -----------------------------------------------------------------------------------


def test_a_curve_lies_where_its_numbers_say() -> None:
    drawn = chart("title", {"a": [(0, 1.0), (5, 10.0), (10, 100.0)], "b": [(0, 0.0), (10, 1.0)], "none": []}, "x", "y")
    lines = [[tuple(map(float, point.split(","))) for point in line.split()] for line in re.findall(r'points="([^"]*)"', drawn)]
    (x0, y0), (x1, y1), (x2, y2) = lines[0]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.1), "logarithmic"
    assert 0 < y2 < y1 < y0 < HEIGHT, "upwards"
    assert lines[1] == [(x2, y0)], "0 has no logarithm"
    assert drawn.count("<li>") == 2
    for value, y in (("1", y0), ("10", y1), ("100", y2)):
        assert re.search(rf'<text x="\d+" y="{y}" class="y">{value}</text>', drawn)
    assert chart("title", {"flat": [(1, 2.0)]}, "x", "y", log_x=True).count("<polyline") == 1
    assert "No numbers" in chart("title", {"a": []}, "x", "y")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rev", "a", "--rev", "b", "--rev", "c"], "--rev is given 3 times; accepted: once or twice"),
        (["--out", "page.pdf"], "accepted: a file name that ends in .html"),
        (["--scale", "huge"], "invalid choice"),
    ],
)
def test_wrong_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *words])
    with pytest.raises(SystemExit):
        command.arguments()
    assert message in capsys.readouterr().err


def test_faults_say_what_is_accepted(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Fault, match="--recipes cifar11; accepted: cifar10, celeba, sprites"):
        write(monkeypatch, tree, "--recipes", "cifar11")
    (tree.metrics("cifar10") / "train.json").write_text("<<<<<<< HEAD")
    with pytest.raises(Fault, match=r"metrics/demo/cifar10/train.json at workspace"):
        write(monkeypatch, tree)
    for recipe in ("cifar10", "celeba", "sprites"):
        (tree.metrics(recipe) / "train.json").unlink()
    with pytest.raises(Fault, match="no recipe of the scale demo has been trained at workspace; `make demo` trains them all"):
        write(monkeypatch, tree)
    (tree.path / "gpu").mkdir()
    (tree.path / "gpu/params.yaml").write_text((tree.path / "params.yaml").read_text())
    with pytest.raises(Fault, match="no recipe of the scale gpu has been trained at workspace; `make gpu` trains them all"):
        write(monkeypatch, tree, "--scale", "gpu")


def test_a_page_that_is_too_large_says_so(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(monkeypatch, tree)
    assert "fewer" not in capsys.readouterr().out
    monkeypatch.setattr(command, "LIMIT", 1000)
    write(monkeypatch, tree)
    assert "That is more than 1.0 kB: --recipes shows fewer of them" in capsys.readouterr().out
