"""Listeners, which are told how a job goes: one that ignores it, and one that logs it."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hirez_mosaic.engine.graph import StageRun
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.settings.parsing import format_bytes

_log = logging.getLogger("hirez_mosaic")


class Listener:
    """Hears how a render goes; this one does nothing."""

    def note(self, line: str) -> None:
        """Something worth a line."""

    def unreadable(self, folder: Path, files: Sequence[tuple[str, str]]) -> None:
        """Files (name, reason) in a folder cannot be read and are left out; a person wants to know at the end."""

    def planned(self, job: "Job") -> None:
        """The plan is made and the work begins."""

    def status(self, line: str) -> None:
        """How the running stage is doing; takes the place of the last such line."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A stage of `total` units runs within; yields what to call with each number of units done."""
        yield lambda done: None


class Logged(Listener):
    """Writes what it hears to the log "hirez_mosaic", and passes it on.

    Records have the attributes `picture` (None where all share it) and, some of them, `stage`, `chunk` ([top, bottom,
    left, right), cells), `bytes` (written) and `seconds`.
    """

    def __init__(self, listener: Listener, picture: Path | None) -> None:
        self._listener, self._picture = listener, None if picture is None else str(picture)

    def note(self, line: str) -> None:
        _log.warning(line, extra={"picture": self._picture})
        self._listener.note(line)

    def unreadable(self, folder: Path, files: Sequence[tuple[str, str]]) -> None:
        for name, why in files:
            _log.warning(f"{folder / name} cannot be read: {why}", extra={"picture": self._picture})
        self._listener.unreadable(folder, files)

    def planned(self, job: "Job") -> None:
        plan = job.plan
        chunks = f"{plan.chunk_count} chunks of {plan.chunk[1]} x {plan.chunk[0]} cells, {plan.workers} at a time"
        _log.info(
            f"planned: {chunks}, {format_bytes(plan.projected)} of memory projected", extra={"picture": self._picture}
        )
        self._listener.planned(job)

    def status(self, line: str) -> None:
        self._listener.status(line)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        start = time.perf_counter()
        with self._listener.stage(name, total, unit) as progress:
            yield progress
        took = time.perf_counter() - start
        _log.info("stage finished", extra={"picture": self._picture, "stage": name, "seconds": round(took, 3)})

    def chunk(self, stage: StageRun, box: Box, seconds: float) -> None:
        """A chunk of a stage is finished."""
        extra = {"picture": self._picture, "stage": stage.name, "chunk": [box.top, box.bottom, box.left, box.right]}
        _log.info("chunk finished", extra={**extra, "bytes": box.area * stage.cell_bytes, "seconds": round(seconds, 3)})
