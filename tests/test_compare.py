"""`tools.compare`: verdicts worked out by hand, a real git repository, and real experiments of DVC with tiny checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Checkout
from ddpm.base.faults import Fault
from ddpm.figures.pictures import images_in
from ddpm.sampling import load
from tiny import write_weights
from tools import compare

EVALUATION = {
    "sampler": "unipc 4", "images": 20, "seed": 3, "guidance": 3.0, "batch_size": 50, "precision": "fp32", "bound_images": 2,
    "inception": "",
}  # fmt: skip
QUALITY = {
    "fd": 10.0, "fd_floor": 1.0, "kid": 0.2, "kid_se": 0.03, "kid_floor": 0.001, "bits_per_dim": 4.0, "bits_per_dim_se": 0.5,
    "gap_q1": 0.1, "near_copies": 0.0, "samples": 400, "compared": 400, "sampler": "unipc 4", "yardstick_sha256": "a" * 64,
}  # fmt: skip


def facts(**changes: Any) -> compare.Facts:
    """A side whose evaluate.json is QUALITY with `changes`; None leaves a key out."""
    quality = {key: value for key, value in (QUALITY | changes).items() if value is not None}
    return compare.Facts(
        {}, quality, {"loss": 0.1, "parameters": 1_000_000}, {"sha256 of stats": "b", "sha256 of heldout": "c"}
    )


def said(a: compare.Facts, b: compare.Facts) -> dict[str, str]:
    return {row[0]: row[-1] for row in compare.rows(a, b)}


def cells(a: compare.Facts, b: compare.Facts, key: str) -> list[str]:
    return next(row for row in compare.rows(a, b) if row[0] == key)[1:]


# --- Verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "a", "b", "wanted"),
    [
        # The errors are 0.03 and 0.04, that of the difference 0.05: two of them are 0.1.
        ("kid", (0.2, 0.03), (0.1, 0.04), "better"),  # exactly two are not below two
        ("kid", (0.2, 0.03), (0.1001, 0.04), "none"),
        ("kid", (0.2, 0.03), (0.0999, 0.04), "better"),
        ("kid", (0.1, 0.04), (0.2, 0.03), "worse"),
        ("kid", (-0.02, 0.03), (-0.13, 0.04), "better"),  # of two negative ones the more negative
        ("kid", (0.04, 0.03), (-0.05, 0.04), "none"),
        ("kid", (0.7, 0.03), (0.6, 0.04), "better"),  # 0.7 - 0.6 is a little less than 0.1 in binary
        ("bits_per_dim", (4.0, 0.0), (4.0, 0.0), "none"),
        ("bits_per_dim", (4.0, 0.0), (4.001, 0.0), "worse"),
    ],
)
def test_a_verdict_takes_two_standard_errors(key: str, a: tuple[float, float], b: tuple[float, float], wanted: str) -> None:
    sides = [facts(**{key: value, f"{key}_se": error}) for value, error in (a, b)]
    assert said(*sides)[key] == wanted


def test_accuracy_has_the_error_of_a_share() -> None:
    """0.5 of 400 images: 0.025. Of the difference 0.025 sqrt 2 = 0.0354, and twice that is 0.0707."""
    assert said(facts(accuracy=0.5), facts(accuracy=0.565))["accuracy"] == "none"
    assert said(facts(accuracy=0.5), facts(accuracy=0.575))["accuracy"] == "better"
    assert said(facts(accuracy=0.575), facts(accuracy=0.5))["accuracy"] == "worse"
    assert cells(facts(accuracy=0.5), facts(accuracy=0.5), "accuracy")[3] == "0.035"


def test_no_verdict_without_a_standard_error_or_a_direction() -> None:
    a, b = facts(), facts(fd=20.0, gap_q1=0.5, kid=0.1, kid_se=None)
    assert said(a, b)["fd"] == said(a, b)["kid"] == said(b, a)["kid"] == "no standard error"
    assert said(a, b)["gap_q1"] == said(a, b)["parameters"] == ""
    assert said(a, a)["fd"] == "none", "the same number"


def test_a_missing_measure_leaves_cells_empty() -> None:
    assert cells(facts(), facts(accuracy=0.5), "accuracy") == ["", "0.5", "", "", "", ""]
    assert cells(facts(kid=None, kid_floor=None), facts(), "kid") == ["", "0.2", "", "", "0.001", ""]


def test_what_a_row_says() -> None:
    a, b = facts(), facts(kid=0.1, kid_se=0.04, kid_floor=0.002)
    assert cells(a, b, "kid") == ["0.2", "0.1", "-0.1", "0.05", "0.001 / 0.002", "better"]
    assert cells(a, b, "fd") == ["10", "10", "+0", "", "1", "none"]
    assert cells(a, b, "parameters") == ["1,000,000", "1,000,000", "+0", "", "", ""]
    names = [row[0] for row in compare.rows(a, b)]
    assert names == ["fd", "kid", "bits_per_dim", "gap_q1", "near_copies", "loss", "parameters"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"yardstick_sha256": "d" * 64}, "yardstick_sha256 (aaaaaaaaaaaa / dddddddddddd)"),
        ({"samples": 500}, "samples (400 / 500)"),
        ({"compared": 300}, "compared (400 / 300)"),
        ({"sampler": "unipc 10"}, "sampler (unipc 4 / unipc 10)"),
        ({"sampler": None}, "sampler (unipc 4 / missing)"),
    ],
)
def test_what_was_not_measured_alike_gets_no_verdict(changes: dict[str, Any], named: str) -> None:
    a, b = facts(), facts(kid=0.01, **changes)
    assert compare.differing(a, b) == [named]
    assert said(a, b)["kid"] == said(a, b)["fd"] == "not comparable"
    assert said(a, b)["loss"] == "none", "whose scale is not that of the measures"


def test_guidance_is_a_way_of_measuring_conditional_models() -> None:
    a, b = ({"train.context_dim": 10, "evaluation.guidance": guidance} for guidance in (1.0, 2.0))
    a, b = (facts()._replace(settings=settings) for settings in (a, b))
    assert compare.differing(a, b) == ["guidance (1.0 / 2.0)"]
    assert compare.differing(a, a) == []
    a, b = (side._replace(settings=side.settings | {"train.context_dim": 0}) for side in (a, b))
    assert compare.differing(a, b) == [], "it changes nothing without classes"


def test_other_data_or_an_unknown_yardstick_is_not_comparable() -> None:
    a, b = facts(), facts()._replace(hashes={"sha256 of stats": "b", "sha256 of heldout": "d"})
    assert compare.differing(a, b) == ["sha256 of heldout (c / d)"]
    assert said(a, b)["kid"] == "not comparable"
    unnamed = facts(yardstick_sha256=None)
    assert compare.differing(unnamed, unnamed) == ["yardstick_sha256 (missing / missing)"]


# --- A repository with two commits ---------------------------------------------------------------------------------


def write_facts(root: Path, recipe: str, quality: dict[str, Any], **train: Any) -> None:
    """The files of a recipe that was evaluated."""
    metrics, data = root / "metrics/demo" / recipe, root / "data/demo" / recipe
    contents = {
        metrics / "evaluate.json": quality,
        metrics / "train.json": {"loss": 0.1, "parameters": 1000},
        metrics / "config/train.json": {"lr": 0.001, "channels": [8, 16]} | train,
        metrics / "config/evaluation.json": EVALUATION,
        root / "metrics/demo/seconds" / recipe / "train.json": {"seconds": 12.5},
        data / "stats.json": {"sha256": "e" * 64},
        data / "heldout.json": {"sha256": "f" * 64},
    }
    for path, values in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


def repository(path: Path) -> Checkout:
    """Two commits: two recipes are measured at `first`, one of them at `second`, with other settings and another KID."""
    checkout = Checkout(path)
    path.mkdir()
    runtime = {"device": "cpu", "workers": 1, "save_seconds": 1.0, "preview_every": 0.0, "tensorboard": False, "launcher": ""}
    (path / "params.yaml").write_text(json.dumps({"recipes": {"one": {}, "two": {}}, "runtime": runtime}))
    checkout.git("init", "--quiet", "--initial-branch=main")
    write_facts(path, "one", QUALITY)
    write_facts(path, "two", QUALITY)
    checkout.commit("first")
    checkout.git("tag", "first")
    write_facts(path, "one", QUALITY | {"kid": 0.05, "near_copies": 0.01}, channels=[8, 24], dropout=0.1)
    (path / "metrics/demo/two/evaluate.json").unlink()
    checkout.commit("second")
    checkout.git("tag", "second")
    return checkout


def work_on(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command believe that it belongs to `checkout`."""
    for module in ("stages", "tools.revisions", "tools.compare", "tools.outdated"):
        monkeypatch.setattr(f"{module}.ROOT", checkout.path)
    for name in list(os.environ):
        if name not in checkout.env:
            monkeypatch.delenv(name)
    for name, value in checkout.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    checkout = repository(tmp_path / "project")
    work_on(checkout, monkeypatch)
    return checkout


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, words)])
    compare.main(compare.arguments())


