"""The workspace: a Zarr group with what each stage of one render left behind, and marks of what is finished.

    workspace/                attributes: hirez_mosaic_schema, hirez_mosaic_job, hirez_mosaic_chunk
    ├── source        (H, W, channels)          samples of a source that could only be read from top to bottom
    ├── analysis      (8 rows, 8 columns, 3)    uint8, sRGB
    ├── colours       (rows, columns, 3)        uint8, sRGB: the mean of each cell
    ├── features      (rows, columns, 256)      float16, or float32 at full precision
    ├── moments       (chunk rows, chunk columns, 257, 257)  float64, see `encode`
    ├── candidates    (rows, columns, k)        uint32, best first
    ├── scores        (rows, columns, k)        float32
    ├── refined       (rows, columns, k)        float32: scores when they are refined
    ├── best          (rows, columns)           uint32: the candidate of the highest score
    ├── index_map     (rows, columns)           uint32
    ├── ruled_map     (rows, columns)           uint32: the index map under rules for repeating
    ├── done/STAGE    (chunk rows, chunk columns)  uint8: 1 where a chunk of this stage is finished
    └── decoder.safetensors                     where it was fitted to this source

No stage writes what it or another one reads, and each task writes whole Zarr chunks of its own: so any chunk may be
made again at any time, and a mark that comes after its chunk is all that going on takes. In a folder every write
reaches the disk before it counts.
"""

import asyncio
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import numpy as np
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import FsspecStore, LocalStore

from hirez_mosaic.errors import OtherJobError, WorkspaceError, first_line
from hirez_mosaic.files.fresh import flush, remove
from hirez_mosaic.pixels.arrays import WritableArray
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.settings.parsing import is_url

SCHEMA = 3
_MARK, _JOB, _CHUNK = "hirez_mosaic_schema", "hirez_mosaic_job", "hirez_mosaic_chunk"
_LOCK, _SCRATCH = ".lock", ".scratch"
_MADE = (
    "source",
    "analysis",
    "colours",
    "features",
    "moments",
    "candidates",
    "scores",
    "refined",
    "best",
    "index_map",
    "ruled_map",
    "decoder.safetensors",
)

Identity = dict[str, Any]
"""What a job's result depends on, by name: values that JSON can hold."""


class _DurableStore(LocalStore):
    """A folder whose chunks are on the disk, not on their way there, when `set` is through."""

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        await asyncio.to_thread(flush, self.root / key)


@dataclass(frozen=True)
class Workspace:
    """The store of one render.

    place: a folder, or a URL that fsspec knows.
    chunk: (rows, columns) of cells in a chunk.
    """

    place: str
    grid: CellGrid
    chunk: tuple[int, int]
    group: zarr.Group

    @property
    def folder(self) -> Path | None:
        """Where it is, unless it is at a URL."""
        return None if is_url(self.place) else Path(self.place)

    def add(
        self, name: str, dtype: str, *, channels: int | None = None, px: int = 1, chunk: tuple[int, int] | None = None
    ) -> zarr.Array[Any]:
        """The array `name` over the grid, made where it is not there: `px` samples to a cell's side, `channels` values
        each.

        chunk: of this array, if not the workspace's.
        """
        rest = () if channels is None else (channels,)
        rows, columns = chunk or self.chunk
        return self._require(
            name, dtype, (self.grid.rows * px, self.grid.columns * px, *rest), (rows * px, columns * px, *rest)
        )

    def add_per_chunk(
        self, name: str, dtype: str, shape: tuple[int, ...], chunk: tuple[int, int] | None = None
    ) -> zarr.Array[Any]:
        """The array `name` with one entry of `shape` for each chunk, made where it is not there."""
        return self._require(name, dtype, (*self.grid.chunk_counts(chunk or self.chunk), *shape), (1, 1, *shape))

    def _require(self, name: str, dtype: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> zarr.Array[Any]:
        if name in self.group:
            return self.group[name]  # type: ignore[return-value]
        return self.group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, compressors=None)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for files that are gone afterwards: on the workspace's disk, where it has one."""
        with TemporaryDirectory() if self.folder is None else nullcontext(self.folder / _SCRATCH) as made:
            folder = Path(made)
            folder.mkdir(exist_ok=True)
            try:
                yield folder
            finally:
                remove(folder)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A file of the workspace, to read if it is there and to write if it is not; at a URL a copy, which is stored
        there afterwards.
        """
        if self.folder is not None:
            yield self.folder / name
            return
        with TemporaryDirectory() as folder:
            copy = Path(folder, name)
            with _told(self.place):
                files, path = fsspec.url_to_fs(f"{self.place.rstrip('/')}/{name}")
                files.invalidate_cache()
                stored = files.exists(path)
                if stored:
                    files.get_file(path, str(copy))
            yield copy
            if copy.exists() and not stored:
                with _told(self.place):
                    files.put_file(str(copy), path)

    def marks(self, stage: str, chunk: tuple[int, int] | None = None) -> "Marks":
        """Which chunks of a stage are finished. chunk: (rows, columns) of cells of one, if not the workspace's."""
        return Marks(self.add_per_chunk(f"done/{stage}", "u1", (), chunk), chunk or self.chunk)


