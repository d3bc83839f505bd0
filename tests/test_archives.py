"""Readers of the official layouts: right content from sound archives, a named refusal of all others."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.base.faults import Fault
from ddpm.data import archives
from ddpm.data.archives import (
    CELEBA_PARTITION,
    CIFAR10_BATCHES,
    CIFAR10_TEST_BATCH,
    FASHION_MNIST_FILES,
    FASHION_MNIST_TEST_FILES,
    MAX_BYTES,
    CelebaImages,
    Part,
    celeba_partition,
    in_tenth,
    part_of,
    read_cifar10,
    read_fashion_mnist,
    read_sprites,
)

REAL = os.environ.get("DDPM_REAL_DATA")
FASHION_MNIST = Path(__file__).resolve().parents[2] / "shared" / "data" / "fashion-mnist"
needs_real_data = pytest.mark.skipif(
    not REAL, reason="DDPM_REAL_DATA is unset: a folder with cifar-10-binary.tar.gz and celeba/img_align_celeba.zip"
)


def batches(records: int = 2, names: tuple[str, ...] = CIFAR10_BATCHES) -> dict[str, bytes]:
    """Five batches of random records; image and label are those of `expected`."""
    rng = np.random.default_rng(len(names))
    return {name: b"".join(bytes([label]) + rng.bytes(3072) for label in rng.integers(0, 10, records)) for name in names}


def expected(contents: dict[str, bytes]) -> tuple[np.ndarray, list[int]]:
    """Pixel by pixel from the publisher's description: a label, 1024 red, 1024 green, 1024 blue, row by row."""
    joined = b"".join(contents.values())
    images = np.empty((len(joined) // 3073, 32, 32, 3), np.uint8)
    for n, y, x, channel in np.ndindex(images.shape):
        images[n, y, x, channel] = joined[n * 3073 + 1 + channel * 1024 + y * 32 + x]
    return images, list(joined[::3073])


def write_tar(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def placed(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {f"cifar-10-batches-bin/{name}": content for name, content in contents.items()}


def test_cifar10_from_archive_and_folders(tmp_path: Path) -> None:
    contents = batches()
    members = {"cifar-10-batches-bin/batches.meta.txt": b"cat\n"} | dict(reversed(placed(contents).items()))
    members["cifar-10-batches-bin/test_batch.bin"] = b"not used, not even its length"
    archive = write_tar(tmp_path / "c.tar.gz", members)
    images, labels = expected(contents)
    inner = tmp_path / "folder" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    for name, content in contents.items():
        (inner / name).write_bytes(content)
    for path in (archive, inner, inner.parent):
        found = read_cifar10(path)
        assert np.array_equal(found[0], images)
        assert found[1].tolist() == labels
        assert found[1].dtype == np.uint8


def test_cifar10s_test_batch_is_held_out(tmp_path: Path) -> None:
    """And it alone: the five others are what they are without it."""
    contents, tested = batches(), batches(3, (CIFAR10_TEST_BATCH,))
    archive = write_tar(tmp_path / "c.tar.gz", placed(contents | tested))
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, content in (contents | tested).items():
        (folder / name).write_bytes(content)
    wanted: dict[Part, dict[str, bytes]] = {"heldout": tested, "training": contents, "all": contents}
    for path in (archive, folder, tmp_path):
        for part, part_contents in wanted.items():
            images, labels = read_cifar10(path, part)
            assert np.array_equal(images, expected(part_contents)[0])
            assert labels.tolist() == expected(part_contents)[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"test_batch\.bin is missing; needed: test_batch\.bin, or others in data\.heldout"),
        (b"", r"test_batch\.bin: all empty"),
        (b"x", r"test_batch\.bin has 1 bytes, not a multiple"),
        (b"\x0a" + bytes(3072), r"test_batch\.bin has a label 10"),
    ],
)
def test_a_wrong_test_batch_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    contents = batches() | ({} if content is None else {CIFAR10_TEST_BATCH: content})
    write_tar(tmp_path / "c.tar.gz", placed(contents))
    for name, batch in contents.items():
        (tmp_path / name).write_bytes(batch)
    for path in (tmp_path / "c.tar.gz", tmp_path):
        assert len(read_cifar10(path, "training")[0]) == 10
        with pytest.raises(Fault, match=f"{path.name}: {words}"):
            read_cifar10(path, "heldout")


def spoil_length(contents: dict[str, bytes]) -> None:
    contents["data_batch_3.bin"] += b"x"


def spoil_label(contents: dict[str, bytes]) -> None:
    contents["data_batch_4.bin"] = b"\x0a" + contents["data_batch_4.bin"][1:]


def drop(contents: dict[str, bytes]) -> None:
    del contents["data_batch_2.bin"]


def empty(contents: dict[str, bytes]) -> None:
    for name in contents:
        contents[name] = b""


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_length, "data_batch_3.bin has 6147 bytes, not a multiple"),
        (spoil_label, "data_batch_4.bin has a label 10"),
        (drop, "data_batch_2.bin is missing"),
        (empty, "empty"),
    ],
)
def test_wrong_cifar10_batches_are_refused(tmp_path: Path, spoil: Callable[[dict[str, bytes]], None], words: str) -> None:
    contents = batches()
    spoil(contents)
    archive = write_tar(tmp_path / "c.tar.gz", placed(contents))
    with pytest.raises(Fault, match=f"c.tar.gz: .*{words}"):
        read_cifar10(archive)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Fault, match=words):
        read_cifar10(tmp_path)


