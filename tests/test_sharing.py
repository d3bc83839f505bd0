"""What docs/sharing.md promises of the store, of experiments, and of damaged objects, with the real DVC and git."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dvc.config import Config

from conftest import ROOT, Checkout
from servers import damage_in
from sharing import CHECKPOINT, clone, objects, perform, sections, stand_in, trained, weights

REFUSED = "/dev/null/store-takes-no-experiments--see-docs-sharing"


@pytest.fixture(scope="module")
def shared(untouched: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A stand-in project whose checkpoints lie in its store, with a bare repository beside it as its origin."""
    checkout = stand_in(untouched, tmp_path_factory.mktemp("shared") / "project")
    checkout.dvc("push")
    checkout.commit("checkpoints into the store")
    checkout.git("init", "--quiet", "--bare", "--initial-branch=main", "../origin.git")
    checkout.git("remote", "add", "origin", checkout.path.with_name("origin.git"))
    checkout.git("push", "--quiet", "origin", "main")
    return checkout


@pytest.fixture
def project(shared: Checkout, tmp_path: Path) -> Checkout:
    """A copy of `shared` of this test's own, and its origin."""
    copy = shared.path.parent
    for name in ("a", "b", "c", "raw"):
        (tmp_path / name).write_bytes((copy / name).read_bytes())
    checkout = shared.copy(tmp_path / "project")
    checkout.run("cp", "-R", copy / "origin.git", tmp_path / "origin.git")
    checkout.git("remote", "set-url", "origin", tmp_path / "origin.git")
    return checkout


def test_the_stores_address_leads_nowhere_from_the_root() -> None:
    """In a checkout it is store/; where DVC reads it out of git, as it does to push an experiment, nobody can write there."""
    config = Config(str(ROOT / ".dvc"), validate=False)
    assert config["core"]["remote"] == "store"
    assert config["remote"]["store"]["verify"] == "true"
    assert (ROOT / config["remote"]["store"]["url"]).resolve() == ROOT / "store"
    written = Config.load_file(ROOT / ".dvc/config")["remote"]["store"]["url"]
    assert Config._resolve("/.dvc", written) == REFUSED
    with pytest.raises(NotADirectoryError):
        os.makedirs(REFUSED)


def test_the_commands_of_the_page_are_run() -> None:
    """Every heading that has any is named by a test, which takes its blocks one by one."""
    tests = "".join((ROOT / "tests" / f"test_{name}.py").read_text() for name in ("sharing", "remotes", "team"))
    assert len(sections()) >= 10
    assert [heading for heading in sections() if f'"{heading}"' not in tests] == []


@pytest.mark.slow
def test_the_store_travels_with_git(project: Checkout, tmp_path: Path) -> None:
    pull, push = sections()["The store"]
    other = clone(project, tmp_path / "elsewhere/clone")
    perform(other, pull)
    assert list(other.path.glob("samples/demo-cifar10-*.png"))
    project.params(weights=str(tmp_path / "b"))
    project.dvc("repro", "--quiet")
    perform(project, push)
    other.git("pull", "--quiet")
    other.dvc("pull")
    assert trained(other) == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_experiments_need_a_remote_of_the_team(project: Checkout, tmp_path: Path) -> None:
    """Into the store they are not pushed, by root either; nor is an older one silently, once others have a remote."""
    outside = {path: path.exists() for path in (Path("/store"), Path("/dev/null/files"))}
    before = objects(project.path / "store")
    project.dvc("exp", "run", "--quiet", "--name", "older", "-S", weights(project, "b"))
    project.git("checkout", "--quiet", ".")
    assert REFUSED in project.dvc("exp", "push", "origin", "older", rc=None)
    other = clone(tmp_path / "origin.git", tmp_path / "elsewhere/clone")
    project.dvc("exp", "push", "--no-cache", "origin", "older")
    other.dvc("exp", "pull", "--no-cache", "origin", "older")
    address = f"file://{tmp_path / 'origin.git'}"
    assert REFUSED in project.dvc("get", address, CHECKPOINT, "--out", tmp_path / "got", rc=None)
    assert REFUSED in project.dvc("push", "--all-commits", rc=None)
    assert objects(project.path / "store") == before
    assert {path: path.exists() for path in outside} == outside

    team = tmp_path / "team"
    project.dvc("remote", "add", "--default", "team", team)
    project.dvc("remote", "modify", "team", "verify", "true")
    project.commit("a remote for the team")
    project.git("push", "--quiet", "origin", "main")
    project.dvc("exp", "run", "--quiet", "--name", "newer", "-S", weights(project, "c"))
    project.git("checkout", "--quiet", ".")
    project.dvc("exp", "push", "origin", "newer")
    assert REFUSED in project.dvc("exp", "push", "origin", "older", rc=None), "its own commit knows no other remote"
    project.dvc("remote", "add", "--local", "--default", "team", team)
    project.dvc("exp", "push", "origin", "older")

    other.git("pull", "--quiet")
    assert REFUSED in other.dvc("exp", "pull", "origin", "older", rc=None)
    other.dvc("remote", "add", "--local", "--default", "team", team)
    other.dvc("exp", "pull", "origin", "older", "newer")
    for name, file in (("older", "b"), ("newer", "c")):
        other.dvc("exp", "apply", name)
        assert trained(other) == (tmp_path / file).read_bytes()


