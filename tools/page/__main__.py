"""Write a folder with a page on which a visitor draws new images with a model, in the browser, without Python.

examples:
  python -m tools.page celeba --scale small              exports/page-small-celeba
  python -m http.server -d exports/page-small-celeba     then open http://localhost:8000; or put it on any static host

The page loads nothing from elsewhere: the model is there as ONNX (tools.export), and onnxruntime-web, which runs it. That is
an npm package, fetched once by `npm pack`, of a version and content that are fixed here. Image i of a seed, drawn by UniPC
with the same number of steps, is the one that `model.sample` draws.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import shutil
import subprocess
import tarfile
from pathlib import Path
from string import Template
from typing import Any

from ddpm.base.faults import Fault, faults_reported
from ddpm.base.files import whole_file, write_text
from ddpm.base.hashes import sha256_of
from ddpm.sampling import Model
from ddpm.sampling.drawing import SAMPLER
from stages import WORK
from tools import export

HERE = Path(__file__).parent
VERSION = "1.30.0"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
ARCHIVE_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
RUNTIME = {  # files of the package's folder dist that the page needs, with their SHA-256
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
OURS = ("page.js", "sampler.js", "page.css")


def archive(folder: Path) -> Path:
    """The package's archive in `folder`, fetched by npm if it is not there. Raises Fault."""
    path = folder / ARCHIVE
    if not path.exists():
        npm = shutil.which("npm")
        instead = f"--runtime {ARCHIVE}, as `npm pack onnxruntime-web@{VERSION}` writes it elsewhere"
        if npm is None:
            raise Fault(f"npm is not on the PATH; accepted: npm, or {instead}")
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise Fault(f"npm could not fetch onnxruntime-web {VERSION} and said: {said}; accepted: a network, or {instead}")
    return path


def unpack(path: Path, folder: Path) -> None:
    """Write the files of RUNTIME out of the archive `path` to `folder`. Raises Fault unless it is the one that is known."""
    if not path.is_file() or sha256_of(path) != ARCHIVE_SHA256:
        raise Fault(f"{path}: not the known archive; accepted: {ARCHIVE} of SHA-256 {ARCHIVE_SHA256}. Remove a damaged one")
    with tarfile.open(path) as packed:
        for name, sha256 in RUNTIME.items():
            file = packed.extractfile(f"package/dist/{name}")
            assert file is not None
            content = file.read()
            assert hashlib.sha256(content).hexdigest() == sha256
            with whole_file(folder / name, len(content)) as temporary:
                temporary.write_bytes(content)


def texts(model: Model, name: str) -> dict[str, str]:
    """What the page says, escaped."""
    data: dict[str, Any] = model.metadata["data"]
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    channels, height, width = model.shape
    about = (
        f"A diffusion model of {parameters / 1e6:.1f} million parameters makes {'gray ' * (channels == 1)}pictures of "
        f"{width} x {height} pixels out of noise, step by step. The same seed makes the same picture, here and in Python."
    )
    origin = f"The model was trained on {data['count']:,} images: {data['origin']}."
    spoken = {"title": f"Draw with {name}", "about": about, "origin": origin, "runtime": VERSION}
    return {key: html.escape(text) for key, text in spoken.items()}


def page(model: Model, name: str, folder: Path, runtime: Path, measures: dict[str, Any] | None = None) -> None:
    """Write all that the page needs to `folder`; `runtime` is the archive of onnxruntime-web. Raises Fault."""
    unpack(runtime, folder)
    export.export(model, folder, "onnx", "fp16", model.sampler(SAMPLER), measures)
    write_text(folder / "index.html", Template((HERE / "index.html").read_text()).substitute(texts(model, name)))
    for file in OURS:
        write_text(folder / file, (HERE / file).read_text())


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.page", description=__doc__, formatter_class=formatter)
    export.add_model(parser, "exports/page-<scale>-<recipe>")
    parser.add_argument("--runtime", type=Path, metavar="TGZ", help=f"{ARCHIVE}, where npm cannot fetch it")
    return export.parsed(parser)


def main(args: argparse.Namespace) -> None:
    model, name, folder, measures = export.asked(args, "onnx", "page-")
    title = f"{args.recipe} ({args.scale})" if args.recipe else name
    page(model, title, folder, args.runtime or archive(WORK / "npm"), measures)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"wrote {folder} ({size / 1e6:.0f} MB); python -m http.server -d {folder} serves it at http://localhost:8000")


if __name__ == "__main__":
    with faults_reported():
        main(arguments())
