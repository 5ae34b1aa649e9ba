"""A mosaic cut into tiles, in levels that are each half the one before.

Memory does not grow with the height, and the order of the tiles is always the same.

The px are made from top to bottom in bands as high as a tile. While threads encode the tiles of one band, and halve
them into the next level, the px of the next band are made. So two bands of each level are held at a time.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.engine.machine import cores
from hirez_mosaic.outputs.stream import strip_rows
from hirez_mosaic.pixels.compiled import compiled
from hirez_mosaic.stages.assemble import Mosaic, MosaicReader, Progress

Px = NDArray[np.uint8]
_Made = TypeVar("_Made")
Encode = Callable[["Tile", Px], _Made]
"""Encodes the px of a tile, (h, w, 3) uint8; called from any thread."""


@dataclass(frozen=True)
class Tile:
    """Where a tile lies. level: 0 is the mosaic itself. row, column: in its level, from 0."""

    level: int
    row: int
    column: int


def level_sizes(size: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """(width, height) of every level, the largest first, until one is a single tile.

    Half of an odd side is rounded down. side: of a tile, px.
    """
    sizes = [size]
    while max(sizes[-1]) > side and min(sizes[-1]) > 1:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def projected_bytes(width: int, tile: tuple[int, int], strip: int) -> int:
    """Bytes that cutting a mosaic of `width` px into tiles (width, height) holds. strip: bytes of a strip of px."""
    return 2 * strip + 6 * width * 3 * tile[1] + cores() * 16 * 3 * tile[0] * tile[1]


def encoded(
    mosaic: Mosaic, tile: tuple[int, int], progress: Progress, encode: Encode[_Made]
) -> Generator[tuple[Tile, _Made], None, None]:
    """Every tile of every level, encoded, always in the same order.

    tile: (width, height) of a tile, px, even numbers.
    progress: called with cells of level 0 when their px are made.
    """
    pool = ThreadPoolExecutor(cores())
    try:
        yield from _Pyramid(mosaic, tile, encode, pool).tiles(progress)
    finally:
        pool.shutdown(cancel_futures=True)


class _Pyramid(Generic[_Made]):
    """The tiles of a mosaic on their way through a pool."""

    def __init__(self, mosaic: Mosaic, tile: tuple[int, int], encode: Encode[_Made], pool: ThreadPoolExecutor) -> None:
        self._mosaic, (self._across, self._down), self._encode, self._pool = mosaic, tile, encode, pool
        self._sizes = level_sizes(mosaic.size, self._down)
        self._bands = [self._empty(level, 0) for level in range(len(self._sizes))]
        self._filled, self._row = [0] * len(self._sizes), [0] * len(self._sizes)
        self._waiting = deque[tuple[Tile, Future[tuple[_Made, Px]]]]()

    def tiles(self, progress: Progress) -> Iterator[tuple[Tile, _Made]]:
        for lines in _strips(self._mosaic, progress):
            for part in self._parts(lines):
                before = self._filled[0]
                self._bands[0][before : before + len(part)] = part
                if self._add_rows(0, len(part)):
                    yield from self._finish()
                    self._submit(0)
        while self._waiting:
            yield from self._finish()

    def _empty(self, level: int, row: int) -> Px:
        width, height = self._sizes[level]
        return np.empty((max(0, min(self._down, height - row * self._down)), width, 3), np.uint8)

    def _parts(self, lines: Px) -> Iterator[Px]:
        """Rows of px, cut where a band of level 0 ends."""
        while len(lines):
            room = len(self._bands[0]) - self._filled[0]
            yield lines[:room]
            lines = lines[room:]

    def _add_rows(self, level: int, rows: int) -> bool:
        """Count rows that were added to the band of a level; returns whether it is full."""
        self._filled[level] += rows
        return self._filled[level] == len(self._bands[level])

    def _submit(self, level: int) -> None:
        """Hand the tiles of a full band to the pool, and begin the next one."""
        band, row = self._bands[level], self._row[level]
        last = level + 1 == len(self._sizes)
        for column, left in enumerate(range(0, self._sizes[level][0], self._across)):
            px, tile = band[:, left : left + self._across], Tile(level, row, column)
            self._waiting.append((tile, self._pool.submit(self._work, tile, px, last)))
        self._row[level], self._filled[level] = row + 1, 0
        self._bands[level] = self._empty(level, row + 1)

    def _work(self, tile: Tile, px: Px, last: bool) -> tuple[_Made, Px]:
        px = np.ascontiguousarray(px)
        return self._encode(tile, px), np.empty((0, 0, 3), np.uint8) if last else halved(px)

    def _finish(self) -> Iterator[tuple[Tile, _Made]]:
        """Yield the tiles that were handed over so far; their halves go into the next level."""
        finishing, self._waiting = self._waiting, deque()
        while finishing:
            tile, future = finishing.popleft()
            made, half = future.result()
            yield tile, made
            above = tile.level + 1
            if half.size:
                top, left = self._filled[above], tile.column * self._across // 2
                self._bands[above][top : top + half.shape[0], left : left + half.shape[1]] = half
                is_last = left + half.shape[1] == self._sizes[above][0]
                if is_last and self._add_rows(above, half.shape[0]):
                    self._submit(above)


def _strips(mosaic: Mosaic, progress: Progress) -> Iterator[Px]:
    """The px of a mosaic from top to bottom, some rows at a time; the next ones may overwrite them."""
    reader, (rows, columns) = MosaicReader(mosaic), mosaic.index_map.shape
    height = mosaic.templates.tile[1]
    step = strip_rows(height, mosaic.size[0])
    for row in range(rows):
        for top in range(0, height, step):
            yield reader.px(row, lines=slice(top, top + step))
        progress(columns)


def halved(px: Px) -> Px:
    """(h // 2, w // 2, 3) uint8: the mean of every 2 x 2 px, rounded; an odd last row or column is dropped."""
    made = np.empty((px.shape[0] // 2, px.shape[1] // 2, 3), np.uint8)
    _halve(px, made)
    return made


@compiled
def _halve(px, made):  # type: ignore[no-untyped-def]
    for y in range(made.shape[0]):
        for x in range(made.shape[1]):
            for c in range(3):
                total = np.uint32(px[2 * y, 2 * x, c]) + px[2 * y, 2 * x + 1, c]
                total += np.uint32(px[2 * y + 1, 2 * x, c]) + px[2 * y + 1, 2 * x + 1, c]
                made[y, x, c] = (total + 2) >> 2
