"""Training states to resume from: torch.save, loaded with weights_only, so that loading one executes nothing."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any, TextIO

import torch

from ddpm.checkpoint import CheckpointError, write_whole
from ddpm.config import TrainConfig
from ddpm.training import TrainState


def code_fingerprint(files: list[Path]) -> str:
    """sha256 of the files' syntax trees without docstrings: comments and layout do not count, a changed formula does."""
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def state_key(config: TrainConfig, data_sha256: str, code: str) -> dict[str, Any]:
    """All that a training state depends on. States whose keys are equal continue each other; no others do.

    The number of steps is left out where the learning rate does not depend on it: a longer run continues a shorter
    one. `checkpoints` only choose which weights are kept.
    """
    settings = config.model_dump(exclude={"checkpoints"} | ({"steps"} if config.lr_decay == "constant" else set()))
    return {"train": settings, "data": data_sha256, "code": code}


class StateFolder:
    """The resumable states of one training: `state-<step>.pt`, and the kept `raw-<step>.safetensors`.

    At most one process writes it: `lock` refuses a second one. The folder's name holds a hash of the key, so that a
    changed setting never continues a foreign state.
    """

    KEPT_STATES = 2  # one more than needed: a damaged newest state costs minutes, not the run

    def __init__(self, parent: Path, key: dict[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True, indent=1)
        self.path = parent / f"train-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.others = [folder for folder in sorted(parent.glob("train-*/key.json")) if folder.parent != self.path]
        self.key, self._text = key, text
        self._lock: TextIO | None = None

    def lock(self, wait_seconds: float = 0.0) -> None:
        """Claim the folder for this process until it ends. Raises CheckpointError if another process has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("a+")
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    self._lock.seek(0)
                    holder = self._lock.read().strip() or "unknown"
                    raise CheckpointError(
                        f"{self.path}: another trainer (process {holder}) is writing this state; wait for it or stop it"
                    ) from None
                time.sleep(0.2)
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        write_whole(self.path / "key.json", lambda temporary: temporary.write_text(self._text))
        for leftover in self.path.glob(".*.tmp"):  # of a process that was killed while saving
            leftover.unlink()

    def difference(self) -> str | None:
        """What sets this training apart from the nearest other one here, for people; None if there is no other."""
        nearest: list[str] | None = None
        for file in self.others:
            other = json.loads(file.read_text())
            changes = [
                f"train.{name}: {other['train'].get(name)} -> {value}"
                for name, value in self.key["train"].items()
                if other["train"].get(name) != value
            ]
            changes += [f"{part} changed" for part in ("data", "code") if other[part] != self.key[part]]
            if nearest is None or len(changes) < len(nearest):
                nearest = changes
        return None if nearest is None else "; ".join(nearest)

    def raw_path(self, step: int) -> Path:
        return self.path / f"raw-{step:06d}.safetensors"

    def save(self, state: TrainState, protect: int) -> None:
        """Save `state`, then remove states that are no longer needed: all but the newest, and the one at `protect`."""
        write_whole(self.path / f"state-{state.step:06d}.pt", lambda temporary: torch.save(state.state_dict(), temporary))
        for old in [path for path in self._states() if _step_of(path) <= state.step][: -self.KEPT_STATES]:
            if _step_of(old) != protect:
                old.unlink()

    def restore(self, state: TrainState, last_step: int) -> list[str]:
        """Load the newest whole state at or before `last_step` into `state`; return a line for each damaged one met."""
        damaged = []
        for path in reversed([path for path in self._states() if _step_of(path) <= last_step]):
            try:
                with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
                    if member := archive.testzip():
                        raise zipfile.BadZipFile(f"wrong checksum of {member}")
                values = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # garbage provokes almost any: KeyError, IndexError, UnicodeDecodeError, ...
                damaged.append(f"{path} is damaged and was left out: {error}")
                continue
            state.load_state_dict(values)
            return damaged
        return damaged

    def _states(self) -> list[Path]:
        return sorted(self.path.glob("state-*.pt"), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.stem.partition("-")[2])
