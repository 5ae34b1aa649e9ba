"""Deep Zoom pyramids as sources: a .dzi and the folder of tiles beside it, which overlap by a px or so."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyvips
from numpy.typing import NDArray

from hirez_mosaic.errors import SourceError
from hirez_mosaic.pixels.colour import Colour
from hirez_mosaic.pixels.vips import vips_reason
from hirez_mosaic.sources.source import Level, Source, check_size

_LOADERS = {"jpg": "jpegload", "jpeg": "jpegload", "png": "pngload", "webp": "webpload"}


@dataclass(frozen=True)
class _Tiles:
    """One level of a pyramid, what looks like an array (height, width, 3) uint8. side, overlap: px of its tiles."""

    folder: Path
    form: str
    shape: tuple[int, int, int]
    side: int
    overlap: int

    @property
    def chunks(self) -> tuple[int, int, int]:
        """(rows, columns, channels) of a tile without its overlap."""
        return self.side, self.side, 3

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the samples."""
        return np.dtype(np.uint8)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[np.uint8]:
        """The px of (rows, columns), slices with both their ends, in all channels."""
        rows, columns = index[0], index[1]
        px = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        for row in range(rows.start // self.side, math.ceil(rows.stop / self.side)):
            for column in range(columns.start // self.side, math.ceil(columns.stop / self.side)):
                self._lay(px, row, column, rows.start, columns.start)
        return px

    def _lay(self, px: NDArray[np.uint8], row: int, column: int, top: int, left: int) -> None:
        """Put a tile where it lies in a box that begins at (top, left)."""
        tile = self._tile(row, column)
        (first, last), (begin, end) = (
            (max(start, at * self.side), min(start + length, (at + 1) * self.side))
            for at, start, length in ((row, top, px.shape[0]), (column, left, px.shape[1]))
        )
        y, x = (at * self.side - (self.overlap if at else 0) for at in (row, column))  # of the tile's first px
        px[first - top : last - top, begin - left : end - left] = tile[first - y : last - y, begin - x : end - x]

    def _tile(self, row: int, column: int) -> NDArray[np.uint8]:
        file = self.folder / f"{column}_{row}.{self.form}"
        try:
            image = getattr(pyvips.Image, _LOADERS[self.form.lower()])(str(file), fail_on="error").colourspace("srgb")
            image = image.flatten(background=255) if image.hasalpha() else image
            return image.numpy()
        except pyvips.Error as error:
            raise SourceError(f"its tile {file.name} cannot be read: {vips_reason(error)}") from error


def open_deep_zoom(path: Path, max_px: int) -> Source:
    """A Deep Zoom pyramid. Raises SourceError for what is none, or lacks its largest level."""
    try:
        image = ElementTree.fromstring(path.read_text("utf-8"))
        size = image.find("{*}Size")
        if size is None:
            raise ValueError("it tells no size")
        width, height = int(size.attrib["Width"]), int(size.attrib["Height"])
        side, overlap, form = int(image.attrib["TileSize"]), int(image.attrib["Overlap"]), image.attrib["Format"]
        if min(side, overlap + 1) < 1 or form.lower() not in _LOADERS:
            raise ValueError(f"its tiles are {form} of {side} px with {overlap} px of overlap")
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as error:
        raise SourceError(f"{path} is no Deep Zoom file that can be read: {error}.") from error
    check_size(path, (width, height), max_px)
    tiles, number = path.with_name(f"{path.stem}_files"), math.ceil(math.log2(max(width, height, 1)))
    if not (tiles / str(number)).is_dir():
        raise SourceError(f"{path} lacks its tiles, which are in {tiles / str(number)}; put them there.")
    levels = []
    while (tiles / str(number)).is_dir() and number >= 0:
        array = _Tiles(tiles / str(number), form, (height, width, 3), side, overlap)
        levels.append(Level((width, height), array))
        width, height, number = -(-width // 2), -(-height // 2), number - 1
    return Source(path, "Deep Zoom", tuple(levels), Colour("rgb"))
