"""The workspace: a Zarr group with what each stage of one render left behind.

    workspace/                attributes: hirez_mosaic_schema
    ├── source        (H, W, channels)          samples of a source that could only be read from top to bottom
    ├── analysis      (8 rows, 8 columns, 3)    uint8, sRGB
    ├── colours       (rows, columns, 3)        uint8, sRGB: the mean of each cell
    ├── features      (rows, columns, 256)      float16, or float32 at full precision
    ├── moments       (chunk rows, chunk columns, 257, 257)  float64, see `encode`
    ├── candidates    (rows, columns, k)        uint32, best first
    ├── scores        (rows, columns, k)        float32
    ├── index_map     (rows, columns)           uint32
    └── decoder.safetensors                     where it was fitted to this source

Every array but `source` and `moments` is cut along the same chunks of cells, so one task writes whole Zarr chunks of its own.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from hirez_mosaic.errors import WorkspaceError
from hirez_mosaic.geometry import CELL, CellGrid

SCHEMA = 1
_MARK = "hirez_mosaic_schema"


@dataclass(frozen=True)
class Workspace:
    """The store of one render.

    path: its folder.
    chunk: (rows, columns) of cells in a chunk.
    """

    path: Path
    grid: CellGrid
    chunk: tuple[int, int]
    group: zarr.Group

    @classmethod
    def create(cls, path: Path, grid: CellGrid, chunk: tuple[int, int]) -> "Workspace":
        """An empty workspace at `path`; an earlier workspace there is replaced.

        Raises WorkspaceError when the folder holds anything else, or cannot be made.
        """
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _is_workspace(path))):
            raise WorkspaceError(f"{path} is not empty and not a workspace of hirez-mosaic; name another --workspace.")
        try:
            for old in list(path.iterdir()) if path.exists() else ():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            group = zarr.create_group(path, attributes={_MARK: SCHEMA})
        except OSError as error:
            raise WorkspaceError(f"The workspace {path} cannot be made: {error.strerror}.") from error
        return cls(path, grid, chunk, group)

    def add(self, name: str, dtype: str, *, channels: int | None = None, px: int = 1) -> zarr.Array[Any]:
        """Make the array `name` over the grid, `px` samples to a cell's side, `channels` values each."""
        rest = () if channels is None else (channels,)
        return self.group.create_array(
            name,
            shape=(self.grid.rows * px, self.grid.columns * px, *rest),
            chunks=(self.chunk[0] * px, self.chunk[1] * px, *rest),
            dtype=dtype,
            compressors=None,
        )

    def add_per_chunk(self, name: str, dtype: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
        """Make the array `name` with one entry of `shape` for each chunk."""
        counts = self.grid.chunk_counts(self.chunk)
        return self.group.create_array(name, shape=(*counts, *shape), chunks=(1, 1, *shape), dtype=dtype, compressors=None)


def workspace_bytes(grid: CellGrid, chunk: tuple[int, int], feature_bytes: int, k: int) -> int:
    """Bytes on disk that a finished workspace with k candidates a cell takes, without an unpacked source."""
    chunks = math.prod(grid.chunk_counts(chunk))
    padded = chunks * chunk[0] * chunk[1]
    return padded * (3 * CELL * CELL + 256 * feature_bytes + k * 8 + 4 + 3) + chunks * 257 * 257 * 8


def _is_workspace(path: Path) -> bool:
    try:
        return _MARK in zarr.open_group(path, mode="r").attrs
    except Exception:  # whatever zarr says of a folder that is no group, it is no workspace
        return False