def test_two_revisions_side_by_side(project: Checkout, monkeypatch, capsys, tmp_path: Path) -> None:
    run(monkeypatch, "first", "second", "--out", tmp_path / "made.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "one: first -> second",
        "settings that differ:",
        "  train.channels: [8, 16] -> [8, 24]",
        "  train.dropout: unset -> 0.1",
    ]
    table = {line.split()[0]: line.split() for line in lines[4:] if line}
    assert table["kid"] == ["kid", "0.2", "0.05", "-0.15", "0.042", "0.001", "better"]  # 0.03 sqrt 2 = 0.042
    assert table["near_copies"] == ["near_copies", "0", "0.01", "+0.01", "no", "standard", "error"]
    assert "seconds to train 12.5 12.5 +0 none" in [" ".join(line.split()) for line in lines]
    assert "two: " not in "\n".join(lines), "measured on one side only"
    assert any(
        line.startswith("one is not in the picture: models/demo/one/ema.safetensors of first is neither") for line in lines
    )
    assert not (tmp_path / "made.png").exists()


def test_the_seconds_of_another_training_are_not_shown(project: Checkout, monkeypatch, capsys, tmp_path: Path) -> None:
    """Those of `first` stay beside a training that DVC restores from its run cache: no output, it brings none."""
    path = project.path / "metrics/demo/one"
    for loss, name in ((0.1, "trained"), (0.2, "restored")):
        (path / "speed.json").write_text(json.dumps({"weights_sha256": "c" * 64}))
        (path / "train.json").write_text(json.dumps({"loss": loss, "parameters": 1000}))
        project.commit(name)
        project.git("tag", name)
    run(monkeypatch, "trained", "restored", "--out", tmp_path / "made.png")
    assert "seconds to train 12.5" in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    run(monkeypatch, "trained", "trained", "--out", tmp_path / "made.png")
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "seconds to train 12.5 12.5 +0 none" in said


