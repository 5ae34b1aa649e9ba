"""The work of a batch: every picture gets its turn, several at a time, and none stops the others by its failure.

While one picture is worked on, the next is ingested into its own workspace, as by an earlier start of its render.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from threading import Condition, Event, Lock

from hirez_mosaic.engine.threads import shared_cores, threads
from hirez_mosaic.errors import DiskSpaceError, HirezMosaicError, OtherJobError, sentence
from hirez_mosaic.jobs.batch_records import BatchRecords
from hirez_mosaic.jobs.batch_result import Outcome
from hirez_mosaic.jobs.job import Job
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.render import RenderResult, forget_killed, look_ahead, run_render
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.stage import Tools

_GRACE = 60  # seconds in which chunks that are under way should end
_log = logging.getLogger("hirez_mosaic")


class BatchListener(Listener):
    """Hears how a batch goes; this one does nothing. Any thread may call the methods for one picture."""

    def begun(self, pictures: int) -> None:
        """Work on so many pictures begins."""

    @contextmanager
    def picture(self, source: str) -> Iterator[Listener]:
        """A context in which one picture is worked on; yields the listener of that."""
        yield Listener()

    def ended(self, outcome: Outcome) -> None:
        """One picture is through."""


class _StoppedError(Exception):
    """A render was stopped. It is an Exception because libvips' callbacks let nothing else through."""


class _Stoppable(Listener):
    """Passes everything on to the listener of one picture, and ends its render by an error when it must stop.

    stops: says of the name of the running stage, or of "", whether to stop.
    planned: called with the job before its work begins.
    """

    def __init__(
        self, listener: Listener, stops: Callable[[str], bool], planned: Callable[[Job], None] = lambda job: None
    ) -> None:
        self._listener, self._stops, self._planned = listener, stops, planned

    def note(self, line: str) -> None:
        if not self._stops(""):  # the batch says how to go on
            self._listener.note(line)

    def planned(self, job: Job) -> None:
        self._listener.planned(job)
        self._planned(job)

    def status(self, line: str) -> None:
        self._listener.status(line)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        with self._listener.stage(name, total, unit) as progress:

            def checked(done: int) -> None:
                progress(done)
                if self._stops(name):
                    raise _StoppedError

            yield checked


