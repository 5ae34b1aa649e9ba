"""What the machine has: cores and free memory; and the process set up for a job, in `settle_process` alone."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil
import torch
from dask.system import CPU_COUNT

from hirez_mosaic.errors import BudgetError
from hirez_mosaic.pixels.vips import settle_readers

P = ParamSpec("P")
T = TypeVar("T")

OF_LIMIT = 0.75
"""Of a Dask worker's memory limit may be taken: Dask stops it at 0.8, and kills it at 0.95."""
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


@cache
def settle_process() -> None:
    """Set this process up for jobs, once; every job begins with it, and nothing else changes the process for good.

    It changes four switches of the whole process, and leaves them so, because jobs may run side by side in threads:

    - malloc returns large blocks at once, and torch asks for huge pages ($THP_MEM_ALLOC_ENABLE): `_steady_memory`.
      Projections of memory rely on it.
    - libvips keeps no cache of operations and takes no table of numbers for a picture; Pillow has no limit of px:
      `settle_readers`.
    - float32 means float32 in a GPU's convolutions, too: TF32 is off in cuDNN. `cudnn.flags` would end in one thread
      what another has begun.

    How long torch's threads spin is settled before torch is loaded, by the command line alone (`cli.main`).
    What is not for good stands elsewhere: `engine.threads` sets the number of torch's threads and sets it back, the
    command line adds log handlers and removes them, ColorVideoVDP is imported with its log and warnings off. OpenCV,
    where pictures are cropped to faces, is told in `templates.faces` to use one thread.
    """
    _steady_memory()
    settle_readers()
    torch.backends.cudnn.allow_tf32 = False


def settled(job: Callable[P, T]) -> Callable[P, T]:
    """Return the job with `settle_process` before it."""

    @wraps(job)
    def run(*arguments: P.args, **settings: P.kwargs) -> T:
        settle_process()
        return job(*arguments, **settings)

    return run


def _steady_memory() -> None:
    """Let this process return a tensor's memory once it is free, on Linux with glibc; elsewhere nothing changes.

    glibc maps large blocks one by one and unmaps them when they are freed, but each freed one raises the size from
    which it does, up to 32 MiB. From then on tensors below that come from heaps, one for each thread, which fragment as
    chunk follows chunk: with 64 chunks of 64 x 64 cells, 2 at a time, encoding took 371 to 430 MiB above the process as
    it was, and 202 to 211 MiB with the size held at 1 MiB. Mapping costs page faults, 7 to 9 % of the processor time at
    that size. torch asks for huge pages where it is told to before it allocates its first tensor, and then takes 0.97
    of the time without either; on a busy machine chunks of 32 and 112 cells took 1.05 to 1.12 of it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and hasattr(
        libc := ctypes.CDLL(None), "mallopt"
    ):  # musl has none, and maps all large blocks anyway
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def cores() -> int:
    """Processor cores this process may use, by its affinity and its container's quota."""
    return CPU_COUNT


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise BudgetError where memory runs out within, in spite of the plan."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        place, other = (
            ("The GPU's memory", ", or `device=cpu`")
            if isinstance(error, torch.cuda.OutOfMemoryError)
            else ("Memory", "")
        )
        raise BudgetError(
            f"{place} ran out in spite of the plan; to render, use `restart` with a smaller `chunk`, to train, a "
            f"smaller `batch`{other}."
        ) from error


def peak_memory() -> int:
    """Peak resident bytes of this process so far."""
    if sys.platform == "linux":  # getrusage would count what the process held that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        told = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")]
        if told:  # not by every kernel that calls itself Linux
            return told[0]
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that may still be taken: what the machine has left, or the container or batch job this process runs in
    where that is less.

    Those are limited by Linux control groups, of version 2 or 1, or by a group around theirs. Cached files that have
    not been used lately count as free, as they do for the machine. root: where the system's files are.
    """
    free = psutil.virtual_memory().available
    told = root / "proc/self/cgroup"  # lines "number:controllers:/group", of version 2 without controllers
    for line in told.read_text().splitlines() if told.exists() else ():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            top, limit, usage, cached = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage, cached = (
                root / "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        parts = Path(group).parts[1:]
        for folder in (
            top.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)
        ):  # a container sees its own group as the top
            try:
                most, used = (int((folder / name).read_text()) for name in (limit, usage))
                unused = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())[cached]
            except (OSError, ValueError, KeyError):  # no such group here, or its limit is "max"
                continue
            free = min(free, most - used + int(unused))
    return max(0, free)


@dataclass(frozen=True)
class Room:
    """The memory that a render is planned in.

    process: bytes of this process as it stands. budget: bytes allowed, those included. most: the same for a job that
        does not fit into it.
    shares: renders at a time, each of which is taken to need as much as the one that is planned.
    told: where the limit comes from, with a place for its bytes. of_workers: whether it is that of a cluster's workers.
    """

    process: int
    budget: int
    most: int
    shares: int = 1
    told: str = "The memory budget of {}"
    of_workers: bool = False
