"""The `sample` command: what it draws, with a network whose ODE is known, and what it says to a wrong combination."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stages
from conftest import ROOT, Checkout
from ddpm.base.faults import Fault
from ddpm.figures import pictures
from ddpm.figures.pictures import Row, images_in
from ddpm.model.unet import build_network
from ddpm.model.weights import save_weights
from tiny import randomised, train_config
from tools import name_of, revisions, sample

T, MANY = 20, 400
FACTS = {"size": 8, "count": 3, "origin": "three test images", "dataset": "sprites", "source": "synthetic"}


def write(path: Path, network: Any, config: Any) -> Path:
    save_weights(path, network, {"config": config.model_dump(), "step": 7, "kind": "ema", "data": FACTS})
    return path


@pytest.fixture
def conditional(tmp_path: Path) -> Path:
    config = train_config(context_dim=5, num_timesteps=T, prediction="v")
    return write(tmp_path / "conditional.safetensors", randomised(build_network(config)), config)


@pytest.fixture
def still(tmp_path: Path) -> Path:
    """A new network answers v = 0, so x0_hat = sqrt(alpha_bar) x_t: right for data of variance 1, whose ODE moves nothing."""
    config = train_config(num_timesteps=MANY, prediction="v")
    return write(tmp_path / "still.safetensors", build_network(config), config)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(40, 215, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> np.ndarray:
    """The images that the command writes to an .npy file."""
    out = Path(str(words[1])).with_name("out.npy")
    monkeypatch.setattr(sys, "argv", ["sample", *map(str, words), "--out", str(out), "--device", "cpu"])
    sample.main(sample.arguments())
    images: np.ndarray = np.load(out)
    return images


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("method", ["ddim", "ddpm", "wrong", "dpm_solver_pp", "unipc", "heun"])
def test_a_seed_s_images_do_not_depend_on_how_many_are_drawn(
    monkeypatch: pytest.MonkeyPatch, conditional: Path, method: str
) -> None:
    words = ("--checkpoint", conditional, "--method", method, "--steps", 5, "--seed", 3, "--class", "food")
    two, three = (run(monkeypatch, *words, "--images", count) for count in (2, 3))
    assert three.shape == (3, 8, 8, 3)
    assert np.abs(three[:2].astype(int) - two).max() <= 1, "a batch of another size may round otherwise"
    other = run(monkeypatch, *words, "--images", 2, "--seed", 4)
    assert np.abs(other.astype(int) - two).max() > 20


def test_a_class_by_name_by_number_and_by_context(monkeypatch: pytest.MonkeyPatch, conditional: Path) -> None:
    words = ("--checkpoint", conditional, "--steps", 4, "--images", 2)
    by_name = run(monkeypatch, *words, "--class", "spell")
    assert np.array_equal(by_name, run(monkeypatch, *words, "--class", 3))
    assert np.array_equal(by_name, run(monkeypatch, *words, "--context", "0,0,0,1,0"))
    both = run(monkeypatch, *words, "--class", "spell", "hero")
    assert np.array_equal(both[0], by_name[0])
    assert not np.array_equal(both[1], by_name[1])
    mixed = run(monkeypatch, *words, "--context", "0.5,0,0,0.5,0")
    assert not np.array_equal(mixed, by_name)
    plain = run(monkeypatch, *words, "--context", "0,0,0,1,0", "--guidance", 1)
    assert not np.array_equal(plain, by_name), "2 is the default"
    # Scale 0 ignores the class.
    assert np.array_equal(
        run(monkeypatch, *words, "--class", 0, "--guidance", 0), run(monkeypatch, *words, "--class", 1, "--guidance", 0)
    )


def test_an_image_encoded_to_noise_comes_back(monkeypatch: pytest.MonkeyPatch, still: Path, picture: Path) -> None:
    words = ("--checkpoint", still, "--mode", "reconstruct", "--image", picture, "--steps", MANY)
    original, noise, back = run(monkeypatch, *words)
    assert np.array_equal(original, pixels_of(picture))
    assert np.abs(back.astype(int) - original).max() <= 2
    assert noise.max() == 255, "shown over its own range"


@pytest.mark.parametrize("method", ["ddim", "unipc"])
def test_interpolation_ends_where_the_seeds_do(monkeypatch: pytest.MonkeyPatch, conditional: Path, method: str) -> None:
    words = ("--checkpoint", conditional, "--steps", 5, "--class", "food", "--method", method)
    between = run(monkeypatch, *words, "--mode", "interpolate", "--seed", 3, "--seed-to", 9, "--images", 4)
    for image, seed in ((between[0], 3), (between[-1], 9)):
        alone = run(monkeypatch, *words, "--seed", seed, "--images", 1)[0]
        assert np.abs(image.astype(int) - alone).max() <= 1
    assert np.abs(between[1].astype(int) - between[0]).max() > 5


def test_interpolation_between_two_images(monkeypatch: pytest.MonkeyPatch, still: Path, picture: Path) -> None:
    Image.fromarray(255 - pixels_of(picture)).save(picture.with_name("other.png"))
    words = ("--checkpoint", still, "--mode", "interpolate", "--image", picture, picture.with_name("other.png"))
    images = run(monkeypatch, *words, "--steps", MANY, "--images", 3)
    assert np.array_equal(images[0], pixels_of(picture))
    assert np.array_equal(images[1], pixels_of(picture.with_name("other.png")))
    assert len(images) == 5
    assert np.abs(images[2].astype(int) - images[0]).max() <= 2, "the first of the results is the first image, decoded"
    assert np.abs(images[4].astype(int) - images[1]).max() <= 2


@pytest.mark.parametrize("method", ["ddpm", "ddim", "heun"])
@pytest.mark.parametrize("box", [True, False])
def test_inpainting_keeps_what_the_mask_keeps(
    monkeypatch: pytest.MonkeyPatch, conditional: Path, picture: Path, method: str, box: bool
) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 1:5] = 255
    Image.fromarray(mask).save(picture.with_name("mask.png"))
    given = "1,2,5,6" if box else picture.with_name("mask.png")
    words = ("--checkpoint", conditional, "--mode", "inpaint", "--image", picture, "--mask", given, "--method", method)
    shown, *results = run(monkeypatch, *words, "--steps", 6, "--images", 3)
    assert (shown[mask > 0] == 255).all()
    for image in (shown, *results):
        assert np.array_equal(image[mask == 0], pixels_of(picture)[mask == 0])
    assert not np.array_equal(results[0][mask > 0], results[1][mask > 0])


def test_a_hole_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch, conditional: Path, picture: Path) -> None:
    words = ("--checkpoint", conditional, "--mode", "inpaint", "--image", picture, "--mask", "1,2,5,6", "--method", "ddpm")
    once, again, jump = (
        run(monkeypatch, *words, "--steps", 6, "--images", 2, *more)
        for more in ((), ("--times", 3), ("--times", 3, "--jump", 1))
    )
    assert np.array_equal(once, run(monkeypatch, *words, "--steps", 6, "--images", 2, "--times", 1))
    for images in (again, jump):
        assert np.array_equal(images[:, 6:], once[:, 6:]), "what is known"
        assert not np.array_equal(images[1:, 2:6, 1:5], once[1:, 2:6, 1:5])
    assert not np.array_equal(again, jump)


def test_an_edit_s_strength(monkeypatch: pytest.MonkeyPatch, still: Path, picture: Path) -> None:
    """Noised to t and, by a network that moves nothing, not cleaned: the stronger, the farther from the image."""
    far = []
    for strength in (0.1, 0.4, 1.0):
        words = ("--checkpoint", still, "--mode", "edit", "--image", picture, "--strength", strength)
        original, *results = run(monkeypatch, *words, "--images", 4)
        assert np.array_equal(original, pixels_of(picture))
        far.append(np.mean([np.abs(image.astype(int) - original).mean() for image in results]))
    assert far[0] < far[1] < far[2]


def test_an_animation_ends_with_the_image(monkeypatch: pytest.MonkeyPatch, conditional: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", str(conditional), "--steps", "6", "--images", "4", "--per-row", "2", "--device", "cpu"]
    for name in ("path.gif", "last.png"):
        monkeypatch.setattr(sys, "argv", ["sample", *words, "--out", str(tmp_path / "made" / name)])
        sample.main(sample.arguments())
    gif, png = (images_in((tmp_path / "made" / name).read_bytes()) for name in ("path.gif", "last.png"))
    assert len(gif) == 6
    assert np.abs(np.concatenate(gif[-1]).astype(int) - np.concatenate(png[0])).mean() < 12, "but for the palette"


def test_an_animation_is_as_large_as_a_picture(monkeypatch: pytest.MonkeyPatch, conditional: Path, tmp_path: Path) -> None:
    sizes = []
    for name in ("a.gif", "a.png"):
        words = ["--checkpoint", conditional, "--steps", 2, "--images", 4, "--per-row", 2, "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["sample", *map(str, words), "--out", str(tmp_path / name)])
        sample.main(sample.arguments())
        with Image.open(tmp_path / name) as image:
            sizes.append(image.width)
    assert sizes[0] == sizes[1] > 400


@pytest.mark.parametrize(
    ("checkpoint", "words", "above", "over"),
    [
        ("still", "--images 3", "still.safetensors, EMA weights of step 7: UniPC 2, karras, seed 5", None),
        (
            "conditional", "--images 7 --guidance 3",
            "conditional.safetensors, EMA weights of step 7: UniPC 2, karras, seed 5, guidance 3",
            ["hero", "monster", "food", "spell", "side", "hero", "monster"],
        ),
        (
            "conditional", "--images 3 --class 3 food", "UniPC 2, karras, seed 5, spell and food, guidance 2",
            ["spell", "food", "spell"],
        ),
        ("conditional", "--images 2 --guidance 0", "UniPC 2, karras, seed 5, guidance 0", None),
        ("conditional", "--images 2 --context 0.5,0,0,0.5,0", "seed 5, context 0.5, 0, 0, 0.5, 0, guidance 2", None),
        ("still", "--mode interpolate --seed-to 8 --images 3", "UniPC 2, karras, seed 5 to 8", ["0.00", "0.50", "1.00"]),
        ("still", "--mode interpolate --image IMAGE IMAGE --images 2", "seed 5, interpolate picture.png, picture.png",
         ["given", "given", "0.00", "1.00"]),
        ("still", "--mode reconstruct --image IMAGE", "reconstruct picture.png", ["given", "its noise", "and back"]),
        ("conditional", "--mode edit --image IMAGE --images 2 --class side", "edit picture.png, strength 0.5, side, guidance 2",
         ["given", "side", "side"]),
        ("still", "--mode inpaint --image IMAGE --mask 0,0,4,4 --images 1", "inpaint picture.png", ["given", ""]),
    ],
)  # fmt: skip
def test_a_picture_says_what_it_shows(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    picture: Path,
    checkpoint: str,
    words: str,
    above: str,
    over: list[str] | None,
) -> None:
    """In rows of two, whose last is filled up with white; the images are those of the same command's .npy."""
    written = []

    def save_rows(path: Path, rows: list[Row], title: str) -> None:
        written.append((title, [caption for row in rows for caption in row.captions]))
        pictures.save_labelled_rows(path, rows, title)

    def save_grid(path: Path, images: np.ndarray, per_row: int, title: str) -> None:
        written.append((title, []))
        pictures.save_grid(path, images, per_row, title)

    monkeypatch.setattr(sample, "save_labelled_rows", save_rows)
    monkeypatch.setattr(sample, "save_grid", save_grid)
    given = ["--checkpoint", str(request.getfixturevalue(checkpoint)), "--steps", "2", "--seed", "5", "--per-row", "2"]
    given += ["--device", "cpu", *(str(picture) if word == "IMAGE" else word for word in words.split())]
    for name in ("a.png", "a.npy"):
        monkeypatch.setattr(sys, "argv", ["sample", *given, "--out", str(tmp_path / name)])
        sample.main(sample.arguments())
    images = np.load(tmp_path / "a.npy")
    ((title, captions),) = written
    assert above in title
    assert captions == ([] if over is None else over + [""] * (-len(over) % 2))
    (rows,) = images_in((tmp_path / "a.png").read_bytes())
    assert np.array_equal(np.concatenate(rows)[: len(images)], images)
    assert (np.concatenate(rows)[len(images) :] == 255).all()
    assert len(rows) == -(-len(images) // 2)


def test_a_given_picture_is_seen_as_a_viewer_shows_it(monkeypatch: pytest.MonkeyPatch, still: Path, tmp_path: Path) -> None:
    """A photograph that lies on its side and says so; 16 bits a pixel; and what shines through."""
    upright = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(tmp_path / "side.png", exif=exif)
    gray = np.arange(64, dtype=np.uint16).reshape(8, 8) * 257 * 4
    Image.fromarray(gray).save(tmp_path / "deep.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "glass.png")
    deep = np.repeat((gray // 257)[..., None], 3, -1)
    for name, wanted in (("side", upright), ("deep", deep), ("glass", np.full((8, 8, 3), 255))):
        words = ("--checkpoint", still, "--mode", "edit", "--image", tmp_path / f"{name}.png", "--steps", 1, "--images", 1)
        assert np.array_equal(run(monkeypatch, *words)[0], wanted), name


def test_a_reconstruction_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], still: Path, picture: Path
) -> None:
    words = ("--checkpoint", still, "--mode", "reconstruct", "--image", picture, "--steps", 20)
    original, _, back = run(monkeypatch, *words).astype(float)
    said = re.search(r"changed the image by ([\d.]+) \(RMS", capsys.readouterr().out)
    assert said
    assert float(said[1]) == pytest.approx(np.sqrt(((back - original) ** 2).mean()) / 255, abs=1e-4)


def test_where_nothing_can_be_written_nothing_is_drawn(
    monkeypatch: pytest.MonkeyPatch, conditional: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(sample, "load", lambda *given: pytest.fail("it is loaded"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    places = [tmp_path / name for name in ("file/a.png", "file/deeper/a.png", "folder.png", f"{'long' * 62}.png")]
    for out in (*places, Path("/proc/self/a.png")):
        monkeypatch.setattr(sys, "argv", ["sample", "--checkpoint", str(conditional), "--out", str(out)])
        with pytest.raises(Fault, match=r"--out .*: cannot be written there \(.*\); accepted: a file in a folder"):
            sample.main(sample.arguments())


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, conditional: Path) -> Path:
    """A checkout with a checkpoint of the demo, one of small/ that is shared, and two recipes that nobody has trained."""
    for module in (stages, sample, revisions):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "models/demo/sprites").mkdir(parents=True)
    conditional.rename(tmp_path / "models/demo/sprites/ema.safetensors")
    for folder, trained in ((tmp_path, ["sprites", "cifar10"]), (tmp_path / "small", ["celeba"])):
        folder.mkdir(exist_ok=True)
        (folder / "params.yaml").write_text("recipes: {sprites: {}, cifar10: {}, celeba: {}, fashion_mnist: {}}\n")
        (folder / "dvc.lock").write_text(json.dumps({"stages": {f"train@{name}": {} for name in trained}}))
    return tmp_path


def test_the_list_says_what_is_here_and_what_fetches_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shelf: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["sample", "--list"])
    sample.main(sample.arguments())
    assert [re.sub(" {2,}", " | ", line) for line in capsys.readouterr().out.splitlines()] == [
        "cifar10 --scale demo | not here; dvc pull train@cifar10",
        "sprites --scale demo | 8 px, 0.0 M parameters, step 7: three test images; hero, monster, food, spell, side",
        "celeba --scale small | not here; dvc pull small/dvc.yaml:train@celeba",
    ]
    for name, content in (("a copy", b""), ("cifar10", b"cut")):  # neither hides the others
        (shelf / "models/demo" / name).mkdir()
        (shelf / "models/demo" / name / "ema.safetensors").write_bytes(content)
    sample.main(sample.arguments())
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0].split("  ")[0] for line in lines] == [
        "a copy --scale demo", "cifar10 --scale demo", "sprites --scale demo", "celeba --scale small"
    ]  # fmt: skip
    assert "cannot be drawn from: recipe 'a copy'; accepted:" in lines[0]
    assert re.search("cannot be drawn from: .*ema.safetensors", lines[1])


