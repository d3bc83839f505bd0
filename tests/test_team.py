"""A team's day as docs/sharing.md tells it, command by command: a bare git repository and S3, both served on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import servers
from conftest import Checkout
from sharing import CHECKPOINT, clone, objects, perform, sections, stand_in, trained, weights
from test_remotes import HEADINGS

PLACE = "models/small/celeba/ema.safetensors"  # the page's checkpoint; the demo's cifar10 stands in for it


class Team:
    """The first machine, the address of the repository, and what the page's words mean here."""

    def __init__(self, box: Checkout, address: str, places: dict[str, str], damage: servers.Damage) -> None:
        self.box, self.address, self.damage = box, address, damage
        self.places = places | {PLACE: CHECKPOINT, "https://git.example.org/faces.git": address}

    def does(self, checkout: Checkout, lines: list[str], **words: str) -> str:
        return perform(checkout, lines, words | self.places)

    def joins(self, path: Path) -> Checkout:
        """A clone on another machine, with the remote's credentials."""
        made = clone(self.address, path)
        self.does(made, sections()[HEADINGS["s3"]][1])
        return made


@pytest.fixture
def team(untouched: Checkout, tmp_path: Path) -> Iterator[Team]:
    for name in ("server", "git", "box"):
        (tmp_path / name).mkdir()
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", tmp_path / "git/faces.git"], check=True)
    port = servers.free_port()
    daemon: list[Any] = ["git", "daemon", f"--listen={servers.HOST}", f"--port={port}", "--export-all"]
    daemon += ["--enable=receive-pack", f"--base-path={tmp_path / 'git'}", tmp_path / "git"]
    with servers.s3(tmp_path / "server") as (s3, damage, key), servers.running(daemon, port, tmp_path / "git"):
        places = {"https://s3.example.org": f"http://{servers.HOST}:{s3}"}
        places |= {"KEY": key["aws_access_key_id"], "SECRET": key["aws_secret_access_key"]}
        box = stand_in(untouched, tmp_path / "box/project")
        made = Team(box, f"git://{servers.HOST}:{port}/faces.git", places, damage)
        box.git("remote", "add", "origin", made.address)
        for block in sections()[HEADINGS["s3"]]:
            made.does(box, block)
        box.git("push", "--quiet", "origin", "main")
        yield made


def set_weights(checkout: Checkout, file: Path) -> None:
    """Another training to come: the setting in params.yaml."""
    checkout.params(weights=str(file))


@pytest.mark.slow
def test_one_trains_and_all_pull(team: Team, tmp_path: Path) -> None:
    box, other = team.box, team.joins(tmp_path / "other/clone")
    set_weights(box, tmp_path / "box/b")
    there, here = sections()["One trains, all pull"]
    team.does(box, there)
    team.does(other, here)
    assert trained(other) == (tmp_path / "box/b").read_bytes()
    assert list(other.path.glob("samples/demo-cifar10-*.png"))
    assert "didn't change" in other.dvc("repro", "train@cifar10")

    there, here, local = sections()["Experiments"]
    setting = "'train.channels=[32,64,96]'"
    team.does(box, there, **{setting: weights(box, "c")})
    box.git("checkout", "--quiet", ".")
    said = team.does(other, here)
    assert "wider" in said
    assert trained(other) == (tmp_path / "box/c").read_bytes()
    team.does(other, local)
    assert "remote = team" in (other.path / ".dvc/config.local").read_text()
    other.dvc("exp", "push", "origin", "wider")


@pytest.mark.slow
def test_a_registered_model_is_found_and_leaves_the_house(team: Team, tmp_path: Path) -> None:
    """By its tag from a clone, by its address from anywhere, and with a note into another project, where it can be updated."""
    box, other = team.box, team.joins(tmp_path / "other/clone")
    first, second = (tmp_path / "box" / name for name in "ab")
    box.dvc("push")
    there, here = sections()["Names and versions"]
    team.does(box, there)
    set_weights(box, second)
    box.dvc("repro")
    box.dvc("push")
    box.commit("newer")

    said = team.does(other, here)
    (line,) = (line for line in said.splitlines() if line.startswith("faces@v1 "))
    size = f"{first.stat().st_size / 1e6:.2f} MB"
    assert " ".join(line.split()) == f"faces@v1 demo / cifar10 {size} remote team {CHECKPOINT}"
    assert (other.path / "faces-v1.safetensors").read_bytes() == first.read_bytes()
    assert (other.path / "faces-v1.png").exists()

    get, note, update = sections()["From another repository"]
    away = clone(team.address, tmp_path / "away/project")  # another project of DVC, which has the tools to draw with as well
    (away.path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    away.commit("a project of its own")
    team.does(away, get)
    assert (away.path / "faces.safetensors").read_bytes() == first.read_bytes()
    assert (away.path / "faces.png").exists()
    team.does(away, note)
    assert (away.path / "imported.safetensors").read_bytes() == first.read_bytes()
    box.git("push", "--quiet", "origin", "main")
    team.does(away, update)
    assert (away.path / "imported.safetensors").read_bytes() == second.read_bytes()
    assert "imported.safetensors.dvc" in away.git("show", "--stat", "HEAD")
    for options in (" --rev faces@v1", ""):
        team.does(away, [update[0], update[1] + options])
        assert (away.path / "imported.safetensors").read_bytes() == first.read_bytes()

    names = {content: name for name, content in objects(box.path / ".dvc/cache").items()}
    team.damage(names[first.read_bytes()])
    late = clone(team.address, tmp_path / "late/project")
    (late.path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    team.does(late, [*get[:2], f"{note[1]} --rev faces@v1"])
    for file in ("faces", "imported"):
        arrived = (late.path / f"{file}.safetensors").read_bytes()
        assert len(arrived) == len(first.read_bytes())
        assert arrived != first.read_bytes(), "DVC has compared no hash, as the page says"