def test_the_working_tree_is_the_default(project: Checkout, monkeypatch, capsys) -> None:
    write_facts(project.path, "one", QUALITY | {"kid": 0.9}, channels=[8, 24])
    run(monkeypatch, "second")
    output = capsys.readouterr().out
    assert "one: second -> workspace" in output
    assert "  train.dropout: 0.1 -> unset" in output
    assert [line.split()[-1] for line in output.splitlines() if line.startswith("kid ")] == ["worse"]
    run(monkeypatch, "workspace", "second")
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("kid ")] == ["better"]


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        (["nothing"], "revision 'nothing' is not known here; accepted: a commit, branch or tag"),
        (["first", "--recipes", "two"], "--recipes two; accepted: one, those measured at both first and workspace"),
        (
            ["first", "--scale", "small"],
            "first has none and workspace has none; accepted: revisions that hold the same metrics/small",
        ),
    ],
)
def test_wrong_names_say_what_would_be_right(project: Checkout, monkeypatch, words: list[str], accepted: str) -> None:
    with pytest.raises(Fault) as fault:
        run(monkeypatch, *words)
    assert accepted in str(fault.value)


def test_a_damaged_file_is_named(project: Checkout, monkeypatch) -> None:
    (project.path / "metrics/demo/one/evaluate.json").write_text("<<<<<<< HEAD")
    with pytest.raises(Fault, match=r"one/evaluate\.json at workspace"):
        run(monkeypatch, "first")
    (project.path / "metrics/demo/one/evaluate.json").write_text("[]")
    with pytest.raises(Fault, match=r"one/evaluate\.json at workspace: holds list; accepted: JSON"):
        run(monkeypatch, "first")
    (project.path / "params.yaml").write_text("recipes: [")
    with pytest.raises(Fault, match=r"params\.yaml at workspace"):
        run(monkeypatch, "first")


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        (["--images", "0"], "1 or more"),
        (["--images", "many"], "many: accepted: 1 or more"),
        (["--images", "101"], "1 to 100"),
        (["--out", "a.jpg"], "ends in .png"),
        (["--scale", "tiny"], "demo"),
    ],
)
def test_wrong_options_end_at_once(monkeypatch, capsys, words: list[str], accepted: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "HEAD", *words])
    with pytest.raises(SystemExit):
        compare.arguments()
    assert accepted in capsys.readouterr().err