@pytest.mark.parametrize("name", ["../evil.bin", "/evil.bin", "a/../../evil.bin", "a\\..\\..\\evil", "C:\\evil"])
def test_members_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    archive = write_tar(tmp_path / "c.tar.gz", placed(batches()) | {name: b"x"})
    with pytest.raises(Fault, match=r"c\.tar\.gz: the path of member .*evil.* leaves"):
        read_cifar10(archive)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as packed:
        packed.writestr("img_align_celeba/000001.jpg", jpeg())
        packed.writestr(name, b"x")
    with pytest.raises(Fault, match=r"c\.zip: the path of member .*evil.* leaves"):
        CelebaImages(tmp_path / "c.zip")


def test_links_are_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "c.tar.gz", placed(batches()), {"cifar-10-batches-bin/evil": "/etc/passwd"})
    with pytest.raises(Fault, match=r"cifar-10-batches-bin/evil is a link"):
        read_cifar10(archive)
    link = zipfile.ZipInfo("img_align_celeba/evil.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(Fault, match=r"img_align_celeba/evil.jpg is a link"):
        CelebaImages(tmp_path / "c.zip")
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside.jpg").write_bytes(jpeg())
    (folder / "evil.jpg").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(Fault, match=r"evil.jpg is a link"):
        CelebaImages(folder)


def test_a_batch_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "c.tar.gz", placed(batches()) | {"again/data_batch_1.bin": b""})
    with pytest.raises(Fault, match=r"again/data_batch_1.bin is there twice"):
        read_cifar10(archive)