def test_marks_of_a_merge_in_a_file_are_named(monkeypatch: pytest.MonkeyPatch, shelf: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sample", "--list"])
    for text in ("<<<<<<< HEAD\nstages:\n=======\n", "[1]", "a: b: c"):
        (shelf / "dvc.lock").write_text(text)
        with pytest.raises(Fault, match=r"^dvc\.lock: .*accepted: YAML, named entries"):
            sample.main(sample.arguments())
    (shelf / "dvc.lock").write_text("")
    sample.main(sample.arguments())


def test_what_is_drawn_of_a_file_is_named_by_what_it_says() -> None:
    """So that two files of the same name do not replace each other's pictures."""
    for header, name, wanted in (
        ({}, "ema", "ema"),
        ({"scale": "small", "recipe": "mine_2"}, "ema", "small-mine_2"),
        ({"scale": "small", "recipe": "mine_2"}, "ema-000400", "small-mine_2-ema-000400"),
        ({"scale": "small", "recipe": "../mine"}, "ema", "ema"),
    ):
        assert name_of(header, Path(f"x/{name}.safetensors")) == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cifar10", "no ema weights of cifar10 in models/demo/cifar10, but shared ones: dvc pull train@cifar10"),
        ("celeba --scale small", "but shared ones: dvc pull small/dvc.yaml:train@celeba"),
        ("fashion_mnist", "nor shared ones; once recipe_names has its name, this trains it: dvc repro train@fashion_mnist"),
        ("sprites --scale small", "nor shared ones; .* this trains it: \\(cd small && dvc repro train@sprites\\)"),
        ("sprites --weights raw", "no raw weights of sprites in models/demo/sprites, nor shared ones"),
        ("nobody", "and no such recipe in params.yaml: python -m tools.sample --list"),
        ("nobody --scale full", "and no such recipe in full/params.yaml"),
        ("--checkpoint nowhere.safetensors", "nowhere.safetensors: no such file; accepted: a .safetensors file"),
    ],
)
def test_a_checkpoint_that_is_not_there_comes_with_advice_that_can_help(
    monkeypatch: pytest.MonkeyPatch, shelf: Path, words: str, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["sample", *words.split()])
    with pytest.raises(Fault, match=said):
        sample.main(sample.arguments())


