"""The workspace: a Zarr group with what each stage of one render left behind, and marks of what is finished.

    workspace/                attributes: hirez_mosaic_schema, hirez_mosaic_job, hirez_mosaic_chunk
    ├── source        (H, W, channels)          samples of a source that could only be read from top to bottom
    ├── analysis      (8 rows, 8 columns, 3)    uint8, sRGB
    ├── colours       (rows, columns, 3)        uint8, sRGB: the mean of each cell
    ├── features      (rows, columns, 256)      float16, or float32 at full precision
    ├── moments       (chunk rows, chunk columns, 257, 257)  float64, see `encode`
    ├── candidates    (rows, columns, k)        uint32, best first
    ├── scores        (rows, columns, k)        float32
    ├── best          (rows, columns)           uint32: the candidate of the highest score
    ├── refined       (rows, columns, k)        float32: scores when they are refined
    ├── refined_best  (rows, columns)           uint32: the candidate of the highest of these
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
import os
from collections.abc import Iterator, Mapping, Sequence
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

from hirez_mosaic.engine.arrays import ARRAYS, DECODER, SOURCE, StoredArray
from hirez_mosaic.errors import OtherJobError, WorkspaceError, first_line
from hirez_mosaic.files.fresh import flush, remove
from hirez_mosaic.pixels.array_types import WritableArray
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.settings.parsing import is_url

SCHEMA = 4
_MARK, _JOB, _CHUNK = "hirez_mosaic_schema", "hirez_mosaic_job", "hirez_mosaic_chunk"
LOCK, SCRATCH = ".lock", ".scratch"


MADE = (SOURCE, *(array.name for array in ARRAYS), DECODER)
"""All that stages leave in a workspace, by name."""

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

    def array(self, array: StoredArray) -> zarr.Array[Any]:
        """The array as it is stored, made where it is not there."""
        if array.name in self.group:
            return self.group[array.name]  # type: ignore[return-value]
        rows, columns = array.chunk or self.chunk
        if array.per_chunk is not None:
            counts = self.grid.chunk_counts((rows, columns))
            return self._create(array.name, array.dtype, (*counts, *array.per_chunk), (1, 1, *array.per_chunk))
        rest = () if array.channels is None else (array.channels,)
        shape = self.grid.rows * array.px, self.grid.columns * array.px, *rest
        return self._create(array.name, array.dtype, shape, (rows * array.px, columns * array.px, *rest))

    def _create(self, name: str, dtype: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> zarr.Array[Any]:
        return self.group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, compressors=None)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for files that are gone afterwards: on the workspace's disk, where it has one."""
        with TemporaryDirectory() if self.folder is None else nullcontext(self.folder / SCRATCH) as made:
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
            with workspace_errors(self.place):
                files, path = fsspec.url_to_fs(f"{self.place.rstrip('/')}/{name}")
                files.invalidate_cache()
                stored = files.exists(path)
                if stored:
                    files.get_file(path, str(copy))
            yield copy
            if copy.exists() and not stored:
                with workspace_errors(self.place):
                    files.put_file(str(copy), path)

    def marks(self, stage: str, chunk: tuple[int, int] | None = None) -> "Marks":
        """Which chunks of a stage are finished. chunk: (rows, columns) of cells of one, if not the workspace's."""
        return Marks(self.array(StoredArray(f"done/{stage}", "u1", chunk=chunk, per_chunk=())), chunk or self.chunk)


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


def is_workspace(place: str) -> bool:
    """Whether a folder or URL is a workspace."""
    return _MARK in _attributes(_open_group(place, "r"))


def stored_job(place: str) -> tuple[dict[str, Identity], tuple[int, int]] | None:
    """What an earlier start left in a workspace: what decided its stages, and (rows, columns) of cells in its chunks.

    None where there is nothing. Raises OtherJobError where another version of this program left it.
    """
    group = _open_group(place, "r")
    found = _attributes(group)
    if group is None:
        return None
    if found.get(_MARK) != SCHEMA:
        raise OtherJobError(
            f"The workspace {place} has the schema {found.get(_MARK)} of another version and this one's is {SCHEMA}; "
            "use `restart` to discard it, or name another `workspace`."
        )
    return found[_JOB], (found[_CHUNK][0], found[_CHUNK][1])


def differences(one: dict[str, Identity], other: dict[str, Identity]) -> dict[str, list[str]]:
    """The names of what differs, by the stages that it decides."""
    other = json.loads(json.dumps(other))  # as it is read again
    found = {}
    for stage in {*one, *other}:
        first, second = one.get(stage, {}), other.get(stage, {})
        names = [name for name in {*first, *second} if first.get(name) != second.get(name)]
        if names:
            found[stage] = names
    return found


def open_workspace(place: str, job: dict[str, Identity], grid: CellGrid, chunk: tuple[int, int]) -> Workspace:
    """The workspace of this job, made where there is none. Raises WorkspaceError when it cannot be."""
    with workspace_errors(place):
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
    _remove(place, ("done", *MADE, "zarr.json"))


def discard_stages(place: str, leaves: Mapping[str, Sequence[str]], job: dict[str, Identity]) -> None:
    """Remove what some stages left in a workspace that is held; what the others left is of `job` from now on.

    leaves: what each stage may have left, by the stage's name. The marks go first, so that this too may be broken off.
    Raises WorkspaceError where something cannot be removed.
    """
    _remove(place, [f"done/{stage}" for stage in leaves])
    _remove(place, [name for names in leaves.values() for name in names])
    group = _open_group(place, "r+")
    if group is not None:
        with workspace_errors(place):
            group.attrs[_JOB] = job


def _remove(place: str, names: Sequence[str]) -> None:
    """Remove things of a workspace by name, in this order. Raises WorkspaceError."""
    if is_url(place):
        with workspace_errors(place):
            files, path = fsspec.url_to_fs(place)
            files.invalidate_cache()
            for name in names:
                if files.exists(f"{path}/{name}"):
                    files.rm(f"{path}/{name}", recursive=True)
        return
    for name in names:
        with suppress(OSError):
            remove(Path(place) / name)
        if (Path(place) / name).exists():
            raise WorkspaceError(
                f"The workspace {place} cannot be discarded, as {name} in it cannot be removed; remove it by hand."
            )


def _open_group(place: str, mode: Any) -> zarr.Group | None:
    """The group there, None where there is none."""
    with workspace_errors(place), suppress(FileNotFoundError):
        return zarr.open_group(_store(place), mode=mode)
    return None


def _store(place: str) -> Any:
    return FsspecStore.from_url(place) if is_url(place) else _DurableStore(Path(place).absolute())


@contextmanager
def workspace_errors(place: str) -> Iterator[None]:
    """Raise WorkspaceError for whatever zarr, fsspec and what lies below may raise within."""
    try:
        yield
    except WorkspaceError:
        raise
    except Exception as error:
        raise WorkspaceError(f"The workspace {place} cannot be opened: {first_line(error)}.") from error


def _attributes(group: zarr.Group | None) -> dict[str, Any]:
    return {} if group is None else dict(group.attrs)


def bytes_below(folder: Path) -> int:
    """Bytes of the files below a folder, from which others may remove some meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).stat().st_size
    return total
