"""Pictures of one's own: a folder as torchvision's ImageFolder has it, of any size and mode, from its files to samples."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder

import stages
from conftest import ROOT, Checkout, stages_run
from ddpm.base.faults import Fault
from ddpm.base.settings import validate
from ddpm.data.archives import in_tenth
from ddpm.data.folder import FolderImages, as_seen
from ddpm.data.preprocess import pack
from ddpm.data.settings import Contents, DataConfig
from ddpm.evaluation.distances import density_coverage
from ddpm.recipe import resolve
from stages.config import FEWEST_HELDOUT, contents
from test_data_stages import Project

PAGE = ROOT / "docs/own-pictures.md"


def config(**values: Any) -> DataConfig:
    return validate(DataConfig, {"dataset": "folder", "source": "/pictures", "size": 8} | values, "data")


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Noise, smooth enough for JPEG."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height)).convert(mode)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes, files of every kind, some deeper, and files that are none."""
    folder = tmp_path / "pictures"
    for number in range(12):
        ending = ("png", "jpg", "webp", "JPEG", "PNG")[number % 5]
        place = ("cats", "cats/old/older", "dogs")[number % 3]
        save(folder / place / f"a picture {number:02d}.{ending}", picture(20 + number, 31 - number, number))
    for name in ("notes.txt", "cats/list.csv", ".DS_Store", "dogs/._a picture 02.webp", ".thumbs/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no picture")
    return folder


def test_names_classes_and_labels_are_those_of_torchvision(classes: Path) -> None:
    """Which does not know what a hidden file is, and sorts by folder."""
    found = FolderImages(classes)
    other = ImageFolder(str(classes), is_valid_file=lambda path: Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
                        and not Path(path).name.startswith("."), allow_empty=True)  # fmt: skip
    assert list(found.classes) == [name for name in other.classes if not name.startswith(".")] == ["cats", "dogs"]
    wanted = {Path(path).relative_to(classes).as_posix(): other.classes[label] for path, label in other.samples
              if ".thumbs" not in path}  # fmt: skip
    assert found.labels is not None
    assert {name: found.classes[label] for name, label in zip(found.names, found.labels, strict=True)} == wanted
    assert len(found) == 12
    assert found.names == sorted(found.names, key=lambda name: Path(name))
    held_out = FolderImages(classes, "heldout").names
    assert held_out == [name for name in found.names if in_tenth(name)]
    assert sorted([*held_out, *FolderImages(classes, "training").names]) == sorted(found.names)


def test_a_folder_without_subfolders_has_no_classes(tmp_path: Path) -> None:
    save(tmp_path / "b.png", picture(9, 9))
    save(tmp_path / "a.jpg", picture(9, 9))
    found = FolderImages(tmp_path)
    assert (found.names, found.classes, found.labels) == (["a.jpg", "b.png"], (), None)


def packed(folder: Path, tmp_path: Path, **values: Any) -> np.ndarray:
    facts = pack(config(**values), folder, tmp_path / "out.npy", values.pop("workers", 1), tmp_path / "labels.npy")
    array: np.ndarray = np.load(tmp_path / "out.npy")
    assert facts["sha256"] == hashlib.sha256((tmp_path / "out.npy").read_bytes()).hexdigest()
    assert np.allclose((array / 255).mean((0, 1, 2)), facts["mean"])
    return array


def test_each_is_cut_at_its_middle_and_resized(classes: Path, tmp_path: Path) -> None:
    """As Pillow's own ImageOps.fit crops, wherever the sides differ by an even number of pixels."""
    array = packed(classes, tmp_path)
    found = FolderImages(classes)
    assert array.shape == (12, 8, 8, 3)
    for name, cut in zip(found.names, array, strict=True):
        with Image.open(classes / name) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
            assert np.array_equal(cut, np.asarray(square.resize((8, 8), Image.Resampling.BICUBIC))), name
            if (image.width - image.height) % 2 == 0:
                fitted = ImageOps.fit(image.convert("RGB"), (8, 8), Image.Resampling.BICUBIC)
                assert np.abs(cut.astype(int) - np.asarray(fitted)).max() <= 40, "whose filter may reach beyond the square"
    assert np.array_equal(np.load(tmp_path / "labels.npy"), found.labels)