def test_a_cut_cifar10_archive_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "c.tar.gz", placed(batches())).read_bytes()
    for end in [0, 5, len(whole) // 2, len(whole) - 20, len(whole) - 8, len(whole) - 1]:
        (tmp_path / "cut.tar.gz").write_bytes(whole[:end])
        with pytest.raises(Fault, match=r"cut\.tar\.gz"):
            read_cifar10(tmp_path / "cut.tar.gz")


def test_a_changed_byte_in_a_cifar10_archive_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(write_tar(tmp_path / "c.tar.gz", placed(batches())).read_bytes())
    whole[len(whole) // 2] ^= 1  # inside the random pixels, which gzip stores as they are
    (tmp_path / "c.tar.gz").write_bytes(whole)
    with pytest.raises(Fault, match=r"c\.tar\.gz"):
        read_cifar10(tmp_path / "c.tar.gz")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_bytes(b"<html>Quota exceeded</html>" * 99)
    with pytest.raises(Fault, match=r"page: not a whole"):
        read_cifar10(page)
    with pytest.raises(Fault, match=r"page: not a whole"):
        CelebaImages(page)
    page.write_bytes(gzip.compress(b"no tar"))
    with pytest.raises(Fault, match=r"page: not a whole"):
        read_cifar10(page)


def jpeg(size: tuple[int, int] = (178, 218), colour: str = "red", mode: str = "RGB", kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(stream, kind, quality=100)
    return stream.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(f"img_align_celeba/{name}", content)
    return path


def test_celeba_from_archive_and_folders_in_name_order(tmp_path: Path) -> None:
    members = {"000010.jpg": jpeg(colour="blue"), "000002.jpg": jpeg(colour="lime"), "notes.txt": b"x"}
    archive = write_zip(tmp_path / "c.zip", members)
    inner = tmp_path / "folder" / "img_align_celeba"
    inner.mkdir(parents=True)
    for name, content in members.items():
        (inner / name).write_bytes(content)
    for path in (archive, inner, inner.parent):
        images = CelebaImages(path)
        images.check()
        assert images.names == ["000002.jpg", "000010.jpg"]
        assert images[0].getpixel((80, 100))[1] > 240
        assert images[1].getpixel((80, 100))[2] > 240
        assert images[1].size == (178, 218)


def test_a_grey_image_becomes_rgb(tmp_path: Path) -> None:
    images = CelebaImages(write_zip(tmp_path / "c.zip", {"1.jpg": jpeg(colour="white", mode="L")}))
    assert images[0].getpixel((5, 5)) == (255, 255, 255)


def names_of(path: Path) -> dict[Part, list[str]]:
    parts: tuple[Part, ...] = ("training", "heldout", "all")
    return {part: CelebaImages(path, part).names for part in parts}


def test_the_tenth_is_the_same_on_every_machine() -> None:
    """These are the names whose hash, as the command sha256sum prints it, is a multiple of ten."""
    held_out = [number for number in range(1, 100) if in_tenth(f"{number:06d}.jpg")]
    assert held_out == [1, 4, 20, 21, 23, 28, 37, 40, 41, 50, 56, 69, 79, 86, 90, 95]
    share = np.mean([in_tenth(f"{number:06d}.jpg") for number in range(20_000)])
    assert abs(share - 0.1) < 4 * (0.09 / 20_000) ** 0.5


def test_without_a_list_a_tenth_of_the_faces_is_held_out_by_name(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "c.zip", {f"{number:06d}.jpg": jpeg() for number in range(1, 31)})
    parts = names_of(archive)
    assert parts["heldout"] == [f"{number:06d}.jpg" for number in (1, 4, 20, 21, 23, 28)]
    assert sorted(parts["training"] + parts["heldout"]) == parts["all"]
    assert len(parts["all"]) == 30
    fewer = write_zip(tmp_path / "d.zip", {f"{number:06d}.jpg": jpeg() for number in range(4, 21)})
    assert names_of(fewer)["heldout"] == ["000004.jpg", "000020.jpg"], "whatever is beside them"


PARTITION = "000001.jpg 0\n000002.jpg 1\r\n000003.jpg 2\n000004.jpg 0\n000009.jpg 1\n"  # 9 is not in the archive


def faces(path: Path, numbers: tuple[int, ...] = (1, 2, 3, 4)) -> dict[str, bytes]:
    path.mkdir(parents=True, exist_ok=True)
    return {f"{number:06d}.jpg": jpeg(colour=f"rgb({number},0,0)") for number in numbers}


def test_the_publishers_list_splits_the_faces(tmp_path: Path) -> None:
    """Where it lies beside the archive, among the images or above them."""
    inner = tmp_path / "folder" / "img_align_celeba"
    members = faces(inner)
    archive = write_zip(tmp_path / "zip.zip", members)
    for name, content in members.items():
        (inner / name).write_bytes(content)
    for path, place in ((archive, tmp_path), (inner, inner), (inner.parent, inner), (inner, inner.parent), (inner.parent,) * 2):
        assert celeba_partition(path) is None
        assert names_of(path)["training"] != ["000001.jpg", "000004.jpg"], "by their names"
        (place / CELEBA_PARTITION).write_text(PARTITION)
        assert celeba_partition(path) == place / CELEBA_PARTITION
        wanted = {"training": ["000001.jpg", "000004.jpg"], "heldout": ["000002.jpg", "000003.jpg"], "all": list(members)}
        assert names_of(path) == wanted
        assert CelebaImages(path, "heldout").read("000003.jpg") == members["000003.jpg"]
        assert np.array_equal(np.asarray(CelebaImages(path, "heldout")[1]), np.asarray(CelebaImages(path)[2]))
        (place / CELEBA_PARTITION).unlink()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("000002.jpg 1", "000002.jpg 3", "line 2 is '000002.jpg 3'; accepted: NAME 0, NAME 1 or NAME 2"),
        ("000002.jpg 1", "000002.jpg", "line 2 is '000002.jpg'; accepted"),
        ("000002.jpg 1", "000002.jpg 1 0", "line 2 is '000002.jpg 1 0'; accepted"),
        ("000002.jpg 1", "", "line 2 is ''; accepted"),
        ("000002.jpg 1", "\xff" * 500, r"line 2 is '.{80}'; accepted"),
        ("000009.jpg 1", "000001.jpg 1", "line 5, '000001.jpg 1', contradicts an earlier one"),
        ("000003.jpg 2\n", "", r"has no line for 000003.jpg, one of 1 images that it lacks; accepted: all of them"),
    ],
)
def test_a_list_that_does_not_split_the_faces_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    archive = write_zip(tmp_path / "c.zip", faces(tmp_path))
    (tmp_path / CELEBA_PARTITION).write_bytes(PARTITION.replace(old, new).encode("latin-1"))
    for part in ("training", "heldout"):
        with pytest.raises(Fault, match=rf"{CELEBA_PARTITION}: {words}"):
            CelebaImages(archive, part)
    assert len(CelebaImages(archive)) == 4, "for all of them it is not read"


def test_a_split_with_an_empty_side_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "c.zip", faces(tmp_path))
    lines = PARTITION.splitlines()
    for number, side in (("0", "held out"), ("1", "left for training")):
        (tmp_path / CELEBA_PARTITION).write_text("".join(f"{line.split()[0]} {number}\n" for line in lines))
        for part in ("training", "heldout"):
            with pytest.raises(Fault, match=rf"c\.zip: none of 4 images would be {side}; accepted: more images, or others in"):
                CelebaImages(archive, part)
    with pytest.raises(Fault, match=r"none of 1 images would be left for training"):
        part_of(archive, ["000001.jpg"], "heldout")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (jpeg((218, 178)), "000002.jpg has 218x178 pixels"),
        (b"", "000002.jpg is not a JPEG"),
        (b"GIF89a" * 30, "000002.jpg is not a JPEG"),
        (jpeg(kind="PNG"), "000002.jpg is not a JPEG"),
        (b"\0" * 2_000_000, "000002.jpg unpacks to 2000000 bytes"),
    ],
    ids=["turned", "empty", "gif", "png", "bomb"],
)
def test_wrong_celeba_images_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    archive = write_zip(tmp_path / "c.zip", {"000001.jpg": jpeg(), "000002.jpg": content, "000003.jpg": jpeg()})
    with pytest.raises(Fault, match=rf"c\.zip: .*{words}"):
        CelebaImages(archive).check()


