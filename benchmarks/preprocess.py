"""Images per second of packing CelebA, and the bound: decoding, cropping and resizing alone, of files that lie in memory.

  bound, one core      one process while the other cores rest
  bound, all cores     as many processes as cores, all at the same time: the sum of their rates
  pack                 ddpm.data.preprocess.pack with as many processes, from its call to its return: their start, reading
                       the archive, the statistics, writing the array and its checksum are included

They take turns, each in fresh processes. Where its memory happens to lie decides how fast a process decodes: libjpeg-turbo
writes rows past the caches into a buffer whose address is a multiple of 32, and Pillow reads them at once, which costs half
as much again. So what counts is the median of several rounds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import itertools
import multiprocessing
import resource
import shlex
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
from PIL import Image

from ddpm.base.files import write_json
from ddpm.base.parallel import cpu_count
from ddpm.base.progress import progress_bar
from ddpm.data.archives import CELEBA_FOLDER, CelebaImages
from ddpm.data.preprocess import cut, pack
from ddpm.data.settings import DataConfig
from stages import WORK

ALL = 202_599  # images of CelebA
IN_MEMORY = 2_000  # images of the bound
WINDOW = 3.0  # seconds that the bound is measured for in a round
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss


def benchmark(archive: Path, config: DataConfig, rounds: int) -> dict[str, Any]:
    """Measure; all rates are images/s, by round and their medians."""
    images, cores = CelebaImages(archive), cpu_count()
    contents = [images.read(name) for name in images.names[:IN_MEMORY]]
    alone, together, packs = [], [], []
    with progress_bar(total=3 * rounds, unit="turn") as bar:
        for _ in range(rounds):
            alone += in_fresh_processes(1, bound, contents, config)
            bar.update()
            together.append(in_fresh_processes(cores, bound, contents, config))
            bar.update()
            packs += in_fresh_processes(1, packed, archive, config, cores)
            bar.update()
    if len({run["sha256"] for run in packs}) > 1:
        raise RuntimeError(f"{archive}: packed to different arrays")
    rates = {
        "bound, one core": [run["rate"] for run in alone],
        "bound, all cores": [sum(run["rate"] for run in runs) for runs in together],
        "pack": [len(images) / run["seconds"] for run in packs],
    }
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "images": len(images),
        "cores": cores,
        "rates": rates,
        "medians": medians,
        "share": paired_share(rates["pack"], rates["bound, all cores"]),
        "share_of_one_core_times_cores": paired_share(rates["pack"], [cores * rate for rate in rates["bound, one core"]]),
        # Processor time, of all processes: what it says holds on a busy machine too.
        "bound_cpu_us": 1e6 * statistics.median(run["cpu"] for runs in together for run in runs),
        "pack_cpu_us": 1e6 * statistics.median(run["cpu"] / len(images) for run in packs),
        "peak_bytes": {name: max(run[f"{name}_bytes"] for run in packs) for name in ("parent", "worker")},
        "array_bytes": packs[0]["array_bytes"],
        "sha256": packs[0]["sha256"],
        "projected_seconds": ALL / medians["pack"],
    }


def paired_share(rates: list[float], bounds: list[float]) -> float:
    """Median over the rounds of rate / bound."""
    return statistics.median(rate / bound for rate, bound in zip(rates, bounds, strict=True))


def in_fresh_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of `work(*arguments)` in each of `count` new processes, in which `barrier` waits for all of them."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _share, (context.Barrier(count, timeout=60),)) as pool:
        return [future.result() for future in [pool.submit(work, *arguments) for _ in range(count)]]


barrier: Barrier


def _share(shared: Barrier) -> None:
    global barrier
    barrier = shared


def bound(contents: list[bytes], config: DataConfig) -> dict[str, float]:
    """Images per second of one process, and its processor time an image in seconds."""
    assert config.crop is not None
    crop = config.crop

    def work(content: bytes) -> None:
        cut(Image.open(io.BytesIO(content), formats=["JPEG"]), crop, config.size)

    for content in contents[:100]:
        work(content)
    barrier.wait()
    start, start_cpu = time.perf_counter(), time.process_time()
    done, files = 0, itertools.cycle(contents)
    while (seconds := time.perf_counter() - start) < WINDOW:
        work(next(files))
        done += 1
    return {"rate": done / seconds, "cpu": (time.process_time() - start_cpu) / done}


def packed(archive: Path, config: DataConfig, workers: int) -> dict[str, Any]:
    """Pack once; seconds, processor time of all processes in seconds, and the peak memory of this one and of a worker."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        start = time.perf_counter()
        stats = pack(config, archive, Path(folder) / "images.npy", workers)
        seconds = time.perf_counter() - start
        array_bytes = np.load(Path(folder) / "images.npy", mmap_mode="r").nbytes
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": seconds,
        "cpu": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "parent_bytes": own.ru_maxrss * RSS_UNIT,
        "worker_bytes": children.ru_maxrss * RSS_UNIT,  # of the largest, and no less than the parent had at its start
        "array_bytes": array_bytes,
        "sha256": stats["sha256"],
    }


