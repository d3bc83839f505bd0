"""Packing: the right box, the right resize, exact statistics, any number of workers, nothing left of a failed run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.base.faults import Fault
from ddpm.base.files import TEMPORARY
from ddpm.base.parallel import in_processes
from ddpm.data.archives import CelebaImages, Part, in_tenth
from ddpm.data.drawn.layouts import write_celeba
from ddpm.data.preprocess import cut, pack
from ddpm.data.sets import DATA_SETS
from ddpm.data.settings import DataConfig

SOURCE = Path(__file__).resolve().parents[1] / "src"
REAL = os.environ.get("DDPM_REAL_DATA")
BOX = [25, 57, 128, 128]
PARTS: tuple[Part, ...] = ("training", "heldout", "all")


def celeba(size: int, crop: list[int] = BOX) -> DataConfig:
    return DataConfig(dataset="celeba", source="synthetic", crop=crop, size=size)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images, so three tasks of workers: 70 faces again and again."""
    folder = tmp_path_factory.mktemp("faces")
    write_celeba(folder / "drawn.zip", 70, seed=0, workers=1)
    with zipfile.ZipFile(folder / "drawn.zip") as drawn, zipfile.ZipFile(folder / "faces.zip", "w") as packed:
        faces = [drawn.read(name) for name in drawn.namelist()]
        for index in range(600):
            packed.writestr(f"img_align_celeba/{index + 1:06d}.jpg", faces[index % 70])
    return folder / "faces.zip"


PACKING = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_preprocess import celeba
from ddpm.data.preprocess import pack
if __name__ == "__main__":
    pack(celeba(64), Path(sys.argv[3]), Path(sys.argv[4]), 2)
"""
MEASURING = """
    from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
    print(getrusage(RUSAGE_SELF).ru_maxrss, getrusage(RUSAGE_CHILDREN).ru_maxrss)