def test_a_jpeg_that_announces_a_huge_image_is_refused(tmp_path: Path) -> None:
    content = bytearray(jpeg())
    start_of_frame = content.index(b"\xff\xc0")
    content[start_of_frame + 5 : start_of_frame + 9] = b"\xff\xdc" * 2
    with pytest.raises(Fault, match=r"c\.zip: 1.jpg is not a JPEG image of CelebA"):
        CelebaImages(write_zip(tmp_path / "c.zip", {"1.jpg": bytes(content)})).check()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_and_encrypted_images_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as packed:
        packed.writestr("img_align_celeba/1.jpg", jpeg())
        packed.writestr("img_align_celeba/1.jpg", jpeg())
    with pytest.raises(Fault, match=r"c\.zip: img_align_celeba/1.jpg is there twice"):
        CelebaImages(tmp_path / "c.zip")
    path = patched(write_zip(tmp_path / "c.zip", {"2.jpg": jpeg()}), 8, b"\x01")
    with pytest.raises(Fault, match=r"c\.zip: img_align_celeba/2.jpg is encrypted"):
        CelebaImages(path)


def test_a_file_that_the_system_will_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg())
    images = CelebaImages(tmp_path)
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(Fault, match=r"1\.jpg: no such file"):
        images.check()
    with pytest.raises(Fault, match=r"none: cannot be read \(No such file or directory\)"):
        read_cifar10(tmp_path / "none")


def test_a_batch_larger_than_any_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_tar(tmp_path / "c.tar.gz", placed(batches()))
    monkeypatch.setattr(archives, "MAX_BYTES", 6145)
    with pytest.raises(Fault, match=r"data_batch_1.bin unpacks to 6146 bytes; accepted: up to 6145"):
        read_cifar10(archive)


def test_an_image_cut_short_is_named_when_decoded(tmp_path: Path) -> None:
    images = CelebaImages(write_zip(tmp_path / "c.zip", {"000001.jpg": jpeg()[:-300]}))
    with pytest.raises(Fault, match=r"c\.zip: 000001.jpg cannot be decoded"):
        images[0]


