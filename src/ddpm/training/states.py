"""Training states to resume from: torch.save, loaded with weights_only, so that loading one executes nothing."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import itertools
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

from ddpm.base.faults import Fault, wants_memory
from ddpm.base.files import (
    TEMPORARY,
    amount,
    check_regular,
    disk_faults,
    existing,
    free_bytes,
    read_json,
    whole_file,
    write_text,
)
from ddpm.base.hashes import sha256_of
from ddpm.base.locks import claim
from ddpm.model.weights import read_metadata, save_weights
from ddpm.training.loop import TrainState
from ddpm.training.settings import TrainConfig

# What torch's RuntimeError says of bytes that it cannot decode. Any other may be the machine's fault, and the file good.
_DAMAGE = (
    "hasRecord",
    "inline_container",
    "record size",
    "PytorchStreamReader",
    "storage",
    "Storage",
    "Error(s) in loading",
    "size of tensor",
    "invalid magic",
    "Invalid magic",
)
_STATE = r"state-\d{6,}\.pt"
_WEIGHTS = r"(raw|ema)-\d{6,}\.(safetensors|sha256)"  # what `keep` writes
OURS = re.compile(rf"{_STATE}|{_WEIGHTS}|key\.json|lock")  # all that a training writes into its folder
_AWAY = "move it away, and the same command continues"
FORMAT = 2  # of the state files; count it up when their layout changes, and keep the entry "format"


def state_key(config: TrainConfig, data_sha256: str, code: str) -> dict[str, Any]:
    """All that a training state depends on. States whose keys are equal continue each other; no others do.

    The number of steps is left out where the learning rate does not depend on it: a longer run continues a shorter
    one: with the same bits on a CPU, and closely on a GPU, where `compile: auto` compiles the longer one alone. `checkpoints`
    only choose which weights are kept.
    """
    settings = config.model_dump(exclude={"checkpoints"} | ({"steps"} if config.lr_decay == "constant" else set()))
    return {"train": settings, "data": data_sha256, "code": code}


class _DamageError(Exception):
    """A file's bytes are not what was written."""


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Tell faults of decoding `path`, which become _DamageError, from those of the machine, which become Fault: there the file
    may be good, so that nothing may happen to it."""
    try:
        yield
    except (Fault, _DamageError):
        raise
    except Exception as error:  # garbage provokes almost any: KeyError, IndexError, UnicodeDecodeError, ...
        if isinstance(error, OSError):
            damage = error.errno in (None, errno.EINVAL)  # garbage makes a reader seek to before the start
        elif isinstance(error, RuntimeError) and not isinstance(error, (RecursionError, NotImplementedError)):
            damage = type(error) is RuntimeError and any(words in str(error) for words in _DAMAGE)
        else:
            damage = not isinstance(error, MemoryError)
        if damage and not wants_memory(error):
            raise _DamageError(f"is damaged ({_reason(error)})") from error
        short = "too little memory: " if wants_memory(error) else ""
        raise Fault(
            f"{path}: cannot be read ({short}{_reason(error)}). It may be good, so nothing was changed: mend this, or move the "
            "file away, and the same command continues"
        ) from error


class StateFolder:
    """The resumable states of one training, `state-<step>.pt`, and the weights kept at some steps, `raw-<step>.safetensors` and
    their average `ema-<step>.safetensors`.

    At most one process writes it: `lock` refuses a second one. The folder's name holds a hash of the key, so that a
    changed setting never continues a foreign state; a state that somebody put into the wrong folder is recognised too.
    """

    KINDS = ("raw", "ema")
    KEPT_STATES = 2  # one more than needed: a damaged newest state costs minutes, not the run

    def __init__(self, parent: Path, key: dict[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True, indent=1)
        self.path = parent / f"train-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.others = [folder for folder in sorted(parent.glob("train-*/key.json")) if folder.parent != self.path]
        self.key, self._text = key, text
        self._lock: TextIO | None = None

    def lock(self, wait_seconds: float = 0.0) -> None:
        """Claim the folder for this process until it ends. Raises Fault if another process has it."""
        with disk_faults(self.path / "lock", len(self._text)):
            self._lock = claim(self.path / "lock", wait_seconds, "is writing this training's states")
        for leftover in self.path.glob(TEMPORARY):  # of a process that was killed while saving
            leftover.unlink()
        write_text(self.path / "key.json", self._text)

    def difference(self) -> str | None:
        """What sets this training apart from the nearest other one here, for people; None if there is no other."""
        nearest: list[str] | None = None
        for file in self.others:
            try:
                changes = _changes(read_json(file, ""), self.key)
            except (Fault, ValueError, KeyError, OSError, TypeError, AttributeError):  # damaged, or gone: it is only a hint
                continue
            if nearest is None or len(changes) < len(nearest):
                nearest = changes
        return None if nearest is None else "; ".join(nearest)

    def set_aside(self) -> list[str]:
        """Names of the states that were left out and renamed, by this run or an earlier one."""
        return sorted(path.name for ending in ("damaged", "foreign") for path in self.path.glob(f"state-*.{ending}-*"))

    def kept_path(self, kind: str, step: int) -> Path:
        return self.path / f"{kind}-{step:06d}.safetensors"

    def is_kept(self, step: int) -> bool:
        """Whether the weights of `step` and their average lie here."""
        return all(self.kept_path(kind, step).exists() for kind in self.KINDS)

    def keep(self, step: int, networks: Sequence[nn.Module], metadata: dict[str, Any]) -> None:
        """Keep the weights of the two `networks`, those of KINDS, with a checksum beside each. Raises Fault where the disk
        refuses."""
        for kind, network in zip(self.KINDS, networks, strict=True):
            path = self.kept_path(kind, step)
            save_weights(path, network, metadata | {"step": step, "kind": kind, "key": self.path.name})
            write_text(_checksum_path(path), hashlib.sha256(path.read_bytes()).hexdigest())

    def check_kept(self, config: TrainConfig) -> list[str]:
        """Rename kept weights that are damaged or of another step or training, so that they count as missing; return a line
        for each. Raises Fault for what cannot be read."""
        lines = []
        for step, kind in itertools.product(config.kept_steps, self.KINDS):
            path, sums = self.kept_path(kind, step), _checksum_path(self.kept_path(kind, step))
            if not os.path.lexists(path):
                continue
            check_regular(path, _AWAY)
            if not os.path.lexists(sums):  # killed between the two: the state is of an earlier step
                path.unlink()
                continue
            check_regular(sums, _AWAY)
            back = "the training goes back to a state at or before that step"
            try:
                with _decoding(path):
                    right = sha256_of(path) == sums.read_text(errors="replace")
                if not right:
                    raise _DamageError(f"is damaged (wrong checksum; {back})")
                header = read_metadata(path)
            except _DamageError as damage:
                lines.append(self._set_aside(path, str(damage), "damaged"))
                continue
            if tuple(map(header.get, ("kind", "step", "key"))) != (kind, step, self.path.name):
                of = f"{header.get('kind')} of step {header.get('step')} of {header.get('key')}"
                wanted = f"{kind} of step {step} of {self.path.name}"
                lines.append(self._set_aside(path, f"holds {of}, not {wanted}; {back}", "foreign"))
        return lines

    def save(self, state: TrainState, protect: int) -> None:
        """Save `state`, then remove states that are no longer needed: all but the newest, and the one at `protect`.

        Raises Fault where the disk refuses; the earlier states then are as they were.
        """
        content = {"format": FORMAT, "key": self._text, "state": state.state_dict()}
        path = self.path / f"state-{state.step:06d}.pt"
        # Given a path, torch.save would not say why the disk refused.
        with whole_file(path, state_bytes(state)) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
        for old in self._states(state.step)[: -self.KEPT_STATES]:
            if _step_of(old) != protect:
                old.unlink()

    def restore(self, state: TrainState, last_step: int) -> list[str]:
        """Load the newest good state at or before `last_step` into `state`; return a line for each file left out.

        Left out are damaged files, states of other trainings and those of newer versions of this project. They are
        renamed: no later save overwrites them, and removing them is left to people (but for damaged ones: the newest
        KEPT_STATES stay). Without a good state `state` stays as it was. Only the holder of the lock may call this.
        Raises Fault, and changes nothing, where a file cannot be read or memory is short: it may be good.
        """
        lines = self._sort_out()
        before = copy.deepcopy(state.state_dict())  # loading may fail half-way
        for path in reversed(self._states(last_step)):
            try:
                with _decoding(path):
                    with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
                        if member := archive.testzip():
                            raise zipfile.BadZipFile(f"wrong checksum of {member}")
                    content = torch.load(path, map_location="cpu", weights_only=True)["state"]
                try:
                    state.load_state_dict(content)
                except RuntimeError as error:
                    if wants_memory(error) or type(error) is not RuntimeError:
                        raise
                    raise _DamageError(f"is damaged ({_reason(error)})") from error
                except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
                    raise _DamageError(f"is damaged ({_reason(error)})") from error
                if state.step != _step_of(path):
                    raise _DamageError(f"is damaged (it holds step {state.step})")
                break
            except _DamageError as damage:
                state.load_state_dict(before)
                lines.append(self._set_aside(path, str(damage), "damaged"))
        return lines

    def clear(self) -> list[str]:
        """Remove all states and kept weights of this training; return a line for each foreign state, which stays.

        What was left out and renamed stays too. Weights of others are not looked for: that is `check_kept`, before.
        """
        lines = self._sort_out()
        weights = [path for path in self.path.iterdir() if re.fullmatch(_WEIGHTS, path.name)]
        for path in [*self._states(), *weights]:
            path.unlink()
        return lines

    def disk_need(self, state: TrainState, config: TrainConfig, outputs: Path, copies: int) -> dict[Path, int]:
        """Bytes that training on from `state`, as restored, will take at most, beyond what lies here: by folder, one a disk.

        `outputs`: the folder that gets copies of all kept weights in the end; `copies`: 2 where DVC keeps them in its cache
        too, else 1.
        """
        weights = weights_bytes(state.network)
        kept = [self.kept_path(kind, step) for kind in self.KINDS for step in config.kept_steps]
        need = weights * sum(not path.exists() for path in kept)
        if state.step < config.steps:  # a state is saved before an old one is removed
            here = [path.stat().st_size for path in self._states(state.step)][-self.KEPT_STATES :]
            need += (self.KEPT_STATES + 1) * state_bytes(state) - sum(here)
        published = copies * weights * len(kept)
        if existing(self.path).stat().st_dev == existing(outputs).stat().st_dev:
            return {self.path: need + published}
        return {self.path: need, outputs: published}

    def check_room(self, state: TrainState, config: TrainConfig, outputs: Path, copies: int) -> list[str]:
        """Say what `disk_need` finds, a line a disk. Raises Fault if a disk has less."""
        lines = []
        for folder, need in self.disk_need(state, config, outputs, copies).items():
            free = free_bytes(folder)
            lines.append(f"this run will need {amount(need)} on the disk of {folder}; {amount(free)} are free")
            if need > free:
                raise Fault(f"{lines[-1]}. Make room, or set fewer train.checkpoints or a smaller network")
        return lines

    def _states(self, last_step: int | None = None) -> list[Path]:
        """The states at or before `last_step`, in order of steps."""
        found = [path for path in self.path.glob("state-*.pt") if re.fullmatch(_STATE, path.name)]
        return sorted((path for path in found if last_step is None or _step_of(path) <= last_step), key=_step_of)

    def _sort_out(self) -> list[str]:
        """Rename all states that are not this training's; return a line for each. What remains is ours to overwrite."""
        lines = []
        for path in reversed(self._states()):
            try:
                with _decoding(path):
                    check_regular(path, _AWAY)
                    with zipfile.ZipFile(path):  # torch would try what is none in other ways
                        pass
                    head = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # reads no tensor
                    fault = self._foreign(head)
            except _DamageError as damage:
                lines.append(self._set_aside(path, str(damage), "damaged"))
                continue
            if fault:
                lines.append(self._set_aside(path, fault, "foreign"))
        return lines

    def _foreign(self, head: Any) -> str | None:
        """Why a state that holds `head` is not this training's; None if it is."""
        if not isinstance(head, dict) or "format" not in head:
            return "is no training state of this project"
        if head["format"] != FORMAT:
            age = "a newer" if head["format"] > FORMAT else "an older"
            return f"was written by {age} version of this project (format {head['format']}; this one reads {FORMAT})"
        if head["key"] != self._text:
            return f"belongs to another training ({'; '.join(_changes(json.loads(head['key']), self.key))})"
        return None

    def _set_aside(self, path: Path, fault: str, ending: str) -> str:
        """Rename `path` to a new name that ends in `ending`; return a line that says so."""
        names = (path.with_name(f"{path.name}.{ending}-{number}") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        path.rename(aside)
        damaged = [file for file in self.path.glob("*.damaged-*") if file.is_file()]
        for old in sorted(damaged, key=lambda file: file.stat().st_mtime)[: -self.KEPT_STATES]:
            old.unlink()
        return f"{path} {fault}; it was left out and is now {aside.name}"


def _changes(other: dict[str, Any], key: dict[str, Any]) -> list[str]:
    """What must change in the key of one training to make it that of another, for people."""
    settings = {**other["train"], **key["train"]}
    before, after = ({name: part["train"].get(name) for name in settings} for part in (other, key))
    changes = [f"train.{name}: {before[name]} -> {after[name]}" for name in settings if before[name] != after[name]]
    return changes + [f"{part} changed" for part in key if part != "train" and other.get(part) != key[part]]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _step_of(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def state_bytes(state: TrainState) -> int:
    """At most the size of the file of `state`: weights, their EMA and AdamW's two moments, with a quarter to spare; sums."""
    return 5 * _size(state.network) + 2 * state.history.sums.nbytes


def weights_bytes(network: nn.Module) -> int:
    """At most the size of the file that `save_weights` makes of the fp32 `network`: half its size, with a quarter to spare."""
    return 5 * _size(network) // 8


def _size(network: nn.Module) -> int:
    """Bytes: the numbers, what a file says of each tensor beside them, and the settings."""
    return sum(tensor.nbytes + 512 for tensor in network.state_dict().values()) + 2**14
