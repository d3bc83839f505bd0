"""Files that are whole or absent, and the room that they take."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddpm.base.faults import Fault

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
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


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