def test_archives_of_other_writers_are_read(tmp_path: Path) -> None:
    """Deflated, written to a pipe, which puts sizes behind the data, with extra fields, behind a self-extractor."""
    contents = {f"img_align_celeba/{n}.jpg": jpeg(colour=colour) for n, colour in enumerate(["red", "lime", "blue"])}
    stream = io.BytesIO()
    stream.seekable = lambda: False  # type: ignore[method-assign]
    stream.write(b"#!/bin/sh\nself-extractor\n")
    with zipfile.ZipFile(stream, "w") as packed:
        for n, (name, content) in enumerate(contents.items()):
            info = zipfile.ZipInfo(name)
            info.compress_type = [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][n]
            info.extra = b"\x55\x54\x05\x00\x01" + bytes(4)  # a time, as Info-ZIP adds it
            packed.writestr(info, content)
    (tmp_path / "c.zip").write_bytes(stream.getvalue())
    images = CelebaImages(tmp_path / "c.zip")
    images.check()
    assert [images.read(name) for name in images.names] == list(contents.values())


def patched(path: Path, position: int, values: bytes) -> Path:
    """The archive with `values` at `position` of the directory's entry of its last member, 2.jpg."""
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"PK\1\2") + position
    whole[entry : entry + len(values)] = values
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("position", "values"),
    [(10, b"\x0c"), (10, b"\x4d"), (16, bytes(4)), (20, bytes(4)), (24, bytes(4)), (42, bytes([9]))],
    ids=["method", "unknown method", "checksum", "no packed size", "no size", "offset"],
)
def test_a_directory_that_lies_is_refused(tmp_path: Path, position: int, values: bytes) -> None:
    # The last member is checked first, by its name: of two that overlap Python's releases refuse one or the other.
    path = patched(write_zip(tmp_path / "c.zip", {"3.jpg": jpeg(), "2.jpg": jpeg(colour="blue")}), position, values)
    with pytest.raises(Fault, match=r"c\.zip: 2.jpg cannot be read"):
        CelebaImages(path).check()


def test_no_more_is_read_than_an_image_has(tmp_path: Path) -> None:
    """Whatever size the directory announces: some versions of Python refuse it, the others find the image."""
    whole = write_zip(tmp_path / "c.zip", {"2.jpg": jpeg(), "tail": bytes(20_000_000)}).read_bytes()
    packed_size = whole.index(b"PK\1\2") + 20
    (tmp_path / "c.zip").write_bytes(whole[:packed_size] + b"\xf0\xff\xff\xff" + whole[packed_size + 4 :])
    images = CelebaImages(tmp_path / "c.zip")
    tracemalloc.start()
    found = b""
    with suppress(Fault):
        found = images.read("2.jpg")
    assert found in (b"", jpeg())
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_file_that_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("img_align_celeba/2.jpg", bytes(200_000_000))
    images = CelebaImages(patched(tmp_path / "c.zip", 24, struct.pack("<I", 7000)))
    tracemalloc.start()
    with pytest.raises(Fault, match=r"c\.zip: 2.jpg cannot be read"):
        images[0]
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_the_files_travel_between_processes_as_a_path(tmp_path: Path) -> None:
    contents = {f"{n:06d}.jpg": jpeg(colour=f"rgb({n},0,0)") for n in range(40)}
    archive = write_zip(tmp_path / "c.zip", contents)
    (tmp_path / "folder").mkdir()
    for name, content in contents.items():
        (tmp_path / "folder" / name).write_bytes(content)
    for path in (archive, tmp_path / "folder"):
        whole = CelebaImages(path)
        assert whole.read("000039.jpg") == contents["000039.jpg"]
        pickled = pickle.dumps(whole)
        assert len(pickled) < 1000
        files = pickle.loads(pickled)
        assert [files.read(name) for name in whole.names] == list(contents.values())
        assert np.array_equal(np.asarray(files.image("000012.jpg")), np.asarray(whole[12]))


def test_an_archive_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that packs all of CelebA would otherwise spend a second a task on its directory."""
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, file: Any) -> None:
            opened.append(file)
            super().__init__(file)

    write_zip(tmp_path / "c.zip", {f"{n}.jpg": jpeg() for n in range(5)})
    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    images = CelebaImages(tmp_path / "c.zip")
    images.check()
    assert len([images[index] for index in range(5)]) == 5
    assert len(opened) == 1


def test_a_cut_celeba_archive_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "c.zip", {"1.jpg": jpeg(), "2.jpg": jpeg()}).read_bytes()
    for end in [0, 5, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        (tmp_path / "cut.zip").write_bytes(whole[:end])
        with pytest.raises(Fault, match=r"cut\.zip"):
            CelebaImages(tmp_path / "cut.zip")


def test_a_changed_byte_in_a_celeba_archive_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "c.zip", {"1.jpg": jpeg()})
    whole = bytearray(path.read_bytes())
    whole[500] ^= 1
    path.write_bytes(whole)
    with pytest.raises(Fault, match=r"c\.zip: 1.jpg cannot be read"):
        CelebaImages(path).check()


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"c\.zip: holds no .jpg"):
        CelebaImages(write_zip(tmp_path / "c.zip", {"readme": b"x"}))
    with pytest.raises(Fault, match=r"holds no \.jpg"):
        CelebaImages(tmp_path)


def idx(array: np.ndarray) -> bytes:
    """The IDX file of an array of bytes, from the publisher's description."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def garments(count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10


