"""Readers of the data sets in their publishers' layouts: archive or unpacked folder, nothing written to disk.

Nothing is unpickled and no member is extracted, so a hostile archive has nowhere to write; one whose member paths
leave their folder is refused all the same, because whoever made it meant harm or made a mistake.
"""

from __future__ import annotations

import copy
import gzip
import io
import math
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ddpm.config import CLASSES
from ddpm.progress import progress_bar

CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))  # test_batch.bin is not used
CIFAR10_RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes
CELEBA_FOLDER = "img_align_celeba"
CELEBA_SIZE = (178, 218)  # width, height in pixels
CELEBA_MAX_BYTES = 1 << 20  # of one JPEG file; the largest official one has about 40 kB
FASHION_MNIST_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")  # the t10k files are not used
SPRITES_MEMBERS = ("images.npy", "labels.npy")
MAX_BYTES = 1 << 28  # of one unpacked file of many images; Fashion-MNIST's has 47 MB


class ArchiveError(ValueError):
    """An archive, a member or an image is not what its publisher's layout says; the message names both."""


def read_cifar10(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The training images of CIFAR-10, uint8 (N, 32, 32, 3), in the order of batches 1 to 5, and their labels, uint8 (N,).

    `path` is cifar-10-binary.tar.gz or a folder of its data_batch_K.bin files (or the folder above). A batch may hold
    any number of records. Layout: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    Raises ArchiveError if a batch is missing, repeated or cut, or a member's path leaves the archive's folder.
    """
    batches = _cifar10_from_folder(path) if path.is_dir() else _cifar10_from_tar(path)
    if missing := [name for name in CIFAR10_BATCHES if name not in batches]:
        raise ArchiveError(f"{path}: {missing[0]} is missing; needed: {', '.join(CIFAR10_BATCHES)}")
    images, labels = zip(*(_cifar10_records(path, name, batches.pop(name)) for name in CIFAR10_BATCHES), strict=True)
    if not any(map(len, labels)):
        raise ArchiveError(f"{path}: all batches are empty")
    return np.concatenate(images), np.concatenate(labels)


def cifar10_files(folder: Path) -> list[Path]:
    """The training batches of an unpacked CIFAR-10 that lie in `folder` or its cifar-10-batches-bin, in order."""
    inner = folder / CIFAR10_FOLDER
    place = inner if inner.is_dir() else folder
    return [place / name for name in CIFAR10_BATCHES if (place / name).is_file()]


def _cifar10_from_folder(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in cifar10_files(folder)}


def _cifar10_from_tar(path: Path) -> dict[str, bytes]:
    batches: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                _check_name(path, member.name)
                if not (member.isfile() or member.isdir()):
                    raise ArchiveError(f"{path}: {member.name} is a link or a device; accepted: files and folders")
                name = PurePosixPath(member.name).name
                if name not in CIFAR10_BATCHES:
                    continue
                if name in batches:
                    raise ArchiveError(f"{path}: {member.name} is there twice")
                stream = tar.extractfile(member)
                assert stream is not None  # a regular file
                batches[name] = stream.read()
                if len(batches[name]) != member.size:
                    raise ArchiveError(f"{path}: {member.name} is cut short")
        _read_to_end(path)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the archive's
            raise
        raise ArchiveError(f"{path}: not a whole .tar.gz archive ({error}); fetch or make it again") from error
    return batches


def _read_to_end(path: Path) -> None:
    """Raise EOFError if the gzip stream of `path` is cut: tarfile does not notice that after its last member."""
    decoder = zlib.decompressobj(wbits=31)
    with path.open("rb") as stream:
        while not decoder.eof:
            if not (chunk := stream.read(1 << 20)):
                raise EOFError("the compressed stream is cut short")
            decoder.decompress(chunk)


def _cifar10_records(path: Path, name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The images of one batch, uint8 (n, 32, 32, 3), and their labels, uint8 (n,)."""
    if len(content) % CIFAR10_RECORD:
        raise ArchiveError(f"{path}: {name} has {len(content)} bytes, not a multiple of the record's {CIFAR10_RECORD}")
    records: np.ndarray = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
    if len(records) and (label := int(records[:, 0].max())) > 9:
        raise ArchiveError(f"{path}: {name} has a label {label}, not one of 0 to 9: its records are shifted or foreign")
    return np.moveaxis(records[:, 1:].reshape(-1, 3, 32, 32), 1, 3), records[:, 0]


def read_fashion_mnist(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The training images of Fashion-MNIST, uint8 (N, 28, 28, 1), and their labels, uint8 (N,) in 0..9.

    `path` is a folder of train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, either of them packed or unpacked
    (without .gz). N may be any number. Files: https://github.com/zalandoresearch/fashion-mnist; layout:
    http://yann.lecun.com/exdb/mnist/, "The IDX file format". Raises ArchiveError.
    """
    if not path.is_dir():
        raise ArchiveError(f"{path}: is no folder; accepted: a folder that holds {' and '.join(FASHION_MNIST_FILES)}")
    files = fashion_mnist_files(path)
    if missing := [name for name in FASHION_MNIST_FILES if not any(file.name in (name, _unpacked(name)) for file in files)]:
        raise ArchiveError(f"{path}: {missing[0]} is missing, and so is {_unpacked(missing[0])}")
    images, labels = _read_idx(files[0], (28, 28)), _read_idx(files[1], ())
    _check_labels(path, "fashion_mnist", len(images), labels)
    return images[..., None], labels


def fashion_mnist_files(folder: Path) -> list[Path]:
    """The files of images and of labels that lie in `folder`, in this order; packed ones win over unpacked ones."""
    places = [(folder / name, folder / _unpacked(name)) for name in FASHION_MNIST_FILES]
    return [file for pair in places for file in [file for file in pair if file.is_file()][:1]]


def _unpacked(name: str) -> str:
    return name.removesuffix(".gz")


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The items of the IDX file `path`, each uint8 of `shape`: uint8 (N, *shape), 1 <= N."""
    header_bytes = 8 + 4 * len(shape)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(header_bytes)
            wanted = bytes([0, 0, 8, 1 + len(shape)])  # 8 = unsigned bytes; then the number of dimensions
            if header[:4] != wanted:
                raise ArchiveError(f"{path}: begins with {header[:4].hex()}, not {wanted.hex()} as an IDX file of its kind")
            if len(header) < header_bytes:
                raise ArchiveError(f"{path}: is cut short in its header")
            count, *found = struct.unpack(f">{1 + len(shape)}I", header[4:])
            if tuple(found) != shape:
                raise ArchiveError(f"{path}: its items are {'x'.join(map(str, found))}, not {'x'.join(map(str, shape))}")
            size = count * math.prod(shape)
            if not 0 < size <= MAX_BYTES:
                raise ArchiveError(f"{path}: announces {count} items; accepted: 1 to {MAX_BYTES // math.prod(shape)}")
            content = stream.read(size + 1)  # one more tells whether it goes on, however far
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the file's
            raise
        raise ArchiveError(f"{path}: not a whole .gz file ({error}); fetch or make it again") from error
    if len(content) != size:
        raise ArchiveError(f"{path}: holds {'more' if len(content) > size else 'fewer'} than its announced {count} items")
    return np.frombuffer(content, np.uint8).reshape(count, *shape)


def read_sprites(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """16x16 sprites, uint8 (N, 16, 16, 3), and their labels, uint8 (N,) in 0..4.

    `path` is an .npz file of the arrays `images` and `labels` of these types and shapes, as numpy.savez writes it;
    layout: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Raises ArchiveError.
    """
    if not path.is_file():
        raise ArchiveError(f"{path}: is no file; accepted: an .npz file of the arrays images and labels")
    try:
        with zipfile.ZipFile(path) as archive:
            if sorted(archive.namelist()) != sorted(SPRITES_MEMBERS):
                raise ArchiveError(f"{path}: holds {', '.join(archive.namelist())}; accepted: {', '.join(SPRITES_MEMBERS)}")
            images, labels = (_read_npy(path, archive, archive.getinfo(name)) for name in SPRITES_MEMBERS)
    except ArchiveError:
        raise
    except Exception as error:  # whatever zipfile and numpy make of bytes that are no such file
        raise ArchiveError(f"{path}: not a whole .npz file of plain arrays ({error}); make it again") from error
    for name, array, shape in (("images", images, (16, 16, 3)), ("labels", labels, ())):
        if array.dtype != np.uint8 or array.ndim == 0 or array.shape[1:] != shape:
            accepted = ", ".join(map(str, ("N", *shape)))
            raise ArchiveError(f"{path}: {name} is {array.dtype} {array.shape}; accepted: uint8 ({accepted})")
    _check_labels(path, "sprites", len(images), labels)
    return np.ascontiguousarray(images), labels


def _read_npy(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.file_size > MAX_BYTES:
        raise ArchiveError(f"{path}: {member.filename} unpacks to {member.file_size} bytes; accepted: up to {MAX_BYTES}")
    with archive.open(member) as packed:
        content = packed.read(member.file_size + 1)  # a bound for the unpacked bytes, which may be more than announced
    stream = io.BytesIO(content)
    array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    if stream.read(1) or len(content) != member.file_size:
        raise ArchiveError(f"{path}: {member.filename} does not end with its array")
    return array


def _check_labels(path: Path, dataset: str, num_images: int, labels: np.ndarray) -> None:
    if len(labels) != num_images or num_images == 0:
        raise ArchiveError(f"{path}: holds {num_images} images and {len(labels)} labels; accepted: one label an image")
    if (label := int(labels.max())) >= (kinds := len(CLASSES[dataset])):
        raise ArchiveError(f"{path}: has a label {label}, not one of 0 to {kinds - 1}")


# Readers of the data sets with labels: (images, labels) of an archive or folder.
READERS: dict[str, Callable[[Path], tuple[np.ndarray, np.ndarray]]] = {
    "cifar10": read_cifar10,
    "fashion_mnist": read_fashion_mnist,
    "sprites": read_sprites,
}


class CelebaImages:
    """The aligned images of CelebA in name order: `len(images)`, `images.names`, `images[i]`.

    `path` is img_align_celeba.zip, or an unpacked folder of its .jpg files (or the folder above). Opening it checks
    every member's path; `check` also looks at every file. Layout: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html,
    "Align&Cropped Images". Other processes get a `part` each: every archive that is opened holds its whole directory,
    which takes 130 MB and a second for all of CelebA. Raises ArchiveError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: BinaryIO | None = None  # of the archive, once it is read
        self._members: list[_Member] = []  # empty for a folder
        if path.is_dir():
            self._folder, self.names = _celeba_folder(path)
        else:
            try:
                with zipfile.ZipFile(path) as archive:
                    members = _celeba_members(path, archive)
            except (zipfile.BadZipFile, struct.error) as error:
                raise ArchiveError(f"{path}: not a whole .zip archive ({error}); fetch or make it again") from error
            self.names = sorted(members)
            self._members = [members[name] for name in self.names]
        if not self.names:
            raise ArchiveError(
                f"{path}: holds no .jpg image; accepted: members {CELEBA_FOLDER}/NNNNNN.jpg, or a folder of such files"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Image.Image:
        """Image `index`, decoded, RGB, 178x218."""
        image = self._open(index)
        try:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy
        except (OSError, SyntaxError, ValueError) as error:
            raise ArchiveError(f"{self.path}: {self.names[index]} cannot be decoded ({error})") from error

    def part(self, indices: range) -> CelebaImages:
        """The images `indices` alone; it can be pickled until its first image is read."""
        part = copy.copy(self)
        part._stream = None
        part.names = [self.names[index] for index in indices]
        part._members = [self._members[index] for index in indices] if self._members else []
        return part

    def check(self) -> None:
        """Read every file, its checksum and its image's size, decoding none; raise ArchiveError at the first fault."""
        with progress_bar(total=len(self), desc=f"check {self.path.name}", unit=" images") as bar:
            for index in range(len(self)):
                self._open(index)
                bar.update()

    def read(self, index: int) -> bytes:
        """The bytes of image `index`; those of an archive are compared with their CRC."""
        if not self._members:
            return (self._folder / self.names[index]).read_bytes()
        self._stream = self._stream or self.path.open("rb")
        try:
            return _read_member(self._stream, self._members[index])
        except (zipfile.BadZipFile, EOFError, zlib.error, struct.error, NotImplementedError) as error:
            raise ArchiveError(f"{self.path}: {self.names[index]} cannot be read ({error})") from error

    def files(self) -> list[Path]:
        """The files of an unpacked folder, in name order."""
        return [self._folder / name for name in self.names]

    def _open(self, index: int) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(self.read(index)), formats=["JPEG"])
        except (UnidentifiedImageError, SyntaxError) as error:
            raise ArchiveError(f"{self.path}: {self.names[index]} is not a JPEG image") from error
        if image.size != CELEBA_SIZE:
            raise ArchiveError(
                f"{self.path}: {self.names[index]} has {image.width}x{image.height} pixels, "
                f"not the {CELEBA_SIZE[0]}x{CELEBA_SIZE[1]} of the aligned images"
            )
        return image


def _celeba_folder(path: Path) -> tuple[Path, list[str]]:
    inner = path / CELEBA_FOLDER
    folder = inner if inner.is_dir() else path
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(".jpg"):
                continue
            if entry.is_symlink() and Path(entry.path).resolve().parent != folder.resolve():
                raise ArchiveError(f"{folder}: {entry.name} is a link that leaves the folder")
            if entry.is_file():
                names.append(entry.name)
    return folder, sorted(names)


class _Member(NamedTuple):
    """What the directory of a .zip archive says of a file and reading it takes."""

    offset: int
    packed_size: int
    size: int
    crc: int
    method: int


def _celeba_members(path: Path, archive: zipfile.ZipFile) -> dict[str, _Member]:
    members: dict[str, _Member] = {}
    for member in archive.infolist():
        _check_name(path, member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{path}: {member.filename} is a link or a device; accepted: files and folders")
        folder, _, name = member.filename.rpartition("/")
        if folder != CELEBA_FOLDER or not name.endswith(".jpg"):
            continue
        if name in members:
            raise ArchiveError(f"{path}: {member.filename} is there twice")
        if member.flag_bits & 1:
            raise ArchiveError(f"{path}: {member.filename} is encrypted")
        if member.file_size > CELEBA_MAX_BYTES:
            raise ArchiveError(f"{path}: {member.filename} unpacks to {member.file_size} bytes, more than any image of CelebA")
        members[name] = _Member(member.header_offset, member.compress_size, member.file_size, member.CRC, member.compress_type)
    return members


def _read_member(stream: BinaryIO, member: _Member) -> bytes:
    """The bytes of `member`, as ZipFile.read gives them, which needs the archive's whole directory.

    Layout of the header in front of them: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7.
    """
    stream.seek(member.offset)
    name_length, extra_length = struct.unpack("<26xHH", stream.read(30))
    stream.seek(name_length + extra_length, os.SEEK_CUR)
    content = stream.read(min(member.packed_size, CELEBA_MAX_BYTES))
    if member.method == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, CELEBA_MAX_BYTES)
    elif member.method != zipfile.ZIP_STORED:
        raise NotImplementedError(f"compression method {member.method}; accepted: stored and deflated")
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise zipfile.BadZipFile("its bytes are not those of the archive's directory")
    return content


def _check_name(path: Path, member: str) -> None:
    parts = re.split(r"[/\\]", member)
    if member.startswith(("/", "\\")) or ".." in parts or re.match(r"^[A-Za-z]:", member) or "\0" in member:
        raise ArchiveError(f"{path}: the path of member {member!r} leaves the archive's folder")
