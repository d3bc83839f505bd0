"""Commands for people, no stages of the pipeline: python -m tools.sample, python -m tools.results."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

import stages  # noqa: F401  (puts this checkout's src/ first on the path)
from ddpm.base.faults import Fault
from ddpm.base.settings import NAME


def positive(text: str) -> int:
    """The value of an option that takes 1 or more. Raises what argparse turns into a message."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: accepted: 1 or more")
    return value


def dvc(command: str, scale: str, *targets: str) -> str:
    """`dvc <command>` of stages of `scale` as people type it at the top of the checkout."""
    line = " ".join(["dvc", command, *targets])
    return line if scale == "demo" else f"(cd {scale} && {line})"


def name_of(header: dict[str, Any], path: Path) -> str:
    """What to call the checkpoint `path`: by what its header says, if that can be part of a path, else by the file.

    Every recipe has an ema.safetensors; other files of a recipe, such as those of kept steps, need their own name too.
    """
    said = [str(header.get(key, "")) for key in ("scale", "recipe")]
    if not all(re.fullmatch(NAME, part) for part in said):
        return path.stem
    return "-".join(said if path.stem == "ema" else [*said, path.stem])


def check_out(out: Path) -> None:
    """Make the folder of `out`. Raises Fault if the file cannot be written there, which is better known before long work."""
    fault = "is no file" if os.path.lexists(out) and not out.is_file() else ""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        trial = out.with_name(f".{os.getpid()}.tmp-{out.name}")  # as whole_file will name it
        trial.touch()
        trial.unlink()
    except OSError as error:
        fault = fault or str(error.strerror)
    if fault:
        raise Fault(f"--out {out}: cannot be written there ({fault}); accepted: a file in a folder that you may write to")
