"""Progress as plain lines of text, for notebooks, log files and plain terminals."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.settings.parsing import format_bytes

_NAMED = 5  # unreadable files that are named, at most


class TextListener(Listener):
    """Writes a line for the plan, for each note, at the end of each stage, and now and then while a stage runs.

    write: what to call with each line; `print` where None, which is what a notebook shows.
    every: seconds between two lines of a stage that is running.
    """

    def __init__(self, write: Callable[[str], None] | None = None, every: float = 10.0) -> None:
        self._write, self._every = write or (lambda line: print(line, flush=True)), every

    def note(self, line: str) -> None:
        self._write(line)

    def unreadable(self, folder: Path, files: Sequence[tuple[str, str]]) -> None:
        named = [f"{name} {why}" for name, why in files[:_NAMED]]
        more = [f"and {len(files) - _NAMED:,} more"] if len(files) > _NAMED else []
        if named:
            self._write(f"Left out of {folder}: {'; '.join([*named, *more])}.")

    def planned(self, job: Job) -> None:
        grid, memory = job.plan.grid, format_bytes(job.plan.projected)
        width, height = grid.mosaic_size
        self._write(
            f"{job.source.path} becomes {job.spec.output}: {grid.columns:,} x {grid.rows:,} cells, "
            f"{width:,} x {height:,} px, {memory} of memory."
        )

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        start = last_line = time.monotonic()
        done = 0

        def progress(more: int) -> None:
            nonlocal done, last_line
            done += more
            if (now := time.monotonic()) - last_line >= self._every:
                last_line = now
                self._write(f"{name}: {done / max(1, total):.0%} after {now - start:,.0f} s")

        yield progress
        self._write(f"{name}: {total:,} {unit} in {time.monotonic() - start:,.1f} s")