@dataclass(frozen=True)
class Marks:
    """Which chunks of (rows, columns) cells a stage has finished; kept in the workspace."""

    array: WritableArray
    chunk: tuple[int, int]

    def _place(self, box: Box) -> tuple[int, int]:
        return box.top // self.chunk[0], box.left // self.chunk[1]

    def all(self) -> "np.ndarray[Any, Any]":
        """(chunk rows, chunk columns) bool."""
        return np.asarray(self.array[:]) == 1

    def has(self, box: Box) -> bool:
        """Whether this chunk is finished."""
        return bool(self.array[self._place(box)] == 1)

    def set(self, box: Box) -> None:
        """This chunk is finished, and what it wrote is stored."""
        self.array[self._place(box)] = 1


def _is_marked(place: str) -> bool:
    return _MARK in _attributes(_open_group(place, "r"))


def stored_chunk(place: str, job: Identity) -> tuple[int, int] | None:
    """(rows, columns) of cells in a chunk of the workspace that an earlier start of the same job left, None where there
    is nothing.

    Raises OtherJobError where it is another job's, or another version's.
    """
    group = _open_group(place, "r")
    told = _attributes(group)
    if group is None:
        return None
    if told.get(_MARK) != SCHEMA:
        raise OtherJobError(
            f"The workspace {place} has the schema {told.get(_MARK)} of another version and this one's is {SCHEMA}; "
            "use --restart to discard it, or name another --workspace."
        )
    there, here = told[_JOB], json.loads(json.dumps(job))
    other = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if other:
        raise OtherJobError(
            f"The workspace {place} is that of another job: {', '.join(other)} differ; "
            "use --restart to discard it, or name another --workspace."
        )
    return told[_CHUNK][0], told[_CHUNK][1]


def open_workspace(place: str, job: Identity, grid: CellGrid, chunk: tuple[int, int]) -> Workspace:
    """The workspace of this job, made where there is none. Raises WorkspaceError when it cannot be."""
    with _told(place):
        group = _open_group(place, "r+")
        if group is None:
            group = zarr.create_group(_store(place), attributes={_MARK: SCHEMA, _JOB: job, _CHUNK: list(chunk)})
    return Workspace(place, grid, chunk, group)


def discard(place: str) -> None:
    """Remove what a job left in a workspace that is held, and nothing else; the marks first, so that this too may be
    broken off.

    Raises WorkspaceError where something cannot be removed, such as files of other users; marks that stay keep their
    arrays.
    """
    names = ("done", *_MADE, "zarr.json")
    if is_url(place):
        with _told(place):
            files, path = fsspec.url_to_fs(place)
            files.invalidate_cache()
            for name in names:
                if files.exists(f"{path}/{name}"):
                    files.rm(f"{path}/{name}", recursive=True)
    else:
        for name in names:
            with suppress(OSError):
                remove(Path(place) / name)
            if (Path(place) / name).exists():
                raise WorkspaceError(
                    f"The workspace {place} cannot be discarded, as {name} in it cannot be removed; remove it by hand."
                )


def _open_group(place: str, mode: Any) -> zarr.Group | None:
    """The group there, None where there is none."""
    with _told(place), suppress(FileNotFoundError):
        return zarr.open_group(_store(place), mode=mode)
    return None


def _store(place: str) -> Any:
    return FsspecStore.from_url(place) if is_url(place) else _DurableStore(Path(place).absolute())


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Raise WorkspaceError for whatever zarr, fsspec and what lies below may raise within."""
    try:
        yield
    except WorkspaceError:
        raise
    except Exception as error:
        raise WorkspaceError(f"The workspace {place} cannot be opened: {first_line(error)}.") from error


def _attributes(group: zarr.Group | None) -> dict[str, Any]:
    return {} if group is None else dict(group.attrs)


def workspace_bytes(grid: CellGrid, chunk: tuple[int, int], feature_bytes: int, k: int) -> int:
    """Bytes on disk that a finished workspace with k candidates a cell takes, without an unpacked source."""
    chunks = math.prod(grid.chunk_counts(chunk))
    padded = chunks * chunk[0] * chunk[1]
    return padded * (3 * CELL * CELL + 256 * feature_bytes + k * 8 + 4 + 4 + 4 + 3) + chunks * 257 * 257 * 8


def bytes_below(folder: Path) -> int:
    """Bytes of the files below a folder, from which others may remove some meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).stat().st_size
    return total
