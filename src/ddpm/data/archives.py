"""Readers of the data sets in their publishers' layouts: archive or unpacked folder, nothing written to disk.

Nothing is unpickled and no member is extracted, so a hostile archive has nowhere to write; one whose member paths leave
their folder is refused all the same, because whoever made it meant harm or made a mistake. torchvision's own data sets
are not used: its CIFAR10 unpickles, its CelebA unpacks 200,000 files and wants annotations; it is the tests' oracle.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from PIL import Image

from ddpm.base.faults import Fault
from ddpm.base.files import check_regular
from ddpm.base.progress import progress_bar

CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST_BATCH = "test_batch.bin"
CIFAR10_RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes
CELEBA_FOLDER = "img_align_celeba"
CELEBA_SIZE = (178, 218)  # width, height in pixels
CELEBA_MAX_BYTES = 1 << 20  # of one JPEG file; the largest official one has about 40 kB
CELEBA_PARTITION = "list_eval_partition.txt"  # which images are for training (0), validation (1) and test (2)
FASHION_MNIST_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
FASHION_MNIST_TEST_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
SPRITES_MEMBERS = ("images.npy", "labels.npy")
MAX_BYTES = 1 << 27  # of one unpacked file of many images; Fashion-MNIST's has 47 MB
MAX_UNPACKED = 1 << 30  # of a whole .tar.gz; CIFAR-10's has 185 MB
MAX_READ = 1 << 26  # of an archive's directory; CelebA's has 22 MB

Arrays = tuple[np.ndarray, np.ndarray]  # images, uint8 (N, H, W, C), and their labels, uint8 (N,)
# What a reader is to read: the images that train, those that are held out of it, or, of an archive or folder whose images
# all belong to one side, all. A publisher's test files are held out, and are never part of all.
Part = Literal["training", "heldout", "all"]


def in_tenth(name: str) -> bool:
    """Whether the image of this name is of the tenth that is held out where the publisher names none: a hash decides.

    So a name is on the same side on every machine, whatever images are beside it.
    """
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def part_of(path: Path, names: Sequence[str], part: Part, heldout: Callable[[str], bool] = in_tenth) -> list[int]:
    """The places in `names`, of all images of `path`, of those in `part`; `heldout` says which names are held out.

    Raises Fault where either side of the split would be empty.
    """
    if part == "all":
        return list(range(len(names)))
    sides: dict[Part, list[int]] = {"training": [], "heldout": []}
    for place, name in enumerate(names):
        sides["heldout" if heldout(name) else "training"].append(place)
    for side, places in sides.items():
        if not places:
            left = "left for training" if side == "training" else "held out"
            raise Fault(
                f"{path}: none of {len(names)} images would be {left}; accepted: more images, or others in data.heldout"
            )
    return sides[part]


def _or_others(part: Part) -> str:
    """What else helps where the publisher's test files are missing."""
    return ", or others in data.heldout" if part == "heldout" else ""


def read_cifar10(path: Path, part: Part = "all") -> Arrays:
    """Images of CIFAR-10, uint8 (N, 32, 32, 3), and their labels, uint8 (N,) in 0..9.

    Those of batches 1 to 5 in their order or, held out, those of the test batch. `path` is cifar-10-binary.tar.gz or a
    folder of its .bin files (or the folder above). A batch may hold any number of records. Layout:
    https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    Raises Fault if a batch is missing, repeated or cut, or a member's path leaves the archive's folder.
    """
    wanted = (CIFAR10_TEST_BATCH,) if part == "heldout" else CIFAR10_BATCHES
    if path.is_dir():
        batches = {file.name: _file_bytes(file, MAX_BYTES) for file in cifar10_files(path) if file.name in wanted}
    else:
        batches = _cifar10_from_tar(path, wanted)
    if missing := [name for name in wanted if name not in batches]:
        raise Fault(f"{path}: {missing[0]} is missing; needed: {', '.join(wanted)}{_or_others(part)}")
    for name, content in batches.items():
        if len(content) % CIFAR10_RECORD:
            raise Fault(f"{path}: {name} has {len(content)} bytes, not a multiple of the record's {CIFAR10_RECORD}")
        if content and (label := max(content[::CIFAR10_RECORD])) > 9:
            raise Fault(f"{path}: {name} has a label {label}, not one of 0 to 9: its records are shifted or foreign")
    records: np.ndarray = np.frombuffer(b"".join(batches.pop(name) for name in wanted), np.uint8)
    if not len(records):
        raise Fault(f"{path}: {', '.join(wanted)}: all empty; accepted: one image or more")
    records = records.reshape(-1, CIFAR10_RECORD)
    return np.ascontiguousarray(np.moveaxis(records[:, 1:].reshape(-1, 3, 32, 32), 1, 3)), records[:, 0].copy()


