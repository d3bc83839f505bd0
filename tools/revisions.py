"""Files of other revisions: git's own (commits, branches, tags) and DVC's experiments, which are refs of git too."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import yaml

from ddpm.base.faults import Fault
from stages import ROOT, load_yaml

ACCEPTED = "a commit, branch or tag of git, or the name of an experiment (`dvc exp show` lists them)"


def resolve(name: str) -> str:
    """The hash of the commit that `name` names: for git if it knows the name, else as an experiment of DVC. Raises Fault."""
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if commit:
        return commit.decode().strip()
    found = {commit for _, known, commit in _experiments() if known == name}
    if len(found) > 1:
        commits = ", ".join(sorted(found))
        raise Fault(f"revision {name!r}: experiments of several commits have this name; accepted: one of {commits}")
    if not found:
        raise Fault(f"revision {name!r} is not known here; accepted: {ACCEPTED}")
    return found.pop()


def experiments(commit: str) -> dict[str, str]:
    """The hash of each experiment that started from `commit`, by name, the oldest first."""
    return {name: made for start, name, made in _experiments() if start == commit}


def _experiments() -> list[tuple[str, str, str]]:
    """Of every experiment the commit that it started from, its name and its own commit, the oldest first."""
    form = "--format=%(objectname) %(refname)"
    listed = (git("for-each-ref", "--sort=creatordate", form, "refs/exps/") or b"").decode().splitlines()
    # refs/exps/<2 digits of the commit it starts from>/<the other 38>/<name>
    refs = [(commit, ref.split("/", 4)) for commit, ref in (line.split(" ", 1) for line in listed)]
    return [(parts[2] + parts[3], parts[4], commit) for commit, parts in refs if len(parts) == 5]


def read_file(revision: str | None, path: str) -> bytes | None:
    """What `path`, relative to the checkout, held at `revision` (from `resolve`; None: what it holds now); None if absent."""
    if revision is None:
        file = ROOT / path
        return file.read_bytes() if file.is_file() else None
    return git("cat-file", "blob", f"{revision}:./{path}")


def read_object(revision: str | None, path: str, at: str = "") -> dict[str, Any]:
    """The object in the JSON or YAML file `path` at `revision`, as for `read_file`; empty without that file.

    Of a dvc.lock every scalar is a string. `at`: how people name the revision. Raises Fault for anything else, as a file
    with the marks of a merge.
    """
    content = read_file(revision, path)
    kind, accepted = ("JSON", "as the stages write it") if path.endswith(".json") else ("YAML", "named entries")
    try:
        text = (content or b"").decode()
        if not text.strip():
            return {}
        values = json.loads(text) if kind == "JSON" else _lock(text) if path.endswith(".lock") else load_yaml(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # no text, not closed, too deep
        raise Fault(f"{path}{at and f' at {at}'}: {' '.join(str(error).split())}; accepted: {kind}, {accepted}") from None
    if not isinstance(values, dict):
        raise Fault(f"{path}{at and f' at {at}'}: holds {type(values).__name__}; accepted: {kind}, {accepted}")
    return values


def _lock(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # the one in C: dvc.lock is long


def git(*arguments: str) -> bytes | None:
    """What git says; None where it refuses. Raises Fault where there is no git, or no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, env=os.environ | {"LC_ALL": "C"}, capture_output=True)
    except FileNotFoundError:
        raise Fault("git is not installed, which revisions are read with; accepted without it: this working tree") from None
    if b"not a git repository" in done.stderr:
        raise Fault(f"{ROOT} is no git repository, so it has no revisions; accepted here: this working tree")
    return None if done.returncode else done.stdout
