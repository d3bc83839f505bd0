"""A temporary clone of this project with tiny settings, and the real DVC and git to work on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ddpm.base.locks import locked
from forked import start_server
from stages import load_yaml

# Tiny networks gain nothing from threads, and several wait for each other where another process is busy.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
# Results of this checkout, which a clone makes for itself.
RESULTS = ("store/", "metrics/", "data/", "models/", "dvc.lock", "small/dvc.lock", "gpu/dvc.lock", "full/dvc.lock")

AT_FIRST = ("test_pipeline.py", "test_states.py")  # only the first of them needs a checkout

TINY_TRAIN = {
    "lr": 0.001,
    "channels": [8, 16],
    "attention": [False, True],
    "time_emb_dim": 8,
    "num_timesteps": 8,
    "steps": 6,
    "batch_size": 4,
    "lr_decay": "constant",
    "warmup_steps": 2,
    "checkpoints": [2, 4],
    "log_every": 2,
    "precision": "fp32",  # the same bits on every machine and in every run
    "threads": 1,
}
TINY_FIGURES = {
    "drawing": {"sampler": "ddpm 4", "per_row": 2, "batch_size": 4},
    "samplers": {"compared": ["ddim 2", "ddim 3", "heun 3 quadratic", "ddpm 4"]},
    "solvers": {"steps": [2, 4]},
    "classes": {"scales": [0, 2]},
    "grid": {"images": 4},
    "path": {"images": 4},
    "editing": {"steps": 4, "times": 2, "jump": 2, "strengths": [0.5]},
    "timing": {"images": 1, "max_seconds": 0.2},
}
TINY_EVALUATION = {"sampler": "unipc 2", "images": 20, "batch_size": 8, "bound_images": 4}


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """What a test draws at random must not depend on which tests ran before it in its process."""
    torch.manual_seed(0)


def clean_environment(home: Path) -> dict[str, str]:
    """This process's environment without what would lead DVC, git or a stage out of the temporary folder."""
    dropped = ("DVC_", "GIT_", "DATA_HOME", "FRESH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    who = {"GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@example.org"}
    who |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
    return kept | who | {
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "system"),
        "OMP_NUM_THREADS": "1",  # tiny networks gain nothing from threads
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip


@cache
def quick_python() -> Path:
    """A `python` that has already imported what takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="python-"))  # short: a socket's path has little room
    return start_server(folder, clean_environment(folder))


class Checkout:
    """A copy of the project in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = clean_environment(path.parent)

    def start(self, *command: str | Path, cwd: str = ".", **env: str) -> subprocess.Popen[str]:
        """Start `command` as the leader of a process group of its own, as a shell does; output goes to <path>.log."""
        with self.log.open("w") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                cwd=self.path / cwd,
                env=self.env | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        return self.path.with_name(self.path.name + ".log")

    def run(self, *command: str | Path, rc: int | None = 0, cwd: str = ".", **env: str) -> str:
        """Run `command` to its end and return its output; `rc` is the exit status it must have, None for any but 0.

        Python, the stages' and DVC's too, is one that starts at once.
        """
        python = quick_python()
        if command[0] == sys.executable:
            command = (python, *command[1:])
        first = f"{python.parent}{os.pathsep}{self.env['PATH']}"
        quick = {"PATH": first, "PYTHON_EXEC": str(python)}  # the latter is torchrun's
        process = self.start(*command, cwd=cwd, **quick | env)
        try:
            status = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output = self.log.read_text()
        assert status == rc if rc is not None else status != 0, f"{command} ended with {status}:\n{output}"
        return output

    def dvc(self, *args: str | Path, rc: int | None = 0, cwd: str = ".", **env: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *args, rc=rc, cwd=cwd, **env)

    def git(self, *args: str | Path) -> str:
        return self.run("git", *args)

    def python(self, *args: str | Path, rc: int | None = 0, **env: str) -> str:
        return self.run(sys.executable, *args, rc=rc, **env)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def copy(self, path: Path) -> Checkout:
        """A copy of everything: sources, git's history, DVC's cache and work/."""
        shutil.copytree(self.path, path, symlinks=True)
        return Checkout(path)

    def params(self, **changes: Any) -> None:
        """Change settings of params.yaml: dotted names with __ for the dot, as in train__steps=8."""
        params = load_yaml((self.path / "params.yaml").read_text())
        for name, value in changes.items():
            *parents, key = name.split("__")
            section = params
            for parent in parents:
                section = section.setdefault(parent, {})
            section[key] = value
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def processes(self, module: str) -> list[int]:
        """Processes that run `python -m module` in this checkout, found through /proc."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words, cwd = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "cwd").readlink()
            except OSError:  # it ended meanwhile
                continue
            if module.encode() in words and cwd.is_relative_to(self.path):
                found.append(int(folder.name))
        return found

    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock."""
        stages: dict[str, Any] = yaml.safe_load((self.path / "dvc.lock").read_text())["stages"]
        return stages

    def files(self, pattern: str = "**/*") -> dict[str, bytes]:
        """Contents of the files that match, by path."""
        found = sorted(path for path in self.path.glob(pattern) if path.is_file())
        return {str(path.relative_to(self.path)): path.read_bytes() for path in found}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first whose tests need checkouts: they take longest, and no process may be left with one at the end.

    Before all others AT_FIRST: while one process makes the checkout in which all has run, more would only wait for it.
    """
    long = Counter(item.path for item in items if {"untouched", "finished"} & set(getattr(item, "fixturenames", ())))
    ranks = {name: rank - len(AT_FIRST) for rank, name in enumerate(AT_FIRST)}
    items.sort(key=lambda item: (ranks.get(item.path.name, 0), -long[item.path]))


def stages_run(output: str) -> list[str]:
    """Names of the stages that a `dvc repro` ran, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """Wait until `condition()` is true and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by playwright; tests that want one are skipped where either is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no chromium, chromium-browser or google-chrome here")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The project as a fresh clone with tiny settings, committed; nothing has run. Copy it before use."""
    path = tmp_path_factory.mktemp("untouched") / "project"
    away = tmp_path_factory.mktemp("git")  # for a download without git
    subprocess.run(["git", "init", "--quiet", "--bare", away], check=True)
    where = {} if (ROOT / ".git").exists() else {"GIT_DIR": str(away), "GIT_WORK_TREE": str(ROOT)}
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=ROOT, env=os.environ | where)
    for name in listed.decode().split("\0"):
        if name and not name.startswith(RESULTS) and (ROOT / name).exists():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name, follow_symlinks=False)
    (path / "store").mkdir()
    # One pipeline is enough here, and DVC refuses some commands while another has never run.
    for folder in ("small", "gpu"):
        shutil.rmtree(path / folder)
    checkout = Checkout(path)
    params = load_yaml((path / "params.yaml").read_text())
    params["train"] |= TINY_TRAIN
    for figure, settings in TINY_FIGURES.items():
        params["figures"][figure] |= settings
    params["evaluation"] |= TINY_EVALUATION
    params["runtime"] = {
        "device": "cpu",
        "workers": 1,
        "save_seconds": 0.2,
        "preview_every": 0.0,
        "tensorboard": False,
        "launcher": "",
    }
    params |= {"recipe_names": ["cifar10", "celeba"], "conditional": [], "editing": []}  # two recipes are enough
    for name, size in (("cifar10", 32), ("celeba", 16)):
        params["recipes"][name] = {"data": {"dataset": name, "source": "synthetic", "images": 32, "size": size}}
    (path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.commit("tiny")
    return checkout


@pytest.fixture(scope="session")
def finished(untouched: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which all has run, is committed, and is pushed to its store. Copy it before use."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the first of its processes makes it for all
        shared = shared.parent
    made = shared / "finished" / "made"
    with locked(shared / "finished.lock"):
        if not made.exists():
            shutil.rmtree(made.parent, ignore_errors=True)  # of a process that failed
            made.parent.mkdir()
            checkout = untouched.copy(made.parent / "project")
            checkout.dvc("repro")
            checkout.dvc("push")
            checkout.commit("results")
            made.touch()
    return Checkout(made.parent / "project")


@pytest.fixture
def fresh(untouched: Checkout, tmp_path: Path) -> Checkout:
    """A copy of `untouched` of this test's own."""
    return untouched.copy(tmp_path / "fresh")


@pytest.fixture
def done(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of `finished` of this test's own."""
    return finished.copy(tmp_path / "done")
