"""What a user can mend, and the one place where it becomes a message."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Fault(Exception):
    """Something the user can mend: the message names the key or file, its value, and what would be accepted."""


@contextmanager
def faults_reported() -> Iterator[None]:
    """Turn a Fault, or a full disk, into one message on stderr and exit status 1, without a traceback."""
    try:
        yield
    except Fault as fault:
        sys.exit(f"error: {fault}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"error: {error.filename or 'the disk'}: {error.strerror}; make room, and the same command does the rest")
