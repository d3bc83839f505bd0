"""One job over several processes, started by torchrun. Without torchrun all of this means: one process, number 0."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ddpm.base.faults import Fault

T = TypeVar("T")
Nested = Any  # dicts and lists of tensors, numbers and texts


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def local_rank() -> int:
    """This process's number on its machine: which GPU it takes."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def launch(launcher: str, arguments: Sequence[str], folder: Path, stop: Callable[[], object]) -> int:
    """Run `arguments` in the processes that the command `launcher` (torchrun ...) starts in `folder`; its exit status.

    Once `stop()` is true the launcher is asked to end. Raises Fault if it cannot be started.
    """
    try:
        # A session of its own: Ctrl-C reaches this process only, which then asks the launcher once, and waits for it.
        process = subprocess.Popen([*shlex.split(launcher), *arguments], cwd=folder, start_new_session=True)
    except OSError as error:
        raise Fault(
            f'runtime.launcher = {launcher!r}: {error}; accepted: "", or the start of a command such as '
            "torchrun --nproc-per-node=2"
        ) from None
    while process.poll() is None and not stop():
        time.sleep(0.1)
    process.terminate()  # does nothing once it has ended
    return process.wait()


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes: over NCCL where `device` is a GPU, else over gloo."""
    if not launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # first: what NCCL sends as objects goes through the current GPU
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", device_id=device if device.type == "cuda" else None)
    yield
    dist.destroy_process_group()  # not after an error: the others hang in a sum, and torchrun ends them


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def share(count: int) -> slice:
    """This process's part of `count` things: parts are contiguous, in the order of ranks, and differ by at most one."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def sum_(values: Tensor) -> Tensor:
    """Replace `values` by their sum over the processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true in any process."""
    return bool(sum_(torch.tensor(float(flag), device=device))) if dist.is_initialized() else flag


def from_first(values: Nested, device: torch.device) -> Nested:
    """The first process's `values`, dicts and lists of tensors and numbers, in every process; there the tensors are on
    `device`. Other processes' arguments are ignored.

    The tensors travel as they are: pickled, a state would take its size again in the memory of the host and of every GPU.
    """
    if not dist.is_initialized():
        return values
    tensors: list[Tensor] = []
    form = [_emptied(values, tensors)]
    dist.broadcast_object_list(form, device=device)
    return _filled(form[0], iter(tensors) if rank() == 0 else None, device)


class _Form(NamedTuple):
    """What stands for a tensor that follows."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def _emptied(values: Nested, tensors: list[Tensor]) -> Nested:
    """`values` with each tensor put into `tensors` and replaced by its form."""
    if isinstance(values, Tensor):
        tensors.append(values)
        return _Form(tuple(values.shape), values.dtype)
    if isinstance(values, dict):
        return {key: _emptied(value, tensors) for key, value in values.items()}
    return [_emptied(value, tensors) for value in values] if isinstance(values, list) else values


def _filled(values: Nested, tensors: Iterator[Tensor] | None, device: torch.device) -> Nested:
    """`values` with each form replaced by its tensor: the next of `tensors`, which is sent, or what is received."""
    if isinstance(values, _Form):
        tensor = torch.empty(values.shape, dtype=values.dtype, device=device)
        dist.broadcast(tensor.copy_(next(tensors)) if tensors else tensor, src=0)
        return tensor
    if isinstance(values, dict):
        return {key: _filled(value, tensors, device) for key, value in values.items()}
    return [_filled(value, tensors, device) for value in values] if isinstance(values, list) else values


def gathered(value: T) -> list[T]:
    """Every process's `value`, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()
