"""Results that are older than what they are made from, as where an experiment trained anew and drew nothing: by dvc.lock."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

from stages import ROOT, params_file, shown
from tools.revisions import read_file


@cache
def files_at(root: Path, revision: str | None) -> DVCFileSystem:
    """The files of `revision` (None: the working tree), those that DVC keeps too."""
    return DVCFileSystem(str(root), rev=revision)


def outdated(revision: str | None, scale: str, recipe: str) -> list[str]:
    """The stages of `recipe` whose results stand beside other inputs than they were made from, in the order of dvc.lock.

    Inputs are what other stages have made; code is not looked at (`dvc status` does that). Where the list of the files of a
    checkpoint is neither in DVC's cache nor in its remote, the stages that read one of them are taken for up to date.
    """
    lock = str(shown(params_file(scale).with_name("dvc.lock")))
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # every scalar is a string here, and there are many
    every: dict[str, Any] = (yaml.load(read_file(revision, lock) or b"", Loader=loader) or {}).get("stages", {})
    stages = {name.partition("@")[0]: entry for name, entry in every.items() if name.endswith(f"@{recipe}")}
    made = {out["path"]: out["md5"] for entry in stages.values() for out in entry.get("outs", [])}

    def now(path: str) -> str | None:
        """The hash of an input as it is; None where no stage of the recipe makes it, or nobody knows."""
        if path in made or str(Path(path).parent) not in made:
            return made.get(path)
        try:
            return str(files_at(ROOT, revision).info(path)["md5"])
        except Exception:  # those of DVC and of the libraries behind its remotes have no class in common
            return None

    inputs = {name: {dep["path"]: dep["md5"] for dep in entry.get("deps", [])} for name, entry in stages.items()}
    return [name for name, of in inputs.items() if any(now(path) not in (md5, None) for path, md5 in of.items())]
