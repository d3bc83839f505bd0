"""The models that have a name and a version: what each is worth, how large it is, and where it lies.

examples:
  git tag -a faces@v1 -m models/small/celeba/ema.safetensors -m "The first that anyone would call faces"
  python -m tools.models                          every registered model, of each the newest version first
  python -m tools.models faces                    only this one's versions

An annotated tag NAME@vVERSION of git registers the checkpoint that the first line of its message names, as it is at the tagged
commit. `git push origin faces@v1` shares the name, `dvc push` the checkpoint. Of where it lies, the cache here is asked first,
then the default remote.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from dvc.repo import Repo  # type: ignore[import-untyped]

from ddpm.base.faults import Fault, faults_reported
from stages import ROOT, SCALES
from tools.revisions import git, read_object
from tools.tables import aligned
from tools.verify import read

TAG = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)@v(?P<version>\d+(?:\.\d+)*)")
CHECKPOINT = re.compile(rf"models/(?P<scale>{'|'.join(SCALES)})/(?P<recipe>[^/]+)/[^/]+\.safetensors")
ACCEPTED = "an annotated tag NAME@v1 whose message begins with a line like models/small/celeba/ema.safetensors"
HEADER = ["model", "recipe", "KID x 1000", "Frechet distance", "bits/dim", "size", "where", "checkpoint"]


class Registered(NamedTuple):
    """What a tag says."""

    tag: str
    commit: str
    path: str  # of the checkpoint, relative to the checkout
    scale: str
    recipe: str

    @property
    def order(self) -> tuple[str, list[int]]:
        """By name, then the newest version first."""
        name, version = self.tag.split("@v")
        return name, [-int(number) for number in version.split(".")]

    def metrics(self, name: str) -> dict[str, Any]:
        """A json file of its recipe's metrics at its commit; empty without that file."""
        return read_object(self.commit, f"metrics/{self.scale}/{self.recipe}/{name}", self.tag)


def registered() -> tuple[list[Registered], list[str]]:
    """The models that git's tags name, in order; and a line for each tag that looks like one and is none."""
    listed = git("for-each-ref", "--format=%(refname:strip=2)%00%(*objectname)%00%(contents:subject)", "refs/tags/") or b""
    models, wrong = [], []
    for tag, commit, subject in (line.split("\0") for line in listed.decode().splitlines()):
        if not TAG.fullmatch(tag):
            continue
        if (named := CHECKPOINT.fullmatch(subject)) and commit:
            models.append(Registered(tag, commit, subject, named["scale"], named["recipe"]))
        else:
            wrong.append(
                f"{tag}: {'its message begins with ' + repr(subject) if commit else 'not annotated'}; accepted: {ACCEPTED}"
            )
    return sorted(models, key=lambda model: model.order), wrong


@cache
def outputs(commit: str, lock: str) -> dict[str, str]:
    """The md5 of each output, by its path, in the file `lock` of DVC at `commit`."""
    stages = read_object(commit, lock, commit[:7]).get("stages", {})
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def object_of(model: Registered, stores: dict[str, Any]) -> str | None:
    """The md5 of the checkpoint; None where none of `stores` has the list that says it. Raises Fault without such a file."""
    lock = "dvc.lock" if model.scale == "demo" else f"{model.scale}/dvc.lock"
    folder, file = model.path.rsplit("/", 1)
    if folder not in (outs := outputs(model.commit, lock)):
        raise Fault(f"{model.tag}: {lock} at its commit keeps no {folder}; accepted: {ACCEPTED}")
    for store in stores.values():
        with suppress(FileNotFoundError):
            entries = {entry["relpath"]: entry["md5"] for entry in json.loads(read(store, outs[folder]))}
            if file not in entries:
                raise Fault(f"{model.tag}: {folder} at its commit holds no {file}; accepted: {', '.join(entries)}")
            return str(entries[file])
    return None


def place(model: Registered, stores: dict[str, Any]) -> list[str]:
    """The size of the checkpoint and the first of `stores` that has it, for people."""
    if name := object_of(model, stores):
        for where, store in stores.items():
            if store.exists(name):
                size = store.fs.info(store.oid_to_path(name))["size"]
                return [f"{size / 1e6:.2f} MB", where]
    return ["", "nowhere"]


def row(model: Registered, stores: dict[str, Any]) -> list[str]:
    """The line of `model` under HEADER. A measure that was not taken is empty."""
    found = model.metrics("evaluate.json")
    kid = f"{1000 * found['kid']:.2f} ± {1000 * found['kid_se']:.2f}" if "kid" in found else ""
    fd = f"{found['fd']:.2f}" if "fd" in found else ""
    bits = f"{found['bits_per_dim']:.2f}" if "bits_per_dim" in found else ""
    return [model.tag, f"{model.scale} / {model.recipe}", kid, fd, bits, *place(model, stores), model.path]


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.models", description=__doc__, formatter_class=formatter)
    parser.add_argument("names", nargs="*", help="only the models of these names (default: all)")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    models, wrong = registered()
    names = dict.fromkeys(model.order[0] for model in models)
    if unknown := [name for name in args.names if name not in names]:
        raise Fault(f"no model {unknown[0]!r} is registered; accepted: {', '.join(names) or ACCEPTED}")
    wanted = [model for model in models if not args.names or model.order[0] in args.names]
    table = [HEADER]
    with Repo(str(ROOT)) as repo:
        stores, remote = {"cache": repo.cache.local}, repo.config["core"].get("remote")
        try:
            if remote:
                stores[f"remote {remote}"] = repo.cloud.get_remote(remote).odb
            for model in wanted:
                try:
                    table.append(row(model, stores))
                except Fault as fault:
                    wrong.append(str(fault))
        except Exception as error:  # those of the libraries behind DVC's remotes have no class in common
            raise Fault(f"remote {remote} cannot be used: {error}; docs/sharing.md says what each needs") from error
    for line in wrong:
        print(line, file=sys.stderr)
    if len(table) == 1:
        print(f"no model is registered; it takes {ACCEPTED}")
        return
    print("\n".join(aligned(table)))
    print(f"fetch one: dvc get . {table[1][-1]} --rev {table[1][0]}")


if __name__ == "__main__":
    with faults_reported():
        main(arguments())
