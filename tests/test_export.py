"""Exported models: the same images as the checkpoint's over whole samplings, any batch, and what is beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stages
from conftest import ROOT
from ddpm.base.faults import Fault
from ddpm.model.weights import copy_weights, read_metadata
from ddpm.sampling import Model, load
from tiny import write_weights
from tools import export

pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime")

# Every choice that a network or its process has, in few models.
KINDS: dict[str, dict[str, Any]] = {
    "v": {"prediction": "v", "channels": [8, 16], "attention": [False, True], "heads": 2},
    "eps, classes": {"prediction": "eps", "schedule": "linear", "context_dim": 5, "norm": "batch", "activation": "relu"},
    "x0, neck": {
        "prediction": "x0", "zero_terminal_snr": True, "time_in": "neck", "neck_attention": True, "upsample": "transposed",
        "downsample": "max_pool", "context_dim": 2,
    },
}  # fmt: skip


def model_of(path: Path) -> Model:
    return load(path, "cpu", "fp32")


@pytest.mark.parametrize("form", ["onnx", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[] if "classes" in kind else pytest.mark.slow) for kind in KINDS])
def test_whole_samplings_agree(tmp_path: Path, kind: str, form: str) -> None:
    model = model_of(write_weights(tmp_path / "ema.safetensors", **KINDS[kind]))
    path = tmp_path / export.FILES[form]
    export.write_model(model, path, form, "fp16")
    for choice in ("ddpm 40", "unipc 10", "heun 9"):
        assert export.difference(model, path, model.sampler(choice)) < export.TOLERANCE, choice
    # A whole sampling tells a wrong model from a right one.
    other = model_of(write_weights(tmp_path / "other.safetensors", seed=1, **KINDS[kind]))
    assert export.difference(other, path, other.sampler("unipc 10")) > 100 * export.TOLERANCE


@pytest.mark.slow
def test_the_batch_is_free_and_half_precision_changes_no_bit(tmp_path: Path) -> None:
    model = model_of(write_weights(tmp_path / "ema.safetensors", **KINDS["eps, classes"]))
    outputs = {}
    for precision in export.PRECISIONS:
        export.write_model(model, tmp_path / f"{precision}.onnx", "onnx", precision)
        ask = export.read_model(tmp_path / f"{precision}.onnx")
        for batch in (1, 2, 7):
            inputs = export.inputs_of(model, batch)
            generator = torch.Generator().manual_seed(batch)
            inputs |= {"x_t": torch.randn(batch, *model.shape, generator=generator), "t": torch.arange(batch) * 5 + 3}
            inputs |= {"context": torch.eye(5)[torch.arange(batch) % 5], "guidance": torch.tensor(1.5)}
            outputs[precision, batch] = ask(**inputs)
            expected = model.denoiser(inputs["context"], 1.5)(inputs["x_t"], inputs["t"])
            torch.testing.assert_close(outputs[precision, batch], expected, rtol=0, atol=1e-5)
    assert all(torch.equal(outputs["fp16", batch], outputs["fp32", batch]) for batch in (1, 2, 7))
    halved, whole = ((tmp_path / f"{precision}.onnx").stat().st_size for precision in export.PRECISIONS)
    assert halved < whole


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    export.main(export.arguments())


def test_the_example_draws_the_library_s_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch and this project: neither can be imported there."""
    path = write_weights(tmp_path / "ema.safetensors", **KINDS["eps, classes"])
    run(monkeypatch, "--checkpoint", path, "--out", tmp_path / "out", "--sampler", "unipc 12")
    script = ROOT / "examples" / "sample_onnx.py"
    assert len([line for line in script.read_text().split('"""')[2].splitlines() if line]) <= 40
    blocked = f"import runpy, sys; sys.modules.update(torch=None, ddpm=None); runpy.run_path({str(script)!r})"
    subprocess.run([sys.executable, "-c", blocked, tmp_path / "out", "6", "3"], cwd=tmp_path, check=True)
    drawn = np.asarray(Image.open(tmp_path / "samples.ppm"))
    expected = model_of(path).sample(6, "ddim 12 quadratic", seed=3)
    assert np.abs(drawn.astype(int) - np.concatenate(list(expected), axis=1)).max() <= 1


@pytest.mark.slow
def test_what_stands_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(tmp_path / "ema.safetensors", **KINDS["v"])
    run(monkeypatch, "--checkpoint", path, "--out", tmp_path / "out", "--format", "torch")
    facts, model = json.loads((tmp_path / "out" / "model.json").read_text()), model_of(path)
    assert (facts["file"], facts["shape"], facts["classes"]) == ("model.pt2", [3, 8, 8], [])
    assert facts["sampler"] == "UniPC 20, karras"
    assert facts["sha256"] == export.sha256_of(tmp_path / "out" / "model.pt2")
    assert facts["alpha_bar"] == model.schedule.alpha_bar.tolist()
    assert facts["grid"] == model.sampler("unipc 20").grid(model.schedule)
    assert facts["card"] == json.loads(json.dumps(model.metadata))
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"model.pt2", "model.json"}


