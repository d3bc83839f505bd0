"""What a user can mend, and the one place where it becomes a message."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Fault(Exception):
    """Something the user can mend: the message names the key or file, its value, and what would be accepted."""


# What torch's RuntimeError says where memory is short: on a CPU it raises no MemoryError.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory", "std::bad_alloc")

# What the system says of a place that cannot be read or written as it is.
_PLACES = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ENXIO,
)  # fmt: skip


def wants_memory(error: BaseException) -> bool:
    """Whether `error` says that the machine or the GPU has too little memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch, which is not known here
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


@contextmanager
def faults_reported() -> Iterator[None]:
    """Turn a Fault, a place that refuses or too little memory into one message on stderr and exit status 1, no traceback."""
    try:
        yield
    except Fault as fault:
        sys.exit(f"error: {fault}")
    except (OSError, MemoryError, RuntimeError) as error:
        if wants_memory(error):
            said = str(error).strip().partition("\n")[0] or type(error).__name__
            sys.exit(
                f"error: too little memory ({said}); what was saved before is whole. Close other programs, or take less with "
                "train.accumulate, a smaller train.channels, or drawing.batch_size; the same command does the rest"
            )
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"error: {error.filename or 'the disk'}: {error.strerror}; make room, and the same command does the rest")
        if isinstance(error, OSError) and error.errno in _PLACES and error.filename is not None:
            sys.exit(f"error: {error.filename}: {error.strerror}; mend this, and the same command does the rest")
        raise
