"""The arrays and files that the stages of a render leave in its workspace, in one table."""

import math
from dataclasses import dataclass

import numpy as np

from hirez_mosaic.pixels.geometry import CELL, CellGrid


@dataclass(frozen=True)
class StoredArray:
    """An array of a workspace: one entry for every cell, every px of the analysis image, or every chunk.

    dtype: numpy's. channels: values of an entry, None for one without an axis of its own.
    px: entries to a cell's side.
    chunk: (rows, columns) of cells in a chunk, the workspace's where None.
    per_chunk: shape of the single entry that every chunk of the workspace has, instead of entries for its cells.
    """

    name: str
    dtype: str
    channels: int | None = None
    px: int = 1
    chunk: tuple[int, int] | None = None
    per_chunk: tuple[int, ...] | None = None

    @property
    def cell_bytes(self) -> int:
        """Bytes of one cell; 0 for an array with entries for chunks alone."""
        size = np.dtype(self.dtype).itemsize * (self.channels or 1) * self.px**2
        return 0 if self.per_chunk is not None else int(size)

    def disk_bytes(self, grid: CellGrid, chunk: tuple[int, int]) -> int:
        """Bytes that it takes when it is full; chunks are whole, at the edges too. chunk: the workspace's."""
        rows, columns = self.chunk or chunk
        chunks = math.prod(grid.chunk_counts((rows, columns)))
        if self.per_chunk is not None:
            return chunks * math.prod(self.per_chunk) * np.dtype(self.dtype).itemsize
        return chunks * rows * columns * self.cell_bytes


ANALYSIS = StoredArray("analysis", "u1", 3, px=CELL)
COLOURS = StoredArray("colours", "u1", 3)
FEATURES = StoredArray("features", "f2", 256)
MOMENTS = StoredArray("moments", "f8", per_chunk=(257, 257))
CANDIDATES = StoredArray("candidates", "u4", 1)
SCORES = StoredArray("scores", "f4", 1)
REFINED = StoredArray("refined", "f4", 1)
BEST = StoredArray("best", "u4")
INDEX_MAP = StoredArray("index_map", "u4")
RULED_MAP = StoredArray("ruled_map", "u4")
REFINED_BEST = StoredArray("refined_best", "u4")
ARRAYS = (ANALYSIS, COLOURS, FEATURES, MOMENTS, CANDIDATES, SCORES, BEST, REFINED, REFINED_BEST, INDEX_MAP, RULED_MAP)
"""Every array that a stage may write; a stage says what of these varies: see `Stage.writes`."""


SOURCE = "source"
DECODER = "decoder.safetensors"