def cifar10_files(folder: Path) -> list[Path]:
    """The batches of an unpacked CIFAR-10 that lie in `folder` or its cifar-10-batches-bin, by name."""
    inner = folder / CIFAR10_FOLDER
    place = inner if inner.is_dir() else folder
    batches = [place / name for name in (*CIFAR10_BATCHES, CIFAR10_TEST_BATCH) if os.path.lexists(place / name)]
    return [_sound(batch, MAX_BYTES) for batch in batches]


def _cifar10_from_tar(path: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    batches: dict[str, bytes] = {}
    with _damage(path, ".tar.gz archive"), gzip.open(path) as unpacked:
        bounded = _Bounded(unpacked, path, MAX_READ >> 6, MAX_UNPACKED)
        with tarfile.open(fileobj=cast(BinaryIO, bounded), mode="r:") as tar:
            for member in tar:
                plain = (member.isfile() and not member.issparse()) or member.isdir()
                _check_member(path, member.name, plain)
                # A size below 0 would make tarfile go back to an earlier member, for ever.
                _check_unpacked(path, member.name, member.size if member.size >= 0 else MAX_UNPACKED, MAX_BYTES)
                name = PurePosixPath(member.name).name
                if name not in wanted:
                    continue
                if name in batches:
                    raise Fault(f"{path}: {member.name} is there twice")
                stream = tar.extractfile(member)
                if stream is None:
                    raise Fault(f"{path}: {member.name} is no file")
                bounded.most = MAX_BYTES
                batches[name] = stream.read()
                bounded.most = MAX_READ >> 6
                if len(batches[name]) != member.size:
                    raise Fault(f"{path}: {member.name} is cut short")
        while bounded.read(1 << 20):  # tarfile does not notice what is missing after its last member
            pass
    return batches


class _Bounded:
    """A stream to read from, that raises Fault where a reader is led to ask for more than `most` bytes at once, or to go
    beyond `end`: an archive's header may ask for anything."""

    def __init__(self, stream: Any, path: Path, most: int, end: int) -> None:
        self.stream, self.path, self.most, self.end = stream, path, most, end

    def read(self, size: int = -1) -> bytes:
        content: bytes = self.stream.read(min(size, self.most + 1) if size >= 0 else self.most + 1)
        if len(content) > self.most:
            raise Fault(f"{self.path}: one of its headers asks for more than {self.most} bytes at once; accepted: up to that")
        if self.stream.tell() > self.end:
            raise Fault(f"{self.path}: unpacks to more than {self.end} bytes; accepted: up to that")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and not 0 <= offset <= self.end:
            raise Fault(f"{self.path}: leads to byte {offset}; accepted: up to {self.end}")
        place: int = self.stream.seek(offset, whence)
        return place

    def tell(self) -> int:
        place: int = self.stream.tell()
        return place

    def seekable(self) -> bool:
        return True


def _sound(path: Path, most: int) -> Path:
    """`path`, a regular file of at most `most` bytes. Raises Fault for what would be waited for, or fill the memory."""
    check_regular(path)
    if (size := path.stat().st_size) > most:
        raise Fault(f"{path}: has {size} bytes; accepted: up to {most}")
    return path


def _file_bytes(path: Path, most: int) -> bytes:
    """The content of the file `path`, of at most `most` bytes. Raises Fault."""
    with _damage(path, "file"):
        return _sound(path, most).read_bytes()


def read_fashion_mnist(path: Path, part: Part = "all") -> Arrays:
    """Images of Fashion-MNIST, uint8 (N, 28, 28, 1), and their labels, uint8 (N,) in 0..9.

    `path` is a folder of train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz and, for those held out, of the same
    two of t10k, each of them packed or unpacked (without .gz). N may be any number. Files:
    https://github.com/zalandoresearch/fashion-mnist; layout: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
    Raises Fault.
    """
    wanted = FASHION_MNIST_TEST_FILES if part == "heldout" else FASHION_MNIST_FILES
    if not path.is_dir():
        raise Fault(f"{path}: is no folder; accepted: a folder that holds {' and '.join(wanted)}")
    files = fashion_mnist_files(path, wanted)
    if missing := [name for name in wanted if not any(file.name in (name, _unpacked(name)) for file in files)]:
        raise Fault(f"{path}: {missing[0]} is missing, and so is {_unpacked(missing[0])}{_or_others(part)}")
    images, labels = _read_idx(files[0], (28, 28)), _read_idx(files[1], ())
    _check_labels(path, len(images), labels, 10)
    return images[..., None], labels


def fashion_mnist_files(folder: Path, names: Sequence[str] = FASHION_MNIST_TEST_FILES + FASHION_MNIST_FILES) -> list[Path]:
    """The files of these names that lie in `folder`, in this order; packed ones win over unpacked ones."""
    places = [(folder / name, folder / _unpacked(name)) for name in names]
    return [_sound(file, MAX_BYTES) for pair in places for file in [file for file in pair if os.path.lexists(file)][:1]]


def _unpacked(name: str) -> str:
    return name.removesuffix(".gz")


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The items of the IDX file `path`, each uint8 of `shape`: uint8 (N, *shape), 1 <= N."""
    header_bytes = 8 + 4 * len(shape)
    with _damage(path, ".gz file"), gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        header = stream.read(header_bytes)
        wanted = bytes([0, 0, 8, 1 + len(shape)])  # 8 = unsigned bytes; then the number of dimensions
        if header[:4] != wanted:
            raise Fault(f"{path}: begins with {header[:4].hex()}, not {wanted.hex()} as an IDX file of its kind")
        if len(header) < header_bytes:
            raise Fault(f"{path}: is cut short in its header")
        count, *found = struct.unpack(f">{1 + len(shape)}I", header[4:])
        if tuple(found) != shape:
            raise Fault(f"{path}: its items are {'x'.join(map(str, found))}, not {'x'.join(map(str, shape))}")
        size = count * math.prod(shape)
        if not 0 < size <= MAX_BYTES:
            raise Fault(f"{path}: announces {count} items; accepted: 1 to {MAX_BYTES // math.prod(shape)}")
        content = stream.read(size + 1)  # one more tells whether it goes on, however far
    if len(content) != size:
        raise Fault(f"{path}: holds {'more' if len(content) > size else 'fewer'} than its announced {count} items")
    return np.frombuffer(content, np.uint8).reshape(count, *shape)


def read_sprites(path: Path, part: Part = "all") -> Arrays:
    """16x16 sprites, uint8 (N, 16, 16, 3), and their labels, uint8 (N,) in 0..4; a tenth, by their place, is held out.

    `path` is an .npz file of the arrays `images` and `labels` of these types and shapes, as numpy.savez writes it;
    layout: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Raises Fault.
    """
    if not path.is_file():
        raise Fault(f"{path}: is no file; accepted: an .npz file of the arrays images and labels")
    with _damage(path, ".npz file of plain arrays"), zipfile.ZipFile(path) as archive:
        if sorted(archive.namelist()) != sorted(SPRITES_MEMBERS):
            raise Fault(f"{path}: holds {', '.join(archive.namelist())}; accepted: {', '.join(SPRITES_MEMBERS)}")
        images, labels = (_read_npy(path, archive, archive.getinfo(name)) for name in SPRITES_MEMBERS)
    for name, array, shape in (("images", images, (16, 16, 3)), ("labels", labels, ())):
        if array.dtype != np.uint8 or array.ndim == 0 or array.shape[1:] != shape:
            accepted = ", ".join(map(str, ("N", *shape)))
            raise Fault(f"{path}: {name} is {array.dtype} {array.shape}; accepted: uint8 ({accepted})")
    _check_labels(path, len(images), labels, 5)
    places = part_of(path, [str(place) for place in range(len(images))], part)
    return np.ascontiguousarray(images[places]), labels[places]


def _read_npy(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    _check_unpacked(path, member.filename, member.file_size, MAX_BYTES)
    with archive.open(member) as packed:
        content = packed.read(member.file_size + 1)  # a bound for the unpacked bytes, which may be more than announced
    stream = io.BytesIO(content)
    array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    if stream.read(1) or len(content) != member.file_size:
        raise Fault(f"{path}: {member.filename} does not end with its array")
    return array


def _check_labels(path: Path, num_images: int, labels: np.ndarray, classes: int) -> None:
    if len(labels) != num_images or num_images == 0:
        raise Fault(f"{path}: holds {num_images} images and {len(labels)} labels; accepted: one label an image")
    if (label := int(labels.max())) >= classes:
        raise Fault(f"{path}: has a label {label}, not one of 0 to {classes - 1}")


class CelebaImages:
    """The aligned images of CelebA in name order: `len(images)`, `images.names`, `images[i]`.

    `path` is img_align_celeba.zip, or an unpacked folder of its .jpg files (or the folder above). Held out are those that
    `celeba_partition` does not give to training or, where no such list lies beside them, a tenth by their names. This checks
    every member's path; `check` also looks at every file. Layout: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html,
    "Align&Cropped Images". Pickled, only the place is left, for reading by name: an archive is opened at the first reading,
    once a process, which takes 1 s and 130 MB for all 202,599 images. Raises Fault.
    """

    labels = None

    def __init__(self, path: Path, part: Part = "all") -> None:
        self.path = path
        self.folder = _celeba_folder(path) if path.is_dir() else None
        names = sorted(_names_in_folder(self.folder) if self.folder else _names_in_zip(path, self.archive))
        if not names:
            raise Fault(f"{path}: holds no .jpg image; accepted: members {CELEBA_FOLDER}/NNNNNN.jpg, or a folder of such files")
        listed = None if part == "all" else celeba_partition(path)
        heldout = _heldout_by_list(listed, names) if listed else in_tenth
        self.names = [names[place] for place in part_of(path, names, part, heldout)]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "folder": self.folder}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Image.Image:
        """Image `index`, decoded, RGB, 178x218."""
        return self.image(self.names[index])

    def check(self) -> None:
        """Read every file, its checksum and its image's size, decoding none; raise Fault at the first fault."""
        for name in progress_bar(iterable=self.names, desc=f"check {self.path.name}", unit=" images"):
            self.open(name)

    @cached_property
    def archive(self) -> zipfile.ZipFile:
        with _damage(self.path, ".zip archive"):
            stream = self.path.open("rb")
            return zipfile.ZipFile(cast(BinaryIO, _Bounded(stream, self.path, MAX_READ, self.path.stat().st_size)))

    def read(self, name: str) -> bytes:
        """The bytes of a file; those of an archive are compared with their CRC. Raises Fault."""
        try:
            if self.folder:
                return _file_bytes(self.folder / name, CELEBA_MAX_BYTES)
            with self.archive.open(f"{CELEBA_FOLDER}/{name}") as member:
                return member.read(CELEBA_MAX_BYTES)
        except Fault:
            raise
        except Exception as error:  # whatever zipfile and zlib make of a damaged archive, or the system of the disk
            raise Fault(f"{self.path}: {name} cannot be read ({error})") from error

    def open(self, name: str) -> Image.Image:
        """The image of a file, 178x218, not decoded yet. Raises Fault."""
        try:
            image = Image.open(io.BytesIO(self.read(name)), formats=["JPEG"])
        except (Fault, MemoryError):
            raise
        except Exception as error:  # a header that is cut or lies provokes almost any
            raise Fault(f"{self.path}: {name} is not a JPEG image of CelebA") from error
        if image.size != CELEBA_SIZE:
            wanted = "x".join(map(str, CELEBA_SIZE))
            raise Fault(f"{self.path}: {name} has {image.width}x{image.height} pixels, not the {wanted} of the aligned images")
        return image

    def image(self, name: str) -> Image.Image:
        """The image of a file, decoded, RGB, 178x218. Raises Fault."""
        image = self.open(name)
        try:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy
        except MemoryError:
            raise
        except Exception as error:
            raise Fault(f"{self.path}: {name} cannot be decoded ({error})") from error


def _celeba_folder(path: Path) -> Path:
    """The folder of the images: `path` or its img_align_celeba."""
    return inner if (inner := path / CELEBA_FOLDER).is_dir() else path


def celeba_files(folder: Path) -> list[Path]:
    """The images of an unpacked CelebA that lie in `folder` or its img_align_celeba, by name. Raises Fault."""
    images = CelebaImages(folder)
    return [(images.folder or folder) / name for name in images.names]


def celeba_partition(path: Path) -> Path | None:
    """The publisher's list that splits the images, if it lies beside the archive, in the images' folder or in the one above."""
    places = ((folder := _celeba_folder(path)), folder.parent) if path.is_dir() else (path.parent,)
    return next((place / CELEBA_PARTITION for place in places if (place / CELEBA_PARTITION).is_file()), None)


def _heldout_by_list(listed: Path, names: Sequence[str]) -> Callable[[str], bool]:
    """Tells whether the list `listed` holds out one of `names`, all of which it must have. Raises Fault."""
    sides: dict[str, str] = {}
    with _damage(listed, "list of images"):
        lines = _file_bytes(listed, MAX_BYTES).decode(errors="replace").splitlines()  # what is no text matches nothing
    for number, line in enumerate(lines, 1):
        if not (match := re.fullmatch(r"(\S+) +([012])\s*", line)):
            raise Fault(f"{listed}: line {number} is {line[:80]!r}; accepted: NAME 0, NAME 1 or NAME 2")
        if sides.setdefault(match[1], match[2]) != match[2]:
            raise Fault(f"{listed}: line {number}, {line[:80]!r}, contradicts an earlier one; accepted: one line an image")
    if missing := [name for name in names if name not in sides]:
        raise Fault(
            f"{listed}: has no line for {missing[0]}, one of {len(missing)} images that it lacks; accepted: all of them"
        )
    return lambda name: sides[name] != "0"


def _names_in_folder(folder: Path) -> list[str]:
    found = [file for file in folder.iterdir() if file.suffix == ".jpg"]
    for file in found:
        if not file.name.isprintable():  # bytes that are no UTF-8 are spelled by what cannot be printed, nor hashed
            raise Fault(f"{folder}: the file name {file.name!r} is no plain text; accepted: names as the publisher's")
        _sound(file, CELEBA_MAX_BYTES)
        if file.is_symlink() and file.resolve().parent != folder.resolve():
            raise Fault(f"{folder}: {file.name} is a link that leaves the folder")
    return [file.name for file in found]


def _names_in_zip(path: Path, archive: zipfile.ZipFile) -> set[str]:
    names = set[str]()
    for member in archive.infolist():
        kind = stat.S_IFMT(member.external_attr >> 16)
        _check_member(path, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
        folder, _, name = member.filename.rpartition("/")
        if folder != CELEBA_FOLDER or not name.endswith(".jpg"):
            continue
        if name in names:
            raise Fault(f"{path}: {member.filename} is there twice")
        if member.flag_bits & 1:
            raise Fault(f"{path}: {member.filename} is encrypted")
        _check_unpacked(path, member.filename, member.file_size, CELEBA_MAX_BYTES)
        names.add(name)
    return names


@contextmanager
def _damage(path: Path, kind: str) -> Iterator[None]:
    """Turn what a library makes of bytes that are no such file, or the system of one that it cannot read, into a Fault."""
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the file's
            raise Fault(f"{path}: cannot be read ({error.strerror})") from error
        raise Fault(f"{path}: not a whole {kind} ({error}); fetch or make it again") from error


def _check_member(path: Path, member: str, plain: bool) -> None:
    """Refuse a member of an archive whose path leaves the folder, or that is no `plain` file or folder."""
    parts = re.split(r"[/\\]", member)
    if member.startswith(("/", "\\")) or ".." in parts or re.match(r"^[A-Za-z]:", member) or "\0" in member:
        raise Fault(f"{path}: the path of member {member!r} leaves the archive's folder")
    if not plain:
        raise Fault(f"{path}: {member} is a link or a device; accepted: files and folders")


def _check_unpacked(path: Path, member: str, size: int, most: int) -> None:
    if size > most:
        raise Fault(f"{path}: {member} unpacks to {size} bytes; accepted: up to {most}")