def test_what_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(tmp_path / "ema.safetensors", **KINDS["v"])
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(Fault, match=r"images by it differ by .* from the model's own; accepted: less than 0$"):
        run(monkeypatch, "--checkpoint", path, "--out", tmp_path / "out", "--format", "torch")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("reason", ["differs", "cannot be run"])
def test_an_earlier_export_outlives_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    path = write_weights(tmp_path / "ema.safetensors", **KINDS["v"])
    (tmp_path / "out").mkdir()
    earlier = {tmp_path / "out" / name: name.encode() for name in ("model.pt2", "model.json")}
    for file, content in earlier.items():
        file.write_bytes(content)

    def failing(_: Path) -> export.Ask:
        raise Fault("no runtime")

    if reason == "differs":
        monkeypatch.setattr(export, "TOLERANCE", 0.0)
    else:
        monkeypatch.setattr(export, "read_model", failing)
    with pytest.raises(Fault, match="images by it differ" if reason == "differs" else "no runtime"):
        run(monkeypatch, "--checkpoint", path, "--out", tmp_path / "out", "--format", "torch")
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == earlier


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        ([], "a recipe, or --checkpoint FILE"),
        (["a", "--checkpoint", "b"], "and not both"),
        (["a", "--format", "tf"], "onnx"),
        (["--checkpoint", "b", "--scale", "demo"], "accepted: --scale with a recipe, and not with --checkpoint"),
    ],
)
def test_arguments_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], accepted: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *words])
    with pytest.raises(SystemExit):
        export.arguments()
    assert accepted in capsys.readouterr().err


def test_a_scale_that_is_not_named_is_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, scale in ((["celeba"], "demo"), (["celeba", "--scale", "small"], "small")):
        monkeypatch.setattr(sys, "argv", ["export", *words])
        assert export.arguments().scale == scale


def too_early(*_: object) -> None:
    raise AssertionError("what could stop it must be known before this")


@pytest.mark.parametrize("package", export.PACKAGES)
def test_a_missing_package_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(export, "load", too_early)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Fault, match=rf"^ONNX: .*{package}.*; accepted after `pip install onnx onnxruntime onnxscript`"):
        run(monkeypatch, "--checkpoint", tmp_path / "ema.safetensors", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_form_torch_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(tmp_path / "ema.safetensors", **KINDS["v"])
    for package in export.PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Fault, match="sampler = 'UniPC 50, karras'"):
        run(monkeypatch, "--checkpoint", path, "--out", tmp_path / "out", "--sampler", "unipc 50", "--format", "torch")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(Fault, match=r"accepted after `pip install onnx onnxruntime onnxscript`"):
        export.read_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("form", export.FILES)
def test_a_folder_that_cannot_be_written_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = write_weights(tmp_path / "ema.safetensors", **KINDS["v"])
    monkeypatch.setattr(export, "write_model", too_early)
    for out in (path, path / "below"):
        with pytest.raises(Fault, match=rf"^--out {out}: [\w ]+; accepted: a folder that you may write to$"):
            run(monkeypatch, "--checkpoint", path, "--out", out, "--format", form)


def test_measures_in_conflict_are_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr(export, "load", too_early)
    file = tmp_path / "metrics" / "small" / "tiny" / "evaluate.json"
    file.parent.mkdir(parents=True)
    file.write_text('{\n<<<<<<< HEAD\n"kid": 1\n=======\n"kid": 2\n>>>>>>> theirs\n}\n')
    with pytest.raises(Fault, match=r"^metrics/small/tiny/evaluate.json: no JSON .* dvc repro evaluate@tiny"):
        run(monkeypatch, "tiny", "--scale", "small", "--format", "torch", "--out", tmp_path / "out")
    file.write_text('{"kid": 1}')
    assert export.measures_of(stages.Paths("small", "tiny")) == {"kid": 1}
    assert export.measures_of(stages.Paths("demo", "tiny")) == {}


@pytest.mark.parametrize(
    ("file", "said", "name"),
    [
        ("ema", {"scale": "small", "recipe": "tiny"}, "small-tiny"),
        ("ema-000005", {"scale": "small", "recipe": "tiny"}, "small-tiny-ema-000005"),
        ("mine", {}, "mine"),
        ("mine", {"scale": "small"}, "mine"),
        ("mine", {"scale": "..", "recipe": "../../tiny"}, "mine"),
    ],
)
def test_the_folder_of_a_checkpoint_s_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, said: dict[str, str], name: str
) -> None:
    plain, path = write_weights(tmp_path / "plain.safetensors"), tmp_path / f"{file}.safetensors"
    copy_weights(plain, path, read_metadata(plain) | said)
    monkeypatch.setattr(export, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["export", "--checkpoint", str(path)])
    _, found, folder, measures = export.asked(export.arguments(), "torch", "page-")
    assert (found, folder, measures) == (name, tmp_path / "exports" / f"page-{name}", {})
    assert folder.is_dir()
