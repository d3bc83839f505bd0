"""Run work over processes: ordered results, the first error ends it all, and no process outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ddpm.base.faults import Fault

Task = TypeVar("Task")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    make: Callable[..., Callable[[Task], Result]], arguments: tuple[Any, ...], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    """The results of `make(*arguments)` on each of `tasks`, in their order.

    Each process calls `make`, a module's function or class, once. `workers` is the number of processes, 0 = one a core;
    1 = none, all is done here. Raises what a task raises, and Fault if the system kills a process.
    """
    workers = min(workers or cpu_count(), len(tasks))
    if workers <= 1:
        work = make(*arguments)
        yield from map(work, tasks)
        return
    # spawn: the same on every system, and no copy of the caller's threads and locks.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (make, arguments))
    try:
        yield from pool.map(_work_on, tasks)
    except BrokenProcessPool as error:
        raise Fault("a worker process was killed, perhaps for want of memory; try fewer with runtime.workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any]  # of this process


def _start(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = make(*arguments)


def _end_with_parent() -> None:
    """A parent killed outright cannot end its pool, whose processes would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work_on(task: Any) -> Any:
    return _work(task)
