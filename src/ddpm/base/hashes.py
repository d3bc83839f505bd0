"""Hashes of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ddpm.base.progress import progress_bar

CHUNK = 1 << 20  # bytes read at a time
BIG = 50_000_000  # bytes from which hashing shows a bar


def checksums(path: Path) -> tuple[int, str, str]:
    """Size in bytes, MD5 and SHA-256 (hex) of the file `path`, read in one pass."""
    size, md5, sha256 = path.stat().st_size, hashlib.md5(usedforsecurity=False), hashlib.sha256()
    bar = progress_bar(total=size, desc=f"hash {path.name}", unit="B", unit_scale=True, disable=size < BIG, leave=False)
    with bar, path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
            bar.update(len(chunk))
    return size, md5.hexdigest(), sha256.hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of the file `path`."""
    return checksums(path)[2]
