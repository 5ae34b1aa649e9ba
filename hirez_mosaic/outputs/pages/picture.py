"""The zoom levels of any picture: each is half the one before, and tiles are cut where they are looked at."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyvips
import zarr
from numpy.typing import NDArray

from hirez_mosaic.outputs.pages.levels import SIDE, Level, Tile
from hirez_mosaic.pixels.geometry import Box
from hirez_mosaic.sources import Source, open_source, unpack

_READ_PX = 16 << 20  # px of a picture that are read and shrunk at once, at most


@contextmanager
def readable(path: Path, scratch: Path) -> Iterator[Source]:
    """A picture whose px can be read anywhere; unpacked into `scratch` where it must be. Raises SourceError."""
    source = open_source(path)
    try:
        yield unpack(source, zarr.open_group(scratch, mode="w"), "source", lambda px: None) if source.bands else source
    finally:
        source.close()


def picture_levels(size: tuple[int, int]) -> list[Level]:
    """The levels of a picture of `size` (width, height) px, from the largest to one that a tile holds."""
    levels = [Level(size, (SIDE, SIDE), (1.0, 1.0))]
    while levels[-1].tiles != (1, 1):
        (width, height), (step, _) = levels[-1].size, levels[-1].step
        levels.append(Level((-(-width // 2), -(-height // 2)), (SIDE, SIDE), (2 * step, 2 * step)))
    return levels


def picture_tile(source: Source, level: Level) -> Tile:
    """A function that cuts the tiles of a level out of a picture.

    It reads the smallest of the picture's own levels that is no smaller than this one.
    """
    step = Fraction(level.step[0])
    sources = [replace(source, level=number) for number in range(len(source.levels))]
    chosen = next(one for one in reversed(sources) if one.level == 0 or max(one.shrink) <= step)
    across, down = (step / shrink for shrink in chosen.shrink)

    def read(box: Box) -> NDArray[np.uint8]:
        stored = Box(int(box.top * down), int(box.bottom * down), int(box.left * across), int(box.right * across))
        if stored.area > _READ_PX and box.area > 1:
            one, other = (read(half) for half in box.halves())
            return np.concatenate((one, other), 0 if box.height >= box.width else 1)
        px = chosen.read(stored)
        if (stored.width, stored.height) != (box.width, box.height):
            image = pyvips.Image.new_from_array(px)
            px = image.resize(box.width / stored.width, vscale=box.height / stored.height, kernel="linear").numpy()
        return px[: box.height, : box.width]

    def make(column: int, row: int) -> NDArray[np.uint8]:
        (width, height), (left, top) = level.size, (column * SIDE, row * SIDE)
        return read(Box(top, min(top + SIDE, height), left, min(left + SIDE, width)))

    return make