def write_garments(
    folder: Path, images: bytes, labels: bytes, packed: bool = True, names: tuple[str, ...] = FASHION_MNIST_FILES
) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in zip(names, (images, labels), strict=True):
        if packed:
            (folder / name).write_bytes(gzip.compress(content))
        else:
            (folder / name.removesuffix(".gz")).write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_is_read_as_torchvision_reads_it(tmp_path: Path, packed: bool) -> None:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    write_garments(tmp_path, *map(idx, garments(23)), packed=False)
    wanted = read_image_file(str(tmp_path / "train-images-idx3-ubyte"))
    labels = read_label_file(str(tmp_path / "train-labels-idx1-ubyte"))
    found = read_fashion_mnist(write_garments(tmp_path / "raw", *map(idx, garments(23)), packed=packed))
    assert np.array_equal(found[0], wanted[..., None])
    assert found[1].tolist() == labels.tolist()
    assert found[0].dtype == found[1].dtype == np.uint8


@pytest.mark.parametrize("packed", [True, False])
def test_the_t10k_files_are_held_out(tmp_path: Path, packed: bool) -> None:
    """Each part is read from its own two files, whose numbers of images differ."""
    write_garments(tmp_path, *map(idx, garments(12)), packed=packed)
    with pytest.raises(Fault, match=r"t10k-images-idx3-ubyte\.gz is missing.* t10k-images-idx3-ubyte, or others in data"):
        read_fashion_mnist(tmp_path, "heldout")
    images, labels = garments(7)
    write_garments(tmp_path, idx(255 - images), idx(labels), packed, FASHION_MNIST_TEST_FILES)
    found = read_fashion_mnist(tmp_path, "heldout")
    assert np.array_equal(found[0][..., 0], 255 - images)
    assert found[1].tolist() == labels.tolist()
    for part in ("training", "all"):
        assert np.array_equal(read_fashion_mnist(tmp_path, part)[0][..., 0], garments(12)[0])


IMAGES, LABELS = garments()
COUNT = struct.pack(">I", 5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (idx(LABELS), idx(LABELS), "train-images.*: begins with 00000801, not 00000803"),
        (idx(IMAGES), idx(IMAGES), "train-labels.*: begins with 00000803, not 00000801"),
        (b"\0\0\x0d\x03" + idx(IMAGES)[4:], idx(LABELS), "train-images.*: begins with 00000d03"),
        (idx(IMAGES)[:3], idx(LABELS), "train-images.*: begins with 000008, not"),
        (idx(IMAGES)[:13], idx(LABELS), "train-images.*: is cut short in its header"),
        (idx(IMAGES[:, :27]), idx(LABELS), "train-images.*: its items are 27x28, not 28x28"),
        (idx(IMAGES)[:-1], idx(LABELS), "train-images.*: holds fewer than its announced 5 items"),
        (idx(IMAGES) + b"x", idx(LABELS), "train-images.*: holds more than its announced 5 items"),
        (idx(IMAGES), idx(LABELS) + b"\0", "train-labels.*: holds more than its announced 5 items"),
        (idx(IMAGES[:4]), idx(LABELS), "holds 4 images and 5 labels"),
        (idx(IMAGES), idx(LABELS + 6), "has a label 10, not one of 0 to 9"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "train-images.*: announces 0 items"),
        (idx(IMAGES).replace(COUNT, b"\xff" * 4, 1), idx(LABELS), "train-images.*: announces 4294967295 items; accepted: 1 to"),
    ],
)
def test_wrong_fashion_mnist_files_are_refused(tmp_path: Path, images: bytes, labels: bytes, words: str, packed: bool) -> None:
    with pytest.raises(Fault, match=words):
        read_fashion_mnist(write_garments(tmp_path, images, labels, packed))


