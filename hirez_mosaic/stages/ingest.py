"""Ingest: from the source to the analysis image, 8 x 8 px a cell."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from hirez_mosaic import __version__
from hirez_mosaic.engine import arrays
from hirez_mosaic.engine.arrays import StoredArray
from hirez_mosaic.engine.store import Identity
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid
from hirez_mosaic.pixels.resample import resample, span
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.sources import Source
from hirez_mosaic.stages.stage import Setup, Stage, Tools

_PART_BYTES = 128 << 20  # that source px, in all their forms, take in a task at once, about


def ingest_chunk(box: Box, *, source: Source, grid: CellGrid, analysis: Any, colours: Any) -> None:
    """Fill the write box of the analysis image and of the cells' mean colours.

    Holds about 128 MiB of the source at once, however much it is shrunk.

    analysis: (8 rows, 8 columns, 3) uint8.
    colours: (rows, columns, 3) uint8.
    """
    steps, write = _steps(source, grid), box.scaled(CELL)
    made = np.empty((write.height, write.width, 3), np.uint8)
    for part in _readable(write, source, grid):
        rows, columns = (part.top, part.bottom), (part.left, part.right)
        pixels = source.read(Box(*span(*rows, steps[1]), *span(*columns, steps[0])))
        made[part.within(write).slices] = resample(pixels, rows, columns, steps)
    analysis[write.slices] = made
    cells = made.reshape(box.height, CELL, box.width, CELL, 3)
    colours[box.slices] = np.round(cells.mean((1, 3), dtype=np.float32)).astype(np.uint8)


def projected_bytes(source: Source, chunk: tuple[int, int], grid: CellGrid) -> int:
    """Bytes that one task of `chunk` (rows, columns) cells holds at most.

    The chunks of the source's file that it decodes are among them.
    """
    parts = _readable(Box(0, chunk[0], 0, chunk[1]).scaled(CELL), source, grid)
    boxes = [_read_box(part, _steps(source, grid)) for part in parts]
    return max(box.area * source.px_bytes + source.chunk_bytes(box.height, box.width) for box in boxes)


def _steps(source: Source, grid: CellGrid) -> tuple[Fraction, Fraction]:
    """(horizontal, vertical) px of the source's level for each px of the analysis image."""
    (across, down), shrink = grid.source_step, source.shrink
    return across / shrink[0], down / shrink[1]


def _read_box(part: Box, steps: tuple[Fraction, Fraction]) -> Box:
    """The px of the source's level that a part of the analysis image depends on."""
    return Box(*span(part.top, part.bottom, steps[1]), *span(part.left, part.right, steps[0]))


def _readable(part: Box, source: Source, grid: CellGrid) -> Iterator[Box]:
    """The box in pieces, of 1 px at the smallest, whose source px can be held in memory."""
    if part.area == 1 or _read_box(part, _steps(source, grid)).area * source.px_bytes <= _PART_BYTES:
        yield part
    else:
        for half in part.halves():
            yield from _readable(half, source, grid)


class _Unpack(Stage):
    """The samples of a source that can only be read from top to bottom, stored so that any box of them can be read."""

    name = "unpack"
    leaves = (arrays.SOURCE,)

    def runs(self, setup: Setup) -> bool:
        return setup.source.bands is not None

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        return setup.source.unpacking_memory

    def disk(self, setup: Setup, chunk: tuple[int, int]) -> int:
        return setup.source.unpacked_bytes

    def chunk(self, setup: Setup) -> tuple[int, int]:
        return setup.grid.rows, setup.grid.columns  # all at once

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        return {"version": __version__, "background": list(spec.background)}


class _Ingest(Stage):
    """The analysis image, and the mean colour of every cell."""

    name = "ingest"
    reads = (arrays.SOURCE,)
    leaves = (arrays.ANALYSIS.name, arrays.COLOURS.name)

    def writes(self, setup: Setup) -> tuple[StoredArray, ...]:
        return arrays.ANALYSIS, arrays.COLOURS

    def memory(self, setup: Setup, chunk: tuple[int, int], workers: int) -> int:
        return workers * projected_bytes(setup.source, chunk, setup.grid)

    def identity(self, spec: RenderSpec, tools: Tools) -> Identity:
        return {"tile": list(spec.tile)}


UNPACK, INGEST = _Unpack(), _Ingest()