@pytest.mark.slow
def test_a_damaged_object_is_named_and_replaced(project: Checkout, tmp_path: Path) -> None:
    """Pushed again, DVC leaves it as it is; `tools.verify --repair` where it is whole mends the store, and git carries it."""
    whole = objects(project.path / "store")
    name = next(name for name, content in whole.items() if content == trained(project))
    damage_in(project.path / "store")(name)
    project.commit("damage")
    other = clone(project, tmp_path / "elsewhere/clone")
    assert "Checkout failed for following targets:\nmodels/demo/cifar10" in other.dvc("pull", rc=None)
    assert not (other.path / CHECKPOINT).exists()
    said = other.python("-m", "tools.verify", rc=1)
    assert f"{CHECKPOINT}: damaged: {other.path}" in said
    assert name[2:] in said
    assert "remote store: 3 objects, 2 whole, 1 missing or damaged" in said

    assert "Everything is up to date" in project.dvc("push")
    assert objects(project.path / "store") != whole
    assert "3 whole, 0 missing" in project.python("-m", "tools.verify", "--repair")
    assert objects(project.path / "store") == whole
    (block,) = sections()["Damaged and missing objects"]
    assert perform(project, block).count("3 whole, 0 missing") == len(block) == 2
    project.commit("repaired")
    other.git("pull", "--quiet")
    other.dvc("pull")
    assert trained(other) == trained(project)


@pytest.mark.slow
def test_a_clone_that_lacks_them_repairs_nothing(project: Checkout, tmp_path: Path) -> None:
    """A lost list of files is named too, a remote that is no remote says what there is, and nothing whole is deleted."""
    other = clone(project, tmp_path / "elsewhere/clone")
    (lost,) = (other.path / "store/files/md5").glob("*/*.dir")
    lost.unlink()
    whole = objects(other.path / "store")
    said = other.python("-m", "tools.verify", "--repair", rc=1)
    assert "models/demo/cifar10: missing" in said
    assert len(objects(other.path / "store")) == 2
    other.git("checkout", "--quiet", "store")
    name = next(name for name, content in whole.items() if content == trained(project))
    file = other.path / "store/files/md5" / name[:2] / name[2:]
    for spoil in (lambda: damage_in(other.path / "store")(name), file.unlink):
        spoil()
        left = objects(other.path / "store")
        assert "2 whole, 1 missing or damaged" in other.python("-m", "tools.verify", "--repair", rc=1)
        assert objects(other.path / "store") == left, "its list is the last word on what belongs there"
    wrong = other.python("-m", "tools.verify", "--remote", "nowhere", rc=1)
    assert "error: --remote nowhere: no such remote; accepted: store" in wrong
