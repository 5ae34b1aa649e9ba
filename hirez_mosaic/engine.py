"""Where chunks run: Dask's threaded scheduler, with torch's own threads kept out of each other's way."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import torch
from dask.base import compute
from dask.delayed import delayed

from hirez_mosaic.errors import BudgetError
from hirez_mosaic.geometry import Box


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def shared_cores(workers: int) -> Iterator[None]:
    """Within, each of `workers` chunks at a time computes with its share of the cores.

    Raises BudgetError when memory runs out in spite of the plan.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // workers))
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise BudgetError("Memory ran out in spite of the plan; use a smaller --chunk, or --device cpu.") from error
    finally:
        torch.set_num_threads(before)


def run_stage(task: Callable[[Box], None], boxes: Iterable[Box], workers: int, progress: Callable[[int], None]) -> None:
    """Run `task` on every box, `workers` at a time; the first error stops the stage and is raised.

    No task runs any more when this returns or raises. progress: called, from the worker's thread, with the number of cells of each box
    that is done.
    """
    stopped = False

    def work(box: Box) -> None:
        if not stopped:
            task(box)
            progress(box.area)

    with ThreadPoolExecutor(workers) as pool:
        try:
            compute(*(delayed(work, pure=False)(box) for box in boxes), scheduler="threads", pool=pool)
        finally:
            stopped = True  # Dask raises without waiting for what is running; leaving the pool waits


def peak_memory() -> int:
    """Peak resident bytes of this process so far."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
