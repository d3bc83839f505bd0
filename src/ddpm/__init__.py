"""Diffusion models from scratch: rooms that import one way, each of one concern (README, "The tree")."""

import os
import time

__version__ = "0.2.0"


def _others_running() -> int | None:
    """Threads of other programs that run or wait for a core: the median of five looks in 40 ms; None where no Linux tells."""
    seen = []
    for _ in range(5):
        time.sleep(0.008)
        try:
            with open("/proc/loadavg") as file:
                seen.append(int(file.read().split()[3].partition("/")[0]) - 1)  # without this thread, which is running
        except (OSError, ValueError, IndexError):
            return None
    return sorted(seen)[2]


def _let_threads_wait() -> None:
    """Settle how OpenMP's threads wait for each other, which it reads when torch loads: asleep where they have to share cores.

    Spinning, which is OpenMP's habit, is up to twice as fast while each thread has a core to itself. As soon as another program
    wants one of the cores, threads that spin take it from the thread that they wait for: a hundredth to a tenth of the speed is
    left (benchmarks/README.md, "A busy machine"). What the environment says comes first.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return
    from ddpm.base.parallel import cpu_count  # here: where the environment says it, none of this is loaded

    cores = cpu_count()
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    threads = int(wanted) if wanted.isdecimal() else cores
    others = _others_running() if threads > 1 else 0
    if others is None or others + threads > cores:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


_let_threads_wait()
