"""Where chunks run: Dask's threaded scheduler, with torch's own threads kept out of each other's way."""

import os
from collections.abc import Callable, Iterable

import torch
from dask.base import compute
from dask.delayed import delayed

from hirez_mosaic.geometry import Box


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(workers: int) -> None:
    """Let each of `workers` chunks at a time compute with its share of the cores."""
    torch.set_num_threads(max(1, cores() // workers))


def run_stage(task: Callable[[Box], None], boxes: Iterable[Box], workers: int, progress: Callable[[int], None]) -> None:
    """Run `task` on every box, `workers` at a time; the first error stops the stage and is raised.

    progress: called, from the worker's thread, with the number of cells of each box that is done.
    """

    def work(box: Box) -> None:
        task(box)
        progress(box.area)

    compute(*(delayed(work, pure=False)(box) for box in boxes), scheduler="threads", num_workers=workers)