# --- Experiments of DVC and their pictures -------------------------------------------------------------------------

PIPELINE = """
stages:
  train:
    cmd: mkdir -p models/demo/one && cp ${weights} models/demo/one/ema.safetensors
    params: [weights]
    outs: [models/demo/one]
"""
CONFIG = "[core]\n    remote = store\n    analytics = false\n['remote \"store\"']\n    url = ../store\n    verify = true\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """`repository` with a checkpoint that its store holds, tagged `base`, and an experiment `other` only in the cache."""
    folder = tmp_path_factory.mktemp("built")
    checkout = repository(folder / "project")
    contents = {".dvc/config": CONFIG, ".dvc/.gitignore": "/tmp\n/cache\n", ".gitignore": "/models\n", "dvc.yaml": PIPELINE}
    for name, text in contents.items():
        (checkout.path / name).parent.mkdir(exist_ok=True)
        (checkout.path / name).write_text(text)
    params = json.loads((checkout.path / "params.yaml").read_text())
    (checkout.path / "params.yaml").write_text(json.dumps(params | {"weights": str(folder / "a")}))
    write_weights(folder / "a", seed=1, context_dim=5)
    write_weights(folder / "b", seed=2, context_dim=5)
    checkout.dvc("repro", "--quiet")
    checkout.dvc("push", "--quiet")
    checkout.commit("base")
    checkout.git("tag", "base")
    checkout.dvc("exp", "run", "--quiet", "--name", "other", "--set-param", f"weights={folder / 'b'}")
    checkout.git("checkout", "--quiet", ".")
    shutil.rmtree(checkout.path / "models")
    return checkout


@pytest.fixture
def trained(built: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A copy of `built` of this test's own, and its two checkpoints, a and b, beside it."""
    for name in "ab":
        shutil.copy(built.path.with_name(name), tmp_path)
    checkout = built.copy(tmp_path / "project")
    work_on(checkout, monkeypatch)
    return checkout


def rows_of(picture: Path) -> list[np.ndarray]:
    """The rows of images of a picture, uint8 (N, H, W, 3) each."""
    (rows,) = images_in(picture.read_bytes())
    return rows


def sampled(path: Path, count: int, sampler: str = "unipc 4", seed: int = 3) -> np.ndarray:
    """The row that belongs into the picture, drawn from the file itself; guidance as in EVALUATION."""
    return load(path, "cpu", "fp32").sample(count, sampler, seed, guidance=3.0)