"""


def test_the_box_is_cut_and_averaged() -> None:
    """On a linear ramp any antialiasing filter gives the box's own ramp at the new pixels' centres."""
    x, y = np.meshgrid(np.arange(178), np.arange(218))
    ramp = np.stack([x, y, np.full_like(x, 77)], -1).astype(np.uint8)
    small = cut(Image.fromarray(ramp), [26, 60, 128, 128], 64).astype(float)
    centres = (np.arange(64) + 0.5) * 2 - 0.5
    inner = slice(4, -4)  # at the rim the filter sees only one side
    assert np.abs(small[inner, inner, 0] - (26 + centres)[None, inner]).max() <= 1
    assert np.abs(small[inner, inner, 1] - (60 + centres)[inner, None]).max() <= 1
    assert (small[..., 2] == 77).all()


def test_a_fine_pattern_is_averaged_not_sampled() -> None:
    stripes = np.zeros((218, 178, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(cut(Image.fromarray(stripes), BOX, 64)[4:-4, 4:-4].astype(int) - 127).max() <= 6


def test_pixels_outside_the_box_do_not_count() -> None:
    inside = np.full((218, 178, 3), 255, np.uint8)
    inside[57:185, 25:153] = 100
    assert (cut(Image.fromarray(inside), BOX, 64) == 100).all()


def test_it_is_torchvisions_crop_and_antialiased_resize(archive: Path) -> None:
    import torch  # here: the processes that other tests start import this file
    from torchvision.transforms import functional as transforms

    image = CelebaImages(archive)[0]
    ours = cut(image, BOX, 64)
    box = transforms.crop(image, top=57, left=25, height=128, width=128)
    bicubic = transforms.InterpolationMode.BICUBIC
    assert np.array_equal(ours, np.asarray(transforms.resize(box, [64, 64], bicubic, antialias=True)))
    tensor = transforms.resize(transforms.pil_to_tensor(box).float(), [64, 64], bicubic, antialias=True)
    rounded = tensor.round().clamp(0, 255).permute(1, 2, 0)
    assert (torch.from_numpy(ours.astype(np.int16)) - rounded).abs().max() <= 1


def test_celeba_is_packed_whole_in_order_with_exact_statistics(archive: Path, tmp_path: Path) -> None:
    stats = pack(celeba(16), archive, tmp_path / "a.npy", workers=2)
    array = np.load(tmp_path / "a.npy")
    images = CelebaImages(archive)
    assert array.dtype == np.uint8
    assert np.array_equal(array, np.stack([cut(images[index], BOX, 16) for index in range(600)]))
    scaled = array.astype(np.float64) / 255
    assert stats["count"] == 600
    assert stats["size"] == 16
    assert np.allclose(stats["mean"], scaled.mean((0, 1, 2)), rtol=1e-12)
    assert np.allclose(stats["std"], scaled.std((0, 1, 2)), rtol=1e-12)
    assert stats["sha256"] == hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy"}


def test_the_number_of_workers_changes_nothing(archive: Path, tmp_path: Path) -> None:
    config = celeba(32)
    one, two, all_cores = (pack(config, archive, tmp_path / f"{workers}", workers) for workers in (1, 2, 0))
    assert one == two == all_cores
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == (tmp_path / "0").read_bytes()


@pytest.mark.parametrize(
    ("dataset", "shape"), [("cifar10", (32, 32, 3)), ("fashion_mnist", (28, 28, 1)), ("sprites", (16, 16, 3))]
)
def test_images_with_labels_are_packed_as_they_are(tmp_path: Path, dataset: str, shape: tuple[int, ...]) -> None:
    source, out, labels_out = tmp_path / "raw", tmp_path / "packed" / "a.npy", tmp_path / "packed" / "l.npy"
    DATA_SETS[dataset].write(source, 300, 0, 1)
    stats = pack(DataConfig(dataset=dataset, source="synthetic"), source, out, 1, labels_out)
    images, labels = DATA_SETS[dataset].read(source)  # type: ignore[misc]
    array, packed_labels = np.load(out), np.load(labels_out)
    assert array.dtype == packed_labels.dtype == np.uint8
    assert array.shape == (300, *shape)
    assert np.array_equal(array, images)
    assert np.array_equal(packed_labels, labels)
    assert (stats["count"], stats["size"], stats["channels"]) == (300, shape[0], shape[-1])
    assert len(stats["mean"]) == len(stats["std"]) == shape[-1]
    assert np.allclose(stats["mean"], (array / 255).mean((0, 1, 2)), rtol=1e-12)
    assert np.allclose(stats["std"], (array / 255).std((0, 1, 2)), rtol=1e-12)
    assert stats["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert stats["labels_sha256"] == hashlib.sha256(labels_out.read_bytes()).hexdigest()
    assert {path.name for path in out.parent.iterdir()} == {"a.npy", "l.npy"}


def test_each_part_of_a_source_is_packed_with_its_labels(tmp_path: Path) -> None:
    source = tmp_path / "s.npz"
    DATA_SETS["sprites"].write(source, 100, 0, 1)
    packed = {}
    for part in PARTS:
        out, labels_out = tmp_path / f"{part}.npy", tmp_path / f"{part}-labels.npy"
        stats = pack(DataConfig(dataset="sprites", source="s.npz"), source, out, 1, labels_out, part)
        packed[part] = np.load(out), np.load(labels_out)
        assert stats["count"] == len(packed[part][0]) == len(packed[part][1])
        assert stats["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
        assert np.allclose(stats["mean"], (packed[part][0] / 255).mean((0, 1, 2)), rtol=1e-12)
    held_out = np.isin(np.arange(100), [18, 72, 74, 87, 96])
    for kind in (0, 1):
        assert np.array_equal(packed["heldout"][kind], packed["all"][kind][held_out])
        assert np.array_equal(packed["training"][kind], packed["all"][kind][~held_out])


@pytest.mark.parametrize("workers", [1, 2])
def test_each_part_of_celeba_is_packed_in_order(archive: Path, tmp_path: Path, workers: int) -> None:
    """By processes that know only the names which they are given."""
    everything = np.stack([cut(image, BOX, 16) for image in map(CelebaImages(archive).image, CelebaImages(archive).names)])
    held_out = np.array([in_tenth(name) for name in CelebaImages(archive).names])
    for part, rows in (("heldout", held_out), ("training", ~held_out)):
        stats = pack(celeba(16), archive, tmp_path / "a.npy", workers, part=part)
        assert np.array_equal(np.load(tmp_path / "a.npy"), everything[rows])
        assert stats["count"] == rows.sum()


def test_celeba_has_no_labels(archive: Path, tmp_path: Path) -> None:
    stats = pack(celeba(16), archive, tmp_path / "a.npy", 1, tmp_path / "l.npy")
    assert stats["labels_sha256"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrupt_image_is_named_and_nothing_is_left(archive: Path, tmp_path: Path, workers: int) -> None:
    with zipfile.ZipFile(archive) as sound, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        for name in sound.namelist():
            content = sound.read(name)
            bad.writestr(name, content[: len(content) // 2] if name.endswith("000400.jpg") else content)
    with pytest.raises(Fault, match=r"bad\.zip: 000400\.jpg cannot be decoded"):
        pack(celeba(16), tmp_path / "bad.zip", tmp_path / "a.npy", workers)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.zip"}


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr("img_align_celeba/000001.jpg", stream.getvalue())
    with pytest.raises(Fault, match=r"000001\.jpg has 64x64 pixels"):
        pack(celeba(16), tmp_path / "bad.zip", tmp_path / "a.npy", 1)


def test_a_disk_that_is_too_small_is_refused_before_any_image_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as packed:
        for index in range(3):
            packed.writestr(f"img_align_celeba/{index}.jpg", b"no image: reading it would be an error")
    size = 10_000_000  # 0.9 PB: more than this disk has
    with pytest.raises(Fault, match=rf"3 images of {size} px take 900\.0 TB, [0-9.]+ [kMGT]?B are free; accepted: ") as caught:
        pack(celeba(size), tmp_path / "f.zip", tmp_path / "a.npy", 2)
    number, unit = re.findall(r"([0-9.]+) ([kMGT])B are free", str(caught.value))[0]
    free = float(number) * 1000 ** (1 + "kMGT".index(unit))
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert {path.name for path in tmp_path.iterdir()} == {"f.zip"}


def test_the_array_is_written_in_place(archive: Path, tmp_path: Path) -> None:
    """The final file is the one that the first worker wrote to, and beside it there is no other."""
    out, seen = tmp_path / "a.npy", tmp_path / "seen"
    thread = threading.Thread(target=pack, args=(celeba(64), archive, out, 2))
    thread.start()
    names: set[str] = set()
    while thread.is_alive():
        names |= {path.name for path in tmp_path.iterdir()}
        if not seen.exists() and (unfinished := list(tmp_path.glob(TEMPORARY))):
            seen.hardlink_to(unfinished[0])
    thread.join()
    assert names <= {f".{os.getpid()}.tmp-a.npy", "a.npy", "seen"}
    assert seen.samefile(out)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy", "seen"}


def peak_memory(folder: Path, count: int) -> tuple[int, int]:
    """Bytes that packing `count` plain images by two workers takes at most: in this process, in the larger worker."""
    stream = io.BytesIO()
    Image.new("RGB", (178, 218), "orange").save(stream, "JPEG")
    with zipfile.ZipFile(folder / f"{count}.zip", "w") as packed:
        for index in range(count):
            packed.writestr(f"img_align_celeba/{index:06d}.jpg", stream.getvalue())
    (folder / "run.py").write_text(PACKING + MEASURING)
    arguments = [str(SOURCE), str(Path(__file__).parent), str(folder / f"{count}.zip"), str(folder / f"{count}.npy")]
    output = subprocess.run([sys.executable, str(folder / "run.py"), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    parent, worker = (int(word) * (1 if sys.platform == "darwin" else 1024) for word in output.stdout.split())
    return parent, worker


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """What grows is the archive's directory, in each process: 0.6 kB an image. The pixels are 12 kB an image."""
    few, many = (np.array(peak_memory(tmp_path, count)) for count in (600, 6600))
    array = 6000 * 64 * 64 * 3
    assert (tmp_path / "6600.npy").stat().st_size > array
    parent, worker = many - few
    assert parent < 0.15 * array
    assert worker < 0.1 * array