def test_a_box_is_cut_where_it_says(tmp_path: Path) -> None:
    image = picture(20, 30)
    save(tmp_path / "in/a.png", image)
    (cut,) = packed(tmp_path / "in", tmp_path, crop=[3, 9, 8, 8])
    assert np.array_equal(cut, np.asarray(image)[9:17, 3:11])
    assert np.array_equal(packed(tmp_path / "in", tmp_path, crop="center"), packed(tmp_path / "in", tmp_path))
    save(tmp_path / "in/small.png", picture(20, 16))
    with pytest.raises(
        Fault, match=r"in: data.crop = \[3, 9, 8, 8\] does not lie inside small.png, which has 20x16 pixels; acc"
    ):
        packed(tmp_path / "in", tmp_path, crop=[3, 9, 8, 8])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path: Path, orientation: int) -> None:
    """What a camera held in any of eight ways has stored is the picture that was seen."""
    upright = picture(40, 24)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that stores it so
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "in/a.png", stored, exif=exif)
    found = FolderImages(tmp_path / "in")
    assert np.array_equal(np.asarray(found.image("a.png")), np.asarray(upright))
    assert found.sizes() == [(40, 24)]


def reread(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    with Image.open(stream) as found:
        return as_seen(found)


def test_what_is_transparent_is_white() -> None:
    image = picture(6, 6)
    image.putalpha(Image.fromarray(np.array([[0] * 2 + [128] * 2 + [255] * 2] * 6, np.uint8)))
    seen, rgb = np.asarray(reread(image)), np.asarray(image.convert("RGB")).astype(float)
    assert (seen[:, :2] == 255).all()
    assert np.array_equal(seen[:, 4:], rgb[:, 4:])
    assert np.abs(seen[:, 2:4] - (rgb[:, 2:4] * 128 + 255 * 127) / 255).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert np.asarray(reread(palette, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    gray = Image.merge("LA", [Image.new("L", (1, 1), 7), Image.new("L", (1, 1), 0)])
    assert np.asarray(reread(gray)).tolist() == [[[255, 255, 255]]]


def test_16_bits_are_scaled_to_8() -> None:
    values = np.array([[0, 128, 257 * 100, 65535]], np.uint16)
    assert np.asarray(reread(Image.fromarray(values))).tolist() == [[0, 0, 100, 255]]


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG")])
def test_other_modes_look_the_same(mode: str, kind: str) -> None:
    image = picture(16, 16, mode=mode)
    seen = reread(image, kind)
    assert seen.mode == ("L" if mode in ("L", "1") else "RGB")
    assert np.abs(np.asarray(seen.convert("RGB")).astype(int) - np.asarray(image.convert("RGB"))).mean() < 8


def test_gray_is_kept_or_made(tmp_path: Path) -> None:
    save(tmp_path / "in/colour.png", picture(8, 8))
    save(tmp_path / "in/gray.png", picture(8, 8, 1, "L"))
    gray, colour = packed(tmp_path / "in", tmp_path, channels=1), packed(tmp_path / "in", tmp_path)
    assert (gray.shape, colour.shape) == ((2, 8, 8, 1), (2, 8, 8, 3))
    assert np.array_equal(gray[0, ..., 0], np.asarray(picture(8, 8).convert("L")))
    assert np.array_equal(gray[1, ..., 0], np.asarray(picture(8, 8, 1, "L")))
    assert np.array_equal(colour[1], np.repeat(gray[1], 3, -1))


def test_processes_read_by_name(classes: Path, tmp_path: Path) -> None:
    found = pickle.loads(pickle.dumps(FolderImages(classes)))
    assert np.array_equal(np.asarray(found.image("dogs/a picture 02.webp")).shape, (29, 22, 3))
    assert len(pickle.dumps(FolderImages(classes))) < 500, "the names stay here"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "foreign": lambda content: b"GIF89a" + content,
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str, ending: str) -> None:
    save(tmp_path / "in/a.png", picture(64, 64))
    broken = save(tmp_path / f"in/b.{ending}", picture(64, 64, 1))
    broken.write_bytes(DAMAGE[damage](broken.read_bytes()))
    with pytest.raises(Fault, match=rf"in: b\.{ending} cannot be read \(.*\); accepted: whole"):
        packed(tmp_path / "in", tmp_path)
    assert not (tmp_path / "out.npy").exists()


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Fault, match="nowhere: is no folder; accepted: a folder of pictures"):
        FolderImages(tmp_path / "nowhere")
    (tmp_path / "note.txt").touch()
    with pytest.raises(Fault, match=f"{tmp_path}: holds no picture; accepted: .jpg, .jpeg, .png, .webp files"):
        FolderImages(tmp_path)
    save(tmp_path / "cats/1.png", picture(8, 8))
    (tmp_path / "dogs").mkdir()
    with pytest.raises(Fault, match="no picture in dogs, a class as a subfolder"):
        FolderImages(tmp_path)
    save(tmp_path / "1.png", picture(8, 8))
    with pytest.raises(Fault, match=r"the picture 1\.png lies beside the subfolder cats"):
        FolderImages(tmp_path)
    for number in range(257):
        (tmp_path / f"many/{number}").mkdir(parents=True)
    with pytest.raises(Fault, match="has 257 subfolders; accepted: at most 256"):
        FolderImages(tmp_path / "many")
    listed = os.scandir

    def refused(place: Any) -> Any:
        if Path(place).name == "deep":
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    (tmp_path / "two/cats/deep").mkdir(parents=True)
    save(tmp_path / "two/cats/1.png", picture(8, 8))
    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="two/cats/deep"):  # not fewer pictures than there are
        FolderImages(tmp_path / "two")
    with pytest.raises(Fault, match="none of 1 images would be"):
        FolderImages(tmp_path / "cats", "heldout" if not in_tenth("1.png") else "training")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": "official"}, "accepted for folder, which is not published: synthetic, or the path of a folder of .jpg"),
        ({"crop": [0, 0, 8, 9]}, "data.crop = [0, 0, 8, 9] is not square"),
        ({"crop": [0, 0, 0, 0]}, "1 or more, or center"),
        ({"crop": "left"}, "data.crop = 'left'; accepted: [left, top, width, height]"),
        ({"channels": 2}, "data.channels = 2; accepted: 3, or of a folder 1"),
        ({"dataset": "cifar10", "size": 32, "channels": 1}, "data.channels = 1; accepted for cifar10: 3"),
        ({"dataset": "celeba", "crop": "center"}, "data.crop = 'center'; accepted: "),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(Fault) as caught:
        config(**values)
    assert words in str(caught.value)


