"""Ingest: from the source to the analysis image, 8 x 8 px a cell."""

from collections.abc import Iterator
from typing import Any

from hirez_mosaic.geometry import CELL, Box, CellGrid
from hirez_mosaic.resample import resample, span
from hirez_mosaic.sources import Source

_READ_BYTES = 12 << 20  # source px held at once, about, as 3 bytes each
_COPIES = 16  # bytes held per source px read: samples as stored (up to 8 channels of 8 bits), sRGB, and its float planes


def ingest_chunk(source: Source, grid: CellGrid, analysis: Any, box: Box) -> None:
    """Fill the write box (cells) of the analysis image (8 rows, 8 columns, 3) uint8.

    Reads no more of the source at once than about 12 MiB, however much the source is shrunk.
    """
    steps = grid.source_step
    for part in _readable(box.scaled(CELL), grid):
        rows, columns = (part.top, part.bottom), (part.left, part.right)
        pixels = source.read(Box(*span(*rows, steps[1]), *span(*columns, steps[0])))
        analysis[part.slices] = resample(pixels, rows, columns, steps)


def projected_bytes(chunk: tuple[int, int], grid: CellGrid) -> int:
    """Bytes that one task of `chunk` (rows, columns) cells holds at most."""
    largest = max(_source_bytes(part, grid) for part in _readable(Box(0, chunk[0], 0, chunk[1]).scaled(CELL), grid))
    return largest * _COPIES // 3


def _source_bytes(part: Box, grid: CellGrid) -> int:
    steps = grid.source_step
    top, bottom = span(part.top, part.bottom, steps[1])
    left, right = span(part.left, part.right, steps[0])
    return (bottom - top) * (right - left) * 3


def _readable(part: Box, grid: CellGrid) -> Iterator[Box]:
    """The box in pieces whose source px can be held; at the smallest one px."""
    if part.area == 1 or _source_bytes(part, grid) <= _READ_BYTES:
        yield part
    else:
        for half in part.halves():
            yield from _readable(half, grid)
