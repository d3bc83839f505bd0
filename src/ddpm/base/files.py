"""Files that are whole or absent, and the room that they take."""

from __future__ import annotations

import csv
import glob
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddpm.base.faults import Fault

MAX_JSON = 10_000_000  # bytes of a JSON file that is read as a whole; ours have some thousands
TEMPORARY = ".*.tmp-*"  # what whole_file leaves beside its files when it is killed


@contextmanager
def whole_file(path: Path, size: int = 0) -> Iterator[Path]:
    """A temporary path in the folder of `path`, to be written; what it holds in the end is synced and becomes `path`.

    `size`: about how many bytes that takes, for the message. After an error `path` is as it was. Raises Fault where
    the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp-{path.name}")  # the suffix stays: it tells Pillow the format
    with disk_faults(path, size):
        _clear_leftovers(path)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _clear_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it."""
    for leftover in path.parent.glob(f".*.tmp-{glob.escape(path.name)}"):
        process = leftover.name[1:].partition(".")[0]
        if process.isdecimal() and not running(int(process)):
            leftover.unlink(missing_ok=True)


def running(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def check_regular(path: Path, remedy: str = "") -> None:
    """Raise Fault unless `path` is a regular file: a FIFO would be waited for, a device read, for ever.

    `remedy`: what to do, for the message.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise Fault(f"{path}: no such file{remedy and '; '}{remedy}") from None
    except OSError as error:  # no right to look, a loop of links, a name too long, ...
        raise Fault(f"{path}: {error.strerror}{remedy and '; '}{remedy}") from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise Fault(f"{path}: is {kind}; accepted: a file{remedy and '; '}{remedy}")


def read_json(path: Path, remedy: str, shown: Path | None = None) -> dict[str, Any]:
    """The object in the JSON file `path`, of at most MAX_JSON bytes. Raises Fault, which ends in `remedy`: what to do.

    `shown`: how the message names the file.
    """
    name = shown or path
    try:
        check_regular(path)
        if (size := path.stat().st_size) > MAX_JSON:
            raise Fault(f"{path}: {amount(size)}; accepted: at most {amount(MAX_JSON)}")
        values = json.loads(path.read_bytes(), parse_constant=_no_number)
    except Fault as fault:
        raise Fault(f"{name}{str(fault).removeprefix(str(path))}; {remedy}") from None
    except OSError as error:
        raise Fault(f"{name}: {error.strerror}; {remedy}") from None
    except (ValueError, RecursionError) as error:  # no text, no JSON, a number of thousands of digits, too deep
        raise Fault(f"{name}: no JSON ({error}); {remedy}") from None
    if not isinstance(values, dict):
        raise Fault(f"{name}: holds {type(values).__name__}; accepted: an object with named entries; {remedy}")
    return values


def _no_number(written: str) -> float:
    raise ValueError(f"{written} is no number of JSON")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole_file(path, len(text)) as temporary:
        temporary.write_text(text)


def write_json(path: Path, values: Any) -> None:
    """Write `values` to `path`, whole or not at all. Raises ValueError for NaN and infinity, which JSON lacks."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `rows`, dicts with the same keys, to `path`, whole or not at all; None is an empty cell."""
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys() if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def disk_faults(path: Path, size: int) -> Iterator[None]:
    """Where the disk refuses to take `path`, of about `size` bytes, raise a Fault that says so."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        refusal = error if isinstance(error, OSError) else error.__context__  # torch.save hides what the disk said
        if not isinstance(refusal, OSError):
            raise
        raise Fault(
            f"{path}: {refusal.strerror or refusal} ({amount(size)} to write, {amount(free_bytes(path))} free there). "
            "What was saved before is whole; mend this, and the same command continues"
        ) from error


def free_bytes(path: Path) -> int:
    """Bytes free on the file system of `path`, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """The nearest of `path` and the folders above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def amount(size: float) -> str:
    """Bytes for people, as in `1.3 GB`."""
    power = min((len(str(int(size))) - 1) // 3, 4)
    return f"{size / 1000**power:.{min(power, 1)}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