def test_a_failed_run_leaves_the_earlier_array(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"earlier")
    (tmp_path / "bad.zip").write_bytes(archive.read_bytes()[:-5])
    with pytest.raises(Fault):
        pack(celeba(16), tmp_path / "bad.zip", tmp_path / "a.npy", 1)
    assert (tmp_path / "a.npy").read_bytes() == b"earlier"


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if row[1] == str(pid) and "spawn_main" in row[2]]


def lives(pid: int) -> bool:
    """False also for a zombie that nobody has collected."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and not state.startswith("Z")


def test_a_killed_run_leaves_no_array_and_no_process(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.effect_noise((178, 218), 50).convert("RGB").save(stream, "JPEG")
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as packed:
        for index in range(20_000):  # enough to be caught at work
            packed.writestr(f"img_align_celeba/{index}.jpg", stream.getvalue())
    (tmp_path / "run.py").write_text(PACKING)
    out = tmp_path / "a.npy"
    arguments = [str(SOURCE), str(Path(__file__).parent), str(tmp_path / "f.zip"), str(out)]
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(workers := children(process.pid)) < 2 or not list(tmp_path.glob(TEMPORARY)):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    while alive := [pid for pid in workers if lives(pid)]:
        assert time.monotonic() < deadline, f"{alive} outlive their parent"
        time.sleep(0.05)


def _killed(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def _make_killed() -> object:
    return _killed


def test_a_killed_worker_is_an_error_not_a_wait() -> None:
    with pytest.raises(Fault, match="fewer"):
        list(in_processes(_make_killed, (), [1, 2, 3], 2))  # type: ignore[arg-type]


def test_packing_loads_no_torch() -> None:
    """A worker would load it too: two seconds and 200 MB each."""
    code = "import sys, stages.download, stages.preprocess, stages.raw; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SOURCE.parent).returncode == 0


def test_the_benchmarks_share_is_that_of_the_same_round() -> None:
    """The machine is ten times slower in the second of three rounds: the ratio of medians would be 0.8 / 1."""
    from benchmarks.preprocess import paired_share  # here: the processes that other tests start import this file

    assert paired_share([80.0, 8.0, 9.0], [100.0, 10.0, 10.0]) == 0.8


@pytest.mark.slow
def test_the_benchmark_measures_the_bound_and_the_stage(archive: Path, tmp_path: Path) -> None:
    arguments = [str(archive), "--images", "900", "--repeats", "1", "--json", str(tmp_path / "b.json")]
    root = SOURCE.parent
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.preprocess", *arguments], cwd=root, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["command"] == "python -m benchmarks.preprocess faces.zip --images 900 --repeats 1"
    assert result["images"] == 900
    assert result["array_bytes"] == 900 * 64 * 64 * 3
    one, every, packing = (rates[0] for rates in result["rates"].values())
    assert result["share"] == pytest.approx(packing / every)
    assert 0.3 * result["cores"] * one < every < 3 * result["cores"] * one
    assert 0.02 < result["share"] < 1.2
    with zipfile.ZipFile(archive) as sound, zipfile.ZipFile(tmp_path / "repeated.zip", "w") as packed:
        names = sound.namelist()
        for index in range(900):
            packed.writestr(f"img_align_celeba/{index:04d}.jpg", sound.read(names[index % 600]))
    stats = pack(celeba(64), tmp_path / "repeated.zip", tmp_path / "a.npy", 0)
    assert result["sha256"] == stats["sha256"]
    assert f"{result['share']:.0%} of the bound" in output


@pytest.mark.skipif(
    not REAL, reason="DDPM_REAL_DATA is unset: a folder with cifar-10-binary.tar.gz and celeba/img_align_celeba.zip"
)
def test_real_celeba_is_packed(tmp_path: Path) -> None:
    source = Path(str(REAL)) / "celeba" / "img_align_celeba.zip"
    stats = pack(celeba(64), source, tmp_path / "a.npy", 0)
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert len(array) == stats["count"] == len(CelebaImages(source))
    assert 0.5 < stats["mean"][0] < 0.6
    assert stats["mean"][0] > stats["mean"][1] > stats["mean"][2], "faces are warm"