class BatchRun:
    """The pictures of one batch, their turns, and what became of them.

    specs: by the names of pictures, in the order of their turns.
    """

    def __init__(
        self, specs: dict[str, RenderSpec], tools: Tools, records: BatchRecords, listener: BatchListener
    ) -> None:
        self._specs, self._tools, self._records, self._listener = specs, tools, records, listener
        self._names = list(specs)
        self._numbers, self._taking = iter(range(len(specs))), Lock()
        self._outcomes: dict[str, Outcome] = {}
        self._stop = Event()
        self._running: dict[str, Job] = {}
        self._ended, self._one_ended = 0, Condition()
        self._ahead: Future[None] | None = None
        self._ahead_ends = Event()

    def run(self, jobs: int) -> tuple[Outcome, ...]:
        """Give every picture its turn, `jobs` at a time. Raises KeyboardInterrupt when nothing runs any more."""
        self._listener.begun(len(self._names))
        workers: list[Future[None]] = []
        with shared_cores(jobs), threads(1) as ahead, threads(jobs) as pool:
            first = self._specs[self._names[0]]
            looks_ahead = jobs == 1 and first.scheduler is None and not first.restart
            try:
                # No worker begins before all are there: an interrupted pool forgets the thread that it was starting.
                with self._taking:
                    workers += [pool.submit(self._take_turns, ahead if looks_ahead else None) for _ in range(jobs)]
                while wait(workers, timeout=0.5).not_done:  # without a timeout some systems would not notice Ctrl-C
                    pass
            except BaseException:
                self._end(workers)
                raise
        for worker in workers:
            worker.result()
        return tuple(self._outcomes[name] for name in self._names)

    def _end(self, workers: Sequence[Future[None]]) -> None:
        """Let all pictures stop after an interruption, and say how to go on."""
        self._stop.set()
        through = f"{len(self._outcomes)} of {len(self._names)} pictures are through, and what else is finished is kept"
        self._listener.note(f"Interrupted: {through}; the same command goes on from there.")
        try:
            wait(workers, timeout=_GRACE)
        finally:
            if not all(worker.done() for worker in workers):
                self._tools.engine.close()  # a cluster without workers would never come back

    def _take_turns(self, ahead: ThreadPoolExecutor | None) -> None:
        """Work on one picture after another, until none is left. ahead: runs the ingestion of the next."""
        try:
            while not self._stop.is_set():
                with self._taking:
                    number = next(self._numbers, None)
                if number is None:
                    return
                self._ahead_ends.set()
                if self._ahead is not None:
                    wait([self._ahead])
                self._ahead_ends.clear()
                begin_ahead = None if ahead is None else partial(self._begin_ahead, ahead, number + 1)
                outcome = self._outcomes[self._names[number]] = self._outcome(self._names[number], begin_ahead)
                self._listener.ended(outcome)
        except _StoppedError:
            pass
        except BaseException:
            self._stop.set()
            raise

    def _outcome(self, name: str, begin_ahead: Callable[[Job], None] | None) -> Outcome:
        """Make the mosaic of a picture, unless it is there; whatever goes wrong is the picture's failure."""
        logged = {"picture": str(self._specs[name].source)}
        with self._listener.picture(name) as listener:
            try:
                planned = partial(self._planned, name, begin_ahead)
                outcome = self._records.unchanged(name)
                if outcome is None:
                    outcome = self._made(name, _Stoppable(listener, lambda stage: self._stop.is_set(), planned))
                else:
                    forget_killed(self._specs[name], self._tools)
                _log.info(outcome.status, extra={**logged, "bytes": outcome.bytes, "seconds": outcome.seconds})
                return outcome
            except _StoppedError:
                raise
            except Exception as error:
                if self._stop.is_set():
                    raise _StoppedError from error
                known = isinstance(error, HirezMosaicError | OSError | MemoryError)
                _log.error(sentence(error), exc_info=None if known else error, extra=logged)
                return self._records.failed(name, sentence(error))
            finally:
                with self._one_ended:
                    self._running.pop(name, None)
                    self._ended += 1
                    self._one_ended.notify_all()

    def _made(self, name: str, listener: Listener) -> Outcome:
        """Make the mosaic of a picture, and record that before and afterwards."""
        spec = self._records.writable(name)
        self._records.started(name)
        start = time.perf_counter()

        def finished(result: RenderResult) -> None:
            self._outcomes[name] = self._records.made(name, result, time.perf_counter() - start)

        self._render(name, spec, listener, finished)
        return self._outcomes[name]

    def _render(
        self, name: str, spec: RenderSpec, listener: Listener, finished: Callable[[RenderResult], None]
    ) -> None:
        """Render a picture.

        Where the disk is too small, render it again as soon as another picture, which was under way, is through: that
        may have made room.
        """
        while True:
            ended = self._ended
            try:
                try:
                    run_render(spec, listener, self._tools, finished)
                except OtherJobError:  # left by a start before picture or settings changed
                    run_render(replace(spec, restart=True), listener, self._tools, finished)
                return
            except DiskSpaceError:
                with self._one_ended:
                    self._running.pop(name, None)
                    if not self._running and self._ended == ended:
                        raise
                    while self._ended == ended:
                        if self._stop.is_set():
                            raise _StoppedError from None
                        self._one_ended.wait(0.5)

    def _planned(self, name: str, begin_ahead: Callable[[Job], None] | None, job: Job) -> None:
        """Note that a picture is under way, and begin with the next.

        Raises DiskSpaceError where the disk has no room for this picture beside what others have yet to write.
        """
        with self._one_ended:
            if self._running:  # else it has been checked
                job.disk_needed().check([other.disk_needed() for other in self._running.values()])
            self._running[name] = job
        if begin_ahead is not None:
            begin_ahead(job)

    def _begin_ahead(self, pool: ThreadPoolExecutor, number: int, beside: Job) -> None:
        self._ahead = pool.submit(self._look_ahead, number, beside)

    def _look_ahead(self, number: int, beside: Job) -> None:
        """Ingest the next picture that must be made, until its turn comes.

        number: of the first picture that may be next. beside: the job that runs meanwhile.
        Errors are left for the picture's turn, when they come again.
        """

        def stops(stage: str) -> bool:
            # Unpacking cannot go on in the middle, so it is not broken off.
            return self._stop.is_set() or (self._ahead_ends.is_set() and stage != "unpack")

        with suppress(Exception):
            for name in self._names[number:]:
                if stops(""):
                    return
                if self._records.unchanged(name) is None:
                    look_ahead(self._records.writable(name), _Stoppable(Listener(), stops), self._tools, beside)
                    return