COMBINATIONS = [
    ([], "a recipe, or --checkpoint FILE"),
    (["cifar10", "--checkpoint", "x"], "and not both"),
    (["--checkpoint", "x", "--weights", "raw"], "one of the two"),
    (["cifar10", "--eta", "0.5", "--method", "ddpm"], "0 to 1, with --method ddim"),
    (["cifar10", "--eta", "2"], "0 to 1, with --method ddim"),
    (["cifar10", "--variance", "large"], "with --method ddpm"),
    (["cifar10", "--class", "1", "--context", "1,0"], "one of the two"),
    (["cifar10", "--guidance", "-1"], "0 or more"),
    (["cifar10", "--context", "a,b"], "numbers with commas"),
    (["cifar10", "--mask", "0,0,1,1"], "with --mode inpaint"),
    (["cifar10", "--times", "5", "--method", "ddpm"], "with --mode inpaint and --method ddpm"),
    (["cifar10", "--mode", "inpaint", "--image", "a.png", "--mask", "0,0,1,1", "--jump", "2"], "and --method ddpm"),
    (
        ["cifar10", "--mode", "inpaint", "--image", "a.png", "--mask", "0,0,1,1", "--method", "ddpm", "--jump", "2"],
        "--jump 2: accepted with --times 2 or more",
    ),
    (["cifar10", "--strength", "0.5"], "with --mode edit"),
    (["cifar10", "--seed-to", "5"], "with --mode interpolate"),
    (["cifar10", "--image", "a.png"], "accepted: 0"),
    (["cifar10", "--mode", "edit"], "accepted: 1"),
    (["cifar10", "--mode", "interpolate", "--image", "a.png"], "accepted: 2, or --seed-to"),
    (["cifar10", "--mode", "inpaint", "--image", "a.png"], "accepted with --mask"),
    (["cifar10", "--mode", "edit", "--image", "a.png", "--strength", "0"], "above 0, at most 1"),
    (["cifar10", "--mode", "reconstruct", "--image", "a.png", "--method", "ddpm"], "ddim, dpm_solver_pp, unipc, heun"),
    (["cifar10", "--mode", "interpolate", "--seed-to", "1", "--eta", "1"], "with eta 0"),
    (["cifar10", "--seed", "-1"], "0 to 2**32 - 1"),
    (["cifar10", "--out", "a.jpg"], ".png, .gif or .npy"),
    (["cifar10", "--method", "euler"], "dpm_solver_pp"),
    (["cifar10", "--steps", "0"], "1 or more"),
]


