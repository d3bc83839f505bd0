"""Remotes that exist: the commands of docs/sharing.md against real servers on loopback. Skipped where one is missing."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import servers
from conftest import Checkout, wait_for
from sharing import CHECKPOINT, PAGE, RAW, clone, objects, perform, sections, stand_in, trained

pytestmark = pytest.mark.slow

HEADINGS = {"folder": "A folder on a shared disk", "s3": "S3, and what speaks its language", "ssh": "SSH", "webdav": "WebDAV"}
CHECK = ("-m", "tools.verify")


class Remote(NamedTuple):
    """A server that runs, with what the page's words for it mean here."""

    kind: str
    places: dict[str, str]
    damage: servers.Damage
    line: servers.Line | None  # through which it is reached; None for a folder

    def set_up(self, checkout: Checkout) -> None:
        """What the page says the first of the team does, without a `dvc push` at its end."""
        lines = sections()[HEADINGS[self.kind]][0]
        perform(checkout, [line for line in lines if line != "dvc push"], self.places)

    def log_in(self, checkout: Checkout, **wrong: str) -> None:
        """What the page says every machine does; `wrong` replaces what is right here."""
        for block in sections()[HEADINGS[self.kind]][1:]:
            perform(checkout, block, self.places | wrong)


@pytest.fixture(params=list(HEADINGS))
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    kind, folder = request.param, tmp_path / "server"
    folder.mkdir()
    if kind == "folder":
        yield Remote(kind, {"/mnt/share/ddpm": str(folder)}, servers.damage_in(folder), None)
        return
    with getattr(servers, kind)(folder) as (port, damage, user):
        line = servers.Line(port)
        here = f"{servers.HOST}:{line.port}"
        words = {
            "s3": {
                "https://s3.example.org": f"http://{here}",
                "KEY": user.get("aws_access_key_id", ""),
                "SECRET": user.get("aws_secret_access_key", ""),
            },
            "ssh": {
                "gpu-box/srv/ddpm": f"{here}{folder}/store",
                "alice": user.get("user", ""),
                "~/.ssh/id_ed25519": str(folder / "id"),
            },
            "webdav": {"webdavs://cloud.example.org": f"webdav://{here}", "SECRET": user.get("password", "")},
        }
        yield Remote(kind, words[kind], damage, line)


