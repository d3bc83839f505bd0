"""Names of revisions: what git knows, then DVC's experiments, which are refs of git; and files out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Checkout
from ddpm.base.faults import Fault
from tools import revisions


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """Two commits of a file, and refs as `dvc exp run` makes them. Its project lies in a folder of the repository."""
    checkout = Checkout(tmp_path / "repository")
    folder = checkout.path / "project"
    folder.mkdir(parents=True)
    checkout.git("init", "--quiet", "--initial-branch=main")
    for text in ("first", "second"):
        (folder / "file").write_text(text)
        checkout.commit(text)
    first, second = (checkout.git("rev-parse", name).strip() for name in ("HEAD~1", "HEAD"))
    for ref, commit in (("aa/bb/puffy-daks", first), ("aa/bb/twice", first), ("cc/dd/twice", second), ("stash", second)):
        checkout.git("update-ref", f"refs/exps/{ref}", commit)
    monkeypatch.setattr(revisions, "ROOT", folder)
    return checkout


def test_commits_branches_and_experiments_are_found_by_name(repository: Checkout) -> None:
    first, second = (repository.git("rev-parse", name).strip() for name in ("HEAD~1", "HEAD"))
    names = {"main": second, "HEAD~1": first, first[:9]: first, "puffy-daks": first}
    assert {name: revisions.resolve(name) for name in names} == names
    repository.git("branch", "puffy-daks", second)
    assert revisions.resolve("puffy-daks") == second, "git's own name comes first"


@pytest.mark.parametrize("name", ["nowhere", "--all", "", "HEAD:project/file", "stash", "bb/puffy-daks"])
def test_other_names_are_refused(repository: Checkout, name: str) -> None:
    with pytest.raises(Fault, match="accepted: a commit, branch or tag of git, or the name of an experiment"):
        revisions.resolve(name)


def test_an_ambiguous_experiment_is_named_by_its_commits(repository: Checkout) -> None:
    first, second = (repository.git("rev-parse", name).strip() for name in ("HEAD~1", "HEAD"))
    with pytest.raises(Fault) as fault:
        revisions.resolve("twice")
    assert first in str(fault.value)
    assert second in str(fault.value)


def test_files_are_those_of_their_revision(repository: Checkout) -> None:
    (repository.path / "project/file").write_bytes(b"now\r\n\xff")
    old = revisions.resolve("HEAD~1")
    assert revisions.read_file(old, "file") == b"first"
    assert revisions.read_file(None, "file") == b"now\r\n\xff"
    assert revisions.read_file(old, "missing") is None
    assert revisions.read_file(None, "missing") is None
    assert revisions.read_file(old, ".") is None, "a folder is no file"


def test_without_a_repository_only_the_working_tree_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(Fault, match="accepted here: this working tree"):
        revisions.resolve("main")
