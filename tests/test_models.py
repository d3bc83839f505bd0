"""`tools.models` reads tags of a real git repository and the objects of a real cache and remote of DVC."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from conftest import Checkout
from ddpm.base.faults import Fault
from tools import models

MEASURES = {"kid": 0.12345, "kid_se": 0.01, "fd": 5.398, "bits_per_dim": 3.637}


def stored(folder: Path, name: str, content: bytes) -> None:
    """Put an object into a cache or a remote that is a folder. The names are no hashes: nothing here looks at contents."""
    path = folder / "files/md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """Two commits of small/celeba: the first in the remote alone, measured; the second nowhere, not measured."""
    checkout = Checkout(tmp_path / "project")
    (checkout.path / "small").mkdir(parents=True)
    (checkout.path / "metrics/small/celeba").mkdir(parents=True)
    (checkout.path / ".dvc").mkdir()
    (checkout.path / ".dvc/config").write_text(f"[core]\n    remote = team\n['remote \"team\"']\n    url = {tmp_path}/team\n")
    checkout.git("init", "--quiet", "--initial-branch=main")
    for number, measures in enumerate((MEASURES, None)):
        folder = f"0{number}folder.dir"
        lock = {"train@celeba": {"outs": [{"path": "models/small/celeba", "md5": folder}, {"path": "a.csv", "md5": "x"}]}}
        (checkout.path / "small/dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
        evaluated = checkout.path / "metrics/small/celeba/evaluate.json"
        evaluated.write_text(json.dumps(measures)) if measures else evaluated.unlink()
        checkout.commit(f"commit {number}")
        checkout.git("tag", "-a", f"faces@v{number + 1}.0", "-m", "models/small/celeba/ema.safetensors", "-m", "A note.")
    stored(tmp_path / "team", "00folder.dir", json.dumps([{"md5": "ffobject", "relpath": "ema.safetensors"}]).encode())
    stored(tmp_path / "team", "ffobject", bytes(1_234_000))
    for module in ("stages", "tools.revisions", "tools.models"):
        monkeypatch.setattr(f"{module}.ROOT", checkout.path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    models.outputs.cache_clear()
    return checkout


def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *names: str) -> tuple[list[list[str]], str]:
    """The words of each line on stdout, and stderr."""
    monkeypatch.setattr(sys, "argv", ["models", *names])
    models.main(models.arguments())
    said = capsys.readouterr()
    return [line.split() for line in said.out.splitlines()], said.err


def test_what_a_line_says(project: Checkout, monkeypatch, capsys, tmp_path: Path) -> None:
    lines, wrong = listed(monkeypatch, capsys)
    path = "models/small/celeba/ema.safetensors"
    assert lines[1:] == [
        ["faces@v2.0", "small", "/", "celeba", "nowhere", path],
        ["faces@v1.0", "small", "/", "celeba", "123.45", "±", "10.00", "5.40", "3.64", "1.23", "MB", "remote", "team", path],
        ["fetch", "one:", "dvc", "get", ".", path, "--rev", "faces@v2.0"],
    ]
    assert wrong == ""
    cache = project.path / ".dvc/cache"
    for name in ("00folder.dir", "ffobject"):
        stored(cache, name, (tmp_path / "team/files/md5" / name[:2] / name[2:]).read_bytes())
    assert listed(monkeypatch, capsys)[0][2][-2:] == ["cache", path]


def test_versions_are_numbers_and_names_choose(project: Checkout, monkeypatch, capsys) -> None:
    for tag in ("faces@v10.0", "others@v1"):
        project.git("tag", "-a", tag, "-m", "models/small/celeba/ema.safetensors", "main~1")
    lines, _ = listed(monkeypatch, capsys, "faces")
    assert [line[0] for line in lines[1:-1]] == ["faces@v10.0", "faces@v2.0", "faces@v1.0"]
    with pytest.raises(Fault, match="no model 'face' is registered; accepted: faces, others"):
        listed(monkeypatch, capsys, "face")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (None, "cats@v1: not annotated; accepted: an annotated tag"),
        ("hello", "cats@v1: its message begins with 'hello'; accepted: an annotated tag"),
        ("models/demo/celeba/ema.safetensors", "cats@v1: dvc.lock at its commit keeps no models/demo/celeba"),
        ("models/small/celeba/raw.safetensors", "celeba at its commit holds no raw.safetensors; accepted: ema.safetensors"),
    ],
)
def test_a_tag_that_registers_nothing_is_told(project: Checkout, monkeypatch, capsys, message: str | None, said: str) -> None:
    project.git("tag", *(["-a", "-m", message] if message else []), "cats@v1", "main~1")
    lines, wrong = listed(monkeypatch, capsys)
    assert said in wrong
    assert len(lines) == 4, "the others are listed all the same"


def test_other_tags_are_none_of_its_business(project: Checkout, monkeypatch, capsys) -> None:
    project.git("tag", "--delete", "faces@v1.0", "faces@v2.0")
    project.git("tag", "v1")
    assert listed(monkeypatch, capsys) == ([f"no model is registered; it takes {models.ACCEPTED}".split()], "")
