"""Write a model in a form that other programs run: its network with all that turns the output into x0_hat, and what to know.

examples:
  python -m tools.export celeba --scale small                         exports/small-celeba: model.onnx and model.json
  python -m tools.export celeba --format torch                        model.pt2, for torch.export.load, instead of model.onnx
  python -m tools.export cifar10_classes --scale small --precision fp32 --sampler "unipc 20" --out classes

The model is a function of x_t, float32 (batch, C, H, W), and t, int64 (batch,), and of one with classes also of context,
float32 (batch, classes), and guidance, float32 (): it returns x0_hat, clipped to [-1, 1]. model.json holds the schedule, a
grid of steps, and the card: which weights of which training these are. What is written is run beside the original over
a whole sampling, and refused if the images differ: earlier files are then as they were. docs/export.md says how to sample
with it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import read_json, whole_file, write_json
from ddpm.base.hashes import sha256_of
from ddpm.sampling import Model, load
from ddpm.sampling.drawing import SAMPLER
from ddpm.sampling.settings import Sampler
from stages import ROOT, SCALES, Paths, shown
from tools import name_of

FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # what the form onnx needs
PRECISIONS = ("fp16", "fp32")
OPSET = 20
TOLERANCE = 1e-4  # of images in [-1, 1]
CHECKED = 2  # images
Ask = Callable[..., Tensor]  # (x_t, t) or (x_t, t, context, guidance) -> x0_hat


class Exported(nn.Module):
    """The network of `model` and what Denoiser does with its output, as one function of tensors.

    `half`: the weights are kept in fp16, as the checkpoint has them, and computed with in fp32: the same bits in half the size.
    """

    signals: Tensor  # sqrt(alpha_bar), float32 (T+1,)
    noises: Tensor  # sqrt(1 - alpha_bar)

    def __init__(self, model: Model, half: bool) -> None:
        super().__init__()
        self.prediction = model.config.prediction
        self.network = [model.network]  # in a list it is no submodule, whose weights would be in the file too
        self.weights = list(model.network.state_dict())
        for number, weight in enumerate(model.network.state_dict().values()):
            self.register_buffer(f"weight{number}", weight.half() if half and weight.is_floating_point() else weight)
        alpha_bar = model.schedule.alpha_bar
        self.register_buffer("signals", alpha_bar.sqrt().float())
        self.register_buffer("noises", (1 - alpha_bar).sqrt().float())

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        output = self.guided(x_t, t, context, guidance)
        signal, noise = self.signals[t].view(-1, 1, 1, 1), self.noises[t].view(-1, 1, 1, 1)
        if self.prediction == "eps":
            output = (x_t - noise * output) / signal
        elif self.prediction == "v":
            output = signal * x_t - noise * output
        return output.clamp(-1, 1)

    def guided(self, x_t: Tensor, t: Tensor, context: Tensor | None, guidance: Tensor | None) -> Tensor:
        """The network's output; with a context always both passes."""
        if context is None or guidance is None:
            return self.call(x_t, t, None)
        output = self.call(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([context, torch.zeros_like(context)]))
        conditional, unconditional = output[: x_t.shape[0]], output[x_t.shape[0] :]
        return unconditional + guidance * (conditional - unconditional)

    def call(self, *inputs: Tensor | None) -> Tensor:
        weights = {name: getattr(self, f"weight{number}") for number, name in enumerate(self.weights)}
        single = {name: weight.float() if weight.dtype == torch.float16 else weight for name, weight in weights.items()}
        return torch.func.functional_call(self.network[0], single, inputs)


def inputs_of(model: Model, batch: int) -> dict[str, Tensor]:
    """Inputs of an exported model, by name."""
    inputs = {"x_t": torch.zeros(batch, *model.shape), "t": torch.ones(batch, dtype=torch.int64)}
    if model.classes:
        inputs |= {"context": torch.zeros(batch, len(model.classes)), "guidance": torch.tensor(1.0)}
    return inputs