def test_a_missing_fashion_mnist_file_is_named(tmp_path: Path) -> None:
    write_garments(tmp_path, *map(idx, garments()))
    (tmp_path / FASHION_MNIST_FILES[0]).unlink()
    with pytest.raises(Fault, match=r"train-images-idx3-ubyte\.gz is missing, and so is train-images-idx3-ubyte$"):
        read_fashion_mnist(tmp_path)
    with pytest.raises(Fault, match="is no folder; accepted: a folder that holds train-images"):
        read_fashion_mnist(tmp_path / FASHION_MNIST_FILES[1])


def test_a_damaged_fashion_mnist_file_is_refused(tmp_path: Path) -> None:
    write_garments(tmp_path, *map(idx, garments()))
    path = tmp_path / FASHION_MNIST_FILES[0]
    whole = path.read_bytes()
    damaged = [whole[:end] for end in (0, 5, len(whole) // 2, len(whole) - 8, len(whole) - 1)]
    damaged += [whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:], whole + b"junk", gzip.decompress(whole)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(Fault, match=r"train-images-idx3-ubyte\.gz: "):
            read_fashion_mnist(tmp_path)


def test_a_fashion_mnist_bomb_is_not_unpacked(tmp_path: Path) -> None:
    write_garments(tmp_path, idx(IMAGES) + bytes(300_000_000), idx(LABELS))
    tracemalloc.start()
    with pytest.raises(Fault, match="holds more"):
        read_fashion_mnist(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason=f"{FASHION_MNIST} is absent: real Fashion-MNIST files")
def test_real_fashion_mnist(tmp_path: Path) -> None:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images, labels = read_fashion_mnist(FASHION_MNIST)
    for name in FASHION_MNIST_FILES:
        (tmp_path / name.removesuffix(".gz")).write_bytes(gzip.decompress((FASHION_MNIST / name).read_bytes()))
    assert np.array_equal(images[..., 0], read_image_file(str(tmp_path / "train-images-idx3-ubyte")))
    assert labels.tolist() == read_label_file(str(tmp_path / "train-labels-idx1-ubyte")).tolist()
    assert len(read_fashion_mnist(FASHION_MNIST, "heldout")[0]) == 100
    width = (images[..., 0] > 50).any(1).sum(1)
    assert width[labels == 1].mean() < 0.6 * width[labels == 2].mean(), "trousers are narrower than pullovers"


SPRITES = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
KINDS = np.arange(7, dtype=np.uint8) % 5


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_sprites_are_read_from_numpys_files(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "s.npz", labels=KINDS, images=SPRITES)
    images, labels = read_sprites(tmp_path / "s.npz")
    assert np.array_equal(images, SPRITES)
    assert np.array_equal(labels, KINDS)
    save(tmp_path / "s.npz", labels=KINDS, images=np.asfortranarray(SPRITES))
    assert np.array_equal(read_sprites(tmp_path / "s.npz")[0], SPRITES)


def test_a_tenth_of_the_sprites_is_held_out_by_place(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), np.uint8)
    labels = np.arange(100, dtype=np.uint8) % 5
    np.savez(tmp_path / "s.npz", images=images, labels=labels)
    places = np.isin(np.arange(100), [18, 72, 74, 87, 96])  # their sha256, as sha256sum prints it, is a multiple of ten
    for part, rows in (("heldout", places), ("training", ~places)):
        found = read_sprites(tmp_path / "s.npz", part)
        assert np.array_equal(found[0], images[rows])
        assert np.array_equal(found[1], labels[rows])
        assert found[0].flags.c_contiguous
    np.savez(tmp_path / "s.npz", images=images[:18], labels=labels[:18])
    with pytest.raises(Fault, match=r"s\.npz: none of 18 images would be held out"):
        read_sprites(tmp_path / "s.npz", "training")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": SPRITES}, "holds images.npy; accepted: images.npy, labels.npy"),
        ({"images": SPRITES, "labels": KINDS, "more": KINDS}, "holds images.npy, labels.npy, more.npy"),
        ({"images": SPRITES / 255, "labels": KINDS}, r"images is float64 \(7, 16, 16, 3\); accepted: uint8 \(N, 16, 16, 3\)"),
        ({"images": SPRITES[:, :8], "labels": KINDS}, r"images is uint8 \(7, 8, 16, 3\)"),
        ({"images": SPRITES, "labels": KINDS[:, None]}, r"labels is uint8 \(7, 1\); accepted: uint8 \(N\)"),
        ({"images": SPRITES, "labels": np.uint8(3)}, r"labels is uint8 \(\)"),
        ({"images": SPRITES, "labels": KINDS.astype(int)}, "labels is int64"),
        ({"images": SPRITES, "labels": KINDS[:6]}, "holds 7 images and 6 labels"),
        ({"images": SPRITES[:0], "labels": KINDS[:0]}, "holds 0 images and 0 labels"),
        ({"images": SPRITES, "labels": KINDS + 3}, "has a label 7, not one of 0 to 4"),
    ],
)
def test_wrong_sprites_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(Fault, match=rf"s\.npz: {words}"):
        read_sprites(tmp_path / "s.npz")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def test_no_sprite_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("s.npz", images=SPRITES, labels=np.array([Evil()] * 7))
    with pytest.raises(Fault, match=r"s\.npz: not a whole \.npz file of plain arrays"):
        read_sprites(tmp_path / "s.npz")
    assert not (tmp_path / "unpickled").exists()


