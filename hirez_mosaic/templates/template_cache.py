"""The decoded templates of one folder, stored one by one: a killed run loses seconds of work, no file is decoded twice.

cache/templates/<key>/    key: folder, tile, background, crop
├── files.jsonl           the version, then a line a file: name, size, time of change, row or why it has none, a note
├── pixels                (rows, height, width, 3) uint8, raw
├── small                 (rows, 8, 8, 3) float32, raw: the same as a cell sees them
└── set.json              the fingerprint of the set that was last loaded

Lines and rows are only added at the end, so what another process has mapped stays as it is. A line is written when its
row is on the disk. The next process that adds drops what stands behind the last whole line.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.files.fresh import fresh, remove_whole
from hirez_mosaic.pixels.geometry import CELL

File = tuple[str, int, int]
"""(path below the folder, size in bytes, time of change in ns): while all are the same, so is the file."""
Decoded = tuple[NDArray[np.uint8], NDArray[np.float32], str]
"""((height, width, 3) uint8 px of a template, (1, 8, 8, 3) float32 as a cell sees it, a note of how it was read or "").
"""

SMALL_BYTES = CELL * CELL * 3 * 4
# A reason with these words asks for a package, which may be installed by now, so such a file is tried again.
_EXTRA = "pip install"
_EVERY = 2.0  # seconds of work that may be lost, about


class TemplateCache:
    """What the cache holds of one folder of templates, as it was when it was opened.

    home: folder of the cache.
    tile: (width, height), px.
    version: what the first line of files.jsonl must be.
    known: of each file its row, or the reason why it has none.
    rows: how many there are.
    notes: what a person should know of how a file was read, where there is anything.
    """

    def __init__(self, home: Path, tile: tuple[int, int], version: list[int]) -> None:
        self.home, self._tile, self._version = home, tile, version
        self._px_bytes = tile[0] * tile[1] * 3
        self._stored = min(_rows(home / "pixels", self._px_bytes), _rows(home / "small", SMALL_BYTES))
        self.known: dict[File, int | str] = {}
        self.notes: dict[File, str] = {}
        self._bytes = self._read()  # of whole lines
        self.rows = sum(isinstance(one, int) for one in self.known.values())

    def _read(self) -> int:
        """Fill `known`; returns the bytes of the whole lines that can be used."""
        good = 0
        with suppress(FileNotFoundError, NotADirectoryError), (self.home / "files.jsonl").open("rb") as file:
            for number, line in enumerate(file):
                values = _parsed(line)
                if values is None or (number == 0 and values != self._version):
                    break
                if number:
                    name, size, changed, found, *note = values
                    if isinstance(found, int) and found >= self._stored:
                        break
                    if isinstance(found, int) or _EXTRA not in found:
                        self.known[name, size, changed] = found
                        if note:
                            self.notes[name, size, changed] = note[0]
                good += len(line)
        return good

    def mapped(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """((rows, height, width, 3) uint8, (rows, 8, 8, 3) float32) of all rows, of which there must be one or more."""
        width, height = self._tile
        pixels = np.memmap(self.home / "pixels", np.uint8, mode="r", shape=(self.rows, height, width, 3))
        return pixels, np.memmap(self.home / "small", np.float32, mode="r", shape=(self.rows, CELL, CELL, 3))

    @contextmanager
    def appending(self) -> "Iterator[_Appender]":
        """Open the cache to add files; nobody else may do so at the same time. Raises OSError."""
        if not self._bytes and self.home.exists():  # of another version
            remove_whole(self.home)
        self.home.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            lengths = {
                "pixels": self.rows * self._px_bytes,
                "small": self.rows * SMALL_BYTES,
                "files.jsonl": self._bytes,
            }
            files = [stack.enter_context((self.home / name).open("ab")) for name in lengths]
            for file, length in zip(files, lengths.values(), strict=True):
                file.truncate(length)
            appender = _Appender(self, *files)
            if not self._bytes:
                appender.write_line(self._version)
            try:
                yield appender
            finally:
                appender.flush()

    def read_last_set(self) -> dict[str, Any]:
        """What `write_last_set` has written; empty where it cannot be read. Counts as a use of the cache."""
        with suppress(OSError, ValueError):
            facts = json.loads((self.home / "set.json").read_text())
            os.utime(self.home / "set.json")
            return facts if isinstance(facts, dict) else {}
        return {}

    def write_last_set(self, facts: dict[str, Any]) -> None:
        """Write facts of the set that was loaded last, where the cache may be written to."""
        with suppress(OSError), fresh(self.home / "set.json") as made:
            made.write_text(json.dumps(facts))

    def unused_for(self) -> float:
        """Seconds since a set was last loaded; 0 where that is not known."""
        with suppress(OSError):
            return time.time() - (self.home / "set.json").stat().st_mtime
        return 0.0


class _Appender:
    """The files of a cache, open at their ends."""

    def __init__(self, cache: TemplateCache, pixels: BinaryIO, small: BinaryIO, lines: BinaryIO) -> None:
        self._cache, self._pixels, self._small, self._lines = cache, pixels, small, lines
        self._waiting: list[bytes] = []
        self._flushed = time.monotonic()

    def add(self, file: File, made: Decoded | str) -> None:
        """Add a file. made: its px, or the reason why it has none."""
        found: int | str = made if isinstance(made, str) else self._cache.rows
        if not isinstance(made, str):
            self._pixels.write(made[0].data)
            self._small.write(made[1].data)
            self._cache.rows += 1
        self._cache.known[file] = found
        note = "" if isinstance(made, str) else made[2]
        if note:
            self._cache.notes[file] = note
        self.write_line([*file, found, *([note] if note else [])])
        if time.monotonic() - self._flushed > _EVERY:
            self.flush()

    def write_line(self, values: list[Any]) -> None:
        """Add a line, which waits until its row is on the disk."""
        self._waiting.append(json.dumps(values).encode() + b"\n")

    def flush(self) -> None:
        """Write what waits, rows first, then lines; it is on the disk when this returns."""
        for file in (self._pixels, self._small):
            file.flush()
            os.fsync(file.fileno())
        self._lines.write(b"".join(self._waiting))
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self._waiting.clear()
        self._flushed = time.monotonic()


def _rows(path: Path, row_bytes: int) -> int:
    """How many whole rows a file holds."""
    with suppress(OSError):
        return path.stat().st_size // row_bytes
    return 0


def _parsed(line: bytes) -> list[Any] | None:
    """The values of a whole line; None where it is cut off or no list."""
    if not line.endswith(b"\n"):
        return None
    with suppress(ValueError):
        values = json.loads(line)
        return values if isinstance(values, list) else None
    return None