def test_the_folder_says_the_classes_and_how_long_an_epoch_is() -> None:
    params = stages.load_params("demo")
    params["recipes"]["mine"] = {
        "data": {"dataset": "folder", "source": "there"},
        "train": {"context_dim": 2, "steps": "3 epochs", "batch_size": 10, "checkpoints": [1], "warmup_steps": 2},
    }
    asked = []

    def look(name: str, data: DataConfig) -> Contents:
        asked.append((name, data.source))
        return Contents(("cats", "dogs"), 35)

    recipe, settings = resolve(params, "mine", look)
    assert asked == [("mine", "there")]
    assert settings["data"]["classes"] == ["cats", "dogs"]
    assert recipe.train.steps == 11
    params["recipes"]["mine"]["train"]["context_dim"] = 3
    with pytest.raises(Fault, match="context_dim = 3; accepted: 0, unconditional, or 2, the classes of folder"):
        resolve(params, "mine", look)


def test_too_few_held_out_to_measure_with_are_refused_before_any_training(tmp_path: Path) -> None:
    """Six are the fewest of which each has the five neighbours of density and coverage."""
    points = np.random.default_rng(0).normal(size=(FEWEST_HELDOUT, 3))
    assert density_coverage(points, points) == (1.0, 1.0)
    with pytest.raises(ValueError, match="accepted: 1 to 4"):
        density_coverage(points[1:], points)
    for number in range(40):
        save(tmp_path / "many" / f"{number}.png", picture(20, 20, number))
    for number in range(6):
        save(tmp_path / "others" / f"{number}.png", picture(20, 20, number))
    paths, few = stages.Paths("demo", "mine"), len(FolderImages(tmp_path / "many", "heldout"))
    assert 0 < few < FEWEST_HELDOUT
    said = rf"^recipes.mine.data.source = '.*many': {few} of its 40 pictures would be held out, .*; accepted: 6 or more"
    with pytest.raises(Fault, match=said):
        contents(paths, config(source=str(tmp_path / "many")))
    both = config(source=str(tmp_path / "many"), heldout=str(tmp_path / "others"))
    assert contents(paths, both) == Contents((), 40)
    (tmp_path / "others/0.png").unlink()
    with pytest.raises(Fault, match=r"^recipes.mine.data.heldout = '.*others': 5 pictures to hold out; accepted: 6 or more"):
        contents(paths, both)


# --- The stages ----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Project:
    return Project(tmp_path / "project", monkeypatch, capfd)


def record(project: Project, classes: list[str], **data: Any) -> None:
    """Settings as the stage config leaves them, of the folder `mine` of the project."""
    project.set("mine", **({"dataset": "folder", "source": "mine", "size": 16} | data))
    path = project.root / "metrics/demo/mine/config/data.json"
    path.write_text(path.read_text().replace("\n}", f',\n  "classes": {classes!r}\n}}'.replace("'", '"')))


def draw(folder: Path, count: int = 20) -> None:
    for number in range(count):
        save(folder / ("cats", "dogs")[number % 2] / f"{number}.png", picture(20 + number, 30, number))


