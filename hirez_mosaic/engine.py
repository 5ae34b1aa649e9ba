"""Where chunks run: one graph of tasks, on Dask's threads in this process or on the workers of a Dask cluster.

Stages that follow one another chunk by chunk run together: a chunk goes on to the next stage as soon as those chunks of the stage before
that it reads are finished, so reading, computing and writing overlap. What is finished is marked in the workspace by whoever finished
it; a chunk that is marked is not run again, whether the mark comes from an earlier start or from a worker that was lost.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread, current_thread
from typing import Any, Protocol

import psutil
import torch
from dask.base import compute
from dask.delayed import delayed
from dask.system import CPU_COUNT

from hirez_mosaic.errors import BudgetError
from hirez_mosaic.geometry import Box, CellGrid
from hirez_mosaic.store import Marks

Task = Callable[[Box], None]
Heard = Callable[[str, Box, float], None]
"""Called, from whichever thread, with the name of a stage, a chunk it finished, and the seconds that took."""
_RANKS = 10**6  # keys count down from it, chunk by chunk: of equals Dask begins with the last key, and the top is wanted first


@dataclass(frozen=True)
class Stage:
    """One stage of a job: a function of one chunk.

    make: called with a device once in each process, picklable for a cluster; gives the task, which fills the write box of a chunk.
    marks: which chunks are finished, and how the grid is cut into them.
    halo: cells beyond a chunk whose chunks it reads of the stage before, where the two run together.
    cell_bytes: bytes that it writes for each cell.
    turn: of a chunk, where it also reads its own chunks within the halo whose turn comes before; chunks of one turn do not touch.
    """

    name: str
    make: Callable[[torch.device], Task]
    grid: CellGrid
    marks: Marks
    halo: int = 0
    cell_bytes: int = 0
    turn: Callable[[Box], int] | None = None

    def on(self, device: torch.device) -> Callable[[Box], float]:
        """What makes a chunk and marks it, unless it is marked already; it tells the seconds that took."""
        task = self.make(device)

        def run(box: Box) -> float:
            start = time.perf_counter()
            if not self.marks.has(box):
                task(box)
                self.marks.set(box)
            return time.perf_counter() - start

        return run

    def finished(self) -> list[Box]:
        """The chunks that are marked."""
        done = self.marks.all()
        rows, columns = self.marks.chunk
        return [box for box in self.grid.chunks(self.marks.chunk) if done[box.top // rows, box.left // columns]]


class Engine(Protocol):
    """What runs stages.

    threads: chunks at a time in one process, at most. memory: bytes that a process may take, None where nothing is said.
    cores: of this process, for what runs here.
    """

    threads: int
    cores: int
    memory: int | None

    def dismiss(self, place: str) -> None:
        """Let nothing run for a workspace any more, be it for a start that was killed; returns when running chunks are finished."""

    def run(self, stages: Sequence[Stage], workers: int, place: str, heard: Heard, say: Callable[[str], None]) -> None:
        """Run every chunk of these stages that is not finished, `workers` at a time in a process, for the workspace at `place`.

        say: hears what a person should know meanwhile. No task runs any more when this returns or raises the first error.
        """

    def close(self) -> None:
        """Give back what it runs on."""


class Threads:
    """Threads of this process, on `cores` of its cores. A GPU gets two chunks, one of which is on its way in or out."""

    memory: int | None = None

    def __init__(self, device: torch.device, cores: int) -> None:
        self.threads, self.cores, self._device = 2 if device.type == "cuda" else cores, cores, device

    def run(self, stages: Sequence[Stage], workers: int, place: str, heard: Heard, say: Callable[[str], None]) -> None:
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


def graph(stages: Sequence[Stage], work: Callable[..., Any]) -> list[Any]:
    """A delayed `work(name, box, ...)` for every chunk that is not finished, after those chunks that it reads."""
    calls: list[Any] = []
    before: dict[tuple[int, int], Any] = {}
    was, job = (1, 1), os.urandom(8).hex()
    for stage in stages:
        finished, chunk = set(stage.finished()), stage.marks.chunk
        now: dict[tuple[int, int], Any] = {}
        for box in sorted(stage.grid.chunks(chunk), key=stage.turn) if stage.turn else stage.grid.chunks(chunk):
            if box not in finished:
                read = box.grown(stage.halo, stage.grid.box)
                needed = [before[there] for there in _places(read, was) if there in before]
                if stage.turn:
                    needed += [now[there] for there in _places(read, chunk) if there in now]
                place = box.top // chunk[0], box.left // chunk[1]
                rank = f"{_RANKS - place[0]:07d}-{_RANKS - place[1]:07d}"
                now[place] = delayed(work)(stage.name, box, *needed, dask_key_name=f"{stage.name}-{job}-{rank}")
        calls += now.values()
        before, was = now, chunk
    return calls


def _places(box: Box, chunk: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Of the chunks that overlap a box: (chunk row, chunk column)."""
    across = range(box.left // chunk[1], -(-box.right // chunk[1]))
    return ((row, column) for row in range(box.top // chunk[0], -(-box.bottom // chunk[0])) for column in across)


OF_LIMIT = 0.75
"""Of a Dask worker's memory limit may be taken: Dask stops it at 0.8, and kills it at 0.95."""
_GLANCE = 0.01  # seconds between two looks whether threads have ended
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def steady_memory() -> None:
    """Let this process return a tensor's memory once it is free, on Linux with glibc; elsewhere and after the first time nothing changes.

    glibc maps large blocks one by one and unmaps them when they are freed, but each freed one raises the size from which it does, up to
    32 MiB. From then on tensors below that come from heaps, one for each thread, which fragment as chunk follows chunk: with 64 chunks of
    64 x 64 cells, 2 at a time, encoding took 371 to 430 MiB above the process as it was, and 202 to 211 MiB with the size held at 1 MiB.
    Mapping costs page faults, 7 to 9 % of the processor time at that size. torch asks for huge pages where it is told to before it
    allocates its first tensor, and then takes 0.97 of the time without either; on a busy machine chunks of 32 and 112 cells took 1.05 to
    1.12 of it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none, and maps all large blocks anyway
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)


steady_memory()


def cores() -> int:
    """Processor cores this process may use, by its affinity and its container's quota."""
    return CPU_COUNT


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
    """Within, a pool of threads, which compute with as many cores as the caller; none runs afterwards, however often it is interrupted."""
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


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise BudgetError where memory runs out within, in spite of the plan."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        place, other = ("The GPU's memory", ", or --device cpu") if isinstance(error, torch.cuda.OutOfMemoryError) else ("Memory", "")
        raise BudgetError(
            f"{place} ran out in spite of the plan; to render, use --restart with a smaller --chunk, to train, a smaller --batch{other}."
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
