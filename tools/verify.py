"""Does a DVC remote hold the checkpoints of this working tree, byte for byte? What is missing or damaged is named.

examples:
  python -m tools.verify                          the default remote
  python -m tools.verify --remote team --repair   replace what is damaged or missing by what DVC's cache here holds

Every object is read and hashed, so a checkpoint in S3 is downloaded once. The exit status is 1 if one is not whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from dvc.repo import Repo  # type: ignore[import-untyped]

from ddpm.base.faults import Fault, faults_reported
from stages import ROOT, shown

WHOLE, MISSING, DAMAGED = "whole", "missing", "damaged"
LIST = ".dir"  # the end of the name of an object that lists a folder's files
CHUNK = 2**20  # bytes read at a time


class Found(NamedTuple):
    """One object in a remote."""

    path: Path  # the file or folder of the working tree whose bytes it holds
    name: str  # their md5, for a list of files with LIST
    state: str


def state(store: Any, name: str) -> str:
    """Whether the bytes that DVC's object database `store` has under `name` are those that belong there."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with store.fs.open(store.oid_to_path(name), "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return MISSING
    return WHOLE if digest.hexdigest() == name.removesuffix(LIST) else DAMAGED


def examined(repo: Any, remote: str | None) -> list[Found]:
    """What `remote` (None: the default) has of every output of the working tree. Raises what the remote's library raises."""
    store, found = repo.cloud.get_remote(remote).odb, []
    for out in repo.index.outs:
        if not out.use_cache or not out.hash_info or out.stage.is_repo_import:  # which lies in its own repository's remote
            continue
        path, name = shown(Path(out.fs_path)), out.hash_info.value
        found.append(Found(path, name, state(store, name)))
        if name.endswith(LIST):
            # What the folder holds: as the remote says or, where its list is of no use, the cache here.
            lists = [place for place in (store, repo.cache.local) if state(place, name) == WHOLE]
            for entry in json.loads(read(lists[0], name)) if lists else []:
                found.append(Found(path / entry["relpath"], entry["md5"], state(store, entry["md5"])))
    return found


def read(store: Any, name: str) -> bytes:
    """What the object database `store` has under `name`. Raises FileNotFoundError."""
    with store.fs.open(store.oid_to_path(name), "rb") as file:
        content: bytes = file.read()
    return content


def repair(repo: Any, remote: str | None, found: list[Found]) -> None:
    """Push what the cache here holds; for that, delete from `remote` what is damaged there and whole here."""
    store, cache = repo.cloud.get_remote(remote).odb, repo.cache.local
    faulty = [each for each in found if each.state != WHOLE]
    here = {each.path: state(cache, each.name) == WHOLE for each in faulty}
    for each in found:
        if each.state == DAMAGED and here[each.path]:
            store.delete(each.name)
        # DVC takes the list of a folder as a proof that the remote has its files, so this goes too, if all can come back.
        lacking = [here[path] for path in here if each.path in path.parents]
        if each.name.endswith(LIST) and each.state == WHOLE and lacking and all(lacking) and state(cache, each.name) == WHOLE:
            store.delete(each.name)
    repo.push(remote=remote)


def arguments() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tools.verify", description=__doc__, formatter_class=formatter)
    parser.add_argument("--remote", help="a name that `dvc remote list` shows (default: the default remote)")
    parser.add_argument("--repair", action="store_true", help="delete what is damaged there, then push from the cache")
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    """Print what is not whole and a summary; returns the exit status. Raises Fault where the remote cannot be read."""
    with Repo(str(ROOT)) as repo:
        name = args.remote or repo.config["core"].get("remote")
        if name not in repo.config["remote"]:
            accepted = ", ".join(repo.config["remote"]) or "none yet; `dvc remote add` makes one"
            raise Fault(f"--remote {name}: no such remote; accepted: {accepted}")
        try:
            found = examined(repo, name)
            if args.repair and any(each.state != WHOLE for each in found):
                repair(repo, name, found)
                found = examined(repo, name)
            store = repo.cloud.get_remote(name).odb
        except Exception as error:  # those of DVC and of the libraries behind its remotes have no class in common
            url = repo.config["remote"][name]["url"]
            raise Fault(f"remote {name} ({url}) cannot be used: {error}; docs/sharing.md says what each needs") from error
        faulty = [each for each in found if each.state != WHOLE]
        for each in faulty:
            print(f"{each.path}: {each.state}: {store.fs.unstrip_protocol(store.oid_to_path(each.name))}")
        print(f"remote {name}: {len(found)} objects, {len(found) - len(faulty)} whole, {len(faulty)} missing or damaged")
        if faulty:
            print(f"`python -m tools.verify --remote {name} --repair`, in a clone whose cache holds them whole, puts them back")
    return 1 if faulty else 0


if __name__ == "__main__":
    with faults_reported():
        sys.exit(main(arguments()))
