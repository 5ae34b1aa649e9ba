"""The decoded templates of one folder, kept as they come: whoever is killed loses seconds of work, and no file is
decoded twice.

cache/templates/<key>/    key: folder, tile, background, crop
├── files.jsonl           the version, then a line for each file: name, size, time of change, its row or why it has none, a note
├── pixels                (rows, height, width, 3) uint8, raw
├── small                 (rows, 8, 8, 3) float32, raw: the same as a cell sees them
└── set.json              the fingerprint of the set that was last loaded

Lines and rows are added at the end alone, so what another process has mapped stays as it is. A line is written when its
row is on the disk. What stands behind the last whole line is dropped by the next who adds.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.files.fresh import fresh, remove_whole
from hirez_mosaic.pixels.geometry import CELL

File = tuple[str, int, int]
"""Path below the folder, size in bytes, time of change in ns: what tells whether a file is the one that was decoded."""
Decoded = tuple[NDArray[np.uint8], NDArray[np.float32], str]
"""(height, width, 3) px of a template, (1, 8, 8, 3) as a cell sees it, and a note of how it was read, or ""."""

SMALL_BYTES = CELL * CELL * 3 * 4
_EXTRA = "pip install"  # in a reason: what it asks for may be there by now, so the file is tried again
_EVERY = 2.0  # seconds of work that may be lost, about


class Kept:
    """What the folder `home` of the cache holds, as it was when it was opened.

    known: what became of each file: its row, or the reason why it has none.
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
        good = 0
        with suppress(FileNotFoundError, NotADirectoryError), (self.home / "files.jsonl").open("rb") as file:
            for number, line in enumerate(file):
                entry = _parsed(line)
                if entry is None or (number == 0 and entry != self._version):
                    break
                if number:
                    name, size, changed, found, *note = entry
                    if isinstance(found, int) and found >= self._stored:
                        break
                    if isinstance(found, int) or _EXTRA not in found:
                        self.known[name, size, changed] = found
                        if note:
                            self.notes[name, size, changed] = note[0]
                good += len(line)
        return good

    def mapped(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """((rows, height, width, 3), (rows, 8, 8, 3)) of all that is kept, one row at least."""
        width, height = self._tile
        pixels = np.memmap(self.home / "pixels", np.uint8, mode="r", shape=(self.rows, height, width, 3))
        return pixels, np.memmap(self.home / "small", np.float32, mode="r", shape=(self.rows, CELL, CELL, 3))

    @contextmanager
    def adding(self) -> "Iterator[_Adding]":
        """Within, files are added; nobody else may do so meanwhile. Raises OSError."""
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
            adding = _Adding(self, *files)
            if not self._bytes:
                adding.write_line(self._version)
            try:
                yield adding
            finally:
                adding.flush()

    def facts(self) -> dict[str, Any]:
        """What `keep_facts` has written; nothing where it cannot be read."""
        with suppress(OSError, ValueError):
            facts = json.loads((self.home / "set.json").read_text())
            os.utime(self.home / "set.json")
            return facts if isinstance(facts, dict) else {}
        return {}

    def keep_facts(self, facts: dict[str, Any]) -> None:
        """Keep facts of the set that was loaded last, where the cache may be written to."""
        with suppress(OSError), fresh(self.home / "set.json") as made:
            made.write_text(json.dumps(facts))

    def unused_for(self) -> float:
        """Seconds since a set was last loaded."""
        with suppress(OSError):
            return time.time() - (self.home / "set.json").stat().st_mtime
        return 0.0


class _Adding:
    """Files that are open at their ends."""

    def __init__(self, kept: Kept, pixels: Any, small: Any, lines: Any) -> None:
        self._kept, self._pixels, self._small, self._lines = kept, pixels, small, lines
        self._waiting: list[bytes] = []
        self._flushed = time.monotonic()

    def add(self, file: File, made: Decoded | str) -> None:
        """What became of a file: its px, or the reason why it has none."""
        found: int | str = made if isinstance(made, str) else self._kept.rows
        if not isinstance(made, str):
            self._pixels.write(made[0].data)
            self._small.write(made[1].data)
            self._kept.rows += 1
        self._kept.known[file] = found
        note = "" if isinstance(made, str) else made[2]
        if note:
            self._kept.notes[file] = note
        self.write_line([*file, found, *([note] if note else [])])
        if time.monotonic() - self._flushed > _EVERY:
            self.flush()

    def write_line(self, entry: list[Any]) -> None:
        """Lines wait for their rows to be on the disk."""
        self._waiting.append(json.dumps(entry).encode() + b"\n")

    def flush(self) -> None:
        """Rows first, then lines."""
        for file in (self._pixels, self._small):
            file.flush()
            os.fsync(file.fileno())
        self._lines.write(b"".join(self._waiting))
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self._waiting.clear()
        self._flushed = time.monotonic()


def _rows(path: Path, row_bytes: int) -> int:
    with suppress(OSError):
        return path.stat().st_size // row_bytes
    return 0


def _parsed(line: bytes) -> list[Any] | None:
    """A whole line, or None."""
    if not line.endswith(b"\n"):
        return None
    with suppress(ValueError):
        entry = json.loads(line)
        return entry if isinstance(entry, list) else None
    return None