def npy(shape: str, content: bytes = b"", descr: str = "'|u1'") -> bytes:
    """An .npy file whose header may lie."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    "content",
    [
        npy("(1000000000000000, 16, 16, 3)"),
        npy("(10000000, 16, 16, 3)", bytes(768)),
        npy(f"({10**40}, 16, 16, 3)"),
        npy("(-1, 16, 16, 3)", bytes(768)),
        npy("(1, 16, 16, 3)", bytes(769)),
        npy("(1, 16, 16, 3)", bytes(767)),
        npy("(1, 16, 16, 3)", bytes(768), descr="__import__('os').mkdir('evil')"),
        npy("((((((((1"),
        b"\x93NUMPY\1\0\xff\xff",
        b"",
    ],
)
def test_an_array_whose_header_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as packed:
        packed.writestr("images.npy", content)
        packed.writestr("labels.npy", npy("(1,)", b"\0"))
    with pytest.raises(Fault, match=r"s\.npz: "):
        read_sprites(tmp_path / "s.npz")


def test_a_sprites_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("labels.npy", npy("(1,)", b"\0"))
        packed.writestr("images.npy", bytes(MAX_BYTES + 1))
    with pytest.raises(Fault, match=rf"images\.npy unpacks to {MAX_BYTES + 1} bytes"):
        read_sprites(tmp_path / "s.npz")
    patched(tmp_path / "s.npz", 24, struct.pack("<I", 7000))  # images.npy is the last member
    tracemalloc.start()
    with pytest.raises(Fault, match=r"s\.npz: not a whole"):
        read_sprites(tmp_path / "s.npz")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_damaged_sprites_are_refused_wherever_they_are_hit(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    np.savez_compressed(path, images=SPRITES, labels=KINDS)
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(Fault, match=r"s\.npz: "):
            read_sprites(path)
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            found = read_sprites(path)
        except Fault:
            continue  # the usual case; bytes such as those of the time change nothing
        assert np.array_equal(found[0], SPRITES)
        assert np.array_equal(found[1], KINDS)
    with pytest.raises(Fault, match=r"is no file; accepted: an \.npz file"):
        read_sprites(tmp_path)


@needs_real_data
def test_real_cifar10() -> None:
    images, labels = read_cifar10(Path(str(REAL)) / "cifar-10-binary.tar.gz")
    assert images.shape == (50000, 32, 32, 3)
    assert (np.bincount(labels) == 5000).all()
    tested, tested_labels = read_cifar10(Path(str(REAL)) / "cifar-10-binary.tar.gz", "heldout")
    assert tested.shape == (10000, 32, 32, 3)
    assert (np.bincount(tested_labels) == 1000).all()
    # The field's channel means and deviations; a JPEG copy differs in the third place.
    assert np.allclose(images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=2e-3)
    assert np.allclose(images.std((0, 1, 2)) / 255, [0.2470, 0.2435, 0.2616], atol=3e-3)


@needs_real_data
def test_real_celeba() -> None:
    images = CelebaImages(Path(str(REAL)) / "celeba" / "img_align_celeba.zip")
    images.check()
    assert images.names == sorted(images.names)
    parts = names_of(Path(str(REAL)) / "celeba" / "img_align_celeba.zip")
    assert sorted(parts["training"] + parts["heldout"]) == images.names
    assert {len(parts["training"]), len(parts["heldout"])} in ({4560, 1439}, {162_770, 39_829}), "a part, or all that there are"
    mean = np.mean([np.asarray(images[index]) for index in range(0, len(images), 20)], axis=0)
    eyes, cheeks = mean[107:115, [69, 108]], mean[128:136, [62, 115]]
    assert eyes.mean() < cheeks.mean() - 15, "the eyes are where the aligned images have them"
