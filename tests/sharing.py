"""A project with checkpoints to share that nobody has to train, and the commands of docs/sharing.md."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from conftest import Checkout
from tiny import write_weights

CHECKPOINT = "models/demo/cifar10/ema.safetensors"
# As the real pipeline in what counts here: a folder that DVC keeps, made anew when a setting changes.
PIPELINE = """
stages:
  train:
    matrix: {name: [cifar10]}
    cmd: mkdir -p models/demo/cifar10 && cp ${weights} models/demo/cifar10/ema.safetensors && echo raw > models/demo/cifar10/raw
    params: [weights]
    outs: [models/demo/cifar10]
"""


def stand_in(untouched: Checkout, path: Path) -> Checkout:
    """A copy of `untouched` in `path`, whose training copies the weights a, b or c beside it; committed, nothing pushed."""
    checkout = untouched.copy(path)
    for seed, name in enumerate("abc"):
        write_weights(path.with_name(name), seed)
    (path / "dvc.yaml").write_text(PIPELINE)
    params = yaml.safe_load((path / "params.yaml").read_text())
    params["weights"] = str(path.with_name("a"))
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


def damage(file: Path) -> None:
    """Change the last byte of an object, which looks as untouched as before."""
    content, mode = file.read_bytes(), file.stat().st_mode
    file.chmod(0o644)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    file.chmod(mode)