@pytest.fixture(scope="module")
def made(untouched: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return stand_in(untouched, tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def project(made: Checkout, tmp_path: Path) -> Checkout:
    """A copy of a stand-in project of this test's own, on a machine of its own."""
    (tmp_path / "box").mkdir()
    return made.copy(tmp_path / "box/project")


def test_checkpoints_travel(remote: Remote, project: Checkout, tmp_path: Path) -> None:
    """Set up and pushed here, pulled and sampled elsewhere; a damaged object is noticed, named, and replaced from here."""
    remote.set_up(project)
    remote.log_in(project)
    project.dvc("push")
    assert "remote team: 3 objects, 3 whole" in project.python(*CHECK)

    other = clone(project, tmp_path / "elsewhere/clone")
    remote.log_in(other)
    other.dvc("pull")
    assert trained(other) == trained(project)
    other.python("-m", "tools.sample", "cifar10", "--steps", "2", "--out", "drawn.png")
    assert (other.path / "drawn.png").exists()

    stored = {content: name for name, content in objects(project.path / ".dvc/cache").items()}
    name = stored[trained(project)]
    remote.damage(name)
    late = clone(project, tmp_path / "late/clone")
    remote.log_in(late)
    assert "Checkout failed for following targets:\nmodels/demo/cifar10" in late.dvc("pull", rc=None)
    assert not (late.path / CHECKPOINT).exists()
    said = late.python(*CHECK, rc=1)
    assert f"{CHECKPOINT}: damaged: " in said
    assert f"{name[:2]}/{name[2:]}\n" in said
    assert "Everything is up to date" in project.dvc("push"), "which is why it takes a tool"
    assert "3 whole" in project.python(*CHECK, "--repair")
    late.dvc("pull")
    assert trained(late) == trained(project)


WRONG = {
    "s3": ({"KEY": "AKIAWRONG"}, "Unable to locate credentials", "Forbidden: An error occurred (403)"),
    "ssh": ({}, "Permission denied for user", "Permission denied for user"),
    "webdav": ({"SECRET": "guessed"}, "received 401 (Not Authorized)", "received 401 (Not Authorized)"),
}
MISLEADING = "Some of the cache files do not exist neither locally nor on remote"


@pytest.mark.parametrize("remote", list(WRONG), indirect=True)
def test_credentials_that_are_missing_or_wrong(remote: Remote, project: Checkout, tmp_path: Path) -> None:
    """What the page says that DVC says; once they are right, the same command works."""
    wrong, missing, refused = WRONG[remote.kind]
    assert all(f"`{words}`" in PAGE for words in (missing, refused, MISLEADING))
    if remote.kind == "ssh":
        wrong = {"~/.ssh/id_ed25519": remote.places["~/.ssh/id_ed25519"].replace("/id", "/stranger")}
    remote.set_up(project)
    assert missing in project.dvc("push", rc=None)
    remote.log_in(project, **wrong)
    assert refused in project.dvc("push", rc=None)
    remote.log_in(project)
    project.dvc("push")

    other = clone(project, tmp_path / "elsewhere/clone")
    for expected in (missing, refused):
        assert (MISLEADING if remote.kind == "webdav" else expected) in other.dvc("pull", rc=None)
        assert expected.partition(":")[0] in other.python(*CHECK, rc=1)
        assert not (other.path / CHECKPOINT).exists()
        remote.log_in(other, **wrong)
    remote.log_in(other)
    other.dvc("pull")
    assert trained(other) == trained(project)


@pytest.mark.parametrize(
    ("kind", "url"), [("s3", "s3://ddpm/store"), ("ssh", "ssh://box/srv"), ("webdav", "webdav://cloud/ddpm")]
)
def test_an_extra_that_is_missing_is_named(project: Checkout, kind: str, url: str) -> None:
    project.dvc("remote", "add", "--default", "team", url)
    without = f"import sys; sys.modules['dvc_{kind}'] = None; from dvc.cli import main; sys.exit(main(['push']))"
    assert "`is supported, but requires`" in PAGE
    assert f"{kind} is supported, but requires 'dvc-{kind}' to be installed" in project.python("-c", without, rc=None)


def interrupted(remote: Remote, checkout: Checkout, command: str) -> None:
    """Begin a dvc `command` that ends in the middle of the larger file: killed, or in a folder by a limit on files' sizes."""
    dvc = [sys.executable, "-m", "dvc", command]
    if remote.line is None:
        checkout.run("bash", "-c", f"ulimit -f {RAW // 2048}; exec {shlex.join(dvc)}", rc=None)
        return
    remote.line.cut_after("up" if command == "push" else "down", RAW // 2)
    process = checkout.start(*dvc)
    wait_for(remote.line.stalled.is_set, f"dvc {command} to be half-way", 120)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    remote.line.mend()


def test_what_is_interrupted_goes_on(remote: Remote, project: Checkout, tmp_path: Path) -> None:
    """With the same command, and ends with whole objects; where half of one stays under its name, the page tells the cure."""
    remote.set_up(project)
    remote.log_in(project)
    interrupted(remote, project, "push")
    assert "3 whole" not in project.python(*CHECK, rc=1)
    project.dvc("push")
    if remote.kind == "webdav":
        assert "models/demo/cifar10/raw: damaged: " in project.python(*CHECK, rc=1)
        assert "After an interrupted push to WebDAV, `python -m tools.verify --repair` replaces it" in PAGE
        project.python(*CHECK, "--repair")
    assert "3 whole" in project.python(*CHECK)

    other = clone(project, tmp_path / "elsewhere/clone")
    remote.log_in(other)
    interrupted(remote, other, "pull")
    assert not (other.path / "models/demo").exists()
    other.dvc("pull")
    assert other.files("models/**/*") == project.files("models/**/*")
