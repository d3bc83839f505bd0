"""The stage evaluate: what it writes, that it repeats, and that its numbers are those of the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import Checkout
from ddpm.base.faults import Fault
from ddpm.base.hashes import sha256_of
from ddpm.base.settings import validate
from ddpm.evaluation.copies import Nearest
from ddpm.evaluation.likelihood import Terms
from ddpm.evaluation.settings import EvaluationConfig
from ddpm.evaluation.yardstick import CLASSES, WEIGHTS
from stages.evaluate import Found, distances, likelihood, suspects

MEASURES = {
    "fd", "fd_floor", "kid", "kid_se", "kid_floor", "density", "density_floor", "coverage", "coverage_floor",
    "bits_per_dim", "bits_per_dim_se", "gap_q1", "gap_q2", "gap_q3", "gap_q4", "gap_q1_se", "gap_q2_se", "gap_q3_se",
    "gap_q4_se", "near_copies", "near_copies_floor", "copied", "copied_se", "c_t", "samples", "compared", "sampler",
    "autoguidance", "guide", "yardstick_sha256",
}  # fmt: skip


def results(checkout: Checkout, recipe: str = "cifar10") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((checkout.path / "metrics/demo" / recipe / "evaluate.json").read_text())
    return values


# --- Through the real stage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["cifar10", "celeba"])
def test_what_it_writes(done: Checkout, recipe: str) -> None:
    measured = results(done, recipe)
    assert measured.keys() == MEASURES, "no accuracy: no classes of CIFAR-10"
    assert (measured["samples"], measured["compared"], measured["sampler"]) == (20, 16, "unipc 2")
    assert measured["fd"] > measured["fd_floor"], "a network of six steps draws noise"
    assert measured["kid"] > measured["kid_floor"] + 3 * measured["kid_se"]
    assert 0 <= measured["coverage"] <= 1
    assert measured["bits_per_dim"] > 0
    rows = (done.path / "metrics/demo" / recipe / "nearest.csv").read_text().splitlines()
    assert rows[0] == "sample,index,mirrored,distance,ratio"
    ratios = [float(row.split(",")[-1]) for row in rows[1:]]
    assert len(ratios) == 16
    assert ratios == sorted(ratios)


def test_the_same_bytes_at_any_number_of_processes_and_without_what_was_kept(done: Checkout) -> None:
    folder = done.path / "metrics/demo/cifar10"
    before = {name: (folder / name).read_bytes() for name in ("evaluate.json", "nearest.csv")}
    for kept in (done.path / "work").glob("features-*.npy"):
        kept.unlink()
    done.params(runtime__workers=2)
    done.python("-m", "stages.evaluate", "cifar10")
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len(list((done.path / "work").glob("features-*.npy"))) == 1


def test_autoguidance_by_the_kept_step_changes_what_is_drawn_and_nothing_else(done: Checkout) -> None:
    before = results(done)
    path = done.path / "metrics/demo/cifar10/config/evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"autoguidance": 3.0}))
    done.python("-m", "stages.evaluate", "cifar10")
    after = results(done)
    assert after["guide"] == sorted(file.name for file in (done.path / "models/demo/cifar10").glob("ema-*"))[-1]
    changed = {key for key in after if after[key] != before[key]}
    assert {"kid", "fd", "autoguidance", "guide"} <= changed
    assert not changed & {"kid_floor", "fd_floor", "bits_per_dim", "samples", "sampler"}, "the likelihood knows no guidance"


def test_a_model_of_other_images_is_refused(done: Checkout) -> None:
    path, work = done.path / "data/demo/cifar10/stats.json", done.path / "work/demo/cifar10"
    facts = json.loads(path.read_text())
    np.save(work / "other.npy", 255 - np.load(next(work.glob(f"images-{facts['sha256'][:16]}*.npy"))))
    other = sha256_of(work / "other.npy")
    (work / "other.npy").rename(work / f"images-{other[:16]}.npy")
    path.write_text(json.dumps(facts | {"sha256": other}))
    output = done.python("-m", "stages.evaluate", "cifar10", rc=1)
    assert "was trained on other images than data/demo/cifar10/stats.json describes" in output
    assert "Traceback" not in output


def test_lacking_inception_s_weights_it_says_so_and_measures_the_rest(done: Checkout) -> None:
    before = results(done)
    path = done.path / "metrics/demo/cifar10/config/evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"inception": "$DATA_HOME/nowhere.pth"}))
    output = done.python("-m", "stages.evaluate", "cifar10")
    assert "nowhere.pth is missing" in output
    assert "weights-inception-2015-12-05-6726825d.pth" in output, "where to get them"
    assert results(done) == before


@pytest.mark.slow
def test_a_conditional_model_of_cifar10_s_classes_is_asked_for_each(fresh: Checkout) -> None:
    """The stand-in has other classes than CIFAR-10: a checkpoint that says otherwise gets an accuracy, near chance."""
    fresh.params(recipe_names=["cifar10_classes"], conditional=["cifar10_classes"], evaluation__images=40)
    fresh.params(recipes__cifar10_classes__data__images=40)
    fresh.dvc("repro", "evaluate@cifar10_classes")
    assert "accuracy" not in results(fresh, "cifar10_classes")
    path = fresh.path / "models/demo/cifar10_classes/ema.safetensors"
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    key = next(key for key, value in header.items() if "classes" in key or '"classes"' in value)
    values = json.loads(header[key]) if key != "classes" else None
    header[key] = json.dumps(list(CLASSES)) if values is None else json.dumps(values | {"classes": list(CLASSES)})
    path.unlink()
    save_file(tensors, path, header)
    fresh.python("-m", "stages.evaluate", "cifar10_classes")
    assert 0 <= results(fresh, "cifar10_classes")["accuracy"] <= 0.5


# --- Oracles of the arithmetic -------------------------------------------------------------------------------------

CONFIG = EvaluationConfig(
    sampler="ddim 2", images=200, seed=0, guidance=1.0, batch_size=10, precision="fp32", bound_images=2, inception=""
)


def found(generated: np.ndarray, heldout: np.ndarray, training: np.ndarray, **changes: Any) -> Found:
    """What workers would bring home of these features."""
    terms = Terms(*(np.arange(3.0) for _ in range(3)), np.arange(12.0).reshape(3, 4))
    values: dict[str, Any] = {
        "drawn": np.zeros((len(generated), 1, 1, 1), np.uint8),
        "generated": generated,
        "named": np.zeros(len(generated), np.int64),
        "heldout": heldout,
        "training": training,
        "heldout_terms": terms,
        "training_terms": terms,
    }
    return Found(**values | changes)


def normal(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, 64))


def test_images_as_good_as_held_out_ones_measure_as_the_floor() -> None:
    heldout = normal(200, 1)
    measured = distances(found(heldout, heldout, normal(1000, 2)), CONFIG)
    for name in ("fd", "kid", "density", "coverage"):
        assert measured[name] == measured[f"{name}_floor"], name
    worse = distances(found(normal(200, 3, 0.5), heldout, normal(1000, 2)), CONFIG)
    assert worse["fd"] == pytest.approx(measured["fd"] + 64 * 0.25, rel=0.2), "|mu|^2 of the shift"
    assert worse["kid"] > measured["kid"] + 3 * worse["kid_se"]
    assert worse["coverage"] < measured["coverage"]


def test_as_many_on_each_side_as_there_are() -> None:
    measured = distances(found(normal(200, 1), normal(50, 2), normal(1000, 3)), CONFIG)
    assert measured["compared"] == 50
    fewer = distances(found(normal(200, 1)[:50], normal(50, 2), normal(1000, 3)), CONFIG)
    for name in ("fd", "density", "coverage"):
        assert measured[name] == fewer[name], name
    assert measured["kid"] != fewer["kid"], "KID does not depend on the number of images and takes all"


def test_the_gap_is_held_out_minus_training() -> None:
    known = Terms(*(np.full(3, 1.0) for _ in range(3)), np.full((3, 4), 2.0))
    unknown = Terms(np.full(3, 1.0), np.array([1.0, 2.0, 3.0]), np.full(3, 1.0), np.full((3, 4), 2.5))
    measured = likelihood(found(normal(20, 1), normal(20, 2), normal(20, 3), heldout_terms=unknown, training_terms=known))
    assert measured["bits_per_dim"] == 4.0
    assert measured["bits_per_dim_se"] == round(3**-0.5, 3), "sd 1 of three images"
    assert [measured[f"gap_q{number}"] for number in (1, 2, 3, 4)] == [0.5] * 4


def test_the_likeliest_copies_come_first() -> None:
    d2 = np.full(30, 10.0)
    near = Nearest(np.arange(30), np.arange(30) % 2 == 0, np.arange(30.0, 0, -1), d2)
    rows = suspects(near)
    assert [row["sample"] for row in rows] == list(range(29, 13, -1))
    assert rows[0] == {"sample": 29, "index": 29, "mirrored": 0, "distance": 1.0, "ratio": 0.1}


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("sampler", "wrong 10", "as in `unipc 20`"),
        ("sampler", "unipc", "as in `unipc 20`"),
        ("images", 5, "20 or more"),
        ("bound_images", 1, "2 or more"),
        ("guidance", -1.0, "0 or more"),
        ("precision", "fp16", "fp32, bf16 or auto"),
        ("inception", 5, "official, or the path"),
        ("batch_size", 0, "1 or more"),
    ],
)
def test_bad_settings_are_refused(key: str, value: Any, accepted: str) -> None:
    with pytest.raises(Fault) as fault:
        validate(EvaluationConfig, CONFIG.model_dump() | {key: value}, "evaluation")
    assert str(fault.value).startswith(f"evaluation.{key} = {value!r}; accepted: ")
    assert accepted in str(fault.value)


def test_the_weights_file_is_a_part_of_the_package() -> None:
    assert WEIGHTS.is_file()
    assert WEIGHTS.parent == Path(__file__).resolve().parents[1] / "src/ddpm/evaluation"