def write_model(model: Model, path: Path, form: str, precision: str) -> None:
    """Write `model` to `path` as `form`, a key of FILES, its weights as `precision`. Raises Fault without the extra."""
    inputs = inputs_of(model, 2)
    batch = torch.export.Dim("batch", min=1)
    dynamic = {name: {0: batch} if values.ndim else {} for name, values in inputs.items()}
    module = Exported(model, precision == "fp16").eval()
    with quiet(), torch.no_grad():
        program = torch.export.export(module, (), inputs, dynamic_shapes=dynamic)
        converted = to_onnx(program, inputs) if form == "onnx" else None
    if converted is not None:
        converted.save(path)
    else:
        torch.export.save(program, path)


def to_onnx(program: torch.export.ExportedProgram, inputs: dict[str, Tensor]) -> torch.onnx.ONNXProgram:
    """`program` as an ONNX model. Raises Fault where a package is missing."""
    options: dict[str, Any] = {"input_names": list(inputs), "output_names": ["x0_hat"], "opset_version": OPSET}
    try:
        converted = torch.onnx.export(program, (), kwargs=inputs, dynamo=True, verbose=False, **options)
    except ImportError as error:
        raise missing(error) from None
    assert converted is not None
    return converted


def check_packages() -> None:
    """Raise Fault unless all of PACKAGES are there, which is better known before the network is exported."""
    try:
        with quiet():
            for name in PACKAGES:
                importlib.import_module(name)
    except ImportError as error:
        raise missing(error) from None


def missing(error: ImportError) -> Fault:
    """What to say where a package of the extra is not there."""
    return Fault(f"ONNX: {error}; accepted after `pip install {' '.join(PACKAGES)}` (the extra `export`)")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters tell about themselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def read_model(path: Path) -> Ask:
    """The function that `write_model` wrote to `path`, a .onnx by onnxruntime on the CPU. Raises Fault without onnxruntime."""
    if path.suffix == ".pt2":
        program: Ask = torch.export.load(path).module()
        return program
    try:
        import onnxruntime
    except ImportError as error:
        raise missing(error) from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def ask(**inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: values.numpy() for name, values in inputs.items()})[0])

    return ask


def images_of(model: Model, sampler: Sampler, ask: Ask | None = None, guidance: float = 2.0) -> Tensor:
    """The first CHECKED images of seed 0, float32 (CHECKED, C, H, W), by `model` itself or by what was written of it."""
    noise, context = model.noise(0, range(CHECKED)), model.context(CHECKED)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        assert ask is not None
        more = {} if context is None else {"context": context, "guidance": torch.tensor(guidance)}
        return ask(x_t=x_t.contiguous(), t=t, **more)

    denoiser = model.denoiser(context, guidance) if ask is None else denoise
    return list(sampler.run(denoiser, model.schedule, noise.draw(), noise))[-1].x_t


def difference(model: Model, path: Path, sampler: Sampler) -> float:
    """The greatest difference, over whole samplings, of images by the file `path` from those by `model`."""
    return float((images_of(model, sampler, read_model(path)) - images_of(model, sampler)).abs().max())


def facts(model: Model, path: Path, sampler: Sampler, precision: str, measures: dict[str, Any]) -> dict[str, Any]:
    """What model.json says: all that is needed to sample with the file `path`, whence it comes, and `measures`."""
    return {
        "file": path.name, "sha256": sha256_of(path), "precision": precision,
        "shape": model.shape, "classes": model.classes,
        "alpha_bar": model.schedule.alpha_bar.tolist(),
        "sampler": sampler.label, "grid": sampler.grid(model.schedule),
        "card": model.metadata,
        "measures": measures,
    }  # fmt: skip


