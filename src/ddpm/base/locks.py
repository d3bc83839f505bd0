"""Lock files between processes. The system frees a lock when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ddpm.base.faults import Fault
from ddpm.base.files import check_regular


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; other processes that want it wait."""
    with _opened(path) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def claim(path: Path, wait_seconds: float = 0.0, use: str = "holds this lock") -> TextIO:
    """The lock file `path`, held until it is closed. Raises Fault, naming the holder, if it is not free in time.

    `use`: what a holder does, for the message.
    """
    stream = _opened(path)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                stream.seek(0)
                holder = stream.read().strip() or "unknown"
                stream.close()
                raise Fault(f"{path}: another process ({holder}) {use}; wait for it or stop it") from None
            time.sleep(0.2)
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


def _opened(path: Path) -> TextIO:
    """The lock file `path`, made if it is missing. Raises Fault if something else lies there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        check_regular(path, "move it away, for a lock belongs there")
    return path.open("a+")
