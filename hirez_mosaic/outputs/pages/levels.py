"""The zoom levels of a page: JPEG tiles of whole cells, made from the templates' own smaller versions.

A level is the whole mosaic with templates of one size, from that of the mosaic down to 1 px; so no level is made by
shrinking another. Only below 1 px a cell, where the picture is small, does each level halve the one before.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from hirez_mosaic.pixels.array_types import Array
from hirez_mosaic.stages.tint import Tint, tinted
from hirez_mosaic.templates import TemplateSet
from hirez_mosaic.templates.template_set import area_averages

SIDE = 512
"""Side of a tile, px, about: a tile has whole cells, at least one."""
_QUALITY = 82
_SHRUNK_BYTES = 16 << 20  # of templates shrunk at once, about
_WAITING = 4  # tiles that may wait for each worker


@dataclass(frozen=True)
class Level:
    """One size of a picture.

    size: (width, height), px.
    tile: (width, height) of a tile, px.
    step: (across, down) px of the full size to one px of this level.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    step: tuple[float, float]

    @property
    def tiles(self) -> tuple[int, int]:
        """(across, down) how many tiles there are."""
        return math.ceil(self.size[0] / self.tile[0]), math.ceil(self.size[1] / self.tile[1])


Tile = Callable[[int, int], NDArray[np.uint8]]
"""Makes the px (height, width, 3) of the tile at (column, row)."""


def template_sizes(tile: tuple[int, int], most: int) -> list[tuple[int, int]]:
    """(width, height) of templates from the mosaic's down to 1 px, each half of the one before; none has a side above
    `most` px.

    >>> template_sizes((48, 32), 48)
    [(48, 32), (24, 16), (12, 8), (6, 4), (3, 2), (1, 1)]
    """
    shrink = max(1.0, max(tile) / most)
    sizes = [(max(1, int(tile[0] / shrink)), max(1, int(tile[1] / shrink)))]
    while max(sizes[-1]) > 1:
        width, height = sizes[-1]
        sizes.append((max(1, width // 2), max(1, height // 2)))
    return sizes


def shrunk_sets(templates: TemplateSet, sizes: list[tuple[int, int]], scratch: Path) -> Iterator[TemplateSet]:
    """The same choices at each size, from the largest.

    Sets that are smaller than `templates` lie in files in `scratch`.
    """
    for width, height in sizes:
        if (width, height) != templates.tile:
            templates = _shrunk(templates, width, height, scratch / f"templates-{width}x{height}")
        yield templates


def _shrunk(templates: TemplateSet, width: int, height: int, file: Path) -> TemplateSet:
    rows = np.arange(len(templates.pixels)) if templates.rows is None else templates.rows
    pixels = np.memmap(file, np.uint8, "w+", shape=(len(rows), height, width, 3))
    step = max(1, _SHRUNK_BYTES // (12 * math.prod(templates.tile)))
    for start in range(0, len(rows), step):
        averages = area_averages(templates.pixels[rows[start : start + step]], (width, height))
        pixels[start : start + step] = np.round(averages * 255)
    templates.release()
    return replace(templates, pixels=pixels, small=None, rows=None)


def cell_level(templates: TemplateSet, columns: int, rows: int, full: tuple[int, int]) -> Level:
    """The level with these templates. full: (width, height) of a template in the mosaic, px."""
    width, height = templates.tile
    across, down = max(1, SIDE // width), max(1, SIDE // height)
    return Level((columns * width, rows * height), (across * width, down * height), (full[0] / width, full[1] / height))


def cell_tile(templates: TemplateSet, level: Level, choices: Array, tint: Tint | None) -> Tile:
    """Makes tiles of whole cells. choices: (rows, columns) of an index map."""
    width, height = templates.tile
    across, down = level.tile[0] // width, level.tile[1] // height

    def make(column: int, row: int) -> NDArray[np.uint8]:
        box = slice(row * down, (row + 1) * down), slice(column * across, (column + 1) * across)
        return cells_px(templates, np.asarray(choices[box]), tint, box)

    return make


def cells_px(
    templates: TemplateSet, choices: NDArray[np.uint32], tint: Tint | None, box: tuple[slice, slice]
) -> NDArray[np.uint8]:
    """(rows x height, columns x width, 3) px of a box of cells. choices: (rows, columns) of it."""
    (width, height), (rows, columns), flat = templates.tile, choices.shape, choices.reshape(-1)
    px = templates.take(flat)
    if tint is not None:
        strength = np.broadcast_to(tint.strength, tint.colours.shape[:2])[box]
        moves = tint.moves(
            flat, np.asarray(tint.colours[box]).reshape(-1, 3), np.asarray(strength, np.float32).reshape(-1)
        )
        px = tinted(px.reshape(height, -1, 3), moves)
    return px.reshape(height, rows, columns, width, 3).swapaxes(0, 1).reshape(rows * height, columns * width, 3)


def halved(array: NDArray[np.uint8], file: Path) -> NDArray[np.uint8]:
    """(height, width, 3) px at half the size, rounded up, in a file; the last px of an odd side covers half as much."""
    height, width, _ = array.shape
    made = np.memmap(file, np.uint8, "w+", shape=(math.ceil(height / 2), math.ceil(width / 2), 3))
    for top in range(0, len(made), SIDE):
        band = np.asarray(array[2 * top : 2 * (top + SIDE)])
        band = np.pad(band, ((0, len(band) % 2), (0, width % 2), (0, 0)), "edge").astype(np.uint16)
        made[top : top + SIDE] = (band[::2, ::2] + band[1::2, ::2] + band[::2, 1::2] + band[1::2, 1::2] + 2) >> 2
    return made


def halves(
    array: NDArray[np.uint8], step: tuple[float, float], scratch: Path
) -> Iterator[tuple[Level, NDArray[np.uint8]]]:
    """A picture, and the same halved again and again, until a tile holds all of it.

    array: (height, width, 3). step: px of the full size to one px of the picture.
    """
    while True:
        height, width, _ = array.shape
        yield Level((width, height), (SIDE, SIDE), step), array
        if max(height, width) <= SIDE:
            return
        array, step = halved(array, scratch / f"{width}x{height}"), (2 * step[0], 2 * step[1])


def array_tile(array: NDArray[np.uint8]) -> Tile:
    """Cuts tiles out of (height, width, 3) px."""
    return lambda column, row: np.asarray(array[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE])


def jpeg(px: NDArray[np.uint8], quality: int = _QUALITY) -> bytes:
    """(height, width, 3) uint8 sRGB as JPEG without metadata, with colour at half resolution."""
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(px), level=quality, subsampling="420"))


def write_level(
    level: Level, make: Tile, folder: Path, pool: ThreadPoolExecutor, workers: int, done: Callable[[], None]
) -> None:
    """Write all tiles of a level: ROW/COLUMN.jpg. done: called after each."""
    across, down = level.tiles
    for row in range(down):
        (folder / str(row)).mkdir(parents=True)

    def write(column: int, row: int) -> None:
        (folder / str(row) / f"{column}.jpg").write_bytes(jpeg(make(column, row)))

    places = ((column, row) for row in range(down) for column in range(across))
    for _ in in_turn(pool, write, places, _WAITING * workers):
        done()


def in_turn(
    pool: ThreadPoolExecutor, work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], most: int
) -> Iterator[Any]:
    """What `work` returns for each of the arguments, in their order. most: calls that are under way at once."""
    under_way: deque[Future[Any]] = deque()
    for some in arguments:
        under_way.append(pool.submit(work, *some))
        if len(under_way) >= most:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