def export(
    model: Model, folder: Path, form: str, precision: str, sampler: Sampler, measures: dict[str, Any] | None = None
) -> float:
    """Write the files to `folder`, and return how much the images differ. Raises Fault if they do by TOLERANCE or more.

    Where the model cannot be written or checked, earlier files there are as they were.
    """
    path = folder / FILES[form]
    with whole_file(path) as temporary:  # it has the same suffix, and becomes `path` only where nothing is raised in here
        write_model(model, temporary, form, precision)
        found = difference(model, temporary, sampler)
        if not found < TOLERANCE:
            raise Fault(f"{path}: images by it differ by {found:.2g} from the model's own; accepted: less than {TOLERANCE:g}")
    write_json(folder / "model.json", facts(model, path, sampler, precision, measures or {}))
    return found


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.export", description=__doc__, formatter_class=formatter)
    add_model(parser, "exports/<scale>-<recipe>")
    parser.add_argument("--format", choices=list(FILES), default="onnx", help="default: onnx")
    precision = "of the weights in the file; computed in fp32 either way (default: fp16, which is exact)"
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help=precision)
    parser.add_argument("--sampler", default=SAMPLER, help=f'whose grid model.json has (default: "{SAMPLER}")')
    return parsed(parser)


def add_model(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the arguments that name a model, and --out, whose default the help calls `folder`."""
    parser.add_argument("recipe", nargs="?", help="a recipe that has a checkpoint; not needed with --checkpoint")
    parser.add_argument("--scale", choices=SCALES, help="whose EMA weights of the recipe (default: demo)")
    parser.add_argument("--checkpoint", type=Path, help="a .safetensors file instead of a recipe's")
    parser.add_argument("--out", type=Path, help=f"a folder (default: {folder})")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of the command line, which name one model."""
    args = parser.parse_args()
    if (args.recipe is None) == (args.checkpoint is None):
        parser.error("accepted: a recipe, or --checkpoint FILE, and not both")
    if args.checkpoint and args.scale:
        parser.error("accepted: --scale with a recipe, and not with --checkpoint, whose file says it itself")
    args.scale = args.scale or "demo"
    return args


def asked(args: argparse.Namespace, form: str, before: str = "") -> tuple[Model, str, Path, dict[str, Any]]:
    """The model that the arguments name, its name, the folder to write to, and its measures. Raises Fault.

    `form`: a key of FILES. `before`: what the default folder's name begins with. What could stop the long work that
    comes next is looked at here.
    """
    if form == "onnx":
        check_packages()
    paths = Paths(args.scale, args.recipe) if args.recipe else None
    measures = measures_of(paths) if paths else {}
    model = load(paths.ema if paths else args.checkpoint, "cpu", "fp32")
    name = f"{args.scale}-{args.recipe}" if paths else name_of(model.metadata, args.checkpoint)
    folder = args.out or ROOT / "exports" / f"{before}{name}"
    check_out(folder)
    return model, name, folder, measures


def measures_of(paths: Paths) -> dict[str, Any]:
    """What `evaluate` found of the recipe, {} if it has not run. Raises Fault."""
    path = paths.metrics / "evaluate.json"
    made = f"it is made by: dvc repro evaluate@{paths.recipe}; git has the last one"
    return read_json(path, made, shown(path)) if path.exists() else {}


def check_out(folder: Path) -> None:
    """Make `folder`. Raises Fault if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # to look at the rights is not enough: root has all, on any file system
            pass
    except OSError as error:
        raise Fault(f"--out {folder}: {error.strerror}; accepted: a folder that you may write to") from None


def main(args: argparse.Namespace) -> None:
    model, _, folder, measures = asked(args, args.format)
    sampler = model.sampler(args.sampler)
    found = export(model, folder, args.format, args.precision, sampler, measures)
    size = (folder / FILES[args.format]).stat().st_size
    print(f"wrote {folder / FILES[args.format]} ({size / 1e6:.1f} MB) and model.json")
    print(f"images by {sampler.label} differ by at most {found:.1g} from those of the checkpoint, in [-1, 1]")


if __name__ == "__main__":
    with faults_reported():
        main(arguments())
