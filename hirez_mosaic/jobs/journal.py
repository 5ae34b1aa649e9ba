"""The journal of a batch: what became of every picture, a line of JSON each, kept beside the mosaics.

OUT/.hirez-mosaic/
├── journal.jsonl     lines are added, and are on the disk before the batch goes on; a line that is cut off is ignored
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

"files" are paths, relative to the output folder, that belong to the batch from then on; "gone" are paths that do not
belong to it any more.
"""


class Journal:
    """The records in a file, from which a batch goes on.

    file: where they are kept; it need not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, Lock()
        self._last: dict[str, Record] = {}
        self._owned: set[str] = set()
        data = file.read_bytes() if file.exists() else b""
        for line in data.splitlines():
            try:
                record = json.loads(line)
                self._note(record)
            except (ValueError, KeyError, TypeError):  # cut off
                continue
        self._torn = bool(data) and not data.endswith(b"\n")

    def _note(self, record: Record) -> None:
        self._owned.update(record.get("files", ()))
        self._owned.difference_update(record.get("gone", ()))
        self._last[record["source"]] = record

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever recorded."""
        return not self._last

    def last(self, source: str) -> Record | None:
        """The last record of a picture; None where there is none."""
        return self._last.get(source)

    def owns(self, file: str) -> bool:
        """Whether a file was made by this batch, or by one that was killed before it could record it.

        file: path relative to the output folder.
        """
        return file in self._owned

    def append(self, record: Record) -> None:
        """Add a record, with the time; it is on the disk when this returns. Any thread may call it. Raises OSError."""
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
    """Open the journal of an output folder and hold its lock; the folder is made where there is none.

    Raises OutputError where another batch holds the lock, or where the folder cannot be written to.
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
    """The digest of a file's content; of a folder, or of several paths, that of the names and contents of all files.

    algorithm: a name that hashlib knows.

    Raises OSError.
    """
    if len(paths) == 1 and not paths[0].is_dir():
        with paths[0].open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    contents = [[name, digest(algorithm, file)] for name, file in _files(paths)]
    return hashlib.new(algorithm, json.dumps(contents).encode()).hexdigest()


def state(*paths: Path) -> list[list[Any]]:
    """(name, bytes, time of change in ns) of all files.

    While these stay the same, the contents do too, unless somebody resets the time of change. Raises OSError.
    """
    statuses = [(name, file.stat()) for name, file in _files(paths)]
    return [[name, status.st_size, status.st_mtime_ns] for name, status in statuses]


def _files(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """(name relative to the folder above its path, file) of all files, sorted within each path."""
    for path in paths:
        found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        yield from ((file.relative_to(path.parent).as_posix(), file) for file in found)
