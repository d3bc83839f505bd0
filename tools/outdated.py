"""Results that are older than what they are made from, as where an experiment trained anew and drew nothing: by dvc.lock."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from dvc.repo import Repo  # type: ignore[import-untyped]

from stages import ROOT, params_file, shown
from tools.revisions import read_object


def outdated(revision: str | None, scale: str, recipe: str) -> list[str]:
    """The stages of `recipe` whose results stand beside other inputs than they were made from, by name.

    Inputs are what other stages have made; code is not looked at (`dvc status` does that). Where the list of a checkpoint's
    files is neither in DVC's cache nor in its remote, the stages that read one of them are taken for up to date.
    """
    params, lock = (
        read_object(revision, str(shown(params_file(scale).with_name(name)))) for name in ("params.yaml", "dvc.lock")
    )
    stages = {name.partition("@")[0]: entry for name, entry in lock.get("stages", {}).items() if name.endswith(f"@{recipe}")}
    for stage, its in (("classes", "conditional"), ("editing", "editing")):
        if recipe not in (params.get(its) or []):
            stages.pop(stage, None)  # of a time when it was
    made = {out["path"]: out["md5"] for entry in stages.values() for out in entry.get("outs", [])}

    def now(path: str) -> str | None:
        """The hash of an input as it is; None where no stage of the recipe makes it, or nobody knows."""
        if path in made:
            return str(made[path])
        folder = made.get(str(Path(path).parent))
        return files_of(ROOT, folder).get(Path(path).name) if folder else None

    inputs = {name: {dep["path"]: dep["md5"] for dep in entry.get("deps", [])} for name, entry in stages.items()}
    return sorted(name for name, of in inputs.items() if any(now(path) not in (md5, None) for path, md5 in of.items()))


@cache
def files_of(root: Path, md5: str) -> dict[str, str]:
    """The hashes of the files in a folder that DVC keeps under the hash `md5`, by name; none where neither its cache nor its
    default remote has the list."""
    with Repo(str(root)) as repo:
        for store in (lambda: repo.cache.local, repo.cloud.get_remote_odb):
            try:
                database = store()
                with database.fs.open(database.oid_to_path(md5)) as file:
                    return {entry["relpath"]: entry["md5"] for entry in json.load(file)}
            except Exception:  # those of DVC and of the libraries behind its remotes have no class in common
                continue
    return {}
