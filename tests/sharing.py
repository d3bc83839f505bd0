"""A project with checkpoints to share that nobody has to train, and the commands of docs/sharing.md."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import yaml

from conftest import ROOT, Checkout
from tiny import write_weights

CHECKPOINT = "models/demo/cifar10/ema.safetensors"
# As the real pipeline in what counts here: a folder that DVC keeps, made anew when a setting changes.
RAW = 2_000_000  # bytes of the other file, which takes a moment to send
PIPELINE = """
stages:
  train:
    matrix: {name: [cifar10]}
    cmd: mkdir -p models/demo/cifar10 && cp ${weights} models/demo/cifar10/ema.safetensors && cp ${raw} models/demo/cifar10
    params: [weights, raw]
    outs: [models/demo/cifar10]
"""


def stand_in(untouched: Checkout, path: Path) -> Checkout:
    """A copy of `untouched` in `path`, whose training copies the weights a, b or c beside it; committed, nothing pushed."""
    checkout = untouched.copy(path)
    for seed, name in enumerate("abc"):
        write_weights(path.with_name(name), seed)
    (path / "dvc.yaml").write_text(PIPELINE)
    params = yaml.safe_load((path / "params.yaml").read_text())
    path.with_name("raw").write_bytes(random.Random(0).randbytes(RAW))
    params |= {name: str(path.with_name(file)) for name, file in (("weights", "a"), ("raw", "raw"))}
    (path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    checkout.dvc("repro", "--quiet")
    checkout.commit("trained")
    return checkout


def weights(checkout: Checkout, name: str) -> str:
    """The setting with which an experiment of `stand_in` trains the weights `name`."""
    return f"weights={checkout.path.with_name(name)}"


def trained(checkout: Checkout) -> bytes:
    return (checkout.path / CHECKPOINT).read_bytes()


def clone(source: Checkout | Path, path: Path) -> Checkout:
    """A fresh clone in `path`, whose DVC keeps its own notes as on another machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Checkout(path)
    address = source.path if isinstance(source, Checkout) else source
    subprocess.run(["git", "clone", "--quiet", address, path], check=True, env=made.env)
    return made


def objects(folder: Path) -> dict[str, bytes]:
    """The objects in a DVC remote that is a folder, by name."""
    return {path.parent.name + path.name: path.read_bytes() for path in sorted((folder / "files/md5").glob("*/*"))}


# --- The page ------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs/sharing.md").read_text()


def sections() -> dict[str, list[list[str]]]:
    """The blocks of commands under each heading of the page that has any; comments are left out."""
    found: dict[str, list[list[str]]] = {}
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
        lines = [[re.sub(r"\s+# .*", "", line) for line in block.replace("\\\n", " ").splitlines()] for block in blocks]
        if lines:
            found[part.splitlines()[0]] = lines
    return found


def perform(checkout: Checkout, lines: list[str], places: dict[str, str] | None = None) -> str:
    """Run commands of the page in `checkout` by one shell, with the whole words in `places` replaced; what they wrote."""
    script = "\n".join(lines)
    for written, real in (places or {}).items():
        script = re.sub(rf"(?<!\w){re.escape(written)}(?!\w)", lambda _, real=real: real, script)
    pip = r"pip install -e '\.\[(\w+)\]'\n"  # which the tests have, or skip
    for extra in re.findall(pip, script):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    return checkout.run("bash", "-e", "-c", re.sub(pip, "", script))
