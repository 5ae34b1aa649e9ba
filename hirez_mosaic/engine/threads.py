"""Where chunks run: one graph of tasks, on Dask's threads in this process or on the workers of a Dask cluster.

Stages that follow one another chunk by chunk run together: a chunk goes on to the next stage as soon as those chunks of
the stage before that it reads are finished, so reading, computing and writing overlap. What is finished is marked in
the workspace by whoever finished it; a chunk that is marked is not run again, whether the mark comes from an earlier
start or from a worker that was lost.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread, current_thread

import torch
from dask.base import compute

from hirez_mosaic.engine.graph import Heard, StageRun, graph
from hirez_mosaic.engine.machine import cores, memory_errors
from hirez_mosaic.pixels.geometry import Box


class Threads:
    """Threads of this process, on `cores` of its cores. A GPU gets two chunks, one of which is on its way in or out."""

    memory: int | None = None

    def __init__(self, device: torch.device, cores: int) -> None:
        self.threads, self.cores, self._device = 2 if device.type == "cuda" else cores, cores, device

    def run(
        self, stages: Sequence[StageRun], workers: int, place: str, heard: Heard, say: Callable[[str], None]
    ) -> None:
        stopped = False
        with shared_cores(workers, self.cores), threads(workers) as pool:
            tasks = {stage.name: stage.on(self._device) for stage in stages}

            def work(name: str, box: Box, *_: object) -> None:
                if not stopped:
                    heard(name, box, tasks[name](box))

            try:
                compute(*graph(stages, work), scheduler="threads", pool=pool)
            finally:
                stopped = True  # Dask raises without waiting for what is running; leaving the pool waits

    def dismiss(self, place: str) -> None:
        """Nothing to do: threads end with their process."""

    def close(self) -> None:
        """Nothing to give back."""


_GLANCE = 0.01  # seconds between two looks whether threads have ended


@contextmanager
def shared_cores(workers: int, among: int | None = None) -> Iterator[None]:
    """Within, each of `workers` chunks at a time computes with its share of the cores: of `among`, or of all there are.

    Raises BudgetError when memory runs out in spite of the plan.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (among or cores()) // workers))
    try:
        with memory_errors():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Within, a pool of threads, which compute with as many cores as the caller; none runs afterwards, however often it
    is interrupted.
    """
    cores, begun = torch.get_num_threads(), list[Thread]()

    def begin() -> None:
        torch.set_num_threads(cores)  # counts in the thread that calls it
        begun.append(current_thread())

    pool = ThreadPoolExecutor(count, initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)
        interrupt: KeyboardInterrupt | None = None
        while True:  # joining is no way: a join that is interrupted takes its thread for ended
            try:
                if not any(thread.is_alive() for thread in begun):
                    break
                time.sleep(_GLANCE)
            except KeyboardInterrupt as another:
                interrupt = another
        pool.shutdown()
        if interrupt is not None:
            raise interrupt