def repeat(archive: Path, count: int, path: Path) -> None:
    """Write an archive of `count` images: those of `archive` again and again."""
    images = CelebaImages(archive)
    with zipfile.ZipFile(path, "w") as out:
        for index in range(count):
            out.writestr(f"{CELEBA_FOLDER}/{index + 1:06d}.jpg", images.read(images.names[index % len(images)]))


def text(result: dict[str, Any]) -> str:
    """The result in Markdown that can be read as it stands."""
    cores, peak = result["cores"], result["peak_bytes"]
    rows = [["", "images/s", "slowest", "fastest round"], ["---"] * 4]
    for name, values in result["rates"].items():
        rows.append([name, *(f"{value:,.0f}" for value in (result["medians"][name], min(values), max(values)))])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["| " + " | ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) + " |" for row in rows]
    lines += [
        "",
        f"Packing {result['images']:,} images with {cores} processes reaches {result['share']:.0%} of the bound of all cores "
        f"({result['share_of_one_core_times_cores']:.0%} of {cores} times that of one). Processor time an image: "
        f"{result['pack_cpu_us']:.0f} us, of which the bound takes {result['bound_cpu_us']:.0f} us.",
        f"Peak memory: {peak['parent'] / 1e6:.0f} MB, and up to {peak['worker'] / 1e6:.0f} MB a worker, for an array of "
        f"{result['array_bytes'] / 1e6:,.0f} MB.",
    ]
    if result["images"] < ALL:
        lines.append(f"All {ALL:,} images at this rate: {result['projected_seconds']:.0f} s (projected).")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="img_align_celeba.zip")
    parser.add_argument("--images", type=int, help="repeat the archive's images to so many (default: as it is)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--json", type=Path, help="where to write the results (default: work/benchmarks/preprocess.json)")
    args = parser.parse_args()
    path = args.json or WORK / "benchmarks" / "preprocess.json"
    config = DataConfig(dataset="celeba", source=str(args.archive))
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        archive = args.archive
        if args.images:
            archive = Path(folder) / args.archive.name
            repeat(args.archive, args.images, archive)
        result = benchmark(archive, config, args.repeats)
    from benchmarks.common import machine  # here, or every process would load torch
    from ddpm.machine.device import pick_device

    options = [] if args.images is None else ["--images", str(args.images)]
    command = shlex.join(["python", "-m", "benchmarks.preprocess", args.archive.name, *options, "--repeats", str(args.repeats)])
    facts = machine(pick_device("cpu")) | {"pillow": importlib.metadata.version("pillow")}
    write_json(path, {"benchmark": "preprocess", "command": command, "machine": facts, **result})
    print(f"{text(result)}\n\nwrote {path}")


if __name__ == "__main__":
    main()
