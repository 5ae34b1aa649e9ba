"""Stages as tasks on chunks: what runs, in which order, and what an engine must do.

Stages that follow one another chunk by chunk run together: a chunk goes on to the next stage as soon as those chunks of
the stage before that it reads are finished, so reading, computing and writing overlap. What is finished is marked in
the workspace by whoever finished it; a chunk that is marked is not run again, whether the mark comes from an earlier
start or from a worker that was lost.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from dask.delayed import delayed

from hirez_mosaic.engine.store import Marks
from hirez_mosaic.pixels.geometry import Box, CellGrid

Task = Callable[[Box], None]

Heard = Callable[[str, Box, float], None]
"""Called, from whichever thread, with the name of a stage, a chunk it finished, and the seconds that took."""


_RANKS = 10**6
"""Keys count down from it, chunk by chunk: of equal tasks Dask begins with the last key; the top is wanted first."""


@dataclass(frozen=True)
class StageRun:
    """One stage of a job: a function of one chunk.

    make: called with a device once in each process, picklable for a cluster; gives the task, which fills the write box
        of a chunk.
    marks: which chunks are finished, and how the grid is cut into them.
    halo: cells beyond a chunk whose chunks it reads of the stage before, where the two run together.
    cell_bytes: bytes that it writes for each cell.
    turn: of a chunk, where it also reads its own chunks within the halo whose turn comes before; chunks of one turn do
        not touch.
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

    threads: chunks at a time in one process, at most. memory: bytes that a process may take, None where nothing is
        said.
    cores: of this process, for what runs here.
    """

    threads: int
    cores: int
    memory: int | None

    def dismiss(self, place: str) -> None:
        """Let nothing run for a workspace any more, be it for a start that was killed; returns when running chunks are
        finished.
        """

    def run(
        self, stages: Sequence[StageRun], workers: int, place: str, heard: Heard, say: Callable[[str], None]
    ) -> None:
        """Run every chunk of these stages that is not finished, `workers` at a time in a process, for the workspace at
        `place`.

        say: hears what a person should know meanwhile. No task runs any more when this returns or raises the first
            error.
        """

    def close(self) -> None:
        """Give back what it runs on."""


def graph(stages: Sequence[StageRun], work: Callable[..., Any]) -> list[Any]:
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