@pytest.mark.parametrize(("words", "accepted"), COMBINATIONS, ids=[" ".join(words) for words, _ in COMBINATIONS])
def test_a_wrong_combination_says_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], accepted: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["sample", *words])
    with pytest.raises(SystemExit) as ended:
        sample.arguments()
    assert ended.value.code == 2
    assert accepted in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("which", "words", "accepted"),
    [
        ("conditional", ["--class", "cat"], "accepted: hero, monster, food, spell, side, or 0 to 4"),
        ("conditional", ["--class", "5"], "accepted: hero, monster"),
        ("conditional", ["--context", "1,0"], "has 2 numbers; accepted: 5, for hero"),
        ("conditional", ["--steps", "21"], "accepted: 1 to 20"),
        ("conditional", ["--mode", "edit", "--image", "PICTURE", "--strength", "0.5", "--steps", "11"], "accepted: 1 to 10"),
        ("conditional", ["--images", "65", "--out", "a.gif"], "at most 64 in an animation"),
        ("conditional", ["--mode", "edit", "--image", "nothing.png"], "accepted: a picture"),
        ("conditional", ["--mode", "inpaint", "--image", "PICTURE", "--mask", "0,0,9,1"], "within 0 to 8"),
        ("conditional", ["--mode", "inpaint", "--image", "PICTURE", "--mask", "nothing.png"], "accepted: a picture, or LEFT"),
        ("still", ["--class", "1"], "--class: this checkpoint is unconditional"),
        ("still", ["--guidance", "3"], "--guidance: this checkpoint is unconditional"),
        ("conditional", ["--device", "tpu"], "device = 'tpu'; accepted: auto, cpu"),
    ],
)
def test_what_a_checkpoint_cannot_do_is_said(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    picture: Path,
    tmp_path: Path,
    which: str,
    words: list[str],
    accepted: str,
) -> None:
    checkpoint = request.getfixturevalue(which)
    monkeypatch.chdir(tmp_path)
    words = [str(picture) if word == "PICTURE" else word for word in words]
    monkeypatch.setattr(sys, "argv", ["sample", "--checkpoint", str(checkpoint), "--images", "2", *words])
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(Fault, match=r".*") as fault:
        sample.main(sample.arguments())
    assert accepted in str(fault.value)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_half_precision_draws_nearly_the_same(monkeypatch: pytest.MonkeyPatch, conditional: Path) -> None:
    words = ("--checkpoint", conditional, "--steps", 3, "--images", 2)
    exact = run(monkeypatch, *words, "--precision", "fp32").astype(int)
    rough = run(monkeypatch, *words, "--precision", "bf16").astype(int)
    assert 0 < np.abs(rough - exact).mean() < 10
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
def test_make_samples_draws_from_a_download_without_git(tmp_path: Path) -> None:
    """As GitHub packs it, after `make setup`: DVC is told that there is no git, and the checkpoints come out of store/."""
    checkout = Checkout(tmp_path / "ddpm")
    packed = subprocess.run(["git", "archive", "--format=tar", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(checkout.path, filter="data")
    (checkout.path / ".venv").symlink_to(sys.prefix)
    checkout.run("make", "--assume-old=.venv/.installed", "samples")
    for name in ("faces", "classes"):
        with Image.open(checkout.path / f"samples/{name}.png") as image:
            assert image.width > 700
    assert "celeba --scale small             64 px, 2.2 M parameters" in checkout.python("-m", "tools.sample", "--list")

    # What needs git says so, and has it as docs/sharing.md says.
    assert "Only supported for Git repositories" in checkout.dvc("exp", "run", "config@sprites", rc=None)
    assert "is no git repository, so it has no revisions" in checkout.python("-m", "tools.compare", "main", rc=1)
    checkout.python("-m", "tools.report", "--recipes", "sprites")
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.commit("Download")
    checkout.run("make", "--assume-old=.venv/.installed", "setup")
    assert "Only supported" not in checkout.dvc("metrics", "diff")
    assert "no experiment of HEAD differs" in checkout.python("-m", "tools.experiments")
