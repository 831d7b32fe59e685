"""How many workers and threads this machine has room for.

The rules, for ``--workers auto``: as many workers as there are cores that this process may use; but no more than fit
into the memory that is free, at ``WORKER_BYTES`` each; and with CUDA devices no more than ``WORKERS_PER_GPU`` for each
of them, so that some read and outline while another computes. Each worker of the pool sees one device. There are never
more workers than slides; where ``auto`` comes to one worker, the command does the work itself.

Every worker computes with one thread. A command without workers takes as many threads as there are idle cores when it
begins: on a machine whose cores are busy, threads that wait for each other took 60 s for a step that takes 7 s on one.
OMP_NUM_THREADS, where it is set, is left as it is.
"""

import ctypes
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from threadpoolctl import threadpool_limits

#: The peak memory of a worker: measured 1.4 GB in ``wsplf segment`` of a slide of 65,536 x 65,536 pixels.
WORKER_BYTES = 2 * 10**9
WORKERS_PER_GPU = 4
#: Seconds over which the idle cores are counted.
LOOK_SECONDS = 0.2
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Whether the user says how many threads to take.
_CHOSEN = "OMP_NUM_THREADS" in os.environ
#: What Dask's nannies set, and the names of the settings in malloc.h.
_NANNY_TRIM_BYTES = "65536"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_STAT, _MEMORY, _QUOTA = Path("/proc/stat"), Path("/proc/meminfo"), Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """The cores that this process may use: its affinity, and the quota of its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        count = min(count, max(1, -(-int(quota) // int(period))))
    return count


def idle_cores() -> int:
    """How many of the cores had nothing to do in the last ``LOOK_SECONDS``, at least 1; all where nobody tells."""
    before = _idle_seconds()
    time.sleep(LOOK_SECONDS if before is not None else 0)
    after = _idle_seconds()
    if before is None or after is None:
        return cores()
    return min(cores(), max(1, round((after - before) / LOOK_SECONDS)))


def free_bytes() -> int | None:
    """The memory that is available, in bytes; None where the system does not tell."""
    with suppress(OSError, ValueError):
        for line in _MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def automatic_workers() -> int:
    """The number of workers that ``--workers auto`` means."""
    count, free = cores(), free_bytes()
    if free is not None:
        count = min(count, free // WORKER_BYTES)
    if devices := gpus():
        count = min(count, devices * WORKERS_PER_GPU)
    return max(1, count)


def gpus() -> int:
    """The number of CUDA devices."""
    from wsplf_cli.networks.device import cuda_devices

    return cuda_devices()


def use_one_gpu(number: int) -> None:
    """Let this worker see one of the CUDA devices. Call it before torch is imported."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*")]
    if devices and devices != [""]:
        os.environ["CUDA_VISIBLE_DEVICES"] = sorted(devices)[number % len(devices)]


def limit_threads(threads: int) -> None:
    """Let the libraries of this process compute with so many threads, those too that are loaded later."""
    for name in _THREADS:
        os.environ[name] = str(threads)
    threadpool_limits(threads)
    if "torch" in sys.modules:
        from wsplf_cli.networks.device import set_threads

        set_threads(threads)


def keep_freed_memory() -> None:
    """Let this worker use freed memory again, where Dask's nanny started it.

    Nannies set ``MALLOC_TRIM_THRESHOLD_``, with which the GNU C library gives each larger array back to the system at
    once. The next one is then zeroed page by page, which took a third of the time of CAMs. These are the
    bounds that the library comes to by itself.
    """
    if sys.platform == "linux" and os.environ.get("MALLOC_TRIM_THRESHOLD_") == _NANNY_TRIM_BYTES:
        with suppress(AttributeError, OSError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
            mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)


def take_idle_cores() -> None:
    """Take as many threads as there are idle cores, unless OMP_NUM_THREADS says how many."""
    if not _CHOSEN and cores() > 1:
        limit_threads(idle_cores())


def _idle_seconds() -> float | None:
    """Seconds that the cores of this process have been idle since the machine started."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is None:
        return None
    names = {f"cpu{core}" for core in affinity(0)}
    try:
        lines = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines()]
    except OSError:
        return None
    ticks = sum(int(line[4]) + int(line[5]) for line in lines if line and line[0] in names)
    return ticks / os.sysconf("SC_CLK_TCK")
