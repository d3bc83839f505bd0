"""Archives and folders that lie about their size or are no files: refused by name, within 200 MB and a few seconds."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test_archives import jpeg

ROOT = Path(__file__).resolve().parents[1]
FOLDER, BATCH, IMAGES = "cifar-10-batches-bin", "data_batch_1.bin", "train-images-idx3-ubyte"
TERABYTE = 1 << 40

# Reads each of the paths as the stage download does, with 200 MB of address space and 20 seconds; prints what came of it.
READER = """
import json, resource, signal, sys, time
from pathlib import Path
from ddpm.base.faults import Fault
from ddpm.data.settings import DataConfig
from stages.raw import identity

def late(*_):
    raise TimeoutError("20 seconds")

signal.signal(signal.SIGALRM, late)
said = {}
for name, data_set, place in json.load(sys.stdin):
    config = DataConfig(dataset=data_set, source=place)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200_000_000, -1))
    signal.alarm(20)
    try:
        identity(Path(place), config)
        config.table.check(Path(place), "all")
        said[name] = "accepted"
    except Fault as fault:
        said[name] = f"Fault: {fault}"
    except BaseException as error:
        said[name] = repr(error)
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
json.dump(said, sys.stdout)
"""


def sparse(path: Path, size: int, start: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start)
    os.truncate(path, size)


def tar_of(path: Path, *members: tuple[str, int, bytes, bytes]) -> None:
    """A .tar.gz of members: name, the size in the header, type, content."""
    blocks = b""
    for name, size, kind, content in members:
        info = tarfile.TarInfo(name)
        info.type = kind
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[124:136] = b"%011o\0" % size if 0 <= size < 8**11 else b"\xff" * 4 + struct.pack(">q", size)
        if size >= 8**11:
            header[124:136] = b"\x80" + size.to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        blocks += bytes(header) + content + bytes(-len(content) % 512)
    path.write_bytes(gzip.compress(blocks + bytes(1024), 1))


def bomb(path: Path, unpacked: int, start: bytes) -> None:
    """A .gz file of `start` and `unpacked` zero bytes."""
    with gzip.open(path, "wb", 1) as stream:
        stream.write(start)
        for _ in range(unpacked >> 20):
            stream.write(bytes(1 << 20))


def tar_header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse_member(path: Path) -> None:
    info = tarfile.TarInfo(f"{FOLDER}/{BATCH}")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (3 << 30)  # the real size; no piece of it follows
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(gzip.compress(bytes(header) + bytes(1024)))


def directory_of(path: Path, size: int) -> None:
    """A sparse .zip whose end says that its directory has `size` bytes."""
    sparse(path, size)
    with path.open("ab") as file:
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 60_000, 60_000, size, 0, 0))


def huge_jpeg(side: int) -> bytes:
    content = bytearray(jpeg())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">2H", side, side)
    return bytes(content)


def folder_with(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        folder.mkdir()
        make(folder / name)

    return build


def npz(path: Path, shape: str, content: bytes) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': " + shape.encode() + b", }\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content)
        stream = io.BytesIO()
        np.save(stream, np.zeros(1, np.uint8))
        archive.writestr("labels.npy", stream.getvalue())


def celeba_zip(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("img_align_celeba/000001.jpg", content)


# Name, data set, what is built at a path, words of the refusal.
CASES: list[tuple[str, str, Callable[[Path], Any], str]] = [
    ("a batch of 1 TB", "cifar10", folder_with(BATCH, lambda p: sparse(p, TERABYTE)), "1099511627776 bytes; accepted"),
    ("a batch of 12 GB", "cifar10", folder_with(BATCH, lambda p: sparse(p, 12 << 30)), "12884901888 bytes; accepted"),
    ("a batch that is a folder", "cifar10", folder_with(BATCH, os.mkdir), "is a directory"),
    ("a batch that is a FIFO", "cifar10", folder_with(BATCH, os.mkfifo), "is no regular file"),
    ("a batch that is a loop", "cifar10", folder_with(BATCH, lambda p: os.symlink(p, p)), "symbolic links"),
    ("an archive of 1 TB", "cifar10", lambda p: sparse(p, TERABYTE), "has 1.1 TB; accepted"),
    ("an archive of 3 GB", "cifar10", lambda p: sparse(p, 3 << 30, b"\x1f\x8b"), "has 3.2 GB; accepted"),
    ("a sparse member", "cifar10", sparse_member, "is a link or a device"),
    ("a member of 8 GB", "cifar10", lambda p: tar_of(p, (BATCH, 8 << 30, b"0", b"")), "unpacks to"),
    ("a member below 0", "cifar10", lambda p: tar_of(p, ("a", -512, b"0", b"")), "data_batch_1.bin|unpacks to|not a whole"),
    ("a member below 0, wanted", "cifar10", lambda p: tar_of(p, (BATCH, -1024, b"0", b"")), "unpacks to|not a whole"),
    ("a long name of 8 GB", "cifar10", lambda p: bomb(p, 1 << 28, tar_header("x", 8 << 30, b"L")), "asks for more than"),
    ("a pax header of 4 GB", "cifar10", lambda p: bomb(p, 1 << 28, tar_header("x", 4 << 30, b"x")), "asks for more than"),
    ("a bomb", "cifar10", lambda p: bomb(p, 3 << 29, tar_header("a", 1 << 20, b"0")), "unpacks to more|missing"),
    ("an IDX file of 1 TB", "fashion_mnist", folder_with(IMAGES, lambda p: sparse(p, TERABYTE)), "1099511627776 bytes"),
    ("an IDX file that is a folder", "fashion_mnist", folder_with(IMAGES, os.mkdir), "is a directory"),
    ("an IDX file that is a FIFO", "fashion_mnist", folder_with(f"{IMAGES}.gz", os.mkfifo), "is no regular file"),
    ("a JPEG of 1 TB", "celeba", folder_with("1.jpg", lambda p: sparse(p, TERABYTE)), "1099511627776 bytes"),
    ("a JPEG of 2 MB", "celeba", folder_with("1.jpg", lambda p: sparse(p, 2 << 20, jpeg())), "2097152 bytes"),
    ("a JPEG that is a folder", "celeba", folder_with("1.jpg", os.mkdir), "is a directory"),
    ("a JPEG that is a FIFO", "celeba", folder_with("1.jpg", os.mkfifo), "is no regular file"),
    ("a JPEG that is a loop", "celeba", folder_with("1.jpg", lambda p: os.symlink(p, p)), "symbolic links"),
    ("a name that is no UTF-8", "celeba", folder_with("\udcff.jpg", lambda p: p.write_bytes(jpeg())), "no plain text"),
    ("a JPEG of 60,000 pixels", "celeba", folder_with("1.jpg", lambda p: p.write_bytes(huge_jpeg(60_000))), "is not a JPEG"),
    ("a JPEG of 9,000 pixels", "celeba", folder_with("1.jpg", lambda p: p.write_bytes(huge_jpeg(9_000))), "9000x9000 pixels"),
    ("a cut JPEG", "celeba", folder_with("1.jpg", lambda p: p.write_bytes(jpeg()[:100])), "is not a JPEG|cannot be"),
    ("a packed JPEG of 60,000 pixels", "celeba", lambda p: celeba_zip(p, huge_jpeg(60_000)), "is not a JPEG"),
    ("a packed bomb", "celeba", lambda p: celeba_zip(p, bytes(1 << 28)), "unpacks to 268435456 bytes"),
    ("a .zip of 1 TB", "celeba", lambda p: sparse(p, TERABYTE), "has 1.1 TB; accepted"),
    ("a directory of 1 GB", "celeba", lambda p: directory_of(p, 1 << 30), "asks for more than 67108864 bytes"),
    ("a .npz of 1 TB", "sprites", lambda p: sparse(p, TERABYTE), "has 1.1 TB; accepted"),
    ("sprites of 12 GB", "sprites", lambda p: npz(p, "(16777216, 16, 16, 3)", b"x"), "not a whole|does not end"),
    ("sprites of 10^30", "sprites", lambda p: npz(p, f"({10**30}, 16, 16, 3)", b"x"), "not a whole|does not end"),
    ("sprites below 0", "sprites", lambda p: npz(p, "(-1, 16, 16, 3)", b"x"), "not a whole|does not end|accepted"),
    ("sprites in a folder", "sprites", os.mkdir, "is no file|is a directory"),
    ("sprites in a FIFO", "sprites", os.mkfifo, "is no regular file"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each case, in one process of its own."""
    place, tasks = tmp_path_factory.mktemp("hostile"), []
    for number, (name, data_set, build, _) in enumerate(CASES):
        path = place / f"{number}"
        build(path)
        tasks.append((name, data_set, str(path)))
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, "-c", READER]
    done = subprocess.run(command, input=json.dumps(tasks), env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize(("name", "words"), [(case[0], case[3]) for case in CASES], ids=[case[0] for case in CASES])
def test_what_lies_about_its_size_or_is_no_file_is_refused_by_name(said: dict[str, str], name: str, words: str) -> None:
    assert said[name].startswith("Fault: /"), said[name]
    assert any(part in said[name] for part in words.split("|")), said[name]