def test_the_manifest_tells_number_sizes_and_bytes(project: Project) -> None:
    draw(project.root / "mine")
    record(project, ["cats", "dogs"])
    project.stages("mine", "download", "preprocess")
    facts = project.facts("mine", "manifest.json")
    described = {key: facts[key] for key in ("source", "name", "count", "classes", "width", "height", "shareable")}
    assert described == {
        "source": "local", "name": "mine", "count": 20, "classes": ["cats", "dogs"], "width": [20, 39], "height": [30, 30],
        "shareable": False,
    }  # fmt: skip
    files = sorted((project.root / "mine").rglob("*.png"))
    lines = [
        f"{path.relative_to(project.root / 'mine')} {path.stat().st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in files
    ]
    assert facts["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    stats, heldout = project.facts("mine", "stats.json"), project.facts("mine", "heldout.json")
    training = FolderImages(project.root / "mine", "training")
    assert stats["count"] == len(training) < 20
    assert np.array_equal(np.load(project.array("mine", "labels")), training.labels)
    assert heldout["count"] == 20 - len(training)
    assert heldout["split"] == "a tenth of the pictures, chosen by a hash of the file's path in the folder"


def test_a_folder_that_changed_is_noticed(project: Project) -> None:
    draw(project.root / "mine")
    record(project, ["cats", "dogs"])
    project.stages("mine", "download")
    (project.root / "mine/cats/0.png").rename(project.root / "mine/dogs/0.png")
    said = project.error("mine", "preprocess")
    assert "mine: is not what data/demo/mine/manifest.json describes" in said
    assert "dvc repro -f download@mine" in said
    save(project.root / "mine/birds/1.png", picture(8, 8))
    said = project.error("mine", "download")
    assert "its classes, which are its subfolders, are birds, cats, dogs; recorded are cats, dogs; accepted: these, or" in said
    draw(project.root / "others/more")
    record(project, ["birds", "cats", "dogs"], heldout="others/more")
    said = project.error("mine", "download")
    assert "others/more: its classes, which are its subfolders, are cats, dogs; recorded are birds" in said


# --- The page --------------------------------------------------------------------------------------------------------


def test_the_page_s_recipe_has_good_settings() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    params = stages.load_params("demo")
    params["recipes"] |= stages.load_yaml(block)["recipes"]
    recipe = resolve(params, "faces", lambda name, data: Contents(("smiling", "stern"), 300))[0]
    assert recipe.data.dataset == "folder"


@pytest.mark.slow
def test_the_page_s_commands_lead_from_a_folder_to_samples(fresh: Checkout) -> None:
    """With the real DVC, on 200 pictures of two classes; then the folder changes, and then it is away."""
    home = fresh.path.parent
    draw(home / "pictures", 200)
    commands = [line for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
                for line in block.replace("\\\n", " ").splitlines() if line]  # fmt: skip
    first, sample, unclassed, *others = [line.split("  #")[0].strip() for line in commands if not line.startswith("make")]
    assert first.startswith("dvc exp run")
    assert sample.startswith("python -m tools.sample")
    assert "conditional=[]" in unclassed, "its settings are tested with those of the other pages"
    fresh.run("sh", "-c", first)
    assert fresh.files("metrics/demo/mine/classes.png")
    fresh.run("sh", "-c", sample)
    assert fresh.files("*.png")
    card = (fresh.path / "metrics/demo/mine/README.md").read_text()
    assert "cats" in card
    fresh.commit("mine")
    assert stages_run(fresh.dvc("repro")) == []
    for command in others:
        if command.startswith("dvc repro -f"):
            save(home / "pictures/dogs/new.png", picture(50, 50, 1000))
        fresh.run("sh", "-c", command)
    assert '"count": 201' in (fresh.path / "data/demo/mine/manifest.json").read_text()
    (home / "pictures").rename(home / "away")
    fresh.params(figures__grid__images=9)
    assert set(stages_run(fresh.dvc("repro"))) == {f"{name}@mine" for name in ("config", "grid", "card")}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"cats/\xff.png", r"the name 'cats/\udcff.png' is no text; accepted: names in UTF-8"),
        (b"\xfe/a.png", r"the name '\udcfe' is no text; accepted: names in UTF-8"),
        (b"a\nb/a.png", r"the class 'a\nb'; accepted: names without line breaks"),
        ("a\u202eb/a.png".encode(), r"the class 'a\u202eb'; accepted: names without line breaks"),
    ],
)
def test_names_that_cannot_be_shown_are_refused(tmp_path: Path, name: bytes, words: str) -> None:
    save(tmp_path / "\U0001f408\u200d\u2b1b" / "\u732b.png", picture(9, 9))  # which can
    FolderImages(tmp_path)
    save(tmp_path / os.fsdecode(name), picture(9, 9))
    with pytest.raises(Fault, match=re.escape(words)):
        FolderImages(tmp_path)
