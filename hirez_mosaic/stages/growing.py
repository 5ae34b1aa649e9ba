"""An array that is read from top to bottom while its chunks are still being made."""

import time
from collections.abc import Iterable
from threading import Condition
from typing import Any

from hirez_mosaic.pixels.geometry import Box


class StoppedError(Exception):
    """The array will not be finished."""


class Growing:
    """The rows of an array (rows, columns, ...) for one reader, who waits until the chunks that hold them are there.

    missing: the chunks that are not there yet.
    waited: seconds that the reader has waited.
    """

    def __init__(self, array: Any, missing: Iterable[Box]) -> None:
        self._array, self._missing = array, set(missing)
        self._changed, self._stopped = Condition(), False
        self.shape, self.chunks = array.shape, array.chunks
        self.waited = 0.0

    def add(self, box: Box) -> None:
        """Note that a chunk is there."""
        with self._changed:
            self._missing.discard(box)
            self._changed.notify_all()

    def finish(self) -> None:
        """Note that all chunks are there, also those that were not added."""
        with self._changed:
            self._missing.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        """Note that no more chunks will come: a reader who waits, or asks from now on, gets a StoppedError."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def check(self) -> None:
        """Raise StoppedError where `stop` was called."""
        if self._stopped:
            raise StoppedError

    def __getitem__(self, rows: slice) -> Any:
        """Entries [start, stop) of the first axis. Raises StoppedError."""
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._lacks(rows))
        self.waited += time.perf_counter() - start
        self.check()
        return self._array[rows]

    def _lacks(self, rows: slice) -> bool:
        return any(box.top < rows.stop and rows.start < box.bottom for box in self._missing)
