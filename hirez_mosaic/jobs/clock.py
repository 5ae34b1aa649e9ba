"""Runs stages, one after another or beside assembling, and measures what each takes."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

from hirez_mosaic.engine.graph import StageRun
from hirez_mosaic.engine.machine import peak_memory
from hirez_mosaic.engine.threads import threads
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.listener import Logged
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.stages.growing import Growing

Write = Callable[[Any, Callable[[int], None]], None]
"""Assembles the mosaic of (an index map, progress). The map is read from top to bottom; progress gets cells done."""


class Clock:
    """Runs stages, and remembers what each took.

    seconds: wall time by stage. Stages that run together share the time by how long each was at work.
    peaks: peak resident memory of the process at the end of each stage, bytes.
    """

    def __init__(self, job: Job, listener: Logged) -> None:
        self._cells, self._place, self._listener, self._engine = (
            job.plan.grid.cells,
            job.place,
            listener,
            job.tools.engine,
        )
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}

    @contextmanager
    def timed(self, name: str, unit: str = "cells", total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A context measured as a stage; yields what to call with units done. total: of units; None for cells."""
        start = time.perf_counter()
        with self._listener.stage(name, self._cells if total is None else total, unit) as progress:
            yield progress
        self._share(start, {name: 1.0})

    def run(self, *stages: StageRun, workers: int) -> None:
        """Run stages that follow one another chunk by chunk."""
        start = time.perf_counter()
        self._share(start, self._run(stages, workers, lambda stage, box: None))

    def run_beside(self, *stages: StageRun, workers: int, index_map: Any, write: Write) -> None:
        """Run stages, the last of which makes the index map, and assemble the mosaic from its rows as they come.

        An error of the one ends the other, and is raised when nothing runs any more.
        """
        start, last = time.perf_counter(), stages[-1]
        finished = set(last.finished())
        rows = Growing(index_map, (box for box in last.grid.chunks(last.marks.chunk) if box not in finished))

        with self._listener.stage("assemble", self._cells, "cells") as progress, threads(1) as pool:

            def assembled() -> float:
                begun = time.perf_counter()
                write(rows, checked)
                return time.perf_counter() - begun - rows.waited

            def checked(cells: int) -> None:
                rows.check()
                progress(cells)

            def chunk_done(stage: StageRun, box: Box) -> None:
                if writing.done():
                    writing.result()  # raises what went wrong
                if stage is last:
                    rows.add(box)

            try:
                writing = pool.submit(assembled)
                busy = self._run(stages, workers, chunk_done)
                rows.finish()
                while not wait([writing], timeout=0.2).done:  # without a timeout some systems would not notice Ctrl-C
                    pass
                busy["assemble"] = writing.result()
            except BaseException:
                rows.stop()
                raise
        self._share(start, busy)

    def _run(
        self, stages: Sequence[StageRun], workers: int, chunk_done: Callable[[StageRun, Box], None]
    ) -> dict[str, float]:
        """Run stages; returns for each how many seconds it was at work, divided by the number of workers.

        chunk_done: called with each finished chunk.
        """
        lock = Lock()
        busy = dict.fromkeys((stage.name for stage in stages), 0.0)
        named = {stage.name: stage for stage in stages}
        with ExitStack() as bars:
            progress = {
                stage.name: bars.enter_context(self._listener.stage(stage.name, self._cells, "cells"))
                for stage in stages
            }
            for stage in stages:
                progress[stage.name](sum(box.area for box in stage.finished()))

            def finished(name: str, box: Box, seconds: float) -> None:
                self._listener.chunk(named[name], box, seconds)
                progress[name](box.area)
                with lock:
                    busy[name] += seconds / workers
                chunk_done(named[name], box)

            self._engine.run(stages, workers, self._place, finished, self._listener.note)
        return busy

    def _share(self, start: float, busy: dict[str, float]) -> None:
        wall, peak = time.perf_counter() - start, peak_memory()
        for name, seconds in busy.items():
            self.seconds[name] = wall * seconds / (sum(busy.values()) or 1.0)
            self.peaks[name] = peak
