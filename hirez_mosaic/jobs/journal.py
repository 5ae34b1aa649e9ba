"""The journal of a batch: what became of every picture, a line of JSON each, kept beside the mosaics.

OUT/.hirez-mosaic/
├── journal.jsonl     appended to, and on the disk before the batch goes on; a last line that was broken off does not count
└── lock              held while a batch is at work
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from hirez_mosaic.errors import OutputError

FOLDER = ".hirez-mosaic"
STARTED, MADE, FAILED, UNCHANGED = "started", "made", "failed", "unchanged"

Record = dict[str, Any]
"""Values that JSON can hold: always "source", "status", "output" and "time".

"files" are paths that are the batch's from then on, relative to its output folder, "gone" such that are no more.
"""


class Journal:
    """The records of a file, by which a batch goes on."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, Lock()
        self._last: dict[str, Record] = {}
        self._ours: set[str] = set()
        data = file.read_bytes() if file.exists() else b""
        for line in data.splitlines():
            try:
                record = json.loads(line)
                self._note(record)
            except (ValueError, KeyError, TypeError):  # broken off
                continue
        self._torn = bool(data) and not data.endswith(b"\n")

    def _note(self, record: Record) -> None:
        self._ours.update(record.get("files", ()))
        self._ours.difference_update(record.get("gone", ()))
        self._last[record["source"]] = record

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever recorded."""
        return not self._last

    def last(self, source: str) -> Record | None:
        """What was last recorded of a picture."""
        return self._last.get(source)

    def owns(self, file: str) -> bool:
        """Whether what lies there was made by this batch, or by one that was killed before it could say so."""
        return file in self._ours

    def append(self, record: Record) -> None:
        """Add a record, with the time; it is on the disk afterwards. Called from any thread. Raises OSError."""
        record = {**record, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        with self._lock, self._file.open("ab") as file:
            line, self._torn = b"\n" * self._torn + json.dumps(record).encode() + b"\n", True
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self._torn = False
            self._note(record)


@contextmanager
def open_journal(output: Path) -> Iterator[Journal]:
    """The journal of an output folder, which is made where there is none; within, this batch alone writes there. Raises
    OutputError.
    """
    folder = output / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputError(
            f"Another batch is at work in {output}; wait for it, or name another output folder."
        ) from error
    except OSError as error:
        raise OutputError(f"The output folder {output} cannot be written to: {error.strerror}.") from error
    try:
        yield Journal(folder / "journal.jsonl")
    finally:
        lock.release()


def digest(algorithm: str, *paths: Path) -> str:
    """Of a file's content; of a folder, or several paths, of the names and contents of all files. Raises OSError."""
    if len(paths) == 1 and not paths[0].is_dir():
        with paths[0].open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    told = [[name, digest(algorithm, file)] for name, file in _files(paths)]
    return hashlib.new(algorithm, json.dumps(told).encode()).hexdigest()


def state(*paths: Path) -> list[list[Any]]:
    """(name, bytes, time of change) of all files: while they stay, so does the content, unless somebody takes pains.
    Raises OSError.
    """
    return [
        [name, status.st_size, status.st_mtime_ns]
        for name, status in ((name, file.stat()) for name, file in _files(paths))
    ]


def _files(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        yield from ((file.relative_to(path.parent).as_posix(), file) for file in found)