def test_the_rows_are_the_seeds_of_both_checkpoints(trained: Checkout, monkeypatch, capsys, tmp_path: Path) -> None:
    """One from the cache by its tag, one of an experiment that no remote has, then one out of the store of a clone."""
    picture = tmp_path / "made" / "rows.png"
    run(monkeypatch, "base", "other", "--images", 6, "--out", picture)
    assert f"wrote {picture}: for each recipe base above other, the same 6 seeds" in capsys.readouterr().out
    first, second = rows_of(picture)
    assert np.array_equal(first, sampled(tmp_path / "a", 6))
    assert np.array_equal(second, sampled(tmp_path / "b", 6))
    assert not np.array_equal(first, second)

    clone = Checkout(tmp_path / "clone")
    trained.git("clone", "--quiet", trained.path, clone.path)
    shutil.rmtree(trained.path / ".dvc/cache")
    work_on(clone, monkeypatch)
    run(monkeypatch, "base", "main", "--images", 2, "--out", picture)
    for row in rows_of(picture):
        assert np.array_equal(row, sampled(tmp_path / "a", 2))
    for file in (clone.path / "store/files/md5").glob("*/*"):  # DVC itself would pass on what it finds
        file.chmod(0o644)
        file.write_bytes(file.read_bytes() if file.suffix else b"damaged")
    with pytest.raises(Fault, match="of base is damaged in DVC's cache or remote"):
        compare.checkpoint(compare.side_of("base"), "models/demo/one/ema.safetensors", tmp_path)


def test_models_of_other_kinds_stand_above_each_other(trained: Checkout, monkeypatch, capsys, tmp_path: Path) -> None:
    """Another size of image, no classes, and an evaluation of its own, whose sampler and seed are those of both rows."""
    (trained.path / "models/demo/one").mkdir(parents=True)
    here = trained.path / "models/demo/one/ema.safetensors"
    write_weights(here, seed=4, size=16)
    settings = EVALUATION | {"sampler": "ddim 5", "seed": 9, "guidance": 1.0}
    (trained.path / compare.settings_file("demo", "one")).write_text(json.dumps(settings))
    picture = tmp_path / "rows.png"
    run(monkeypatch, "base", "--images", 3, "--out", picture)
    assert "one: images of another shape start from other noise" in capsys.readouterr().out
    first, second = rows_of(picture)
    assert np.array_equal(first, sampled(tmp_path / "a", 3, "ddim 5", 9)), "guided as its own evaluation was"
    assert np.array_equal(second, sampled(here, 3, "ddim 5", 9))


def test_the_rows_are_guided_as_what_was_measured(trained: Checkout, monkeypatch, tmp_path: Path) -> None:
    """Away from the file that evaluate.json names, by the scale of the side's own settings."""
    (trained.path / "models/demo/one").mkdir(parents=True)
    here = trained.path / "models/demo/one/ema.safetensors"
    for name, seed in ((here, 4), (here.with_name("ema-000002.safetensors"), 5)):
        write_weights(name, seed=seed, context_dim=5)
    (trained.path / compare.settings_file("demo", "one")).write_text(json.dumps(EVALUATION | {"autoguidance": 2.0}))
    measured = trained.path / "metrics/demo/one/evaluate.json"
    measured.write_text(json.dumps(json.loads(measured.read_text()) | {"guide": "ema-000002.safetensors"}))
    run(monkeypatch, "base", "--images", 3, "--out", tmp_path / "rows.png")
    first, second = rows_of(tmp_path / "rows.png")
    assert np.array_equal(first, sampled(tmp_path / "a", 3))
    model = load(here, "cpu", "fp32", here.with_name("ema-000002.safetensors"))
    assert np.array_equal(second, model.sample(3, "unipc 4", 3, guidance=3.0, autoguidance=2.0))
    assert not np.array_equal(second, sampled(here, 3))


def test_without_a_checkpoint_there_are_the_numbers(trained: Checkout, monkeypatch, capsys, tmp_path: Path) -> None:
    shutil.rmtree(trained.path / ".dvc/cache")
    picture = tmp_path / "rows.png"
    run(monkeypatch, "base", "other", "--out", picture)
    output = capsys.readouterr().out
    assert "kid " in output
    assert "one is not in the picture: models/demo/one/ema.safetensors of other is neither in DVC's cache" in output
    assert "`dvc exp push`" in output
    run(monkeypatch, "base", "--out", picture)
    assert "`dvc pull` fetches shared checkpoints" in capsys.readouterr().out
    assert not picture.exists()
